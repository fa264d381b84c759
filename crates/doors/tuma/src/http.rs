//! HTTP on loopback: health, metrics, and the questions and orders behind `tuma status`, `queue`, `reload` and
//! `send`. Every answer is bounded.

use crate::server::Server;
use accounting::{Metrics, Record};
use anyhow::Result;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use delivery::Order;
use mail::SpoolId;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing_subscriber::filter::Targets;

/// Entries of the queue in one answer at most.
const ENTRIES_MAX: usize = 1_000;
/// Sites or queues in one answer at most.
const SITES_MAX: usize = 1_000;

type Shared = State<Arc<Server>>;

/// Begins to answer.
pub fn start(server: Arc<Server>, socket: std::net::TcpListener) -> Result<()> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::TcpListener::from_std(socket)?;
    let routes = Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/queue", get(queue))
        .route("/v1/queue/flush", post(flush))
        .route("/v1/queues", get(queues))
        .route("/v1/messages/{id}", get(message))
        .route("/v1/reload", post(reload))
        .route("/v1/log-level", post(log_level))
        .layer(middleware::from_fn(only_local))
        .with_state(server);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(socket, routes).await {
            tracing::error!(%error, "the HTTP listener ended");
        }
    });
    Ok(())
}

/// A page in a browser must not order this server about: requests that a foreign page can cause carry its
/// Origin, or a Host that is not loopback (DNS rebinding).
async fn only_local(request: Request, next: Next) -> Response {
    let local = |text: &str| {
        let host = text.strip_prefix("http://").unwrap_or(text);
        let host =
            host.rsplit_once(':').map_or(host, |(host, port)| if port.ends_with(']') { text } else { host });
        matches!(host, "localhost" | "127.0.0.1" | "[::1]")
    };
    let headers = request.headers();
    let strange = |name| headers.get(name).is_some_and(|value| !value.to_str().is_ok_and(local));
    if strange(header::ORIGIN) || strange(header::HOST) {
        return (StatusCode::FORBIDDEN, "only for this machine\n").into_response();
    }
    next.run(request).await
}

async fn health(State(server): Shared) -> Response {
    match server.spool.may_accept() {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(refusal) => (StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}\n")).into_response(),
    }
}

async fn metrics(State(server): Shared) -> Response {
    ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], server.metrics.encode()).into_response()
}

async fn status(State(server): Shared) -> Response {
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

fn seconds(duration: Option<Duration>) -> Option<f64> {
    duration.map(|d| (d.as_secs_f64() * 10.0).round() / 10.0)
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

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

#[derive(Deserialize)]
struct QueuesQuery {
    max: Option<usize>,
}

/// The queues, those with the most recipients first.
async fn queues(State(server): Shared, Query(query): Query<QueuesQuery>) -> Response {
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

#[derive(Deserialize)]
struct QueueQuery {
    destination: Option<String>,
    max: Option<usize>,
}

async fn queue(State(server): Shared, Query(query): Query<QueueQuery>) -> Response {
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
            "expires_in_seconds": seconds(Some(entry.expires_in)),
            "last_reply": entry.last_reply.as_deref(),
        }));
    }
    Json(Value::Array(list)).into_response()
}

#[derive(Deserialize)]
struct FlushQuery {
    destination: Option<String>,
}

async fn flush(State(server): Shared, Query(query): Query<FlushQuery>) -> Response {
    let (reply, answer) = oneshot::channel();
    server.delivery.order(Order::Flush { place: query.destination, reply }).await;
    match answer.await {
        Ok(moved) => Json(json!({ "moved": moved })).into_response(),
        Err(_) => stopping(),
    }
}

/// What is remembered of a message.
async fn message(State(server): Shared, Path(id): Path<String>) -> Response {
    let Some(id) = SpoolId::parse(&id) else {
        return (StatusCode::BAD_REQUEST, "not a message id\n").into_response();
    };
    let events: Vec<Value> = server.recorder.events_of(id).iter().map(event).collect();
    if events.is_empty() {
        return (StatusCode::NOT_FOUND, "nothing is remembered of this message\n").into_response();
    }
    Json(json!({ "id": id.to_string(), "events": events })).into_response()
}

fn event(record: &Record) -> Value {
    json!({
        "time_ms": record.time.0,
        "kind": record.kind.as_str(),
        "recipient": record.recipient_text(),
        "reply": record.reply.as_ref().map(|reply| reply.to_string()),
        "attempt": record.attempt.number,
        "host": record.connection.as_ref().map(|c| c.host.to_string()),
        "address": record.connection.as_ref().and_then(|c| c.remote).map(|a| a.to_string()),
    })
}

async fn reload(State(server): Shared) -> Response {
    match server.reload().await {
        Ok(text) => (StatusCode::OK, format!("{text}\n")).into_response(),
        Err(report) => (StatusCode::UNPROCESSABLE_ENTITY, report).into_response(),
    }
}

async fn log_level(State(server): Shared, level: String) -> Response {
    let Ok(level) = level.trim().parse::<Targets>() else {
        return (
            StatusCode::BAD_REQUEST,
            "write error, warn, info, debug or trace, or by room: info,delivery=debug\n",
        )
            .into_response();
    };
    match server.log_level.reload(level) {
        Ok(()) => (StatusCode::OK, "log level changed\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn stopping() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the server is stopping\n").into_response()
}
