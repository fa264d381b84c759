//! Accepted messages on disk until the last recipient is settled.
//!
//! [`Spool::accept`] is the one way in: it answers with an [`Accepted`], which nobody else can make, once the
//! message is durable. [`Spool::settle`] writes what became of a recipient, [`Spool::read`] gives a message
//! back, and after a start the [`Loader`] gives back every message that has a recipient still waiting.
//!
//! Messages stand in segments, large files that are appended to, taken back as a whole when nobody needs
//! anything in them, and written anew. Outcomes stand beside each segment in its sidecar. Three threads do
//! the work: one commits (one write and one sync for all that wait), one keeps the outcomes, one keeps room.
//! The work itself is in `writer`, `ledger` and `janitor`, which know no threads, so that tests drive them
//! over a disk that lies, step by step. `docs/spool-format.md` has the octets, the order of commits, what is
//! assumed of the disk and what a crash can duplicate.
//!
//! What this room never does: retry a sync that failed, believe a record whose checksum differs, lose an
//! outcome because the disk is full, look into a message's content.
//!
//! Read first: [`Spool`], then `writer`, then `load`.

mod codec;
mod config;
mod disk;
mod index;
mod janitor;
mod ledger;
mod load;
mod quarantine;
mod record;
mod scan;
#[doc(hidden)]
pub mod simulated;
mod spool;
mod state;
mod table;
pub mod tools;
mod transfer;
mod types;
mod writer;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use disk::{Disk, DiskFile, RealDisk};
pub use load::{LoadEvent, Loaded, Loader, PendingRecipient};
pub use quarantine::{Damage, DamageReason};
pub use spool::{Accepted, Done, Spool, Stats, open, open_directory};
pub use types::{Change, Content, Draft, Fate, Handle, OpenError, ReadError, Refusal, Settlement, Stored};

/// Decodes arbitrary octets as every kind of record there is: for fuzzing, which only asks that it returns.
#[doc(hidden)]
pub fn decode_arbitrary(octets: &[u8]) -> u64 {
    let head = codec::decode(mail::SpoolId(1), octets);
    let again = head.is_ok_and(|message| {
        let mut encoded = Vec::new();
        codec::encode(&message, &mut encoded);
        codec::decode(message.id, &encoded) == Ok(message)
    });
    let header = record::RecordHeader::read(0, octets).map_or(0, |header| header.total());
    let page = record::SegmentHeader::judge(octets, 1) == record::FirstPage::Damaged;
    state::decode_any(octets) ^ header ^ u64::from(again) ^ u64::from(page)
}
