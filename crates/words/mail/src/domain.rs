//! Domain names and the hosts that may stand after the `@` of a mailbox.

use std::fmt;
use std::net::IpAddr;

/// A domain name in its comparable form: lower-case A-labels (RFC 5890 §2.3.2.1), no trailing dot,
/// 1 to 253 octets, labels of 1 to 63 octets of letters, digits, hyphen and underscore.
///
/// Two spellings of one domain (case, U-labels, full-width letters) are equal once parsed, which is what
/// keeps look-alike spellings from slipping past a relay check.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Box<str>);

/// Why a text is not a domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainError {
    /// Nothing stands where a domain should.
    Empty,
    /// More than 253 octets, or a label of more than 63.
    TooLong,
    /// A label is empty, as in `a..b` or a leading or trailing dot.
    EmptyLabel,
    /// An octet that no domain name holds, or a label that begins or ends with a hyphen.
    BadLabel,
    /// Not valid under IDNA (UTS #46).
    BadIdna,
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "domain is empty",
            Self::TooLong => "domain is longer than 253 octets or a label longer than 63",
            Self::EmptyLabel => "domain has an empty label",
            Self::BadLabel => "domain has a label with characters that are not allowed",
            Self::BadIdna => "domain is not a valid internationalised name",
        })
    }
}

impl std::error::Error for DomainError {}

impl Domain {
    /// Reads a domain name; U-labels become A-labels by UTS #46.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        if text.is_empty() {
            return Err(DomainError::Empty);
        }
        if text.is_ascii() {
            // The common case costs one allocation and no table look-up.
            let lower = text.to_ascii_lowercase();
            Self::check(&lower)?;
            // An `xn--` label must decode, or two spellings could name one domain.
            if lower.split('.').any(|label| label.starts_with("xn--")) {
                idna::domain_to_ascii_strict(&lower).map_err(|_| DomainError::BadIdna)?;
            }
            return Ok(Self(lower.into()));
        }
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::URL)
            .map_err(|_| DomainError::BadIdna)?;
        Self::check(&ascii)?;
        Ok(Self(ascii.into()))
    }

    fn check(lower: &str) -> Result<(), DomainError> {
        if lower.len() > 253 {
            return Err(DomainError::TooLong);
        }
        for label in lower.split('.') {
            if label.is_empty() {
                return Err(DomainError::EmptyLabel);
            }
            if label.len() > 63 {
                return Err(DomainError::TooLong);
            }
            let ok = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if !label.bytes().all(ok) || label.starts_with('-') || label.ends_with('-') {
                return Err(DomainError::BadLabel);
            }
        }
        Ok(())
    }

    /// The name as lower-case A-labels.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if this is `parent` or a name below it.
    pub fn is_within(&self, parent: &Domain) -> bool {
        self.0.strip_suffix(parent.as_str()).is_some_and(|head| head.is_empty() || head.ends_with('.'))
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Domain {
    type Err = DomainError;
    fn from_str(text: &str) -> Result<Self, DomainError> {
        Self::parse(text)
    }
}

/// What stands after the `@`: a domain, or an address literal (RFC 5321 §4.1.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A domain name.
    Domain(Domain),
    /// `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
    Literal(IpAddr),
}

impl Host {
    /// Reads a domain or an address literal. General address literals (`[tag:...]`) are refused: nobody
    /// delivers to them.
    pub fn parse(text: &str) -> Result<Self, DomainError> {
        let Some(inner) = text.strip_prefix('[') else {
            return Domain::parse(text).map(Self::Domain);
        };
        let inner = inner.strip_suffix(']').ok_or(DomainError::BadLabel)?;
        let ip = match inner.get(..5) {
            Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => {
                inner[5..].parse().map(IpAddr::V6).map_err(|_| DomainError::BadLabel)?
            }
            _ => inner.parse().map(IpAddr::V4).map_err(|_| DomainError::BadLabel)?,
        };
        Ok(Self::Literal(ip))
    }
}

impl std::str::FromStr for Host {
    type Err = DomainError;
    fn from_str(text: &str) -> Result<Self, DomainError> {
        Self::parse(text)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => domain.fmt(f),
            Self::Literal(IpAddr::V4(ip)) => write!(f, "[{ip}]"),
            Self::Literal(IpAddr::V6(ip)) => write!(f, "[IPv6:{ip}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_domain_are_equal() {
        for (a, b) in [
            ("Example.TEST", "example.test"),
            ("bücher.test", "xn--bcher-kva.test"),
            ("BÜCHER.test", "XN--BCHER-KVA.test"),
            ("ｅｘａｍｐｌｅ.test", "example.test"),
        ] {
            assert_eq!(Domain::parse(a).unwrap(), Domain::parse(b).unwrap(), "{a} {b}");
        }
    }

    #[test]
    fn texts_that_are_no_domain() {
        for text in [
            "",
            ".",
            "a..b",
            ".a",
            "a.",
            "-a.test",
            "a-.test",
            "a b",
            "a@b",
            "a\0b",
            "a\r\n",
            "xn--\u{61}-",
            "a/b",
        ] {
            assert!(Domain::parse(text).is_err(), "{text:?}");
        }
        assert!(Domain::parse("a.".repeat(127).trim_end_matches('.')).is_ok());
        assert!(Domain::parse(&"a".repeat(64)).is_err());
        assert!(Domain::parse(&vec!["a".repeat(60); 5].join(".")).is_err());
    }

    #[test]
    fn within_means_whole_labels() {
        let parent = Domain::parse("b.test").unwrap();
        assert!(Domain::parse("a.b.test").unwrap().is_within(&parent));
        assert!(parent.is_within(&parent));
        assert!(!Domain::parse("ab.test").unwrap().is_within(&parent));
    }

    #[test]
    fn literals() {
        assert_eq!(Host::parse("[192.0.2.1]").unwrap().to_string(), "[192.0.2.1]");
        assert_eq!(Host::parse("[ipv6:2001:db8::1]").unwrap().to_string(), "[IPv6:2001:db8::1]");
        for text in ["[192.0.2.1", "[]", "[2001:db8::1]", "[tag:x]", "[192.0.2.256]", "[IPv6:]"] {
            assert!(Host::parse(text).is_err(), "{text}");
        }
    }
}
