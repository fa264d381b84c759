//! HTTP on loopback: health, metrics, and the questions and orders behind the commands of `tuma`. Every answer is
//! bounded, and so is every body that is read.

mod explain;
mod foretell;
mod limits;
mod orders;
mod queue;
mod refusal;
mod sources;
mod suppressions;
mod webhooks;

use crate::server::Server;
use accounting::{Metrics, Record};
use anyhow::Result;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use delivery::Order;
use mail::SpoolId;
use refusal::Refusal;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing_subscriber::filter::Targets;

/// Octets of a body at most.
const BODY_MAX: usize = 64 * 1024;

type Shared = State<Arc<Server>>;

/// Begins to answer.
pub fn start(server: Arc<Server>, socket: std::net::TcpListener) -> Result<()> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::TcpListener::from_std(socket)?;
    let routes = Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(queue::status))
        .route("/v1/queue", get(queue::queue))
        .route("/v1/queue/flush", post(queue::flush))
        .route("/v1/queues", get(queue::queues))
        .route("/v1/explain", get(explain::explain))
        .route("/v1/orders", get(orders::list).post(orders::give))
        .route("/v1/orders/preview", post(orders::preview))
        .route("/v1/orders/{id}", delete(orders::cancel))
        .route("/v1/sources", get(sources::list))
        .route("/v1/sources/{name}/enable", post(sources::enable))
        .route("/v1/sources/{name}/disable", post(sources::disable))
        .route("/v1/limits", get(limits::list))
        .route("/v1/limits/release", post(limits::release))
        .route("/v1/messages/{id}", get(message))
        .route("/v1/reload", post(reload))
        .route("/v1/log-level", post(log_level))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .merge(suppressions::routes())
        .merge(webhooks::routes())
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

fn seconds(duration: Option<Duration>) -> Option<f64> {
    duration.map(|d| (d.as_secs_f64() * 10.0).round() / 10.0)
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// Asks the dispatcher, and gives its answer; a refusal once it has ended.
async fn ask<T>(server: &Server, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Refusal> {
    let (reply, answer) = oneshot::channel();
    server.delivery.order(order(reply)).await;
    answer.await.map_err(|_| Refusal::stopping())
}

fn stopping() -> Response {
    Refusal::stopping().into_response()
}
