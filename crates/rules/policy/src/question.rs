//! The seam: what is asked of a policy, and what it may answer.

use crate::{Facts, MailObject, Phase, Phases};
use mail::{Envelope, Recipient, Reply};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// What is asked.
#[derive(Debug)]
pub enum Question<'a> {
    /// A client connected: shall it be served?
    Connect,
    /// HELO, EHLO or LHLO.
    Hello {
        /// What the client calls itself.
        name: &'a str,
        /// Not HELO.
        extended: bool,
    },
    /// AUTH succeeded: may this user in?
    Auth {
        /// The user.
        user: &'a str,
        /// The mechanism, as it was offered.
        mechanism: &'a str,
    },
    /// MAIL.
    Mail {
        /// The transaction that would begin.
        envelope: &'a Envelope,
        /// SIZE: a claim.
        size: Option<u64>,
    },
    /// RCPT, which the server's own rules allow.
    Rcpt {
        /// The transaction so far.
        envelope: &'a Envelope,
        /// Whom the client wants to add.
        recipient: &'a Recipient,
    },
    /// Content is about to come.
    Data {
        /// The transaction.
        envelope: &'a Envelope,
    },
    /// The whole message is here, and may be changed.
    Message(&'a mut MailObject),
}

impl Question<'_> {
    /// When it is asked.
    pub const fn phase(&self) -> Phase {
        match self {
            Self::Connect => Phase::Connect,
            Self::Hello { .. } => Phase::Hello,
            Self::Auth { .. } => Phase::Auth,
            Self::Mail { .. } => Phase::Mail,
            Self::Rcpt { .. } => Phase::Rcpt,
            Self::Data { .. } => Phase::Data,
            Self::Message(_) => Phase::Message,
        }
    }
}

/// What may be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// No objection; the next policy is asked.
    Continue,
    /// Yes, and no other policy need be asked at this phase. The server's own rules hold all the same.
    Accept,
    /// No, with this reply of 4yz or 5yz.
    Refuse(Reply),
    /// No, with this reply, and the connection ends.
    Disconnect(Reply),
    /// The client is told yes, and nothing is delivered: what this is about (the recipient at RCPT, else the whole
    /// message) leaves a record with this reason.
    Discard(Box<str>),
}

impl Answer {
    /// True unless it lets things go their way.
    pub const fn decides(&self) -> bool {
        !matches!(self, Self::Continue)
    }

    /// Its word, for logs and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Accept => "accept",
            Self::Refuse(reply) if reply.is_permanent() => "reject",
            Self::Refuse(_) => "defer",
            Self::Disconnect(_) => "disconnect",
            Self::Discard(_) => "discard",
        }
    }
}

settings::words! {
    /// What is answered in the place of a policy that cannot.
    pub enum OnError {
        /// The client is told to try again later.
        Defer,
        /// The client is refused.
        Reject,
        /// Things go on as if nobody had been asked.
        Continue,
    }
}

impl OnError {
    /// The answer.
    pub fn answer(self) -> Answer {
        match self {
            Self::Defer => Answer::Refuse(crate::failure()),
            Self::Reject => Answer::Refuse(Reply::new(554, (5, 3, 0), "a local rule could not be applied")),
            Self::Continue => Answer::Continue,
        }
    }
}

/// An answer that is still being found.
pub type Asked<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// Who is asked: a script, a milter, a sidecar, or several in order.
pub trait Policy: Send + Sync {
    /// When it wants to be asked. At other phases nothing is, and nothing is spent.
    fn phases(&self) -> Phases;

    /// Begins with a session; the first question may be a later one than [`Question::Connect`].
    fn open(&self) -> Box<dyn Conversation>;
}

impl std::fmt::Debug for dyn Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy").field("phases", &self.phases()).finish_non_exhaustive()
    }
}

/// What a policy remembers of one session. Dropping it ends it.
pub trait Conversation: Send {
    /// Asks. A failure to answer must come back as what the operator wants of it, never as a panic or a yes by
    /// accident. The future may be dropped when the client leaves.
    fn ask<'a>(&'a mut self, facts: &'a Arc<Facts>, question: Question<'a>) -> Asked<'a>;

    /// The transaction ended without a message, or after one.
    fn transaction_ended(&mut self) {}
}
