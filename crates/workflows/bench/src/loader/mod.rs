//! The loader: sends marked messages as fast as the peer takes them, or at a fixed rate.
//!
//! At a fixed rate it is an open loop: message *n* is due at `start + n / rate` whatever became of the ones
//! before, and its latency is counted from that moment. A slow peer therefore shows in the figures instead
//! of slowing down the question.

mod session;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use crate::histogram::Histogram;
use crate::net::{self, lock};
use crate::sequence::SequenceSet;
use crate::template::{Plan, Template};
use crate::wire;
use crate::{Percentiles, json, tls, usage};

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// After so many messages.
    Messages(u64),
    /// When so much time has passed; messages begun are finished.
    Time(Duration),
}

/// Whether and how a connection is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// In the clear.
    #[default]
    Off,
    /// By STARTTLS; a peer that refuses it counts as a failed connection.
    Starttls,
    /// From the first octet.
    Implicit,
}

/// A user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({:?}, …)", self.user)
    }
}

/// What to send, where and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server to load.
    pub target: SocketAddr,
    /// How many messages, or for how long.
    pub amount: Amount,
    /// Octets of content of each message, header included. Below about 350 the header alone is sent.
    pub size: usize,
    /// Connections held at once.
    pub connections: usize,
    /// Messages after which a connection says QUIT and is opened anew; 0 keeps it to the end.
    pub messages_per_connection: u64,
    /// Recipients of each message, in one transaction.
    pub recipients: u64,
    /// Domains over which recipients are spread, `d000000.` to `d<n-1>.` below `recipient_domain`.
    /// With 1, all live in `recipient_domain` itself.
    pub recipient_domains: u64,
    /// The recipients' domain. Recipient *i* of a message is `b<i>@` it.
    pub recipient_domain: String,
    /// One fixed address for every recipient in place of the numbered ones.
    pub recipient: Option<String>,
    /// The reverse-path.
    pub sender: String,
    /// The name given in EHLO.
    pub helo: String,
    /// Messages a second, offered whether the peer keeps up or not; none for as fast as it answers.
    pub rate: Option<f64>,
    /// Sends MAIL, RCPT and DATA in one segment when the peer offers PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// Sends the next MAIL, RCPT and DATA together with the end of the message before: one write and, from
    /// most peers, one reply segment for each message. Not at a fixed rate, since there a message's first
    /// command has its own due time.
    pub overlap: bool,
    /// Sends each message with its commands in one write, by BDAT, when the peer offers CHUNKING.
    pub chunking: bool,
    /// AUTH PLAIN, before the first message of a connection.
    pub auth: Option<Credentials>,
    /// Whether and how the connection is encrypted. Any certificate is believed.
    pub tls: Tls,
    /// Threads, each with its own share of the connections; 0 for one per processor.
    pub threads: usize,
    /// How long to wait for a connection or one reply.
    pub timeout: Duration,
    /// Connections that may fail one after another, anywhere, before the run is given up.
    pub failures_max: u64,
    /// Pause after a failed connection before the next try.
    pub failure_pause: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            target: SocketAddr::from(([127, 0, 0, 1], 2525)),
            amount: Amount::Messages(10_000),
            size: 4096,
            connections: 50,
            messages_per_connection: 0,
            recipients: 1,
            recipient_domains: 1,
            recipient_domain: "bench.test".into(),
            recipient: None,
            sender: "sender@loader.test".into(),
            helo: "loader.test".into(),
            rate: None,
            pipelining: true,
            overlap: false,
            chunking: false,
            auth: None,
            tls: Tls::Off,
            threads: 0,
            timeout: Duration::from_secs(120),
            failures_max: 1000,
            failure_pause: Duration::from_millis(50),
        }
    }
}

/// What became of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The run's name in each message's mark.
    pub run: u32,
    /// Messages begun.
    pub sent: u64,
    /// Messages answered with 250 after their end.
    pub accepted: u64,
    /// Messages answered with 4xx or 5xx at any phase.
    pub refused: u64,
    /// Messages whose connection broke, or timed out, before their last reply.
    pub failed: u64,
    /// Recipients refused in transactions that went on without them.
    pub recipients_refused: u64,
    /// Connections opened.
    pub connections: u64,
    /// Connections that could not be opened or broke.
    pub connections_failed: u64,
    /// Every reply's code, and how often it came.
    pub codes: BTreeMap<u16, u64>,
    /// The first few refusals and failures in words, to show what went wrong.
    pub complaints: Vec<String>,
    /// When the first message was scheduled, in microseconds since 1970.
    pub started_us: u64,
    /// From the first message's schedule to the last reply.
    pub elapsed: Duration,
    /// From the scheduled moment to the 250 after the end of data. Without a rate the schedule of a message
    /// is when its MAIL is written; with `overlap`, when its content is.
    pub latency: Percentiles,
    /// CPU time of the loader's own threads.
    pub cpu: Duration,
    /// Messages that were answered with 250.
    pub acknowledged: SequenceSet,
    /// Messages sent to their end without an answer: they may have been accepted or not.
    pub unanswered: SequenceSet,
}

impl Report {
    /// Accepted messages a second.
    pub fn rate(&self) -> f64 {
        self.accepted as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// CPU the loader itself used for each message it sent.
    pub fn cpu_per_message(&self) -> Duration {
        self.cpu / u32::try_from(self.sent.max(1)).unwrap_or(u32::MAX)
    }

    /// One line of JSON; durations in microseconds.
    pub fn to_json(&self) -> String {
        let codes =
            self.codes.iter().fold(json::Object::default(), |o, (code, n)| o.raw(&code.to_string(), n));
        json::Object::default()
            .text("run", &format!("{:08x}", self.run))
            .raw("sent", self.sent)
            .raw("accepted", self.accepted)
            .raw("refused", self.refused)
            .raw("failed", self.failed)
            .raw("unanswered", self.unanswered.len())
            .raw("recipients_refused", self.recipients_refused)
            .raw("connections", self.connections)
            .raw("connections_failed", self.connections_failed)
            .raw("codes", codes.end())
            .raw("started_us", self.started_us)
            .us("elapsed_us", self.elapsed)
            .raw("rate", format_args!("{:.1}", self.rate()))
            .percentiles("latency", &self.latency)
            .us("cpu_us", self.cpu)
            .raw("complaints", json::array(self.complaints.iter().map(|text| json::string(text))))
            .end()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "sent {}: accepted {}, refused {}, failed {} in {:.2} s: {:.0} messages/s",
            self.sent,
            self.accepted,
            self.refused,
            self.failed,
            self.elapsed.as_secs_f64(),
            self.rate()
        )?;
        writeln!(f, "latency to 250: {}", self.latency)?;
        write!(f, "connections {}, failed {}; replies", self.connections, self.connections_failed)?;
        for (code, count) in &self.codes {
            write!(f, " {code} {count}×")?;
        }
        write!(f, "\nloader's own CPU: {:.1} µs a message", self.cpu_per_message().as_secs_f64() * 1e6)?;
        self.complaints.iter().try_for_each(|text| write!(f, "\n  {text}"))
    }
}

/// Runs to the end and reports.
pub async fn run(options: Options) -> Report {
    Loader::start(options).finish().await
}

/// A run under way on threads of its own.
pub struct Loader {
    shared: Arc<Shared>,
    workers: Vec<oneshot::Receiver<Tally>>,
}

impl Loader {
    /// Starts the threads and returns at once.
    pub fn start(options: Options) -> Self {
        let threads = net::thread_count(options.threads).min(options.connections).max(1);
        let shared = Arc::new(Shared {
            run: wire::random_u64() as u32,
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            failures: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            pace_cpu_us: AtomicU64::new(0),
            handshakes_left: AtomicU64::new(options.connections as u64),
            pace: options.rate.map(|rate| Pace { rate, due: Semaphore::new(0), start: Mutex::new(None) }),
            template: Mutex::new(None),
            tls: (options.tls != Tls::Off).then(tls::credulous_client),
            started: Instant::now(),
            options,
        });
        let mut workers = Vec::new();
        for thread in 0..threads {
            let (done, finished) = oneshot::channel();
            let shared = Arc::clone(&shared);
            let share = shared.options.connections / threads
                + usize::from(thread < shared.options.connections % threads);
            std::thread::Builder::new()
                .name(format!("loader-{thread}"))
                .spawn(move || {
                    // The receiver is gone only when nobody wants the report any more.
                    let _ = done.send(worker(&shared, share));
                })
                .expect("a thread can be started");
            workers.push(finished);
        }
        if shared.pace.is_some() {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("loader-pace".into())
                .spawn(move || pace(&shared))
                .expect("a thread can be started");
        }
        Self { shared, workers }
    }

    /// The run's name in each message's mark.
    pub fn run_id(&self) -> u32 {
        self.shared.run
    }

    /// Messages acknowledged so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Relaxed)
    }

    /// Begins no further message; [`Loader::finish`] then returns soon.
    pub fn stop(&self) {
        self.shared.halt();
    }

    /// Waits for the end of the run.
    pub async fn finish(mut self) -> Report {
        let mut total = Tally::default();
        for worker in std::mem::take(&mut self.workers) {
            // A worker that panicked has printed why; its messages are missing from the report.
            if let Ok(tally) = worker.await {
                total.merge(tally);
            }
        }
        self.stop();
        let elapsed_us = total.last_us.saturating_sub(total.first_us.unwrap_or(total.last_us));
        Report {
            run: self.shared.run,
            sent: total.sent,
            accepted: total.accepted,
            refused: total.refused,
            failed: total.failed,
            recipients_refused: total.recipients_refused,
            connections: total.connections,
            connections_failed: total.connections_failed,
            codes: total.codes,
            complaints: total.complaints,
            started_us: total.first_us.unwrap_or(0),
            elapsed: Duration::from_micros(elapsed_us),
            latency: total.latency.percentiles(),
            cpu: total.cpu + Duration::from_micros(self.shared.pace_cpu_us.load(Relaxed)),
            acknowledged: total.acknowledged,
            unanswered: total.unanswered,
        }
    }
}

struct Shared {
    options: Options,
    run: u32,
    next: AtomicU64,
    stop: AtomicBool,
    /// Connections that failed since the last that did not.
    failures: AtomicU64,
    accepted: AtomicU64,
    pace_cpu_us: AtomicU64,
    /// Connections that have not come to their first message; the pace waits for them.
    handshakes_left: AtomicU64,
    pace: Option<Pace>,
    /// The last layout made, for the next connection: making one takes longer than sending it.
    template: Mutex<Option<(Offers, Template)>>,
    /// Shared by all connections, and with it the sessions to resume.
    tls: Option<Arc<rustls::ClientConfig>>,
    started: Instant,
}

struct Pace {
    rate: f64,
    /// A permit for each message that is due.
    due: Semaphore,
    /// The schedule's origin in both clocks' terms: microseconds since 1970.
    start: Mutex<Option<u64>>,
}

impl Shared {
    fn halt(&self) {
        self.stop.store(true, Relaxed);
        if let Some(pace) = &self.pace {
            pace.due.close();
        }
    }

    /// The next message's number, unless the run is over.
    fn take_number(&self) -> Option<u64> {
        if self.stop.load(Relaxed) {
            return None;
        }
        match self.options.amount {
            Amount::Time(time) if self.started.elapsed() >= time && self.pace.is_none() => None,
            Amount::Time(_) => Some(self.next.fetch_add(1, Relaxed)),
            Amount::Messages(total) => {
                let number = self.next.fetch_add(1, Relaxed);
                (number < total).then_some(number)
            }
        }
    }

    /// A message laid out for a peer that offers this.
    fn template(&self, offers: Offers) -> Template {
        let mut last = lock(&self.template);
        if let Some((made_for, template)) = &*last
            && *made_for == offers
        {
            return template.clone();
        }
        let options = &self.options;
        let template = Template::new(&Plan {
            run: self.run,
            size: options.size,
            sender: &options.sender,
            recipient: options.recipient.as_deref(),
            recipient_domain: &options.recipient_domain,
            recipient_domains: options.recipient_domains,
            recipients: options.recipients.max(1),
            chunking: options.chunking && offers.chunking,
            declare_size: offers.size,
        });
        *last = Some((offers, template.clone()));
        template
    }

    /// Waits until a message is due: its number and scheduled time.
    async fn next_due(&self) -> Option<(u64, u64)> {
        let Some(pace) = &self.pace else { return Some((self.take_number()?, wire::unix_us())) };
        pace.due.acquire().await.ok()?.forget();
        let number = self.take_number()?;
        let start = lock(&pace.start).unwrap_or(0);
        Some((number, start + (number as f64 * 1e6 / pace.rate) as u64))
    }
}

/// Makes messages due, each at its time. A thread of its own, because the runtime's timers tick in
/// milliseconds and that would be most of what a fast server's latency shows.
fn pace(shared: &Shared) {
    let pace = shared.pace.as_ref().expect("only called with a pace");
    let patience = Instant::now() + Duration::from_secs(10);
    while shared.handshakes_left.load(Relaxed) > 0 && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(2));
    }
    let total = match shared.options.amount {
        Amount::Messages(total) => total,
        Amount::Time(time) => (time.as_secs_f64() * pace.rate) as u64,
    };
    let start = Instant::now();
    *lock(&pace.start) = Some(wire::unix_us());
    for number in 0..total {
        let due = start + Duration::from_secs_f64(number as f64 / pace.rate);
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
        if shared.stop.load(Relaxed) {
            break;
        }
        pace.due.add_permits(1);
    }
    // The permits given out are still honoured before the rest is told that nothing more comes.
    while shared.next.load(Relaxed) < total && !shared.stop.load(Relaxed) {
        std::thread::sleep(Duration::from_millis(1));
    }
    pace.due.close();
    shared.pace_cpu_us.store(usage::thread_cpu().as_micros() as u64, Relaxed);
}

/// What one thread has counted.
#[derive(Default)]
struct Tally {
    sent: u64,
    accepted: u64,
    refused: u64,
    failed: u64,
    recipients_refused: u64,
    connections: u64,
    connections_failed: u64,
    codes: BTreeMap<u16, u64>,
    complaints: Vec<String>,
    latency: Histogram,
    acknowledged: SequenceSet,
    unanswered: SequenceSet,
    first_us: Option<u64>,
    last_us: u64,
    cpu: Duration,
}

/// Complaints kept; more of the same helps nobody.
const COMPLAINTS_MAX: usize = 10;

impl Tally {
    fn complain(&mut self, text: impl FnOnce() -> String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            let text = text();
            if !self.complaints.contains(&text) {
                self.complaints.push(text);
            }
        }
    }

    fn merge(&mut self, other: Tally) {
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.failed += other.failed;
        self.recipients_refused += other.recipients_refused;
        self.connections += other.connections;
        self.connections_failed += other.connections_failed;
        other.codes.into_iter().for_each(|(code, count)| *self.codes.entry(code).or_default() += count);
        other.complaints.into_iter().for_each(|text| self.complain(|| text));
        self.latency.merge(&other.latency);
        self.acknowledged.merge(&other.acknowledged);
        self.unanswered.merge(&other.unanswered);
        self.first_us = [self.first_us, other.first_us].into_iter().flatten().min();
        self.last_us = self.last_us.max(other.last_us);
        self.cpu += other.cpu;
    }
}

fn worker(shared: &Arc<Shared>, connections: usize) -> Tally {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can start");
    let tally = Arc::new(Mutex::new(Tally::default()));
    runtime.block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..connections {
            let (shared, tally) = (Arc::clone(shared), Arc::clone(&tally));
            clients.spawn(async move { session::client(&shared, &tally).await });
        }
        while clients.join_next().await.is_some() {}
    });
    drop(runtime);
    let mut tally = std::mem::take(&mut *lock(&tally));
    tally.cpu = usage::thread_cpu();
    tally
}

/// A message's number and its scheduled time.
type Due = (u64, u64);

/// What the peer's EHLO reply offers, of what we would use.
#[derive(Clone, Copy, Default, PartialEq)]
struct Offers {
    pipelining: bool,
    chunking: bool,
    size: bool,
}
