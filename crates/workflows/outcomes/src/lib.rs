//! What follows from outcomes.
//!
//! [`Suppressor`] puts recipients on the suppression list by the operator's rules: it is told of every record, counts, and
//! hands what it decides to the list through a bounded queue, so that whoever records never waits for a disk.
//!
//! [`Webhooks`] posts records to those who want them, from a durable, bounded log of each webhook's own: an endpoint that is
//! slow or dead costs its log, and nothing else.
//!
//! [`Feedback`] reads bounces and complaints that come as mail, and says which of them are proven.
//!
//! [`Rollups`] counts records by minute, hour and day, in an SQLite file, on a thread of its own.
//!
//! Nothing here decides what a reply means (`bounce`) or keeps the list (`suppression`).
//!
//! Read first: [`Suppressor`], then `webhook/mod.rs`.

mod feedback;
mod rollups;
mod suppress;
mod webhook;

pub use feedback::{Feedback, FeedbackConfig, ForwardTo, ReportMail, Taken, Unmatched};
pub use rollups::{By, OTHER, RollupFigures, Rollups, RollupsConfig, Rows, Span, StatsQuery, StatsRow};
pub use suppress::{SuppressOn, SuppressRule, SuppressScope, Suppressor};
pub use webhook::{Secret, WebhookConfig, WebhookStatus, Webhooks};
