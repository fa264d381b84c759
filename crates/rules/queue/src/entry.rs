//! What waits: recipients of one message in one line.

use crate::{EntryKey, LineKey};
use std::time::{Duration, Instant};

/// A group of recipients of one message that wait in the same line.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The spool's handle of the message.
    pub handle: u64,
    /// Its line.
    pub line: LineKey,
    /// Index of the first recipient in the envelope.
    pub first: u32,
    /// How many recipients, with consecutive indices.
    pub count: u32,
    /// Octets of the message; what is larger than this can tell counts as the most it can.
    pub size: u32,
    /// Attempts already made.
    pub attempts: u16,
    /// The last attempt ended in doubt: the peer may have the message (RFC 1047).
    pub ambiguous: bool,
    /// The sender was told that it is late.
    pub delay_reported: bool,
    /// Each of its recipients has a message of his own, so none shares a transaction.
    pub alone: bool,
    /// The caller's name for the last reply, 0 if there was none.
    pub last_reply: u32,
    /// When it was queued, in ticks of the queue's own clock; before its zero if an earlier process did.
    pub(crate) queued: i32,
    /// It is not given up before this tick.
    pub(crate) kept_until: u32,
    /// When it may next be attempted, in ticks.
    pub(crate) due: u32,
    pub(crate) place: Place,
}

/// Where an entry is: exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In its line.
    Ready,
    /// In the wheel, until due.
    Waiting,
    /// Handed out for an attempt.
    Attempted,
}

/// What a caller hands in.
#[derive(Clone, Copy, Debug)]
pub struct NewEntry {
    /// The spool's handle of the message.
    pub handle: u64,
    /// Its line.
    pub line: LineKey,
    /// Index of the first recipient.
    pub first: u32,
    /// How many recipients, with consecutive indices.
    pub count: u32,
    /// Octets of the message.
    pub size: u32,
    /// Attempts already made.
    pub attempts: u16,
    /// The last attempt ended in doubt.
    pub ambiguous: bool,
    /// The caller's name for the last reply, 0 if none.
    pub last_reply: u32,
    /// When it may first be attempted; `None` is at once.
    pub due: Option<Instant>,
    /// How long ago the message was accepted.
    pub age: Duration,
    /// It is not given up before this moment, however old it is.
    pub kept_until: Option<Instant>,
    /// Each of its recipients has a message of his own.
    pub alone: bool,
}

impl NewEntry {
    /// One recipient of a message that was accepted just now.
    pub fn new(handle: u64, line: LineKey) -> Self {
        Self {
            handle,
            line,
            first: 0,
            count: 1,
            size: 0,
            attempts: 0,
            ambiguous: false,
            last_reply: 0,
            due: None,
            age: Duration::ZERO,
            kept_until: None,
            alone: false,
        }
    }
}

/// An entry seen from outside, with its times.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Its name.
    pub key: EntryKey,
    /// The entry.
    pub entry: Entry,
    /// When it may next be attempted.
    pub due: Instant,
    /// When it is given up.
    pub expires: Instant,
    /// When it was accepted.
    pub queued: Instant,
    /// True while an attempt runs.
    pub attempted: bool,
}

/// Recipients of an attempted entry that wait for another attempt.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Index of the first recipient.
    pub first: u32,
    /// How many, with consecutive indices.
    pub count: u32,
    /// Attempts made, this one included.
    pub attempts: u16,
    /// It ended in doubt.
    pub ambiguous: bool,
    /// The sender was told that it is late.
    pub delay_reported: bool,
    /// The caller's name for the reply.
    pub last_reply: u32,
    /// When to try again.
    pub due: Instant,
}
