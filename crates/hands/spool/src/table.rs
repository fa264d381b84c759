//! What the spool's threads share: the table of segments, ids, the gate of intake, counters.

use crate::disk::{Disk, DiskFile};
use crate::index::Index;
use crate::{Config, Handle, Refusal};
use mail::SpoolId;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Locks, also after a panic elsewhere: every change under these locks is complete at each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a segment is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Found at opening, not read yet.
    Waiting,
    /// Being read.
    Loading,
    /// Being written.
    Active,
    /// Complete.
    Sealed,
}

/// One segment that may hold messages.
#[derive(Debug)]
pub(crate) struct Segment {
    pub generation: u64,
    pub size: u64,
    pub phase: Phase,
    pub index: Index,
    /// Where the sidecar's next record goes.
    pub state_tail: u64,
    pub sealed_at: Instant,
    /// Begun by this process, so that no copy of an earlier one can depend on it.
    pub born_here: bool,
    /// Void copies of its messages that are not durably void yet: as long, it must not go.
    pub barred: u32,
    /// Holds damage that could not be set aside, so it must not go.
    pub keep: bool,
}

/// All segments, and where messages went that were copied forward.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub segments: BTreeMap<u32, Segment>,
    pub next_number: u32,
    /// From the handle the queue knows to where the message stands now.
    pub places: HashMap<Handle, Handle>,
    /// The other way round.
    pub names: HashMap<Handle, Handle>,
    /// The loader has seen every segment found at opening.
    pub all_loaded: bool,
}

impl Table {
    /// Where a message stands now.
    pub fn place(&self, name: Handle) -> Handle {
        self.places.get(&name).copied().unwrap_or(name)
    }

    /// Forgets a finished message's way.
    pub fn forget(&mut self, place: Handle) {
        if let Some(name) = self.names.remove(&place) {
            self.places.remove(&name);
        }
    }

    /// Notes that a message was copied from one place to another.
    pub fn moved(&mut self, from: Handle, to: Handle) {
        let name = self.names.remove(&from).unwrap_or(from);
        self.places.insert(name, to);
        self.names.insert(to, name);
    }
}

/// Something the state thread must write, noticed elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// The segment ends here.
    Seal { segment: u32, end: u64 },
    /// What begins in `unit..end` is void; once that is durable, `frees` has one bar less.
    Gone { segment: u32, unit: u32, end: u32, frees: Option<u32> },
}

/// Gives ids that never repeat nor go back.
#[derive(Debug, Default)]
pub(crate) struct Ids(AtomicU64);

impl Ids {
    pub fn next(&self) -> SpoolId {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        self.next_at(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    pub fn next_at(&self, micros: u64) -> SpoolId {
        let mut last = self.0.load(Relaxed);
        loop {
            let next = micros.max(last + 1);
            match self.0.compare_exchange_weak(last, next, Relaxed, Relaxed) {
                Ok(_) => return SpoolId(next),
                Err(seen) => last = seen,
            }
        }
    }

    pub fn raise(&self, floor: u64) {
        // An id near the end of the range can only be rot that a checksum missed, or a hostile file.
        self.0.fetch_max(floor.min(1 << 62), Relaxed);
    }

    pub fn last(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Why intake is closed, if it is.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    pub full: AtomicBool,
    pub poisoned: AtomicBool,
    pub backlog: AtomicBool,
    pub closed: AtomicBool,
}

impl Gate {
    pub fn check(&self) -> Result<(), Refusal> {
        if self.closed.load(Relaxed) {
            Err(Refusal::Closed)
        } else if self.poisoned.load(Relaxed) {
            Err(Refusal::Io)
        } else if self.full.load(Relaxed) {
            Err(Refusal::Full)
        } else if self.backlog.load(Relaxed) {
            Err(Refusal::Busy)
        } else {
            Ok(())
        }
    }
}

/// Wakes a thread.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    woken: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        let mut rung = lock(&self.rung);
        if !*rung {
            *rung = true;
            self.woken.notify_one();
        }
    }

    /// Waits for a ring, at most this long.
    pub fn wait(&self, limit: Duration) {
        let rung = lock(&self.rung);
        let (mut rung, _) =
            self.woken.wait_timeout_while(rung, limit, |rung| !*rung).unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// Running sums; read through [`crate::Spool::stats`].
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub $name: AtomicU64),* }
    };
}

counters!(
    commits,
    committed_messages,
    committed_payload_bytes,
    segment_bytes_written,
    sync_nanos,
    state_records,
    state_bytes_written,
    state_syncs,
    stale_settlements,
    finished_messages,
    refused_full,
    refused_io,
    refused_busy,
    set_aside,
    torn,
    moved_messages,
    moved_bytes,
    recycled_segments,
    deleted_segments,
    inline_preparations,
    unwritten_states,
    free_bytes,
);

pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Relaxed);
}

/// A file ready to become the next segment.
pub(crate) struct Spare {
    pub number: u32,
    pub generation: u64,
    pub size: u64,
    pub file: Arc<dyn DiskFile>,
}

/// Files that are not segments in use.
#[derive(Default)]
pub(crate) struct Spares {
    pub ready: Vec<Spare>,
    /// Numbers of files never begun that were found at opening, or left by a failure.
    pub leftovers: Vec<u32>,
}

/// Segment files open for reading.
#[derive(Default)]
struct Files {
    open: HashMap<u32, (Arc<dyn DiskFile>, u64)>,
    clock: u64,
}

pub(crate) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub config: Config,
    pub table: Mutex<Table>,
    pub spares: Mutex<Spares>,
    pub notes: Mutex<Vec<Note>>,
    pub ids: Ids,
    pub gate: Gate,
    pub counters: Counters,
    pub janitor_bell: Bell,
    pub state_bell: Bell,
    /// Rung where somebody waits for an outcome to be written.
    pub hurry_bell: Bell,
    files: Mutex<Files>,
}

pub(crate) fn segment_name(number: u32) -> String {
    format!("{number:08x}.seg")
}

pub(crate) fn state_name(number: u32) -> String {
    format!("{number:08x}.state")
}

/// The number in a file's name, if it is eight digits and this ending.
pub(crate) fn numbered(name: &str, ending: &str) -> Option<u32> {
    let digits = name.strip_suffix(ending)?;
    let plain = digits.len() == 8 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if plain { u32::from_str_radix(digits, 16).ok() } else { None }
}

impl Shared {
    pub fn new(disk: Arc<dyn Disk>, config: &Config) -> Self {
        Self {
            disk,
            config: config.bounded(),
            table: Mutex::new(Table { next_number: 1, ..Table::default() }),
            spares: Mutex::default(),
            notes: Mutex::default(),
            ids: Ids::default(),
            gate: Gate::default(),
            counters: Counters::default(),
            janitor_bell: Bell::default(),
            state_bell: Bell::default(),
            hurry_bell: Bell::default(),
            files: Mutex::default(),
        }
    }

    /// A segment's file, for reading.
    pub fn file(&self, number: u32) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = lock(&self.files);
        files.clock += 1;
        let now = files.clock;
        if let Some((file, used)) = files.open.get_mut(&number) {
            *used = now;
            return Ok(file.clone());
        }
        // Opened outside the lock: a slow open must not hold up the other readers.
        drop(files);
        let file = self.disk.open(&segment_name(number))?;
        self.keep_file(number, file.clone());
        Ok(file)
    }

    /// Keeps an open file for readers.
    pub fn keep_file(&self, number: u32, file: Arc<dyn DiskFile>) {
        let mut files = lock(&self.files);
        let now = files.clock;
        if files.open.len() >= self.config.open_files_max {
            let oldest = files.open.iter().min_by_key(|(_, (_, used))| *used).map(|(n, _)| *n);
            oldest.and_then(|number| files.open.remove(&number));
        }
        files.open.insert(number, (file, now));
    }

    pub fn close_file(&self, number: u32) {
        lock(&self.files).open.remove(&number);
    }

    /// Hands a note to the state thread.
    pub fn note(&self, note: Note) {
        lock(&self.notes).push(note);
        self.state_bell.ring();
    }
}
