//! What must outlive the process beside the mail: operator orders, and what the rules for traffic remember.
//!
//! Files are replaced whole, and synced, by a thread of its own: the dispatcher never waits for the disk. The form is
//! JSON with a version, so that an operator can read it and an older or newer server knows what it does not know.

use dispatch::{Dispatch, Granted};
use mail::UnixMillis;
use queue::orders::{Action, Order, OrderId, Orders, Scope};
use serde_json::{Value, json};
use shaping::Snapshot;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

/// The version of the forms written here.
const VERSION: u64 = 1;

/// How often what the rules remember is written down while it changes.
const KEEP_EVERY: Duration = Duration::from_secs(2);

/// Octets of a file read at most.
const FILE_MAX: u64 = 1 << 30;

/// Octets of leave written down since a snapshot that is on the disk, at most. A snapshot follows every two seconds,
/// so only a disk that takes none lets it come to that; what is granted then is not written down.
const GRANTED_MAX: u64 = 256 << 20;

/// Journals of leave given since a snapshot, by number: `granted.7.jsonl`.
const GRANTED: &str = "granted.";

/// No file of ours has a larger number in it; what has one would end the counting.
const NUMBER_MAX: u64 = u64::MAX / 2;

const ORDERS: &str = "orders.json";
const SHAPING: &str = "shaping.json";

/// What is wrong with the files.
#[derive(Debug)]
pub struct StateError {
    /// Which file or folder.
    pub path: PathBuf,
    /// What is wrong, and what to do.
    pub text: String,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.text)
    }
}

impl std::error::Error for StateError {}

type Answer = Box<dyn FnOnce(io::Result<()>) + Send>;

enum What {
    Orders(String),
    /// With the number of the first journal that it does not know of.
    Shaping(Box<Snapshot>, u64),
}

struct Job {
    what: What,
    answer: Option<Answer>,
}

/// Keeps it.
pub struct Keeper {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    orders: Orders,
    snapshot: Option<Snapshot>,
    /// What journals of an earlier run hold that its snapshot does not.
    granted: Vec<Granted>,
    folder: PathBuf,
    journal: Option<fs::File>,
    /// The number of the journal in use, or of the next one.
    number: u64,
    /// The last journal that could not be written.
    faulty: u64,
    /// When to write down the rules' memory again.
    next: Option<Instant>,
    /// The last one is written.
    idle: Arc<AtomicBool>,
    /// Octets in journals that no snapshot on the disk makes needless.
    unkept: Arc<AtomicU64>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("keeps", &self.jobs.is_some()).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Keeps nothing: for tests.
    pub fn none() -> Self {
        Self {
            jobs: None,
            thread: None,
            orders: Orders::default(),
            snapshot: None,
            granted: Vec::new(),
            folder: PathBuf::new(),
            journal: None,
            number: 0,
            faulty: u64::MAX,
            next: None,
            idle: Arc::new(AtomicBool::new(true)),
            unkept: Arc::default(),
        }
    }

    /// Reads what an earlier process kept in a folder, which is made if it is not there. What cannot be understood
    /// is an error: an order that is silently forgotten sends mail that somebody had stopped.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        let fault = |path: &Path, text: String| StateError { path: path.to_owned(), text };
        fs::create_dir_all(folder).map_err(|e| fault(folder, format!("cannot be made: {e}")))?;
        let orders = match read(&folder.join(ORDERS))? {
            Some(value) => orders_of(&value).ok_or_else(|| {
                let text = "is not a list of orders this version knows; move it away to start without orders";
                fault(&folder.join(ORDERS), text.into())
            })?,
            None => Orders::default(),
        };
        let mut first = 0;
        // What the rules remember is worth less than a start: it is said, and begun anew.
        let snapshot = match read(&folder.join(SHAPING)) {
            Ok(Some(value)) => {
                let snapshot = crate::snapshot::read(&value);
                first = value["journal"].as_u64().filter(|first| *first <= NUMBER_MAX).unwrap_or(0);
                if snapshot.is_none() {
                    warn!(file = %folder.join(SHAPING).display(), "what was remembered of sites cannot be read, and is begun anew");
                }
                snapshot
            }
            Ok(None) => None,
            Err(error) => {
                warn!(%error, "what was remembered of sites cannot be read, and is begun anew");
                None
            }
        };
        let (granted, number) = read_journals(folder, first);
        let (jobs, inbox) = mpsc::channel::<Job>();
        let own = folder.to_owned();
        let folder = folder.to_owned();
        let work = move || {
            while let Ok(job) = inbox.recv() {
                let (name, text) = match &job.what {
                    What::Orders(text) => (ORDERS, text.clone()),
                    What::Shaping(snapshot, journal) => (SHAPING, crate::snapshot::write(snapshot, *journal)),
                };
                let done = write(&folder, name, &text);
                if let Err(error) = &done {
                    error!(file = %folder.join(name).display(), %error, "state could not be written down");
                }
                if let (Ok(()), What::Shaping(_, journal)) = (&done, &job.what) {
                    forget_journals(&folder, *journal);
                }
                if let Some(answer) = job.answer {
                    answer(done);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("state".into())
            .spawn(work)
            .map_err(|e| fault(Path::new("state"), format!("no thread: {e}")))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
            orders,
            snapshot,
            granted,
            folder: own,
            journal: None,
            number,
            faulty: u64::MAX,
            next: None,
            idle: Arc::new(AtomicBool::new(true)),
            unkept: Arc::default(),
        })
    }

    /// The orders that an earlier process kept.
    pub(crate) fn kept_orders(&self) -> &Orders {
        &self.orders
    }

    /// Hands what was kept to the dispatcher's rules.
    pub(crate) fn restore(&mut self, now: Instant, wall: UnixMillis, dispatch: &mut Dispatch) {
        let orders = std::mem::take(&mut self.orders);
        if !orders.list().is_empty() {
            info!(orders = orders.list().len(), "orders of an earlier run are in force");
        }
        dispatch.restore_orders(now, orders);
        if let Some(snapshot) = self.snapshot.take() {
            dispatch.shaper().restore(now, wall, snapshot);
        }
        dispatch.replay(now, wall, &std::mem::take(&mut self.granted));
    }

    fn send(&self, what: What, answer: Option<Answer>) {
        match &self.jobs {
            // The thread lives as long as the sender.
            Some(jobs) => drop(jobs.send(Job { what, answer })),
            None => {
                if let Some(answer) = answer {
                    answer(Ok(()));
                }
            }
        }
    }

    /// Writes the orders down; `answer` is called when they are on the disk, or cannot be.
    pub(crate) fn orders(&self, orders: &Orders, answer: Answer) {
        self.send(What::Orders(orders_text(orders)), Some(answer));
    }

    /// Writes down leave that a process after this one must know of, before it is used. The write goes to the page
    /// cache and is not waited for: it outlives a kill of this process. A power cut can cost what came since the last
    /// snapshot.
    pub(crate) fn granted(&mut self, granted: &[Granted]) {
        if granted.is_empty() || self.jobs.is_none() {
            return;
        }
        let mut text = String::new();
        for one in granted {
            text += &crate::snapshot::granted(one).to_string();
            text.push('\n');
        }
        let path = self.folder.join(format!("{GRANTED}{}.jsonl", self.number));
        let octets = text.len() as u64;
        if self.unkept.fetch_add(octets, Relaxed) + octets > GRANTED_MAX {
            self.unkept.fetch_sub(octets, Relaxed);
            let text =
                "no snapshot could be written for so long that leave given is not written down any more";
            return self.cannot_write(&path, &io::Error::other(text));
        }
        let written = match &mut self.journal {
            Some(file) => file.write_all(text.as_bytes()),
            None => fs::OpenOptions::new().create(true).append(true).open(&path).and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                self.journal = Some(file);
                Ok(())
            }),
        };
        if let Err(error) = written {
            self.cannot_write(&path, &error);
        }
    }

    fn cannot_write(&mut self, journal: &Path, error: &io::Error) {
        // Said once for each journal, not for each message.
        if self.number != self.faulty {
            error!(file = %journal.display(), %error, "leave given cannot be written down: limits may not hold over a kill");
        }
        self.faulty = self.number;
        self.journal = None;
    }

    /// Begins a new journal; gives what is to be called when the snapshot that makes the others needless is written, or
    /// cannot be.
    fn next_journal(&mut self) -> impl FnOnce(&io::Result<()>) + Send + 'static {
        self.journal = None;
        self.number += 1;
        let (unkept, written) = (self.unkept.clone(), self.unkept.load(Relaxed));
        move |done| {
            if done.is_ok() {
                // Two snapshots under way can each have seen the same octets.
                let _ = unkept.fetch_update(Relaxed, Relaxed, |octets| Some(octets.saturating_sub(written)));
            }
        }
    }

    /// Writes down what the rules remember, once in a while: the more there is, the more seldom.
    pub(crate) fn keep(&mut self, now: Instant, wall: UnixMillis, dispatch: &mut Dispatch) {
        if self.jobs.is_none() || self.next.is_some_and(|at| now < at) || !self.idle.swap(false, Relaxed) {
            return;
        }
        let began = Instant::now();
        let snapshot = dispatch.shaper().snapshot(now, wall);
        // The dispatcher stands still meanwhile: at most one part in fifty of its time goes into this.
        self.next = Some(now + KEEP_EVERY.max(began.elapsed() * 50));
        let idle = self.idle.clone();
        // What is granted from here on is in the next journal.
        let kept = self.next_journal();
        let answer = move |done: io::Result<()>| {
            kept(&done);
            idle.store(true, Relaxed);
        };
        self.send(What::Shaping(Box::new(snapshot), self.number), Some(Box::new(answer)));
    }

    /// Writes it down now; `answer` is called when it is on the disk, or cannot be.
    pub(crate) fn keep_now(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        dispatch: &mut Dispatch,
        answer: impl FnOnce(bool) + Send + 'static,
    ) {
        let snapshot = dispatch.shaper().snapshot(now, wall);
        let kept = self.next_journal();
        let answer = move |done: io::Result<()>| {
            kept(&done);
            answer(done.is_ok());
        };
        self.send(What::Shaping(Box::new(snapshot), self.number), Some(Box::new(answer)));
    }

    /// The same, at the end, and waits until it is written.
    pub(crate) async fn keep_last(&mut self, now: Instant, wall: UnixMillis, dispatch: &mut Dispatch) {
        if self.jobs.is_none() {
            return;
        }
        let (done, written) = oneshot::channel();
        self.keep_now(now, wall, dispatch, move |kept| {
            let _ = done.send(kept);
        });
        let _ = written.await;
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It ends with its sender, which is gone.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

/// The numbers of the journals in a folder.
fn journals(folder: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let number = |name: &str| {
        let number = name.strip_prefix(GRANTED)?.strip_suffix(".jsonl")?.parse().ok()?;
        (number <= NUMBER_MAX).then_some(number)
    };
    let mut numbers: Vec<u64> =
        entries.flatten().filter_map(|entry| number(entry.file_name().to_str()?)).collect();
    numbers.sort_unstable();
    numbers
}

/// What journals from number `first` on hold, and the number of the next one. A last line that a kill cut off was of
/// leave that was not used yet.
fn read_journals(folder: &Path, first: u64) -> (Vec<Granted>, u64) {
    let numbers = journals(folder);
    let next = numbers.last().map_or(first, |last| (last + 1).max(first));
    let mut granted = Vec::new();
    for number in numbers.into_iter().filter(|number| *number >= first) {
        let path = folder.join(format!("{GRANTED}{number}.jsonl"));
        match fs::read_to_string(&path) {
            Ok(text) => granted.extend(
                text.lines()
                    .filter_map(|line| serde_json::from_str(line).ok())
                    .filter_map(|value: Value| crate::snapshot::read_granted(&value)),
            ),
            Err(error) => {
                warn!(file = %path.display(), %error, "leave given by an earlier run cannot be read")
            }
        }
    }
    (granted, next)
}

/// Journals before `first` are part of a snapshot that is on the disk.
fn forget_journals(folder: &Path, first: u64) {
    for number in journals(folder).into_iter().filter(|number| *number < first) {
        let _ = fs::remove_file(folder.join(format!("{GRANTED}{number}.jsonl")));
    }
}

fn read(path: &Path) -> Result<Option<Value>, StateError> {
    let fault = |text: String| StateError { path: path.to_owned(), text };
    let text = match fs::metadata(path) {
        Ok(about) if about.len() > FILE_MAX => return Err(fault("is too large".into())),
        Ok(_) => fs::read(path).map_err(|e| fault(format!("cannot be read: {e}")))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(format!("cannot be read: {error}"))),
    };
    let value: Value = serde_json::from_slice(&text).map_err(|e| fault(format!("is no JSON: {e}")))?;
    match value["version"].as_u64() {
        Some(VERSION) => Ok(Some(value)),
        Some(other) => Err(fault(format!("has version {other}, this server knows {VERSION}"))),
        None => Err(fault("has no version".into())),
    }
}

/// Replaces a file whole: a power cut leaves the old one or the new one.
fn write(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let (path, fresh) = (folder.join(name), folder.join(format!("{name}.new")));
    let mut file = fs::File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    fs::File::open(folder)?.sync_all()
}

fn order_json(order: &Order) -> Value {
    let (rates, pool) = match &order.action {
        Action::Limit(rates) => (Some(rates.iter().map(|rate| rate.to_string()).collect::<Vec<_>>()), None),
        Action::Reroute(pool) => (None, Some(pool.to_string())),
        Action::Suspend | Action::Hold | Action::Bounce => (None, None),
    };
    let scope: serde_json::Map<String, Value> = order
        .scope
        .conditions()
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))))
        .collect();
    json!({
        "id": order.id.0,
        "action": order.action.word(),
        "rates": rates,
        "to_pool": pool,
        "scope": scope,
        "reason": &*order.reason,
        "given_at_ms": order.given_at.0,
        "ends_at_ms": order.ends_at.map(|end| end.0),
    })
}

/// The scope that JSON names; `None` if it names something else.
pub fn scope_of(value: &Value) -> Option<Scope> {
    let mut scope = Scope::default();
    for (name, value) in value.as_object()? {
        let text: Box<str> = value.as_str()?.into();
        let place = match name.as_str() {
            "tenant" => &mut scope.tenant,
            "campaign" => &mut scope.campaign,
            "domain" => &mut scope.domain,
            "site" => &mut scope.site,
            "source" => &mut scope.source,
            "pool" => &mut scope.pool,
            "sender" => &mut scope.sender,
            "job" => &mut scope.job,
            _ => return None,
        };
        *place = Some(text);
    }
    Some(scope)
}

/// The action that JSON names: `action`, with `rates` or `to_pool` where it needs them.
pub fn action_of(value: &Value) -> Option<Action> {
    Some(match value["action"].as_str()? {
        "suspend" => Action::Suspend,
        "hold" => Action::Hold,
        "bounce" => Action::Bounce,
        "limit" => {
            let rates = value["rates"].as_array()?;
            Action::Limit(rates.iter().map(|rate| rate.as_str().map(Box::from)).collect::<Option<_>>()?)
        }
        "reroute" => Action::Reroute(value["to_pool"].as_str()?.into()),
        _ => return None,
    })
}

/// The text of the file.
pub(crate) fn orders_text(orders: &Orders) -> String {
    let list: Vec<Value> = orders.list().iter().map(order_json).collect();
    json!({ "version": VERSION, "last": orders.last(), "orders": list }).to_string()
}

pub(crate) fn orders_of(value: &Value) -> Option<Orders> {
    let mut list = Vec::new();
    for order in value["orders"].as_array()? {
        list.push(Order {
            id: OrderId(order["id"].as_u64()?),
            action: action_of(order)?,
            scope: scope_of(&order["scope"])?,
            reason: order["reason"].as_str()?.into(),
            given_at: UnixMillis(order["given_at_ms"].as_u64()?),
            ends_at: match &order["ends_at_ms"] {
                Value::Null => None,
                end => Some(UnixMillis(end.as_u64()?)),
            },
        });
    }
    let orders = Orders::restore(list, value["last"].as_u64()?);
    (orders.last() <= NUMBER_MAX).then_some(orders)
}

/// An order as JSON, for answers to operators too.
pub fn order_to_json(order: &Order) -> Value {
    order_json(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_come_back_as_they_were() {
        let mut orders = Orders::default();
        let scope =
            Scope { tenant: Some("a\"b".into()), sender: Some("*@x.test".into()), ..Scope::default() };
        let actions = [
            Action::Suspend,
            Action::Hold,
            Action::Bounce,
            Action::Limit(vec!["5/m".into(), "100/h".into()]),
            Action::Reroute("warm".into()),
        ];
        for (n, action) in actions.into_iter().enumerate() {
            let ends_at = (n % 2 == 0).then_some(UnixMillis(9_000));
            orders.add(action, scope.clone(), "a reason, \\ and all", UnixMillis(n as u64), ends_at).unwrap();
        }
        let back = orders_of(&serde_json::from_str(&orders_text(&orders)).unwrap()).unwrap();
        assert_eq!((back.list(), back.last()), (orders.list(), orders.last()));
    }

    #[test]
    fn a_file_that_is_not_understood_is_told_and_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["not json", "{}", "{\"version\":99}", "{\"version\":1,\"orders\":[{}],\"last\":1}"] {
            fs::write(folder.path().join(ORDERS), text).unwrap();
            let error = Keeper::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains(ORDERS), "{error}");
            assert_eq!(fs::read_to_string(folder.path().join(ORDERS)).unwrap(), text);
        }
    }

    #[test]
    fn an_order_is_on_the_disk_when_it_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::open(folder.path()).unwrap();
        let mut orders = Orders::default();
        let scope = Scope { domain: Some("a.test".into()), ..Scope::default() };
        orders.add(Action::Hold, scope, "x", UnixMillis(1), None).unwrap();
        let (done, written) = mpsc::channel();
        keeper.orders(&orders, Box::new(move |result| done.send(result).unwrap()));
        written.recv().unwrap().unwrap();
        let again = Keeper::open(folder.path()).unwrap();
        assert_eq!(again.orders.list(), orders.list());
    }

    #[test]
    fn numbers_that_would_end_the_counting_are_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join(ORDERS),
            format!("{{\"version\":1,\"orders\":[],\"last\":{}}}", u64::MAX),
        )
        .unwrap();
        assert!(Keeper::open(folder.path()).is_err());
        fs::remove_file(folder.path().join(ORDERS)).unwrap();
        fs::write(folder.path().join(format!("{GRANTED}{}.jsonl", u64::MAX)), "").unwrap();
        let snapshot = crate::snapshot::write(&Snapshot::default(), u64::MAX);
        fs::write(folder.path().join(SHAPING), snapshot).unwrap();
        let keeper = Keeper::open(folder.path()).unwrap();
        assert_eq!((keeper.granted.len(), keeper.number), (0, 0));
    }

    fn one(messages: u64) -> Granted {
        Granted {
            site: "mx.a.test".into(),
            provider: None,
            domains: vec!["a.test".into()],
            source: "s".into(),
            tenant: Some("t".into()),
            campaign: None,
            messages,
            octets: 10,
            connections: 1,
        }
    }

    #[test]
    fn leave_that_was_given_after_the_last_snapshot_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::open(folder.path()).unwrap();
        keeper.granted(&[one(1), one(2)]);
        keeper.granted(&[one(3)]);
        drop(keeper);
        // A line that a kill cut off.
        let mut file =
            fs::OpenOptions::new().append(true).open(folder.path().join("granted.0.jsonl")).unwrap();
        file.write_all(b"{\"site\":\"mx").unwrap();
        let keeper = Keeper::open(folder.path()).unwrap();
        assert_eq!(keeper.granted, [one(1), one(2), one(3)]);
        assert_eq!(keeper.number, 1);
        drop(keeper);
        let snapshot = crate::snapshot::write(&Snapshot::default(), 1);
        write(folder.path(), SHAPING, &snapshot).unwrap();
        forget_journals(folder.path(), 1);
        let keeper = Keeper::open(folder.path()).unwrap();
        assert_eq!((keeper.granted.len(), keeper.number), (0, 1));
    }

    #[test]
    fn what_cannot_be_kept_in_a_snapshot_does_not_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::open(folder.path()).unwrap();
        let journals = || journals(folder.path()).len();
        keeper.granted(&[one(1)]);
        assert_eq!(journals(), 1);
        // No snapshot came to the disk for very long.
        keeper.unkept.store(GRANTED_MAX, Relaxed);
        keeper.next_journal()(&Err(io::Error::other("full")));
        keeper.granted(&[one(1)]);
        assert_eq!(journals(), 1, "nothing more is written");
        keeper.next_journal()(&Ok(()));
        keeper.granted(&[one(1)]);
        assert_eq!(journals(), 2, "and it goes on when there is room again");
    }
}
