//! Policy answered by another process.
//!
//! - [`Milter`] speaks the milter protocol of Sendmail, version 6, to a filter by TCP or a Unix socket: every phase, the
//!   negotiation of actions and steps, and the changes at the end of a message.
//! - [`Sidecar`] posts questions as JSON over HTTP to a program in any language.
//!
//! Whatever the other process does, nothing of a message is changed before its final answer is here and was understood to
//! the last octet: a filter that dies in the midst of its changes has changed nothing, and the client gets 451 unless the
//! configuration says otherwise. Every answer has a time limit and every packet a bound.
//!
//! Read first: `talk.rs` for the walk of a session, then `wire.rs` for the packets.

mod address;
mod config;
mod edits;
mod sidecar;
mod talk;
mod wire;

pub use address::Address;
pub use config::{MilterConfig, OnQuarantine, SidecarConfig};
pub use sidecar::Sidecar;
pub use talk::Milter;

#[cfg(test)]
mod tests;
