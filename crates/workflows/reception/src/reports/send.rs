//! Sending what was collected, when an interval is over.

use super::collect::wall_seconds;
use super::{Collector, ReportsConfig};
use crate::context::Context;
use crate::intake::Submission;
use crate::verify::drive;
use flate2::{Compression, write::GzEncoder};
use mail::{Envelope, Host, Mailbox, Notify, Origin, Protocol, Recipient, ReversePath, UnixMillis};
use mailauth::dmarc::report::{Aggregate, Bounds, LINE_MAX_OCTETS, Metadata, Receivers, Report};
use message::{ReceivedField, write_base64, write_date};
use routing::Gathered;
use spool::Content;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long the questions about the addresses of one report may take.
const ADDRESSES_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it is looked whether an interval is over, at most; and how long a report waits that found no room.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Sends reports until the server stops.
pub async fn report(context: Arc<Context>, collector: Arc<Collector>, config: ReportsConfig) {
    let look = LOOK_INTERVAL.min(config.interval);
    loop {
        tokio::time::sleep(look).await;
        let over = match collector.over(wall_seconds()) {
            Ok(over) => over,
            Err(error) => {
                warn!(%error, "cannot look for DMARC reports to send");
                continue;
            }
        };
        for (begin, path) in over {
            if context.is_draining() {
                return;
            }
            if let Err(error) = interval(&context, &collector, &config, begin, &path).await {
                warn!(%error, file = %path.display(), "DMARC reports not sent, tried again later");
            }
        }
    }
}

/// Sends the reports of one interval, and then forgets it.
async fn interval(
    context: &Arc<Context>,
    collector: &Collector,
    config: &ReportsConfig,
    begin: u64,
    path: &Path,
) -> io::Result<()> {
    let bounds = Bounds { domains_max: config.domains_max, rows_max: config.rows_max };
    let file = path.to_owned();
    // Reading and adding up a day is work for seconds.
    let aggregate =
        tokio::task::spawn_blocking(move || read(&file, bounds)).await.map_err(io::Error::other)??;
    collector.figures.left_out.fetch_add(aggregate.left_out(), Relaxed);
    let (mut sent, mut failed) = (0_u64, 0_u64);
    for report in aggregate.into_reports() {
        match one(context, collector, config, begin, report).await {
            true => sent += 1,
            false => failed += 1,
        }
        // The rest goes after the next start, and so do those that were sent: their ids tell.
        if context.is_draining() {
            return Ok(());
        }
    }
    collector.figures.sent.fetch_add(sent, Relaxed);
    collector.figures.not_sent.fetch_add(failed, Relaxed);
    info!(begin, sent, failed, "DMARC reports sent");
    tokio::fs::remove_file(path).await
}

fn read(path: &Path, bounds: Bounds) -> io::Result<Aggregate> {
    let mut aggregate = Aggregate::default();
    let mut file = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without an end, be it as long as the file, is read in pieces that are no lines.
        if file.by_ref().take(LINE_MAX_OCTETS as u64).read_until(b'\n', &mut line)? == 0 {
            return Ok(aggregate);
        }
        aggregate.add(line.strip_suffix(b"\n").unwrap_or(&line), bounds);
    }
}

/// Sends one report. False if nobody takes it.
async fn one(
    context: &Arc<Context>,
    collector: &Collector,
    config: &ReportsConfig,
    begin: u64,
    report: Report,
) -> bool {
    let host = context.host();
    let Host::Domain(name) = &host else { return false };
    let from = match &config.email {
        Some(email) => email.0.clone(),
        None => match Mailbox::parse(&format!("dmarc-reports@{name}")) {
            Ok(from) => from,
            Err(_) => return false,
        },
    };
    let receivers = Receivers::new(&report.domain, &report.record.report_to);
    let agreed = drive::drive(receivers, &*context.dns, Instant::now() + ADDRESSES_TIMEOUT).await;
    let to: Vec<Mailbox> = agreed.iter().filter_map(|address| Mailbox::parse(address).ok()).collect();
    if to.is_empty() {
        return false;
    }
    let (submitter, settings, sender, addresses) = (name.clone(), config.clone(), from.clone(), to.clone());
    let end = begin + collector.interval() - 1;
    let work = move || {
        let org_name = settings.org_name.as_deref().unwrap_or(submitter.as_str());
        let metadata = Metadata {
            org_name,
            email: &sender.to_string(),
            contact: settings.contact.as_deref(),
            submitter: submitter.as_str(),
            begin,
            end,
        };
        let mut zipped = GzEncoder::new(Vec::new(), Compression::default());
        zipped.write_all(report.to_xml(&metadata).as_bytes()).ok()?;
        let zipped = zipped.finish().ok()?;
        if zipped.len() > settings.report_max.len() {
            return None;
        }
        Some(mail_of(&report, &metadata, &sender, &addresses, &zipped))
    };
    let Ok(Some(content)) = tokio::task::spawn_blocking(work).await else { return false };
    submit(context, host, from, to, content).await
}

/// The mail that carries a report (RFC 9990 §4.5).
fn mail_of(
    report: &Report,
    metadata: &Metadata<'_>,
    from: &Mailbox,
    to: &[Mailbox],
    zipped: &[u8],
) -> Vec<u8> {
    let id = report.id(metadata);
    let (domain, submitter) = (&report.domain, metadata.submitter);
    let file = report.file_name(metadata);
    let to: Vec<String> = to.iter().map(|mailbox| format!("<{mailbox}>")).collect();
    let boundary = format!("=_report_{}", metadata.begin);
    let mut out = Vec::with_capacity(1024 + zipped.len() * 3 / 2);
    let mut line = |text: &str| {
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
    };
    line(&format!("From: DMARC reports <{from}>"));
    line(&format!("To: {}", to.join(",\r\n\t")));
    line(&format!("Subject: Report Domain: {domain}\r\n\tSubmitter: {submitter}\r\n\tReport-ID: <{id}>"));
    line(&format!("Message-ID: <{id}@{submitter}>"));
    line("Auto-Submitted: auto-generated\r\nMIME-Version: 1.0");
    line(&format!("Content-Type: multipart/mixed; boundary=\"{boundary}\""));
    out.extend_from_slice(b"Date: ");
    write_date(&mut out, UnixMillis(wall_seconds() * 1000));
    let text = format!(
        "\r\n\r\n--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\
         This is an aggregate report of DMARC (RFC 9990) about mail of {domain}\r\nthat {submitter} received: \
         {} messages.\r\n\r\n--{boundary}\r\nContent-Type: application/gzip\r\n\
         Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment;\r\n\tfilename=\"{file}\"\r\n\r\n",
        report.messages()
    );
    out.extend_from_slice(text.as_bytes());
    write_base64(&mut out, zipped);
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    out
}

async fn submit(
    context: &Arc<Context>,
    host: Host,
    from: Mailbox,
    to: Vec<Mailbox>,
    content: Vec<u8>,
) -> bool {
    let origin =
        Origin { protocol: Protocol::Internal, listener: "dmarc-reports".into(), ..Origin::default() };
    let (id, at) = (context.next_id(), UnixMillis(wall_seconds() * 1000));
    let mut prefix = Vec::new();
    ReceivedField { origin: &origin, smtputf8: false, id, by: &host, for_recipient: None, at }
        .write(&mut prefix);
    let recipients = to.into_iter().map(|mailbox| {
        // A report that nobody takes is not worth another mail.
        Recipient { notify: Notify::NEVER, ..Recipient::new(mailbox) }
    });
    let envelope = Envelope::new(ReversePath::Mailbox(from), recipients.collect());
    let content = Content { prefix: prefix.into(), body: content.into() };
    loop {
        if context.refusal_now(content.len()).is_none()
            && let Ok(place) = context.place().await
        {
            let asked = Gathered::default();
            let submission = Submission {
                id,
                at,
                envelope: envelope.clone(),
                origin: origin.clone(),
                asked,
                extras: None,
                content: content.clone(),
            };
            if context.submit(place, submission).await.is_ok() {
                return true;
            }
        }
        if context.is_draining() {
            return false;
        }
        // Other mail goes first when there is no room.
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
