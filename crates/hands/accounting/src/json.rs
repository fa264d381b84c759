//! JSON lines, version 1. `docs/accounting.md` is the contract; what it lists is never renamed, and new fields
//! only come at the end.

use crate::config::FileConfig;
use crate::record::{Kind, Record};
use crate::status::status_of;
use crate::time::{TimeWriter, push_number};
use mail::{BounceClass, FieldName, Priority, Protocol};
use std::fmt::{Display, Write};
use std::net::SocketAddr;

/// The fields in the order in which they are written. `v`, `kind` and `time` are in every record.
const FIELDS: [&str; 55] = [
    "v",
    "kind",
    "time",
    "id",
    "session",
    "received_at",
    "sender",
    "recipient",
    "index",
    "orcpt",
    "envid",
    "size",
    "code",
    "status",
    "reply",
    "category",
    "attempt",
    "first_attempt",
    "duration_ms",
    "latency_ms",
    "ambiguous",
    "queue",
    "job",
    "via",
    "site",
    "host",
    "remote",
    "local",
    "source",
    "pool",
    "tls",
    "cipher",
    "tls_policy",
    "tls_verified",
    "extensions",
    "client",
    "helo",
    "listener",
    "protocol",
    "user",
    "tenant",
    "campaign",
    "priority",
    "class",
    "format",
    "found_by",
    "proven",
    "action",
    "reporting_mta",
    "remote_mta",
    "feedback_type",
    "user_agent",
    "source_ip",
    "reported_domain",
    "provider",
];

const ALWAYS: u64 = 0b111;

/// Which fields each kind of record has.
#[derive(Clone, Debug)]
pub(crate) struct JsonLayout {
    masks: [u64; Kind::ALL.len()],
    headers: Vec<FieldName>,
}

impl JsonLayout {
    /// The layout a file asks for, or the setting at fault and why.
    pub(crate) fn new(config: &FileConfig) -> Result<Self, (&'static str, String)> {
        let mut masks = [u64::MAX; Kind::ALL.len()];
        for &kind in Kind::ALL {
            let names = config.fields_of(kind);
            if names.is_empty() {
                continue;
            }
            masks[kind as usize] = ALWAYS;
            for name in names {
                let bit = FIELDS.iter().position(|field| field == name);
                let bit = bit.ok_or_else(|| ("fields", format!("no field is called {name:?}")))?;
                masks[kind as usize] |= 1 << bit;
            }
        }
        Ok(Self { masks, headers: config.header_names() })
    }
}

impl Default for JsonLayout {
    /// Every field, and no header field of the message.
    fn default() -> Self {
        Self { masks: [u64::MAX; Kind::ALL.len()], headers: Vec::new() }
    }
}

/// Writes records as JSON lines with every field, for whoever keeps them elsewhere than in a file of accounting.
#[derive(Debug)]
pub struct JsonLines(JsonWriter);

impl Default for JsonLines {
    fn default() -> Self {
        Self(JsonWriter::new(JsonLayout::default()))
    }
}

impl JsonLines {
    /// Appends a record as one line.
    pub fn write(&mut self, out: &mut Vec<u8>, record: &Record) {
        self.0.write(out, record);
    }
}

/// Writes records as lines.
#[derive(Debug)]
pub(crate) struct JsonWriter {
    layout: JsonLayout,
    times: TimeWriter,
    /// For values that have to be formatted before they are escaped; kept, so that it is allocated once.
    scratch: String,
}

/// One line while it is written.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    mask: u64,
    field: usize,
}

impl Line<'_> {
    /// Steps to the next field of [`FIELDS`], which must be `name`; true if it is wanted, with its key written.
    fn key(&mut self, name: &'static str, present: bool) -> bool {
        debug_assert_eq!(FIELDS[self.field], name);
        let wanted = present && self.mask >> self.field & 1 == 1;
        self.field += 1;
        if wanted {
            self.out.extend_from_slice(b",\"");
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"\":");
        }
        wanted
    }

    fn text(&mut self, name: &'static str, value: Option<&str>) {
        let value = value.unwrap_or("");
        if self.key(name, !value.is_empty()) {
            push_string(self.out, value);
        }
    }

    fn number(&mut self, name: &'static str, value: Option<u64>) {
        if self.key(name, value.is_some()) {
            push_number(self.out, value.unwrap_or(0));
        }
    }

    fn display(&mut self, name: &'static str, scratch: &mut String, value: Option<impl Display>) {
        if let (true, Some(value)) = (self.key(name, value.is_some()), value) {
            scratch.clear();
            // Writing to a string cannot fail unless the value itself refuses; then the text stays short.
            let _ = write!(scratch, "{value}");
            push_string(self.out, scratch);
        }
    }
}

impl JsonWriter {
    pub(crate) fn new(layout: JsonLayout) -> Self {
        Self { layout, times: TimeWriter::default(), scratch: String::new() }
    }

    /// Appends `record` as one line.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, record: &Record) {
        let Self { layout, times, scratch } = self;
        let message = record.message();
        let recipient = record.recipient();
        let reply = record.reply.as_deref();
        let connection = record.connection.as_deref();
        let attempt = &record.attempt;
        let tried = attempt.number > 0;
        let origin = record.origin();
        let tags = record.tags();
        let status = status_of(record);
        let failed =
            matches!(record.kind, Kind::Deferred | Kind::Bounced | Kind::Expired | Kind::RemoteBounce);

        out.extend_from_slice(b"{\"v\":1,\"kind\":\"");
        out.extend_from_slice(record.kind.as_str().as_bytes());
        out.extend_from_slice(b"\",\"time\":\"");
        times.iso_millis(out, record.time);
        out.push(b'"');
        let mut line = Line { out, mask: layout.masks[record.kind as usize], field: 3 };
        line.display("id", scratch, record.id());
        line.display("session", scratch, origin.session);
        if line.key("received_at", message.is_some()) {
            line.out.push(b'"');
            times.iso_millis(line.out, message.map_or(record.time, |message| message.received_at));
            line.out.push(b'"');
        }
        // The null path is a sender too: "" and an absent field say different things.
        let sender = record.sender();
        if line.key("sender", sender.is_some()) {
            push_string(line.out, sender.unwrap_or(""));
        }
        line.text("recipient", Some(record.recipient_text()));
        line.number(
            "index",
            match record.subject {
                crate::Subject::Recipient(_, index) => Some(u64::from(index)),
                crate::Subject::Refused(_) => None,
                crate::Subject::Reported(ref reported) => reported.index.map(u64::from),
            },
        );
        line.text("orcpt", recipient.and_then(|recipient| recipient.orcpt.as_deref()));
        line.text("envid", record.envid());
        line.number("size", message.map(|message| message.octets_each()));
        line.number("code", reply.map(|reply| u64::from(reply.code.get())));
        line.display("status", scratch, status.filter(|_| record.kind != Kind::Received));
        line.display("reply", scratch, reply);
        line.text("category", Some(record.category()).filter(|_| failed));
        line.number("attempt", tried.then_some(u64::from(attempt.number)));
        if line.key("first_attempt", attempt.first.is_some()) {
            line.out.push(b'"');
            times.iso_millis(line.out, attempt.first.unwrap_or_default());
            line.out.push(b'"');
        }
        line.number("duration_ms", tried.then_some(attempt.duration.as_millis() as u64));
        let later = message.is_some() && record.kind != Kind::Received;
        line.number("latency_ms", later.then(|| record.since_received_ms()));
        if line.key("ambiguous", attempt.ambiguous) {
            line.out.extend_from_slice(b"true");
        }
        line.text("queue", record.queue.as_deref());
        line.text("job", tags.and_then(|tags| tags.job.as_deref()));
        line.text("via", connection.map(|connection| connection.via.as_str()));
        line.text("site", connection.map(|connection| &*connection.site));
        line.text("host", connection.map(|connection| &*connection.host));
        line.display("remote", scratch, connection.and_then(|connection| connection.remote).map(plain));
        line.display("local", scratch, connection.and_then(|connection| connection.local).map(plain));
        line.text("source", connection.map(|connection| &*connection.source));
        line.text("pool", record.pool());
        // An outcome tells of its own connection's TLS, a receipt or refusal of the client's.
        let inbound = matches!(record.kind, Kind::Received | Kind::Rejected) || record.report().is_some();
        let tls = if inbound { origin.tls.as_ref() } else { connection.and_then(|c| c.tls.as_ref()) };
        line.text("tls", tls.map(|tls| &*tls.protocol));
        line.text("cipher", tls.map(|tls| &*tls.cipher));
        let asked = connection.map(|connection| &*connection.tls_policy).filter(|asked| !asked.is_empty());
        line.text("tls_policy", asked);
        line.text("tls_verified", connection.and_then(|connection| connection.tls_verified.as_deref()));
        line.text("extensions", connection.map(|connection| &*connection.extensions));
        line.display("client", scratch, origin.peer.map(plain));
        line.text("helo", Some(&origin.helo));
        line.text("listener", Some(&origin.listener));
        line.text(
            "protocol",
            Some(match origin.protocol {
                Protocol::Smtp => "smtp",
                Protocol::Esmtp => "esmtp",
                Protocol::Lmtp => "lmtp",
                Protocol::Internal => "internal",
                Protocol::Http => "http",
            }),
        );
        line.text("user", origin.user.as_deref());
        line.text("tenant", tags.and_then(|tags| tags.tenant.as_deref()));
        line.text("campaign", tags.and_then(|tags| tags.campaign.as_deref()));
        let priority = tags.map(|tags| tags.priority).filter(|priority| *priority != Priority::default());
        line.text("priority", priority.map(Priority::as_str));
        line.text("class", record.class.map(BounceClass::as_str));
        let report = record.report();
        line.text("format", report.map(|report| report.format));
        line.text("found_by", report.map(|report| report.found_by));
        if line.key("proven", report.is_some()) {
            let proven = report.is_some_and(|report| report.proven);
            line.out.extend_from_slice(if proven { b"true" } else { b"false" });
        }
        line.text("action", report.map(|report| report.action));
        line.text("reporting_mta", report.and_then(|report| report.reporting_mta.as_deref()));
        line.text("remote_mta", report.and_then(|report| report.remote_mta.as_deref()));
        line.text("feedback_type", report.and_then(|report| report.feedback_type.as_deref()));
        line.text("user_agent", report.and_then(|report| report.user_agent.as_deref()));
        line.text("source_ip", report.and_then(|report| report.source_ip.as_deref()));
        line.text("reported_domain", report.and_then(|report| report.reported_domain.as_deref()));
        line.text("provider", connection.and_then(|connection| connection.provider.as_deref()));
        debug_assert_eq!(line.field, FIELDS.len());
        for name in &layout.headers {
            if let Some(text) = record.header(name) {
                out.push(b',');
                scratch.clear();
                scratch.push_str("header_");
                scratch.push_str(name.as_str());
                push_string(out, scratch);
                out.push(b':');
                push_string(out, text);
            }
        }
        out.extend_from_slice(b"}\n");
    }
}

/// IPv4 in its own form, also where the socket speaks IPv6 to it.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Appends `text` as a JSON string.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let special = |b: u8| b < 32 || b == b'"' || b == b'\\' || b == 127;
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    while let Some(len) = bytes[from..].iter().position(|&b| special(b)) {
        out.extend_from_slice(&bytes[from..from + len]);
        match bytes[from + len] {
            b @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', b]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b => out.extend_from_slice(&[
                b'\\',
                b'u',
                b'0',
                b'0',
                HEX[usize::from(b >> 4)],
                HEX[usize::from(b & 15)],
            ]),
        }
        from += len + 1;
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings() {
        for text in ["", "a", "a\"b\\c", "\0\n\r\t\u{1f}\u{7f}", "</script>δ😀\u{2028}"] {
            let mut out = Vec::new();
            push_string(&mut out, text);
            assert!(out.iter().all(|&b| b >= 32 && b != 127));
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn every_field_is_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/accounting.md");
        let text = std::fs::read_to_string(path).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        assert_eq!(rows.collect::<Vec<_>>(), FIELDS);
    }
}
