//! What travels between the dispatcher and the connections: jobs out, results back.

use crate::signing::KeptSignatures;
use dispatch::{ConnectionId, Done, Job};
use mail::Message;
use queue::orders::OrderId;
use spool::{Content, Handle};
use std::sync::Arc;
use std::time::Instant;

/// A message in memory.
#[derive(Clone, Debug)]
pub(crate) struct Hot {
    pub(crate) message: Arc<Message>,
    pub(crate) content: Content,
    /// Signatures that were made for another site; kept only where there may be one.
    pub(crate) signatures: Option<Arc<KeptSignatures>>,
}

impl Hot {
    /// A message as it was taken or read.
    pub(crate) fn new(message: Arc<Message>, content: Content) -> Self {
        // Only a message with several recipients can go to several sites, and each of a merge's is another message.
        let may_be_several = message.envelope.recipients.len() > 1 && message.merge().is_none();
        Self { message, content, signatures: may_be_several.then(Arc::default) }
    }
}

/// A job with its message, if that is still in memory.
#[derive(Debug)]
pub(crate) struct Errand {
    pub(crate) job: Job,
    pub(crate) hot: Option<Hot>,
}

impl Errand {
    /// Where the spool keeps the message.
    pub(crate) fn handle(&self) -> Handle {
        Handle(self.job.handle)
    }
}

/// What a connection tells the dispatcher.
#[derive(Debug)]
pub(crate) enum Event {
    /// It was greeted and is ready.
    Connected(ConnectionId),
    /// A job is over.
    Done(ConnectionId, Done),
    /// The exchanger takes only so many recipients of the job in a transaction; those beyond never began.
    Narrowed(ConnectionId, Job, u32),
    /// A job never began; it goes back to the head of its line.
    Returned(ConnectionId, Errand),
    /// An order that only the message could match holds a job, until then if that is known.
    Ordered(ConnectionId, Job, OrderId, Option<Instant>),
    /// The session failed outside of a job, with a reply that rules know.
    Failed(ConnectionId, Done),
    /// It takes no more jobs; those it was given and has not begun follow as `Returned`.
    Draining(ConnectionId),
    /// No connection can be made as securely as the mail of a target asks.
    TargetFailed(dispatch::Target, mail::Reply),
    /// It is closed; the last word. `connected` is false if it never became ready.
    Closed {
        id: ConnectionId,
        connected: bool,
        /// Why it never became ready, in one line.
        reason: Option<Arc<str>>,
    },
    /// It ended in a panic.
    Panicked(ConnectionId),
    /// A job was settled outside any connection.
    Settled(Done),
    /// A look-up is over.
    Resolved(dispatch::Target, dispatch::SiteFound),
}
