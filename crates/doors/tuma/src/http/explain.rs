//! Why mail does not move: of a message, an address, a queue or a site; and for an address that nothing is queued
//! for, which way its mail would go and what would hold it.
//!
//! The gates are the dispatcher's own words. Here only what is asked about is found.

use super::extract::Query;
use super::queue::names;
use super::refusal::{Refusal, hint};
use super::{Shared, ask, event, foretell, seconds};
use crate::server::Server;
use axum::Json;
use axum::extract::State;
use delivery::orders::Scope;
use delivery::{Explained, Found, GateReport, Named, Order, Question, SearchLimits, Target};
use mail::{Host, Mailbox, Message, ReversePath, SpoolId, Tags};
use serde::Deserialize;
use serde_json::{Value, json};
use spool::Handle;
use std::sync::Arc;

/// Messages read for one question at most.
const READS_MAX: u64 = 100_000;
/// Entries explained in one answer at most.
const ANSWERS_MAX: usize = 20;
/// Entries of a queue or site looked at, to find one of each of its queues.
const ENTRIES_MAX: usize = 1_000;
/// Recipients listed of one entry at most.
const RECIPIENTS_MAX: usize = 20;
/// Octets of a question's text at most.
const TEXT_MAX: usize = 1_000;

/// What is asked. The tags are those of mail that is not there yet.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainQuery {
    about: String,
    tenant: Option<String>,
    campaign: Option<String>,
    pool: Option<String>,
    sender: Option<String>,
    job: Option<String>,
    listener: Option<String>,
}

/// Answers.
pub(super) async fn explain(
    State(server): Shared,
    Query(query): Query<ExplainQuery>,
) -> Result<Json<Value>, Refusal> {
    let about = query.about.trim().trim_start_matches('<').trim_end_matches('>');
    if about.is_empty() || about.len() > TEXT_MAX {
        return Err(Refusal::bad("write a message id, an address, or the name of a queue or site"));
    }
    // A queue's name may hold an `@`, and a short word may be an id: names of what is queued go first.
    if let Some(answer) = of_place(&server, about).await? {
        return Ok(Json(answer));
    }
    if let Ok(mailbox) = Mailbox::parse(about) {
        return of_address(&server, &query, &mailbox).await.map(Json);
    }
    if let Some(id) = SpoolId::parse(about)
        && let Some(answer) = of_message(&server, id).await?
    {
        return Ok(Json(answer));
    }
    if let Some(target) = target_called(&server, about) {
        return dry_run(&server, &query, about, target, None).await.map(Json);
    }
    let names = names(&server).await?;
    if names.iter().any(|name| name == about) {
        return Err(Refusal::missing(format!("nothing is queued for `{about}` at present")));
    }
    let near = settings::nearest(about, names.iter().map(String::as_str));
    let near = near.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
    Err(Refusal::missing(format!("there is no message, address, queue or site `{about}`{near}")))
}

/// A domain, an address literal, or a route by its name.
fn target_called(server: &Server, about: &str) -> Option<Target> {
    let settings = server.delivery.settings();
    if let Some(route) = about.strip_prefix("route:") {
        return settings.routes.get(route).map(|_| Target::Route(route.into()));
    }
    let host = Host::parse(about).ok()?;
    // A single word is more likely a misspelt id than a domain.
    if matches!(&host, Host::Domain(_)) && !about.contains('.') {
        return None;
    }
    Some(settings.routes.target(&host))
}

// ---- what is queued ---------------------------------------------------------------------------------------

/// A queue, a site or a target with mail: one entry of each of its queues, that of each queue which moves first.
async fn of_place(server: &Server, about: &str) -> Result<Option<Value>, Refusal> {
    let place = Some(about.to_owned());
    let entries = ask(server, |reply| Order::Entries { place, max: ENTRIES_MAX, reply }).await?;
    if entries.is_empty() {
        return Ok(None);
    }
    let cut = entries.len() >= ENTRIES_MAX;
    // What is under way tells nothing of what waits.
    let order = |entry: &delivery::EntryStatus| (entry.attempted, entry.due_in, entry.attempts);
    let mut first: Vec<delivery::EntryStatus> = Vec::new();
    for entry in entries {
        match first.iter_mut().find(|known| known.queue == entry.queue) {
            Some(known) if order(&entry) < order(known) => *known = entry,
            Some(_) => {}
            None => first.push(entry),
        }
    }
    let queues = first.len();
    let mut answers = Vec::new();
    for entry in first.into_iter().take(ANSWERS_MAX) {
        let Some(message) = server.delivery.read(Handle(entry.handle)).await else { continue };
        let found = Found {
            candidate: delivery::Candidate {
                key: delivery::EntryKey(0),
                handle: entry.handle,
                first: entry.first,
                count: entry.count,
                certain: true,
            },
            message: Arc::new(message),
        };
        answers.push(answer(server, &found).await?);
    }
    Ok(Some(json!({ "about": about, "kind": "queue", "queues": queues, "cut": cut, "answers": answers })))
}

/// A message: its entries in the queue, or what is remembered of it; `None` if nothing is.
async fn of_message(server: &Server, id: SpoolId) -> Result<Option<Value>, Refusal> {
    let events = server.recorder.events_of(id);
    let fits = |found: &Found| found.message.id == id;
    // What is remembered says where its recipients are, which is quicker than looking everywhere.
    let settings = server.delivery.settings();
    let mut targets: Vec<Target> = Vec::new();
    for recipient in events.iter().filter_map(|record| record.recipient()) {
        let target = settings.routes.target(recipient.path.host());
        if !targets.contains(&target) && targets.len() < ANSWERS_MAX {
            targets.push(target);
        }
    }
    let limits = SearchLimits { reads_max: READS_MAX, found_max: ANSWERS_MAX, enough: true };
    let mut named = Named::default();
    for target in &targets {
        let some = search(server, &of_target(target), limits, fits).await?;
        named.found.extend(some.found);
        named.read += some.read;
        named.cut |= some.cut;
    }
    if targets.is_empty() {
        named = search(server, &Scope::default(), limits, fits).await?;
    }
    if events.is_empty() && named.found.is_empty() {
        if named.cut {
            return Err(Refusal::missing(format!(
                "the message {id} was not among the first {} looked at; ask by its recipient",
                named.read
            )));
        }
        return Ok(None);
    }
    let mut answers = Vec::new();
    for found in named.found.iter().take(ANSWERS_MAX) {
        answers.push(answer(server, found).await?);
    }
    let events: Vec<Value> = events.iter().map(event).collect();
    Ok(Some(json!({
        "about": id.to_string(),
        "kind": "message",
        "read": named.read,
        "cut": named.cut,
        "answers": answers,
        "events": events,
    })))
}

/// An address: what is queued for it, or else a dry run.
async fn of_address(server: &Server, query: &ExplainQuery, mailbox: &Mailbox) -> Result<Value, Refusal> {
    let settings = server.delivery.settings();
    let target = settings.routes.target(mailbox.host());
    let address = mailbox.as_str();
    let is_it = |message: &Message, index: u32| {
        let recipient = message.envelope.recipients.get(index as usize);
        recipient.is_some_and(|recipient| recipient.path.as_str().eq_ignore_ascii_case(address))
    };
    let fits = |found: &Found| {
        let entry = &found.candidate;
        (entry.first..entry.first + entry.count).any(|index| is_it(&found.message, index))
    };
    let limits = SearchLimits { reads_max: READS_MAX, found_max: ANSWERS_MAX, enough: true };
    let named = search(server, &of_target(&target), limits, fits).await?;
    if named.found.is_empty() {
        let mut dry = dry_run(server, query, address, target, Some(mailbox)).await?;
        dry["read"] = json!(named.read);
        dry["cut"] = json!(named.cut);
        return Ok(dry);
    }
    let mut answers = Vec::new();
    for mut found in named.found {
        // Of an entry of many recipients this one is asked about.
        let entry = found.candidate;
        let mut indices = entry.first..entry.first + entry.count;
        if let Some(index) = indices.find(|index| is_it(&found.message, *index)) {
            (found.candidate.first, found.candidate.count) = (index, 1);
        }
        answers.push(answer(server, &found).await?);
    }
    Ok(json!({
        "about": address,
        "kind": "address",
        "read": named.read,
        "cut": named.cut,
        "answers": answers,
    }))
}

async fn search(
    server: &Server,
    scope: &Scope,
    limits: SearchLimits,
    fits: impl Fn(&Found) -> bool,
) -> Result<Named, Refusal> {
    server.delivery.search(scope, limits, fits).await.ok_or_else(Refusal::stopping)
}

fn of_target(target: &Target) -> Scope {
    Scope { domain: Some(target.to_string().into()), ..Scope::default() }
}

/// The answer for an entry.
async fn answer(server: &Server, found: &Found) -> Result<Value, Refusal> {
    let (entry, message) = (&found.candidate, &found.message);
    let recipients = &message.envelope.recipients;
    let run = || recipients.iter().skip(entry.first as usize).take(entry.count as usize);
    let host = run().next().map(|recipient| recipient.path.host().clone());
    // An entry has recipients.
    let host = host.ok_or_else(|| Refusal::missing("the message is gone"))?;
    let target = server.delivery.settings().routes.target(&host);
    let tags = &message.tags;
    let question = Question {
        entry: Some((entry.handle, entry.first)),
        tenant: tags.tenant.clone(),
        campaign: tags.campaign.clone(),
        pool: tags.pool.clone(),
        sender: Some(message.envelope.reverse_path.as_str().into()),
        job: tags.job.clone(),
        target: target.clone(),
        exchangers: Ok(Vec::new()),
        octets: message.size,
    };
    let told = ask(server, |reply| Order::Explain(question, reply)).await?;
    let mut value = explained(&told);
    if message.envelope.reverse_path != ReversePath::Null {
        let listed = run().map(|recipient| &recipient.path.0);
        after_orders(&mut value["gates"], super::suppressions::gate(server, tags.tenant.as_deref(), listed));
    }
    value["id"] = json!(message.id.to_string());
    value["sender"] = json!(message.envelope.reverse_path.as_str());
    value["recipients"] =
        run().take(RECIPIENTS_MAX).map(|recipient| recipient.path.as_str().to_owned()).collect();
    value["recipient_count"] = json!(entry.count);
    value["received_at_ms"] = json!(message.received_at.0);
    value["route"] = route(server, &target, None).await;
    Ok(value)
}

// ---- what is not there yet --------------------------------------------------------------------------------

async fn dry_run(
    server: &Server,
    query: &ExplainQuery,
    about: &str,
    target: Target,
    recipient: Option<&Mailbox>,
) -> Result<Value, Refusal> {
    let settings = server.delivery.settings();
    if let Some(pool) = &query.pool
        && settings.sources.egress.pool(pool).is_none()
    {
        let pools = settings.sources.pool_names().map(|name| &**name);
        let hint = hint(pool, pools.collect::<Vec<&str>>().into_iter());
        return Err(Refusal::missing(format!("there is no pool `{pool}`{hint}")));
    }
    let boxed = |text: &Option<String>| text.as_deref().map(Box::from);
    let mut tags = Tags {
        tenant: boxed(&query.tenant),
        campaign: boxed(&query.campaign),
        pool: boxed(&query.pool),
        job: boxed(&query.job),
        ..Tags::default()
    };
    if let Some(recipient) = recipient {
        let (listener, sender) = (query.listener.as_deref(), query.sender.as_deref());
        tags = server.with_root(|root| foretell::tags(root, listener, sender, recipient, tags))?;
    }
    let exchangers = server.delivery.exchangers(&target).await;
    let shown = route(server, &target, exchangers.as_deref().ok()).await;
    let filed = tags.clone();
    let question = Question {
        entry: None,
        tenant: tags.tenant,
        campaign: tags.campaign,
        pool: tags.pool,
        sender: boxed(&query.sender),
        job: tags.job,
        target,
        exchangers,
        octets: 0,
    };
    let listed =
        recipient.map(|to| super::suppressions::gate(server, question.tenant.as_deref(), [to].into_iter()));
    let told = ask(server, |reply| Order::Explain(question, reply)).await?;
    let mut value = explained(&told);
    if let Some(listed) = listed {
        after_orders(&mut value["gates"], listed);
    }
    value["route"] = shown;
    let source = told.sources.first().map_or("", |source| &**source);
    let pool = told.queue.rsplit('/').next().unwrap_or_default();
    value["dkim"] =
        foretell::signatures(&server.delivery, query.sender.as_deref(), filed, (source, pool)).into();
    Ok(json!({ "about": about, "kind": "dry run", "cut": false, "answers": [value] }))
}

/// Suppression is asked after the orders, and before all else.
fn after_orders(gates: &mut Value, gate: Value) {
    if let Some(gates) = gates.as_array_mut() {
        let orders = gates.iter().take_while(|gate| gate["gate"] == "order").count();
        gates.insert(orders, gate);
    }
}

/// Which way: the next hops of a route, or the exchangers, and how TLS is used.
async fn route(server: &Server, target: &Target, exchangers: Option<&[Arc<str>]>) -> Value {
    let settings = server.delivery.settings();
    let route = match target {
        Target::Route(name) => settings.routes.get(name),
        Target::Domain(_) | Target::Literal(_) => None,
    };
    let exchangers = exchangers.map(|hosts| hosts.iter().map(|host| &**host).collect::<Vec<&str>>());
    let hops = route.map(|route| route.next_hops.iter().map(ToString::to_string).collect::<Vec<String>>());
    let tls = match server.delivery.demand(target).await {
        Ok(demand) => json!({ "use": demand.word(), "by": demand.by, "detail": demand.detail() }),
        Err(reply) => json!({ "use": "unknown", "by": Value::Null, "detail": reply.to_string() }),
    };
    let clear: Vec<Value> = exchangers
        .iter()
        .flatten()
        .filter_map(|host| {
            let (why, left) = server.delivery.why_in_the_clear(host)?;
            Some(json!({ "exchanger": host, "why": why, "for_seconds": left.as_secs_f64() }))
        })
        .collect();
    json!({
        "target": target.to_string(),
        "next_hops": hops,
        "exchangers": exchangers.filter(|hosts: &Vec<&str>| !hosts.is_empty()),
        "tls": tls["use"],
        "tls_by": tls["by"],
        "tls_detail": tls["detail"],
        "in_the_clear": clear,
    })
}

// ---- printing ---------------------------------------------------------------------------------------------

fn explained(told: &Explained) -> Value {
    json!({
        "queue": told.queue,
        "site": told.site.as_deref(),
        "provider": told.provider.as_deref(),
        "sources": told.sources.iter().map(|source| &**source).collect::<Vec<&str>>(),
        "ready_in_queue": told.ahead.0,
        "ready_in_all": told.ahead.1,
        "in_attempt": told.attempted,
        "attempts": told.attempts,
        "moves_in_seconds": seconds(told.moves_in),
        "verdict": told.verdict,
        "gates": told.gates.iter().map(gate).collect::<Vec<Value>>(),
        "limits": told.limits,
    })
}

fn gate(gate: &GateReport) -> Value {
    json!({
        "gate": gate.gate,
        "source": gate.source.as_deref(),
        "holds": gate.holds,
        "text": gate.text,
        "held_for_seconds": seconds(gate.held_for),
        "held_until_seconds": seconds(gate.held_until),
        "setting": gate.setting,
        "change": gate.change,
    })
}
