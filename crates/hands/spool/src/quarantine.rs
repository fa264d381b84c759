//! Setting damage aside: copied to `quarantine/`, reported, and never believed again.

use crate::LoadEvent;
use crate::disk::{read_full, write_all};
use crate::record::ALIGN;
use crate::table::{Note, Shared, add, lock, segment_name, state_name};
use mail::SpoolId;
use std::fmt;
use std::io::{self, IoSlice};

/// What was found damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageReason {
    /// A record's header; how many messages stood there is not known.
    Header,
    /// A message's envelope.
    Envelope,
    /// A message's envelope is of a version this program does not know.
    HeadVersion(u8),
    /// A message's content.
    Content,
    /// The record of outcomes: some recipients may get their message twice.
    Outcomes,
    /// A segment's own header; the whole file is set aside.
    Segment,
    /// The disk will not open a segment.
    Unreadable,
}

impl fmt::Display for DamageReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("record header damaged"),
            Self::Envelope => f.write_str("envelope damaged"),
            Self::HeadVersion(version) => write!(f, "envelope of unknown version {version}"),
            Self::Content => f.write_str("content damaged"),
            Self::Outcomes => f.write_str("outcomes damaged, some recipients may be served twice"),
            Self::Segment => f.write_str("segment header damaged"),
            Self::Unreadable => f.write_str("segment not readable"),
        }
    }
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub segment: u32,
    /// Where in it.
    pub offset: u64,
    /// How much of it.
    pub octets: u64,
    /// The message, when its header is sound.
    pub id: Option<SpoolId>,
    /// What is wrong.
    pub reason: DamageReason,
    /// The file it was copied to, relative to the spool's directory; absent if that failed or if there is
    /// nothing to copy. Then it stays where it is, and is reported again at the next start.
    pub set_aside: Option<String>,
}

/// Octets copied at a time.
const CHUNK: usize = 1 << 20;

/// Copies a stretch of a segment to `quarantine/` and makes it void in its place.
pub(crate) fn stretch(
    shared: &Shared,
    segment: u32,
    offset: u64,
    octets: u64,
    id: Option<SpoolId>,
    reason: DamageReason,
) -> Damage {
    let name = format!("quarantine/{segment:08x}-{offset:010x}.record");
    let copied = copy(shared, segment, offset, octets, &name)
        .and_then(|()| write_text(shared, &name, id, reason))
        .and_then(|()| shared.disk.sync_dir());
    add(&shared.counters.set_aside, 1);
    let mut damage = Damage { segment, offset, octets, id, reason, set_aside: None };
    match copied {
        Ok(()) => {
            let (unit, end) = ((offset / ALIGN) as u32, (offset + octets).div_ceil(ALIGN) as u32);
            shared.note(Note::Gone { segment, unit, end, frees: None });
            tracing::error!(segment, offset, octets, %reason, file = %name, "spool damage set aside");
            damage.set_aside = Some(name);
        }
        Err(error) => {
            if let Some(segment) = lock(&shared.table).segments.get_mut(&segment) {
                segment.keep = true;
            }
            tracing::error!(segment, offset, octets, %reason, %error, "spool damage not set aside");
        }
    }
    damage
}

fn copy(shared: &Shared, segment: u32, offset: u64, octets: u64, name: &str) -> io::Result<()> {
    let from = shared.file(segment)?;
    let to = shared.disk.create(name)?;
    let mut buffer = vec![0; CHUNK.min(usize::try_from(octets).unwrap_or(CHUNK))];
    let mut done = 0;
    while done < octets {
        let size = buffer.len().min(usize::try_from(octets - done).unwrap_or(CHUNK));
        let got = match read_full(&*from, &mut buffer[..size], offset + done) {
            Ok(0) => break,
            Ok(got) => got,
            // What cannot be read is copied as noughts: the rest may still be of use.
            Err(_) => {
                buffer[..size].fill(0);
                size
            }
        };
        write_all(&*to, &mut [IoSlice::new(&buffer[..got])], done)?;
        done += got as u64;
    }
    to.datasync()
}

fn write_text(shared: &Shared, name: &str, id: Option<SpoolId>, reason: DamageReason) -> io::Result<()> {
    let file = shared.disk.create(&format!("{name}.txt"))?;
    let id = id.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
    let text = format!("message: {id}\nreason: {reason}\n");
    write_all(&*file, &mut [IoSlice::new(text.as_bytes())], 0)?;
    file.datasync()
}

/// Moves a segment whose own header is damaged out of the way, with its sidecar.
pub(crate) fn whole_segment(shared: &Shared, segment: u32, octets: u64) -> LoadEvent {
    let mark = shared.disk.nonce();
    let name = format!("quarantine/{segment:08x}-{mark:016x}.seg");
    let moved = shared.disk.rename(&segment_name(segment), &name);
    // Without the segment its outcomes say nothing; with it they may help whoever looks into it.
    let _ = shared.disk.rename(&state_name(segment), &format!("quarantine/{segment:08x}-{mark:016x}.state"));
    let _ = shared.disk.sync_dir();
    add(&shared.counters.set_aside, 1);
    tracing::error!(segment, octets, "segment header damaged, segment set aside");
    let reason = DamageReason::Segment;
    LoadEvent::Damaged(Damage {
        segment,
        offset: 0,
        octets,
        id: None,
        reason,
        set_aside: moved.ok().map(|()| name),
    })
}
