//! Appends messages to segments: one vectored write and one sync for all that wait.

use crate::disk::{DiskFile, is_full, write_all};
use crate::index::Index;
use crate::janitor;
use crate::record::{ALIGN, HEADER, PAGE, RecordHeader, SegmentHeader};
use crate::state::STATE_HEADER;
use crate::table::{Note, Phase, Segment, Shared, Spare, add, lock};
use crate::{Content, Handle, Refusal, codec};
use bytes::Bytes;
use mail::{Message, SpoolId};
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// A record that only lacks its place: everything that can be computed by the caller's own thread is.
pub(crate) struct Packed {
    /// The header's room, the head and the padding.
    front: Vec<u8>,
    prefix: Bytes,
    body: Bytes,
    header: RecordHeader,
}

impl Packed {
    /// Encodes a message. A content or a list of recipients beyond what a record can hold is refused.
    pub fn new(message: &Message, content: &Content) -> Result<Self, Refusal> {
        let recipients = u16::try_from(message.envelope.recipients.len()).map_err(|_| Refusal::TooLarge)?;
        let mut front = Vec::with_capacity(512);
        front.resize(HEADER, 0);
        codec::encode(message, &mut front);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&content.prefix);
        crc.update(&content.body);
        let body_len = u32::try_from(content.len()).map_err(|_| Refusal::TooLarge)?;
        Self::finish(front, content.clone(), message.id, recipients, body_len, crc.finalize())
    }

    /// The same record for another place.
    pub fn copy_of(
        header: &RecordHeader,
        head: &[u8],
        content: Bytes,
        origin: Handle,
    ) -> Result<Self, Refusal> {
        let mut front = vec![0; HEADER];
        front.extend_from_slice(head);
        let content = Content { prefix: Bytes::new(), body: content };
        let mut packed =
            Self::finish(front, content, header.id, header.recipients, header.body_len, header.body_crc)?;
        packed.header.origin = Some(origin);
        Ok(packed)
    }

    fn finish(
        mut front: Vec<u8>,
        content: Content,
        id: SpoolId,
        recipients: u16,
        body_len: u32,
        body_crc: u32,
    ) -> Result<Self, Refusal> {
        let head_crc = crc32fast::hash(&front[HEADER..]);
        let head_len = u32::try_from(front.len() - HEADER).map_err(|_| Refusal::TooLarge)?;
        let pad = RecordHeader::pad(head_len.into(), body_len.into());
        front.resize(front.len() + pad as usize, 0);
        let header =
            RecordHeader { id, recipients, origin: None, batch: 0, head_len, body_len, head_crc, body_crc };
        Ok(Self { front, prefix: content.prefix, body: content.body, header })
    }

    /// Octets on disk.
    pub fn len(&self) -> u64 {
        self.header.total()
    }

    pub fn recipients(&self) -> u16 {
        self.header.recipients
    }
}

/// The segment being written.
struct Active {
    number: u32,
    generation: u64,
    size: u64,
    file: Arc<dyn DiskFile>,
    /// Where the next record goes; 0 as long as the segment's own header is not written.
    tail: u64,
    batch: u32,
}

/// Writes one segment after the other.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    active: Option<Active>,
}

impl Writer {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, active: None }
    }

    /// Appends records and makes them durable; what became of each.
    pub fn append(&mut self, records: &mut [Packed]) -> Vec<Result<Handle, Refusal>> {
        let mut results = Vec::with_capacity(records.len());
        let room = self.shared.config.segment_bytes.bytes() - PAGE;
        while results.len() < records.len() {
            let rest = &mut records[results.len()..];
            let written = if rest[0].len() > room { self.append_alone(rest) } else { self.append_run(rest) };
            match written {
                Ok(handles) => results.extend(handles.into_iter().map(Ok)),
                Err(refusal) => {
                    // Whatever made this fail stands in the way of the others too.
                    results.resize(records.len(), Err(refusal));
                }
            }
        }
        results
    }

    /// Appends as many as the segment has room for.
    fn append_run(&mut self, records: &mut [Packed]) -> Result<Vec<Handle>, Refusal> {
        let room = self.active.as_ref().map(|a| a.size - a.tail.max(PAGE));
        if room.is_none_or(|room| room < records[0].len()) {
            self.seal();
            let spare = janitor::take_spare(&self.shared).map_err(|error| self.refuse(&error))?;
            self.active = Some(begin(&self.shared, spare));
        }
        let Some(active) = self.active.as_mut() else { return Err(Refusal::Io) };
        let mut end = active.tail.max(PAGE);
        let fit = records.iter().take_while(|record| {
            end += record.len();
            end <= active.size
        });
        let fit = fit.count();
        let written = write_run(&self.shared, active, &mut records[..fit]);
        if written.is_err() {
            self.abandon();
        }
        written.map_err(|error| self.refuse(&error))
    }

    /// Appends one that is larger than a segment, into a segment of its own size.
    fn append_alone(&mut self, records: &mut [Packed]) -> Result<Vec<Handle>, Refusal> {
        let size = (PAGE + records[0].len()).next_multiple_of(PAGE);
        let spare = janitor::prepare_for(&self.shared, size).map_err(|error| self.refuse(&error))?;
        let mut active = begin(&self.shared, spare);
        let written = write_run(&self.shared, &mut active, &mut records[..1]);
        close(&self.shared, &active);
        written.map_err(|error| self.refuse(&error))
    }

    /// Tries whether the disk takes writes again, in a new segment.
    pub fn reopen(&mut self) -> Result<(), Refusal> {
        self.abandon();
        let spare = janitor::take_spare(&self.shared).map_err(|error| self.refuse(&error))?;
        let mut active = begin(&self.shared, spare);
        let probe = write_run(&self.shared, &mut active, &mut []);
        self.active = Some(active);
        if let Err(error) = probe {
            self.abandon();
            return Err(self.refuse(&error));
        }
        self.shared.gate.poisoned.store(false, Relaxed);
        Ok(())
    }

    /// Prepares the segment for the first record, if there is room for one.
    pub fn prepare(&mut self) -> Result<(), Refusal> {
        if self.active.is_none() {
            let spare = janitor::take_spare(&self.shared).map_err(|error| self.refuse(&error))?;
            self.active = Some(begin(&self.shared, spare));
        }
        Ok(())
    }

    /// Ends the active segment: nothing is written to it any more.
    pub fn seal(&mut self) {
        if let Some(active) = self.active.take() {
            close(&self.shared, &active);
        }
    }

    /// After a failure nothing more goes into this file: what it holds behind the last success is unknown,
    /// and a second sync of the same file may report success for what the first one lost.
    fn abandon(&mut self) {
        self.seal();
    }

    fn refuse(&self, error: &std::io::Error) -> Refusal {
        if is_full(error) {
            self.shared.gate.full.store(true, Relaxed);
            self.shared.janitor_bell.ring();
            tracing::warn!(%error, "spool is full, intake stops");
            Refusal::Full
        } else {
            self.shared.gate.poisoned.store(true, Relaxed);
            tracing::error!(%error, "spool write failed, intake stops");
            Refusal::Io
        }
    }
}

/// Enters a spare file into the table.
fn begin(shared: &Shared, spare: Spare) -> Active {
    let Spare { number, generation, size, file } = spare;
    let segment = Segment {
        generation,
        size,
        phase: Phase::Active,
        index: Index::default(),
        state_tail: STATE_HEADER,
        sealed_at: Instant::now(),
        born_here: true,
        barred: 0,
        keep: false,
    };
    lock(&shared.table).segments.insert(number, segment);
    shared.keep_file(number, file.clone());
    Active { number, generation, size, file, tail: 0, batch: 0 }
}

fn close(shared: &Shared, active: &Active) {
    if let Some(segment) = lock(&shared.table).segments.get_mut(&active.number) {
        segment.phase = Phase::Sealed;
        segment.sealed_at = Instant::now();
        segment.index.shrink();
    }
    shared.note(Note::Seal { segment: active.number, end: active.tail.max(PAGE) });
    shared.janitor_bell.ring();
}

/// One write and one sync. On failure the segment's tail stays where it was.
fn write_run(shared: &Shared, active: &mut Active, records: &mut [Packed]) -> std::io::Result<Vec<Handle>> {
    let batch = active.batch + 1;
    for record in records.iter_mut() {
        record.header.batch = batch;
        record.header.write(active.generation, &mut record.front);
    }
    let page = if active.tail == 0 {
        let (number, generation, size) = (active.number, active.generation, active.size);
        SegmentHeader { number, generation, id_floor: shared.ids.last(), size }.page()
    } else {
        Vec::new()
    };
    let mut slices = Vec::with_capacity(1 + 3 * records.len());
    slices.push(IoSlice::new(&page));
    let mut payload = 0;
    for record in records.iter() {
        slices.push(IoSlice::new(&record.front));
        slices.push(IoSlice::new(&record.prefix));
        slices.push(IoSlice::new(&record.body));
        payload += u64::from(record.header.body_len);
    }
    slices.retain(|slice| !slice.is_empty());
    let written: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
    write_all(&*active.file, &mut slices, active.tail)?;
    let before = Instant::now();
    active.file.datasync()?;
    let counters = &shared.counters;
    add(&counters.sync_nanos, before.elapsed().as_nanos() as u64);
    add(&counters.segment_bytes_written, written);

    let mut at = active.tail.max(PAGE);
    let mut handles = Vec::with_capacity(records.len());
    let mut table = lock(&shared.table);
    let segment = table.segments.get_mut(&active.number);
    if let Some(segment) = segment {
        for record in records.iter() {
            let handle = Handle::new(active.number, at);
            segment.index.push(handle.unit(), (record.len() / ALIGN) as u32, record.recipients());
            handles.push(handle);
            at += record.len();
        }
    }
    drop(table);
    active.tail = at;
    active.batch = batch;
    if !records.is_empty() {
        add(&counters.commits, 1);
        add(&counters.committed_messages, records.len() as u64);
        add(&counters.committed_payload_bytes, payload);
    }
    Ok(handles)
}
