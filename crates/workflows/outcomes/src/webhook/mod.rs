//! Webhooks: each takes records into a durable, bounded log of its own, and a task posts what lies there, batch by batch.
//!
//! What is recorded goes into memory, bounded; within a quarter of a second it is in the log and synced. A batch is posted
//! until it is answered with a 2yz, with the same id each time, so that who gets it twice can tell. What was not taken for
//! too long is put aside into a second log, which is shown and can be posted again.

mod config;
mod log;
mod sign;

#[cfg(test)]
mod tests;

use accounting::{JsonLines, Observer, Record};
use arc_swap::ArcSwap;
pub use config::WebhookConfig;
use log::{Lines, Log};
use notify::{Failure, Target, post};
use serde_json::{Value, json};
pub use sign::Secret;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

/// Octets of records in memory before they are in the log; further ones are left out and counted.
const MEMORY_MAX: usize = 8 << 20;
/// How long records wait in memory for others.
const LINGER: Duration = Duration::from_millis(250);

/// How a webhook is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebhookStatus {
    /// Its name.
    pub name: String,
    /// Where to, without what may be secret.
    pub url: String,
    /// Records taken.
    pub taken: u64,
    /// Posts that came to nothing.
    pub failures: u64,
    /// Octets that wait.
    pub pending_octets: u64,
    /// Octets kept, those that were taken included.
    pub kept_octets: u64,
    /// Octets of what was put aside.
    pub dead_octets: u64,
    /// Octets that had to go before they were taken.
    pub lost_octets: u64,
    /// Records left out because memory was full, or the disk failed.
    pub dropped: u64,
    /// Why the last post came to nothing, if it did.
    pub last_failure: Option<String>,
    /// Seconds since when every post fails, if they do.
    pub failing_seconds: Option<u64>,
}

#[derive(Default)]
struct Memory {
    octets: Vec<u8>,
    records: u64,
    writer: JsonLines,
}

/// The disk, and what is going on.
struct State {
    log: Log,
    dead: Log,
    taken: u64,
    failures: u64,
    last_failure: Option<String>,
    failing_since: Option<Instant>,
}

/// One webhook at work.
struct Hook {
    name: String,
    config: WebhookConfig,
    target: Target,
    memory: Mutex<Memory>,
    state: Mutex<State>,
    dropped: AtomicU64,
    /// Records came, or it shall be tried now.
    wake: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hook {
    fn open(name: &str, config: &WebhookConfig, target: Target, folder: &Path) -> io::Result<Self> {
        let folder = folder.join(name);
        let max = config.log_max.bytes();
        let state = State {
            log: Log::open(&folder.join("log"), max)?,
            dead: Log::open(&folder.join("dead"), max)?,
            taken: 0,
            failures: 0,
            last_failure: None,
            failing_since: None,
        };
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            target,
            memory: Mutex::default(),
            state: Mutex::new(state),
            dropped: AtomicU64::new(0),
            wake: Notify::new(),
        })
    }

    fn wants(&self, record: &Record) -> bool {
        let config = &self.config;
        let tenant = || record.tags().and_then(|tags| tags.tenant.as_deref());
        (config.events.is_empty() || config.events.contains(&record.kind))
            && (config.tenants.is_empty()
                || tenant().is_some_and(|tenant| config.tenants.iter().any(|own| own == tenant)))
    }

    fn take(&self, records: &[Record]) {
        let mut memory = lock(&self.memory);
        let before = memory.records;
        for record in records.iter().filter(|record| self.wants(record)) {
            let Memory { octets, records, writer } = &mut *memory;
            if octets.len() >= MEMORY_MAX {
                self.dropped.fetch_add(1, Relaxed);
                continue;
            }
            writer.write(octets, record);
            *records += 1;
        }
        if before == 0 && memory.records > 0 {
            self.wake.notify_one();
        }
    }

    /// Writes what is in memory to the log. What cannot be written is counted: mail never waits for a webhook's disk.
    fn flush(&self) {
        let (octets, records) = {
            let mut memory = lock(&self.memory);
            (std::mem::take(&mut memory.octets), std::mem::take(&mut memory.records))
        };
        if octets.is_empty() {
            return;
        }
        if let Err(failure) = lock(&self.state).log.append(&octets) {
            self.dropped.fetch_add(records, Relaxed);
            error!(webhook = %self.name, error = %failure, records, "a webhook's log cannot be written");
        }
    }

    fn status(&self) -> WebhookStatus {
        let state = lock(&self.state);
        WebhookStatus {
            name: self.name.clone(),
            url: self.target.url.shown(),
            taken: state.taken,
            failures: state.failures,
            pending_octets: state.log.pending(),
            kept_octets: state.log.octets(),
            dead_octets: state.dead.pending(),
            lost_octets: state.log.lost + state.dead.lost,
            dropped: self.dropped.load(Relaxed),
            last_failure: state.last_failure.clone(),
            failing_seconds: state.failing_since.map(|since| since.elapsed().as_secs()),
        }
    }

    /// Posts what lies in the log, until the task is ended.
    async fn run(self: Arc<Self>) {
        let mut failed = 0usize;
        let mut first_failure: Option<Instant> = None;
        loop {
            let hook = self.clone();
            let batch_max = self.config.batch_max;
            let read = tokio::task::spawn_blocking(move || {
                hook.flush();
                lock(&hook.state).log.read(batch_max)
            });
            let batch = match read.await {
                Ok(Ok(batch)) => batch,
                Ok(Err(failure)) => {
                    error!(webhook = %self.name, error = %failure, "a webhook's log cannot be read");
                    tokio::time::sleep(self.wait(0)).await;
                    continue;
                }
                // The server stops.
                Err(_) => return,
            };
            if batch.lines.is_empty() {
                if batch.to != batch.from {
                    self.settle(batch, false).await;
                    continue;
                }
                self.wake.notified().await;
                tokio::time::sleep(LINGER.max(self.config.batch_wait)).await;
                continue;
            }
            let posted = self.post(&batch).await;
            let now = Instant::now();
            match posted {
                Ok(()) => {
                    if failed > 0 {
                        info!(webhook = %self.name, failures = failed, "a webhook takes posts again");
                    }
                    (failed, first_failure) = (0, None);
                    self.settle(batch, true).await;
                }
                Err(Failure::ForNow(why) | Failure::ForGood(why)) => {
                    if failed == 0 {
                        warn!(webhook = %self.name, url = %self.target.url.shown(), why, "a webhook does not take posts");
                    }
                    let since = *first_failure.get_or_insert(now);
                    {
                        let mut state = lock(&self.state);
                        state.failures += 1;
                        state.last_failure = Some(why);
                        state.failing_since.get_or_insert(now);
                    }
                    if now.duration_since(since) >= self.config.give_up_after {
                        warn!(webhook = %self.name, records = batch.lines.len(), "records were put aside");
                        first_failure = None;
                        self.put_aside(batch).await;
                        continue;
                    }
                    let wait = self.wait(failed);
                    failed += 1;
                    // Records that come do not make it hurry; an operator does.
                    let until = tokio::time::Instant::now() + wait;
                    while tokio::time::timeout_at(until, self.wake.notified()).await.is_ok() {
                        let hook = self.clone();
                        // What came is made durable while the endpoint is down.
                        tokio::time::sleep(LINGER).await;
                        if tokio::task::spawn_blocking(move || hook.flush()).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    fn wait(&self, failed: usize) -> Duration {
        let waits = &self.config.waits;
        waits.get(failed).or(waits.last()).copied().unwrap_or(Duration::from_secs(60))
    }

    /// A batch was taken, or there was nothing in it.
    async fn settle(self: &Arc<Self>, batch: Lines, posted: bool) {
        let hook = self.clone();
        let settled = tokio::task::spawn_blocking(move || {
            let mut state = lock(&hook.state);
            if posted {
                state.taken += batch.lines.len() as u64;
                (state.last_failure, state.failing_since) = (None, None);
            }
            state.log.taken(batch.to)
        });
        if let Ok(Err(failure)) = settled.await {
            error!(webhook = %self.name, error = %failure, "how far a webhook has come cannot be written down");
        }
    }

    async fn put_aside(self: &Arc<Self>, batch: Lines) {
        let hook = self.clone();
        let aside = tokio::task::spawn_blocking(move || {
            let mut state = lock(&hook.state);
            state.dead.append(&joined(&batch.lines))?;
            state.log.taken(batch.to)
        });
        if let Ok(Err(failure)) = aside.await {
            error!(webhook = %self.name, error = %failure, "records of a webhook cannot be put aside; they are tried again");
            tokio::time::sleep(self.wait(0)).await;
        }
    }

    async fn post(&self, batch: &Lines) -> Result<(), Failure> {
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        // The same batch has the same id at every try, also after a restart.
        let (from, to) = (batch.from, batch.to);
        let id = format!("{}_{}_{}_{}_{}", self.name, from.segment, from.offset, to.segment, to.offset);
        let events = batch.lines.join(",");
        let server = json!(self.target.server);
        let body = format!(
            "{{\"type\":\"mail.records\",\"timestamp\":{timestamp},\"server\":{server},\"data\":[{events}]}}"
        );
        let mut fields = vec![("webhook-id", id.clone()), ("webhook-timestamp", timestamp.to_string())];
        if let Some(secret) = &self.config.secret {
            fields.push(("webhook-signature", secret.0.signature(&id, timestamp, body.as_bytes())));
        }
        post(&self.target, &fields, body.into()).await
    }
}

fn joined(lines: &[String]) -> Vec<u8> {
    let mut octets = Vec::new();
    for line in lines {
        octets.extend_from_slice(line.as_bytes());
        octets.push(b'\n');
    }
    octets
}

struct Running {
    hook: Arc<Hook>,
    task: JoinHandle<()>,
}

/// All webhooks of a server.
pub struct Webhooks {
    folder: PathBuf,
    running: Mutex<BTreeMap<String, Running>>,
    /// For those who record.
    hooks: ArcSwap<Vec<Arc<Hook>>>,
}

impl std::fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhooks").field("names", &self.names()).finish()
    }
}

impl Webhooks {
    /// None yet, with their logs in a folder.
    pub fn new(folder: &Path) -> Arc<Self> {
        Arc::new(Self { folder: folder.into(), running: Mutex::default(), hooks: ArcSwap::default() })
    }

    /// Puts a configuration in force: webhooks that stay as they are go on, others end or begin. What an ended one had
    /// not posted stays in its log for when it is configured again. Blocks on the disk.
    pub fn reconfigure(&self, configs: &BTreeMap<String, (WebhookConfig, Target)>) -> io::Result<()> {
        let mut running = lock(&self.running);
        let mut next = BTreeMap::new();
        for (name, (config, target)) in configs {
            match running.remove(name) {
                Some(same) if same.hook.config == *config => {
                    next.insert(name.clone(), same);
                    continue;
                }
                Some(other) => {
                    other.task.abort();
                    other.hook.flush();
                }
                None => {}
            }
            let hook = Arc::new(Hook::open(name, config, target.clone(), &self.folder)?);
            let task = tokio::spawn(hook.clone().run());
            next.insert(name.clone(), Running { hook, task });
        }
        for gone in std::mem::replace(&mut *running, next).into_values() {
            gone.task.abort();
            gone.hook.flush();
        }
        self.hooks.store(Arc::new(running.values().map(|running| running.hook.clone()).collect()));
        Ok(())
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.hooks.load().iter().map(|hook| hook.name.clone()).collect()
    }

    /// How each is doing.
    pub fn status(&self) -> Vec<WebhookStatus> {
        self.hooks.load().iter().map(|hook| hook.status()).collect()
    }

    fn hook(&self, name: &str) -> Option<Arc<Hook>> {
        self.hooks.load().iter().find(|hook| hook.name == name).cloned()
    }

    /// What was put aside, at most so many records. Blocks on the disk.
    pub fn dead(&self, name: &str, max: usize) -> Option<io::Result<Vec<Value>>> {
        let hook = self.hook(name)?;
        let read = lock(&hook.state).dead.read(max);
        Some(
            read.map(|found| found.lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        )
    }

    /// Posts again: what was put aside, or with `all` everything that is kept. Blocks on the disk.
    pub fn replay(&self, name: &str, all: bool) -> Option<io::Result<()>> {
        let hook = self.hook(name)?;
        let replayed = (|| {
            let mut state = lock(&hook.state);
            if all {
                return state.log.rewind();
            }
            loop {
                let dead = state.dead.read(1_000)?;
                if dead.lines.is_empty() {
                    return if dead.to == dead.from { Ok(()) } else { state.dead.taken(dead.to) };
                }
                state.log.append(&joined(&dead.lines))?;
                state.dead.taken(dead.to)?;
            }
        })();
        hook.wake.notify_one();
        Some(replayed)
    }

    /// Writes what is in memory to the logs and ends the tasks. Blocks on the disk.
    pub fn close(&self) {
        for running in std::mem::take(&mut *lock(&self.running)).into_values() {
            running.task.abort();
            running.hook.flush();
        }
    }
}

impl Observer for Webhooks {
    fn observe(&self, records: &[Record]) {
        for hook in self.hooks.load().iter() {
            if records.iter().any(|record| hook.wants(record)) {
                hook.take(records);
            }
        }
    }

    fn make_durable(&self, _deadline: Instant) -> bool {
        // What could not be written is counted as left out.
        let flushed = |hook: &Arc<Hook>| {
            let before = hook.dropped.load(Relaxed);
            hook.flush();
            hook.dropped.load(Relaxed) == before
        };
        self.hooks.load().iter().fold(true, |all, hook| flushed(hook) & all)
    }
}
