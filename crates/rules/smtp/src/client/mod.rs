//! The client's side of a session, without socket or clock.
//!
//! [`Client`] takes what the server sent ([`Client::receive`]), gives what to send ([`Client::output`]) and what
//! happened ([`Client::event`]). Transactions are handed in whole with [`Client::submit`]; where the server
//! allows PIPELINING the commands of the next one travel behind the content of the one before, so that a busy
//! connection needs one round trip a message.
//!
//! What decides whether a message may have been taken is written down once, in `transaction.rs`: an outcome is
//! `Delivered` only by a 2yz reply to the end of data, and a connection lost between the end of data and its
//! reply is marked ambiguous.

mod extensions;
mod machine;
mod output;
mod reply;
mod transaction;

pub use extensions::Extensions;
pub use machine::{Client, Config, Credentials, Event, Failure, Stage, Timeouts, TlsUse};
pub use reply::{ReplyError, ReplyReader};
pub use transaction::{Answered, Finished, RecipientResult, Transaction};

#[cfg(test)]
mod tests;
