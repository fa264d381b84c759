//! Reading mail that reports on mail: delivery status notifications (RFC 3464), feedback reports (RFC 5965) and their
//! forerunner JMRP, and bounces that are only text.
//!
//! The input is hostile and often broken: readers take what they know and leave the rest, everything is counted, and
//! nothing is believed here. Who sent a report, and whether it is about mail of ours, is for others to find out.

use crate::freeform;
use mail::{EnhancedStatusCode, Mailbox, Reply, ReplyCode};
use message::{Action, Field, Fields, Leaf, field_value, leaves, one_line};

/// Octets of a report looked at.
pub const REPORT_MAX_OCTETS: usize = 1 << 20;
/// Recipients of one report that are told of.
pub const RECIPIENTS_MAX: usize = 100;
/// Octets of a text taken from a report.
const TEXT_MAX_OCTETS: usize = 512;

/// What a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportKind {
    /// Mail did not reach, or not yet, or did reach, its recipients.
    Delivery,
    /// Somebody complained of mail.
    Complaint,
    /// An answer of a person's mailbox, which tells of no failure (RFC 3834).
    AutoReply,
}

/// In what form it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportFormat {
    /// RFC 3464, or near to it.
    Dsn,
    /// Text for people.
    Text,
    /// RFC 5965.
    Arf,
    /// The mail itself, with a field that names who complained.
    Jmrp,
}

impl ReportFormat {
    /// The word for it in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dsn => "dsn",
            Self::Text => "text",
            Self::Arf => "arf",
            Self::Jmrp => "jmrp",
        }
    }
}

/// What a report says of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedRecipient {
    /// Whom the reporting host tried.
    pub address: Option<Mailbox>,
    /// Whom the sender named, if that is another.
    pub original: Option<Mailbox>,
    /// What became of it.
    pub action: Action,
    /// Why.
    pub status: Option<EnhancedStatusCode>,
    /// What the host that decided said, on one line.
    pub diagnostic: Option<String>,
    /// That host.
    pub remote_mta: Option<String>,
}

impl ReportedRecipient {
    /// As a reply, for the rules of classes.
    pub fn reply(&self) -> Reply {
        let failed = self.action == Action::Failed;
        let text = self.diagnostic.as_deref().unwrap_or("");
        let (code, in_text, rest) = reply_in(text);
        let fallback = if failed { 550 } else { 450 };
        let code = code.and_then(ReplyCode::new).unwrap_or(ReplyCode::new(fallback).expect("it is a code"));
        let known = |status: &EnhancedStatusCode| (status.subject(), status.detail()) != (0, 0);
        let enhanced = in_text.or(self.status.filter(known)).or(self.status);
        Reply { code, enhanced, text: rest.to_owned().into() }
    }

    /// Every address it goes by.
    pub fn addresses(&self) -> impl Iterator<Item = &Mailbox> {
        self.original.iter().chain(&self.address)
    }
}

/// The fields of a feedback report (RFC 5965 §3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedbackFields {
    /// `abuse`, `fraud`, `virus`, `not-spam`, `opt-out` or another word; lower case.
    pub feedback_type: String,
    /// Who made the report.
    pub user_agent: Option<String>,
    /// The address the mail came from.
    pub source_ip: Option<String>,
    /// The domain that is thought to be responsible.
    pub reported_domain: Option<String>,
}

/// A report as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it is.
    pub kind: ReportKind,
    /// Its form.
    pub format: ReportFormat,
    /// Who reports.
    pub reporting_mta: Option<String>,
    /// ENVID of the mail it is about.
    pub envelope_id: Option<String>,
    /// The mail's reverse-path, where it says so.
    pub original_sender: Option<Mailbox>,
    /// What it says of whom, at most [`RECIPIENTS_MAX`].
    pub recipients: Vec<ReportedRecipient>,
    /// More of a complaint.
    pub feedback: Option<FeedbackFields>,
}

impl Report {
    fn new(kind: ReportKind, format: ReportFormat) -> Self {
        let (reporting_mta, envelope_id, original_sender) = (None, None, None);
        Self {
            kind,
            format,
            reporting_mta,
            envelope_id,
            original_sender,
            recipients: Vec::new(),
            feedback: None,
        }
    }
}

/// Reads a message as a report; `None` if it is none.
pub fn read_report(content: &[u8]) -> Option<Report> {
    let content = &content[..content.len().min(REPORT_MAX_OCTETS)];
    let leaves = leaves(content);
    let part = |kinds: &[&str]| leaves.iter().find(|leaf| kinds.contains(&&*leaf.media_type));
    if let Some(leaf) = part(&["message/feedback-report"]) {
        return Some(arf(leaf));
    }
    if let Some(report) = leaves.iter().filter(|leaf| leaf.media_type.starts_with("message/")).find_map(jmrp)
    {
        return Some(report);
    }
    let status = part(&["message/delivery-status", "message/global-delivery-status"]);
    if let Some(report) = status.and_then(|leaf| delivery_status(&leaf.body)) {
        return Some(report);
    }
    if let Some(recipients) = freeform::read(content, &leaves) {
        return Some(Report { recipients, ..Report::new(ReportKind::Delivery, ReportFormat::Text) });
    }
    is_automatic(content).then(|| Report::new(ReportKind::AutoReply, ReportFormat::Text))
}

/// The texts that stand behind a field's name anywhere in the parts of a report, blanks taken out: in what came back of
/// the mail, as a part of its own or as text. At most 16.
pub fn field_texts(content: &[u8], name: &str) -> Vec<String> {
    let content = &content[..content.len().min(REPORT_MAX_OCTETS)];
    let mut found = Vec::new();
    for leaf in leaves(content) {
        let mut lines = leaf.body.split(|octet| *octet == b'\n').peekable();
        while let Some(line) = lines.next() {
            let Some(rest) = after_name(line, name) else { continue };
            let mut text: Vec<u8> = rest.to_vec();
            while let Some(more) = lines.next_if(|line| matches!(line.first(), Some(b' ' | b'\t'))) {
                text.extend_from_slice(more);
            }
            text.retain(|octet| !octet.is_ascii_whitespace());
            found.extend(String::from_utf8(text).ok());
            if found.len() == 16 {
                return found;
            }
        }
    }
    found
}

/// What stands behind `name:` at the head of a line, quoting marks and blanks before it.
fn after_name<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let head = line.iter().take_while(|octet| matches!(octet, b' ' | b'>' | b'|' | b'\t')).count();
    let (start, rest) = line[head..].split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name.as_bytes()).then_some(rest)?.strip_prefix(b":")
}

/// A text on one line, short.
fn text(field: &Field<'_>) -> Option<String> {
    let text = one_line(&field.unfolded(), TEXT_MAX_OCTETS);
    (!text.is_empty()).then_some(text)
}

/// `type; text` without the type.
fn typed(field: &Field<'_>) -> Option<String> {
    let value = text(field)?;
    let value = value.split_once(';').map_or(&*value, |(_, rest)| rest).trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// An address out of what stands for one: angle brackets and a comment around it are no matter.
pub(crate) fn address(text: &str) -> Option<Mailbox> {
    let text = text.trim();
    let inner = match (text.rfind('<'), text.rfind('>')) {
        (Some(from), Some(to)) if from < to => &text[from + 1..to],
        _ => text.split([' ', '\t', '(']).next().unwrap_or(""),
    };
    let inner = inner.trim().trim_start_matches("mailto:");
    // Some write the type of an address in front of it in their own way.
    let typed = ["rfc822;", "smtp=", "smtp:"].iter().find_map(|kind| {
        inner.get(..kind.len()).filter(|head| head.eq_ignore_ascii_case(kind)).map(|_| &inner[kind.len()..])
    });
    let inner = typed.unwrap_or(inner);
    Mailbox::parse(inner.trim_end_matches(['.', ',', ';', ':'])).ok()
}

fn typed_address(field: &Field<'_>) -> Option<Mailbox> {
    address(&typed(field)?)
}

/// The body of a delivery status, of which everything but an address may be missing.
fn delivery_status(body: &[u8]) -> Option<Report> {
    let mut report = Report::new(ReportKind::Delivery, ReportFormat::Dsn);
    let mut at = 0;
    while at < body.len() && report.recipients.len() < RECIPIENTS_MAX {
        if let Some(rest) = body[at..].strip_prefix(b"\r\n") {
            at = body.len() - rest.len();
            continue;
        }
        let mut fields = Fields::new(&body[at..]);
        let mut action = None;
        let mut group = ReportedRecipient {
            address: None,
            original: None,
            action: Action::Failed,
            status: None,
            diagnostic: None,
            remote_mta: None,
        };
        for field in fields.by_ref() {
            if field.is("reporting-mta") {
                report.reporting_mta = typed(&field);
            } else if field.is("original-envelope-id") {
                report.envelope_id = text(&field);
            } else if field.is("original-recipient") {
                group.original = typed_address(&field);
            } else if field.is("final-recipient")
                || (field.is("x-actual-recipient") && group.address.is_none())
            {
                group.address = typed_address(&field);
            } else if field.is("action") {
                let value = field.unfolded();
                let word = value.split([' ', '\t', '(', ';']).next().unwrap_or("");
                action = Action::parse(word).or(match word.to_ascii_lowercase().as_str() {
                    "fail" | "failure" => Some(Action::Failed),
                    "delay" => Some(Action::Delayed),
                    _ => None,
                });
            } else if field.is("status") {
                let value = field.unfolded();
                group.status = value.split([' ', '\t', '(']).next().and_then(EnhancedStatusCode::parse);
            } else if field.is("remote-mta") {
                group.remote_mta = typed(&field);
            } else if field.is("diagnostic-code") {
                group.diagnostic = typed(&field);
            }
        }
        match fields.offset() {
            // What is no field is passed over to the end of its line: hosts put text between the groups.
            0 => at += body[at..].iter().position(|octet| *octet == b'\n').map_or(body.len() - at, |n| n + 1),
            taken => at += taken,
        }
        if group.address.is_some() || group.original.is_some() {
            let by_status = group.status.map(|status| match status.class() {
                2 => Action::Delivered,
                4 => Action::Delayed,
                _ => Action::Failed,
            });
            group.action = action.or(by_status).unwrap_or(Action::Failed);
            report.recipients.push(group);
        }
    }
    (!report.recipients.is_empty()).then_some(report)
}

fn arf(leaf: &Leaf<'_>) -> Report {
    let mut report = Report::new(ReportKind::Complaint, ReportFormat::Arf);
    let mut feedback = FeedbackFields::default();
    for field in Fields::new(&leaf.body) {
        if field.is("feedback-type") {
            feedback.feedback_type = text(&field).unwrap_or_default().to_ascii_lowercase();
        } else if field.is("user-agent") {
            feedback.user_agent = text(&field);
        } else if field.is("source-ip") {
            feedback.source_ip = text(&field);
        } else if field.is("reported-domain") {
            feedback.reported_domain = text(&field);
        } else if field.is("reporting-mta") {
            report.reporting_mta = typed(&field);
        } else if field.is("original-envelope-id") {
            report.envelope_id = text(&field);
        } else if field.is("original-mail-from") {
            report.original_sender = text(&field).and_then(|text| address(&text));
        } else if field.is("original-rcpt-to") && report.recipients.len() < RECIPIENTS_MAX {
            report.recipients.extend(text(&field).and_then(|text| address(&text)).map(complaining));
        }
    }
    report.feedback = Some(feedback);
    report
}

/// The mail itself, with the field that names who complained of it.
fn jmrp(leaf: &Leaf<'_>) -> Option<Report> {
    let who = field_value(&leaf.body, "x-hmxmroriginalrecipient")?;
    let mut report = Report::new(ReportKind::Complaint, ReportFormat::Jmrp);
    report.recipients.extend(address(&who).map(complaining));
    report.feedback = Some(FeedbackFields { feedback_type: "abuse".into(), ..FeedbackFields::default() });
    Some(report)
}

fn complaining(address: Mailbox) -> ReportedRecipient {
    ReportedRecipient {
        address: Some(address),
        original: None,
        action: Action::Delivered,
        status: None,
        diagnostic: None,
        remote_mta: None,
    }
}

/// True if a message says of itself that no person wrote it.
fn is_automatic(content: &[u8]) -> bool {
    let word = |name: &str| field_value(content, name).unwrap_or_default().to_ascii_lowercase();
    let submitted = word("auto-submitted");
    (!submitted.is_empty() && submitted != "no")
        || ["auto_reply", "junk"].contains(&&*word("precedence"))
        || !word("x-autoreply").is_empty()
        || !word("x-autorespond").is_empty()
}

/// The code and the enhanced code at the head of a reply's text, or in it, and what is left of the text.
pub(crate) fn reply_in(text: &str) -> (Option<u16>, Option<EnhancedStatusCode>, &str) {
    let (mut code, mut rest) = (None, text);
    for (at, word) in words(text) {
        let digits = word.get(..3).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
        let ends = matches!(word.as_bytes().get(3..), Some([] | [b'-' | b':' | b',', ..] | [b'.']));
        let number = digits.filter(|_| ends).and_then(|digits| digits.parse::<u16>().ok());
        if let Some(number) = number.filter(|number| (400..600).contains(number)) {
            code = Some(number);
            rest = text[at + 3..].trim_start_matches(['-', ':', ' ', ',']);
            break;
        }
    }
    let read = |word: &str| {
        let word = word.trim_matches(['#', '[', ']', ':', ',', '.', ';']);
        EnhancedStatusCode::parse(word).filter(|status| status.class() > 2)
    };
    match words(rest).next().and_then(|(at, word)| Some((at + word.len(), read(word)?))) {
        Some((end, status)) => {
            (code, Some(status), rest[end..].trim_start_matches([')', ']', ':', ' ', ',']))
        }
        // Some write it behind their text: `no mailbox here by that name. (#5.1.1)`.
        None => (code, words(rest).find_map(|(_, word)| read(word)), rest),
    }
}

fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let offset = move |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    text.split([' ', '\t', '<', '>', '"', '(', ')', '\''])
        .filter(|word| !word.is_empty())
        .map(move |word| (offset(word), word))
}

/// Whatever the bytes, reading ends without a panic, and within the bounds.
#[doc(hidden)]
pub fn fuzz_report(content: &[u8]) {
    if let Some(report) = read_report(content) {
        assert!(report.recipients.len() <= RECIPIENTS_MAX);
        for recipient in &report.recipients {
            let reply = recipient.reply();
            assert!(reply.code.get() >= 400 || reply.code.get() < 600);
        }
    }
    for text in field_texts(content, "X-Tuma-Ref") {
        let _ =
            crate::Secrets::new(["0123456789abcdef0123456789abcdef"]).verify(crate::Purpose::Field, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crlf(text: &str) -> Vec<u8> {
        text.replace('\n', "\r\n").into_bytes()
    }

    #[test]
    fn a_notification_of_postfix() {
        let content = crlf(
            "From: MAILER-DAEMON@mx.x.test\nAuto-Submitted: auto-replied\nContent-Type: multipart/report; report-type=delivery-status;\n boundary=\"B\"\n\n\
             --B\nContent-Type: text/plain\n\nI'm sorry.\n--B\nContent-Type: message/delivery-status\n\n\
             Reporting-MTA: dns; mx.x.test\nOriginal-Envelope-Id: e7\n\n\
             Final-Recipient: rfc822; joe@x.test\nOriginal-Recipient: rfc822;Joe@x.test\nAction: failed\nStatus: 5.1.1\n\
             Remote-MTA: dns; inner.x.test\nDiagnostic-Code: smtp; 550 5.1.1 <joe@x.test>: no such\n user here\n\n\
             --B\nContent-Type: text/rfc822-headers\n\nSubject: hello\nX-Tuma-Ref: abc\n def\nTo: joe@x.test\n--B--\n",
        );
        let report = read_report(&content).unwrap();
        assert_eq!((report.kind, report.format), (ReportKind::Delivery, ReportFormat::Dsn));
        assert_eq!(
            (report.reporting_mta.as_deref(), report.envelope_id.as_deref()),
            (Some("mx.x.test"), Some("e7"))
        );
        let [joe] = &report.recipients[..] else { panic!("one recipient: {report:?}") };
        assert_eq!(joe.action, Action::Failed);
        assert_eq!(joe.original.as_ref().unwrap().as_str(), "Joe@x.test");
        assert_eq!(joe.reply().to_string(), "550 5.1.1 <joe@x.test>: no such user here");
        assert_eq!(field_texts(&content, "x-tuma-ref"), ["abcdef"]);
    }

    #[test]
    fn complaints_by_arf_and_jmrp() {
        let content = crlf(
            "From: fbl@isp.test\nContent-Type: multipart/report; report-type=feedback-report; boundary=B\n\n\
             --B\nContent-Type: text/plain\n\nThis is an email abuse report.\n\
             --B\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: SomeGenerator/1.0\nVersion: 1\n\
             Original-Mail-From: <news@s.test>\nOriginal-Rcpt-To: <joe@isp.test>\nSource-IP: 192.0.2.1\nReported-Domain: s.test\n\
             Reporting-MTA: dns; mail.isp.test\n\n--B\nContent-Type: message/rfc822\n\nX-Tuma-Ref: xyz\n\nbody\n--B--\n",
        );
        let report = read_report(&content).unwrap();
        assert_eq!((report.kind, report.format), (ReportKind::Complaint, ReportFormat::Arf));
        let feedback = report.feedback.unwrap();
        assert_eq!(
            (feedback.feedback_type.as_str(), feedback.source_ip.as_deref()),
            ("abuse", Some("192.0.2.1"))
        );
        assert_eq!(report.recipients[0].address.as_ref().unwrap().as_str(), "joe@isp.test");
        assert_eq!(field_texts(&content, "X-Tuma-Ref"), ["xyz"]);
        let content = crlf(
            "From: staff@isp.test\nSubject: complaint\nContent-Type: multipart/mixed; boundary=B\n\n\
             --B\nContent-Type: message/rfc822\n\nX-HmXmrOriginalRecipient: <joe@isp.test>\nFrom: a@s.test\n\nbody\n--B--\n",
        );
        let report = read_report(&content).unwrap();
        assert_eq!((report.kind, report.format), (ReportKind::Complaint, ReportFormat::Jmrp));
        assert_eq!(report.recipients.len(), 1);
    }

    #[test]
    fn an_answer_of_a_mailbox_is_no_failure_and_mail_is_no_report() {
        let vacation = crlf(
            "From: joe@x.test\nAuto-Submitted: auto-replied\nSubject: away\n\nI am away until Monday.\n",
        );
        assert_eq!(read_report(&vacation).unwrap().kind, ReportKind::AutoReply);
        assert_eq!(read_report(&crlf("From: joe@x.test\nSubject: hi\n\nHow are you?\n")), None);
        assert_eq!(read_report(b""), None);
    }

    #[test]
    fn codes_are_found_in_what_hosts_say() {
        for (text, code, status, rest) in [
            ("550 5.1.1 no such user", Some(550), Some("5.1.1"), "no such user"),
            ("550-5.1.1 The email", Some(550), Some("5.1.1"), "The email"),
            ("550 #5.1.0 Address rejected", Some(550), Some("5.1.0"), "Address rejected"),
            ("host mx.x.test[192.0.2.1] said: 552 full", Some(552), None, "full"),
            ("5.2.2 full", None, Some("5.2.2"), "full"),
            ("mailbox 1234 full", None, None, "mailbox 1234 full"),
            ("", None, None, ""),
        ] {
            let (found, enhanced, left) = reply_in(text);
            assert_eq!(
                (found, enhanced.map(|s| s.to_string()).as_deref(), left),
                (code, status, rest),
                "{text}"
            );
        }
    }

    #[test]
    fn random_octets_are_no_reason_to_panic() {
        let pieces: [&[u8]; 16] = [
            b"Content-Type: multipart/report; boundary=B\r\n",
            b"\r\n",
            b"--B\r\n",
            b"--B--\r\n",
            b"Content-Type: message/delivery-status\r\n",
            b"Final-Recipient: rfc822; a@b.test\r\n",
            b"Action: failed\r\n",
            b"Status: 5.1.1\r\n",
            b"Content-Type: message/feedback-report\r\n",
            b"Original-Rcpt-To: <a@b.test>\r\n",
            b"X-Tuma-Ref: AQ\r\n",
            b" AA\r\n",
            b"\xff\n",
            b"<a@b.test>: 550 x\r\n",
            b"could not be delivered\r\n",
            b"Diagnostic-Code: smtp;550-\xe4\r\n",
        ];
        let mut seed = 9u64;
        for _ in 0..20_000 {
            let mut content = Vec::new();
            for _ in 0..20 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                content.extend_from_slice(pieces[(seed >> 59) as usize % pieces.len()]);
            }
            fuzz_report(&content);
        }
    }
}
