//! The log of one webhook: lines in segments of a folder, and how far they were taken.
//!
//! A segment is `0000000001.log`, lines of JSON, each ended with LF; half a line at the end is what a crash had not
//! finished. `cursor` names the segment and octet up to which lines were taken, and is replaced whole. All of it blocks,
//! so it is called where that may be.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Octets of a segment before the next is begun.
const SEGMENT_MAX: u64 = 4 << 20;
/// Octets of one batch read at most: a record with everything in it is far smaller.
const BATCH_MAX_OCTETS: usize = 4 << 20;

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// Lines that were read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    pub(crate) lines: Vec<String>,
    /// Where they begin and end.
    pub(crate) from: At,
    pub(crate) to: At,
}

/// The log.
#[derive(Debug)]
pub(crate) struct Log {
    folder: PathBuf,
    /// Number and octets of each segment, oldest first; the last is appended to.
    segments: Vec<(u64, u64)>,
    file: Option<File>,
    cursor: At,
    max: u64,
    /// Octets that went before they were taken.
    pub(crate) lost: u64,
}

fn name(segment: u64) -> String {
    format!("{segment:010}.log")
}

impl Log {
    /// Opens the log in a folder, which is made if it is not there.
    pub(crate) fn open(folder: &Path, max: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut segments = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let number =
                entry.file_name().to_str().and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok());
            if let Some(number) = number {
                segments.push((number, entry.metadata()?.len()));
            }
        }
        segments.sort_unstable();
        let mut log =
            Self { folder: folder.into(), segments, file: None, cursor: At::default(), max, lost: 0 };
        log.cursor = log.read_cursor();
        // A segment that a crash may have torn is not appended to.
        if let Some((last, octets)) = log.segments.last().copied()
            && octets > 0
        {
            log.segments.push((last + 1, 0));
        }
        Ok(log)
    }

    /// A cursor that cannot be read stands at the beginning: what is posted twice is known by its id.
    fn read_cursor(&self) -> At {
        let text = fs::read_to_string(self.folder.join("cursor")).unwrap_or_default();
        let read = || {
            let (segment, offset) = text.trim().split_once(' ')?;
            Some(At { segment: segment.parse().ok()?, offset: offset.parse().ok()? })
        };
        let first = self.segments.first().map_or(0, |(number, _)| *number);
        read().filter(|at| at.segment >= first).unwrap_or(At { segment: first, offset: 0 })
    }

    /// Appends whole lines, and makes them durable.
    pub(crate) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let full = self.segments.last().is_none_or(|(_, octets)| *octets >= SEGMENT_MAX);
        if full {
            self.file = None;
            let next = self.segments.last().map_or(1, |(number, _)| number + 1).max(self.cursor.segment);
            self.segments.push((next, 0));
        }
        let Some((number, octets)) = self.segments.last_mut() else { return Ok(()) };
        if self.file.is_none() {
            let path = self.folder.join(name(*number));
            self.file = Some(OpenOptions::new().create(true).append(true).open(path)?);
            File::open(&self.folder)?.sync_all()?;
        }
        let written = match &mut self.file {
            Some(file) => file.write_all(lines).and_then(|()| file.sync_data()),
            None => Ok(()),
        };
        if let Err(failure) = written {
            // What is there now is not known: the next lines go into another segment, and half a line is stepped over.
            self.file = None;
            *octets = self.folder.join(name(*number)).metadata().map_or(*octets, |data| data.len());
            let next = *number + 1;
            self.segments.push((next, 0));
            return Err(failure);
        }
        *octets += lines.len() as u64;
        self.shrink();
        Ok(())
    }

    /// Lets the oldest segments go while there is too much.
    fn shrink(&mut self) {
        while self.segments.len() > 1 && self.octets() > self.max {
            let (number, octets) = self.segments.remove(0);
            let _ = fs::remove_file(self.folder.join(name(number)));
            let first = self.segments[0].0;
            if self.cursor.segment < first {
                let taken = if self.cursor.segment == number { self.cursor.offset } else { 0 };
                self.lost += octets.saturating_sub(taken);
                self.cursor = At { segment: first, offset: 0 };
            }
        }
    }

    /// Octets on the disk.
    pub(crate) fn octets(&self) -> u64 {
        self.segments.iter().map(|(_, octets)| octets).sum()
    }

    /// Octets that were not taken yet.
    pub(crate) fn pending(&self) -> u64 {
        let of = |(number, octets): &(u64, u64)| match number.cmp(&self.cursor.segment) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => octets.saturating_sub(self.cursor.offset),
            std::cmp::Ordering::Greater => *octets,
        };
        self.segments.iter().map(of).sum()
    }

    /// The next lines that were not taken, at most so many.
    pub(crate) fn read(&self, max: usize) -> io::Result<Lines> {
        self.read_from(self.cursor, max)
    }

    fn read_from(&self, from: At, max: usize) -> io::Result<Lines> {
        let mut found = Lines { from, to: from, lines: Vec::new() };
        for (number, octets) in self.segments.iter().filter(|(number, _)| *number >= from.segment) {
            let begin = if *number == from.segment { from.offset } else { 0 };
            let room = (octets.saturating_sub(begin)).min(BATCH_MAX_OCTETS as u64) as usize;
            if room == 0 {
                continue;
            }
            let mut buffer = vec![0; room];
            File::open(self.folder.join(name(*number)))?.read_exact_at(&mut buffer, begin)?;
            let mut at = 0;
            while found.lines.len() < max {
                let Some(end) = buffer[at..].iter().position(|octet| *octet == b'\n') else { break };
                let line = String::from_utf8_lossy(&buffer[at..at + end]).into_owned();
                at += end + 1;
                // Half a line, from before or behind a crash, is no JSON object.
                if line.starts_with('{') && line.ends_with('}') {
                    found.lines.push(line);
                }
            }
            let last = self.segments.last().is_some_and(|(last, _)| last == number);
            // What is left of a segment that is not appended to is half a line.
            let whole = !last && at < buffer.len() && found.lines.len() < max && room < BATCH_MAX_OCTETS;
            found.to = At { segment: *number, offset: begin + if whole { room } else { at } as u64 };
            if !found.lines.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// Lines up to here were taken.
    pub(crate) fn taken(&mut self, to: At) -> io::Result<()> {
        self.cursor = to;
        let path = self.folder.join("cursor");
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        writeln!(file, "{} {}", to.segment, to.offset)?;
        file.sync_data()?;
        fs::rename(new, path)
    }

    /// Everything that is kept is to be taken again.
    pub(crate) fn rewind(&mut self) -> io::Result<()> {
        let first = self.segments.first().map_or(0, |(number, _)| *number);
        self.taken(At { segment: first, offset: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(log: &Log, max: usize) -> Vec<String> {
        log.read(max).unwrap().lines
    }

    #[test]
    fn lines_are_taken_once_over_restarts_and_torn_ends() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), 1 << 30).unwrap();
        assert_eq!(log.read(10).unwrap().lines, Vec::<String>::new());
        log.append(b"{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n").unwrap();
        let two = log.read(2).unwrap();
        assert_eq!(two.lines, ["{\"n\":1}", "{\"n\":2}"]);
        // Not taken, they come again.
        assert_eq!(log.read(2).unwrap(), two);
        log.taken(two.to).unwrap();
        drop(log);
        // Half a line, as a crash leaves it.
        let mut torn = OpenOptions::new().append(true).open(folder.path().join(name(1))).unwrap();
        torn.write_all(b"{\"n\":4").unwrap();
        let mut log = Log::open(folder.path(), 1 << 30).unwrap();
        log.append(b"{\"n\":5}\n").unwrap();
        let mut seen = Vec::new();
        loop {
            let next = log.read(1).unwrap();
            if next.lines.is_empty() {
                break;
            }
            seen.extend(next.lines);
            log.taken(next.to).unwrap();
        }
        assert_eq!(seen, ["{\"n\":3}", "{\"n\":5}"]);
        assert_eq!(log.pending(), 0);
        log.rewind().unwrap();
        assert_eq!(lines(&log, 10).len(), 3);
    }

    #[test]
    fn what_is_too_much_goes_the_oldest_first_and_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), 3 * SEGMENT_MAX).unwrap();
        let chunk = format!("{{\"x\":\"{}\"}}\n", "x".repeat(1 << 20)).repeat(2);
        for _ in 0..20 {
            log.append(chunk.as_bytes()).unwrap();
        }
        assert!(log.octets() <= 3 * SEGMENT_MAX + chunk.len() as u64, "{}", log.octets());
        assert_eq!(log.lost + log.pending(), 20 * chunk.len() as u64);
        let on_disk = fs::read_dir(folder.path()).unwrap().count();
        assert!(on_disk <= 5, "{on_disk}");
        assert_eq!(lines(&log, 1).len(), 1);
    }
}
