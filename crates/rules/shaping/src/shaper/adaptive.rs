//! The rate a receiver tolerates, found from its recent share of deferrals: up by a share after a good window in
//! which mail waited for the rate, down by a factor as soon as enough attempts were deferred.

use std::time::Instant;

use crate::AdaptiveProfile;

/// Attempts that are enough to judge by.
const ENOUGH: u64 = 10;

/// The present rate, and what was seen since it was last judged.
#[derive(Clone, Debug)]
pub struct Adaptive {
    /// Messages in the window of the greatest rate.
    rate: f64,
    attempts: u64,
    deferred: u64,
    /// Mail waited for the rate: only then is going up worth anything.
    limited: bool,
    since: Instant,
    /// Reports until then are of what was sent at the old rate.
    settled: Instant,
}

impl Adaptive {
    /// Begins in the middle between the least and the greatest rate, by ratio, or where it was.
    pub fn new(now: Instant, profile: &AdaptiveProfile, rate: Option<f64>) -> Self {
        let (min, max) = (profile.min as f64, profile.max.count as f64);
        let rate = rate.filter(|rate| rate.is_finite()).unwrap_or_else(|| (min * max).sqrt());
        Self {
            rate: rate.clamp(min, max),
            attempts: 0,
            deferred: 0,
            limited: false,
            since: now,
            settled: now,
        }
    }

    /// Messages in the window that are allowed at present.
    pub fn limit(&self) -> u64 {
        (self.rate as u64).max(1)
    }

    /// The rate, with its fraction, for the next start.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Mail waited for it.
    pub fn was_limiting(&mut self) {
        self.limited = true;
    }

    /// Attempts and their outcome; true if the limit is another one now.
    pub fn report(&mut self, now: Instant, profile: &AdaptiveProfile, attempts: u64, deferred: u64) -> bool {
        if now < self.settled {
            return false;
        }
        self.attempts += attempts;
        self.deferred += deferred;
        // One greylisted message in a quiet hour says nothing.
        if self.attempts < ENOUGH {
            return false;
        }
        let before = self.limit();
        if self.deferred as f64 > profile.deferrals_max * self.attempts as f64 {
            self.rate = (self.rate * profile.decrease).max(profile.min as f64);
            self.begin(now);
            self.settled = now + profile.window / 4;
        } else if self.since + profile.window <= now {
            if self.limited {
                let more = (self.rate * profile.increase).max(1.0);
                self.rate = (self.rate + more).min(profile.max.count as f64);
            }
            self.begin(now);
        }
        self.limit() != before
    }

    fn begin(&mut self, now: Instant) {
        (self.attempts, self.deferred, self.limited) = (0, 0, false);
        (self.since, self.settled) = (now, now);
    }
}
