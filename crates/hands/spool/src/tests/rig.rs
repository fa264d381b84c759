//! The spool without threads over a disk that lies, and a model of what must be true of it.

use super::draft;
use crate::janitor::Janitor;
use crate::ledger::Ledger;
use crate::load::open_shared;
use crate::simulated::{Crash, SimulatedDisk};
use crate::table::Shared;
use crate::writer::{Packed, Writer};
use crate::{Change, Config, Draft, Fate, Handle, LoadEvent, Refusal, Settlement};
use mail::{SpoolId, UnixMillis};
use settings::Size;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What may happen to a spool.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// Messages committed together: how many, recipients each, octets each.
    Accept(u8, u8, u32),
    /// The n-th message known, its n-th recipient.
    Settle(u8, u8),
    /// The same, not yet.
    Defer(u8, u8),
    /// All of the n-th message.
    SettleAll(u8),
    Sync,
    Janitor,
    Copy,
    /// The writer goes on to another segment.
    Seal,
    /// All sidecars are rewritten.
    Shorten,
    /// Reads everything.
    Read,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Person {
    /// A final outcome was given.
    pub settled: bool,
    /// It is known to be durable.
    pub durable: bool,
    /// Attempts known to be durable, and the last given.
    pub attempts: (u32, u32),
}

#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub draft: Draft,
    pub handle: Option<Handle>,
    /// We said 250.
    pub acknowledged: bool,
    /// Known to be absent, so that it must never come.
    pub absent: bool,
    pub people: Vec<Person>,
}

/// What must be true.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub known: BTreeMap<u64, Known>,
}

pub(crate) struct Rig {
    pub disk: SimulatedDisk,
    pub shared: Arc<Shared>,
    pub writer: Writer,
    pub ledger: Ledger,
    pub janitor: Janitor,
    pub model: Model,
}

pub(crate) fn config() -> Config {
    Config {
        segment_bytes: Size::kib(16),
        spare_segments: 2,
        min_free_bytes: Size(0),
        copy_after: Duration::ZERO,
        copy_below_percent: 50,
        sidecar_bytes_max: Size::kib(4),
        ..Config::default()
    }
}

impl Rig {
    /// Opens and loads. `None` if the machine went off meanwhile.
    pub fn open(disk: SimulatedDisk, mut model: Model) -> Option<Self> {
        let opened = open_shared(Arc::new(disk.clone()), &config());
        if disk.is_dead() {
            return None;
        }
        let (shared, loader) = opened.unwrap();
        let mut writer = Writer::new(shared.clone());
        let _ = writer.prepare();
        let mut found: BTreeMap<u64, crate::Loaded> = BTreeMap::new();
        let mut events = Vec::new();
        for event in loader {
            if disk.is_dead() {
                return None;
            }
            match event {
                LoadEvent::Message(loaded) => {
                    assert!(!loaded.pending.is_empty());
                    let before = found.insert(loaded.message.id.0, *loaded);
                    assert!(before.is_none(), "a message came twice: {before:?}");
                }
                other => events.push(other),
            }
        }
        if disk.is_dead() {
            return None;
        }
        for (id, known) in &mut model.known {
            known.check(found.remove(id), &shared, &events);
        }
        assert!(found.is_empty(), "nobody sent these: {found:?}");
        let (ledger, janitor) = (Ledger::new(shared.clone()), Janitor::new(shared.clone()));
        Some(Self { disk, shared, writer, ledger, janitor, model })
    }

    pub fn accept(&mut self, count: u8, recipients: u8, octets: u32) -> Vec<Result<Handle, Refusal>> {
        let drafts: Vec<Draft> = (0..count)
            .map(|_| draft(self.shared.ids.next(), recipients.max(1).into(), octets as usize))
            .collect();
        if self.shared.gate.poisoned.load(std::sync::atomic::Ordering::Relaxed) {
            let _ = self.writer.reopen();
        }
        let mut packed: Vec<Packed> =
            drafts.iter().map(|d| Packed::new(&d.message, &d.content).unwrap()).collect();
        let results = self.writer.append(&mut packed);
        for (draft, result) in drafts.into_iter().zip(&results) {
            let id = draft.message.id.0;
            let people = vec![Person::default(); draft.message.envelope.recipients.len()];
            let (handle, acknowledged) = (result.ok(), result.is_ok());
            self.model.known.insert(id, Known { draft, handle, acknowledged, absent: false, people });
        }
        results
    }

    fn nth(&self, n: u8) -> Option<u64> {
        let usable: Vec<u64> =
            self.model.known.iter().filter(|(_, k)| k.handle.is_some()).map(|(id, _)| *id).collect();
        usable.get(usize::from(n) % usable.len().max(1)).copied()
    }

    pub fn settle(&mut self, n: u8, recipient: Option<u8>, last: bool) {
        let Some(id) = self.nth(n) else { return };
        let known = self.model.known.get_mut(&id).unwrap();
        let handle = known.handle.unwrap();
        let count = known.people.len();
        let mut settlements = Vec::new();
        for (index, person) in known.people.iter_mut().enumerate() {
            if recipient.is_some_and(|r| usize::from(r) % count != index) || person.settled {
                continue;
            }
            let change = if last {
                person.settled = true;
                Change::Final(Fate::Delivered)
            } else {
                person.attempts.1 += 1;
                let (attempts, due) = (person.attempts.1, UnixMillis(id));
                let reply = Some(mail::Reply::new(451, (4, 2, 0), format!("later, {attempts}")));
                Change::Deferred { attempts, due, reply, ambiguous: attempts == 2 }
            };
            settlements.push(Settlement { handle, recipient: index as u16, change });
        }
        self.ledger.apply(settlements, Vec::new());
    }

    pub fn sync(&mut self) {
        self.ledger.flush();
        if self.ledger.sync(true) && !self.ledger.is_behind() && !self.disk.is_dead() {
            for person in self.model.known.values_mut().flat_map(|known| &mut known.people) {
                person.durable = person.settled;
                person.attempts.0 = person.attempts.1;
            }
        }
    }

    pub fn run(&mut self, op: Op) {
        match op {
            Op::Accept(count, recipients, octets) => drop(self.accept(count, recipients, octets)),
            Op::Settle(n, r) => self.settle(n, Some(r), true),
            Op::Defer(n, r) => self.settle(n, Some(r), false),
            Op::SettleAll(n) => self.settle(n, None, true),
            Op::Sync => self.sync(),
            Op::Janitor => self.janitor.step(),
            Op::Copy => {
                self.ledger.flush();
                self.ledger.copy_forward(8 << 10);
            }
            Op::Seal => {
                self.writer.seal();
                self.ledger.seal();
                self.ledger.flush();
            }
            Op::Shorten => self.ledger.shorten_all(),
            Op::Read => self.read_all(),
        }
    }

    /// Every message with a pending recipient can be read and is what was sent.
    pub fn read_all(&self) {
        for known in self.model.known.values() {
            let Some(handle) = known.handle else { continue };
            let read = self.shared.read(handle);
            if self.disk.is_dead() {
                return;
            }
            if known.people.iter().all(|person| person.settled) {
                assert!(matches!(read, Err(crate::ReadError::NotFound)), "{read:?}");
            } else {
                let read = read.unwrap();
                assert_eq!(read.message, known.draft.message);
                assert_eq!(read.content.to_vec(), known.draft.content.to_vec());
            }
        }
    }

    /// The machine goes off and on again.
    pub fn crash(self, crash: Crash) -> Self {
        let (disk, model) = self.into_crash(crash);
        Self::open(disk, model).expect("the machine stays on")
    }

    pub fn into_crash(self, crash: Crash) -> (SimulatedDisk, Model) {
        let mut model = self.model;
        if crash == Crash::Kill && !self.disk.is_dead() && !self.ledger.is_behind() {
            // What is written survives a kill.
            for person in model.known.values_mut().flat_map(|known| &mut known.people) {
                person.durable = person.settled;
                person.attempts.0 = person.attempts.1;
            }
        }
        (self.disk.after(crash), model)
    }
}

impl Known {
    /// Compares what was found after a start with what must be; what was found is durable from now on.
    fn check(&mut self, found: Option<crate::Loaded>, shared: &Shared, events: &[LoadEvent]) {
        let id = SpoolId(self.draft.message.id.0);
        let Some(found) = found else {
            let needed = self.people.iter().any(|person| !person.settled);
            assert!(!(self.acknowledged && needed), "{id} is lost: {self:?}\n{events:?}");
            self.people.iter_mut().for_each(|person| (person.settled, person.durable) = (true, true));
            (self.handle, self.absent) = (None, true);
            return;
        };
        assert!(!self.absent, "{id} was gone and came back");
        assert_eq!(found.message, self.draft.message);
        let read = shared.read(found.handle).unwrap();
        assert_eq!(read.message, self.draft.message);
        assert_eq!(read.content.to_vec(), self.draft.content.to_vec(), "{id}");
        self.handle = Some(found.handle);
        self.acknowledged = true;
        for (index, person) in self.people.iter_mut().enumerate() {
            let pending = found.pending.iter().find(|p| usize::from(p.index) == index);
            match pending {
                None => {
                    assert!(person.settled, "{id} lost its recipient {index}");
                    person.durable = true;
                }
                Some(pending) => {
                    assert!(!person.durable, "{id} came back for recipient {index}");
                    let (least, most) = person.attempts;
                    assert!((least..=most).contains(&pending.attempts), "{id}: {pending:?}, {person:?}");
                    assert!(pending.attempts < 2 || pending.ambiguous);
                    person.settled = false;
                    person.attempts = (pending.attempts, pending.attempts);
                }
            }
        }
    }
}
