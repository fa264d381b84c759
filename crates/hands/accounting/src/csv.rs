//! CSV as PowerMTA writes it, so that what reads its accounting files reads ours: RFC 4180, CRLF, a header line
//! first, `type` in column 1, files of several types with the union of their columns.
//!
//! What differs: times are UTC always, `Discarded` is a `b` with `dlvType` discard, and `header_X` columns stand
//! behind all others.

use crate::config::FileConfig;
use crate::record::{Connection, Kind, Record, Via};
use crate::status::{status_of, status_text};
use crate::time::{TimeWriter, push_number};
use mail::{FieldName, Protocol, UnixMillis};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

/// The word in column 1; `None` for what PowerMTA has no record of.
pub(crate) fn type_word(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Received => Some("r"),
        Kind::Delivered => Some("d"),
        Kind::Deferred => Some("t"),
        Kind::Bounced | Kind::Expired | Kind::Discarded | Kind::Suppressed => Some("b"),
        Kind::RemoteBounce => Some("rb"),
        Kind::RemoteStatus => Some("rs"),
        Kind::Complained => Some("f"),
        Kind::Rejected => None,
    }
}

macro_rules! columns {
    ($($variant:ident $name:literal,)*) => {
        /// A column, named as PowerMTA names it; the last three are ours.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Column { $($variant,)* }

        impl Column {
            const ALL: &[(Self, &str)] = &[$((Self::$variant, $name),)*];
        }
    };
}

columns! {
    TimeLogged "timeLogged",
    TimeQueued "timeQueued",
    TimeImprinted "timeImprinted",
    TimeFirstAttempt "timeFirstAttempt",
    TotalSecondsQueued "totalSecondsQueued",
    Orig "orig",
    Rcpt "rcpt",
    Orcpt "orcpt",
    DsnAction "dsnAction",
    DsnStatus "dsnStatus",
    DsnDiag "dsnDiag",
    DsnMta "dsnMta",
    BounceCat "bounceCat",
    SrcType "srcType",
    SrcMta "srcMta",
    RcvSourceIp "rcvSourceIp",
    RcvDestinationIp "rcvDestinationIp",
    RcvSmtpUser "rcvSmtpUser",
    DlvType "dlvType",
    DlvSourceIp "dlvSourceIp",
    DlvDestinationIp "dlvDestinationIp",
    DlvEsmtpAvailable "dlvEsmtpAvailable",
    DlvSize "dlvSize",
    DlvTlsProtocol "dlvTlsProtocol",
    DlvTlsCipher "dlvTlsCipher",
    Vmta "vmta",
    JobId "jobId",
    EnvId "envId",
    Queue "queue",
    VmtaPool "vmtaPool",
    UserString "userString",
    DsnReportingMta "dsnReportingMta",
    Format "format",
    RepSourceIp "repSourceIp",
    FeedbackType "feedbackType",
    UserAgent "userAgent",
    ReportingMta "reportingMta",
    ReportedDomain "reportedDomain",
    Tenant "tenant",
    Campaign "campaign",
    Priority "priority",
}

impl Column {
    fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, text)| *text == name).map(|(column, _)| *column)
    }

    fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// Columns of d, b and t when none are chosen.
const OUTCOME: &[Column] = &[
    Column::TimeLogged,
    Column::TimeQueued,
    Column::Orig,
    Column::Rcpt,
    Column::Orcpt,
    Column::DsnAction,
    Column::DsnStatus,
    Column::DsnDiag,
    Column::DsnMta,
    Column::BounceCat,
    Column::SrcType,
    Column::SrcMta,
    Column::DlvType,
    Column::DlvSourceIp,
    Column::DlvDestinationIp,
    Column::DlvEsmtpAvailable,
    Column::DlvSize,
    Column::Vmta,
    Column::JobId,
    Column::EnvId,
    Column::Queue,
    Column::VmtaPool,
];

/// Columns of r when none are chosen.
const RECEIPT: &[Column] = &[
    Column::TimeLogged,
    Column::Orig,
    Column::Rcpt,
    Column::Orcpt,
    Column::SrcType,
    Column::SrcMta,
    Column::RcvSourceIp,
    Column::RcvDestinationIp,
    Column::Vmta,
    Column::JobId,
    Column::EnvId,
];

/// Columns of rb and rs when none are chosen.
const REMOTE: &[Column] = &[
    Column::TimeLogged,
    Column::Orig,
    Column::Rcpt,
    Column::Orcpt,
    Column::DsnAction,
    Column::DsnStatus,
    Column::DsnDiag,
    Column::DsnMta,
    Column::DsnReportingMta,
    Column::BounceCat,
    Column::SrcType,
    Column::SrcMta,
    Column::JobId,
    Column::EnvId,
    Column::Format,
];

/// Columns of f when none are chosen.
const FEEDBACK: &[Column] = &[
    Column::TimeLogged,
    Column::RepSourceIp,
    Column::FeedbackType,
    Column::Format,
    Column::UserAgent,
    Column::JobId,
    Column::EnvId,
    Column::Orig,
    Column::Rcpt,
    Column::ReportingMta,
    Column::DlvSourceIp,
    Column::ReportedDomain,
];

/// The columns of a file, and which of them each kind fills.
#[derive(Clone, Debug)]
pub(crate) struct CsvLayout {
    columns: Vec<Column>,
    /// For each kind one flag a column.
    filled: [Vec<bool>; Kind::ALL.len()],
    /// Header fields, each a column behind these.
    headers: Vec<FieldName>,
    iso_times: bool,
    user_string: String,
}

impl CsvLayout {
    /// The layout a file asks for, or the setting at fault and why.
    pub(crate) fn new(config: &FileConfig) -> Result<Self, (&'static str, String)> {
        let mut columns: Vec<Column> = Vec::new();
        let mut chosen: [Vec<Column>; Kind::ALL.len()] = Default::default();
        for kind in config.kinds() {
            if type_word(kind).is_none() {
                return Err(("records", format!("{} has no form in CSV", kind.as_str())));
            }
            let names = config.fields_of(kind);
            let list = if names.is_empty() {
                match kind {
                    Kind::Received => RECEIPT.to_vec(),
                    Kind::RemoteBounce | Kind::RemoteStatus => REMOTE.to_vec(),
                    Kind::Complained => FEEDBACK.to_vec(),
                    _ => OUTCOME.to_vec(),
                }
            } else {
                let parse = |name: &String| {
                    Column::parse(name).ok_or_else(|| ("fields", format!("no column is called {name:?}")))
                };
                names.iter().filter(|name| *name != "type").map(parse).collect::<Result<Vec<_>, _>>()?
            };
            for column in &list {
                if !columns.contains(column) {
                    columns.push(*column);
                }
            }
            chosen[kind as usize] = list;
        }
        let filled = chosen.map(|list| columns.iter().map(|column| list.contains(column)).collect());
        let headers = config.header_names();
        let (iso_times, user_string) = (config.iso_times, config.user_string.clone());
        Ok(Self { columns, filled, headers, iso_times, user_string })
    }
}

/// Writes records as CSV lines.
#[derive(Debug)]
pub(crate) struct CsvWriter {
    layout: CsvLayout,
    times: TimeWriter,
    scratch: Vec<u8>,
}

impl CsvWriter {
    pub(crate) fn new(layout: CsvLayout) -> Self {
        Self { layout, times: TimeWriter::default(), scratch: Vec::new() }
    }

    /// Appends the header line.
    pub(crate) fn header(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"type");
        for column in &self.layout.columns {
            out.push(b',');
            out.extend_from_slice(column.name().as_bytes());
        }
        for name in &self.layout.headers {
            out.push(b',');
            push_value(out, format!("header_{name}").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Appends `record` as one line; nothing for a kind without a form.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, record: &Record) {
        let Some(word) = type_word(record.kind) else { return };
        out.extend_from_slice(word.as_bytes());
        for (n, column) in self.layout.columns.iter().enumerate() {
            out.push(b',');
            if self.layout.filled[record.kind as usize].get(n) == Some(&true) {
                self.scratch.clear();
                let format = Format { iso: self.layout.iso_times, user_string: &self.layout.user_string };
                format.value(&mut self.scratch, &mut self.times, *column, record);
                push_value(out, &self.scratch);
            }
        }
        for name in &self.layout.headers {
            out.push(b',');
            push_value(out, record.header(name).unwrap_or("").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
}

struct Format<'a> {
    iso: bool,
    user_string: &'a str,
}

impl Format<'_> {
    fn value(&self, out: &mut Vec<u8>, times: &mut TimeWriter, column: Column, record: &Record) {
        let message = record.message();
        let connection = record.connection.as_deref();
        let origin = record.origin();
        let tags = record.tags();
        let mut time = |out: &mut Vec<u8>, at: Option<UnixMillis>| match at {
            Some(at) if self.iso => times.iso_zone(out, at),
            Some(at) => push_number(out, at.0 / 1_000),
            None => {}
        };
        let text =
            |out: &mut Vec<u8>, text: Option<&str>| out.extend_from_slice(text.unwrap_or("").as_bytes());
        match column {
            Column::TimeLogged => time(out, Some(record.time)),
            Column::TimeQueued | Column::TimeImprinted => {
                time(out, message.map(|message| message.received_at))
            }
            Column::TimeFirstAttempt => time(out, record.attempt.first),
            Column::TotalSecondsQueued => push_number(out, record.since_received_ms() / 1_000),
            Column::Orig => text(out, record.sender()),
            Column::Rcpt => text(out, Some(record.recipient_text())),
            Column::Orcpt => text(out, record.recipient().and_then(|recipient| recipient.orcpt.as_deref())),
            Column::DsnAction => text(out, Some(dsn_action(record))),
            Column::DsnStatus => {
                if let Some(status) = status_of(record) {
                    // Writing to a vector cannot fail.
                    let _ = write!(out, "{status} ({})", status_text(status));
                }
            }
            Column::DsnDiag => {
                if let Some(reply) = &record.reply {
                    let by =
                        if connection.is_some() || record.report().is_some() { "smtp" } else { "x-tuma" };
                    let _ = write!(out, "{by};{reply}");
                }
            }
            Column::DsnMta => {
                if let Some(connection) = connection {
                    host_and_ip(out, &connection.host, connection.remote);
                }
                text(out, record.report().and_then(|report| report.remote_mta.as_deref()));
            }
            Column::BounceCat => {
                if matches!(
                    record.kind,
                    Kind::Bounced
                        | Kind::Expired
                        | Kind::Deferred
                        | Kind::Discarded
                        | Kind::Suppressed
                        | Kind::RemoteBounce
                ) {
                    text(out, Some(record.category()));
                }
            }
            Column::SrcType => {
                let api = matches!(origin.protocol, Protocol::Internal | Protocol::Http);
                text(out, Some(if api { "api" } else { "smtp" }));
            }
            Column::SrcMta => host_and_ip(out, &origin.helo, origin.peer),
            Column::RcvSourceIp => ip(out, origin.peer),
            Column::RcvDestinationIp => ip(out, origin.local),
            Column::RcvSmtpUser => text(out, origin.user.as_deref()),
            Column::DlvType => match (record.kind, connection) {
                (Kind::Discarded, _) => text(out, Some(Via::Discard.as_str())),
                (_, connection) => text(out, connection.map(|connection| connection.via.as_str())),
            },
            Column::DlvSourceIp => {
                ip(out, connection.and_then(|connection| connection.local));
                text(out, record.report().and_then(|report| report.source_ip.as_deref()));
            }
            Column::DlvDestinationIp => ip(out, connection.and_then(|connection| connection.remote)),
            Column::DlvEsmtpAvailable => text(out, connection.map(|connection| &*connection.extensions)),
            Column::DlvSize => push_number(out, message.map_or(0, |message| message.octets_each())),
            Column::DlvTlsProtocol => text(out, tls(connection).map(|tls| &*tls.protocol)),
            Column::DlvTlsCipher => text(out, tls(connection).map(|tls| &*tls.cipher)),
            // Of a receipt nothing is known but what was asked for, which PowerMTA writes here.
            Column::Vmta if record.kind == Kind::Received => text(out, record.pool()),
            Column::Vmta => text(out, connection.map(|connection| &*connection.source)),
            Column::JobId => text(out, tags.and_then(|tags| tags.job.as_deref())),
            Column::EnvId => text(out, record.envid()),
            Column::Queue => text(out, record.queue.as_deref()),
            Column::VmtaPool => text(out, record.pool()),
            Column::UserString => text(out, Some(self.user_string)),
            Column::DsnReportingMta | Column::ReportingMta => {
                text(out, record.report().and_then(|report| report.reporting_mta.as_deref()));
            }
            Column::Format => text(out, record.report().map(|report| report.format)),
            Column::RepSourceIp => ip(out, origin.peer),
            Column::FeedbackType => {
                text(out, record.report().and_then(|report| report.feedback_type.as_deref()));
            }
            Column::UserAgent => text(out, record.report().and_then(|report| report.user_agent.as_deref())),
            Column::ReportedDomain => {
                text(out, record.report().and_then(|report| report.reported_domain.as_deref()));
            }
            Column::Tenant => text(out, tags.and_then(|tags| tags.tenant.as_deref())),
            Column::Campaign => text(out, tags.and_then(|tags| tags.campaign.as_deref())),
            Column::Priority => text(out, tags.map(|tags| tags.priority.as_str())),
        }
    }
}

fn tls(connection: Option<&Connection>) -> Option<&mail::TlsInfo> {
    connection.and_then(|connection| connection.tls.as_ref())
}

/// `relayed` means handed to another system, `delivered` into a mailbox.
fn dsn_action(record: &Record) -> &'static str {
    match record.kind {
        Kind::Delivered => match record.connection.as_ref().map(|connection| connection.via) {
            Some(Via::Lmtp | Via::Local) => "delivered",
            _ => "relayed",
        },
        Kind::Deferred => "delayed",
        Kind::Bounced | Kind::Expired | Kind::Discarded | Kind::Suppressed => "failed",
        Kind::RemoteBounce | Kind::RemoteStatus => record.report().map_or("", |report| report.action),
        Kind::Received | Kind::Rejected | Kind::Complained => "",
    }
}

fn ip(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    if let Some(address) = address {
        push_ip(out, address.ip().to_canonical());
    }
}

fn push_ip(out: &mut Vec<u8>, address: IpAddr) {
    let _ = write!(out, "{address}");
}

/// `mx.x.test (192.0.2.9)`
fn host_and_ip(out: &mut Vec<u8>, host: &str, address: Option<SocketAddr>) {
    out.extend_from_slice(host.as_bytes());
    if let Some(address) = address {
        out.extend_from_slice(if host.is_empty() { b"(" } else { b" (" });
        push_ip(out, address.ip().to_canonical());
        out.push(b')');
    }
}

/// Appends a value, quoted where RFC 4180 demands it. Control characters, which only a hostile peer sends, become
/// `?`: not every reader copes with line breaks inside quotes.
fn push_value(out: &mut Vec<u8>, value: &[u8]) {
    let quoted = value.iter().any(|b| matches!(b, b',' | b'"'));
    if quoted {
        out.push(b'"');
    }
    for &b in value {
        match b {
            b'"' => out.extend_from_slice(b"\"\""),
            0..=31 | 127 => out.push(b'?'),
            _ => out.push(b),
        }
    }
    if quoted {
        out.push(b'"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/accounting.md");
        let text = std::fs::read_to_string(path).unwrap();
        for (column, name) in Column::ALL {
            assert!(text.contains(&format!("`{name}`")), "{name}");
            assert_eq!(column.name(), *name);
        }
    }
}
