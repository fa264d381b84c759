//! One connection to a destination, from the first candidate address to QUIT.

use crate::candidates::Candidate;
use crate::config::TlsUse;
use crate::exchangers::Lease;
use crate::job::{Errand, Event, Hot};
use crate::route::Route;
use crate::session::{Session, Turn};
use crate::settle::{Hop, Settler, all_of};
use crate::shared::{Settings, Shared};
use accounting::Via;
use dispatch::{ConnectionId, SourceAt, Target};
use mail::{Host, Outcome, Reply, UnixMillis};
use net::tls::Policy;
use queue::orders::{Action, Fact, Facts, Match, Order};
use shaping::Treat;
use smtp::client::{self, Client, Event as SmtpEvent, Stage, Transaction};
use spool::Content;
use std::collections::HashMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

/// What a connection is made with.
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    /// A target of the site it goes to.
    pub(crate) target: Target,
    pub(crate) site: Arc<str>,
    pub(crate) source: SourceAt,
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) jobs: mpsc::Receiver<Errand>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) messages_max: u32,
    /// Tells that others wait for its place while it waits for a greeting.
    pub(crate) given_up: Option<oneshot::Receiver<()>>,
}

/// Why no candidate became a session.
struct NoSession {
    reply: Reply,
    /// The destination exists no more or never will: everything that waits for it may be told so.
    permanent: bool,
    /// Nothing was tried, for our own limits: no message is to blame.
    barred: bool,
    stage: shaping::Stage,
    hop: Option<Arc<Hop>>,
}

impl Connection {
    /// Lives until the destination has nothing more to get, or the peer or an error ends it.
    pub(crate) async fn run(mut self) {
        let route = match &self.target {
            Target::Route(name) => self.settings.routes.get(name).cloned(),
            _ => None,
        };
        let given_up = self.given_up.take();
        let ready = tokio::select! {
            ready = self.connect(route.as_deref()) => ready,
            () = told(given_up) => Err(NoSession {
                reply: Reply::new(451, (4, 4, 1), "not greeted in time, and other sites wait for a connection"),
                permanent: false,
                barred: false,
                stage: shaping::Stage::Connect,
                hop: None,
            }),
        };
        let (connected, reason) = match ready {
            Ok((session, hop, lease)) => {
                let _ = self.events.send(Event::Connected(self.id)).await;
                self.serve(session, hop, lease).await;
                (true, None)
            }
            Err(none) => {
                debug!(target = %self.target, reply = %none.reply, "no exchanger could be reached");
                let reason: Arc<str> = none.reply.to_string().into();
                self.refuse_all(none).await;
                (false, Some(reason))
            }
        };
        let _ = self.events.send(Event::Draining(self.id)).await;
        self.jobs.close();
        while let Some(errand) = self.jobs.recv().await {
            let _ = self.events.send(Event::Returned(self.id, errand)).await;
        }
        let _ = self.events.send(Event::Closed { id: self.id, connected, reason }).await;
    }

    /// Tries the candidates in turn until one is ready.
    async fn connect(&self, route: Option<&Route>) -> Result<(Session, Arc<Hop>, Lease), NoSession> {
        let permanent = |reply: Reply| NoSession {
            permanent: reply.is_permanent(),
            barred: false,
            stage: shaping::Stage::Connect,
            reply,
            hop: None,
        };
        let candidates =
            self.shared.candidates(&self.settings, &self.target, route).await.map_err(permanent)?;
        let mut last: Option<NoSession> = None;
        let delivery = &self.settings.delivery;
        let count = candidates.len().min(delivery.addresses_max as usize);
        for (n, candidate) in candidates.into_iter().take(count).enumerate() {
            let patience = if n + 1 == count {
                delivery.connect_timeout
            } else {
                delivery.connect_timeout.min(delivery.connect_next_after)
            };
            let lease = match self.enter(&candidate) {
                Ok(lease) => lease,
                Err(none) => {
                    // What was really tried says more than what was not.
                    last.get_or_insert(none);
                    continue;
                }
            };
            match self.connect_to(&candidate, route, patience).await {
                Ok((session, hop)) => return Ok((session, hop, lease)),
                Err(none) => {
                    debug!(target = %self.target, host = %candidate.host, address = %candidate.address, reply = %none.reply, "candidate failed");
                    // A refusal for good counts only if no other exchanger could be hoped for.
                    if last.as_ref().is_none_or(|last| last.permanent || last.barred) {
                        last = Some(none);
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| NoSession {
            reply: Reply::new(451, (4, 4, 4), "no address to connect to"),
            permanent: false,
            barred: false,
            stage: shaping::Stage::Connect,
            hop: None,
        }))
    }

    /// Asks the limits of the exchanger itself.
    fn enter(&self, candidate: &Candidate) -> Result<Lease, NoSession> {
        let (now, rules) = (Instant::now().into_std(), self.shared.rules());
        self.shared.exchangers.enter(now, &rules, &candidate.host, candidate.address.ip()).map_err(|barred| {
            NoSession {
                reply: Reply::new(451, (4, 3, 2), barred.text),
                permanent: false,
                barred: true,
                stage: shaping::Stage::Connect,
                hop: None,
            }
        })
    }

    async fn connect_to(
        &self,
        candidate: &Candidate,
        route: Option<&Route>,
        patience: Duration,
    ) -> Result<(Session, Arc<Hop>), NoSession> {
        let tls = route.and_then(|route| route.tls).unwrap_or(self.settings.delivery.tls);
        match self.open(candidate, route, tls, patience).await {
            // Opportunistic means that mail goes on without TLS when TLS fails, on a new connection.
            Err((Stage::StartTls, _)) if tls == TlsUse::Opportunistic => {
                self.open(candidate, route, TlsUse::Off, patience).await
            }
            other => other,
        }
        .map_err(|(stage, none)| NoSession {
            // A host that refuses our greeting for good may be one of several; a refused AUTH is our own
            // misconfiguration and no fault of the message.
            permanent: none.permanent && matches!(stage, Stage::Greeting),
            ..none
        })
    }

    async fn open(
        &self,
        candidate: &Candidate,
        route: Option<&Route>,
        tls: TlsUse,
        patience: Duration,
    ) -> Result<(Session, Arc<Hop>), (Stage, NoSession)> {
        let delivery = &self.settings.delivery;
        let none = |stage, reply: Reply, hop: Option<Arc<Hop>>| {
            let none = NoSession {
                permanent: reply.is_permanent(),
                barred: false,
                // A connection that was never made has no greeting either.
                stage: if hop.is_none() && stage == Stage::Greeting {
                    shaping::Stage::Connect
                } else {
                    stage_of(stage)
                },
                reply,
                hop,
            };
            (stage, none)
        };
        let source = self.settings.sources.get(self.source);
        let deadline = Instant::now() + patience;
        let stream = self
            .shared
            .dialer
            .dial(&source.egress, candidate.address, deadline)
            .await
            .map_err(|error| none(Stage::Greeting, error.reply(), None))?;
        let local = stream.local_addr().ok();
        let hop = |session: &Session| {
            let via = if route.is_some_and(|route| route.lmtp) { Via::Lmtp } else { Via::Smtp };
            Arc::new(Hop::new(
                via,
                (&*self.site).into(),
                candidate.host.clone(),
                candidate.address,
                local,
                source.egress.name.clone(),
                session.stream.tls_info(),
                session.client.extensions(),
            ))
        };
        let config = client::Config {
            ehlo_name: source.ehlo_name.clone(),
            lmtp: route.is_some_and(|route| route.lmtp),
            tls: match tls {
                TlsUse::Off => client::TlsUse::Off,
                TlsUse::Opportunistic => client::TlsUse::Opportunistic,
                TlsUse::Required | TlsUse::Verified => client::TlsUse::Required,
            },
            auth: route.and_then(|route| route.auth.clone()),
            auth_in_clear: route.is_some_and(|route| route.auth_without_tls),
            pipelining: delivery.pipelining,
            chunking: delivery.chunking,
            timeouts: delivery.timeouts(),
        };
        let mut session = Session::new(stream, Client::new(config, false, Instant::now().into_std()));
        loop {
            match session.turn(None, |_, _| Poll::<()>::Pending).await {
                Turn::Event(SmtpEvent::StartTls) => {
                    let policy = match tls {
                        TlsUse::Off | TlsUse::Opportunistic => Policy::Opportunistic,
                        TlsUse::Required => Policy::Required,
                        TlsUse::Verified => Policy::Verified,
                    };
                    let Session { stream, mut client, .. } = session;
                    let deadline = Instant::now() + delivery.ehlo_timeout;
                    let name = candidate.name();
                    let connector = source.connector.as_ref().unwrap_or(&self.shared.connector);
                    match connector.starttls(stream, &name, policy, &[], deadline).await {
                        Ok(stream) => {
                            client.tls_started(Instant::now().into_std());
                            session = Session::new(stream, client);
                        }
                        Err(error) => return Err(none(Stage::StartTls, error.reply(), None)),
                    }
                }
                Turn::Event(SmtpEvent::Ready) => {
                    let hop = hop(&session);
                    return Ok((session, hop));
                }
                Turn::Event(SmtpEvent::Failed(failure)) => {
                    return Err(none(failure.stage, failure.reply, Some(hop(&session))));
                }
                _ => {}
            }
        }
    }

    /// Carries messages until there are none for a while.
    async fn serve(&mut self, mut session: Session, hop: Arc<Hop>, lease: Lease) {
        let mut running: HashMap<u64, Running> = HashMap::new();
        let mut waiting: Option<Transaction> = None;
        let (mut next_token, mut begun, mut quitting) = (0u64, 0u32, false);
        let idle = self.settings.delivery.idle_timeout;
        let mut idle_since = Instant::now();
        let (shared, settings) = (self.shared.clone(), self.settings.clone());
        let mut settler = Settler::new(&shared, &settings, Some(hop));
        let mut barred = false;
        loop {
            if session.client.wants()
                && let Some(tx) = waiting.take()
            {
                session.client.submit(Instant::now().into_std(), tx);
            }
            let full = self.messages_max > 0 && begun >= self.messages_max;
            let stop = full || barred || session.client.exhausted() || self.shared.is_stopping();
            let at_rest = session.client.in_flight() == 0 && waiting.is_none();
            if at_rest && stop && !quitting {
                session.client.quit(Instant::now().into_std());
                quitting = true;
            }
            let deadline = (at_rest && !quitting).then(|| idle_since + idle);
            let may_take = waiting.is_none() && !stop && !quitting;
            let jobs = &mut self.jobs;
            let turn = session
                .turn(
                    deadline,
                    |client, cx| if may_take && client.wants() { jobs.poll_recv(cx) } else { Poll::Pending },
                )
                .await;
            match turn {
                Turn::Other(Some(errand)) => {
                    if lease.ask_message(Instant::now().into_std()).is_err() {
                        // The exchanger's own limit: another one may take it.
                        barred = true;
                        let _ = self.events.send(Event::Returned(self.id, errand)).await;
                        continue;
                    }
                    let Some((mut job, hot)) = self.at_hand(errand, &mut settler).await else {
                        lease.settle_message(Instant::now().into_std(), false);
                        continue;
                    };
                    begun += 1;
                    let recipients_max = session.client.extensions().rcpt_max;
                    if recipients_max > 0 && job.recipients() > recipients_max as usize {
                        // Another transaction is another message to the receiver, and needs its own leave.
                        let _ = self.events.send(Event::Narrowed(self.id, job.clone(), recipients_max)).await;
                        job.truncate(recipients_max);
                    }
                    waiting = Some(Transaction {
                        token: next_token,
                        message: hot.message.clone(),
                        recipients: job.indices().collect(),
                        content: [hot.content.prefix.clone(), hot.content.body.clone()],
                        size: hot.content.len(),
                    });
                    running.insert(next_token, Running { job, hot, began: Instant::now() });
                    next_token += 1;
                }
                // The dispatcher has forgotten this connection: the server stops.
                Turn::Other(None) | Turn::Deadline => {
                    session.client.quit(Instant::now().into_std());
                    quitting = true;
                }
                Turn::Event(SmtpEvent::Finished(finished)) => {
                    idle_since = Instant::now();
                    lease.settle_message(Instant::now().into_std(), true);
                    if let Some(Running { job, hot, began }) = running.remove(&finished.token) {
                        let done = settler.settle(&job, &hot, finished.recipients, began).await;
                        let _ = self.events.send(Event::Done(self.id, done)).await;
                    }
                }
                Turn::Event(SmtpEvent::Unsent(token)) => {
                    idle_since = Instant::now();
                    lease.settle_message(Instant::now().into_std(), false);
                    self.unsent(&mut running, token).await;
                }
                Turn::Event(SmtpEvent::Failed(failure)) => {
                    debug!(target = %self.target, reply = %failure.reply, stage = ?failure.stage, "session ended");
                    if failure.from_peer {
                        settler
                            .tell_rules(&self.events, self.id, stage_of(failure.stage), &failure.reply)
                            .await;
                    }
                    if let Some(tx) = waiting {
                        lease.settle_message(Instant::now().into_std(), false);
                        self.unsent(&mut running, tx.token).await;
                    }
                    return;
                }
                Turn::Event(SmtpEvent::Closed) => return,
                Turn::Event(SmtpEvent::Ready | SmtpEvent::StartTls) => {}
            }
        }
    }

    /// A job of which nothing was sent goes back untouched.
    async fn unsent(&self, running: &mut HashMap<u64, Running>, token: u64) {
        if let Some(Running { job, hot, .. }) = running.remove(&token) {
            // What was made for one recipient of a merge is of no use to the next.
            let hot = hot.message.merge().is_none().then_some(hot);
            let _ = self.events.send(Event::Returned(self.id, Errand { job, hot })).await;
        }
    }

    /// No session came to be: the job this connection was opened for gets the reason. When it is for good, so
    /// does everything else that waits, which the dispatcher hands us as long as we take it.
    async fn refuse_all(&mut self, none: NoSession) {
        if none.barred {
            // What it was opened for goes back untouched with everything else.
            return;
        }
        let (shared, settings) = (self.shared.clone(), self.settings.clone());
        let mut settler = Settler::new(&shared, &settings, none.hop);
        // The job it was opened for is there; it knows the rules of its path, which may take the reply for more or
        // less final than the peer put it.
        let mut next = self.jobs.try_recv().ok();
        let profile = next.as_ref().and_then(|errand| errand.job.profile.clone());
        let verdict =
            profile.and_then(|profile| self.shared.rules().verdict(&profile, none.stage, &none.reply));
        let permanent = match verdict.and_then(|verdict| verdict.treat) {
            Some(Treat::Temporary) => false,
            Some(Treat::Permanent) => true,
            None => none.permanent,
        };
        let outcome = if permanent {
            Outcome::Bounced(none.reply.clone())
        } else {
            Outcome::Deferred(none.reply.clone())
        };
        if permanent {
            let _ = self.events.send(Event::Connected(self.id)).await;
        }
        let patience = Duration::from_millis(if permanent { 200 } else { 0 });
        let mut first = true;
        while let Some(errand) = next {
            let began = Instant::now();
            if let Some((job, hot)) = self.at_hand(errand, &mut settler).await {
                let results = all_of(&job, &outcome);
                let mut done = settler.settle_at(&job, &hot, results, began, Some(none.stage)).await;
                // One failure to connect is one reply, however many messages it is told to.
                if !std::mem::take(&mut first) {
                    done.fired.clear();
                }
                let _ = self.events.send(Event::Done(self.id, done)).await;
            }
            next = tokio::time::timeout(patience, self.jobs.recv()).await.ok().flatten();
        }
    }

    /// The job with its message, from memory or from the spool; `None` if it was settled or given back, because
    /// the message cannot be read or an order names it.
    async fn at_hand(&self, errand: Errand, settler: &mut Settler<'_>) -> Option<(dispatch::Job, Hot)> {
        // The spool need not be read for what a recipient before this one was made of.
        let known = if errand.hot.is_none() { self.shared.sheets.find(errand.handle()) } else { None };
        let hot = match &errand.hot {
            Some(hot) => hot.clone(),
            None => match &known {
                Some(kept) => Hot { message: kept.message.clone(), content: Content::default() },
                None => match self.shared.read(errand.handle()).await {
                    Ok(hot) => hot,
                    Err(error) => {
                        settler.tell_unreadable(&self.events, self.id, errand.job, error).await;
                        return None;
                    }
                },
            },
        };
        let handle = errand.handle();
        let job = errand.job;
        let wall = UnixMillis::from(SystemTime::now());
        if hot.message.expires_at().is_some_and(|end| end <= wall) {
            let reply = Reply::new(451, (4, 4, 7), "its sender wanted it delivered by now or not at all");
            return self.give_up(settler, &job, &hot, Outcome::Expired(reply)).await;
        }
        // A merge's recipients come one by one.
        let index = job.indices().next().unwrap_or(0);
        let hot = match crate::merge::expand(&self.shared, &self.settings, handle, known, hot, index) {
            Ok(hot) => hot,
            Err((hot, why)) => {
                let outcome = Outcome::Bounced(Reply::new(554, (5, 6, 0), why));
                return self.give_up(settler, &job, &hot, outcome).await;
            }
        };
        let Some(order) = self.order_on(&job, &hot) else { return Some((job, hot)) };
        if order.action == Action::Bounce {
            let why = if order.reason.is_empty() { String::new() } else { format!(": {}", order.reason) };
            let reply = Reply::new(550, (5, 7, 0), format!("given up by order {}{why}", order.id));
            return self.give_up(settler, &job, &hot, Outcome::Bounced(reply)).await;
        } else {
            let _ = self.events.send(Event::Ordered(self.id, job, order.id)).await;
        }
        None
    }

    /// Settles a job that will not be sent: nothing is at hand then.
    async fn give_up(
        &self,
        settler: &mut Settler<'_>,
        job: &dispatch::Job,
        hot: &Hot,
        outcome: Outcome,
    ) -> Option<(dispatch::Job, Hot)> {
        let done = settler.settle(job, hot, all_of(job, &outcome), Instant::now()).await;
        let _ = self.events.send(Event::Done(self.id, done)).await;
        None
    }

    /// An order that names this message by what only the message tells.
    fn order_on(&self, job: &dispatch::Job, hot: &Hot) -> Option<Order> {
        let orders = job.orders.as_ref()?;
        let source = self.settings.sources.get(self.source);
        let (message, queue) = (&hot.message, &job.queue);
        let facts = Facts {
            tenant: queue.tenant.as_deref().into(),
            campaign: queue.campaign.as_deref().into(),
            domain: Fact::Is(&queue.target),
            site: Fact::Is(&self.site),
            source: Fact::Is(&source.egress.name),
            pool: Fact::Is(&queue.pool),
            sender: Fact::Is(message.envelope.reverse_path.as_str()),
            job: message.tags.job.as_deref().into(),
        };
        orders.iter().find(|order| order.scope.matches(&facts) == Match::Yes).cloned()
    }
}

/// Comes true when it is told, and never if nobody is left who could.
async fn told(by: Option<oneshot::Receiver<()>>) {
    if let Some(by) = by
        && by.await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// The stage of a session as rules for replies name it.
fn stage_of(stage: Stage) -> shaping::Stage {
    match stage {
        Stage::Greeting => shaping::Stage::Greeting,
        Stage::Hello => shaping::Stage::Ehlo,
        Stage::StartTls => shaping::Stage::Starttls,
        Stage::Auth => shaping::Stage::Auth,
        // Between transactions a peer that ends the session answers the next MAIL.
        Stage::Transaction | Stage::Quit => shaping::Stage::Mail,
    }
}

/// A job under way, as one transaction.
struct Running {
    job: dispatch::Job,
    hot: Hot,
    began: Instant,
}

impl Candidate {
    /// The name for SNI and certificates.
    fn name(&self) -> Host {
        Host::parse(&self.host).unwrap_or(Host::Literal(self.address.ip()))
    }
}
