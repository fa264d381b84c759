//! How often which check ended how, and how long it took.

use super::judge::Found;
use mail::{Reply, ReplyClass};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Counted since the start.
#[derive(Debug, Default)]
pub struct VerifyFigures {
    /// Method and result, a small set of words of ours.
    results: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    messages: AtomicU64,
    refused: AtomicU64,
    deferred: AtomicU64,
    micros: AtomicU64,
    sealed: AtomicU64,
    not_sealed: AtomicU64,
}

impl VerifyFigures {
    pub(super) fn count(&self, found: &Found<'_>, refused: Option<&Reply>, took: Duration) {
        self.messages.fetch_add(1, Relaxed);
        self.micros.fetch_add(took.as_micros() as u64, Relaxed);
        match refused.map(|reply| reply.code.class()) {
            Some(ReplyClass::Transient) => self.deferred.fetch_add(1, Relaxed),
            Some(_) => self.refused.fetch_add(1, Relaxed),
            None => 0,
        };
        let words = [
            ("spf", found.spf_result().map(|result| result.word())),
            ("dkim", found.dkim_word()),
            ("dmarc", found.dmarc_result().map(|result| result.word())),
            ("arc", found.arc.as_ref().map(|chain| chain.result.word())),
            ("iprev", found.iprev.as_ref().map(|outcome| outcome.result.word())),
        ];
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        for (method, word) in words {
            if let Some(word) = word {
                *results.entry((method, word)).or_default() += 1;
            }
        }
    }

    pub(super) fn sealed(&self, done: bool) {
        let figure = if done { &self.sealed } else { &self.not_sealed };
        figure.fetch_add(1, Relaxed);
    }

    /// Messages sealed, and those that could not be.
    pub fn seals(&self) -> (u64, u64) {
        (self.sealed.load(Relaxed), self.not_sealed.load(Relaxed))
    }

    /// How often each check ended how: `spf=pass` and the like.
    pub fn results(&self) -> Vec<(String, u64)> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.iter().map(|((method, word), count)| (format!("{method}={word}"), *count)).collect()
    }

    /// Messages verified.
    pub fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    /// Messages refused for good, and for now.
    pub fn refused(&self) -> (u64, u64) {
        (self.refused.load(Relaxed), self.deferred.load(Relaxed))
    }

    /// Seconds that verification took, DNS included.
    pub fn seconds(&self) -> f64 {
        self.micros.load(Relaxed) as f64 / 1e6
    }
}
