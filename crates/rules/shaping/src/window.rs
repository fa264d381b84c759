//! One sliding window, exact on the side of the receiver.

use crate::Rate;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The window's past is kept in this many slots; a spend counts until its whole slot has left the window, so a
/// slot's width, under one percent of the window, is what is given away.
const SLOTS: u32 = 128;

/// Spends of the trailing window, and grants that are not spent yet.
#[derive(Clone, Debug)]
pub struct Window {
    rate: Rate,
    width: Duration,
    /// (end of the slot, spends in it), oldest first; at most `SLOTS + 1`.
    slots: VecDeque<(Instant, u64)>,
    spent: u64,
    outstanding: u64,
}

impl Window {
    /// An empty window.
    pub fn new(rate: Rate) -> Self {
        Self { rate, width: rate.period / SLOTS, slots: VecDeque::new(), spent: 0, outstanding: 0 }
    }

    /// The limit it keeps.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    fn forget(&mut self, now: Instant) {
        while let Some(&(end, count)) = self.slots.front()
            && end + self.rate.period <= now
        {
            self.spent -= count;
            self.slots.pop_front();
        }
    }

    /// How many may be granted now.
    pub fn room(&mut self, now: Instant) -> u64 {
        self.forget(now);
        self.rate.count.saturating_sub(self.spent + self.outstanding)
    }

    /// Grants `count`, which must be within [`Window::room`].
    pub fn grant(&mut self, count: u64) {
        self.outstanding += count;
    }

    /// A grant was spent; `now` is when the receiver's answer came, or when it is certain that it saw nothing
    /// any more.
    pub fn spend(&mut self, now: Instant) {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.spent += 1;
        match self.slots.back_mut() {
            // Joining a slot whose end lies ahead dates the spend later, never earlier.
            Some((end, count)) if *end >= now => *count += 1,
            _ => self.slots.push_back((now + self.width, 1)),
        }
    }

    /// A grant was given back unused.
    pub fn give_back(&mut self) {
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// When there may be room again, if there is none now; `None` if only grants that are out can make room.
    pub fn room_at(&self) -> Option<Instant> {
        self.slots.front().map(|(end, _)| *end + self.rate.period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Random(u64);
    impl Random {
        fn next(&mut self, below: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % below
        }
    }

    /// Sends with random delays between grant, arrival at the receiver, and its answer.
    fn drive(seed: u64, rate: Rate, hungry: bool) -> (u64, f64) {
        let mut random = Random(seed);
        let start = Instant::now();
        let mut window = Window::new(rate);
        let step = rate.period / 1_000;
        let mut arrivals: Vec<u32> = Vec::new();
        let mut out: Vec<(u32, bool)> = Vec::new();
        let steps = 8_000u32;
        for tick in 0..steps {
            let now = start + step * tick;
            out.retain(|&(at, used)| {
                if at > tick {
                    return true;
                }
                if used {
                    window.spend(now)
                } else {
                    window.give_back()
                }
                false
            });
            let wanted = if hungry { u64::MAX } else { random.next(rate.count / 20 + 2) };
            let granted = window.room(now).min(wanted);
            window.grant(granted);
            for _ in 0..granted {
                let used = random.next(10) > 0;
                let arrival = tick + random.next(5) as u32;
                if used {
                    arrivals.push(arrival);
                }
                out.push((arrival + random.next(5) as u32, used));
            }
        }
        arrivals.sort_unstable();
        let mut most = 0;
        let mut from = 0;
        for to in 0..arrivals.len() {
            while arrivals[to] - arrivals[from] >= 1_000 {
                from += 1;
            }
            most = most.max((to - from + 1) as u64);
        }
        (most, arrivals.len() as f64 / (rate.count as f64 * f64::from(steps) / 1_000.0))
    }

    #[test]
    fn no_sliding_window_at_the_receiver_holds_more_than_the_limit() {
        for seed in 0..300 {
            let rate = Rate { count: 1 + seed * 7 % 500, period: Duration::from_secs(1 + seed % 60) };
            let (most, _) = drive(seed, rate, seed % 2 == 0);
            assert!(most <= rate.count, "seed {seed}: {most} of {}", rate.count);
        }
    }

    #[test]
    fn a_hungry_sender_uses_nearly_all_of_it() {
        let (most, used) = drive(1, Rate { count: 400, period: Duration::from_secs(10) }, true);
        assert!(most <= 400 && used > 0.95, "{most} {used}");
    }
}
