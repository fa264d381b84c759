//! One session seen from the server: bytes in, questions to the driver, replies out.
//!
//! The driver's loop: [`receive`](Server::receive) what was read until it is used up, obey
//! [`event`](Server::event) after each call, [`answer`](Server::answer) its questions, send
//! [`output`](Server::output), and [`wake`](Server::wake) at [`wake_at`](Server::wake_at). While a question is
//! open, or a client that makes mistakes is made to wait, nothing is taken; TCP then holds the client back.
//!
//! [`transitions`] is the map of a session. `octets.rs` cuts what comes in, `commands.rs` runs commands,
//! `content.rs` finds the end of a message, `answers.rs` does what the driver decided, and `replies.rs` holds what is
//! said.

mod answers;
mod commands;
mod config;
mod content;
mod event;
mod octets;
mod refusal;
mod replies;
pub mod transitions;

pub use config::{BareNewline, Config, Connection, HelloName, LongLine, SessionConfig};
pub use event::{Answer, Event, XClient};
pub use refusal::Refusal;
pub use transitions::State;

use crate::reply;
use answers::Verdict;
use content::Content;
use mail::{EnhancedStatusCode, Envelope, Protocol, Recipient, Reply, ReplyClass, ReversePath};
use refusal::Refusals;
use std::sync::Arc;
use std::time::{Duration, Instant};
use transitions::Move;

/// A session. Idle, it holds no buffers.
#[derive(Debug)]
pub struct Server {
    config: Arc<Config>,
    connection: Connection,
    state: State,
    reading: Reading,
    question: Option<Question>,
    /// The driver has been given the question.
    asked: bool,
    order: Option<Order>,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    output: Vec<u8>,

    hello: Box<str>,
    extended: bool,
    user: Option<Box<str>>,
    envelope: Envelope,
    /// RCPT was tried in this transaction, so "no valid recipients" is the truth.
    rcpt_tried: bool,
    content: Content,
    chunks: u32,

    transactions: u32,
    errors: u32,
    refusals: u32,
    idle_commands: u32,
    auth_failures: u32,
    /// Commands out of order that a pipelining client could not know to be so: its MAIL was refused, and the
    /// rest of the group was under way.
    excused: u32,

    started: Instant,
    /// When the client last did what it has time limits for: a whole command, or an octet of content.
    since: Instant,
    content_since: Instant,
    content_octets: u64,
    held_until: Option<Instant>,
    shutting_down: bool,
    talked_early: bool,
    /// MAIL, RCPT or a message was refused by the driver, and the client has not cleared up after it yet.
    declined: bool,
    /// What was refused; none in most sessions.
    refusals_noted: Option<Box<Refusals>>,
}

/// What the next octets are.
#[derive(Debug)]
enum Reading {
    Line,
    /// The rest of a line that was answered already.
    Discard {
        count: u64,
        after_cr: bool,
    },
    Data,
    Chunk {
        left: u64,
        last: bool,
    },
    /// A chunk of a BDAT that was refused.
    Swallow {
        left: u64,
        reply: Reply,
    },
}

#[derive(Debug)]
enum Question {
    Hello { extended: bool },
    Mail { size: Option<u64>, auth: Option<Box<str>> },
    Rcpt(Recipient),
    Data,
    FirstChunk { size: u64, last: bool },
    Message { recipients: usize },
    Auth { mechanism: Box<str>, initial: Option<Vec<u8>> },
    AuthResponse(Vec<u8>),
    Vrfy(Box<str>),
    Expn(Box<str>),
    XClient(Box<XClient>),
}

#[derive(Clone, Copy, Debug)]
enum Order {
    StartTls,
    Close,
}

/// The first octet of a TLS record that holds a handshake: the client began TLS where none is spoken.
const TLS_HANDSHAKE: u8 = 0x16;

impl Server {
    /// A session on a connection just made. It reads nothing until [`Server::greet`].
    pub fn new(config: Arc<Config>, connection: Connection, now: Instant) -> Self {
        Self {
            config,
            connection,
            state: State::Greeting,
            reading: Reading::Line,
            question: None,
            asked: false,
            order: None,
            line: Vec::new(),
            output: Vec::new(),
            hello: "".into(),
            extended: false,
            user: None,
            envelope: no_envelope(),
            rcpt_tried: false,
            content: Content::default(),
            chunks: 0,
            transactions: 0,
            errors: 0,
            refusals: 0,
            idle_commands: 0,
            auth_failures: 0,
            excused: 0,
            started: now,
            since: now,
            content_since: now,
            content_octets: 0,
            held_until: None,
            shutting_down: false,
            talked_early: false,
            declined: false,
            refusals_noted: None,
        }
    }

    /// Says the greeting: the usual one, or the given one. A greeting of 4yz, or 521 (RFC 7504 §3), closes; after
    /// another 5yz the client is heard until QUIT and served nothing (RFC 5321 §3.1).
    ///
    /// # Panics
    /// If the session was greeted already.
    pub fn greet(&mut self, now: Instant, greeting: Option<Reply>) {
        self.since = now;
        let Some(greeting) = greeting else {
            self.go(Move::Greet);
            self.say_greeting();
            return self.boundary();
        };
        // RFC 2034 §4: nothing is negotiated yet, so the greeting has no enhanced code.
        reply::write_with(&greeting, None, &mut self.output);
        match greeting.class() {
            ReplyClass::Completed => self.go(Move::Greet),
            ReplyClass::Permanent if greeting.code.get() != 521 => self.go(Move::Refuse),
            _ => self.close(),
        }
        self.boundary();
    }

    /// Takes octets from the client and gives how many it took. It stops at a question, when the output is past
    /// its bound, and while the client is made to wait.
    pub fn receive(&mut self, now: Instant, input: &[u8]) -> usize {
        let mut taken = 0;
        while taken < input.len() {
            match self.state {
                State::Greeting => {
                    self.talked_early = true;
                    return taken;
                }
                // What comes between STARTTLS and the handshake was put there by somebody in the middle, or by
                // a client that deserves no better (CVE-2011-0411).
                State::Tls | State::Closed => return input.len(),
                _ => {}
            }
            if self.question.is_some()
                || self.is_held(now)
                || self.output.len() > self.config.session.output_max.len()
            {
                return taken;
            }
            let rest = &input[taken..];
            taken += match self.reading {
                Reading::Line => self.receive_line(now, rest),
                Reading::Discard { count, after_cr } => self.receive_discard(rest, count, after_cr),
                Reading::Data => self.receive_data(now, rest),
                Reading::Chunk { left, last } => self.receive_chunk(now, rest, left, last),
                Reading::Swallow { left, .. } => self.receive_swallowed(now, rest, left),
            };
            self.boundary();
        }
        taken
    }

    /// The open question or an order; each is given once.
    pub fn event(&mut self) -> Option<Event<'_>> {
        if self.question.is_none() || self.asked {
            return self.order.take().map(|order| match order {
                Order::StartTls => Event::StartTls,
                Order::Close => Event::Close,
            });
        }
        self.asked = true;
        if let Some(Question::Message { .. }) = self.question {
            let content = std::mem::take(&mut self.content).take();
            return Some(Event::Message {
                envelope: std::mem::replace(&mut self.envelope, no_envelope()),
                content,
            });
        }
        let envelope = &self.envelope;
        Some(match self.question.as_ref()? {
            Question::Hello { extended } => Event::Hello { name: &self.hello, extended: *extended },
            Question::Mail { size, auth } => Event::Mail { envelope, size: *size, auth: auth.as_deref() },
            Question::Rcpt(recipient) => Event::Rcpt { envelope, recipient },
            Question::Data | Question::FirstChunk { .. } => Event::Data { envelope },
            Question::Message { .. } => return None,
            Question::Auth { mechanism, initial } => Event::Auth { mechanism, initial: initial.as_deref() },
            Question::AuthResponse(response) => Event::AuthResponse(response),
            Question::Vrfy(name) => Event::Vrfy(name),
            Question::Expn(name) => Event::Expn(name),
            Question::XClient(attributes) => Event::XClient(attributes),
        })
    }

    /// Answers the open question.
    ///
    /// # Panics
    /// If none is open, or the answer does not fit it: the driver's mistake.
    pub fn answer(&mut self, now: Instant, answer: Answer) {
        let question = self.question.take().expect("an answer follows a question");
        self.asked = false;
        self.since = now;
        match question {
            Question::Auth { .. } | Question::AuthResponse(_) => self.answer_auth(answer),
            Question::Message { recipients } => self.answer_message(answer, recipients),
            question => {
                let verdict = Verdict::of(answer);
                self.answer_command(now, question, verdict);
            }
        }
        self.boundary();
    }

    /// What is to be sent. The driver takes it away.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Gives back the memory of an output that was sent; worth calling before a wait of unknown length.
    pub fn release(&mut self) {
        if self.output.is_empty() {
            self.output = Vec::new();
        }
    }

    /// When [`Server::wake`] is to be called at the latest. `None` while a question is open: the client is
    /// not to blame for our own thinking.
    pub fn wake_at(&self) -> Option<Instant> {
        if self.question.is_some() {
            return None;
        }
        let deadline = self.deadline()?.0;
        Some(self.held_until.map_or(deadline, |held| held.min(deadline)))
    }

    /// Lets time take effect: ends the wait of a client that made mistakes, or the session.
    pub fn wake(&mut self, now: Instant) {
        if self.held_until.is_some_and(|held| held <= now) {
            self.held_until = None;
        }
        if self.question.is_some() {
            return;
        }
        match self.deadline() {
            // Plain text has no place in the midst of a handshake.
            Some((deadline, _)) if deadline <= now && self.state == State::Tls => self.close(),
            Some((deadline, why)) if deadline <= now => self.close_with(why),
            _ => {}
        }
    }

    /// Ends the session at the next boundary between commands: at once, unless content is under way or a
    /// question open.
    pub fn shut_down(&mut self) {
        self.shutting_down = true;
        self.boundary();
    }

    /// The handshake after STARTTLS is done: all that was said before is forgotten (RFC 3207 §4.2).
    ///
    /// # Panics
    /// If no STARTTLS was ordered.
    pub fn tls_started(&mut self, now: Instant) {
        self.go(Move::TlsStarted);
        self.since = now;
        self.connection.tls = true;
        self.forget_client();
        self.boundary();
    }

    /// Where the session stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// What the client calls itself; empty before HELO.
    pub fn hello(&self) -> &str {
        &self.hello
    }

    /// How the client speaks: SMTP until it says EHLO.
    pub fn protocol(&self) -> Protocol {
        match (self.connection.lmtp, self.extended) {
            (true, _) => Protocol::Lmtp,
            (false, true) => Protocol::Esmtp,
            (false, false) => Protocol::Smtp,
        }
    }

    /// The authenticated user.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// TLS is on.
    pub fn tls(&self) -> bool {
        self.connection.tls
    }

    /// The transaction so far.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The client sent something before it was greeted.
    pub fn talked_early(&self) -> bool {
        self.talked_early
    }

    /// Until when a client that made mistakes is made to wait: nothing is taken before then.
    pub fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// Wrong commands so far.
    pub fn errors(&self) -> u32 {
        self.errors
    }

    // Time.

    fn is_held(&mut self, now: Instant) -> bool {
        if self.held_until.is_some_and(|held| held <= now) {
            self.held_until = None;
        }
        self.held_until.is_some()
    }

    /// When the session ends if the client does nothing more, and what is said then.
    fn deadline(&self) -> Option<(Instant, &'static str)> {
        let config = &self.config.session;
        let own = match (self.state, &self.reading) {
            (State::Greeting | State::Closed, _) => return None,
            (State::Refused, _) => (self.since + config.refused_timeout, replies::TIMEOUT),
            (_, Reading::Data | Reading::Chunk { .. } | Reading::Swallow { .. }) => {
                let silent = (self.since + config.data_timeout, replies::TIMEOUT);
                self.too_slow_at().map_or(silent, |slow| silent.min((slow, replies::TOO_SLOW)))
            }
            _ => (self.since + config.command_timeout, replies::TIMEOUT),
        };
        Some(own.min((self.started + config.session_time_max, replies::TOO_LONG)))
    }

    /// When the octets that have come will be too few for the time they took.
    fn too_slow_at(&self) -> Option<Instant> {
        let rate = u64::from(self.config.session.data_rate_min);
        let earned = Duration::from_millis(self.content_octets.saturating_mul(1000).checked_div(rate)?);
        self.content_since.checked_add(self.config.session.data_rate_grace + earned)
    }

    fn content_came(&mut self, now: Instant, octets: usize) {
        self.since = now;
        self.content_octets += octets as u64;
    }

    fn content_begins(&mut self, now: Instant, reading: Reading) {
        self.reading = reading;
        self.since = now;
        self.content_since = now;
        self.content_octets = 0;
    }

    // Moves.

    fn go(&mut self, by: Move) {
        self.state =
            self.state.after(by).unwrap_or_else(|| panic!("{by:?} is not legal in {:?}", self.state));
    }

    fn ask(&mut self, question: Question) {
        debug_assert!(self.question.is_none());
        self.asked = false;
        self.question = Some(question);
    }

    /// Acts on [`Server::shut_down`] if no command and no content is under way.
    fn boundary(&mut self) {
        let between = matches!(self.reading, Reading::Line) && self.question.is_none();
        let closable = !matches!(self.state, State::Greeting | State::Tls | State::Closed);
        if self.shutting_down && between && closable {
            self.close_with(replies::SHUTTING_DOWN);
        }
    }

    fn close(&mut self) {
        if self.state == State::Closed {
            return;
        }
        self.go(Move::Close);
        self.reading = Reading::Line;
        self.line = Vec::new();
        self.reset_transaction();
        self.held_until = None;
        self.order = Some(Order::Close);
    }

    fn close_with(&mut self, line: &'static str) {
        self.say(line);
        self.close();
    }

    fn forget_client(&mut self) {
        self.hello = "".into();
        self.extended = false;
        self.user = None;
        self.line = Vec::new();
        self.reset_transaction();
    }

    fn reset_transaction(&mut self) {
        self.envelope = no_envelope();
        self.content = Content::default();
        self.rcpt_tried = false;
        self.chunks = 0;
    }

    fn end_transaction(&mut self) {
        self.go(Move::End);
        self.reset_transaction();
    }

    /// Ends a transaction in whose midst the client may still be.
    fn lose_transaction(&mut self) {
        self.end_transaction();
        self.excuse(self.config.session.chunks_max);
    }

    fn excuse(&mut self, commands: u32) {
        self.excused = commands;
    }

    // Replies.

    fn say(&mut self, line: &'static str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    /// A reply of the driver's. It gets an enhanced code if it has none: after EHLO each has one (RFC 2034 §4).
    fn say_given(&mut self, reply: &Reply) {
        let general = match reply.class() {
            ReplyClass::Completed => Some(EnhancedStatusCode::new(2, 0, 0)),
            ReplyClass::Intermediate => None,
            ReplyClass::Transient => Some(EnhancedStatusCode::new(4, 0, 0)),
            ReplyClass::Permanent => Some(EnhancedStatusCode::new(5, 0, 0)),
        };
        reply::write_with(reply, reply.enhanced.or(general), &mut self.output);
    }

    fn say_or(&mut self, reply: &Option<Reply>, usual: &'static str) {
        match reply {
            Some(reply) => self.say_given(reply),
            None => self.say(usual),
        }
    }

    /// Answers a wrong command, and makes a client that sends many wait, then go.
    fn wrong(&mut self, now: Instant, line: &'static str) {
        self.say(line);
        self.errors += 1;
        if self.errors >= self.config.session.errors_max {
            self.close_with(replies::TOO_MANY_ERRORS);
        } else if self.errors > self.config.session.errors_prompt_max {
            self.held_until = now.checked_add(self.config.session.error_delay);
        }
    }

    /// The driver refused. What is for good counts against the client.
    fn decline(&mut self, reply: &Reply) {
        self.declined = true;
        if reply.is_permanent() {
            self.refused();
        }
    }

    fn refused(&mut self) {
        self.refusals += 1;
    }
}

/// The envelope of no transaction.
fn no_envelope() -> Envelope {
    Envelope::new(ReversePath::Null, Vec::new())
}
