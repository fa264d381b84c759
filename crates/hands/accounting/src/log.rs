//! One log: the segment being written, what is still to be handed to it, and the filled ones kept beside it.
//!
//! A write that fails is taken up again at the octet where it stopped, so a disk that was full for an hour leaves
//! a file without a gap or a torn line. Nothing is ever appended to a segment of an earlier run, whose end may be
//! torn: it is moved aside whole.

use crate::files::{Files, Listed, LogFile};
use crate::time::day;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// What a log needs of a [`FileConfig`](crate::FileConfig).
#[derive(Clone, Debug)]
pub(crate) struct LogLimits {
    pub(crate) compression_level: i32,
    pub(crate) max_size: u64,
    pub(crate) max_age: Duration,
    pub(crate) delete_after: Duration,
    pub(crate) total_max_octets: u64,
    pub(crate) sync: bool,
}

type Encoder = zstd::stream::write::Encoder<'static, Vec<u8>>;

/// The segment being written.
struct Segment {
    file: Box<dyn LogFile>,
    encoder: Option<Encoder>,
    octets: u64,
    opened: Instant,
}

/// Octets gathered before the disk is asked, unless time asks first.
const WRITE_AT: usize = 256 * 1024;

pub(crate) struct Log {
    files: Arc<dyn Files>,
    path: PathBuf,
    limits: LogLimits,
    header: Vec<u8>,
    segment: Option<Segment>,
    /// Octets on their way to the open segment's file; `done` of them are there.
    pending: Vec<u8>,
    done: usize,
    /// A rename of an older segment that has not worked yet, or the first look whether there is one.
    move_aside: bool,
    /// The segment is being closed: `pending` holds its end.
    closing: bool,
    /// Octets written since the start.
    pub(crate) octets: u64,
    /// Segments filled since the start.
    pub(crate) rotations: u64,
}

impl Log {
    /// A log at `path`; nothing is opened before the first line. Every segment begins with `header`.
    pub(crate) fn new(files: Arc<dyn Files>, path: PathBuf, limits: LogLimits, header: Vec<u8>) -> Self {
        Self {
            files,
            path,
            limits,
            header,
            segment: None,
            pending: Vec::new(),
            done: 0,
            move_aside: true,
            closing: false,
            octets: 0,
            rotations: 0,
        }
    }

    /// Makes sure that a segment is open. May be called again after an error.
    pub(crate) fn open(&mut self, now: SystemTime) -> io::Result<()> {
        if self.closing {
            self.finish()?;
        }
        if self.segment.is_some() {
            return Ok(());
        }
        if self.move_aside {
            self.move_aside(now)?;
        }
        let file = self.files.open(&self.path)?;
        let encoder = match self.limits.compression_level {
            0 => None,
            level => {
                let mut encoder = Encoder::new(Vec::new(), level)?;
                encoder.include_checksum(true)?;
                Some(encoder)
            }
        };
        self.segment = Some(Segment { file, encoder, octets: 0, opened: Instant::now() });
        if !self.header.is_empty() {
            let header = std::mem::take(&mut self.header);
            let result = self.append(&header);
            self.header = header;
            result?;
        }
        Ok(())
    }

    /// Adds whole lines to the open segment. They are in memory until [`Log::flush`], or until enough have come;
    /// an error leaves them there.
    pub(crate) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(segment) = &mut self.segment else {
            return Err(io::Error::other("no segment is open"));
        };
        match &mut segment.encoder {
            Some(encoder) => {
                // Into memory: this cannot fail for want of room on the disk.
                encoder.write_all(lines)?;
                self.pending.append(encoder.get_mut());
            }
            None => self.pending.extend_from_slice(lines),
        }
        if self.pending.len() - self.done >= WRITE_AT { self.drain() } else { Ok(()) }
    }

    /// Hands everything to the system, compressed data cut so that all of it can be read.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        // A segment that is being closed has no encoder any more: its end is pending already.
        if let Some(encoder) = self.segment.as_mut().and_then(|segment| segment.encoder.as_mut()) {
            encoder.flush()?;
            self.pending.append(encoder.get_mut());
        }
        self.drain()?;
        match &mut self.segment {
            Some(segment) if self.limits.sync => segment.file.sync(),
            _ => Ok(()),
        }
    }

    /// The same, and makes it durable.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        match &mut self.segment {
            Some(segment) => segment.file.sync(),
            None => Ok(()),
        }
    }

    /// Writes what is pending, from where the last attempt stopped.
    fn drain(&mut self) -> io::Result<()> {
        let Some(segment) = &mut self.segment else { return Ok(()) };
        while self.done < self.pending.len() {
            match segment.file.write(&self.pending[self.done..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.done += n;
                    segment.octets += n as u64;
                    self.octets += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.pending.clear();
        self.pending.shrink_to(2 * WRITE_AT);
        self.done = 0;
        Ok(())
    }

    /// Octets that wait for the disk.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len() - self.done
    }

    /// When the open segment is due for the next, by age.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.segment.as_ref().map(|segment| segment.opened + self.limits.max_age)
    }

    /// Begins the next segment if this one is large or old enough, and removes old ones.
    pub(crate) fn rotate_if_due(&mut self, now: SystemTime) -> io::Result<()> {
        let Some(segment) = &self.segment else { return Ok(()) };
        let octets = segment.octets + (self.pending.len() - self.done) as u64;
        if octets < self.limits.max_size && segment.opened.elapsed() < self.limits.max_age && !self.closing {
            return Ok(());
        }
        self.finish()?;
        self.move_aside(now)?;
        self.rotations += 1;
        Ok(())
    }

    /// Ends the open segment properly; a segment that was closed is moved aside at the next opening.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let Some(segment) = &mut self.segment else { return Ok(()) };
        if !self.closing {
            if let Some(encoder) = segment.encoder.take() {
                self.pending.append(&mut encoder.finish()?);
            }
            self.closing = true;
        }
        self.drain()?;
        if let Some(segment) = self.segment.as_mut().filter(|_| self.limits.sync) {
            segment.file.sync()?;
        }
        self.segment = None;
        self.closing = false;
        self.move_aside = true;
        Ok(())
    }

    /// Moves what lies at `path` to its dated name, and lets go what is too old or too much.
    fn move_aside(&mut self, now: SystemTime) -> io::Result<()> {
        let folder = self.folder().to_path_buf();
        let names = Names::of(&self.path);
        let listed = match self.files.list(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        if let Some(current) = listed.iter().find(|file| self.path.file_name() == Some(file.name.as_ref())) {
            if current.octets == 0 {
                self.files.remove(&self.path)?;
            } else {
                let target = names.next(&day(current.modified.into()), &listed);
                self.files.rename(&self.path, &folder.join(target))?;
            }
        }
        self.move_aside = false;
        self.retain(&folder, &names, now);
        Ok(())
    }

    /// Removes filled segments past their time, then the oldest while all together are too large. A file that
    /// will not go is tried again with the next segment.
    fn retain(&self, folder: &Path, names: &Names, now: SystemTime) {
        let Ok(listed) = self.files.list(folder) else { return };
        let mut filled: Vec<Listed> =
            listed.into_iter().filter(|file| names.parse(&file.name).is_some()).collect();
        filled.sort_by(|a, b| names.parse(&a.name).cmp(&names.parse(&b.name)));
        let mut total: u64 = filled.iter().map(|file| file.octets).sum();
        for file in filled {
            let age = now.duration_since(file.modified).unwrap_or_default();
            if age <= self.limits.delete_after && total <= self.limits.total_max_octets {
                continue;
            }
            match self.files.remove(&folder.join(&file.name)) {
                Ok(()) => total -= file.octets,
                Err(error) => {
                    tracing::warn!(file = %file.name, error = %error, "old accounting segment stays")
                }
            }
        }
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }
}

/// How segments of one log are called: `acct.csv` becomes `acct-2026-03-01-0000.csv`, by the day it was last
/// written to, numbered within the day.
struct Names {
    stem: String,
    extension: String,
}

impl Names {
    fn of(path: &Path) -> Self {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (stem, extension) = name.split_once('.').unwrap_or((&name, ""));
        let extension = if extension.is_empty() { String::new() } else { format!(".{extension}") };
        Self { stem: stem.to_owned(), extension }
    }

    /// Day and number of a filled segment of this log; `None` for any other file.
    fn parse<'a>(&self, name: &'a str) -> Option<(&'a str, u64)> {
        let middle = name.strip_prefix(&self.stem)?.strip_suffix(&self.extension)?.strip_prefix('-')?;
        let (day, number) = (middle.get(..10)?, middle.get(10..)?.strip_prefix('-')?);
        let shape = day
            .bytes()
            .enumerate()
            .all(|(n, b)| if n == 4 || n == 7 { b == b'-' } else { b.is_ascii_digit() });
        if !shape || number.len() < 4 || !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some((day, number.parse().ok()?))
    }

    /// The name after the last one of that day.
    fn next(&self, day: &str, listed: &[Listed]) -> String {
        let numbers = listed.iter().filter_map(|file| self.parse(&file.name));
        let last = numbers.filter(|(of, _)| *of == day).map(|(_, number)| number).max();
        let number = last.map_or(0, |last| last + 1);
        format!("{}-{day}-{number:04}{}", self.stem, self.extension)
    }
}
