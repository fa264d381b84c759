//! Messages by HTTP: handing them in, and seeing what became of them.

pub(super) mod idempotency;
pub(super) mod inject;
pub(super) mod request;

use super::Shared;
use super::access::{Access, wall};
use super::refusal::Refusal;
use crate::http::extract::Path;
use crate::server::Server;
use accounting::Record;
use aws_lc_rs::digest::{SHA256, digest};
use axum::Extension;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use idempotency::{Bounds, KEY_MAX, Running};
use inject::{Injected, Injection, inject};
use mail::SpoolId;
use reception::Taken;
use request::{MessageRequest, PartsIn, Reading, read_json};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Octets of a body that is read without asking whether there is memory.
const SMALL: usize = 64 * 1024;
/// Octets of a body from which on reading it is no work for a thread that serves others.
const LARGE: usize = 256 * 1024;

/// A body in memory, and the memory it was given.
pub(super) struct Held {
    pub(super) octets: Bytes,
    _taken: Taken,
}

/// Reads a body within its bounds: of length, of memory, and of time.
pub(super) async fn read_body(server: &Server, headers: &HeaderMap, body: Body) -> Result<Held, Refusal> {
    let config = server.http.config();
    let max = config.body_max.len();
    let too_large = || {
        let text =
            format!("the body has at most {} here (`http.body_max`); send several requests", config.body_max);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > max) {
        return Err(too_large());
    }
    if let Some(reply) = server.reception.refusal_now(length.unwrap_or(0) as u64) {
        return Err(Refusal::of_reply(&reply));
    }
    let mut taken = Taken::nothing(&server.reception.budget);
    let mut octets = Vec::with_capacity(length.unwrap_or(0).min(SMALL));
    let mut body = body;
    let began = Instant::now();
    loop {
        let patience = config.body_timeout + Duration::from_secs((octets.len() / SMALL) as u64);
        let Ok(frame) = tokio::time::timeout_at(began + patience, body.frame()).await else {
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly"));
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| Refusal::bad("the body was cut off"))?;
        let Ok(data) = frame.into_data() else { continue };
        if octets.len() + data.len() > max {
            return Err(too_large());
        }
        if octets.len() + data.len() > SMALL && taken.budget().is_spent() {
            return Err(Refusal::later("short of memory now, try again later"));
        }
        taken.add(data.len() as u64);
        octets.extend_from_slice(&data);
    }
    Ok(Held { octets: octets.into(), _taken: taken })
}

/// Refuses a body that says it is no JSON: a form of a web page is none.
pub(super) fn check_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.map(|kind| kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase());
    match kind.as_deref() {
        None | Some("application/json") => Ok(()),
        Some(other) if other.starts_with("application/") && other.ends_with("+json") => Ok(()),
        Some(_) => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body is JSON: say `Content-Type: application/json`",
        )),
    }
}

/// Sixteen octets that stand for others.
fn fingerprint(parts: &[&[u8]]) -> [u8; 16] {
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(&(part.len() as u64).to_le_bytes());
        all.extend_from_slice(part);
    }
    let mut short = [0; 16];
    short.copy_from_slice(&digest(&SHA256, &all).as_ref()[..16]);
    short
}

/// The request's place in the table of keys, if it has one.
pub(super) fn begin(
    server: &Server,
    access: &Access,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Option<Running>, Refusal> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.as_bytes();
    if key.is_empty() || key.len() > KEY_MAX {
        return Err(Refusal::bad(format!("an Idempotency-Key has 1 to {KEY_MAX} octets")));
    }
    // What one tenant says twice is no other's.
    let owner = match access.tenant() {
        Some(tenant) => format!("tenant {tenant}"),
        None => format!("key {}", access.name()),
    };
    let config = server.http.config();
    let keeps_ms = u64::try_from(config.idempotency_keeps.as_millis()).unwrap_or(u64::MAX);
    let bounds = Bounds { keys_max: config.idempotency_keys_max, keeps_ms };
    let complete = server.spool.stats().segments_to_load == 0 && server.http.is_loaded();
    let (key, body) = (fingerprint(&[owner.as_bytes(), key]), fingerprint(&[body]));
    server.http.idempotency.begin(key, body, wall(), bounds, complete).map(Some)
}

/// `POST /v1/messages`.
pub(super) async fn send(
    State(server): Shared,
    Extension(access): Extension<Access>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    check_json(&headers)?;
    let held = read_body(&server, &headers, body).await?;
    let running = begin(&server, &access, &headers, &held.octets)?;
    let request: MessageRequest<'_> = heavy(held.octets.len(), || read_json(&held.octets))?;
    let stored = stored_template(&server, &access, &request).await?;
    let reading = Reading { now: wall(), send_later_max: server.http.config().send_later_max, stored };
    let mut injection = heavy(held.octets.len(), || request.into_injection(reading))?;
    let injected = inject(&server, &access, running.as_ref(), &mut injection).await?;
    answer(&injected, &injection)
}

/// Does what takes long without holding up others.
fn heavy<T>(octets: usize, work: impl FnOnce() -> T) -> T {
    if octets >= LARGE { tokio::task::block_in_place(work) } else { work() }
}

fn answer(injected: &Injected, injection: &Injection<'_>) -> Result<Response, Refusal> {
    if let Some(refusal) = injected.put_off() {
        return Err(refusal);
    }
    let status = match (injected.queued(), injected.deferred()) {
        (0, _) => StatusCode::UNPROCESSABLE_ENTITY,
        (_, 0) => StatusCode::ACCEPTED,
        _ => StatusCode::MULTI_STATUS,
    };
    let mut body = injected.to_json(injection.recipients.iter().map(|to| &*to.email));
    if status == StatusCode::UNPROCESSABLE_ENTITY {
        body["type"] = json!("about:blank");
        body["title"] = json!("Unprocessable Content");
        body["status"] = json!(422);
        body["detail"] = json!("no recipient could be taken; `results` says why of each");
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        return Ok((status, kind, body.to_string()).into_response());
    }
    Ok((status, Json(body)).into_response())
}

/// The stored template that a request names.
async fn stored_template(
    server: &Arc<Server>,
    access: &Access,
    request: &MessageRequest<'_>,
) -> Result<Option<PartsIn>, Refusal> {
    let Some(name) = request.template().map(str::to_owned) else { return Ok(None) };
    let tenant = access.tenant().or(request.tenant()).unwrap_or("").to_owned();
    let store = server.http.store.clone();
    let wanted = name.clone();
    let found = tokio::task::spawn_blocking(move || store.template(&tenant, &wanted)).await;
    let found = found.map_err(|_| Refusal::stopping())?.map_err(|error| Refusal::later(error.to_string()))?;
    let Some(template) = found else {
        return Err(Refusal::unfit(format!("there is no stored template `{name}`")).at("/content/template"));
    };
    let parts: PartsIn = read_json(template.content.as_bytes())?;
    Ok(Some(parts))
}

/// The parts of a tenant's stored template.
pub(super) async fn template_parts(
    server: &Arc<Server>,
    tenant: &str,
    name: &str,
) -> Result<Option<compose::Parts>, Refusal> {
    let (store, tenant, name) = (server.http.store.clone(), tenant.to_owned(), name.to_owned());
    let found = tokio::task::spawn_blocking(move || store.template(&tenant, &name)).await;
    let found = found.map_err(|_| Refusal::stopping())?.map_err(|error| Refusal::later(error.to_string()))?;
    found.map(|template| Ok(read_json::<PartsIn>(template.content.as_bytes())?.into_parts(None))).transpose()
}

/// `GET /v1/messages/{id}`: what is remembered of a message, or of one recipient of it.
pub(super) async fn timeline(
    State(server): Shared,
    Extension(access): Extension<Access>,
    Path(text): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let (id, index) = match text.split_once('.') {
        Some((id, index)) => (id, Some(index.parse::<u32>().map_err(|_| no_id())?)),
        None => (text.as_str(), None),
    };
    let id = SpoolId::parse(id).ok_or_else(no_id)?;
    let mut records = server.recorder.events_of(id);
    // Another tenant's message is not told from one that never was.
    records.retain(|record| sees(&access, record));
    let is_it = |record: &Record| match (&record.subject, index) {
        (accounting::Subject::Recipient(_, at), Some(index)) => *at == index,
        (_, index) => index.is_none(),
    };
    let events: Vec<Value> = records.iter().filter(|record| is_it(record)).map(super::event).collect();
    let Some(message) = records.iter().find_map(|record| record.message()).filter(|_| !events.is_empty())
    else {
        return Err(Refusal::missing("nothing is remembered of this message"));
    };
    let extras = message.extras.as_deref();
    let metadata = extras.and_then(|extras| serde_json::from_str::<Value>(extras.metadata.as_deref()?).ok());
    let tags = &message.tags;
    Ok(Json(json!({
        "id": id.to_string(),
        "received_at_ms": message.received_at.0,
        "sender": message.envelope.reverse_path.as_str(),
        "recipients": message.envelope.recipients.len(),
        "size": message.octets_each(),
        "tenant": tags.tenant.as_deref(),
        "campaign": tags.campaign.as_deref(),
        "job": tags.job.as_deref(),
        "reference": tags.envid.as_deref(),
        "metadata": metadata,
        "send_at_ms": message.send_at().map(|at| at.0),
        "expires_at_ms": message.expires_at().map(|at| at.0),
        "events": events,
    })))
}

fn no_id() -> Refusal {
    Refusal::bad("this is no message id; one looks like `0e8x2p4t6v0`, or `0e8x2p4t6v0.3` for one recipient")
}

/// True if a record is of mail that the one who asks may see.
pub(super) fn sees(access: &Access, record: &Record) -> bool {
    let Some(tenant) = access.tenant() else { return true };
    record.message().is_some_and(|message| message.tags.tenant.as_deref() == Some(tenant))
}
