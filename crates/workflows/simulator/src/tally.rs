//! What is counted while it runs: outcomes, times, replies, and what mail waited for.

use crate::counter::Nanos;
use crate::replies::Refusal;
use crate::world::DAY_MS;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Buckets of a series; when they are used up, two become one and each stands for twice the time.
const BUCKETS: usize = 1_024;

/// Counts over time.
#[derive(Clone, Debug)]
pub struct Series {
    width: Nanos,
    counts: Vec<u64>,
}

impl Default for Series {
    /// Buckets of a second, to begin with.
    fn default() -> Self {
        Self { width: 1_000_000_000, counts: Vec::new() }
    }
}

impl Series {
    /// Something happened so often.
    pub fn count(&mut self, at: Nanos, amount: u64) {
        let mut bucket = (at / self.width) as usize;
        while bucket >= BUCKETS {
            self.counts = self.counts.chunks(2).map(|pair| pair.iter().sum()).collect();
            self.width *= 2;
            bucket = (at / self.width) as usize;
        }
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += amount;
    }

    /// The length of a bucket, and the count in each.
    pub fn buckets(&self) -> (Nanos, &[u64]) {
        (self.width, &self.counts)
    }

    /// The most in a bucket, for a second.
    pub fn peak_per_second(&self) -> f64 {
        let most = self.counts.iter().copied().max().unwrap_or(0);
        most as f64 * 1e9 / self.width as f64
    }
}

/// Parts of an octave that [`Waits`] tells apart: its percentiles are exact to a sixteenth.
const STEPS: u32 = 16;

/// Waits, by their logarithm.
#[derive(Clone, Debug)]
pub struct Waits {
    counts: Vec<u64>,
    total: u64,
    longest: Nanos,
}

impl Default for Waits {
    fn default() -> Self {
        Self { counts: vec![0; 64 * STEPS as usize], total: 0, longest: 0 }
    }
}

impl Waits {
    /// One wait.
    pub fn count(&mut self, wait: Nanos) {
        let value = wait.max(1);
        let octave = 63 - value.leading_zeros();
        let within = ((u128::from(value) * u128::from(STEPS)) >> octave) as u32 - STEPS;
        self.counts[(octave * STEPS + within) as usize] += 1;
        self.total += 1;
        self.longest = self.longest.max(wait);
    }

    /// The wait that so large a share of them does not exceed, 0 to 1.
    pub fn percentile(&self, share: f64) -> Nanos {
        let wanted = (self.total as f64 * share).ceil() as u64;
        let mut sum = 0;
        for (at, count) in (0u32..).zip(&self.counts) {
            sum += count;
            if sum >= wanted && *count > 0 {
                let (octave, within) = (at / STEPS, at % STEPS);
                let above = (u128::from(within + 1 + STEPS) << octave) / u128::from(STEPS);
                return u64::try_from(above).unwrap_or(u64::MAX).min(self.longest);
            }
        }
        self.longest
    }

    /// How many there were.
    pub fn len(&self) -> u64 {
        self.total
    }

    /// True if there were none.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The longest.
    pub fn longest(&self) -> Nanos {
        self.longest
    }
}

/// How far a set of messages is: when 50, 90, 99 and 100 % were settled.
#[derive(Clone, Debug, Default)]
pub struct Through {
    total: u64,
    settled: u64,
    marks: [Option<Nanos>; 4],
}

impl Through {
    /// The shares, in percent.
    pub const PERCENT: [u64; 4] = [50, 90, 99, 100];

    /// So many messages belong to it.
    pub fn expect(&mut self, more: u64) {
        self.total += more;
    }

    /// One more is settled.
    pub fn settled(&mut self, at: Nanos) {
        self.settled += 1;
        for (mark, percent) in self.marks.iter_mut().zip(Self::PERCENT) {
            if mark.is_none() && self.settled * 100 >= self.total * percent {
                *mark = Some(at);
            }
        }
    }

    /// How many messages belong to it.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many are settled.
    pub fn so_far(&self) -> u64 {
        self.settled
    }

    /// When each share was settled.
    pub fn marks(&self) -> [Option<Nanos>; 4] {
        self.marks
    }
}

/// Final outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Delivered.
    pub delivered: u64,
    /// Refused for good.
    pub bounced: u64,
    /// Given up after their time.
    pub expired: u64,
}

impl Outcomes {
    /// Settled in all.
    pub fn sum(&self) -> u64 {
        self.delivered + self.bounced + self.expired
    }
}

/// A final outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Delivered.
    Delivered,
    /// Refused for good.
    Bounced,
    /// Given up after its time.
    Expired,
}

impl Outcomes {
    /// One more.
    pub fn count(&mut self, fate: Fate) {
        match fate {
            Fate::Delivered => self.delivered += 1,
            Fate::Bounced => self.bounced += 1,
            Fate::Expired => self.expired += 1,
        }
    }
}

/// What one source delivered to receivers of one kind.
#[derive(Clone, Debug, Default)]
pub struct BySource {
    /// Messages.
    pub delivered: u64,
    /// Of these, messages of pools that the source is not in: what a warm-up left to it, or a rule moved.
    pub for_others: u64,
    /// By day of UTC, from the day of the beginning.
    pub by_day: Vec<u64>,
}

/// What is counted for one kind of receiver.
#[derive(Clone, Debug, Default)]
pub struct KindTally {
    /// How far its mail is.
    pub through: Through,
    /// What became of it.
    pub outcomes: Outcomes,
    /// Attempts.
    pub attempts: u64,
    /// Attempts and connections refused, by reason.
    pub refused: BTreeMap<Refusal, u64>,
    /// Reply rules that matched, by name.
    pub rules: BTreeMap<Arc<str>, u64>,
    /// Deliveries over time.
    pub delivered: Series,
    /// Refusals over time.
    pub deferred: Series,
    /// By source.
    pub sources: BTreeMap<u16, BySource>,
}

impl KindTally {
    /// A message was delivered by a source.
    pub fn delivered_by(&mut self, source: u16, own: bool, wall_ms: u64, first_day: u64) {
        let by = self.sources.entry(source).or_default();
        by.delivered += 1;
        by.for_others += u64::from(!own);
        let day = (wall_ms / DAY_MS).saturating_sub(first_day) as usize;
        // A simulation lasts at most 400 days; a clock that jumped by years is not followed.
        if day < 1_000 {
            if by.by_day.len() <= day {
                by.by_day.resize(day + 1, 0);
            }
            by.by_day[day] += 1;
        }
    }
}

/// What is counted for one campaign.
#[derive(Clone, Debug, Default)]
pub struct CampaignTally {
    /// How far it is.
    pub through: Through,
    /// What became of it.
    pub outcomes: Outcomes,
    /// From being handed in to being delivered.
    pub waits: Waits,
    /// Settled over time.
    pub settled: Series,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_grows_by_doubling_its_buckets() {
        let mut series = Series::default();
        for second in 0..5_000u64 {
            series.count(second * 1_000_000_000, 2);
        }
        let (width, counts) = series.buckets();
        assert_eq!(width, 8_000_000_000);
        assert_eq!(counts.iter().sum::<u64>(), 10_000);
        assert_eq!(series.peak_per_second(), 2.0);
    }

    #[test]
    fn percentiles_of_waits_are_near() {
        let mut waits = Waits::default();
        (1..=10_000u64).for_each(|ms| waits.count(ms * 1_000_000));
        for (share, ms) in [(0.5, 5_000.0), (0.99, 9_900.0), (1.0, 10_000.0)] {
            let found = waits.percentile(share) as f64 / 1e6;
            assert!((found / ms - 1.0).abs() < 0.07, "{share}: {found} ms");
        }
        assert_eq!(waits.longest(), 10_000_000_000);
    }

    #[test]
    fn shares_are_marked_when_they_are_reached() {
        let mut through = Through::default();
        through.expect(10);
        (1..=9).for_each(|at| through.settled(at));
        assert_eq!(through.marks(), [Some(5), Some(9), None, None]);
        through.settled(20);
        assert_eq!(through.marks(), [Some(5), Some(9), Some(20), Some(20)]);
    }
}
