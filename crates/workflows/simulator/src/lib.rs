//! The receivers' internet, simulated: the rules of a real server against receivers with limits, tempers and bad
//! days of their own, under a virtual clock.
//!
//! [`Simulation`] drives the same [`dispatch::Dispatch`] that delivers real mail, with the same compiled rules and
//! retry schedule. A [`Traffic`] file says who receives and what is sent; a seed replays a run exactly. Nothing here
//! sleeps, opens a socket, reads a clock or starts a thread.
//!
//! What the rules promise is checked at the receiver, by a count of its own ([`Audit`]): a configured limit that is
//! exceeded there is a mistake of ours. At every moment the messages accepted are those settled and those queued.
//!
//! Not simulated: limits of single exchangers, TLS, content, several recipients of one message, and static routes.
//!
//! Read first: [`Simulation::step`], then `receiver.rs`.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "only the clock makes an Instant"))]

mod audit;
mod connection;
mod counter;
mod holds;
mod plot;
mod random;
mod receiver;
mod replies;
mod report;
mod simulation;
mod tally;
mod traffic;
mod world;

pub use audit::Audit;
pub use counter::Counter;
pub use plot::{bars, svg};
pub use replies::{Phrasebook, Refusal, Said};
pub use report::{CampaignReport, HeldReport, KindReport, Report, SourceReport};
pub use simulation::{Observed, Observer, Setup, Simulation};
pub use tally::{Outcomes, Series, Through, Waits};
pub use traffic::{
    CampaignConfig, Class, OutageConfig, ReceiverConfig, Replies, Stall, Traffic, WorldConfig,
};
