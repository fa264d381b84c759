//! KumoMTA's admin endpoints `bounce`, `suspend`, `suspend-ready-q` and `rebind`, for scripts that were written for them.
//! Each is an order of ours, which outlives a restart, and is seen and ended with `tuma order` as well.
//!
//! An id is the order's number in the form of a UUID. A scope that names nothing is everything, as there. Of what `rebind`
//! can change there, the pool can be changed here (`data.pool`); another campaign or queue is refused rather than ignored.

use crate::http::access::wall;
use crate::http::messages::request::read_json;
use crate::http::refusal::Refusal;
use crate::http::{Shared, ask};
use crate::server::Server;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use delivery::orders::{Action, Order as Given, OrderError, OrderId, Scope};
use delivery::{NewOrder, Order};
use mail::UnixMillis;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// How long an order lasts if nothing else is said, as there.
const LASTS: Duration = Duration::from_secs(300);
/// The longest it may last: ten years.
const LASTS_MAX: Duration = Duration::from_secs(3_653 * 86_400);

/// What `bounce` and `suspend` are asked.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KumoOrder")]
pub(in crate::http) struct Asked {
    campaign: Option<String>,
    tenant: Option<String>,
    domain: Option<String>,
    #[serde(default)]
    reason: String,
    /// Such as `20m`; left out, five minutes.
    duration: Option<String>,
    /// RFC 3339.
    expires: Option<String>,
    /// Taken without effect: every bounce has its record.
    #[allow(dead_code, reason = "it is always so")]
    suppress_logging: Option<bool>,
}

/// What `suspend-ready-q` is asked.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KumoReadySuspend")]
pub(in crate::http) struct ReadyAsked {
    /// A site, or `source->site`; what follows an `@` is left out.
    name: String,
    #[serde(default)]
    reason: String,
    duration: Option<String>,
    expires: Option<String>,
}

/// What `rebind` is asked.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KumoRebind")]
pub(in crate::http) struct Rebind {
    campaign: Option<String>,
    tenant: Option<String>,
    domain: Option<String>,
    #[serde(default)]
    reason: String,
    /// `{"pool": "…"}`: the pool that the mail goes by.
    data: Map<String, Value>,
    #[serde(default)]
    always_flush: bool,
    /// Taken without effect, as no script is asked.
    #[allow(dead_code, reason = "it is always so")]
    trigger_rebind_event: Option<bool>,
    #[allow(dead_code, reason = "it is always so")]
    suppress_logging: Option<bool>,
    duration: Option<String>,
    expires: Option<String>,
}

/// Which order is to end.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KumoCancel")]
pub(in crate::http) struct Cancel {
    id: String,
}

fn uuid(id: OrderId) -> String {
    let digits = format!("{:032x}", id.0);
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

fn of_uuid(text: &str) -> Option<OrderId> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some(OrderId(number.try_into().ok()?))
}

fn scope(campaign: Option<String>, tenant: Option<String>, domain: Option<String>) -> Scope {
    let boxed = |text: Option<String>| text.filter(|text| !text.is_empty()).map(String::into_boxed_str);
    let mut scope =
        Scope { campaign: boxed(campaign), tenant: boxed(tenant), domain: boxed(domain), ..Scope::default() };
    if scope.is_everything() {
        scope.domain = Some("*".into());
    }
    scope
}

fn ends_at(
    duration: Option<&str>,
    expires: Option<&str>,
    usual: Option<Duration>,
) -> Result<Option<UnixMillis>, Refusal> {
    let now = wall();
    if let Some(text) = expires {
        let at = crate::http::time::rfc3339(text).filter(|at| *at > now.0);
        let wrong =
            || Refusal::bad("`expires` is a time to come, such as 2026-12-24T18:00:00Z").at("/expires");
        return at.ok_or_else(wrong).map(|at| Some(UnixMillis(at)));
    }
    let length = match duration {
        None => usual,
        Some(text) => {
            // There with blanks between its parts.
            let length = settings::parse_duration(&text.replace(' ', ""));
            let fits = length.filter(|length| !length.is_zero() && *length <= LASTS_MAX);
            Some(fits.ok_or_else(|| {
                Refusal::bad("`duration` is a length such as `20m` or `2h`").at("/duration")
            })?)
        }
    };
    Ok(length.map(|length| {
        UnixMillis(now.0.saturating_add(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)))
    }))
}

async fn give(server: &Server, new: NewOrder) -> Result<(Given, u64), Refusal> {
    let preview = ask(server, |reply| Order::Preview(new.scope.clone(), reply)).await?;
    let given = server.delivery.give(new).await.ok_or_else(Refusal::stopping)?;
    let (order, _) = given.map_err(|error| match error {
        OrderError::TooMany => Refusal::conflict(error.to_string()),
        OrderError::UnknownPool(_) => Refusal::missing(error.to_string()),
        OrderError::NamesNothing | OrderError::AlreadyOver => Refusal::unfit(error.to_string()),
        OrderError::BadText(_) => Refusal::bad(error.to_string()),
    })?;
    Ok((order, preview.recipients))
}

/// `POST /api/admin/bounce/v1`.
pub(in crate::http) async fn bounce(State(server): Shared, body: Bytes) -> Result<Json<Value>, Refusal> {
    let asked: Asked = read_json(&body)?;
    let ends_at = ends_at(asked.duration.as_deref(), asked.expires.as_deref(), Some(LASTS))?;
    let scope = scope(asked.campaign, asked.tenant, asked.domain);
    let name = scope.to_string();
    let new = NewOrder { action: Action::Bounce, scope, reason: asked.reason, ends_at };
    let (order, recipients) = give(&server, new).await?;
    let mut bounced = Map::new();
    if recipients > 0 {
        bounced.insert(name, json!(recipients));
    }
    Ok(Json(json!({ "id": uuid(order.id), "bounced": bounced, "total_bounced": recipients })))
}

/// `POST /api/admin/suspend/v1`.
pub(in crate::http) async fn suspend(State(server): Shared, body: Bytes) -> Result<Json<Value>, Refusal> {
    let asked: Asked = read_json(&body)?;
    let ends_at = ends_at(asked.duration.as_deref(), asked.expires.as_deref(), Some(LASTS))?;
    let scope = scope(asked.campaign, asked.tenant, asked.domain);
    let new = NewOrder { action: Action::Suspend, scope, reason: asked.reason, ends_at };
    Ok(Json(json!({ "id": uuid(give(&server, new).await?.0.id) })))
}

/// `POST /api/admin/suspend-ready-q/v1`.
pub(in crate::http) async fn suspend_ready(
    State(server): Shared,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let asked: ReadyAsked = read_json(&body)?;
    let ends_at = ends_at(asked.duration.as_deref(), asked.expires.as_deref(), Some(LASTS))?;
    let name = asked.name.split('@').next().unwrap_or_default();
    let (source, site) = match name.split_once("->") {
        Some((source, site)) => (Some(source), site),
        None => (None, name),
    };
    if site.is_empty() {
        return Err(Refusal::bad("`name` is a site, or `source->site`").at("/name"));
    }
    let scope = Scope { site: Some(site.into()), source: source.map(Box::from), ..Scope::default() };
    let new = NewOrder { action: Action::Suspend, scope, reason: asked.reason, ends_at };
    Ok(Json(json!({ "id": uuid(give(&server, new).await?.0.id) })))
}

/// `POST /api/admin/rebind/v1`.
pub(in crate::http) async fn rebind(State(server): Shared, body: Bytes) -> Result<Json<Value>, Refusal> {
    let asked: Rebind = read_json(&body)?;
    let pool = asked.data.get("pool").or(asked.data.get("egress_pool")).and_then(Value::as_str);
    let (Some(pool), 1) = (pool, asked.data.len()) else {
        let text =
            "of what a message is filed under only its pool can be changed: `\"data\": {\"pool\": \"…\"}`";
        return Err(Refusal::unfit(text).at("/data"));
    };
    let place = asked.domain.clone();
    // Rebinding lasts there; so does it here unless it is given an end.
    let ends_at = ends_at(asked.duration.as_deref(), asked.expires.as_deref(), None)?;
    let scope = scope(asked.campaign, asked.tenant, asked.domain);
    let new = NewOrder { action: Action::Reroute(pool.into()), scope, reason: asked.reason, ends_at };
    give(&server, new).await?;
    if asked.always_flush {
        ask(&server, |reply| Order::Flush { place, reply }).await?;
    }
    Ok(Json(json!({})))
}

async fn list(server: &Server, fits: fn(&Given) -> bool, is_ready: bool) -> Result<Json<Value>, Refusal> {
    let (orders, now) = (ask(server, Order::ListOrders).await?, wall());
    let shown = |order: &Given| {
        let left = order.ends_at.map(|end| Duration::from_secs(end.0.saturating_sub(now.0).div_ceil(1_000)));
        let mut value = json!({ "id": uuid(order.id), "reason": order.reason, "duration": left.map(settings::show_duration) });
        if is_ready {
            let site = order.scope.site.as_deref().unwrap_or_default();
            value["name"] = match order.scope.source.as_deref() {
                Some(source) => json!(format!("{source}->{site}")),
                None => json!(site),
            };
        } else {
            value["campaign"] = json!(order.scope.campaign.as_deref());
            value["tenant"] = json!(order.scope.tenant.as_deref());
            value["domain"] = json!(order.scope.domain.as_deref().filter(|domain| *domain != "*"));
        }
        value
    };
    Ok(Json(orders.iter().filter(|order| fits(order)).map(shown).collect()))
}

fn is_bounce(order: &Given) -> bool {
    order.action == Action::Bounce
}

fn is_suspension(order: &Given) -> bool {
    order.action == Action::Suspend && order.scope.site.is_none()
}

fn is_ready_suspension(order: &Given) -> bool {
    order.action == Action::Suspend && order.scope.site.is_some()
}

/// `GET /api/admin/bounce/v1`.
pub(in crate::http) async fn bounces(State(server): Shared) -> Result<Json<Value>, Refusal> {
    list(&server, is_bounce, false).await
}

/// `GET /api/admin/suspend/v1`.
pub(in crate::http) async fn suspensions(State(server): Shared) -> Result<Json<Value>, Refusal> {
    list(&server, is_suspension, false).await
}

/// `GET /api/admin/suspend-ready-q/v1`.
pub(in crate::http) async fn ready_suspensions(State(server): Shared) -> Result<Json<Value>, Refusal> {
    list(&server, is_ready_suspension, true).await
}

async fn cancel(server: &Server, body: &[u8], fits: fn(&Given) -> bool) -> Result<Json<Value>, Refusal> {
    let asked: Cancel = read_json(body)?;
    let missing = || Refusal::missing("no such order is in force");
    let id = of_uuid(&asked.id).ok_or_else(missing)?;
    let orders = ask(server, Order::ListOrders).await?;
    orders.iter().find(|order| order.id == id && fits(order)).ok_or_else(missing)?;
    ask(server, |reply| Order::Cancel(id, reply)).await?.ok_or_else(missing)?;
    Ok(Json(json!({})))
}

/// `DELETE /api/admin/bounce/v1`.
pub(in crate::http) async fn cancel_bounce(
    State(server): Shared,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    cancel(&server, &body, is_bounce).await
}

/// `DELETE /api/admin/suspend/v1`.
pub(in crate::http) async fn cancel_suspend(
    State(server): Shared,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    cancel(&server, &body, is_suspension).await
}

/// `DELETE /api/admin/suspend-ready-q/v1`.
pub(in crate::http) async fn cancel_ready(
    State(server): Shared,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    cancel(&server, &body, is_ready_suspension).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_s_number_is_a_uuid_and_back() {
        for number in [1, 77, u32::MAX.into()] {
            let text = uuid(OrderId(number));
            assert_eq!((text.len(), of_uuid(&text)), (36, Some(OrderId(number))), "{text}");
        }
        for wrong in ["", "7", "zz", "ffffffff-ffff-ffff-ffff-ffffffffffff"] {
            assert_eq!(of_uuid(wrong), None, "{wrong}");
        }
    }
}
