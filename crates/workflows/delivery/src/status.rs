//! What may be asked of the dispatcher, and its answers.

use spool::Handle;
use std::time::Duration;
use tokio::sync::oneshot;

/// A question or order from outside.
#[derive(Debug)]
pub enum Order {
    /// Counts of all destinations.
    Status(oneshot::Sender<QueueStatus>),
    /// Some entries, of one destination or of all.
    Entries {
        /// The destination's name.
        target: Option<String>,
        /// At most so many.
        max: usize,
        /// The answer.
        reply: oneshot::Sender<Vec<EntryStatus>>,
    },
    /// Everything that waits at a destination, or at all, is due now. Answers how many entries moved.
    Flush {
        /// The destination's name.
        target: Option<String>,
        /// The answer.
        reply: oneshot::Sender<u32>,
    },
    /// The settings have changed. Answers for how many destinations in use the route is gone: their mail
    /// goes on by the old name until it is settled.
    Reload(oneshot::Sender<u32>),
}

/// The queue at a glance.
#[derive(Clone, Debug, Default)]
pub struct QueueStatus {
    /// Recipients queued.
    pub recipients: u64,
    /// Entries queued.
    pub entries: u64,
    /// Connections to other hosts.
    pub connections: u64,
    /// Octets of messages kept in memory.
    pub hot_bytes: u64,
    /// Destinations, those with the most recipients first.
    pub destinations: Vec<DestinationStatus>,
}

/// One destination.
#[derive(Clone, Debug)]
pub struct DestinationStatus {
    /// A domain, `route:name` or an address literal.
    pub target: String,
    /// Entries that may be attempted now.
    pub ready: u32,
    /// Entries that wait for their due time.
    pub waiting: u32,
    /// Entries in an attempt.
    pub attempted: u32,
    /// Recipients in all three.
    pub recipients: u64,
    /// Connections open.
    pub connections: u32,
    /// Why what is ready does not move.
    pub hold: Option<String>,
    /// The setting that says so.
    pub hold_setting: Option<&'static str>,
    /// Since when.
    pub held_for: Option<Duration>,
    /// For how long yet, if that is known.
    pub held_until: Option<Duration>,
    /// Why it could not be reached the last time it was tried.
    pub last_failure: Option<String>,
}

/// One entry of the queue.
#[derive(Clone, Debug)]
pub struct EntryStatus {
    /// Where the spool keeps the message.
    pub handle: Handle,
    /// Its destination.
    pub target: String,
    /// Index of its first recipient.
    pub first: u32,
    /// How many recipients.
    pub count: u32,
    /// Attempts made.
    pub attempts: u16,
    /// One is under way.
    pub attempted: bool,
    /// The last one ended in doubt.
    pub ambiguous: bool,
    /// When the next may be made.
    pub due_in: Duration,
    /// When it is given up.
    pub expires_in: Duration,
    /// The last reply.
    pub last_reply: Option<String>,
}
