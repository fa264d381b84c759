//! The list: looked up by anyone, changed by one thread, which writes and syncs before a change holds.

use crate::address::Subject;
use crate::record::{Entry, RECORD_MAX, Reason, Record, View};
use crate::table::{Lasts, Place, Table};
use mail::{Mailbox, UnixMillis};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, mpsc};
use std::time::SystemTime;
use tokio::sync::oneshot;
use tracing::{error, info};

/// What the file begins with.
const MAGIC: &[u8; 8] = b"tumasup1";
/// Changes that may wait for the disk, in batches.
const BATCHES_MAX: usize = 1_024;
/// Entries of one batch at most: a longer list comes in several.
pub(crate) const BATCH_MAX: usize = 50_000;
/// Octets of the file read at a time.
const CHUNK: usize = 1 << 20;
/// Octets that nearly every record has at most.
const LIKELY: usize = 160;
/// A file below this is not worth rewriting.
const REWRITE_MIN_OCTETS: u64 = 16 << 20;

/// Figures of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entries, those whose time is over and that were not dropped yet included.
    pub entries: u64,
    /// Those that stand for a whole domain.
    pub domains: u64,
    /// Entries by reason, in the order of [`Reason::ALL`].
    pub by_reason: [u64; 5],
    /// Octets of the file.
    pub octets: u64,
    /// Records of the file that hold no more.
    pub stale: u64,
    /// Stretches of the file that could not be read at start.
    pub damaged: u64,
    /// Changes that could not be written since the start.
    pub failed: u64,
}

enum Change {
    Put(Vec<Entry>),
    Remove(Option<Box<str>>, Vec<Subject>),
}

struct Job {
    change: Change,
    done: oneshot::Sender<io::Result<u64>>,
}

struct Inner {
    table: Table,
    /// The file, and during a rewrite the new one.
    files: RwLock<[Option<Arc<File>>; 2]>,
    entries: AtomicU64,
    domains: AtomicU64,
    by_reason: [AtomicU64; 5],
    octets: AtomicU64,
    stale: AtomicU64,
    damaged: AtomicU64,
    failed: AtomicU64,
    entries_max: AtomicU64,
    /// Counts rewrites, so that a cursor into an older file is known for one.
    generation: AtomicU64,
}

/// The list. Cheap to clone.
#[derive(Clone)]
pub struct Suppression {
    inner: Arc<Inner>,
    /// The thread ends when the last of these is dropped.
    jobs: mpsc::SyncSender<Job>,
}

impl std::fmt::Debug for Suppression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suppression").field("entries", &self.inner.entries.load(Relaxed)).finish()
    }
}

fn wall() -> UnixMillis {
    UnixMillis::from(SystemTime::now())
}

impl Suppression {
    /// Reads the list in a folder, which is made if it is not there, and starts the thread that changes it.
    pub fn open(folder: &Path, entries_max: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let path = folder.join("suppression.log");
        // What a rewrite had not finished is no loss: the old file is whole until the new one is in its place.
        let unfinished = path.with_extension("new");
        if unfinished.exists() {
            std::fs::remove_file(&unfinished)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let inner = Arc::new(Inner {
            table: Table::new(),
            files: RwLock::new([None, None]),
            entries: AtomicU64::new(0),
            domains: AtomicU64::new(0),
            by_reason: Default::default(),
            octets: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            entries_max: AtomicU64::new(entries_max),
            generation: AtomicU64::new(0),
        });
        let file = Arc::new(file);
        inner.set_file(false, Some(file.clone()));
        let mut writer = Writer { inner: inner.clone(), path, file, second: false, end: 0, stuck: false };
        writer.load()?;
        let (jobs, waiting) = mpsc::sync_channel(BATCHES_MAX);
        std::thread::Builder::new().name("suppression".into()).spawn(move || writer.run(&waiting))?;
        Ok(Self { inner, jobs })
    }

    /// Puts another limit in force.
    pub fn set_entries_max(&self, entries_max: u64) {
        self.inner.entries_max.store(entries_max, Relaxed);
    }

    /// The entry by which a tenant's mail does not go to a mailbox: the tenant's own before that of all, the
    /// address's before its domain's. Reads the disk when there is one.
    pub fn find(&self, tenant: Option<&str>, mailbox: &Mailbox, now: UnixMillis) -> Option<Entry> {
        let found = |tenant: &str, subject: &Subject| {
            let (_, entry) = self.inner.probe(tenant, subject.as_str())?;
            (!entry.is_over(now)).then_some(entry)
        };
        self.first(tenant, mailbox, found)
    }

    /// True if a tenant's mail does not go to a mailbox. Answered from memory, by 70 bits of hashes with keys that nobody
    /// knows: of ten million entries one is taken for another's once in a hundred million million questions. Only of an
    /// entry whose time ends today the disk is read.
    pub fn holds(&self, tenant: Option<&str>, mailbox: &Mailbox, now: UnixMillis) -> bool {
        let holds =
            |tenant: &str, subject: &Subject| self.inner.holds(tenant, subject.as_str(), now).then_some(());
        self.first(tenant, mailbox, holds).is_some()
    }

    /// What is found first: of the tenant before of all, of the address before of its domain.
    fn first<T>(
        &self,
        tenant: Option<&str>,
        mailbox: &Mailbox,
        found: impl Fn(&str, &Subject) -> Option<T>,
    ) -> Option<T> {
        if self.inner.entries.load(Relaxed) == 0 {
            return None;
        }
        let tenants = [tenant.unwrap_or(""), ""];
        let tenants = &tenants[usize::from(tenants[0].is_empty())..];
        let probe = |subject: &Subject| tenants.iter().find_map(|tenant| found(tenant, subject));
        probe(&Subject::of(mailbox)).or_else(|| {
            if self.inner.domains.load(Relaxed) == 0 {
                return None;
            }
            probe(&Subject::domain_of(mailbox))
        })
    }

    /// The entry of a tenant, or of all, for exactly this subject, whether its time is over or not.
    pub fn entry(&self, tenant: Option<&str>, subject: &Subject) -> Option<Entry> {
        self.inner.probe(tenant.unwrap_or(""), subject.as_str()).map(|(_, entry)| entry)
    }

    /// Puts entries on the list, each in place of one for the same tenant and subject. Done when they are durable;
    /// gives how many were new.
    pub async fn add(&self, mut entries: Vec<Entry>) -> io::Result<u64> {
        let mut new = 0;
        while !entries.is_empty() {
            let rest = entries.split_off(entries.len().min(BATCH_MAX));
            new += self.change(Change::Put(std::mem::replace(&mut entries, rest))).await?;
        }
        Ok(new)
    }

    /// Takes subjects off a tenant's list, or that of all. Done when that is durable; gives how many were on it.
    pub async fn remove(&self, tenant: Option<&str>, subjects: Vec<Subject>) -> io::Result<u64> {
        self.change(Change::Remove(tenant.map(Into::into), subjects)).await
    }

    async fn change(&self, change: Change) -> io::Result<u64> {
        let (done, answer) = oneshot::channel();
        let mut job = Job { change, done };
        loop {
            match self.jobs.try_send(job) {
                Ok(()) => break,
                Err(mpsc::TrySendError::Disconnected(_)) => return Err(closed()),
                Err(mpsc::TrySendError::Full(back)) => {
                    // The disk is behind; who changes the list can wait.
                    job = back;
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            }
        }
        answer.await.map_err(|_| closed())?
    }

    /// Entries in the order in which they were added, from a cursor on, at most `max`, and the cursor of what follows.
    /// A cursor of 0 begins; one of before a rewrite of the file is refused.
    pub fn page(&self, cursor: u64, max: usize) -> io::Result<(Vec<Entry>, Option<u64>)> {
        self.inner.page(cursor, max)
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        let inner = &self.inner;
        let mut by_reason = [0; 5];
        for (count, source) in by_reason.iter_mut().zip(&inner.by_reason) {
            *count = source.load(Relaxed);
        }
        Stats {
            entries: inner.entries.load(Relaxed),
            domains: inner.domains.load(Relaxed),
            by_reason,
            octets: inner.octets.load(Relaxed),
            stale: inner.stale.load(Relaxed),
            damaged: inner.damaged.load(Relaxed),
            failed: inner.failed.load(Relaxed),
        }
    }
}

fn closed() -> io::Error {
    io::Error::other("the suppression list is closed")
}

impl Inner {
    fn set_file(&self, second: bool, file: Option<Arc<File>>) {
        self.files.write().unwrap_or_else(PoisonError::into_inner)[usize::from(second)] = file;
    }

    fn file(&self, second: bool) -> Option<Arc<File>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)[usize::from(second)].clone()
    }

    /// The record at a place, if it is that of this tenant and subject.
    fn read_at(&self, place: Place, tenant: &str, subject: &str) -> io::Result<Option<Entry>> {
        let Some(file) = self.file(place.is_second()) else { return Err(closed()) };
        let mut buffer = [0; RECORD_MAX];
        let mut length = 0;
        // Nearly every record is short. A read may give less than there is; the end of the file ends it.
        let mut wanted = LIKELY;
        loop {
            match file.read_at(&mut buffer[length..wanted], place.offset() + length as u64)? {
                0 => break,
                count => length += count,
            }
            if length == wanted {
                if wanted == RECORD_MAX || View::read(&buffer[..length]).is_some() {
                    break;
                }
                wanted = RECORD_MAX;
            }
        }
        let Some((view, _)) = View::read(&buffer[..length]) else {
            return Err(io::Error::other(format!("the record at octet {} is damaged", place.offset())));
        };
        Ok((view.tenant == tenant && view.subject == subject).then(|| view.entry()))
    }

    /// The entry of a tenant for a subject, and its place.
    fn probe(&self, tenant: &str, subject: &str) -> Option<(Place, Entry)> {
        let hash = self.table.hash(tenant, subject);
        let mut tries = 0;
        loop {
            let places: Vec<Place> = self.table.read(hash).places(hash).collect();
            let mut moved = false;
            for place in places {
                match self.read_at(place, tenant, subject) {
                    Ok(Some(entry)) => return Some((place, entry)),
                    Ok(None) => {}
                    // A rewrite may have taken the file away in between.
                    Err(_) if tries < 3 && self.file(place.is_second()).is_none() => moved = true,
                    Err(failure) => {
                        // Two addresses have one hash once in a million lists, a disk that fails is more likely; and
                        // who asked not to be written to is not written to for that.
                        error!(error = %failure, subject, "an entry of the suppression list cannot be read");
                        return Some((place, unreadable(tenant, subject)));
                    }
                }
            }
            if !moved {
                return None;
            }
            tries += 1;
        }
    }

    /// Whether there is an entry of a tenant for a subject that holds.
    fn holds(&self, tenant: &str, subject: &str, now: UnixMillis) -> bool {
        let hash = self.table.hash(tenant, subject);
        let lasts = {
            let shard = self.table.read(hash);
            let mut places = shard.places(hash).peekable();
            if places.peek().is_none() {
                return false;
            }
            let check = self.table.check(tenant, subject);
            let mut alike =
                places.filter(|place| place.check() == check).map(|place| place.lasts(now.0 / 1_000));
            let first = alike.next();
            // Two that are alike in every bit are told apart by their records alone.
            if alike.next().is_some() { Some(Lasts::Ask) } else { first }
        };
        match lasts {
            None | Some(Lasts::Over) => false,
            Some(Lasts::Yes) => true,
            Some(Lasts::Ask) => self.probe(tenant, subject).is_some_and(|(_, entry)| !entry.is_over(now)),
        }
    }

    /// Where an entry's record is, with what is known of it.
    fn place(&self, second: bool, offset: u64, tenant: &str, subject: &str, until: u32) -> Place {
        Place::known(second, offset, until, self.table.check(tenant, subject))
    }

    /// Counts an entry in or out.
    fn count(&self, subject: &str, reason: Reason, adds: bool) {
        let step = |counter: &AtomicU64| {
            if adds { counter.fetch_add(1, Relaxed) } else { counter.fetch_sub(1, Relaxed) }
        };
        step(&self.entries);
        step(&self.by_reason[reason as usize]);
        if subject.starts_with('@') {
            step(&self.domains);
        }
    }

    /// Puts an entry where its record is. Gives true if it is new. Only one thread changes the table, so what it has
    /// seen there a moment ago still holds.
    fn put(&self, tenant: &str, subject: &str, reason: Reason, place: Place) -> bool {
        let hash = self.table.hash(tenant, subject);
        if self.table.write(hash).put_new(hash, place) {
            self.count(subject, reason, true);
            return true;
        }
        let known = self.probe(tenant, subject);
        self.table.write(hash).put(hash, known.as_ref().map(|(place, _)| *place), place);
        self.count(subject, reason, true);
        if let Some((_, old)) = &known {
            self.count(subject, old.reason, false);
            self.stale.fetch_add(1, Relaxed);
        }
        known.is_none()
    }

    /// Takes an entry out. Gives true if there was one.
    fn take(&self, tenant: &str, subject: &str) -> bool {
        let Some((place, old)) = self.probe(tenant, subject) else { return false };
        let hash = self.table.hash(tenant, subject);
        self.table.write(hash).take(hash, place);
        self.count(subject, old.reason, false);
        // The record that added it, and the one that takes it out.
        self.stale.fetch_add(2, Relaxed);
        true
    }

    fn is_at(&self, view: &View<'_>, place: Place) -> bool {
        let hash = self.table.hash(view.tenant, view.subject);
        self.table.read(hash).places(hash).any(|known| known == place)
    }

    fn page(&self, cursor: u64, max: usize) -> io::Result<(Vec<Entry>, Option<u64>)> {
        // The generation stands in the high bits of a cursor; files stay far below 2^48 octets.
        let generation = self.generation.load(Relaxed);
        let from = if cursor == 0 {
            MAGIC.len() as u64
        } else if cursor >> 48 == generation & 0xffff {
            cursor & ((1 << 48) - 1)
        } else {
            return Err(io::Error::other("the list was rewritten since; begin again"));
        };
        let second = self.file(true).is_some() && self.file(false).is_none();
        let Some(file) = self.file(second) else { return Err(closed()) };
        let (end, mut entries, mut next) = (self.octets.load(Relaxed), Vec::new(), None);
        scan(&file, from, end, |offset, view| {
            if entries.len() >= max {
                next = Some(generation << 48 | offset);
                return false;
            }
            if view.adds && self.is_at(&view, Place::new(second, offset)) {
                entries.push(view.entry());
            }
            true
        })?;
        Ok((entries, next))
    }
}

/// What stands for an entry that cannot be read.
fn unreadable(tenant: &str, subject: &str) -> Entry {
    Entry {
        tenant: (!tenant.is_empty()).then(|| tenant.into()),
        subject: Subject::stored(subject),
        reason: Reason::Manual,
        note: "the entry cannot be read".into(),
        since: UnixMillis(0),
        until: None,
    }
}

/// What a look through a file found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scanned {
    /// Where the last sound record ends.
    end: u64,
    /// Stretches with no sound record, other than at the end.
    damaged: u64,
}

/// Looks at the records of a file from `from` to `end`, until `each` says false. What is no record is stepped over.
fn scan(
    file: &File,
    from: u64,
    end: u64,
    mut each: impl FnMut(u64, View<'_>) -> bool,
) -> io::Result<Scanned> {
    let mut buffer = vec![0; CHUNK + RECORD_MAX];
    let mut scanned = Scanned { end: from, damaged: 0 };
    // What of the buffer is filled, and where in the file it begins.
    let (mut filled, mut base) = (0, from);
    let mut at = 0;
    loop {
        // A record is looked at only when all of it is there, or the file has ended.
        if filled - at < RECORD_MAX && base + (filled as u64) < end {
            buffer.copy_within(at..filled, 0);
            (base, filled, at) = (base + at as u64, filled - at, 0);
            let room = (end - base).min(buffer.len() as u64) as usize;
            while filled < room {
                match file.read_at(&mut buffer[filled..room], base + filled as u64)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => filled += count,
                }
            }
        }
        if at == filled {
            return Ok(scanned);
        }
        match View::read(&buffer[at..filled]) {
            Some((view, length)) => {
                let offset = base + at as u64;
                if scanned.end != offset {
                    scanned.damaged += 1;
                }
                if !each(offset, view) {
                    return Ok(scanned);
                }
                at += length;
                scanned.end = base + at as u64;
            }
            None => at += 1,
        }
    }
}

/// The thread that changes the list.
struct Writer {
    inner: Arc<Inner>,
    path: PathBuf,
    file: Arc<File>,
    /// Which of the two files it is.
    second: bool,
    /// Where the next record goes.
    end: u64,
    /// Some entries are still in the file before: it cannot be rewritten again.
    stuck: bool,
}

impl Writer {
    fn load(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length < MAGIC.len() as u64 {
            // New, or torn before anything could be in it.
            self.file.set_len(0)?;
            self.file.write_all_at(MAGIC, 0)?;
            self.file.sync_all()?;
            sync_folder(&self.path)?;
            self.end = MAGIC.len() as u64;
            self.inner.octets.store(self.end, Relaxed);
            return Ok(());
        }
        let mut magic = [0; MAGIC.len()];
        self.file.read_exact_at(&mut magic, 0)?;
        if &magic != MAGIC {
            return Err(io::Error::other(format!("{} is no suppression list", self.path.display())));
        }
        let began = std::time::Instant::now();
        let inner = self.inner.clone();
        let scanned = scan(&self.file, MAGIC.len() as u64, length, |offset, view| {
            if view.adds {
                let place = inner.place(false, offset, view.tenant, view.subject, view.until);
                inner.put(view.tenant, view.subject, view.reason(), place);
            } else {
                inner.take(view.tenant, view.subject);
            }
            true
        })?;
        if scanned.end < length {
            // What a crash had not finished writing was promised to nobody.
            info!(octets = length - scanned.end, "the end of the suppression list was torn and is cut off");
            self.file.set_len(scanned.end)?;
        }
        if scanned.damaged > 0 {
            error!(
                stretches = scanned.damaged,
                "the suppression list is damaged; what can be read is in force"
            );
        }
        self.end = scanned.end;
        self.inner.octets.store(self.end, Relaxed);
        self.inner.damaged.store(scanned.damaged, Relaxed);
        let entries = self.inner.entries.load(Relaxed);
        if entries > 0 {
            info!(entries, seconds = began.elapsed().as_secs_f64(), "suppression list loaded");
        }
        Ok(())
    }

    fn run(mut self, waiting: &mpsc::Receiver<Job>) {
        self.rewrite_if_due();
        while let Ok(job) = waiting.recv() {
            // Whoever came meanwhile shares one sync.
            let mut jobs = vec![job];
            jobs.extend(waiting.try_iter().take(BATCHES_MAX));
            self.write(jobs);
            self.rewrite_if_due();
        }
    }

    fn write(&mut self, jobs: Vec<Job>) {
        let mut octets = Vec::new();
        let mut done = Vec::with_capacity(jobs.len());
        let mut room = self.inner.entries_max.load(Relaxed).saturating_sub(self.inner.entries.load(Relaxed));
        for Job { change, done: answer } in jobs {
            let mut places = Vec::new();
            let full = matches!(&change, Change::Put(entries) if entries.len() as u64 > room);
            if full {
                let _ = answer
                    .send(Err(io::Error::other("the suppression list is full (suppression.entries_max)")));
                continue;
            }
            match &change {
                Change::Put(entries) => {
                    room -= entries.len() as u64;
                    for entry in entries {
                        places.push(self.end + octets.len() as u64);
                        Record::Add(entry.clone()).write(&mut octets);
                    }
                }
                Change::Remove(tenant, subjects) => {
                    for subject in subjects {
                        Record::Remove { tenant: tenant.clone(), subject: subject.clone() }
                            .write(&mut octets);
                    }
                }
            }
            done.push((change, places, answer));
        }
        let written = self.file.write_all_at(&octets, self.end).and_then(|()| self.file.sync_data());
        if let Err(failure) = written {
            // Nothing of it is promised, and what of it is on the disk must not come back by itself.
            self.inner.failed.fetch_add(done.len() as u64, Relaxed);
            error!(error = %failure, "the suppression list cannot be written");
            if let Err(failure) = self.file.set_len(self.end) {
                error!(error = %failure, "the end of the suppression list cannot be cut off");
            }
            for (_, _, answer) in done {
                let _ = answer.send(Err(io::Error::new(failure.kind(), failure.to_string())));
            }
            return;
        }
        self.end += octets.len() as u64;
        self.inner.octets.store(self.end, Relaxed);
        for (change, places, answer) in done {
            let count = match change {
                Change::Put(entries) => {
                    let put = |(entry, offset): &(&Entry, u64)| {
                        let tenant = entry.tenant.as_deref().unwrap_or("");
                        let subject = entry.subject.as_str();
                        let place =
                            self.inner.place(self.second, *offset, tenant, subject, entry.until_seconds());
                        self.inner.put(tenant, subject, entry.reason, place)
                    };
                    entries.iter().zip(places).filter(put).count()
                }
                Change::Remove(tenant, subjects) => {
                    let tenant = tenant.as_deref().unwrap_or("");
                    subjects.iter().filter(|subject| self.inner.take(tenant, subject.as_str())).count()
                }
            };
            let _ = answer.send(Ok(count as u64));
        }
    }

    fn rewrite_if_due(&mut self) {
        let (stale, entries) = (self.inner.stale.load(Relaxed), self.inner.entries.load(Relaxed));
        if self.stuck || self.end < REWRITE_MIN_OCTETS || stale < entries {
            return;
        }
        if let Err(failure) = self.rewrite() {
            error!(error = %failure, "the suppression list cannot be rewritten");
            self.stuck = true;
        }
    }

    /// Writes what holds into a new file, puts that in the old one's place, and then points the table at it.
    pub(crate) fn rewrite(&mut self) -> io::Result<()> {
        let now = wall();
        let new_path = self.path.with_extension("new");
        let new = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new_path)?;
        let new = Arc::new(new);
        new.write_all_at(MAGIC, 0)?;
        let (inner, second) = (self.inner.clone(), self.second);
        let holds = |offset: u64, view: &View<'_>| {
            view.adds
                && inner.is_at(view, Place::new(second, offset))
                && (view.until == 0 || u64::from(view.until) * 1_000 > now.0)
        };
        let (mut octets, mut end, mut failure) = (Vec::with_capacity(CHUNK), MAGIC.len() as u64, None);
        scan(&self.file, MAGIC.len() as u64, self.end, |offset, view| {
            if holds(offset, &view) {
                Record::Add(view.entry()).write(&mut octets);
            }
            if octets.len() >= CHUNK {
                failure = new.write_all_at(&octets, end).err();
                end += octets.len() as u64;
                octets.clear();
            }
            failure.is_none()
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        new.write_all_at(&octets, end)?;
        end += octets.len() as u64;
        new.sync_all()?;
        std::fs::rename(&new_path, &self.path)?;
        sync_folder(&self.path)?;
        // From here on the new file is the list; who looks up meanwhile finds each entry in one of the two.
        self.inner.set_file(!second, Some(new.clone()));
        let (mut at, mut record) = (MAGIC.len() as u64, Vec::new());
        let moved = scan(&self.file, MAGIC.len() as u64, self.end, |offset, view| {
            let old = Place::new(second, offset);
            let hash = inner.table.hash(view.tenant, view.subject);
            if holds(offset, &view) {
                record.clear();
                Record::Add(view.entry()).write(&mut record);
                let place = inner.place(!second, at, view.tenant, view.subject, view.until);
                inner.table.write(hash).put(hash, Some(old), place);
                at += record.len() as u64;
            } else if view.adds && inner.is_at(&view, old) {
                inner.table.write(hash).take(hash, old);
                inner.count(view.subject, view.reason(), false);
            }
            true
        });
        info!(before = self.end, after = end, "the suppression list was rewritten");
        (self.file, self.second, self.end) = (new, !second, end);
        self.inner.octets.store(end, Relaxed);
        self.inner.stale.store(0, Relaxed);
        self.inner.generation.fetch_add(1, Relaxed);
        // What could not be read again stays where it is until the next start.
        moved?;
        self.inner.set_file(second, None);
        Ok(())
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
