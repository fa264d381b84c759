//! The sink: an SMTP receiver that counts what arrives, misbehaves when told to, and keeps messages only
//! when asked.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use bench::sink::{Keep, Options, Sink};
//!
//! let sink = Sink::start(Options {
//!     rules: vec!["rcpt:first=1:451 4.7.1 later".parse().expect("a rule")],
//!     keep: Keep::Memory { messages_max: 100 },
//!     ..Options::default()
//! })?;
//! println!("send to {}", sink.addr());
//! let arrived = sink.wait_for(std::time::Duration::from_secs(5), |stats| stats.messages == 1).await;
//! println!("{arrived}: {:?}", sink.messages());
//! # Ok(()) }
//! ```

pub mod rules;
mod session;
mod tally;
mod transaction;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

pub use rules::{Action, Phase, Rule, RuleError};
pub use tally::{RunStats, Stats};

use crate::loader::Credentials;
use crate::net::{Workers, lock};
use crate::sequence::SequenceSet;
use rules::RuleBook;
use tally::Run;

/// What becomes of the messages received.
#[derive(Clone, Default)]
pub enum Keep {
    /// They are counted and forgotten.
    #[default]
    Nothing,
    /// The newest are held in memory for [`SinkHandle::messages`].
    Memory {
        /// How many; older ones are forgotten.
        messages_max: usize,
    },
    /// Each is written to a file `<number>.eml` in this folder.
    Folder(PathBuf),
    /// Each is handed to a function, on the sink's own thread: it should be quick.
    Call(Arc<dyn Fn(Captured) + Send + Sync>),
}

impl std::fmt::Debug for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Keep::Nothing => f.write_str("Nothing"),
            Keep::Memory { messages_max } => write!(f, "Memory({messages_max})"),
            Keep::Folder(folder) => write!(f, "Folder({folder:?})"),
            Keep::Call(_) => f.write_str("Call"),
        }
    }
}

/// A message as it was received.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Counts messages kept by this sink, from 1.
    pub number: u64,
    /// Who sent it.
    pub peer: SocketAddr,
    /// The name the peer gave.
    pub helo: String,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Whether the peer had authenticated.
    pub authenticated: bool,
    /// The reverse-path without its angle brackets; empty for the null one.
    pub reverse_path: String,
    /// What stood behind the reverse-path, like `SIZE=1000 BODY=8BITMIME`.
    pub parameters: String,
    /// Who it was for.
    pub recipients: Vec<CapturedRecipient>,
    /// The content, its dots restored.
    pub content: Bytes,
    /// When its end was seen.
    pub received: SystemTime,
}

impl Captured {
    /// The value of the first header field of that name, unfolded.
    pub fn field(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.content);
        let header = text.split("\r\n\r\n").next().unwrap_or("").replace("\r\n ", " ").replace("\r\n\t", " ");
        header.split("\r\n").find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

/// A recipient as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedRecipient {
    /// The address without its angle brackets.
    pub address: String,
    /// What stood behind it, like `NOTIFY=NEVER`.
    pub parameters: String,
}

/// Where to listen and how to behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0 lets the system choose; [`SinkHandle::addr`] tells.
    pub listen: SocketAddr,
    /// Threads, each with its own listening socket; 0 for one per processor.
    pub threads: usize,
    /// The name in the banner.
    pub hostname: String,
    /// How to misbehave; the first rule that matches decides.
    pub rules: Vec<Rule>,
    /// What becomes of the messages.
    pub keep: Keep,
    /// Looks at every octet for breaches of the protocol and counts them in [`Stats::faults`]. Costs time.
    pub strict: bool,
    /// The largest message taken, in octets; larger ones get 552.
    pub size_max: u64,
    /// Recipients taken in one transaction; further ones get 452.
    pub recipients_max: usize,
    /// Offers PIPELINING.
    pub pipelining: bool,
    /// Offers 8BITMIME.
    pub eight_bit_mime: bool,
    /// Offers SMTPUTF8.
    pub smtputf8: bool,
    /// Offers DSN.
    pub dsn: bool,
    /// Offers ENHANCEDSTATUSCODES.
    pub enhanced_status_codes: bool,
    /// Offers CHUNKING.
    pub chunking: bool,
    /// Offers STARTTLS with this; [`crate::tls::self_signed`] makes one.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Offers REQUIRETLS under TLS (RFC 8689).
    pub requiretls: bool,
    /// Expects TLS from the first octet, by `tls`.
    pub implicit_tls: bool,
    /// Offers AUTH PLAIN for this user, also without TLS. Mail is taken from others all the same.
    pub auth: Option<Credentials>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            threads: 0,
            hostname: "sink.test".into(),
            rules: Vec::new(),
            keep: Keep::Nothing,
            strict: false,
            size_max: 100 * 1024 * 1024,
            recipients_max: 1000,
            pipelining: true,
            eight_bit_mime: true,
            smtputf8: true,
            dsn: true,
            enhanced_status_codes: true,
            chunking: false,
            tls: None,
            requiretls: false,
            implicit_tls: false,
            auth: None,
        }
    }
}

/// Where a sink begins; see [`Sink::start`].
pub struct Sink;

impl Sink {
    /// Listens, and serves on threads of its own until the handle is dropped or stopped.
    pub fn start(options: Options) -> io::Result<SinkHandle> {
        let (listen, threads) = (options.listen, options.threads);
        let shared = Arc::new(Shared::new(options));
        let serving = Arc::clone(&shared);
        let workers = Workers::start("sink", listen, threads, move |stream, peer| {
            let shared = Arc::clone(&serving);
            shared.connections.fetch_add(1, Relaxed);
            let open = shared.open.fetch_add(1, Relaxed) + 1;
            shared.open_max.fetch_max(open, Relaxed);
            async move {
                let _open = Open(&shared);
                session::serve(&shared, stream, peer).await;
            }
        })?;
        Ok(SinkHandle { shared, workers })
    }

    /// Listens until the future is dropped.
    pub async fn run(options: Options) -> io::Result<()> {
        let _handle = Self::start(options)?;
        std::future::pending().await
    }
}

/// A running sink; dropping it stops it.
pub struct SinkHandle {
    shared: Arc<Shared>,
    workers: Workers,
}

impl SinkHandle {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.workers.addr()
    }

    /// The figures of this moment.
    pub fn stats(&self) -> Stats {
        Stats { cpu: self.workers.cpu(), ..self.shared.stats() }
    }

    /// Waits until the figures satisfy `wanted`; false when they did not within `patience`.
    pub async fn wait_for(&self, patience: Duration, wanted: impl Fn(&Stats) -> bool) -> bool {
        let until = std::time::Instant::now() + patience;
        loop {
            if wanted(&self.stats()) {
                return true;
            }
            if std::time::Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// The messages kept in memory, oldest first.
    pub fn messages(&self) -> Vec<Captured> {
        lock(&self.shared.kept).iter().cloned().collect()
    }

    /// Message numbers of a run below `messages` that have not wholly come, at most `ranges_max` ranges.
    pub fn missing(&self, run: u32, messages: u64, ranges_max: usize) -> Vec<Range<u64>> {
        match lock(&self.shared.totals).runs.get(&run) {
            Some(run) => run.missing(messages, ranges_max),
            None if messages > 0 => std::iter::once(0..messages).collect(),
            None => Vec::new(),
        }
    }

    /// Messages of a run of which every recipient has come; compare with a loader's `acknowledged`.
    pub fn received(&self, run: u32) -> SequenceSet {
        lock(&self.shared.totals).runs.get(&run).map(Run::whole).unwrap_or_default()
    }

    /// Replaces the rules, for open connections too; counts begin anew.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        let mut book = lock(&self.shared.book);
        *book = RuleBook::new(rules);
        self.shared.has_rules.store(!book.is_empty(), Relaxed);
    }

    /// Forgets every figure and message; connections stay open.
    pub fn reset(&self) {
        *lock(&self.shared.totals) = Totals::default();
        lock(&self.shared.kept).clear();
        self.shared.connections.store(0, Relaxed);
        self.shared.open_max.store(self.shared.open.load(Relaxed), Relaxed);
    }

    /// Closes the port and all connections; the last figures.
    pub fn stop(self) -> Stats {
        self.stats()
    }
}

/// What all connections share.
struct Shared {
    options: Options,
    ehlo: String,
    /// The same once STARTTLS is done.
    ehlo_secure: String,
    totals: Mutex<Totals>,
    book: Mutex<RuleBook>,
    has_rules: AtomicBool,
    kept: Mutex<VecDeque<Captured>>,
    kept_count: AtomicU64,
    connections: AtomicU64,
    open: AtomicU64,
    open_max: AtomicU64,
}

#[derive(Default)]
struct Totals {
    messages: u64,
    recipients: u64,
    octets: u64,
    unmarked: u64,
    rules_acted: u64,
    faults: BTreeMap<&'static str, u64>,
    runs: BTreeMap<u32, Run>,
}

/// Runs remembered; a mark is a peer's word and must not fill the memory.
const RUNS_MAX: usize = 1000;

impl Shared {
    fn new(options: Options) -> Self {
        let book = RuleBook::new(options.rules.clone());
        Self {
            ehlo: ehlo_reply(&options, options.tls.is_some()),
            ehlo_secure: ehlo_reply(&options, false),
            has_rules: AtomicBool::new(!book.is_empty()),
            book: Mutex::new(book),
            totals: Mutex::default(),
            kept: Mutex::default(),
            kept_count: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            open_max: AtomicU64::new(0),
            options,
        }
    }

    fn stats(&self) -> Stats {
        let totals = lock(&self.totals);
        Stats {
            connections: self.connections.load(Relaxed),
            open: self.open.load(Relaxed),
            open_max: self.open_max.load(Relaxed),
            messages: totals.messages,
            recipients: totals.recipients,
            octets: totals.octets,
            unmarked: totals.unmarked,
            rules_acted: totals.rules_acted,
            faults: totals.faults.clone(),
            runs: totals.runs.iter().map(|(run, seen)| (*run, seen.stats())).collect(),
            cpu: Duration::ZERO,
        }
    }

    /// Whether content must be collected.
    fn collects(&self) -> bool {
        self.options.strict || !matches!(self.options.keep, Keep::Nothing)
    }

    fn keep(&self, captured: Captured) {
        match &self.options.keep {
            Keep::Nothing => {}
            Keep::Call(call) => call(captured),
            Keep::Memory { messages_max } => {
                let mut kept = lock(&self.kept);
                kept.push_back(captured);
                while kept.len() > *messages_max {
                    kept.pop_front();
                }
            }
            Keep::Folder(folder) => {
                let file = folder.join(format!("{:08}.eml", captured.number));
                if let Err(error) = std::fs::write(&file, &captured.content) {
                    eprintln!("sink: cannot write {}: {error}", file.display());
                }
            }
        }
    }
}

fn ehlo_reply(options: &Options, starttls: bool) -> String {
    let size = format!("SIZE {}", options.size_max);
    let lines = [
        (true, options.hostname.as_str()),
        (true, size.as_str()),
        (options.pipelining, "PIPELINING"),
        (options.eight_bit_mime, "8BITMIME"),
        (options.smtputf8, "SMTPUTF8"),
        (options.dsn, "DSN"),
        (options.chunking, "CHUNKING"),
        (starttls, "STARTTLS"),
        (options.requiretls && options.tls.is_some() && !starttls, "REQUIRETLS"),
        (options.auth.is_some(), "AUTH PLAIN"),
        (options.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
    ];
    let lines: Vec<&str> = lines.iter().filter(|(offered, _)| *offered).map(|(_, line)| *line).collect();
    let last = lines.len() - 1;
    let line =
        |(index, line): (usize, &&str)| format!("250{}{line}\r\n", if index == last { ' ' } else { '-' });
    lines.iter().enumerate().map(line).collect()
}

/// Counts a connection as open until dropped.
struct Open<'a>(&'a Shared);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
