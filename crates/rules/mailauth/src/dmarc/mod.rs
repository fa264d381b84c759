//! DMARC (RFC 9989): does what was authenticated belong to the author the reader is shown, and what does the owner
//! of the author's domain want done if not?
//!
//! [`Check`] asks for policy records and walks the tree of names. Where a name's organization begins may also be
//! taken from the public suffix list, the way of RFC 7489.

mod check;
mod record;
pub mod report;
#[cfg(test)]
mod tests;

pub use check::Check;
pub use record::{Alignment, Policy, PublicSuffix, RECORD_MAX_OCTETS, REPORT_ADDRESSES_MAX, Record};

use crate::dns::Name;
use std::fmt;
use std::sync::Arc;

/// Authenticated domains that are compared with the author's; each may take a walk of eight questions.
pub const EVIDENCE_MAX: usize = 12;

/// The words of RFC 8601 for DMARC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DmarcResult {
    /// Nobody published a policy.
    None,
    /// Something that was authenticated is the author's.
    Pass,
    /// Nothing that was authenticated is.
    Fail,
    /// DNS gave no answer.
    TempError,
    /// There is no author that could be asked about.
    PermError,
}

impl DmarcResult {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

impl fmt::Display for DmarcResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How it is found out where an organization's names begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Organization {
    /// From the policy records themselves (RFC 9989 §4.10).
    TreeWalk,
    /// From the public suffix list (RFC 7489 §3.2).
    PublicSuffixList,
}

/// What authenticated a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EvidenceKind {
    /// SPF passed for it.
    Spf,
    /// A DKIM signature of it verified.
    Dkim,
}

/// A domain that was authenticated, or would have been had DNS answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The domain.
    pub domain: Name,
    /// By what.
    pub kind: EvidenceKind,
    /// False if it is not known for want of DNS.
    pub is_sure: bool,
}

/// What was authenticated and is close enough to the author's domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aligned {
    /// By SPF.
    pub spf: bool,
    /// By DKIM.
    pub dkim: bool,
}

/// For which names a policy was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The author's domain itself (`p`).
    Itself,
    /// Names below that exist (`sp`).
    Below,
    /// Names below that do not exist (`np`).
    Absent,
}

/// The policy that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where it was found.
    pub domain: Name,
    /// All of it.
    pub record: Arc<Record>,
    /// What it says for this author.
    pub policy: Policy,
    /// What is to be done: the policy, or one step milder while the owner tests.
    pub wanted: Policy,
    /// Which of its tags says so.
    pub scope: Scope,
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The result.
    pub result: DmarcResult,
    /// The author's domain.
    pub author: Name,
    /// What is aligned.
    pub aligned: Aligned,
    /// The policy, if there is one.
    pub published: Option<Published>,
}

impl Outcome {
    fn without(result: DmarcResult, author: &Name) -> Self {
        Self { result, author: author.clone(), aligned: Aligned::default(), published: None }
    }

    /// What the owner wants done with this message.
    pub fn wanted(&self) -> Policy {
        match (self.result, &self.published) {
            (DmarcResult::Fail, Some(published)) => published.wanted,
            _ => Policy::None,
        }
    }
}

/// Whatever is published, the check ends within its walks.
#[doc(hidden)]
pub fn fuzz_dmarc(data: &[u8]) {
    use crate::dns::{Answer, Machine as _, Question, Records, Step};
    Record::parse(data);
    let lines: Vec<&[u8]> = data.split(|b| *b == b'\n').collect();
    let names: Vec<Name> = lines.iter().filter_map(|line| Name::parse(line)).collect();
    let Some((author, rest)) = names.split_first() else { return };
    let evidence = rest.iter().map(|name| Evidence {
        domain: name.clone(),
        kind: if name.labels() & 1 == 0 { EvidenceKind::Spf } else { EvidenceKind::Dkim },
        is_sure: true,
    });
    let mut check = Check::new(author.clone(), evidence.collect(), Organization::TreeWalk);
    let mut asked = 0;
    while let Step::Ask(question) = check.step() {
        let answer = match question {
            Question::Txt(_) => {
                let line = lines[asked % lines.len()];
                Answer::Found(Records::Txt([[b"v=DMARC1;", line].concat().into()].into()))
            }
            _ => Answer::NxDomain,
        };
        check.answer(answer);
        asked += 1;
        assert!(asked <= 8 * (EVIDENCE_MAX + 1) + 1, "{asked} questions");
    }
}
