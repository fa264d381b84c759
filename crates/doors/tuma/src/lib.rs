//! Tuma, a mail transfer agent: the parts of the binary, which tests drive too.
//!
//! `root` puts every room's settings under one roof, `server` builds the rooms and hands them to each other,
//! `signals` ends it all; `http` answers on loopback, `cli` is what is typed. Read `server.rs` first.

mod certificates;
mod classes;
pub mod cli;
pub mod config;
mod feedback;
mod gauges;
mod http;
mod issuing;
mod logging;
mod memory;
mod pickup;
pub mod policies;
pub mod root;
pub mod server;
pub mod shipped;
mod signals;
mod traffic;
