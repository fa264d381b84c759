//! Counters over time: how many records of each kind there were in each minute, hour and day, by tenant, campaign, job,
//! pool, source, provider and class, in an SQLite file of their own.
//!
//! Who records hands a copy of each record to a bounded queue and goes on; a thread adds up what came, and writes the sums
//! now and then, all of them in one transaction. A stop writes everything, a crash loses what came since the last write.
//! Nothing here is grown by what mail says: of each minute, hour and day so many series are kept, and what would be one too
//! many is added to the series `(other)`.

mod query;
mod store;

#[cfg(test)]
mod tests;

use accounting::{Kind, Observer, Record};
use mail::UnixMillis;
pub use query::{By, Rows, StatsQuery, StatsRow};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use store::Store;
use tracing::{error, info};

/// How often the thread looks at the queue.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The word that stands for every series beyond [`RollupsConfig::series_max`], in each of its labels.
pub const OTHER: &str = "(other)";
/// Minutes whose sums wait for the disk, times `series_max`: what a disk that fails for long can make of them.
const MINUTES_WAITING: usize = 16;
/// Octets of a label kept: tags are shorter.
const LABEL_MAX: usize = 256;

const fn days(n: u64) -> Duration {
    Duration::from_secs(n * 86_400)
}

settings::words! {
    /// The time that one sum is of.
    pub enum Span {
        /// A minute.
        Minute,
        /// An hour.
        Hour,
        /// A day, in UTC.
        Day,
    }
}

impl Span {
    /// Seconds of one.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    /// When the one that a time is in began, in Unix seconds.
    pub const fn start_of(self, time: UnixMillis) -> u64 {
        let seconds = time.0 / 1_000;
        seconds - seconds % self.seconds()
    }
}

settings::table! {
    /// Counters over time, for `tuma stats` and `/v1/stats`: `stats.sqlite` in the state directory. They are read at start.
    #[derive(Eq)]
    pub struct RollupsConfig {
        /// Keep them. Without this nobody counts, and nothing is written.
        pub enabled: bool = false,
        /// How long minutes are kept.
        #[in(1h..=366d)]
        pub minutes_kept: Duration = days(2),
        /// How long hours are kept.
        #[in(1d..=3660d)]
        pub hours_kept: Duration = days(60),
        /// How long days are kept.
        #[in(1d..=36600d)]
        pub days_kept: Duration = days(731),
        /// Series of one minute, hour or day at most: combinations of tenant, campaign, job, pool, source, provider and
        /// class. What would be one too many is counted under `(other)`. A series takes some 40 octets of the file
        /// for each minute, hour and day in which it was met.
        #[in(1..=1_000_000)]
        pub series_max: usize = 10_000,
        /// How often sums are written: what a crash can lose.
        #[in(1s..=5m)]
        pub write_every: Duration = Duration::from_secs(10),
        /// Records that may wait to be counted; further ones are not, and a metric says how many.
        #[in(1_000..=10_000_000)]
        pub queue_max: usize = 131_072,
    }
}

impl RollupsConfig {
    fn kept(&self, span: Span) -> Duration {
        match span {
            Span::Minute => self.minutes_kept,
            Span::Hour => self.hours_kept,
            Span::Day => self.days_kept,
        }
    }
}

/// The columns of a sum: one for each kind of record, and two more.
pub(crate) const COLUMNS: usize = Kind::ALL.len() + 2;
/// Octets delivered.
pub(crate) const OCTETS: usize = Kind::ALL.len();
/// Milliseconds from acceptance to delivery, of all deliveries together.
pub(crate) const LATENCY_MS: usize = Kind::ALL.len() + 1;

/// Labels of a series, in the order of [`By::ALL`] without the time.
pub(crate) type Labels = [Box<str>; 7];
pub(crate) type Sums = [u64; COLUMNS];

/// The labels of a record.
fn labels(record: &Record) -> [&str; 7] {
    let tags = record.tags();
    let connection = record.connection.as_deref();
    let tag = |pick: fn(&mail::Tags) -> Option<&str>| tags.and_then(pick).unwrap_or("");
    [
        tag(|tags| tags.tenant.as_deref()),
        tag(|tags| tags.campaign.as_deref()),
        tag(|tags| tags.job.as_deref()),
        record.pool().unwrap_or(""),
        connection.map_or("", |connection| &connection.source),
        connection.and_then(|connection| connection.provider.as_deref()).unwrap_or(""),
        record.class.map_or("", mail::BounceClass::as_str),
    ]
    .map(|label| &label[..label.floor_char_boundary(LABEL_MAX)])
}

/// Adds a record to a sum.
fn add(sums: &mut Sums, record: &Record) {
    sums[record.kind as usize] += 1;
    if record.kind == Kind::Delivered {
        sums[OCTETS] += record.message().map_or(0, |message| message.octets_each());
        sums[LATENCY_MS] += record.since_received_ms();
    }
}

/// Sums that wait for the disk, by the minute and the labels.
#[derive(Default)]
pub(crate) struct Waiting {
    minutes: HashMap<u64, HashMap<Labels, Sums>>,
    series: usize,
}

impl Waiting {
    fn add(&mut self, record: &Record, series_max: usize) -> bool {
        let minute = self.minutes.entry(Span::Minute.start_of(record.time)).or_default();
        let labels = labels(record).map(Box::<str>::from);
        if let Some(sums) = minute.get_mut(&labels) {
            add(sums, record);
            return true;
        }
        let full = self.series >= series_max.saturating_mul(MINUTES_WAITING) || minute.len() >= series_max;
        let labels = if full { other() } else { labels };
        let known = minute.len();
        add(minute.entry(labels).or_insert([0; COLUMNS]), record);
        self.series += minute.len() - known;
        !full
    }
}

fn other() -> Labels {
    std::array::from_fn(|_| OTHER.into())
}

struct State {
    store: Store,
    waiting: Waiting,
    written: Instant,
    failing: bool,
}

struct Inner {
    config: RollupsConfig,
    queue: Mutex<Vec<Record>>,
    /// Who counts, and who asks.
    state: Mutex<State>,
    /// The thread is to look now: the queue is half full, or it shall end.
    look: Condvar,
    ended: AtomicBool,
    dropped: AtomicU64,
    folded: AtomicU64,
    failed: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Figures of the counting itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RollupFigures {
    /// Records that found the queue full and are counted nowhere.
    pub dropped: u64,
    /// Records counted under `(other)`.
    pub folded: u64,
    /// Writes that failed; their sums are written later.
    pub failed: u64,
}

/// Counts records over time.
pub struct Rollups {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Rollups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rollups").field("figures", &self.figures()).finish_non_exhaustive()
    }
}

impl Rollups {
    /// Opens the file in a folder, and starts the thread that counts. Blocks on the disk.
    pub fn open(folder: &Path, config: &RollupsConfig) -> io::Result<Arc<Self>> {
        let store = Store::open(&folder.join("stats.sqlite"))?;
        let state = State { store, waiting: Waiting::default(), written: Instant::now(), failing: false };
        let inner = Arc::new(Inner {
            config: config.clone(),
            queue: Mutex::default(),
            state: Mutex::new(state),
            look: Condvar::new(),
            ended: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            folded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let counting = inner.clone();
        let thread = std::thread::Builder::new().name("stats".into()).spawn(move || counting.run())?;
        Ok(Arc::new(Self { inner, thread: Mutex::new(Some(thread)) }))
    }

    /// What was counted, up to the last record. Blocks on the disk.
    pub fn ask(&self, query: &StatsQuery) -> io::Result<Rows> {
        let mut state = lock(&self.inner.state);
        self.inner.count(&mut state);
        // What cannot be written now is missing in the answer, and was logged.
        self.inner.write(&mut state);
        state.store.ask(query)
    }

    /// Figures of the counting itself.
    pub fn figures(&self) -> RollupFigures {
        RollupFigures {
            dropped: self.inner.dropped.load(Relaxed),
            folded: self.inner.folded.load(Relaxed),
            failed: self.inner.failed.load(Relaxed),
        }
    }

    /// Writes what came and ends the thread. Blocks on the disk.
    pub fn close(&self) {
        self.inner.ended.store(true, Relaxed);
        self.inner.look.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic of the thread was logged where it happened; there is nothing left to do for it.
            let _ = thread.join();
        }
    }
}

impl Drop for Rollups {
    fn drop(&mut self) {
        self.close();
    }
}

impl Observer for Rollups {
    fn observe(&self, records: &[Record]) {
        let mut queue = lock(&self.inner.queue);
        let max = self.inner.config.queue_max;
        let room = max.saturating_sub(queue.len()).min(records.len());
        let was_low = queue.len() < max / 2;
        queue.extend_from_slice(&records[..room]);
        if room < records.len() {
            self.inner.dropped.fetch_add((records.len() - room) as u64, Relaxed);
        }
        if was_low && queue.len() >= max / 2 {
            self.inner.look.notify_one();
        }
    }
}

impl Inner {
    fn run(&self) {
        loop {
            let queue = lock(&self.queue);
            let low = |queue: &mut Vec<Record>| {
                queue.len() < self.config.queue_max / 2 && !self.ended.load(Relaxed)
            };
            // The lock is given up at once: to take out what came is for whoever holds the state.
            drop(self.look.wait_timeout_while(queue, LOOK_EVERY, low));
            let ended = self.ended.load(Relaxed);
            let mut state = lock(&self.state);
            self.count(&mut state);
            if ended || state.written.elapsed() >= self.config.write_every {
                self.write(&mut state);
            }
            if ended {
                return;
            }
        }
    }

    /// Adds up what is in the queue.
    fn count(&self, state: &mut State) {
        let records = std::mem::take(&mut *lock(&self.queue));
        let folded =
            records.iter().filter(|record| !state.waiting.add(record, self.config.series_max)).count();
        self.folded.fetch_add(folded as u64, Relaxed);
    }

    /// Writes the sums; what could not be written stays.
    fn write(&self, state: &mut State) {
        state.written = Instant::now();
        if state.waiting.minutes.is_empty() {
            return;
        }
        match state.store.write(&state.waiting, &self.config, UnixMillis::from(SystemTime::now())) {
            Ok(folded) => {
                self.folded.fetch_add(folded, Relaxed);
                state.waiting = Waiting::default();
                if std::mem::take(&mut state.failing) {
                    info!("counters over time are written again");
                }
            }
            Err(failure) => {
                self.failed.fetch_add(1, Relaxed);
                if !std::mem::replace(&mut state.failing, true) {
                    error!(error = %failure, "counters over time cannot be written");
                }
            }
        }
    }
}
