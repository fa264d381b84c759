//! SendGrid's `POST /v3/mail/send`, as its client libraries send it.
//!
//! Each personalization is a message of its own, To and Cc shown to its recipients and Bcc to nobody.
//! `dynamic_template_data` fills in the stored template that `template_id` names; `substitutions` replace texts as they
//! stand. Categories and custom arguments become tags and metadata, the first category the campaign. What has no
//! meaning here (tracking, unsubscribe groups, footers) is taken without effect, as the answer cannot say so.

use crate::http::Shared;
use crate::http::access::{Access, wall};
use crate::http::messages::inject::{Injected, Injection, To, inject};
use crate::http::messages::read_body;
use crate::http::messages::request::read_json;
use crate::http::refusal::Refusal;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use compose::{Attachment, Content, Parts, Person};
use mail::{METADATA_MAX_OCTETS, Mailbox, ReversePath, UnixMillis};
use reception::Asked;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Personalizations of one request at most, as there.
const PERSONALIZATIONS_MAX: usize = 1_000;

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "SendgridMail")]
pub(in crate::http) struct Request {
    personalizations: Vec<Personalization>,
    #[schemars(with = "Option<PersonIn>")]
    from: Option<Person>,
    #[schemars(with = "Option<PersonIn>")]
    reply_to: Option<Person>,
    #[serde(default)]
    #[schemars(with = "Vec<PersonIn>")]
    reply_to_list: Vec<Person>,
    subject: Option<String>,
    #[serde(default)]
    content: Vec<Text>,
    #[serde(default)]
    attachments: Vec<File>,
    template_id: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    categories: Vec<String>,
    #[serde(default)]
    custom_args: Map<String, Value>,
    send_at: Option<u64>,
    ip_pool_name: Option<String>,
    mail_settings: Option<Value>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "SendgridPersonalization")]
struct Personalization {
    #[serde(default)]
    #[schemars(with = "Vec<PersonIn>")]
    to: Vec<Person>,
    #[serde(default)]
    #[schemars(with = "Vec<PersonIn>")]
    cc: Vec<Person>,
    #[serde(default)]
    #[schemars(with = "Vec<PersonIn>")]
    bcc: Vec<Person>,
    #[schemars(with = "Option<PersonIn>")]
    from: Option<Person>,
    subject: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    substitutions: BTreeMap<String, String>,
    dynamic_template_data: Option<Map<String, Value>>,
    #[serde(default)]
    custom_args: Map<String, Value>,
    send_at: Option<u64>,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[schemars(rename = "SendgridText")]
struct Text {
    r#type: String,
    value: String,
}

#[derive(Clone, Deserialize, JsonSchema)]
#[schemars(rename = "SendgridFile")]
struct File {
    content: String,
    r#type: Option<String>,
    filename: Option<String>,
    disposition: Option<String>,
    content_id: Option<String>,
}

/// A person.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "its description is what is wanted")]
#[schemars(rename = "SendgridPerson")]
struct PersonIn {
    email: String,
    #[serde(default)]
    name: Option<String>,
}

/// `POST /v3/mail/send`.
pub(in crate::http) async fn send(
    State(server): Shared,
    Extension(access): Extension<Access>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let work = async {
        let held = read_body(&server, &headers, body).await?;
        let request: Request = read_json(&held.octets)?;
        if request.personalizations.is_empty() || request.personalizations.len() > PERSONALIZATIONS_MAX {
            let text = format!("a request has 1 to {PERSONALIZATIONS_MAX} personalizations");
            return Err(Refusal::bad(text).at("/personalizations"));
        }
        let stored = stored(&server, &access, &request).await?;
        let sandbox =
            request.mail_settings.as_ref().and_then(|settings| settings.pointer("/sandbox_mode/enable"));
        let sandbox = sandbox == Some(&Value::Bool(true));
        // All are read before the first is sent, so that a mistake in one sends none.
        let mut injections = Vec::new();
        for n in 0..request.personalizations.len() {
            injections.push(read(&request, n, stored.as_ref())?);
        }
        let mut first = None;
        for (n, injection) in injections.iter_mut().enumerate() {
            if sandbox {
                continue;
            }
            let injected: Injected = inject(&server, &access, None, injection).await?;
            if let Some(refusal) = injected.put_off() {
                return Err(refusal);
            }
            if injected.queued() == 0 {
                let text = "no recipient of this personalization could be taken";
                return Err(Refusal::bad(text).at(format!("/personalizations/{n}")));
            }
            first = first.or_else(|| injected.messages.first().map(|(id, _)| *id));
        }
        Ok((sandbox, first))
    };
    match work.await {
        Ok((true, _)) => StatusCode::OK.into_response(),
        Ok((false, id)) => {
            let mut response = StatusCode::ACCEPTED.into_response();
            if let Some(Ok(value)) = id.map(|id| HeaderValue::from_str(&id.to_string())) {
                response.headers_mut().insert(HeaderName::from_static("x-message-id"), value);
            }
            response
        }
        Err(refusal) => refused(refusal),
    }
}

/// A refusal in the form that its libraries know.
fn refused(refusal: Refusal) -> Response {
    let (text, field) = (refusal.text().to_owned(), refusal.pointer().map(field));
    let response = refusal.into_response();
    let (mut parts, _) = response.into_parts();
    parts.headers.insert("content-type", HeaderValue::from_static("application/json"));
    parts.headers.remove("content-length");
    let body = json!({ "errors": [{ "message": text, "field": field, "help": null }] });
    Response::from_parts(parts, Body::from(body.to_string()))
}

/// `personalizations.0.to` for `/personalizations/0/to`.
fn field(pointer: &str) -> String {
    pointer.trim_start_matches('/').replace('/', ".")
}

/// The parts of the stored template, if one is named.
async fn stored(
    server: &std::sync::Arc<crate::server::Server>,
    access: &Access,
    request: &Request,
) -> Result<Option<Parts>, Refusal> {
    let Some(name) = request.template_id.clone() else { return Ok(None) };
    let parts = crate::http::messages::template_parts(server, access.tenant().unwrap_or(""), &name).await?;
    parts
        .map(Some)
        .ok_or_else(|| Refusal::bad(format!("there is no stored template `{name}`")).at("/template_id"))
}

fn read(request: &Request, n: usize, stored: Option<&Parts>) -> Result<Injection<'static>, Refusal> {
    let own = &request.personalizations[n];
    let at = |pointer: &str| format!("/personalizations/{n}{pointer}");
    if own.to.is_empty() {
        return Err(Refusal::bad("a personalization has at least one recipient in `to`").at(at("/to")));
    }
    let mut parts = stored.cloned().unwrap_or_default();
    if let Some(from) = own.from.as_ref().or(request.from.as_ref()) {
        parts.from = Some(from.clone());
    }
    parts.to = own.to.clone();
    parts.cc = own.cc.clone();
    let reply_to: Vec<Person> = request.reply_to.iter().chain(&request.reply_to_list).cloned().collect();
    if !reply_to.is_empty() {
        parts.reply_to = reply_to;
    }
    if let Some(subject) = own.subject.as_ref().or(request.subject.as_ref()).filter(|text| !text.is_empty()) {
        parts.subject = Some(subject.clone());
    }
    for (name, value) in
        request.headers.iter().filter(|(name, _)| !own.headers.contains_key(*name)).chain(&own.headers)
    {
        parts.headers.push((name.clone(), value.clone()));
    }
    for (place, text) in request.content.iter().enumerate() {
        let value = Some(text.value.clone());
        match text.r#type.as_str() {
            "text/plain" => parts.text = value,
            "text/html" => parts.html = value,
            "text/x-amp-html" => parts.amp = value,
            other => {
                let text = format!(
                    "content is text/plain, text/html or text/x-amp-html, not {}",
                    message::one_line(other, 60)
                );
                return Err(Refusal::bad(text).at(format!("/content/{place}/type")));
            }
        }
    }
    for file in &request.attachments {
        let inline = file.disposition.as_deref() == Some("inline");
        parts.attachments.push(Attachment {
            filename: file.filename.clone(),
            media_type: file.r#type.clone().unwrap_or_else(|| "application/octet-stream".to_owned()),
            content: file.content.clone(),
            content_id: file.content_id.clone().filter(|_| inline),
        });
    }
    let replace = |text: &mut String| {
        for (from, to) in own.substitutions.iter().filter(|(from, _)| !from.is_empty()) {
            *text = text.replace(from.as_str(), to);
        }
    };
    for text in [&mut parts.subject, &mut parts.text, &mut parts.html, &mut parts.amp] {
        text.iter_mut().for_each(replace);
    }
    parts.headers.iter_mut().for_each(|(_, value)| replace(value));
    parts.check().map_err(|mistake| Refusal::bad(mistake.text).at(mistake.pointer))?;
    let sender = parts.from.as_ref().and_then(|from| Mailbox::parse(&from.email).ok());
    let recipients = own.to.iter().chain(&own.cc).chain(&own.bcc).map(|person| To {
        email: person.email.clone().into(),
        name: "".into(),
        own: "".into(),
    });
    let data = own.dynamic_template_data.as_ref().map(|data| Value::Object(data.clone()).to_string());
    let later = |at: u64| Some(UnixMillis(at.saturating_mul(1_000))).filter(|at| *at > wall());
    let campaign = request.categories.first().map(|text| mail::tag(text)).transpose();
    let pool = request.ip_pool_name.as_deref().map(mail::tag).transpose();
    Ok(Injection {
        reverse_path: sender.map_or(ReversePath::Null, ReversePath::Mailbox),
        recipients: recipients.collect(),
        content: Content::Parts(Box::new(parts)),
        templated: stored.is_some(),
        common: data.unwrap_or_default().into(),
        asked: Asked {
            campaign: campaign.map_err(|error| Refusal::bad(error.to_string()).at("/categories/0"))?,
            pool: pool.map_err(|error| Refusal::bad(error.to_string()).at("/ip_pool_name"))?,
            ..Asked::default()
        },
        send_at: own.send_at.or(request.send_at).and_then(later),
        expires_at: None,
        metadata: metadata(request, own)?,
    })
}

fn metadata(request: &Request, own: &Personalization) -> Result<Option<Box<str>>, Refusal> {
    let mut map = request.custom_args.clone();
    map.extend(own.custom_args.clone());
    if !request.categories.is_empty() {
        map.insert("tags".to_owned(), json!(request.categories));
    }
    if map.is_empty() {
        return Ok(None);
    }
    let text = Value::Object(map).to_string();
    if text.len() > METADATA_MAX_OCTETS {
        let text = format!("custom arguments and categories have at most {METADATA_MAX_OCTETS} octets");
        return Err(Refusal::bad(text).at("/custom_args"));
    }
    Ok(Some(text.into()))
}
