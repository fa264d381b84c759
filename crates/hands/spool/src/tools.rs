//! Looking at a stopped spool, and carrying its messages elsewhere: `verify`, `list`, `find`, `export`,
//! `import`. Each takes the spool's lock; only `import` changes anything.

use crate::disk::{Disk, RealDisk, read_full};
use crate::ledger::Ledger;
use crate::load::open_shared;
use crate::record::{ALIGN, FirstPage, PAGE, RecordHeader, SegmentHeader, VERSION};
use crate::scan::{Scanner, Step, Trouble, read_record};
use crate::state::{Progress, STATE_HEADER, SegmentStates};
use crate::table::{numbered, segment_name, state_name};
use crate::transfer;
pub use crate::transfer::ImportError;
use crate::writer::{Packed, Writer};
use crate::{
    Change, Config, Content, DamageReason, Handle, OpenError, PendingRecipient, Refusal, Settlement, Stored,
    codec,
};
use bytes::Bytes;
use mail::{Message, SpoolId};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::Arc;

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments in use.
    pub segments: u32,
    /// Files ready for reuse.
    pub spares: u32,
    /// Records whose every octet was checked.
    pub records: u64,
    /// Messages with pending recipients.
    pub messages: u64,
    /// Their pending recipients.
    pub recipients: u64,
    /// Octets of their content.
    pub octets: u64,
    /// Commits that a crash cut short; nobody was told that they succeeded.
    pub torn: u64,
    /// Whatever is not as it was written.
    pub problems: Vec<Problem>,
}

/// Something [`verify`] found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// How much of it.
    pub octets: u64,
    /// The message, when its header is sound.
    pub id: Option<SpoolId>,
    /// Somebody still waits for it, as far as is known.
    pub needed: bool,
    /// What is wrong.
    pub reason: DamageReason,
}

/// A message that has pending recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where it stands.
    pub place: Handle,
    /// Everything known of it but its content.
    pub message: Message,
    /// Who waits.
    pub pending: Vec<PendingRecipient>,
}

/// Checks every octet of a spool.
pub fn verify(directory: &Path) -> Result<Report, OpenError> {
    let disk = existing(directory)?;
    Walk::start(&disk)?.verify()
}

/// Shows every message with pending recipients, oldest segment first, until `visit` returns false.
pub fn list(directory: &Path, mut visit: impl FnMut(Listed) -> bool) -> Result<(), OpenError> {
    let disk = existing(directory)?;
    Walk::start(&disk)?.list(&mut |listed, _| visit(listed))
}

/// Finds one message, with its content.
pub fn find(directory: &Path, id: SpoolId) -> Result<Option<(Listed, Stored)>, OpenError> {
    let disk = existing(directory)?;
    let mut found = None;
    Walk::start(&disk)?.list(&mut |listed, content| {
        if listed.message.id == id {
            let message = listed.message.clone();
            found = Some((listed, Stored { message, content }));
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Writes every message with pending recipients to `out`, in the form that `docs/spool-format.md` describes;
/// how many. Damaged ones are left out: [`verify`] names them.
pub fn export(directory: &Path, out: &mut dyn Write) -> Result<u64, OpenError> {
    let disk = existing(directory)?;
    let failed = |source| OpenError::Io { what: "write the export", path: directory.to_path_buf(), source };
    let (mut count, mut error) = (0, None);
    transfer::write_head(out).map_err(failed)?;
    Walk::start(&disk)?.list(&mut |listed, content| {
        match transfer::write(out, &listed.message, &listed.pending, &content) {
            Ok(()) => count += 1,
            Err(failure) => error = Some(failure),
        }
        error.is_none()
    })?;
    error.map_or(Ok(()), Err).and_then(|()| transfer::write_end(out, count)).map_err(failed)?;
    Ok(count)
}

/// Takes in what [`export`] wrote, under new ids; how many messages. What was taken in before an error stays.
pub fn import(directory: &Path, config: &Config, input: &mut dyn BufRead) -> Result<u64, ImportError> {
    let disk = RealDisk::open(directory).map_err(ImportError::Open)?;
    let (shared, _) = open_shared(Arc::new(disk), config).map_err(ImportError::Open)?;
    let (mut writer, mut ledger) = (Writer::new(shared.clone()), Ledger::new(shared.clone()));
    let mut count = 0;
    transfer::read_head(input)?;
    let result = loop {
        let (mut message, pending, content) = match transfer::read(input) {
            Ok(Some(parts)) => parts,
            Ok(None) => break transfer::check_end(input, count),
            Err(error) => break Err(error),
        };
        message.id = shared.ids.next();
        message.size = content.len();
        let taken = Packed::new(&message, &content)
            .and_then(|packed| writer.append(&mut [packed]).pop().unwrap_or(Err(Refusal::Io)));
        let handle = match taken {
            Ok(handle) => handle,
            Err(refusal) => break Err(ImportError::Refused(refusal)),
        };
        count += 1;
        let deferred = pending.into_iter().filter_map(|p| {
            let change = Change::Deferred {
                attempts: p.attempts,
                due: p.due?,
                reply: p.last_reply,
                ambiguous: p.ambiguous,
            };
            Some(Settlement { handle, recipient: p.index, change })
        });
        ledger.apply(deferred.collect(), Vec::new());
    };
    writer.seal();
    ledger.flush();
    if !ledger.sync(true) || ledger.is_behind() {
        return Err(ImportError::Refused(Refusal::Io));
    }
    result.map(|()| count)
}

/// The directory, locked; unlike a server, a tool does not make it.
fn existing(directory: &Path) -> Result<RealDisk, OpenError> {
    if let Err(source) = std::fs::symlink_metadata(directory) {
        return Err(OpenError::Io { what: "look at the directory", path: directory.to_path_buf(), source });
    }
    RealDisk::open(directory)
}

/// All segments and sidecars of a spool, without changing anything.
struct Walk<'a> {
    disk: &'a dyn Disk,
    segments: BTreeMap<u32, (SegmentHeader, SegmentStates)>,
    report: Report,
}

impl<'a> Walk<'a> {
    fn start(disk: &'a dyn Disk) -> Result<Self, OpenError> {
        let failed = |what| move |source| OpenError::Io { what, path: std::path::PathBuf::new(), source };
        let mut walk = Self { disk, segments: BTreeMap::new(), report: Report::default() };
        for (name, len) in disk.list().map_err(failed("list the directory"))? {
            let Some(number) = numbered(&name, ".seg") else { continue };
            let mut page = vec![0; PAGE as usize];
            let file = disk.open(&name).map_err(failed("open a segment"))?;
            let got = read_full(&*file, &mut page, 0).unwrap_or(0);
            match SegmentHeader::judge(&page[..got], number) {
                FirstPage::Segment(mut header) => {
                    header.size = header.size.min(len);
                    let states = disk
                        .open(&state_name(number))
                        .and_then(|file| SegmentStates::read(&*file, number, header.generation));
                    let states = states.unwrap_or(SegmentStates {
                        headless: true,
                        tail: STATE_HEADER,
                        ..SegmentStates::default()
                    });
                    if states.headless || states.holes > 0 {
                        walk.problem(state_name(number), 0, 0, None, DamageReason::Outcomes);
                    }
                    walk.segments.insert(number, (header, states));
                }
                FirstPage::Spare => walk.report.spares += 1,
                FirstPage::Version(found) => return Err(OpenError::Format { found, known: VERSION }),
                FirstPage::Damaged => walk.problem(name, 0, len, None, DamageReason::Segment),
            }
        }
        Ok(walk)
    }

    fn problem(&mut self, file: String, offset: u64, octets: u64, id: Option<SpoolId>, reason: DamageReason) {
        self.report.problems.push(Problem { file, offset, octets, id, needed: true, reason });
    }

    /// The recipients of a record that wait; `None` if the record is void or nobody waits.
    fn pending(&self, number: u32, offset: u64, header: &RecordHeader) -> Option<Vec<PendingRecipient>> {
        let here = Handle::new(number, offset);
        if let Some(origin) = header.origin
            && let Some((_, states)) = self.segments.get(&origin.segment())
        {
            let moved = states.messages.get(&origin.unit()).and_then(|progress| progress.moved);
            if moved != Some(here) {
                return None;
            }
        }
        let none = Progress::default();
        let (_, states) = self.segments.get(&number)?;
        let progress = states.messages.get(&here.unit()).unwrap_or(&none);
        if progress.moved.is_some() {
            return None;
        }
        let waiting = (0..header.recipients).filter(|index| !progress.done.contains(*index));
        let waiting: Vec<_> = waiting
            .map(|index| {
                let deferral = progress.deferred.get(&index);
                PendingRecipient {
                    index,
                    attempts: deferral.map_or(0, |d| d.attempts),
                    due: deferral.map(|d| d.due),
                    last_reply: deferral.and_then(|d| d.reply.clone()),
                    ambiguous: deferral.is_some_and(|d| d.ambiguous),
                }
            })
            .collect();
        (!waiting.is_empty()).then_some(waiting)
    }

    /// The records of one segment; holes are `None`.
    fn records(&self, number: u32) -> io::Result<Vec<(u64, u64, Option<RecordHeader>)>> {
        let Some((header, states)) = self.segments.get(&number) else { return Ok(Vec::new()) };
        let limit = states.sealed.unwrap_or(header.size).clamp(PAGE, header.size.max(PAGE));
        let mut scanner = Scanner::new(self.disk.open(&segment_name(number))?, header.generation, limit);
        let mut records = Vec::new();
        loop {
            let unit = (scanner.at() / ALIGN) as u32;
            if let Some(end) = states.gone_until(unit).filter(|end| *end > unit) {
                scanner.skip_to(u64::from(end) * ALIGN);
                continue;
            }
            match scanner.step() {
                Step::Record { offset, header } => records.push((offset, header.total(), Some(header))),
                Step::Hole { from, to } => records.push((from, to - from, None)),
                Step::End { from } => {
                    let known = states.gone_until((from / ALIGN) as u32).is_some();
                    let rot = states.sealed.is_some() || scanner.begins_record(from);
                    if from < limit && rot && !known {
                        records.push((from, limit - from, None));
                    }
                    return Ok(records);
                }
            }
        }
    }

    fn verify(mut self) -> Result<Report, OpenError> {
        for number in self.segments.keys().copied().collect::<Vec<_>>() {
            self.report.segments += 1;
            let name = segment_name(number);
            let Ok(records) = self.records(number) else {
                self.problem(name, 0, 0, None, DamageReason::Unreadable);
                continue;
            };
            let Some((header, states)) = self.segments.get(&number) else { continue };
            let (generation, sealed) = (header.generation, states.sealed.is_some());
            let last = records.iter().filter_map(|(_, _, header)| Some((*header)?.batch)).max();
            let Ok(file) = self.disk.open(&name) else { continue };
            for (n, (offset, octets, header)) in records.iter().enumerate() {
                // Only the last commit before a crash can be torn; what went before was durable.
                let last_commit = match header {
                    Some(header) => Some(header.batch) == last,
                    None => records[n..]
                        .iter()
                        .find_map(|(_, _, h)| Some(h.as_ref()?.batch))
                        .is_none_or(|b| Some(b) == last),
                };
                let reason = match header {
                    None => Some(DamageReason::Header),
                    Some(header) => match read_record(&*file, generation, *offset) {
                        Ok(whole) => codec::decode(header.id, whole.head()).err().map(|error| match error {
                            codec::HeadError::Version(version) => DamageReason::HeadVersion(version),
                            codec::HeadError::Malformed => DamageReason::Envelope,
                        }),
                        Err(Trouble::Rotten(reason)) => Some(reason),
                        Err(Trouble::NotThere) => Some(DamageReason::Header),
                        Err(Trouble::Io(_)) => Some(DamageReason::Unreadable),
                    },
                };
                let pending = header.as_ref().map(|header| self.pending(number, *offset, header));
                match (reason, pending) {
                    (None, pending) => {
                        self.report.records += 1;
                        if let Some(pending) = pending.flatten() {
                            self.report.messages += 1;
                            self.report.recipients += pending.len() as u64;
                            self.report.octets += header.map_or(0, |h| u64::from(h.body_len));
                        }
                    }
                    (Some(_), _) if last_commit && !sealed => self.report.torn += 1,
                    (Some(reason), pending) => {
                        let needed = pending.is_none_or(|pending| pending.is_some());
                        let (file, id) = (name.clone(), header.map(|h| h.id));
                        let problem = Problem { file, offset: *offset, octets: *octets, id, needed, reason };
                        self.report.problems.push(problem);
                    }
                }
            }
        }
        Ok(self.report)
    }

    fn list(&self, visit: &mut Visit<'_>) -> Result<(), OpenError> {
        for (number, (header, _)) in &self.segments {
            let failed =
                |source| OpenError::Io { what: "read a segment", path: segment_name(*number).into(), source };
            let file = self.disk.open(&segment_name(*number)).map_err(failed)?;
            for (offset, _, record) in self.records(*number).map_err(failed)? {
                let Some(record) = record else { continue };
                let Some(pending) = self.pending(*number, offset, &record) else { continue };
                let Ok(whole) = read_record(&*file, header.generation, offset) else { continue };
                let Ok(message) = codec::decode(record.id, whole.head()) else { continue };
                let listed = Listed { place: Handle::new(*number, offset), message, pending };
                let body = Bytes::from(whole.octets).slice(record.content_at() as usize..);
                if !visit(listed, Content { prefix: Bytes::new(), body }) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

type Visit<'v> = dyn FnMut(Listed, Content) -> bool + 'v;
