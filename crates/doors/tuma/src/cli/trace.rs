//! `tuma trace`: SMTP sessions as they go.

use super::Api;
use super::client::{field, query};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

/// Octets of a refusal that are read.
const REFUSAL_MAX: u64 = 64 * 1024;
/// The server says something every five seconds, whether there is anything to say or not.
const PATIENCE: Duration = Duration::from_secs(30);

/// Follow SMTP sessions, in or out, while they go.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tuma trace --out --host gmail
  tuma trace --in --address 192.0.2.0/24
  tuma trace --text ann@example.com
  tuma trace --out --text '421' --sessions 1 --json

Sessions are followed that begin after the command. Content is counted and not shown, and neither is what a client says
for AUTH. A reader that does not keep up misses lines and is told how many; mail never waits for it.")]
pub(super) struct Trace {
    #[command(flatten)]
    api: Api,
    /// Only sessions of clients with us.
    #[arg(long = "in", conflicts_with = "outward")]
    inward: bool,
    /// Only our sessions with next hops.
    #[arg(long = "out")]
    outward: bool,
    /// Only with this address or network at the other end.
    #[arg(long, value_name = "NETWORK")]
    address: Option<String>,
    /// Only with exchangers, or at listeners, whose name has this text.
    #[arg(long, value_name = "TEXT")]
    host: Option<String>,
    /// Only sessions in which a line has this text; they are shown from their beginning.
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// End after so many sessions have ended.
    #[arg(long, value_name = "N")]
    sessions: Option<u64>,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

impl Trace {
    pub(super) fn run(self) -> Result<ExitCode> {
        let api = self.api.api;
        let direction = match (self.inward, self.outward) {
            (true, _) => Some("in"),
            (_, true) => Some("out"),
            _ => None,
        };
        let asked = query(&[
            ("direction", direction),
            ("address", self.address.as_deref()),
            ("host", self.host.as_deref()),
            ("text", self.text.as_deref()),
        ]);
        let mut stream = TcpStream::connect_timeout(&api, Duration::from_secs(5)).with_context(|| {
            format!("no server answers at {api}; is it running, and is `http.listen` set to this address?")
        })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /v1/trace{asked} HTTP/1.0\r\nHost: {api}\r\nAccept: text/event-stream\r\n\r\n")?;
        let mut answer = BufReader::new(stream);
        let mut line = String::new();
        answer.read_line(&mut line)?;
        let fine = line.split(' ').nth(1) == Some("200");
        while !matches!(line.trim_end(), "") {
            line.clear();
            answer.read_line(&mut line)?;
        }
        if !fine {
            let mut text = String::new();
            answer.take(REFUSAL_MAX).read_to_string(&mut text)?;
            let problem: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
            bail!("{}", problem["detail"].as_str().unwrap_or(text.trim_end()));
        }
        if !self.json {
            eprintln!("watching sessions that begin from now on");
        }
        let mut ended = 0;
        loop {
            line.clear();
            if answer.read_line(&mut line).context("the server says nothing any more")? == 0 {
                bail!("the server has ended the trace");
            }
            let Some(data) = line.strip_prefix("data: ") else { continue };
            let said: Value = serde_json::from_str(data)?;
            match said["lines"].as_u64() {
                Some(missed) if !self.json => say!("({missed} lines missed)"),
                _ if self.json => say!("{said}"),
                _ => say!("{}", shown(&said)),
            }
            if said["from"] == "session" && said["text"] == "ends" {
                ended += 1;
                if self.sessions.is_some_and(|wanted| ended >= wanted) {
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
    }
}

fn shown(said: &Value) -> String {
    let ms = said["time_ms"].as_u64().unwrap_or(0) % 86_400_000;
    let (hours, minutes, seconds, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000);
    let mark = match field(said, "from") {
        "client" => "C:",
        "server" => "S:",
        _ => "--",
    };
    let (session, text) = (field(said, "session"), field(said, "text"));
    let about = match mark {
        "--" => format!(" {} {} ({})", field(said, "direction"), field(said, "peer"), field(said, "host")),
        _ => String::new(),
    };
    format!("{hours:02}:{minutes:02}:{seconds:02}.{ms:03} {session} {mark} {text}{about}")
}
