//! Random traffic through a ledger, counted as the receiver counts.

#[path = "../random/mod.rs"]
mod random;

use random::Random;
use shaping::{Charge, Ledger, LedgerKey, MemoryLedger, Rate};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Windows with more than the limit, as the receivers saw them.
    pub over: u64,
    /// Sliding windows looked at.
    pub windows: u64,
    /// Of a run with enough to send and short delays: the share of the limit that was used.
    pub used: Option<f64>,
}

/// Nanoseconds of the simulated day.
type Nanos = u64;

/// One run: some limits, each message charged to a random few of them, with random delays between the grant, the
/// arrival at the receiver and its answer, some answers reported late with their age, some grants given back.
pub fn run(seed: u64) -> Outcome {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let hungry = seed.is_multiple_of(2);
    let keys = if hungry { 1 } else { 1 + random.below(4) as usize };
    let weighted = random.below(4) == 0;
    let start = Instant::now();
    let mut ledger = MemoryLedger::new();
    let limits: Vec<(LedgerKey, Rate)> = (0..keys)
        .map(|_| {
            let count = match random.below(4) {
                0 => 1 + random.below(5),
                1 => 1 + random.below(60),
                2 => 200 + random.below(120),
                _ => 100 + random.below(500),
            };
            let count = if weighted { count * 100 } else { count };
            let rate = Rate { count, period: Duration::from_secs(1 + random.below(3_600)) };
            (ledger.open(rate), rate)
        })
        .collect();
    let shortest = limits.iter().map(|(_, rate)| rate.period.as_nanos() as Nanos).min().unwrap_or(1);
    // A hungry sender's delay is part of what it cannot use, so it is kept to what a network has.
    let delay_max = if hungry { shortest / 400 } else { shortest / 4 };
    let end = shortest * if hungry { 6 } else { 4 };

    let mut arrivals: Vec<Vec<(Nanos, u64)>> = vec![Vec::new(); keys];
    // Answers under way: when they are reported, how old they are then, which charges, whether anything was sent.
    let mut answers: BinaryHeap<Reverse<(Nanos, usize)>> = BinaryHeap::new();
    let mut sent: Vec<(Nanos, Vec<Charge>, bool)> = Vec::new();
    let mut now: Nanos = 0;
    while now < end {
        let at = start + Duration::from_nanos(now);
        while let Some(Reverse((due, index))) = answers.peek().copied()
            && due <= now
        {
            answers.pop();
            let (age, charges, used) = &sent[index];
            if *used {
                ledger.spend(at, Duration::from_nanos(*age), charges);
            } else {
                ledger.give_back(charges);
            }
        }
        let mut wanted = if hungry { u64::MAX } else { random.below(12) };
        let mut next = end;
        while wanted > 0 {
            wanted -= 1;
            let mut charges: Vec<Charge> = limits
                .iter()
                .map(|(key, rate)| {
                    let amount = if weighted { (1 + random.below(200)).min(rate.count) } else { 1 };
                    Charge { key: *key, amount }
                })
                .collect();
            if keys > 1 && random.below(3) == 0 {
                charges.remove(random.below(keys as u64) as usize);
            }
            if let Err(index) = ledger.grant(at, &charges) {
                if let Some(room) = ledger.room_at(charges[index]) {
                    next = room.duration_since(start).as_nanos() as Nanos;
                }
                break;
            }
            let used = random.below(12) > 0;
            let arrival = now + random.below(delay_max);
            let answer = arrival + random.below(delay_max);
            // Reported at once, or later with its age.
            let reported = answer + if random.below(3) == 0 { random.below(delay_max) } else { 0 };
            if used {
                for charge in &charges {
                    let n = limits.iter().position(|(key, _)| *key == charge.key).unwrap_or_default();
                    arrivals[n].push((arrival, charge.amount));
                }
            }
            answers.push(Reverse((reported, sent.len())));
            sent.push((reported - answer, charges, used));
        }
        let answer = answers.peek().map_or(end, |Reverse((due, _))| *due);
        let step = if hungry { end } else { now + 1 + random.below(shortest / 20) };
        now = next.min(answer).min(step).max(now + 1);
    }

    let (mut over, mut windows) = (0, 0);
    for ((_, rate), arrivals) in limits.iter().zip(&mut arrivals) {
        arrivals.sort_unstable();
        let period = rate.period.as_nanos() as Nanos;
        let (mut from, mut sum) = (0, 0);
        for to in 0..arrivals.len() {
            sum += arrivals[to].1;
            while arrivals[to].0 - arrivals[from].0 >= period {
                sum -= arrivals[from].1;
                from += 1;
            }
            windows += 1;
            over += u64::from(sum > rate.count);
        }
    }
    // A hungry sender begins with a full window, which says nothing; what follows it is what counts.
    let used = hungry.then(|| {
        let (_, rate) = limits[0];
        let (Some((first, _)), Some((last, _))) = (arrivals[0].first(), arrivals[0].last()) else {
            return 0.0;
        };
        let later: u64 =
            arrivals[0].iter().filter(|(at, _)| at - first >= shortest).map(|(_, amount)| amount).sum();
        later as f64 / (rate.count as f64 * ((last - first) as f64 / shortest as f64))
    });
    // Of messages of many octets the last never fits quite, which is no fault of the window.
    Outcome { over, windows, used: used.filter(|_| !weighted) }
}
