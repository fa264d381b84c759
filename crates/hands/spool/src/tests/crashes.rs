//! Crashes at every step of small histories, and at random steps of random ones.

use super::rig::{Model, Op, Rig};
use crate::simulated::{Crash, SimulatedDisk};
use proptest::prelude::*;

const CAPACITY: u64 = 4 << 20;

fn crashes(seed: u64) -> [Crash; 5] {
    let tear = |n: u64| Crash::Tear(seed.wrapping_mul(1_000_003).wrapping_add(n));
    [Crash::Kill, Crash::Lose, tear(1), tear(2), tear(3)]
}

/// What a start does before long.
const SETTLING: [Op; 7] = [Op::Sync, Op::Janitor, Op::Copy, Op::Janitor, Op::Sync, Op::Janitor, Op::Read];

/// Runs a history until a crash at a call, if it comes; then starts again, crashes again in the middle of
/// that, and starts once more. At last everything is settled, and must be gone.
fn run(history: &[Op], call: u64, after: bool, crash: Crash, second: u64) -> bool {
    let disk = SimulatedDisk::new(CAPACITY);
    disk.crash_at(call, after);
    let Some(mut rig) = Rig::open(disk.clone(), Model::default()) else { return true };
    for op in history {
        rig.run(*op);
        if disk.is_dead() {
            break;
        }
    }
    let crashed = disk.is_dead();
    let (disk, model) = rig.into_crash(crash);
    // The start is interrupted, too; what it found is then not told to the model.
    disk.crash_at(second, second.is_multiple_of(2));
    let interrupted = Rig::open(disk.clone(), model.clone());
    let (disk, model) = match interrupted {
        None => (disk.after(crash), model),
        Some(mut rig) => {
            for op in SETTLING {
                if !disk.is_dead() {
                    rig.run(op);
                }
            }
            rig.into_crash(crash)
        }
    };
    let mut rig = Rig::open(disk, model).expect("nothing turns it off");
    SETTLING.iter().for_each(|op| rig.run(*op));
    for n in 0..rig.model.known.len() {
        rig.run(Op::SettleAll(n as u8));
    }
    rig.run(Op::Sync);
    let mut rig = rig.crash(Crash::Lose);
    assert_eq!(rig.model.known.values().filter(|k| k.handle.is_some()).count(), 0);
    rig.janitor.step();
    rig.ledger.flush();
    rig.janitor.step();
    rig.janitor.step();
    let stats = rig.disk.names();
    assert!(stats.iter().filter(|name| name.ends_with(".seg")).count() <= 5, "{stats:?}");
    crashed
}

fn exhaust(history: &[Op]) {
    let mut call = 1;
    loop {
        let mut crashed = false;
        for after in [false, true] {
            for crash in crashes(call) {
                crashed |= run(history, call, after, crash, 1 + call * 7 % 40);
            }
        }
        if !crashed {
            break;
        }
        call += 1;
    }
    assert!(call > 10);
}

#[test]
fn accept_and_settle() {
    use Op::*;
    exhaust(&[
        Accept(1, 1, 700),
        Accept(3, 2, 900),
        Settle(0, 0),
        Defer(1, 1),
        Settle(1, 0),
        Sync,
        Defer(2, 0),
        Accept(2, 1, 100),
        SettleAll(2),
        Sync,
    ]);
}

#[test]
fn segments_full_and_reused() {
    use Op::*;
    exhaust(&[
        Janitor,
        Accept(3, 1, 3500),
        Accept(3, 1, 3500),
        SettleAll(0),
        SettleAll(1),
        SettleAll(2),
        Janitor,
        Accept(3, 1, 3500),
        SettleAll(3),
        Sync,
        Janitor,
        SettleAll(4),
        SettleAll(5),
        SettleAll(6),
        Janitor,
        Accept(3, 1, 3500),
        Accept(3, 1, 3500),
        Janitor,
        Sync,
    ]);
}

#[test]
fn survivors_copied_forward() {
    use Op::*;
    exhaust(&[
        Accept(3, 3, 3000),
        Seal,
        Settle(0, 1),
        Defer(0, 2),
        SettleAll(1),
        SettleAll(2),
        Copy,
        Read,
        Settle(0, 2),
        Janitor,
        Accept(1, 1, 100),
        Sync,
        Janitor,
        Settle(0, 0),
        Sync,
    ]);
}

#[test]
fn survivors_copied_twice() {
    use Op::*;
    let mut history = Vec::new();
    for _ in 0..3 {
        history.extend([Accept(4, 2, 2500), Seal, SettleAll(1), SettleAll(2), Settle(0, 0), Copy, Janitor]);
        history.extend([SettleAll(3), Copy, Copy, Read]);
    }
    history.push(Sync);
    let mut call = 1;
    while run(&history, call, call.is_multiple_of(2), crashes(call)[call as usize % 5], 3 + call % 50) {
        call += 1;
    }
}

#[test]
fn outcomes_rewritten() {
    use Op::*;
    exhaust(&[
        Accept(3, 3, 300),
        Defer(0, 0),
        Defer(0, 0),
        Defer(1, 1),
        SettleAll(2),
        Settle(0, 1),
        Sync,
        Shorten,
        Defer(0, 0),
        Settle(1, 0),
        Sync,
        Shorten,
        Settle(1, 1),
        Sync,
    ]);
}

#[test]
fn a_large_message() {
    use Op::*;
    exhaust(&[
        Accept(1, 1, 100),
        Accept(1, 2, 40_000),
        Accept(1, 1, 100),
        Settle(1, 0),
        Sync,
        SettleAll(1),
        Janitor,
        Sync,
    ]);
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1..4u8, 1..4u8, prop_oneof![Just(0u32), 100..1000u32, 2000..5000u32, Just(20_000u32)])
            .prop_map(|(n, r, o)| Op::Accept(n, r, o)),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(n, r)| Op::Settle(n, r)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(n, r)| Op::Defer(n, r)),
        5 => any::<u8>().prop_map(Op::SettleAll),
        2 => Just(Op::Sync),
        3 => Just(Op::Janitor),
        3 => Just(Op::Copy),
        2 => Just(Op::Seal),
        1 => Just(Op::Shorten),
        1 => Just(Op::Read),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_histories(
        history in prop::collection::vec(any_op(), 1..40),
        call in 1..300u64,
        after in any::<bool>(),
        kind in 0..5usize,
        seed in any::<u64>(),
        second in 1..120u64,
    ) {
        run(&history, call, after, crashes(seed)[kind], second);
    }
}
