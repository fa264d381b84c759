//! What may be asked of the dispatcher, and its answers.

use dispatch::{Candidate, Explained, LimitStatus, Preview, Question, SourceStatus};
use mail::UnixMillis;
use queue::orders::{Action, Order as Ordered, OrderError, OrderId, Scope};
use tokio::sync::oneshot;

pub use dispatch::{EntryStatus, PathStatus, QueueStatus as QueueCounts, SiteStatus, Status};

/// An order as an operator gives it.
#[derive(Clone, Debug)]
pub struct NewOrder {
    /// What shall be done.
    pub action: Action,
    /// To which mail.
    pub scope: Scope,
    /// Why.
    pub reason: String,
    /// When it ends; `None` is when it is cancelled.
    pub ends_at: Option<UnixMillis>,
}

/// A question or order from outside.
#[derive(Debug)]
pub enum Order {
    /// Counts of all sites.
    Status(oneshot::Sender<QueueStatus>),
    /// The queues with the most recipients.
    Queues {
        /// At most so many.
        max: usize,
        /// The answer.
        reply: oneshot::Sender<Vec<QueueCounts>>,
    },
    /// Some entries, of one target, site or queue, or of all.
    Entries {
        /// The target's, site's or queue's name.
        place: Option<String>,
        /// At most so many.
        max: usize,
        /// The answer.
        reply: oneshot::Sender<Vec<EntryStatus>>,
    },
    /// Everything that waits at a target, site or queue, or at all, is due now. Answers how many entries moved.
    Flush {
        /// The target's, site's or queue's name.
        place: Option<String>,
        /// The answer.
        reply: oneshot::Sender<u32>,
    },
    /// The settings have changed.
    Reload(oneshot::Sender<()>),
    /// Why mail does not move, or what would become of mail to an address.
    Explain(Question, oneshot::Sender<Explained>),
    /// The operator's orders in force.
    ListOrders(oneshot::Sender<Vec<Ordered>>),
    /// What an order of this scope would touch.
    Preview(Scope, oneshot::Sender<Preview>),
    /// Entries from a place in the queue on that an order of this scope may name, and the next place to ask from.
    Candidates(Scope, u32, oneshot::Sender<(Vec<Candidate>, Option<u32>)>),
    /// An order that bounces names these entries: their messages were read. Answers how many are given up, or
    /// `None` once the order has ended.
    BounceNamed(OrderId, Vec<Candidate>, oneshot::Sender<Option<u32>>),
    /// Takes an operator's order; answers with it, and whether it is on the disk.
    Give(NewOrder, oneshot::Sender<Result<(Ordered, bool), OrderError>>),
    /// Ends an operator's order; answers with it, and whether that is on the disk.
    Cancel(OrderId, oneshot::Sender<Option<(Ordered, bool)>>),
    /// Ends what rules have brought about, or takes a source out of use; answers how many states changed, and whether
    /// that is on the disk.
    Release(dispatch::Release, oneshot::Sender<(u32, bool)>),
    /// The egress sources.
    Sources(oneshot::Sender<Vec<SourceStatus>>),
    /// What is not as usual between sources and sites, at most so many.
    Limits(usize, oneshot::Sender<Vec<LimitStatus>>),
}

/// The queue at a glance.
#[derive(Clone, Debug, Default)]
pub struct QueueStatus {
    /// Octets of messages kept in memory.
    pub hot_bytes: u64,
    /// The rest.
    pub status: Status,
}
