//! Questions to DNS and answers to them, as the machines of this room speak of them.
//!
//! A [`Machine`] is asked for its [`Step`] and gives a question until it has an outcome. Who drives it fetches the
//! answers, from wherever and within whatever time.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Octets of a name in text, without a trailing dot (RFC 1035 §2.3.4).
pub(crate) const NAME_MAX_OCTETS: usize = 253;
/// Octets of one label.
const LABEL_MAX_OCTETS: usize = 63;

/// A name to ask DNS about: lower case, no trailing dot, 1 to 253 octets, labels of 1 to 63 octets of visible ASCII
/// or blanks. It need not be the name of a host: SPF asks about names with the sender's local part in them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<str>);

impl Name {
    /// Reads a name. A trailing dot is left out. Nothing if it is no name.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = text.strip_suffix(b".").unwrap_or(text);
        if text.is_empty() || text.len() > NAME_MAX_OCTETS || !text.iter().all(|b| matches!(b, b' '..=b'~')) {
            return None;
        }
        if text.split(|b| *b == b'.').any(|label| label.is_empty() || label.len() > LABEL_MAX_OCTETS) {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        Some(Self(text.to_ascii_lowercase().into()))
    }

    /// The name of a domain.
    pub fn of(domain: &mail::Domain) -> Self {
        Self(domain.as_str().into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How many labels it has.
    pub fn labels(&self) -> usize {
        self.0.split('.').count()
    }

    /// The name of its `count` labels on the right; all of it if it has fewer. `count` is at least 1.
    pub fn last_labels(&self, count: usize) -> Self {
        let dots = self.0.char_indices().rev().filter(|(_, c)| *c == '.');
        let start = dots.map(|(at, _)| at + 1).nth(count.max(1) - 1).unwrap_or(0);
        Self(self.0[start..].into())
    }

    /// The name without its leftmost label; nothing above a name of one label.
    pub fn parent(&self) -> Option<Self> {
        self.0.split_once('.').map(|(_, parent)| Self(parent.into()))
    }

    /// The name of `label` under this one; nothing if that would be too long.
    pub fn below(&self, label: &str) -> Option<Self> {
        Self::parse(format!("{label}.{self}").as_bytes())
    }

    /// True if this is `parent` or a name below it.
    pub fn is_within(&self, parent: &Self) -> bool {
        self.0.strip_suffix(&*parent.0).is_some_and(|head| head.is_empty() || head.ends_with('.'))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a machine wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// TXT records.
    Txt(Name),
    /// IPv4 addresses.
    A(Name),
    /// IPv6 addresses.
    Aaaa(Name),
    /// Mail exchangers.
    Mx(Name),
    /// The names of an address.
    Ptr(IpAddr),
}

/// Records, at least one, of the kind that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Records {
    /// The strings of each TXT record joined, as RFC 7208 §3.3 and RFC 6376 §3.6.2.2 want them.
    Txt(Arc<[Box<[u8]>]>),
    /// IPv4 addresses.
    A(Arc<[Ipv4Addr]>),
    /// IPv6 addresses.
    Aaaa(Arc<[Ipv6Addr]>),
    /// Mail exchangers, the preferred first; an empty name is the root.
    Mx(Vec<Box<str>>),
    /// Names of an address.
    Ptr(Arc<[Box<str>]>),
}

/// What DNS says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Records.
    Found(Records),
    /// The name exists and has no such record.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// No answer that could be believed: SERVFAIL, a timeout and the like.
    Temporary,
}

/// What a machine does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a, T> {
    /// It must be told this before it can go on.
    Ask(&'a Question),
    /// It is finished, with this.
    Done(&'a T),
}

/// What asks until it knows.
pub trait Machine {
    /// What it finds out.
    type Outcome;

    /// The next question, or the outcome.
    fn step(&mut self) -> Step<'_, Self::Outcome>;

    /// Takes the answer to the question of the last [`Machine::step`]. An answer nobody waits for is passed over.
    fn answer(&mut self, answer: Answer);
}

/// Runs a machine to its end with answers that are at hand.
pub fn run<M: Machine>(machine: &mut M, mut answers: impl FnMut(&Question) -> Answer) -> &M::Outcome {
    while let Step::Ask(question) = machine.step() {
        let answer = answers(question);
        machine.answer(answer);
    }
    match machine.step() {
        Step::Done(outcome) => outcome,
        Step::Ask(_) => unreachable!("it was done"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = |text: &str| Name::parse(text.as_bytes());
        let deep = name("a.b.C.example.").unwrap();
        assert_eq!(deep.as_str(), "a.b.c.example");
        assert_eq!((deep.labels(), deep.parent()), (4, name("b.c.example")));
        assert_eq!(
            [1, 2, 4, 9].map(|n| deep.last_labels(n).to_string()),
            ["example", "c.example", "a.b.c.example", "a.b.c.example"]
        );
        assert_eq!(deep.below("_dmarc"), name("_dmarc.a.b.c.example"));
        assert!(deep.is_within(&name("example").unwrap()) && !deep.is_within(&name("xample").unwrap()));
        for text in ["", ".", "a..b", ".a", "a\0b", "b\u{fc}cher.test", "a.."] {
            assert_eq!(name(text), None, "{text:?}");
        }
        assert_eq!(name(&"a".repeat(64)), None);
        assert_eq!(name(&vec!["a".repeat(60); 5].join(".")), None);
        assert_eq!(name(&vec!["a"; 127].join(".")).unwrap().below("b"), None);
        assert!(name("a+b/c._spf.%x").is_some());
    }
}
