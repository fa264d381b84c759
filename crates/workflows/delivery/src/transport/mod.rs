//! Transport security: what mail for a target asks of a connection, and what a connection has to show for it.
//!
//! A [`Demand`] is worked out for a target, from the operator's word and from what its domain publishes. The
//! dispatcher keeps connections made by different demands apart, and a connection looks again before each job: it
//! carries mail only of targets that ask for just what it was made for.

mod clear;
mod demand;
mod fault;
mod keeping;
mod memory;
mod requiretls;
mod session;
mod table;

pub(crate) use clear::InTheClear;
pub use demand::Demand;
pub(crate) use demand::{NoPlan, Plan, PolicyKind, PublishedMemory};
pub(crate) use fault::SessionFault;
pub(crate) use keeping::keep;
use memory::Memory;
pub(crate) use requiretls::{needs_no_tls, not_assured};
pub(crate) use session::Finding;
pub use table::TlsPolicies;
