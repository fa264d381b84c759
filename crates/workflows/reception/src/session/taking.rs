//! A whole message: judged, tagged, given to the policy, and taken.

use super::{Session, refusal_reply, wall};
use crate::context::Rules;
use crate::feedback::read_report;
use crate::hooks::Discarded;
use crate::tagging::{Tagged, Verified, tag};
use crate::verify::Incoming;
use bytes::Bytes;
use mail::{BodyType, Envelope, Host, Message, Recipient, Reply, UnixMillis};
use message::{HeaderLimits, ReceivedField, add_missing, is_seven_bit};
use policy::{MailObject, Phase};
use smtp::server::Answer;
use spool::{Content, Draft};
use std::sync::Arc;
use tracing::warn;

impl Session {
    /// Reserves what a message needs before the client is told to send it.
    pub(super) async fn reserve(&mut self) -> Answer {
        if self.permit.is_some() {
            return Answer::Accept;
        }
        if self.taken.budget().is_short() {
            return Answer::Reply(crate::context::short_of_memory());
        }
        match self.context.reserve().await {
            Ok(permit) => {
                self.permit = Some(permit);
                Answer::Accept
            }
            Err(reply) => Answer::Reply(reply),
        }
    }

    /// Takes a whole message: the 250 is made of the proof that it is durable.
    pub(super) async fn message(&mut self, mut envelope: Envelope, mut content: Vec<u8>) -> Answer {
        let permit = match self.permit.take() {
            Some(permit) => permit,
            // BDAT without a Data question before it, or a second message on one reservation.
            None => match self.context.reserve().await {
                Ok(permit) => permit,
                Err(reply) => return self.refused(&envelope, reply),
            },
        };
        let rules = self.context.rules.load_full();
        let mut scan = message::scan(&content);
        if let Some(reply) = scan.refusal(&header_limits(&rules)) {
            return self.refused(&envelope, reply);
        }
        let origin = self.origin();
        let (id, at) = (self.context.spool.next_id(), wall());
        let mut begins = 0;
        let mut judged = None;
        let (peer, user) = (origin.peer.map(|peer| peer.ip()), origin.user.as_deref());
        if self.listener.config.verify && rules.verify.concerns(&rules.relay, peer, user) {
            let incoming = Incoming { content: &content, envelope: &envelope, origin: &origin, at };
            let (dns, figures) = (&*self.context.dns, &self.context.verify_figures);
            // In a box, so that a session that does not verify is no larger for it.
            match Box::pin(rules.verify.verify(incoming, dns, figures, self.context.reports.get())).await {
                Ok(found) => judged = Some(found),
                Err(reply) => return self.refused(&envelope, reply),
            }
            begins = rules.verify.take_out_forged(&mut content);
        }
        let verified =
            judged.as_ref().map(|judged| Verified { verdicts: &judged.verdicts, summary: &judged.summary });
        let rest = &mut content[begins..];
        let tagged = tag(&rules, &self.listener.config, &origin, &envelope, verified, rest);
        let Tagged { mut tags, headers, begins: taken } = match tagged {
            Ok(tagged) => tagged,
            Err(reply) => return self.refused(&envelope, reply),
        };
        begins += taken;
        let mut content = Bytes::from(content).slice(begins..);
        let mut discarded = Vec::new();
        if let Some(reader) = &rules.report_reader {
            let context = &self.context;
            match Box::pin(read_report(context, reader, &mut envelope, &origin, &content, at)).await {
                Ok(read) => discarded = read,
                Err(reply) => return self.refused(&envelope, reply),
            }
        }
        if self.hooks.is_some() && !envelope.recipients.is_empty() {
            let mut object = MailObject::new(envelope, tags, content);
            object.verified = judged.as_ref().map(|judged| judged.summary.clone());
            match Box::pin(self.object(object, &rules)).await {
                Ok((object, gone)) => {
                    content = object.content();
                    if object.is_edited() {
                        scan = message::scan(&content);
                    }
                    (envelope, tags) = (object.envelope, object.tags);
                    let why = |(recipient, why): (Recipient, Box<str>)| {
                        (recipient, format!("discarded by policy: {why}").into())
                    };
                    discarded.extend(gone.into_iter().map(why));
                }
                Err(answer) => return answer,
            }
        }
        if begins > 0 {
            scan = message::scan(&content);
        }
        if envelope.body == BodyType::SevenBit && !is_seven_bit(&content) {
            // Many clients send eight bits without a word; the next hop shall be told what it gets.
            envelope.body = BodyType::EightBitMime;
        }
        let mut for_discarded = None;
        if !discarded.is_empty() {
            // The recipients that are kept come first, so that a record's index means the same in both.
            let mut whole = envelope.clone();
            let kept = whole.recipients.len();
            let (recipients, reasons): (Vec<_>, Vec<_>) = discarded.into_iter().unzip();
            whole.recipients.extend(recipients);
            let size = content.len() as u64;
            let (origin, tags, headers) = (origin.clone(), tags.clone(), headers.clone());
            let envelope = whole;
            let message =
                Message { id, received_at: at, size, envelope, origin, tags, headers, extras: None };
            for_discarded = Some((Arc::new(message), kept, reasons));
            if kept == 0 {
                self.record_discarded(for_discarded, at);
                return Answer::Reply(queued(id));
            }
        }
        let host = Host::Domain(rules.hostname.clone());
        let for_recipient = match &envelope.recipients[..] {
            [one] => Some(&one.path),
            _ => None,
        };
        let mut prefix = Vec::with_capacity(320 + judged.as_ref().map_or(0, |judged| judged.fields.len()));
        // In front of everything, so that a reader who trusts us need not look further (RFC 8601 §4.1).
        if let Some(judged) = &judged {
            prefix.extend_from_slice(&judged.fields);
        }
        ReceivedField { origin: &origin, smtputf8: envelope.smtputf8, id, by: &host, for_recipient, at }
            .write(&mut prefix);
        if self.listener.config.add_missing_fields {
            add_missing(&mut prefix, &scan, id, &host, at);
        }
        if let Some(judged) = judged.as_ref().filter(|_| rules.verify.seals()) {
            let header = [&prefix, &content[..scan.header_len]].concat();
            let (body, figures) = (content.slice(scan.body_start..), &self.context.verify_figures);
            let mut sealed = Box::pin(rules.verify.seal(judged, header, body, at, figures)).await;
            sealed.extend_from_slice(&prefix);
            prefix = sealed;
        }
        if scan.needs_separator() {
            prefix.extend_from_slice(b"\r\n");
        }
        let content = Content { prefix: Bytes::from(prefix), body: content };
        let message = Message {
            id,
            received_at: at,
            size: content.len(),
            envelope,
            origin,
            tags,
            headers,
            extras: None,
        };
        match self.context.take(permit, Draft { message, content }).await {
            Ok(_) => {
                self.record_discarded(for_discarded, at);
                Answer::Reply(queued(id))
            }
            Err(refusal) => {
                warn!(session = %self.id, %refusal, "message refused");
                Answer::Reply(refusal_reply(refusal))
            }
        }
    }

    /// Asks the policy about a whole message: what is left of it, and whom it is not to reach. What the policy made
    /// of it is held to the same limits as what a client sends.
    async fn object(
        &mut self,
        mut object: MailObject,
        rules: &Rules,
    ) -> Result<(MailObject, Discarded), Answer> {
        self.gather_facts();
        let Some(hooks) = &mut self.hooks else { return Ok((object, Vec::new())) };
        let before = object.envelope.clone();
        let mut discarded = hooks.take_discarded(&mut object.envelope);
        if object.envelope.recipients.is_empty() || !hooks.want(Phase::Message) {
            return Ok((object, discarded));
        }
        let refused = match hooks.ask_message(&mut object).await {
            Ok(more) => {
                discarded.extend(more);
                let session = &rules.session.session;
                let edited = object.is_edited();
                let limits = header_limits(rules);
                let held = if !edited {
                    None
                } else if object.content().len() as u64 > session.message_size_max.bytes() {
                    Some(Reply::new(552, (5, 3, 4), "message too large"))
                } else {
                    message::scan(&object.content()).refusal(&limits)
                };
                if object.envelope.recipients.len() > session.recipients_max as usize {
                    warn!(session = %self.id, "a policy added more recipients than smtp.recipients_max");
                    Some(Answer::Reply(policy::failure()))
                } else {
                    held.map(Answer::Reply)
                }
            }
            Err(answer) => Some(answer),
        };
        match refused {
            None => Ok((object, discarded)),
            Some(answer) => {
                if let Answer::Reply(reply) | Answer::Close(reply) = &answer {
                    self.server.note_refused(&before, reply);
                }
                Err(answer)
            }
        }
    }

    /// Two records for each recipient that is accepted and not delivered: the sum of what came in and what became of
    /// it comes out even.
    fn record_discarded(&self, discarded: Option<(Arc<Message>, usize, Vec<Box<str>>)>, at: UnixMillis) {
        if let Some((message, kept, reasons)) = discarded {
            self.context.record_discarded(&message, kept, reasons, at);
        }
    }

    /// A message is refused: each of its recipients is for the records.
    fn refused(&mut self, envelope: &Envelope, reply: Reply) -> Answer {
        self.server.note_refused(envelope, &reply);
        Answer::Reply(reply)
    }
}

/// What a client is told of a message that was taken.
fn queued(id: mail::SpoolId) -> Reply {
    Reply::new(250, (2, 0, 0), format!("queued as {id}"))
}

fn header_limits(rules: &Rules) -> HeaderLimits {
    let session = &rules.session.session;
    HeaderLimits {
        hops_max: rules.reception.hops_max,
        header_max_octets: session.header_size_max.len(),
        fields_max: session.header_count_max,
        field_max_octets: session.header_size_max.len(),
    }
}
