//! What a message carries so that a report about it can be told from a forged one: a header field, a reverse-path for
//! each recipient (VERP), and the token of a link to unsubscribe. Each is signed with HMAC-SHA256 and says all that is
//! needed, so that nothing has to be kept of what was sent.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use mail::{Mailbox, ReversePath, SpoolId, UnixMillis};

/// Octets of a secret at least.
pub const SECRET_MIN_OCTETS: usize = 32;
/// Octets of a signature in a field or a link.
const TAG_OCTETS: usize = 16;
/// Octets of the text of a field at most; longer ones are not ours.
const TEXT_MAX_OCTETS: usize = 4_096;
/// Octets of a local part at most (RFC 5321 §4.5.3.1.1).
const LOCAL_MAX_OCTETS: usize = 64;
/// Digits of the signature in a reverse-path: 60 bits, each guess at which is one message.
const VERP_TAG_DIGITS: usize = 12;
/// Digits of an id in a reverse-path.
const ID_DIGITS: usize = 11;
/// Ways to part a reverse-path that are looked at.
const SPLITS_MAX: usize = 32;
/// The first octet of what is signed, and of what a reader of another version must not take for its own.
const VERSION: u8 = 1;

/// For what a reference was signed: what is good for one purpose is not for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The header field.
    Field,
    /// The link to unsubscribe.
    Unsubscribe,
}

/// Which message a report is about, to whom it went, and what it is filed under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Our name for the message.
    pub id: SpoolId,
    /// The recipient's place in its envelope.
    pub index: u32,
    /// The reverse-path as it came in.
    pub sender: ReversePath,
    /// The recipient.
    pub recipient: Mailbox,
    /// Whose mail it is.
    pub tenant: Option<Box<str>>,
    /// The mailing.
    pub campaign: Option<Box<str>>,
    /// The run of the mailing.
    pub job: Option<Box<str>>,
}

impl Reference {
    /// When the message was accepted, as its id says.
    pub fn made(&self) -> UnixMillis {
        made(self.id)
    }

    fn payload(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.id.0.to_be_bytes());
        out.extend_from_slice(&self.index.to_be_bytes());
        let texts: [&str; 5] = [
            self.sender.as_str(),
            self.recipient.as_str(),
            self.tenant.as_deref().unwrap_or(""),
            self.campaign.as_deref().unwrap_or(""),
            self.job.as_deref().unwrap_or(""),
        ];
        for text in texts {
            // Addresses and tags are far shorter than this.
            let length = u16::try_from(text.len()).unwrap_or(0);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
        }
        out
    }

    fn read(mut octets: &[u8]) -> Option<Self> {
        let mut take = |count: usize| -> Option<&[u8]> {
            let (taken, rest) = octets.split_at_checked(count)?;
            octets = rest;
            Some(taken)
        };
        if take(1)? != [VERSION] {
            return None;
        }
        let id = SpoolId(u64::from_be_bytes(take(8)?.try_into().ok()?));
        let index = u32::from_be_bytes(take(4)?.try_into().ok()?);
        let mut text = || -> Option<String> {
            let length = usize::from(u16::from_be_bytes(take(2)?.try_into().ok()?));
            String::from_utf8(take(length)?.to_vec()).ok()
        };
        let (sender, recipient, tenant, campaign, job) = (text()?, text()?, text()?, text()?, text()?);
        let sender = match sender.is_empty() {
            true => ReversePath::Null,
            false => ReversePath::Mailbox(Mailbox::parse(&sender).ok()?),
        };
        let tag = |text: String| (!text.is_empty()).then(|| text.into_boxed_str());
        Some(Self {
            id,
            index,
            sender,
            recipient: Mailbox::parse(&recipient).ok()?,
            tenant: tag(tenant),
            campaign: tag(campaign),
            job: tag(job),
        })
    }
}

/// When a message was accepted: ids are made of the microsecond.
pub fn made(id: SpoolId) -> UnixMillis {
    UnixMillis(id.0 / 1_000)
}

/// The secrets that references are signed with: the first signs, all are good for what comes back.
#[derive(Clone)]
pub struct Secrets(Vec<hmac::Key>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

impl Secrets {
    /// Of texts of at least [`SECRET_MIN_OCTETS`] octets, the one that signs first.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self(texts.into_iter().map(|text| hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes())).collect())
    }

    /// True if there is none: nothing is signed then, and nothing proven.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text of a signed reference, base64 without padding in the alphabet of URLs. Empty without a secret.
    pub fn sign(&self, purpose: Purpose, reference: &Reference) -> String {
        let Some(key) = self.0.first() else { return String::new() };
        let mut octets = reference.payload();
        let tag = sign(key, purpose as u8, &octets);
        octets.extend_from_slice(&tag.as_ref()[..TAG_OCTETS]);
        encode(&octets)
    }

    /// Reads a signed reference; `None` if it is not one that we signed for this purpose.
    pub fn verify(&self, purpose: Purpose, text: &str) -> Option<Reference> {
        if text.len() > TEXT_MAX_OCTETS {
            return None;
        }
        let octets = decode(text)?;
        let at = octets.len().checked_sub(TAG_OCTETS)?;
        let (payload, tag) = octets.split_at(at);
        self.is_ours(purpose as u8, payload, |made| verify_slices_are_equal(&made[..TAG_OCTETS], tag).is_ok())
            .then(|| Reference::read(payload))?
    }

    fn is_ours(&self, purpose: u8, octets: &[u8], same: impl Fn(&[u8]) -> bool) -> bool {
        // Every secret is tried, whether an earlier one was right or not.
        self.0.iter().fold(false, |found, key| same(sign(key, purpose, octets).as_ref()) | found)
    }
}

fn sign(key: &hmac::Key, purpose: u8, octets: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(b"tuma reference\0");
    context.update(&[purpose]);
    context.update(octets);
    context.sign()
}

/// The purpose octet of reverse-paths; those of [`Purpose`] are 0 and 1.
const VERP_PURPOSE: u8 = 2;

/// How a reverse-path carries the recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerpForm {
    /// `a-u=x.test@s.test`, as PowerMTA writes it: anybody can.
    Plain,
    /// The same with an id and a signature: `a-u=x.test-n0abc…@s.test`.
    Signed,
}

/// What stands in a reverse-path of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verp {
    /// The reverse-path as it came in.
    pub sender: Mailbox,
    /// The recipient; `None` where there was no room for it.
    pub recipient: Option<Mailbox>,
    /// The message, if it was signed.
    pub id: Option<SpoolId>,
    /// It is signed, and for this recipient.
    pub signed: bool,
    /// The mail had a tenant; `None` if that is not known.
    pub has_tenant: Option<bool>,
}

/// The reverse-path of a message for one recipient. `None` if its own has to do: there is no room, or the recipient
/// cannot be written in a local part.
pub fn write_verp(
    form: VerpForm,
    secrets: &Secrets,
    sender: &Mailbox,
    recipient: &Mailbox,
    id: SpoolId,
    has_tenant: bool,
) -> Option<Mailbox> {
    let (local, host) = (sender.local_part(), sender.host());
    let (user, domain) = (recipient.local_part(), recipient.host().to_string());
    let plain = |text: &str| !text.starts_with(['"', '[']) && text.is_ascii();
    if !plain(local) {
        return None;
    }
    let full = format!("{local}-{user}={domain}");
    let writable = plain(user) && plain(&domain);
    let text = match form {
        VerpForm::Plain => (writable && full.len() <= LOCAL_MAX_OCTETS).then_some(full)?,
        VerpForm::Signed => {
            let flag = if has_tenant { 't' } else { 'n' };
            let tag = secrets.verp_tag(secrets.0.first()?, id, flag, recipient);
            let signed = format!("{full}-{flag}{id}{tag}");
            if writable && signed.len() <= LOCAL_MAX_OCTETS {
                signed
            } else {
                // The signature is still for the recipient, whom the report has to name.
                let short = format!("{local}-{}{id}{tag}", flag.to_ascii_uppercase());
                (short.len() <= LOCAL_MAX_OCTETS).then_some(short)?
            }
        }
    };
    Mailbox::parse(&format!("{text}@{host}")).ok()
}

impl Secrets {
    fn verp_tag(&self, key: &hmac::Key, id: SpoolId, flag: char, recipient: &Mailbox) -> String {
        let mut octets = id.0.to_be_bytes().to_vec();
        octets.push(flag.to_ascii_lowercase() as u8);
        // Local parts come back in any case.
        octets.extend_from_slice(recipient.as_str().to_lowercase().as_bytes());
        let tag = sign(key, VERP_PURPOSE, &octets);
        let mut bits = [0; 8];
        bits.copy_from_slice(&tag.as_ref()[..8]);
        // 12 digits of 5 bits.
        let text = SpoolId(u64::from_be_bytes(bits) >> 4).to_string();
        format!("{text:0>VERP_TAG_DIGITS$}")
    }

    fn verp_is_ours(&self, id: SpoolId, flag: char, recipient: &Mailbox, tag: &str) -> bool {
        let tag = tag.to_ascii_lowercase();
        let same = |key: &hmac::Key| {
            verify_slices_are_equal(self.verp_tag(key, id, flag, recipient).as_bytes(), tag.as_bytes())
                .is_ok()
        };
        self.0.iter().fold(false, |found, key| same(key) | found)
    }
}

/// Reads a reverse-path. `named` are recipients that the report names, for those that had no room. `base` is the
/// local part in front, where it is known: without it, an unsigned one is parted at its first hyphen. `None` if it
/// carries nothing.
pub fn read_verp(secrets: &Secrets, to: &Mailbox, base: Option<&str>, named: &[&Mailbox]) -> Option<Verp> {
    let (local, host) = (to.local_part(), to.host());
    let mailbox = |local: &str, host: &str| Mailbox::parse(&format!("{local}@{host}")).ok();
    let host = host.to_string();
    if let Some((rest, flag, id, tag)) = signed_tail(local) {
        let has_tenant = Some(flag.eq_ignore_ascii_case(&'t'));
        let found = |sender: &str, recipient: Option<Mailbox>, signed| {
            Some(Verp { sender: mailbox(sender, &host)?, recipient, id: Some(id), signed, has_tenant })
        };
        if flag.is_ascii_uppercase() {
            let named = named.iter().find(|to| secrets.verp_is_ours(id, flag, to, tag));
            // Some servers write local parts in capitals: then it is the other form.
            if named.is_some() || !rest.contains('=') {
                return found(rest, named.map(|to| Mailbox::clone(to)), named.is_some());
            }
        }
        for (sender, recipient) in splits(rest) {
            if secrets.verp_is_ours(id, flag, &recipient, tag) {
                return found(sender, Some(recipient), true);
            }
        }
    }
    let known = |(sender, recipient): (&str, Mailbox)| {
        let sender = mailbox(sender, &host)?;
        Some(Verp { sender, recipient: Some(recipient), id: None, signed: false, has_tenant: None })
    };
    splits(local)
        .find(|(sender, _)| base.is_none_or(|base| base.eq_ignore_ascii_case(sender)))
        .and_then(known)
}

/// The parts of a signed local part: what is in front, the flag, the id and the signature.
fn signed_tail(local: &str) -> Option<(&str, char, SpoolId, &str)> {
    let (rest, tail) = local.rsplit_once('-')?;
    if !tail.is_ascii() || tail.len() != 1 + ID_DIGITS + VERP_TAG_DIGITS || rest.is_empty() {
        return None;
    }
    let flag = tail.chars().next().filter(|flag| "tnTN".contains(*flag))?;
    let (id, tag) = tail[1..].split_at(ID_DIGITS);
    Some((rest, flag, SpoolId::parse(id)?, tag))
}

/// The ways to part `sender-user=domain`.
fn splits(local: &str) -> impl Iterator<Item = (&str, Mailbox)> {
    let (front, domain) = local.rsplit_once('=').unwrap_or(("", ""));
    let hyphens = front.match_indices('-').take(SPLITS_MAX);
    hyphens.filter_map(move |(at, _)| {
        let (sender, user) = (&front[..at], &front[at + 1..]);
        (!sender.is_empty()).then_some(())?;
        Some((sender, Mailbox::parse(&format!("{user}@{domain}")).ok()?))
    })
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn encode(octets: &[u8]) -> String {
    let mut out = String::with_capacity(octets.len().div_ceil(3) * 4);
    for group in octets.chunks(3) {
        let octet = |n: usize| u32::from(group.get(n).copied().unwrap_or(0));
        let bits = octet(0) << 16 | octet(1) << 8 | octet(2);
        for n in 0..=group.len() {
            out.push(char::from(ALPHABET[(bits >> (18 - 6 * n) & 63) as usize]));
        }
    }
    out
}

/// `None` unless it is just what [`encode`] writes: one text for one value.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0u32, 0);
    for octet in text.bytes() {
        let digit = ALPHABET.iter().position(|known| *known == octet)?;
        (bits, count) = ((bits << 6 | digit as u32) & 0xff_ffff, count + 6);
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    (encode(&out) == text).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn mailbox(text: &str) -> Mailbox {
        Mailbox::parse(text).unwrap()
    }

    fn reference() -> Reference {
        Reference {
            id: SpoolId(1_790_000_000_000_000),
            index: 3,
            sender: ReversePath::Mailbox(mailbox("news@s.test")),
            recipient: mailbox("u@x.test"),
            tenant: Some("acme".into()),
            campaign: None,
            job: Some("job7".into()),
        }
    }

    #[test]
    fn a_reference_comes_back_and_a_changed_one_does_not() {
        let secrets = Secrets::new([SECRET]);
        let text = secrets.sign(Purpose::Field, &reference());
        assert_eq!(secrets.verify(Purpose::Field, &text), Some(reference()));
        assert_eq!(secrets.verify(Purpose::Unsubscribe, &text), None);
        assert_eq!(reference().made(), UnixMillis(1_790_000_000_000));
        // After a change of the secret, what was sent before is still known.
        let next = Secrets::new(["another secret that is long enough", SECRET]);
        assert_eq!(next.verify(Purpose::Field, &text), Some(reference()));
        assert_ne!(next.sign(Purpose::Field, &reference()), text);
        assert_eq!(Secrets::new([]).verify(Purpose::Field, &text), None);
        assert_eq!(Secrets::new(["another secret that is long enough"]).verify(Purpose::Field, &text), None);
        for at in 0..text.len() {
            let mut octets = text.clone().into_bytes();
            octets[at] = if octets[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(secrets.verify(Purpose::Field, std::str::from_utf8(&octets).unwrap()), None, "{at}");
            assert_eq!(secrets.verify(Purpose::Field, &text[..at]), None);
        }
        assert_eq!(secrets.verify(Purpose::Field, &format!("{text}=")), None);
    }

    fn verp(form: VerpForm, from: &str, to: &str) -> Option<Mailbox> {
        let id = SpoolId(1_790_000_000_000_000);
        write_verp(form, &Secrets::new([SECRET]), &mailbox(from), &mailbox(to), id, true)
    }

    #[test]
    fn the_plain_form_is_that_of_powermta() {
        let written = verp(VerpForm::Plain, "a@s.test", "u@x.test").unwrap();
        assert_eq!(written.as_str(), "a-u=x.test@s.test");
        let read = read_verp(&Secrets::new([]), &written, None, &[]).unwrap();
        assert_eq!((read.sender.as_str(), read.signed), ("a@s.test", false));
        assert_eq!(read.recipient, Some(mailbox("u@x.test")));
        // A hyphen could stand in either part, unless it is known what is in front.
        let written = verp(VerpForm::Plain, "a-b@s.test", "u-v@x-y.test").unwrap();
        let read = |base| read_verp(&Secrets::new([]), &written, base, &[]).unwrap();
        assert_eq!(read(None).sender.as_str(), "a@s.test");
        assert_eq!(read(Some("a-b")).recipient, Some(mailbox("u-v@x-y.test")));
        assert!(read_verp(&Secrets::new([]), &written, Some("c"), &[]).is_none());
        for (from, to) in [
            ("a@s.test", "\"u v\"@x.test"),
            ("\"a b\"@s.test", "u@x.test"),
            ("a@s.test", "u@[192.0.2.1]"),
            ("a@s.test", &format!("{}@x.test", "u".repeat(60))),
            ("a@s.test", "δοκ@x.test"),
        ] {
            assert_eq!(verp(VerpForm::Plain, from, to), None, "{from} {to}");
        }
        assert!(read_verp(&Secrets::new([]), &mailbox("a@s.test"), None, &[]).is_none());
    }

    #[test]
    fn the_signed_form_proves_the_recipient_however_it_is_parted() {
        let secrets = Secrets::new([SECRET]);
        let written = verp(VerpForm::Signed, "a-b@s.test", "u-v=w@x-y.test").unwrap();
        for to in [written.as_str().to_owned(), written.as_str().to_uppercase()] {
            let read = read_verp(&secrets, &mailbox(&to), None, &[]).unwrap();
            assert!(read.signed && read.has_tenant == Some(true), "{to}");
            assert_eq!(read.id, Some(SpoolId(1_790_000_000_000_000)));
            assert_eq!(read.recipient.unwrap().as_str().to_lowercase(), "u-v=w@x-y.test");
            assert_eq!(read.sender.as_str().to_lowercase(), "a-b@s.test");
        }
        // With another recipient, or another secret, it is worth no more than an unsigned one.
        let forged = written.as_str().replacen("u-v", "joe", 1);
        assert!(!read_verp(&secrets, &mailbox(&forged), None, &[]).unwrap().signed);
        assert!(!read_verp(&Secrets::new([]), &written, None, &[]).unwrap().signed);
        // What has no room is proven by whom the report names.
        let long = mailbox(&format!("{}@x.test", "u".repeat(60)));
        let written = verp(VerpForm::Signed, "a@s.test", long.as_str()).unwrap();
        assert!(written.local_part().len() <= 64);
        let read = |named: &[&Mailbox]| read_verp(&secrets, &written, None, named).unwrap();
        assert_eq!((read(&[]).signed, read(&[]).recipient), (false, None));
        assert_eq!(read(&[&mailbox("joe@x.test")]).recipient, None);
        assert_eq!((read(&[&long]).signed, read(&[&long]).recipient), (true, Some(long.clone())));
    }
}
