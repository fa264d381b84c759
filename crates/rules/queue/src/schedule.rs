//! When a deferred recipient is tried again.

use std::time::Duration;

/// The retry schedule (RFC 5321 §4.5.4.1).
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// How the waits grow.
    pub backoff: Backoff,
    /// Part of each wait that is random, 0.0 to 1.0: a wait lies between `wait * (1 - jitter)` and `wait`, so
    /// that what was deferred together does not come back together.
    pub jitter: f64,
}

/// How waits grow from attempt to attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Backoff {
    /// One wait for each attempt; the last repeats. Never empty.
    List(Vec<Duration>),
    /// `first * factor^n`, at most `max`.
    Exponential {
        /// The wait after the first attempt.
        first: Duration,
        /// What each wait is multiplied by, 1.0 or more.
        factor: f64,
        /// The longest wait.
        max: Duration,
    },
}

impl Schedule {
    /// The wait after attempt number `attempts` (1 is the first). `random` is any number; it picks the place
    /// within the jitter.
    pub fn wait(&self, attempts: u16, random: u64) -> Duration {
        let n = attempts.saturating_sub(1);
        let whole = match &self.backoff {
            Backoff::List(waits) => {
                waits.get(usize::from(n)).or(waits.last()).copied().unwrap_or(Duration::from_secs(600))
            }
            Backoff::Exponential { first, factor, max } => {
                let grown = first.as_secs_f64() * factor.max(1.0).powi(i32::from(n));
                if grown.is_finite() && grown < max.as_secs_f64() {
                    Duration::from_secs_f64(grown)
                } else {
                    *max
                }
            }
        };
        let part = (random >> 11) as f64 / (1u64 << 53) as f64;
        whole.mul_f64(1.0 - self.jitter.clamp(0.0, 1.0) * part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_list_repeats_its_last_wait() {
        let schedule = Schedule { backoff: Backoff::List(vec![S, 5 * S]), jitter: 0.0 };
        assert_eq!([1, 2, 3, 400].map(|n| schedule.wait(n, 7)), [S, 5 * S, 5 * S, 5 * S]);
    }

    #[test]
    fn exponential_waits_stop_at_the_cap() {
        let schedule =
            Schedule { backoff: Backoff::Exponential { first: S, factor: 2.0, max: 60 * S }, jitter: 0.0 };
        assert_eq!([1, 2, 4, 7, u16::MAX].map(|n| schedule.wait(n, 0)), [S, 2 * S, 8 * S, 60 * S, 60 * S]);
    }

    #[test]
    fn jitter_only_shortens_and_stays_within_its_part() {
        let schedule = Schedule { backoff: Backoff::List(vec![100 * S]), jitter: 0.2 };
        for random in [0, u64::MAX / 3, u64::MAX] {
            let wait = schedule.wait(1, random);
            assert!(wait <= 100 * S && wait >= 80 * S, "{wait:?}");
        }
        assert_ne!(schedule.wait(1, 0), schedule.wait(1, u64::MAX));
    }
}
