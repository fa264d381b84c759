//! ARC (RFC 8617): what servers on the way found out before they changed a message, each sealed over those before.
//!
//! [`Validator`] checks a chain, [`seal`] adds a set to it. Keys come from DNS like those of DKIM.

mod seal;
#[cfg(test)]
mod tests;
mod validate;

pub use seal::{SealError, Sealer, seal};
pub use validate::Validator;

use crate::dkim::{FieldError, Reason};
use crate::results::MethodResult;
use mail::Domain;
use std::fmt;

/// Sets of one message (RFC 8617 §4.2.1).
pub const SETS_MAX: u32 = 50;

/// What a chain comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArcResult {
    /// There is no chain.
    None,
    /// All of it is good.
    Pass,
    /// It is broken, here or before.
    Fail,
    /// A key could not be had now.
    TempError,
}

impl ArcResult {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::TempError => "temperror",
        }
    }
}

/// Why a chain is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// More than [`SETS_MAX`] sets.
    TooManySets,
    /// Fields without a number of 1 to 50, a set with a field missing or twice, or a number left out.
    Structure,
    /// An earlier server found it broken and said so.
    SaidBroken,
    /// A seal says `cv=none` or `cv=pass` where the other belongs.
    Status(u32),
    /// The signature over the message, of the last set.
    Message(Reason),
    /// The seal of this set is none.
    SealField(u32, FieldError),
    /// The seal of this set is not good.
    Seal(u32, Reason),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManySets => write!(f, "more than {SETS_MAX} sets"),
            Self::Structure => f.write_str("sets incomplete or out of order"),
            Self::SaidBroken => f.write_str("found broken before"),
            Self::Status(n) => write!(f, "seal {n} has the wrong cv"),
            Self::Message(reason) => write!(f, "last message signature: {reason}"),
            Self::SealField(n, error) => write!(f, "seal {n}: {error}"),
            Self::Seal(n, reason) => write!(f, "seal {n}: {reason}"),
        }
    }
}

/// What was found out about a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The result.
    pub result: ArcResult,
    /// The number of the newest set; 0 without any.
    pub sets: u32,
    /// Why it fails.
    pub problem: Option<Problem>,
    /// Who sealed last, if the chain passes.
    pub sealer: Option<Domain>,
    /// What the server that sealed last had found out, if the chain passes.
    pub said: Vec<MethodResult>,
}

impl Outcome {
    /// True if another set may be added: a chain that was found broken before stays as it is (RFC 8617 §5.1).
    pub fn may_be_sealed(&self) -> bool {
        self.result != ArcResult::TempError
            && self.problem != Some(Problem::SaidBroken)
            && self.problem != Some(Problem::TooManySets)
            && self.sets < SETS_MAX
    }
}

/// Whatever the octets, a chain is judged within its bounds.
#[doc(hidden)]
pub fn fuzz_arc(data: &[u8]) {
    use crate::dkim::{KeyAnswer, VerifyPolicy};
    let mut validator = Validator::new(data, &VerifyPolicy::default());
    validator.body(data);
    let questions = validator.questions();
    assert!(questions.len() <= 2 * SETS_MAX as usize);
    for name in questions {
        validator.answer(&name, &KeyAnswer::Records(vec![data.to_vec()]));
    }
    let mut steps = 0;
    while validator.advance() {
        steps += 1;
        assert!(steps <= SETS_MAX + 1);
    }
    let outcome = validator.finish();
    assert!(outcome.sets <= SETS_MAX || outcome.result == ArcResult::Fail);
}
