//! JSON lines with the field names that KumoMTA's records have, for what was written to read those.
//!
//! Every field is in every record, `null` where there is nothing to say. `docs/accounting.md` says what differs.

use crate::config::FileConfig;
use crate::json::{plain, push_string};
use crate::record::{Kind, Record, Via};
use crate::status::status_of;
use crate::time::{TimeWriter, push_number};
use mail::{FieldName, Host, Protocol, UnixMillis};
use std::fmt::{Display, Write};

/// The word for a kind; `None` for what KumoMTA has no record of.
pub(crate) fn type_word(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Received => "Reception",
        Kind::Delivered => "Delivery",
        Kind::Deferred => "TransientFailure",
        Kind::Bounced => "Bounce",
        Kind::Expired => "Expiration",
        // By order, or by a list that an operator keeps.
        Kind::Discarded | Kind::Suppressed => "AdminBounce",
        Kind::Rejected => "Rejection",
        Kind::RemoteBounce => "OOB",
        Kind::Complained => "Feedback",
        Kind::RemoteStatus => return None,
    })
}

/// What is wrong with a file of this form: its fields cannot be chosen.
pub(crate) fn problem(config: &FileConfig) -> Option<(&'static str, String)> {
    if !config.fields.is_empty() {
        return Some(("fields", "records in KumoMTA's form have all fields".to_owned()));
    }
    if !config.record_fields.is_empty() {
        return Some(("record_fields", "records in KumoMTA's form have all fields".to_owned()));
    }
    let formless = config.records.iter().find(|kind| type_word(**kind).is_none());
    formless.map(|kind| ("records", format!("KumoMTA has no record of {:?}", kind.as_str())))
}

/// Writes records as lines.
#[derive(Debug)]
pub(crate) struct KumoWriter {
    headers: Vec<FieldName>,
    times: TimeWriter,
    /// For values that have to be formatted before they are escaped.
    scratch: String,
}

/// One line while it is written.
struct Line<'a> {
    out: &'a mut Vec<u8>,
    scratch: &'a mut String,
}

impl Line<'_> {
    fn key(&mut self, name: &str) {
        if !self.out.ends_with(b"{") {
            self.out.push(b',');
        }
        push_string(self.out, name);
        self.out.push(b':');
    }

    fn value(&mut self, value: Option<impl Display>) {
        let Some(value) = value else {
            self.out.extend_from_slice(b"null");
            return;
        };
        self.scratch.clear();
        // Writing to a string cannot fail unless the value itself refuses; then the text stays short.
        let _ = write!(self.scratch, "{value}");
        push_string(self.out, self.scratch);
    }

    fn text(&mut self, name: &str, value: Option<impl Display>) {
        self.key(name);
        self.value(value);
    }

    fn number(&mut self, name: &str, value: Option<u64>) {
        self.key(name);
        match value {
            Some(value) => push_number(self.out, value),
            None => self.out.extend_from_slice(b"null"),
        }
    }

    /// An object, or `null`.
    fn object(&mut self, name: &str, is_there: bool, fill: impl FnOnce(&mut Self)) {
        self.key(name);
        if !is_there {
            self.out.extend_from_slice(b"null");
            return;
        }
        self.out.push(b'{');
        fill(self);
        self.out.push(b'}');
    }
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// `campaign:tenant@domain`, without what there is not.
fn queue(record: &Record) -> Option<String> {
    let tags = record.tags();
    let domain = match &record.recipient()?.path.0.host() {
        Host::Domain(domain) => domain.as_str().to_owned(),
        literal => literal.to_string(),
    };
    let (campaign, tenant) =
        (tags.and_then(|tags| tags.campaign.as_deref()), tags.and_then(|tags| tags.tenant.as_deref()));
    Some(match (campaign, tenant) {
        (Some(campaign), Some(tenant)) => format!("{campaign}:{tenant}@{domain}"),
        (Some(campaign), None) => format!("{campaign}:@{domain}"),
        (None, Some(tenant)) => format!("{tenant}@{domain}"),
        (None, None) => domain,
    })
}

impl KumoWriter {
    pub(crate) fn new(config: &FileConfig) -> Self {
        Self { headers: config.header_names(), times: TimeWriter::default(), scratch: String::new() }
    }

    /// Appends `record` as one line; nothing of a kind without a form.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, record: &Record) {
        let Some(word) = type_word(record.kind) else { return };
        let Self { headers, times, scratch } = self;
        let message = record.message();
        let connection = record.connection.as_deref();
        let origin = record.origin();
        let report = record.report();
        let tags = record.tags();
        let inbound = matches!(record.kind, Kind::Received | Kind::Rejected) || report.is_some();
        let tls = if inbound { origin.tls.as_ref() } else { connection.and_then(|c| c.tls.as_ref()) };
        let created = message.map_or(record.time, |message| message.received_at);
        out.push(b'{');
        let mut line = Line { out, scratch };
        line.text("type", Some(word));
        line.text("id", record.id());
        line.text("sender", Some(record.sender().unwrap_or("")));
        line.text("recipient", Some(record.recipient_text()));
        line.text("queue", queue(record));
        line.text("site", connection.and_then(|connection| some(&connection.site)));
        line.number("size", Some(message.map_or(0, |message| message.octets_each())));
        let reply = record.reply.as_deref();
        line.object("response", true, |line| {
            line.number("code", Some(reply.map_or(250, |reply| reply.code.get().into())));
            let status = status_of(record).map(|status| status.to_string());
            let mut parts = status.as_deref().unwrap_or("").split('.').map(|part| part.parse::<u64>().ok());
            let parts = [parts.next(), parts.next(), parts.next()].map(Option::flatten);
            line.object("enhanced_code", parts.iter().all(Option::is_some), |line| {
                for (name, part) in ["class", "subject", "detail"].iter().zip(parts) {
                    line.number(name, part);
                }
            });
            line.text("content", Some(reply.map_or("", |reply| &reply.text)));
            line.key("command");
            line.value(None::<&str>);
        });
        // Of what came in the other end is the client, of what went out the exchanger.
        let (name, address) = match inbound {
            true => (Some(&*origin.helo), origin.peer),
            false => (connection.map(|connection| &*connection.host), connection.and_then(|c| c.remote)),
        };
        line.object("peer_address", address.is_some(), |line| {
            line.text("name", Some(name.unwrap_or("")));
            line.text("addr", address.map(|address| plain(address).ip()));
        });
        let mut time = |line: &mut Line<'_>, seconds: &str, text: &str, at: UnixMillis| {
            line.number(seconds, Some(at.0 / 1_000));
            line.key(text);
            line.out.push(b'"');
            times.iso_millis(line.out, at);
            line.out.push(b'"');
        };
        time(&mut line, "timestamp", "event_time", record.time);
        time(&mut line, "created", "created_time", created);
        line.number("num_attempts", Some(record.attempt.number.saturating_sub(1).into()));
        let failed =
            matches!(record.kind, Kind::Deferred | Kind::Bounced | Kind::Expired | Kind::RemoteBounce);
        let class = record.class.map_or("Uncategorized", mail::BounceClass::kumo);
        line.text("bounce_classification", Some(if failed { class } else { "Uncategorized" }));
        line.text("egress_pool", record.pool());
        line.text("egress_source", connection.and_then(|connection| some(&connection.source)));
        let local = connection.and_then(|connection| connection.local);
        line.object("source_address", local.is_some(), |line| line.text("address", local.map(plain)));
        let feedback = report.filter(|_| record.kind == Kind::Complained);
        line.object("feedback_report", feedback.is_some(), |line| {
            let Some(report) = feedback else { return };
            line.text("feedback_type", Some(report.feedback_type.as_deref().unwrap_or("abuse")));
            line.text("user_agent", Some(report.user_agent.as_deref().unwrap_or("")));
            line.text("source_ip", report.source_ip.as_deref());
            line.text("reporting_mta", report.reporting_mta.as_deref());
            line.key("reported_domain");
            line.out.push(b'[');
            if report.reported_domain.is_some() {
                line.value(report.reported_domain.as_deref());
            }
            line.out.push(b']');
        });
        line.object("meta", true, |line| {
            let tag = |pick: fn(&mail::Tags) -> Option<&str>| tags.and_then(pick);
            for (name, tag) in [
                ("tenant", tag(|tags| tags.tenant.as_deref())),
                ("campaign", tag(|tags| tags.campaign.as_deref())),
                ("job", tag(|tags| tags.job.as_deref())),
            ] {
                if tag.is_some() {
                    line.text(name, tag);
                }
            }
        });
        line.object("headers", true, |line| {
            for name in headers.iter() {
                if let Some(text) = record.header(name) {
                    line.text(name.as_str(), Some(text));
                }
            }
        });
        let via = connection.map(|connection| match connection.via {
            Via::Smtp => "ESMTP",
            Via::Lmtp => "LMTP",
            Via::Local => "Maildir",
            Via::Discard => "Discard",
        });
        line.text("delivery_protocol", via);
        line.text(
            "reception_protocol",
            Some(match origin.protocol {
                Protocol::Smtp => "SMTP",
                Protocol::Esmtp => "ESMTP",
                Protocol::Lmtp => "LMTP",
                Protocol::Internal => "Internal",
                Protocol::Http => "HTTP",
            }),
        );
        line.text("nodeid", None::<&str>);
        line.text("tls_cipher", tls.map(|tls| &*tls.cipher));
        line.text("tls_protocol_version", tls.map(|tls| &*tls.protocol));
        line.text("tls_peer_subject_name", None::<&str>);
        line.text("provider_name", connection.and_then(|connection| connection.provider.as_deref()));
        line.text("session_id", origin.session);
        out.extend_from_slice(b"}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Attempt, Connection, Refused, Reported};
    use mail::{
        BounceClass, EnhancedStatusCode, Envelope, KeptField, Mailbox, Message, Origin, Recipient, Reply,
        ReversePath, SpoolId, Tags, TlsInfo,
    };
    use serde::Deserialize;
    use settings::Text;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    /// A record as a reader of KumoMTA's logs declares it: every field that is listed for it, and no other.
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Read {
        r#type: String,
        id: Option<String>,
        sender: String,
        recipient: String,
        queue: Option<String>,
        site: Option<String>,
        size: u64,
        response: Response,
        peer_address: Option<Peer>,
        timestamp: u64,
        event_time: String,
        created: u64,
        created_time: String,
        num_attempts: u16,
        bounce_classification: String,
        egress_pool: Option<String>,
        egress_source: Option<String>,
        source_address: Option<Source>,
        feedback_report: Option<Feedback>,
        meta: BTreeMap<String, serde_json::Value>,
        headers: BTreeMap<String, serde_json::Value>,
        delivery_protocol: Option<String>,
        reception_protocol: Option<String>,
        nodeid: Option<String>,
        tls_cipher: Option<String>,
        tls_protocol_version: Option<String>,
        tls_peer_subject_name: Option<Vec<String>>,
        provider_name: Option<String>,
        session_id: Option<String>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Response {
        code: u16,
        enhanced_code: Option<Enhanced>,
        content: String,
        command: Option<String>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Enhanced {
        class: u8,
        subject: u16,
        detail: u16,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Peer {
        name: String,
        addr: std::net::IpAddr,
    }

    #[derive(Debug, Deserialize)]
    struct Source {
        address: std::net::SocketAddr,
    }

    #[derive(Debug, Deserialize)]
    struct Feedback {
        feedback_type: String,
        user_agent: String,
        reported_domain: Vec<String>,
    }

    fn read(config: &FileConfig, record: &Record) -> Read {
        let mut out = Vec::new();
        KumoWriter::new(config).write(&mut out, record);
        assert!(out.ends_with(b"}\n") && out.iter().filter(|octet| **octet == b'\n').count() == 1);
        serde_json::from_slice(&out).unwrap_or_else(|why| panic!("{why}: {}", String::from_utf8_lossy(&out)))
    }

    fn message() -> Arc<Message> {
        let to = Recipient::new(Mailbox::parse("joe@x.test").unwrap());
        let text = |text: &str| Some(text.into());
        let field = KeptField { name: "Subject".into(), value: "50% \"off\"".into() };
        Arc::new(Message {
            id: SpoolId(7),
            received_at: UnixMillis(1_800_000_000_250),
            size: 1_234,
            envelope: Envelope::new(ReversePath::Null, vec![to]),
            origin: Origin {
                peer: Some("[::ffff:192.0.2.7]:1234".parse().unwrap()),
                helo: "client.test".into(),
                tls: Some(TlsInfo { protocol: "TLSv1.2".into(), cipher: "OWN".into() }),
                protocol: Protocol::Esmtp,
                ..Origin::default()
            },
            tags: Tags {
                tenant: text("acme"),
                campaign: text("spring"),
                job: text("j\u{1}1"),
                pool: text("bulk"),
                ..Tags::default()
            },
            headers: vec![field],
            extras: None,
        })
    }

    fn sent(kind: Kind, reply: Reply, class: Option<BounceClass>) -> Record {
        let connection = Connection {
            site: "mx.x.test".into(),
            provider: Some("big".into()),
            host: "mx1.x.test".into(),
            remote: Some("192.0.2.9:25".parse().unwrap()),
            local: Some("192.0.2.2:50000".parse().unwrap()),
            source: "v1".into(),
            pool: "p1".into(),
            tls: Some(TlsInfo { protocol: "TLSv1.3".into(), cipher: "TLS_AES_128_GCM_SHA256".into() }),
            ..Connection::default()
        };
        Record {
            reply: Some(Arc::new(reply)),
            connection: Some(Arc::new(connection)),
            attempt: Attempt { number: 3, ..Attempt::default() },
            class,
            ..Record::new(kind, UnixMillis(1_800_000_060_500), &message(), 0)
        }
    }

    #[test]
    fn a_reader_of_kumomtas_records_reads_every_kind_it_has() {
        let headers = vec![Text("Subject".parse().unwrap())];
        let config = FileConfig { headers, ..FileConfig::at("x") };
        let bounced =
            sent(Kind::Bounced, Reply::new(550, (5, 1, 1), "no such user"), Some(BounceClass::BadMailbox));
        let found = read(&config, &bounced);
        assert_eq!(
            (found.r#type.as_str(), found.bounce_classification.as_str()),
            ("Bounce", "InvalidRecipient")
        );
        assert_eq!((found.sender.as_str(), found.recipient.as_str()), ("", "joe@x.test"));
        assert_eq!(found.id, Some(SpoolId(7).to_string()));
        assert_eq!(found.queue.as_deref(), Some("spring:acme@x.test"));
        assert_eq!((found.site.as_deref(), found.size, found.num_attempts), (Some("mx.x.test"), 1_234, 2));
        assert_eq!((found.response.code, found.response.content.as_str()), (550, "no such user"));
        assert_eq!(found.response.enhanced_code, Some(Enhanced { class: 5, subject: 1, detail: 1 }));
        assert_eq!(found.response.command, None);
        let peer = found.peer_address.unwrap();
        assert_eq!((peer.name.as_str(), peer.addr.to_string().as_str()), ("mx1.x.test", "192.0.2.9"));
        assert_eq!((found.timestamp, found.event_time.as_str()), (1_800_000_060, "2027-01-15T08:01:00.500Z"));
        assert_eq!((found.created, found.created_time.as_str()), (1_800_000_000, "2027-01-15T08:00:00.250Z"));
        assert_eq!((found.egress_pool.as_deref(), found.egress_source.as_deref()), (Some("p1"), Some("v1")));
        assert_eq!(found.source_address.unwrap().address.to_string(), "192.0.2.2:50000");
        assert_eq!(
            (found.meta["tenant"].as_str(), found.meta["job"].as_str()),
            (Some("acme"), Some("j\u{1}1"))
        );
        assert_eq!(found.headers["Subject"], "50% \"off\"");
        assert_eq!(
            (found.delivery_protocol.as_deref(), found.reception_protocol.as_deref()),
            (Some("ESMTP"), Some("ESMTP"))
        );
        assert_eq!(found.tls_protocol_version.as_deref(), Some("TLSv1.3"));
        assert_eq!(found.tls_cipher.as_deref(), Some("TLS_AES_128_GCM_SHA256"));
        assert_eq!(found.provider_name.as_deref(), Some("big"));
        assert!(
            found.tls_peer_subject_name.is_none() && found.nodeid.is_none() && found.session_id.is_none()
        );

        // Of what comes in, the other end and its TLS are the client's.
        let received =
            read(&config, &Record::new(Kind::Received, UnixMillis(1_800_000_000_250), &message(), 0));
        assert_eq!(received.peer_address.unwrap().addr.to_string(), "192.0.2.7");
        assert_eq!((received.tls_cipher.as_deref(), received.delivery_protocol), (Some("OWN"), None));
        let refused = Refused { recipient: Some("jo\"e".into()), ..Refused::default() };
        let reply = Arc::new(Reply::new(550, (5, 7, 1), "no"));
        let rejected = read(&config, &Record::rejected(UnixMillis(1), Arc::new(refused), reply));
        assert_eq!((rejected.r#type.as_str(), rejected.recipient.as_str()), ("Rejection", "jo\"e"));
        let reported = Reported {
            feedback_type: Some("fraud".into()),
            reported_domain: Some("a.test".into()),
            status: Some(EnhancedStatusCode::new(5, 1, 1)),
            ..Reported::default()
        };
        let complained = read(
            &config,
            &Record::reported(Kind::Complained, UnixMillis(1), Arc::new(reported.clone()), None),
        );
        let feedback = complained.feedback_report.unwrap();
        assert_eq!((feedback.feedback_type.as_str(), feedback.user_agent.as_str()), ("fraud", ""));
        assert_eq!(feedback.reported_domain, ["a.test"]);
        let oob =
            read(&config, &Record::reported(Kind::RemoteBounce, UnixMillis(1), Arc::new(reported), None));
        assert!(oob.feedback_report.is_none() && oob.r#type == "OOB");
        for (kind, word) in [
            (Kind::Delivered, "Delivery"),
            (Kind::Deferred, "TransientFailure"),
            (Kind::Expired, "Expiration"),
            (Kind::Discarded, "AdminBounce"),
            (Kind::Suppressed, "AdminBounce"),
        ] {
            assert_eq!(read(&config, &sent(kind, Reply::new(250, (2, 0, 0), "x"), None)).r#type, word);
        }
    }

    #[test]
    fn what_has_no_form_is_refused_where_it_is_asked_for() {
        let file = || FileConfig { format: crate::Format::Kumomta, ..FileConfig::at("x.jsonl") };
        assert_eq!(problem(&file()), None);
        assert_eq!(file().kinds().len(), Kind::ALL.len() - 1);
        let with = FileConfig { fields: vec!["id".into()], ..file() };
        assert_eq!(problem(&with).unwrap().0, "fields");
        let with = FileConfig { records: vec![Kind::RemoteStatus], ..file() };
        assert_eq!(problem(&with).unwrap().0, "records");
    }
}
