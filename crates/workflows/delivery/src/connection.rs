//! One connection to a destination, from the first candidate address to QUIT.

use crate::candidates::Candidate;
use crate::config::TlsUse;
use crate::exchangers::Lease;
use crate::job::{Errand, Event, Hot};
use crate::ordered_limits::Leave;
use crate::route::Route;
use crate::session::{Session, Turn};
use crate::settle::{Hop, Settler, all_of};
use crate::shared::{Settings, Shared};
use crate::signing::{Choice, Facts, Unsigned};
use accounting::Via;
use bytes::Bytes;
use dispatch::{ConnectionId, SourceAt, Target};
use mail::{Host, Outcome, Reply};
use net::tls::Policy;
use queue::orders::{Action, Fact, Facts as OrderFacts, Match, Order};
use shaping::Treat;
use smtp::client::{self, Client, Event as SmtpEvent, RecipientResult, Stage, Transaction};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, warn};

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
        let mut signing: Option<Signing> = None;
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
            let at_rest = session.client.in_flight() == 0 && waiting.is_none() && signing.is_none();
            if at_rest && stop && !quitting {
                session.client.quit(Instant::now().into_std());
                quitting = true;
            }
            let deadline = (at_rest && !quitting).then(|| idle_since + idle);
            let may_take = waiting.is_none() && !stop && !quitting;
            let jobs = &mut self.jobs;
            let turn = session
                .turn(deadline, |client, cx| match &mut signing {
                    // What is under way goes on meanwhile: replies are read while this message is signed.
                    Some(signing) => signing.made.as_mut().poll(cx).map(Next::Signed),
                    None if may_take && client.wants() => jobs.poll_recv(cx).map(Next::Errand),
                    None => Poll::Pending,
                })
                .await;
            match turn {
                Turn::Other(Next::Errand(Some(errand))) => {
                    if lease.ask_message(Instant::now().into_std()).is_err() {
                        // The exchanger's own limit: another one may take it.
                        barred = true;
                        let _ = self.events.send(Event::Returned(self.id, errand)).await;
                        continue;
                    }
                    let Some(AtHand { mut job, hot, leaves, suppressed }) =
                        self.at_hand(errand, &mut settler).await
                    else {
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
                    let run = Running { job, hot, leaves, suppressed, began: Instant::now() };
                    match self.signatures(&run) {
                        Some(made) => signing = Some(Signing { run, made }),
                        None => {
                            waiting = Some(run.transaction(next_token, run.hot.content.prefix.clone()));
                            running.insert(next_token, run);
                            next_token += 1;
                        }
                    }
                }
                Turn::Other(Next::Signed(made)) => {
                    let Some(Signing { run, .. }) = signing.take() else { continue };
                    match made {
                        Ok(signatures) => {
                            let prefix = [&signatures[..], &run.hot.content.prefix].concat().into();
                            waiting = Some(run.transaction(next_token, prefix));
                            running.insert(next_token, run);
                            next_token += 1;
                        }
                        Err(outcome) => {
                            idle_since = Instant::now();
                            lease.settle_message(Instant::now().into_std(), false);
                            let Running { job, hot, leaves, suppressed, began } = run;
                            leaves.into_iter().for_each(Leave::give_back);
                            let results = self.with_suppressed(&job, all_of(&job, &outcome), &suppressed);
                            let done = settler.settle(&job, &hot, results, began).await;
                            let _ = self.events.send(Event::Done(self.id, done)).await;
                        }
                    }
                }
                // The dispatcher has forgotten this connection: the server stops.
                Turn::Other(Next::Errand(None)) | Turn::Deadline => {
                    session.client.quit(Instant::now().into_std());
                    quitting = true;
                }
                Turn::Event(SmtpEvent::Finished(finished)) => {
                    idle_since = Instant::now();
                    lease.settle_message(Instant::now().into_std(), true);
                    if let Some(Running { job, hot, leaves, suppressed, began }) =
                        running.remove(&finished.token)
                    {
                        drop(leaves);
                        let results = self.with_suppressed(&job, finished.recipients, &suppressed);
                        let done = settler.settle(&job, &hot, results, began).await;
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
                    self.unsigned(signing, &lease).await;
                    return;
                }
                Turn::Event(SmtpEvent::Closed) => {
                    self.unsigned(signing, &lease).await;
                    return;
                }
                Turn::Event(SmtpEvent::Ready | SmtpEvent::StartTls) => {}
            }
        }
    }

    /// A job of which nothing was sent goes back untouched.
    async fn unsent(&self, running: &mut HashMap<u64, Running>, token: u64) {
        if let Some(Running { job, hot, leaves, .. }) = running.remove(&token) {
            leaves.into_iter().for_each(Leave::give_back);
            let _ = self.events.send(Event::Returned(self.id, Errand { job, hot: Some(hot) })).await;
        }
    }

    /// The same for a job whose message is being signed.
    async fn unsigned(&self, signing: Option<Signing>, lease: &Lease) {
        if let Some(Signing { run: Running { job, hot, leaves, .. }, .. }) = signing {
            leaves.into_iter().for_each(Leave::give_back);
            lease.settle_message(Instant::now().into_std(), false);
            let _ = self.events.send(Event::Returned(self.id, Errand { job, hot: Some(hot) })).await;
        }
    }

    /// The signatures of a message that is about to leave, or the outcome if it must not leave without; `None` if it
    /// leaves as it is.
    fn signatures(&self, run: &Running) -> Option<SignaturesMade> {
        // Not those that the connection began with: a key that was replaced is not used any more.
        let signing = self.shared.settings().signing.clone();
        if signing.is_idle() {
            return None;
        }
        let Running { job, hot, .. } = run;
        let facts = Facts {
            message: &hot.message,
            source: &self.settings.sources.get(self.source).egress.name,
            pool: &job.queue.pool,
            content: &hot.content.body,
        };
        let figures = self.shared.metrics.signing.clone();
        let by = match signing.choose(&facts) {
            Choice::By(by) => by,
            Choice::Nobody => return None,
            Choice::Unmatched => {
                figures.unmatched.fetch_add(1, Relaxed);
                let outcome = not_sent(signing.config().unmatched, "nobody signs for its author")?;
                return Some(Box::pin(std::future::ready(Err(outcome))));
            }
        };
        let content = hot.content.clone();
        // Only a message with several recipients can go to several sites.
        let kept = (hot.message.envelope.recipients.len() > 1).then(|| hot.signatures.clone());
        let id = hot.message.id;
        Some(Box::pin(async move {
            match signing.sign(content, &by, kept.as_deref(), figures.clone()).await {
                Ok(fields) => Ok(fields),
                Err(failure) => {
                    figures.failed.fetch_add(1, Relaxed);
                    warn!(%id, %failure, policy = %signing.config().failed, "a message could not be signed");
                    not_sent(signing.config().failed, &failure.to_string()).map_or(Ok(Vec::new()), Err)
                }
            }
        }))
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
            if let Some(AtHand { job, hot, leaves, suppressed }) = self.at_hand(errand, &mut settler).await {
                leaves.into_iter().for_each(Leave::give_back);
                let results = self.with_suppressed(&job, all_of(&job, &outcome), &suppressed);
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
    async fn at_hand(&self, errand: Errand, settler: &mut Settler<'_>) -> Option<AtHand> {
        let hot = match &errand.hot {
            Some(hot) => hot.clone(),
            None => match self.shared.read(errand.handle()).await {
                Ok(hot) => hot,
                Err(error) => {
                    settler.tell_unreadable(&self.events, self.id, errand.job, error).await;
                    return None;
                }
            },
        };
        let job = errand.job;
        let suppressed = self.shared.suppressed(&hot.message, &job);
        if suppressed.len() == job.recipients() {
            let results = self.with_suppressed(&job, Vec::new(), &suppressed);
            let done = settler.settle(&job, &hot, results, Instant::now()).await;
            let _ = self.events.send(Event::Done(self.id, done)).await;
            return None;
        }
        let (order, until) = match self.leaves_for(&job, &hot) {
            Ok(leaves) => return Some(AtHand { job, hot, leaves, suppressed }),
            Err(ordered) => *ordered,
        };
        if order.action == Action::Bounce {
            let why = if order.reason.is_empty() { String::new() } else { format!(": {}", order.reason) };
            let reply = Reply::new(550, (5, 7, 0), format!("given up by order {}{why}", order.id));
            let outcome = Outcome::Bounced(reply);
            let done = settler.settle(&job, &hot, all_of(&job, &outcome), Instant::now()).await;
            let _ = self.events.send(Event::Done(self.id, done)).await;
        } else {
            let _ = self.events.send(Event::Ordered(self.id, job, order.id, until)).await;
        }
        None
    }

    /// The results of a job, with those of its recipients who are on a suppression list.
    fn with_suppressed(
        &self,
        job: &dispatch::Job,
        mut results: Vec<RecipientResult>,
        suppressed: &[u32],
    ) -> Vec<RecipientResult> {
        if suppressed.is_empty() {
            return results;
        }
        results.retain(|result| !suppressed.contains(&result.index));
        let outcome = Outcome::Suppressed(self.settings.suppressed.clone());
        results.extend(all_of(job, &outcome).into_iter().filter(|result| suppressed.contains(&result.index)));
        results
    }

    /// Leave by every limit that was ordered for this message by what only the message tells; or the order that keeps it
    /// from being sent, and until when if that is known.
    fn leaves_for(
        &self,
        job: &dispatch::Job,
        hot: &Hot,
    ) -> Result<Vec<Leave>, Box<(Order, Option<std::time::Instant>)>> {
        let Some(orders) = &job.orders else { return Ok(Vec::new()) };
        let source = self.settings.sources.get(self.source);
        let (message, queue) = (&hot.message, &job.queue);
        let facts = OrderFacts {
            tenant: queue.tenant.as_deref().into(),
            campaign: queue.campaign.as_deref().into(),
            domain: Fact::Is(&queue.target),
            site: Fact::Is(&self.site),
            source: Fact::Is(&source.egress.name),
            pool: Fact::Is(&queue.pool),
            sender: Fact::Is(message.envelope.reverse_path.as_str()),
            job: message.tags.job.as_deref().into(),
        };
        let (mut leaves, mut limits) = (Vec::new(), Vec::new());
        for order in orders.iter().filter(|order| order.scope.matches(&facts) == Match::Yes) {
            match order.action {
                Action::Limit(_) => limits.push(order),
                _ => return Err(Box::new((order.clone(), None))),
            }
        }
        for order in limits {
            match self.shared.ordered_limits.ask(Instant::now().into_std(), order) {
                Ok(leave) => leaves.push(leave),
                Err(until) => {
                    leaves.into_iter().for_each(Leave::give_back);
                    return Err(Box::new((order.clone(), Some(until))));
                }
            }
        }
        Ok(leaves)
    }
}

/// What becomes of a message that is not signed and should be; `None` if it leaves all the same.
fn not_sent(policy: Unsigned, why: &str) -> Option<Outcome> {
    // RFC 3463 §3.8: cryptographic failure.
    let reply = |code, class| Reply::new(code, (class, 7, 5), format!("not signed: {why}"));
    match policy {
        Unsigned::Send => None,
        Unsigned::Defer => Some(Outcome::Deferred(reply(451, 4))),
        Unsigned::Bounce => Some(Outcome::Bounced(reply(550, 5))),
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

/// What a connection waits for besides its peer.
enum Next {
    Errand(Option<Errand>),
    Signed(Result<Vec<u8>, Outcome>),
}

type SignaturesMade = Pin<Box<dyn Future<Output = Result<Vec<u8>, Outcome>> + Send>>;

/// A job whose message is being signed.
struct Signing {
    run: Running,
    made: SignaturesMade,
}

/// A job that may be sent, with its message.
struct AtHand {
    job: dispatch::Job,
    hot: Hot,
    leaves: Vec<Leave>,
    /// Recipients of the job that are on a suppression list.
    suppressed: Vec<u32>,
}

/// A job under way, as one transaction.
struct Running {
    job: dispatch::Job,
    hot: Hot,
    leaves: Vec<Leave>,
    suppressed: Vec<u32>,
    began: Instant,
}

impl Running {
    fn transaction(&self, token: u64, prefix: Bytes) -> Transaction {
        Transaction {
            token,
            message: self.hot.message.clone(),
            recipients: self.job.indices().filter(|index| !self.suppressed.contains(index)).collect(),
            content: [prefix, self.hot.content.body.clone()],
        }
    }
}

impl Candidate {
    /// The name for SNI and certificates.
    fn name(&self) -> Host {
        Host::parse(&self.host).unwrap_or(Host::Literal(self.address.ip()))
    }
}
