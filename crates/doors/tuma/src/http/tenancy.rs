//! Tenants: those of the configuration, and beside them those that were made at run time. A name belongs to one of the
//! two; where both have it, the configuration does.

use super::access::{Access, wall};
use super::admin::{stored, texts};
use super::extract::Path;
use super::refusal::{Refusal, hint, object};
use super::{Http, Shared, TenantConfig};
use crate::server::Server;
use ::tenants::{Quota, Store, Tenant};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use mail::Domain;
use serde_json::{Map, Value, json};
use settings::Text;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a body may say of a tenant.
const KEYS: [&str; 5] =
    ["from_domains", "pools", "recipients_per_hour_max", "recipients_per_day_max", "suspended"];
/// Recipients a day at most that a limit may say: those of the configuration have the same bound.
const LIMIT_MAX: u64 = 10_000_000_000;

/// A tenant made at run time, as the configuration would say it. Where a text of it cannot be read, which a later
/// program may have written, it is as if suspended: to drop one limit would open more than was meant.
fn config_of(tenant: &Tenant) -> TenantConfig {
    let domains: Vec<Text<Domain>> =
        tenant.from_domains.iter().filter_map(|text| Domain::parse(text).ok().map(Text)).collect();
    let pools: Vec<Text<routing::TagText>> =
        tenant.pools.iter().filter_map(|text| text.parse().ok().map(Text)).collect();
    let whole = domains.len() == tenant.from_domains.len() && pools.len() == tenant.pools.len();
    TenantConfig {
        from_domains: domains,
        pools,
        recipients_per_hour_max: tenant.recipients_per_hour_max,
        recipients_per_day_max: tenant.recipients_per_day_max,
        suspended: tenant.suspended || !whole,
    }
}

/// All tenants in force.
pub(super) fn together(
    declared: &BTreeMap<String, TenantConfig>,
    store: &Store,
) -> BTreeMap<String, TenantConfig> {
    let mut all: BTreeMap<String, TenantConfig> =
        store.tenants().iter().map(|(name, tenant)| (name.clone(), config_of(tenant))).collect();
    all.extend(declared.iter().map(|(name, config)| (name.clone(), config.clone())));
    all
}

fn shown(http: &Http, name: &str, tenant: &TenantConfig) -> Value {
    let keys = http.store.keys();
    let now = wall();
    let valid = keys.iter().filter(|key| key.new.tenant.as_deref() == Some(name) && key.is_valid(now));
    let Quota { hour, day } = http.quotas.counted(name, now);
    json!({
        "tenant": name,
        "from_domains": tenant.from_domains.iter().map(|domain| domain.as_str()).collect::<Vec<_>>(),
        "pools": tenant.pools.iter().map(|pool| pool.as_str()).collect::<Vec<_>>(),
        "recipients_per_hour_max": tenant.recipients_per_hour_max,
        "recipients_per_day_max": tenant.recipients_per_day_max,
        "recipients_this_hour": hour.recipients,
        "recipients_this_day": day.recipients,
        "suspended": tenant.suspended,
        "declared": http.declares(name),
        "keys": valid.count(),
    })
}

/// All of them.
pub(super) async fn list(State(server): Shared) -> Json<Value> {
    let http = &server.http;
    Json(http.tenants().iter().map(|(name, tenant)| shown(http, name, tenant)).collect())
}

/// One of them. A tenant's key sees its own; another's looks as if there were none.
pub(super) async fn one(
    State(server): Shared,
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let tenants = server.http.tenants();
    let visible = access.tenant().is_none_or(|own| own == name);
    match tenants.get(&name).filter(|_| visible) {
        Some(tenant) => Ok(Json(shown(&server.http, &name, tenant))),
        None if access.tenant().is_some() => {
            Err(Refusal::missing("there is no such tenant, or it is not that of this key"))
        }
        None => Err(no_such(&tenants, &name)),
    }
}

fn no_such(tenants: &BTreeMap<String, TenantConfig>, name: &str) -> Refusal {
    Refusal::no_such("tenant", name, tenants.keys().map(String::as_str))
}

/// Makes a tenant. One that was made at run time before is changed to be so, and what is left out is as for a new one.
pub(super) async fn put(
    State(server): Shared,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let turn = server.http.tenants_turn.lock().await;
    let map = object(&body, &KEYS)?;
    let old = writable(&server.http, &name)?;
    let created_at = old.as_ref().map_or(wall(), |old| old.created_at);
    let new = merged(&server, Tenant { created_at, ..Tenant::default() }, &map)?;
    let status = if old.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    let answer = write(&server, name, new).await?;
    drop(turn);
    Ok((status, Json(answer)))
}

/// Changes what the body names of a tenant, and nothing else; `null` takes a limit away.
pub(super) async fn change(
    State(server): Shared,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let turn = server.http.tenants_turn.lock().await;
    let map = object(&body, &KEYS)?;
    let Some(old) = writable(&server.http, &name)? else {
        return Err(no_such(&server.http.tenants(), &name));
    };
    let new = merged(&server, Tenant::clone(&old), &map)?;
    let answer = write(&server, name, new).await?;
    drop(turn);
    Ok(Json(answer))
}

/// Removes a tenant, its keys and its templates. Mail that was taken stays on its way.
pub(super) async fn remove(State(server): Shared, Path(name): Path<String>) -> Result<Json<Value>, Refusal> {
    let http = &server.http;
    let turn = http.tenants_turn.lock().await;
    writable(http, &name)?;
    let wanted = name.clone();
    let removed = stored(http, move |store| store.remove_tenant(&wanted, wall())).await?;
    let Some(removed) = removed else { return Err(no_such(&http.tenants(), &name)) };
    http.quotas.forget(&name);
    http.tenants_changed();
    drop(turn);
    Ok(Json(json!({ "tenant": name, "keys_revoked": removed.keys, "templates_deleted": removed.templates })))
}

/// The tenant of that name that was made at run time; a refusal if it is the configuration's.
fn writable(http: &Http, name: &str) -> Result<Option<Arc<Tenant>>, Refusal> {
    let tag = mail::tag(name).map_err(|error| Refusal::bad(format!("a tenant's name: {error}")))?;
    if *tag != *name {
        return Err(Refusal::bad("a tenant's name neither begins nor ends with a blank"));
    }
    if http.declares(name) {
        let text = format!("the tenant {name} is declared in the configuration; change it there");
        return Err(Refusal::conflict(text));
    }
    Ok(http.store.tenants().get(name).cloned())
}

fn merged(server: &Server, mut tenant: Tenant, map: &Map<String, Value>) -> Result<Tenant, Refusal> {
    if map.contains_key("from_domains") {
        tenant.from_domains.clear();
        for (n, text) in texts(map, "from_domains")?.iter().enumerate() {
            let wrong = |error| Refusal::bad(format!("`{text}`: {error}")).at(format!("/from_domains/{n}"));
            tenant.from_domains.push(Domain::parse(text).map_err(wrong)?.as_str().to_owned());
        }
    }
    if map.contains_key("pools") {
        tenant.pools = texts(map, "pools")?;
        for (n, pool) in tenant.pools.iter().enumerate() {
            if !server.reception.has_pool(pool) {
                let settings = server.delivery.settings();
                let names: Vec<&str> = settings.sources.pool_names().map(|name| &**name).collect();
                let text = format!("there is no pool `{pool}`{}", hint(pool, names.into_iter()));
                return Err(Refusal::unfit(text).at(format!("/pools/{n}")));
            }
        }
    }
    for (name, limit) in [
        ("recipients_per_hour_max", &mut tenant.recipients_per_hour_max),
        ("recipients_per_day_max", &mut tenant.recipients_per_day_max),
    ] {
        match map.get(name) {
            None => {}
            Some(Value::Null) => *limit = None,
            Some(value) => {
                let number = value.as_u64().filter(|number| (1..=LIMIT_MAX).contains(number));
                let wrong = || Refusal::bad(format!("`{name}` is a number from 1 to {LIMIT_MAX}"));
                *limit = Some(number.ok_or_else(|| wrong().at(format!("/{name}")))?);
            }
        }
    }
    match map.get("suspended") {
        None => {}
        Some(Value::Bool(suspended)) => tenant.suspended = *suspended,
        Some(_) => return Err(Refusal::bad("`suspended` is true or false").at("/suspended")),
    }
    tenant.updated_at = wall();
    Ok(tenant)
}

async fn write(server: &Server, name: String, tenant: Tenant) -> Result<Value, Refusal> {
    let http = &server.http;
    let wanted = name.clone();
    let tenant = stored(http, move |store| store.put_tenant(&wanted, tenant)).await?;
    http.tenants_changed();
    Ok(shown(http, &name, &config_of(&tenant)))
}
