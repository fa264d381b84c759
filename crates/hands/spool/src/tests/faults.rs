//! A disk that fails, fills up and rots.

use super::rig::{Model, Op, Rig, config};
use crate::load::open_shared;
use crate::simulated::{Call, Crash, Fault, SimulatedDisk};
use crate::{DamageReason, LoadEvent, ReadError, Refusal};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const HISTORY: [Op; 22] = [
    Op::Accept(3, 2, 900),
    Op::Settle(0, 0),
    Op::Defer(1, 1),
    Op::Janitor,
    Op::Accept(2, 1, 3000),
    Op::Sync,
    Op::SettleAll(1),
    Op::Accept(3, 1, 3000),
    Op::Seal,
    Op::SettleAll(2),
    Op::Copy,
    Op::Janitor,
    Op::Defer(0, 1),
    Op::Accept(3, 3, 400),
    Op::Shorten,
    Op::SettleAll(4),
    Op::SettleAll(5),
    Op::Copy,
    Op::Janitor,
    Op::Accept(1, 1, 20_000),
    Op::Janitor,
    Op::Read,
];

#[test]
fn a_failure_of_any_call_loses_nothing_and_brings_nothing_refused_back() {
    for (call, fault) in [
        (Call::Any, Fault::Io),
        (Call::Any, Fault::Full),
        (Call::Write, Fault::Short),
        (Call::Write, Fault::Full),
        (Call::Sync, Fault::Io),
    ] {
        for count in [1, 2, 7] {
            for skip in 0..90 {
                let disk = SimulatedDisk::new(4 << 20);
                let mut rig = Rig::open(disk.clone(), Model::default()).unwrap();
                disk.fail(call, skip, count, fault);
                HISTORY.iter().for_each(|op| rig.run(*op));
                disk.heal();
                // Everything works again, and what waited is written.
                rig.run(Op::Janitor);
                rig.sync();
                rig.accept(1, 1, 10)[0].unwrap();
                assert!(!rig.ledger.is_behind());
                for crash in [Crash::Kill, Crash::Lose, Crash::Tear(skip)] {
                    let refused: Vec<u64> =
                        rig.model.known.iter().filter(|(_, k)| !k.acknowledged).map(|(id, _)| *id).collect();
                    let mut again = Rig::open(rig.disk.after(crash), rig.model.clone()).unwrap();
                    for id in refused {
                        assert!(again.model.known[&id].handle.is_none(), "refused, but came back");
                    }
                    again.run(Op::Read);
                }
            }
        }
    }
}

#[test]
fn after_a_failed_sync_the_same_file_is_never_trusted_again() {
    let disk = SimulatedDisk::new(4 << 20);
    let mut rig = Rig::open(disk.clone(), Model::default()).unwrap();
    rig.accept(1, 1, 500)[0].unwrap();
    disk.fail(Call::Sync, 0, 1, Fault::Io);
    assert_eq!(rig.accept(2, 1, 500), [Err(Refusal::Io), Err(Refusal::Io)]);
    assert_eq!(rig.shared.gate.check(), Err(Refusal::Io));
    // The disk lies from here on: a second sync of that file would succeed and save nothing.
    let second = rig.accept(1, 1, 500)[0].unwrap();
    assert_eq!(rig.shared.gate.check(), Ok(()));
    let first = rig.model.known.values().find_map(|k| k.handle).unwrap();
    assert_ne!(first.segment(), second.segment());
    rig.sync();
    for crash in [Crash::Kill, Crash::Lose] {
        let again = Rig::open(rig.disk.after(crash), rig.model.clone()).unwrap();
        assert_eq!(again.model.known.values().filter(|k| k.handle.is_some()).count(), 2, "{crash:?}");
    }
}

#[test]
fn a_full_disk_stops_intake_until_deliveries_made_room() {
    let disk = SimulatedDisk::new(200 << 10);
    let mut rig = Rig::open(disk.clone(), Model::default()).unwrap();
    let mut taken = 0;
    while rig.accept(1, 1, 6000)[0].is_ok() {
        rig.janitor.step();
        taken += 1;
    }
    assert!(taken > 10, "{taken}");
    assert_eq!(rig.shared.gate.check(), Err(Refusal::Full));
    rig.janitor.step();
    assert_eq!(rig.shared.gate.check(), Err(Refusal::Full));
    rig.read_all();
    for n in 0..taken / 2 {
        rig.run(Op::SettleAll(n as u8));
    }
    rig.sync();
    rig.janitor.step();
    rig.janitor.step();
    assert_eq!(rig.shared.gate.check(), Ok(()));
    rig.accept(1, 1, 6000)[0].unwrap();
    rig.crash(Crash::Kill).read_all();
}

#[test]
fn outcomes_the_disk_refuses_wait_and_still_free_room() {
    let disk = SimulatedDisk::new(4 << 20);
    let mut rig = Rig::open(disk.clone(), Model::default()).unwrap();
    rig.accept(3, 1, 3000);
    rig.accept(3, 1, 3000);
    rig.ledger.flush();
    disk.fail(Call::Write, 0, 100, Fault::Full);
    for n in 0..3 {
        rig.run(Op::SettleAll(n));
    }
    assert!(rig.ledger.is_behind());
    let before = rig.shared.table.lock().unwrap().segments.len();
    disk.heal();
    rig.janitor.step();
    assert_eq!(rig.shared.table.lock().unwrap().segments.len(), before - 1);
    // The outcomes of a segment that has gone need no writing any more.
    disk.fail(Call::Write, 0, 100, Fault::Full);
    rig.ledger.flush();
    assert!(!rig.ledger.is_behind());
}

#[test]
fn a_backlog_of_outcomes_stops_intake() {
    let disk = SimulatedDisk::new(4 << 20);
    let (shared, _loader) =
        open_shared(Arc::new(disk.clone()), &crate::Config { unwritten_states_max: 2, ..config() }).unwrap();
    let mut rig = Rig {
        writer: crate::writer::Writer::new(shared.clone()),
        ledger: crate::ledger::Ledger::new(shared.clone()),
        janitor: crate::janitor::Janitor::new(shared.clone()),
        model: Model::default(),
        disk: disk.clone(),
        shared,
    };
    rig.accept(3, 1, 100);
    disk.fail(Call::Write, 0, 100, Fault::Io);
    (0..3).for_each(|n| rig.run(Op::SettleAll(n)));
    assert_eq!(rig.shared.gate.check(), Err(Refusal::Busy));
    disk.heal();
    rig.ledger.flush();
    assert_eq!(rig.shared.gate.check(), Ok(()));
}

#[test]
fn opening_without_any_room_still_delivers() {
    let disk = SimulatedDisk::new(4 << 20);
    let mut rig = Rig::open(disk.clone(), Model::default()).unwrap();
    rig.accept(3, 1, 4000);
    disk.set_capacity(0);
    let mut rig = rig.crash(Crash::Kill);
    assert!(rig.shared.gate.full.load(Relaxed));
    rig.read_all();
    (0..3).for_each(|n| rig.run(Op::SettleAll(n)));
    rig.janitor.step();
    assert!(rig.shared.table.lock().unwrap().segments.is_empty());
}

/// A spool with a little of everything, at rest.
fn specimen() -> (SimulatedDisk, Model) {
    let mut rig = Rig::open(SimulatedDisk::new(4 << 20), Model::default()).unwrap();
    rig.accept(3, 2, 1200);
    rig.accept(2, 1, 700);
    rig.run(Op::Seal);
    rig.accept(3, 3, 1000);
    rig.accept(1, 1, 300);
    rig.run(Op::Defer(0, 1));
    rig.run(Op::Settle(0, 0));
    rig.run(Op::SettleAll(1));
    rig.run(Op::Defer(5, 2));
    rig.run(Op::Settle(6, 1));
    rig.sync();
    rig.into_crash(Crash::Kill)
}

#[test]
fn a_flipped_bit_anywhere_is_found_and_the_rest_loads() {
    let (disk, model) = specimen();
    let mut found = 0;
    for name in disk.names() {
        if name == "FORMAT" {
            continue;
        }
        let content = disk.content(&name).unwrap();
        let used = content.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
        for at in 0..used {
            let mut rotten = content.clone();
            rotten[at] ^= 1 << (at * 5 % 8);
            let copy = disk.after(Crash::Kill);
            copy.set_content(&name, rotten);
            found += usize::from(check_rotten(&copy, &model, &format!("{name} at {at}")));
        }
    }
    assert!(found > 5000, "{found}");
}

/// Opens a spool in which one stretch is damaged; true if something was missing or wrong, and reported.
fn check_rotten(disk: &SimulatedDisk, model: &Model, place: &str) -> bool {
    let (shared, loader) = open_shared(Arc::new(disk.clone()), &config()).unwrap();
    let events: Vec<LoadEvent> = loader.collect();
    let mut reported = 0;
    let mut seen = BTreeSet::new();
    let mut damaged = 0;
    for event in &events {
        match event {
            LoadEvent::Message(loaded) => {
                let known = &model.known[&loaded.message.id.0];
                assert_eq!(loaded.message, known.draft.message, "{place}");
                assert!(seen.insert(loaded.message.id.0), "{place}");
                match shared.read(loaded.handle) {
                    Ok(read) => assert_eq!(read.content.to_vec(), known.draft.content.to_vec(), "{place}"),
                    Err(ReadError::Damaged { set_aside, message, .. }) => {
                        assert_eq!(message.as_deref(), Some(&known.draft.message), "{place}");
                        let file = set_aside.unwrap();
                        assert!(disk.names().contains(&file), "{place}: {file}");
                        damaged += 1;
                    }
                    Err(error) => panic!("{place}: {error}"),
                }
                for (index, person) in known.people.iter().enumerate().filter(|(_, p)| !p.settled) {
                    let pending = loaded.pending.iter().any(|p| usize::from(p.index) == index);
                    assert!(pending, "{place}: recipient {index} {person:?} is lost");
                }
            }
            LoadEvent::Damaged(damage) => {
                reported += 1;
                if let Some(file) = &damage.set_aside {
                    assert!(disk.names().contains(file), "{place}: {file}");
                }
            }
            LoadEvent::Torn { .. } => reported += 1,
            LoadEvent::SegmentDone { .. } => {}
        }
    }
    let needed = model.known.iter().filter(|(_, k)| k.people.iter().any(|p| !p.settled)).count();
    let whole = |d: &LoadEvent| matches!(d, LoadEvent::Damaged(d) if d.reason == DamageReason::Segment);
    let missing = needed - seen.iter().filter(|id| model.known[id].people.iter().any(|p| !p.settled)).count();
    assert!(missing <= 1 || events.iter().any(whole), "{place}: {missing}");
    assert!(missing == 0 || reported > 0, "{place}: {missing} missing, nothing reported: {events:?}");
    missing + damaged + reported > 0
}

#[test]
fn damage_set_aside_is_not_found_a_second_time() {
    let (disk, model) = specimen();
    let name = disk.names().into_iter().find(|name| name.ends_with(".seg")).unwrap();
    let mut content = disk.content(&name).unwrap();
    // The headers of the first and third record of a sealed segment.
    let records: Vec<usize> =
        (0..content.len() / 8).map(|n| n * 8).filter(|at| content[*at..].starts_with(b"\xd7Rec")).collect();
    content[records[0] + 20] ^= 4;
    content[records[2] + 60] ^= 4;
    disk.set_content(&name, content);
    let (shared, loader) = open_shared(Arc::new(disk.clone()), &config()).unwrap();
    let damaged = loader.filter(|event| matches!(event, LoadEvent::Damaged(_))).count();
    assert_eq!(damaged, 2);
    let mut ledger = crate::ledger::Ledger::new(shared);
    ledger.flush();
    assert!(ledger.sync(true));
    let disk = disk.after(Crash::Lose);
    let (_, loader) = open_shared(Arc::new(disk.clone()), &config()).unwrap();
    let (mut messages, mut damaged) = (0, 0);
    for event in loader {
        messages += usize::from(matches!(event, LoadEvent::Message(_)));
        damaged += usize::from(matches!(event, LoadEvent::Damaged(_)));
    }
    assert_eq!(damaged, 0);
    assert_eq!(messages, model.known.len() - 3);
    assert_eq!(disk.names().iter().filter(|n| n.ends_with(".record")).count(), 2);
}

#[test]
fn a_disk_that_will_not_read_a_while_loses_nothing() {
    let (disk, model) = specimen();
    for skip in 0..40 {
        let disk = disk.after(Crash::Kill);
        let Ok((shared, loader)) = open_shared(Arc::new(disk.clone()), &config()) else { unreachable!() };
        disk.fail(Call::Read, skip, 1, Fault::Io);
        let _ = loader.count();
        disk.heal();
        // Nothing was thrown away on the word of a disk that was ill.
        let mut janitor = crate::janitor::Janitor::new(shared.clone());
        janitor.step();
        let mut rig = Rig::open(disk.after(Crash::Kill), model.clone());
        assert!(rig.take().is_some());
    }
}
