//! Idempotency keys on disk, so that a restart knows those of messages that are settled: two files of records of one
//! length. When the newer is full it takes the place of the older, so that both together are bounded and nothing is rewritten.
//!
//! Nothing waits for the disk here: the spool's own record of a message has its key until the message is settled. A killed
//! process loses nothing; a power cut may forget the keys of messages that were settled in the last half minute or so.

use mail::{RequestPart, SpoolId, UnixMillis};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Octets of a record: key, body, part, id, time, checksum.
const RECORD: usize = 16 + 16 + 4 + 8 + 8 + 4;
/// Records of a file at least, however few keys are remembered.
const RECORDS_MIN: u64 = 10_000;

/// One message that was made by a request with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) request: RequestPart,
    pub(super) id: SpoolId,
    pub(super) at: UnixMillis,
}

impl Entry {
    fn write(&self) -> [u8; RECORD] {
        let mut out = [0; RECORD];
        out[..16].copy_from_slice(&self.request.key);
        out[16..32].copy_from_slice(&self.request.body);
        out[32..36].copy_from_slice(&self.request.part.to_le_bytes());
        out[36..44].copy_from_slice(&self.id.0.to_le_bytes());
        out[44..52].copy_from_slice(&self.at.0.to_le_bytes());
        let sum = crc32fast::hash(&out[..52]);
        out[52..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a record; nothing if it was not written whole.
    fn read(octets: &[u8; RECORD]) -> Option<Self> {
        fn part<const N: usize>(octets: &[u8], from: usize) -> [u8; N] {
            let mut out = [0; N];
            out.copy_from_slice(&octets[from..from + N]);
            out
        }
        (crc32fast::hash(&octets[..52]) == u32::from_le_bytes(part(octets, 52))).then(|| Self {
            request: RequestPart {
                key: part(octets, 0),
                body: part(octets, 16),
                part: u32::from_le_bytes(part(octets, 32)),
            },
            id: SpoolId(u64::from_le_bytes(part(octets, 36))),
            at: UnixMillis(u64::from_le_bytes(part(octets, 44))),
        })
    }
}

/// The files.
pub(super) struct Journal {
    newer: PathBuf,
    older: PathBuf,
    file: File,
    records: u64,
    records_max: u64,
}

fn append(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl Journal {
    /// Opens the files in a folder, and gives what they hold, the oldest first.
    pub(super) fn open(folder: &Path, keys_max: usize) -> std::io::Result<(Self, Vec<Entry>)> {
        let (newer, older) = (folder.join("idempotency.log"), folder.join("idempotency.old"));
        let records_max = (keys_max as u64).max(RECORDS_MIN);
        let mut entries = read(&older, records_max)?;
        let own = read(&newer, records_max)?;
        let file = append(&newer)?;
        // A record that was cut off would put all behind it out of step.
        file.set_len(own.len() as u64 * RECORD as u64)?;
        let records = own.len() as u64;
        entries.extend(own);
        Ok((Self { newer, older, file, records, records_max }, entries))
    }

    /// Writes one down.
    pub(super) fn note(&mut self, entry: &Entry) -> std::io::Result<()> {
        if self.records >= self.records_max {
            match std::fs::rename(&self.newer, &self.older) {
                // It took the older one's place the last time, and no new one could be made then.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
            self.file = append(&self.newer)?;
            self.records = 0;
        }
        if let Err(error) = self.file.write_all(&entry.write()) {
            // What a full disk left of it would put all behind it out of step.
            let _ = self.file.set_len(self.records * RECORD as u64);
            return Err(error);
        }
        self.records += 1;
        Ok(())
    }
}

/// The records of a file up to the first that is not whole.
fn read(path: &Path, records_max: u64) -> std::io::Result<Vec<Entry>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut octets = Vec::new();
    // It may have been written under a larger bound.
    file.take(records_max.saturating_mul(4).saturating_mul(RECORD as u64)).read_to_end(&mut octets)?;
    let (records, _) = octets.as_chunks::<RECORD>();
    Ok(records.iter().map_while(Entry::read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> Entry {
        let key = (u128::from(n)).to_le_bytes();
        Entry {
            request: RequestPart { key, body: [7; 16], part: n as u32 },
            id: SpoolId(n + 1),
            at: UnixMillis(n * 10),
        }
    }

    #[test]
    fn what_was_noted_is_there_again_and_both_files_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, known) = Journal::open(folder.path(), 1).unwrap();
        assert!(known.is_empty());
        let written = RECORDS_MIN * 2 + 5;
        for n in 0..written {
            journal.note(&entry(n)).unwrap();
        }
        drop(journal);
        let (_, known) = Journal::open(folder.path(), 1).unwrap();
        // Two files were filled; the first is gone with the third.
        let expected: Vec<Entry> = (RECORDS_MIN..written).map(entry).collect();
        assert!(known == expected, "{} of {}", known.len(), expected.len());
    }

    #[test]
    fn a_file_that_is_gone_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path(), 1).unwrap();
        (0..RECORDS_MIN).for_each(|n| journal.note(&entry(n)).unwrap());
        std::fs::remove_file(folder.path().join("idempotency.log")).unwrap();
        journal.note(&entry(RECORDS_MIN)).unwrap();
        drop(journal);
        assert_eq!(Journal::open(folder.path(), 1).unwrap().1, [entry(RECORDS_MIN)]);
    }

    #[test]
    fn a_record_that_is_not_whole_ends_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path(), 1).unwrap();
        (0..3).for_each(|n| journal.note(&entry(n)).unwrap());
        drop(journal);
        let path = folder.path().join("idempotency.log");
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut journal, known) = Journal::open(folder.path(), 1).unwrap();
            assert_eq!(known.len(), cut / RECORD, "{cut}");
            journal.note(&entry(9)).unwrap();
            drop(journal);
            let (_, known) = Journal::open(folder.path(), 1).unwrap();
            assert_eq!(known.last(), Some(&entry(9)), "{cut}");
        }
        let mut flipped = whole.clone();
        flipped[RECORD + 3] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(Journal::open(folder.path(), 1).unwrap().1, [entry(0)]);
    }
}
