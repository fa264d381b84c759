//! `GET /v1/events`: what happens to recipients, from a place one remembers, or as it happens.
//!
//! The place is a cursor, which every answer gives. What is remembered is bounded (`accounting.recent_max`); one who
//! comes back too late is told that he missed some. A cursor of an earlier run of the server counts as too late.

use super::Shared;
use super::access::Access;
use super::extract::Query;
use super::messages::sees;
use super::refusal::{Refusal, hint};
use crate::server::Server;
use accounting::{Kind, Record};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events of one answer at most.
const EVENTS_MAX: usize = 1_000;
/// Records looked through for one answer at most: of a tenant there may be few among many.
const LOOKED_MAX: usize = 100_000;
/// How often a live reader is given what is new.
const LIVE_EVERY: Duration = Duration::from_millis(250);
/// After how long of nothing a live reader is sent a comment, so that proxies keep the connection.
const QUIET_MAX: Duration = Duration::from_secs(15);
/// Pieces that wait for a live reader who is slow; then the connection ends, and he comes back by his cursor.
const WAITING_MAX: usize = 64;

#[derive(Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    after: Option<String>,
    max: Option<usize>,
    kind: Option<String>,
    tenant: Option<String>,
    campaign: Option<String>,
}

/// What somebody wants to hear of.
struct Filter {
    access: Access,
    kind: Option<Kind>,
    tenant: Option<String>,
    campaign: Option<String>,
}

impl Filter {
    fn fits(&self, record: &Record) -> bool {
        let tags = record.message().map(|message| &message.tags);
        let is = |wanted: &Option<String>, tag: fn(&mail::Tags) -> Option<&str>| {
            wanted.is_none() || tags.and_then(tag) == wanted.as_deref()
        };
        sees(&self.access, record)
            && self.kind.is_none_or(|kind| kind == record.kind)
            && is(&self.tenant, |tags| tags.tenant.as_deref())
            && is(&self.campaign, |tags| tags.campaign.as_deref())
    }
}

/// One page: events, the cursor behind them, and whether some were missed.
struct Page {
    events: Vec<(u64, Value)>,
    next: u64,
    missed: bool,
}

fn page(server: &Server, filter: &Filter, from: u64, max: usize) -> Page {
    let (mut next, mut looked) = (from, 0);
    let mut page = Page { events: Vec::new(), next, missed: false };
    while page.events.len() < max && looked < LOOKED_MAX {
        let (first, records) = server.recorder.after(next, EVENTS_MAX);
        page.missed |= first > next;
        next = first;
        if records.is_empty() {
            break;
        }
        looked += records.len();
        for record in &records {
            next += 1;
            if filter.fits(record) {
                page.events.push((next, shown(record)));
                if page.events.len() == max {
                    break;
                }
            }
        }
    }
    page.next = next;
    page
}

fn shown(record: &Record) -> Value {
    let mut value = super::event(record);
    let message = record.message();
    let tags = message.map(|message| &message.tags);
    value["message"] = json!(message.map(|message| message.id.to_string()));
    value["tenant"] = json!(tags.and_then(|tags| tags.tenant.as_deref()));
    value["campaign"] = json!(tags.and_then(|tags| tags.campaign.as_deref()));
    let metadata = message.and_then(|message| message.extras.as_ref()?.metadata.as_deref());
    if let Some(metadata) = metadata.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        value["metadata"] = metadata;
    }
    value
}

/// A cursor names the run of the server and a place in it.
fn cursor(run: u64, place: u64) -> String {
    format!("{run:x}-{place}")
}

/// The place of a cursor; 0, with `true` for missed, of another run's.
fn read_cursor(run: u64, text: &str) -> Result<(u64, bool), Refusal> {
    let wrong = || Refusal::bad("this is no cursor: take the one that an answer gave").at("/after");
    let (of, place) = text.split_once('-').ok_or_else(wrong)?;
    let of = u64::from_str_radix(of, 16).map_err(|_| wrong())?;
    let place = place.parse().map_err(|_| wrong())?;
    Ok(if of == run { (place, false) } else { (0, true) })
}

/// Answers.
pub(super) async fn events(
    State(server): Shared,
    Extension(access): Extension<Access>,
    headers: HeaderMap,
    Query(query): Query<EventsQuery>,
) -> Result<Response, Refusal> {
    let kind = query.kind.as_deref().map(|word| {
        Kind::parse(word).ok_or_else(|| {
            let kinds = Kind::ALL.iter().map(|kind| kind.as_str());
            Refusal::bad(format!(
                "there are no events `{}`{}",
                message::one_line(word, 40),
                hint(word, kinds)
            ))
        })
    });
    let filter = Filter { access, kind: kind.transpose()?, tenant: query.tenant, campaign: query.campaign };
    let run = server.http.run;
    let live = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("text/event-stream"));
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (from, restarted) = match last.filter(|_| live).or(query.after) {
        Some(text) => read_cursor(run, &text)?,
        None if live => (server.recorder.place(), false),
        None => (0, false),
    };
    if live {
        return Ok(stream(server, filter, from, restarted));
    }
    let max = query.max.unwrap_or(100).clamp(1, EVENTS_MAX);
    let page = page(&server, &filter, from, max);
    let events: Vec<Value> = page.events.into_iter().map(|(_, event)| event).collect();
    Ok(Json(json!({
        "events": events,
        "next": cursor(run, page.next),
        "missed": restarted || (page.missed && from > 0),
    }))
    .into_response())
}

/// Server-sent events (WHATWG HTML §9.2): each with its cursor as id, so that a browser comes back by itself.
fn stream(server: Arc<Server>, filter: Filter, from: u64, restarted: bool) -> Response {
    let (out, pieces) = mpsc::channel::<Bytes>(WAITING_MAX);
    let run = server.http.run;
    tokio::spawn(async move {
        let mut place = from;
        let mut missed = restarted;
        let mut quiet = Duration::ZERO;
        loop {
            let found = page(&server, &filter, place, EVENTS_MAX);
            missed |= found.missed && place > 0;
            let mut text = String::new();
            if std::mem::take(&mut missed) {
                text += "event: missed\ndata: {}\n\n";
            }
            for (at, event) in &found.events {
                let kind = event["kind"].as_str().unwrap_or("event");
                text += &format!("id: {}\nevent: {kind}\ndata: {event}\n\n", cursor(run, *at));
            }
            place = found.next;
            if text.is_empty() && quiet >= QUIET_MAX {
                text += ": still here\n\n";
            }
            if text.is_empty() {
                quiet += LIVE_EVERY;
                if out.is_closed() {
                    return;
                }
            } else {
                quiet = Duration::ZERO;
                // One who does not read is let go.
                if out.try_send(text.into()).is_err() {
                    return;
                }
            }
            tokio::time::sleep(LIVE_EVERY).await;
        }
    });
    let mut response = Response::new(Body::new(Pieces(pieces)));
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A body whose pieces come as they are made.
pub(super) struct Pieces(pub(super) mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
