//! One connection to a destination, from the first candidate address to QUIT.

use crate::candidates::Candidate;
use crate::exchangers::Lease;
use crate::job::{Errand, Event, Hot};
use crate::ordered_limits::Leave;
use crate::route::Route;
use crate::session::{Session, Turn};
use crate::settle::{Hop, Settler, all_of};
use crate::shared::{Settings, Shared};
use crate::signing::{Choice, Facts, Unsigned};
use crate::transport::{
    Demand, Finding, NoPlan, Plan, PolicyKind, SessionFault, SessionSeen, needs_no_tls, not_assured,
};
use accounting::{Connection as RecordConnection, Via};
use bytes::Bytes;
use dispatch::{ConnectionId, SourceAt, Target};
use mail::{Host, Outcome, Reply, ReversePath, UnixMillis};
use net::Verification;
use queue::orders::{Action, Fact, Facts as OrderFacts, Match, Order};
use shaping::Treat;
use smtp::client::{self, Client, Event as SmtpEvent, RecipientResult, Stage, Transaction};
use spool::Content;
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{debug, info};

/// How long it is taken for granted that mail for a target asks for what it asked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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
    /// A job that was taken from `jobs` to look at.
    pub(crate) first: Option<Errand>,
}

/// Why no candidate became a session.
struct NoSession {
    reply: Reply,
    /// The destination exists no more or never will: everything that waits for it may be told so.
    permanent: bool,
    /// Nothing was tried, for our own limits: no message is to blame.
    barred: bool,
    /// It was reached, and could not be spoken to as securely as the mail asks: no fault of the site's.
    insecure: bool,
    /// What reports call it, where TLS is to blame.
    fault: Option<SessionFault>,
    stage: shaping::Stage,
    hop: Option<Arc<Hop>>,
}

impl NoSession {
    fn new(reply: Reply) -> Self {
        Self {
            reply,
            permanent: false,
            barred: false,
            insecure: false,
            fault: None,
            stage: shaping::Stage::Connect,
            hop: None,
        }
    }
}

/// A session that is ready.
struct Opened {
    session: Session,
    hop: Arc<Hop>,
    /// What it was made for.
    demand: Arc<str>,
    /// It is encrypted, with a server that is known to be the domain's exchanger: mail under REQUIRETLS may go.
    assured: bool,
    /// It was made without regard to what the domain publishes: only mail that says so may go.
    relaxed: bool,
}

/// A session with what was found out about its TLS.
struct Ready {
    session: Session,
    hop: Arc<Hop>,
    verification: Verification,
}

impl Connection {
    /// Lives until the destination has nothing more to get, or the peer or an error ends it.
    pub(crate) async fn run(mut self) {
        let route = match &self.target {
            Target::Route(name) => self.settings.routes.get(name).cloned(),
            _ => None,
        };
        let given_up = self.given_up.take();
        // The job it was opened for is there.
        self.first = self.jobs.try_recv().ok();
        let ready = tokio::select! {
            ready = self.connect_as_asked(route.as_deref()) => ready,
            () = told(given_up) => {
                let text = "not greeted in time, and other sites wait for a connection";
                Err(NoSession::new(Reply::new(451, (4, 4, 1), text)))
            }
        };
        let (connected, reason) = match ready {
            Ok((opened, lease)) => {
                let _ = self.events.send(Event::Connected(self.id)).await;
                self.serve(opened, lease).await;
                (true, None)
            }
            Err(none) => {
                debug!(target = %self.target, reply = %none.reply, "no exchanger could be reached");
                let reason: Arc<str> = none.reply.to_string().into();
                let insecure = none.insecure;
                if insecure {
                    self.shared.metrics.tls_refusals.fetch_add(1, Relaxed);
                    debug!(target = %self.target, reply = %none.reply, "mail waits for a secure connection");
                    let failed = Event::TargetFailed(self.target.clone(), none.reply.clone());
                    let _ = self.events.send(failed).await;
                }
                self.refuse_all(none).await;
                // Others' mail may go there all the same.
                (insecure, Some(reason))
            }
        };
        let _ = self.events.send(Event::Draining(self.id)).await;
        self.jobs.close();
        if let Some(errand) = self.first.take() {
            let _ = self.events.send(Event::Returned(self.id, errand)).await;
        }
        while let Some(errand) = self.jobs.recv().await {
            let _ = self.events.send(Event::Returned(self.id, errand)).await;
        }
        let _ = self.events.send(Event::Closed { id: self.id, connected, reason }).await;
    }

    /// Connects as the mail asks; if that is not to be had and the message at hand says that it does without
    /// (RFC 8689 §5), as if its domain published nothing.
    async fn connect_as_asked(&self, route: Option<&Route>) -> Result<(Opened, Lease), NoSession> {
        let none = match self.connect(route, false).await {
            Err(none) if none.insecure => none,
            done => return done,
        };
        let hot = match &self.first {
            Some(errand) => match &errand.hot {
                Some(hot) => Some(hot.clone()),
                None => self.shared.read(errand.handle()).await.ok(),
            },
            None => None,
        };
        if hot.is_some_and(|hot| needs_no_tls(&hot)) { self.connect(route, true).await } else { Err(none) }
    }

    /// Tries the candidates in turn until one is ready.
    async fn connect(&self, route: Option<&Route>, relaxed: bool) -> Result<(Opened, Lease), NoSession> {
        let permanent = |reply: Reply| NoSession { permanent: reply.is_permanent(), ..NoSession::new(reply) };
        let candidates =
            self.shared.candidates(&self.settings, &self.target, route).await.map_err(permanent)?;
        let unknown = |reply: Reply| NoSession { insecure: true, ..NoSession::new(reply) };
        let demand = if relaxed {
            Demand::relaxed(&self.settings, &self.target, route)
        } else {
            self.shared.demand(&self.settings, &self.target, route).await.map_err(unknown)?
        };
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
            match self.connect_to(&candidate, route, &demand, patience).await {
                Ok(opened) => return Ok((opened, lease)),
                Err(none) => {
                    debug!(target = %self.target, host = %candidate.host, address = %candidate.address, reply = %none.reply, "candidate failed");
                    // A refusal for good counts only if no other exchanger could be hoped for.
                    if last.as_ref().is_none_or(|last| last.permanent || last.barred) {
                        last = Some(none);
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| NoSession::new(Reply::new(451, (4, 4, 4), "no address to connect to"))))
    }

    /// Asks the limits of the exchanger itself.
    fn enter(&self, candidate: &Candidate) -> Result<Lease, NoSession> {
        let (now, rules) = (Instant::now().into_std(), self.shared.rules());
        self.shared.exchangers.enter(now, &rules, &candidate.host, candidate.address.ip()).map_err(|barred| {
            NoSession { barred: true, ..NoSession::new(Reply::new(451, (4, 3, 2), barred.text)) }
        })
    }

    async fn connect_to(
        &self,
        candidate: &Candidate,
        route: Option<&Route>,
        demand: &Demand,
        patience: Duration,
    ) -> Result<Opened, NoSession> {
        let host = &candidate.host;
        let plan = match self.shared.plan(demand, candidate).await {
            Ok(plan) => plan,
            Err(NoPlan { reply, fault, kind }) => {
                let finding = Finding { fault: Some(fault), reason: (*reply.text).into() };
                self.report(demand, &kind, candidate, None, &finding);
                let stage = shaping::Stage::Starttls;
                return Err(NoSession { insecure: true, stage, ..NoSession::new(reply) });
            }
        };
        let clear = &self.shared.in_the_clear;
        let known = plan.falls_back.then(|| clear.why(Instant::now().into_std(), host)).flatten();
        let first = if known.is_some() { plan.in_the_clear() } else { plan.clone() };
        let opened = match self.open(candidate, route, &first, patience).await {
            // Opportunistic means that mail goes on without TLS when TLS fails, on a new connection.
            Err((Stage::StartTls, failed)) if plan.falls_back && known.is_none() => {
                let opened = self.open(candidate, route, &plan.in_the_clear(), patience).await;
                if opened.is_ok() {
                    self.shared.metrics.tls_fallbacks.fetch_add(1, Relaxed);
                    let lasts = self.settings.delivery.tls_clear_for;
                    let why = &failed.reply.text;
                    if clear.remember(Instant::now().into_std(), host, why, lasts) {
                        info!(%host, reply = %failed.reply, ?lasts, "TLS fails, mail goes there in the clear");
                    }
                }
                opened
            }
            other => other,
        };
        match opened {
            Ok(Ready { session, hop, verification }) => {
                let finding = Finding::of(&plan.kind, host, &verification);
                self.report(demand, &plan.kind, candidate, hop.record.local, &finding);
                let verified = matches!(verification, Verification::Verified | Verification::Dane);
                let assured = verified && plan.is_its_host;
                Ok(Opened { session, hop, demand: demand.text(), assured, relaxed: demand.relaxed })
            }
            Err((stage, none)) => {
                if let Some(fault) = none.fault {
                    let finding = Finding { fault: Some(fault), reason: (*none.reply.text).into() };
                    let local = none.hop.as_ref().and_then(|hop| hop.record.local);
                    self.report(demand, &plan.kind, candidate, local, &finding);
                }
                Err(NoSession {
                    // A host that refuses our greeting for good may be one of several; a refused AUTH is our own
                    // misconfiguration and no fault of the message.
                    permanent: none.permanent && matches!(stage, Stage::Greeting),
                    insecure: stage == Stage::StartTls && demand.is_strict(),
                    ..none
                })
            }
        }
    }

    /// Counts a session for the reports that the domain may ask for.
    fn report(
        &self,
        demand: &Demand,
        kind: &PolicyKind,
        candidate: &Candidate,
        local: Option<SocketAddr>,
        finding: &Finding,
    ) {
        if let Some(fault) = finding.fault {
            debug!(
                target = %self.target, host = %candidate.host, address = %candidate.address, by = %demand.by,
                fault = fault.word(), reason = %finding.reason, "TLS of a session"
            );
        }
        // Where TLS is off, or the message does without, nothing is said of the domain's TLS.
        let Some(domain) = demand.domain.as_ref().filter(|_| demand.is_reported()) else { return };
        let config = &self.settings.tls_reports;
        let seen = SessionSeen {
            domain,
            kind,
            fault: finding.fault,
            reason: &finding.reason,
            sending: local.map(|local| local.ip()),
            host: &candidate.host,
            receiving: Some(candidate.address.ip()),
        };
        self.shared.reports.record(config, &seen);
        // A policy that could not be had is told of beside the session that went without it (RFC 8460 §4.3.2.2).
        if let Some(fault) = &demand.published.sts.fault {
            let reason = fault.to_string();
            let kind = demand.published.sts.policy.clone().map_or(PolicyKind::None, PolicyKind::Sts);
            let seen = SessionSeen { kind: &kind, fault: Some(fault.into()), reason: &reason, ..seen };
            self.shared.reports.record(config, &seen);
        }
    }

    async fn open(
        &self,
        candidate: &Candidate,
        route: Option<&Route>,
        plan: &Plan,
        patience: Duration,
    ) -> Result<Ready, (Stage, NoSession)> {
        let delivery = &self.settings.delivery;
        let none = |stage, reply: Reply, hop: Option<Arc<Hop>>| {
            let none = NoSession {
                fault: (stage == Stage::StartTls).then_some(SessionFault::NoStarttls),
                permanent: reply.is_permanent(),
                // A connection that was never made has no greeting either.
                stage: if hop.is_none() && stage == Stage::Greeting {
                    shaping::Stage::Connect
                } else {
                    stage_of(stage)
                },
                hop,
                ..NoSession::new(reply)
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
        let hop = |session: &Session, verification: &Verification| {
            let record = RecordConnection {
                via: if route.is_some_and(|route| route.lmtp) { Via::Lmtp } else { Via::Smtp },
                site: (&*self.site).into(),
                host: candidate.host.clone(),
                remote: Some(candidate.address),
                local,
                source: source.egress.name.clone(),
                tls: session.stream.tls_info(),
                tls_policy: plan.word.into(),
                tls_verified: match verification {
                    Verification::None => None,
                    Verification::Verified => Some("verified".into()),
                    Verification::Dane => Some("dane".into()),
                    Verification::NotVerified(_, why) => Some(why.clone()),
                },
                ..RecordConnection::default()
            };
            Arc::new(Hop::new(record, session.client.extensions()))
        };
        let config = client::Config {
            ehlo_name: source.ehlo_name.clone(),
            lmtp: route.is_some_and(|route| route.lmtp),
            tls: plan.tls,
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
                    let Session { stream, mut client, .. } = session;
                    let deadline = Instant::now() + delivery.ehlo_timeout;
                    let name = candidate.name();
                    let connector = source.connector.as_ref().unwrap_or(&self.shared.connector);
                    match connector.starttls(stream, &name, &plan.policy, &[], deadline).await {
                        Ok(stream) => {
                            client.tls_started(Instant::now().into_std());
                            session = Session::new(stream, client);
                        }
                        Err(error) => {
                            let (stage, failed) = none(Stage::StartTls, error.reply(), None);
                            return Err((stage, NoSession { fault: Some((&error).into()), ..failed }));
                        }
                    }
                }
                Turn::Event(SmtpEvent::Ready) => {
                    let verification = session.stream.verification();
                    let hop = hop(&session, &verification);
                    return Ok(Ready { session, hop, verification });
                }
                Turn::Event(SmtpEvent::Failed(failure)) => {
                    let hop = hop(&session, &session.stream.verification());
                    return Err(none(failure.stage, failure.reply, Some(hop)));
                }
                _ => {}
            }
        }
    }

    /// True if the mail of a job asks for just what this connection was made for.
    fn may_carry(&self, errand: &Errand, demand: &str) -> bool {
        // The settings and policies of the moment: what was true when it was opened may not be any more. Nobody is
        // asked: what is under way must not wait for that.
        let settings = self.shared.settings();
        let Some(target) = Target::parse(&errand.job.queue.target) else { return false };
        let route = match &target {
            Target::Route(name) => settings.routes.get(name).cloned(),
            _ => None,
        };
        let asks = self.shared.demand_known(&settings, &target, route.as_deref());
        asks.is_some_and(|asks| *asks.text() == *demand)
    }

    /// Carries messages until there are none for a while.
    async fn serve(&mut self, opened: Opened, lease: Lease) {
        let Opened { mut session, hop, demand, assured, relaxed } = opened;
        let mut running: HashMap<u64, Running> = HashMap::new();
        let mut waiting: Option<Transaction> = None;
        let mut signing: Option<Signing> = None;
        let (mut next_token, mut begun, mut quitting) = (0u64, 0u32, false);
        let idle = self.settings.delivery.idle_timeout;
        let mut idle_since = Instant::now();
        let (shared, settings) = (self.shared.clone(), self.settings.clone());
        let mut settler = Settler::new(&shared, &settings, Some(hop));
        let mut barred = false;
        let mut looked_at: Option<(Arc<str>, Instant)> = None;
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
            let (jobs, first) = (&mut self.jobs, &mut self.first);
            let turn = session
                .turn(deadline, |client, cx| match &mut signing {
                    // What is under way goes on meanwhile: replies are read while this message is signed.
                    Some(signing) => signing.made.as_mut().poll(cx).map(Next::Signed),
                    None if may_take && client.wants() => match first.take() {
                        Some(errand) => Poll::Ready(Next::Errand(Some(errand))),
                        None => jobs.poll_recv(cx).map(Next::Errand),
                    },
                    None => Poll::Pending,
                })
                .await;
            match turn {
                Turn::Other(Next::Errand(Some(errand))) => {
                    // Nearly all mail of a connection has one target, whose demands need not be worked out anew for
                    // each message.
                    let name = &errand.job.queue.target;
                    let is_known = looked_at
                        .as_ref()
                        .is_some_and(|(known, at)| Arc::ptr_eq(known, name) && at.elapsed() < LOOK_AGAIN);
                    if !is_known && !relaxed {
                        if !self.may_carry(&errand, &demand) {
                            barred = true;
                            let _ = self.events.send(Event::Returned(self.id, errand)).await;
                            continue;
                        }
                        looked_at = Some((name.clone(), Instant::now()));
                    }
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
                    if relaxed && !needs_no_tls(&hot) {
                        leaves.into_iter().for_each(Leave::give_back);
                        lease.settle_message(Instant::now().into_std(), false);
                        barred = true;
                        let errand = Errand { job, hot: Some(hot) };
                        let _ = self.events.send(Event::Returned(self.id, errand)).await;
                        continue;
                    }
                    if hot.message.envelope.require_tls && !assured {
                        leaves.into_iter().for_each(Leave::give_back);
                        lease.settle_message(Instant::now().into_std(), false);
                        let outcome = Outcome::Bounced(not_assured(settler.hop.as_deref()));
                        let done = settler.settle(&job, &hot, all_of(&job, &outcome), Instant::now()).await;
                        let _ = self.events.send(Event::Done(self.id, done)).await;
                        continue;
                    }
                    begun += 1;
                    // Not those that the connection began with: a reload may have come.
                    let returns = {
                        let settings = self.shared.settings_now();
                        let personal = !settings.returns.is_idle()
                            && settings.returns.is_personal(&hot.message, &job.queue.pool);
                        personal.then(|| settings.returns.clone())
                    };
                    let recipients_max =
                        if returns.is_some() { 1 } else { session.client.extensions().rcpt_max };
                    if recipients_max > 0 && job.recipients() > recipients_max as usize {
                        // Another transaction is another message to the receiver, and needs its own leave.
                        let _ = self.events.send(Event::Narrowed(self.id, job.clone(), recipients_max)).await;
                        job.truncate(recipients_max);
                        if job.indices().all(|index| suppressed.contains(&index)) {
                            // Those who are left may not be written to.
                            leaves.into_iter().for_each(Leave::give_back);
                            lease.settle_message(Instant::now().into_std(), false);
                            let results = self.with_suppressed(&job, Vec::new(), &suppressed);
                            let done = settler.settle(&job, &hot, results, Instant::now()).await;
                            let _ = self.events.send(Event::Done(self.id, done)).await;
                            continue;
                        }
                    }
                    let personal = returns.zip(job.indices().next()).map(|(returns, index)| {
                        let (message, pool) = (&hot.message, &job.queue.pool);
                        let mut fields = Vec::with_capacity(512);
                        returns.write_fields(message, pool, index, &hot.content.body, &mut fields);
                        Personal { fields, reverse_path: returns.reverse_path(message, pool, index) }
                    });
                    let began = Instant::now();
                    let mut run = Running { job, hot, content: None, personal, leaves, suppressed, began };
                    match self.signatures(&mut run) {
                        Some(made) => signing = Some(Signing { run, made }),
                        None => {
                            waiting = Some(run.transaction(next_token, run.content().prefix.clone()));
                            running.insert(next_token, run);
                            next_token += 1;
                        }
                    }
                }
                Turn::Other(Next::Signed(made)) => {
                    let Some(Signing { run, .. }) = signing.take() else { continue };
                    match made {
                        Ok(signatures) => {
                            let prefix = [&signatures[..], &run.content().prefix].concat().into();
                            waiting = Some(run.transaction(next_token, prefix));
                            running.insert(next_token, run);
                            next_token += 1;
                        }
                        Err(outcome) => {
                            idle_since = Instant::now();
                            lease.settle_message(Instant::now().into_std(), false);
                            let Running { job, hot, leaves, suppressed, began, .. } = run;
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
                    if let Some(Running { job, hot, leaves, suppressed, began, .. }) =
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
            let hot = reusable(hot);
            let _ = self.events.send(Event::Returned(self.id, Errand { job, hot })).await;
        }
    }

    /// The same for a job whose message is being signed.
    async fn unsigned(&self, signing: Option<Signing>, lease: &Lease) {
        if let Some(Signing { run: Running { job, hot, leaves, .. }, .. }) = signing {
            leaves.into_iter().for_each(Leave::give_back);
            lease.settle_message(Instant::now().into_std(), false);
            let hot = reusable(hot);
            let _ = self.events.send(Event::Returned(self.id, Errand { job, hot })).await;
        }
    }

    /// The signatures of a message that is about to leave, or the outcome if it must not leave without; `None` if it
    /// leaves without. Takes out of its content the fields that only spoke to us.
    fn signatures(&self, run: &mut Running) -> Option<SignaturesMade> {
        // Not those that the connection began with: a key that was replaced is not used any more.
        let signing = {
            let settings = self.shared.settings_now();
            if settings.signing.is_idle() {
                run.put_fields();
                return None;
            }
            settings.signing.clone()
        };
        run.content = signing.without_options(&run.hot.message, &run.hot.content);
        run.put_fields();
        let Running { job, hot, .. } = &*run;
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
            Choice::Failed(failure) => {
                figures.failed(hot.message.id, &failure, signing.config().failed);
                let outcome = not_sent(signing.config().failed, &failure.to_string())?;
                return Some(Box::pin(std::future::ready(Err(outcome))));
            }
            Choice::Unmatched => {
                figures.unmatched.fetch_add(1, Relaxed);
                let outcome = not_sent(signing.config().unmatched, "nobody signs for its author")?;
                return Some(Box::pin(std::future::ready(Err(outcome))));
            }
        };
        let content = run.content().clone();
        let kept = hot.signatures.clone().filter(|_| run.personal.is_none());
        let id = hot.message.id;
        Some(Box::pin(async move {
            match signing.sign(content, &by, kept.as_deref(), figures.clone()).await {
                Ok(fields) => Ok(fields),
                Err(failure) => {
                    figures.failed(id, &failure, signing.config().failed);
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
        let mut next = self.first.take().or_else(|| self.jobs.try_recv().ok());
        // What they make of it does not count where the reply is our own word on the connection.
        let stage = (!none.insecure).then_some(none.stage);
        let profile = next.as_ref().filter(|_| !none.insecure).and_then(|errand| errand.job.profile.clone());
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
                let mut done = settler.settle_at(&job, &hot, results, began, stage).await;
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
        // The spool need not be read for what a recipient before this one was made of.
        let known = if errand.hot.is_none() { self.shared.sheets.find(errand.handle()) } else { None };
        let hot = match &errand.hot {
            Some(hot) => hot.clone(),
            None => match &known {
                Some(kept) => Hot::new(kept.message.clone(), Content::default()),
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
        let suppressed = self.shared.suppressed(&hot.message, &job);
        if suppressed.len() == job.recipients() {
            let results = self.with_suppressed(&job, Vec::new(), &suppressed);
            let done = settler.settle(&job, &hot, results, Instant::now()).await;
            let _ = self.events.send(Event::Done(self.id, done)).await;
            return None;
        }
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
        let (order, until) = match self.leaves_for(&job, &hot) {
            Ok(leaves) => return Some(AtHand { job, hot, leaves, suppressed }),
            Err(ordered) => *ordered,
        };
        if order.action == Action::Bounce {
            let why = if order.reason.is_empty() { String::new() } else { format!(": {}", order.reason) };
            let reply = Reply::new(550, (5, 7, 0), format!("given up by order {}{why}", order.id));
            return self.give_up(settler, &job, &hot, Outcome::Bounced(reply)).await;
        } else {
            let _ = self.events.send(Event::Ordered(self.id, job, order.id, until)).await;
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
    ) -> Option<AtHand> {
        let done = settler.settle(job, hot, all_of(job, &outcome), Instant::now()).await;
        let _ = self.events.send(Event::Done(self.id, done)).await;
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

/// What was made for one recipient of a merge is of no use to the next.
fn reusable(hot: Hot) -> Option<Hot> {
    hot.message.merge().is_none().then_some(hot)
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
    /// What is sent in place of the message's own, but for signatures.
    content: Option<Content>,
    /// What it has that another recipient's has not.
    personal: Option<Personal>,
    leaves: Vec<Leave>,
    suppressed: Vec<u32>,
    began: Instant,
}

/// What is made for one recipient.
struct Personal {
    /// Fields that go in front, until they are there.
    fields: Vec<u8>,
    /// The reverse-path, if it is not the message's own.
    reverse_path: Option<ReversePath>,
}

impl Running {
    /// Puts the recipient's own fields in front, where a signature covers them.
    fn put_fields(&mut self) {
        let fields = self.personal.as_mut().map(|personal| std::mem::take(&mut personal.fields));
        let Some(fields) = fields.filter(|fields| !fields.is_empty()) else { return };
        let Content { prefix, body } = self.content();
        let (prefix, body) = ([&fields[..], prefix].concat().into(), body.clone());
        self.content = Some(Content { prefix, body });
    }

    /// As it is sent, but for signatures.
    fn content(&self) -> &Content {
        self.content.as_ref().unwrap_or(&self.hot.content)
    }

    fn transaction(&self, token: u64, prefix: Bytes) -> Transaction {
        let body = self.content().body.clone();
        Transaction {
            token,
            message: self.hot.message.clone(),
            reverse_path: self.personal.as_ref().and_then(|personal| personal.reverse_path.clone()),
            recipients: self.job.indices().filter(|index| !self.suppressed.contains(index)).collect(),
            size: (prefix.len() + body.len()) as u64,
            content: [prefix, body],
        }
    }
}

impl Candidate {
    /// The name for SNI and certificates.
    fn name(&self) -> Host {
        Host::parse(&self.host).unwrap_or(Host::Literal(self.address.ip()))
    }
}
