//! The bench: a loader that offers mail, a sink that takes it, and the bare relay between them that tells
//! what the machine itself asks. The sink also serves as the capture end of `serve --dev` and as the
//! misbehaving remote site of tests.
//!
//! This room shares no code with the rest of the product, so that a mistake in one does not hide the same
//! mistake in the other. It never judges mail and never stores any unless told to keep it.
//!
//! Read [`loader::Options`] and [`sink::Options`] first, then [`sink::rules`] for how a sink is told to
//! misbehave. Both ends know a message by the mark in its header ([`sequence::Mark`]), from which the sink
//! tells loss, duplicates and the time it took.

mod ceiling;
mod copies;
pub mod histogram;
pub mod http;
pub mod json;
pub mod loader;
mod net;
pub mod relay;
pub mod sequence;
pub mod sink;
mod template;
pub mod tls;
pub mod usage;
mod wire;

pub use ceiling::{Ceiling, ceiling};
pub use copies::Copies;
pub use histogram::{Histogram, Percentiles};
