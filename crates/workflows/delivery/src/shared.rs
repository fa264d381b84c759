//! What the dispatcher and its connections share: the rooms they use, and the settings of the moment.

use crate::config::{Config, DsnConfig, RetryConfig};
use crate::exchangers::Exchangers;
use crate::job::Hot;
use crate::ordered_limits::OrderedLimits;
use crate::route::Routes;
use crate::signing::{Signing, SigningFigures};
use crate::sources::Sources;
use crate::transport::{InTheClear, PublishedMemory, TlsPolicies, TlsReports, TlsReportsConfig};
use accounting::Recorder;
use arc_swap::ArcSwap;
use dispatch::{Job, Sizes};
use mail::{Domain, Host, Message, Reply, ReversePath, UnixMillis};
use net::tls::Connector;
use net::{Destinations, Dialer};
use queue::Schedule;
use queue::orders::Order;
use shaping::Rules;
use spool::{Accepted, Handle, ReadError, Spool};
use std::future::Future;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use suppression::Suppression;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use tracing::error;

type Make = dyn Fn(&[Order]) -> Arc<Rules> + Send + Sync;

/// Makes rules of the configuration and of orders that limit.
#[derive(Clone)]
pub struct MakeRules(pub Arc<Make>);

impl std::fmt::Debug for MakeRules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MakeRules")
    }
}

impl Settings {
    /// The rules, with what orders limit.
    pub(crate) fn rules_with(&self, orders: &[Order]) -> Arc<Rules> {
        if orders.iter().any(|order| matches!(order.action, queue::orders::Action::Limit(_))) {
            (self.make_rules.0)(orders)
        } else {
            self.rules.clone()
        }
    }

    /// What the rules of dispatching need to know.
    pub(crate) fn dispatch_config(&self) -> dispatch::Config {
        dispatch_config(&self.delivery, &self.retry)
    }
}

/// What the rules of dispatching need to know of a configuration.
pub fn dispatch_config(delivery: &Config, retry: &RetryConfig) -> dispatch::Config {
    dispatch::Config {
        connections_total_max: delivery.connections_total_max as usize,
        greeting_patience: delivery.greeting_timeout_crowded,
        expire_after: retry.expire_after,
        resolving_max: delivery.resolving_max as usize,
        resolve_again: (delivery.resolve_again_min, delivery.resolve_again_max),
        weights: delivery.tenant_weights.iter().map(|(name, n)| (name.as_str().into(), *n)).collect(),
        ..dispatch::Config::default()
    }
}

/// The settings of the moment. A reload swaps them whole.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This server's name.
    pub hostname: Domain,
    /// `delivery`.
    pub delivery: Config,
    /// `retry`.
    pub retry: RetryConfig,
    /// The schedule of `retry`.
    pub schedule: Schedule,
    /// `dsn`.
    pub dsn: DsnConfig,
    /// `notify`.
    pub notify: notify::Config,
    /// Where notices are posted, as `notify` says.
    pub webhook: Option<Arc<notify::Target>>,
    /// `route`.
    pub routes: Routes,
    /// `tls_policy`.
    pub tls_policies: TlsPolicies,
    /// `tls_reports`.
    pub tls_reports: TlsReportsConfig,
    /// Where connections come from.
    pub sources: Sources,
    /// Who signs messages.
    pub signing: Arc<Signing>,
    /// What receivers tolerate.
    pub rules: Arc<Rules>,
    /// What failures are called.
    pub classes: Arc<bounce::ClassRules>,
    /// What mail carries so that reports about it find it again.
    pub returns: Arc<bounce::Returns>,
    /// Addresses whose mail is read as reports: they are not told of what the records tell already.
    pub report_addresses: Vec<bounce::ReportAddress>,
    /// The reply that records of suppressed recipients have.
    pub suppressed: Reply,
    /// Makes those rules again together with limits that an operator has ordered.
    pub make_rules: MakeRules,
    /// Recipients of one message that make one entry of the queue, at most.
    pub run_max: u32,
    /// Octets of messages kept in memory from acceptance to their first attempt.
    pub hot_bytes_max: u64,
}

/// Recipients queued, for the intake's bound and the running sum.
#[derive(Debug, Default)]
pub struct Queued(AtomicU64);

impl Queued {
    /// Recipients now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn set(&self, recipients: u64) {
        self.0.store(recipients, Relaxed);
    }
}

/// Figures of delivery.
#[derive(Debug, Default)]
pub struct Figures {
    /// Connections open to other hosts.
    pub connections_out: Count,
    /// Connections that went on in the clear because TLS failed.
    pub tls_fallbacks: AtomicU64,
    /// Attempts at an exchanger that ended because it could not be spoken to as securely as the mail asks.
    pub tls_refusals: AtomicU64,
    /// Signatures.
    pub signing: Arc<SigningFigures>,
    sizes: Mutex<Sizes>,
}

impl Figures {
    /// How much of everything the dispatcher held a moment ago.
    pub fn sizes(&self) -> Sizes {
        *self.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_sizes(&self, sizes: Sizes) {
        *self.sizes.lock().unwrap_or_else(PoisonError::into_inner) = sizes;
    }
}

/// A gauge.
#[derive(Debug, Default)]
pub struct Count(AtomicI64);

impl Count {
    pub(crate) fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// The rooms delivery uses.
pub struct Shared {
    settings: ArcSwap<Settings>,
    pub(crate) spool: Spool,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) routes: resolve::Routes,
    pub(crate) dialer: Arc<dyn Dialer>,
    pub(crate) traces: Arc<net::trace::Traces>,
    pub(crate) connector: Connector,
    destinations: ArcSwap<Destinations>,
    rules: ArcSwap<Rules>,
    pub(crate) suppression: Suppression,
    pub(crate) exchangers: Arc<Exchangers>,
    pub(crate) in_the_clear: InTheClear,
    pub(crate) sts: Arc<resolve::StsPolicies>,
    pub(crate) dnssec: Option<Arc<dyn resolve::Authentic>>,
    pub(crate) published: PublishedMemory,
    pub(crate) resolver: Arc<dyn resolve::Resolver>,
    pub(crate) https: resolve::Https,
    pub(crate) reports: Arc<TlsReports>,
    pub(crate) ordered_limits: Arc<OrderedLimits>,
    /// Mail merges read lately.
    pub(crate) sheets: crate::merge::Sheets,
    pub(crate) intake: mpsc::Sender<Accepted>,
    /// Recipients queued.
    pub queued: Arc<Queued>,
    /// Figures of delivery.
    pub metrics: Figures,
    stop: watch::Sender<bool>,
    tasks: TaskTracker,
    seed: AtomicU64,
}

/// What [`Shared::new`] is made of.
pub struct Parts {
    /// The settings of the moment.
    pub settings: Settings,
    /// Where messages are.
    pub spool: Spool,
    /// Who is not written to.
    pub suppression: Suppression,
    /// Where outcomes are written.
    pub recorder: Arc<Recorder>,
    /// From domains to addresses.
    pub routes: resolve::Routes,
    /// DNS.
    pub resolver: Arc<dyn resolve::Resolver>,
    /// HTTPS, for reports that are posted.
    pub https: resolve::Https,
    /// What is counted for reports.
    pub reports: Arc<TlsReports>,
    /// What domains ask of TLS by MTA-STS.
    pub sts: Arc<resolve::StsPolicies>,
    /// What DNSSEC vouches for, if that is looked at.
    pub dnssec: Option<Arc<dyn resolve::Authentic>>,
    /// How connections are opened.
    pub dialer: Arc<dyn Dialer>,
    /// Who watches sessions.
    pub traces: Arc<net::trace::Traces>,
    /// How they are encrypted.
    pub connector: Connector,
    /// Which addresses mail may go to.
    pub destinations: Destinations,
    /// Where accepted messages go; bounces take this way too.
    pub intake: mpsc::Sender<Accepted>,
    /// Any number, different in each run.
    pub seed: u64,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            rules: ArcSwap::new(parts.settings.rules.clone()),
            exchangers: Arc::default(),
            in_the_clear: InTheClear::default(),
            sts: parts.sts,
            dnssec: parts.dnssec,
            published: PublishedMemory::default(),
            resolver: parts.resolver,
            https: parts.https,
            reports: parts.reports,
            ordered_limits: Arc::default(),
            sheets: Default::default(),
            settings: ArcSwap::from_pointee(parts.settings),
            spool: parts.spool,
            recorder: parts.recorder,
            suppression: parts.suppression,
            routes: parts.routes,
            dialer: parts.dialer,
            traces: parts.traces,
            connector: parts.connector,
            destinations: ArcSwap::from_pointee(parts.destinations),
            intake: parts.intake,
            queued: Arc::default(),
            metrics: Figures::default(),
            stop: watch::Sender::new(false),
            tasks: TaskTracker::new(),
            seed: AtomicU64::new(parts.seed),
        }
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// The same for a look that is soon over.
    pub(crate) fn settings_now(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    pub(crate) fn set_settings(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// The rules in force.
    pub(crate) fn rules(&self) -> arc_swap::Guard<Arc<Rules>> {
        self.rules.load()
    }

    pub(crate) fn set_rules(&self, rules: Arc<Rules>) {
        self.rules.store(rules);
    }

    pub(crate) fn destinations(&self) -> arc_swap::Guard<Arc<Destinations>> {
        self.destinations.load()
    }

    pub(crate) fn set_destinations(&self, destinations: Destinations) {
        self.destinations.store(Arc::new(destinations));
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    pub(crate) fn stopped(&self) -> Stopped {
        Stopped(self.stop.subscribe())
    }

    /// The next number of a sequence that looks random (Weyl sequence through the mixer of splitmix64).
    pub(crate) fn random(&self) -> u64 {
        let mut z = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A message from the spool. Reading waits for a disk, so it is done on a thread that may.
    pub(crate) async fn read(&self, handle: Handle) -> Result<Hot, ReadError> {
        let spool = self.spool.clone();
        let read = tokio::task::spawn_blocking(move || spool.read(handle)).await;
        match read {
            Ok(Ok(stored)) => Ok(Hot::new(Arc::new(stored.message), stored.content)),
            Ok(Err(error)) => Err(error),
            Err(panic) => {
                error!(?handle, %panic, "reading a message ended in a panic");
                Err(ReadError::Io(std::io::Error::other("the reading thread panicked")))
            }
        }
    }

    /// The recipients of a job that are on a suppression list. Mail about mail (the null reverse-path) reaches them all
    /// the same: it tells of what they sent, and may be all they ever hear of it (RFC 5321 §6.1).
    pub(crate) fn suppressed(&self, message: &Message, job: &Job) -> Vec<u32> {
        if message.envelope.reverse_path == ReversePath::Null {
            return Vec::new();
        }
        let now = UnixMillis::from(SystemTime::now());
        let tenant = message.tags.tenant.as_deref();
        let listed = |index: &u32| {
            let recipient = message.envelope.recipients.get(*index as usize);
            recipient.is_some_and(|to| self.suppression.holds(tenant, &to.path.0, now))
        };
        job.indices().filter(listed).collect()
    }

    /// Our own name as a host.
    pub(crate) fn host(settings: &Settings) -> Host {
        Host::Domain(settings.hostname.clone())
    }
}

/// Waits for the order to stop.
pub(crate) struct Stopped(watch::Receiver<bool>);

impl Stopped {
    pub(crate) async fn wait(&mut self) {
        // The sender lives as long as the server.
        let _ = self.0.wait_for(|stopping| *stopping).await;
    }
}
