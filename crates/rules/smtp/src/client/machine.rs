//! The session machine.

use super::output::Output;
use super::reply::ReplyReader;
use super::transaction::{Answered, Running, Step, obstacle, write_mail, write_rcpt};
use super::{Extensions, Finished, Transaction};
use crate::base64;
use mail::Reply;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Output gathered before the driver is asked to send it, in octets; content that is shared counts.
const OUTPUT_MAX: usize = 128 * 1024;
/// Content up to this size travels with its BDAT behind RCPT, without waiting for the replies.
const EAGER_BDAT_MAX: usize = 64 * 1024;

/// Whether a session is to be encrypted by STARTTLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsUse {
    /// Never.
    Off,
    /// If the server offers it.
    #[default]
    Opportunistic,
    /// Or nothing is sent.
    Required,
}

/// A user and password for AUTH.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: Box<str>,
    /// The password; never printed.
    pub password: Box<str>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, ***)", self.user)
    }
}

/// How long to wait in each phase (RFC 5321 §4.5.3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the greeting.
    pub greeting: Duration,
    /// For the replies to EHLO, STARTTLS and AUTH.
    pub ehlo: Duration,
    /// For the reply to MAIL.
    pub mail: Duration,
    /// For the reply to RCPT.
    pub rcpt: Duration,
    /// For the reply to DATA.
    pub data: Duration,
    /// For the peer to take a block of content.
    pub block: Duration,
    /// For the reply to the end of data.
    pub end: Duration,
    /// For the reply to RSET and QUIT.
    pub quit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            greeting: minutes(5),
            ehlo: minutes(5),
            mail: minutes(5),
            rcpt: minutes(5),
            data: minutes(2),
            block: minutes(3),
            end: minutes(10),
            quit: Duration::from_secs(10),
        }
    }
}

/// How to hold a session.
#[derive(Clone, Debug)]
pub struct Config {
    /// What we call ourselves.
    pub ehlo_name: Box<str>,
    /// LHLO and one reply a recipient (RFC 2033).
    pub lmtp: bool,
    /// STARTTLS.
    pub tls: TlsUse,
    /// AUTH, if the server offers it; without it the session fails.
    pub auth: Option<Credentials>,
    /// AUTH also without TLS.
    pub auth_in_clear: bool,
    /// Use PIPELINING when offered.
    pub pipelining: bool,
    /// Use CHUNKING when offered.
    pub chunking: bool,
    /// How long to wait.
    pub timeouts: Timeouts,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ehlo_name: "localhost".into(),
            lmtp: false,
            tls: TlsUse::default(),
            auth: None,
            auth_in_clear: false,
            pipelining: true,
            chunking: true,
            timeouts: Timeouts::default(),
        }
    }
}

/// Where a session was when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the greeting.
    Greeting,
    /// EHLO, HELO or LHLO.
    Hello,
    /// STARTTLS.
    StartTls,
    /// AUTH.
    Auth,
    /// Ready, between or in transactions.
    Transaction,
    /// After QUIT.
    Quit,
}

/// The session is over before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where.
    pub stage: Stage,
    /// The server's reply, or ours where it gave none.
    pub reply: Reply,
    /// The reply is the server's own.
    pub from_peer: bool,
}

/// What the driver must do or know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Handshake now, then call [`Client::tls_started`]. What the server sent behind its 220 is an attack: the
    /// machine has failed already in that case.
    StartTls,
    /// Transactions may be submitted.
    Ready,
    /// A transaction is over.
    Finished(Finished),
    /// A transaction was never begun; it may go by another connection as if nothing had been tried.
    Unsent(u64),
    /// The session failed; close the connection. Follows the results of all transactions.
    Failed(Failure),
    /// QUIT was answered; close the connection.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Handshake,
    AuthPlain,
    AuthLoginUser,
    AuthLoginPassword,
    AuthLoginEnd,
    Ready,
    Quit,
    Over,
}

/// A reply that is still to come in the ready phase. All but `Rset` belong to the oldest transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Rset,
    Mail,
    Rcpt(usize),
    Data,
    /// The end of data, or the only BDAT.
    End,
    /// The end of data for recipient `n`; LMTP.
    EndOf(usize),
    /// The lone dot after a 354 that came although nobody was accepted.
    LoneDot,
}

/// The client's side of one session.
#[derive(Debug)]
pub struct Client {
    config: Config,
    phase: Phase,
    tls: bool,
    offered: Extensions,
    reader: ReplyReader,
    out: Output,
    /// Octets the peer took so far.
    sent_total: u64,
    expects: VecDeque<Expect>,
    running: VecDeque<Running>,
    events: VecDeque<Event>,
    last_progress: Instant,
    /// RSET must go before the next MAIL.
    rset_due: bool,
    begun: u32,
}

impl Client {
    /// A session on a connection just opened; `tls` if it is encrypted from the start.
    pub fn new(config: Config, tls: bool, now: Instant) -> Self {
        Self {
            config,
            phase: Phase::Greeting,
            tls,
            offered: Extensions::default(),
            reader: ReplyReader::default(),
            out: Output::default(),
            sent_total: 0,
            expects: VecDeque::new(),
            running: VecDeque::new(),
            events: VecDeque::new(),
            last_progress: now,
            rset_due: false,
            begun: 0,
        }
    }

    /// What the server offers; empty until ready.
    pub fn extensions(&self) -> &Extensions {
        &self.offered
    }

    /// Transactions submitted and not finished.
    pub fn in_flight(&self) -> usize {
        self.running.len()
    }

    /// True if a transaction may be submitted: the session is ready and at most one is under way, so that two
    /// overlap where the server allows it.
    pub fn wants(&self) -> bool {
        let overlap = if self.pipelining() && !self.config.lmtp { 2 } else { 1 };
        self.phase == Phase::Ready && self.running.len() < overlap && !self.exhausted()
    }

    /// True if the server takes no more transactions on this connection (LIMITS MAILMAX).
    pub fn exhausted(&self) -> bool {
        self.offered.mail_max > 0 && self.begun >= self.offered.mail_max
    }

    fn pipelining(&self) -> bool {
        self.config.pipelining && self.offered.pipelining
    }

    /// Hands in a transaction. Allowed while [`Client::wants`]; at any other time it comes back as `Unsent`.
    pub fn submit(&mut self, now: Instant, tx: Transaction) {
        if !self.wants() || tx.recipients.is_empty() {
            self.events.push_back(Event::Unsent(tx.token));
            return;
        }
        if let Some(reply) = obstacle(&tx, &self.offered, self.tls) {
            let mut refused = Running::new(tx, false);
            refused.decide_all(&reply, None);
            self.events.push_back(Event::Finished(refused.finish()));
            return;
        }
        if self.running.is_empty() {
            self.last_progress = now;
        }
        let bdat = self.config.chunking && self.offered.chunking && !self.config.lmtp;
        self.begun += 1;
        self.running.push_back(Running::new(tx, bdat));
        self.pump();
    }

    /// Ends the session once nothing is under way.
    pub fn quit(&mut self, now: Instant) {
        if self.phase == Phase::Ready && self.running.is_empty() {
            self.out.own().extend_from_slice(b"QUIT\r\n");
            self.phase = Phase::Quit;
            self.last_progress = now;
        }
    }

    /// The next event.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// True if there is something to send.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// What to send, in pieces that follow each other; none is empty. The driver tells how much went with
    /// [`Client::sent`].
    pub fn output(&self) -> impl Iterator<Item = &[u8]> {
        self.out.pieces()
    }

    /// The first `count` octets of the output are with the peer: time starts anew, and more content may follow.
    pub fn sent(&mut self, now: Instant, count: usize) {
        self.last_progress = now;
        self.sent_total += count as u64;
        self.out.advance(count);
        self.pump();
    }

    /// The TLS handshake is done.
    pub fn tls_started(&mut self, now: Instant) {
        if self.phase == Phase::Handshake {
            self.tls = true;
            self.offered = Extensions::default();
            self.say_hello(now);
        }
    }

    /// The connection is gone, or the handshake failed; `reason` is a 4yz of ours.
    pub fn disconnected(&mut self, reason: Reply) {
        self.fail(reason, false);
    }

    /// When [`Client::wake`] must be called at the latest.
    pub fn wake_at(&self) -> Option<Instant> {
        self.timeout().map(|timeout| self.last_progress + timeout)
    }

    fn timeout(&self) -> Option<Duration> {
        let t = &self.config.timeouts;
        match self.phase {
            Phase::Greeting => Some(t.greeting),
            Phase::Ready => {
                if !self.out.is_empty() {
                    return Some(t.block);
                }
                match self.expects.front()? {
                    Expect::Mail => Some(t.mail),
                    Expect::Rcpt(_) => Some(t.rcpt),
                    Expect::Data => Some(t.data),
                    Expect::End | Expect::EndOf(_) | Expect::LoneDot => Some(t.end),
                    Expect::Rset => Some(t.quit),
                }
            }
            Phase::Quit => Some(t.quit),
            Phase::Over => None,
            _ => Some(t.ehlo),
        }
    }

    /// Time has passed.
    pub fn wake(&mut self, now: Instant) {
        if self.wake_at().is_some_and(|at| now >= at) {
            let awaited = match self.phase {
                Phase::Greeting => "the greeting",
                Phase::Handshake => "the TLS handshake",
                Phase::Ready if !self.out.is_empty() => "the peer to take what was sent",
                Phase::Ready => match self.expects.front() {
                    Some(Expect::Mail) => "the reply to MAIL",
                    Some(Expect::Rcpt(_)) => "the reply to RCPT",
                    Some(Expect::Data) => "the reply to DATA",
                    Some(Expect::Rset) => "the reply to RSET",
                    _ => "the reply to the end of data",
                },
                Phase::Quit => "the reply to QUIT",
                _ => "the reply to EHLO, STARTTLS or AUTH",
            };
            self.fail(Reply::new(451, (4, 4, 2), format!("timed out waiting for {awaited}")), false);
        }
    }

    /// Takes what the server sent.
    pub fn receive(&mut self, now: Instant, mut input: &[u8]) {
        self.last_progress = now;
        while self.phase != Phase::Over {
            if self.phase == Phase::Handshake {
                if !input.is_empty() {
                    // Response injection (NO STARTTLS, 2021): nothing may follow the 220 in the clear.
                    let text = "the peer sent octets in the clear after its reply to STARTTLS";
                    self.fail(Reply::new(451, (4, 7, 0), text), false);
                }
                break;
            }
            match self.reader.read(&mut input) {
                Ok(Some(reply)) => self.reply(now, reply),
                Ok(None) => break,
                Err(error) => self.fail(Reply::new(451, (4, 5, 0), error.to_string()), false),
            }
        }
        self.pump();
    }

    fn say_hello(&mut self, now: Instant) {
        let verb = if self.config.lmtp { "LHLO" } else { "EHLO" };
        self.command(&format!("{verb} {}\r\n", self.config.ehlo_name));
        self.phase = Phase::Ehlo;
        self.last_progress = now;
    }

    fn command(&mut self, line: &str) {
        self.out.own().extend_from_slice(line.as_bytes());
    }

    fn reply(&mut self, now: Instant, reply: Reply) {
        match self.phase {
            Phase::Greeting if reply.code.get() == 220 => self.say_hello(now),
            Phase::Ehlo if reply.is_completed() => {
                self.offered = Extensions::from_reply(&reply);
                self.after_hello();
            }
            // RFC 5321 §3.2: a server too old for EHLO may know HELO.
            Phase::Ehlo
                if matches!(reply.code.get(), 500 | 501 | 502 | 504 | 550)
                    && !self.config.lmtp
                    && self.config.tls != TlsUse::Required
                    && self.config.auth.is_none() =>
            {
                self.command(&format!("HELO {}\r\n", self.config.ehlo_name));
                self.phase = Phase::Helo;
            }
            Phase::Helo if reply.is_completed() => self.become_ready(),
            Phase::StartTls if reply.code.get() == 220 => {
                if self.reader.is_partial() {
                    return self.fail(reply, true);
                }
                self.phase = Phase::Handshake;
                self.events.push_back(Event::StartTls);
            }
            Phase::AuthPlain | Phase::AuthLoginEnd if reply.code.get() == 235 => self.become_ready(),
            Phase::AuthLoginUser if reply.code.get() == 334 => self.say_secret(true),
            Phase::AuthLoginPassword if reply.code.get() == 334 => self.say_secret(false),
            Phase::Ready => self.ready_reply(reply),
            Phase::Quit => {
                self.phase = Phase::Over;
                self.events.push_back(Event::Closed);
            }
            _ => self.fail(reply, true),
        }
    }

    fn after_hello(&mut self) {
        if !self.tls && self.config.tls != TlsUse::Off {
            if self.offered.starttls {
                self.command("STARTTLS\r\n");
                self.phase = Phase::StartTls;
                return;
            }
            if self.config.tls == TlsUse::Required {
                let text = "TLS is required and the next hop does not offer STARTTLS";
                self.phase = Phase::StartTls;
                return self.fail(Reply::new(451, (4, 7, 10), text), false);
            }
        }
        let Some(credentials) = self.config.auth.clone() else { return self.become_ready() };
        if !self.tls && !self.config.auth_in_clear {
            let text = "AUTH is configured but the session is not encrypted";
            return self.fail(Reply::new(451, (4, 7, 10), text), false);
        }
        if self.offered.auth_plain {
            let token = format!("\0{}\0{}", credentials.user, credentials.password);
            self.say_encoded("AUTH PLAIN ", token.as_bytes());
            self.phase = Phase::AuthPlain;
        } else if self.offered.auth_login {
            self.command("AUTH LOGIN\r\n");
            self.phase = Phase::AuthLoginUser;
        } else {
            let text = "AUTH is configured but the next hop offers neither PLAIN nor LOGIN";
            self.fail(Reply::new(451, (4, 7, 0), text), false);
        }
    }

    fn say_secret(&mut self, user: bool) {
        let Some(credentials) = self.config.auth.clone() else { return };
        let secret = if user { &credentials.user } else { &credentials.password };
        self.say_encoded("", secret.as_bytes());
        self.phase = if user { Phase::AuthLoginPassword } else { Phase::AuthLoginEnd };
    }

    fn say_encoded(&mut self, verb: &str, secret: &[u8]) {
        self.command(verb);
        base64::encode(secret, self.out.own());
        self.command("\r\n");
    }

    fn become_ready(&mut self) {
        self.phase = Phase::Ready;
        self.events.push_back(Event::Ready);
    }

    /// Writes what may be sent now.
    fn pump(&mut self) {
        if self.phase != Phase::Ready {
            return;
        }
        let pipelining = self.pipelining();
        let mut at = 0;
        while at < self.running.len() && self.out.len() < OUTPUT_MAX {
            // Without PIPELINING one command goes out at a time.
            if !pipelining && !self.expects.is_empty() && !matches!(self.running[at].step, Step::Content(_)) {
                return;
            }
            let running = &mut self.running[at];
            match running.step {
                Step::Mail => {
                    if self.rset_due {
                        self.rset_due = false;
                        self.out.own().extend_from_slice(b"RSET\r\n");
                        self.expects.push_back(Expect::Rset);
                        continue;
                    }
                    write_mail(&running.tx, &self.offered, self.out.own());
                    self.expects.push_back(Expect::Mail);
                    running.step = Step::Rcpt(0);
                }
                Step::Rcpt(n) => {
                    write_rcpt(&running.tx, n, &self.offered, self.out.own());
                    self.expects.push_back(Expect::Rcpt(n));
                    let last = n + 1 == running.tx.recipients.len();
                    running.step = if last { Step::Data } else { Step::Rcpt(n + 1) };
                }
                Step::Data if running.bdat => {
                    // Large content waits until somebody is known to want it.
                    let eager = pipelining && running.content_len() <= EAGER_BDAT_MAX;
                    if !eager && !self.expects.is_empty() {
                        return;
                    }
                    self.out
                        .own()
                        .extend_from_slice(format!("BDAT {} LAST\r\n", running.content_len()).as_bytes());
                    running.step = Step::Content(0);
                    // RFC 3030 §4.2: after a BDAT that fails only RSET is safe.
                    self.rset_due = true;
                }
                Step::Data => {
                    self.out.own().extend_from_slice(b"DATA\r\n");
                    self.expects.push_back(Expect::Data);
                    running.step = Step::AwaitData;
                }
                Step::AwaitData => return,
                Step::Content(from) => {
                    let budget = OUTPUT_MAX.saturating_sub(self.out.len()).max(1);
                    let (to, done) = running.write_content(from, budget, &mut self.out);
                    running.step = Step::Content(to);
                    if done {
                        running.step = Step::Sent;
                        running.end_at = self.sent_total + self.out.len() as u64;
                        if self.config.lmtp {
                            self.expects.extend(running.open().map(Expect::EndOf));
                        } else {
                            self.expects.push_back(Expect::End);
                        }
                    }
                }
                Step::Sent => at += 1,
            }
        }
    }

    fn ready_reply(&mut self, reply: Reply) {
        let Some(expect) = self.expects.pop_front() else {
            // Nothing was asked: the server says goodbye (421), or is out of step.
            return self.fail_with(reply);
        };
        if expect == Expect::Rset {
            if !reply.is_completed() {
                self.fail_with(reply);
            }
            return;
        }
        if reply.code.get() == 421 {
            return self.closing(expect, reply);
        }
        let Some(running) = self.running.front_mut() else { return self.fail(reply, true) };
        match expect {
            Expect::Rset => {}
            Expect::Mail if reply.is_completed() => running.needs_rset = true,
            Expect::Mail => {
                running.decide_all(&reply, Some(Answered::Mail));
                if matches!(running.step, Step::Rcpt(0)) {
                    self.finish_front();
                }
            }
            Expect::Rcpt(n) => {
                running.rcpt_reply(n, reply);
                let all_refused = !running.has_open();
                if running.step == Step::Data && self.expects.is_empty() && all_refused {
                    // DATA was not sent yet, and nobody is left to send it for.
                    self.finish_front();
                }
            }
            Expect::Data if reply.code.get() == 354 => {
                if running.has_open() {
                    running.step = Step::Content(0);
                } else {
                    // RFC 2920 §3.1: a 354 must be answered, with nothing but the dot.
                    self.out.own().extend_from_slice(b".\r\n");
                    running.step = Step::Sent;
                    self.expects.push_front(Expect::LoneDot);
                }
            }
            Expect::Data => {
                running.decide_all(&reply, Some(Answered::Data));
                let out_of_step = reply.is_completed();
                self.finish_front();
                if out_of_step {
                    self.fail_with(reply);
                }
            }
            Expect::End if reply.is_completed() && !running.may_be_end(self.sent_total, &reply) => {
                self.fail_with(reply);
            }
            Expect::End => {
                running.decide_all(&reply, Some(Answered::End));
                running.needs_rset = false;
                self.finish_front();
            }
            Expect::EndOf(n) => {
                running.decide(n, reply);
                running.needs_rset = false;
                if !self.expects.iter().any(|e| matches!(e, Expect::EndOf(_))) {
                    self.finish_front();
                }
            }
            Expect::LoneDot => {
                running.needs_rset = false;
                self.finish_front();
            }
        }
    }

    /// The server closes the connection in answer to a command of the oldest transaction.
    fn closing(&mut self, expect: Expect, reply: Reply) {
        if let Some(running) = self.running.front_mut() {
            match expect {
                Expect::Mail => running.decide_all(&reply, Some(Answered::Mail)),
                Expect::Rcpt(_) => running.decide_all(&reply, Some(Answered::Rcpt)),
                Expect::Data => running.decide_all(&reply, Some(Answered::Data)),
                Expect::End => running.decide_all(&reply, Some(Answered::End)),
                Expect::EndOf(n) => running.decide(n, reply.clone()),
                Expect::LoneDot | Expect::Rset => {}
            }
            if expect == Expect::Mail && self.begun > self.running.len() as u32 {
                // Earlier messages went through: this one never began, and may go by another connection.
                if let Some(running) = self.running.pop_front() {
                    self.events.push_back(Event::Unsent(running.tx.token));
                }
            } else if !matches!(expect, Expect::EndOf(_)) {
                self.finish_front();
            }
        }
        self.fail(reply, true);
    }

    /// The session ends with a reply that had no business here; a 2yz or 3yz must not look like a yes.
    fn fail_with(&mut self, reply: Reply) {
        if reply.is_transient() || reply.is_permanent() {
            return self.fail(reply, true);
        }
        self.fail(Reply::new(451, (4, 5, 0), format!("reply out of place: {reply}")), false);
    }

    fn finish_front(&mut self) {
        if let Some(running) = self.running.pop_front() {
            self.rset_due |= running.needs_rset;
            self.events.push_back(Event::Finished(running.finish()));
        }
    }

    fn fail(&mut self, reply: Reply, from_peer: bool) {
        if self.phase == Phase::Over {
            return;
        }
        let stage = match self.phase {
            Phase::Greeting => Stage::Greeting,
            Phase::Ehlo | Phase::Helo => Stage::Hello,
            Phase::StartTls | Phase::Handshake => Stage::StartTls,
            Phase::AuthPlain | Phase::AuthLoginUser | Phase::AuthLoginPassword | Phase::AuthLoginEnd => {
                Stage::Auth
            }
            Phase::Ready => Stage::Transaction,
            Phase::Quit | Phase::Over => Stage::Quit,
        };
        self.phase = Phase::Over;
        self.out.clear();
        self.expects.clear();
        let finished_before = self.begun > self.running.len() as u32;
        for (n, mut running) in std::mem::take(&mut self.running).into_iter().enumerate() {
            // Behind another transaction, or on a connection that carried messages, one without its content
            // sent has lost nothing but time: it is no attempt.
            if !running.ended && (n > 0 || finished_before) {
                self.events.push_back(Event::Unsent(running.tx.token));
            } else {
                running.lost(&reply);
                self.events.push_back(Event::Finished(running.finish()));
            }
        }
        self.events.push_back(Event::Failed(Failure { stage, reply, from_peer }));
    }
}
