//! From the results of an attempt to what is written: records, settlements, and mail to the sender.
//!
//! The order is what keeps mail from being lost: a bounce is durable in the spool before the recipient it tells
//! of is settled, and no connection is ahead of its written settlements by more than one, so that what a kill
//! can deliver twice is two messages a connection.

use crate::config::Returned;
use crate::front_door::hand_in;
use crate::job::{Errand, Event, Hot};
use crate::notices::is_notice;
use crate::shared::{Settings, Shared};
use accounting::{Attempt, Connection as RecordConnection, Kind, Record};
use bounce::{Classed, Failure};
use dispatch::{ConnectionId, Deferred, Done, Fate as JobFate, Job, JobEntry};
use mail::{
    BounceClass, EnhancedStatusCode, Message, Notify, Outcome, Reply, Ret, ReversePath, Tags, UnixMillis,
};
use message::{Action, DsnRequest, RecipientReport, ReportKind, wanted, write_dsn};
use queue::{Backoff, Schedule};
use shaping::{Fired, Stage, Treat};
use smtp::client::{Answered, RecipientResult};
use spool::{Change, Fate, Handle, ReadError, Settlement};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{error, warn};

/// After a bounce could not be spooled, or a message not be read, when to try again.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The next hop an attempt was made at.
#[derive(Debug)]
pub(crate) struct Hop {
    /// What accounting writes of the connection.
    pub(crate) record: Arc<RecordConnection>,
    /// It will report success itself (RFC 3461 §5.2.2).
    pub(crate) dsn: bool,
}

impl Hop {
    /// One with these facts, whose answer to EHLO was this.
    pub(crate) fn new(record: RecordConnection, extensions: &smtp::client::Extensions) -> Self {
        let record = RecordConnection { extensions: extensions.list().into(), ..record };
        Self { record: Arc::new(record), dsn: extensions.dsn }
    }
}

/// Settles the results of one connection.
pub(crate) struct Settler<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) settings: &'a Settings,
    pub(crate) hop: Option<Arc<Hop>>,
    /// The settlement before this one, until it is written.
    written: Option<oneshot::Receiver<()>>,
    /// The connection's facts as records of other pools have them.
    pools: Vec<(Arc<str>, Arc<RecordConnection>)>,
    /// The rules at the path of the last job.
    profile: Option<Arc<shaping::Profile>>,
    /// The last job's message was a notice.
    last_was_notice: bool,
}

impl<'a> Settler<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, settings: &'a Settings, hop: Option<Arc<Hop>>) -> Self {
        Self {
            shared,
            settings,
            hop,
            written: None,
            pools: Vec::new(),
            profile: None,
            last_was_notice: false,
        }
    }
}

/// A recipient with what became of it.
struct Decided {
    entry: JobEntry,
    result: RecipientResult,
}

impl Settler<'_> {
    /// Settles a job of which every recipient has a result.
    pub(crate) async fn settle(
        &mut self,
        job: &Job,
        hot: &Hot,
        results: Vec<RecipientResult>,
        began: Instant,
    ) -> Done {
        self.settle_at(job, hot, results, began, None).await
    }

    /// The same, for replies that came before any transaction, at `stage`.
    pub(crate) async fn settle_at(
        &mut self,
        job: &Job,
        hot: &Hot,
        mut results: Vec<RecipientResult>,
        began: Instant,
        stage: Option<Stage>,
    ) -> Done {
        let fired = self.judge(job, &mut results, stage);
        // The class of the last failure: one reply that decides for a hundred recipients is looked at once.
        let mut classed: Option<(Option<Stage>, Reply, Classed)> = None;
        self.last_was_notice = is_notice(&hot.message);
        if self.profile.is_none() {
            self.profile.clone_from(&job.profile);
        }
        let now = Instant::now();
        let wall = UnixMillis::from(SystemTime::now());
        let any_delivered = results.iter().any(|r| matches!(r.outcome, Outcome::Delivered(_)));
        let mut decided: Vec<Decided> = Vec::with_capacity(results.len());
        for mut result in results {
            let Some(entry) =
                job.entries.iter().find(|e| (e.first..e.first + e.count).contains(&result.index))
            else {
                continue;
            };
            if let Outcome::Deferred(reply) = &result.outcome
                && (entry.expires <= now.into_std()
                    || hot.message.expires_at().is_some_and(|end| end <= wall))
            {
                result.outcome = Outcome::Expired(reply.clone());
            }
            decided.push(Decided { entry: *entry, result });
        }
        let mut done = Done {
            entries: job.entries.iter().map(|e| e.key).collect(),
            fired,
            host: self.hop.as_ref().map(|hop| (&*hop.record.host).into()),
            octets: hot.message.octets_each(),
            is_notice: is_notice(&hot.message),
            ..Done::default()
        };
        for Decided { result, .. } in &decided {
            match result.outcome {
                Outcome::Delivered(_) => done.delivered += 1,
                Outcome::Bounced(_) => done.bounced += 1,
                _ => {}
            }
        }
        let connection = self.connection_for(job);
        let mut settlements = Vec::with_capacity(decided.len());
        let unreported = self.report(hot, &decided, now, wall).await;
        let mut records = Vec::with_capacity(decided.len());
        for (n, Decided { entry, result }) in decided.iter().enumerate() {
            let index = u16::try_from(result.index).unwrap_or(u16::MAX);
            let mut attempts = entry.attempts.saturating_add(1);
            let waits = match &result.outcome {
                Outcome::Deferred(reply) => {
                    Some((reply.clone(), self.wait(job, result, attempts, any_delivered)))
                }
                // Its bounce found no room in the spool: the recipient must not be settled without it.
                outcome if unreported.contains(&n) => {
                    attempts = entry.attempts;
                    Some((outcome.reply().clone(), AGAIN_AFTER))
                }
                _ => None,
            };
            let settled = Settlement {
                handle: Handle(job.handle),
                recipient: index,
                change: Change::Final(Fate::Delivered),
            };
            match waits {
                Some((reply, wait)) => {
                    // Where its sender set an end, it comes up then to be given up.
                    let left = hot.message.expires_at().map(|end| end.0.saturating_sub(wall.0));
                    let wait = wait.min(left.map_or(Duration::MAX, Duration::from_millis));
                    let late = self.is_late(&hot.message, wall);
                    done.deferred.push(Deferred {
                        key: entry.key,
                        index: result.index,
                        attempts,
                        ambiguous: result.ambiguous,
                        delay_reported: entry.delay_reported || late,
                        reply: reply.to_string().into(),
                        due: (now + wait).into_std(),
                    });
                    let due = UnixMillis(wall.0.saturating_add(wait.as_millis() as u64));
                    let attempts = u32::from(attempts);
                    let change =
                        Change::Deferred { attempts, due, reply: Some(reply), ambiguous: result.ambiguous };
                    settlements.push(Settlement { change, ..settled });
                }
                None => {
                    let fate = Fate::of(&result.outcome).unwrap_or(Fate::Discarded);
                    settlements.push(Settlement { change: Change::Final(fate), ..settled });
                }
            }
            if !unreported.contains(&n) {
                let mut record = self.record(hot, result, entry, wall, now - began, &connection);
                if let Some(found) = self.class(result, stage, &mut classed) {
                    (record.class, record.category) = (Some(found.class), found.category);
                }
                records.push(record);
            }
        }
        // Waiting for the write of the settlement before, not of this one, costs no wake-up on a busy connection,
        // and still bounds what a kill can repeat: two messages a connection.
        if let Some(mut before) = self.written.take()
            && before.try_recv() == Err(TryRecvError::Empty)
        {
            self.shared.spool.hurry();
            // An error means that the spool was closed, which writes everything first.
            let _ = before.await;
        }
        let (sender, written) = oneshot::channel();
        self.shared.spool.settle(
            settlements,
            Some(Box::new(move || {
                let _ = sender.send(());
            })),
        );
        self.written = Some(written);
        self.shared.recorder.record_many(records);
        done
    }

    fn record(
        &self,
        hot: &Hot,
        result: &RecipientResult,
        entry: &JobEntry,
        wall: UnixMillis,
        took: Duration,
        connection: &Option<Arc<RecordConnection>>,
    ) -> Record {
        let kind = Kind::from(&result.outcome);
        let mut record = Record::new(kind, wall, &hot.message, result.index);
        record.reply = Some(Arc::new(result.outcome.reply().clone()));
        record.attempt = Attempt {
            number: u32::from(entry.attempts) + 1,
            first: None,
            duration: took,
            ambiguous: result.ambiguous,
        };
        record.connection = connection.clone();
        record
    }

    /// The class of a failure.
    fn class(
        &self,
        result: &RecipientResult,
        stage: Option<Stage>,
        last: &mut Option<(Option<Stage>, Reply, Classed)>,
    ) -> Option<Classed> {
        let reply = match &result.outcome {
            Outcome::Deferred(reply) | Outcome::Bounced(reply) => reply,
            // Whatever the last reply was, what ended it was time.
            Outcome::Expired(_) => return Some(Classed::plain(BounceClass::MessageExpired)),
            Outcome::Delivered(_) | Outcome::Discarded(_) | Outcome::Suppressed(_) => return None,
        };
        let stage = stage.or(result.answered.map(stage_of));
        if let Some((_, _, known)) = last.as_ref().filter(|(at, text, _)| *at == stage && text == reply) {
            return Some(known.clone());
        }
        let found = self.settings.classes.classify(&Failure { reply, stage });
        *last = Some((stage, reply.clone(), found.clone()));
        Some(found)
    }

    /// How long a deferred recipient waits.
    fn wait(&self, job: &Job, result: &RecipientResult, attempts: u16, any_delivered: bool) -> Duration {
        let reply = result.outcome.reply();
        // RFC 5321 §4.5.3.1.10: too many recipients is no fault of the ones left over.
        if any_delivered
            && reply.code.get() == 452
            && reply.enhanced == Some(EnhancedStatusCode::new(4, 5, 3))
        {
            return Duration::ZERO;
        }
        let seed = self.shared.random() ^ job.handle;
        let wait = match &job.retry_waits {
            Some(waits) => {
                let backoff = Backoff::List(waits.to_vec());
                Schedule { backoff, jitter: self.settings.retry.jitter }.wait(attempts, seed)
            }
            None => self.settings.schedule.wait(attempts, seed),
        };
        if result.ambiguous { wait.max(self.settings.retry.ambiguous_wait) } else { wait }
    }

    fn is_late(&self, message: &Message, wall: UnixMillis) -> bool {
        let after = self.settings.dsn.delay_after;
        !after.is_zero() && u128::from(wall.0.saturating_sub(message.received_at.0)) >= after.as_millis()
    }

    /// Sends what the sender shall know. Gives back which of `decided` could not be reported, so that they
    /// must not be settled.
    async fn report(&self, hot: &Hot, decided: &[Decided], now: Instant, wall: UnixMillis) -> Vec<usize> {
        let envelope = &hot.message.envelope;
        if !self.settings.dsn.enabled || envelope.reverse_path == ReversePath::Null {
            return Vec::new();
        }
        // Who reads reports reads the records too, and must not count a failure twice.
        let addresses = &self.settings.report_addresses;
        if envelope.reverse_path.mailbox().is_some_and(|to| addresses.iter().any(|own| own.takes(to))) {
            return Vec::new();
        }
        let late = self.is_late(&hot.message, wall);
        let mut failed = Vec::new();
        let mut told = Vec::new();
        for (n, Decided { entry, result }) in decided.iter().enumerate() {
            let Some(recipient) = envelope.recipients.get(result.index as usize) else { continue };
            let kind = match &result.outcome {
                Outcome::Bounced(_) | Outcome::Expired(_) | Outcome::Suppressed(_) => ReportKind::Failure,
                Outcome::Delivered(_) if self.hop.as_ref().is_some_and(|hop| hop.dsn) => continue,
                Outcome::Delivered(_) => ReportKind::Relayed,
                Outcome::Deferred(_) if late && !entry.delay_reported => ReportKind::Delay,
                Outcome::Deferred(_) | Outcome::Discarded(_) => continue,
            };
            if !wanted(envelope, recipient, kind) {
                continue;
            }
            let Some(mut report) = RecipientReport::of(recipient, &result.outcome) else { continue };
            report.last_attempt = Some(wall);
            report.remote_mta = self.hop.as_ref().map(|hop| hop.record.host.as_ref());
            if kind == ReportKind::Delay {
                let left = entry.expires.saturating_duration_since(now.into_std());
                report.will_retry_until = Some(UnixMillis(wall.0.saturating_add(left.as_millis() as u64)));
            }
            // A report that tells of a failure must come through; the others are a courtesy.
            if kind == ReportKind::Failure { failed.push((n, report)) } else { told.push((n, report)) }
        }
        let mut unreported = Vec::new();
        for (reports, must) in [(failed, true), (told, false)] {
            // One notification tells one kind of thing, or its subject would not.
            let mut by_action: Vec<(Action, Vec<(usize, RecipientReport<'_>)>)> = Vec::new();
            for (n, report) in reports {
                match by_action.iter_mut().find(|(action, _)| *action == report.action) {
                    Some((_, list)) => list.push((n, report)),
                    None => by_action.push((report.action, vec![(n, report)])),
                }
            }
            for (_, list) in by_action {
                let recipients: Vec<RecipientReport<'_>> = list.iter().map(|(_, report)| *report).collect();
                if !self.send_dsn(hot, &recipients, wall).await && must {
                    unreported.extend(list.iter().map(|(n, _)| *n));
                }
            }
        }
        unreported
    }

    /// Hands a notification in by the front door. False if the spool would not take it.
    async fn send_dsn(&self, hot: &Hot, recipients: &[RecipientReport<'_>], wall: UnixMillis) -> bool {
        let by = Shared::host(self.settings);
        let content = hot.content.to_vec();
        let request = DsnRequest {
            message: &hot.message,
            content: &content,
            by: &by,
            recipients,
            now: wall,
            seed: self.shared.random(),
        };
        let config = message::DsnConfig {
            returned_max_octets: usize::try_from(self.settings.dsn.returned_max.bytes())
                .unwrap_or(usize::MAX),
            returned_by_default: match self.settings.dsn.returned {
                Returned::Full => Ret::Full,
                Returned::Headers => Ret::Headers,
            },
            ..message::DsnConfig::default()
        };
        let Some(draft) = write_dsn(&request, &config) else { return true };
        // Not those of the message: what an order or a limit holds of its tenant must not hold the news of that.
        let tags = Tags { pool: self.settings.dsn.pool.as_deref().map(Box::from), ..Tags::default() };
        let handed_in = hand_in(self.shared, self.settings, "dsn", draft.envelope, draft.content, tags, wall);
        match handed_in.await {
            Ok(()) => true,
            Err(refusal) => {
                warn!(id = %hot.message.id, %refusal, "a notification could not be spooled, the recipient is kept");
                false
            }
        }
    }

    /// What the rules for replies make of the results: some are taken for more or less final than the peer put
    /// them. Gives what fired.
    fn judge(
        &self,
        job: &Job,
        results: &mut [RecipientResult],
        stage: Option<Stage>,
    ) -> Vec<(Fired, Arc<str>)> {
        let Some(profile) = &job.profile else { return Vec::new() };
        let mut fired: Vec<(Fired, Arc<str>)> = Vec::new();
        let mut last: Option<(Stage, Reply, Option<Fired>)> = None;
        for result in results {
            let (Outcome::Deferred(reply) | Outcome::Bounced(reply)) = &result.outcome else { continue };
            let Some(stage) = stage.or(result.answered.map(stage_of)) else { continue };
            // One reply that decides for a hundred recipients is looked at once.
            let known = last.as_ref().filter(|(at, text, _)| *at == stage && text == reply);
            let verdict = match known {
                Some((_, _, verdict)) => verdict.clone(),
                None => {
                    let verdict = self.shared.rules().verdict(profile, stage, reply);
                    if let Some(verdict) = &verdict {
                        fired.push((verdict.clone(), reply.to_string().into()));
                    }
                    last = Some((stage, reply.clone(), verdict.clone()));
                    verdict
                }
            };
            match (verdict.and_then(|verdict| verdict.treat), &result.outcome) {
                (Some(Treat::Temporary), Outcome::Bounced(reply)) => {
                    result.outcome = Outcome::Deferred(reply.clone());
                }
                (Some(Treat::Permanent), Outcome::Deferred(reply)) => {
                    result.outcome = Outcome::Bounced(reply.clone());
                }
                _ => {}
            }
        }
        fired
    }

    /// Tells the dispatcher of a reply outside of any transaction that a rule knows.
    pub(crate) async fn tell_rules(
        &self,
        events: &mpsc::Sender<Event>,
        id: ConnectionId,
        stage: Stage,
        reply: &Reply,
    ) {
        let Some(profile) = self.profile.as_ref() else { return };
        let Some(fired) = self.shared.rules().verdict(profile, stage, reply) else { return };
        let host = self.hop.as_ref().map(|hop| (&*hop.record.host).into());
        let fired = vec![(fired, reply.to_string().into())];
        let failed = Done { fired, host, is_notice: self.last_was_notice, ..Done::default() };
        let _ = events.send(Event::Failed(id, failed)).await;
    }

    /// The connection's facts for a job's records: its pool is the job's.
    fn connection_for(&mut self, job: &Job) -> Option<Arc<RecordConnection>> {
        let hop = self.hop.as_ref()?;
        if let Some((_, known)) = self.pools.iter().find(|(pool, _)| *pool == job.queue.pool) {
            return Some(known.clone());
        }
        let connection = Arc::new(RecordConnection {
            pool: (&*job.queue.pool).into(),
            ..RecordConnection::clone(&hop.record)
        });
        self.pools.push((job.queue.pool.clone(), connection.clone()));
        Some(connection)
    }

    /// Settles a job without a connection.
    pub(crate) async fn alone(&mut self, errand: Errand, fate: JobFate) -> Done {
        let began = Instant::now();
        let handle = errand.handle();
        let Errand { job, hot } = errand;
        let hot = match hot {
            Some(hot) => hot,
            None => match self.shared.read(handle).await {
                Ok(hot) => hot,
                Err(error) => return self.unreadable(&job, error).await,
            },
        };
        // What a report returns is the recipient's own message, if there is one.
        let index = job.indices().next().unwrap_or(0);
        let hot = crate::merge::expand(self.shared, self.settings, handle, None, hot, index)
            .unwrap_or_else(|(hot, _)| hot);
        let (outcome, wait) = match fate {
            JobFate::Expired(last) => {
                let text = match last {
                    Some(reply) => format!("not delivered in time; the last reply was: {reply}"),
                    None => "not delivered in time".into(),
                };
                (Outcome::Expired(Reply::new(451, (4, 4, 7), text)), None)
            }
            JobFate::Bounced(reply) => (Outcome::Bounced(reply), None),
            JobFate::Deferred(reply, wait) => (Outcome::Deferred(reply), Some(wait)),
        };
        let mut done = self.settle(&job, &hot, all_of(&job, &outcome), began).await;
        if let Some(wait) = wait {
            for deferred in &mut done.deferred {
                deferred.due = deferred.due.max((began + wait).into_std());
            }
        }
        done
    }

    /// Settles a job whose message cannot be read: later if the disk may yet give it, as lost with a record of
    /// why if it is damaged.
    pub(crate) async fn unreadable(&self, job: &Job, failure: ReadError) -> Done {
        match failure {
            ReadError::Io(failure) => {
                warn!(handle = ?job.handle, error = %failure, "a message cannot be read, it is tried again");
                let due = (Instant::now() + AGAIN_AFTER).into_std();
                return later(job, due, "451 4.3.0 the message could not be read from the spool");
            }
            ReadError::Damaged { message: Some(ref message), .. } => {
                error!(id = %message.id, error = %failure, recipients = job.recipients(), "a message is lost to damage");
                self.record_damage(job, &Arc::new(Message::clone(message)), &failure);
            }
            ReadError::Damaged { message: None, .. } | ReadError::NotFound => {
                error!(handle = ?job.handle, error = %failure, recipients = job.recipients(), "a message is lost to damage");
                self.shared.recorder.metrics().lost_to_damage(job.recipients() as u64);
            }
        }
        Done { entries: job.entries.iter().map(|e| e.key).collect(), ..Done::default() }
    }

    /// One record for each recipient of a job whose content is damaged but whose envelope is not.
    fn record_damage(&self, job: &Job, message: &Arc<Message>, failure: &ReadError) {
        let wall = UnixMillis::from(SystemTime::now());
        let reply = Arc::new(Reply::new(554, (5, 3, 0), format!("lost to damage in the spool: {failure}")));
        let records = job.indices().map(|index| {
            let mut record = Record::new(Kind::Discarded, wall, message, index);
            record.reply = Some(reply.clone());
            record
        });
        self.shared.recorder.record_many(records.collect());
    }

    /// The same, told to the dispatcher.
    pub(crate) async fn tell_unreadable(
        &self,
        events: &mpsc::Sender<Event>,
        id: ConnectionId,
        job: Job,
        error: ReadError,
    ) {
        let done = self.unreadable(&job, error).await;
        let _ = events.send(Event::Done(id, done)).await;
    }
}

/// A job that came to nothing, which counts as no attempt: all of it is tried again.
pub(crate) fn later(job: &Job, due: std::time::Instant, reply: &str) -> Done {
    let reply: Arc<str> = reply.into();
    let mut done = Done { entries: job.entries.iter().map(|entry| entry.key).collect(), ..Done::default() };
    for entry in &job.entries {
        done.deferred.extend(entry.indices().map(|index| Deferred {
            key: entry.key,
            index,
            attempts: entry.attempts,
            ambiguous: false,
            delay_reported: entry.delay_reported,
            reply: reply.clone(),
            due,
        }));
    }
    done
}

/// The stage of a transaction as rules for replies name it.
fn stage_of(answered: Answered) -> Stage {
    match answered {
        Answered::Mail => Stage::Mail,
        Answered::Rcpt => Stage::Rcpt,
        Answered::Data => Stage::Data,
        Answered::End => Stage::End,
    }
}

/// One outcome for every recipient of a job.
pub(crate) fn all_of(job: &Job, outcome: &Outcome) -> Vec<RecipientResult> {
    job.indices()
        .map(|index| RecipientResult { index, outcome: outcome.clone(), ambiguous: false, answered: None })
        .collect()
}

/// Nobody asked for reports of `Notify::NEVER`: kept here so that a change of its meaning is noticed.
const _: () = assert!(!Notify::NEVER.on_failure() && !Notify::NEVER.on_success());
