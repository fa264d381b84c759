//! The head of a record: a message without its content, in our own binary form.
//!
//! Numbers are varints (seven bits an octet, least significant first), texts are a varint length and UTF-8.
//! The first octet is the version of the form; `docs/spool-format.md` lists the fields.

use mail::{
    BodyType, Envelope, Extras, ForwardPath, KEPT_FIELDS_MAX, KEPT_VALUE_MAX_OCTETS, KeptField,
    METADATA_MAX_OCTETS, Mailbox, Merge, Message, Notify, Origin, Priority, Protocol, Recipient, RequestPart,
    Ret, ReversePath, SessionId, SpoolId, Tags, TlsInfo, UnixMillis,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The version with extras behind the rest; written only if there are any.
const VERSION_EXTRAS: u8 = 3;
/// The version this code writes else.
const VERSION: u8 = 2;
/// The version without tags and kept header fields; read for ever.
const VERSION_UNTAGGED: u8 = 1;

/// Why octets are not a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// Written by a version we do not know.
    Version(u8),
    /// It ends too early, goes on too long, or holds a value no version writes.
    Malformed,
}

/// Appends the head of `message` to `out`. The id is not part of it: the record's header has it.
pub(crate) fn encode(message: &Message, out: &mut Vec<u8>) {
    let envelope = &message.envelope;
    let origin = &message.origin;
    out.push(if message.extras.is_some() { VERSION_EXTRAS } else { VERSION });
    put_number(out, message.received_at.0);
    put_number(out, message.size);
    out.push(match envelope.body {
        BodyType::SevenBit => 0,
        BodyType::EightBitMime => 1,
        BodyType::BinaryMime => 2,
    });
    out.push(match envelope.ret {
        None => 0,
        Some(Ret::Full) => 1,
        Some(Ret::Headers) => 2,
    });
    out.push(
        u8::from(envelope.smtputf8)
            | u8::from(envelope.require_tls) << 1
            | u8::from(envelope.envid.is_some()) << 2
            | u8::from(envelope.reverse_path != ReversePath::Null) << 3
            | u8::from(origin.user.is_some()) << 4
            | u8::from(origin.tls.is_some()) << 5
            | u8::from(origin.session.is_some()) << 6,
    );
    if let Some(mailbox) = envelope.reverse_path.mailbox() {
        put_text(out, mailbox.as_str());
    }
    if let Some(envid) = &envelope.envid {
        put_text(out, envid);
    }
    put_number(out, envelope.recipients.len() as u64);
    for recipient in &envelope.recipients {
        out.push(recipient.notify.bits() | u8::from(recipient.orcpt.is_some()) << 7);
        put_text(out, recipient.path.as_str());
        if let Some(orcpt) = &recipient.orcpt {
            put_text(out, orcpt);
        }
    }
    out.push(match origin.protocol {
        Protocol::Smtp => 0,
        Protocol::Esmtp => 1,
        Protocol::Lmtp => 2,
        Protocol::Internal => 3,
        Protocol::Http => 4,
    });
    put_text(out, &origin.helo);
    put_text(out, &origin.listener);
    if let Some(user) = &origin.user {
        put_text(out, user);
    }
    if let Some(tls) = &origin.tls {
        put_text(out, &tls.protocol);
        put_text(out, &tls.cipher);
    }
    if let Some(session) = origin.session {
        put_number(out, session.0);
    }
    put_address(out, origin.peer);
    put_address(out, origin.local);
    put_tags(out, message);
    if let Some(extras) = &message.extras {
        put_extras(out, extras);
    }
}

/// Tags and kept header fields: one octet if there are none.
fn put_tags(out: &mut Vec<u8>, message: &Message) {
    let Tags { tenant, campaign, job, envid, pool, priority } = &message.tags;
    let texts = [tenant, campaign, job, envid, pool];
    let present = texts.iter().enumerate().map(|(bit, text)| u8::from(text.is_some()) << bit).sum::<u8>();
    out.push(present | priority.as_u8() << 5 | u8::from(!message.headers.is_empty()) << 7);
    for text in texts.into_iter().flatten() {
        put_text(out, text);
    }
    if !message.headers.is_empty() {
        put_number(out, message.headers.len() as u64);
        for field in &message.headers {
            put_text(out, &field.name);
            put_text(out, &field.value);
        }
    }
}

/// What [`put_tags`] wrote.
fn take_tags(input: &mut Input<'_>) -> Option<(Tags, Vec<KeptField>)> {
    let flags = input.byte()?;
    let mut text = |bit: u8| input.text_if(flags & (1 << bit) != 0);
    let tags = Tags {
        tenant: text(0)?,
        campaign: text(1)?,
        job: text(2)?,
        envid: text(3)?,
        pool: text(4)?,
        priority: Priority::from_u8(flags >> 5 & 3)?,
    };
    let texts = [&tags.tenant, &tags.campaign, &tags.job, &tags.envid, &tags.pool];
    if texts.into_iter().flatten().any(|text| mail::tag(text).as_ref() != Ok(text)) {
        return None;
    }
    let mut headers = Vec::new();
    if flags & 0x80 != 0 {
        let count =
            usize::try_from(input.number()?).ok().filter(|count| (1..=KEPT_FIELDS_MAX).contains(count))?;
        for _ in 0..count {
            let mut text = || input.text().filter(|text| text.len() <= KEPT_VALUE_MAX_OCTETS).map(Box::from);
            headers.push(KeptField { name: text()?, value: text()? });
        }
    }
    Some((tags, headers))
}

/// Extras: their count, then for each its kind, its length and so many octets, in the order of kinds.
fn put_extras(out: &mut Vec<u8>, extras: &Extras) {
    let Extras { send_at, expires_at, metadata, merge, request } = extras;
    let mut fields: Vec<(u8, Vec<u8>)> = Vec::new();
    let number = |value: u64| {
        let mut octets = Vec::new();
        put_number(&mut octets, value);
        octets
    };
    fields.extend(send_at.map(|at| (1, number(at.0))));
    fields.extend(expires_at.map(|at| (2, number(at.0))));
    fields.extend(metadata.as_ref().map(|text| (3, text.as_bytes().to_vec())));
    fields.extend(merge.as_ref().map(|merge| {
        let mut octets = number(merge.octets_each.into());
        merge.places.iter().for_each(|place| put_number(&mut octets, u64::from(*place)));
        (4, octets)
    }));
    fields.extend(request.map(|request| {
        let mut octets = [request.key, request.body].concat();
        put_number(&mut octets, request.part.into());
        (5, octets)
    }));
    put_number(out, fields.len() as u64);
    for (kind, octets) in fields {
        out.push(kind);
        put_number(out, octets.len() as u64);
        out.extend_from_slice(&octets);
    }
}

/// What [`put_extras`] wrote. A kind that is not known makes the whole unreadable: it may say not to send.
fn take_extras(input: &mut Input<'_>) -> Option<Extras> {
    let mut extras = Extras::default();
    let mut last = 0;
    for _ in 0..input.number()? {
        let kind = input.byte()?;
        let len = usize::try_from(input.number()?).ok()?;
        let mut field = Input(input.take(len)?);
        if kind <= last {
            return None;
        }
        last = kind;
        match kind {
            1 => extras.send_at = Some(UnixMillis(field.number()?)),
            2 => extras.expires_at = Some(UnixMillis(field.number()?)),
            3 => {
                let text = std::str::from_utf8(field.take(len)?).ok()?;
                extras.metadata = Some(text.into()).filter(|_| text.len() <= METADATA_MAX_OCTETS);
                extras.metadata.as_ref()?;
            }
            4 => {
                let octets_each = u32::try_from(field.number()?).ok()?;
                let mut places = Vec::new();
                while !field.0.is_empty() {
                    places.push(u16::try_from(field.number()?).ok()?);
                }
                extras.merge = Some(Merge { octets_each, places });
            }
            5 => {
                let (key, body) = (field.array()?, field.array()?);
                let part = u32::try_from(field.number()?).ok()?;
                extras.request = Some(RequestPart { key, body, part });
            }
            _ => return None,
        }
        if !field.0.is_empty() {
            return None;
        }
    }
    Some(extras)
}

/// Reads a head back.
pub(crate) fn decode(id: SpoolId, head: &[u8]) -> Result<Message, HeadError> {
    let mut input = Input(head);
    let version = input.byte().ok_or(HeadError::Malformed)?;
    if !matches!(version, VERSION_UNTAGGED | VERSION | VERSION_EXTRAS) {
        return Err(HeadError::Version(version));
    }
    decode_fields(id, version, &mut input).filter(|_| input.0.is_empty()).ok_or(HeadError::Malformed)
}

fn decode_fields(id: SpoolId, version: u8, input: &mut Input<'_>) -> Option<Message> {
    let received_at = UnixMillis(input.number()?);
    let size = input.number()?;
    let body = match input.byte()? {
        0 => BodyType::SevenBit,
        1 => BodyType::EightBitMime,
        2 => BodyType::BinaryMime,
        _ => return None,
    };
    let ret = match input.byte()? {
        0 => None,
        1 => Some(Ret::Full),
        2 => Some(Ret::Headers),
        _ => return None,
    };
    let flags = input.byte()?;
    if flags & 0x80 != 0 {
        return None;
    }
    let flag = |bit: u8| flags & (1 << bit) != 0;
    let reverse_path =
        if flag(3) { ReversePath::Mailbox(Mailbox::parse(input.text()?).ok()?) } else { ReversePath::Null };
    let envid = input.text_if(flag(2))?;
    let count = usize::try_from(input.number()?).ok()?;
    // A recipient takes two octets at the least, so a wild count cannot make us allocate more than we read.
    let mut recipients = Vec::with_capacity(count.min(input.0.len() / 2));
    for _ in 0..count {
        let bits = input.byte()?;
        let notify = Notify::from_bits(bits & 0x7f)?;
        let path = ForwardPath(Mailbox::parse(input.text()?).ok()?);
        recipients.push(Recipient { path, notify, orcpt: input.text_if(bits & 0x80 != 0)? });
    }
    let protocol = match input.byte()? {
        0 => Protocol::Smtp,
        1 => Protocol::Esmtp,
        2 => Protocol::Lmtp,
        3 => Protocol::Internal,
        4 => Protocol::Http,
        _ => return None,
    };
    let helo = input.text()?.into();
    let listener = input.text()?.into();
    let user = input.text_if(flag(4))?;
    let tls = match flag(5) {
        true => Some(TlsInfo { protocol: input.text()?.into(), cipher: input.text()?.into() }),
        false => None,
    };
    let session = if flag(6) { Some(SessionId(input.number()?)) } else { None };
    let peer = input.address()?;
    let local = input.address()?;
    let (tags, headers) = match version {
        VERSION_UNTAGGED => Default::default(),
        _ => take_tags(input)?,
    };
    let extras = match version {
        VERSION_EXTRAS => Some(Box::new(take_extras(input)?)),
        _ => None,
    };
    let (smtputf8, require_tls) = (flag(0), flag(1));
    let envelope = Envelope { reverse_path, recipients, body, smtputf8, require_tls, ret, envid };
    let origin = Origin { session, peer, local, helo, user, listener, protocol, tls };
    Some(Message { id, received_at, size, envelope, origin, tags, headers, extras })
}

fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    match address {
        None => out.push(0),
        Some(SocketAddr::V4(v4)) => {
            out.push(4);
            out.extend_from_slice(&v4.ip().octets());
            out.extend_from_slice(&v4.port().to_le_bytes());
        }
        Some(SocketAddr::V6(v6)) => {
            out.push(6);
            out.extend_from_slice(&v6.ip().octets());
            out.extend_from_slice(&v6.port().to_le_bytes());
            put_number(out, v6.flowinfo().into());
            put_number(out, v6.scope_id().into());
        }
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.number()?).ok()?;
        std::str::from_utf8(self.take(len)?).ok()
    }

    fn text_if(&mut self, present: bool) -> Option<Option<Box<str>>> {
        if present { self.text().map(|text| Some(text.into())) } else { Some(None) }
    }

    fn address(&mut self) -> Option<Option<SocketAddr>> {
        let ip: IpAddr = match self.byte()? {
            0 => return Some(None),
            4 => Ipv4Addr::from(self.array::<4>()?).into(),
            6 => Ipv6Addr::from(self.array::<16>()?).into(),
            _ => return None,
        };
        let port = u16::from_le_bytes(self.array()?);
        Some(Some(match ip {
            IpAddr::V4(ip) => SocketAddrV4::new(ip, port).into(),
            IpAddr::V6(ip) => {
                let flowinfo = u32::try_from(self.number()?).ok()?;
                let scope = u32::try_from(self.number()?).ok()?;
                SocketAddrV6::new(ip, port, flowinfo, scope).into()
            }
        }))
    }
}
