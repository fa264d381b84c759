//! What travels between the dispatcher and the connections: jobs out, results back.

use mail::Message;
use queue::EntryKey;
use spool::{Content, Handle};
use std::sync::Arc;
use tokio::time::Instant;

/// A connection's name, unique within one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// Recipients of one message for one attempt.
#[derive(Debug)]
pub(crate) struct Job {
    /// The queue's entries, each a run of recipients.
    pub(crate) entries: Vec<JobEntry>,
    /// Where the spool keeps the message.
    pub(crate) handle: Handle,
    /// The message and its content, if they are still in memory.
    pub(crate) hot: Option<Hot>,
}

impl Job {
    /// Recipients in all.
    pub(crate) fn recipients(&self) -> usize {
        self.entries.iter().map(|entry| entry.count as usize).sum()
    }
}

/// A message in memory.
#[derive(Clone, Debug)]
pub(crate) struct Hot {
    pub(crate) message: Arc<Message>,
    pub(crate) content: Content,
}

/// A run of recipients of one message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobEntry {
    pub(crate) key: EntryKey,
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// Attempts made before this one.
    pub(crate) attempts: u16,
    /// The sender was told that it is late.
    pub(crate) delay_reported: bool,
    /// When the message is given up.
    pub(crate) expires: Instant,
}

/// What became of a job.
#[derive(Debug)]
pub(crate) struct JobDone {
    /// Its entries, to be ended in the queue.
    pub(crate) entries: Vec<EntryKey>,
    /// Recipients that wait for another attempt.
    pub(crate) deferred: Vec<Deferred>,
}

/// A recipient that waits for another attempt.
#[derive(Debug)]
pub(crate) struct Deferred {
    pub(crate) key: EntryKey,
    pub(crate) index: u32,
    pub(crate) attempts: u16,
    pub(crate) ambiguous: bool,
    pub(crate) delay_reported: bool,
    pub(crate) reply: Arc<str>,
    pub(crate) due: Instant,
}

/// What a connection tells the dispatcher.
#[derive(Debug)]
pub(crate) enum Event {
    /// It was greeted and is ready.
    Connected(ConnectionId),
    /// A job is over.
    Done(ConnectionId, JobDone),
    /// A job never began; it goes back to the head of its line.
    Returned(ConnectionId, Job),
    /// It takes no more jobs; those it was given and has not begun follow as `Returned`.
    Draining(ConnectionId),
    /// It is closed; the last word. `connected` is false if it never became ready.
    Closed {
        id: ConnectionId,
        connected: bool,
        /// Why it never became ready, in one line.
        reason: Option<Arc<str>>,
    },
    /// It ended in a panic.
    Panicked(ConnectionId),
    /// An expired entry was settled outside any connection.
    Expired(JobDone),
}
