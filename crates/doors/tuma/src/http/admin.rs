//! Keys, stored templates, and the log of changes.

use super::access::{Access, wall};
use super::extract::{Path, Query};
use super::messages::request::{PartsIn, read_json};
use super::refusal::{Refusal, object, text};
use super::{Http, Shared};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use mail::{Domain, UnixMillis};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use settings::Cidr;
use tenants::{Key, NewKey, Role, Store, StoreError};

/// Octets of a stored template at most.
pub(super) const TEMPLATE_MAX: usize = 8 * 1024 * 1024;
/// Lines of the log of changes in one answer at most.
const AUDIT_MAX: u32 = 1_000;

/// Asks the store from a thread that may wait.
pub(super) async fn stored<T: Send + 'static>(
    http: &Http,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Refusal> {
    let store = http.store.clone();
    let done = tokio::task::spawn_blocking(move || work(&store)).await;
    done.map_err(|_| Refusal::stopping())?.map_err(|error| match error {
        StoreError::TooMany(_) => Refusal::conflict(error.to_string()),
        _ => {
            tracing::error!(%error, "the store of keys and templates failed");
            Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the server could not read or write what it keeps; see its log",
            )
        }
    })
}

// ---- keys -------------------------------------------------------------------------------------------------

fn shown(key: &Key) -> Value {
    let new = &key.new;
    json!({
        "id": key.id,
        "name": new.name,
        "role": new.role.as_str(),
        "tenant": new.tenant,
        "networks": new.networks,
        "from_domains": new.from_domains,
        "requests_per_minute_max": new.requests_per_minute_max,
        "created_at_ms": key.created_at.0,
        "expires_at_ms": new.expires_at.map(|at| at.0),
        "revoked_at_ms": key.revoked_at.map(|at| at.0),
        "valid": key.is_valid(wall()),
    })
}

/// The keys, the newest first. What opens is not among it.
pub(super) async fn keys(State(server): Shared) -> Json<Value> {
    Json(server.http.store.keys().iter().map(|key| shown(key)).collect())
}

/// Makes a key. Its token is in this answer and nowhere else.
pub(super) async fn new_key(
    State(server): Shared,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let new = read_key(&server.http, &body)?;
    let (key, token) = stored(&server.http, move |store| store.new_key(new, wall())).await?;
    let mut value = shown(&key);
    value["token"] = json!(token.to_text());
    Ok((StatusCode::CREATED, Json(value)))
}

fn read_key(http: &Http, body: &[u8]) -> Result<NewKey, Refusal> {
    const KEYS: [&str; 8] = [
        "name",
        "role",
        "tenant",
        "networks",
        "from_domains",
        "requests_per_minute_max",
        "expires_in",
        "expires_at",
    ];
    let map = object(body, &KEYS)?;
    let tag = |name: &str| -> Result<Option<String>, Refusal> {
        let tag = text(&map, name)?.map(mail::tag).transpose();
        let tag = tag.map_err(|error| Refusal::bad(format!("`{name}`: {error}")).at(format!("/{name}")))?;
        Ok(tag.map(String::from))
    };
    let name = tag("name")?
        .ok_or_else(|| Refusal::bad("give the key a `name`, for lists and records").at("/name"))?;
    let roles = || Role::ALL.map(Role::as_str).into_iter();
    let word = text(&map, "role")?.unwrap_or("sender");
    let role: Role = word.parse().map_err(|()| Refusal::no_such("role", word, roles()).at("/role"))?;
    let tenant = tag("tenant")?;
    let tenants = http.tenants();
    if let Some(tenant) = &tenant
        && !tenants.is_empty()
        && !tenants.contains_key(tenant)
    {
        return Err(Refusal::no_such("tenant", tenant, tenants.keys().map(String::as_str)).at("/tenant"));
    }
    let networks = texts(&map, "networks")?;
    for (n, network) in networks.iter().enumerate() {
        if network.parse::<Cidr>().is_err() {
            let text = format!("`{network}` is no network such as 192.0.2.0/24");
            return Err(Refusal::bad(text).at(format!("/networks/{n}")));
        }
    }
    let mut from_domains = Vec::new();
    for (n, domain) in texts(&map, "from_domains")?.iter().enumerate() {
        let domain = Domain::parse(domain)
            .map_err(|error| Refusal::bad(format!("`{domain}`: {error}")).at(format!("/from_domains/{n}")))?;
        from_domains.push(domain.as_str().to_owned());
    }
    let requests_per_minute_max = match map.get("requests_per_minute_max") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let number =
                value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
            let wrong = || Refusal::bad("`requests_per_minute_max` is a number from 1");
            Some(number.ok_or_else(|| wrong().at("/requests_per_minute_max"))?)
        }
    };
    Ok(NewKey {
        name,
        role,
        tenant,
        networks,
        from_domains,
        requests_per_minute_max,
        expires_at: expiry(&map)?,
    })
}

pub(super) fn texts(map: &Map<String, Value>, name: &str) -> Result<Vec<String>, Refusal> {
    let wrong = || Refusal::bad(format!("`{name}` is a list of texts")).at(format!("/{name}"));
    match map.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) if list.len() <= 100 => {
            list.iter().map(|text| text.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

fn expiry(map: &Map<String, Value>) -> Result<Option<UnixMillis>, Refusal> {
    let now = wall();
    let at = match (text(map, "expires_in")?, text(map, "expires_at")?) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(Refusal::bad("`expires_in` and `expires_at` cannot both be set")),
        (Some(length), None) => settings::parse_duration(length)
            .and_then(|length| u64::try_from(length.as_millis()).ok())
            .map(|length| now.0.saturating_add(length)),
        (None, Some(at)) => super::time::rfc3339(at),
    };
    let wrong = || Refusal::bad("a key ends at a time to come, such as `\"expires_in\": \"90d\"`");
    at.filter(|at| *at > now.0).map(UnixMillis).map(Some).ok_or_else(wrong)
}

/// Takes a key back, at once.
pub(super) async fn revoke_key(
    State(server): Shared,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let wanted = id.clone();
    match stored(&server.http, move |store| store.revoke(&wanted, wall())).await? {
        Some(key) => Ok(Json(shown(&key))),
        None => {
            let keys = server.http.store.keys();
            Err(Refusal::no_such("key", &id, keys.iter().map(|key| key.id.as_str())))
        }
    }
}

// ---- templates --------------------------------------------------------------------------------------------

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OfTenant {
    tenant: Option<String>,
}

/// Whose templates are meant: a tenant's key knows its own only.
fn owner(access: &Access, query: OfTenant) -> Result<String, Refusal> {
    match (access.tenant(), query.tenant) {
        (Some(own), Some(named)) if own != named => {
            Err(Refusal::forbidden(format!("this key is limited to the tenant {own}")))
        }
        (Some(own), _) => Ok(own.to_owned()),
        (None, named) => Ok(named.unwrap_or_default()),
    }
}

fn template_name(name: &str) -> Result<(), Refusal> {
    let sound = (1..=100).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if sound {
        Ok(())
    } else {
        Err(Refusal::bad("a template's name has 1 to 100 letters, digits, `-`, `_` and `.`"))
    }
}

/// Names and times.
pub(super) async fn templates(
    State(server): Shared,
    Extension(access): Extension<Access>,
    Query(query): Query<OfTenant>,
) -> Result<Json<Value>, Refusal> {
    let owner = owner(&access, query)?;
    let list = stored(&server.http, move |store| store.templates(&owner)).await?;
    let shown = |(name, at): (String, UnixMillis)| json!({ "name": name, "updated_at_ms": at.0 });
    Ok(Json(list.into_iter().map(shown).collect()))
}

/// One of them, as it was stored.
pub(super) async fn template(
    State(server): Shared,
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    Query(query): Query<OfTenant>,
) -> Result<Json<Value>, Refusal> {
    let owner = owner(&access, query)?;
    let wanted = name.clone();
    match stored(&server.http, move |store| store.template(&owner, &wanted)).await? {
        Some(template) => {
            let content: Value = serde_json::from_str(&template.content).unwrap_or(Value::Null);
            Ok(Json(json!({ "name": name, "updated_at_ms": template.updated_at.0, "content": content })))
        }
        None => Err(no_template(&name)),
    }
}

fn no_template(name: &str) -> Refusal {
    Refusal::missing(format!("there is no template `{}`", message::one_line(name, 100)))
}

/// Stores one, in the place of one of that name.
pub(super) async fn put_template(
    State(server): Shared,
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    Query(query): Query<OfTenant>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let owner = owner(&access, query)?;
    if !access.role().may_send() {
        return Err(Refusal::forbidden("this needs a key that may send"));
    }
    template_name(&name)?;
    let parts: PartsIn = read_json(&body)?;
    parts.check_stored()?;
    let content = String::from_utf8(body.to_vec()).map_err(|_| Refusal::bad("the body is not UTF-8"))?;
    let (wanted, now) = (name.clone(), wall());
    stored(&server.http, move |store| store.put_template(&owner, &wanted, &content, now)).await?;
    Ok(Json(json!({ "name": name, "updated_at_ms": now.0 })))
}

/// Deletes one. Messages that were handed in keep what they were made of.
pub(super) async fn delete_template(
    State(server): Shared,
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    Query(query): Query<OfTenant>,
) -> Result<StatusCode, Refusal> {
    let owner = owner(&access, query)?;
    if !access.role().may_send() {
        return Err(Refusal::forbidden("this needs a key that may send"));
    }
    let wanted = name.clone();
    match stored(&server.http, move |store| store.delete_template(&owner, &wanted)).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(no_template(&name)),
    }
}

// ---- audit ------------------------------------------------------------------------------------------------

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    before: Option<i64>,
    max: Option<u32>,
}

/// What was changed, the newest first.
pub(super) async fn audit(
    State(server): Shared,
    Query(query): Query<AuditQuery>,
) -> Result<Json<Value>, Refusal> {
    let max = query.max.unwrap_or(100).clamp(1, AUDIT_MAX);
    let list = stored(&server.http, move |store| store.audited(query.before, max)).await?;
    let shown = list.iter().map(|entry| {
        json!({
            "number": entry.number,
            "time_ms": entry.at.0,
            "who": entry.who,
            "peer": entry.peer,
            "method": entry.method,
            "path": entry.path,
            "status": entry.status,
            "detail": entry.detail,
        })
    });
    Ok(Json(shown.collect()))
}
