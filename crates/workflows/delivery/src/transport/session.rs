//! What a session with an exchanger has to show for a policy, as reports count it.

use super::{PolicyKind, SessionFault};
use net::Verification;

/// How a session came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// What was wrong, if anything.
    pub(crate) fault: Option<SessionFault>,
    /// In words.
    pub(crate) reason: Box<str>,
}

impl Finding {
    /// Of a session that mail went by: where nothing is enforced, what would have failed is told all the same.
    pub(crate) fn of(kind: &PolicyKind, host: &str, verification: &Verification) -> Self {
        let not = |fault, reason: &str| Self { fault: Some(fault), reason: reason.into() };
        match (kind, verification) {
            (_, Verification::None) => not(SessionFault::NoStarttls, "the session was not encrypted"),
            (PolicyKind::Sts(policy), _) if !policy.allows(host) => {
                not(SessionFault::Validation, "the exchanger is none that the policy lists")
            }
            (PolicyKind::Sts(_), Verification::NotVerified(fault, why)) => not((*fault).into(), why),
            _ => Self { fault: None, reason: Box::default() },
        }
    }
}
