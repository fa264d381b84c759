//! KumoMTA's `POST /api/inject/v1`: its request and its response.
//!
//! The texts are templates unless `template_dialect` is `Static`. Generation is always deferred to when a message
//! leaves, and the spool is always written before the answer, whatever `deferred_generation` and `deferred_spool` ask
//! for; trace headers are those of this server.

use crate::http::Shared;
use crate::http::access::Access;
use crate::http::messages::inject::{Fate, Injection, To, inject};
use crate::http::messages::request::read_json;
use crate::http::messages::{begin, read_body};
use crate::http::refusal::Refusal;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use compose::{Attachment, Content, Parts, Person, read_people};
use mail::{Mailbox, ReversePath};
use reception::Asked;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// Recipients and errors told of at most.
const TOLD_MAX: usize = 1_000;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KumoInject")]
pub(in crate::http) struct Request<'a> {
    envelope_sender: String,
    #[serde(borrow)]
    recipients: Vec<Recipient<'a>>,
    content: ContentIn,
    #[serde(borrow)]
    #[schemars(with = "Option<Map<String, Value>>")]
    substitutions: Option<&'a RawValue>,
    #[serde(default)]
    #[allow(dead_code, reason = "it is always so")]
    deferred_spool: bool,
    #[serde(default)]
    #[allow(dead_code, reason = "it is always so")]
    deferred_generation: bool,
    #[allow(dead_code, reason = "Received and Message-ID are what there is")]
    trace_headers: Option<Map<String, Value>>,
    template_dialect: Option<Value>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KumoRecipient")]
struct Recipient<'a> {
    email: String,
    name: Option<String>,
    #[serde(borrow)]
    #[schemars(with = "Option<Map<String, Value>>")]
    substitutions: Option<&'a RawValue>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "KumoContent")]
enum ContentIn {
    Raw(String),
    Builder(Box<Builder>),
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "KumoBuilder")]
struct Builder {
    text_body: Option<String>,
    html_body: Option<String>,
    amp_html_body: Option<String>,
    #[serde(default)]
    attachments: Vec<File>,
    #[serde(default)]
    headers: serde_json::Map<String, Value>,
    #[schemars(with = "Option<PersonIn>")]
    from: Option<Person>,
    subject: Option<String>,
    #[schemars(with = "Option<PersonIn>")]
    reply_to: Option<Person>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "KumoFile")]
struct File {
    data: String,
    content_type: String,
    file_name: Option<String>,
    content_id: Option<String>,
    #[serde(default)]
    base64: bool,
}

/// A person.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "its description is what is wanted")]
#[schemars(rename = "KumoPerson")]
struct PersonIn {
    email: String,
    #[serde(default)]
    name: Option<String>,
}

/// `POST /api/inject/v1`.
pub(in crate::http) async fn inject_v1(
    State(server): Shared,
    Extension(access): Extension<Access>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let held = read_body(&server, &headers, body).await?;
    let running = begin(&server, &access, &headers, &held.octets)?;
    let request: Request<'_> = read_json(&held.octets)?;
    let mut injection = read(request)?;
    let injected = inject(&server, &access, running.as_ref(), &mut injection).await?;
    if let Some(refusal) = injected.put_off() {
        return Err(refusal);
    }
    let (mut failed, mut errors) = (Vec::new(), Vec::new());
    for (fate, to) in injected.fates.iter().zip(&injection.recipients) {
        let why = match fate {
            Fate::Queued(..) => continue,
            Fate::Refused(why) => why.clone(),
            Fate::Deferred(reply) => reply.text.to_string(),
        };
        if failed.len() < TOLD_MAX {
            failed.push(to.email.to_string());
            errors.push(format!("{}: {why}", to.email));
        }
    }
    Ok(Json(json!({
        "success_count": injected.queued(),
        "fail_count": injected.refused() + injected.deferred(),
        "failed_recipients": failed,
        "errors": errors,
    })))
}

fn read(request: Request<'_>) -> Result<Injection<'_>, Refusal> {
    let templated = match request.template_dialect.as_ref().and_then(Value::as_str) {
        None | Some("Jinja") => true,
        Some("Static") => false,
        Some(other) => {
            let text = format!(
                "there is no template dialect `{}` here; there are Jinja and Static",
                message::one_line(other, 40)
            );
            return Err(Refusal::unfit(text).at("/template_dialect"));
        }
    };
    let reverse_path = match request.envelope_sender.as_str() {
        "" => ReversePath::Null,
        text => ReversePath::Mailbox(
            Mailbox::parse(text).map_err(|error| Refusal::unfit(error.to_string()).at("/envelope_sender"))?,
        ),
    };
    let content = match request.content {
        ContentIn::Raw(text) => {
            let has_from = message::Fields::new(text.replace("\r\n", "\n").replace('\n', "\r\n").as_bytes())
                .any(|field| field.is("From"));
            let text = if has_from { text } else { format!("From: {}\n{text}", request.envelope_sender) };
            let octets =
                compose::tidy(&text).map_err(|mistake| Refusal::unfit(mistake.text).at("/content"))?;
            Content::Raw(String::from_utf8(octets).map_err(|_| Refusal::bad("the content is not UTF-8"))?)
        }
        ContentIn::Builder(builder) => Content::Parts(Box::new(parts(*builder, &request.envelope_sender)?)),
    };
    let recipients = request.recipients.into_iter().map(|recipient| To {
        email: recipient.email.into(),
        name: recipient.name.unwrap_or_default().into(),
        own: recipient.substitutions.map(RawValue::get).filter(|text| *text != "null").unwrap_or("").into(),
    });
    Ok(Injection {
        reverse_path,
        recipients: recipients.collect(),
        content,
        templated,
        common: request.substitutions.map(RawValue::get).filter(|text| *text != "null").unwrap_or("").into(),
        asked: Asked::default(),
        send_at: None,
        expires_at: None,
        metadata: None,
    })
}

fn parts(builder: Builder, sender: &str) -> Result<Parts, Refusal> {
    let mut parts = Parts {
        from: builder.from,
        reply_to: builder.reply_to.into_iter().collect(),
        subject: builder.subject,
        text: builder.text_body,
        html: builder.html_body,
        amp: builder.amp_html_body,
        ..Parts::default()
    };
    for (name, value) in builder.headers {
        let pointer = format!("/content/headers/{name}");
        let Value::String(value) = value else {
            return Err(Refusal::unfit("a header field is a text").at(pointer));
        };
        let people = || read_people(&value).map_err(|error| Refusal::unfit(error).at(pointer.clone()));
        match name.to_ascii_lowercase().as_str() {
            "from" => parts.from = people()?.pop(),
            "to" => parts.to = people()?,
            "cc" => parts.cc = people()?,
            "reply-to" => parts.reply_to = people()?,
            "subject" => parts.subject = Some(value),
            _ => parts.headers.push((name, value)),
        }
    }
    if parts.from.is_none() {
        parts.from = Some(Person { email: sender.to_owned(), name: None });
    }
    for file in builder.attachments {
        let content = if file.base64 {
            file.data
        } else {
            let mut lines = Vec::new();
            message::write_base64(&mut lines, file.data.as_bytes());
            String::from_utf8_lossy(&lines).split_whitespace().collect()
        };
        let media_type = file.content_type.split(';').next().unwrap_or("").trim().to_owned();
        parts.attachments.push(Attachment {
            filename: file.file_name,
            media_type,
            content,
            content_id: file.content_id,
        });
    }
    parts
        .check()
        .map_err(|mistake| Refusal::unfit(mistake.text).at(format!("/content{}", mistake.pointer)))?;
    Ok(parts)
}
