//! What becomes of a message by where it came from and what it says of itself: conditions over session, envelope
//! and header, and the tags they assign.
//!
//! Rules only: facts in, tags out. Nothing here reads a message; who asks says which fields it has found, and
//! [`Assign::fields`] says which are worth looking for. Nothing here knows which pools or tenants there are.
//!
//! Read first: [`AssignRule`], then [`Assign::apply`].

mod assign;
mod gathered;
mod pattern;

pub use assign::{Assign, AssignRule, Facts, HeaderCondition, VerdictWord, Verdicts};
pub use gathered::{Gathered, PriorityClass, TagText};
pub use pattern::{AddressPattern, DomainPattern, PatternError, Regex, RegexError};
