//! Opening a spool: what is on disk is listed at once and read afterwards, oldest first.

use crate::disk::{Disk, is_full, read_full, write_all};
use crate::index::Index;
use crate::quarantine::{self, Damage, DamageReason};
use crate::record::{ALIGN, FirstPage, PAGE, RecordHeader, SegmentHeader, VERSION};
use crate::scan::{Scanner, Step};
use crate::state::{Progress, SegmentStates};
use crate::table::{Note, Phase, Segment, Shared, add, lock, numbered, state_name};
use crate::{Config, Handle, OpenError, codec};
use mail::{Message, Reply, SpoolId, UnixMillis};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

/// A message found on disk, with the recipients that are not settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its name for reading and settling.
    pub handle: Handle,
    /// The message.
    pub message: Message,
    /// Who still waits; never empty.
    pub pending: Vec<PendingRecipient>,
}

/// A recipient that is not settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRecipient {
    /// Its place in the envelope.
    pub index: u16,
    /// Attempts made.
    pub attempts: u32,
    /// When the next one is due; absent if there was none yet.
    pub due: Option<UnixMillis>,
    /// What the last attempt was told.
    pub last_reply: Option<Reply>,
    /// An attempt ended after the end of data without a reply: it may have been delivered.
    pub ambiguous: bool,
}

/// What a [`Loader`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadEvent {
    /// A message to deliver.
    Message(Box<Loaded>),
    /// Something was written once and is not as it was written. It is set aside, the rest loads.
    Damaged(Damage),
    /// The last commit before a crash did not reach the disk whole. Nobody was told that it had.
    Torn {
        /// The segment.
        segment: u32,
        /// Where in it.
        offset: u64,
    },
    /// A segment is read.
    SegmentDone {
        /// The segment.
        segment: u32,
        /// Messages found in it.
        messages: u32,
        /// Those with pending recipients.
        live: u32,
        /// Segments still to be read.
        remaining: u32,
    },
}

/// Lists what is there, takes it into the table, and makes the loader.
pub(crate) fn open_shared(disk: Arc<dyn Disk>, config: &Config) -> Result<(Arc<Shared>, Loader), OpenError> {
    let io =
        |what: &'static str| move |source| OpenError::Io { what, path: std::path::PathBuf::new(), source };
    let shared = Arc::new(Shared::new(disk.clone(), config));
    let files = disk.list().map_err(io("list the directory"))?;
    check_format(&*disk, &files)?;

    let mut events = VecDeque::new();
    let mut waiting = VecDeque::new();
    let mut leftovers = Vec::new();
    let mut newest: Option<SegmentHeader> = None;
    let mut next_number = 1;
    let mut segments = HashSet::new();
    for (name, len) in &files {
        let Some(number) = numbered(name, ".seg") else { continue };
        segments.insert(number);
        next_number = next_number.max(number.saturating_add(1));
        let mut page = vec![0; PAGE as usize];
        let judged = disk.open(name).and_then(|file| {
            let got = read_full(&*file, &mut page, 0)?;
            page.truncate(got);
            Ok(SegmentHeader::judge(&page, number))
        });
        match judged {
            Ok(FirstPage::Segment(header)) => {
                let size = header.size.clamp(PAGE, u64::from(u32::MAX) * ALIGN);
                if size != header.size || *len < PAGE {
                    events.push_back(quarantine::whole_segment(&shared, number, *len));
                    continue;
                }
                if newest.is_none_or(|n| n.number < number) {
                    newest = Some(header);
                }
                shared.ids.raise(header.id_floor);
                waiting.push_back((number, header, (*len).min(size)));
            }
            Ok(FirstPage::Spare) => leftovers.push(number),
            Ok(FirstPage::Version(found)) => return Err(OpenError::Format { found, known: VERSION }),
            Ok(FirstPage::Damaged) | Err(_) => {
                events.push_back(quarantine::whole_segment(&shared, number, *len));
            }
        }
    }
    for (name, _) in &files {
        if let Some(number) = numbered(name, ".state") {
            next_number = next_number.max(number.saturating_add(1));
            if !segments.contains(&number) {
                let _ = disk.remove(name);
            }
        } else if name.ends_with(".state.tmp") {
            let _ = disk.remove(name);
        }
    }
    waiting.make_contiguous().sort_by_key(|(number, _, _)| *number);
    leftovers.sort_unstable();
    if let Some(header) = newest {
        raise_ids(&shared, header).map_err(io("read the newest segment"))?;
    }
    {
        let mut table = lock(&shared.table);
        table.next_number = next_number;
        for (number, header, size) in &waiting {
            let segment = Segment {
                generation: header.generation,
                size: *size,
                phase: Phase::Waiting,
                index: Index::default(),
                state_tail: 0,
                sealed_at: Instant::now(),
                born_here: false,
                barred: 0,
                keep: false,
            };
            table.segments.insert(*number, segment);
        }
        table.all_loaded = waiting.is_empty();
    }
    lock(&shared.spares).leftovers = leftovers;
    let loader = Loader {
        shared: shared.clone(),
        waiting: waiting.into_iter().map(|(number, _, _)| number).collect(),
        current: None,
        events,
        moves: HashMap::new(),
    };
    Ok((shared, loader))
}

/// Ids in the newest segment are above those of every other; those in it may be above its own floor.
fn raise_ids(shared: &Shared, header: SegmentHeader) -> io::Result<()> {
    let file = shared.file(header.number)?;
    let mut scanner = Scanner::new(file, header.generation, header.size);
    // Only as far as the headers are sound: beyond damage only a clock that also went back could matter.
    while let Step::Record { header, .. } = scanner.step_sound() {
        shared.ids.raise(header.id.0);
    }
    Ok(())
}

const FORMAT: &str = "FORMAT";

/// The version of the directory: one line, `tuma-spool 1`.
fn check_format(disk: &dyn Disk, files: &[(String, u64)]) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { what: "read FORMAT", path: FORMAT.into(), source };
    let len = files.iter().find(|(name, _)| name == FORMAT).map_or(0, |(_, len)| *len);
    if len == 0 {
        let text = format!("tuma-spool {VERSION}\n");
        let made = disk.create(FORMAT).and_then(|file| {
            write_all(&*file, &mut [IoSlice::new(text.as_bytes())], 0)?;
            file.datasync()?;
            disk.sync_dir()
        });
        return match made {
            // Every segment names the version too, so a full disk need not keep us from delivering.
            Err(error) if !is_full(&error) => Err(io(error)),
            _ => Ok(()),
        };
    }
    let mut text = [0; 64];
    let got = disk.open(FORMAT).and_then(|file| read_full(&*file, &mut text, 0)).map_err(io)?;
    let text = String::from_utf8_lossy(&text[..got]);
    match text.trim_end().strip_prefix("tuma-spool ").and_then(|number| number.parse().ok()) {
        Some(VERSION) => Ok(()),
        Some(found) => Err(OpenError::Format { found, known: VERSION }),
        None => Err(OpenError::NotASpool),
    }
}

/// Reads a spool's messages, segment after segment, on whatever thread calls it. Run it to its end: segments
/// found at opening are not given up before.
pub struct Loader {
    shared: Arc<Shared>,
    waiting: VecDeque<u32>,
    current: Option<Current>,
    events: VecDeque<LoadEvent>,
    /// Per segment that messages were copied out of: from which unit to where.
    moves: HashMap<u32, HashMap<u32, Handle>>,
}

struct Current {
    number: u32,
    scanner: Scanner,
    states: SegmentStates,
    limit: u64,
    /// What the last commit seen left, judged once another one or the end is seen.
    held: Vec<Held>,
    batch: u32,
    end: u64,
    torn: bool,
    messages: u32,
}

#[allow(clippy::large_enum_variant, reason = "nearly all are records")]
enum Held {
    Record { offset: u64, header: RecordHeader, head: Head },
    Hole { from: u64, to: u64 },
}

/// The envelope of a record.
#[allow(clippy::large_enum_variant, reason = "nearly all are sound")]
enum Head {
    Sound(Message),
    Bad(DamageReason),
    /// Nobody will ask for it: every recipient is settled.
    Settled,
}

/// Records released at once from a segment known to be whole.
const RELEASE: usize = 256;

impl Iterator for Loader {
    type Item = LoadEvent;

    /// The next event; `None` when everything is read. Blocks on the disk.
    fn next(&mut self) -> Option<LoadEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            match self.current.take() {
                Some(current) => self.advance(current),
                None => {
                    let Some(number) = self.waiting.pop_front() else {
                        lock(&self.shared.table).all_loaded = true;
                        self.shared.janitor_bell.ring();
                        return None;
                    };
                    self.begin(number);
                }
            }
        }
    }
}

impl Loader {
    /// Segments still to be read.
    pub fn remaining(&self) -> usize {
        self.waiting.len() + usize::from(self.current.is_some())
    }

    fn begin(&mut self, number: u32) {
        let Some((generation, size)) = ({
            let mut table = lock(&self.shared.table);
            table.segments.get_mut(&number).map(|segment| {
                segment.phase = Phase::Loading;
                (segment.generation, segment.size)
            })
        }) else {
            return;
        };
        let file = match self.shared.file(number) {
            Ok(file) => file,
            Err(error) => return self.unreadable(number, size, &error),
        };
        let states = match self.shared.disk.open(&state_name(number)) {
            Ok(sidecar) => SegmentStates::read(&*sidecar, number, generation),
            Err(error) => Err(error),
        };
        let mut states = states.unwrap_or_else(|error| {
            tracing::error!(segment = number, %error, "outcomes not readable");
            SegmentStates { headless: true, tail: crate::state::STATE_HEADER, ..SegmentStates::default() }
        });
        if states.headless || states.holes > 0 {
            let damage = Damage {
                segment: number,
                offset: 0,
                octets: 0,
                id: None,
                set_aside: None,
                reason: DamageReason::Outcomes,
            };
            self.events.push_back(LoadEvent::Damaged(damage));
        }
        // The old place and the new one must be judged by one and the same reading, or a disk that reads
        // badly could make both void.
        let moves = self.moves.entry(number).or_insert_with(|| moves_of(&states));
        states.messages.values_mut().for_each(|progress| progress.moved = None);
        for (unit, to) in moves {
            states.messages.entry(*unit).or_default().moved = Some(*to);
        }
        if let Some(segment) = lock(&self.shared.table).segments.get_mut(&number) {
            segment.state_tail = states.tail;
        }
        let limit = states.sealed.unwrap_or(size).clamp(PAGE, size.max(PAGE));
        let mut scanner = Scanner::new(file, generation, limit);
        if states.sealed.is_none() {
            scanner.skip_unwritten();
        }
        self.current = Some(Current {
            number,
            scanner,
            states,
            limit,
            held: Vec::new(),
            batch: 0,
            end: PAGE,
            torn: false,
            messages: 0,
        });
    }

    /// A segment that cannot even be opened: it stays where it is, and is never reused.
    fn unreadable(&mut self, number: u32, size: u64, error: &io::Error) {
        tracing::error!(segment = number, %error, "segment not readable");
        if let Some(segment) = lock(&self.shared.table).segments.get_mut(&number) {
            segment.keep = true;
            segment.phase = Phase::Sealed;
        }
        let damage = Damage {
            segment: number,
            offset: 0,
            octets: size,
            id: None,
            set_aside: None,
            reason: DamageReason::Unreadable,
        };
        self.events.push_back(LoadEvent::Damaged(damage));
    }

    /// Reads on until there is something to tell.
    fn advance(&mut self, mut current: Current) {
        let sealed = current.states.sealed.is_some();
        loop {
            let unit = (current.scanner.at() / ALIGN) as u32;
            if let Some(end) = current.states.gone_until(unit).filter(|end| *end > unit) {
                current.scanner.skip_to(u64::from(end) * ALIGN);
                current.end = current.scanner.at();
                continue;
            }
            match current.scanner.step() {
                Step::Record { offset, header } => {
                    if header.batch != current.batch {
                        current.batch = header.batch;
                        // A hole just before belongs to this commit as likely as to the one before.
                        let before = current.held.iter().rposition(|h| matches!(h, Held::Record { .. }));
                        let mut earlier = std::mem::take(&mut current.held);
                        current.held = earlier.split_off(before.map_or(0, |n| n + 1));
                        self.release(&mut current, earlier, false);
                    }
                    let held = current.read_head(offset, header);
                    current.held.push(held);
                    current.end = offset + header.total();
                    if sealed && current.held.len() >= RELEASE {
                        let held = std::mem::take(&mut current.held);
                        self.release(&mut current, held, false);
                    }
                    if !self.events.is_empty() {
                        self.current = Some(current);
                        return;
                    }
                }
                Step::Hole { from, to } => current.cut_hole(from, to),
                Step::End { from } => {
                    if sealed {
                        current.cut_hole(from, current.limit);
                    } else if current.scanner.begins_record(from) {
                        self.torn(&mut current, from);
                    }
                    let held = std::mem::take(&mut current.held);
                    self.release(&mut current, held, !sealed);
                    return self.finish(current, sealed);
                }
            }
        }
    }

    /// Hands out what is held. With `last`, it is of the last commit before a crash: it may be torn.
    fn release(&mut self, current: &mut Current, held: Vec<Held>, last: bool) {
        let mut entries = Vec::with_capacity(held.len());
        for item in held {
            match item {
                Held::Hole { from, .. } if last => self.torn(current, from),
                Held::Hole { from, to } => {
                    let reason = DamageReason::Header;
                    self.set_aside(current, from, to - from, None, reason);
                }
                Held::Record { offset, header, head } => {
                    current.messages += 1;
                    let sound = match head {
                        Head::Settled => true,
                        Head::Bad(_) => false,
                        Head::Sound(_) => !last || current.scanner.content_is_sound(offset, &header),
                    };
                    if last && !sound {
                        self.torn(current, offset);
                        self.void(current, offset, header.total(), None);
                        continue;
                    }
                    self.judge(current, offset, header, head, &mut entries);
                }
            }
        }
        let mut table = lock(&self.shared.table);
        let Some(segment) = table.segments.get_mut(&current.number) else { return };
        for (offset, header, progress) in entries {
            let unit = (offset / ALIGN) as u32;
            segment.index.push(unit, (header.total() / ALIGN) as u32, header.recipients);
            match progress {
                None => drop(segment.index.drop_record(unit)),
                Some(progress) => {
                    for recipient in (0..header.recipients).filter(|r| progress.done.contains(*r)) {
                        segment.index.take(unit, recipient);
                    }
                }
            }
        }
    }

    /// Decides about one record: to deliver, settled, elsewhere, or damaged.
    fn judge(
        &mut self,
        current: &mut Current,
        offset: u64,
        header: RecordHeader,
        head: Head,
        entries: &mut Vec<(u64, RecordHeader, Option<Progress>)>,
    ) {
        let here = Handle::new(current.number, offset);
        if let Some(origin) = header.origin
            && !self.in_force(origin, here)
        {
            self.void(current, offset, header.total(), Some(origin.segment()));
            return;
        }
        let progress = current.states.messages.remove(&here.unit()).unwrap_or_default();
        let message = match head {
            Head::Sound(message) => message,
            Head::Bad(reason) => {
                return self.set_aside(current, offset, header.total(), Some(header.id), reason);
            }
            Head::Settled => return entries.push((offset, header, None)),
        };
        let pending = (0..header.recipients).filter(|recipient| !progress.done.contains(*recipient));
        let pending = pending.map(|index| match progress.deferred.get(&index) {
            Some(deferral) => PendingRecipient {
                index,
                attempts: deferral.attempts,
                due: Some(deferral.due),
                last_reply: deferral.reply.clone(),
                ambiguous: deferral.ambiguous,
            },
            None => PendingRecipient { index, attempts: 0, due: None, last_reply: None, ambiguous: false },
        });
        let loaded = Loaded { handle: here, message, pending: pending.collect() };
        entries.push((offset, header, Some(progress)));
        self.events.push_back(LoadEvent::Message(Box::new(loaded)));
    }

    /// A copy counts from the moment its old place says so, and of course when there is no old place.
    fn in_force(&mut self, origin: Handle, here: Handle) -> bool {
        let generation = {
            let table = lock(&self.shared.table);
            match table.segments.get(&origin.segment()) {
                None => return true,
                Some(segment) => segment.generation,
            }
        };
        let shared = &self.shared;
        let moves = self.moves.entry(origin.segment()).or_insert_with(|| {
            let states = shared
                .disk
                .open(&state_name(origin.segment()))
                .and_then(|file| SegmentStates::read(&*file, origin.segment(), generation));
            states.map(|states| moves_of(&states)).unwrap_or_default()
        });
        moves.get(&origin.unit()) == Some(&here)
    }

    fn torn(&mut self, current: &mut Current, offset: u64) {
        current.torn = true;
        add(&self.shared.counters.torn, 1);
        self.events.push_back(LoadEvent::Torn { segment: current.number, offset });
    }

    /// Makes sure that a record never counts again; `origin` stays until that is durable.
    fn void(&mut self, current: &Current, offset: u64, octets: u64, origin: Option<u32>) {
        if let Some(origin) = origin
            && let Some(segment) = lock(&self.shared.table).segments.get_mut(&origin)
        {
            segment.barred += 1;
        }
        let (unit, end) = ((offset / ALIGN) as u32, (offset + octets).div_ceil(ALIGN) as u32);
        self.shared.note(Note::Gone { segment: current.number, unit, end, frees: origin });
    }

    fn set_aside(
        &mut self,
        current: &Current,
        offset: u64,
        octets: u64,
        id: Option<SpoolId>,
        reason: DamageReason,
    ) {
        let damage = quarantine::stretch(&self.shared, current.number, offset, octets, id, reason);
        self.events.push_back(LoadEvent::Damaged(damage));
    }

    fn finish(&mut self, current: Current, sealed: bool) {
        let number = current.number;
        if current.scanner.unreadable > 0 {
            tracing::error!(segment = number, octets = current.scanner.unreadable, "octets not readable");
        }
        // What a killed process wrote may be in memory only; once it is durable the end needs no more proof.
        if !sealed && !current.torn {
            let synced = self.shared.file(number).and_then(|file| file.datasync());
            if synced.is_ok() {
                self.shared.note(Note::Seal { segment: number, end: current.end.max(PAGE) });
            }
        }
        let live = {
            let mut table = lock(&self.shared.table);
            table.segments.get_mut(&number).map_or(0, |segment| {
                segment.phase = Phase::Sealed;
                segment.sealed_at = Instant::now();
                segment.index.shrink();
                segment.index.live()
            })
        };
        self.shared.janitor_bell.ring();
        let remaining = self.waiting.len() as u32;
        let messages = current.messages;
        self.events.push_back(LoadEvent::SegmentDone { segment: number, messages, live, remaining });
    }
}

fn moves_of(states: &SegmentStates) -> HashMap<u32, Handle> {
    states.messages.iter().filter_map(|(unit, progress)| Some((*unit, progress.moved?))).collect()
}

impl Current {
    fn read_head(&mut self, offset: u64, header: RecordHeader) -> Held {
        let unit = (offset / ALIGN) as u32;
        let settled = self.states.messages.get(&unit).is_some_and(|progress| {
            progress.moved.is_some() || (0..header.recipients).all(|r| progress.done.contains(r))
        });
        let head = match self.scanner.head(offset, &header) {
            _ if settled => Head::Settled,
            None => Head::Bad(DamageReason::Envelope),
            Some(head) => match codec::decode(header.id, head) {
                Ok(message) if message.envelope.recipients.len() == usize::from(header.recipients) => {
                    Head::Sound(message)
                }
                Err(codec::HeadError::Version(version)) => Head::Bad(DamageReason::HeadVersion(version)),
                _ => Head::Bad(DamageReason::Envelope),
            },
        };
        Held::Record { offset, header, head }
    }

    /// Holds a hole, without the stretches in it that are known to be void.
    fn cut_hole(&mut self, mut from: u64, to: u64) {
        while from < to {
            let unit = (from / ALIGN) as u32;
            if let Some(end) = self.states.gone_until(unit).filter(|end| *end > unit) {
                from = u64::from(end) * ALIGN;
                continue;
            }
            let next = self.states.gone.iter().map(|(start, _)| u64::from(*start) * ALIGN);
            let until = next.filter(|start| *start > from).min().unwrap_or(to).min(to);
            self.held.push(Held::Hole { from, to: until });
            from = until;
        }
    }
}
