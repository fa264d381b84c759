//! One record of the file: who, why, since when and until when, with a checksum in front.
//!
//! `u32 CRC-32 of what follows`, `u16 its length`, then `u8 kind`, `u8 reason`, `u32 since`, `u32 until` (Unix seconds; 0
//! is for ever), `u8 tenant length`, `u16 subject length`, `u8 note length`, tenant, subject, note. Little-endian.

use crate::address::Subject;
use mail::UnixMillis;

/// Octets before the checked part.
pub(crate) const HEAD: usize = 6;
/// Octets of the fixed fields of the checked part.
const FIXED: usize = 14;
/// Octets of a note at most.
pub(crate) const NOTE_MAX: usize = 200;
/// Octets of a subject at most: a local part of 255, an `@` and a domain, all of them as UTF-8 in lower case.
const SUBJECT_MAX: usize = 1_024;
/// Octets of one record at most.
pub(crate) const RECORD_MAX: usize = HEAD + FIXED + 255 + SUBJECT_MAX + NOTE_MAX;

settings::words! {
    /// Why someone is on the list.
    pub enum Reason {
        /// An operator or a program put them there.
        Manual,
        /// Mail to them bounced.
        Bounce,
        /// They complained.
        Complaint,
        /// They unsubscribed.
        Unsubscribe,
        /// They came with a list that was imported.
        Import,
    }
}

/// An entry of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whose mail they are not to get; `None` is anybody's.
    pub tenant: Option<Box<str>>,
    /// Who.
    pub subject: Subject,
    /// Why.
    pub reason: Reason,
    /// A few more words on why, such as the reply; at most 200 octets are kept.
    pub note: Box<str>,
    /// Since when; whole seconds.
    pub since: UnixMillis,
    /// Until when, if not for ever; whole seconds.
    pub until: Option<UnixMillis>,
}

impl Entry {
    /// True if it no longer holds.
    pub fn is_over(&self, now: UnixMillis) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Until when in Unix seconds, as the record has it; 0 is for ever.
    pub(crate) fn until_seconds(&self) -> u32 {
        self.until.map_or(0, |until| seconds(until).max(1))
    }
}

/// A record as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Add(Entry),
    Remove { tenant: Option<Box<str>>, subject: Subject },
}

/// The parts of a record that the table needs, without a copy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) adds: bool,
    pub(crate) reason: u8,
    pub(crate) since: u32,
    pub(crate) until: u32,
    pub(crate) tenant: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) note: &'a str,
}

impl<'a> View<'a> {
    /// Reads the record at the beginning of some octets, and how many it takes; `None` if there is no sound one.
    pub(crate) fn read(octets: &'a [u8]) -> Option<(Self, usize)> {
        let sum = u32::from_le_bytes(octets.get(..4)?.try_into().ok()?);
        let length = usize::from(u16::from_le_bytes(octets.get(4..HEAD)?.try_into().ok()?));
        let body = octets.get(HEAD..HEAD + length)?;
        let (fixed, texts) = body.split_at_checked(FIXED)?;
        let number = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let tenant = usize::from(fixed[10]);
        let subject = usize::from(u16::from_le_bytes([fixed[11], fixed[12]]));
        let note = usize::from(fixed[13]);
        // Before the checksum is computed: of random octets this holds for one in thousands.
        if !matches!(fixed[0], 1 | 2) || tenant + subject + note != texts.len() || subject > SUBJECT_MAX {
            return None;
        }
        if crc32fast::hash(body) != sum {
            return None;
        }
        let text = |from: usize, to: usize| std::str::from_utf8(&texts[from..to]).ok();
        let view = Self {
            adds: fixed[0] == 1,
            reason: fixed[1],
            since: number(2),
            until: number(6),
            tenant: text(0, tenant)?,
            subject: text(tenant, tenant + subject)?,
            note: text(tenant + subject, texts.len())?,
        };
        Some((view, HEAD + length))
    }

    /// Why.
    pub(crate) fn reason(&self) -> Reason {
        Reason::ALL.get(usize::from(self.reason)).copied().unwrap_or(Reason::Manual)
    }

    /// The entry, if the record adds one.
    pub(crate) fn entry(&self) -> Entry {
        let millis = |seconds: u32| UnixMillis(u64::from(seconds) * 1_000);
        Entry {
            tenant: (!self.tenant.is_empty()).then(|| self.tenant.into()),
            subject: Subject::stored(self.subject),
            reason: self.reason(),
            note: self.note.into(),
            since: millis(self.since),
            until: (self.until != 0).then(|| millis(self.until)),
        }
    }
}

fn seconds(at: UnixMillis) -> u32 {
    u32::try_from(at.0 / 1_000).unwrap_or(u32::MAX)
}

/// The longest beginning of a text of at most so many octets.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

impl Record {
    /// Appends the record.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let (kind, reason, since, until, tenant, subject, note) = match self {
            Self::Add(entry) => {
                let until = entry.until_seconds();
                let note = cut(&entry.note, NOTE_MAX);
                (1, entry.reason as u8, seconds(entry.since), until, &entry.tenant, &entry.subject, note)
            }
            Self::Remove { tenant, subject } => (2, 0, 0, 0, tenant, subject, ""),
        };
        let tenant = cut(tenant.as_deref().unwrap_or(""), 255);
        // A mailbox is shorter than that: the cut is for what could not be one.
        let subject = cut(subject.as_str(), SUBJECT_MAX);
        let at = out.len();
        out.extend_from_slice(&[0; HEAD]);
        out.extend_from_slice(&[kind, reason]);
        out.extend_from_slice(&since.to_le_bytes());
        out.extend_from_slice(&until.to_le_bytes());
        out.push(tenant.len() as u8);
        out.extend_from_slice(&(subject.len() as u16).to_le_bytes());
        out.push(note.len() as u8);
        out.extend_from_slice(tenant.as_bytes());
        out.extend_from_slice(subject.as_bytes());
        out.extend_from_slice(note.as_bytes());
        let length = (out.len() - at - HEAD) as u16;
        let sum = crc32fast::hash(&out[at + HEAD..]);
        out[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        out[at + 4..at + HEAD].copy_from_slice(&length.to_le_bytes());
    }
}

/// See [`crate::decode_arbitrary`]. A checksum that fits is put in front, since no random octets have one.
pub(crate) fn decode_arbitrary(octets: &[u8]) {
    let mut framed = vec![0; 4];
    framed.extend_from_slice(&(octets.len().min(RECORD_MAX) as u16).to_le_bytes());
    framed.extend_from_slice(&octets[..octets.len().min(RECORD_MAX)]);
    let sum = crc32fast::hash(&framed[HEAD..]);
    framed[..4].copy_from_slice(&sum.to_le_bytes());
    for octets in [octets, &framed] {
        let Some((view, length)) = View::read(octets) else { continue };
        assert!(length <= octets.len());
        if view.adds {
            let mut again = Vec::new();
            Record::Add(view.entry()).write(&mut again);
            let read = View::read(&again).expect("what was written is read");
            assert_eq!(read.0.subject, view.subject);
        }
    }
}
