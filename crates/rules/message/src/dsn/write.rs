//! Writing a notification: a letter a person can read, the part a machine can read, and the message it is about.
//!
//! Everything a remote host said is put on one line, stripped of control characters and folded before it enters
//! any part; the returned message is fenced by a boundary that does not occur in it.

use super::{Action, Address, DeliveryStatus, RecipientStatus};
use crate::content::{has_bare_newline, lines_within};
use crate::date::write_date;
use crate::encoding::{decode_xtext, one_line, to_unitext, write_base64, write_quoted_printable};
use crate::header::{Fields, Scan, scan};
use mail::{
    BodyType, EnhancedStatusCode, Envelope, Host, Message, Notify, Outcome, Recipient, Reply, Ret,
    ReversePath, UnixMillis,
};
use memchr::memmem;

/// How notifications are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DsnConfig {
    /// Octets of the returned message or of its header; a larger message comes back as its header, a larger
    /// header cut at a field. At most the size a message may have.
    pub returned_max_octets: usize,
    /// What a failure report returns when the client did not say (RET, RFC 3461 §4.3). The header is enough to
    /// know the message by, and gives a forged sender nothing to read.
    pub returned_by_default: Ret,
    /// Octets of a remote host's reply that are quoted. At most 4,000.
    pub reply_max_octets: usize,
}

impl Default for DsnConfig {
    fn default() -> Self {
        Self { returned_max_octets: 64 * 1024, returned_by_default: Ret::Headers, reply_max_octets: 1_000 }
    }
}

/// What one notification is to tell.
#[derive(Clone, Copy, Debug)]
pub struct DsnRequest<'a> {
    /// The message it is about.
    pub message: &'a Message,
    /// Its content as the spool holds it; empty if it can no longer be read, and nothing is returned then.
    pub content: &'a [u8],
    /// Our own name.
    pub by: &'a Host,
    /// Whom it reports; [`wanted`](crate::wanted) said yes to each.
    pub recipients: &'a [RecipientReport<'a>],
    /// The time of writing.
    pub now: UnixMillis,
    /// Fresh randomness, for the boundary and the Message-ID field.
    pub seed: u64,
}

/// One recipient's fate.
#[derive(Clone, Copy, Debug)]
pub struct RecipientReport<'a> {
    /// The recipient, as in the message's envelope.
    pub recipient: &'a Recipient,
    /// What became of it.
    pub action: Action,
    /// Why.
    pub status: EnhancedStatusCode,
    /// The reply that decided.
    pub reply: &'a Reply,
    /// The host that gave the reply; absent when it is our own, and then no Diagnostic-Code is written.
    pub remote_mta: Option<&'a str>,
    /// When it was last tried.
    pub last_attempt: Option<UnixMillis>,
    /// Until when it will be tried; for [`Action::Delayed`].
    pub will_retry_until: Option<UnixMillis>,
}

impl<'a> RecipientReport<'a> {
    /// The report of an outcome, to which the times and the remote host may be added. `None` for `Discarded`,
    /// which nobody is told of. A delivery counts as relayed: only a local delivery ends in a mailbox.
    pub fn of(recipient: &'a Recipient, outcome: &'a Outcome) -> Option<Self> {
        let reply = outcome.reply();
        let (action, status) = match outcome {
            Outcome::Delivered(_) => (Action::Relayed, status_of(reply, 2)),
            Outcome::Deferred(_) => (Action::Delayed, status_of(reply, 4)),
            Outcome::Bounced(_) | Outcome::Suppressed(_) => (Action::Failed, status_of(reply, 5)),
            // The last deferral's own reason stays in the diagnostic; what ended it was time (RFC 3463 X.4.7).
            Outcome::Expired(_) => (Action::Failed, EnhancedStatusCode::new(4, 4, 7)),
            Outcome::Discarded(_) => return None,
        };
        Some(Self {
            recipient,
            action,
            status,
            reply,
            remote_mta: None,
            last_attempt: None,
            will_retry_until: None,
        })
    }
}

/// The reply's own code if its class fits the action; else the class alone.
fn status_of(reply: &Reply, class: u8) -> EnhancedStatusCode {
    let given = reply.enhanced.filter(|code| code.class() == class);
    given.unwrap_or_else(|| {
        // Replies without a code that still say enough (RFC 3463 §4, codes of RFC 5321 §4.2.3).
        match (class, reply.code.get()) {
            (5, 552) => EnhancedStatusCode::new(5, 3, 4),
            (5, 556) => EnhancedStatusCode::new(5, 1, 10),
            _ => EnhancedStatusCode::new(class, 0, 0),
        }
    })
}

/// A notification, ready for the front door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DsnDraft {
    /// Null reverse-path, one recipient, NOTIFY=NEVER (RFC 3461 §6.1).
    pub envelope: Envelope,
    /// The content: CRLF line ends, no line over 998 octets, no Received field yet.
    pub content: Vec<u8>,
    /// What its machine-readable part says.
    pub status: DeliveryStatus,
}

/// Attempts to find a boundary that is not in the message. With a random seed the first one serves; a message
/// that holds them all is not returned.
const BOUNDARY_TRIES: u64 = 16;

/// How a part is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    SevenBit,
    EightBit,
    QuotedPrintable,
    Base64,
}

impl Encoding {
    fn as_str(self) -> &'static str {
        match self {
            Self::SevenBit => "7bit",
            Self::EightBit => "8bit",
            Self::QuotedPrintable => "quoted-printable",
            Self::Base64 => "base64",
        }
    }
}

/// What is returned of the message.
struct ReturnedPart<'a> {
    content_type: &'static str,
    description: &'static str,
    encoding: Encoding,
    octets: &'a [u8],
}

/// Writes a notification. `None` if there is nobody to tell: a null reverse-path, or no recipient.
pub fn write_dsn(request: &DsnRequest<'_>, config: &DsnConfig) -> Option<DsnDraft> {
    let original = &request.message.envelope;
    let ReversePath::Mailbox(sender) = &original.reverse_path else { return None };
    let worst = request.recipients.iter().map(|report| report.action).min()?;
    // An address that is not ASCII can only be reached by SMTPUTF8, so the report may speak it too; every other
    // one must be readable to hosts that know seven bits (RFC 6533 §1).
    let utf8 = !sender.is_ascii();

    let status = delivery_status(request, config, utf8);
    let letter = letter(request, config, worst);
    let letter_encoding = match (letter.is_ascii(), utf8) {
        (true, _) => Encoding::SevenBit,
        (false, true) => Encoding::EightBit,
        (false, false) => Encoding::QuotedPrintable,
    };
    let mut returned = returned_part(request, config, worst, utf8);
    let boundary = boundary(request, returned.as_ref());
    if boundary.is_none() {
        returned = None;
    }
    let boundary = boundary.unwrap_or_else(|| format!("=_tuma_{:016x}", request.seed));
    let eight_bit = utf8 || returned.as_ref().is_some_and(|part| part.encoding == Encoding::EightBit);

    let mut out = Vec::with_capacity(4_096 + returned.as_ref().map_or(0, |part| part.octets.len()));
    write_header(&mut out, request, worst, &boundary, eight_bit);
    out.extend_from_slice(b"This is a delivery report in MIME format (RFC 3464).\r\n");

    open_part(&mut out, &boundary, "text/plain; charset=utf-8", "Report", letter_encoding);
    match letter_encoding {
        Encoding::QuotedPrintable => write_quoted_printable(&mut out, letter.as_bytes()),
        _ => out.extend_from_slice(letter.as_bytes()),
    }

    let (kind, encoding) = if utf8 {
        ("message/global-delivery-status", Encoding::EightBit)
    } else {
        ("message/delivery-status", Encoding::SevenBit)
    };
    open_part(&mut out, &boundary, kind, "Delivery status", encoding);
    write_status(&mut out, &status, utf8);

    if let Some(part) = &returned {
        open_part(&mut out, &boundary, part.content_type, part.description, part.encoding);
        match part.encoding {
            Encoding::SevenBit | Encoding::EightBit => out.extend_from_slice(part.octets),
            Encoding::QuotedPrintable => write_quoted_printable(&mut out, part.octets),
            Encoding::Base64 => write_base64(&mut out, part.octets),
        }
    }
    out.extend_from_slice(b"\r\n--");
    out.extend_from_slice(boundary.as_bytes());
    out.extend_from_slice(b"--\r\n");

    let recipient = Recipient { notify: Notify::NEVER, ..Recipient::new(sender.clone()) };
    let mut envelope = Envelope::new(ReversePath::Null, vec![recipient]);
    envelope.body = if eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit };
    envelope.smtputf8 = utf8;
    // RFC 8689 §5: a report is protected as the message was.
    envelope.require_tls = original.require_tls;
    Some(DsnDraft { envelope, content: out, status })
}

fn write_header(out: &mut Vec<u8>, request: &DsnRequest<'_>, worst: Action, boundary: &str, eight_bit: bool) {
    let subject = match worst {
        Action::Failed => "Your message could not be delivered",
        Action::Delayed => "Your message is delayed",
        Action::Delivered => "Your message was delivered",
        Action::Relayed | Action::Expanded => "Your message was passed on",
    };
    let by = request.by;
    out.extend_from_slice(format!("From: Mail Delivery System <MAILER-DAEMON@{by}>\r\n").as_bytes());
    out.extend_from_slice(format!("To: <{}>\r\n", request.message.envelope.reverse_path).as_bytes());
    out.extend_from_slice(format!("Subject: {subject}\r\nDate: ").as_bytes());
    write_date(out, request.now);
    let id = request.message.id;
    out.extend_from_slice(format!("\r\nMessage-ID: <{id}.{:016x}@{by}>\r\n", request.seed).as_bytes());
    // RFC 3834 §3.1.5: a reader can group the report with what it is about.
    if let Some(original) = original_message_id(request.content) {
        out.extend_from_slice(format!("In-Reply-To: {original}\r\nReferences: {original}\r\n").as_bytes());
    }
    out.extend_from_slice(b"Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n");
    out.extend_from_slice(b"Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"");
    out.extend_from_slice(boundary.as_bytes());
    out.extend_from_slice(b"\"\r\n");
    if eight_bit {
        out.extend_from_slice(b"Content-Transfer-Encoding: 8bit\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// The first Message-ID of the message if it looks like one; it is the sender's text, so it must prove harmless.
fn original_message_id(content: &[u8]) -> Option<String> {
    let id = Fields::new(content).find(|field| field.is("message-id"))?.unfolded();
    let inner = id.strip_prefix('<')?.strip_suffix('>')?;
    let harmless =
        inner.len() <= 250 && inner.bytes().all(|b| matches!(b, 33..=126) && !b"<>()\"\\,;".contains(&b));
    (harmless && inner.contains('@')).then_some(id)
}

fn open_part(out: &mut Vec<u8>, boundary: &str, content_type: &str, description: &str, encoding: Encoding) {
    let encoding = encoding.as_str();
    out.extend_from_slice(
        format!(
            "\r\n--{boundary}\r\nContent-Type: {content_type}\r\nContent-Description: {description}\r\n\
             Content-Transfer-Encoding: {encoding}\r\n\r\n"
        )
        .as_bytes(),
    );
}

fn boundary(request: &DsnRequest<'_>, returned: Option<&ReturnedPart<'_>>) -> Option<String> {
    (0..BOUNDARY_TRIES)
        .map(|n| format!("=_tuma_{:016x}", request.seed.wrapping_add(n)))
        .find(|text| returned.is_none_or(|part| memmem::find(part.octets, text.as_bytes()).is_none()))
}

/// What is returned: the whole message only on failure, when asked for, small enough, not under REQUIRETLS, and
/// fit to stand inside another message as it is; else its header.
fn returned_part<'a>(
    request: &DsnRequest<'a>,
    config: &DsnConfig,
    worst: Action,
    utf8: bool,
) -> Option<ReturnedPart<'a>> {
    let (envelope, content) = (&request.message.envelope, request.content);
    if content.is_empty() {
        return None;
    }
    let scan = scan(content);
    let global = envelope.smtputf8 && !scan.is_ascii;
    let clean = |octets: &[u8]| !has_bare_newline(octets) && lines_within(octets, 998);
    let full = worst == Action::Failed
        && envelope.ret.unwrap_or(config.returned_by_default) == Ret::Full
        && !envelope.require_tls
        && content.len() <= config.returned_max_octets
        && clean(content);
    if full {
        let (content_type, encoding) = match (global, content.is_ascii()) {
            // message/rfc822 must not be encoded (RFC 2046 §5.2.1); message/global may be (RFC 6532 §3.7).
            (false, true) => ("message/rfc822", Encoding::SevenBit),
            (false, false) => ("message/rfc822", Encoding::EightBit),
            (true, _) if utf8 => ("message/global", Encoding::EightBit),
            (true, _) => ("message/global", Encoding::Base64),
        };
        return Some(ReturnedPart { content_type, description: "Your message", encoding, octets: content });
    }
    let octets = header_within(content, &scan, config.returned_max_octets);
    if octets.is_empty() {
        return None;
    }
    let encoding = match (clean(octets), octets.is_ascii()) {
        (true, true) => Encoding::SevenBit,
        (true, false) if utf8 => Encoding::EightBit,
        _ => Encoding::QuotedPrintable,
    };
    let content_type = if global { "message/global-headers" } else { "text/rfc822-headers" };
    Some(ReturnedPart { content_type, description: "Header of your message", encoding, octets })
}

/// The header, or as many of its first fields as fit.
fn header_within<'a>(content: &'a [u8], scan: &Scan, max: usize) -> &'a [u8] {
    if scan.header_len <= max {
        return &content[..scan.header_len];
    }
    let end = Fields::new(content).map(|field| field.end).take_while(|&end| end <= max).last();
    &content[..end.unwrap_or(0)]
}

/// The letter: what happened, to whom, what the other side said, and what to do now.
fn letter(request: &DsnRequest<'_>, config: &DsnConfig, worst: Action) -> String {
    let mut out = format!("This is the mail system at {}.\r\n\r\n", request.by);
    let about = one_line(&subject(request.content), 120);
    if !about.is_empty() {
        push_wrapped(&mut out, "", &format!("It is about your message with the subject: {about}"));
        out.push_str("\r\n");
    }
    for action in Action::ALL {
        let mut of_action = request.recipients.iter().filter(|report| report.action == action).peekable();
        if of_action.peek().is_none() {
            continue;
        }
        out.push_str(match action {
            Action::Failed => "It could NOT be delivered to:\r\n\r\n",
            Action::Delayed => "It has not been delivered yet, and will be tried again, to:\r\n\r\n",
            Action::Delivered => "It was delivered to:\r\n\r\n",
            Action::Relayed => {
                "It was passed on to the next mail system, which will not report further, for:\r\n\r\n"
            }
            Action::Expanded => "It was delivered and forwarded to others from:\r\n\r\n",
        });
        for report in of_action {
            push_recipient(&mut out, report, config);
        }
    }
    out.push_str(match worst {
        Action::Failed => {
            "It will not be tried again. Check the address, or send the message again when the\r\n\
             reason above is gone. If you cannot tell the reason, show this report to your\r\n\
             postmaster.\r\n"
        }
        Action::Delayed => "You need not do anything. This is a warning only; do not send it again.\r\n",
        _ => "You asked for this report. You need not do anything.\r\n",
    });
    out
}

fn push_recipient(out: &mut String, report: &RecipientReport<'_>, config: &DsnConfig) {
    push_wrapped(out, "  ", &format!("<{}>", report.recipient.path));
    let reply = one_line(&report.reply.to_string(), config.reply_max_octets);
    let line = match (report.remote_mta, report.status.subject(), report.status.detail()) {
        (Some(host), ..) => format!("{} said: {reply}", one_line(host, 255)),
        (None, 4, 7) => format!("It was tried too long. The last reason: {reply}"),
        (None, ..) => reply,
    };
    push_wrapped(out, "    ", &line);
    if let Some(until) = report.will_retry_until.filter(|_| report.action == Action::Delayed) {
        let mut date = Vec::new();
        write_date(&mut date, until);
        push_wrapped(out, "    ", &format!("It will be tried until {}.", String::from_utf8_lossy(&date)));
    }
    out.push_str("\r\n");
}

fn subject(content: &[u8]) -> String {
    let field = Fields::new(content).find(|field| field.is("subject"));
    // An encoded subject (RFC 2047) would only be noise in a letter.
    field.map(|field| field.unfolded()).filter(|text| !text.contains("=?")).unwrap_or_default()
}

/// Appends `text`, wrapped at blanks to 78 octets where possible, each line behind `indent`.
fn push_wrapped(out: &mut String, indent: &str, text: &str) {
    let mut column = 0;
    for word in text.split(' ') {
        if column > 0 && column + 1 + word.len() > 78 {
            out.push_str("\r\n");
            column = 0;
        }
        if column == 0 {
            out.push_str(indent);
            column = indent.len();
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out.push_str("\r\n");
}

fn delivery_status(request: &DsnRequest<'_>, config: &DsnConfig, utf8: bool) -> DeliveryStatus {
    let dns = |text: &str| Address { kind: "dns".into(), text: one_line(&to_unitext(text, false), 255) };
    let whole = |time: UnixMillis| UnixMillis(time.0 / 1_000 * 1_000);
    let envid = request.message.envelope.envid.as_deref();
    let recipients = request.recipients.iter().map(|report| RecipientStatus {
        original: report.recipient.orcpt.as_deref().and_then(original_recipient),
        recipient: final_recipient(report.recipient),
        action: report.action,
        status: report.status,
        remote_mta: report.remote_mta.map(dns),
        // A diagnostic is what a host said; our own reason is in the letter and in Status (RFC 3464 §2.3.6).
        diagnostic: report.remote_mta.map(|_| {
            let said = report.reply.to_string();
            let said = if utf8 { said } else { to_unitext(&said, false).into_owned() };
            Address { kind: "smtp".into(), text: one_line(&said, config.reply_max_octets) }
        }),
        last_attempt: report.last_attempt.map(whole),
        will_retry_until: report.will_retry_until.map(whole),
    });
    DeliveryStatus {
        reporting_mta: Some(dns(&request.by.to_string())),
        envelope_id: envid.and_then(decoded).filter(|text| text.is_ascii()),
        arrival_date: Some(whole(request.message.received_at)),
        recipients: recipients.collect(),
    }
}

/// Longest text taken from ENVID or ORCPT (RFC 3461 §4.2 and §4.4 allow 500 and 100 octets before decoding).
const PARAMETER_MAX: usize = 500;

/// xtext decoded, unless what comes out could not stand in a header field: then it is left out.
fn decoded(xtext: &str) -> Option<String> {
    let text = decode_xtext(xtext)?;
    let fits = !text.is_empty() && text.len() <= PARAMETER_MAX && text == one_line(&text, usize::MAX);
    fits.then_some(text)
}

fn original_recipient(orcpt: &str) -> Option<Address> {
    let (kind, xtext) = orcpt.split_once(';')?;
    let kind = kind.trim().to_ascii_lowercase();
    if kind.is_empty() || kind.len() > 40 || !kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return None;
    }
    let text = decoded(xtext.trim())?;
    if kind == "utf-8" {
        let text = crate::encoding::from_unitext(&text).into_owned();
        let fits = text == one_line(&text, usize::MAX);
        return fits.then_some(Address { kind, text });
    }
    text.is_ascii().then_some(Address { kind, text })
}

fn final_recipient(recipient: &Recipient) -> Address {
    let kind = if recipient.path.0.is_ascii() { "rfc822" } else { "utf-8" };
    Address { kind: kind.into(), text: recipient.path.as_str().into() }
}

fn write_status(out: &mut Vec<u8>, status: &DeliveryStatus, utf8: bool) {
    let date = |time: UnixMillis| {
        let mut text = Vec::with_capacity(31);
        write_date(&mut text, time);
        String::from_utf8_lossy(&text).into_owned()
    };
    let typed = |address: &Address| match (address.kind.as_str(), utf8) {
        ("utf-8", false) => format!("utf-8; {}", to_unitext(&address.text, true)),
        // Even where UTF-8 may stand raw, a backslash would be read as the start of an escape (RFC 6533 §3).
        ("utf-8", true) => format!("utf-8; {}", address.text.replace('\\', "\\x{5C}")),
        (kind, _) => format!("{kind}; {}", address.text),
    };
    let mut field = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            write_folded(out, name, &value);
        }
    };
    field("Reporting-MTA", status.reporting_mta.as_ref().map(typed));
    field("Original-Envelope-Id", status.envelope_id.clone());
    field("Arrival-Date", status.arrival_date.map(date));
    for recipient in &status.recipients {
        // An empty line parts the groups; a field without a name cannot occur, so the name serves as the mark.
        field("", Some(String::new()));
        field("Original-Recipient", recipient.original.as_ref().map(typed));
        field("Final-Recipient", Some(typed(&recipient.recipient)));
        field("Action", Some(recipient.action.as_str().to_owned()));
        field("Status", Some(recipient.status.to_string()));
        field("Remote-MTA", recipient.remote_mta.as_ref().map(typed));
        field("Diagnostic-Code", recipient.diagnostic.as_ref().map(typed));
        field("Last-Attempt-Date", recipient.last_attempt.map(date));
        field("Will-Retry-Until", recipient.will_retry_until.map(date));
    }
}

/// Longest run without a blank that is left whole; a longer one is folded where it stands, so that no line
/// exceeds 998 octets whatever it holds.
const UNBROKEN_MAX: usize = 900;

/// Writes a field folded at blanks, the blank itself beginning the next line, so that unfolding restores it.
fn write_folded(out: &mut Vec<u8>, name: &str, value: &str) {
    if name.is_empty() {
        return out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    let mut column = name.len() + 1;
    for (n, word) in value.split(' ').enumerate() {
        // Never behind the colon, nor before an empty word: a line of blanks alone ends a header for some.
        if n > 1 && !word.is_empty() && column + 1 + word.len() > 78 {
            out.extend_from_slice(b"\r\n");
            column = 0;
        }
        out.push(b' ');
        column += 1;
        let mut rest = word;
        while rest.len() + column > UNBROKEN_MAX {
            let mut cut = UNBROKEN_MAX.saturating_sub(column);
            while !rest.is_char_boundary(cut) {
                cut -= 1;
            }
            // Rather before an @ or an escape than inside one.
            cut = rest[..cut].rfind(['@', '\\']).filter(|&at| at > cut / 2).unwrap_or(cut);
            out.extend_from_slice(&rest.as_bytes()[..cut]);
            out.extend_from_slice(b"\r\n ");
            (rest, column) = (&rest[cut..], 1);
        }
        out.extend_from_slice(rest.as_bytes());
        column += rest.len();
    }
    out.extend_from_slice(b"\r\n");
}
