//! What is queued, by site, by queue and by message.

use super::extract::Query;
use super::refusal::Refusal;
use super::{Shared, ask, now, seconds, stopping};
use crate::server::Server;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use delivery::{Order, Target};
use mail::Host;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::oneshot;

/// Entries of the queue in one answer at most.
const ENTRIES_MAX: usize = 1_000;
/// Sites or queues in one answer at most.
const SITES_MAX: usize = 1_000;
/// Names looked through for the nearest.
const NAMES_MAX: usize = 10_000;

pub(super) async fn status(State(server): Shared) -> Response {
    let Some(queue) = server.delivery.status().await else { return stopping() };
    let stats = server.spool.stats();
    let total = |kind| server.metrics.total(kind);
    use accounting::Kind;
    let delivery::QueueStatus { status: queue, hot_bytes } = queue;
    let sites: Vec<Value> = queue.sites.iter().take(SITES_MAX).map(site).collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": server.since.elapsed().as_secs(),
        "sessions": server.reception.sessions.load(Relaxed),
        "connections_out": queue.connections,
        "recipients": {
            "queued": queue.recipients,
            "received": total(Kind::Received),
            "delivered": total(Kind::Delivered),
            "deferred": total(Kind::Deferred),
            "bounced": total(Kind::Bounced),
            "expired": total(Kind::Expired),
            "discarded": total(Kind::Discarded),
            "rejected": total(Kind::Rejected),
            "suppressed": total(Kind::Suppressed),
            "unaccounted": server.metrics.unaccounted(),
        },
        "memory": { "hot_bytes": hot_bytes, "receiving_bytes": server.reception.budget.used() },
        "spool": {
            "messages": stats.live_messages,
            "segments": stats.segments,
            "used_bytes": stats.used_bytes,
            "free_bytes": stats.free_bytes,
            "segments_to_load": stats.segments_to_load,
            "accepts": server.spool.may_accept().is_ok(),
        },
        "accounting": server.recorder.stats().iter().map(|file| format!("{file:?}")).collect::<Vec<_>>(),
        "queues": queue.queues,
        "paths": queue.paths,
        "sites": sites,
    }))
    .into_response()
}

fn site(site: &delivery::SiteStatus) -> Value {
    let paths: Vec<Value> = site
        .paths
        .iter()
        .map(|path| {
            json!({
                "source": &*path.source,
                "connections": path.connections,
                "mode": path.mode,
                "hold": path.hold.as_ref().map(ToString::to_string),
            })
        })
        .collect();
    let hold = site.hold.as_ref();
    json!({
        "site": site.site,
        "provider": site.provider.as_deref(),
        "recipients": site.recipients,
        "ready": site.ready,
        "waiting": site.waiting,
        "attempted": site.attempted,
        "connections": site.connections,
        "hold": hold.map(|hold| hold.reason.to_string()),
        "setting": hold.and_then(|hold| hold.setting()).map(ToString::to_string),
        "held_for_seconds": seconds(site.held_for),
        "held_until_seconds":
            seconds(hold.and_then(|hold| hold.until).map(|at| at.saturating_duration_since(now()))),
        "last_failure": site.last_failure,
        "paths": paths,
    })
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QueuesQuery {
    max: Option<usize>,
}

/// The queues, those with the most recipients first.
pub(super) async fn queues(State(server): Shared, Query(query): Query<QueuesQuery>) -> Response {
    let (reply, answer) = oneshot::channel();
    let max = query.max.unwrap_or(100).min(SITES_MAX);
    server.delivery.order(Order::Queues { max, reply }).await;
    let Ok(queues) = answer.await else { return stopping() };
    let list: Vec<Value> = queues
        .iter()
        .map(|queue| {
            json!({
                "queue": queue.queue,
                "site": queue.site.as_deref(),
                "priority": queue.class,
                "ready": queue.ready,
                "waiting": queue.waiting,
                "attempted": queue.attempted,
                "recipients": queue.recipients,
                "set_aside": queue.aside,
                "set_aside_for_seconds": seconds(queue.aside_for),
            })
        })
        .collect();
    Json(Value::Array(list)).into_response()
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QueueQuery {
    destination: Option<String>,
    max: Option<usize>,
}

pub(super) async fn queue(State(server): Shared, Query(query): Query<QueueQuery>) -> Response {
    let (reply, answer) = oneshot::channel();
    let max = query.max.unwrap_or(100).min(ENTRIES_MAX);
    server.delivery.order(Order::Entries { place: query.destination, max, reply }).await;
    let Ok(entries) = answer.await else { return stopping() };
    let mut list = Vec::with_capacity(entries.len());
    for entry in entries {
        let message = server.delivery.read(spool::Handle(entry.handle)).await;
        let recipients: Vec<String> = message
            .iter()
            .flat_map(|m| m.envelope.recipients.iter().skip(entry.first as usize).take(entry.count as usize))
            .map(|r| r.path.to_string())
            .collect();
        list.push(json!({
            "id": message.as_ref().map(|m| m.id.to_string()),
            "reverse_path": message.as_ref().map(|m| m.envelope.reverse_path.to_string()),
            "recipients": recipients,
            "size": message.as_ref().map(|m| m.size),
            "received_at_ms": message.as_ref().map(|m| m.received_at.0),
            "destination": &*entry.target,
            "queue": entry.queue,
            "attempts": entry.attempts,
            "in_attempt": entry.attempted,
            "ambiguous": entry.ambiguous,
            "due_in_seconds": seconds(Some(entry.due_in)),
            "expires_in_seconds": seconds(entry.expires_in),
            "last_reply": entry.last_reply.as_deref(),
        }));
    }
    Json(Value::Array(list)).into_response()
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FlushQuery {
    destination: Option<String>,
}

pub(super) async fn flush(
    State(server): Shared,
    Query(query): Query<FlushQuery>,
) -> Result<Json<Value>, Refusal> {
    let place = query.destination;
    let moved = ask(&server, |reply| Order::Flush { place: place.clone(), reply }).await?;
    let mut answer = json!({ "moved": moved });
    if let Some(place) = place.filter(|_| moved == 0) {
        let entries =
            ask(&server, |reply| Order::Entries { place: Some(place.clone()), max: 1, reply }).await?;
        if entries.is_empty() {
            answer["hint"] = json!(nothing_at(&server, &place).await?);
        }
    }
    Ok(Json(answer))
}

/// Nothing is queued at a place: perhaps it is called otherwise.
async fn nothing_at(server: &Server, place: &str) -> Result<String, Refusal> {
    if let Ok(host) = Host::parse(place)
        && let target @ Target::Route(_) = server.delivery.settings().routes.target(&host)
    {
        return Ok(format!("nothing is queued for {place}; its mail goes by the route `{target}`"));
    }
    let names = names(server).await?;
    let near = settings::nearest(place, names.iter().map(String::as_str));
    let near = near.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    Ok(format!("nothing is queued for {place}{near}"))
}

/// What queues and sites are called.
pub(super) async fn names(server: &Server) -> Result<Vec<String>, Refusal> {
    let queues = ask(server, |reply| Order::Queues { max: NAMES_MAX, reply }).await?;
    let status = server.delivery.status().await.ok_or_else(Refusal::stopping)?;
    let queues = queues.into_iter().map(|queue| queue.queue);
    Ok(queues.chain(status.status.sites.into_iter().take(NAMES_MAX).map(|site| site.site)).collect())
}
