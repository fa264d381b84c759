//! A file's thread and the bounded queue in front of it.
//!
//! Whoever records takes one short lock and wakes nobody in the usual case: the thread collects for some
//! milliseconds what comes together, because a wake for every record would cost more than the record.

use crate::config::{FileConfig, Format, WhenFull};
use crate::csv::{CsvLayout, CsvWriter};
use crate::files::Files;
use crate::json::{JsonLayout, JsonWriter};
use crate::kumo::KumoWriter;
use crate::log::{Log, LogLimits};
use crate::record::{Kind, Record};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How one file is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStats {
    /// Its path.
    pub path: PathBuf,
    /// Records that wait in its queue.
    pub queued: u64,
    /// Records it was given room for at most.
    pub queue_max: u64,
    /// Records handed to the system.
    pub written: u64,
    /// Records left out because the queue was full, or the disk failed until the end.
    pub dropped: u64,
    /// Octets handed to the system, after compression.
    pub octets: u64,
    /// Segments filled.
    pub rotations: u64,
    /// Failed writes, opens and renames.
    pub errors: u64,
    /// True while the last try has failed.
    pub failing: bool,
}

/// How long the thread collects once something has come.
const LINGER: Duration = Duration::from_millis(50);

/// Records at which it is woken earlier, or half of a queue that is shorter.
const WAKE_AT: usize = 4_096;

/// Longest wait for the writer in front; it ends by itself well before, unless the system holds it in a write.
const BEFORE_MAX: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Queue {
    records: Vec<Record>,
    /// The thread waits for the first record.
    idle: bool,
    /// A producer has waited in vain since the thread last took records; until it does, nobody waits again.
    jammed: bool,
    /// Set once: no more records are taken, and the thread ends at this time at the latest.
    close_by: Option<Instant>,
    /// Times that somebody asked for what was recorded to be made durable.
    syncs_asked: u64,
    /// How many of them were done.
    syncs_done: u64,
}

/// What the producers and the thread share.
pub(crate) struct Shared {
    pub(crate) config: FileConfig,
    takes: [bool; Kind::ALL.len()],
    wake_at: usize,
    queue: Mutex<Queue>,
    work: Condvar,
    room: Condvar,
    /// Records taken from the queue but not yet handed to the system.
    in_hand: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
    octets: AtomicU64,
    rotations: AtomicU64,
    errors: AtomicU64,
    failing: AtomicBool,
    ended: AtomicBool,
    end: Condvar,
    synced: Condvar,
}

/// Writes records of either form.
enum Lines {
    Json(JsonWriter),
    Csv(Box<CsvWriter>),
    Kumo(KumoWriter),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // A panic elsewhere cannot leave the queue half changed; records matter more than its cause.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if records of this kind go into this file.
    pub(crate) fn takes(&self, kind: Kind) -> bool {
        self.takes[kind as usize]
    }

    /// Puts records into the queue; those that find no room are counted.
    pub(crate) fn push<'a>(&self, records: impl Iterator<Item = &'a Record>) {
        let mut queue = self.lock();
        for record in records.filter(|record| self.takes(record.kind)) {
            if queue.records.len() >= self.config.queue_max {
                queue = self.wait_for_room(queue);
            }
            if queue.records.len() >= self.config.queue_max || queue.close_by.is_some() {
                self.dropped.fetch_add(1, Relaxed);
                continue;
            }
            queue.records.push(record.clone());
            if queue.idle || queue.records.len() == self.wake_at {
                queue.idle = false;
                self.work.notify_one();
            }
        }
    }

    fn wait_for_room<'a>(&self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        if self.config.when_full == WhenFull::Drop || queue.jammed || queue.close_by.is_some() {
            return queue;
        }
        self.work.notify_one();
        let full = |queue: &mut Queue| {
            queue.records.len() >= self.config.queue_max && !queue.jammed && queue.close_by.is_none()
        };
        let waited = self.room.wait_timeout_while(queue, self.config.block_timeout, full);
        queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        if queue.records.len() >= self.config.queue_max {
            queue.jammed = true;
            // Those who wait beside us have waited for the same disk.
            self.room.notify_all();
        }
        queue
    }

    /// Tells the thread to write what there is and end, by `deadline` at the latest.
    pub(crate) fn close(&self, deadline: Instant) {
        let mut queue = self.lock();
        queue.close_by = Some(queue.close_by.map_or(deadline, |earlier| earlier.min(deadline)));
        self.work.notify_all();
        self.room.notify_all();
    }

    /// Waits until the thread has ended; false if it has not by `deadline`.
    pub(crate) fn wait_ended(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.end.wait_timeout_while(self.lock(), left, |_| !self.ended.load(Relaxed));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Asks for everything that is in the queue to be made durable. Gives what to wait for.
    pub(crate) fn ask_sync(&self) -> u64 {
        let mut queue = self.lock();
        queue.syncs_asked += 1;
        self.work.notify_one();
        queue.syncs_asked
    }

    /// Waits until that is done; false if it is not by `deadline`.
    pub(crate) fn wait_synced(&self, asked: u64, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let waits = |queue: &mut Queue| queue.syncs_done < asked && !self.ended.load(Relaxed);
        let waited = self.synced.wait_timeout_while(self.lock(), left, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.syncs_done >= asked
    }

    fn sync_done(&self, asked: u64) {
        let mut queue = self.lock();
        queue.syncs_done = queue.syncs_done.max(asked);
        self.synced.notify_all();
    }

    /// True once the thread has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    pub(crate) fn stats(&self) -> FileStats {
        let queued = self.lock().records.len() as u64;
        FileStats {
            path: self.config.current_path(),
            queued: queued + self.in_hand.load(Relaxed),
            queue_max: self.config.queue_max as u64,
            written: self.written.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            octets: self.octets.load(Relaxed),
            rotations: self.rotations.load(Relaxed),
            errors: self.errors.load(Relaxed),
            failing: self.failing.load(Relaxed),
        }
    }

    /// Waits for records and takes them all; nothing if none came by `until`. The time by which to end comes
    /// with it, once there is one, and what is to be told once they are durable.
    fn take(
        &self,
        spare: Vec<Record>,
        until: Option<Instant>,
    ) -> (Vec<Record>, Option<Instant>, Option<u64>) {
        let mut queue = self.lock();
        let mut lingered = false;
        loop {
            let ready = queue.records.len() >= self.wake_at || lingered;
            let now = Instant::now();
            let late = until.is_some_and(|until| now >= until);
            let asked = queue.syncs_asked > queue.syncs_done;
            if queue.close_by.is_some() || late || asked || (ready && !queue.records.is_empty()) {
                break;
            }
            let left = until.map(|until| until - now);
            let wait = if queue.records.is_empty() {
                queue.idle = true;
                // An hour stands for ever; a spurious wake costs nothing.
                left.unwrap_or(Duration::from_secs(3_600))
            } else {
                LINGER.min(left.unwrap_or(LINGER))
            };
            let collecting = !queue.records.is_empty();
            let (guard, timeout) =
                self.work.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner);
            queue = guard;
            lingered = collecting && timeout.timed_out();
            queue.idle = false;
        }
        let taken = std::mem::replace(&mut queue.records, spare);
        self.in_hand.store(taken.len() as u64, Relaxed);
        queue.jammed = false;
        self.room.notify_all();
        let asked = (queue.syncs_asked > queue.syncs_done).then_some(queue.syncs_asked);
        (taken, queue.close_by, asked)
    }

    /// Sleeps before the next try; earlier if the log is to be closed.
    fn pause(&self) -> Option<Instant> {
        let queue = self.lock();
        let closed_before = queue.close_by;
        let pause = match closed_before {
            // At the end there is no time to be patient.
            Some(_) => self.config.retry_interval.min(Duration::from_millis(20)),
            None => self.config.retry_interval,
        };
        let until = Instant::now() + pause;
        let mut queue = queue;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || queue.close_by != closed_before {
                return queue.close_by;
            }
            queue = self.work.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Starts a file's thread, which writes nothing before the writer in front of it has ended.
pub(crate) fn start(
    config: FileConfig,
    files: Arc<dyn Files>,
    before: Option<Arc<Shared>>,
) -> io::Result<Arc<Shared>> {
    let bad = |(setting, problem): (&str, String)| io::Error::other(format!("{setting}: {problem}"));
    let lines = match config.format {
        Format::JsonLines => Lines::Json(JsonWriter::new(JsonLayout::new(&config).map_err(bad)?)),
        Format::Kumomta => Lines::Kumo(KumoWriter::new(&config)),
        Format::Csv => Lines::Csv(Box::new(CsvWriter::new(CsvLayout::new(&config).map_err(bad)?))),
    };
    let mut takes = [false; Kind::ALL.len()];
    for kind in config.kinds() {
        takes[kind as usize] = true;
    }
    let mut header = Vec::new();
    if let Lines::Csv(csv) = &lines {
        csv.header(&mut header);
    }
    let limits = LogLimits {
        compression_level: config.compression_level,
        max_size: config.max_size.bytes(),
        max_age: config.max_age,
        delete_after: config.delete_after,
        total_max_octets: config.total_max_octets.bytes(),
        sync: config.sync,
    };
    let log = Log::new(files, config.current_path(), limits, header);
    let shared = Arc::new(Shared {
        wake_at: WAKE_AT.min(config.queue_max.div_ceil(2)),
        config,
        takes,
        queue: Mutex::default(),
        work: Condvar::new(),
        room: Condvar::new(),
        in_hand: AtomicU64::new(0),
        written: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
        octets: AtomicU64::new(0),
        rotations: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        failing: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        end: Condvar::new(),
        synced: Condvar::new(),
    });
    let thread = Thread { shared: Arc::clone(&shared), log, lines, close_by: None, gave_up: false };
    std::thread::Builder::new().name("accounting".into()).spawn(move || {
        if let Some(before) = before {
            before.wait_ended(Instant::now() + BEFORE_MAX);
        }
        thread.run();
    })?;
    Ok(shared)
}

struct Thread {
    shared: Arc<Shared>,
    log: Log,
    lines: Lines,
    close_by: Option<Instant>,
    /// Records were given up at the end; whatever works after that, the file has not been written out.
    gave_up: bool,
}

/// Marks the end of the thread, also when it panics, so that nobody waits for it in vain.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let _queue = self.0.lock();
        self.0.ended.store(true, Relaxed);
        self.0.end.notify_all();
        self.0.synced.notify_all();
    }
}

/// Octets of text gathered before they go to the log.
const TEXT_MAX: usize = 64 * 1024;

impl Thread {
    fn run(mut self) {
        let _ending = Ending(Arc::clone(&self.shared));
        let flush_interval = self.shared.config.flush_interval;
        let mut records = Vec::new();
        let mut text = Vec::with_capacity(TEXT_MAX + 4_096);
        // Records not yet handed to the system, and since when.
        let mut unflushed = 0u64;
        let mut flush_at: Option<Instant> = None;
        loop {
            let until = [flush_at, self.log.due()].into_iter().flatten().min();
            let asked;
            (records, self.close_by, asked) = self.shared.take(records, until);
            let mut batch = records.len() as u64;
            let mut encoded = 0;
            for record in records.drain(..) {
                match &mut self.lines {
                    Lines::Json(json) => json.write(&mut text, &record),
                    Lines::Csv(csv) => csv.write(&mut text, &record),
                    Lines::Kumo(kumo) => kumo.write(&mut text, &record),
                }
                encoded += 1;
                if text.len() >= TEXT_MAX {
                    if self.insist(|log| log.open(SystemTime::now())) && self.append(&text) {
                        unflushed += encoded;
                    } else {
                        self.shared.dropped.fetch_add(encoded, Relaxed);
                    }
                    batch -= encoded;
                    self.shared.in_hand.store(batch, Relaxed);
                    encoded = 0;
                    text.clear();
                }
            }
            if !text.is_empty() {
                if self.insist(|log| log.open(SystemTime::now())) && self.append(&text) {
                    unflushed += encoded;
                } else {
                    self.shared.dropped.fetch_add(encoded, Relaxed);
                }
                text.clear();
            }
            self.shared.in_hand.store(0, Relaxed);
            if unflushed > 0 && flush_at.is_none() {
                flush_at = Some(Instant::now() + flush_interval);
            }
            if let Some(asked) = asked {
                // A segment whose end comes at the same time is synced as it ends.
                if self.insist(Log::sync) {
                    self.shared.written.fetch_add(unflushed, Relaxed);
                    self.shared.sync_done(asked);
                } else {
                    self.shared.dropped.fetch_add(unflushed, Relaxed);
                }
                (unflushed, flush_at) = (0, None);
            }
            let closing = self.close_by.is_some();
            if closing || flush_at.is_some_and(|at| Instant::now() >= at) {
                let flushed = self.insist(if closing { Log::finish } else { Log::flush });
                let count = if flushed { &self.shared.written } else { &self.shared.dropped };
                count.fetch_add(unflushed, Relaxed);
                (unflushed, flush_at) = (0, None);
            }
            if !closing {
                self.insist(|log| log.rotate_if_due(SystemTime::now()));
                if self.log.due().is_none() {
                    // The segment was closed, and everything is in it.
                    self.shared.written.fetch_add(unflushed, Relaxed);
                    (unflushed, flush_at) = (0, None);
                }
            }
            self.shared.octets.store(self.log.octets, Relaxed);
            self.shared.rotations.store(self.log.rotations, Relaxed);
            if closing {
                return;
            }
        }
    }

    /// Appends once; if the disk then fails, goes on until what is pending is there.
    fn append(&mut self, text: &[u8]) -> bool {
        match self.log.append(text) {
            Ok(()) => true,
            Err(error) => {
                self.failed(&error);
                self.insist(|log| if log.pending() > 0 { log.flush() } else { Ok(()) })
            }
        }
    }

    /// Repeats `step` until it works; false only if the log is to be closed before it does. The queue fills up
    /// meanwhile, and [`WhenFull`] rules.
    fn insist(&mut self, mut step: impl FnMut(&mut Log) -> io::Result<()>) -> bool {
        loop {
            match step(&mut self.log) {
                Ok(()) => {
                    if !self.gave_up && self.shared.failing.swap(false, Relaxed) {
                        let dropped = self.shared.dropped.load(Relaxed);
                        tracing::info!(file = %self.path(), dropped, "accounting file is written to again");
                    }
                    return true;
                }
                Err(error) => self.failed(&error),
            }
            self.close_by = self.shared.pause();
            if self.close_by.is_some_and(|deadline| Instant::now() >= deadline) {
                self.gave_up = true;
                return false;
            }
        }
    }

    /// Counts a failure; only the first of a burst is logged.
    fn failed(&self, error: &io::Error) {
        self.shared.errors.fetch_add(1, Relaxed);
        if !self.shared.failing.swap(true, Relaxed) {
            tracing::error!(file = %self.path(), error = %error, "accounting file cannot be written");
        }
    }

    fn path(&self) -> std::path::Display<'_> {
        self.shared.config.path.display()
    }
}
