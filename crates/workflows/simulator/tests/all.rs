//! The rules of the server against simulated receivers: what was promised, counted where it matters.

#![allow(clippy::disallowed_methods, reason = "only the clock makes an Instant")]

mod rig;
mod stories;
