//! Macro strings (RFC 7208 §7): parsed once, expanded for a message.

use super::Subject;
use crate::dns::{NAME_MAX_OCTETS, Name};
use std::fmt::Write as _;
use std::net::IpAddr;

/// A macro string in its pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MacroString(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Box<[u8]>),
    /// `%%`, `%_` or `%-`, already what it stands for.
    Escape(&'static str),
    Macro(Macro),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Macro {
    /// Lower case.
    letter: u8,
    /// How many of the parts on the right are kept.
    keep: usize,
    reverse: bool,
    /// What the value is split at.
    delimiters: Box<[u8]>,
    /// Written in upper case: what is not unreserved in a URL is escaped.
    escape: bool,
}

/// Where a macro string stands, which decides what may be in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A domain-spec: ends in a name's last label or a macro.
    Domain,
    /// The value of a modifier nobody knows: any macro string.
    Modifier,
    /// The text that an `exp` record gives: blanks, and the letters c, r and t too.
    Explanation,
}

/// What is expanded is cut from the left above this, as the name made of it is later (RFC 7208 §7.3): who writes a
/// record of nothing but macros grows no memory.
const EXPANDED_MAX_OCTETS: usize = 4096;

impl MacroString {
    /// Reads one; nothing if the syntax is wrong.
    pub(super) fn parse(text: &[u8], place: Place) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(&first) = rest.first() {
            if first != b'%' {
                let end = rest.iter().position(|b| *b == b'%').unwrap_or(rest.len());
                let (literal, after) = rest.split_at(end);
                let fits = |b: &u8| b.is_ascii_graphic() || (place == Place::Explanation && *b == b' ');
                if !literal.iter().all(fits) {
                    return None;
                }
                pieces.push(Piece::Literal(literal.into()));
                rest = after;
                continue;
            }
            let (piece, after) = match rest.get(1)? {
                b'%' => (Piece::Escape("%"), &rest[2..]),
                b'_' => (Piece::Escape(" "), &rest[2..]),
                b'-' => (Piece::Escape("%20"), &rest[2..]),
                b'{' => {
                    let end = rest.iter().position(|b| *b == b'}')?;
                    (Piece::Macro(Macro::parse(&rest[2..end], place)?), &rest[end + 1..])
                }
                _ => return None,
            };
            pieces.push(piece);
            rest = after;
        }
        let whole = Self(pieces);
        (place != Place::Domain || whole.ends_a_domain()).then_some(whole)
    }

    /// `domain-end = ( "." toplabel [ "." ] ) / macro-expand` (RFC 7208 §7.1).
    fn ends_a_domain(&self) -> bool {
        match self.0.last() {
            None => false,
            Some(Piece::Macro(_) | Piece::Escape(_)) => true,
            Some(Piece::Literal(literal)) => {
                let literal = literal.strip_suffix(b".").unwrap_or(literal);
                let Some(dot) = literal.iter().rposition(|b| *b == b'.') else { return false };
                let label = &literal[dot + 1..];
                let fits = label.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
                let hyphen_at_end = label.starts_with(b"-") || label.ends_with(b"-");
                fits && !label.is_empty() && !hyphen_at_end && !label.iter().all(u8::is_ascii_digit)
            }
        }
    }

    /// True if it needs to know the validated name of the client's address.
    pub(super) fn needs_pointer(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Macro(Macro { letter: b'p', .. })))
    }

    /// What it stands for. `domain` is the domain whose record it stands in, `pointer` the validated name of the
    /// client's address.
    pub(super) fn expand(&self, subject: &Subject, domain: &Name, pointer: Option<&Name>) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => out.extend_from_slice(literal),
                Piece::Escape(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Macro(given) => given.expand(&mut out, subject, domain, pointer),
            }
            if out.len() > EXPANDED_MAX_OCTETS {
                out.drain(..out.len() - EXPANDED_MAX_OCTETS / 2);
            }
        }
        out
    }

    /// The name it stands for; labels on the left are left out until it is short enough (RFC 7208 §7.3). Nothing if
    /// it is no name.
    pub(super) fn name(&self, subject: &Subject, domain: &Name, pointer: Option<&Name>) -> Option<Name> {
        let expanded = self.expand(subject, domain, pointer);
        let mut text = expanded.strip_suffix(b".").unwrap_or(&expanded);
        while text.len() > NAME_MAX_OCTETS {
            let dot = text.iter().position(|b| *b == b'.')?;
            text = &text[dot + 1..];
        }
        Name::parse(text)
    }
}

impl Macro {
    /// What stands between the braces.
    fn parse(text: &[u8], place: Place) -> Option<Self> {
        let (&letter, rest) = text.split_first()?;
        let known = match letter.to_ascii_lowercase() {
            b's' | b'l' | b'o' | b'd' | b'i' | b'p' | b'h' | b'v' => true,
            b'c' | b'r' | b't' => place == Place::Explanation,
            _ => false,
        };
        if !known {
            return None;
        }
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let (number, rest) = rest.split_at(digits);
        let keep = match number {
            [] => usize::MAX,
            // More than fits is as good as all.
            _ => std::str::from_utf8(number).ok()?.parse::<usize>().unwrap_or(usize::MAX),
        };
        let (reverse, delimiters) = match rest {
            [b'r' | b'R', rest @ ..] => (true, rest),
            _ => (false, rest),
        };
        if keep == 0 || !delimiters.iter().all(|b| b".-+,/_=".contains(b)) {
            return None;
        }
        let delimiters: &[u8] = if delimiters.is_empty() { b"." } else { delimiters };
        let escape = letter.is_ascii_uppercase();
        Some(Self {
            letter: letter.to_ascii_lowercase(),
            keep,
            reverse,
            delimiters: delimiters.into(),
            escape,
        })
    }

    fn expand(&self, out: &mut Vec<u8>, subject: &Subject, domain: &Name, pointer: Option<&Name>) {
        let value = self.value(subject, domain, pointer);
        let mut parts: Vec<&[u8]> = value.split(|b| self.delimiters.contains(b)).collect();
        if self.reverse {
            parts.reverse();
        }
        let skip = parts.len().saturating_sub(self.keep);
        for (n, part) in parts[skip..].iter().enumerate() {
            if n > 0 {
                out.push(b'.');
            }
            for &b in *part {
                let unreserved = b.is_ascii_alphanumeric() || b"-._~".contains(&b);
                if self.escape && !unreserved {
                    out.extend_from_slice(format!("%{b:02X}").as_bytes());
                } else {
                    out.push(b);
                }
            }
        }
    }

    fn value(&self, subject: &Subject, domain: &Name, pointer: Option<&Name>) -> Vec<u8> {
        let sender_domain = &subject.domain;
        match self.letter {
            b's' => [&subject.local_part[..], b"@", sender_domain.as_bytes()].concat(),
            b'l' => subject.local_part.to_vec(),
            b'o' => sender_domain.as_bytes().to_vec(),
            b'd' => domain.as_str().as_bytes().to_vec(),
            b'i' => dotted(subject.client).into_bytes(),
            b'p' => pointer.map_or("unknown", Name::as_str).as_bytes().to_vec(),
            b'h' => subject.helo.as_bytes().to_vec(),
            b'v' => if subject.client.is_ipv4() { "in-addr" } else { "ip6" }.into(),
            b'c' => subject.client.to_string().into_bytes(),
            b'r' => subject.receiver.as_bytes().to_vec(),
            // Only t is left: `parse` lets no other letter through.
            _ => subject.at_seconds.to_string().into_bytes(),
        }
    }
}

/// The address as the `i` macro writes it: IPv6 by nibbles in upper case, dots between them.
fn dotted(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => {
            let mut out = String::with_capacity(63);
            for octet in v6.octets() {
                let dot = if out.is_empty() { "" } else { "." };
                let _ = write!(out, "{dot}{:X}.{:X}", octet >> 4, octet & 15);
            }
            out
        }
    }
}
