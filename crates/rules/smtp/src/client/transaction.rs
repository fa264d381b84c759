//! One transaction on its way through a session: what was sent, what was answered, what became of whom.

use super::Extensions;
use super::output::Output;
use crate::command;
use crate::data::{END_OF_DATA, Stuffer};
use crate::parameter::{MailParameters, RcptParameters};
use bytes::Bytes;
use mail::{BodyType, Message, Outcome, Reply, ReversePath};
use std::sync::Arc;

/// A message for some of its recipients, as the caller hands it in.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The caller's name for it, returned with the result.
    pub token: u64,
    /// The envelope.
    pub message: Arc<Message>,
    /// The reverse-path to say in place of the envelope's.
    pub reverse_path: Option<ReversePath>,
    /// Which recipients of the envelope, by index.
    pub recipients: Vec<u32>,
    /// The content in two pieces, back to back.
    pub content: [Bytes; 2],
    /// Octets of both; for SIZE.
    pub size: u64,
}

/// The command whose reply decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answered {
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, or BDAT before the end.
    Data,
    /// The end of data.
    End,
}

impl Transaction {
    fn reverse_path(&self) -> &ReversePath {
        self.reverse_path.as_ref().unwrap_or(&self.message.envelope.reverse_path)
    }
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientResult {
    /// Index in the envelope.
    pub index: u32,
    /// Delivered, Deferred or Bounced.
    pub outcome: Outcome,
    /// The connection was lost between the end of data and its reply: the peer may have the message.
    pub ambiguous: bool,
    /// The command whose reply decided; `None` if no reply of the peer did.
    pub answered: Option<Answered>,
}

/// A transaction's result: every recipient handed in, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The caller's name for it.
    pub token: u64,
    /// What became of each.
    pub recipients: Vec<RecipientResult>,
}

/// A block of content from this size on is not copied into the output. Below, the copy is cheaper than one
/// piece more in each write.
const SHARED_MIN: usize = 8 * 1024;

/// The next thing to send for a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Mail,
    Rcpt(usize),
    Data,
    /// DATA was sent; what comes next depends on its reply.
    AwaitData,
    /// Content, from this octet of the two pieces.
    Content(usize),
    /// Everything was sent.
    Sent,
}

#[derive(Debug)]
pub(super) struct Running {
    pub(super) tx: Transaction,
    pub(super) step: Step,
    pub(super) bdat: bool,
    results: Vec<Option<(Outcome, bool, Option<Answered>)>>,
    accepted: Vec<bool>,
    stuffer: Stuffer,
    /// The end of data stands in the output: from here on a lost connection is ambiguous.
    pub(super) ended: bool,
    /// How many octets the session has sent when the end of data is out.
    pub(super) end_at: u64,
    /// The server holds a transaction of ours that must be ended by RSET.
    pub(super) needs_rset: bool,
}

impl Running {
    pub(super) fn new(tx: Transaction, bdat: bool) -> Self {
        let count = tx.recipients.len();
        Self {
            tx,
            step: Step::Mail,
            bdat,
            results: vec![None; count],
            accepted: vec![false; count],
            stuffer: Stuffer::default(),
            ended: false,
            end_at: 0,
            needs_rset: false,
        }
    }

    pub(super) fn content_len(&self) -> usize {
        self.tx.content[0].len() + self.tx.content[1].len()
    }

    /// Appends up to about `budget` octets of content. True when the content and its end are out.
    pub(super) fn write_content(&mut self, from: usize, budget: usize, out: &mut Output) -> (usize, bool) {
        let mut at = from;
        let mut left = budget;
        for (piece, start) in [(&self.tx.content[0], 0), (&self.tx.content[1], self.tx.content[0].len())] {
            if at >= start && at < start + piece.len() && left > 0 {
                let from = at - start;
                let mut to = piece.len().min(from + left);
                if to < piece.len() && to - from > 1 && piece[to - 1] == b'\r' {
                    // A line end in two blocks would make the first one look as if it had a bare CR.
                    to -= 1;
                }
                let part = &piece[from..to];
                if part.len() >= SHARED_MIN && (self.bdat || self.stuffer.passes(part)) {
                    out.share(piece.slice(from..to));
                } else if self.bdat {
                    out.own().extend_from_slice(part);
                } else {
                    self.stuffer.push(part, out.own());
                }
                at += part.len();
                left -= part.len();
            }
        }
        let done = at == self.content_len();
        if done {
            if !self.bdat {
                self.stuffer.finish(out.own());
                out.own().extend_from_slice(END_OF_DATA);
            }
            self.ended = true;
        }
        (at, done)
    }

    /// The reply to RCPT number `n`.
    pub(super) fn rcpt_reply(&mut self, n: usize, reply: Reply) {
        if reply.is_completed() {
            self.accepted[n] = true;
        } else if self.results[n].is_none() {
            self.results[n] = Some((refusal(reply), false, Some(Answered::Rcpt)));
        }
    }

    /// Recipients the server took and whose fate is open, in the order of their RCPT commands.
    pub(super) fn open(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.results.len()).filter(|&n| self.results[n].is_none() && self.accepted[n])
    }

    pub(super) fn has_open(&self) -> bool {
        self.open().next().is_some()
    }

    /// One reply decides for all whose fate is open. A 2yz counts only at the end of data: no other reply says
    /// that the message was taken.
    pub(super) fn decide_all(&mut self, reply: &Reply, answered: Option<Answered>) {
        let at_end = answered == Some(Answered::End);
        for n in 0..self.results.len() {
            if self.results[n].is_none() {
                let taken = at_end && self.accepted[n] && reply.is_completed();
                let outcome = if taken { Outcome::Delivered(reply.clone()) } else { refusal(reply.clone()) };
                self.results[n] = Some((outcome, false, answered));
            }
        }
    }

    /// False if a 2yz cannot be the reply to the end of data: it came before the end was out, or its enhanced
    /// status code is one of MAIL or RCPT (2.1.z, RFC 3463 §3.2).
    pub(super) fn may_be_end(&self, sent_total: u64, reply: &Reply) -> bool {
        sent_total >= self.end_at && reply.enhanced.is_none_or(|code| code.subject() != 1)
    }

    /// The end-of-data reply for one recipient (LMTP, RFC 2033 §4.2).
    pub(super) fn decide(&mut self, n: usize, reply: Reply) {
        if self.results[n].is_none() {
            let outcome = if reply.is_completed() { Outcome::Delivered(reply) } else { refusal(reply) };
            self.results[n] = Some((outcome, false, Some(Answered::End)));
        }
    }

    /// The connection is gone.
    pub(super) fn lost(&mut self, reply: &Reply) {
        for n in 0..self.results.len() {
            if self.results[n].is_none() {
                self.results[n] =
                    Some((Outcome::Deferred(reply.clone()), self.ended && self.accepted[n], None));
            }
        }
    }

    pub(super) fn finish(self) -> Finished {
        let unanswered =
            || (Outcome::Deferred(Reply::new(451, (4, 5, 0), "no reply for this recipient")), false, None);
        let recipients = self
            .tx
            .recipients
            .iter()
            .zip(self.results)
            .map(|(&index, result)| {
                let (outcome, ambiguous, answered) = result.unwrap_or_else(unanswered);
                RecipientResult { index, outcome, ambiguous, answered }
            })
            .collect();
        Finished { token: self.tx.token, recipients }
    }
}

/// What a reply that is not a yes means. A 2yz or 3yz out of place is the server's mistake and no delivery.
fn refusal(reply: Reply) -> Outcome {
    if reply.is_permanent() {
        Outcome::Bounced(reply)
    } else if reply.is_transient() {
        Outcome::Deferred(reply)
    } else {
        let text = format!("reply out of place: {reply}");
        Outcome::Deferred(Reply::new(451, (4, 5, 0), text))
    }
}

/// A reason for which this message cannot go to a server that offers these extensions; `tls` tells whether the
/// session is encrypted.
pub(super) fn obstacle(tx: &Transaction, offered: &Extensions, tls: bool) -> Option<Reply> {
    let envelope = &tx.message.envelope;
    if let Some(limit) = offered.size.filter(|&limit| limit > 0 && tx.size > limit) {
        let text = format!("message of {} octets is over the next hop's limit of {limit}", tx.size);
        return Some(Reply::new(552, (5, 3, 4), text));
    }
    if envelope.require_tls && !(tls && offered.require_tls) {
        return Some(Reply::new(550, (5, 7, 30), "next hop does not support REQUIRETLS"));
    }
    if envelope.body == BodyType::BinaryMime && !offered.binarymime {
        return Some(Reply::new(
            554,
            (5, 6, 3),
            "next hop does not take BINARYMIME and conversion is not supported",
        ));
    }
    if envelope.smtputf8 && !offered.smtputf8 && needs_smtputf8(tx) {
        return Some(Reply::new(550, (5, 6, 7), "next hop does not support SMTPUTF8"));
    }
    // Whatever the client declared: raw eight-bit octets never go to a host that knows seven (RFC 6152 §3).
    if !offered.eight_bit_mime && !tx.content.iter().all(|piece| piece.is_ascii()) {
        return Some(Reply::new(
            554,
            (5, 6, 3),
            "next hop does not support 8BITMIME and conversion is not supported",
        ));
    }
    None
}

/// True if an address of the transaction or a header field holds octets beyond ASCII (RFC 6531 §3.6).
fn needs_smtputf8(tx: &Transaction) -> bool {
    let envelope = &tx.message.envelope;
    let addresses_ascii = tx.reverse_path().as_str().is_ascii()
        && tx.recipients.iter().all(|&n| {
            envelope.recipients.get(n as usize).is_none_or(|recipient| recipient.path.as_str().is_ascii())
        });
    let header = |content: &[u8]| {
        let end = memchr::memmem::find(content, b"\r\n\r\n").unwrap_or(content.len());
        !content[..end].is_ascii()
    };
    !addresses_ascii || !tx.content[0].is_ascii() || header(&tx.content[1])
}

/// Appends MAIL with the parameters the server offers.
pub(super) fn write_mail(tx: &Transaction, offered: &Extensions, out: &mut Vec<u8>) {
    let envelope = &tx.message.envelope;
    let parameters = MailParameters {
        size: offered.size.map(|_| tx.size),
        body: match envelope.body {
            BodyType::BinaryMime if offered.binarymime => Some(BodyType::BinaryMime),
            BodyType::EightBitMime if offered.eight_bit_mime => Some(BodyType::EightBitMime),
            _ => None,
        },
        smtputf8: envelope.smtputf8 && offered.smtputf8,
        require_tls: envelope.require_tls && offered.require_tls,
        ret: envelope.ret.filter(|_| offered.dsn),
        envid: envelope.envid.as_deref().filter(|_| offered.dsn),
        auth: None,
    };
    command::write_mail(tx.reverse_path(), &parameters, out);
}

/// Appends RCPT with the parameters the server offers.
pub(super) fn write_rcpt(tx: &Transaction, n: usize, offered: &Extensions, out: &mut Vec<u8>) {
    let Some(recipient) = tx.message.envelope.recipients.get(tx.recipients[n] as usize) else { return };
    let parameters = if offered.dsn {
        RcptParameters { notify: recipient.notify, orcpt: recipient.orcpt.as_deref() }
    } else {
        RcptParameters::default()
    };
    command::write_rcpt(&recipient.path, &parameters, out);
}
