//! `tuma top`: what the running server does, as it does it: rates, queues, sites, providers, sources, and the replies that
//! hold mail up.

use super::Api;
use super::client::{ask_json, encode, length};
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Different replies counted at most; beyond them new ones are not.
const REPLIES_MAX: usize = 1_000;
/// Pages of events read for one picture at most: a busier server's replies are a sample.
const PAGES_MAX: usize = 5;
/// Characters of a reply by which it is counted.
const REPLY_MAX: usize = 120;
/// What is counted of recipients.
const KINDS: [&str; 5] = ["received", "delivered", "deferred", "bounced", "rejected"];

/// Watch the running server: rates, queues, sites, providers, sources, and the replies that hold mail up. Ctrl-C ends it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tuma top
  tuma top --every 5s
  tuma top --once
  tuma top --once --json")]
pub(super) struct Top {
    #[command(flatten)]
    api: Api,
    /// How often to look.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = every)]
    every: Duration,
    /// Look twice, print one picture, and end.
    #[arg(long)]
    once: bool,
    /// Print JSON; with `--once`.
    #[arg(long, requires = "once")]
    json: bool,
}

fn every(text: &str) -> Result<Duration, String> {
    let length = settings::parse_duration(text);
    let wrong = || "write a time between 100ms and 1h, such as 2s".to_owned();
    length.filter(|length| (100..=3_600_000).contains(&length.as_millis())).ok_or_else(wrong)
}

/// What was seen at one moment.
struct Seen {
    at: Instant,
    status: Value,
    queues: Value,
    sources: Value,
}

/// Replies that held mail up or refused it, by host and text.
#[derive(Default)]
struct Replies {
    cursor: Option<String>,
    counted: HashMap<(String, String), u64>,
}

impl Replies {
    /// Reads on from where it was; at first only the place is noted.
    fn read(&mut self, api: SocketAddr) -> Result<()> {
        for _ in 0..PAGES_MAX {
            let after = self.cursor.as_deref().map(|cursor| format!("&after={}", encode(cursor)));
            let page = ask_json(api, "GET", &format!("/v1/events?max=1000{}", after.unwrap_or_default()))?;
            let events = page["events"].as_array().map(Vec::as_slice).unwrap_or_default();
            events.iter().for_each(|event| self.count(event));
            self.cursor = page["next"].as_str().map(str::to_owned);
            if events.len() < 1_000 {
                break;
            }
        }
        Ok(())
    }

    fn count(&mut self, event: &Value) {
        if !matches!(event["kind"].as_str(), Some("deferred" | "bounced" | "expired")) {
            return;
        }
        let Some(reply) = event["reply"].as_str() else { return };
        let host = event["host"].as_str().unwrap_or("-").to_owned();
        let key = (host, message::one_line(reply, REPLY_MAX));
        if self.counted.len() < REPLIES_MAX || self.counted.contains_key(&key) {
            *self.counted.entry(key).or_default() += 1;
        }
    }

    /// The most frequent first.
    fn worst(&self) -> Vec<(u64, &str, &str)> {
        let all = self.counted.iter().map(|((host, reply), count)| (*count, host.as_str(), reply.as_str()));
        let mut all: Vec<_> = all.collect();
        all.sort_unstable_by(|a, b| (b.0, a.1, a.2).cmp(&(a.0, b.1, b.2)));
        all
    }
}

impl Top {
    pub(super) fn run(self) -> Result<ExitCode> {
        let api = self.api.api;
        let mut replies = Replies::default();
        let mut before = look(api, &mut replies)?;
        if self.once {
            std::thread::sleep(self.every);
            let now = look(api, &mut replies)?;
            match self.json {
                true => say!("{:#}", to_json(&before, &now, &replies)),
                false => say!("{}", picture(&before, &now, &replies, 120, 60).trim_end()),
            }
            return Ok(ExitCode::SUCCESS);
        }
        anyhow::ensure!(
            std::io::stdout().is_terminal(),
            "this is for a terminal; `tuma top --once` prints one picture"
        );
        super::client_runtime()?.block_on(async {
            let mut screen = Screen::open()?;
            let mut tick = tokio::time::interval(self.every);
            tick.tick().await;
            loop {
                tokio::select! {
                    _ = tick.tick() => {}
                    _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
                }
                let (columns, rows) = size();
                match look(api, &mut replies) {
                    Ok(now) => {
                        screen.show(&picture(&before, &now, &replies, columns, rows))?;
                        before = now;
                    }
                    // A restart of the server is watched through.
                    Err(error) => screen.show(&format!("{error:#}\n"))?,
                }
            }
        })
    }
}

fn look(api: SocketAddr, replies: &mut Replies) -> Result<Seen> {
    replies.read(api)?;
    Ok(Seen {
        at: Instant::now(),
        status: ask_json(api, "GET", "/v1/status")?,
        queues: ask_json(api, "GET", "/v1/queues?max=50")?,
        sources: ask_json(api, "GET", "/v1/sources")?,
    })
}

/// The other screen of the terminal, given back at the end.
struct Screen;

impl Screen {
    fn open() -> Result<Self> {
        let mut out = std::io::stdout();
        out.write_all(b"\x1b[?1049h\x1b[?25l")?;
        out.flush()?;
        Ok(Self)
    }

    fn show(&mut self, text: &str) -> Result<()> {
        let mut out = std::io::stdout();
        let lines = text.replace('\n', "\x1b[K\r\n");
        out.write_all(format!("\x1b[H{lines}\x1b[J").as_bytes())?;
        Ok(out.flush()?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = std::io::stdout();
        let _ = out.write_all(b"\x1b[?25h\x1b[?1049l");
        let _ = out.flush();
    }
}

/// Columns and rows of the terminal.
fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let known = size.map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
    known.filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or((100, 40))
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0)
}

/// Recipients a second of each kind.
fn rates(before: &Seen, now: &Seen) -> Vec<(&'static str, f64)> {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
    let rate = |kind: &'static str| {
        let of = |seen: &Seen| number(&seen.status, &format!("/recipients/{kind}"));
        // Less than before is a server that began anew.
        (kind, ((of(now) - of(before)) / seconds).max(0.0))
    };
    KINDS.map(rate).into()
}

/// Recipients, connections and sites by provider, the largest first.
fn providers(status: &Value) -> Vec<(String, [u64; 3])> {
    let mut found: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    for site in status["sites"].as_array().into_iter().flatten() {
        let counts = found.entry(site["provider"].as_str().unwrap_or("others").to_owned()).or_default();
        counts[0] += site["recipients"].as_u64().unwrap_or(0);
        counts[1] += site["connections"].as_u64().unwrap_or(0);
        counts[2] += 1;
    }
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_by_key(|(_, counts)| std::cmp::Reverse(*counts));
    found
}

fn to_json(before: &Seen, now: &Seen, replies: &Replies) -> Value {
    let rates: serde_json::Map<String, Value> =
        rates(before, now).into_iter().map(|(kind, rate)| (kind.to_owned(), json!(rate))).collect();
    let provider = |(name, [recipients, connections, sites]): &(String, [u64; 3])| json!({ "provider": name, "recipients": recipients, "connections": connections, "sites": sites });
    let reply =
        |(count, host, reply): &(u64, &str, &str)| json!({ "count": count, "host": host, "reply": reply });
    json!({
        "recipients_per_second": rates,
        "status": now.status,
        "queues": now.queues,
        "sources": now.sources,
        "providers": providers(&now.status).iter().map(provider).collect::<Value>(),
        "worst_replies": replies.worst().iter().take(50).map(reply).collect::<Value>(),
    })
}

/// One picture, at most so wide and high.
fn picture(before: &Seen, now: &Seen, replies: &Replies, columns: usize, rows: usize) -> String {
    let status = &now.status;
    let mut lines = vec![
        format!(
            "tuma {} up {}   sessions in {}   connections out {}   queued {}   spool {} MiB{}",
            status["version"].as_str().unwrap_or("?"),
            length(number(status, "/uptime_seconds")),
            number(status, "/sessions"),
            number(status, "/connections_out"),
            number(status, "/recipients/queued"),
            status.pointer("/spool/used_bytes").and_then(Value::as_u64).unwrap_or(0) >> 20,
            if status["spool"]["accepts"] == Value::Bool(false) { "   INTAKE STOPPED" } else { "" },
        ),
        rates(before, now)
            .iter()
            .map(|(kind, rate)| format!("{kind} {rate:.1}/s"))
            .collect::<Vec<_>>()
            .join("   "),
    ];
    // The head and five parts share the height.
    let each = rows.saturating_sub(lines.len() + 10).max(10) / 5;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or("-").to_owned();
    let count = |value: &Value, name: &str| value[name].as_u64().unwrap_or(0);
    let mut part = |head: String, body: Vec<String>| {
        lines.push(String::new());
        lines.push(head);
        lines.extend(body.into_iter().take(each));
    };
    let mut sites = list(&status["sites"]);
    sites.sort_by_key(|site| std::cmp::Reverse(count(site, "recipients")));
    let site = |site: &Value| {
        let hold = site["hold"].as_str().map(|hold| format!("   {hold}")).unwrap_or_default();
        let (recipients, connections) = (count(site, "recipients"), count(site, "connections"));
        format!("{recipients:>10} {connections:>5}  {}{hold}", text(site, "site"))
    };
    part(format!("{:>10} {:>5}  site", "recipients", "conns"), sites.iter().map(site).collect());
    let queue = |queue: &Value| {
        let (recipients, ready) = (count(queue, "recipients"), count(queue, "ready"));
        format!("{recipients:>10} {ready:>5}  {}", text(queue, "queue"))
    };
    part(
        format!("{:>10} {:>5}  queue", "recipients", "ready"),
        list(&now.queues).iter().map(queue).collect(),
    );
    let provider = |(name, [recipients, connections, sites]): &(String, [u64; 3])| {
        format!("{recipients:>10} {connections:>5}  {name} ({sites} sites)")
    };
    part(
        format!("{:>10} {:>5}  provider", "recipients", "conns"),
        providers(status).iter().map(provider).collect(),
    );
    let source = |source: &Value| {
        let stopped = if source["enabled"] == Value::Bool(false) { "   disabled" } else { "" };
        let (sites, backoff) = (count(source, "sites"), count(source, "sites_in_backoff"));
        format!(
            "{sites:>10} {:>5}  {} ({backoff} in backoff){stopped}",
            count(source, "connections"),
            text(source, "source")
        )
    };
    part(format!("{:>10} {:>5}  source", "sites", "conns"), list(&now.sources).iter().map(source).collect());
    let reply = |(count, host, reply): &(u64, &str, &str)| format!("{count:>10}  {host}: {reply}");
    part(format!("{:>10}  worst replies", "times"), replies.worst().iter().map(reply).collect());
    let cut = |line: String| line.chars().filter(|c| !c.is_control()).take(columns).collect::<String>();
    lines.into_iter().take(rows.saturating_sub(1).max(1)).map(cut).collect::<Vec<_>>().join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(at: Instant, delivered: u64) -> Seen {
        let site = |name: &str, provider: Option<&str>, recipients: u64| json!({ "site": name, "provider": provider, "recipients": recipients, "connections": 2, "hold": "backoff\u{1b}[2J" });
        Seen {
            at,
            status: json!({
                "version": "1", "uptime_seconds": 60, "recipients": { "delivered": delivered, "queued": 5 },
                "sites": [site("a.test", Some("google"), 1), site("b.test", Some("google"), 3), site("c.test", None, 9)],
            }),
            queues: json!([{ "queue": "q1", "recipients": 7, "ready": 1 }]),
            sources: json!([{ "source": "main", "enabled": false, "sites": 3, "connections": 4 }]),
        }
    }

    #[test]
    fn a_picture_has_its_parts_and_keeps_to_its_size() {
        let began = Instant::now();
        let (before, now) = (seen(began, 10), seen(began + Duration::from_secs(2), 30));
        let mut replies = Replies::default();
        for (kind, reply) in
            [("deferred", "451 4.7.1 wait\r\nx"), ("deferred", "451 4.7.1 wait\r\nx"), ("delivered", "250")]
        {
            replies.count(&json!({ "kind": kind, "reply": reply, "host": "mx.a.test" }));
        }
        let text = picture(&before, &now, &replies, 200, 60);
        for part in [
            "delivered 10.0/s",
            "google (2 sites)",
            "main (0 in backoff)   disabled",
            "q1",
            "2  mx.a.test: 451 4.7.1 wait",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains("250"), "{text}");
        let order: Vec<usize> =
            ["c.test", "b.test", "a.test"].iter().filter_map(|site| text.find(site)).collect();
        assert!(order.is_sorted() && order.len() == 3, "the largest first: {text}");
        for (columns, rows) in [(1, 1), (20, 5), (80, 24)] {
            let text = picture(&before, &now, &replies, columns, rows);
            assert!(
                text.lines().count() <= rows.max(1)
                    && text.lines().all(|line| line.chars().count() <= columns)
            );
        }
        // A server that began anew has no negative rates.
        assert!(rates(&now, &seen(began + Duration::from_secs(4), 0)).iter().all(|(_, rate)| *rate == 0.0));
    }

    #[test]
    fn replies_are_bounded() {
        let mut replies = Replies::default();
        for n in 0..REPLIES_MAX + 10 {
            replies.count(&json!({ "kind": "bounced", "reply": format!("550 {n}") }));
        }
        assert_eq!(replies.counted.len(), REPLIES_MAX);
    }
}
