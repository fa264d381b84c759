//! A log-linear histogram: constant memory, one addition per value, percentiles good to 0.8 %.

use std::time::Duration;

/// Values below `1 << LINEAR_BITS` have a bucket each; above, every power of two has half as many.
const LINEAR_BITS: u32 = 8;
const HALF: usize = 1 << (LINEAR_BITS - 1);
/// Larger values (12 days in microseconds) fall into the last bucket.
const LARGEST_BITS: u32 = 40;
const BUCKETS: usize = (LARGEST_BITS - LINEAR_BITS + 2) as usize * HALF;

/// Counts of durations in microseconds, by magnitude.
#[derive(Clone)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    sum_us: u64,
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS].into_boxed_slice(), count: 0, sum_us: 0, max_us: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record_us(&mut self, value: u64) {
        self.buckets[bucket(value)] += 1;
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(value);
        self.max_us = self.max_us.max(value);
    }

    /// Adds everything another histogram has seen.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        self.max_us = self.max_us.max(other.max_us);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The value below which `share` (0 to 1) of all values lie, in microseconds; 0 when empty.
    pub fn quantile_us(&self, share: f64) -> u64 {
        let rank = ((share * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_edge(index).min(self.max_us);
            }
        }
        self.max_us
    }

    /// The usual four figures and the mean.
    pub fn percentiles(&self) -> Percentiles {
        Percentiles {
            mean: Duration::from_micros(self.sum_us.checked_div(self.count).unwrap_or(0)),
            p50: Duration::from_micros(self.quantile_us(0.50)),
            p95: Duration::from_micros(self.quantile_us(0.95)),
            p99: Duration::from_micros(self.quantile_us(0.99)),
            max: Duration::from_micros(self.max_us),
        }
    }
}

fn bucket(value: u64) -> usize {
    let value = value.min((1 << LARGEST_BITS) - 1);
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(LINEAR_BITS);
    shift as usize * HALF + (value >> shift) as usize
}

fn upper_edge(index: usize) -> u64 {
    if index < 2 * HALF {
        return index as u64;
    }
    let shift = index / HALF - 1;
    let mantissa = (index - shift * HALF) as u64;
    ((mantissa + 1) << shift) - 1
}

/// What a latency distribution is usually quoted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// The arithmetic mean.
    pub mean: Duration,
    /// Half of all values are at most this.
    pub p50: Duration,
    /// 95 of 100 values are at most this.
    pub p95: Duration,
    /// 99 of 100 values are at most this.
    pub p99: Duration,
    /// The largest value.
    pub max: Duration,
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let (p50, p95, p99, max) = (ms(self.p50), ms(self.p95), ms(self.p99), ms(self.max));
        write!(f, "p50 {p50:.2} ms, p95 {p95:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_whose_edge_is_within_one_percent() {
        let mut value = 0u64;
        while value < 1 << LARGEST_BITS {
            let edge = upper_edge(bucket(value));
            assert!(edge >= value, "{value} is above its bucket's edge {edge}");
            assert!(edge as f64 <= value as f64 * 1.008 + 1.0, "{value} has the far edge {edge}");
            value = value + 1 + value / 1000;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_a_straight_line() {
        let mut all = Histogram::default();
        let mut half = Histogram::default();
        for value in 1..=1000 {
            if value % 2 == 0 { &mut all } else { &mut half }.record_us(value);
        }
        all.merge(&half);
        assert_eq!(all.count(), 1000);
        assert_eq!(all.percentiles().max.as_micros(), 1000);
        let p99 = all.quantile_us(0.99);
        assert!((990..=998).contains(&p99), "{p99}");
        assert_eq!(Histogram::default().percentiles(), Percentiles::default());
    }
}
