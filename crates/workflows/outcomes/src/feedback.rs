//! Mail that reports on mail: whose it is, and what is recorded of it.
//!
//! Anybody can write a report about anything. What counts is what a message of ours carried and came back: the signed
//! field, or a signed reverse-path. A report without either is recorded for what it says, as not proven, and by itself
//! puts nobody on a list.

use accounting::{Kind, Record, Reported};
use bounce::{
    ClassRules, Failure, Purpose, Reference, Report, ReportAddress, ReportKind, ReportedRecipient, Returns,
    Verp, field_texts, read_report, read_verp,
};
use mail::{Envelope, Mailbox, Origin, Recipient, ReversePath, Tags, UnixMillis};
use message::Action;
use settings::{Node, Problems, Text};
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// How far in the future a message may have been accepted, milliseconds: clocks differ.
const AHEAD_MAX_MS: u64 = 3_600_000;

settings::words! {
    /// What becomes of a report that is about no mail of ours as far as can be seen, and of mail that is no report.
    pub enum Unmatched {
        /// Reports are recorded for what they say, as not proven. What is no report is dropped.
        Record,
        /// It goes to `forward_to`.
        Forward,
        /// It is refused.
        Reject,
        /// It is dropped.
        Discard,
    }
}

/// An address that mail is handed on to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardTo(pub Mailbox);

impl FromStr for ForwardTo {
    type Err = mail::MailboxError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Mailbox::parse(text).map(Self)
    }
}

impl fmt::Display for ForwardTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

settings::table! {
    /// Addresses whose mail is read as reports: bounces and other notifications, complaints. It comes in by SMTP, from
    /// anybody, and is answered when what it tells is on the disk.
    #[derive(Eq)]
    #[check(FeedbackConfig::check)]
    pub struct FeedbackConfig {
        /// Addresses, with whatever VERP puts behind them, and domains such as `@bounces.example`.
        pub to: Vec<Text<ReportAddress>>,
        /// Whose mail it is about, where only the reverse-path says what it is about.
        pub tenant: Option<String> = None,
        /// What becomes of what is about no mail of ours.
        pub unmatched: Unmatched = Unmatched::Record,
        /// Whom that is handed on to.
        pub forward_to: Option<Text<ForwardTo>> = None,
    }
}

impl FeedbackConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.to.is_empty() {
            problems.error(node.at("to"), "`to` names no address");
        }
        if (self.unmatched == Unmatched::Forward) != self.forward_to.is_some() {
            problems.error(
                node.at("forward_to"),
                "`forward_to` and `unmatched = \"forward\"` are needed together",
            );
        }
        if let Some(to) = &self.forward_to
            && self.to.iter().any(|own| own.takes(&to.0.0))
        {
            problems.error(node.at("forward_to"), "mail for `forward_to` would be read as a report again");
        }
    }
}

/// What becomes of a report for one of the addresses it came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was read, and its way ends here; with why in one line.
    Read(&'static str),
    /// It goes on to another address.
    Forward(Mailbox),
    /// It is refused.
    Refuse,
}

/// A report as it came in.
#[derive(Clone, Copy, Debug)]
pub struct ReportMail<'a> {
    /// The addresses of ours that it came to.
    pub to: &'a [Mailbox],
    /// Its envelope.
    pub envelope: &'a Envelope,
    /// Who handed it in.
    pub origin: &'a Origin,
    /// Its octets.
    pub content: &'a [u8],
    /// When.
    pub at: UnixMillis,
}

/// Reads reports.
#[derive(Debug)]
pub struct Feedback {
    entries: Vec<FeedbackConfig>,
    returns: Arc<Returns>,
    classes: Arc<ClassRules>,
}

/// What is known of the mail that a report is about.
struct Found {
    id: Option<mail::SpoolId>,
    index: Option<u32>,
    sender: Option<ReversePath>,
    recipient: Option<Mailbox>,
    tags: Tags,
    tenant_known: bool,
    by: &'static str,
    proven: bool,
}

impl Feedback {
    /// Of the configuration; `None` if no mail is read as reports.
    pub fn new(entries: &[FeedbackConfig], returns: Arc<Returns>, classes: Arc<ClassRules>) -> Option<Self> {
        (!entries.is_empty()).then(|| Self { entries: entries.to_vec(), returns, classes })
    }

    fn entry(&self, to: &Mailbox) -> Option<(&FeedbackConfig, &ReportAddress)> {
        let own = |entry: &'_ FeedbackConfig| entry.to.iter().position(|own| own.takes(to));
        self.entries.iter().find_map(|entry| Some((entry, &entry.to[own(entry)?].0)))
    }

    /// True if mail to an address is read.
    pub fn takes(&self, to: &Mailbox) -> bool {
        self.entry(to).is_some()
    }

    /// Reads a report: the records to make, and what becomes of it for each of its addresses.
    pub fn read(&self, mail: &ReportMail<'_>) -> (Vec<Record>, Vec<Taken>) {
        let report = read_report(mail.content).filter(|report| report.kind != ReportKind::AutoReply);
        let reference = report.as_ref().and_then(|_| self.reference(mail.content));
        let (mut records, mut seen) = (Vec::new(), HashSet::new());
        let mut taken = Vec::with_capacity(mail.to.len());
        for to in mail.to {
            let Some((entry, own)) = self.entry(to) else {
                taken.push(Taken::Refuse);
                continue;
            };
            let unmatched = match entry.unmatched {
                Unmatched::Record => Taken::Read("not about mail that is known"),
                Unmatched::Discard => Taken::Read("not about mail that is known"),
                Unmatched::Reject => Taken::Refuse,
                Unmatched::Forward => match &entry.forward_to {
                    Some(to) => Taken::Forward(to.0.0.clone()),
                    None => Taken::Refuse,
                },
            };
            let Some(report) = &report else {
                taken.push(unmatched);
                continue;
            };
            let named: Vec<&Mailbox> =
                report.recipients.iter().flat_map(ReportedRecipient::addresses).collect();
            let verp = read_verp(self.returns.secrets(), to, own.base(), &named);
            let found = match (&reference, verp) {
                (Some(reference), _) => Some(self.by_field(reference, mail.at)),
                (None, Some(verp)) if verp.recipient.is_some() => Some(self.by_verp(verp, entry, mail.at)),
                _ => None,
            };
            let mut add = |record: Record| {
                let key = (record.kind, record.id(), record.recipient_text().to_lowercase());
                if seen.insert(key) {
                    records.push(record);
                }
            };
            match found {
                Some(found) => {
                    let told = told_of(report, found.recipient.as_ref());
                    add(self.record(mail, report, told, found));
                    taken.push(Taken::Read("read as a report"));
                }
                None if entry.unmatched == Unmatched::Record => {
                    for told in &report.recipients {
                        let Some(recipient) = told.addresses().next() else { continue };
                        let found = unproven(report, recipient, entry);
                        add(self.record(mail, report, Some(told), found));
                    }
                    taken.push(Taken::Read("read as a report that proves nothing"));
                }
                None => taken.push(unmatched),
            }
        }
        (records, taken)
    }

    /// The signed field, in what came back.
    fn reference(&self, content: &[u8]) -> Option<Reference> {
        if self.returns.secrets().is_empty() {
            return None;
        }
        let texts = field_texts(content, self.returns.field_name().as_str());
        texts.iter().find_map(|text| self.returns.secrets().verify(Purpose::Field, text))
    }

    /// True if what was signed for a message still counts.
    fn is_fresh(&self, id: mail::SpoolId, at: UnixMillis) -> bool {
        let made = bounce::made(id).0;
        let age = u128::from(at.0.saturating_sub(made));
        age <= self.returns.believed_for().as_millis() && made <= at.0.saturating_add(AHEAD_MAX_MS)
    }

    fn by_field(&self, reference: &Reference, at: UnixMillis) -> Found {
        let Reference { id, index, sender, recipient, tenant, campaign, job } = reference.clone();
        Found {
            id: Some(id),
            index: Some(index),
            sender: Some(sender),
            recipient: Some(recipient),
            tags: Tags { tenant, campaign, job, ..Tags::default() },
            tenant_known: true,
            by: "field",
            proven: self.is_fresh(id, at),
        }
    }

    fn by_verp(&self, verp: Verp, entry: &FeedbackConfig, at: UnixMillis) -> Found {
        let tenant = (verp.has_tenant != Some(false)).then(|| entry.tenant.as_deref().map(Box::from));
        let tenant = tenant.flatten();
        Found {
            id: verp.id.filter(|_| verp.signed),
            index: None,
            sender: Some(ReversePath::Mailbox(verp.sender)),
            recipient: verp.recipient,
            tenant_known: tenant.is_some() || (verp.signed && verp.has_tenant == Some(false)),
            tags: Tags { tenant, ..Tags::default() },
            by: "verp",
            proven: verp.signed && verp.id.is_some_and(|id| self.is_fresh(id, at)),
        }
    }

    fn record(
        &self,
        mail: &ReportMail<'_>,
        report: &Report,
        told: Option<&ReportedRecipient>,
        found: Found,
    ) -> Record {
        let text = |text: &Option<String>| text.as_deref().map(Box::<str>::from);
        let feedback = report.feedback.clone().unwrap_or_default();
        let action = told.map_or(Action::Failed, |told| told.action);
        let kind = match (report.kind, action) {
            (ReportKind::Complaint, _) => Kind::Complained,
            (_, Action::Failed) => Kind::RemoteBounce,
            _ => Kind::RemoteStatus,
        };
        let is_delivery = kind != Kind::Complained;
        let reply = told.filter(|_| is_delivery).map(|told| told.reply());
        let classed = reply
            .as_ref()
            .filter(|_| kind == Kind::RemoteBounce)
            .map(|reply| self.classes.classify(&Failure { reply, stage: None }));
        let reported = Reported {
            origin: mail.origin.clone(),
            id: found.id,
            index: found.index,
            sender: found.sender,
            recipient: found.recipient.map(Recipient::new),
            tags: found.tags,
            tenant_known: found.tenant_known,
            envid: text(&report.envelope_id),
            found_by: found.by,
            proven: found.proven,
            format: report.format.as_str(),
            action: if is_delivery { action.as_str() } else { "" },
            status: reply.as_ref().and_then(|reply| reply.enhanced),
            reporting_mta: text(&report.reporting_mta),
            remote_mta: told.and_then(|told| text(&told.remote_mta)),
            feedback_type: (!is_delivery).then(|| feedback.feedback_type.into()),
            user_agent: text(&feedback.user_agent),
            source_ip: text(&feedback.source_ip),
            reported_domain: text(&feedback.reported_domain),
        };
        let mut record = Record::reported(kind, mail.at, Arc::new(reported), reply.map(Arc::new));
        if let Some(classed) = classed {
            (record.class, record.category) = (Some(classed.class), classed.category);
        }
        record
    }
}

/// What a report says of a recipient, or else the first thing it says: mail may have been forwarded on its way.
fn told_of<'a>(report: &'a Report, recipient: Option<&Mailbox>) -> Option<&'a ReportedRecipient> {
    let same = |told: &&ReportedRecipient| {
        let named =
            |one: &Mailbox| recipient.is_some_and(|to| to.as_str().eq_ignore_ascii_case(one.as_str()));
        told.addresses().any(named)
    };
    report.recipients.iter().find(same).or(report.recipients.first())
}

fn unproven(report: &Report, recipient: &Mailbox, entry: &FeedbackConfig) -> Found {
    Found {
        id: None,
        index: None,
        sender: report.original_sender.clone().map(ReversePath::Mailbox),
        recipient: Some(recipient.clone()),
        tenant_known: entry.tenant.is_some(),
        tags: Tags { tenant: entry.tenant.as_deref().map(Box::from), ..Tags::default() },
        by: "text",
        proven: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bounce::{ReturnsConfig, UnsubscribeConfig, VerpForm, write_verp};
    use mail::{BounceClass, Message, SpoolId};
    use settings::Setting;

    #[test]
    fn the_table_is_sound() {
        assert_eq!(settings::mistakes(&FeedbackConfig::schema()), Vec::<String>::new());
    }

    const AT: UnixMillis = UnixMillis(1_790_000_100_000);

    fn mailbox(text: &str) -> Mailbox {
        Mailbox::parse(text).unwrap()
    }

    fn returns() -> Arc<Returns> {
        let secret = Some("0123456789abcdef0123456789abcdef".into());
        Arc::new(Returns::new(
            &ReturnsConfig { secret, ..ReturnsConfig::default() },
            &[],
            &UnsubscribeConfig::default(),
        ))
    }

    fn feedback(unmatched: Unmatched, forward_to: Option<&str>) -> Feedback {
        let entry = FeedbackConfig {
            to: vec![Text("@b.test".parse().unwrap())],
            tenant: None,
            unmatched,
            forward_to: forward_to.map(|to| Text(to.parse().unwrap())),
        };
        let classes = ClassRules::compile([&[][..]]).unwrap();
        Feedback::new(&[entry], returns(), Arc::new(classes)).unwrap()
    }

    fn field(id: u64) -> String {
        let message = Message {
            id: SpoolId(id),
            received_at: UnixMillis(0),
            size: 1,
            envelope: Envelope::new(
                ReversePath::Mailbox(mailbox("news@b.test")),
                vec![Recipient::new(mailbox("joe@x.test"))],
            ),
            origin: Origin::default(),
            tags: Tags { tenant: Some("acme".into()), job: Some("j7".into()), ..Tags::default() },
            headers: Vec::new(),
            extras: None,
        };
        let mut fields = Vec::new();
        returns().write_fields(&message, "pool", 0, b"", &mut fields);
        String::from_utf8(fields).unwrap()
    }

    fn dsn(recipient: &str, returned: &str) -> String {
        format!(
            "From: MAILER-DAEMON@x.test\r\nContent-Type: multipart/report; boundary=B\r\n\r\n--B\r\n\
             Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x.test\r\n\r\n\
             Final-Recipient: rfc822; {recipient}\r\nAction: failed\r\nStatus: 5.1.1\r\n\
             Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n--B\r\nContent-Type: text/rfc822-headers\r\n\r\n\
             {returned}Subject: x\r\n--B--\r\n"
        )
    }

    fn read(feedback: &Feedback, to: &str, content: &str) -> (Vec<Record>, Vec<Taken>) {
        let (to, envelope) = ([mailbox(to)], Envelope::new(ReversePath::Null, Vec::new()));
        let origin = Origin::default();
        feedback.read(&ReportMail {
            to: &to,
            envelope: &envelope,
            origin: &origin,
            content: content.as_bytes(),
            at: AT,
        })
    }

    fn shown(records: &[Record]) -> Vec<String> {
        let shown = |record: &Record| {
            let report = record.report().unwrap();
            let class = record.class.map_or("-", BounceClass::as_str);
            format!(
                "{} {} {} {} {class}",
                record.kind.as_str(),
                record.recipient_text(),
                report.found_by,
                report.proven
            )
        };
        records.iter().map(shown).collect()
    }

    #[test]
    fn what_came_back_of_our_mail_proves_whose_it_is() {
        let feedback = feedback(Unmatched::Record, None);
        let (records, taken) =
            read(&feedback, "news@b.test", &dsn("joe@x.test", &field(1_790_000_000_000_000)));
        assert_eq!(shown(&records), ["remote_bounce joe@x.test field true bad-mailbox"]);
        assert_eq!(records[0].tags().unwrap().tenant.as_deref(), Some("acme"));
        assert_eq!(records[0].reply.as_ref().unwrap().to_string(), "550 5.1.1 no such user");
        assert_eq!(taken, [Taken::Read("read as a report")]);
        // A report that tells of somebody else with a field of ours is about whom the field names.
        let (records, _) =
            read(&feedback, "news@b.test", &dsn("victim@x.test", &field(1_790_000_000_000_000)));
        assert_eq!(shown(&records), ["remote_bounce joe@x.test field true bad-mailbox"]);
        // What is too old proves nothing.
        let (records, _) = read(&feedback, "news@b.test", &dsn("joe@x.test", &field(1_700_000_000_000_000)));
        assert_eq!(shown(&records), ["remote_bounce joe@x.test field false bad-mailbox"]);
    }

    #[test]
    fn forged_reports_prove_nothing() {
        let feedback = feedback(Unmatched::Record, None);
        let forged = field(1_790_000_000_000_000).replace("AQ", "AR");
        for (to, returned) in
            [("news@b.test", ""), ("news@b.test", &*forged), ("news@b.test", "X-Tuma-Ref: AQ\r\n")]
        {
            let (records, _) = read(&feedback, to, &dsn("victim@x.test", returned));
            assert_eq!(shown(&records), ["remote_bounce victim@x.test text false bad-mailbox"]);
        }
        let (records, _) = read(&feedback, "news-victim=x.test@b.test", &dsn("victim@x.test", ""));
        assert_eq!(shown(&records), ["remote_bounce victim@x.test verp false bad-mailbox"]);
        let signed = |to: &str| {
            let (secrets, id) = (returns(), SpoolId(1_790_000_000_000_000));
            write_verp(VerpForm::Signed, secrets.secrets(), &mailbox("news@b.test"), &mailbox(to), id, false)
                .unwrap()
        };
        let own = signed("joe@x.test");
        let (records, _) = read(&feedback, own.as_str(), &dsn("joe@x.test", ""));
        assert_eq!(shown(&records), ["remote_bounce joe@x.test verp true bad-mailbox"]);
        assert!(records[0].report().unwrap().tenant_known);
        let stolen = own.as_str().replace("joe", "victim");
        let (records, _) = read(&feedback, &stolen, &dsn("victim@x.test", ""));
        assert!(!records[0].report().unwrap().proven);
    }

    #[test]
    fn what_is_unmatched_goes_where_the_operator_says() {
        let text = "From: joe@x.test\r\nSubject: hi\r\n\r\nhello\r\n";
        let vacation =
            "From: joe@x.test\r\nAuto-Submitted: auto-replied\r\nSubject: away\r\n\r\nSee you.\r\n";
        let bounce = dsn("joe@x.test", "");
        let forward = feedback(Unmatched::Forward, Some("people@s.test"));
        for content in [text, vacation, &bounce] {
            let (records, taken) = read(&forward, "news@b.test", content);
            assert_eq!((records.len(), &taken[..]), (0, &[Taken::Forward(mailbox("people@s.test"))][..]));
            assert_eq!(read(&feedback(Unmatched::Reject, None), "news@b.test", content).1, [Taken::Refuse]);
            assert!(read(&feedback(Unmatched::Discard, None), "news@b.test", content).0.is_empty());
        }
        assert!(read(&feedback(Unmatched::Record, None), "news@b.test", text).0.is_empty());
        assert!(!forward.takes(&mailbox("news@c.test")));
    }
}
