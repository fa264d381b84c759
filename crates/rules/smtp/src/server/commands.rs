//! Commands: whether they may come now, what they say, and what follows.

use super::refusal::No;
use super::{Move, Order, Question, Reading, Server, State, XClient, replies};
use crate::command::{self, Command, Verb};
use crate::parameter::{MailParameters, ParameterError, RcptParameters};
use crate::{base64, path, reply, xtext};
use mail::{BodyType, Envelope, ForwardPath, Host, Protocol, Recipient, Reply, ReversePath};
use std::net::IpAddr;
use std::time::Instant;

impl Server {
    /// Runs a line, its CRLF taken off.
    pub(super) fn receive_command(&mut self, now: Instant, line: &[u8]) {
        if self.state == State::Auth {
            return self.auth_response(now, line);
        }
        let Ok(Command { verb, argument }) = Command::parse(line) else {
            if command::verb_of(line) == Verb::Foreign {
                return self.close_with(replies::NOT_SMTP);
            }
            return self.wrong(now, replies::NOT_A_COMMAND);
        };
        if self.refusals > self.config.session.refusals_max && verb != Verb::Quit {
            return self.close_with(replies::TOO_MANY_REFUSALS);
        }
        match verb {
            Verb::Quit if argument.is_empty() => self.close_with(replies::BYE),
            Verb::Foreign => self.close_with(replies::NOT_SMTP),
            _ if self.state == State::Refused => self.wrong(now, replies::BAD_SEQUENCE),
            Verb::Data | Verb::Rset | Verb::Quit | Verb::StartTls if !argument.is_empty() => {
                self.wrong(now, replies::ARGUMENT_UNWANTED);
            }
            Verb::Helo => self.greet_back(now, argument, false),
            Verb::Ehlo if self.connection.lmtp => self.wrong(now, replies::USE_LHLO),
            Verb::Lhlo if !self.connection.lmtp => self.wrong(now, replies::NOT_LMTP),
            Verb::Ehlo | Verb::Lhlo => self.greet_back(now, argument, true),
            Verb::Mail => self.mail(now, argument),
            Verb::Rcpt => self.rcpt(now, argument),
            Verb::Data => self.data(now),
            Verb::Bdat => self.bdat(now, argument),
            Verb::Rset => {
                // Who clears up after our no is not idle: on a full disk a client may do nothing else for
                // long, and must go on to hear that the disk is full. Refusals for good have their own limit.
                if std::mem::take(&mut self.declined) || self.idle_command() {
                    self.go(Move::Reset);
                    self.reset_transaction();
                    self.excused = 0;
                    self.say(replies::OK);
                }
            }
            Verb::Noop => self.idle_reply(replies::OK),
            Verb::Help => self.idle_reply(replies::HELP),
            Verb::Vrfy | Verb::Expn => self.verify(now, verb, argument),
            Verb::StartTls => self.start_tls(now),
            Verb::Auth => self.auth(now, argument),
            Verb::XClient => self.xclient(now, argument),
            Verb::NotServed => self.wrong(now, replies::NOT_SERVED),
            Verb::Quit | Verb::Unknown => self.wrong(now, replies::UNKNOWN_COMMAND),
        }
    }

    /// Counts a command that does no work. False if it was one too many.
    fn idle_command(&mut self) -> bool {
        self.idle_commands += 1;
        let good = self.idle_commands <= self.config.session.idle_commands_max;
        if !good {
            self.close_with(replies::TOO_MANY_IDLE_COMMANDS);
        }
        good
    }

    fn idle_reply(&mut self, line: &'static str) {
        if self.idle_command() {
            self.say(line);
        }
    }

    /// A command out of order. It is not held against a client whose transaction fell while it was pipelining.
    fn out_of_order(&mut self, now: Instant, line: &'static str) {
        match self.excused.checked_sub(1) {
            Some(left) => {
                self.excused = left;
                self.say(line);
            }
            None => self.wrong(now, line),
        }
    }

    fn greet_back(&mut self, now: Instant, name: &str, extended: bool) {
        if self.connection.lmtp && !extended {
            return self.wrong(now, replies::USE_LHLO);
        }
        if !self.hello.is_empty() && !self.idle_command() {
            return;
        }
        let fits = match self.config.session.hello_name {
            super::HelloName::Lenient => is_plausible_name(name),
            super::HelloName::Strict => is_plausible_name(name) && Host::parse(name).is_ok(),
        };
        if !fits {
            return self.wrong(now, replies::BAD_HELLO);
        }
        self.hello = name.into();
        self.ask(Question::Hello { extended });
    }

    pub(super) fn say_greeting(&mut self) {
        self.output.extend_from_slice(b"220 ");
        self.output.extend_from_slice(self.config.hostname.as_str().as_bytes());
        self.output.push(b' ');
        self.output.extend(self.config.session.banner.bytes().filter(|b| matches!(b, b' '..=b'~')));
        self.output.extend_from_slice(b"\r\n");
    }

    /// What is offered, one line each (RFC 5321 §4.1.1.1).
    pub(super) fn say_hello(&mut self) {
        let (config, connection) = (&self.config.session, &self.connection);
        let out = &mut self.output;
        if !self.extended {
            out.extend_from_slice(b"250 ");
            out.extend_from_slice(self.config.hostname.as_str().as_bytes());
            return out.extend_from_slice(b"\r\n");
        }
        let mut line_start = out.len();
        let mut line = |parts: &[&str]| {
            line_start = out.len();
            out.extend_from_slice(b"250-");
            parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
            out.extend_from_slice(b"\r\n");
        };
        line(&[self.config.hostname.as_str()]);
        line(&["PIPELINING"]);
        line(&["SIZE ", &config.message_size_max.bytes().to_string()]);
        line(&["8BITMIME"]);
        line(&["ENHANCEDSTATUSCODES"]);
        for (word, offered) in [
            ("SMTPUTF8", config.smtputf8),
            ("DSN", config.dsn),
            ("CHUNKING", config.chunking),
            ("BINARYMIME", config.chunking && config.binarymime),
            ("STARTTLS", connection.starttls_available && !connection.tls),
            ("REQUIRETLS", config.requiretls && connection.tls),
            ("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT", connection.xclient_allowed),
        ] {
            if offered {
                line(&[word]);
            }
        }
        if !connection.auth_mechanisms.is_empty() && (connection.tls || config.auth_without_tls) {
            line(&["AUTH ", &connection.auth_mechanisms.join(" ")]);
        }
        // RFC 9422 §4: six digits at most.
        let [recipients, transactions] =
            [config.recipients_max, config.transactions_max].map(|max| max.min(999_999).to_string());
        line(&["LIMITS RCPTMAX=", &recipients, " MAILMAX=", &transactions]);
        out[line_start + 3] = b' ';
    }

    fn mail(&mut self, now: Instant, argument: &str) {
        let mut understood = None;
        if let Err(no) = self.try_mail(argument, &mut understood) {
            self.note(understood, None, fixed(no.line()));
            self.say_no(now, no);
        }
    }

    /// Asks about MAIL, or says why not; `understood` is the reverse-path once it is read.
    fn try_mail(&mut self, argument: &str, understood: &mut Option<ReversePath>) -> Result<(), No> {
        if !self.state.permits(Move::Mail) {
            let line = if self.state == State::Start { replies::HELLO_FIRST } else { replies::MAIL_OPEN };
            return Err(No::Wrong(line));
        }
        // Whatever is wrong with this MAIL, the RCPT and DATA pipelined behind it are not further mistakes.
        self.excuse(self.config.session.recipients_max.saturating_add(1));
        if self.connection.tls_required && !self.connection.tls {
            return Err(No::Wrong(replies::TLS_REQUIRED));
        }
        if self.connection.auth_required && self.user.is_none() {
            return Err(No::Wrong(replies::AUTH_REQUIRED));
        }
        if self.transactions >= self.config.session.transactions_max {
            return Err(No::Close(replies::TOO_MANY_TRANSACTIONS));
        }
        let Some(text) = command::after_keyword(argument, "FROM:", self.config.session.space_after_colon)
        else {
            return Err(No::Wrong(replies::MAIL_SYNTAX));
        };
        let Ok((path, rest)) = path::reverse(text) else {
            return Err(No::Wrong(replies::BAD_SENDER));
        };
        *understood = Some(path);
        let parameters = match MailParameters::parse(rest) {
            Ok(parameters) => parameters,
            Err(error) => return Err(No::Wrong(parameter_reply(error))),
        };
        if !self.offers(&parameters) {
            return Err(No::Wrong(replies::UNKNOWN_PARAMETER));
        }
        if !parameters.smtputf8 && !argument.is_ascii() {
            return Err(No::Wrong(replies::SENDER_NEEDS_SMTPUTF8));
        }
        if parameters.size.is_some_and(|size| size > self.config.session.message_size_max.bytes()) {
            return Err(No::Never(replies::TOO_BIG));
        }
        self.envelope = Envelope {
            reverse_path: understood.take().unwrap_or(ReversePath::Null),
            recipients: Vec::new(),
            body: parameters.body.unwrap_or_default(),
            smtputf8: parameters.smtputf8,
            require_tls: parameters.require_tls,
            ret: parameters.ret,
            envid: parameters.envid.map(Into::into),
        };
        self.ask(Question::Mail { size: parameters.size, auth: parameters.auth.map(Into::into) });
        Ok(())
    }

    /// Whether every parameter belongs to an extension on offer; the others are unknown words here.
    fn offers(&self, parameters: &MailParameters) -> bool {
        let config = &self.config.session;
        (config.smtputf8 || !parameters.smtputf8)
            && (config.dsn || (parameters.ret.is_none() && parameters.envid.is_none()))
            && ((config.requiretls && self.connection.tls) || !parameters.require_tls)
            && ((config.chunking && config.binarymime) || parameters.body != Some(BodyType::BinaryMime))
    }

    fn rcpt(&mut self, now: Instant, argument: &str) {
        let mut understood = None;
        if let Err(no) = self.try_rcpt(argument, &mut understood) {
            self.note_recipient(argument, understood, fixed(no.line()));
            self.say_no(now, no);
        }
    }

    /// Asks about RCPT, or says why not; `understood` is the path once it is read.
    fn try_rcpt(&mut self, argument: &str, understood: &mut Option<ForwardPath>) -> Result<(), No> {
        if !self.state.permits(Move::Rcpt) {
            let line = if self.state == State::Chunks { replies::CHUNKS_OPEN } else { replies::MAIL_FIRST };
            return Err(No::OutOfOrder(line));
        }
        self.rcpt_tried = true;
        let Some(text) = command::after_keyword(argument, "TO:", self.config.session.space_after_colon)
        else {
            return Err(No::Wrong(replies::RCPT_SYNTAX));
        };
        let Ok((path, rest)) = path::forward(text, &self.config.hostname) else {
            return Err(No::Wrong(replies::BAD_RECIPIENT));
        };
        let parameters = match RcptParameters::parse(rest) {
            Ok(parameters) => parameters,
            Err(error) => return Err(No::Wrong(parameter_reply(error))),
        };
        if !self.config.session.dsn && (parameters.orcpt.is_some() || !parameters.notify.is_absent()) {
            return Err(No::Wrong(replies::UNKNOWN_PARAMETER));
        }
        if !self.envelope.smtputf8 && !argument.is_ascii() {
            return Err(No::Wrong(replies::RCPT_NEEDS_SMTPUTF8));
        }
        if self.envelope.recipients.len() >= self.config.session.recipients_max as usize {
            // 452, never 5yz: the client sends the rest in another transaction (RFC 5321 §4.5.3.1.10).
            *understood = Some(path);
            return Err(No::Limit(replies::TOO_MANY_RECIPIENTS));
        }
        self.ask(Question::Rcpt(Recipient {
            path,
            notify: parameters.notify,
            orcpt: parameters.orcpt.map(Into::into),
        }));
        Ok(())
    }

    fn say_no(&mut self, now: Instant, no: No) {
        match no {
            No::Wrong(line) => self.wrong(now, line),
            No::OutOfOrder(line) => self.out_of_order(now, line),
            No::Never(line) => {
                self.refused();
                self.say(line);
            }
            No::Limit(line) => self.say(line),
            No::Close(line) => self.close_with(line),
        }
    }

    fn data(&mut self, now: Instant) {
        if !self.state.permits(Move::Data) {
            return match self.state {
                State::Mail if self.rcpt_tried => self.say(self.no_valid_recipients()),
                State::Mail => self.wrong(now, replies::RCPT_FIRST),
                State::Chunks => self.wrong(now, replies::CHUNKS_OPEN),
                _ => self.out_of_order(now, replies::MAIL_FIRST),
            };
        }
        if self.envelope.body == BodyType::BinaryMime {
            return self.wrong(now, replies::BINARY_NEEDS_BDAT);
        }
        self.ask(Question::Data);
    }

    fn no_valid_recipients(&self) -> &'static str {
        // RFC 2033 §4.2 asks for 503 where SMTP says 554.
        if self.connection.lmtp { replies::LMTP_NO_VALID_RECIPIENTS } else { replies::NO_VALID_RECIPIENTS }
    }

    fn bdat(&mut self, now: Instant, argument: &str) {
        let Some((size, last)) = command::bdat(argument) else {
            // The octets of the chunk cannot be told from commands any more.
            self.note_transaction(&fixed(replies::BAD_CHUNK_SIZE));
            return self.close_with(replies::BAD_CHUNK_SIZE);
        };
        let most = self
            .config
            .session
            .message_size_max
            .bytes()
            .saturating_add(self.config.session.message_overrun_max.bytes());
        if size > most.saturating_sub(self.content.arrived()) {
            self.note_transaction(&fixed(replies::TOO_BIG_CLOSING));
            return self.close_with(replies::TOO_BIG_CLOSING);
        }
        if !self.config.session.chunking {
            self.errors += 1;
            return self.swallow(now, size, fixed(replies::NOT_SERVED));
        }
        if !self.state.permits(Move::Bdat) {
            let line = match self.state {
                State::Mail if self.rcpt_tried => self.no_valid_recipients(),
                State::Mail => replies::RCPT_FIRST,
                _ => replies::MAIL_FIRST,
            };
            match self.excused.checked_sub(1) {
                Some(left) => self.excused = left,
                None => self.errors += 1,
            }
            return self.swallow(now, size, fixed(line));
        }
        if self.state == State::Rcpt {
            return self.ask(Question::FirstChunk { size, last });
        }
        self.go(Move::Bdat);
        self.begin_chunk(now, size, last);
    }

    pub(super) fn begin_chunk(&mut self, now: Instant, size: u64, last: bool) {
        self.chunks += 1;
        if self.chunks > self.config.session.chunks_max {
            // Not excused: whoever goes on after so many is no victim of pipelining.
            self.note_transaction(&fixed(replies::TOO_MANY_CHUNKS));
            self.end_transaction();
            return self.swallow(now, size, fixed(replies::TOO_MANY_CHUNKS));
        }
        if size == 0 {
            return self.chunk_ended(last);
        }
        if last {
            self.content.expect(self.content.arrived().saturating_add(size));
        }
        self.content_begins(now, Reading::Chunk { left: size, last });
    }

    /// Reads the octets of a refused chunk, then answers: they must never be taken for commands.
    pub(super) fn swallow(&mut self, now: Instant, size: u64, reply: Reply) {
        if self.errors >= self.config.session.errors_max {
            return self.close_with(replies::TOO_MANY_ERRORS);
        }
        if size == 0 {
            return reply::write(&reply, &mut self.output);
        }
        self.content_begins(now, Reading::Swallow { left: size, reply });
    }

    fn verify(&mut self, now: Instant, verb: Verb, argument: &str) {
        if argument.is_empty() {
            return self.wrong(now, replies::ARGUMENT_MISSING);
        }
        if !self.idle_command() {
            return;
        }
        let (name, utf8) = match argument.rsplit_once(' ') {
            Some((name, word)) if self.config.session.smtputf8 && word.eq_ignore_ascii_case("SMTPUTF8") => {
                (name, true)
            }
            _ => (argument, false),
        };
        if !utf8 && !name.is_ascii() {
            return self.wrong(now, replies::SENDER_NEEDS_SMTPUTF8);
        }
        match verb {
            Verb::Vrfy if self.config.session.vrfy => self.ask(Question::Vrfy(name.into())),
            Verb::Vrfy => self.say(replies::VRFY),
            _ if self.config.session.expn => self.ask(Question::Expn(name.into())),
            _ => self.say(replies::NOT_SERVED),
        }
    }

    fn start_tls(&mut self, now: Instant) {
        if self.connection.tls {
            return self.wrong(now, replies::TLS_ON);
        }
        if !self.connection.starttls_available {
            return self.wrong(now, replies::NOT_SERVED);
        }
        if !self.state.permits(Move::StartTls) {
            let line = if self.state == State::Start { replies::EHLO_FIRST } else { replies::MAIL_OPEN };
            return self.wrong(now, line);
        }
        self.go(Move::StartTls);
        self.say(replies::TLS_READY);
        self.order = Some(Order::StartTls);
    }

    fn auth(&mut self, now: Instant, argument: &str) {
        if self.connection.auth_mechanisms.is_empty() {
            return self.wrong(now, replies::NOT_SERVED);
        }
        if self.user.is_some() {
            return self.wrong(now, replies::AUTH_ONCE);
        }
        if !self.state.permits(Move::Auth) {
            let line = if self.state == State::Start { replies::EHLO_FIRST } else { replies::MAIL_OPEN };
            return self.wrong(now, line);
        }
        if !self.extended {
            return self.wrong(now, replies::EHLO_FIRST);
        }
        if !self.connection.tls && !self.config.session.auth_without_tls {
            return self.wrong(now, replies::AUTH_NEEDS_TLS);
        }
        let (name, initial) = match argument.split_once(' ') {
            Some((name, initial)) => (name, Some(initial.trim_start_matches(' '))),
            None => (argument, None),
        };
        if name.is_empty() {
            return self.wrong(now, replies::ARGUMENT_MISSING);
        }
        let offered =
            self.connection.auth_mechanisms.iter().find(|offered| offered.eq_ignore_ascii_case(name));
        let Some(mechanism) = offered.cloned() else {
            return self.wrong(now, replies::BAD_MECHANISM);
        };
        let initial = match initial {
            // RFC 4954 §4: a response of no octets is written `=`.
            Some("=") => Some(Vec::new()),
            Some(coded) => match base64::decode(coded.as_bytes()) {
                Some(response) if !response.is_empty() => Some(response),
                _ => return self.wrong(now, replies::BAD_BASE64),
            },
            None => None,
        };
        self.go(Move::Auth);
        self.ask(Question::Auth { mechanism, initial });
    }

    fn auth_response(&mut self, now: Instant, line: &[u8]) {
        if line == b"*" {
            self.go(Move::AuthEnd);
            return self.wrong(now, replies::AUTH_CANCELLED);
        }
        match base64::decode(line) {
            Some(response) => self.ask(Question::AuthResponse(response)),
            None => {
                self.go(Move::AuthEnd);
                self.wrong(now, replies::BAD_BASE64);
            }
        }
    }

    fn xclient(&mut self, now: Instant, argument: &str) {
        if !self.connection.xclient_allowed {
            return self.wrong(now, replies::NO_XCLIENT);
        }
        if !self.state.permits(Move::XClient) {
            return self.wrong(now, replies::MAIL_OPEN);
        }
        match read_xclient(argument) {
            Some(attributes) => self.ask(Question::XClient(Box::new(attributes))),
            None => self.wrong(now, replies::BAD_XCLIENT),
        }
    }
}

/// One of our own lines as a reply, for the places that keep it for later.
pub(super) fn fixed(line: &'static str) -> Reply {
    let code = line.get(..3).and_then(|code| code.parse().ok()).expect("a line of ours begins with its code");
    let text = &line[4..];
    let enhanced = mail::EnhancedStatusCode::parse(text);
    let text = if enhanced.is_some() { text.split_once(' ').map_or("", |(_, text)| text) } else { text };
    Reply { enhanced, ..Reply::bare(code, text) }
}

fn parameter_reply(error: ParameterError) -> &'static str {
    match error {
        ParameterError::Unknown => replies::UNKNOWN_PARAMETER,
        ParameterError::Syntax => replies::BAD_PARAMETER,
    }
}

/// What real clients call themselves; nothing of it means anything in a Received field or a log.
fn is_plausible_name(name: &str) -> bool {
    let plausible = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    !name.is_empty() && name.len() <= 255 && name.bytes().all(plausible)
}

fn read_xclient(argument: &str) -> Option<XClient> {
    let mut found = XClient::default();
    if argument.is_empty() {
        return None;
    }
    for word in argument.split(' ').filter(|word| !word.is_empty()) {
        let (name, coded) = word.split_once('=')?;
        let value = match coded {
            "[UNAVAILABLE]" | "[TEMPUNAVAIL]" => None,
            _ if xtext::is_printable(coded.as_bytes()) => {
                let text = String::from_utf8(xtext::decode(coded.as_bytes())?).ok()?;
                if text.is_empty() || text.chars().any(char::is_control) {
                    return None;
                }
                Some(text)
            }
            _ => return None,
        };
        let address = |value: Option<String>| -> Option<Option<IpAddr>> {
            let Some(text) = value else { return Some(None) };
            let bare = match text.get(..5) {
                Some(tag) if tag.eq_ignore_ascii_case("IPV6:") => &text[5..],
                _ => &text,
            };
            bare.parse().ok().map(Some)
        };
        let port = |value: Option<String>| -> Option<Option<u16>> {
            value.map_or(Some(None), |text| text.parse().ok().map(Some))
        };
        match name.to_ascii_uppercase().as_str() {
            "NAME" => found.name = value.map(Into::into),
            "ADDR" => found.address = address(value)?,
            "PORT" => found.port = port(value)?,
            "PROTO" => {
                found.protocol = match value.map(|text| text.to_ascii_uppercase()).as_deref() {
                    None => None,
                    Some("SMTP") => Some(Protocol::Smtp),
                    Some("ESMTP") => Some(Protocol::Esmtp),
                    Some("LMTP") => Some(Protocol::Lmtp),
                    Some(_) => return None,
                }
            }
            "HELO" => {
                if value.as_ref().is_some_and(|helo| !is_plausible_name(helo)) {
                    return None;
                }
                found.helo = value.map(Into::into);
            }
            "LOGIN" => found.login = value.map(Into::into),
            "DESTADDR" => found.destination_address = address(value)?,
            "DESTPORT" => found.destination_port = port(value)?,
            _ => return None,
        }
    }
    Some(found)
}
