//! The front door, and the three threads behind it.

use crate::disk::{Disk, RealDisk};
use crate::janitor::Janitor;
use crate::ledger::{Ledger, set_message_aside};
use crate::load::{Loader, open_shared};
use crate::quarantine::DamageReason;
use crate::scan::{Scanner, Trouble, read_record};
use crate::table::{Bell, Phase, Shared, add, lock};
use crate::writer::{Packed, Writer};
use crate::{Config, Content, Draft, Handle, OpenError, ReadError, Refusal, Settlement, Stored, codec};
use bytes::Bytes;
use mail::{Message, SpoolId};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Called once the settlements it came with are written.
pub type Done = Box<dyn FnOnce() + Send>;

/// Proof that a message is durable. Only [`Spool::accept`] makes one.
#[derive(Debug)]
pub struct Accepted {
    handle: Handle,
    message: Arc<Message>,
    content: Content,
}

impl Accepted {
    /// Its name for reading and settling.
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// The message.
    pub fn message(&self) -> &Arc<Message> {
        &self.message
    }

    /// Its octets, still in memory.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// All three.
    pub fn into_parts(self) -> (Handle, Arc<Message>, Content) {
        (self.handle, self.message, self.content)
    }
}

/// Opens the spool in a directory, which is made if it does not exist and locked against other processes.
pub fn open_directory(directory: &Path, config: &Config) -> Result<(Spool, Loader), OpenError> {
    open(Arc::new(RealDisk::open(directory)?), config)
}

/// Opens a spool. Quick: no messages are read, and intake works at once, into a new segment, while the
/// loader gives out what is there.
pub fn open(disk: Arc<dyn Disk>, config: &Config) -> Result<(Spool, Loader), OpenError> {
    let (shared, loader) = open_shared(disk, config)?;
    let mut writer = Writer::new(shared.clone());
    // Without room we still start: to deliver what is there is how room is made.
    let _ = writer.prepare();
    let inner = Arc::new(Inner {
        intake: Arc::default(),
        settlements: Arc::default(),
        stop: Arc::default(),
        threads: Mutex::default(),
        shared,
    });
    inner.start(writer).map_err(|source| OpenError::Io {
        what: "start the spool's threads",
        path: std::path::PathBuf::new(),
        source,
    })?;
    Ok((Spool { inner }, loader))
}

/// Messages on disk. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Spool {
    inner: Arc<Inner>,
}

struct Inner {
    intake: Arc<Intake>,
    settlements: Arc<Settlements>,
    stop: Arc<Stop>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

struct Job {
    packed: Packed,
    message: Arc<Message>,
    content: Content,
    reply: oneshot::Sender<Result<Accepted, Refusal>>,
}

/// Messages that wait for a commit.
#[derive(Default)]
struct Intake {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// The committer sleeps; only then does a newcomer wake it.
    asleep: bool,
    stop: bool,
}

#[derive(Default)]
struct Settlements {
    waiting: Mutex<(Vec<Settlement>, Vec<Done>)>,
}

#[derive(Default)]
struct Stop {
    ledger: AtomicBool,
    janitor: AtomicBool,
}

impl Spool {
    /// A new id: the microsecond it is, or one above the last, never one that was given before, even if the
    /// clock went back.
    pub fn next_id(&self) -> SpoolId {
        self.inner.shared.ids.next()
    }

    /// A cheap look whether a message would be taken now, for the replies to MAIL and DATA.
    pub fn may_accept(&self) -> Result<(), Refusal> {
        self.inner.shared.gate.check()
    }

    /// Takes a message: the one way in. Answers when it is durable, or when it is sure that it is not taken.
    pub async fn accept(&self, draft: Draft) -> Result<Accepted, Refusal> {
        self.submit(draft)?.await.unwrap_or(Err(Refusal::Closed))
    }

    /// The same for a thread that may wait.
    pub fn accept_blocking(&self, draft: Draft) -> Result<Accepted, Refusal> {
        self.submit(draft)?.blocking_recv().unwrap_or(Err(Refusal::Closed))
    }

    fn submit(&self, draft: Draft) -> Result<oneshot::Receiver<Result<Accepted, Refusal>>, Refusal> {
        let refused = |refusal| {
            self.count_refusal(refusal, 1);
            refusal
        };
        self.may_accept().map_err(refused)?;
        let Draft { mut message, content } = draft;
        if message.envelope.recipients.is_empty() {
            return Err(Refusal::TooLarge);
        }
        message.size = content.len();
        // Everything but the place is computed here, on the caller's thread.
        let packed = Packed::new(&message, &content)?;
        let (reply, answer) = oneshot::channel();
        let job = Job { packed, message: Arc::new(message), content, reply };
        let mut waiting = lock(&self.inner.intake.waiting);
        if waiting.stop {
            return Err(Refusal::Closed);
        }
        if waiting.jobs.len() >= self.inner.shared.config.waiting_messages_max {
            drop(waiting);
            return Err(refused(Refusal::Busy));
        }
        waiting.jobs.push_back(job);
        if std::mem::take(&mut waiting.asleep) {
            drop(waiting);
            self.inner.intake.came.notify_one();
        }
        Ok(answer)
    }

    fn count_refusal(&self, refusal: Refusal, count: u64) {
        self.inner.shared.count_refusal(refusal, count);
    }

    /// Notes what became of recipients. Nothing is ever lost here: what the disk refuses waits in memory
    /// (up to [`Config::unwritten_states_max`] intake goes on) and is tried again. `done` is called once all
    /// of it is written, which a kill of this process survives; it is durable soon after, see
    /// [`Config::state_sync_interval`].
    pub fn settle(&self, settlements: Vec<Settlement>, done: Option<Done>) {
        let mut waiting = lock(&self.inner.settlements.waiting);
        if waiting.0.is_empty() {
            waiting.0 = settlements;
        } else {
            waiting.0.extend(settlements);
        }
        waiting.1.extend(done);
        drop(waiting);
        self.inner.shared.state_bell.ring();
    }

    /// Has what was settled written soon: outcomes that nobody waits for are gathered for up to a millisecond.
    pub fn hurry(&self) {
        self.inner.shared.hurry_bell.ring();
    }

    /// [`Spool::settle`], waiting until it is written.
    pub async fn settle_written(&self, settlements: Vec<Settlement>) {
        let (sender, written) = oneshot::channel();
        self.settle(settlements, Some(Box::new(move || sender.send(()).unwrap_or(()))));
        self.hurry();
        // An error means that the spool was closed, which writes everything first.
        let _ = written.await;
    }

    /// Reads a message and checks it. Blocks on the disk.
    pub fn read(&self, handle: Handle) -> Result<Stored, ReadError> {
        self.inner.shared.read(handle)
    }

    /// Figures about the spool.
    pub fn stats(&self) -> Stats {
        self.inner.shared.stats()
    }

    /// Ends: commits what waits, writes and syncs every outcome, and stops the threads. Later calls are
    /// refused. Blocks on the disk.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Inner {
    fn start(&self, writer: Writer) -> std::io::Result<()> {
        let mut threads = lock(&self.threads);
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work)
        };
        let (shared, intake) = (self.shared.clone(), self.intake.clone());
        threads.push(spawn("spool-commit", Box::new(move || commit_loop(&shared, &intake, writer)))?);
        let (shared, settlements, stop) = (self.shared.clone(), self.settlements.clone(), self.stop.clone());
        threads.push(spawn("spool-state", Box::new(move || state_loop(&shared, &settlements, &stop)))?);
        let (shared, stop) = (self.shared.clone(), self.stop.clone());
        threads.push(spawn("spool-room", Box::new(move || room_loop(&shared, &stop)))?);
        Ok(())
    }

    fn close(&self) {
        let threads = std::mem::take(&mut *lock(&self.threads));
        if threads.is_empty() {
            return;
        }
        self.shared.gate.closed.store(true, Relaxed);
        {
            let mut waiting = lock(&self.intake.waiting);
            waiting.stop = true;
            waiting.asleep = false;
        }
        self.intake.came.notify_one();
        let mut threads = threads.into_iter();
        // In this order: the committer leaves the seal of its segment to the keeper of outcomes.
        for stop in [
            None,
            Some((&self.stop.ledger, &self.shared.state_bell)),
            Some((&self.stop.janitor, &self.shared.janitor_bell)),
        ] {
            if let Some((flag, bell)) = stop {
                flag.store(true, Relaxed);
                bell.ring();
            }
            if threads.next().is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("a thread of the spool panicked");
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

fn commit_loop(shared: &Shared, intake: &Intake, mut writer: Writer) {
    let mut backoff = shared.config.retry_after_failure;
    let mut retry_at: Option<Instant> = None;
    loop {
        let poisoned = shared.gate.poisoned.load(Relaxed);
        if poisoned && retry_at.is_none() {
            retry_at = Some(Instant::now() + backoff);
            backoff = (backoff * 2).min(Duration::from_secs(60));
        }
        if let Some(at) = retry_at
            && Instant::now() >= at
        {
            retry_at = None;
            match writer.reopen() {
                Ok(()) => {
                    backoff = shared.config.retry_after_failure;
                    tracing::warn!("spool takes writes again, in a new segment");
                }
                Err(refusal) => tracing::error!(%refusal, "spool still refuses writes"),
            }
            continue;
        }
        let Some(jobs) = next_batch(shared, intake, retry_at) else { break };
        if jobs.is_empty() {
            continue;
        }
        if poisoned {
            refuse_all(shared, jobs, Refusal::Io);
            continue;
        }
        let mut packed = Vec::with_capacity(jobs.len());
        let mut rest = Vec::with_capacity(jobs.len());
        for job in jobs {
            packed.push(job.packed);
            rest.push((job.message, job.content, job.reply));
        }
        let results = writer.append(&mut packed);
        for ((message, content, reply), result) in rest.into_iter().zip(results) {
            if let Err(refusal) = result {
                shared.count_refusal(refusal, 1);
            }
            // Whoever asked may have gone; the message stays, and is delivered after a restart at the latest.
            let accepted = result.map(|handle| Accepted { handle, message, content });
            if let Err(Ok(accepted)) = reply.send(accepted) {
                orphaned(shared, &accepted);
            }
        }
    }
    writer.seal();
}

/// An accepted message whose session went away before it heard so: nobody will queue it, so it must not stay
/// in force as if somebody would. The client was told nothing, so it still has the message.
fn orphaned(shared: &Shared, accepted: &Accepted) {
    let (place, mut table) = (accepted.handle, lock(&shared.table));
    let Some(segment) = table.segments.get_mut(&place.segment()) else { return };
    let (unit, end) = (place.unit(), segment.index.end_of(place.unit()));
    if let (true, Some(end)) = (segment.index.drop_record(unit), end) {
        drop(table);
        shared.note(crate::table::Note::Gone { segment: place.segment(), unit, end, frees: None });
    }
}

fn refuse_all(shared: &Shared, jobs: Vec<Job>, refusal: Refusal) {
    shared.count_refusal(refusal, jobs.len() as u64);
    for job in jobs {
        let _ = job.reply.send(Err(refusal));
    }
}

/// All that waits, within the bounds of a commit. Does not wait for company: while one commit runs, the next
/// gathers by itself. `None` when the spool closes and nothing waits.
fn next_batch(shared: &Shared, intake: &Intake, until: Option<Instant>) -> Option<Vec<Job>> {
    let mut waiting = lock(&intake.waiting);
    while waiting.jobs.is_empty() {
        if waiting.stop {
            return None;
        }
        // The gate may also be poisoned by the keeper of outcomes, so look up now and then.
        let limit = until.map_or(Duration::from_secs(1), |at| at.saturating_duration_since(Instant::now()));
        waiting.asleep = true;
        let (guard, timeout) =
            intake.came.wait_timeout(waiting, limit).unwrap_or_else(PoisonError::into_inner);
        waiting = guard;
        waiting.asleep = false;
        if timeout.timed_out() && waiting.jobs.is_empty() && !waiting.stop {
            return Some(Vec::new());
        }
    }
    let mut octets = 0;
    let fit = waiting.jobs.iter().take(shared.config.batch_messages_max).take_while(|job| {
        octets += job.packed.len();
        octets <= shared.config.batch_bytes_max.bytes()
    });
    let count = fit.count().max(1);
    Some(waiting.jobs.drain(..count).collect())
}

/// How often survivors are copied forward.
const COPY_INTERVAL: Duration = Duration::from_millis(100);

/// How long outcomes are gathered before they are written, when somebody waits for one and when nobody does.
const GATHER_MIN: Duration = Duration::from_micros(150);
const GATHER_MAX: Duration = Duration::from_micros(1_000);

fn state_loop(shared: &Arc<Shared>, settlements: &Settlements, stop: &Stop) {
    let mut ledger = Ledger::new(shared.clone());
    let mut copy_at = Instant::now();
    let per_interval = shared.config.copy_bytes_per_second.bytes() / 10;
    loop {
        let stopping = stop.ledger.load(Relaxed);
        let (changes, done) = std::mem::take(&mut *lock(&settlements.waiting));
        let took = changes.len();
        ledger.apply(changes, done);
        ledger.sync(false);
        if stopping {
            break;
        }
        let now = Instant::now();
        if now >= copy_at {
            copy_at = now + COPY_INTERVAL;
            ledger.shorten();
            if per_interval > 0 && !shared.gate.poisoned.load(Relaxed) && !shared.gate.full.load(Relaxed) {
                let copied = ledger.copy_forward(per_interval);
                // A large message may exceed the share of one interval: the next ones pay for it.
                copy_at += COPY_INTERVAL * u32::try_from(copied / per_interval).unwrap_or(600).min(600);
            }
        }
        // Outcomes come one by one from many connections, each of which waits only for its last but one: a pause
        // gathers them, and saves a wake-up of this thread for nearly every message. Where there are few connections
        // they soon wait, and end it.
        if took > 0 && !stopping {
            std::thread::sleep(GATHER_MIN);
            shared.hurry_bell.wait(GATHER_MAX - GATHER_MIN);
        }
        let busy = ledger.is_behind();
        let next = [Some(copy_at), ledger.sync_at(), busy.then(|| now + COPY_INTERVAL)];
        let next = next.into_iter().flatten().min().unwrap_or(copy_at);
        shared.state_bell.wait(next.saturating_duration_since(Instant::now()));
    }
    ledger.seal();
    // A disk that fails now leaves what it has: a restart delivers again what was not written.
    for _ in 0..3 {
        ledger.flush();
        if ledger.sync(true) && !ledger.is_behind() {
            return;
        }
    }
    tracing::error!(
        "spool closed with outcomes that could not be written: their messages will be sent again"
    );
}

fn room_loop(shared: &Arc<Shared>, stop: &Stop) {
    let mut janitor = Janitor::new(shared.clone());
    while !stop.janitor.load(Relaxed) {
        janitor.step();
        Bell::wait(&shared.janitor_bell, Duration::from_millis(500));
    }
}

impl Shared {
    fn count_refusal(&self, refusal: Refusal, count: u64) {
        let counters = &self.counters;
        match refusal {
            Refusal::Full => add(&counters.refused_full, count),
            Refusal::Io => add(&counters.refused_io, count),
            Refusal::Busy | Refusal::TooLarge | Refusal::Closed => add(&counters.refused_busy, count),
        }
    }

    pub(crate) fn read(&self, handle: Handle) -> Result<Stored, ReadError> {
        let mut last = None;
        loop {
            let (place, generation) = {
                let table = lock(&self.table);
                let place = table.place(handle);
                let segment = table.segments.get(&place.segment()).ok_or(ReadError::NotFound)?;
                if !segment.index.is_live(place.unit()) {
                    return Err(ReadError::NotFound);
                }
                (place, segment.generation)
            };
            let read = match self.file(place.segment()) {
                Ok(file) => read_record(&*file, generation, place.offset()),
                Err(error) => Err(Trouble::Io(error)),
            };
            let reason = match read {
                Ok(whole) => match codec::decode(whole.header.id, whole.head()) {
                    Ok(message) => {
                        let body = Bytes::from(whole.octets).slice(whole.header.content_at() as usize..);
                        return Ok(Stored { message, content: Content { prefix: Bytes::new(), body } });
                    }
                    Err(codec::HeadError::Version(version)) => DamageReason::HeadVersion(version),
                    Err(codec::HeadError::Malformed) => DamageReason::Envelope,
                },
                // It may have been copied forward, and its segment reused, since we looked; once.
                Err(_) if last != Some(place) => {
                    last = Some(place);
                    continue;
                }
                Err(Trouble::Io(error)) => return Err(ReadError::Io(error)),
                Err(Trouble::NotThere) => DamageReason::Header,
                Err(Trouble::Rotten(reason)) => reason,
            };
            let message = self.file(place.segment()).ok().and_then(|file| {
                let mut scanner = Scanner::new(file, generation, u64::MAX);
                let header = scanner.header_at(place.offset())?;
                codec::decode(header.id, scanner.head(place.offset(), &header)?).ok().map(Box::new)
            });
            let set_aside = set_message_aside(self, place, reason);
            return Err(ReadError::Damaged { set_aside, reason, message });
        }
    }

    fn stats(&self) -> Stats {
        let c = &self.counters;
        let mut stats = Stats {
            commits: c.commits.load(Relaxed),
            committed_messages: c.committed_messages.load(Relaxed),
            committed_payload_bytes: c.committed_payload_bytes.load(Relaxed),
            segment_bytes_written: c.segment_bytes_written.load(Relaxed),
            sync_nanos: c.sync_nanos.load(Relaxed),
            state_records: c.state_records.load(Relaxed),
            state_bytes_written: c.state_bytes_written.load(Relaxed),
            state_syncs: c.state_syncs.load(Relaxed),
            stale_settlements: c.stale_settlements.load(Relaxed),
            finished_messages: c.finished_messages.load(Relaxed),
            refused_full: c.refused_full.load(Relaxed),
            refused_io: c.refused_io.load(Relaxed),
            refused_busy: c.refused_busy.load(Relaxed),
            set_aside: c.set_aside.load(Relaxed),
            torn: c.torn.load(Relaxed),
            moved_messages: c.moved_messages.load(Relaxed),
            moved_bytes: c.moved_bytes.load(Relaxed),
            recycled_segments: c.recycled_segments.load(Relaxed),
            deleted_segments: c.deleted_segments.load(Relaxed),
            inline_preparations: c.inline_preparations.load(Relaxed),
            unwritten_states: c.unwritten_states.load(Relaxed),
            free_bytes: c.free_bytes.load(Relaxed),
            ..Stats::default()
        };
        let table = lock(&self.table);
        for segment in table.segments.values() {
            stats.segments += 1;
            stats.used_bytes += segment.size;
            stats.live_messages += u64::from(segment.index.live());
            stats.live_bytes += segment.index.live_bytes();
            stats.index_memory_bytes += segment.index.memory() as u64;
            stats.segments_to_load += u64::from(matches!(segment.phase, Phase::Waiting | Phase::Loading));
        }
        stats.index_memory_bytes += 40 * (table.places.capacity() + table.names.capacity()) as u64;
        drop(table);
        let spares = lock(&self.spares);
        stats.spare_segments = (spares.ready.len() + spares.leftovers.len()) as u64;
        stats
    }
}

/// Figures about the spool: sums since it was opened, unless they say otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages with a pending recipient, now. Those not loaded yet are not counted.
    pub live_messages: u64,
    /// Octets of their records, now.
    pub live_bytes: u64,
    /// Segments, now.
    pub segments: u64,
    /// Octets of their files, now.
    pub used_bytes: u64,
    /// Segments not read yet, now.
    pub segments_to_load: u64,
    /// Files ready for reuse, now.
    pub spare_segments: u64,
    /// Octets free on the file system, when last looked.
    pub free_bytes: u64,
    /// Octets of memory that the index takes, now.
    pub index_memory_bytes: u64,
    /// Group commits.
    pub commits: u64,
    /// Messages in them.
    pub committed_messages: u64,
    /// Octets of content in them.
    pub committed_payload_bytes: u64,
    /// Octets written to segments.
    pub segment_bytes_written: u64,
    /// Time spent in syncs of segments, in nanoseconds.
    pub sync_nanos: u64,
    /// Outcomes, deferrals and notes written.
    pub state_records: u64,
    /// Octets of them.
    pub state_bytes_written: u64,
    /// Syncs of sidecars.
    pub state_syncs: u64,
    /// Settlements of recipients that were not pending; each is a mistake of the caller.
    pub stale_settlements: u64,
    /// Messages whose last recipient was settled.
    pub finished_messages: u64,
    /// Messages refused for want of room.
    pub refused_full: u64,
    /// Messages refused because a write or sync failed.
    pub refused_io: u64,
    /// Messages refused for other reasons.
    pub refused_busy: u64,
    /// Damages set aside, or tried to.
    pub set_aside: u64,
    /// Torn ends found.
    pub torn: u64,
    /// Messages copied forward.
    pub moved_messages: u64,
    /// Octets of them.
    pub moved_bytes: u64,
    /// Segments made ready for reuse.
    pub recycled_segments: u64,
    /// Segments deleted.
    pub deleted_segments: u64,
    /// Times a commit had to prepare its own segment.
    pub inline_preparations: u64,
    /// Outcomes the disk has not taken yet, now.
    pub unwritten_states: u64,
}
