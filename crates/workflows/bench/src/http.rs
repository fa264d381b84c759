//! Offers messages by HTTP, as JSON to `POST /v1/messages`, on connections that are kept.
//!
//! A request is made once for each connection and sent as it is: what is measured is the server.

use crate::histogram::Histogram;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// What to offer.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server.
    pub target: SocketAddr,
    /// Requests in all.
    pub requests: u64,
    /// Connections at once.
    pub connections: usize,
    /// Recipients of each request; from two on each has a value of its own.
    pub recipients: u64,
    /// Domains they are spread over.
    pub domains: u64,
    /// Octets of the text.
    pub size: usize,
    /// An API key.
    pub key: Option<String>,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// What came of it.
#[derive(Default)]
pub struct Report {
    /// Requests answered with 202.
    pub accepted: u64,
    /// Other answers, and connections that broke.
    pub failed: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Recipients of each request.
    pub recipients: u64,
    /// Times to the answer.
    pub latency: Histogram,
    /// The first answer that was none of 202.
    pub complaint: Option<String>,
}

impl Report {
    /// Recipients accepted in a second.
    pub fn recipients_per_second(&self) -> f64 {
        (self.accepted * self.recipients) as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// One JSON object.
    pub fn to_json(&self) -> String {
        let p = self.latency.percentiles();
        format!(
            "{{\"accepted\":{},\"failed\":{},\"recipients\":{},\"seconds\":{:.3},\"recipients_per_second\":{:.0},\
             \"p50_ms\":{:.3},\"p99_ms\":{:.3}}}",
            self.accepted,
            self.failed,
            self.accepted * self.recipients,
            self.elapsed.as_secs_f64(),
            self.recipients_per_second(),
            p.p50.as_secs_f64() * 1e3,
            p.p99.as_secs_f64() * 1e3,
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = self.latency.percentiles();
        writeln!(
            f,
            "{} requests with {} recipients accepted in {:.2} s: {:.0} recipients/s",
            self.accepted,
            self.accepted * self.recipients,
            self.elapsed.as_secs_f64(),
            self.recipients_per_second()
        )?;
        write!(f, "answers: p50 {:?}, p99 {:?}; {} failed", p.p50, p.p99, self.failed)?;
        match &self.complaint {
            Some(text) => write!(f, ", the first: {text}"),
            None => Ok(()),
        }
    }
}

/// The request of one connection.
fn request(options: &Options, connection: usize) -> Vec<u8> {
    let mut recipients = Vec::new();
    for n in 0..options.recipients {
        let email = format!("r{n}.{connection}@d{}.bench.test", n % options.domains.max(1));
        recipients.push(match options.recipients {
            1 => format!("\"{email}\""),
            _ => format!("{{\"email\":\"{email}\",\"substitutions\":{{\"name\":\"Person {n}\"}}}}"),
        });
    }
    let greeting = if options.recipients > 1 { "Dear {{ name }}" } else { "Dear reader" };
    let line = "This line is one of many that make up the text of a message. ";
    let text = line.repeat(options.size / line.len() + 1);
    let body = format!(
        "{{\"from\":\"bench@bench.test\",\"recipients\":[{}],\"content\":{{\"subject\":\"Bench\",\"text\":\"{greeting}\\n{}\\n\"}}}}",
        recipients.join(","),
        text[..options.size].replace(". ", ".\\n"),
    );
    let key = options.key.as_ref().map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    format!(
        "POST /v1/messages HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{key}Content-Length: {}\r\n\r\n{body}",
        options.target,
        body.len()
    )
    .into_bytes()
}

/// Reads an answer; its status and body.
async fn answer(reader: &mut BufReader<tokio::net::tcp::OwnedReadHalf>) -> io::Result<(u16, Vec<u8>)> {
    let (mut status, mut length) = (0, 0);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        if status == 0 {
            status = text
                .split(' ')
                .nth(1)
                .and_then(|code| code.parse().ok())
                .ok_or(io::ErrorKind::InvalidData)?;
        } else if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    Ok((status, body))
}

/// Offers it.
pub async fn run(options: Options) -> Report {
    let left = Arc::new(AtomicU64::new(options.requests));
    let began = Instant::now();
    let mut tasks = Vec::new();
    for connection in 0..options.connections.max(1) {
        let (options, left) = (options.clone(), left.clone());
        tasks.push(tokio::spawn(async move { one(&options, &left, connection).await }));
    }
    let mut whole = Report { recipients: options.recipients, ..Report::default() };
    for task in tasks {
        let Ok(part) = task.await else { continue };
        whole.accepted += part.accepted;
        whole.failed += part.failed;
        whole.latency.merge(&part.latency);
        whole.complaint = whole.complaint.or(part.complaint);
    }
    whole.elapsed = began.elapsed();
    whole
}

async fn one(options: &Options, left: &AtomicU64, connection: usize) -> Report {
    let mut report = Report::default();
    let request = request(options, connection);
    let take = || left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
    let stream = match TcpStream::connect(options.target).await {
        Ok(stream) => stream,
        Err(error) => {
            report.failed += 1;
            report.complaint = Some(error.to_string());
            return report;
        }
    };
    let _ = stream.set_nodelay(true);
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    while take() {
        let began = Instant::now();
        let exchange = async {
            writer.write_all(&request).await?;
            answer(&mut reader).await
        };
        let answered = tokio::time::timeout(options.timeout, exchange).await;
        let answered = answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match answered {
            Ok((202, _)) => {
                report.accepted += 1;
                report.latency.record_us(began.elapsed().as_micros() as u64);
            }
            Ok((status, body)) => {
                report.failed += 1;
                let text = String::from_utf8_lossy(&body).into_owned();
                report.complaint.get_or_insert_with(|| format!("{status} {text}"));
            }
            Err(error) => {
                report.failed += 1;
                report.complaint.get_or_insert_with(|| error.to_string());
                return report;
            }
        }
    }
    report
}
