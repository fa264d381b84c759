//! `GET /v1/stats`: how many records of each kind there were, by minute, hour or day.

use super::Shared;
use super::access::Access;
use super::extract::Query;
use super::refusal::{Refusal, hint};
use accounting::Kind;
use axum::extract::State;
use axum::{Extension, Json};
use mail::UnixMillis;
use outcomes::{By, Span, StatsQuery, StatsRow};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::SystemTime;

/// Rows of one answer at most.
const ROWS_MAX: usize = 10_000;
/// How many spans back an answer begins unless it is asked otherwise.
const SPANS: u64 = 60;

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// `minute`, `hour` or `day`; left out, `hour`.
    span: Option<String>,
    /// How far back, such as `24h`; left out, 60 spans.
    since: Option<String>,
    /// From here on, in Unix milliseconds; in place of `since`.
    from_ms: Option<u64>,
    /// Up to here; left out, now.
    to_ms: Option<u64>,
    /// Labels that are told apart, with commas between: `tenant`, `campaign`, `job`, `pool`, `source`, `provider`, `class`.
    by: Option<String>,
    /// True for one row of all the time, in place of one for each span.
    total: Option<bool>,
    /// Rows at most; left out, 1,000.
    max: Option<usize>,
    tenant: Option<String>,
    campaign: Option<String>,
    job: Option<String>,
    pool: Option<String>,
    source: Option<String>,
    provider: Option<String>,
    class: Option<String>,
}

/// A word of a list, or which it may be.
fn word<T: Copy>(what: &str, given: &str, all: &[T], text: fn(T) -> &'static str) -> Result<T, Refusal> {
    let found = all.iter().copied().find(|one| text(*one) == given);
    found.ok_or_else(|| {
        let words = all.iter().map(|one| text(*one));
        Refusal::bad(format!("there is no {what} `{}`{}", message::one_line(given, 40), hint(given, words)))
    })
}

impl Asked {
    fn read(self, now: UnixMillis, access: &Access) -> Result<StatsQuery, Refusal> {
        let span = self
            .span
            .as_deref()
            .map_or(Ok(Span::Hour), |given| word("span", given, Span::ALL, Span::word))?;
        let back = match (&self.since, self.from_ms) {
            (Some(_), Some(_)) => return Err(Refusal::bad("write `since` or `from_ms`, not both")),
            (Some(since), None) => settings::parse_duration(since)
                .ok_or_else(|| Refusal::bad("`since` is not a time such as 24h"))?
                .as_secs(),
            (None, _) => SPANS * span.seconds(),
        };
        let now = now.0 / 1_000;
        let from = self.from_ms.map_or_else(|| now.saturating_sub(back), |from| from / 1_000);
        let to = self.to_ms.map_or(now + 1, |to| to / 1_000);
        let named =
            self.by.as_deref().unwrap_or("").split(',').map(str::trim).filter(|name| !name.is_empty());
        let mut by = Vec::new();
        for name in named {
            let label = word("label", name, By::ALL, By::word)?;
            if !by.contains(&label) {
                by.push(label);
            }
        }
        // A tenant's key sees that tenant's alone, whatever it asks for.
        let tenant = access.tenant().map(str::to_owned).or(self.tenant);
        let given = [tenant, self.campaign, self.job, self.pool, self.source, self.provider, self.class];
        let only = By::ALL.iter().copied().zip(given).filter_map(|(by, label)| Some((by, label?))).collect();
        Ok(StatsQuery {
            span,
            from: span.start_of(UnixMillis(from.saturating_mul(1_000))),
            to,
            by,
            only,
            total: self.total.unwrap_or(false),
            max: self.max.unwrap_or(1_000).clamp(1, ROWS_MAX),
        })
    }
}

fn shown(row: &StatsRow, by: &[By]) -> Value {
    let mut map = Map::new();
    map.insert("start_ms".into(), (row.start * 1_000).into());
    for (by, label) in by.iter().zip(&row.labels) {
        map.insert(by.word().into(), label.as_str().into());
    }
    for &kind in Kind::ALL {
        map.insert(kind.as_str().into(), row.count(kind).into());
    }
    map.insert("octets".into(), row.octets().into());
    map.insert("latency_ms".into(), row.latency_ms().into());
    Value::Object(map)
}

/// Counters over time.
pub(super) async fn stats(
    State(server): Shared,
    Extension(access): Extension<Access>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Refusal> {
    let query = asked.read(UnixMillis::from(SystemTime::now()), &access)?;
    let Some(rollups) = server.rollups.clone() else {
        return Err(Refusal::conflict(
            "nobody counts over time: write `enabled = true` in [stats], and restart",
        ));
    };
    let (span, from, to, by) = (query.span, query.from, query.to, query.by.clone());
    let answer = tokio::task::spawn_blocking(move || rollups.ask(&query)).await;
    let answer = answer.map_err(|_| Refusal::stopping())?.map_err(|why| Refusal::later(why.to_string()))?;
    let rows: Vec<Value> = answer.rows.iter().map(|row| shown(row, &by)).collect();
    Ok(Json(json!({
        "span": span.word(),
        "from_ms": from.saturating_mul(1_000),
        "to_ms": to.saturating_mul(1_000),
        "by": by.iter().map(|by| by.word()).collect::<Vec<_>>(),
        "rows": rows,
        "complete": answer.complete,
    })))
}
