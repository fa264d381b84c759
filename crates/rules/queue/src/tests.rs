//! The queue against a model: a plain list, driven by the same random steps.

use super::*;
use std::collections::BTreeMap;

fn new(handle: u64, destination: DestinationKey, due: Option<Instant>, expires: Instant) -> NewEntry {
    NewEntry {
        handle,
        destination,
        first: 0,
        count: 1,
        attempts: 0,
        ambiguous: false,
        last_reply: 0,
        due,
        expires,
    }
}

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn first_come_first_served_within_a_destination() {
    let t = Instant::now();
    let mut queue = Queue::new(t);
    let d = queue.add_destination();
    for n in 0..5 {
        assert!(queue.push(t, new(n, d, None, t + DAY)).1);
    }
    let order: Vec<u64> = std::iter::from_fn(|| queue.take(d))
        .collect::<Vec<_>>()
        .iter()
        .map(|&k| queue.entry(k).handle)
        .collect();
    assert_eq!(order, [0, 1, 2, 3, 4]);
}

#[test]
fn an_attempt_that_never_began_goes_back_to_the_head() {
    let t = Instant::now();
    let mut queue = Queue::new(t);
    let d = queue.add_destination();
    queue.push(t, new(1, d, None, t + DAY));
    queue.push(t, new(2, d, None, t + DAY));
    let key = queue.take(d).unwrap();
    queue.untake(key);
    assert_eq!(queue.peek(d).unwrap().handle, 1);
}

#[test]
fn expiry_finds_an_entry_in_a_line_nobody_serves() {
    let t = Instant::now();
    let mut queue = Queue::new(t);
    let d = queue.add_destination();
    for n in 0..10_000 {
        queue.push(t, new(n, d, None, t + Duration::from_secs(3600)));
    }
    let mut expired = 0;
    let mut now = t + Duration::from_secs(3600);
    for _ in 0..600 {
        now += TICK;
        for key in queue.advance(now).expired {
            queue.settle(key);
            expired += 1;
        }
    }
    assert_eq!((expired, queue.len(), queue.recipients()), (10_000, 0, 0));
    assert!(queue.remove_destination(d));
}

#[test]
fn a_part_that_is_deferred_keeps_its_expiry_and_its_recipients() {
    let t = Instant::now();
    let mut queue = Queue::new(t);
    let d = queue.add_destination();
    let (key, _) = queue.push(t, NewEntry { count: 3, ..new(1, d, None, t + DAY) });
    assert!(queue.pull(key));
    let part = Part {
        first: 1,
        count: 1,
        attempts: 1,
        ambiguous: false,
        delay_reported: true,
        last_reply: 9,
        due: t + 10 * TICK,
    };
    let again = queue.defer(t, key, part);
    queue.settle(key);
    let view = queue.view(again);
    assert_eq!(
        (view.entry.first, view.entry.count, view.entry.attempts, view.entry.last_reply),
        (1, 1, 1, 9)
    );
    assert_eq!((queue.recipients(), queue.counts(d).waiting), (1, 1));
    assert_eq!(queue.advance(t + 10 * TICK).destinations, [d]);
}

/// Splitmix64: a seed replays.
struct Random(u64);
impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

#[test]
fn nothing_leaves_the_wheel_early_late_or_twice() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let t = Instant::now();
        let mut queue = Queue::new(t);
        let d = queue.add_destination();
        let mut model: BTreeMap<u64, u32> = BTreeMap::new();
        let (mut tick, mut next) = (0u32, 0u64);
        for _ in 0..400 {
            match random.next(3) {
                0 | 1 => {
                    let far = [1, 60, 64, 65, 4_096, 5_000, 262_144, 20_000_000][random.next(8) as usize];
                    let due = tick + 1 + random.next(far) as u32;
                    queue
                        .push(t + TICK * tick, new(next, d, Some(t + TICK * due), t + TICK * (u32::MAX / 2)));
                    model.insert(next, due);
                    next += 1;
                }
                _ => {
                    tick += [1, 3, 64, 5_000][random.next(4) as usize];
                    queue.advance(t + TICK * tick);
                    while let Some(key) = queue.take(d) {
                        let due = model.remove(&queue.entry(key).handle).expect("handed out once");
                        assert!(due <= tick, "seed {seed}: early");
                        queue.settle(key);
                    }
                    assert!(model.values().all(|&due| due > tick), "seed {seed}: late");
                }
            }
            if random.next(10) == 0 {
                let first = queue.slab.iter().next().map(|(key, _)| key);
                if let Some(key) = first {
                    assert!(queue.pull(key));
                    model.remove(&queue.entry(key).handle);
                    queue.settle(key);
                }
            }
        }
        assert_eq!(queue.len(), model.len());
    }
}
