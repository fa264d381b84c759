//! Commands that ask the running server by HTTP: `status`, `reload`, `log-level`; and how all of them ask.

use super::Api;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// Octets of an answer taken at most.
const ANSWER_MAX: u64 = 64 * 1024 * 1024;

/// Asks, and gives the status and body of the answer; of a refusal the sentence that says why. HTTP/1.0, so that the answer ends with the connection.
pub(super) fn ask(api: SocketAddr, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&api, Duration::from_secs(5)).with_context(|| {
        format!("no server answers at {api}; is it running, and is `http.listen` set to this address?")
    })?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {api}\r\nContent-Length: {}\r\nContent-Type: text/plain\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let status =
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("the answer is not HTTP")?;
    if head.contains("application/problem+json") {
        let problem: Value = serde_json::from_str(body)?;
        return Ok((status, format!("{}\n", problem["detail"].as_str().unwrap_or(body))));
    }
    Ok((status, body.to_owned()))
}

/// Asks for JSON; an error is what the server said against it.
pub(super) fn ask_json(api: SocketAddr, method: &str, path: &str) -> Result<Value> {
    send_json(api, method, path, "")
}

/// The same with a body.
pub(super) fn send_json(api: SocketAddr, method: &str, path: &str, body: &str) -> Result<Value> {
    let (status, body) = ask(api, method, path, body)?;
    if !(200..300).contains(&status) {
        bail!("{}", body.trim_end());
    }
    Ok(serde_json::from_str(&body)?)
}

/// What the running server is doing.
#[derive(Debug, clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    api: Api,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) fn run(self) -> Result<ExitCode> {
        let status = ask_json(self.api.api, "GET", "/v1/status")?;
        if self.json {
            say!("{status:#}");
            return Ok(ExitCode::SUCCESS);
        }
        let n = |path: &str| status.pointer(path).and_then(Value::as_i64).unwrap_or(0);
        say!("tuma {}, up {} s", status["version"].as_str().unwrap_or("?"), n("/uptime_seconds"));
        say!("sessions {}, connections out {}", n("/sessions"), n("/connections_out"));
        let r = |name: &str| n(&format!("/recipients/{name}"));
        say!(
            "recipients: received {}, delivered {}, bounced {}, expired {}, discarded {}, suppressed {}, queued {}; deferrals {}, rejections {}",
            r("received"),
            r("delivered"),
            r("bounced"),
            r("expired"),
            r("discarded"),
            r("suppressed"),
            r("queued"),
            r("deferred"),
            r("rejected")
        );
        say!(
            "spool: {} messages, {} segments, {} MiB used, {} MiB free{}",
            n("/spool/messages"),
            n("/spool/segments"),
            n("/spool/used_bytes") >> 20,
            n("/spool/free_bytes") >> 20,
            if status["spool"]["accepts"] == Value::Bool(true) { "" } else { " — INTAKE STOPPED" }
        );
        certificates(&status);
        sites(&status);
        Ok(ExitCode::SUCCESS)
    }
}

/// What the server does about certificates that it gets for itself.
fn certificates(status: &Value) {
    let now_ms = mail::UnixMillis::from(std::time::SystemTime::now()).0 as i64;
    for one in status["acme"].as_array().into_iter().flatten() {
        let hours = |field: &str| Some((one[field].as_i64()? - now_ms).div_euclid(3_600_000));
        let names: Vec<&str> =
            one["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let until = match (hours("not_after_ms"), hours("renews_at_ms")) {
            (Some(left), Some(turn)) => format!("{left} h left, renewed in {} h", turn.max(0)),
            _ => "none yet".to_owned(),
        };
        say!("certificate {} ({}): {until}", one["certificate"].as_str().unwrap_or("?"), names.join(", "));
        if let Some(error) = one["error"].as_str() {
            let again = one["tries_again_at_ms"].as_i64().map_or(0, |at| (at - now_ms).max(0) / 60_000);
            say!("  {} failures, tried again in {again} min: {error}", one["failures"]);
        }
    }
}

fn sites(status: &Value) {
    let Some(list) = status["sites"].as_array().filter(|list| !list.is_empty()) else { return };
    say!("{:>10} {:>8} {:>8} {:>8} {:>5}  site", "recipients", "ready", "waiting", "attempt", "conns");
    for site in list.iter().take(50) {
        let n = |name: &str| site[name].as_i64().unwrap_or(0);
        let provider = site["provider"].as_str().map(|name| format!(" [{name}]")).unwrap_or_default();
        say!(
            "{:>10} {:>8} {:>8} {:>8} {:>5}  {}{provider}",
            n("recipients"),
            n("ready"),
            n("waiting"),
            n("attempted"),
            n("connections"),
            site["site"].as_str().unwrap_or("?")
        );
        if let Some(hold) = site["hold"].as_str() {
            let until =
                site["held_until_seconds"].as_f64().map(|s| format!(", again in {s} s")).unwrap_or_default();
            let setting = site["setting"].as_str().map(|text| format!(" ({text})")).unwrap_or_default();
            say!("{:>46}held: {hold}{setting}{until}", "");
        }
        for path in site["paths"].as_array().into_iter().flatten() {
            if let (Some(source), Some(mode)) = (path["source"].as_str(), path["mode"].as_str())
                && mode != "normal"
            {
                say!("{:>46}{source}: {mode}", "");
            }
        }
        if let Some(failure) = site["last_failure"].as_str() {
            say!("{:>46}last failure: {failure}", "");
        }
    }
}

/// A text within a URL, with what a URL cannot hold encoded.
pub(super) fn encode(text: &str) -> String {
    let encode = |b: u8| match b {
        b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// `?name=text&…` of what is given; nothing if nothing is.
pub(super) fn query(given: &[(&str, Option<&str>)]) -> String {
    let given: Vec<String> =
        given.iter().filter_map(|(name, value)| Some(format!("{name}={}", encode((*value)?)))).collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}

/// Seconds in words: `1h30m`, `4d`, `12s`.
pub(super) fn length(seconds: f64) -> String {
    if seconds < 1.0 {
        return if seconds <= 0.0 { "0s".into() } else { "less than 1s".into() };
    }
    // Beyond an hour nobody counts seconds, beyond ten days nobody counts minutes.
    let seconds = seconds.round() as u64;
    let unit = match seconds {
        0..3_600 => 1,
        3_600..864_000 => 60,
        _ => 3_600,
    };
    settings::show_duration(Duration::from_secs(seconds / unit * unit))
}

/// A text of an answer; `?` if it is not there.
pub(super) fn field<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or("?")
}

/// The rows of a table, each column as wide as its widest cell; the last one is not padded.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) {
    let wide = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
        cells.chain([head[at].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(wide).collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        say!("{}", padded.join("  ").trim_end());
    };
    line(&head.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}

/// `tuma reload`: prints what came of it.
pub(super) fn reload(api: &Api) -> Result<ExitCode> {
    let (status, body) = ask(api.api, "POST", "/v1/reload", "")?;
    if status == 200 {
        say!("{}", body.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    eprint!("{body}");
    eprintln!("tuma: the old configuration stays in force");
    Ok(ExitCode::FAILURE)
}

/// Change the log level.
#[derive(Debug, clap::Args)]
pub(super) struct LogLevel {
    #[command(flatten)]
    api: Api,
    /// `error`, `warn`, `info`, `debug`, `trace`, or by room: `info,delivery=debug`.
    level: String,
}

impl LogLevel {
    pub(super) fn run(self) -> Result<ExitCode> {
        let (status, body) = ask(self.api.api, "POST", "/v1/log-level", &self.level)?;
        say!("{}", body.trim_end());
        Ok(if status == 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// What the server remembers of a message.
pub(super) fn events(api: SocketAddr, id: &str) -> Result<Option<Value>> {
    let (status, body) = ask(api, "GET", &format!("/v1/messages/{id}"), "")?;
    match status {
        200 => Ok(Some(serde_json::from_str(&body)?)),
        404 => Ok(None),
        _ => bail!("{}", body.trim_end()),
    }
}
