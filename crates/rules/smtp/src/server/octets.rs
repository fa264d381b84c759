//! Octets from the client: lines, content, chunks, and what is thrown away.

use super::commands::fixed;
use super::content::Fault;
use super::{Move, Question, Reading, Server, State, TLS_HANDSHAKE, replies};
use crate::command::{self, Verb};
use crate::reply;
use mail::BodyType;
use std::time::Instant;

impl Server {
    pub(super) fn receive_line(&mut self, now: Instant, input: &[u8]) -> usize {
        if self.line.is_empty() && input[0] == TLS_HANDSHAKE {
            self.close_with(replies::NOT_SMTP);
            return input.len();
        }
        let Some(end) = memchr::memchr(b'\n', input) else {
            let room = self.line_max(input) + 1;
            let len = self.line.len() + input.len();
            let ends_in_cr = input.ends_with(b"\r");
            if len > room || (len == room && !ends_in_cr) {
                self.refuse_line(now, input, true);
                self.discard(len as u64, ends_in_cr);
            } else {
                self.line.extend_from_slice(input);
            }
            return input.len();
        };
        let head = &input[..end];
        let max = self.line_max(input);
        let len = self.line.len() + end;
        let whole = if end == 0 { self.line.ends_with(b"\r") } else { head.ends_with(b"\r") };
        if !whole || len - 1 > max {
            let too_long = len - usize::from(whole) > max;
            self.refuse_line(now, head, too_long);
            if whole {
                self.check_discarded(len as u64);
            } else {
                self.discard(len as u64 + 1, false);
            }
            return end + 1;
        }
        self.since = now;
        if self.line.is_empty() {
            self.receive_command(now, &head[..len - 1]);
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(head);
            line.pop();
            self.receive_command(now, &line);
        }
        end + 1
    }

    /// The limit for the line whose next octets are `input`.
    fn line_max(&self, input: &[u8]) -> usize {
        const AUTH: &[u8] = b"AUTH ";
        let begins_with_auth = || {
            self.line
                .iter()
                .chain(input)
                .take(AUTH.len())
                .map(u8::to_ascii_uppercase)
                .eq(AUTH.iter().copied())
        };
        if self.state == State::Auth
            || (self.line.len() + input.len() > self.config.session.command_line_max && begins_with_auth())
        {
            self.config.session.auth_line_max
        } else {
            self.config.session.command_line_max
        }
    }

    /// Answers a line that is too long, or holds a LF that ends nothing. None of it is run.
    fn refuse_line(&mut self, now: Instant, input: &[u8], too_long: bool) {
        let mut head = std::mem::take(&mut self.line);
        head.extend_from_slice(&input[..input.len().min(16)]);
        if self.state == State::Auth {
            self.go(Move::AuthEnd);
            return self.wrong(
                now,
                if too_long { replies::AUTH_LINE_TOO_LONG } else { replies::BARE_LF_IN_COMMAND },
            );
        }
        let line = if too_long { replies::LINE_TOO_LONG } else { replies::BARE_LF_IN_COMMAND };
        match command::verb_of(&head) {
            Verb::Foreign => return self.close_with(replies::NOT_SMTP),
            // Whom it was about stands in what nobody reads.
            Verb::Mail => self.note(None, None, fixed(line)),
            Verb::Rcpt => self.note_recipient("", None, fixed(line)),
            _ => {}
        }
        self.wrong(now, line);
    }

    fn discard(&mut self, count: u64, after_cr: bool) {
        if self.state != State::Closed {
            self.reading = Reading::Discard { count, after_cr };
            self.check_discarded(count);
        }
    }

    fn check_discarded(&mut self, count: u64) {
        if count > self.config.session.command_line_discard_max.bytes() && self.state != State::Closed {
            self.close_with(replies::ENDLESS_LINE);
        }
    }

    pub(super) fn receive_discard(&mut self, input: &[u8], count: u64, after_cr: bool) -> usize {
        let end = memchr::memchr(b'\n', input);
        let head = &input[..end.unwrap_or(input.len())];
        let cr = if head.is_empty() { after_cr } else { head.ends_with(b"\r") };
        let taken = end.map_or(input.len(), |at| at + 1);
        match end {
            Some(_) if cr => {
                self.reading = Reading::Line;
                self.check_discarded(count + taken as u64 - 1);
            }
            _ => self.discard(count + taken as u64, end.is_none() && cr),
        }
        taken
    }

    pub(super) fn receive_data(&mut self, now: Instant, input: &[u8]) -> usize {
        let (taken, ended) = self.content.data(&self.config.session, input);
        self.content_came(now, taken);
        if ended {
            self.reading = Reading::Line;
            self.content_ended();
        } else {
            self.check_overrun();
        }
        taken
    }

    pub(super) fn receive_chunk(&mut self, now: Instant, input: &[u8], left: u64, last: bool) -> usize {
        let taken = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        if self.envelope.body == BodyType::BinaryMime {
            self.content.binary_chunk(&self.config.session, &input[..taken]);
        } else {
            self.content.chunk(&self.config.session, &input[..taken]);
        }
        self.content_came(now, taken);
        let left = left - taken as u64;
        self.reading = Reading::Chunk { left, last };
        if left == 0 {
            self.chunk_ended(last);
        }
        taken
    }

    pub(super) fn chunk_ended(&mut self, last: bool) {
        self.reading = Reading::Line;
        if last {
            self.content.end_chunks(&self.config.session);
            self.content_ended();
        } else if let Some(fault) = self.content.fault() {
            self.say(fault_reply(fault));
            self.note_transaction(&fixed(fault_reply(fault)));
            self.refused();
            self.lose_transaction();
        } else {
            self.say(replies::CHUNK_OK);
        }
    }

    pub(super) fn receive_swallowed(&mut self, now: Instant, input: &[u8], left: u64) -> usize {
        let taken = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        self.content_came(now, taken);
        if let Reading::Swallow { left, reply } = &mut self.reading {
            *left -= taken as u64;
            if *left == 0 {
                reply::write(reply, &mut self.output);
                self.reading = Reading::Line;
            }
        }
        taken
    }

    /// The end of the content has come.
    fn content_ended(&mut self) {
        let recipients = self.envelope.recipients.len();
        let Some(fault) = self.content.fault() else {
            return self.ask(Question::Message { recipients });
        };
        let replies = if self.connection.lmtp { recipients } else { 1 };
        (0..replies).for_each(|_| self.say(fault_reply(fault)));
        self.note_transaction(&fixed(fault_reply(fault)));
        self.refused();
        self.end_transaction();
    }

    fn check_overrun(&mut self) {
        let most = self
            .config
            .session
            .message_size_max
            .bytes()
            .saturating_add(self.config.session.message_overrun_max.bytes());
        if self.content.arrived() > most {
            self.note_transaction(&fixed(replies::TOO_BIG_CLOSING));
            self.close_with(replies::TOO_BIG_CLOSING);
        }
    }
}

fn fault_reply(fault: Fault) -> &'static str {
    match fault {
        Fault::BareNewline => replies::BARE_NEWLINE,
        Fault::LongLine => replies::LONG_LINE,
        Fault::HeaderSize => replies::HEADER_TOO_BIG,
        Fault::HeaderCount => replies::TOO_MANY_FIELDS,
        Fault::TooBig => replies::TOO_BIG,
    }
}
