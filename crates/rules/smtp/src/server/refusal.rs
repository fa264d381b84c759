//! Refusals for the driver's records: whom the client was told no about, and why.
//!
//! What a session leaves is bounded by `refusal_records_max`: a client that sends nothing but junk is worth
//! so many records and no more, and the rest are counted.

use super::{Server, State};
use crate::command;
use crate::path;
use mail::{Envelope, ForwardPath, Reply, ReversePath};

/// Most octets kept of a recipient that could not be read as a path: the longest path there is and some.
const RECIPIENT_TEXT_MAX: usize = 512;

/// A transaction, or one recipient of it, that was refused, by the machine or by the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reverse-path, as far as it was understood.
    pub reverse_path: Option<ReversePath>,
    /// The recipient, if the refusal was about one: its path, or the text that was none, clipped and without
    /// control characters.
    pub recipient: Option<Box<str>>,
    /// What the client was told.
    pub reply: Reply,
}

/// The refusals of a session.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    waiting: Vec<Refusal>,
    noted: u32,
    left_out: u64,
}

/// Why MAIL or RCPT is refused, and what that says of the client.
pub(super) enum No {
    /// It made a mistake.
    Wrong(&'static str),
    /// The command came out of order, perhaps because the one before it was refused.
    OutOfOrder(&'static str),
    /// It asked for what it will never get.
    Never(&'static str),
    /// It asked for more than a limit of ours.
    Limit(&'static str),
    /// The session ends.
    Close(&'static str),
}

impl No {
    pub(super) fn line(&self) -> &'static str {
        match *self {
            Self::Wrong(line)
            | Self::OutOfOrder(line)
            | Self::Never(line)
            | Self::Limit(line)
            | Self::Close(line) => line,
        }
    }
}

impl Server {
    /// What was refused since this was asked last, at most `refusal_records_max` in a session; the driver
    /// records it.
    pub fn take_refusals(&mut self) -> Vec<Refusal> {
        self.refusals_noted.as_mut().map(|refusals| std::mem::take(&mut refusals.waiting)).unwrap_or_default()
    }

    /// Refusals of this session that were one too many to be among those.
    pub fn refusals_left_out(&self) -> u64 {
        self.refusals_noted.as_ref().map_or(0, |refusals| refusals.left_out)
    }

    /// Notes that a message the driver was given is refused, for each of its recipients: the driver has the
    /// envelope, and says here what it is about to answer.
    pub fn note_refused(&mut self, envelope: &Envelope, reply: &Reply) {
        for recipient in &envelope.recipients {
            let path = recipient.path.as_str().into();
            self.note(Some(envelope.reverse_path.clone()), Some(path), reply.clone());
        }
    }

    pub(super) fn note(
        &mut self,
        reverse_path: Option<ReversePath>,
        recipient: Option<Box<str>>,
        reply: Reply,
    ) {
        let refusals = self.refusals_noted.get_or_insert_default();
        if refusals.noted >= self.config.session.refusal_records_max {
            refusals.left_out += 1;
            return;
        }
        refusals.noted += 1;
        refusals.waiting.push(Refusal { reverse_path, recipient, reply });
    }

    /// The open transaction is refused as a whole.
    pub(super) fn note_transaction(&mut self, reply: &Reply) {
        let envelope = std::mem::replace(&mut self.envelope, super::no_envelope());
        self.note_refused(&envelope, reply);
        self.envelope = envelope;
    }

    /// RCPT is refused.
    pub(super) fn note_recipient(&mut self, argument: &str, path: Option<ForwardPath>, reply: Reply) {
        let open = matches!(self.state, State::Mail | State::Rcpt | State::Chunks);
        let reverse_path = open.then(|| self.envelope.reverse_path.clone());
        let recipient = match path {
            Some(path) => path.as_str().into(),
            None => self.recipient_text(argument),
        };
        self.note(reverse_path, Some(recipient), reply);
    }

    /// The path in the argument of RCPT if there is one, else the argument itself, fit for a record.
    fn recipient_text(&self, argument: &str) -> Box<str> {
        let text = command::after_keyword(argument, "TO:", true).unwrap_or(argument);
        if let Ok((path, _)) = path::forward(text, &self.config.hostname) {
            return path.as_str().into();
        }
        let mut clean = String::with_capacity(text.len().min(RECIPIENT_TEXT_MAX));
        for character in text.chars().filter(|character| !character.is_control()) {
            if clean.len() + character.len_utf8() > RECIPIENT_TEXT_MAX {
                break;
            }
            clean.push(character);
        }
        clean.into()
    }
}
