//! Answers that say no, as RFC 9457 has them: each with a sentence that says what to do, the place in the body where
//! there is one, and the nearest right name where one was misspelt. And bodies, read by hand so that they can.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mail::Reply;
use serde_json::{Map, Value, json};

/// Names that are listed at most where one is wrong.
const NAMES_MAX: usize = 10;

/// Seconds after which to try again what cannot be taken now.
const RETRY_AFTER: u32 = 5;

/// No, and why.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    status: StatusCode,
    text: String,
    pointer: Option<String>,
    retry_after: Option<u32>,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.to_json().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tuma\""));
        }
        response
    }
}

impl Refusal {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), pointer: None, retry_after: None }
    }

    /// 400: it cannot be read.
    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// 403: whoever asks may not.
    pub(super) fn forbidden(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, text)
    }

    /// 404: it names what is not there.
    pub(super) fn missing(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    /// 409: it does not go with how things are.
    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, text)
    }

    /// 422: it can be read, and cannot be done.
    pub(super) fn unfit(text: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, text)
    }

    /// 429: too much at once.
    pub(super) fn too_many(text: impl Into<String>, retry_after: u32) -> Self {
        Self { retry_after: Some(retry_after.max(1)), ..Self::new(StatusCode::TOO_MANY_REQUESTS, text) }
    }

    /// 503: not now.
    pub(super) fn later(text: impl Into<String>) -> Self {
        Self { retry_after: Some(RETRY_AFTER), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, text) }
    }

    /// What SMTP would have said, as HTTP says it.
    pub(super) fn of_reply(reply: &Reply) -> Self {
        match reply.is_transient() {
            true => Self::later(reply.text.to_string()),
            false => Self::unfit(reply.text.to_string()),
        }
    }

    /// The same, with the line of the body it is about in front.
    pub(super) fn in_line(self, number: usize) -> Self {
        Self { text: format!("line {number}: {}", self.text), ..self }
    }

    pub(super) fn stopping() -> Self {
        Self::later("the server is stopping")
    }

    /// With the place of the body it is about, a JSON pointer.
    pub(super) fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    /// 404 for a name of some kind, with the nearest right one or the right ones.
    pub(super) fn no_such<'a>(kind: &str, wrong: &str, names: impl Iterator<Item = &'a str> + Clone) -> Self {
        Self::missing(format!("there is no {kind} `{wrong}`{}", hint(wrong, names)))
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// The place of the body it is about.
    pub(super) fn pointer(&self) -> Option<&str> {
        self.pointer.as_deref()
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn to_json(&self) -> Value {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.text,
        });
        if let Some(pointer) = &self.pointer {
            body["errors"] = json!([{ "detail": self.text, "pointer": format!("#{pointer}") }]);
        }
        body
    }
}

/// `; did you mean …?`, or what there is, or nothing.
pub(super) fn hint<'a>(wrong: &str, names: impl Iterator<Item = &'a str> + Clone) -> String {
    if let Some(near) = settings::nearest(wrong, names.clone()) {
        return format!("; did you mean `{near}`?");
    }
    let all: Vec<&str> = names.take(NAMES_MAX + 1).collect();
    match all.len() {
        0 => String::new(),
        n if n > NAMES_MAX => format!("; there are {}, …", all[..NAMES_MAX].join(", ")),
        _ => format!("; there is {}", all.join(", ")),
    }
}

/// A body that is a JSON object with no other keys than these. An empty one is an object without any.
pub(super) fn object(body: &[u8], keys: &[&str]) -> Result<Map<String, Value>, Refusal> {
    if body.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    let no_json = |error: String| Refusal::bad(format!("the body is no JSON: {error}"));
    super::json::check(body).map_err(|unfit| no_json(unfit.to_string()))?;
    let value: Value = serde_json::from_slice(body).map_err(|error| no_json(error.to_string()))?;
    let Value::Object(map) = value else {
        return Err(Refusal::bad("the body must be a JSON object, such as {\"scope\": {}}"));
    };
    known_keys(&map, "the body", keys)?;
    Ok(map)
}

/// Refuses keys that are not among these.
pub(super) fn known_keys(map: &Map<String, Value>, place: &str, keys: &[&str]) -> Result<(), Refusal> {
    match map.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => {
            let hint = hint(key, keys.iter().copied());
            Err(Refusal::bad(format!("{place} has no `{key}`{hint}")))
        }
        None => Ok(()),
    }
}

/// A text of an object; `None` if it is left out or null.
pub(super) fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, Refusal> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Refusal::bad(format!("`{key}` must be a text"))),
    }
}
