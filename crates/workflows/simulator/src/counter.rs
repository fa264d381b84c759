//! Exact counting in sliding windows, as receivers count; shares no code with the windows it checks.

use shaping::Rate;
use std::collections::VecDeque;

/// Nanoseconds since the simulation began.
pub type Nanos = u64;

/// One window: what was seen in the trailing period, each with its time. Holds as many entries as were seen in one
/// period.
#[derive(Clone, Debug)]
pub struct Counter {
    /// The rate.
    pub rate: Rate,
    period: Nanos,
    seen: VecDeque<(Nanos, u64)>,
    sum: u64,
}

impl Counter {
    /// An empty one.
    pub fn new(rate: Rate) -> Self {
        let period = u64::try_from(rate.period.as_nanos()).unwrap_or(u64::MAX);
        Self { rate, period, seen: VecDeque::new(), sum: 0 }
    }

    fn forget(&mut self, now: Nanos) {
        while let Some(&(at, amount)) = self.seen.front()
            && now - at >= self.period
        {
            self.sum -= amount;
            self.seen.pop_front();
        }
    }

    /// True if so much more now keeps to the rate. What is larger than the whole rate does when it is alone, or it
    /// would never be sent.
    pub fn fits(&mut self, now: Nanos, amount: u64) -> bool {
        self.forget(now);
        self.sum == 0 || self.sum + amount <= self.rate.count
    }

    /// So much was seen.
    pub fn count(&mut self, now: Nanos, amount: u64) {
        self.forget(now);
        self.seen.push_back((now, amount));
        self.sum += amount;
    }

    /// Counts, and tells whether it kept to the rate.
    pub fn check(&mut self, now: Nanos, amount: u64) -> bool {
        let fits = self.fits(now, amount);
        self.count(now, amount);
        fits
    }

    /// What was seen in the trailing period.
    pub fn seen(&mut self, now: Nanos) -> u64 {
        self.forget(now);
        self.sum
    }
}

/// Counts in all of these; true if every one kept to its rate.
pub fn check_all(counters: &mut [Counter], now: Nanos, amount: u64) -> bool {
    // Each must count, whatever another one found.
    let over = counters.iter_mut().filter_map(|counter| (!counter.check(now, amount)).then_some(())).count();
    over == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_slides_and_is_open_at_its_old_end() {
        let mut counter = Counter::new("2/s".parse().unwrap());
        let second = 1_000_000_000;
        assert!(counter.check(0, 1) && counter.check(second - 1, 1));
        assert!(!counter.fits(second - 1, 1), "two in less than a second");
        assert!(counter.check(second, 1), "the first is a whole second old");
        assert!(!counter.check(second + 1, 1), "a third within a second");
        assert_eq!(counter.seen(second + 1), 3);
    }

    #[test]
    fn one_that_is_larger_than_the_rate_is_seen_alone() {
        let mut counter = Counter::new("100/s".parse().unwrap());
        assert!(counter.check(0, 1_000));
        assert!(!counter.check(1, 1));
    }
}
