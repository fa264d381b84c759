//! Where every message comes in, by whatever door: one place in the channel to the queue, the spool's proof, its
//! records; and the questions that doors other than SMTP ask before.

use crate::context::{Context, short_of_memory};
use crate::feedback::read_report;
use crate::session::refusal_reply;
use crate::tagging::tag_asked;
use accounting::{Kind, Record};
use mail::{
    Envelope, Extras, Host, Mailbox, Message, Origin, Protocol, Reply, ReversePath, SpoolId, UnixMillis,
};
use routing::Gathered;
use spool::{Accepted, Content, Draft, Refusal};
use std::sync::Arc;
use tokio::sync::mpsc::OwnedPermit;

/// A place in the channel to the queue.
pub struct Place(OwnedPermit<Accepted>);

/// What the sender of a message asks for it; the rules of `assign` say the rest.
pub type Asked = Gathered;

/// A message that came by another door than SMTP.
pub struct Submission {
    /// Our name for it, from [`Context::next_id`].
    pub id: SpoolId,
    /// When it came.
    pub at: UnixMillis,
    /// Who shall get it.
    pub envelope: Envelope,
    /// Who handed it in.
    pub origin: Origin,
    /// What is asked for it.
    pub asked: Asked,
    /// What is asked besides.
    pub extras: Option<Extras>,
    /// Its octets.
    pub content: Content,
}

impl Context {
    /// A name for a message to come.
    pub fn next_id(&self) -> SpoolId {
        self.spool.next_id()
    }

    /// This server's name.
    pub fn host(&self) -> Host {
        Host::Domain(self.rules.load().hostname.clone())
    }

    /// Why no message of so many octets is taken now, if so: a reply of class 4.
    pub fn refusal_now(&self, octets: u64) -> Option<Reply> {
        if self.is_draining() {
            return Some(Reply::new(421, (4, 3, 2), "shutting down, try again later"));
        }
        if let Err(refusal) = self.spool.may_accept() {
            return Some(refusal_reply(refusal));
        }
        if self.budget.is_short() || self.budget.used().saturating_add(octets) > self.budget.max() {
            return Some(short_of_memory());
        }
        if (self.queued)() >= self.rules.load().recipients_queued_max {
            return Some(Reply::new(452, (4, 3, 1), "the queue is full, try again later"));
        }
        None
    }

    /// A place in the queue, waited for as long as SMTP would.
    pub async fn place(&self) -> Result<Place, Reply> {
        self.reserve().await.map(Place)
    }

    /// True if mail may be sent to this host by one whom we trust.
    pub fn reaches(&self, host: &Host) -> bool {
        self.rules.load().relay.reaches(host)
    }

    /// The reply to a recipient who is on a tenant's suppression list, or that of all, unless they are accepted and settled
    /// later. Mail about mail reaches them.
    pub fn suppressed(
        &self,
        tenant: Option<&str>,
        reverse_path: &ReversePath,
        to: &Mailbox,
        now: UnixMillis,
    ) -> Option<Reply> {
        let rules = self.rules.load();
        let reply = rules.suppressed.as_ref().filter(|_| *reverse_path != ReversePath::Null)?;
        self.suppression.holds(tenant, to, now).then(|| reply.clone())
    }

    /// True if there is such a pool, or none is known of.
    pub fn has_pool(&self, name: &str) -> bool {
        let rules = self.rules.load();
        rules.tags.pools.is_empty() || rules.tags.pools.contains(name)
    }

    /// True if mail to an address is read as reports are, and so is taken from anybody.
    pub fn reads_reports_to(&self, to: &Mailbox) -> bool {
        self.rules.load().report_reader.as_ref().is_some_and(|reader| reader.takes(to))
    }

    /// Takes a message. The answer is there when it is durable, or sure not to be taken. What comes by HTTP to an address
    /// whose mail is read is read first; its recipients there stand last in the message that is given back.
    pub async fn submit(
        self: &Arc<Self>,
        place: Place,
        submission: Submission,
    ) -> Result<Arc<Message>, Reply> {
        let Submission { id, at, mut envelope, origin, asked, extras, content } = submission;
        let rules = self.rules.load_full();
        let (tags, headers) = tag_asked(&rules, asked, &origin, &envelope, &content.body);
        let extras = extras.filter(|extras| *extras != Extras::default()).map(Box::new);
        let size = content.len();
        let is_merge = extras.as_ref().is_some_and(|extras| extras.merge.is_some());
        let mut read = Vec::new();
        if let Some(reader) =
            rules.report_reader.as_ref().filter(|_| origin.protocol == Protocol::Http && !is_merge)
        {
            read = Box::pin(read_report(self, reader, &mut envelope, &origin, &content.body, at)).await?;
        }
        let message = Message { id, received_at: at, size, envelope, origin, tags, headers, extras };
        if read.is_empty() {
            return self.take(place.0, Draft { message, content }).await.map_err(refusal_reply);
        }
        let mut whole = message.clone();
        let kept = whole.envelope.recipients.len();
        let (recipients, reasons): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        whole.envelope.recipients.extend(recipients);
        let whole = Arc::new(whole);
        if kept > 0 {
            self.take(place.0, Draft { message, content }).await.map_err(refusal_reply)?;
        }
        self.record_discarded(&whole, kept, reasons, at);
        Ok(whole)
    }

    /// Records of recipients for whom the way of a message ends here, each with why: those from an index on.
    pub(crate) fn record_discarded(
        &self,
        message: &Arc<Message>,
        from: usize,
        reasons: Vec<Box<str>>,
        at: UnixMillis,
    ) {
        let mut records = Vec::with_capacity(reasons.len() * 2);
        for (n, why) in reasons.into_iter().enumerate() {
            let index = (from + n) as u32;
            records.push(Record::new(Kind::Received, at, message, index));
            let mut record = Record::new(Kind::Discarded, at, message, index);
            record.reply = Some(Arc::new(Reply::new(250, (2, 0, 0), String::from(why))));
            records.push(record);
        }
        self.recorder.record_many(records);
    }

    /// Spools a message, records it, and queues it.
    pub(crate) async fn take(
        &self,
        permit: OwnedPermit<Accepted>,
        draft: Draft,
    ) -> Result<Arc<Message>, Refusal> {
        let accepted = self.spool.accept(draft).await?;
        let message = accepted.message().clone();
        let records = (0..message.envelope.recipients.len() as u32)
            .map(|index| Record::new(Kind::Received, message.received_at, &message, index))
            .collect();
        self.recorder.record_many(records);
        permit.send(accepted);
        Ok(message)
    }
}
