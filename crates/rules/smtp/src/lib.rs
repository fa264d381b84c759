//! The wire grammar of SMTP and the session machines that speak it.
//!
//! Everything here is decided from bytes, data and `now`: no socket, no clock, no task. A driver hands the
//! machine what it read and writes what the machine says.
//!
//! - [`server::Server`] is one session seen from the server: bytes in, questions and replies out. Read its
//!   module first, then `server/transitions.rs`, which holds every legal move in one table.
//! - [`command`] reads command lines; [`path`] and [`parameter`] read and write what stands in MAIL and RCPT.
//! - [`client::Client`] is one session seen from the client: transactions in, outcomes out.
//! - [`reply`] writes replies; [`data`] makes content fit for the wire (dot transparency, CRLF line ends).
//! - [`xtext`] and [`base64`] are the two encodings that SMTP lines carry.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "only the clock makes an Instant"))]

pub mod base64;
pub mod client;
pub mod command;
pub mod data;
#[doc(hidden)]
pub mod fuzzing;
pub mod parameter;
pub mod path;
pub mod reply;
pub mod server;
pub mod xtext;
