//! Webhooks: how they are doing, what was put aside, and posting again.

use super::Shared;
use super::extract::{Path, Query};
use super::refusal::{Refusal, object};
use crate::server::Server;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use outcomes::WebhookStatus;
use serde::Deserialize;
use serde_json::{Value, json};

/// Records shown at most.
const SHOWN_MAX: usize = 1_000;

fn shown(status: &WebhookStatus) -> Value {
    json!({
        "webhook": status.name,
        "url": status.url,
        "taken": status.taken,
        "failures": status.failures,
        "pending_octets": status.pending_octets,
        "kept_octets": status.kept_octets,
        "dead_octets": status.dead_octets,
        "lost_octets": status.lost_octets,
        "dropped": status.dropped,
        "last_failure": status.last_failure,
        "failing_seconds": status.failing_seconds,
    })
}

/// All webhooks.
pub(super) async fn list(State(server): Shared) -> Json<Value> {
    Json(server.webhooks.status().iter().map(shown).collect())
}

fn no_such(server: &Server, name: &str) -> Refusal {
    let names = server.webhooks.names();
    Refusal::no_such("webhook", name, names.iter().map(String::as_str))
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    max: Option<usize>,
}

/// What was put aside.
pub(super) async fn dead(
    State(server): Shared,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Refusal> {
    let max = asked.max.unwrap_or(100).min(SHOWN_MAX);
    let read = tokio::task::block_in_place(|| server.webhooks.dead(&name, max));
    let read = read.ok_or_else(|| no_such(&server, &name))?;
    Ok(Json(Value::Array(read.map_err(|why| Refusal::conflict(why.to_string()))?)))
}

/// Posts what was put aside again; with `"all": true` everything that is kept.
pub(super) async fn replay(
    State(server): Shared,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let map = object(&body, &["all"])?;
    let all = match map.get("all") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(all)) => *all,
        Some(_) => return Err(Refusal::bad("`all` must be true or false")),
    };
    let done = tokio::task::block_in_place(|| server.webhooks.replay(&name, all));
    done.ok_or_else(|| no_such(&server, &name))?.map_err(|why| Refusal::conflict(why.to_string()))?;
    let status = server.webhooks.status();
    Ok(Json(status.iter().find(|status| status.name == name).map_or(Value::Null, shown)))
}
