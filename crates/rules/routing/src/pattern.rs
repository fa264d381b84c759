//! Patterns of domains, of addresses, and of the text of a header field.

use mail::{Domain, DomainError, Mailbox, ReversePath};
use std::fmt;
use std::str::FromStr;

/// A domain, or all domains below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainPattern {
    /// The domain.
    pub domain: Domain,
    /// Those below it, not itself.
    pub below: bool,
}

impl FromStr for DomainPattern {
    type Err = DomainError;

    fn from_str(text: &str) -> Result<Self, DomainError> {
        let (domain, below) = match text.strip_prefix("*.") {
            Some(domain) => (domain, true),
            None => (text, false),
        };
        Ok(Self { domain: Domain::parse(domain)?, below })
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.domain)
    }
}

impl DomainPattern {
    /// True if the pattern covers the domain.
    pub fn covers(&self, domain: &Domain) -> bool {
        domain.is_within(&self.domain) && (*domain == self.domain) != self.below
    }
}

/// Some addresses: `local@domain`, `*@domain` or `domain`, each with `*.domain` for the domains below; `local@*` and
/// `*` for any domain; `<>` for the null reverse-path, which no other pattern covers.
///
/// Local parts are compared without regard to the case of ASCII: an operator who writes `News@` means `news@` too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressPattern {
    /// The null reverse-path.
    Null,
    /// A mailbox.
    Mailbox {
        /// The local part; any if absent.
        local: Option<Box<str>>,
        /// The domain; any if absent, address literals too.
        domain: Option<DomainPattern>,
    },
}

/// Why a text is no pattern of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// What stands before the `@` is no local part.
    Local,
    /// What stands behind it is no domain.
    Domain(DomainError),
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("before the `@` comes a local part, or `*` alone"),
            Self::Domain(error) => {
                write!(f, "{error}; write `a@b.example`, `b.example`, `*.b.example` or `*`")
            }
        }
    }
}

impl std::error::Error for PatternError {}

impl FromStr for AddressPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text == "<>" {
            return Ok(Self::Null);
        }
        // A quoted local part may hold an `@`, a domain cannot.
        let (local, domain) = match text.rsplit_once('@') {
            Some((local, domain)) => (Some(local).filter(|local| *local != "*"), domain),
            None => (None, text),
        };
        if let Some(local) = local
            && Mailbox::parse(&format!("{local}@a.test")).is_err()
        {
            return Err(PatternError::Local);
        }
        let domain = match domain {
            "*" => None,
            domain => Some(domain.parse().map_err(PatternError::Domain)?),
        };
        Ok(Self::Mailbox { local: local.map(Box::from), domain })
    }
}

impl fmt::Display for AddressPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Mailbox { local, domain } = self else { return f.write_str("<>") };
        if let Some(local) = local {
            write!(f, "{local}@")?;
        }
        match domain {
            Some(domain) => domain.fmt(f),
            None => f.write_str("*"),
        }
    }
}

impl AddressPattern {
    /// True if the pattern covers the mailbox.
    pub fn covers(&self, mailbox: &Mailbox) -> bool {
        let Self::Mailbox { local, domain } = self else { return false };
        local.as_ref().is_none_or(|local| local.eq_ignore_ascii_case(mailbox.local_part()))
            && domain
                .as_ref()
                .is_none_or(|pattern| mailbox.domain().is_some_and(|domain| pattern.covers(domain)))
    }

    /// True if the pattern covers the reverse-path.
    pub fn covers_path(&self, path: &ReversePath) -> bool {
        match path {
            ReversePath::Null => *self == Self::Null,
            ReversePath::Mailbox(mailbox) => self.covers(mailbox),
        }
    }
}

/// A regular expression over a text, searched for anywhere in it. It takes time in proportion to the text, whatever
/// the text is: there is no backtracking.
#[derive(Clone, Debug)]
pub struct Regex(regex::Regex);

/// Octets that one compiled expression may take.
const COMPILED_MAX_OCTETS: usize = 1 << 20;

/// Why a text is no regular expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegexError(String);

impl fmt::Display for RegexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RegexError {}

impl Regex {
    /// True if the expression is found in the text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl FromStr for Regex {
    type Err = RegexError;

    fn from_str(text: &str) -> Result<Self, RegexError> {
        let made = regex::RegexBuilder::new(text).size_limit(COMPILED_MAX_OCTETS).build();
        made.map(Self).map_err(|error| {
            // A mistake of syntax is drawn over several lines, of which the last says what it is.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            RegexError(last.strip_prefix("error: ").unwrap_or(last).to_owned())
        })
    }
}

impl fmt::Display for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Regex {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_covered_by_whole_labels() {
        let covers = |pattern: &str, domain: &str| {
            pattern.parse::<DomainPattern>().unwrap().covers(&Domain::parse(domain).unwrap())
        };
        assert!(covers("a.test", "A.test") && !covers("a.test", "b.a.test") && !covers("a.test", "xa.test"));
        assert!(
            covers("*.a.test", "b.a.test") && !covers("*.a.test", "a.test") && !covers("*.a.test", "xa.test")
        );
    }

    #[test]
    fn addresses_are_covered_by_both_halves() {
        let covers = |pattern: &str, address: &str| {
            let path = match address {
                "" => ReversePath::Null,
                text => ReversePath::Mailbox(Mailbox::parse(text).unwrap()),
            };
            let parsed: AddressPattern = pattern.parse().unwrap();
            assert_eq!(parsed.to_string().parse(), Ok(parsed.clone()), "{pattern}");
            parsed.covers_path(&path)
        };
        for (pattern, address) in [
            ("a@b.test", "A@B.test"),
            ("*@b.test", "x@b.test"),
            ("b.test", "x@b.test"),
            ("*.b.test", "x@c.b.test"),
            ("a@*.b.test", "a@c.b.test"),
            ("abuse@*", "abuse@[192.0.2.1]"),
            ("*", "x@[192.0.2.1]"),
            ("*@*", "x@y.test"),
            ("\"a@b\"@c.test", "\"a@b\"@c.test"),
            ("b\u{fc}cher.test", "x@xn--bcher-kva.test"),
            ("<>", ""),
        ] {
            assert!(covers(pattern, address), "{pattern} {address}");
        }
        for (pattern, address) in [
            ("a@b.test", "b@b.test"),
            ("a@b.test", "a@c.b.test"),
            ("b.test", "x@c.b.test"),
            ("*.b.test", "x@b.test"),
            ("b.test", "x@[192.0.2.1]"),
            ("*", ""),
            ("<>", "x@y.test"),
        ] {
            assert!(!covers(pattern, address), "{pattern} {address}");
        }
        let refused = |text: &str| text.parse::<AddressPattern>().unwrap_err();
        assert_eq!(refused("a b@c.test"), PatternError::Local);
        assert_eq!(refused("@c.test"), PatternError::Local);
        assert!(matches!(refused("a@"), PatternError::Domain(_)));
        assert!(matches!(refused("a@*c.test"), PatternError::Domain(_)));
    }

    #[test]
    fn expressions_are_bounded_and_explained() {
        let regex: Regex = "(?i)^news".parse().unwrap();
        assert!(regex.is_match("Newsletter") && !regex.is_match("old news"));
        assert_eq!(regex, "(?i)^news".parse().unwrap());
        assert_eq!("(".parse::<Regex>().unwrap_err().to_string(), "unclosed group");
        assert!("(a{1000}){1000}".parse::<Regex>().is_err(), "it would take gigabytes");
    }
}
