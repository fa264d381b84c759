//! One connection to the sink: commands, content, and the rules asked at each phase.
//!
//! Replies wait in `out` until the input is used up, so that a pipelined group is answered in one write.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::rules::{Action, Event, Phase};
use super::transaction::{
    Argument, Transaction, after_keyword, content_faults, size_parameter, without_stuffing,
};
use super::{Captured, CapturedRecipient, Keep, RUNS_MAX, Shared};
use crate::net::lock;
use crate::tls::Wire;
use crate::wire::{self, Buffer};

/// Holds a common message whole, so that it is read with one call.
const BUFFER_OCTETS: usize = 8 * 1024;
/// What the buffer grows to for large messages; also the longest command line.
const BUFFER_OCTETS_MAX: usize = 128 * 1024;

/// Serves a connection to its end. What ends it is the peer's affair, so no error comes back.
pub(super) async fn serve(shared: &Shared, stream: TcpStream, peer: SocketAddr) {
    let _ = Session::new(shared, Wire::Plain(stream), peer).run().await;
}

/// How a session goes on.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Close,
}

/// What the rules have decided about the thing at hand.
#[derive(PartialEq, Eq)]
enum Verdict {
    /// Nothing; do as usual.
    Usual,
    /// It has been answered.
    Answered,
    TakeDrop,
    Close,
}

struct Session<'a> {
    shared: &'a Shared,
    stream: Wire,
    peer: SocketAddr,
    secure: bool,
    authenticated: bool,
    buffer: Buffer,
    line: Vec<u8>,
    out: Vec<u8>,
    helo: Vec<u8>,
    transaction: Transaction,
    /// Pause before each reply octet of the next flush.
    slow: Option<Duration>,
}

impl<'a> Session<'a> {
    fn new(shared: &'a Shared, stream: Wire, peer: SocketAddr) -> Self {
        Self {
            shared,
            stream,
            peer,
            secure: false,
            authenticated: false,
            buffer: Buffer::new(BUFFER_OCTETS, BUFFER_OCTETS_MAX),
            line: Vec::with_capacity(128),
            out: Vec::with_capacity(512),
            helo: Vec::new(),
            transaction: Transaction::default(),
            slow: None,
        }
    }

    async fn run(mut self) -> io::Result<()> {
        if self.ask(Phase::Connect).await? != Verdict::Usual {
            return Ok(());
        }
        if self.shared.options.implicit_tls {
            self.secure().await?;
        }
        match self.ask(Phase::Banner).await? {
            Verdict::Close => return self.flush().await,
            Verdict::Answered => {}
            _ => self.say(&format!("220 {} ESMTP sink", self.shared.options.hostname)),
        }
        loop {
            while self.buffer.line().is_none() {
                self.flush().await?;
                self.buffer.fill(&mut self.stream).await?;
            }
            self.take_line();
            let flow = self.command().await?;
            if flow == Flow::Close {
                self.flush().await?;
                return self.stream.shutdown().await;
            }
        }
    }

    fn take_line(&mut self) {
        let Some((line, used)) = self.buffer.line() else { return };
        let is_bare = used == line.len() + 1;
        self.line.clear();
        self.line.extend_from_slice(line);
        self.buffer.consume(used);
        if self.shared.options.strict {
            if is_bare {
                self.fault("command ended by a bare LF");
            }
            if !self.shared.options.pipelining && !self.buffer.unread().is_empty() {
                self.fault("pipelining without an offer");
            }
        }
    }

    fn say(&mut self, reply: &str) {
        self.out.extend_from_slice(reply.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        match self.slow.take() {
            None => self.stream.send(&self.out).await?,
            Some(pause) => {
                for octet in &self.out {
                    tokio::time::sleep(pause).await;
                    self.stream.send(&[*octet]).await?;
                }
            }
        }
        self.out.clear();
        Ok(())
    }

    fn fault(&self, what: &'static str) {
        *lock(&self.shared.totals).faults.entry(what).or_default() += 1;
    }

    async fn command(&mut self) -> io::Result<Flow> {
        let line = std::mem::take(&mut self.line);
        let flow = self.dispatch(&line).await;
        self.line = line;
        flow
    }

    async fn dispatch(&mut self, line: &[u8]) -> io::Result<Flow> {
        if let Some(argument) = after_keyword(line, b"MAIL FROM:") {
            self.mail(argument).await
        } else if let Some(argument) = after_keyword(line, b"RCPT TO:") {
            self.rcpt(argument).await
        } else if line.eq_ignore_ascii_case(b"DATA") {
            self.data().await
        } else if let Some(argument) = after_keyword(line, b"BDAT ") {
            self.bdat(argument).await
        } else if let Some(name) = after_keyword(line, b"EHLO ") {
            self.hello(name, true).await
        } else if let Some(name) = after_keyword(line, b"HELO ") {
            self.hello(name, false).await
        } else if line.eq_ignore_ascii_case(b"RSET") {
            self.transaction.clear();
            self.say("250 2.0.0 reset");
            Ok(Flow::On)
        } else if line.eq_ignore_ascii_case(b"QUIT") {
            if self.ask(Phase::Quit).await? == Verdict::Usual {
                self.say("221 2.0.0 bye");
            }
            Ok(Flow::Close)
        } else if after_keyword(line, b"NOOP").is_some() {
            self.say("250 2.0.0 ok");
            Ok(Flow::On)
        } else if let Some(argument) = after_keyword(line, b"AUTH ") {
            self.auth(argument).await
        } else if line.eq_ignore_ascii_case(b"STARTTLS") {
            self.starttls().await
        } else {
            if self.shared.options.strict {
                self.fault("unknown command");
            }
            self.say("500 5.5.2 unknown command");
            Ok(Flow::On)
        }
    }

    async fn hello(&mut self, name: &[u8], extended: bool) -> io::Result<Flow> {
        self.helo.clear();
        self.helo.extend_from_slice(name.trim_ascii());
        self.transaction.clear();
        match self.ask(Phase::Helo).await? {
            Verdict::Usual if extended => {
                let ehlo = if self.secure { &self.shared.ehlo_secure } else { &self.shared.ehlo };
                self.out.extend_from_slice(ehlo.as_bytes());
            }
            Verdict::Usual => self.say(&format!("250 {}", self.shared.options.hostname)),
            Verdict::Close => return Ok(Flow::Close),
            _ => self.helo.clear(),
        }
        Ok(Flow::On)
    }

    async fn starttls(&mut self) -> io::Result<Flow> {
        if self.secure || self.shared.options.tls.is_none() {
            return Ok(self.out_of_order());
        }
        match self.ask(Phase::Starttls).await? {
            Verdict::Usual => {}
            Verdict::Close => return Ok(Flow::Close),
            _ => return Ok(Flow::On),
        }
        self.say("220 2.0.0 go on");
        self.flush().await?;
        if !self.buffer.unread().is_empty() {
            // Said in the clear, so nobody knows by whom (RFC 3207 §4.2).
            self.fault("commands behind STARTTLS");
            self.buffer.consume(usize::MAX);
        }
        self.secure().await?;
        Ok(Flow::On)
    }

    async fn secure(&mut self) -> io::Result<()> {
        let Some(config) = &self.shared.options.tls else {
            return Err(io::Error::other("implicit TLS without a certificate"));
        };
        self.stream = std::mem::replace(&mut self.stream, Wire::Closed).accept(config.clone()).await?;
        self.secure = true;
        self.helo.clear();
        self.transaction.clear();
        Ok(())
    }

    async fn auth(&mut self, argument: &[u8]) -> io::Result<Flow> {
        match self.ask(Phase::Auth).await? {
            Verdict::Usual => {}
            Verdict::Close => return Ok(Flow::Close),
            _ => return Ok(Flow::On),
        }
        let Some(credentials) = &self.shared.options.auth else {
            self.say("503 5.5.1 not offered");
            return Ok(Flow::On);
        };
        let Some(initial) = after_keyword(argument, b"PLAIN") else {
            self.say("504 5.5.4 only PLAIN");
            return Ok(Flow::On);
        };
        let mut response = initial.trim_ascii().to_vec();
        if response.is_empty() {
            self.say("334 ");
            while self.buffer.line().is_none() {
                self.flush().await?;
                self.buffer.fill(&mut self.stream).await?;
            }
            self.take_line();
            response = self.line.clone();
        }
        self.authenticated =
            response == wire::auth_plain(&credentials.user, &credentials.password).as_bytes();
        self.say(if self.authenticated { "235 2.7.0 welcome" } else { "535 5.7.8 wrong" });
        Ok(Flow::On)
    }

    async fn mail(&mut self, argument: &[u8]) -> io::Result<Flow> {
        if self.helo.is_empty() || self.transaction.is_open {
            return Ok(self.out_of_order());
        }
        self.transaction.clear();
        if !self.transaction.mail.set(argument) {
            self.say("501 5.5.4 MAIL FROM:<address>");
            return Ok(Flow::On);
        }
        match self.ask(Phase::Mail).await? {
            Verdict::Usual => {}
            Verdict::Close => return Ok(Flow::Close),
            _ => return Ok(Flow::On),
        }
        let declared = size_parameter(&self.transaction.mail.parameters);
        if declared.is_some_and(|size| size > self.shared.options.size_max) {
            self.say("552 5.3.4 too large");
            return Ok(Flow::On);
        }
        self.transaction.is_open = true;
        self.say("250 2.1.0 ok");
        Ok(Flow::On)
    }

    fn out_of_order(&mut self) -> Flow {
        if self.shared.options.strict {
            self.fault("command out of order");
        }
        self.say("503 5.5.1 bad sequence of commands");
        Flow::On
    }

    async fn rcpt(&mut self, argument: &[u8]) -> io::Result<Flow> {
        let transaction = &mut self.transaction;
        if !transaction.is_open || transaction.in_chunks {
            return Ok(self.out_of_order());
        }
        if transaction.recipient_count == self.shared.options.recipients_max {
            self.say("452 4.5.3 too many recipients");
            return Ok(Flow::On);
        }
        let count = transaction.recipient_count;
        if transaction.recipients.len() == count {
            transaction.recipients.push(Argument::default());
        }
        if !transaction.recipients[count].set(argument) {
            self.say("501 5.5.4 RCPT TO:<address>");
            return Ok(Flow::On);
        }
        match self.ask(Phase::Rcpt).await? {
            Verdict::Usual => {}
            Verdict::Close => return Ok(Flow::Close),
            _ => return Ok(Flow::On),
        }
        self.transaction.recipient_count += 1;
        self.say("250 2.1.5 ok");
        Ok(Flow::On)
    }

    async fn data(&mut self) -> io::Result<Flow> {
        if self.transaction.recipient_count == 0 || self.transaction.in_chunks {
            return Ok(self.out_of_order());
        }
        match self.ask(Phase::Data).await? {
            Verdict::Usual => {}
            Verdict::Close => return Ok(Flow::Close),
            _ => return Ok(Flow::On),
        }
        self.say("354 go on");
        if self.shared.options.strict && !self.buffer.unread().is_empty() {
            self.fault("content before 354");
        }
        if self.shared.has_rules.load(Relaxed) {
            self.flush().await?;
            if self.buffer.unread().is_empty() {
                self.buffer.fill(&mut self.stream).await?;
            }
            if self.ask(Phase::Body).await? == Verdict::Close {
                return Ok(Flow::Close);
            }
        }
        let pause = self.slow.take();
        let mut at_start = true;
        while !self.content(&mut at_start) {
            self.flush().await?;
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            self.buffer.fill(&mut self.stream).await?;
        }
        self.end_of_message(true).await
    }

    /// Takes what the buffer holds of the content; true when the end of data was in it.
    fn content(&mut self, at_start: &mut bool) -> bool {
        let data = self.buffer.unread();
        if *at_start {
            // The CRLF before the dot may be that of the DATA command.
            if data.starts_with(b".\r\n") {
                self.buffer.consume(3);
                return true;
            }
            if b".\r\n".starts_with(data) {
                return false;
            }
            *at_start = false;
        }
        let (octets, used, is_end) = match wire::end_of_data(data) {
            Some(at) => (at + 2, at + wire::END_OF_DATA.len(), true),
            None => {
                let safe = data.len().saturating_sub(wire::END_OF_DATA.len() - 1);
                (safe, safe, false)
            }
        };
        let piece = &data[..octets];
        self.transaction.take(piece, self.shared);
        self.buffer.consume(used);
        is_end
    }

    async fn bdat(&mut self, argument: &[u8]) -> io::Result<Flow> {
        let mut words = argument.split(|octet| *octet == b' ').filter(|word| !word.is_empty());
        let Some(mut left) = words.next().and_then(wire::decimal) else {
            self.say("501 5.5.4 BDAT size [LAST]");
            return Ok(Flow::On);
        };
        let is_last = words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"LAST"));
        let is_first = !self.transaction.in_chunks;
        let in_order = self.transaction.recipient_count > 0 && self.shared.options.chunking;
        self.transaction.in_chunks = true;
        let octets = left;
        while left > 0 {
            if self.buffer.unread().is_empty() {
                self.flush().await?;
                self.buffer.fill(&mut self.stream).await?;
            }
            let data = self.buffer.unread();
            let piece = &data[..usize::try_from(left).unwrap_or(usize::MAX).min(data.len())];
            if in_order {
                self.transaction.take(piece, self.shared);
            }
            left -= piece.len() as u64;
            let used = piece.len();
            self.buffer.consume(used);
        }
        if !in_order {
            self.transaction.clear();
            return Ok(self.out_of_order());
        }
        if is_first {
            match self.ask(Phase::Data).await? {
                Verdict::Usual => {}
                Verdict::Close => return Ok(Flow::Close),
                _ => {
                    self.transaction.clear();
                    return Ok(Flow::On);
                }
            }
        }
        if is_last {
            return self.end_of_message(false).await;
        }
        self.say(&format!("250 2.0.0 {octets} octets"));
        Ok(Flow::On)
    }

    async fn end_of_message(&mut self, is_dotted: bool) -> io::Result<Flow> {
        let now_us = wire::unix_us();
        let verdict = self.ask(Phase::Dot).await?;
        let flow = match verdict {
            Verdict::Usual if self.transaction.octets > self.shared.options.size_max => {
                self.say("552 5.3.4 too large");
                Flow::On
            }
            Verdict::Usual => {
                self.take_message(is_dotted, now_us);
                self.say("250 2.0.0 taken");
                Flow::On
            }
            Verdict::TakeDrop => {
                self.take_message(is_dotted, now_us);
                Flow::Close
            }
            Verdict::Answered => Flow::On,
            Verdict::Close => Flow::Close,
        };
        self.transaction.clear();
        Ok(flow)
    }

    fn take_message(&mut self, is_dotted: bool, now_us: u64) {
        if self.shared.collects() {
            self.inspect_and_keep(is_dotted);
        }
        let transaction = &self.transaction;
        let recipients = transaction.recipients();
        let mut totals = lock(&self.shared.totals);
        let totals = &mut *totals;
        totals.messages += 1;
        totals.recipients += recipients.len() as u64;
        totals.octets += transaction.octets;
        let Some(mark) = &transaction.header.mark else {
            totals.unmarked += 1;
            return;
        };
        if totals.runs.len() < RUNS_MAX || totals.runs.contains_key(&mark.run) {
            let run = totals.runs.entry(mark.run).or_default();
            let indices = recipients.iter().zip(0u64..).map(|(to, nth)| to.index().unwrap_or(nth));
            run.count(mark, indices, now_us);
        }
    }

    fn inspect_and_keep(&mut self, is_dotted: bool) {
        let transaction = &mut self.transaction;
        let content = std::mem::take(&mut transaction.content);
        let content = if is_dotted { without_stuffing(content) } else { content };
        let transaction = &self.transaction;
        if self.shared.options.strict {
            content_faults(&content, &transaction.mail.parameters).for_each(|what| self.fault(what));
            let declared = size_parameter(&transaction.mail.parameters);
            if declared.is_some_and(|size| size < content.len() as u64) {
                self.fault("SIZE declared too small");
            }
        }
        if matches!(self.shared.options.keep, Keep::Nothing) {
            return;
        }
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        self.shared.keep(Captured {
            number: self.shared.kept_count.fetch_add(1, Relaxed) + 1,
            peer: self.peer,
            helo: text(&self.helo),
            secure: self.secure,
            authenticated: self.authenticated,
            reverse_path: text(&transaction.mail.address),
            parameters: text(&transaction.mail.parameters),
            recipients: transaction
                .recipients()
                .iter()
                .map(|to| CapturedRecipient { address: text(&to.address), parameters: text(&to.parameters) })
                .collect(),
            content: Bytes::from(content),
            received: SystemTime::now(),
        });
    }

    /// Asks the rules about this phase and does what they say, as far as it is the same everywhere.
    async fn ask(&mut self, phase: Phase) -> io::Result<Verdict> {
        if !self.shared.has_rules.load(Relaxed) {
            return Ok(Verdict::Usual);
        }
        let Some(action) = self.judge(phase) else { return Ok(Verdict::Usual) };
        lock(&self.shared.totals).rules_acted += 1;
        // What was asked before has its answer before this one misbehaves.
        if !matches!(action, Action::Reply(_) | Action::Close(_)) {
            self.flush().await?;
        }
        match action {
            Action::Reply(text) | Action::Junk(text) => {
                self.out.extend_from_slice(text.as_bytes());
                Ok(Verdict::Answered)
            }
            Action::Close(text) => {
                self.out.extend_from_slice(text.as_bytes());
                Ok(Verdict::Close)
            }
            Action::Drop { reset: false } => Ok(Verdict::Close),
            Action::Drop { reset: true } => {
                self.stream.reset_on_close();
                // Leaves at once: an orderly shutdown before the close would make it an ordinary one.
                Err(io::ErrorKind::ConnectionReset.into())
            }
            Action::TakeDrop => Ok(Verdict::TakeDrop),
            Action::Stall(Some(time)) => {
                tokio::time::sleep(time).await;
                Ok(Verdict::Usual)
            }
            Action::Stall(None) => {
                self.stall(phase).await;
                Ok(Verdict::Close)
            }
            Action::Slow(pause) => {
                self.slow = Some(pause);
                Ok(Verdict::Usual)
            }
            Action::Accept => Ok(Verdict::Usual),
        }
    }

    fn judge(&self, phase: Phase) -> Option<Action> {
        let transaction = &self.transaction;
        let one: [&[u8]; 1];
        let many: Vec<&[u8]>;
        let addresses: &[&[u8]] = match phase {
            Phase::Helo => {
                one = [&self.helo];
                &one
            }
            Phase::Mail => {
                one = [&transaction.mail.address];
                &one
            }
            Phase::Rcpt => {
                one = [&transaction.recipients[transaction.recipient_count].address];
                &one
            }
            Phase::Data | Phase::Body | Phase::Dot => {
                many = transaction.recipients().iter().map(|to| &to.address[..]).collect();
                &many
            }
            _ => &[],
        };
        let has_mail = matches!(phase, Phase::Mail | Phase::Rcpt | Phase::Data | Phase::Body | Phase::Dot);
        let event = Event {
            reverse_path: has_mail.then_some(&transaction.mail.address),
            addresses,
            open: self.shared.open.load(Relaxed),
        };
        lock(&self.shared.book).judge(phase, Instant::now(), event)
    }

    /// Until the peer gives up. At `body` nothing is read, so that its send buffer fills.
    async fn stall(&mut self, phase: Phase) {
        if phase == Phase::Body {
            tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
        }
        while self.buffer.fill(&mut self.stream).await.is_ok() {
            self.buffer.consume(usize::MAX);
        }
    }
}
