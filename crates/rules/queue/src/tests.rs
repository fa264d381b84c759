//! The queue against models: plain lists, driven by the same random steps.

use super::*;
use std::collections::BTreeMap;

const DAY: Duration = Duration::from_secs(86_400);

fn new(handle: u64, line: LineKey, due: Option<Instant>) -> NewEntry {
    NewEntry { due, ..NewEntry::new(handle, line) }
}

/// A line alone in its group.
fn alone(queue: &mut Queue) -> (LineKey, GroupKey) {
    let (line, group) = (queue.add_line(DAY), queue.add_group());
    queue.set_rank(line, Some(Rank { group, tenant: 0, weight: 1, class: 1 }));
    (line, group)
}

fn handles(queue: &mut Queue, group: GroupKey, count: usize) -> Vec<u64> {
    (0..count)
        .map_while(|_| {
            let line = queue.next(group)?;
            let key = queue.take(line)?;
            Some(queue.entry(key).handle)
        })
        .collect()
}

#[test]
fn first_come_first_served_within_a_line() {
    let t = Instant::now();
    let mut queue = Queue::new(t);
    let (line, group) = alone(&mut queue);
    for n in 0..5 {
        assert!(queue.push(t, new(n, line, None)).1);
    }
    assert_eq!(handles(&mut queue, group, 9), [0, 1, 2, 3, 4]);
}

#[test]
fn an_attempt_that_never_began_goes_back_to_the_head() {
    let t = Instant::now();
    let mut queue = Queue::new(t);
    let (line, group) = alone(&mut queue);
    queue.push(t, new(1, line, None));
    queue.push(t, new(2, line, None));
    let key = queue.take(line).unwrap();
    queue.untake(key);
    assert_eq!(queue.peek(line).unwrap().handle, 1);
    let key = queue.take(line).unwrap();
    queue.postpone(t, key, t + 5 * TICK);
    assert_eq!(handles(&mut queue, group, 9), [2]);
    assert_eq!(queue.advance(t + 5 * TICK).lines, [line]);
    assert_eq!(handles(&mut queue, group, 9), [1]);
}

#[test]
fn expiry_finds_an_entry_in_a_line_nobody_serves() {
    let t = Instant::now();
    let mut queue = Queue::new(t);
    let line = queue.add_line(Duration::from_secs(3600));
    for n in 0..10_000 {
        queue.push(t, new(n, line, None));
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
    assert!(queue.remove_line(line));
}

#[test]
fn age_counts_and_a_line_may_stop_it() {
    let t = Instant::now();
    let mut queue = Queue::new(t);
    let (line, _) = alone(&mut queue);
    let old = NewEntry { age: DAY * 3, kept_until: Some(t + 20 * TICK), ..new(1, line, None) };
    let (key, _) = queue.push(t, old);
    let minute = |queue: &mut Queue, from: u32| {
        (from..from + 600).flat_map(|n| queue.advance(t + TICK * n).expired).collect::<Vec<_>>()
    };
    assert_eq!(queue.view(key).expires, t + 20 * TICK, "it gets one more chance");
    queue.set_timeless(line, true);
    assert_eq!(minute(&mut queue, 30), []);
    queue.set_timeless(line, false);
    assert_eq!(minute(&mut queue, 700), [key]);
    queue.settle(key);
    let (key, _) = queue.push(t, NewEntry { age: DAY / 2, ..new(2, line, None) });
    assert_eq!(queue.view(key).expires, t + DAY / 2);
    queue.set_expire_after(line, DAY * 2);
    assert_eq!(queue.view(key).expires, t + DAY * 3 / 2, "a rule that came to be known later holds as well");
}

#[test]
fn a_part_that_is_deferred_keeps_its_age_and_its_recipients() {
    let t = Instant::now();
    let mut queue = Queue::new(t);
    let (line, _) = alone(&mut queue);
    let (key, _) = queue.push(t, NewEntry { count: 3, age: DAY / 4, ..new(1, line, None) });
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
    assert_eq!(view.expires, t + DAY * 3 / 4);
    assert_eq!((queue.recipients(), queue.counts(line).waiting), (1, 1));
    assert_eq!(queue.advance(t + 10 * TICK).lines, [line]);
}

#[test]
fn a_large_entry_is_split_and_the_rest_goes_next() {
    let t = Instant::now();
    let mut queue = Queue::new(t);
    let (line, _) = alone(&mut queue);
    queue.push(t, NewEntry { count: 5, ..new(1, line, None) });
    queue.push(t, new(2, line, None));
    let mut taken = Vec::new();
    while let Some(key) = queue.take(line) {
        queue.split(key, 2);
        let entry = *queue.entry(key);
        taken.push((entry.handle, entry.first, entry.count));
        queue.settle(key);
    }
    assert_eq!(taken, [(1, 0, 2), (1, 2, 2), (1, 4, 1), (2, 0, 1)]);
    assert_eq!((queue.recipients(), queue.len()), (0, 0));
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
        let line = queue.add_line(TICK * (u32::MAX / 2));
        let mut model: BTreeMap<u64, u32> = BTreeMap::new();
        let (mut tick, mut next) = (0u32, 0u64);
        for _ in 0..400 {
            match random.next(3) {
                0 | 1 => {
                    let far = [1, 60, 64, 65, 4_096, 5_000, 262_144, 20_000_000][random.next(8) as usize];
                    let due = tick + 1 + random.next(far) as u32;
                    queue.push(t + TICK * tick, new(next, line, Some(t + TICK * due)));
                    model.insert(next, due);
                    next += 1;
                }
                _ => {
                    tick += [1, 3, 64, 5_000][random.next(4) as usize];
                    queue.advance(t + TICK * tick);
                    while let Some(key) = queue.take(line) {
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

/// Lines of several tenants in one group, each with so many entries.
fn crowd(queue: &mut Queue, t: Instant, lines: &[(u32, u32, u8, u64)]) -> (GroupKey, Vec<LineKey>) {
    let group = queue.add_group();
    let keys = lines.iter().map(|&(tenant, weight, class, count)| {
        let line = queue.add_line(DAY);
        queue.set_rank(line, Some(Rank { group, tenant, weight, class }));
        for n in 0..count {
            queue.push(t, new(n, line, None));
        }
        line
    });
    let keys = keys.collect();
    (group, keys)
}

/// The lines that get the next turns, by their place in `keys`.
fn turns(queue: &mut Queue, group: GroupKey, keys: &[LineKey], count: usize) -> Vec<usize> {
    (0..count)
        .map_while(|_| {
            let line = queue.next(group)?;
            queue.take(line)?;
            keys.iter().position(|&key| key == line)
        })
        .collect()
}

#[test]
fn a_tenant_with_one_message_gets_the_next_turn_but_one() {
    let t = Instant::now();
    let mut queue = Queue::new(t);
    let (group, keys) = crowd(&mut queue, t, &[(1, 1, 1, 1_000), (1, 1, 1, 1_000), (2, 1, 1, 0)]);
    turns(&mut queue, group, &keys, 10);
    queue.push(t, new(7, keys[2], None));
    assert!(turns(&mut queue, group, &keys, 2).contains(&2));
}

#[test]
fn turns_follow_weights_between_tenants_and_are_even_between_the_lines_of_one() {
    let t = Instant::now();
    let mut queue = Queue::new(t);
    let (group, keys) =
        crowd(&mut queue, t, &[(1, 3, 1, 9_000), (2, 1, 1, 9_000), (2, 1, 1, 9_000), (3, 1, 1, 9_000)]);
    let mut had = [0usize; 4];
    for turn in turns(&mut queue, group, &keys, 5_000) {
        had[turn] += 1;
    }
    assert_eq!(had, [3_000, 500, 500, 1_000]);
}

#[test]
fn urgent_mail_goes_first_and_the_rest_is_not_starved() {
    let t = Instant::now();
    let mut queue = Queue::new(t);
    let (group, keys) = crowd(&mut queue, t, &[(1, 1, 3, 9_000), (2, 1, 0, 10)]);
    assert_eq!(turns(&mut queue, group, &keys, 11), [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
    for n in 0..650 {
        queue.push(t, new(n, keys[1], None));
    }
    let had = turns(&mut queue, group, &keys, 650);
    assert_eq!(had.iter().filter(|&&turn| turn == 0).count(), 10, "one in sixty-five");
}

#[test]
fn a_line_set_aside_gets_no_turn_until_it_is_taken_back() {
    let t = Instant::now();
    let mut queue = Queue::new(t);
    let (group, keys) = crowd(&mut queue, t, &[(1, 1, 1, 5), (2, 1, 1, 5)]);
    queue.set_aside(keys[0], true);
    queue.push(t, new(9, keys[0], None));
    assert_eq!(turns(&mut queue, group, &keys, 9), [1; 5]);
    queue.set_aside(keys[0], false);
    assert_eq!(turns(&mut queue, group, &keys, 9), [0; 6]);
    assert!(queue.remove_group(group));
}

/// Whatever happens to lines, those that may be served are, each once a round, and the rest are not.
#[test]
fn random_changes_leave_nobody_out_and_nobody_twice() {
    for seed in 0..100 {
        let mut random = Random(seed);
        let t = Instant::now();
        let mut queue = Queue::new(t);
        let group = queue.add_group();
        let rank = |n: u64| Some(Rank { group, tenant: (n % 7) as u32, weight: 1, class: (n % 3) as u8 });
        let keys: Vec<LineKey> = (0..20).map(|_| queue.add_line(DAY)).collect();
        let mut model: Vec<(u64, bool, bool)> = vec![(0, false, false); 20];
        for _ in 0..500 {
            let n = random.next(20);
            let (line, state) = (keys[n as usize], &mut model[n as usize]);
            match random.next(6) {
                0 | 1 => {
                    queue.push(t, new(n, line, None));
                    state.0 += 1;
                }
                2 => {
                    state.1 = !state.1;
                    queue.set_rank(line, state.1.then_some(()).and_then(|()| rank(n)));
                }
                3 => {
                    state.2 = !state.2;
                    queue.set_aside(line, state.2);
                }
                4 => {
                    if let Some(key) = queue.take(line) {
                        queue.untake(key);
                    }
                }
                _ => {
                    let next = queue.next(group);
                    let may = |at: usize, m: &(u64, bool, bool)| (m.0 > 0 && m.1 && !m.2).then_some(keys[at]);
                    let entries: u64 = model.iter().filter(|m| m.1 && !m.2).map(|m| m.0).sum();
                    assert_eq!(u64::from(queue.group_ready(group)), entries, "seed {seed}");
                    let waiting: Vec<LineKey> =
                        model.iter().enumerate().filter_map(|(at, m)| may(at, m)).collect();
                    match next {
                        None => assert_eq!(waiting, [], "seed {seed}"),
                        Some(line) => {
                            assert!(waiting.contains(&line), "seed {seed}: out of turn");
                            let key = queue.take(line).unwrap();
                            let at = keys.iter().position(|&key| key == line).unwrap();
                            assert_eq!(queue.entry(key).handle, at as u64);
                            queue.settle(key);
                            model[at].0 -= 1;
                        }
                    }
                }
            }
        }
        for (at, state) in model.iter().enumerate() {
            assert_eq!(u64::from(queue.counts(keys[at]).ready), state.0);
            queue.set_rank(keys[at], rank(at as u64));
            queue.set_aside(keys[at], false);
        }
        let left: u64 = model.iter().map(|m| m.0).sum();
        assert_eq!(handles(&mut queue, group, 10_000).len() as u64, left);
        assert!(queue.remove_group(group));
    }
}
