//! Writing the lines.

use super::{ReportFigures, ReportsConfig};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};
use tracing::error;

/// Lines on their way to the writer.
const LINES_MAX: usize = 4096;
/// How long a line may wait in memory.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// The end of the files' names; before it stands when the interval began, in seconds.
const SUFFIX: &str = ".dmarc";

/// Takes lines from sessions and writes them, on a thread of its own.
#[derive(Debug)]
pub struct Collector {
    lines: SyncSender<(u64, String)>,
    folder: PathBuf,
    interval: u64,
    /// What was collected and sent.
    pub figures: ReportFigures,
}

impl Collector {
    /// Opens the folder, which is made if it is not there, and starts the writer.
    pub fn start(folder: &Path, config: &ReportsConfig) -> io::Result<Arc<Self>> {
        fs::create_dir_all(folder)?;
        let (lines, taken) = sync_channel(LINES_MAX);
        let interval = config.interval.as_secs().max(1);
        let collector =
            Arc::new(Self { lines, folder: folder.into(), interval, figures: ReportFigures::default() });
        let mut writer = Writer {
            folder: folder.into(),
            octets_max: config.octets_max.bytes(),
            open: None,
            collector: Arc::downgrade(&collector),
        };
        std::thread::Builder::new().name("dmarc-reports".into()).spawn(move || writer.run(&taken))?;
        Ok(collector)
    }

    /// Takes what is told of a message, which counts for the interval that is now: one that came before may be over,
    /// and its reports on their way.
    pub(crate) fn take(&self, line: String) {
        let seconds = wall_seconds();
        let begin = seconds - seconds % self.interval;
        match self.lines.try_send((begin, line)) {
            Ok(()) => self.figures.collected.fetch_add(1, Relaxed),
            Err(_) => self.figures.left_out.fetch_add(1, Relaxed),
        };
    }

    /// How long an interval is, in seconds.
    pub(super) fn interval(&self) -> u64 {
        self.interval
    }

    /// The intervals that are over, each with its file.
    pub(super) fn over(&self, now: u64) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let begin =
                name.and_then(|name| name.strip_suffix(SUFFIX)).and_then(|text| text.parse::<u64>().ok());
            // The writer holds lines back for a while; what the interval was when the file began does not matter.
            let patience = 3 * FLUSH_INTERVAL.as_secs();
            if let Some(begin) = begin.filter(|begin| begin + self.interval + patience <= now) {
                found.push((begin, path));
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

struct Writer {
    folder: PathBuf,
    octets_max: u64,
    open: Option<Open>,
    collector: std::sync::Weak<Collector>,
}

struct Open {
    begin: u64,
    file: BufWriter<File>,
    octets: u64,
}

impl Writer {
    /// Until nobody can send a line any more.
    fn run(&mut self, lines: &Receiver<(u64, String)>) {
        loop {
            match lines.recv_timeout(FLUSH_INTERVAL) {
                Ok((begin, line)) => {
                    let written = self.write(begin, &line);
                    if !matches!(written, Ok(true))
                        && let Some(collector) = self.collector.upgrade()
                    {
                        collector.figures.left_out.fetch_add(1, Relaxed);
                    }
                    if let Err(problem) = written {
                        error!(error = %problem, folder = %self.folder.display(), "cannot collect DMARC reports");
                        self.open = None;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(open) = &mut self.open
                        && let Err(problem) = open.file.flush()
                    {
                        error!(error = %problem, "cannot collect DMARC reports");
                        self.open = None;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// False if there is no room.
    fn write(&mut self, begin: u64, line: &str) -> io::Result<bool> {
        if self.open.as_ref().is_none_or(|open| open.begin != begin) {
            self.open = None;
            let path = self.folder.join(format!("{begin}{SUFFIX}"));
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            let octets = file.metadata()?.len();
            self.open = Some(Open { begin, file: BufWriter::new(file), octets });
        }
        let Some(open) = &mut self.open else { return Ok(false) };
        let octets = line.len() as u64 + 1;
        if open.octets + octets > self.octets_max {
            return Ok(false);
        }
        open.file.write_all(line.as_bytes())?;
        open.file.write_all(b"\n")?;
        open.octets += octets;
        Ok(true)
    }
}

/// Seconds since 1970.
pub(super) fn wall_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
