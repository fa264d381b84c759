//! What a session asks the operator's policy, and what it does with the answers.
//!
//! With no policy configured a session holds an empty pointer here and asks nothing. An answer never widens what the
//! static rules allow: whoever may not relay is refused before anybody is asked.

use mail::{Envelope, Recipient, Reply};
use policy::{Conversation, Facts, MailObject, Phase, Phases, Policy, Question};
use smtp::server::{Answer, Server};
use std::sync::Arc;

/// What a session remembers of its policy.
pub(crate) struct Hooks {
    policy: Arc<dyn Policy>,
    phases: Phases,
    conversation: Option<Box<dyn Conversation>>,
    /// What is known of the session; gathered anew when something of it changed.
    facts: Option<Arc<Facts>>,
    /// The mechanism of the AUTH exchange under way.
    mechanism: Box<str>,
    /// Why all mail of this session is discarded.
    session_discarded: Option<Box<str>>,
    /// Why this transaction is discarded.
    discarded: Option<Box<str>>,
    /// Recipients of this transaction that are discarded, by their place, with the reasons.
    recipients_discarded: Vec<(usize, Box<str>)>,
}

/// What is asked at a command; the parts that the machine does not hold.
pub(crate) enum Ask {
    Connect,
    Hello { name: Box<str>, extended: bool },
    Auth { user: Box<str> },
    Mail { size: Option<u64> },
    Rcpt(Recipient),
    Data,
}

/// Recipients that are discarded, with the reason.
pub(crate) type Discarded = Vec<(Recipient, Box<str>)>;

impl Hooks {
    pub(crate) fn of(policy: Option<&Arc<dyn Policy>>) -> Option<Box<Self>> {
        policy.map(|policy| {
            Box::new(Self {
                policy: policy.clone(),
                phases: policy.phases(),
                conversation: None,
                facts: None,
                mechanism: "".into(),
                session_discarded: None,
                discarded: None,
                recipients_discarded: Vec::new(),
            })
        })
    }

    pub(crate) fn want(&self, phase: Phase) -> bool {
        self.phases.has(phase)
    }

    /// True if what is known of the session must be gathered before the next question.
    pub(crate) fn lack_facts(&self) -> bool {
        self.facts.is_none()
    }

    pub(crate) fn set_facts(&mut self, facts: Facts) {
        self.facts = Some(Arc::new(facts));
    }

    /// Something changed: the name, the user, TLS or the address.
    pub(crate) fn forget_facts(&mut self) {
        self.facts = None;
    }

    pub(crate) fn auth_begins(&mut self, mechanism: &str) {
        self.mechanism = mechanism.into();
    }

    /// A transaction begins, or is over: nothing of the one before may stick to the next.
    pub(crate) fn transaction_ended(&mut self) {
        self.discarded = None;
        self.recipients_discarded.clear();
        if let Some(conversation) = &mut self.conversation {
            conversation.transaction_ended();
        }
    }

    async fn answer(&mut self, question: Question<'_>) -> policy::Answer {
        let conversation = self.conversation.get_or_insert_with(|| self.policy.open());
        let facts = self.facts.get_or_insert_default();
        conversation.ask(facts, question).await
    }

    /// Asks at a command; `None` is no objection.
    pub(crate) async fn ask(&mut self, ask: &Ask, server: &Server) -> Option<Answer> {
        let envelope = server.envelope();
        let mechanism = std::mem::take(&mut self.mechanism);
        let question = match ask {
            Ask::Connect => Question::Connect,
            Ask::Hello { name, extended } => Question::Hello { name, extended: *extended },
            Ask::Auth { user } => Question::Auth { user, mechanism: &mechanism },
            Ask::Mail { size } => Question::Mail { envelope, size: *size },
            Ask::Rcpt(recipient) => Question::Rcpt { envelope, recipient },
            Ask::Data => Question::Data { envelope },
        };
        match self.answer(question).await {
            policy::Answer::Continue | policy::Answer::Accept => None,
            policy::Answer::Refuse(reply) => Some(Answer::Reply(reply)),
            policy::Answer::Disconnect(reply) => Some(Answer::Close(reply)),
            policy::Answer::Discard(why) => {
                match ask {
                    Ask::Rcpt(_) => self.recipients_discarded.push((envelope.recipients.len(), why)),
                    Ask::Mail { .. } | Ask::Data => self.discarded = Some(why),
                    _ => self.session_discarded = Some(why),
                }
                None
            }
        }
    }

    /// Takes out of the envelope whom earlier answers discard.
    pub(crate) fn take_discarded(&mut self, envelope: &mut Envelope) -> Discarded {
        if let Some(why) = self.session_discarded.as_ref().or(self.discarded.as_ref()) {
            return envelope.recipients.drain(..).map(|recipient| (recipient, why.clone())).collect();
        }
        if self.recipients_discarded.is_empty() {
            return Vec::new();
        }
        let reasons = std::mem::take(&mut self.recipients_discarded);
        let (mut kept, mut discarded) = (Vec::new(), Vec::new());
        for (at, recipient) in envelope.recipients.drain(..).enumerate() {
            match reasons.iter().find(|(place, _)| *place == at) {
                Some((_, why)) => discarded.push((recipient, why.clone())),
                None => kept.push(recipient),
            }
        }
        envelope.recipients = kept;
        discarded
    }

    /// Asks about a whole message. What is discarded is taken out of its envelope; `Err` refuses it.
    pub(crate) async fn ask_message(&mut self, object: &mut MailObject) -> Result<Discarded, Answer> {
        // One who takes out every recipient and adds none wants it to go nowhere.
        let before = object.envelope.recipients.clone();
        let why: Box<str> = match self.answer(Question::Message(object)).await {
            policy::Answer::Continue | policy::Answer::Accept => {
                if !object.envelope.recipients.is_empty() {
                    return Ok(Vec::new());
                }
                object.envelope.recipients = before;
                "every recipient was taken out".into()
            }
            policy::Answer::Refuse(reply) => return Err(Answer::Reply(reply)),
            policy::Answer::Disconnect(reply) => return Err(Answer::Close(reply)),
            policy::Answer::Discard(why) => {
                object.envelope.recipients = before;
                why
            }
        };
        Ok(object.envelope.recipients.drain(..).map(|recipient| (recipient, why.clone())).collect())
    }
}

/// The greeting for a client that is not to be served: 4yz and 521 end the session (RFC 7504 §3), another 5yz leaves it
/// to the client.
pub(crate) fn greeting(answer: Answer) -> Option<Reply> {
    match answer {
        Answer::Reply(reply) => Some(reply),
        Answer::Close(reply) if reply.is_permanent() => {
            Some(Reply { code: mail::ReplyCode::new(521).unwrap_or(reply.code), ..reply })
        }
        Answer::Close(reply) => Some(reply),
        _ => None,
    }
}
