//! What the operator is asked at each phase of a session, and what may be answered.
//!
//! The words only: who answers (a script, a milter, a sidecar) lives on the floor above, and who asks is `reception`.
//! Nothing here opens a socket, runs a script or reads a clock; an answer may take its time, so a question is a future.
//!
//! - [`Policy`] is the seam. It says at which [`Phases`] it wants to be asked and opens one [`Conversation`] for each
//!   session, which holds what it must remember of that session.
//! - [`Question`] is what is asked, [`Answer`] what may come back. No answer is ever made of a failure: who cannot
//!   answer says what its operator configured for that, [`Answer::Defer`] unless told otherwise.
//! - [`MailObject`] is a message on its way in: envelope, tags and content, which a policy may change. The asker takes
//!   the changed object only together with an answer that lets it in, so half an edit is never kept.
//! - [`Chain`] asks several in order.
//!
//! Read first: `question.rs`, then `object.rs`.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "only the clock makes an Instant"))]

mod chain;
mod facts;
mod object;
mod phase;
mod question;
mod reply;
mod surroundings;
mod tally;

pub use chain::Chain;
pub use facts::Facts;
pub use object::{EditError, MailObject};
pub use phase::{Phase, Phases};
pub use question::{Answer, Asked, Conversation, OnError, Policy, Question};
pub use reply::{ReplyError, failure, reply, text};
pub use surroundings::{Kind, Names, Records, STORE_TEXT_MAX_OCTETS, Store, Surroundings};
pub use tally::{Sparing, Tally};
