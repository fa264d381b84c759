//! What an entry is about: an address or a domain, in the form in which it is compared.

use mail::{Domain, Host, Mailbox};
use std::fmt;

/// An address, or a domain written `@domain`, in comparable form. Domains are A-labels in lower case. Local parts are
/// in lower case too: only the final host may tell `Joe` from `joe` (RFC 5321 §2.4), and hardly one does, while who
/// asked not to be written to means both.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject(Box<str>);

/// Neither an address nor `@domain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectError(Box<str>);

impl fmt::Display for SubjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "neither an address nor a domain such as @a.example: {}", self.0)
    }
}

impl std::error::Error for SubjectError {}

impl Subject {
    /// Reads `local@domain` or `@domain`.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        let text = text.trim();
        let error = |why: &dyn fmt::Display| SubjectError(why.to_string().into());
        match text.strip_prefix('@') {
            Some(domain) => {
                let domain = Domain::parse(domain).map_err(|why| error(&why))?;
                Ok(Self(format!("@{domain}").to_ascii_lowercase().into()))
            }
            None => Ok(Self::of(&Mailbox::parse(text).map_err(|why| error(&why))?)),
        }
    }

    /// The subject of a mailbox.
    pub fn of(mailbox: &Mailbox) -> Self {
        let local = mailbox.local_part();
        let inner = local.strip_prefix('"').and_then(|local| local.strip_suffix('"')).unwrap_or(local);
        // Quotes that were not needed make no other mailbox (RFC 5321 §4.1.2).
        let atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c) || !c.is_ascii();
        let plain = !inner.is_empty()
            && inner.chars().all(atom)
            && !inner.starts_with('.')
            && !inner.ends_with('.')
            && !inner.contains("..");
        let local = if plain { inner } else { local };
        Self(format!("{}@{}", local.to_lowercase(), host(mailbox.host())).into())
    }

    /// The subject of everybody at a mailbox's domain.
    pub fn domain_of(mailbox: &Mailbox) -> Self {
        Self(format!("@{}", host(mailbox.host())).into())
    }

    /// The text of a record, which was comparable when it was written.
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The comparable text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if it stands for a whole domain.
    pub fn is_domain(&self) -> bool {
        self.0.starts_with('@')
    }
}

fn host(host: &Host) -> String {
    host.to_string().to_ascii_lowercase()
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_address_are_one() {
        for (text, expected) in [
            ("Joe@Example.COM", "joe@example.com"),
            (" joe@example.com ", "joe@example.com"),
            ("\"joe\"@example.com", "joe@example.com"),
            ("\"j oe\"@example.com", "\"j oe\"@example.com"),
            ("\".joe\"@example.com", "\".joe\"@example.com"),
            ("joe+tag@example.com", "joe+tag@example.com"),
            ("ΔΟΚ@παράδειγμα.δοκιμή", "δοκ@xn--hxajbheg2az3al.xn--jxalpdlp"),
            ("@Example.com", "@example.com"),
            ("joe@[192.0.2.1]", "joe@[192.0.2.1]"),
        ] {
            let subject = Subject::parse(text).unwrap();
            assert_eq!(subject.as_str(), expected);
            assert_eq!(Subject::parse(expected).unwrap(), subject, "{expected}");
        }
        for wrong in ["", "joe", "@", "a b@c.test", "joe@", "joe@a..b", "a@b\r\nc@d"] {
            assert!(Subject::parse(wrong).is_err(), "{wrong}");
        }
    }
}
