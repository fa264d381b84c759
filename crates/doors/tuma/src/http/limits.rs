//! What is not as usual between sources and sites: backoff, suspensions, warm-up; listed and released.

use super::extract::Query;
use super::orders::kept_or_not;
use super::refusal::{Refusal, object, text};
use super::{Shared, ask, seconds};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use delivery::{LimitStatus, Order, Release};
use serde::Deserialize;
use serde_json::{Value, json};

/// Rows of one answer at most.
const LIMITS_MAX: usize = 10_000;

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsQuery {
    site: Option<String>,
    max: Option<usize>,
}

/// What is not as usual, of all sites or one.
pub(super) async fn list(
    State(server): Shared,
    Query(query): Query<LimitsQuery>,
) -> Result<Json<Value>, Refusal> {
    let limits = ask(&server, |reply| Order::Limits(LIMITS_MAX, reply)).await?;
    let max = query.max.unwrap_or(1_000).min(LIMITS_MAX);
    let fits = |limit: &&LimitStatus| query.site.is_none() || limit.site.as_deref() == query.site.as_deref();
    Ok(Json(limits.iter().filter(fits).take(max).map(shown).collect()))
}

fn shown(limit: &LimitStatus) -> Value {
    json!({
        "state": limit.state,
        "site": limit.site.as_deref(),
        "source": limit.source.as_deref(),
        "tenant": limit.tenant.as_deref(),
        "campaign": limit.campaign.as_deref(),
        "queue": limit.queue,
        "text": limit.text,
        "held_for_seconds": seconds(limit.held_for),
        "held_until_seconds": seconds(limit.held_until),
        "setting": limit.setting,
        "change": limit.change,
    })
}

/// Lets go on what rules have stopped.
pub(super) async fn release(State(server): Shared, body: Bytes) -> Result<Json<Value>, Refusal> {
    let map = object(&body, &["site", "tenant", "campaign", "queue"])?;
    let given = |key: &str| text(&map, key).map(|text| text.map(str::to_owned));
    let (site, tenant, campaign, queue) =
        (given("site")?, given("tenant")?, given("campaign")?, given("queue")?);
    let release = match (&site, tenant, campaign, queue) {
        (_, Some(tenant), None, None) => Release::Tenant(tenant, site.clone()),
        (_, None, Some(campaign), None) => Release::Campaign(campaign, site.clone()),
        (None, None, None, Some(queue)) => Release::Queue(queue),
        (Some(site), None, None, None) => Release::Site(site.clone()),
        (None, None, None, None) => {
            return Err(Refusal::bad("name what is to go on: `site`, `tenant`, `campaign` or `queue`"));
        }
        _ => {
            return Err(Refusal::bad(
                "name one of `tenant`, `campaign` and `queue`; `site` goes with the first two",
            ));
        }
    };
    let status = server.delivery.status().await.ok_or_else(Refusal::stopping)?;
    if let Some(site) = &site {
        let sites = || status.status.sites.iter().map(|known| known.site.as_str());
        if !sites().any(|known| known == site) {
            return Err(Refusal::no_such("site in memory called", site, sites()));
        }
    }
    if let Release::Queue(name) = &release {
        let queues = ask(&server, |reply| Order::Queues { max: LIMITS_MAX, reply }).await?;
        let names = || queues.iter().map(|queue| queue.queue.as_str());
        if !names().any(|known| known == name) {
            return Err(Refusal::no_such("queue", name, names()));
        }
    }
    let (released, kept) = ask(&server, |reply| Order::Release(release, reply)).await?;
    Ok(Json(kept_or_not(json!({ "released": released }), kept)))
}
