//! Where every message comes in, by whatever door: one place in the channel to the queue, the spool's proof, its
//! records; and the questions that doors other than SMTP ask before.

use crate::context::{Context, short_of_memory};
use crate::session::refusal_reply;
use crate::tagging::tag_asked;
use accounting::{Kind, Record};
use mail::{Envelope, Extras, Host, Mailbox, Message, Origin, Reply, ReversePath, SpoolId, UnixMillis};
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

    /// Takes a message. The answer is there when it is durable, or sure not to be taken.
    pub async fn submit(&self, place: Place, submission: Submission) -> Result<Arc<Message>, Reply> {
        let Submission { id, at, envelope, origin, asked, extras, content } = submission;
        let rules = self.rules.load_full();
        let (tags, headers) = tag_asked(&rules, asked, &origin, &envelope, &content.body);
        let extras = extras.filter(|extras| *extras != Extras::default()).map(Box::new);
        let size = content.len();
        let message = Message { id, received_at: at, size, envelope, origin, tags, headers, extras };
        self.take(place.0, Draft { message, content }).await.map_err(refusal_reply)
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
