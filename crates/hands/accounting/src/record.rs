//! What is known of one outcome of one recipient.

use mail::{
    BounceClass, EnhancedStatusCode, FieldName, Message, Origin, Outcome, Recipient, Reply, ReversePath,
    SpoolId, Tags, TlsInfo, UnixMillis,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

settings::words! {
    /// What happened to a recipient. In the order in which they are counted.
    pub enum Kind {
        /// Accepted: durable and answered with 250.
        Received,
        /// The next hop took responsibility.
        Delivered,
        /// Not now; it stays queued.
        Deferred,
        /// Never.
        Bounced,
        /// Not in time.
        Expired,
        /// Dropped by an order or rule that says so.
        Discarded,
        /// Refused before it was accepted; never part of the sum of accepted mail.
        Rejected,
        /// On a suppression list, and so never tried.
        Suppressed,
        /// Delivered to a host that then reported, by mail, that it could not deliver it.
        RemoteBounce,
        /// The same of mail that is late, or arrived.
        RemoteStatus,
        /// Somebody complained of it.
        Complained,
    }
}

impl Kind {
    /// The word for it, as files and configuration have it.
    pub const fn as_str(self) -> &'static str {
        self.word()
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }
}

impl From<&Outcome> for Kind {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Delivered(_) => Self::Delivered,
            Outcome::Deferred(_) => Self::Deferred,
            Outcome::Bounced(_) => Self::Bounced,
            Outcome::Expired(_) => Self::Expired,
            Outcome::Discarded(_) => Self::Discarded,
            Outcome::Suppressed(_) => Self::Suppressed,
        }
    }
}

/// Whom a record is about.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A recipient of an accepted message, by its index in the envelope.
    Recipient(Arc<Message>, u32),
    /// A transaction, or one recipient of it, that was refused.
    Refused(Arc<Refused>),
    /// Mail that was sent long ago, as a report tells of it.
    Reported(Arc<Reported>),
}

/// What a report said of mail, and what of it is known to be true.
#[derive(Clone, Debug, Default)]
pub struct Reported {
    /// Who handed us the report.
    pub origin: Origin,
    /// Our name for the mail it is about.
    pub id: Option<SpoolId>,
    /// The recipient's place in its envelope.
    pub index: Option<u32>,
    /// Its reverse-path as it came in.
    pub sender: Option<ReversePath>,
    /// Its recipient.
    pub recipient: Option<Recipient>,
    /// What it was filed under.
    pub tags: Tags,
    /// It is known whether it had a tenant, and which.
    pub tenant_known: bool,
    /// Its ENVID.
    pub envid: Option<Box<str>>,
    /// How it was found: `field`, `verp`, or `text` for what only the report says.
    pub found_by: &'static str,
    /// A signature of ours proves that mail went to this recipient.
    pub proven: bool,
    /// The report's form: `dsn`, `text`, `arf`, `jmrp`.
    pub format: &'static str,
    /// What became of the mail, in RFC 3464's word.
    pub action: &'static str,
    /// Why.
    pub status: Option<EnhancedStatusCode>,
    /// Who reports.
    pub reporting_mta: Option<Box<str>>,
    /// Who decided.
    pub remote_mta: Option<Box<str>>,
    /// The kind of a complaint.
    pub feedback_type: Option<Box<str>>,
    /// What made the report.
    pub user_agent: Option<Box<str>>,
    /// The address that the mail came from.
    pub source_ip: Option<Box<str>>,
    /// The domain that is thought to be responsible.
    pub reported_domain: Option<Box<str>>,
}

/// What was known when we said no.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    /// The client.
    pub origin: Origin,
    /// The reverse-path, if MAIL had been accepted.
    pub reverse_path: Option<ReversePath>,
    /// The recipient, if the refusal was about one: the text as given, cleaned of control characters.
    pub recipient: Option<Box<str>>,
}

/// By what road a message left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// SMTP to another host.
    #[default]
    Smtp,
    /// LMTP.
    Lmtp,
    /// Into a file or a mailbox on this machine.
    Local,
    /// Nowhere, by order.
    Discard,
}

impl Via {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Lmtp => "lmtp",
            Self::Local => "file",
            Self::Discard => "discard",
        }
    }
}

/// Facts of a connection to the next hop, the same for every message that leaves by it.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// By what road.
    pub via: Via,
    /// The site: exchangers that share limits.
    pub site: Box<str>,
    /// The provider that the site belongs to.
    pub provider: Option<Arc<str>>,
    /// The exchanger's host name.
    pub host: Box<str>,
    /// Its address.
    pub remote: Option<SocketAddr>,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// The egress source's name.
    pub source: Box<str>,
    /// The egress pool's name.
    pub pool: Box<str>,
    /// TLS, if any.
    pub tls: Option<TlsInfo>,
    /// What was asked of TLS: `off`, `opportunistic`, `required`, `verified`, `mta-sts`, `dane`.
    pub tls_policy: Box<str>,
    /// What is to be said of the exchanger's certificate: `verified`, `dane`, or why it is not; absent without TLS.
    pub tls_verified: Option<Box<str>>,
    /// Keywords of the answer to EHLO, with commas between: `8BITMIME,STARTTLS`.
    pub extensions: Box<str>,
}

/// Facts of one attempt, the same for every recipient whom one reply settled.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    /// Which try this was, from 1; 0 when there was none.
    pub number: u32,
    /// When the first try began.
    pub first: Option<UnixMillis>,
    /// How long this one took.
    pub duration: Duration,
    /// The end of data was not answered: the message may have arrived and will be tried again.
    pub ambiguous: bool,
}

/// One record. Cheap to build and to clone: everything long is shared.
#[derive(Clone, Debug)]
pub struct Record {
    /// What happened.
    pub kind: Kind,
    /// When.
    pub time: UnixMillis,
    /// To whom.
    pub subject: Subject,
    /// The reply that decided; the peer's, or ours.
    pub reply: Option<Arc<Reply>>,
    /// The try.
    pub attempt: Attempt,
    /// The connection it went by; absent when none was made.
    pub connection: Option<Arc<Connection>>,
    /// The queue's name.
    pub queue: Option<Arc<str>>,
    /// Why it failed, if it did.
    pub class: Option<BounceClass>,
    /// The operator's own word for why, in place of PowerMTA's.
    pub category: Option<Arc<str>>,
}

impl Record {
    /// A record of recipient `index` of `message` without any of the optional facts.
    pub fn new(kind: Kind, time: UnixMillis, message: &Arc<Message>, index: u32) -> Self {
        Self {
            kind,
            time,
            subject: Subject::Recipient(Arc::clone(message), index),
            reply: None,
            attempt: Attempt::default(),
            connection: None,
            queue: None,
            class: None,
            category: None,
        }
    }

    /// A record of a refusal.
    pub fn rejected(time: UnixMillis, refused: Arc<Refused>, reply: Arc<Reply>) -> Self {
        Self {
            kind: Kind::Rejected,
            time,
            subject: Subject::Refused(refused),
            reply: Some(reply),
            attempt: Attempt::default(),
            connection: None,
            queue: None,
            class: None,
            category: None,
        }
    }

    /// A record of what a report said.
    pub fn reported(
        kind: Kind,
        time: UnixMillis,
        reported: Arc<Reported>,
        reply: Option<Arc<Reply>>,
    ) -> Self {
        Self {
            kind,
            time,
            subject: Subject::Reported(reported),
            reply,
            attempt: Attempt::default(),
            connection: None,
            queue: None,
            class: None,
            category: None,
        }
    }

    /// What the report said that it is made of, if it is made of one.
    pub fn report(&self) -> Option<&Reported> {
        match &self.subject {
            Subject::Reported(reported) => Some(reported),
            _ => None,
        }
    }

    /// Why it failed, in the operator's word or PowerMTA's.
    pub(crate) fn category(&self) -> &str {
        let class = self.class.unwrap_or(BounceClass::Other);
        self.category.as_deref().unwrap_or_else(|| class.category())
    }

    /// The accepted message.
    pub fn message(&self) -> Option<&Arc<Message>> {
        match &self.subject {
            Subject::Recipient(message, _) => Some(message),
            Subject::Refused(_) | Subject::Reported(_) => None,
        }
    }

    /// Our name for the accepted message.
    pub fn id(&self) -> Option<SpoolId> {
        match &self.subject {
            Subject::Reported(reported) => reported.id,
            _ => self.message().map(|message| message.id),
        }
    }

    /// The recipient of the accepted message; `None` for a refusal or an index outside the envelope.
    pub fn recipient(&self) -> Option<&Recipient> {
        match &self.subject {
            Subject::Recipient(message, index) => message.envelope.recipients.get(*index as usize),
            Subject::Refused(_) => None,
            Subject::Reported(reported) => reported.recipient.as_ref(),
        }
    }

    /// The recipient's address, accepted or refused; empty if there is none.
    pub fn recipient_text(&self) -> &str {
        match &self.subject {
            Subject::Recipient(..) | Subject::Reported(_) => {
                self.recipient().map_or("", |recipient| recipient.path.as_str())
            }
            Subject::Refused(refused) => refused.recipient.as_deref().unwrap_or(""),
        }
    }

    /// Who handed the message to us.
    pub fn origin(&self) -> &Origin {
        match &self.subject {
            Subject::Recipient(message, _) => &message.origin,
            Subject::Refused(refused) => &refused.origin,
            Subject::Reported(reported) => &reported.origin,
        }
    }

    /// The reverse-path's text; `None` if MAIL was never accepted.
    pub(crate) fn sender(&self) -> Option<&str> {
        match &self.subject {
            Subject::Recipient(message, _) => Some(message.envelope.reverse_path.as_str()),
            Subject::Refused(refused) => refused.reverse_path.as_ref().map(ReversePath::as_str),
            Subject::Reported(reported) => reported.sender.as_ref().map(ReversePath::as_str),
        }
    }

    /// What the message is filed under.
    pub fn tags(&self) -> Option<&Tags> {
        match &self.subject {
            Subject::Reported(reported) => Some(&reported.tags),
            _ => self.message().map(|message| &message.tags),
        }
    }

    /// The sender's own name for the message: the one that tagged it, else ENVID as it was given.
    pub(crate) fn envid(&self) -> Option<&str> {
        if let Subject::Reported(reported) = &self.subject {
            return reported.envid.as_deref();
        }
        let message = self.message()?;
        message.tags.envid.as_deref().or(message.envelope.envid.as_deref())
    }

    /// The egress pool: the connection's, and before there is one the one that was chosen for the message.
    pub fn pool(&self) -> Option<&str> {
        let connection = self.connection.as_deref().map(|connection| &*connection.pool);
        connection.filter(|pool| !pool.is_empty()).or_else(|| self.tags()?.pool.as_deref())
    }

    /// The text of a header field that was kept of the message.
    pub(crate) fn header(&self, name: &FieldName) -> Option<&str> {
        let kept = &self.message()?.headers;
        let field = kept.iter().find(|field| field.name.eq_ignore_ascii_case(name.as_str()))?;
        Some(&field.value)
    }

    /// Milliseconds from acceptance to this record; 0 if the clock went back.
    pub fn since_received_ms(&self) -> u64 {
        self.message().map_or(0, |message| self.time.0.saturating_sub(message.received_at.0))
    }
}
