//! What sessions share.

use crate::auth::{Brake, Users};
use crate::budget::{Budget, Taken};
use crate::config::{ListenerConfig, ListenerTls, ReceptionConfig, Speaks};
use crate::feedback::ReadReports;
use crate::relay::RelayRules;
use crate::reports::Collector;
use crate::tagging::TagRules;
use crate::verify::{VerifyFigures, VerifyRules};
use accounting::Recorder;
use arc_swap::ArcSwap;
use mail::{Domain, Envelope, Recipient, Reply, ReversePath, UnixMillis};
use net::tls::Acceptor;
use net::trace::Traces;
use policy::Policy;
use resolve::Resolver;
use spool::{Accepted, Spool};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};
use std::time::SystemTime;
use suppression::Suppression;
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::watch;

/// The rules of the moment. A reload swaps them whole; a session keeps those it began with where they are its
/// own, and asks anew where they are about a message.
#[derive(Debug)]
pub struct Rules {
    /// This server's name.
    pub hostname: Domain,
    /// The limits of a session.
    pub session: Arc<smtp::server::Config>,
    /// The same with AUTH allowed in the clear, for listeners that say so.
    pub session_auth_in_clear: Arc<smtp::server::Config>,
    /// Who may send to whom.
    pub relay: RelayRules,
    /// Who may authenticate.
    pub users: Arc<Users>,
    /// What messages are filed under.
    pub tags: TagRules,
    /// How mail of strangers is verified.
    pub verify: VerifyRules,
    /// Whom the operator has asked at each phase. None costs nothing.
    pub policy: Option<Arc<dyn Policy>>,
    /// Who reads reports on mail, if any are read.
    pub report_reader: Option<Arc<dyn ReadReports>>,
    /// The rest.
    pub reception: ReceptionConfig,
    /// The reply to a recipient who is on a suppression list; `None` if RCPT does not say so.
    pub suppressed: Option<Reply>,
    /// Recipients queued at which intake stops.
    pub recipients_queued_max: u64,
}

/// How many recipients are queued now.
pub type QueuedNow = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What sessions share.
pub struct Context {
    pub(crate) rules: ArcSwap<Rules>,
    pub(crate) spool: Spool,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) suppression: Suppression,
    pub(crate) intake: mpsc::Sender<Accepted>,
    pub(crate) queued: QueuedNow,
    pub(crate) dns: Arc<dyn Resolver>,
    /// What verification came to.
    pub verify_figures: VerifyFigures,
    pub(crate) reports: OnceLock<Arc<Collector>>,
    pub(crate) traces: OnceLock<Arc<Traces>>,
    /// Octets of messages being received.
    pub budget: Arc<Budget>,
    pub(crate) brake: Brake,
    pub(crate) next_session: AtomicU64,
    draining: watch::Sender<bool>,
    /// Sessions open.
    pub sessions: AtomicU64,
}

impl Context {
    /// What sessions share.
    #[allow(clippy::too_many_arguments, reason = "each is a room that sessions use")]
    pub fn new(
        rules: Rules,
        spool: Spool,
        recorder: Arc<Recorder>,
        suppression: Suppression,
        intake: mpsc::Sender<Accepted>,
        queued: QueuedNow,
        dns: Arc<dyn Resolver>,
        budget: Arc<Budget>,
    ) -> Arc<Self> {
        Arc::new(Self {
            rules: ArcSwap::from_pointee(rules),
            spool,
            recorder,
            suppression,
            intake,
            queued,
            dns,
            verify_figures: VerifyFigures::default(),
            reports: OnceLock::new(),
            traces: OnceLock::new(),
            budget,
            brake: Brake::default(),
            next_session: AtomicU64::new(1),
            draining: watch::Sender::new(false),
            sessions: AtomicU64::new(0),
        })
    }

    /// From now on aggregate reports of DMARC are collected; once for a server.
    pub fn collect_reports(&self, collector: Arc<Collector>) {
        let _ = self.reports.set(collector);
    }

    /// Where they are collected, if they are.
    pub fn reports(&self) -> Option<&Arc<Collector>> {
        self.reports.get()
    }

    /// From now on sessions can be watched; once for a server.
    pub fn trace(&self, traces: Arc<Traces>) {
        let _ = self.traces.set(traces);
    }

    /// Puts new rules in force.
    pub fn set_rules(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    /// Tells every session to end at its next boundary between commands.
    pub fn start_draining(&self) {
        self.draining.send_replace(true);
    }

    pub(crate) fn drain(&self) -> Drain {
        let mut receiver = self.draining.subscribe();
        Drain(Box::pin(async move {
            let _ = receiver.wait_for(|draining| *draining).await;
        }))
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    pub(crate) fn auth_failures_max(&self) -> u32 {
        self.rules.load().reception.auth_failures_max
    }

    /// The reply to MAIL when a message could not be taken anyway.
    pub(crate) fn may_take(&self, size: Option<u64>, taken: &Taken) -> Result<(), Reply> {
        self.spool.may_accept().map_err(crate::session::refusal_reply)?;
        let budget = taken.budget();
        if budget.is_short() || size.is_some_and(|size| budget.used().saturating_add(size) > budget.max()) {
            return Err(short_of_memory());
        }
        if (self.queued)() >= self.rules.load().recipients_queued_max {
            return Err(Reply::new(452, (4, 3, 1), "the queue is full, try again later"));
        }
        Ok(())
    }

    /// The reply to a recipient who is on a suppression list, if RCPT says so. Mail about mail reaches them.
    pub(crate) fn suppression_refusal(
        &self,
        rules: &Rules,
        tenant: Option<&str>,
        envelope: &Envelope,
        recipient: &Recipient,
    ) -> Option<Reply> {
        let reply = rules.suppressed.as_ref()?;
        if envelope.reverse_path == ReversePath::Null {
            return None;
        }
        let now = UnixMillis::from(SystemTime::now());
        self.suppression.holds(tenant, &recipient.path.0, now).then(|| reply.clone())
    }

    /// A place in the channel to the queue, before the client is told to send.
    pub(crate) async fn reserve(&self) -> Result<OwnedPermit<Accepted>, Reply> {
        self.spool.may_accept().map_err(crate::session::refusal_reply)?;
        if let Ok(permit) = self.intake.clone().try_reserve_owned() {
            return Ok(permit);
        }
        let patience = self.rules.load().reception.intake_wait;
        match tokio::time::timeout(patience, self.intake.clone().reserve_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Reply::new(451, (4, 3, 2), "shutting down, try again later")),
            Err(_) => Err(Reply::new(452, (4, 3, 1), "the queue is busy, try again later")),
        }
    }

    pub(crate) fn session_began(&self) -> u64 {
        self.sessions.fetch_add(1, Relaxed);
        self.next_session.fetch_add(1, Relaxed)
    }

    pub(crate) fn session_ended(&self) {
        self.sessions.fetch_sub(1, Relaxed);
    }
}

/// The reply to what there is no memory for.
pub(crate) fn short_of_memory() -> Reply {
    Reply::new(452, (4, 3, 1), "short of memory now, try again later")
}

/// Waits for the order to drain.
pub(crate) struct Drain(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Drain {
    /// True once the order is there. Must not be polled after that.
    pub(crate) fn poll(&mut self, cx: &mut TaskContext<'_>) -> bool {
        self.0.as_mut().poll(cx) == Poll::Ready(())
    }
}

/// What the sessions of one listener share.
pub struct ListenerContext {
    /// Its name in the configuration.
    pub name: Box<str>,
    /// Its settings.
    pub config: ListenerConfig,
    /// Its side of TLS.
    pub acceptor: Option<Acceptor>,
    /// Mechanisms of AUTH, as EHLO lists them.
    pub mechanisms: Arc<[Box<str>]>,
}

impl ListenerContext {
    /// The context of a listener.
    pub fn new(name: &str, config: ListenerConfig, acceptor: Option<Acceptor>) -> Arc<Self> {
        let mechanisms = config.auth.iter().map(|mechanism| mechanism.word().into()).collect();
        Arc::new(Self { name: name.into(), config, acceptor, mechanisms })
    }

    pub(crate) fn is_lmtp(&self) -> bool {
        self.config.speaks == Speaks::Lmtp
    }

    pub(crate) fn offers_starttls(&self) -> bool {
        self.acceptor.is_some() && matches!(self.config.tls, ListenerTls::Starttls | ListenerTls::Required)
    }

    pub(crate) fn requires_tls(&self) -> bool {
        self.config.tls == ListenerTls::Required
    }
}
