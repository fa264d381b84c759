//! SPF (RFC 7208): may this client send mail in this domain's name?
//!
//! [`Check`] is a machine that asks DNS questions and is given the answers. It asks no more than the RFC's limits
//! allow, whatever the records say; how long that may take is for whoever drives it (20 seconds, RFC 7208 §4.6.4).

mod check;
mod macros;
mod record;
#[cfg(test)]
mod tests;

pub use check::Check;
pub use record::RECORD_MAX_OCTETS;

use crate::dns::Name;
use mail::{Host, ReversePath};
use std::fmt;
use std::net::IpAddr;

/// Terms of all records together that may ask DNS (RFC 7208 §4.6.4).
pub const LOOKUPS_MAX: u32 = 10;
/// Questions answered with nothing that are borne (RFC 7208 §4.6.4).
pub const VOID_LOOKUPS_MAX: u32 = 2;
/// Exchangers of one `mx` term (RFC 7208 §4.6.4).
pub const EXCHANGERS_MAX: usize = 10;
/// Names of the client's address that are looked at (RFC 7208 §4.6.4).
pub const POINTERS_MAX: usize = 10;
/// Octets of an explanation, so that it fits a line of a reply.
pub const EXPLANATION_MAX_OCTETS: usize = 400;

/// The words of RFC 7208 §2.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpfResult {
    /// There is no domain to ask about, or it has no record.
    None,
    /// The domain says nothing of this client.
    Neutral,
    /// The client may.
    Pass,
    /// The client may not.
    Fail,
    /// The client probably may not.
    SoftFail,
    /// DNS gave no answer.
    TempError,
    /// The records cannot be understood.
    PermError,
}

impl SpfResult {
    /// The word for it in Authentication-Results (RFC 8601 §2.7.2).
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Neutral => "neutral",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::SoftFail => "softfail",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

impl fmt::Display for SpfResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Which name of the client's was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The domain of the reverse-path.
    MailFrom,
    /// What the client called itself; also in place of the null reverse-path (RFC 7208 §2.4).
    Helo,
}

/// Who is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    client: IpAddr,
    helo: Box<str>,
    local_part: Box<[u8]>,
    domain: Box<str>,
    identity: Identity,
    receiver: Box<str>,
    at_seconds: u64,
}

impl Subject {
    /// The sender of a message: the reverse-path, or for the null path the client's own name. `receiver` is this
    /// server's name and `at_seconds` the time since 1970, both only for explanations.
    pub fn sender(path: &ReversePath, helo: &str, client: IpAddr, receiver: &str, at_seconds: u64) -> Self {
        match path {
            ReversePath::Null => Self::helo(helo, client, receiver, at_seconds),
            ReversePath::Mailbox(mailbox) => {
                let domain = match mailbox.host() {
                    Host::Domain(domain) => domain.as_str().to_owned(),
                    literal => literal.to_string(),
                };
                let local = mailbox.local_part().as_bytes();
                Self::new(local, &domain, Identity::MailFrom, helo, client, receiver, at_seconds)
            }
        }
    }

    /// The client's own name.
    pub fn helo(helo: &str, client: IpAddr, receiver: &str, at_seconds: u64) -> Self {
        Self::new(b"", helo, Identity::Helo, helo, client, receiver, at_seconds)
    }

    /// The parts as they are. No local part means `postmaster` (RFC 7208 §4.3).
    pub fn new(
        local_part: &[u8],
        domain: &str,
        identity: Identity,
        helo: &str,
        client: IpAddr,
        receiver: &str,
        at_seconds: u64,
    ) -> Self {
        Self {
            client: client.to_canonical(),
            helo: helo.into(),
            local_part: if local_part.is_empty() { b"postmaster"[..].into() } else { local_part.into() },
            domain: domain.into(),
            identity,
            receiver: receiver.into(),
            at_seconds,
        }
    }

    /// Which name was asked about.
    pub fn identity(&self) -> Identity {
        self.identity
    }
}

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// More than [`RECORD_MAX_OCTETS`].
    RecordTooLong,
    /// This term has no meaning.
    Syntax(Box<str>),
    /// Two records where one is allowed.
    SeveralRecords(Name),
    /// More than [`LOOKUPS_MAX`].
    TooManyLookups,
    /// More than [`VOID_LOOKUPS_MAX`].
    TooManyVoidLookups,
    /// More than [`EXCHANGERS_MAX`].
    TooManyExchangers,
    /// An `include` or `redirect` leads where there is no record.
    NoRecord(Box<str>),
    /// No answer about this name.
    Dns(Box<str>),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RecordTooLong => write!(f, "record longer than {RECORD_MAX_OCTETS} octets"),
            Self::Syntax(term) => write!(f, "not understood: {term}"),
            Self::SeveralRecords(name) => write!(f, "several records at {name}"),
            Self::TooManyLookups => write!(f, "more than {LOOKUPS_MAX} terms that ask DNS"),
            Self::TooManyVoidLookups => write!(f, "more than {VOID_LOOKUPS_MAX} void lookups"),
            Self::TooManyExchangers => write!(f, "more than {EXCHANGERS_MAX} exchangers"),
            Self::NoRecord(name) => write!(f, "no record at {name}"),
            Self::Dns(name) => write!(f, "no answer about {name}"),
        }
    }
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The result.
    pub result: SpfResult,
    /// The term that matched, as its record has it.
    pub mechanism: Option<Box<str>>,
    /// What is wrong, with the two errors.
    pub problem: Option<Problem>,
    /// What the domain wants said to whoever fails: one line of visible ASCII and blanks. It is a stranger's text
    /// and must be called his (RFC 7208 §6.2).
    pub explanation: Option<Box<str>>,
}

/// Whatever a domain publishes, the check ends within the questions its limits allow.
#[doc(hidden)]
pub fn fuzz_spf(data: &[u8]) {
    use crate::dns::{Answer, Machine as _, Question, Records, Step};
    // The first octet says what kinds of answer there are; the rest are records, one a line, given out in turn.
    let Some((&kind, rest)) = data.split_first() else { return };
    let records: Vec<&[u8]> = rest.split(|b| *b == b'\n').collect();
    let client = if kind & 1 == 0 { [192, 0, 2, 1].into() } else { [0x20, 1, 0xd, 0xb8, 0, 0, 0, 1].into() };
    let subject = Subject::new(b"a.b", "d.test", Identity::MailFrom, "h.test", client, "r.test", 0);
    let mut check = Check::new(subject);
    let mut asked = 0;
    loop {
        let answer = match check.step() {
            Step::Done(outcome) => {
                assert!(outcome.explanation.as_ref().is_none_or(|said| said.len() <= EXPLANATION_MAX_OCTETS));
                return;
            }
            Step::Ask(Question::Txt(_)) => {
                let record = records[asked % records.len()];
                let text = if kind & 2 == 0 { [b"v=spf1 ", record].concat() } else { record.to_vec() };
                Answer::Found(Records::Txt([text.into()].into()))
            }
            Step::Ask(Question::Mx(name)) => {
                Answer::Found(Records::Mx(vec![name.as_str().into(); usize::from(kind >> 4)]))
            }
            Step::Ask(Question::Ptr(_)) => Answer::Found(Records::Ptr(vec!["p.d.test".into(); 40].into())),
            Step::Ask(_) if kind & 4 == 0 => Answer::Found(Records::A([[127, 0, 0, 1].into()].into())),
            Step::Ask(_) => Answer::NxDomain,
        };
        check.answer(answer);
        asked += 1;
        // Each term that asks may have exchangers; addresses have names; and there are record and explanation.
        assert!(
            asked <= (LOOKUPS_MAX as usize) * (EXCHANGERS_MAX + 1) + POINTERS_MAX + 3,
            "{asked} questions"
        );
    }
}
