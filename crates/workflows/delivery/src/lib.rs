//! From due to settled: takes what the spool has accepted to where it belongs, and writes down what became of it.
//!
//! The dispatcher drives `dispatch`, which decides what leaves when and by which source; connections carry messages;
//! the settler writes records, settlements and notifications. Nothing here decides by itself what is due (`queue`),
//! what a site tolerates (`shaping`) or what a reply means (`smtp`).
//!
//! Read first: [`Delivery`], then `dispatcher.rs`, then `connection.rs`.

mod candidates;
mod config;
mod connection;
mod dispatcher;
mod exchangers;
mod front_door;
pub mod fuzzing;
mod hot;
mod job;
mod merge;
mod named;
mod notices;
mod ordered_limits;
mod route;
mod session;
mod settle;
mod shared;
mod signing;
mod snapshot;
mod sources;
mod state;
mod status;
mod transport;

pub use config::{
    Config, DsnConfig, PoolConfig, RetryConfig, Returned, RouteConfig, SourceConfig, TlsPolicyConfig, TlsUse,
};
pub use dispatch::{
    Candidate, Explained, GateReport, LimitStatus, Preview, Question, Release, SourceStatus, Target,
};
pub use named::{Found, Named, SearchLimits};
pub use notices::NoticeFigures;
pub use queue::{EntryKey, orders};
pub use route::{NextHop, Route, Routes};
pub use shared::{Count, Figures, MakeRules, Parts, Queued, Settings, dispatch_config};
pub use signing::{
    DkimConfig, KeyFile, KeyFileError, NextKey, Selector, SignRule, Signing, SigningConfig, SigningError,
    SigningFigures, Unsigned, identity as dkim_identity, read_key,
};
pub use sources::{SourceError, Sources, egress};
pub use state::{Keeper, StateError, action_of, order_to_json, scope_of};
pub use status::{EntryStatus, NewOrder, Order, PathStatus, QueueCounts, QueueStatus, SiteStatus, Status};
pub use transport::{Demand, ReportFigures, TlsPolicies, TlsReports, TlsReportsConfig};

use dispatcher::{Dispatcher, Inputs};
use net::Destinations;
use shared::Shared;
use spool::{Accepted, Loaded};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Messages from the dispatcher's connections that may wait for it.
const EVENTS_MAX: usize = 4_096;

/// Delivery at work.
pub struct Delivery {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    notice_figures: Arc<NoticeFigures>,
    notices: notices::NoticesAside,
    dispatcher: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Delivery {
    /// Begins. What was accepted comes by `accepted`, what the spool held from before by `loaded`.
    pub fn start(
        parts: Parts,
        keeper: Keeper,
        accepted: mpsc::Receiver<Accepted>,
        loaded: mpsc::Receiver<Vec<Loaded>>,
    ) -> Self {
        let shared = Arc::new(Shared::new(parts));
        let (orders, orders_in) = mpsc::channel(64);
        let (events_in, events) = mpsc::channel(EVENTS_MAX);
        let (notices_in, notices, notice_figures) = notices::open(&shared);
        let aside = notices_in.aside();
        let dispatcher = Dispatcher::new(shared.clone(), events_in, keeper, notices_in);
        let inputs = Inputs { accepted, loaded, events, orders: orders_in };
        let telling = tokio::spawn(notices.run());
        let keeping = tokio::spawn(transport::keep(shared.clone()));
        tokio::spawn(signing::watch(shared.clone()));
        let task = tokio::spawn(async move {
            dispatcher.run(inputs).await;
            // What it had to tell last is spooled before anybody closes the spool.
            let _ = telling.await;
            let _ = keeping.await;
        });
        Self {
            notice_figures,
            notices: aside,
            shared,
            orders,
            dispatcher: tokio::sync::Mutex::new(Some(task)),
        }
    }

    /// Recipients queued.
    pub fn queued(&self) -> Arc<Queued> {
        self.shared.queued.clone()
    }

    /// Figures.
    pub fn figures(&self) -> &Figures {
        &self.shared.metrics
    }

    /// Figures of telling people.
    pub fn notice_figures(&self) -> Arc<NoticeFigures> {
        self.notice_figures.clone()
    }

    /// What became of TLS reports.
    pub fn report_figures(&self) -> Vec<(String, u64)> {
        self.shared.reports.figures.list()
    }

    /// MTA-STS policies kept, fetched, and not to be had.
    pub fn sts_figures(&self) -> (usize, u64, u64) {
        let sts = &self.shared.sts;
        let count = |figure: &std::sync::atomic::AtomicU64| figure.load(std::sync::atomic::Ordering::Relaxed);
        (sts.kept(), count(&sts.figures.fetched), count(&sts.figures.failed))
    }

    /// Tells people of something by the ways of `notify`; more about the same subject is folded.
    pub fn tell(&self, about: &str, text: String) {
        let (source, site, rule) = (None, None, None);
        let note = dispatch::Note { about: about.to_owned(), text, notify: true, source, site, rule };
        self.notices.tell(note, mail::UnixMillis::from(std::time::SystemTime::now()));
    }

    /// Asks or orders; the answer comes by the order's own channel, or not at all once delivery has ended.
    pub async fn order(&self, order: Order) {
        let _ = self.orders.send(order).await;
    }

    /// The queue at a glance; `None` once delivery has ended.
    pub async fn status(&self) -> Option<QueueStatus> {
        let (reply, answer) = oneshot::channel();
        self.order(Order::Status(reply)).await;
        answer.await.ok()
    }

    /// Puts new settings in force, for new connections at once.
    pub async fn reload(&self, settings: Settings, destinations: Destinations) {
        settings.signing.take_over(&self.shared.settings().signing);
        settings.signing.fetch().await;
        self.shared.set_settings(settings);
        self.shared.set_destinations(destinations);
        // They were made of addresses that the former destinations allowed.
        self.shared.routes.forget();
        let (reply, answer) = oneshot::channel();
        self.order(Order::Reload(reply)).await;
        let _ = answer.await;
    }

    /// Ends: transactions under way may finish within `limit`; the rest stays in the spool. True if all did.
    pub async fn stop(&self, limit: Duration) -> bool {
        self.shared.stop();
        let Some(mut task) = self.dispatcher.lock().await.take() else { return true };
        let ended = tokio::time::timeout(limit, &mut task).await.is_ok();
        if !ended {
            task.abort();
        }
        ended
    }

    /// Who would sign a message with this content if it left now by this source: a line for each signature, or one
    /// that says why there is none. The same code answers when it leaves.
    pub fn signatures(
        &self,
        message: &mail::Message,
        content: &[u8],
        source: &str,
        pool: &str,
    ) -> Vec<String> {
        self.shared.settings().signing.told(&signing::Facts { message, source, pool, content })
    }

    /// A message as the spool has it, for questions about it.
    pub async fn read(&self, handle: spool::Handle) -> Option<mail::Message> {
        self.shared.read(handle).await.ok().map(|hot| (*hot.message).clone())
    }
}
