//! What follows from outcomes.
//!
//! [`Suppressor`] puts recipients on the suppression list by the operator's rules: it is told of every record, counts, and
//! hands what it decides to the list through a bounded queue, so that whoever records never waits for a disk.
//!
//! Nothing here decides what a reply means (`bounce`) or keeps the list (`suppression`).
//!
//! Read first: [`Suppressor`].

mod suppress;

pub use suppress::{SuppressOn, SuppressRule, SuppressScope, Suppressor};
