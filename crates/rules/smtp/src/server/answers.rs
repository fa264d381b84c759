//! The driver's answers: what is said, and where the session goes.

use super::{Answer, Move, Question, Reading, Server, replies};
use crate::base64;
use mail::{Reply, ReplyClass};
use std::time::Instant;

impl Server {
    pub(super) fn answer_command(&mut self, now: Instant, question: Question, verdict: Verdict) {
        let Verdict { accepted, reply, close } = verdict;
        match question {
            Question::Hello { extended } => {
                self.reset_transaction();
                self.go(if accepted { Move::Hello } else { Move::HelloRefused });
                if accepted {
                    self.extended = extended;
                    self.say_hello();
                } else {
                    self.hello = "".into();
                    self.extended = false;
                    self.say_or(&reply, replies::BAD_HELLO);
                }
            }
            Question::Mail { size, .. } => {
                self.say_or(&reply, replies::MAIL_OK);
                if accepted {
                    self.go(Move::Mail);
                    self.transactions += 1;
                    self.excused = 0;
                    self.declined = false;
                    self.content.expect(size.unwrap_or(0));
                } else if let Some(reply) = reply {
                    let reverse_path = self.envelope.reverse_path.clone();
                    self.decline(&reply);
                    self.note(Some(reverse_path), None, reply);
                    self.reset_transaction();
                }
            }
            Question::Rcpt(recipient) => {
                self.say_or(&reply, replies::RCPT_OK);
                if accepted {
                    self.go(Move::Rcpt);
                    self.envelope.recipients.push(recipient);
                } else if let Some(reply) = reply {
                    self.decline(&reply);
                    let reverse_path = self.envelope.reverse_path.clone();
                    self.note(Some(reverse_path), Some(recipient.path.as_str().into()), reply);
                }
            }
            Question::Data if accepted => {
                self.go(Move::Data);
                self.say(replies::GO_ON);
                self.content_begins(now, Reading::Data);
            }
            Question::Data => {
                self.say_or(&reply, replies::BAD_SEQUENCE);
                if let Some(reply) = reply {
                    self.declined = true;
                    self.note_transaction(&reply);
                }
                self.lose_transaction();
            }
            Question::FirstChunk { size, last } if accepted => {
                self.go(Move::Bdat);
                self.begin_chunk(now, size, last);
            }
            Question::FirstChunk { size, .. } => {
                let reply = reply.expect("a refusal has a reply");
                self.declined = true;
                self.note_transaction(&reply);
                self.lose_transaction();
                self.swallow(now, size, reply);
            }
            Question::XClient(attributes) if accepted => {
                self.go(Move::XClient);
                self.forget_client();
                self.user = attributes.login;
                self.say_greeting();
            }
            Question::Vrfy(_) => self.say_or(&reply, replies::VRFY),
            Question::Expn(_) => self.say_or(&reply, replies::NOT_SERVED),
            Question::XClient(_) => self.say_or(&reply, replies::NO_XCLIENT),
            Question::Auth { .. } | Question::AuthResponse(_) | Question::Message { .. } => {
                unreachable!("answered elsewhere")
            }
        }
        if close {
            self.close();
        }
    }

    pub(super) fn answer_message(&mut self, answer: Answer, recipients: usize) {
        let (given, close) = match answer {
            Answer::Accept => (vec![], false),
            Answer::Reply(reply) => {
                let close = reply.code.get() == 421;
                (vec![reply], close)
            }
            Answer::Close(reply) => (vec![reply], true),
            Answer::Replies(given) => {
                assert!(self.connection.lmtp && given.len() == recipients, "LMTP: one reply a recipient");
                (given, false)
            }
            other => panic!("a message was asked about, and {other:?} answered"),
        };
        let wanted = if self.connection.lmtp { recipients } else { 1 };
        for n in 0..wanted {
            match given.get(n).or(given.first()) {
                Some(reply) => self.say_given(reply),
                None => self.say(replies::MESSAGE_OK),
            }
        }
        if given.is_empty() || given.iter().any(Reply::is_completed) {
            self.idle_commands = 0;
        } else {
            self.declined = true;
            if given.iter().any(Reply::is_permanent) {
                self.refused();
            }
        }
        self.end_transaction();
        if close {
            self.close();
        }
    }

    pub(super) fn answer_auth(&mut self, answer: Answer) {
        match answer {
            Answer::Challenge(challenge) => {
                self.output.extend_from_slice(b"334 ");
                base64::encode(&challenge, &mut self.output);
                self.output.extend_from_slice(b"\r\n");
            }
            Answer::Authenticated(user) => {
                self.go(Move::AuthEnd);
                self.user = Some(user);
                self.say(replies::AUTHENTICATED);
            }
            Answer::Reply(reply) => self.fail_auth(&reply, false),
            Answer::Close(reply) => self.fail_auth(&reply, true),
            other => panic!("AUTH was asked about, and {other:?} answered"),
        }
    }

    fn fail_auth(&mut self, reply: &Reply, close: bool) {
        assert!(!reply.is_completed(), "success names the user: Answer::Authenticated");
        self.go(Move::AuthEnd);
        self.say_given(reply);
        self.auth_failures += 1;
        if close || reply.code.get() == 421 {
            self.close();
        } else if self.auth_failures >= self.config.session.auth_failures_max {
            self.close_with(replies::TOO_MANY_AUTH_FAILURES);
        }
    }
}

/// An answer to a command, taken apart.
pub(super) struct Verdict {
    accepted: bool,
    reply: Option<Reply>,
    close: bool,
}

impl Verdict {
    pub(super) fn of(answer: Answer) -> Self {
        let (reply, close) = match answer {
            Answer::Accept => return Self { accepted: true, reply: None, close: false },
            Answer::Reply(reply) => {
                let close = reply.code.get() == 421;
                (reply, close)
            }
            Answer::Close(reply) => (reply, true),
            other => panic!("a command was asked about, and {other:?} answered"),
        };
        let accepted = matches!(reply.class(), ReplyClass::Completed | ReplyClass::Intermediate);
        Self { accepted, reply: Some(reply), close }
    }
}
