//! Sessions followed live, as server-sent events.

use super::Shared;
use super::events::Pieces;
use super::extract::Query;
use super::refusal::Refusal;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use mail::UnixMillis;
use net::trace::{Direction, Filter, From, Line, Watch};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;

/// Pieces that wait for one who reads slowly; then lines are missed.
const WAITING_MAX: usize = 64;
/// Sessions that may yet say the text that is looked for.
const PENDING_MAX: usize = 500;
/// Lines kept of each of them; the first are the ones that name sender and recipients.
const PENDING_LINES_MAX: usize = 100;
/// How long nothing may come, so that a reader who has gone is noticed.
const QUIET_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TraceQuery {
    /// `in` or `out`; left out, both.
    direction: Option<String>,
    /// The other end: an address or a network.
    address: Option<String>,
    /// A part of the name of the exchanger, or of the listener.
    host: Option<String>,
    /// Sessions in which a line has this text.
    text: Option<String>,
}

/// Follows.
pub(super) async fn trace(
    State(server): Shared,
    headers: HeaderMap,
    Query(query): Query<TraceQuery>,
) -> Result<Response, Refusal> {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if !accepts.is_some_and(|value| value.contains("text/event-stream")) {
        // Whoever does not know that the answer has no end would wait for it.
        let text = "this is told live only: ask with `Accept: text/event-stream`";
        return Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, text));
    }
    let direction = match query.direction.as_deref() {
        None => None,
        Some("in") => Some(Direction::In),
        Some("out") => Some(Direction::Out),
        Some(_) => return Err(Refusal::bad("`direction` is `in` or `out`").at("/direction")),
    };
    let network = query.address.as_deref().map(str::parse::<settings::Cidr>).transpose();
    let network = network.map_err(|_| {
        Refusal::bad("`address` is an address or a network such as 192.0.2.0/24").at("/address")
    })?;
    let filter = Filter {
        direction,
        network: network.as_ref().map(crate::memory::ip_net),
        host: query.host.map(|host| host.to_ascii_lowercase()),
    };
    let watch = server.traces.watch(filter).ok_or_else(|| Refusal::conflict("too many watch already"))?;
    let (out, pieces) = mpsc::channel::<Bytes>(WAITING_MAX);
    tokio::spawn(follow(watch, query.text.map(|text| text.to_lowercase()), out));
    let mut response = Response::new(Body::new(Pieces(pieces)));
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn written(line: &Line) -> String {
    let about = &line.about;
    let from = match line.from {
        From::Session => "session",
        From::Client => "client",
        From::Server => "server",
    };
    let value = json!({
        "time_ms": UnixMillis::from(line.at).0,
        "direction": match about.direction { Direction::In => "in", Direction::Out => "out" },
        "session": about.session,
        "peer": about.peer.to_string(),
        "host": about.host,
        "from": from,
        "text": &*line.text,
    });
    format!("data: {value}\n\n")
}

/// Sessions in which somebody looks for a text, with what they said before it.
struct Wanted {
    text: Option<String>,
    /// What they said, until the text comes; nothing once it has come.
    sessions: HashMap<String, Option<String>>,
    lines: HashMap<String, usize>,
}

impl Wanted {
    /// What is to be told now that this line has come.
    fn told(&mut self, line: &Line) -> String {
        let Some(text) = &self.text else { return written(line) };
        let session = &line.about.session;
        let ends = line.from == From::Session && &*line.text == "ends";
        let count = self.lines.get(session).copied().unwrap_or(0);
        // One whose beginning was missed is not followed.
        let begins = line.from == From::Session && !ends && self.sessions.len() < PENDING_MAX;
        if begins {
            self.sessions.insert(session.clone(), Some(String::new()));
        }
        let Some(kept) = self.sessions.get_mut(session) else { return String::new() };
        let told = match kept {
            None => written(line),
            Some(before) => {
                if count < PENDING_LINES_MAX {
                    before.push_str(&written(line));
                    self.lines.insert(session.clone(), count + 1);
                }
                if line.text.to_lowercase().contains(text.as_str()) {
                    kept.take().unwrap_or_default()
                } else {
                    String::new()
                }
            }
        };
        if ends {
            self.sessions.remove(session);
            self.lines.remove(session);
        }
        told
    }
}

async fn follow(mut watch: Watch, text: Option<String>, out: mpsc::Sender<Bytes>) {
    let mut wanted = Wanted { text, sessions: HashMap::new(), lines: HashMap::new() };
    // The head of the answer goes at once, so that a reader knows from when on it sees.
    let mut piece = ": watching\n\n".to_owned();
    loop {
        let missed = watch.missed();
        if missed > 0 {
            piece += &format!("event: missed\ndata: {{\"lines\":{missed}}}\n\n");
        }
        if !piece.is_empty() && out.send(std::mem::take(&mut piece).into()).await.is_err() {
            return;
        }
        match tokio::time::timeout(QUIET_MAX, watch.next()).await {
            Ok(Some(line)) => piece = wanted.told(&line),
            Ok(None) => return,
            Err(_) => piece.push_str(": still here\n\n"),
        }
        if out.is_closed() {
            return;
        }
    }
}
