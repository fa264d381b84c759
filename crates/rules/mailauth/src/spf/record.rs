//! An SPF record, parsed whole before any of it is evaluated (RFC 7208 §4.6).

use super::Problem;
use super::macros::{MacroString, Place};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Octets of a record that is looked at. Publishers are told to stay below 450 (RFC 7208 §3.4); the longest that work
/// for anybody hold some thousand.
pub const RECORD_MAX_OCTETS: usize = 16 * 1024;

/// What a term that matches says of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Qualifier {
    Pass,
    Fail,
    SoftFail,
    Neutral,
}

/// How many leading bits of an address must agree, for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) v4: u8,
    pub(super) v6: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    All,
    Include(MacroString),
    A(Option<MacroString>, Prefix),
    Mx(Option<MacroString>, Prefix),
    Ptr(Option<MacroString>),
    Ip4(Ipv4Addr, u8),
    Ip6(Ipv6Addr, u8),
    Exists(MacroString),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) qualifier: Qualifier,
    pub(super) mechanism: Mechanism,
    /// As written.
    pub(super) text: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Record {
    pub(super) terms: Vec<Term>,
    pub(super) redirect: Option<MacroString>,
    pub(super) exp: Option<MacroString>,
}

/// True if a TXT record is an SPF record of this version (RFC 7208 §4.5).
pub(super) fn is_spf(text: &[u8]) -> bool {
    match text.get(..6) {
        Some(version) => version.eq_ignore_ascii_case(b"v=spf1") && matches!(text.get(6), None | Some(b' ')),
        None => false,
    }
}

impl Record {
    /// Reads a record that [`is_spf`].
    pub(super) fn parse(text: &[u8]) -> Result<Self, Problem> {
        if text.len() > RECORD_MAX_OCTETS {
            return Err(Problem::RecordTooLong);
        }
        let mut record = Self::default();
        for term in text[6..].split(|b| *b == b' ').filter(|term| !term.is_empty()) {
            let wrong = || Problem::Syntax(shown(term));
            if !term.iter().all(u8::is_ascii_graphic) {
                return Err(wrong());
            }
            match term.iter().position(|b| matches!(b, b':' | b'/' | b'=')) {
                Some(at) if term[at] == b'=' => {
                    record.modifier(&term[..at], &term[at + 1..]).ok_or_else(wrong)?;
                }
                _ => record.terms.push(Term::parse(term).ok_or_else(wrong)?),
            }
        }
        Ok(record)
    }

    fn modifier(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        let slot = if name.eq_ignore_ascii_case(b"redirect") {
            &mut self.redirect
        } else if name.eq_ignore_ascii_case(b"exp") {
            &mut self.exp
        } else {
            let fits = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
            let is_name = name.first().is_some_and(u8::is_ascii_alphabetic) && name.iter().all(fits);
            return (is_name && MacroString::parse(value, Place::Modifier).is_some()).then_some(());
        };
        // Each at most once (RFC 7208 §6).
        if slot.is_some() {
            return None;
        }
        *slot = Some(MacroString::parse(value, Place::Domain)?);
        Some(())
    }

    /// True if `all` stands in it, which makes `redirect` void (RFC 7208 §6.1).
    pub(super) fn has_all(&self) -> bool {
        self.terms.iter().any(|term| term.mechanism == Mechanism::All)
    }
}

/// A piece of a record as a problem names it, within bounds.
fn shown(term: &[u8]) -> Box<str> {
    let cut = &term[..term.len().min(80)];
    cut.iter().map(|b| if b.is_ascii_graphic() { *b as char } else { '?' }).collect::<String>().into()
}

impl Term {
    fn parse(term: &[u8]) -> Option<Self> {
        let (qualifier, directive) = match term {
            [b'+', rest @ ..] => (Qualifier::Pass, rest),
            [b'-', rest @ ..] => (Qualifier::Fail, rest),
            [b'~', rest @ ..] => (Qualifier::SoftFail, rest),
            [b'?', rest @ ..] => (Qualifier::Neutral, rest),
            rest => (Qualifier::Pass, rest),
        };
        let mechanism = Mechanism::parse(directive)?;
        // All of it is visible ASCII.
        Some(Self { qualifier, mechanism, text: String::from_utf8_lossy(term).into() })
    }
}

impl Mechanism {
    fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().position(|b| matches!(b, b':' | b'/')).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("all") {
            return rest.is_empty().then_some(Self::All);
        }
        if is("include") {
            return domain(rest.strip_prefix(b":")?).map(Self::Include);
        }
        if is("exists") {
            return domain(rest.strip_prefix(b":")?).map(Self::Exists);
        }
        if is("ptr") {
            return optional_domain(rest).map(Self::Ptr);
        }
        if is("a") || is("mx") {
            let (rest, prefix) = dual_prefix(rest)?;
            let target = optional_domain(rest)?;
            return Some(if is("a") { Self::A(target, prefix) } else { Self::Mx(target, prefix) });
        }
        if is("ip4") {
            let (address, bits) = network(rest.strip_prefix(b":")?, 32)?;
            return address.parse().ok().map(|address| Self::Ip4(address, bits));
        }
        if is("ip6") {
            let (address, bits) = network(rest.strip_prefix(b":")?, 128)?;
            return address.parse().ok().map(|address| Self::Ip6(address, bits));
        }
        None
    }
}

fn domain(text: &[u8]) -> Option<MacroString> {
    MacroString::parse(text, Place::Domain)
}

/// `[ ":" domain-spec ]`
fn optional_domain(rest: &[u8]) -> Option<Option<MacroString>> {
    match rest {
        [] => Some(None),
        [b':', text @ ..] => domain(text).map(Some),
        _ => None,
    }
}

/// Takes `[ "/" bits ] [ "//" bits ]` off the end (RFC 7208 §5.6).
fn dual_prefix(rest: &[u8]) -> Option<(&[u8], Prefix)> {
    let mut prefix = Prefix { v4: 32, v6: 128 };
    let mut head = rest;
    let (before, bits) = digits_at_end(head);
    if let (false, Some(before)) = (bits.is_empty(), before.strip_suffix(b"//")) {
        prefix.v6 = number(bits, 128)?;
        head = before;
    }
    let (before, bits) = digits_at_end(head);
    if let (false, Some(before)) = (bits.is_empty(), before.strip_suffix(b"/")) {
        prefix.v4 = number(bits, 32)?;
        head = before;
    }
    // A slash that is left over ends no domain-spec, and `domain` says so.
    Some((head, prefix))
}

fn digits_at_end(text: &[u8]) -> (&[u8], &[u8]) {
    let digits = text.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    text.split_at(text.len() - digits)
}

/// A number of bits: no leading zero, not above `max`.
fn number(digits: &[u8], max: u8) -> Option<u8> {
    if digits.is_empty() || (digits[0] == b'0' && digits.len() > 1) || !digits.iter().all(u8::is_ascii_digit)
    {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|bits| *bits <= max)
}

/// An address and how many of its bits count.
fn network(text: &[u8], bits_max: u8) -> Option<(&str, u8)> {
    let (address, bits) = match text.iter().position(|b| *b == b'/') {
        Some(at) => (&text[..at], number(&text[at + 1..], bits_max)?),
        None => (text, bits_max),
    };
    Some((std::str::from_utf8(address).ok()?, bits))
}

/// True if the leading bits of two addresses agree; addresses of two families never do.
pub(super) fn agree(a: IpAddr, b: IpAddr, bits: u8) -> bool {
    let (a, b, width) = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(u32::from(a)), u128::from(u32::from(b)), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b), 128),
        _ => return false,
    };
    bits == 0 || (a ^ b) >> (width - u32::from(bits).min(width)) == 0
}
