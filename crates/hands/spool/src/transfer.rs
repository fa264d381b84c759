//! Messages outside a spool: lines of words and values, then the content as it is. Meant to outlive versions
//! of the spool's own format, and to be read by a script; `docs/spool-format.md` describes it.

use crate::{Content, OpenError, PendingRecipient, Refusal};
use bytes::Bytes;
use mail::{
    BodyType, EnhancedStatusCode, Envelope, KEPT_FIELDS_MAX, KEPT_VALUE_MAX_OCTETS, KeptField,
    METADATA_MAX_OCTETS, Mailbox, Merge, Message, Notify, Origin, Priority, Protocol, Recipient, Reply,
    ReplyCode, RequestPart, Ret, ReversePath, SessionId, SpoolId, Tags, TlsInfo, UnixMillis,
};
use std::fmt;
use std::io::{self, BufRead, Read, Write};

const HEAD: &str = "tuma-export 1";
/// Octets of one line; longer than any value that a message holds.
const LINE_MAX: u64 = 1 << 20;

/// Why an import ended early.
#[derive(Debug)]
pub enum ImportError {
    /// The spool cannot be opened.
    Open(OpenError),
    /// The spool did not take a message.
    Refused(Refusal),
    /// The input cannot be read.
    Io(io::Error),
    /// The input is not an export, or damaged: this line.
    Malformed(String),
    /// The input ends before it says it does.
    Truncated,
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Io(_) => f.write_str("cannot read the export"),
            Self::Malformed(line) => write!(f, "not understood in the export: {line:?}"),
            Self::Truncated => f.write_str("the export is cut off"),
        }
    }
}

impl std::error::Error for ImportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Open(error) => error.source(),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for ImportError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A value without control characters: `%` and two hexadecimal digits instead.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '%' || c.is_ascii_control() {
            out.push_str(&format!("%{:02X}", c as u32));
        } else {
            out.push(c);
        }
    }
    out
}

fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut out = parts.next()?.to_owned();
    for part in parts {
        let code = u8::from_str_radix(part.get(..2)?, 16).ok()?;
        out.push(char::from(code));
        out.push_str(&part[2..]);
    }
    Some(out)
}

pub(crate) fn write_head(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{HEAD}")
}

pub(crate) fn write_end(out: &mut dyn Write, count: u64) -> io::Result<()> {
    writeln!(out, "end {count}")?;
    out.flush()
}

/// Writes one message with the recipients that wait.
pub(crate) fn write(
    out: &mut dyn Write,
    message: &Message,
    pending: &[PendingRecipient],
    content: &Content,
) -> io::Result<()> {
    let (envelope, origin) = (&message.envelope, &message.origin);
    writeln!(out, "message {}", message.id)?;
    writeln!(out, "received-at {}", message.received_at.0)?;
    writeln!(out, "from {}", envelope.reverse_path)?;
    match envelope.body {
        BodyType::SevenBit => {}
        BodyType::EightBitMime => writeln!(out, "body 8BITMIME")?,
        BodyType::BinaryMime => writeln!(out, "body BINARYMIME")?,
    }
    if envelope.smtputf8 {
        writeln!(out, "smtputf8")?;
    }
    if envelope.require_tls {
        writeln!(out, "requiretls")?;
    }
    match envelope.ret {
        None => {}
        Some(Ret::Full) => writeln!(out, "ret FULL")?,
        Some(Ret::Headers) => writeln!(out, "ret HDRS")?,
    }
    if let Some(envid) = &envelope.envid {
        writeln!(out, "envid {}", escape(envid))?;
    }
    let protocol = match origin.protocol {
        Protocol::Smtp => "SMTP",
        Protocol::Esmtp => "ESMTP",
        Protocol::Lmtp => "LMTP",
        Protocol::Internal => "internal",
        Protocol::Http => "HTTP",
    };
    writeln!(out, "protocol {protocol}")?;
    writeln!(out, "helo {}", escape(&origin.helo))?;
    writeln!(out, "listener {}", escape(&origin.listener))?;
    if let Some(user) = &origin.user {
        writeln!(out, "user {}", escape(user))?;
    }
    if let Some(tls) = &origin.tls {
        writeln!(out, "tls {} {}", escape(&tls.protocol), escape(&tls.cipher))?;
    }
    if let Some(session) = origin.session {
        writeln!(out, "session {session}")?;
    }
    if let Some(peer) = origin.peer {
        writeln!(out, "peer {peer}")?;
    }
    if let Some(local) = origin.local {
        writeln!(out, "local {local}")?;
    }
    write_tags(out, message)?;
    write_extras(out, message)?;
    for waiting in pending {
        let Some(recipient) = envelope.recipients.get(usize::from(waiting.index)) else { continue };
        write_recipient(out, recipient, waiting)?;
        if let Some(merge) = message.merge() {
            // Those who are settled are left out, so the others no longer stand in the merge's order.
            writeln!(out, "place {}", merge.place(waiting.index.into()))?;
        }
    }
    writeln!(out, "content {}", content.len())?;
    out.write_all(&content.prefix)?;
    out.write_all(&content.body)?;
    writeln!(out)
}

fn write_tags(out: &mut dyn Write, message: &Message) -> io::Result<()> {
    let tags = &message.tags;
    let texts = [
        ("tenant", &tags.tenant),
        ("campaign", &tags.campaign),
        ("job", &tags.job),
        ("envelope-id", &tags.envid),
        ("pool", &tags.pool),
    ];
    for (word, text) in texts {
        if let Some(text) = text {
            writeln!(out, "{word} {}", escape(text))?;
        }
    }
    if tags.priority != Priority::default() {
        writeln!(out, "priority {}", tags.priority)?;
    }
    for field in &message.headers {
        writeln!(out, "header {} {}", escape(&field.name), escape(&field.value))?;
    }
    Ok(())
}

fn write_extras(out: &mut dyn Write, message: &Message) -> io::Result<()> {
    let Some(extras) = &message.extras else { return Ok(()) };
    if let Some(at) = extras.send_at {
        writeln!(out, "send-at {}", at.0)?;
    }
    if let Some(at) = extras.expires_at {
        writeln!(out, "expires-at {}", at.0)?;
    }
    if let Some(metadata) = &extras.metadata {
        writeln!(out, "metadata {}", escape(metadata))?;
    }
    if let Some(merge) = &extras.merge {
        writeln!(out, "merge {}", merge.octets_each)?;
    }
    if let Some(request) = &extras.request {
        let hex = |octets: [u8; 16]| format!("{:032x}", u128::from_be_bytes(octets));
        writeln!(out, "request {} {} {}", hex(request.key), hex(request.body), request.part)?;
    }
    Ok(())
}

fn write_recipient(out: &mut dyn Write, recipient: &Recipient, waiting: &PendingRecipient) -> io::Result<()> {
    writeln!(out, "to {}", recipient.path)?;
    if !recipient.notify.is_absent() {
        writeln!(out, "notify {}", recipient.notify)?;
    }
    if let Some(orcpt) = &recipient.orcpt {
        writeln!(out, "orcpt {}", escape(orcpt))?;
    }
    if let Some(due) = waiting.due {
        writeln!(out, "deferred {} {}", waiting.attempts, due.0)?;
        if waiting.ambiguous {
            writeln!(out, "ambiguous")?;
        }
        if let Some(reply) = &waiting.last_reply {
            let enhanced = reply.enhanced.map_or_else(|| "-".to_owned(), |e| e.to_string());
            writeln!(out, "reply {} {enhanced} {}", reply.code, escape(&reply.text))?;
        }
    }
    Ok(())
}

fn line(input: &mut dyn BufRead) -> Result<String, ImportError> {
    let mut octets = Vec::new();
    let mut limited = input.take(LINE_MAX);
    limited.read_until(b'\n', &mut octets)?;
    if octets.pop() != Some(b'\n') {
        return Err(ImportError::Truncated);
    }
    String::from_utf8(octets).map_err(|error| ImportError::Malformed(error.to_string()))
}

pub(crate) fn read_head(input: &mut dyn BufRead) -> Result<(), ImportError> {
    let head = line(input)?;
    if head == HEAD { Ok(()) } else { Err(ImportError::Malformed(head)) }
}

/// Reads the number behind `end`, which [`read`] has passed over.
pub(crate) fn check_end(input: &mut dyn BufRead, count: u64) -> Result<(), ImportError> {
    let end = line(input)?;
    if end.parse() == Ok(count) { Ok(()) } else { Err(ImportError::Malformed(format!("end {end}"))) }
}

/// Reads the next message; `None` at the end, of which the number is left to be read.
pub(crate) fn read(
    input: &mut dyn BufRead,
) -> Result<Option<(Message, Vec<PendingRecipient>, Content)>, ImportError> {
    let mut word = [0; 4];
    input.read_exact(&mut word).map_err(|_| ImportError::Truncated)?;
    if &word == b"end " {
        return Ok(None);
    }
    let first = String::from_utf8_lossy(&word).into_owned() + &line(input)?;
    if !first.starts_with("message ") {
        return Err(ImportError::Malformed(first));
    }
    let mut message = Message {
        id: SpoolId(0),
        received_at: UnixMillis(0),
        size: 0,
        envelope: Envelope::new(ReversePath::Null, Vec::new()),
        origin: Origin::default(),
        tags: Tags::default(),
        headers: Vec::new(),
        extras: None,
    };
    let mut pending = Vec::new();
    loop {
        let text = line(input)?;
        let (word, value) = text.split_once(' ').unwrap_or((&text, ""));
        if word == "content" {
            let len: u32 = value.parse().map_err(|_| ImportError::Malformed(text.clone()))?;
            let mut body = Vec::new();
            let got = input.take(len.into()).read_to_end(&mut body)?;
            let mut newline = [0];
            if got < len as usize || input.read_exact(&mut newline).is_err() {
                return Err(ImportError::Truncated);
            }
            if newline != *b"\n" || pending.is_empty() {
                return Err(ImportError::Malformed(text));
            }
            return Ok(Some((message, pending, Content { prefix: Bytes::new(), body: body.into() })));
        }
        take(&mut message, &mut pending, word, value).ok_or(ImportError::Malformed(text.clone()))?;
    }
}

/// Takes one line into account; `None` if it is not understood.
fn take(message: &mut Message, pending: &mut Vec<PendingRecipient>, word: &str, value: &str) -> Option<()> {
    let (envelope, origin, tags) = (&mut message.envelope, &mut message.origin, &mut message.tags);
    let tag = || unescape(value).and_then(|text| mail::tag(&text).ok());
    let text = || unescape(value).map(String::into_boxed_str);
    match word {
        "received-at" => message.received_at = UnixMillis(value.parse().ok()?),
        "from" if value.is_empty() => envelope.reverse_path = ReversePath::Null,
        "from" => envelope.reverse_path = ReversePath::Mailbox(Mailbox::parse(value).ok()?),
        "body" => {
            envelope.body = match value {
                "8BITMIME" => BodyType::EightBitMime,
                "BINARYMIME" => BodyType::BinaryMime,
                _ => return None,
            }
        }
        "smtputf8" => envelope.smtputf8 = true,
        "requiretls" => envelope.require_tls = true,
        "ret" => {
            envelope.ret = Some(match value {
                "FULL" => Ret::Full,
                "HDRS" => Ret::Headers,
                _ => return None,
            });
        }
        "envid" => envelope.envid = Some(text()?),
        "protocol" => {
            origin.protocol = match value {
                "SMTP" => Protocol::Smtp,
                "ESMTP" => Protocol::Esmtp,
                "LMTP" => Protocol::Lmtp,
                "internal" => Protocol::Internal,
                "HTTP" => Protocol::Http,
                _ => return None,
            }
        }
        "helo" => origin.helo = text()?,
        "listener" => origin.listener = text()?,
        "user" => origin.user = Some(text()?),
        "tls" => {
            let (protocol, cipher) = value.split_once(' ')?;
            origin.tls =
                Some(TlsInfo { protocol: unescape(protocol)?.into(), cipher: unescape(cipher)?.into() });
        }
        "session" => origin.session = Some(SessionId::parse(value)?),
        "peer" => origin.peer = Some(value.parse().ok()?),
        "local" => origin.local = Some(value.parse().ok()?),
        "tenant" => tags.tenant = Some(tag()?),
        "campaign" => tags.campaign = Some(tag()?),
        "job" => tags.job = Some(tag()?),
        "envelope-id" => tags.envid = Some(tag()?),
        "pool" => tags.pool = Some(tag()?),
        "priority" => tags.priority = value.parse().ok()?,
        "header" => {
            let (name, value) = value.split_once(' ')?;
            let field = KeptField { name: unescape(name)?.into(), value: unescape(value)?.into() };
            let too_long = |text: &str| text.len() > KEPT_VALUE_MAX_OCTETS;
            if message.headers.len() >= KEPT_FIELDS_MAX || too_long(&field.name) || too_long(&field.value) {
                return None;
            }
            message.headers.push(field);
        }
        "send-at" => message.extras.get_or_insert_default().send_at = Some(UnixMillis(value.parse().ok()?)),
        "expires-at" => {
            message.extras.get_or_insert_default().expires_at = Some(UnixMillis(value.parse().ok()?))
        }
        "metadata" => {
            let metadata = text()?;
            if metadata.len() > METADATA_MAX_OCTETS {
                return None;
            }
            message.extras.get_or_insert_default().metadata = Some(metadata);
        }
        "merge" => {
            let merge = Merge { octets_each: value.parse().ok()?, places: Vec::new() };
            message.extras.get_or_insert_default().merge = Some(merge);
        }
        "place" => {
            let places = &mut message.extras.as_mut()?.merge.as_mut()?.places;
            places.push(value.parse().ok()?);
            if places.len() != envelope.recipients.len() {
                return None;
            }
        }
        "request" => {
            let mut parts = value.splitn(3, ' ');
            let mut digest = || {
                let octets = u128::from_str_radix(parts.next()?, 16).ok()?;
                Some(octets.to_be_bytes())
            };
            let (key, body) = (digest()?, digest()?);
            let request = RequestPart { key, body, part: parts.next()?.parse().ok()? };
            message.extras.get_or_insert_default().request = Some(request);
        }
        "to" => {
            let index = u16::try_from(envelope.recipients.len()).ok()?;
            envelope.recipients.push(Recipient::new(Mailbox::parse(value).ok()?));
            pending.push(PendingRecipient {
                index,
                attempts: 0,
                due: None,
                last_reply: None,
                ambiguous: false,
            });
        }
        _ => return take_of_recipient(envelope.recipients.last_mut()?, pending.last_mut()?, word, value),
    }
    Some(())
}

fn take_of_recipient(
    recipient: &mut Recipient,
    waiting: &mut PendingRecipient,
    word: &str,
    value: &str,
) -> Option<()> {
    match word {
        "notify" => {
            let mut bits = 0;
            for word in value.split(',') {
                bits |= match word {
                    "NEVER" => 1,
                    "SUCCESS" => 2,
                    "FAILURE" => 4,
                    "DELAY" => 8,
                    _ => return None,
                };
            }
            recipient.notify = Notify::from_bits(bits)?;
        }
        "orcpt" => recipient.orcpt = Some(unescape(value)?.into()),
        "deferred" => {
            let (attempts, due) = value.split_once(' ')?;
            waiting.attempts = attempts.parse().ok()?;
            waiting.due = Some(UnixMillis(due.parse().ok()?));
        }
        "ambiguous" => waiting.ambiguous = true,
        "reply" => {
            let mut parts = value.splitn(3, ' ');
            let code = ReplyCode::new(parts.next()?.parse().ok()?)?;
            let enhanced = match parts.next()? {
                "-" => None,
                text => Some(EnhancedStatusCode::parse(text)?),
            };
            let text = unescape(parts.next()?)?.into();
            waiting.last_reply = Some(Reply { code, enhanced, text });
        }
        _ => return None,
    }
    Some(())
}
