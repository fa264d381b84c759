//! The keeper of outcomes: writes them to the sidecars at once, makes them durable a little later, and
//! copies the survivors of nearly empty segments forward.

use crate::disk::{DiskFile, write_all};
use crate::index::Taken;
use crate::quarantine::{self, DamageReason};
use crate::record::{ALIGN, PAGE};
use crate::scan::{Trouble, read_record};
use crate::state::{STATE_HEADER, SegmentStates, StateRecord, state_header};
use crate::table::{Note, Phase, Shared, add, lock, state_name};
use crate::writer::{Packed, Writer};
use crate::{Change, Handle, Settlement};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Called when what it came with is written.
pub(crate) type Done = Box<dyn FnOnce() + Send>;

/// Sidecars held open at once.
const OPEN_MAX: usize = 128;

struct Sidecar {
    file: Arc<dyn DiskFile>,
    generation: u64,
    tail: u64,
    /// Since when final outcomes, and deferrals, are written but not durable.
    finals_since: Option<Instant>,
    deferrals_since: Option<Instant>,
    /// A sync failed: what it covered may be lost though later syncs succeed, so the file is rewritten.
    suspect: bool,
    /// Its length after the last rewriting.
    rewritten: u64,
    /// Segments that have one bar less once this is durable.
    frees: Vec<u32>,
    used: u64,
}

impl Sidecar {
    fn is_dirty(&self) -> bool {
        self.suspect || self.finals_since.is_some() || self.deferrals_since.is_some()
    }
}

/// The owner of all sidecars.
pub(crate) struct Ledger {
    shared: Arc<Shared>,
    sidecars: HashMap<u32, Sidecar>,
    clock: u64,
    /// What is not written yet, in order; empty unless the disk refuses.
    unwritten: Vec<(u32, StateRecord, Option<u32>)>,
    done: Vec<Done>,
    mover: Writer,
}

impl Ledger {
    pub fn new(shared: Arc<Shared>) -> Self {
        let mover = Writer::new(shared.clone());
        Self { shared, sidecars: HashMap::new(), clock: 0, unwritten: Vec::new(), done: Vec::new(), mover }
    }

    /// Takes settlements: they count from here on, and are written before `done` is called.
    pub fn apply(&mut self, settlements: Vec<Settlement>, done: Vec<Done>) {
        self.done.extend(done);
        let mut stale = 0;
        let mut finished = 0;
        // The janitor is woken for a segment, not for every message: the wake-ups cost more than its work.
        let mut emptied = false;
        {
            let mut table = lock(&self.shared.table);
            for settlement in settlements {
                let place = table.place(settlement.handle);
                let Some(segment) = table.segments.get_mut(&place.segment()) else {
                    stale += 1;
                    continue;
                };
                let (unit, recipient) = (place.unit(), settlement.recipient);
                match settlement.change {
                    Change::Final(fate) => match segment.index.take(unit, recipient) {
                        Taken::Already => {
                            stale += 1;
                            continue;
                        }
                        taken => {
                            if taken == Taken::Last {
                                finished += 1;
                                emptied |= segment.phase != Phase::Active && segment.index.live() == 0;
                                table.forget(place);
                            }
                            let last = self.unwritten.last_mut();
                            if let Some((of, StateRecord::Final { unit: u, first, count, fate: f }, _)) = last
                            {
                                let next = first.checked_add(*count) == Some(recipient);
                                if *of == place.segment() && *u == unit && *f == fate && next {
                                    *count += 1;
                                    continue;
                                }
                            }
                            let record = StateRecord::Final { unit, first: recipient, count: 1, fate };
                            self.unwritten.push((place.segment(), record, None));
                        }
                    },
                    Change::Deferred { attempts, due, reply, ambiguous } => {
                        if !segment.index.is_pending(unit, recipient) {
                            stale += 1;
                            continue;
                        }
                        let deferral = crate::state::Deferral { attempts, due, reply, ambiguous };
                        let record = StateRecord::Deferred { unit, recipient, deferral };
                        self.unwritten.push((place.segment(), record, None));
                    }
                }
            }
        }
        add(&self.shared.counters.stale_settlements, stale);
        add(&self.shared.counters.finished_messages, finished);
        if emptied {
            self.shared.janitor_bell.ring();
        }
        self.flush();
    }

    /// Writes whatever is not written yet.
    pub fn flush(&mut self) {
        for note in std::mem::take(&mut *lock(&self.shared.notes)) {
            self.unwritten.push(match note {
                Note::Seal { segment, end } => (segment, StateRecord::Sealed { end }, None),
                Note::Gone { segment, unit, end, frees } => (segment, StateRecord::Gone { unit, end }, frees),
            });
        }
        let mut groups: BTreeMap<u32, Vec<(StateRecord, Option<u32>)>> = BTreeMap::new();
        for (segment, record, frees) in self.unwritten.drain(..) {
            groups.entry(segment).or_default().push((record, frees));
        }
        for (segment, records) in groups {
            if let Err(error) = self.write(segment, &records) {
                tracing::warn!(segment, %error, waiting = records.len(), "outcomes not written yet");
                let again = records.into_iter().map(|(record, frees)| (segment, record, frees));
                self.unwritten.extend(again);
            }
        }
        let left = self.unwritten.len();
        self.shared.counters.unwritten_states.store(left as u64, Relaxed);
        self.shared.gate.backlog.store(left >= self.shared.config.unwritten_states_max, Relaxed);
        if left == 0 {
            self.done.drain(..).for_each(|done| done());
        }
    }

    /// True if something could not be written.
    pub fn is_behind(&self) -> bool {
        !self.unwritten.is_empty()
    }

    fn write(&mut self, segment: u32, records: &[(StateRecord, Option<u32>)]) -> io::Result<()> {
        // A segment that has gone needs no outcomes any more.
        let Some(sidecar) = self.sidecar(segment)? else { return Ok(()) };
        let mut octets = Vec::with_capacity(records.len() * 24);
        for (record, _) in records {
            record.encode(sidecar.generation, &mut octets);
        }
        write_all(&*sidecar.file, &mut [IoSlice::new(&octets)], sidecar.tail)?;
        sidecar.tail += octets.len() as u64;
        let now = Instant::now();
        for (record, frees) in records {
            match record {
                StateRecord::Deferred { .. } => sidecar.deferrals_since.get_or_insert(now),
                _ => sidecar.finals_since.get_or_insert(now),
            };
            sidecar.frees.extend(frees);
        }
        let tail = sidecar.tail;
        if let Some(entry) = lock(&self.shared.table).segments.get_mut(&segment) {
            entry.state_tail = tail;
        }
        add(&self.shared.counters.state_records, records.len() as u64);
        add(&self.shared.counters.state_bytes_written, octets.len() as u64);
        Ok(())
    }

    fn sidecar(&mut self, segment: u32) -> io::Result<Option<&mut Sidecar>> {
        self.clock += 1;
        let known = {
            let table = lock(&self.shared.table);
            table.segments.get(&segment).map(|s| (s.generation, s.state_tail.max(STATE_HEADER)))
        };
        let Some((generation, tail)) = known else {
            self.sidecars.remove(&segment);
            return Ok(None);
        };
        if !self.sidecars.contains_key(&segment) {
            if self.sidecars.len() >= OPEN_MAX {
                self.close_some();
            }
            let name = state_name(segment);
            let file = match self.shared.disk.open(&name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let file = self.shared.disk.create(&name)?;
                    write_all(&*file, &mut [IoSlice::new(&state_header(segment, generation))], 0)?;
                    self.shared.disk.sync_dir()?;
                    file
                }
                other => other?,
            };
            let sidecar = Sidecar {
                file,
                generation,
                tail,
                finals_since: None,
                deferrals_since: None,
                suspect: false,
                rewritten: 0,
                frees: Vec::new(),
                used: 0,
            };
            self.sidecars.insert(segment, sidecar);
        }
        let mut sidecar = self.sidecars.get_mut(&segment);
        if let Some(sidecar) = &mut sidecar {
            sidecar.used = self.clock;
        }
        Ok(sidecar)
    }

    /// Closes the sidecars used longest ago, of those that are durable.
    fn close_some(&mut self) {
        let mut clean: Vec<_> =
            self.sidecars.iter().filter(|(_, s)| !s.is_dirty()).map(|(n, s)| (s.used, *n)).collect();
        clean.sort_unstable();
        for (_, number) in clean.into_iter().take(OPEN_MAX / 4) {
            self.sidecars.remove(&number);
        }
    }

    /// Makes durable what has waited long enough; all of it when `all`. True if everything due is durable.
    pub fn sync(&mut self, all: bool) -> bool {
        let now = Instant::now();
        let finals = self.shared.config.state_sync_interval;
        let deferrals = self.shared.config.deferral_sync_interval;
        let old =
            |since: Option<Instant>, limit| since.is_some_and(|since| now.duration_since(since) >= limit);
        let due: Vec<u32> = self
            .sidecars
            .iter()
            .filter(|(_, s)| {
                s.is_dirty()
                    && (all || s.suspect || old(s.finals_since, finals) || old(s.deferrals_since, deferrals))
            })
            .map(|(number, _)| *number)
            .collect();
        {
            let table = lock(&self.shared.table);
            self.sidecars.retain(|number, _| table.segments.contains_key(number));
        }
        let mut durable = true;
        for number in due {
            durable &= self.sync_one(number);
        }
        durable
    }

    fn sync_one(&mut self, number: u32) -> bool {
        let Some(sidecar) = self.sidecars.get_mut(&number) else { return true };
        add(&self.shared.counters.state_syncs, 1);
        if !sidecar.suspect {
            match sidecar.file.datasync() {
                Ok(()) => {
                    self.settle_dirt(number);
                    return true;
                }
                Err(error) => {
                    tracing::error!(segment = number, %error, "outcomes not durable, the file is rewritten");
                    sidecar.suspect = true;
                }
            }
        }
        match self.rewrite(number) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(segment = number, %error, "outcomes not rewritten yet");
                false
            }
        }
    }

    fn settle_dirt(&mut self, number: u32) {
        let Some(sidecar) = self.sidecars.get_mut(&number) else { return };
        sidecar.finals_since = None;
        sidecar.deferrals_since = None;
        sidecar.suspect = false;
        let freed = std::mem::take(&mut sidecar.frees);
        if !freed.is_empty() {
            let mut table = lock(&self.shared.table);
            for number in freed {
                if let Some(segment) = table.segments.get_mut(&number) {
                    segment.barred = segment.barred.saturating_sub(1);
                }
            }
        }
    }

    /// When the next sync is due.
    pub fn sync_at(&self) -> Option<Instant> {
        let finals = self.shared.config.state_sync_interval;
        let deferrals = self.shared.config.deferral_sync_interval;
        let due = self.sidecars.values().flat_map(|s| {
            let suspect = s.suspect.then(|| Instant::now() + finals);
            [s.finals_since.map(|t| t + finals), s.deferrals_since.map(|t| t + deferrals), suspect]
        });
        due.flatten().min()
    }

    /// Rewrites sidecars that have grown too long.
    pub fn shorten(&mut self) {
        let limit = self.shared.config.sidecar_bytes_max.bytes();
        let long = |s: &Sidecar| s.tail > limit && s.tail > 2 * s.rewritten;
        let long: Vec<u32> = self.sidecars.iter().filter(|(_, s)| long(s)).map(|(n, _)| *n).collect();
        for number in long {
            if let Err(error) = self.rewrite(number) {
                tracing::warn!(segment = number, %error, "outcomes not shortened yet");
            }
        }
    }

    /// Rewrites all that are open, however short.
    #[cfg(test)]
    pub fn shorten_all(&mut self) {
        for number in self.sidecars.keys().copied().collect::<Vec<_>>() {
            let _ = self.rewrite(number);
        }
    }

    /// Writes a sidecar anew, with what still matters, and puts it in the place of the old one.
    fn rewrite(&mut self, number: u32) -> io::Result<()> {
        let Some(sidecar) = self.sidecars.get(&number) else { return Ok(()) };
        let generation = sidecar.generation;
        let old = SegmentStates::read(&*sidecar.file, number, generation)?;
        let mut records = Vec::new();
        {
            let table = lock(&self.shared.table);
            let Some(segment) = table.segments.get(&number) else { return Ok(()) };
            if !matches!(segment.phase, Phase::Active | Phase::Sealed) {
                return Ok(());
            }
            essence(&old, segment.index.all_units(), &mut records);
        }
        let mut octets = state_header(number, generation).to_vec();
        records.iter().for_each(|record| record.encode(generation, &mut octets));
        let name = state_name(number);
        let temporary = format!("{name}.tmp");
        let file = self.shared.disk.create(&temporary)?;
        write_all(&*file, &mut [IoSlice::new(&octets)], 0)?;
        file.datasync()?;
        self.shared.disk.rename(&temporary, &name)?;
        add(&self.shared.counters.state_bytes_written, octets.len() as u64);
        if let Some(sidecar) = self.sidecars.get_mut(&number) {
            sidecar.file = file;
            sidecar.tail = octets.len() as u64;
            sidecar.rewritten = sidecar.tail;
        }
        if let Some(segment) = lock(&self.shared.table).segments.get_mut(&number) {
            segment.state_tail = octets.len() as u64;
        }
        // Only when the new name is durable is what was written to the new file.
        self.shared.disk.sync_dir()?;
        self.settle_dirt(number);
        Ok(())
    }

    /// Copies survivors of the segment that holds least forward, at most about this many octets; how many
    /// were copied.
    pub fn copy_forward(&mut self, budget: u64) -> u64 {
        if self.is_behind() {
            return 0;
        }
        let Some((source, generation, units)) = self.candidate(budget) else { return 0 };
        let states = {
            let Ok(Some(sidecar)) = self.sidecar(source) else { return 0 };
            match SegmentStates::read(&*sidecar.file, source, generation) {
                Ok(states) => states,
                Err(_) => return 0,
            }
        };
        let Ok(file) = self.shared.file(source) else { return 0 };
        let (mut packed, mut from) = (Vec::new(), Vec::new());
        for unit in units {
            let offset = u64::from(unit) * ALIGN;
            let origin = Handle::new(source, offset);
            match read_record(&*file, generation, offset) {
                Ok(whole) => {
                    let content_at = whole.header.content_at() as usize;
                    let header = whole.header;
                    let head = whole.head().to_vec();
                    let content = Bytes::from(whole.octets).slice(content_at..);
                    if let Ok(record) = Packed::copy_of(&header, &head, content, origin) {
                        packed.push(record);
                        from.push(origin);
                    }
                }
                Err(trouble) => self.rotten(origin, &trouble),
            }
        }
        let octets = packed.iter().map(Packed::len).sum();
        let results = self.mover.append(&mut packed);
        let moves: Vec<(Handle, Handle)> =
            from.into_iter().zip(results).filter_map(|(from, to)| Some((from, to.ok()?))).collect();
        if moves.is_empty() {
            return 0;
        }
        if let Err(error) = self.carry_states(&states, &moves) {
            tracing::warn!(segment = source, %error, "survivors not copied");
            self.undo(&moves);
            return 0;
        }
        // From here on some of these may be durable, so there is no way back: the copies are in force.
        let records: Vec<_> = moves
            .iter()
            .map(|(from, to)| (StateRecord::Moved { unit: from.unit(), to: *to }, None))
            .collect();
        if let Err(error) = self.write(source, &records) {
            tracing::warn!(segment = source, %error, "moves not written yet");
            self.unwritten.extend(records.into_iter().map(|(record, _)| (source, record, None)));
        } else {
            self.sync_one(source);
        }
        let mut table = lock(&self.shared.table);
        for (from, to) in &moves {
            table.moved(*from, *to);
        }
        if let Some(segment) = table.segments.get_mut(&source) {
            for (from, _) in &moves {
                segment.index.drop_record(from.unit());
            }
        }
        drop(table);
        add(&self.shared.counters.moved_messages, moves.len() as u64);
        add(&self.shared.counters.moved_bytes, octets);
        self.shared.janitor_bell.ring();
        octets
    }

    fn candidate(&self, budget: u64) -> Option<(u32, u64, Vec<u32>)> {
        let config = &self.shared.config;
        let table = lock(&self.shared.table);
        if !table.all_loaded {
            return None;
        }
        let worth = |s: &crate::table::Segment| {
            s.phase == Phase::Sealed
                && s.index.live() > 0
                && !s.keep
                && s.index.live_bytes() * 100 < s.size * config.copy_below_percent
                && s.sealed_at.elapsed() >= config.copy_after
        };
        let (number, segment) =
            table.segments.iter().filter(|(_, s)| worth(s)).min_by_key(|(_, s)| s.index.live_bytes())?;
        let each = segment.index.live_bytes() / u64::from(segment.index.live());
        let count = usize::try_from((budget / each.max(1)).clamp(1, 1024)).unwrap_or(1);
        Some((*number, segment.generation, segment.index.live_units_iter().take(count).collect()))
    }

    /// Gives the copies the states of their originals, durably.
    fn carry_states(&mut self, states: &SegmentStates, moves: &[(Handle, Handle)]) -> io::Result<()> {
        let mut groups: BTreeMap<u32, Vec<(StateRecord, Option<u32>)>> = BTreeMap::new();
        {
            let mut table = lock(&self.shared.table);
            for (from, to) in moves {
                let Some(progress) = states.messages.get(&from.unit()) else { continue };
                let records = groups.entry(to.segment()).or_default();
                let Some(segment) = table.segments.get_mut(&to.segment()) else { continue };
                for (first, count) in progress.done.ranges() {
                    (first..first.saturating_add(count)).for_each(|recipient| {
                        segment.index.take(to.unit(), recipient);
                    });
                    let fate = crate::Fate::Delivered;
                    records.push((StateRecord::Final { unit: to.unit(), first, count, fate }, None));
                }
                for (recipient, deferral) in &progress.deferred {
                    let (recipient, deferral) = (*recipient, deferral.clone());
                    records.push((StateRecord::Deferred { unit: to.unit(), recipient, deferral }, None));
                }
            }
        }
        for (segment, records) in groups {
            self.write(segment, &records)?;
            if !self.sync_one(segment) {
                return Err(io::Error::other("states of copies not durable"));
            }
        }
        Ok(())
    }

    /// Makes copies void that never came into force; their origin stays until that is durable.
    fn undo(&mut self, moves: &[(Handle, Handle)]) {
        let mut table = lock(&self.shared.table);
        for (from, to) in moves {
            let mut end = to.unit() + 1;
            if let Some(segment) = table.segments.get_mut(&to.segment()) {
                segment.index.drop_record(to.unit());
                end = segment.index.end_of(to.unit()).unwrap_or(end);
            }
            if let Some(segment) = table.segments.get_mut(&from.segment()) {
                segment.barred += 1;
            }
            let record = StateRecord::Gone { unit: to.unit(), end };
            self.unwritten.push((to.segment(), record, Some(from.segment())));
        }
    }

    fn rotten(&mut self, place: Handle, trouble: &Trouble) {
        let offset = place.offset();
        match trouble {
            // The disk may read it the next time.
            Trouble::Io(error) => {
                tracing::error!(segment = place.segment(), offset, %error, "message not readable");
                if let Some(segment) = lock(&self.shared.table).segments.get_mut(&place.segment()) {
                    segment.keep = true;
                }
            }
            Trouble::Rotten(reason) => drop(set_message_aside(&self.shared, place, *reason)),
            Trouble::NotThere => drop(set_message_aside(&self.shared, place, DamageReason::Header)),
        }
    }

    /// Ends the segment that survivors are copied to.
    pub fn seal(&mut self) {
        self.mover.seal();
    }
}

/// Copies a damaged message to `quarantine/` and forgets it; the file's name.
pub(crate) fn set_message_aside(shared: &Shared, place: Handle, reason: DamageReason) -> Option<String> {
    let octets = {
        let table = lock(&shared.table);
        let segment = table.segments.get(&place.segment())?;
        let end = segment.index.end_of(place.unit())?;
        u64::from(end) * ALIGN - place.offset().max(PAGE)
    };
    let damage = quarantine::stretch(shared, place.segment(), place.offset(), octets, None, reason);
    if damage.set_aside.is_some() {
        let mut table = lock(&shared.table);
        if let Some(segment) = table.segments.get_mut(&place.segment()) {
            segment.index.drop_record(place.unit());
        }
        table.forget(place);
        shared.janitor_bell.ring();
    }
    damage.set_aside
}

/// What of a sidecar still matters, given which records are live.
fn essence(old: &SegmentStates, units: impl Iterator<Item = (u32, bool)>, records: &mut Vec<StateRecord>) {
    records.extend(old.sealed.map(|end| StateRecord::Sealed { end }));
    records.extend(old.gone.iter().map(|(unit, end)| StateRecord::Gone { unit: *unit, end: *end }));
    for (unit, live) in units {
        let progress = old.messages.get(&unit);
        if let Some(to) = progress.and_then(|p| p.moved) {
            records.push(StateRecord::Moved { unit, to });
        } else if !live {
            records.push(StateRecord::Final {
                unit,
                first: 0,
                count: u16::MAX,
                fate: crate::Fate::Delivered,
            });
        } else if let Some(progress) = progress {
            for (first, count) in progress.done.ranges() {
                records.push(StateRecord::Final { unit, first, count, fate: crate::Fate::Delivered });
            }
            for (recipient, deferral) in &progress.deferred {
                let (recipient, deferral) = (*recipient, deferral.clone());
                records.push(StateRecord::Deferred { unit, recipient, deferral });
            }
        }
    }
}
