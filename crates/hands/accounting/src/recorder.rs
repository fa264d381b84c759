//! The handle through which everyone records: metrics, recent events, files.

use crate::config::{AccountingConfig, ConfigError};
use crate::files::{DiskFiles, Files};
use crate::metrics::Metrics;
use crate::record::Record;
use crate::writer::{FileStats, Shared, start};
use mail::{KeptField, SpoolId, Tags};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Is told of every record. It must not wait: whoever records does not either.
pub trait Observer: Send + Sync {
    /// Some records were made.
    fn observe(&self, records: &[Record]);

    /// Makes durable what follows from the records it was told of. May wait for a disk, and gives up at the deadline;
    /// false if it could not.
    fn make_durable(&self, deadline: Instant) -> bool {
        let _ = deadline;
        true
    }
}

/// Takes records; cheap to clone, one for the whole server.
///
/// [`Recorder::record`] returns without waiting for anything, with one exception that the operator chooses:
/// a file with `when_full = block`.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    metrics: Arc<Metrics>,
    disk: Arc<dyn Files>,
    files: RwLock<Arc<[Arc<Shared>]>>,
    recent: Mutex<Recent>,
    observers: RwLock<Arc<[Arc<dyn Observer>]>>,
    /// Held while the configuration changes, so that two changes do not mix.
    changing: Mutex<()>,
    retired: Mutex<Retired>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("files", &self.stats()).finish()
    }
}

/// Files that are no longer configured: what they left out stays counted, so that the counter never goes back.
#[derive(Default)]
struct Retired {
    dropped: u64,
    ending: Vec<Arc<Shared>>,
}

impl Retired {
    fn extend(&mut self, files: impl Iterator<Item = Arc<Shared>>) {
        self.ending.extend(files);
        self.dropped();
    }

    fn dropped(&mut self) -> u64 {
        let ended = self.ending.extract_if(.., |file| file.has_ended());
        self.dropped += ended.map(|file| file.stats().dropped).sum::<u64>();
        self.dropped + self.ending.iter().map(|file| file.stats().dropped).sum::<u64>()
    }
}

/// The last records, within a number and a weight.
struct Recent {
    /// Each with its weight.
    records: VecDeque<(Record, usize)>,
    weight: usize,
    max: usize,
    max_octets: usize,
    /// The place of the first of them among all there ever were.
    first: u64,
}

/// What a record may hold on to: itself, its reply, and its message with all recipients and kept fields as if it were
/// shared with nobody but the record before it.
fn weight(record: &Record, shared: bool) -> usize {
    const RECORD: usize = size_of::<Record>() + size_of::<mail::Message>() + 512;
    const RECIPIENT: usize = size_of::<mail::Recipient>() + 64;
    let reply = record.reply.as_ref().map_or(0, |reply| reply.text.len());
    let of_message = |message: &mail::Message| {
        let Tags { tenant, campaign, job, envid, pool, priority: _ } = &message.tags;
        let tags =
            [tenant, campaign, job, envid, pool].into_iter().flatten().map(|text| text.len()).sum::<usize>();
        let kept =
            message.headers.iter().map(|field| size_of::<KeptField>() + field.name.len() + field.value.len());
        message.envelope.recipients.len() * RECIPIENT + tags + kept.sum::<usize>()
    };
    RECORD + reply + record.message().filter(|_| !shared).map_or(0, |message| of_message(message))
}

impl Recent {
    fn push(&mut self, record: &Record) {
        // Records of one message in a row hold on to it once.
        let last = self.records.back().and_then(|(last, _)| last.message());
        let shared = last.zip(record.message()).is_some_and(|(last, message)| Arc::ptr_eq(last, message));
        let weight_of = weight(record, shared);
        if self.max == 0 || weight_of > self.max_octets {
            return;
        }
        while self.records.len() >= self.max || self.weight + weight_of > self.max_octets {
            match self.records.pop_front() {
                Some((_, old)) => {
                    self.weight -= old;
                    self.first += 1;
                }
                None => break,
            }
        }
        self.weight += weight_of;
        self.records.push_back((record.clone(), weight_of));
    }
}

impl Recorder {
    /// Checks the configuration and starts a thread for each file. The files themselves are opened by their
    /// threads with the first record: a disk that is not there yet does not keep the server from starting.
    pub fn open(config: &AccountingConfig, metrics: Arc<Metrics>) -> Result<Self, ConfigError> {
        Self::open_on(config, metrics, Arc::new(DiskFiles))
    }

    /// The same over any disk.
    pub fn open_on(
        config: &AccountingConfig,
        metrics: Arc<Metrics>,
        disk: Arc<dyn Files>,
    ) -> Result<Self, ConfigError> {
        let inner = Inner {
            metrics: Arc::clone(&metrics),
            disk,
            files: RwLock::new(Arc::from([])),
            recent: Mutex::new(Recent {
                records: VecDeque::new(),
                weight: 0,
                max: 0,
                max_octets: 0,
                first: 0,
            }),
            observers: RwLock::new(Arc::from([])),
            changing: Mutex::new(()),
            retired: Mutex::new(Retired::default()),
        };
        let recorder = Self(Arc::new(inner));
        recorder.reconfigure(config)?;
        recorder.register(&metrics);
        Ok(recorder)
    }

    /// A recorder that writes no files: metrics and recent events only.
    pub fn without_files(metrics: Arc<Metrics>) -> Self {
        match Self::open(&AccountingConfig::default(), metrics) {
            Ok(recorder) => recorder,
            Err(error) => unreachable!("a configuration without files has no mistakes: {error}"),
        }
    }

    /// Applies another configuration, or changes nothing and says what is wrong with it. Files that stay as they
    /// were go on without a break; others are written out and closed in the background.
    pub fn reconfigure(&self, config: &AccountingConfig) -> Result<(), ConfigError> {
        if let Some(error) = config.check().into_iter().next() {
            return Err(error);
        }
        let _one_at_a_time = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let files = self.files();
        let leaving: Vec<&Arc<Shared>> =
            files.iter().filter(|old| !config.file.values().any(|file| *file == old.config)).collect();
        let mut next: Vec<Arc<Shared>> = Vec::with_capacity(config.file.len());
        let mut started: Vec<Arc<Shared>> = Vec::new();
        for (name, file) in &config.file {
            if let Some(same) = files.iter().find(|old| old.config == *file) {
                next.push(Arc::clone(same));
                continue;
            }
            // A path has one writer at a time: the new one collects until the old one has ended.
            let before = leaving.iter().find(|old| old.config.current_path() == file.current_path());
            match start(file.clone(), Arc::clone(&self.0.disk), before.map(|old| Arc::clone(old))) {
                Ok(shared) => {
                    started.push(Arc::clone(&shared));
                    next.push(shared);
                }
                Err(error) => {
                    started.iter().for_each(|shared| shared.close(Instant::now()));
                    return Err(ConfigError {
                        file: Some(name.clone()),
                        setting: "path",
                        problem: error.to_string(),
                    });
                }
            }
        }
        *self.0.files.write().unwrap_or_else(PoisonError::into_inner) = next.into();
        for old in &leaving {
            old.close(Instant::now() + CLOSE_TIME);
        }
        let mut retired = self.0.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.extend(leaving.into_iter().map(Arc::clone));
        drop(retired);
        let mut recent = self.recent_lock();
        (recent.max, recent.max_octets) = (config.recent_max, config.recent_max_octets.len());
        Ok(())
    }

    /// Tells another observer of every record from now on.
    pub fn tell(&self, observer: Arc<dyn Observer>) {
        let mut observers = self.0.observers.write().unwrap_or_else(PoisonError::into_inner);
        *observers = observers.iter().cloned().chain([observer]).collect();
    }

    /// Records one outcome.
    pub fn record(&self, record: Record) {
        self.record_all(std::slice::from_ref(&record));
    }

    /// Records several at once, for the price of one lock each place they go.
    pub fn record_many(&self, records: Vec<Record>) {
        self.record_all(&records);
    }

    fn record_all(&self, records: &[Record]) {
        for record in records {
            self.0.metrics.count(record);
        }
        {
            let mut recent = self.recent_lock();
            for record in records {
                recent.push(record);
            }
        }
        let observers = Arc::clone(&self.0.observers.read().unwrap_or_else(PoisonError::into_inner));
        observers.iter().for_each(|observer| observer.observe(records));
        for file in self.files().iter() {
            if records.iter().any(|record| file.takes(record.kind)) {
                file.push(records.iter());
            }
        }
    }

    /// Waits until everything that was recorded so far is on the disk: in every file, and with whoever observes; false
    /// if it is not within `limit`. Blocks; for the few records of which nobody else keeps anything.
    pub fn make_durable(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let files = self.files();
        // All of them are asked before any is waited for.
        let asked: Vec<u64> = files.iter().map(|file| file.ask_sync()).collect();
        let observers = Arc::clone(&self.0.observers.read().unwrap_or_else(PoisonError::into_inner));
        let observed = observers.iter().fold(true, |all, observer| observer.make_durable(deadline) & all);
        let written = files.iter().zip(asked);
        written.fold(observed, |all, (file, asked)| file.wait_synced(asked, deadline) & all)
    }

    /// What is still remembered of a message, oldest first. Empty once newer records have taken its place.
    pub fn events_of(&self, id: SpoolId) -> Vec<Record> {
        self.recent_lock()
            .records
            .iter()
            .map(|(record, _)| record)
            .filter(|record| record.id() == Some(id))
            .cloned()
            .collect()
    }

    /// The place behind the last record: where one begins who wants to know of what is to come.
    pub fn place(&self) -> u64 {
        let recent = self.recent_lock();
        recent.first + recent.records.len() as u64
    }

    /// Records from a place on, at most `max`, and the place of the first of them: a later one than was asked for if
    /// what was there is no longer remembered.
    pub fn after(&self, place: u64, max: usize) -> (u64, Vec<Record>) {
        let recent = self.recent_lock();
        let end = recent.first + recent.records.len() as u64;
        let first = place.clamp(recent.first, end);
        let skip = (first - recent.first) as usize;
        (first, recent.records.iter().skip(skip).take(max).map(|(record, _)| record.clone()).collect())
    }

    /// The last records, at most `max`, oldest first.
    pub fn recent(&self, max: usize) -> Vec<Record> {
        let recent = self.recent_lock();
        let skip = recent.records.len().saturating_sub(max);
        recent.records.iter().skip(skip).map(|(record, _)| record.clone()).collect()
    }

    /// How each file is doing.
    pub fn stats(&self) -> Vec<FileStats> {
        self.files().iter().map(|file| file.stats()).collect()
    }

    /// The metrics records are counted in.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Writes out and closes every file; false if some could not be within `limit`, and what they held is counted
    /// as dropped. Records that come later are counted as dropped by each file.
    pub fn close(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let files = self.files();
        files.iter().for_each(|file| file.close(deadline));
        // The threads look at the clock themselves; a little more, so that they can report.
        let until = deadline + Duration::from_millis(200);
        let ended = files.iter().filter(|file| file.wait_ended(until)).count();
        let stats = self.stats();
        for file in stats.iter().filter(|file| file.failing || file.dropped > 0) {
            tracing::warn!(file = %file.path.display(), dropped = file.dropped, "accounting records were left out");
        }
        ended == files.len() && stats.iter().all(|file| !file.failing)
    }

    fn files(&self) -> Arc<[Arc<Shared>]> {
        Arc::clone(&self.0.files.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn recent_lock(&self) -> MutexGuard<'_, Recent> {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The files' own counters, asked for at every scrape through a weak handle, so that metrics which outlive
    /// the recorder do not keep its files open.
    fn register(&self, metrics: &Metrics) {
        let weak = Arc::downgrade(&self.0);
        let stats = move || weak.upgrade().map(|inner| Recorder(inner).stats()).unwrap_or_default();
        let by_file = move |pick: fn(&FileStats) -> u64| {
            let stats = stats.clone();
            move || {
                stats().iter().map(|file| (file.path.display().to_string(), pick(file))).collect::<Vec<_>>()
            }
        };
        let counter = |name, help, pick| metrics.labelled_counter_source(name, help, "file", by_file(pick));
        counter("accounting_written", "Records written", |file| file.written);
        counter("accounting_dropped", "Records left out: queue full or disk failing", |file| file.dropped);
        counter("accounting_octets", "Octets written", |file| file.octets);
        counter("accounting_errors", "Failed writes, opens and renames", |file| file.errors);
        let queued = by_file(|file| file.queued);
        let as_gauge = move || queued().into_iter().map(|(file, n)| (file, n as f64)).collect();
        metrics.labelled_gauge_source("accounting_queued", "Records waiting for the disk", "file", as_gauge);
        let weak = Arc::downgrade(&self.0);
        let retired = move || {
            let of =
                |inner: Arc<Inner>| inner.retired.lock().unwrap_or_else(PoisonError::into_inner).dropped();
            weak.upgrade().map_or(0, of)
        };
        metrics.counter_source(
            "accounting_retired_dropped",
            "Left out by files no longer configured",
            retired,
        );
    }
}

/// How long a file that leaves the configuration may take to be written out.
const CLOSE_TIME: Duration = Duration::from_secs(5);

impl Drop for Inner {
    /// Without [`Recorder::close`] the threads still end, in their own time.
    fn drop(&mut self) {
        let deadline = Instant::now() + CLOSE_TIME;
        for file in self.files.get_mut().unwrap_or_else(PoisonError::into_inner).iter() {
            file.close(deadline);
        }
    }
}
