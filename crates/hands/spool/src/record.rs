//! The fixed parts of a segment: its own header, and the header in front of every record.

use crate::Handle;
use mail::SpoolId;

/// The version of all files in a spool's directory.
pub(crate) const VERSION: u32 = 1;
/// Octets before the first record: the segment's header, twice, in two sectors that cannot tear together.
pub(crate) const PAGE: u64 = 4096;
/// Octets of a record's header.
pub(crate) const HEADER: usize = 56;
/// Records begin at multiples of this.
pub(crate) const ALIGN: u64 = 8;

const SEGMENT_MAGIC: &[u8; 8] = b"TUMA-SEG";
const SEGMENT_HEADER: usize = 48;
const SECOND_COPY: usize = 2048;
/// The first octets of every record.
pub(crate) const RECORD_MAGIC: [u8; 4] = *b"\xd7Rec";
const KIND_MESSAGE: u8 = 1;

/// CRC-32 of some octets, after a generation: what one life of a file wrote, another never believes.
pub(crate) fn seeded_crc(generation: u64, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&generation.to_le_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub number: u32,
    pub generation: u64,
    /// No id above this had been given when the segment was begun.
    pub id_floor: u64,
    pub size: u64,
}

/// What the first page of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstPage {
    /// A segment in use.
    Segment(SegmentHeader),
    /// Never begun: empty, or still with the header of an earlier life.
    Spare,
    /// A version we cannot read.
    Version(u32),
    /// Neither copy can be read.
    Damaged,
}

impl SegmentHeader {
    /// The first page of the segment.
    pub fn page(&self) -> Vec<u8> {
        let mut page = vec![0; PAGE as usize];
        let mut header = [0; SEGMENT_HEADER];
        header[..8].copy_from_slice(SEGMENT_MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&self.number.to_le_bytes());
        header[16..24].copy_from_slice(&self.generation.to_le_bytes());
        header[24..32].copy_from_slice(&self.id_floor.to_le_bytes());
        header[32..40].copy_from_slice(&self.size.to_le_bytes());
        let crc = crc32fast::hash(&header[..44]);
        header[44..].copy_from_slice(&crc.to_le_bytes());
        page[..SEGMENT_HEADER].copy_from_slice(&header);
        page[SECOND_COPY..SECOND_COPY + SEGMENT_HEADER].copy_from_slice(&header);
        page
    }

    fn read(copy: &[u8]) -> Option<(u32, Self)> {
        if copy.len() < SEGMENT_HEADER || &copy[..8] != SEGMENT_MAGIC {
            return None;
        }
        if crc32fast::hash(&copy[..44]) != u32_at(copy, 44) {
            return None;
        }
        let header = Self {
            number: u32_at(copy, 12),
            generation: u64_at(copy, 16),
            id_floor: u64_at(copy, 24),
            size: u64_at(copy, 32),
        };
        Some((u32_at(copy, 8), header))
    }

    /// Judges the first page of the file whose name says `number`.
    pub fn judge(page: &[u8], number: u32) -> FirstPage {
        let copies = [page, page.get(SECOND_COPY..).unwrap_or_default()].map(Self::read);
        let mut earlier_life = false;
        for (version, header) in copies.into_iter().flatten() {
            if version != VERSION {
                return FirstPage::Version(version);
            }
            if header.number == number {
                return FirstPage::Segment(header);
            }
            earlier_life = true;
        }
        if earlier_life || page.iter().all(|&b| b == 0) { FirstPage::Spare } else { FirstPage::Damaged }
    }
}

/// What stands in front of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub id: SpoolId,
    pub recipients: u16,
    /// Where it stood before it was copied forward.
    pub origin: Option<Handle>,
    /// Counts the commits into this segment. A commit is only begun when the one before it is durable, so
    /// only the last one seen can be torn.
    pub batch: u32,
    pub head_len: u32,
    pub body_len: u32,
    pub head_crc: u32,
    pub body_crc: u32,
}

impl RecordHeader {
    /// Writes it into the first [`HEADER`] octets of `out`.
    pub fn write(&self, generation: u64, out: &mut [u8]) {
        out[..4].copy_from_slice(&RECORD_MAGIC);
        out[4] = KIND_MESSAGE;
        out[5] = 0;
        out[6..8].copy_from_slice(&self.recipients.to_le_bytes());
        out[8..16].copy_from_slice(&generation.to_le_bytes());
        out[16..24].copy_from_slice(&self.id.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.origin.map_or(0, |h| h.0).to_le_bytes());
        out[32..36].copy_from_slice(&self.batch.to_le_bytes());
        out[36..40].copy_from_slice(&self.head_len.to_le_bytes());
        out[40..44].copy_from_slice(&self.body_len.to_le_bytes());
        out[44..48].copy_from_slice(&self.head_crc.to_le_bytes());
        out[48..52].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = seeded_crc(generation, &[&out[..52]]);
        out[52..56].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads it back, if `bytes` begins with a header of this generation.
    pub fn read(generation: u64, bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER)?;
        if bytes[..4] != RECORD_MAGIC || u64_at(bytes, 8) != generation {
            return None;
        }
        if seeded_crc(generation, &[&bytes[..52]]) != u32_at(bytes, 52)
            || bytes[4] != KIND_MESSAGE
            || bytes[5] != 0
        {
            return None;
        }
        Some(Self {
            id: SpoolId(u64_at(bytes, 16)),
            recipients: u16_at(bytes, 6),
            origin: Some(u64_at(bytes, 24)).filter(|&h| h != 0).map(Handle),
            batch: u32_at(bytes, 32),
            head_len: u32_at(bytes, 36),
            body_len: u32_at(bytes, 40),
            head_crc: u32_at(bytes, 44),
            body_crc: u32_at(bytes, 48),
        })
    }

    /// Octets between head and content that bring the end of the record to a multiple of [`ALIGN`].
    pub fn pad(head_len: u64, body_len: u64) -> u64 {
        (ALIGN - (head_len + body_len) % ALIGN) % ALIGN
    }

    /// Octets from the beginning of the record to its content.
    pub fn content_at(&self) -> u64 {
        let (head, body) = (u64::from(self.head_len), u64::from(self.body_len));
        HEADER as u64 + head + Self::pad(head, body)
    }

    /// Octets of the whole record.
    pub fn total(&self) -> u64 {
        self.content_at() + u64::from(self.body_len)
    }
}
