//! What is counted of the questions put to one policy.

use crate::Answer;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of one policy, read by the metrics. It outlives a reload, so that counters only grow.
#[derive(Debug, Default)]
pub struct Tally {
    /// Questions answered.
    pub asked: AtomicU64,
    /// Answers that refused, deferred or ended the session.
    pub refused: AtomicU64,
    /// Answers that discarded.
    pub discarded: AtomicU64,
    /// Questions that could not be answered: an error, a limit, a time-out, nonsense.
    pub failed: AtomicU64,
}

impl Tally {
    /// Counts an answer.
    pub fn answered(&self, answer: &Answer) {
        self.asked.fetch_add(1, Relaxed);
        match answer {
            Answer::Continue | Answer::Accept => {}
            Answer::Refuse(_) | Answer::Disconnect(_) => drop(self.refused.fetch_add(1, Relaxed)),
            Answer::Discard(_) => drop(self.discarded.fetch_add(1, Relaxed)),
        }
    }

    /// Counts a failure; what is answered in its place is counted as well.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }
}
