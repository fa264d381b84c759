//! Walks the records of a segment: heads only, in large reads where bodies are small, and over damage.

use crate::DamageReason;
use crate::disk::{DiskFile, read_full};
use crate::record::{ALIGN, HEADER, PAGE, RECORD_MAGIC, RecordHeader};
use std::io;
use std::sync::Arc;

/// One read while bodies are small: the bodies come along, which costs less than a call each.
const LARGE_READ: usize = 256 << 10;
/// One read while bodies are large: a header and its head, mostly.
const SMALL_READ: usize = 4 << 10;
/// A record from this size on is skipped over rather than read through.
const LARGE_RECORD: u64 = 32 << 10;

/// What stands next in a segment.
#[derive(Debug)]
pub(crate) enum Step {
    /// A record whose header is sound.
    Record { offset: u64, header: RecordHeader },
    /// Octets that are no record, with a record behind them.
    Hole { from: u64, to: u64 },
    /// No record any more.
    End { from: u64 },
}

pub(crate) struct Scanner {
    file: Arc<dyn DiskFile>,
    generation: u64,
    at: u64,
    limit: u64,
    /// Where the search behind damage, or behind the last record, ends.
    search_end: u64,
    buffer: Vec<u8>,
    start: u64,
    filled: usize,
    chunk: usize,
    /// Octets the disk would not read.
    pub unreadable: u64,
}

impl Scanner {
    /// Scans from the first record to `limit`.
    pub fn new(file: Arc<dyn DiskFile>, generation: u64, limit: u64) -> Self {
        let (buffer, chunk) = (Vec::new(), LARGE_READ);
        Self {
            file,
            generation,
            at: PAGE,
            limit,
            search_end: limit,
            buffer,
            start: 0,
            filled: 0,
            chunk,
            unreadable: 0,
        }
    }

    /// Leaves out of the search what was never written. A segment that was not sealed is mostly that, and a server that
    /// was killed again and again has left many such. Asked before anything is read: pages that were read of a hole
    /// may count as data.
    pub fn skip_unwritten(&mut self) {
        if let Ok(end) = self.file.data_end() {
            self.search_end = self.search_end.min(end);
        }
    }

    /// Where the next step begins.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Goes on from another offset.
    pub fn skip_to(&mut self, offset: u64) {
        self.at = offset.max(self.at);
    }

    /// The octets at an offset; fewer than asked for at the end of the file.
    pub fn bytes(&mut self, offset: u64, len: usize) -> &[u8] {
        let end = offset.saturating_add(len as u64);
        if offset < self.start || end > self.start + self.filled as u64 {
            self.fill(offset, len);
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(self.filled);
        &self.buffer[from..self.filled.min(from.saturating_add(len))]
    }

    fn fill(&mut self, offset: u64, len: usize) {
        let room = usize::try_from(self.limit.saturating_sub(offset)).unwrap_or(usize::MAX);
        let size = len.max(self.chunk).min(room);
        if self.buffer.len() < size {
            self.buffer.resize(size, 0);
        }
        self.start = offset;
        self.filled = match read_full(&*self.file, &mut self.buffer[..size], offset) {
            Ok(filled) => filled,
            Err(_) => self.fill_in_pages(offset, size),
        };
    }

    /// A disk that cannot read one sector may still read the others.
    fn fill_in_pages(&mut self, offset: u64, size: usize) -> usize {
        let mut done = 0;
        while done < size {
            let page = SMALL_READ.min(size - done);
            let into = &mut self.buffer[done..done + page];
            match read_full(&*self.file, into, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) => {
                    into.fill(0);
                    self.unreadable += page as u64;
                    done += page;
                }
            }
        }
        done
    }

    /// The sound header at an offset, if there is one.
    pub fn header_at(&mut self, offset: u64) -> Option<RecordHeader> {
        let (generation, limit) = (self.generation, self.limit);
        let header = RecordHeader::read(generation, self.bytes(offset, HEADER))?;
        (offset.checked_add(header.total())? <= limit).then_some(header)
    }

    /// The next thing there is.
    pub fn step(&mut self) -> Step {
        let from = self.at;
        if let Some(header) = self.header_at(from) {
            self.at = from + header.total();
            self.chunk = if header.total() >= LARGE_RECORD { SMALL_READ } else { LARGE_READ };
            return Step::Record { offset: from, header };
        }
        self.resync(from)
    }

    /// The same, but the first damage is the end.
    pub fn step_sound(&mut self) -> Step {
        match self.header_at(self.at) {
            Some(_) => self.step(),
            None => Step::End { from: self.at },
        }
    }

    fn resync(&mut self, from: u64) -> Step {
        self.chunk = LARGE_READ;
        let mut at = from + ALIGN;
        while at < self.search_end && at + HEADER as u64 <= self.limit {
            match self.find_magic(at) {
                Ok(found) if self.header_at(found).is_some() => {
                    self.at = found;
                    return Step::Hole { from, to: found };
                }
                Ok(found) => at = found + ALIGN,
                Err(end) => {
                    if end <= at {
                        break;
                    }
                    at = end;
                }
            }
        }
        self.at = self.limit;
        Step::End { from }
    }

    /// The next aligned place with a record's first octets, or how far was looked.
    fn find_magic(&mut self, at: u64) -> Result<u64, u64> {
        let bytes = self.bytes(at, HEADER.max(ALIGN as usize));
        if bytes.len() < ALIGN as usize {
            return Err(at);
        }
        // All that is in the buffer, not only what was asked for.
        let from = (at - self.start) as usize;
        let words = &self.buffer[from..self.filled];
        for (n, word) in words.chunks_exact(ALIGN as usize).enumerate() {
            if word[..4] == RECORD_MAGIC {
                return Ok(at + n as u64 * ALIGN);
            }
        }
        Err(at + (words.len() as u64 / ALIGN * ALIGN))
    }

    /// True if what stands at an offset is more likely a damaged record of this segment than anything else:
    /// its first octets and generation are nearly right. Those of an earlier life, and noughts, differ in half
    /// of their bits.
    pub fn begins_record(&mut self, offset: u64) -> bool {
        let generation = self.generation.to_le_bytes();
        let bytes = self.bytes(offset, HEADER);
        let (Some(magic), Some(life)) = (bytes.get(..4), bytes.get(8..16)) else { return false };
        let differ = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
        differ(magic, &RECORD_MAGIC) + differ(life, &generation) <= 8
    }

    /// True if the head of a record is what was written.
    pub fn head(&mut self, offset: u64, header: &RecordHeader) -> Option<&[u8]> {
        let (len, crc) = (header.head_len as usize, header.head_crc);
        let head = self.bytes(offset + HEADER as u64, len);
        (head.len() == len && crc32fast::hash(head) == crc).then_some(head)
    }

    /// True if the content of a record is what was written.
    pub fn content_is_sound(&self, offset: u64, header: &RecordHeader) -> bool {
        let mut crc = crc32fast::Hasher::new();
        let mut left = u64::from(header.body_len);
        let mut at = offset + header.content_at();
        let mut buffer = vec![0; LARGE_READ.min(header.body_len as usize)];
        while left > 0 {
            let size = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match read_full(&*self.file, &mut buffer[..size], at) {
                Ok(n) if n == size => crc.update(&buffer[..size]),
                _ => return false,
            }
            left -= size as u64;
            at += size as u64;
        }
        crc.finalize() == header.body_crc
    }
}

/// Why a record cannot be had.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No record of this generation stands there.
    NotThere,
    /// The head or the content is not what was written.
    Rotten(DamageReason),
    /// The disk would not read it.
    Io(io::Error),
}

/// A record with its octets: header, head, padding and content.
pub(crate) struct Whole {
    pub header: RecordHeader,
    pub octets: Vec<u8>,
}

impl Whole {
    pub fn head(&self) -> &[u8] {
        &self.octets[HEADER..HEADER + self.header.head_len as usize]
    }
}

/// Octets of a first read: one call is enough for most mail.
const FIRST_READ: usize = 8 << 10;

/// Reads one whole record and checks it.
pub(crate) fn read_record(file: &dyn DiskFile, generation: u64, offset: u64) -> Result<Whole, Trouble> {
    let mut octets = vec![0; FIRST_READ];
    let got = read_full(file, &mut octets, offset).map_err(Trouble::Io)?;
    octets.truncate(got);
    let header = RecordHeader::read(generation, &octets).ok_or(Trouble::NotThere)?;
    let total = usize::try_from(header.total()).map_err(|_| Trouble::NotThere)?;
    if got < total {
        // A length that its checksum confirms, so this allocation is one we wrote.
        octets.resize(total, 0);
        let more = read_full(file, &mut octets[got..], offset + got as u64).map_err(Trouble::Io)?;
        octets.truncate(got + more);
    }
    octets.truncate(total);
    if octets.len() < total {
        return Err(Trouble::Rotten(DamageReason::Content));
    }
    let whole = Whole { header, octets };
    if crc32fast::hash(whole.head()) != header.head_crc {
        return Err(Trouble::Rotten(DamageReason::Envelope));
    }
    if crc32fast::hash(&whole.octets[header.content_at() as usize..]) != header.body_crc {
        return Err(Trouble::Rotten(DamageReason::Content));
    }
    Ok(whole)
}
