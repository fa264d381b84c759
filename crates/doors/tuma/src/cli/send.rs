//! `tuma send`: one message, and what becomes of it.

use super::Api;
use anyhow::{Context, Result, bail};
use mail::{Mailbox, UnixMillis};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

/// Send a message through a server and watch what becomes of it.
#[derive(Debug, clap::Args)]
pub(super) struct Send {
    /// Recipients; may be given several times.
    #[arg(long, required = true, value_name = "ADDRESS")]
    to: Vec<String>,
    /// Sender; empty for the null reverse-path.
    #[arg(long, default_value = "tuma@localhost.test", value_name = "ADDRESS")]
    from: String,
    /// Subject.
    #[arg(long, default_value = "test")]
    subject: String,
    /// Text; `-` reads it from standard input.
    #[arg(long, default_value = "Sent with tuma send.")]
    body: String,
    /// The server's SMTP listener.
    #[arg(long, default_value = "127.0.0.1:2525", value_name = "HOST:PORT", env = "TUMA_LISTEN")]
    server: String,
    /// How long to watch for the outcome, in seconds.
    #[arg(long, default_value_t = 60)]
    wait: u64,
    #[command(flatten)]
    api: Api,
}

struct Session {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Session {
    fn reply(&mut self) -> Result<(u16, String)> {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            if (&mut self.lines).take(4096).read_line(&mut line)? == 0 {
                bail!("the server closed the connection");
            }
            let code = line
                .get(..3)
                .and_then(|code| code.parse().ok())
                .context("the server did not reply in SMTP")?;
            text.push_str(line.get(4..).unwrap_or_default());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok((code, text.trim_end().to_owned()));
            }
        }
    }

    fn say(&mut self, line: &str, wanted: u16) -> Result<String> {
        self.stream.write_all(line.as_bytes())?;
        let (code, text) = self.reply()?;
        if code / 100 != wanted / 100 {
            bail!("{} -> {code} {text}", line.lines().next().unwrap_or_default());
        }
        Ok(text)
    }
}

impl Send {
    pub(super) fn run(self) -> Result<ExitCode> {
        let id = self.submit()?;
        say!("{id}  accepted");
        self.watch(&id)
    }

    fn content(&self) -> Result<String> {
        let mut body = self.body.clone();
        if body == "-" {
            body.clear();
            std::io::stdin().read_to_string(&mut body).context("read the text from standard input")?;
        }
        for (what, text) in [("subject", &self.subject), ("from", &self.from)] {
            if text.contains(['\r', '\n']) {
                bail!("--{what} must be one line");
            }
        }
        let mut date = Vec::new();
        message::write_date(&mut date, UnixMillis::from(SystemTime::now()));
        let head = format!(
            "From: <{}>\r\nTo: {}\r\nSubject: {}\r\nDate: {}\r\n\r\n",
            self.from,
            self.to.iter().map(|to| format!("<{to}>")).collect::<Vec<_>>().join(",\r\n\t"),
            self.subject,
            String::from_utf8_lossy(&date)
        );
        let mut out = Vec::new();
        smtp::data::stuff((head + &body).as_bytes(), &mut out);
        Ok(String::from_utf8(out)?)
    }

    /// Hands the message in; gives the id from the reply.
    fn submit(&self) -> Result<String> {
        for to in self.to.iter().chain(Some(&self.from).filter(|from| !from.is_empty())) {
            Mailbox::parse(to).with_context(|| format!("`{to}` is not an address"))?;
        }
        let content = self.content()?;
        let ascii = content.is_ascii() && self.to.iter().all(|to| to.is_ascii()) && self.from.is_ascii();
        let address = self
            .server
            .to_socket_addrs()
            .ok()
            .and_then(|mut list| list.next())
            .with_context(|| format!("`{}` is not host:port", self.server))?;
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).with_context(|| {
            format!("no server takes mail at {address}; start one with `tuma serve --dev`")
        })?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut session = Session { lines: BufReader::new(stream.try_clone()?), stream };
        let (code, text) = session.reply()?;
        if code != 220 {
            bail!("{code} {text}");
        }
        session.say("EHLO localhost\r\n", 250)?;
        let parameters = if ascii { "" } else { " BODY=8BITMIME SMTPUTF8" };
        session.say(&format!("MAIL FROM:<{}>{parameters}\r\n", self.from), 250)?;
        for to in &self.to {
            session.say(&format!("RCPT TO:<{to}>\r\n"), 250)?;
        }
        session.say("DATA\r\n", 354)?;
        let reply = session.say(&format!("{content}.\r\n"), 250)?;
        let _ = session.stream.write_all(b"QUIT\r\n");
        Ok(reply.rsplit(' ').next().unwrap_or_default().to_owned())
    }

    /// Prints what happens until every recipient has its outcome.
    fn watch(&self, id: &str) -> Result<ExitCode> {
        let began = Instant::now();
        let mut shown = 0;
        let mut settled: BTreeSet<String> = BTreeSet::new();
        let mut failed = false;
        while began.elapsed() < Duration::from_secs(self.wait) {
            let Some(known) = super::client::events(self.api.api, id)? else {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            let events = known["events"].as_array().cloned().unwrap_or_default();
            let first = events.first().and_then(|event| event["time_ms"].as_u64()).unwrap_or(0);
            for event in events.iter().skip(shown) {
                let kind = event["kind"].as_str().unwrap_or("?");
                print_event(event, first);
                if !matches!(kind, "received" | "deferred") {
                    settled.insert(event["recipient"].as_str().unwrap_or_default().to_owned());
                    failed |= kind != "delivered";
                }
            }
            shown = shown.max(events.len());
            if settled.len() >= self.to.iter().collect::<BTreeSet<_>>().len() {
                return Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        say!("{id}  still queued after {} s; `tuma queue ls` shows why", self.wait);
        Ok(ExitCode::from(2))
    }
}

fn print_event(event: &Value, first: u64) {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let after = event["time_ms"].as_u64().unwrap_or(0).saturating_sub(first);
    let mut line = format!("  +{after:>5} ms  {:<9} {}", text("kind"), text("recipient"));
    if let Some(host) = event["host"].as_str() {
        line += &format!("  by {host}");
        if let Some(address) = event["address"].as_str() {
            line += &format!(" ({address})");
        }
    }
    if let Some(reply) = event["reply"].as_str() {
        line += &format!("  {reply}");
    }
    say!("{line}");
}
