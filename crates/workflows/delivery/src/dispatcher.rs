//! The driver of [`dispatch::Dispatch`]: tells it what was accepted, what connections say and what time it is, and
//! carries out what it decides.
//!
//! It is reached by messages, batches at a time, and never waits for a peer, a disk or a name server; so nothing
//! here is locked, and a destination that stalls holds nobody else's mail.

use crate::connection::Connection;
use crate::hot::HotStore;
use crate::job::{Errand, Event, Hot};
use crate::notices::NoticesIn;
use crate::settle::{Settler, later};
use crate::shared::{Settings, Shared};
use crate::state::Keeper;
use crate::status::{EntryStatus, Order, QueueStatus};
use dispatch::{Action, ConnectionId, Dispatch, Fate, JOBS_MAX, Job, NewMail, SiteFound, Target};
use mail::{Host, Message, Reply, UnixMillis};
use spool::{Accepted, Handle, Loaded};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, info, warn};

/// Messages taken from a channel at a time.
const BATCH: usize = 256;

/// How long a site is taken as known before its domain's exchangers are asked for again; the resolver keeps to
/// the records' own times.
const SITE_HOLDS: Duration = Duration::from_secs(300);

/// The longest a message is kept before its first attempt, whatever it says: reception takes none that asks for more.
const SEND_LATER_MAX: Duration = Duration::from_secs(30 * 86_400);

/// How long a domain that takes no mail is taken as such.
const REFUSAL_HOLDS: Duration = Duration::from_secs(60);

/// The dispatcher's hold on a connection.
struct Reins {
    /// Takes its jobs.
    jobs: mpsc::Sender<Errand>,
    /// Ends its wait for a greeting; taken when it was used.
    give_up: Option<oneshot::Sender<()>>,
}

/// What the dispatcher listens to.
pub(crate) struct Inputs {
    pub(crate) accepted: mpsc::Receiver<Accepted>,
    pub(crate) loaded: mpsc::Receiver<Vec<Loaded>>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) orders: mpsc::Receiver<Order>,
}

/// The driver. See the module's page.
pub(crate) struct Dispatcher {
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) dispatch: Dispatch,
    pub(crate) keeper: Keeper,
    hot: HotStore,
    /// Where jobs are sent, by connection.
    connections: HashMap<ConnectionId, Reins>,
    events_in: mpsc::Sender<Event>,
    settling: Arc<Semaphore>,
    /// Jobs that are being settled outside any connection.
    settling_now: usize,
    notices: NoticesIn,
    stopping: bool,
}

impl Dispatcher {
    pub(crate) fn new(
        shared: Arc<Shared>,
        events_in: mpsc::Sender<Event>,
        mut keeper: Keeper,
        notices: NoticesIn,
    ) -> Self {
        let settings = shared.settings();
        let (now, wall) = (now(), wall());
        // What earlier limits were spent on is counted by them, so they are in force before it is read.
        let rules = settings.rules_with(keeper.kept_orders().list());
        shared.set_rules(rules.clone());
        let egress = settings.sources.egress.clone();
        let mut dispatch = Dispatch::new(now, settings.dispatch_config(), egress, rules);
        keeper.restore(now, wall, &mut dispatch);
        Self {
            dispatch,
            keeper,
            hot: HotStore::new(settings.hot_bytes_max),
            settling: Arc::new(Semaphore::new(settings.delivery.settling_max as usize)),
            settling_now: 0,
            settings,
            shared,
            connections: HashMap::new(),
            events_in,
            notices,
            stopping: false,
        }
    }

    /// Runs until the server stops and every connection is closed.
    pub(crate) async fn run(mut self, mut inputs: Inputs) {
        let mut accepted = Vec::with_capacity(BATCH);
        let mut loaded = Vec::new();
        let mut events = Vec::with_capacity(BATCH);
        let mut stopped = self.shared.stopped();
        let mut loading = true;
        let mut tick = tokio::time::interval(queue::TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake_at = self.dispatch.wake_at().map(Instant::from_std);
            tokio::select! {
                count = inputs.events.recv_many(&mut events, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    for event in events.drain(..) {
                        self.event(event);
                    }
                }
                count = inputs.accepted.recv_many(&mut accepted, BATCH), if !self.stopping => {
                    if count == 0 {
                        self.stop();
                    }
                    for message in accepted.drain(..) {
                        self.accepted(message);
                    }
                }
                count = inputs.loaded.recv_many(&mut loaded, 4), if loading && !self.stopping => {
                    loading = count > 0;
                    for message in loaded.drain(..).flatten() {
                        self.loaded(message);
                    }
                }
                Some(order) = inputs.orders.recv() => self.order(order),
                () = stopped.wait(), if !self.stopping => self.stop(),
                _ = tick.tick() => {
                    self.advance();
                    self.keeper.keep(now(), wall(), &mut self.dispatch);
                    self.shared.metrics.set_sizes(self.dispatch.sizes());
                }
                () = sleep_until(wake_at), if wake_at.is_some() => self.advance(),
                () = std::future::ready(()), if self.dispatch.has_more() => {}
            }
            self.serve();
            self.shared.queued.set(self.dispatch.recipients());
            // A notification that is durable and whose recipient is not settled would go out twice.
            if self.stopping && self.dispatch.connections() == 0 && self.settling_now == 0 {
                self.keeper.keep_last(now(), wall(), &mut self.dispatch).await;
                return;
            }
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        let (queued, connections) = (self.dispatch.recipients(), self.dispatch.connections());
        info!(queued, connections, "delivery stops");
        self.dispatch.stop();
        // The connections finish what they have begun and give back the rest.
        self.connections.clear();
    }

    fn advance(&mut self) {
        let version = self.dispatch.orders().version();
        self.dispatch.advance(now(), wall());
        // An order whose time is over takes its limit with it, and does not come back with the next start.
        if self.dispatch.orders().version() != version {
            self.orders_changed(|_| {});
        }
    }

    // ---- what comes in ------------------------------------------------------------------------------------

    fn accepted(&mut self, accepted: Accepted) {
        let (now, wall) = (now(), wall());
        let (handle, message, content) = accepted.into_parts();
        let count = message.envelope.recipients.len();
        let (mut groups, mut may_go) = (0, false);
        // Nearly every message has one destination; runs of recipients with the same one are an entry each.
        let mut first = 0;
        while first < count {
            let (target, run) = self.run_of(&message, first, count);
            let mail = NewMail {
                first: first as u32,
                count: run as u32,
                due: send_at(&message, now, wall),
                ..new_mail(handle, &message, &target)
            };
            may_go |= self.dispatch.push(now, &mail);
            groups += 1;
            first += run;
        }
        // Where nobody answers, a message would only take up the room of one that can go at once.
        if may_go && message.send_at().is_none_or(|at| at <= wall) {
            // The recipients of a merge go one by one.
            let uses = if message.merge().is_some() { count as u32 } else { groups };
            self.hot.insert(handle, Hot::new(message, content), uses);
        }
    }

    /// The target of recipient `first`, and how many recipients from it on share it, up to a transaction.
    fn run_of(&self, message: &Message, first: usize, end: usize) -> (Target, usize) {
        let recipients = &message.envelope.recipients;
        let target = self.settings.routes.target(recipients[first].path.host());
        let run = recipients[first + 1..end]
            .iter()
            .take(self.settings.run_max as usize - 1)
            .take_while(|r| {
                r.path.host() == recipients[first].path.host()
                    || self.settings.routes.target(r.path.host()) == target
            })
            .count();
        (target, run + 1)
    }

    fn loaded(&mut self, loaded: Loaded) {
        let (now, wall) = (now(), wall());
        let age = Duration::from_millis(wall.0.saturating_sub(loaded.message.received_at.0));
        let longest =
            self.settings.retry.schedule().wait(u16::MAX, 0).max(self.settings.retry.ambiguous_wait);
        let mut at = 0;
        while at < loaded.pending.len() {
            let pending = &loaded.pending[at];
            let first = pending.index as usize;
            // Consecutive recipients in the same state make one entry again.
            let mut end = at + 1;
            while end < loaded.pending.len()
                && loaded.pending[end].index as usize == first + (end - at)
                && loaded.pending[end].attempts == pending.attempts
                && loaded.pending[end].due == pending.due
                && loaded.pending[end].ambiguous == pending.ambiguous
            {
                end += 1;
            }
            let (target, run) = self.run_of(&loaded.message, first, first + (end - at));
            let due = pending.due.map(|due| {
                // Due times are wall-clock on disk; a jump must neither hold mail for years nor matter much.
                now + Duration::from_millis(due.0.saturating_sub(wall.0)).min(longest)
            });
            let due = due.or_else(|| send_at(&loaded.message, now, wall));
            let last_reply = pending.last_reply.as_ref().map(|reply| reply.to_string());
            let mail = NewMail {
                first: first as u32,
                count: run as u32,
                attempts: u16::try_from(pending.attempts).unwrap_or(u16::MAX),
                ambiguous: pending.ambiguous,
                last_reply: last_reply.as_deref(),
                due,
                age,
                // A message found past its time gets one more attempt: the clock may have jumped while we were
                // away.
                kept_until: Some(now + Duration::from_secs(60)),
                ..new_mail(loaded.handle, &loaded.message, &target)
            };
            self.dispatch.push(now, &mail);
            at += run;
        }
    }

    fn event(&mut self, event: Event) {
        let now = now();
        match event {
            Event::Done(id, done) => self.dispatch.done(now, wall(), id, done),
            Event::Settled(done) => {
                self.settling_now -= 1;
                self.dispatch.settled(now, done);
            }
            Event::Returned(id, errand) => {
                if let Some(hot) = errand.hot {
                    self.hot.insert(Handle(errand.job.handle), hot, 1);
                }
                self.dispatch.returned(id, &errand.job);
            }
            Event::Narrowed(id, job, max) => self.dispatch.narrowed(id, &job, max),
            Event::Ordered(id, job, order, until) => {
                self.dispatch.ordered(now, wall(), id, &job, order, until);
            }
            Event::Failed(id, failed) => self.dispatch.session_failed(now, wall(), id, failed),
            Event::Connected(id) => self.dispatch.connected(now, id),
            Event::Draining(id) => self.dispatch.draining(id),
            Event::TargetFailed(target, reply) => self.dispatch.target_failed(now, &target, reply),
            Event::Closed { id, connected, reason } => {
                self.gone(id);
                self.dispatch.closed(now, id, connected, reason);
            }
            Event::Panicked(id) => {
                // Our mistake, which must cost nobody more than a wait. What it was given may or may not have
                // been sent.
                let due = now + self.settings.retry.ambiguous_wait;
                let entries = self.dispatch.lost(now, wall(), id, due, "451 4.3.0 internal error");
                error!(entries, "a connection ended in a panic; what it carried is tried again");
                self.gone(id);
                self.dispatch.closed(now, id, false, Some("internal error".into()));
            }
            Event::Resolved(target, found) => self.dispatch.site_found(now, &target, found),
        }
    }

    fn gone(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
        self.shared.metrics.connections_out.dec();
    }

    // ---- what goes out ------------------------------------------------------------------------------------

    fn serve(&mut self) {
        self.dispatch.serve(now(), wall());
        self.keeper.granted(&self.dispatch.granted());
        for action in self.dispatch.actions() {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Give(id, job) => {
                let errand = self.errand(job);
                let refused = match self.connections.get(&id) {
                    Some(reins) => reins.jobs.try_send(errand).err().map(|error| error.into_inner()),
                    None => Some(errand),
                };
                if let Some(errand) = refused {
                    // It is closing; what it was given before comes back by itself.
                    self.dispatch.draining(id);
                    self.event(Event::Returned(id, errand));
                }
            }
            Action::Open { id, source, target, site, provider, messages_max, job } => {
                let (jobs, receiver) = mpsc::channel(JOBS_MAX + 1);
                // The channel is new and has room.
                let _ = jobs.try_send(self.errand(job));
                let (give_up, given_up) = oneshot::channel();
                self.connections.insert(id, Reins { jobs, give_up: Some(give_up) });
                self.shared.metrics.connections_out.inc();
                let connection = Connection {
                    id,
                    target,
                    site,
                    provider,
                    source,
                    shared: self.shared.clone(),
                    settings: self.settings.clone(),
                    jobs: receiver,
                    events: self.events_in.clone(),
                    messages_max,
                    given_up: Some(given_up),
                    first: None,
                };
                let events = self.events_in.clone();
                self.shared.spawn(async move {
                    if tokio::spawn(connection.run()).await.is_err_and(|error| error.is_panic()) {
                        let _ = events.send(Event::Panicked(id)).await;
                    }
                });
            }
            // Without a sender of jobs a connection ends when it has nothing to do.
            Action::Close(id) => drop(self.connections.remove(&id)),
            Action::GiveUp(id) => {
                if let Some(give_up) = self.connections.get_mut(&id).and_then(|reins| reins.give_up.take()) {
                    // One that was greeted meanwhile hears nothing.
                    let _ = give_up.send(());
                }
            }
            Action::Settle(job, fate) => self.settle(job, fate),
            Action::Resolve(target) => self.resolve(target),
            Action::SkipExchanger { host, wait } => {
                warn!(%host, ?wait, "exchanger skipped, as a rule for its replies says");
                self.shared.exchangers.skip(now(), &host, wait);
            }
            Action::Note(note) if note.notify => self.notices.tell(note, wall()),
            Action::Note(note) => info!(queue = %note.about, text = %note.text, "traffic shaping"),
        }
    }

    fn errand(&mut self, job: Job) -> Errand {
        let hot = self.hot.take(Handle(job.handle));
        Errand { job, hot }
    }

    /// A job ends outside any connection.
    fn settle(&mut self, job: Job, fate: Fate) {
        let again = later(&job, now() + self.settings.retry.ambiguous_wait, "451 4.3.0 internal error");
        let errand = self.errand(job);
        let (shared, settings, events) = (self.shared.clone(), self.settings.clone(), self.events_in.clone());
        let settling = self.settling.clone();
        self.settling_now += 1;
        tokio::spawn(async move {
            // The semaphore is never closed.
            let _turn = settling.acquire_owned().await;
            let work = async move { Settler::new(&shared, &settings, None).alone(errand, fate).await };
            let done = tokio::spawn(work).await.unwrap_or_else(|panic| {
                error!(%panic, "settling a message ended in a panic; it is tried again");
                again
            });
            let _ = events.send(Event::Settled(done)).await;
        });
    }

    fn resolve(&mut self, target: Target) {
        let Target::Domain(domain) = &target else { return };
        let host = Host::Domain(domain.clone());
        let (shared, events) = (self.shared.clone(), self.events_in.clone());
        tokio::spawn(async move {
            let asked = target.clone();
            let look_up = async move {
                let hosts = shared.preferred(&host).await?;
                // Where it cannot be known what the mail asks for, the connection finds that out and waits.
                let settings = shared.settings();
                let demand = shared.demand(&settings, &asked, None).await;
                Ok::<_, resolve::RouteError>((hosts, demand.ok().and_then(|demand| demand.apart(&settings))))
            };
            let found = match tokio::spawn(look_up).await {
                Ok(Ok((hosts, None))) => SiteFound::Exchangers(hosts, SITE_HOLDS),
                Ok(Ok((hosts, Some(asks)))) => SiteFound::Apart(hosts, asks, SITE_HOLDS),
                Ok(Err(error)) if error.is_temporary() => SiteFound::Failed(error.reply),
                Ok(Err(error)) => SiteFound::Refused(error.reply, REFUSAL_HOLDS),
                Err(panic) => {
                    error!(%target, %panic, "a look-up ended in a panic; it is made again");
                    SiteFound::Failed(Reply::new(451, (4, 3, 0), "internal error"))
                }
            };
            let _ = events.send(Event::Resolved(target, found)).await;
        });
    }

    // ---- orders -------------------------------------------------------------------------------------------

    fn order(&mut self, order: Order) {
        let now = now();
        match order {
            Order::Status(reply) => {
                let status = self.dispatch.status(now);
                let _ = reply.send(QueueStatus { hot_bytes: self.hot.bytes(), status });
            }
            Order::Queues { max, reply } => {
                let _ = reply.send(self.dispatch.queues(now, max));
            }
            Order::Entries { place, max, reply } => {
                let entries: Vec<EntryStatus> = self.dispatch.entries(now, place.as_deref(), max);
                let _ = reply.send(entries);
            }
            Order::Flush { place, reply } => {
                let _ = reply.send(self.dispatch.flush(now, place.as_deref()));
            }
            Order::Reload(reply) => {
                self.settings = self.shared.settings();
                self.hot.set_max(self.settings.hot_bytes_max);
                self.reconfigure();
                let _ = reply.send(());
            }
            Order::Explain(question, reply) => {
                let _ = reply.send(self.dispatch.explain(now, wall(), &question));
            }
            Order::ListOrders(reply) => {
                let _ = reply.send(self.dispatch.orders().list().to_vec());
            }
            Order::Preview(scope, reply) => {
                let _ = reply.send(self.dispatch.preview(&scope));
            }
            Order::Candidates(scope, from, reply) => {
                let _ = reply.send(self.dispatch.candidates(&scope, from));
            }
            Order::BounceNamed(order, named, reply) => {
                let _ = reply.send(self.dispatch.bounce_named(order, &named));
            }
            Order::Give(new, reply) => {
                match self.dispatch.add_order(now, wall(), new.action, new.scope, &new.reason, new.ends_at) {
                    Ok(order) => self.orders_changed(move |kept| {
                        let _ = reply.send(Ok((order, kept)));
                    }),
                    Err(error) => {
                        let _ = reply.send(Err(error));
                    }
                }
            }
            Order::Cancel(id, reply) => match self.dispatch.cancel_order(now, id) {
                Some(order) => self.orders_changed(move |kept| {
                    let _ = reply.send(Some((order, kept)));
                }),
                None => {
                    let _ = reply.send(None);
                }
            },
            Order::Release(what, reply) => {
                let changed = self.dispatch.release(now, &what);
                self.keeper.keep_now(now, wall(), &mut self.dispatch, move |kept| {
                    let _ = reply.send((changed, kept));
                });
            }
            Order::Sources(reply) => {
                let _ = reply.send(self.dispatch.sources(now));
            }
            Order::Limits(max, reply) => {
                let _ = reply.send(self.dispatch.limits(now, wall(), max));
            }
        }
    }

    /// New settings, or orders that limit: the rules are made of both.
    fn reconfigure(&mut self) {
        let rules = self.settings.rules_with(self.dispatch.orders().list());
        self.dispatch.reconfigure(
            now(),
            self.settings.dispatch_config(),
            self.settings.sources.egress.clone(),
            rules.clone(),
        );
        self.shared.set_rules(rules);
    }

    /// The orders in force are others; `answer` is called when they are written down.
    fn orders_changed(&mut self, answer: impl FnOnce(bool) + Send + 'static) {
        self.shared.ordered_limits.keep(self.dispatch.orders().list());
        self.keeper.orders(self.dispatch.orders(), Box::new(move |done| answer(done.is_ok())));
        self.reconfigure();
    }
}

/// When a message that is to be sent later may first go.
fn send_at(message: &Message, now: std::time::Instant, wall: UnixMillis) -> Option<std::time::Instant> {
    let left = message.send_at()?.0.checked_sub(wall.0)?;
    Some(now + Duration::from_millis(left).min(SEND_LATER_MAX))
}

/// What every entry of a message has in common.
fn new_mail<'a>(handle: Handle, message: &'a Message, target: &'a Target) -> NewMail<'a> {
    let tags = &message.tags;
    NewMail {
        tenant: tags.tenant.as_deref(),
        campaign: tags.campaign.as_deref(),
        pool: tags.pool.as_deref(),
        class: tags.priority.as_u8(),
        size: message.octets_each(),
        alone: message.merge().is_some(),
        ..NewMail::new(handle.0, target)
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn wall() -> UnixMillis {
    UnixMillis::from(SystemTime::now())
}

pub(crate) async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}
