//! Several policies, asked in order.

use crate::{Answer, Asked, Conversation, Facts, Phases, Policy, Question};
use std::sync::Arc;

/// Several policies as one. At each phase the first that decides has decided; what it or those before it changed of the
/// message holds.
pub struct Chain(Vec<Arc<dyn Policy>>);

impl Chain {
    /// In this order. A chain of one is that one; of none there is nothing to ask.
    pub fn of(mut policies: Vec<Arc<dyn Policy>>) -> Option<Arc<dyn Policy>> {
        policies.retain(|policy| !policy.phases().is_empty());
        match policies.len() {
            0 | 1 => policies.pop(),
            _ => Some(Arc::new(Self(policies))),
        }
    }
}

impl Policy for Chain {
    fn phases(&self) -> Phases {
        self.0.iter().fold(Phases::NONE, |all, policy| all.and(policy.phases()))
    }

    fn open(&self) -> Box<dyn Conversation> {
        Box::new(Links(self.0.iter().map(|policy| (policy.phases(), policy.open())).collect()))
    }
}

/// The conversations of a chain.
struct Links(Vec<(Phases, Box<dyn Conversation>)>);

impl Conversation for Links {
    fn ask<'a>(&'a mut self, facts: &'a Arc<Facts>, mut question: Question<'a>) -> Asked<'a> {
        Box::pin(async move {
            let phase = question.phase();
            for (phases, link) in &mut self.0 {
                if !phases.has(phase) {
                    continue;
                }
                let answer = link.ask(facts, question.again()).await;
                if answer.decides() {
                    return answer;
                }
            }
            Answer::Continue
        })
    }

    fn transaction_ended(&mut self) {
        for (_, link) in &mut self.0 {
            link.transaction_ended();
        }
    }
}

impl Question<'_> {
    /// The same question for the next in a chain.
    fn again(&mut self) -> Question<'_> {
        match self {
            Self::Connect => Question::Connect,
            Self::Hello { name, extended } => Question::Hello { name, extended: *extended },
            Self::Auth { user, mechanism } => Question::Auth { user, mechanism },
            Self::Mail { envelope, size } => Question::Mail { envelope, size: *size },
            Self::Rcpt { envelope, recipient } => Question::Rcpt { envelope, recipient },
            Self::Data { envelope } => Question::Data { envelope },
            Self::Message(object) => Question::Message(object),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MailObject, Phase};
    use bytes::Bytes;
    use mail::{Envelope, ReversePath, Tags};
    use std::sync::Mutex;
    use std::task::{Context, Poll, Waker};

    /// Answers so, and writes down that it was asked.
    struct Says(&'static str, Phases, Answer, Arc<Mutex<Vec<String>>>);

    impl Policy for Says {
        fn phases(&self) -> Phases {
            self.1
        }

        fn open(&self) -> Box<dyn Conversation> {
            Box::new(Says(self.0, self.1, self.2.clone(), self.3.clone()))
        }
    }

    impl Conversation for Says {
        fn ask<'a>(&'a mut self, _: &'a Arc<Facts>, question: Question<'a>) -> Asked<'a> {
            self.3.lock().unwrap().push(format!("{} {}", self.0, question.phase()));
            if let Question::Message(object) = question {
                object.add_field("X-By", self.0.as_bytes()).unwrap();
            }
            Box::pin(std::future::ready(self.2.clone()))
        }
    }

    fn at_once(asked: Asked<'_>) -> Answer {
        let mut asked = asked;
        match asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => answer,
            Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn the_first_that_decides_has_decided() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let says = |name, phases: &[Phase], answer| -> Arc<dyn Policy> {
            Arc::new(Says(name, phases.iter().copied().collect(), answer, log.clone()))
        };
        let no = Answer::Refuse(crate::failure());
        let chain = Chain::of(vec![
            says("a", &[Phase::Rcpt, Phase::Message], Answer::Continue),
            says("idle", &[], no.clone()),
            says("b", &[Phase::Message], Answer::Accept),
            says("c", &[Phase::Hello, Phase::Message], no.clone()),
        ])
        .unwrap();
        assert_eq!(chain.phases(), [Phase::Hello, Phase::Rcpt, Phase::Message].into_iter().collect());
        let mut links = chain.open();
        let facts = Arc::new(Facts::default());
        let hello = Question::Hello { name: "x", extended: true };
        assert_eq!(at_once(links.ask(&facts, hello)), no);
        let content = Bytes::from_static(b"Subject: x\r\n\r\nbody\r\n");
        let mut object = MailObject::new(Envelope::new(ReversePath::Null, vec![]), Tags::default(), content);
        assert_eq!(at_once(links.ask(&facts, Question::Message(&mut object))), Answer::Accept);
        assert_eq!(*log.lock().unwrap(), ["c hello", "a message", "b message"]);
        assert_eq!(object.content(), "Subject: x\r\nX-By: a\r\nX-By: b\r\n\r\nbody\r\n");
        assert!(Chain::of(vec![says("idle", &[], no)]).is_none(), "whoever wants nothing costs nothing");
    }
}
