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

/// Failures told of in full within one second; the others are counted.
const TOLD_PER_SECOND: u64 = 20;

/// Says which failures are told of in full, so that a policy that always fails does not fill the log.
#[derive(Debug, Default)]
pub struct Sparing {
    /// The second in which something was told of last, and how often.
    second: AtomicU64,
    told: AtomicU64,
}

impl Sparing {
    /// True for the first of each second. Seconds are counted from any moment.
    pub fn tells(&self, second: u64) -> bool {
        if self.second.swap(second, Relaxed) != second {
            self.told.store(0, Relaxed);
        }
        self.told.fetch_add(1, Relaxed) < TOLD_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_second_are_told_of() {
        let sparing = Sparing::default();
        for second in [0, 1, 7] {
            let told = (0..100).filter(|_| sparing.tells(second)).count() as u64;
            assert_eq!(told, TOLD_PER_SECOND);
        }
    }
}
