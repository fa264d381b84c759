//! PowerMTA's `GET /status`, as monitoring scripts read it: the same keys, `format=json` or `format=xml`.
//!
//! Rates are of the last minute and the last hour, by samples taken every ten seconds.

use crate::http::Shared;
use crate::http::extract::Query;
use crate::http::refusal::Refusal;
use crate::server::Server;
use accounting::Kind;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// How often the sums are looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// Samples of an hour.
const HOUR: usize = 360;
/// Samples of a minute.
const MINUTE: usize = 6;

/// Sums since the start: recipients, messages and kibibytes, in and out.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Sums([u64; 6]);

impl Sums {
    fn of(server: &Server) -> Self {
        let metrics = &server.metrics;
        let delivered = metrics.total(Kind::Delivered);
        Self([
            metrics.total(Kind::Received),
            metrics.messages_accepted.get(),
            metrics.octets_accepted.get() / 1024,
            delivered,
            delivered,
            metrics.octets_delivered.get() / 1024,
        ])
    }

    fn since(self, before: Self) -> Self {
        let mut out = self;
        out.0.iter_mut().zip(before.0).for_each(|(now, before)| *now = now.saturating_sub(before));
        out
    }

    fn highest(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(top, value)| *top = (*top).max(value));
    }

    fn to_json(self) -> Value {
        let [in_rcp, in_msg, in_kb, out_rcp, out_msg, out_kb] = self.0;
        json!({
            "in": { "rcp": in_rcp, "msg": in_msg, "kb": in_kb },
            "out": { "rcp": out_rcp, "msg": out_msg, "kb": out_kb },
        })
    }
}

#[derive(Default)]
struct Samples {
    /// The newest last.
    taken: VecDeque<Sums>,
    top_minute: Sums,
    top_hour: Sums,
    top_in: u64,
    top_out: u64,
}

impl Samples {
    fn take(&mut self, sums: Sums) {
        self.taken.push_back(sums);
        if self.taken.len() > HOUR + 1 {
            self.taken.pop_front();
        }
        let (minute, hour) = (self.last(MINUTE, sums), self.last(HOUR, sums));
        self.top_minute.highest(minute);
        self.top_hour.highest(hour);
    }

    /// What came within so many samples before now; since the start if that is less.
    fn last(&self, samples: usize, now: Sums) -> Sums {
        let before = self.taken.len().checked_sub(samples + 1).and_then(|at| self.taken.get(at));
        now.since(before.copied().unwrap_or_default())
    }
}

/// The samples.
#[derive(Default)]
pub(in crate::http) struct Traffic(Mutex<Samples>);

/// Takes samples for as long as there is a server.
pub(in crate::http) async fn sample(server: Weak<Server>) {
    let mut tick = tokio::time::interval(SAMPLE_EVERY);
    loop {
        tick.tick().await;
        let Some(server) = server.upgrade() else { return };
        let mut samples = server.http.traffic.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.take(Sums::of(&server));
        samples.top_in = samples.top_in.max(server.reception.sessions.load(Relaxed));
        samples.top_out = samples.top_out.max(connections_out(&server));
    }
}

fn connections_out(server: &Server) -> u64 {
    u64::try_from(server.delivery.figures().connections_out.get()).unwrap_or(0)
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Format {
    format: Option<String>,
}

/// `GET /status`.
pub(in crate::http) async fn status(
    State(server): Shared,
    Query(query): Query<Format>,
) -> Result<Response, Refusal> {
    let value = gather(&server).await?;
    match query.format.as_deref() {
        Some("xml") => {
            let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<rsp>".to_owned();
            write_xml(&mut text, "data", &value);
            text += "</rsp>\n";
            Ok(([(header::CONTENT_TYPE, "text/xml; charset=utf-8")], text).into_response())
        }
        None | Some("json") => {
            Ok(([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response())
        }
        Some(other) => {
            Err(Refusal::bad(format!("`format` is json or xml, not `{}`", message::one_line(other, 40))))
        }
    }
}

async fn gather(server: &Arc<Server>) -> Result<Value, Refusal> {
    let queue = server.delivery.status().await.ok_or_else(Refusal::stopping)?.status;
    let spool = server.spool.stats();
    let config = server.http.limits();
    let (now_in, now_out) = (server.reception.sessions.load(Relaxed), connections_out(server));
    let sums = Sums::of(server);
    let samples = server.http.traffic.0.lock().unwrap_or_else(PoisonError::into_inner);
    let held = queue.sites.iter().filter(|site| site.hold.is_some()).count();
    Ok(json!({
        "mta": { "product": "Tuma", "version": env!("CARGO_PKG_VERSION") },
        "status": {
            "upTime": server.since.elapsed().as_secs(),
            "traffic": {
                "total": sums.to_json(),
                "lastHr": samples.last(HOUR, sums).to_json(),
                "topPerHr": samples.top_hour.to_json(),
                "lastMin": samples.last(MINUTE, sums).to_json(),
                "topPerMin": samples.top_minute.to_json(),
            },
            "conn": {
                "smtpIn": { "cur": now_in, "max": config.0, "top": samples.top_in.max(now_in) },
                "smtpOut": { "cur": now_out, "max": config.1, "top": samples.top_out.max(now_out) },
            },
            "queue": {
                "smtp": { "rcp": queue.recipients, "dom": queue.sites.len(), "kb": spool.live_bytes / 1024, "paused": held },
            },
            "spool": {
                "initPct": if spool.segments_to_load == 0 { 100 } else { 0 },
                "files": { "total": spool.segments + spool.spare_segments, "inUse": spool.segments, "recycled": spool.recycled_segments },
            },
        },
    }))
}

/// Keys as elements. They are words of ours; the values are numbers and words of ours too.
fn write_xml(out: &mut String, name: &str, value: &Value) {
    *out += &format!("<{name}>");
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| write_xml(out, name, value)),
        Value::String(text) => *out += &text.replace('&', "&amp;").replace('<', "&lt;"),
        other => *out += &other.to_string(),
    }
    *out += &format!("</{name}>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(n: u64) -> Sums {
        Sums([n; 6])
    }

    #[test]
    fn rates_are_of_the_last_minute_and_hour() {
        let mut samples = Samples::default();
        for n in 0..=HOUR as u64 * 2 {
            samples.take(sums(n));
        }
        let now = sums(HOUR as u64 * 2);
        assert_eq!(samples.last(MINUTE, now), sums(MINUTE as u64));
        assert_eq!(samples.last(HOUR, now), sums(HOUR as u64));
        assert_eq!((samples.top_minute, samples.top_hour), (sums(MINUTE as u64), sums(HOUR as u64)));
        assert_eq!(samples.taken.len(), HOUR + 1);
        assert_eq!(Samples::default().last(MINUTE, sums(3)), sums(3), "all of it, right after the start");
    }

    #[test]
    fn keys_become_elements() {
        let mut out = String::new();
        write_xml(&mut out, "a", &json!({ "b": { "c": 1 }, "d": "x<&" }));
        assert_eq!(out, "<a><b><c>1</c></b><d>x&lt;&amp;</d></a>");
    }
}
