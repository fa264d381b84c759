//! Operator orders: listed, previewed, given, cancelled.

use super::extract::Path;
use super::refusal::{Refusal, hint, known_keys, object, text};
use super::time::rfc3339;
use super::{Shared, ask};
use crate::server::Server;
use crate::traffic;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use delivery::orders::{Action, Order as Ordered, OrderError, OrderId, Scope};
use delivery::{NewOrder, Order, SearchLimits, Target, order_to_json};
use mail::{Host, UnixMillis};
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime};

/// Messages read for one preview at most.
const READS_MAX: u64 = 200_000;

/// The longest an order may be given for, in advance: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

const ACTIONS: [&str; 5] = ["suspend", "hold", "bounce", "limit", "reroute"];
const KEYS: [&str; 7] = ["action", "rates", "to_pool", "scope", "reason", "ends_in", "ends_at"];

fn wall() -> UnixMillis {
    UnixMillis::from(SystemTime::now())
}

fn shown(order: &Ordered, now: UnixMillis) -> Value {
    let mut value = order_to_json(order);
    let left = order.ends_at.map(|end| end.0.saturating_sub(now.0).div_ceil(1_000));
    value["ends_in_seconds"] = json!(left);
    value["age_seconds"] = json!(now.0.saturating_sub(order.given_at.0) / 1_000);
    value["names"] = json!(order.scope.to_string());
    value
}

/// The orders in force, oldest first.
pub(super) async fn list(State(server): Shared) -> Result<Json<Value>, Refusal> {
    let orders = ask(&server, Order::ListOrders).await?;
    let now = wall();
    Ok(Json(orders.iter().map(|order| shown(order, now)).collect()))
}

/// What an order like this would touch now.
pub(super) async fn preview(State(server): Shared, body: Bytes) -> Result<Json<Value>, Refusal> {
    let new = read(&server, &body)?;
    Ok(Json(count(&server, &new.scope).await?))
}

/// Counts what a scope names. By sender or job only messages can tell, so they are read.
async fn count(server: &Server, scope: &Scope) -> Result<Value, Refusal> {
    let preview = ask(server, |reply| Order::Preview(scope.clone(), reply)).await?;
    if !scope.needs_message() {
        return Ok(json!({
            "queues": preview.queues,
            "recipients": preview.recipients,
            "uncertain": preview.depends,
            "read": 0,
            "cut": false,
        }));
    }
    let limits = SearchLimits { reads_max: READS_MAX, found_max: 0, enough: false };
    let named = server.delivery.search(scope, limits, |_| true).await.ok_or_else(Refusal::stopping)?;
    Ok(json!({
        "queues": preview.queues,
        "recipients": named.recipients,
        "uncertain": named.uncertain,
        "read": named.read,
        "cut": named.cut,
    }))
}

/// Takes an order. The answer comes when it is on the disk.
pub(super) async fn give(State(server): Shared, body: Bytes) -> Result<(StatusCode, Json<Value>), Refusal> {
    let new = read(&server, &body)?;
    let preview = ask(&server, |reply| Order::Preview(new.scope.clone(), reply)).await?;
    let given = server.delivery.give(new).await.ok_or_else(Refusal::stopping)?;
    let (order, kept) = given.map_err(|error| match error {
        OrderError::TooMany => Refusal::conflict(error.to_string()),
        OrderError::UnknownPool(_) => Refusal::missing(error.to_string()),
        OrderError::NamesNothing | OrderError::AlreadyOver => Refusal::unfit(error.to_string()),
        OrderError::BadText(_) => Refusal::bad(error.to_string()),
    })?;
    let mut value = shown(&order, wall());
    value["queues"] = json!(preview.queues);
    value["recipients"] = json!(preview.recipients);
    value["uncertain"] = json!(preview.depends);
    Ok((StatusCode::CREATED, Json(kept_or_not(value, kept))))
}

/// Ends an order.
pub(super) async fn cancel(State(server): Shared, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    let wrong = || Refusal::bad(format!("`{id}` is no order: orders have numbers, see `tuma order ls`"));
    let number = id.parse().map_err(|_| wrong())?;
    match ask(&server, |reply| Order::Cancel(OrderId(number), reply)).await? {
        Some((order, kept)) => Ok(Json(kept_or_not(shown(&order, wall()), kept))),
        None => {
            let orders = ask(&server, Order::ListOrders).await?;
            let ids: Vec<String> = orders.iter().map(|order| order.id.to_string()).collect();
            let said = match ids.is_empty() {
                true => "; none is in force".to_owned(),
                false => hint("", ids.iter().map(String::as_str)),
            };
            Err(Refusal::missing(format!("there is no order {number}{said}")))
        }
    }
}

/// An answer, and a warning in it if what it says would not outlive a restart.
pub(super) fn kept_or_not(mut value: Value, kept: bool) -> Value {
    value["kept"] = json!(kept);
    if !kept {
        value["warning"] = json!(
            "this is in force, but could not be written down and would not outlive a restart; see the log"
        );
    }
    value
}

// ---- reading ----------------------------------------------------------------------------------------------

fn read(server: &Server, body: &[u8]) -> Result<NewOrder, Refusal> {
    let map = object(body, &KEYS)?;
    let action = action(&map)?;
    let scope = scope(&map)?;
    if scope.is_everything() {
        return Err(Refusal::unfit(OrderError::NamesNothing.to_string()));
    }
    check_names(server, &action, &scope)?;
    let reason = text(&map, "reason")?.unwrap_or_default().to_owned();
    Ok(NewOrder { action, scope, reason, ends_at: ends_at(&map, wall())? })
}

fn action(map: &Map<String, Value>) -> Result<Action, Refusal> {
    let listed = || ACTIONS.join(", ");
    let word = text(map, "action")?
        .ok_or_else(|| Refusal::bad(format!("`action` is missing: one of {}", listed())))?;
    if word != "limit" && map.get("rates").is_some_and(|rates| !rates.is_null()) {
        return Err(Refusal::bad("`rates` go with the action `limit` only"));
    }
    if word != "reroute" && text(map, "to_pool")?.is_some() {
        return Err(Refusal::bad("`to_pool` goes with the action `reroute` only"));
    }
    Ok(match word {
        "suspend" => Action::Suspend,
        "hold" => Action::Hold,
        "bounce" => Action::Bounce,
        "limit" => {
            let wrong = || Refusal::bad("a limit needs `rates`, such as [\"100/h\"]");
            let list = map.get("rates").and_then(Value::as_array).ok_or_else(wrong)?;
            let rates: Option<Vec<Box<str>>> = list.iter().map(|rate| rate.as_str().map(Box::from)).collect();
            let rates = rates.filter(|rates| !rates.is_empty()).ok_or_else(wrong)?;
            traffic::rates(&rates).map_err(Refusal::unfit)?;
            Action::Limit(rates)
        }
        "reroute" => {
            let pool = text(map, "to_pool")?;
            Action::Reroute(pool.ok_or_else(|| Refusal::bad("a reroute needs `to_pool`"))?.into())
        }
        other => {
            let hint = hint(other, ACTIONS.into_iter());
            return Err(Refusal::bad(format!("there is no action `{other}`{hint}")));
        }
    })
}

fn scope(map: &Map<String, Value>) -> Result<Scope, Refusal> {
    let scope = match map.get("scope") {
        None | Some(Value::Null) => return Ok(Scope::default()),
        Some(Value::Object(scope)) => scope,
        Some(_) => {
            return Err(Refusal::bad("`scope` must be an object, such as {\"domain\": \"a.example\"}"));
        }
    };
    let names = Scope::default().conditions().map(|(name, _)| name);
    known_keys(scope, "`scope`", &names)?;
    for (name, value) in scope {
        if !value.is_string() {
            return Err(Refusal::bad(format!("`scope.{name}` must be a text")));
        }
    }
    delivery::scope_of(&Value::Object(scope.clone()))
        .ok_or_else(|| Refusal::bad("`scope` must be an object of texts"))
}

/// A name that is not configured would name no mail, silently.
fn check_names(server: &Server, action: &Action, scope: &Scope) -> Result<(), Refusal> {
    let settings = server.delivery.settings();
    let egress = &settings.sources.egress;
    let pools = || egress.pools.iter().map(|pool| &*pool.name);
    let sources = || egress.sources.iter().map(|source| &*source.name);
    let pattern = |name: &str| name.contains('*');
    if let Action::Reroute(pool) = action
        && egress.pool(pool).is_none()
    {
        return Err(Refusal::no_such("pool", pool, pools()));
    }
    if let Some(pool) = &scope.pool
        && !pattern(pool)
        && !pools().any(|known| known.eq_ignore_ascii_case(pool))
    {
        return Err(Refusal::no_such("pool", pool, pools()));
    }
    if let Some(source) = &scope.source
        && !pattern(source)
        && !sources().any(|known| known.eq_ignore_ascii_case(source))
    {
        return Err(Refusal::no_such("source", source, sources()));
    }
    let Some(domain) = scope.domain.as_deref() else { return Ok(()) };
    if let Some(route) = domain.strip_prefix("route:") {
        if settings.routes.get(route).is_none() && !pattern(route) {
            return Err(Refusal::missing(format!("there is no route `{route}` in the configuration")));
        }
        return Ok(());
    }
    // Mail that goes by a route waits for the route, whatever its domain is.
    if !pattern(domain)
        && let Ok(host) = Host::parse(domain)
        && let Target::Route(route) = settings.routes.target(&host)
    {
        return Err(Refusal::unfit(format!(
            "mail for {domain} goes by the route `{route}` together with all other mail of that route: \
             name the domain `route:{route}`, or the sender, tenant or job"
        )));
    }
    Ok(())
}

fn ends_at(map: &Map<String, Value>, now: UnixMillis) -> Result<Option<UnixMillis>, Refusal> {
    let given = |key: &str| map.get(key).filter(|value| !value.is_null());
    match (given("ends_in"), given("ends_at")) {
        (Some(_), Some(_)) => Err(Refusal::bad("`ends_in` and `ends_at` cannot both be set")),
        (None, None) => Ok(None),
        (Some(length), None) => {
            let wrong = || Refusal::bad("`ends_in` must be seconds, or a text such as \"2h\" or \"3d\"");
            let length = match length {
                Value::Number(number) => {
                    let seconds = number.as_f64().filter(|n| *n > 0.0).ok_or_else(wrong)?;
                    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?
                }
                Value::String(text) => settings::parse_duration(text).ok_or_else(wrong)?,
                _ => return Err(wrong()),
            };
            if length > LONGEST {
                return Err(Refusal::unfit(
                    "an order may be given for ten years at most; without an end it stays",
                ));
            }
            let length = u64::try_from(length.as_millis()).map_err(|_| wrong())?;
            Ok(Some(UnixMillis(now.0.saturating_add(length))))
        }
        (None, Some(end)) => {
            let wrong = || {
                Refusal::bad(
                    "`ends_at` must be milliseconds since 1970, or a text such as \"2026-12-24T18:00Z\" (UTC)",
                )
            };
            let end = match end {
                Value::Number(number) => number.as_u64().ok_or_else(wrong)?,
                Value::String(text) => rfc3339(text).ok_or_else(wrong)?,
                _ => return Err(wrong()),
            };
            if end <= now.0 {
                return Err(Refusal::unfit(OrderError::AlreadyOver.to_string()));
            }
            Ok(Some(UnixMillis(end)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_utc() {
        for (text, expected) in [
            ("1970-01-01", Some(0)),
            ("1970-01-02T00:00Z", Some(86_400)),
            ("2000-02-29 12:00", Some(951_825_600)),
            ("2026-12-24T18:00:30Z", Some(1_798_135_230)),
            ("2100-03-01T00:00Z", Some(4_107_542_400)),
            ("2100-02-29T00:00Z", None),
            ("2026-13-01", None),
            ("2026-00-01", None),
            ("2026-12-24T24:00", None),
            ("2026-12-24T18", None),
            ("+2026-12-24", None),
            ("1969-12-31", None),
            ("tomorrow", None),
        ] {
            assert_eq!(rfc3339(text), expected.map(|seconds: u64| seconds * 1_000), "{text}");
        }
    }

    #[test]
    fn an_end_is_read_from_seconds_lengths_and_times() {
        let read = |text: &str| {
            let map = object(text.as_bytes(), &KEYS).unwrap();
            ends_at(&map, UnixMillis(1_000))
                .map(|end| end.map(|end| end.0))
                .map_err(|refusal| format!("{refusal:?}"))
        };
        assert_eq!(read("{}"), Ok(None));
        assert_eq!(read(r#"{"ends_in": 2.5}"#), Ok(Some(3_500)));
        assert_eq!(read(r#"{"ends_in": "2h"}"#), Ok(Some(7_201_000)));
        assert_eq!(read(r#"{"ends_at": 2000}"#), Ok(Some(2_000)));
        assert_eq!(read(r#"{"ends_at": "1970-01-02"}"#), Ok(Some(86_400_000)));
        for wrong in [
            r#"{"ends_in": 0}"#,
            r#"{"ends_in": -1}"#,
            r#"{"ends_in": 1e300}"#,
            r#"{"ends_in": "1000000d"}"#,
            r#"{"ends_in": "soon"}"#,
            r#"{"ends_at": 1000}"#,
            r#"{"ends_at": "1970-01-01"}"#,
            r#"{"ends_in": 1, "ends_at": 2000}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_the_nearest_name() {
        let wrong = |text: &str| {
            let map = match object(text.as_bytes(), &KEYS) {
                Err(refusal) => return format!("{refusal:?}"),
                Ok(map) => map,
            };
            let refused = action(&map).map(|_| ()).and_then(|()| scope(&map).map(|_| ()));
            refused.map_or_else(|refusal| format!("{refusal:?}"), |()| "taken".into())
        };
        for (text, said) in [
            ("[1]", "must be a JSON object"),
            ("{", "no JSON"),
            (r#"{"scop": {}}"#, "did you mean `scope`?"),
            (r#"{"scope": {}}"#, "`action` is missing"),
            (r#"{"action": "suspnd"}"#, "did you mean `suspend`?"),
            (r#"{"action": 7}"#, "must be a text"),
            (r#"{"action": "hold", "rates": ["1/s"]}"#, "`limit` only"),
            (r#"{"action": "hold", "to_pool": "a"}"#, "`reroute` only"),
            (r#"{"action": "limit"}"#, "needs `rates`"),
            (r#"{"action": "limit", "rates": []}"#, "needs `rates`"),
            (r#"{"action": "limit", "rates": ["fast"]}"#, "422"),
            (r#"{"action": "reroute"}"#, "needs `to_pool`"),
            (r#"{"action": "hold", "scope": {"tennant": "a"}}"#, "did you mean `tenant`?"),
            (r#"{"action": "hold", "scope": {"tenant": 1}}"#, "must be a text"),
            (r#"{"action": "hold", "scope": "a"}"#, "must be an object"),
            (r#"{"action": "hold", "scope": {"tenant": "a"}}"#, "taken"),
        ] {
            assert!(wrong(text).contains(said), "{text}: {}", wrong(text));
        }
    }
}
