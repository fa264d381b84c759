//! Mailboxes: `local-part@host`, as RFC 5321 §4.1.2 writes them.

use crate::{Domain, DomainError, Host};
use std::fmt;

/// A mailbox. The text is kept as it was given, because only the final host may interpret a local part;
/// the host is also kept in its comparable form.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    text: Box<str>,
    at: u16,
    host: Host,
}

/// Why a text is not a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailboxError {
    /// No local part, or no `@`.
    Incomplete,
    /// A local part that is neither a dot-string nor a quoted string, or over 255 octets.
    LocalPart,
    /// What follows the `@` is not a host.
    Host(DomainError),
}

impl fmt::Display for MailboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete => f.write_str("address needs a local part, an @ and a domain"),
            Self::LocalPart => f.write_str("local part is not valid"),
            Self::Host(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for MailboxError {}

/// Longest local part taken, in octets. RFC 5321 §4.5.3.1.1 asks for 64; VERP addresses need more.
const LOCAL_PART_MAX: usize = 255;

impl Mailbox {
    /// Reads `local-part@host`. UTF-8 is allowed in both (RFC 6531 §3.3); [`Mailbox::is_ascii`] tells.
    pub fn parse(text: &str) -> Result<Self, MailboxError> {
        let at = local_part_len(text)?;
        if text.as_bytes().get(at) != Some(&b'@') {
            return Err(if at == text.len() { MailboxError::Incomplete } else { MailboxError::LocalPart });
        }
        let host = Host::parse(&text[at + 1..]).map_err(MailboxError::Host)?;
        Ok(Self { text: text.into(), at: at as u16, host })
    }

    /// A mailbox at `domain` with a local part known to be a dot-string, such as `postmaster`.
    pub fn at_domain(local: &str, domain: &Domain) -> Result<Self, MailboxError> {
        Self::parse(&format!("{local}@{domain}"))
    }

    /// The whole text, as given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The local part as given, quotes and all.
    pub fn local_part(&self) -> &str {
        &self.text[..usize::from(self.at)]
    }

    /// The host in its comparable form.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The domain, unless the host is an address literal.
    pub fn domain(&self) -> Option<&Domain> {
        match &self.host {
            Host::Domain(domain) => Some(domain),
            Host::Literal(_) => None,
        }
    }

    /// True if no octet needs SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.text.is_ascii()
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.text)
    }
}

impl std::str::FromStr for Mailbox {
    type Err = MailboxError;
    fn from_str(text: &str) -> Result<Self, MailboxError> {
        Self::parse(text)
    }
}

/// Length of the local part at the head of `text`: a dot-string or a quoted string.
fn local_part_len(text: &str) -> Result<usize, MailboxError> {
    let bytes = text.as_bytes();
    let len = if bytes.first() == Some(&b'"') { quoted_len(bytes)? } else { dot_string_len(bytes)? };
    if len == 0 {
        return Err(MailboxError::Incomplete);
    }
    if len > LOCAL_PART_MAX {
        return Err(MailboxError::LocalPart);
    }
    Ok(len)
}

fn dot_string_len(bytes: &[u8]) -> Result<usize, MailboxError> {
    let len = bytes.iter().position(|&b| !is_atext(b) && b != b'.').unwrap_or(bytes.len());
    let dots = &bytes[..len];
    if dots.first() == Some(&b'.') || dots.last() == Some(&b'.') || dots.windows(2).any(|w| w == b"..") {
        return Err(MailboxError::LocalPart);
    }
    Ok(len)
}

fn quoted_len(bytes: &[u8]) -> Result<usize, MailboxError> {
    let mut at = 1;
    loop {
        match bytes.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') if matches!(bytes.get(at + 1), Some(32..=126)) => at += 2,
            // qtextSMTP (RFC 5321 §4.1.2) and UTF8-non-ascii (RFC 6531 §3.3).
            Some(32..=33 | 35..=91 | 93..=126 | 128..) => at += 1,
            _ => return Err(MailboxError::LocalPart),
        }
    }
}

/// `atext` of RFC 5322 §3.2.3, with UTF8-non-ascii of RFC 6531 §3.3.
fn is_atext(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b >= 128 || b"!#$%&'*+-/=?^_`{|}~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailboxes_keep_their_text_and_know_their_host() {
        for (text, local, host) in [
            ("a@B.Test", "a", "b.test"),
            ("\"a b\"@b.test", "\"a b\"", "b.test"),
            ("\"a@evil.test\"@b.test", "\"a@evil.test\"", "b.test"),
            ("a%c.test@b.test", "a%c.test", "b.test"),
            ("c.test!a@b.test", "c.test!a", "b.test"),
            ("a@[192.0.2.1]", "a", "[192.0.2.1]"),
            ("δοκ@παράδειγμα.δοκιμή", "δοκ", "xn--hxajbheg2az3al.xn--jxalpdlp"),
        ] {
            let mailbox = Mailbox::parse(text).unwrap();
            assert_eq!(
                (mailbox.as_str(), mailbox.local_part(), mailbox.host().to_string().as_str()),
                (text, local, host)
            );
        }
    }

    #[test]
    fn texts_that_are_no_mailbox() {
        for text in [
            "",
            "a",
            "@b.test",
            "a@",
            "a@b@c.test",
            ".a@b.test",
            "a.@b.test",
            "a..c@b.test",
            "a b@c.test",
            "\"a@b.test",
            "\"a\rb\"@c.test",
            "\"a\"b@c.test",
            "a@b.test.",
            "a\0@b.test",
            "a@b.test\t",
            "a@[1.2.3",
            "<a@b.test>",
            "a＠b.test",
        ] {
            assert!(Mailbox::parse(text).is_err(), "{text:?}");
        }
        assert!(Mailbox::parse(&format!("{}@b.test", "a".repeat(256))).is_err());
    }
}
