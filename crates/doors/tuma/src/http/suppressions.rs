//! The suppression list: asked, changed, paged through.

use super::Shared;
use super::extract::Query;
use super::refusal::{Refusal, known_keys, object, text};
use crate::server::Server;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use mail::{Mailbox, UnixMillis};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::SystemTime;
use suppression::{Entry, Reason, Subject};

/// Octets of a body: a part of a list that is imported.
pub(super) const BODY_MAX: usize = 4 * 1024 * 1024;
/// Entries of one page at most.
const PAGE_MAX: usize = 10_000;
/// Recipients on the list that an explanation names.
const NAMED_MAX: usize = 10;
/// Octets of a note kept.
const NOTE_MAX: usize = 200;

const KEYS: [&str; 6] = ["address", "tenant", "reason", "note", "for", "until_ms"];

fn wall() -> UnixMillis {
    UnixMillis::from(SystemTime::now())
}

fn shown(entry: &Entry) -> Value {
    json!({
        "address": entry.subject.as_str(),
        "tenant": entry.tenant.as_deref(),
        "reason": entry.reason.word(),
        "note": &*entry.note,
        "since_ms": entry.since.0,
        "until_ms": entry.until.map(|until| until.0),
    })
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    address: Option<String>,
    tenant: Option<String>,
    cursor: Option<u64>,
    max: Option<usize>,
}

/// The entry by which an address is not written to; or a page of all entries.
pub(super) async fn ask(State(server): Shared, Query(asked): Query<Asked>) -> Result<Json<Value>, Refusal> {
    let list = server.suppression.clone();
    if let Some(address) = asked.address {
        let mailbox = Mailbox::parse(&address).map_err(|why| Refusal::bad(format!("`address`: {why}")))?;
        let tenant = asked.tenant;
        // A look-up may read the disk.
        let found = tokio::task::spawn_blocking(move || list.find(tenant.as_deref(), &mailbox, wall())).await;
        let found = found.map_err(|_| Refusal::stopping())?;
        return Ok(Json(json!({ "suppressed": found.is_some(), "entry": found.as_ref().map(shown) })));
    }
    let (cursor, max) = (asked.cursor.unwrap_or(0), asked.max.unwrap_or(1_000).clamp(1, PAGE_MAX));
    let page = tokio::task::spawn_blocking(move || list.page(cursor, max)).await;
    let page = page.map_err(|_| Refusal::stopping())?;
    let (entries, next) = page.map_err(|why| Refusal::conflict(why.to_string()))?;
    let of_tenant =
        |entry: &&Entry| asked.tenant.is_none() || entry.tenant.as_deref() == asked.tenant.as_deref();
    let entries: Vec<Value> = entries.iter().filter(of_tenant).map(shown).collect();
    Ok(Json(json!({ "entries": entries, "cursor": next })))
}

/// Figures.
pub(super) async fn stats(State(server): Shared) -> Json<Value> {
    let stats = server.suppression.stats();
    let reasons: Map<String, Value> =
        Reason::ALL.iter().zip(stats.by_reason).map(|(reason, n)| (reason.word().into(), n.into())).collect();
    Json(json!({
        "entries": stats.entries,
        "domains": stats.domains,
        "by_reason": reasons,
        "octets": stats.octets,
        "stale": stats.stale,
        "damaged": stats.damaged,
        "failed": stats.failed,
        "dropped": server.suppressor.dropped(),
    }))
}

fn tag(text: Option<&str>) -> Result<Option<Box<str>>, Refusal> {
    text.map(|text| mail::tag(text).map_err(|why| Refusal::bad(format!("`tenant`: {why}")))).transpose()
}

/// An entry of a body.
fn read(map: &Map<String, Value>, now: UnixMillis) -> Result<Entry, Refusal> {
    known_keys(map, "an entry", &KEYS)?;
    let address = text(map, "address")?.ok_or_else(|| Refusal::bad("an entry needs an `address`"))?;
    let subject =
        Subject::parse(address).map_err(|why| Refusal::bad(format!("`address` {address:?}: {why}")))?;
    let reason = match text(map, "reason")? {
        None => Reason::Manual,
        Some(word) => Reason::ALL.iter().copied().find(|reason| reason.word() == word).ok_or_else(|| {
            Refusal::no_such("reason", word, Reason::ALL.iter().map(|reason| reason.word()))
        })?,
    };
    let until = match (text(map, "for")?, map.get("until_ms").filter(|value| !value.is_null())) {
        (Some(_), Some(_)) => return Err(Refusal::bad("an entry has `for` or `until_ms`, not both")),
        (Some(span), None) => {
            let span = settings::parse_duration(span)
                .ok_or_else(|| Refusal::bad(format!("`for` is not a time such as 30d: {span:?}")))?;
            Some(UnixMillis(now.0.saturating_add(span.as_millis() as u64)))
        }
        (None, Some(at)) => {
            let at = at.as_u64().ok_or_else(|| Refusal::bad("`until_ms` must be Unix milliseconds"))?;
            Some(UnixMillis(at))
        }
        (None, None) => None,
    };
    let note = message::one_line(text(map, "note")?.unwrap_or(""), NOTE_MAX).into();
    Ok(Entry { tenant: tag(text(map, "tenant")?)?, subject, reason, note, since: now, until })
}

/// Puts entries on the list: one object, or one a line. The answer comes when they are on the disk. All or none: a body
/// with a mistake changes nothing.
pub(super) async fn add(State(server): Shared, body: Bytes) -> Result<Json<Value>, Refusal> {
    let now = wall();
    let mut entries = Vec::new();
    for (n, line) in body.split(|octet| *octet == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let value: Value = serde_json::from_slice(line)
            .map_err(|why| Refusal::bad(format!("line {} is no JSON: {why}", n + 1)))?;
        let Value::Object(map) = value else {
            return Err(Refusal::bad(format!("line {} is no object", n + 1)));
        };
        entries.push(read(&map, now).map_err(|refusal| refusal.in_line(n + 1))?);
    }
    if entries.is_empty() {
        return Err(Refusal::bad("the body has no entry, such as {\"address\": \"a@b.example\"}"));
    }
    let given = entries.len();
    match server.suppression.add(entries).await {
        Ok(new) => Ok(Json(json!({ "given": given, "new": new }))),
        Err(why) => Err(Refusal::unfit(why.to_string())),
    }
}

/// Takes addresses off a tenant's list, or that of all.
pub(super) async fn remove(State(server): Shared, body: Bytes) -> Result<Json<Value>, Refusal> {
    let map = object(&body, &["tenant", "addresses"])?;
    let tenant = tag(text(&map, "tenant")?)?;
    let addresses = map.get("addresses").and_then(Value::as_array);
    let addresses = addresses.ok_or_else(|| Refusal::bad("`addresses` must be a list of texts"))?;
    let read = |value: &Value| {
        let address = value.as_str().ok_or_else(|| Refusal::bad("`addresses` must be a list of texts"))?;
        Subject::parse(address).map_err(|why| Refusal::bad(format!("{address:?}: {why}")))
    };
    let subjects = addresses.iter().map(read).collect::<Result<Vec<Subject>, Refusal>>()?;
    match server.suppression.remove(tenant.as_deref(), subjects).await {
        Ok(removed) => Ok(Json(json!({ "removed": removed }))),
        Err(why) => Err(Refusal::unfit(why.to_string())),
    }
}

/// What the list says of recipients, as a gate that `tuma explain` shows with the others.
pub(super) fn gate<'a>(
    server: &Server,
    tenant: Option<&str>,
    recipients: impl Iterator<Item = &'a Mailbox>,
) -> Value {
    let now = wall();
    let on_it: Vec<(&Mailbox, Entry)> = recipients
        .filter_map(|recipient| Some((recipient, server.suppression.find(tenant, recipient, now)?)))
        .take(NAMED_MAX)
        .collect();
    let named = |(recipient, entry): &(&Mailbox, Entry)| {
        let whose =
            entry.tenant.as_deref().map_or("of all".to_owned(), |tenant| format!("of tenant {tenant}"));
        let by = if entry.subject.is_domain() { format!(" by {}", entry.subject) } else { String::new() };
        let note = if entry.note.is_empty() { String::new() } else { format!(", {}", entry.note) };
        format!(
            "{recipient} is on the list {whose}{by} ({}{note}); it is settled as suppressed",
            entry.reason.word()
        )
    };
    let change = on_it.first().map(|(_, entry)| {
        let tenant = entry.tenant.as_deref().map(|name| format!("--tenant {name} ")).unwrap_or_default();
        format!("tuma suppression remove {tenant}{}", entry.subject)
    });
    let text = if on_it.is_empty() {
        "no recipient is on a suppression list".to_owned()
    } else {
        on_it.iter().map(named).collect::<Vec<String>>().join("; ")
    };
    json!({
        "gate": "suppression",
        "source": null,
        "holds": !on_it.is_empty(),
        "text": text,
        "held_for_seconds": null,
        "held_until_seconds": null,
        "setting": null,
        "change": change,
    })
}
