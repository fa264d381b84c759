//! Which mail leaves now, and by which source: the place where the queue and the shaping of traffic are asked
//! together.
//!
//! [`Dispatch`] is a pure machine. It owns the [`queue::Queue`], the [`shaping::Shaper`], the operator's orders and
//! the state of every queue, site and path, and it is told what happens: mail was accepted, a domain's site is
//! known, a connection is ready, an attempt is over, time has passed. It answers with [`Action`]s: ask which site a
//! domain is, open a connection, give it a job, settle a job without one. Whoever carries the actions out has
//! sockets and a clock: `delivery` for real mail, `simulator` for the simulated kind. Both run these same rules.
//!
//! A queue is the mail of one tenant, campaign, target, pool and priority. A site is the exchangers that share
//! limits. A path is a source and a site. Why mail does not move is a value, [`shaping::Hold`], made where the
//! decision was made; [`Dispatch::explain`] prints those values.
//!
//! Read first: [`Dispatch`], then `serve.rs`, which decides.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "only the clock makes an Instant"))]

mod act;
#[cfg(test)]
mod adversity;
mod answering;
mod connections;
mod egress;
mod explain;
mod hold;
mod jobs;
mod listing;
mod mail_came;
mod names;
mod ordered;
mod reconfigure;
mod release;
mod replies;
mod serve;
mod sites;
mod state;
mod status;
mod target;
mod time;

pub use act::{Action, ConnectionId, Deferred, Done, Fate, Granted, Job, JobEntry, Note, QueueName};
pub use egress::{Egress, Pool, PoolAt, Source, SourceAt};
pub use explain::{Explained, GateReport, Question};
pub use hold::{Hold, Reason};
pub use listing::{LimitStatus, SourceStatus, Stopped};
pub use mail_came::NewMail;
pub use ordered::{Candidate, Preview};
pub use release::Release;
pub use sites::SiteFound;
pub use state::{Config, Dispatch};
pub use status::{EntryStatus, HeldMail, PathStatus, QueueStatus, SiteStatus, Sizes, Status};
pub use target::Target;

/// Jobs a connection may hold: two in the session, so that they overlap, and one whose content is at hand.
pub const JOBS_MAX: usize = 3;

#[cfg(test)]
mod tests;
