//! Suppression by rule: who bounces or complains is not written to again.

use accounting::{Kind, Observer, Record};
use arc_swap::ArcSwap;
use mail::{BounceClass, UnixMillis};
use settings::Text;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use suppression::{Entry, Reason, Subject, Suppression};
use tokio::sync::mpsc;
use tracing::{error, warn};

/// Entries that may wait for the list.
const WAITING_MAX: usize = 65_536;
/// Entries handed to the list at a time.
const BATCH: usize = 4_096;
/// Recipients whose failures are counted at once, for rules that want several.
const COUNTED_MAX: usize = 1_000_000;

settings::words! {
    /// What a rule of suppression looks at.
    pub enum SuppressOn {
        /// A next hop refused the recipient for good.
        Bounced,
        /// A host to which it was delivered reported, by mail, that it could not deliver it.
        RemoteBounce,
        /// The recipient complained; `not-spam` is no complaint.
        Complained,
    }
}

settings::words! {
    /// For whom a recipient is suppressed.
    pub enum SuppressScope {
        /// For the tenant whose mail it was; for all, if the mail had none.
        Tenant,
        /// For all.
        All,
    }
}

settings::table! {
    /// A rule that puts recipients on the suppression list. Rules stand side by side: each that holds has its way.
    #[derive(Eq)]
    pub struct SuppressRule {
        /// What it looks at.
        pub on: Vec<SuppressOn> = vec![SuppressOn::Bounced],
        /// Also reports that nothing proves: anybody can write one, about anybody.
        pub unproven: bool = false,
        /// Classes of bounces, which complaints have none of; empty is the hard ones: `bad-mailbox`, `bad-domain` and `inactive-mailbox`.
        pub class: Vec<Text<BounceClass>> = Vec::new(),
        /// So many of them within `within` are needed. What is counted of a recipient is forgotten at a restart.
        #[in(1..=1000)]
        pub count: u32 = 1,
        /// The time within which they are counted.
        #[in(1m..=366d)]
        pub within: Duration = Duration::from_secs(30 * 86_400),
        /// For whom the recipient is suppressed.
        pub scope: SuppressScope = SuppressScope::Tenant,
        /// For how long; 0 is for ever.
        #[in(0s..=3660d)]
        pub holds: Duration = Duration::ZERO,
    }
}

impl SuppressRule {
    fn holds_for(&self, record: &Record) -> bool {
        let on = match record.kind {
            Kind::Bounced => SuppressOn::Bounced,
            Kind::RemoteBounce => SuppressOn::RemoteBounce,
            Kind::Complained => SuppressOn::Complained,
            _ => return false,
        };
        if let Some(report) = record.report() {
            // Without knowing whose mail it was it is not known whose list it is.
            let whose = report.tenant_known || self.scope == SuppressScope::All;
            if !whose || !(report.proven || self.unproven) {
                return false;
            }
            if on == SuppressOn::Complained {
                return self.on.contains(&on) && report.feedback_type.as_deref() != Some("not-spam");
            }
        }
        let class = record.class.unwrap_or(BounceClass::Other);
        self.on.contains(&on)
            && if self.class.is_empty() {
                class.is_hard()
            } else {
                self.class.iter().any(|own| own.0 == class)
            }
    }
}

type Counted = (usize, Box<str>, Subject);

/// What waits for the list.
enum Job {
    Entry(Entry),
    /// Somebody wants to know when what came before is on it, and whether it is.
    Tell(std::sync::mpsc::Sender<bool>),
}

/// Puts recipients on the suppression list by rule.
pub struct Suppressor {
    rules: ArcSwap<Vec<SuppressRule>>,
    /// For rules that want several: how many so far, and since when.
    counts: Mutex<HashMap<Counted, (u32, UnixMillis)>>,
    queue: mpsc::Sender<Job>,
    dropped: AtomicU64,
}

impl std::fmt::Debug for Suppressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suppressor").field("rules", &self.rules.load().len()).finish_non_exhaustive()
    }
}

impl Suppressor {
    /// Starts the task that hands what rules decide to the list. It ends when this is dropped.
    pub fn start(rules: Vec<SuppressRule>, list: Suppression) -> Arc<Self> {
        let (queue, mut waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while waiting.recv_many(&mut batch, BATCH).await > 0 {
                let (mut entries, mut tell) = (Vec::new(), Vec::new());
                for job in batch.drain(..) {
                    match job {
                        Job::Entry(entry) => entries.push(entry),
                        Job::Tell(sender) => tell.push(sender),
                    }
                }
                let added = if entries.is_empty() { Ok(0) } else { list.add(entries).await };
                if let Err(failure) = &added {
                    error!(error = %failure, "recipients could not be put on the suppression list");
                }
                // Who no longer waits is none of our business.
                for sender in tell {
                    let _ = sender.send(added.is_ok());
                }
            }
        });
        Arc::new(Self {
            rules: ArcSwap::from_pointee(rules),
            counts: Mutex::default(),
            queue,
            dropped: AtomicU64::new(0),
        })
    }

    /// Puts other rules in force. What was counted for the former ones is forgotten.
    pub fn set_rules(&self, rules: Vec<SuppressRule>) {
        if **self.rules.load() != rules {
            self.rules.store(Arc::new(rules));
            self.counts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Entries that found no room in the queue to the list.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// True once a rule has counted enough.
    fn counted(
        &self,
        rule: (usize, &SuppressRule),
        tenant: &str,
        subject: &Subject,
        now: UnixMillis,
    ) -> bool {
        let (number, rule) = rule;
        if rule.count <= 1 {
            return true;
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (number, tenant.into(), subject.clone());
        let within = u64::try_from(rule.within.as_millis()).unwrap_or(u64::MAX);
        if counts.len() >= COUNTED_MAX && !counts.contains_key(&key) {
            // Those that began longest ago are the least likely to be counted to the end.
            let mut since: Vec<u64> = counts.values().map(|(_, since)| since.0).collect();
            let middle = since.len() / 2;
            let (_, median, _) = since.select_nth_unstable(middle);
            let median = *median;
            counts.retain(|_, (_, since)| since.0 > median);
            warn!("too many recipients are counted for rules of suppression; the older half was forgotten");
        }
        let counted = counts.entry(key.clone()).or_insert((0, now));
        if now.0.saturating_sub(counted.1.0) > within {
            *counted = (0, now);
        }
        counted.0 += 1;
        let enough = counted.0 >= rule.count;
        if enough {
            counts.remove(&key);
        }
        enough
    }

    fn take(&self, record: &Record, rules: &[SuppressRule]) {
        for (number, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.holds_for(record)) {
            let Some(recipient) = record.recipient() else { continue };
            let subject = Subject::of(&recipient.path.0);
            let tenant = match rule.scope {
                SuppressScope::Tenant => record.tags().and_then(|tags| tags.tenant.clone()),
                SuppressScope::All => None,
            };
            if !self.counted((number, rule), tenant.as_deref().unwrap_or(""), &subject, record.time) {
                continue;
            }
            let holds = u64::try_from(rule.holds.as_millis()).unwrap_or(u64::MAX);
            let entry = Entry {
                tenant,
                subject,
                reason: match record.kind {
                    Kind::Complained => Reason::Complaint,
                    _ => Reason::Bounce,
                },
                note: match (record.reply.as_ref(), record.report()) {
                    (Some(reply), _) => reply.to_string().into(),
                    (None, Some(report)) => report.feedback_type.clone().unwrap_or_default(),
                    (None, None) => "".into(),
                },
                since: record.time,
                until: (holds > 0).then(|| UnixMillis(record.time.0.saturating_add(holds))),
            };
            if self.queue.try_send(Job::Entry(entry)).is_err() && self.dropped.fetch_add(1, Relaxed) == 0 {
                error!("the suppression list is behind; recipients are left out and counted");
            }
        }
    }
}

impl Observer for Suppressor {
    fn observe(&self, records: &[Record]) {
        let rules = self.rules.load();
        if !rules.is_empty() {
            records.iter().for_each(|record| self.take(record, &rules));
        }
    }

    fn make_durable(&self, deadline: Instant) -> bool {
        let (sender, told) = std::sync::mpsc::channel();
        let left = deadline.saturating_duration_since(Instant::now());
        self.queue.try_send(Job::Tell(sender)).is_ok() && told.recv_timeout(left).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use accounting::Reported;
    use mail::{Envelope, Mailbox, Message, Origin, Recipient, Reply, ReversePath, SpoolId, Tags};
    use settings::Setting;

    #[test]
    fn the_table_is_sound() {
        assert_eq!(settings::mistakes(&SuppressRule::schema()), Vec::<String>::new());
    }

    fn rule() -> SuppressRule {
        SuppressRule {
            on: vec![SuppressOn::Bounced],
            unproven: false,
            class: Vec::new(),
            count: 1,
            within: Duration::from_secs(3_600),
            scope: SuppressScope::Tenant,
            holds: Duration::ZERO,
        }
    }

    fn bounced(to: &str, class: BounceClass, minute: u64) -> Record {
        let recipients = vec![Recipient::new(Mailbox::parse(to).unwrap())];
        let message = Arc::new(Message {
            id: SpoolId(1),
            received_at: UnixMillis(0),
            size: 1,
            envelope: Envelope::new(ReversePath::Null, recipients),
            origin: Origin::default(),
            tags: Tags { tenant: Some("acme".into()), ..Tags::default() },
            headers: Vec::new(),
            extras: None,
        });
        Record {
            class: Some(class),
            reply: Some(Arc::new(Reply::new(550, (5, 1, 1), "no such user"))),
            ..Record::new(Kind::Bounced, UnixMillis(minute * 60_000), &message, 0)
        }
    }

    /// What is on the list once it has been told of all records.
    fn listed(rules: Vec<SuppressRule>, records: &[Record]) -> Vec<Entry> {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let list = Suppression::open(folder.path(), 1_000).unwrap();
            let suppressor = Suppressor::start(rules, list.clone());
            suppressor.observe(records);
            drop(suppressor);
            // The task ends with what was in its queue.
            while tokio::runtime::Handle::current().metrics().num_alive_tasks() > 0 {
                tokio::task::yield_now().await;
            }
            list.page(0, 100).unwrap().0
        })
    }

    fn shown(entries: &[Entry]) -> Vec<String> {
        let shown = |entry: &Entry| format!("{}:{}", entry.tenant.as_deref().unwrap_or("-"), entry.subject);
        entries.iter().map(shown).collect()
    }

    #[test]
    fn hard_bounces_are_listed_for_the_tenant_and_others_are_not() {
        let records = [
            bounced("Joe@x.test", BounceClass::BadMailbox, 1),
            bounced("b@x.test", BounceClass::SpamBlock, 1),
        ];
        let entries = listed(vec![rule()], &records);
        assert_eq!(shown(&entries), ["acme:joe@x.test"]);
        assert_eq!((&*entries[0].note, entries[0].until), ("550 5.1.1 no such user", None));
        assert_eq!(listed(Vec::new(), &records), []);
        let all = SuppressRule {
            class: vec![Text(BounceClass::SpamBlock)],
            scope: SuppressScope::All,
            holds: Duration::from_secs(60),
            ..rule()
        };
        let entries = listed(vec![all], &records);
        assert_eq!(shown(&entries), ["-:b@x.test"]);
        assert_eq!(entries[0].until, Some(UnixMillis(120_000)));
    }

    #[test]
    fn reports_count_where_they_are_proven_or_a_rule_believes_everybody() {
        let reported = |kind, proven, tenant_known, feedback_type: Option<&str>| {
            let recipient = Some(Recipient::new(Mailbox::parse("joe@x.test").unwrap()));
            let feedback_type = feedback_type.map(Box::from);
            let reported = Reported { recipient, proven, tenant_known, feedback_type, ..Reported::default() };
            let record = Record::reported(kind, UnixMillis(0), Arc::new(reported), None);
            Record { class: (kind == Kind::RemoteBounce).then_some(BounceClass::BadMailbox), ..record }
        };
        let on = vec![SuppressOn::RemoteBounce, SuppressOn::Complained];
        let both = SuppressRule { on, ..rule() };
        let all = SuppressRule { scope: SuppressScope::All, ..both.clone() };
        let anybody = SuppressRule { unproven: true, ..all.clone() };
        for (kind, kind_of) in [(Kind::RemoteBounce, None), (Kind::Complained, Some("abuse"))] {
            let count = |rule: &SuppressRule, proven, known| {
                listed(vec![rule.clone()], &[reported(kind, proven, known, kind_of)]).len()
            };
            assert_eq!((count(&both, true, true), count(&rule(), true, true)), (1, 0));
            assert_eq!((count(&both, true, false), count(&all, true, false)), (0, 1));
            assert_eq!((count(&all, false, true), count(&anybody, false, true)), (0, 1));
        }
        let praise = reported(Kind::Complained, true, true, Some("not-spam"));
        assert_eq!(listed(vec![both.clone()], &[praise]), []);
        let entries = listed(vec![both], &[reported(Kind::Complained, true, true, Some("abuse"))]);
        assert_eq!((entries[0].reason, &*entries[0].note), (Reason::Complaint, "abuse"));
    }

    #[test]
    fn a_rule_that_wants_several_counts_them_within_its_time() {
        let three = SuppressRule { count: 3, ..rule() };
        let at = |minutes: &[u64]| -> Vec<Record> {
            minutes.iter().map(|minute| bounced("a@x.test", BounceClass::BadMailbox, *minute)).collect()
        };
        assert_eq!(listed(vec![three.clone()], &at(&[1, 2])), []);
        assert_eq!(shown(&listed(vec![three.clone()], &at(&[1, 2, 3]))), ["acme:a@x.test"]);
        // The third comes when the first no longer counts.
        assert_eq!(listed(vec![three], &at(&[1, 2, 70])), []);
    }
}
