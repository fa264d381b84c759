//! Egress sources: listed, and taken in and out of use.

use super::extract::Path;
use super::orders::kept_or_not;
use super::refusal::{Refusal, object, text};
use super::{Shared, ask, seconds};
use crate::server::Server;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use delivery::{Order, Release, SourceStatus};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// All sources.
pub(super) async fn list(State(server): Shared) -> Result<Json<Value>, Refusal> {
    let sources = ask(&server, Order::Sources).await?;
    let configured = server.source_configs();
    let shown = |source: &SourceStatus| {
        let config = configured.get(&*source.name);
        let pools: BTreeMap<&str, u32> =
            source.pools.iter().map(|(pool, weight)| (&**pool, *weight)).collect();
        let stopped = source.disabled.as_ref();
        json!({
            "source": &*source.name,
            "enabled": source.enabled && stopped.is_none(),
            "enabled_in_configuration": source.enabled,
            "disabled_by": stopped.map(|stopped| stopped.by.as_str()),
            "disabled_for_seconds": seconds(stopped.map(|stopped| stopped.held_for)),
            "enabled_in_seconds": seconds(stopped.and_then(|stopped| stopped.held_until)),
            "v4": config.and_then(|config| config.v4),
            "v6": config.and_then(|config| config.v6),
            "ehlo_name": config.and_then(|config| config.ehlo_name.as_deref()),
            "pools": pools,
            "sites": source.sites,
            "sites_in_backoff": source.backoff,
            "connections": source.connections,
        })
    };
    Ok(Json(sources.iter().map(shown).collect()))
}

/// Refuses a name that is not configured; true if the configuration switches the source on.
async fn known(server: &Server, name: &str) -> Result<SourceStatus, Refusal> {
    let sources = ask(server, Order::Sources).await?;
    match sources.iter().find(|source| *source.name == *name) {
        Some(source) => Ok(source.clone()),
        None => Err(Refusal::no_such("source", name, sources.iter().map(|source| &*source.name))),
    }
}

/// Takes a source into use again.
pub(super) async fn enable(State(server): Shared, Path(name): Path<String>) -> Result<Json<Value>, Refusal> {
    let source = known(&server, &name).await?;
    let (changed, kept) = ask(&server, |reply| Order::Release(Release::Source(name.clone()), reply)).await?;
    if !source.enabled {
        return Err(Refusal::conflict(format!(
            "the source {name} is switched off in the configuration: set `enabled = true` in [source.{name}], \
             then tuma reload"
        )));
    }
    let answer = json!({ "source": name, "enabled": true, "changed": changed > 0 });
    Ok(Json(kept_or_not(answer, kept)))
}

/// Takes a source out of use, for a while or until it is enabled.
pub(super) async fn disable(
    State(server): Shared,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let map = object(&body, &["reason", "ends_in"])?;
    let length = match map.get("ends_in") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let wrong = || Refusal::bad("`ends_in` must be a text such as \"2h\" or \"3d\"");
            let length = value.as_str().and_then(settings::parse_duration).ok_or_else(wrong)?;
            if length.is_zero() || length.as_secs() > 3_660 * 86_400 {
                return Err(Refusal::unfit("`ends_in` must be more than nothing and at most ten years"));
            }
            Some(length)
        }
    };
    let reason = text(&map, "reason")?.unwrap_or_default();
    if reason.len() > delivery::orders::TEXT_MAX || reason.chars().any(char::is_control) {
        return Err(Refusal::bad("`reason` must be at most 500 octets without control characters"));
    }
    known(&server, &name).await?;
    let release = Release::Disable(name.clone(), length, reason.to_owned());
    let (changed, kept) = ask(&server, |reply| Order::Release(release, reply)).await?;
    let answer = json!({
        "source": name,
        "enabled": false,
        "changed": changed > 0,
        "enabled_in_seconds": seconds(length),
    });
    Ok(Json(kept_or_not(answer, kept)))
}
