//! One sliding window, exact on the side of the receiver.

use crate::Rate;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A limit up to this count keeps the time of each spend; at 24 octets each, that is six kilobytes.
const EXACT_MAX: u64 = 256;

/// The past of a window of a larger limit is kept in this many slots; a spend counts until its whole slot has left
/// the window, so a slot's width, 0.4% of the window, is the most that is given away.
const SLOTS: u32 = 256;

/// Entries kept at most, whatever is restored or set: further spends join the last one.
const ENTRIES_MAX: usize = 2 * SLOTS as usize;

/// Spends of the trailing window, and grants that are not spent yet.
#[derive(Clone, Debug)]
pub struct Window {
    rate: Rate,
    limit: u64,
    /// How much later than it was a spend may be dated; zero keeps each at its own time.
    width: Duration,
    /// (when it leaves the window, how much), soonest first; at most `ENTRIES_MAX`.
    spends: VecDeque<(Instant, u64)>,
    spent: u64,
    outstanding: u64,
}

impl Window {
    /// An empty window.
    pub fn new(rate: Rate) -> Self {
        let width = if rate.count <= EXACT_MAX { Duration::ZERO } else { rate.period / SLOTS };
        Self { rate, limit: rate.count, width, spends: VecDeque::new(), spent: 0, outstanding: 0 }
    }

    /// The rate it was made for.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// The limit it keeps: the rate's count, or a smaller one that was set.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Another limit, up to the rate's count. What is spent or out already may be above it for a while.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit.clamp(1, self.rate.count);
    }

    fn forget(&mut self, now: Instant) {
        while let Some(&(leaves, amount)) = self.spends.front()
            && leaves <= now
        {
            self.spent = self.spent.saturating_sub(amount);
            self.spends.pop_front();
        }
    }

    /// What was spent in the trailing window or is out.
    pub fn used(&mut self, now: Instant) -> u64 {
        self.forget(now);
        self.spent.saturating_add(self.outstanding)
    }

    /// How much may be granted now.
    pub fn room(&mut self, now: Instant) -> u64 {
        self.limit.saturating_sub(self.used(now))
    }

    /// True if so much may be granted now. More than the whole limit may be when nothing else is in the window,
    /// or a message that is larger than the limit would never leave.
    pub fn fits(&mut self, now: Instant, amount: u64) -> bool {
        let used = self.used(now);
        used == 0 || used.saturating_add(amount) <= self.limit
    }

    /// Grants what [`Window::fits`].
    pub fn grant(&mut self, amount: u64) {
        self.outstanding = self.outstanding.saturating_add(amount);
    }

    /// What was granted was spent, `age` ago: when the receiver's answer came, or when it was certain that it saw
    /// nothing any more.
    pub fn spend(&mut self, now: Instant, age: Duration, amount: u64) {
        self.outstanding = self.outstanding.saturating_sub(amount);
        self.record(now, self.rate.period.saturating_sub(age), amount);
    }

    /// Adds what counts for so long yet.
    fn record(&mut self, now: Instant, left: Duration, amount: u64) {
        if amount == 0 || left.is_zero() {
            return;
        }
        let leaves = now + left;
        // Mostly a spend is the latest, and goes after the last entry or into it.
        let len = self.spends.len();
        let earlier = |index: usize| self.spends.get(index).is_none_or(|(known, _)| *known < leaves);
        let at = if len == 0 || earlier(len - 1) {
            len
        } else if len == 1 || earlier(len - 2) {
            len - 1
        } else {
            self.spends.partition_point(|(known, _)| *known < leaves)
        };
        let full = self.spends.len() >= ENTRIES_MAX;
        match self.spends.get_mut(at) {
            // Joining an entry dates the spend later, never earlier.
            Some((known, sum)) if full || *known - leaves <= self.width => {
                *sum = sum.saturating_add(amount);
            }
            None if full => {
                if let Some((known, sum)) = self.spends.back_mut() {
                    (*known, *sum) = (leaves, sum.saturating_add(amount));
                }
            }
            _ => self.spends.insert(at, (leaves + self.width, amount)),
        }
        // What a file holds may be anything; a sum at its end stays there.
        self.spent = self.spent.saturating_add(amount);
    }

    /// What was granted was given back unused.
    pub fn give_back(&mut self, amount: u64) {
        self.outstanding = self.outstanding.saturating_sub(amount);
    }

    /// When there will be room for so much, if nothing more is granted; `None` if only grants that are out can
    /// make room.
    pub fn room_at(&self, amount: u64) -> Option<Instant> {
        let mut used = self.spent.saturating_add(self.outstanding);
        for (leaves, sum) in &self.spends {
            used = used.saturating_sub(*sum);
            if used == 0 || used.saturating_add(amount) <= self.limit {
                return Some(*leaves);
            }
        }
        None
    }

    /// True if it knows nothing that a new one would not.
    pub fn is_idle(&mut self, now: Instant) -> bool {
        self.used(now) == 0
    }

    /// What is out and not yet spent.
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// For how long each spend counts yet, and how much it is, soonest first. What is out counts as spent now.
    pub fn history(&self, now: Instant) -> Vec<(Duration, u64)> {
        let left = |(leaves, amount): &(Instant, u64)| {
            let left = leaves.saturating_duration_since(now);
            (!left.is_zero()).then_some((left, *amount))
        };
        let mut history: Vec<_> = self.spends.iter().filter_map(left).collect();
        if self.outstanding > 0 {
            history.push((self.rate.period, self.outstanding));
        }
        history
    }

    /// Adds a history that was saved. Nothing counts longer than the window.
    pub fn restore(&mut self, now: Instant, history: &[(Duration, u64)]) {
        for (left, amount) in history {
            self.record(now, (*left).min(self.rate.period), *amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_small_limit_is_exact_to_the_moment() {
        let start = Instant::now();
        let mut window = Window::new(rate("2/10s"));
        for n in 0..2 {
            assert!(window.fits(start + SECOND * n, 1));
            window.grant(1);
            window.spend(start + SECOND * n, Duration::ZERO, 1);
        }
        assert!(!window.fits(start + SECOND * 9, 1));
        assert_eq!(window.room_at(1), Some(start + SECOND * 10));
        assert_eq!(window.room_at(2), Some(start + SECOND * 11));
        assert!(window.fits(start + SECOND * 10, 1));
        assert!(window.is_idle(start + SECOND * 11));
    }

    #[test]
    fn an_old_spend_counts_from_when_it_was() {
        let now = Instant::now();
        let mut window = Window::new(rate("2/10s"));
        window.grant(2);
        window.spend(now, Duration::ZERO, 1);
        window.spend(now, SECOND * 4, 1);
        assert_eq!(window.room_at(1), Some(now + SECOND * 6));
        window.grant(1);
        window.spend(now, SECOND * 10, 1);
        assert_eq!(window.used(now), 2);
    }

    #[test]
    fn what_exceeds_the_limit_goes_alone() {
        let now = Instant::now();
        let mut window = Window::new(rate("1000/m"));
        assert!(window.fits(now, 5_000));
        window.grant(5_000);
        assert!(!window.fits(now, 1));
        window.spend(now, Duration::ZERO, 5_000);
        assert!(window.room_at(1).is_some_and(|at| at > now + SECOND * 59 && at < now + SECOND * 61));
    }

    #[test]
    fn a_lowered_limit_holds_and_a_raised_one_ends_at_the_rate() {
        let now = Instant::now();
        let mut window = Window::new(rate("100/m"));
        window.set_limit(10);
        window.grant(10);
        assert!(!window.fits(now, 1));
        window.set_limit(1_000);
        assert_eq!(window.room(now), 90);
    }

    #[test]
    fn a_saved_history_holds_as_long_as_the_window_did() {
        let start = Instant::now();
        let mut window = Window::new(rate("5000/h"));
        for n in 0..3_000 {
            window.grant(1);
            window.spend(start + SECOND * n / 2, Duration::ZERO, 1);
        }
        window.grant(7);
        let saved_at = start + SECOND * 1_500;
        let history = window.history(saved_at);
        assert!(history.len() <= SLOTS as usize);
        let mut restored = Window::new(rate("5000/h"));
        restored.restore(saved_at, &history);
        assert_eq!(restored.used(saved_at), window.used(saved_at));
        window.spend(saved_at, Duration::ZERO, 7);
        for minute in 0..=60 {
            let at = saved_at + SECOND * 60 * minute;
            assert!(restored.used(at) >= window.used(at), "minute {minute}");
        }
        assert!(restored.is_idle(saved_at + SECOND * 3_620));
    }

    #[test]
    fn memory_is_bounded_whatever_is_restored() {
        let now = Instant::now();
        let mut window = Window::new(rate("256/h"));
        let history: Vec<_> = (1..5_000).map(|n| (Duration::from_millis(n), 1)).collect();
        window.restore(now, &history);
        assert!(window.spends.len() <= ENTRIES_MAX);
        assert_eq!(window.used(now), 4_999);
    }
}
