//! One connection to a destination, from the first candidate address to QUIT.

use crate::exchangers::Lease;
use crate::job::{Errand, Event, Hot};
use crate::ordered_limits::Leave;
use crate::session::Turn;
use crate::settle::{Settler, all_of};
use crate::shared::{Settings, Shared};
use crate::signing::{Choice, Facts, Unsigned};
use crate::transport::{needs_no_tls, not_assured};
use at_hand::AtHand;
use bytes::Bytes;
use dispatch::{ConnectionId, SourceAt, Target};
use mail::{Outcome, Reply, ReversePath};
use opening::{NoSession, Opened};
use shaping::Treat;
use smtp::client::{Event as SmtpEvent, Stage, Transaction};
use spool::Content;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

mod at_hand;
mod opening;

/// How long it is taken for granted that mail for a target asks for what it asked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a connection is made with.
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    /// A target of the site it goes to.
    pub(crate) target: Target,
    pub(crate) site: Arc<str>,
    /// The provider that it belongs to.
    pub(crate) provider: Option<Arc<str>>,
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
