//! Answers that say no: each with a sentence that says what to do, and with the nearest right name where one was
//! misspelt. And bodies, read by hand so that they can.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

/// Names that are listed at most where one is wrong.
const NAMES_MAX: usize = 10;

/// No, and why.
#[derive(Debug)]
pub(super) struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1 + "\n").into_response()
    }
}

impl Refusal {
    /// 400: it cannot be read.
    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    /// 404: it names what is not there.
    pub(super) fn missing(text: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, text.into())
    }

    /// 409: it does not go with how things are.
    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Self(StatusCode::CONFLICT, text.into())
    }

    /// 422: it can be read, and cannot be done.
    pub(super) fn unfit(text: impl Into<String>) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, text.into())
    }

    /// The same, with the place it is about in front.
    pub(super) fn at(self, place: &str) -> Self {
        Self(self.0, format!("{place}: {}", self.1))
    }

    pub(super) fn stopping() -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping".into())
    }

    /// 404 for a name of some kind, with the nearest right one or the right ones.
    pub(super) fn no_such<'a>(kind: &str, wrong: &str, names: impl Iterator<Item = &'a str> + Clone) -> Self {
        Self::missing(format!("there is no {kind} `{wrong}`{}", hint(wrong, names)))
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
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Refusal::bad(format!("the body is no JSON: {error}")))?;
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
