//! What became of the recipients of one segment's messages: the records of its sidecar, `NNNNNNNN.state`.
//!
//! A sidecar is appended to and read as a whole. Later records overrule earlier ones.

use crate::disk::{DiskFile, read_full};
use crate::record::{VERSION, seeded_crc, u16_at, u32_at, u64_at};
use crate::{Fate, Handle};
use mail::{EnhancedStatusCode, Reply, ReplyCode, UnixMillis};
use std::collections::{BTreeMap, HashMap};
use std::io;

/// Octets of a sidecar's header.
pub(crate) const STATE_HEADER: u64 = 32;
const STATE_MAGIC: &[u8; 8] = b"TUMA-STA";
const RECORD_BYTE: u8 = 0xa5;
const FIXED: usize = 16;
/// Octets of a deferral's reply that are kept.
pub(crate) const REPLY_TEXT_MAX: usize = 512;

/// One record of a sidecar. `unit` is a record's offset in the segment, in units of eight octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StateRecord {
    /// Recipients `first..first + count` are settled for good.
    Final { unit: u32, first: u16, count: u16, fate: Fate },
    /// A recipient waits.
    Deferred { unit: u32, recipient: u16, deferral: Deferral },
    /// The message stands elsewhere now, and this place is void.
    Moved { unit: u32, to: Handle },
    /// The segment ends here; what stands behind was refused.
    Sealed { end: u64 },
    /// Whatever begins in `unit..end` is void: set aside, or a copy that never came into force.
    Gone { unit: u32, end: u32 },
}

/// What is known of a recipient that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deferral {
    pub attempts: u32,
    pub due: UnixMillis,
    pub reply: Option<Reply>,
    pub ambiguous: bool,
}

/// The header of a sidecar.
pub(crate) fn state_header(number: u32, generation: u64) -> [u8; STATE_HEADER as usize] {
    let mut header = [0; STATE_HEADER as usize];
    header[..8].copy_from_slice(STATE_MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&number.to_le_bytes());
    header[16..24].copy_from_slice(&generation.to_le_bytes());
    let crc = crc32fast::hash(&header[..28]);
    header[28..].copy_from_slice(&crc.to_le_bytes());
    header
}

impl StateRecord {
    /// Appends the record, a multiple of eight octets, to `out`.
    pub fn encode(&self, generation: u64, out: &mut Vec<u8>) {
        let at = out.len();
        let (kind, detail, unit, first, count) = match self {
            Self::Final { unit, first, count, fate } => (1, fate.code(), *unit, *first, *count),
            Self::Deferred { unit, recipient, deferral } => {
                (2, u8::from(deferral.ambiguous), *unit, *recipient, 1)
            }
            Self::Moved { unit, .. } => (3, 0, *unit, 0, 0),
            Self::Sealed { .. } => (4, 0, 0, 0, 0),
            Self::Gone { unit, .. } => (5, 0, *unit, 0, 0),
        };
        out.extend_from_slice(&[RECORD_BYTE, kind, 0, detail, 0, 0, 0, 0]);
        out.extend_from_slice(&unit.to_le_bytes());
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        match self {
            Self::Final { .. } => {}
            Self::Deferred { deferral, .. } => encode_deferral(deferral, out),
            Self::Moved { to, .. } => out.extend_from_slice(&to.0.to_le_bytes()),
            Self::Sealed { end } => out.extend_from_slice(&end.to_le_bytes()),
            Self::Gone { end, .. } => out.extend_from_slice(&u64::from(*end).to_le_bytes()),
        }
        out.resize(at + (out.len() - at).next_multiple_of(8), 0);
        // At most 16 + 20 + 512 octets, so the count of units fits.
        out[at + 2] = ((out.len() - at) / 8) as u8;
        let crc = seeded_crc(generation, &[&out[at..at + 4], &out[at + 8..]]);
        out[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    }

    /// The record at the head of `bytes`, and its length.
    pub fn decode(generation: u64, bytes: &[u8]) -> Option<(Self, usize)> {
        if bytes.len() < FIXED || bytes[0] != RECORD_BYTE {
            return None;
        }
        let len = usize::from(bytes[2]) * 8;
        let record = bytes.get(..len).filter(|_| len >= FIXED)?;
        if seeded_crc(generation, &[&record[..4], &record[8..]]) != u32_at(record, 4) {
            return None;
        }
        let (unit, first, count) = (u32_at(record, 8), u16_at(record, 12), u16_at(record, 14));
        let rest = &record[FIXED..];
        let word = || (rest.len() >= 8).then(|| u64_at(rest, 0));
        let state = match record[1] {
            1 => Self::Final { unit, first, count, fate: Fate::from_code(record[3])? },
            2 => Self::Deferred {
                unit,
                recipient: first,
                deferral: decode_deferral(record[3] & 1 != 0, rest)?,
            },
            3 => Self::Moved { unit, to: Handle(word()?) },
            4 => Self::Sealed { end: word()? },
            5 => Self::Gone { unit, end: u32::try_from(word()?).ok()? },
            _ => return None,
        };
        Some((state, len))
    }
}

fn encode_deferral(deferral: &Deferral, out: &mut Vec<u8>) {
    out.extend_from_slice(&deferral.due.0.to_le_bytes());
    out.extend_from_slice(&deferral.attempts.to_le_bytes());
    let reply = deferral.reply.as_ref();
    out.extend_from_slice(&reply.map_or(0, |r| r.code.get()).to_le_bytes());
    let enhanced = reply.and_then(|r| r.enhanced);
    // Class, subject and detail are below 10, 1,000 and 1,000: 4 + 10 + 10 bits.
    let packed = enhanced
        .map_or(0, |e| u32::from(e.class()) << 20 | u32::from(e.subject()) << 10 | u32::from(e.detail()));
    let mut text = reply.map_or("", |r| r.text.as_ref());
    text = &text[..text.floor_char_boundary(REPLY_TEXT_MAX)];
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(&packed.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn decode_deferral(ambiguous: bool, rest: &[u8]) -> Option<Deferral> {
    if rest.len() < 20 {
        return None;
    }
    let (due, attempts) = (UnixMillis(u64_at(rest, 0)), u32_at(rest, 8));
    let (code, text_len, packed) = (u16_at(rest, 12), usize::from(u16_at(rest, 14)), u32_at(rest, 16));
    let text = std::str::from_utf8(rest.get(20..20 + text_len)?).ok()?;
    let reply = match code {
        0 => None,
        _ => {
            let (subject, detail) = (packed >> 10 & 1023, packed & 1023);
            let enhanced = match (packed >> 20, subject < 1000 && detail < 1000) {
                (0, _) => None,
                (class @ (2 | 4 | 5), true) => {
                    Some(EnhancedStatusCode::new(class as u8, subject as u16, detail as u16))
                }
                _ => return None,
            };
            Some(Reply { code: ReplyCode::new(code)?, enhanced, text: text.to_owned().into() })
        }
    };
    Some(Deferral { attempts, due, reply, ambiguous })
}

/// A set of recipients; the first 64 cost no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RecipientSet {
    low: u64,
    more: Vec<u64>,
    all: bool,
}

impl RecipientSet {
    pub fn insert(&mut self, recipient: u16) {
        let (word, bit) = (usize::from(recipient) / 64, 1 << (recipient % 64));
        if word == 0 {
            self.low |= bit;
        } else {
            if self.more.len() < word {
                self.more.resize(word, 0);
            }
            self.more[word - 1] |= bit;
        }
    }

    /// The members as stretches: first and count.
    pub fn ranges(&self) -> Vec<(u16, u16)> {
        if self.all {
            return vec![(0, u16::MAX)];
        }
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        let end = 64 * (1 + self.more.len() as u32);
        for recipient in (0..end.min(65_535)).map(|n| n as u16).filter(|n| self.contains(*n)) {
            match ranges.last_mut() {
                Some((first, count)) if *first + *count == recipient => *count += 1,
                _ => ranges.push((recipient, 1)),
            }
        }
        ranges
    }

    pub fn contains(&self, recipient: u16) -> bool {
        let (word, bit) = (usize::from(recipient) / 64, 1 << (recipient % 64));
        let bits = if word == 0 { self.low } else { self.more.get(word - 1).copied().unwrap_or(0) };
        self.all || bits & bit != 0
    }
}

/// All that a sidecar says of one message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub done: RecipientSet,
    pub deferred: BTreeMap<u16, Deferral>,
    pub moved: Option<Handle>,
}

/// A sidecar, read and folded.
#[derive(Debug, Default)]
pub(crate) struct SegmentStates {
    pub messages: HashMap<u32, Progress>,
    /// Void stretches, in order and apart from each other.
    pub gone: Vec<(u32, u32)>,
    pub sealed: Option<u64>,
    /// Where the next record goes.
    pub tail: u64,
    pub records: u64,
    /// Stretches that are no records although records follow; lost outcomes.
    pub holes: u32,
    /// The header could not be read, so nothing of it is believed.
    pub headless: bool,
}

impl SegmentStates {
    /// Reads a sidecar. A damaged one gives what can be had of it.
    pub fn read(file: &dyn DiskFile, number: u32, generation: u64) -> io::Result<Self> {
        let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut bytes = vec![0; len];
        let len = match read_full(file, &mut bytes, 0) {
            Ok(len) => len,
            // A disk that cannot read one page may still read the others; what is missing shows as a hole.
            Err(_) => {
                for (n, page) in bytes.chunks_mut(4096).enumerate() {
                    if read_full(file, page, n as u64 * 4096).is_err() {
                        page.fill(0);
                    }
                }
                len
            }
        };
        bytes.truncate(len);
        Ok(Self::parse(&bytes, number, generation))
    }

    /// Folds the octets of a sidecar.
    pub fn parse(bytes: &[u8], number: u32, generation: u64) -> Self {
        let mut states = Self { tail: STATE_HEADER, ..Self::default() };
        let header = state_header(number, generation);
        states.headless = bytes.get(..header.len()) != Some(&header);
        // Records prove their generation themselves, so a rotten header costs nothing but a report.
        let mut at = STATE_HEADER as usize;
        let mut hole = false;
        while at + FIXED <= bytes.len() {
            match StateRecord::decode(generation, &bytes[at..]) {
                Some((record, len)) => {
                    states.holes += u32::from(std::mem::take(&mut hole));
                    states.fold(record);
                    at += len;
                    states.tail = at as u64;
                    states.records += 1;
                }
                None => {
                    hole = true;
                    at += 8;
                }
            }
        }
        states.gone.sort_unstable();
        states.gone.dedup_by(|next, before| {
            let joined = next.0 <= before.1;
            if joined {
                before.1 = before.1.max(next.1);
            }
            joined
        });
        states
    }

    /// Takes one more record into account.
    fn fold(&mut self, record: StateRecord) {
        match record {
            StateRecord::Final { unit, first, count, .. } => {
                let progress = self.messages.entry(unit).or_default();
                if (first, count) == (0, u16::MAX) {
                    progress.done.all = true;
                    progress.deferred.clear();
                    return;
                }
                for recipient in first..first.saturating_add(count) {
                    progress.done.insert(recipient);
                    progress.deferred.remove(&recipient);
                }
            }
            StateRecord::Deferred { unit, recipient, mut deferral } => {
                let deferred = &mut self.messages.entry(unit).or_default().deferred;
                deferral.ambiguous |= deferred.get(&recipient).is_some_and(|d| d.ambiguous);
                deferred.insert(recipient, deferral);
            }
            StateRecord::Moved { unit, to } => self.messages.entry(unit).or_default().moved = Some(to),
            StateRecord::Sealed { end } => {
                self.sealed = Some(self.sealed.map_or(end, |before| before.min(end)));
            }
            StateRecord::Gone { unit, end } => self.gone.push((unit, end)),
        }
    }

    /// Where the void stretch that holds `unit` ends, if it is void.
    pub fn gone_until(&self, unit: u32) -> Option<u32> {
        let after = self.gone.partition_point(|(from, _)| *from <= unit);
        self.gone[..after].last().map(|(_, end)| *end).filter(|end| *end > unit)
    }
}

/// The same, decoding arbitrary octets, for fuzzing.
pub(crate) fn decode_any(bytes: &[u8]) -> u64 {
    let states = SegmentStates::parse(bytes, 1, 0);
    states.records + u64::from(states.gone_until(0).is_some())
}
