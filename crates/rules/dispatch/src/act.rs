//! What the machine wants done, and what it is told became of it.

use crate::{SourceAt, Target};
use mail::Reply;
use queue::EntryKey;
use queue::orders::Order;
use shaping::{Fired, Profile};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A connection's name, unique within one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// A queue's name: who shares a place in line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueueName {
    /// The tenant.
    pub tenant: Option<Arc<str>>,
    /// The campaign.
    pub campaign: Option<Arc<str>>,
    /// Where it goes.
    pub target: Arc<str>,
    /// The pool it leaves by.
    pub pool: Arc<str>,
    /// Its priority class; 0 goes first.
    pub class: u8,
}

/// `campaign:tenant@target/pool`, without what there is not.
impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(campaign) = &self.campaign {
            write!(f, "{campaign}:")?;
        }
        if let Some(tenant) = &self.tenant {
            f.write_str(tenant)?;
        }
        if self.campaign.is_some() || self.tenant.is_some() {
            f.write_str("@")?;
        }
        write!(f, "{}/{}", self.target, self.pool)
    }
}

/// A run of recipients of one message.
#[derive(Clone, Copy, Debug)]
pub struct JobEntry {
    /// Its name in the queue.
    pub key: EntryKey,
    /// Index of the first recipient.
    pub first: u32,
    /// How many, with consecutive indices.
    pub count: u32,
    /// Attempts made before this one.
    pub attempts: u16,
    /// The sender was told that it is late.
    pub delay_reported: bool,
    /// When the message is given up.
    pub expires: Instant,
}

impl JobEntry {
    /// The index of each recipient.
    pub fn indices(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.count
    }
}

/// Recipients of one message for one attempt.
#[derive(Clone, Debug)]
pub struct Job {
    /// Runs of recipients.
    pub entries: Vec<JobEntry>,
    /// The spool's handle of the message.
    pub handle: u64,
    /// The queue it stood in.
    pub queue: QueueName,
    /// The waits after each attempt, where a rule sets them.
    pub retry_waits: Option<Arc<[Duration]>>,
    /// The rules for replies at its path; absent when no connection is made.
    pub profile: Option<Arc<Profile>>,
    /// Orders that only the message itself can match: to be looked at before it is sent.
    pub orders: Option<Arc<[Order]>>,
}

impl Job {
    /// Recipients in all.
    pub fn recipients(&self) -> usize {
        self.entries.iter().map(|entry| entry.count as usize).sum()
    }

    /// Leaves the first so many recipients in it, at least one. What it was is then the dispatcher's to know:
    /// [`crate::Dispatch::narrowed`].
    pub fn truncate(&mut self, recipients_max: u32) {
        let mut left = recipients_max.max(1);
        for entry in &mut self.entries {
            entry.count = entry.count.min(left);
            left -= entry.count;
        }
        self.entries.retain(|entry| entry.count > 0);
    }

    /// The index of each recipient.
    pub fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        self.entries.iter().flat_map(JobEntry::indices)
    }
}

/// How a job ends without a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// Its time is over; the last reply it got.
    Expired(Option<Arc<str>>),
    /// It is given up.
    Bounced(Reply),
    /// It waits at least so long.
    Deferred(Reply, Duration),
}

/// Something to tell: logged, counted, sent to whoever asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it is about, such as a path or source.
    pub about: String,
    /// What happened.
    pub text: String,
    /// People are to be told, as a rule asks for.
    pub notify: bool,
    /// The egress source it concerns, if it concerns one.
    pub source: Option<Arc<str>>,
    /// The site it concerns, if it concerns one.
    pub site: Option<Arc<str>>,
    /// The rule that led to it with its file and line, if one did.
    pub rule: Option<String>,
}

/// Leave given that a restart must know of, since it counts for a minute or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The site.
    pub site: Arc<str>,
    /// Its provider.
    pub provider: Option<Arc<str>>,
    /// Domains at it that rules name.
    pub domains: Vec<Arc<str>>,
    /// The source.
    pub source: Arc<str>,
    /// The tenant.
    pub tenant: Option<Arc<str>>,
    /// The campaign.
    pub campaign: Option<Arc<str>>,
    /// Messages.
    pub messages: u64,
    /// Their octets together.
    pub octets: u64,
    /// Connections.
    pub connections: u64,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Ask which site a target is; answer by [`crate::Dispatch::site_found`].
    Resolve(Target),
    /// Open a connection and give it the job.
    Open {
        /// The connection's name.
        id: ConnectionId,
        /// Where it comes from.
        source: SourceAt,
        /// A target of the site it goes to.
        target: Target,
        /// The site.
        site: Arc<str>,
        /// The provider that it belongs to.
        provider: Option<Arc<str>>,
        /// Messages after which it is closed; 0 is no limit.
        messages_max: u32,
        /// The first job.
        job: Job,
    },
    /// Give a job to a connection.
    Give(ConnectionId, Job),
    /// End a connection that has not been greeted yet: others wait for its place. If it was greeted meanwhile, nothing
    /// is to be done.
    GiveUp(ConnectionId),
    /// End a connection that has nothing to do: others wait for its place. If it was given a job meanwhile, that comes
    /// back.
    Close(ConnectionId),
    /// Settle a job without a connection; answer by [`crate::Dispatch::settled`].
    Settle(Job, Fate),
    /// Avoid an exchanger for a while.
    SkipExchanger {
        /// Its host name.
        host: Arc<str>,
        /// How long.
        wait: Duration,
    },
    /// Tell.
    Note(Note),
}

/// A recipient that waits for another attempt.
#[derive(Clone, Debug)]
pub struct Deferred {
    /// The entry it was part of.
    pub key: EntryKey,
    /// Its index in the envelope.
    pub index: u32,
    /// Attempts made, this one included.
    pub attempts: u16,
    /// The attempt ended in doubt.
    pub ambiguous: bool,
    /// The sender was told that it is late.
    pub delay_reported: bool,
    /// Why.
    pub reply: Arc<str>,
    /// When to try again.
    pub due: Instant,
}

/// What became of a job.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Its entries, to be ended in the queue.
    pub entries: Vec<EntryKey>,
    /// Recipients that wait for another attempt.
    pub deferred: Vec<Deferred>,
    /// Recipients delivered.
    pub delivered: u32,
    /// Recipients the site refused for good.
    pub bounced: u32,
    /// Rules that a reply fired, with that reply and the exchanger that gave it.
    pub fired: Vec<(Fired, Arc<str>)>,
    /// The exchanger's host name.
    pub host: Option<Arc<str>>,
    /// Octets of the message; spent with its permit.
    pub octets: u64,
    /// The message told people of something itself: rules act on what it met, but nobody is told of that, or telling
    /// would never end.
    pub is_notice: bool,
}
