//! One place among the loader's connections: opens one, greets, sends its share, leaves, opens the next.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ClientConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Credentials, Due, Offers, Shared, Tally, Tls};
use crate::net::lock;
use crate::template::Template;
use crate::tls::Wire;
use crate::wire::{self, Buffer};

/// Why a connection was left in peace.
enum Left {
    Finished,
    /// It has carried its share of messages; open another.
    UsedUp,
}

/// One place among the connections: opens one, uses it up, opens the next.
pub(super) async fn client(shared: &Shared, tally: &Mutex<Tally>) {
    let options = &shared.options;
    let mut handshake = Some(&shared.handshakes_left);
    loop {
        let mut first = None;
        if options.messages_per_connection > 0 {
            ready(&mut handshake);
            // Opening the connection is part of the first message's latency.
            first = shared.next_due().await;
            if first.is_none() {
                break;
            }
        }
        match connection(shared, tally, first, &mut handshake).await {
            Ok(Left::Finished) => break,
            Ok(Left::UsedUp) => {}
            Err(error) => {
                {
                    let mut tally = lock(tally);
                    tally.connections_failed += 1;
                    tally.complain(|| error.to_string());
                }
                if shared.failures.fetch_add(1, Relaxed) + 1 >= options.failures_max {
                    shared.halt();
                }
                tokio::time::sleep(options.failure_pause).await;
            }
        }
        if shared.stop.load(Relaxed) {
            break;
        }
    }
    ready(&mut handshake);
}

/// Tells the pace, once, that it need not wait for this client.
fn ready(handshake: &mut Option<&AtomicU64>) {
    if let Some(left) = handshake.take() {
        left.fetch_sub(1, Relaxed);
    }
}

async fn connection(
    shared: &Shared,
    tally: &Mutex<Tally>,
    first: Option<Due>,
    handshake: &mut Option<&AtomicU64>,
) -> io::Result<Left> {
    let options = &shared.options;
    let opening = open(shared, tally);
    let opened = limited(options.timeout, opening).await;
    if first.is_some() && opened.is_err() {
        // The message that waited for this connection has failed with it.
        let mut tally = lock(tally);
        tally.sent += 1;
        tally.failed += 1;
    }
    let mut session = opened?;
    lock(tally).connections += 1;
    session.prepare().await?;
    ready(handshake);
    session.messages(first).await
}

/// Connects and greets.
async fn open<'a>(shared: &'a Shared, tally: &'a Mutex<Tally>) -> io::Result<Session<'a>> {
    let stream = TcpStream::connect(shared.options.target).await?;
    stream.set_nodelay(true)?;
    let mut stream = Wire::Plain(stream);
    if let (Tls::Implicit, Some(config)) = (shared.options.tls, &shared.tls) {
        stream = stream.connect(config.clone()).await?;
    }
    let mut session = Session::new(stream, shared, tally);
    session.expect(220).await?;
    session.ehlo().await?;
    if let (Tls::Starttls, Some(config)) = (shared.options.tls, &shared.tls) {
        session.stream.send(b"STARTTLS\r\n").await?;
        session.expect(220).await?;
        session = session.secured(config.clone()).await?;
        session.ehlo().await?;
    }
    Ok(session)
}

async fn limited<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// An open connection.
struct Session<'a> {
    stream: Wire,
    buffer: Buffer,
    shared: &'a Shared,
    tally: &'a Mutex<Tally>,
    /// The last reply that was a refusal, or that of EHLO.
    text: String,
    offers: Offers,
    template: Template,
    /// Replies by code less 200, added to the tally at the end.
    codes: Box<[u64; 400]>,
}

/// How far the message at hand came.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Its end is on the wire.
    ended: bool,
    /// The message after it, whose commands are on the wire.
    next: Option<Due>,
}

impl<'a> Session<'a> {
    fn new(stream: Wire, shared: &'a Shared, tally: &'a Mutex<Tally>) -> Self {
        Self {
            stream,
            buffer: Buffer::new(2048, 64 * 1024),
            shared,
            tally,
            text: String::new(),
            offers: Offers::default(),
            template: Template::default(),
            codes: Box::new([0; 400]),
        }
    }

    /// The same connection, encrypted. What was read in the clear is forgotten (RFC 3207 §4.2).
    async fn secured(mut self, config: Arc<ClientConfig>) -> io::Result<Self> {
        self.buffer.consume(usize::MAX);
        self.stream = std::mem::replace(&mut self.stream, Wire::Closed).connect(config).await?;
        Ok(self)
    }

    async fn reply(&mut self) -> io::Result<u16> {
        let code = self.buffer.reply(&mut self.stream, &mut self.text, 400).await?;
        self.codes[usize::from(code) - 200] += 1;
        if code == 421 {
            return Err(io::Error::other(format!("the peer closes: {}", self.text)));
        }
        Ok(code)
    }

    async fn expect(&mut self, wanted: u16) -> io::Result<()> {
        let code = self.reply().await?;
        if code == wanted {
            return Ok(());
        }
        Err(io::Error::other(format!("wanted {wanted}, got {code} {}", self.text)))
    }

    async fn ehlo(&mut self) -> io::Result<()> {
        let command = format!("EHLO {}\r\n", self.shared.options.helo);
        self.stream.send(command.as_bytes()).await?;
        let code = self.buffer.reply(&mut self.stream, &mut self.text, 200).await?;
        if code != 250 {
            return Err(io::Error::other(format!("EHLO refused: {}", self.text)));
        }
        let offers = |keyword: &str| {
            self.text.lines().skip(1).any(|line| {
                let word = line.get(4..).unwrap_or("").split(' ').next().unwrap_or("");
                word.trim().eq_ignore_ascii_case(keyword)
            })
        };
        self.offers =
            Offers { pipelining: offers("PIPELINING"), chunking: offers("CHUNKING"), size: offers("SIZE") };
        Ok(())
    }

    /// AUTH when asked for, and the message as this peer wants it.
    async fn prepare(&mut self) -> io::Result<()> {
        if let Some(Credentials { user, password }) = &self.shared.options.auth {
            let command = format!("AUTH PLAIN {}\r\n", wire::auth_plain(user, password));
            self.stream.send(command.as_bytes()).await?;
            limited(self.shared.options.timeout, self.expect(235)).await?;
        }
        self.template = self.shared.template(self.offers);
        Ok(())
    }

    async fn messages(&mut self, mut due: Option<Due>) -> io::Result<Left> {
        let options = &self.shared.options;
        let mut begun = false;
        let mut carried = 0;
        loop {
            if due.is_none() {
                due = self.shared.next_due().await;
            }
            let Some(message) = due.take() else {
                self.quit().await;
                return Ok(Left::Finished);
            };
            carried += 1;
            let is_last = carried == options.messages_per_connection;
            let mut progress = Progress::default();
            let sent = self.message(message, begun, is_last, &mut progress);
            if let Err(error) = limited(options.timeout, sent).await {
                let mut tally = lock(self.tally);
                let lost = 1 + u64::from(progress.next.is_some());
                tally.sent += lost;
                tally.failed += lost;
                if progress.ended {
                    tally.unanswered.insert(message.0);
                }
                return Err(error);
            }
            self.shared.failures.store(0, Relaxed);
            if is_last {
                self.quit().await;
                return Ok(Left::UsedUp);
            }
            due = progress.next;
            begun = due.is_some();
        }
    }

    /// One transaction. `begun` when its commands went out with the end of the message before.
    async fn message(
        &mut self,
        (number, mut scheduled): Due,
        begun: bool,
        is_last: bool,
        progress: &mut Progress,
    ) -> io::Result<()> {
        let options = &self.shared.options;
        let chunking = options.chunking && self.offers.chunking;
        let pipelining = options.pipelining && self.offers.pipelining;
        if !begun {
            self.template.address(number);
        }
        if chunking {
            self.template.mark(number, scheduled);
            self.stream.send(self.template.whole()).await?;
            progress.ended = true;
        } else if pipelining && !begun {
            self.stream.send(self.template.commands()).await?;
        }
        let mut recipients_refused = 0;
        let mut mail_refused = false;
        let mut last = 0;
        for index in 0..options.recipients + 2 {
            if !chunking && !pipelining {
                let line =
                    self.template.commands().split_inclusive(|octet| *octet == b'\n').nth(index as usize);
                self.stream.send(line.expect("a line for each command")).await?;
            }
            last = self.reply().await?;
            if last < 400 {
                continue;
            }
            lock(self.tally).complain(|| self.text.clone());
            match index {
                0 => mail_refused = true,
                _ if index <= options.recipients => recipients_refused += 1,
                _ => {}
            }
            if mail_refused && !chunking && !pipelining {
                break;
            }
        }
        let deliverable = !mail_refused && recipients_refused < options.recipients && last < 400;
        let mut accepted = deliverable;
        if deliverable {
            if recipients_refused > 0 {
                lock(self.tally).recipients_refused += recipients_refused;
            }
            if !chunking {
                accepted = self.content(number, &mut scheduled, pipelining && !is_last, progress).await?;
            }
        } else {
            if last == 354 {
                // Content wanted although nobody is to have it: an empty message must follow (RFC 2920 §3.1).
                self.stream.send(b".\r\n").await?;
                self.reply().await?;
            }
            // A transaction that was begun may still be open.
            self.stream.send(b"RSET\r\n").await?;
            self.reply().await?;
        }
        let now = wire::unix_us();
        let mut tally = lock(self.tally);
        tally.sent += 1;
        if accepted {
            tally.accepted += 1;
            tally.acknowledged.insert(number);
            tally.latency.record_us(now.saturating_sub(scheduled));
            self.shared.accepted.fetch_add(1, Relaxed);
        } else {
            tally.refused += 1;
            tally.complain(|| self.text.clone());
        }
        tally.first_us = Some(tally.first_us.map_or(scheduled, |first| first.min(scheduled)));
        tally.last_us = tally.last_us.max(now);
        drop(tally);
        Ok(())
    }

    /// After 354: the content, and with it, when overlapping, the commands of the next message. True for 250.
    async fn content(
        &mut self,
        number: u64,
        scheduled: &mut u64,
        may_go_on: bool,
        progress: &mut Progress,
    ) -> io::Result<bool> {
        let overlaps = self.shared.options.overlap && self.shared.pace.is_none();
        if overlaps {
            *scheduled = wire::unix_us();
        }
        self.template.mark(number, *scheduled);
        if overlaps && may_go_on {
            progress.next = self.shared.next_due().await;
        }
        progress.ended = true;
        if let Some((next, _)) = progress.next {
            self.template.address(next);
            self.stream.send(self.template.whole()).await?;
        } else {
            self.stream.send(self.template.content()).await?;
        }
        Ok(self.reply().await? < 400)
    }

    /// Leaves politely. The peer closes first, so that the port pair waits on its side and not on ours.
    async fn quit(&mut self) {
        let farewell = async {
            self.stream.send(b"QUIT\r\n").await?;
            self.reply().await?;
            while self.buffer.fill(&mut self.stream).await.is_ok() {
                self.buffer.consume(usize::MAX);
            }
            self.stream.shutdown().await
        };
        // Nothing depends on it: every message on this connection has its answer.
        let _ = limited(Duration::from_secs(2), farewell).await;
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let Ok(mut tally) = self.tally.lock() else { return };
        for (code, count) in (200..).zip(self.codes.iter()).filter(|(_, count)| **count > 0) {
            *tally.codes.entry(code).or_default() += count;
        }
    }
}
