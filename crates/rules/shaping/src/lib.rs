//! What a destination tolerates: exact windows, permits, and waits after a failure to connect.
//!
//! [`Path`] is a pure machine for one destination: it answers whether a connection may be opened now and how
//! many messages may be sent now. Every "not now" is a [`Hold`], which says which gate holds, until when and by
//! which setting: the decision itself is what "why is this message not moving?" prints.
//!
//! The rule of the windows is the ledger's: what was spent in the trailing window, plus what was granted and not
//! yet spent, never exceeds the limit. It is exact in every sliding window, also as the receiver counts: a
//! spend is dated when the receiver's answer came, which is never before the receiver saw it.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "only the clock makes an Instant"))]

mod path;
mod rate;
mod window;

pub use path::{Gate, Hold, Limits, Path};
pub use rate::{Rate, RateError};
pub use window::Window;
