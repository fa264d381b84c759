//! The walk of a session with a milter: what is sent when, and what its answers mean.

use crate::address::Duplex;
use crate::config::{MilterConfig, OnQuarantine};
use crate::edits::Edits;
use crate::wire::{self, CHUNK, VERSION, VERSION_MIN, WireError, actions, put, steps, texts};
use mail::{Envelope, Recipient, Reply};
use policy::{Answer, Asked, Conversation, Facts, MailObject, Phase, Phases, Policy, Question, Tally};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::{Instant, timeout_at};
use tracing::error;

/// A milter.
pub struct Milter {
    shared: Arc<Shared>,
}

struct Shared {
    config: MilterConfig,
    name: String,
    tally: Arc<Tally>,
}

impl Milter {
    /// A milter as configured. It is connected to by each session that asks.
    pub fn new(config: MilterConfig, tally: Arc<Tally>) -> Arc<Self> {
        let name = config.name.clone().unwrap_or_else(|| config.address.to_string());
        Arc::new(Self { shared: Arc::new(Shared { config, name, tally }) })
    }
}

impl Policy for Milter {
    fn phases(&self) -> Phases {
        let phases = [Phase::Connect, Phase::Hello, Phase::Mail, Phase::Rcpt, Phase::Data, Phase::Message];
        phases.into_iter().collect()
    }

    fn open(&self) -> Box<dyn Conversation> {
        Box::new(Talk {
            shared: self.shared.clone(),
            stand: Stand::New,
            transaction: Transaction::None,
            in_midst: false,
            abort_due: false,
        })
    }
}

/// Why a milter did not answer.
#[derive(Debug)]
enum Failure {
    Wire(WireError),
    Unreachable(std::io::ErrorKind),
    Late(&'static str),
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wire(error) => error.fmt(f),
            Self::Unreachable(kind) => write!(f, "it cannot be reached: {kind}"),
            Self::Late(setting) => write!(f, "it is late: `{setting}` is over"),
        }
    }
}

/// Where the session stands with the milter.
enum Stand {
    /// Not connected yet.
    New,
    Open(Link),
    /// It wants no more of this session.
    Accepted,
    /// It failed. Every further question gets what is configured for that.
    Failed,
}

/// Where the transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transaction {
    None,
    /// MAIL was sent, or would have been.
    Open,
    /// It wants no more of this message.
    Accepted,
    /// It wants the message thrown away, and hears no more of it.
    Discarded,
}

/// A connection that is negotiated.
struct Link {
    stream: BufReader<Box<dyn Duplex>>,
    /// What was not sent yet, because no answer is waited for.
    out: Vec<u8>,
    actions: u32,
    steps: u32,
}

/// What a milter answered to one command.
enum Said {
    Continue,
    Accept,
    Discard,
    Skip,
    Refuse(Reply),
    Disconnect(Reply),
}

/// One session with a milter.
struct Talk {
    shared: Arc<Shared>,
    stand: Stand,
    transaction: Transaction,
    /// The milter has heard of a transaction and not of its end.
    in_midst: bool,
    /// That transaction is over.
    abort_due: bool,
}

impl Link {
    async fn open(config: &MilterConfig) -> Result<Self, Failure> {
        let until = Instant::now() + config.connect_timeout;
        let late = |_| Failure::Late("connect_timeout");
        let connected = timeout_at(until, config.address.connect()).await.map_err(late)?;
        let stream = connected.map_err(|error| Failure::Unreachable(error.kind()))?;
        let mut link = Self { stream: BufReader::new(stream), out: Vec::new(), actions: 0, steps: 0 };
        let offer = [VERSION, actions::ALL, steps::ALL].map(u32::to_be_bytes).concat();
        put(&mut link.out, b'O', &[&offer]);
        let negotiated = timeout_at(until, async {
            link.flush().await?;
            wire::get(&mut link.stream).await
        });
        let (command, data) = negotiated.await.map_err(late)??;
        if command != b'O' {
            return Err(WireError::Broken("no answer to the negotiation").into());
        }
        let (version, rest) = wire::number(&data)?;
        let (wanted, rest) = wire::number(rest)?;
        // Macros it wants may follow; it gets ours.
        let (unwanted, _) = wire::number(rest)?;
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(WireError::Broken("a version that is not spoken here").into());
        }
        if wanted & !actions::ALL != 0 {
            return Err(WireError::Broken("an action that was not offered").into());
        }
        if unwanted & !steps::ALL != 0 {
            return Err(WireError::Broken("a step that was not offered").into());
        }
        (link.actions, link.steps) = (wanted, unwanted);
        if version < 4 {
            // It knows of no DATA.
            link.steps |= steps::NO_DATA;
        }
        Ok(link)
    }

    fn wants(&self, unwanted: u32) -> bool {
        self.steps & unwanted == 0
    }

    fn macros(&mut self, command: u8, list: &[(&str, &str)]) {
        let mut data = vec![command];
        for (name, value) in list.iter().filter(|(_, value)| !value.is_empty()) {
            data.extend(texts(&[name.as_bytes(), value.as_bytes()]));
        }
        put(&mut self.out, b'D', &[&data]);
    }

    async fn flush(&mut self) -> Result<(), WireError> {
        let out = std::mem::take(&mut self.out);
        self.stream.write_all(&out).await?;
        self.stream.flush().await?;
        self.out = out;
        self.out.clear();
        Ok(())
    }

    /// Sends a command and waits for its answer, unless it was agreed that there is none.
    async fn say(
        &mut self,
        command: u8,
        pieces: &[&[u8]],
        mute: u32,
        limit: Duration,
    ) -> Result<Said, Failure> {
        put(&mut self.out, command, pieces);
        if self.steps & mute != 0 {
            return Ok(Said::Continue);
        }
        let answered = timeout_at(Instant::now() + limit, async {
            self.flush().await?;
            loop {
                let answer = wire::get(&mut self.stream).await?;
                // Only the end of a message may take its time for its progress.
                if answer.0 != b'p' {
                    return Ok::<_, WireError>(answer);
                }
            }
        });
        let (answer, data) = answered.await.map_err(|_| Failure::Late("command_timeout"))??;
        Ok(said(answer, &data, self.steps)?)
    }
}

/// What an answer means.
fn said(answer: u8, data: &[u8], agreed: u32) -> Result<Said, WireError> {
    Ok(match answer {
        b'c' => Said::Continue,
        b'a' => Said::Accept,
        b'd' => Said::Discard,
        b's' if agreed & steps::SKIP != 0 => Said::Skip,
        b'r' => Said::Refuse(Reply::new(550, (5, 7, 1), "refused by a filter")),
        b't' => Said::Refuse(Reply::new(451, (4, 7, 1), "refused by a filter for now, try again later")),
        b'S' => Said::Disconnect(Reply::new(421, (4, 7, 0), "goodbye")),
        b'f' => Said::Disconnect(Reply::new(421, (4, 7, 0), "goodbye")),
        b'y' => {
            let reply = own_reply(data).ok_or(WireError::Broken("a reply that is none"))?;
            if reply.code.get() == 421 { Said::Disconnect(reply) } else { Said::Refuse(reply) }
        }
        _ => return Err(WireError::Broken("an answer that is none")),
    })
}

/// A reply of a milter's own: `550 5.7.1 text`, or several lines, each with the code.
fn own_reply(data: &[u8]) -> Option<Reply> {
    let text = String::from_utf8_lossy(data.strip_suffix(b"\0").unwrap_or(data)).into_owned();
    let code: u16 = text.get(..3)?.parse().ok()?;
    let mut status = None;
    let mut lines = Vec::new();
    for line in text.lines() {
        let line = match line.get(..3).and_then(|head| head.parse::<u16>().ok()) {
            Some(own) if own == code => line.get(4..).unwrap_or(""),
            _ => line,
        };
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        // A text may begin with what only looks like a status.
        let is_status = mail::EnhancedStatusCode::parse(first)
            .is_some_and(|found| u16::from(found.class()) == code / 100);
        if is_status {
            status = status.or(Some(first.to_owned()));
        }
        lines.push(if is_status { rest } else { line });
    }
    policy::reply(code, status.as_deref(), &lines.join("\n")).ok()
}

/// Family, port and address of a client, as CONNECT has them.
fn peer(address: Option<SocketAddr>) -> Vec<u8> {
    let Some(address) = address else { return b"U".to_vec() };
    let (family, ip) = match address {
        SocketAddr::V4(v4) => (b'4', v4.ip().to_string()),
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => (b'4', v4.to_string()),
            None => (b'6', v6.ip().to_string()),
        },
    };
    let mut out = vec![family];
    out.extend_from_slice(&address.port().to_be_bytes());
    out.extend(texts(&[ip.as_bytes()]));
    out
}

impl Talk {
    /// The connection, with what the milter must know of the session told, and a transaction that is over ended.
    async fn link(&mut self, facts: &Facts, question: &Question<'_>) -> Result<Option<Said>, Failure> {
        if matches!(self.stand, Stand::New) {
            let config = &self.shared.config;
            let mut link = Link::open(config).await?;
            let mut first = None;
            let address = facts.origin.peer.map(|peer| format!("[{}]", peer.ip()));
            let name = address.unwrap_or_else(|| "localhost".into());
            if link.wants(steps::NO_CONNECT) {
                let listener = &facts.origin.listener;
                link.macros(b'C', &[("j", &facts.hostname), ("{daemon_name}", listener), ("v", "Tuma")]);
                let host = texts(&[name.as_bytes()]);
                let pieces: &[&[u8]] = &[&host, &peer(facts.origin.peer)];
                first = Some(link.say(b'C', pieces, steps::MUTE_CONNECT, config.command_timeout).await?);
            }
            // Connected to again in the midst of a session, it must hear what it missed.
            let missed = !matches!(question, Question::Connect | Question::Hello { .. });
            let goes_on = first.as_ref().is_none_or(|said| matches!(said, Said::Continue));
            if missed && goes_on && !facts.origin.helo.is_empty() && link.wants(steps::NO_HELO) {
                let name = texts(&[facts.origin.helo.as_bytes()]);
                first = Some(link.say(b'H', &[&name], steps::MUTE_HELO, config.command_timeout).await?);
            }
            self.stand = Stand::Open(link);
            return Ok(first);
        }
        if let Stand::Open(link) = &mut self.stand
            && std::mem::take(&mut self.abort_due)
        {
            // It has no answer.
            put(&mut link.out, b'A', &[]);
        }
        Ok(None)
    }

    async fn command(&mut self, facts: &Facts, question: &Question<'_>) -> Result<Said, Failure> {
        if let Some(first) = self.link(facts, question).await? {
            let goes_on = matches!(first, Said::Continue);
            if !goes_on || matches!(question, Question::Connect) {
                return Ok(first);
            }
        }
        let limit = self.shared.config.command_timeout;
        let Stand::Open(link) = &mut self.stand else { return Ok(Said::Continue) };
        let tls = facts.origin.tls.as_ref();
        match question {
            Question::Hello { name, .. } if link.wants(steps::NO_HELO) => {
                if let Some(tls) = tls {
                    link.macros(b'H', &[("{tls_version}", &tls.protocol), ("{cipher}", &tls.cipher)]);
                }
                link.say(b'H', &[&texts(&[name.as_bytes()])], steps::MUTE_HELO, limit).await
            }
            Question::Mail { envelope, size } if link.wants(steps::NO_MAIL) => {
                let path = envelope.reverse_path.as_str();
                let host = envelope.reverse_path.mailbox().map(|mailbox| mailbox.host().to_string());
                let user = facts.origin.user.as_deref().unwrap_or_default();
                let session = facts.origin.session.map(|id| format!("S{id}")).unwrap_or_default();
                link.macros(
                    b'M',
                    &[
                        ("i", &session),
                        ("{mail_addr}", path),
                        ("{mail_host}", host.as_deref().unwrap_or_default()),
                        ("{auth_authen}", user),
                    ],
                );
                let list = mail_arguments(envelope, *size);
                let list: Vec<&[u8]> = list.iter().map(String::as_bytes).collect();
                link.say(b'M', &[&texts(&list)], steps::MUTE_MAIL, limit).await
            }
            Question::Rcpt { recipient, .. } if link.wants(steps::NO_RCPT) => {
                let path = recipient.path.as_str();
                let host = recipient.path.host().to_string();
                link.macros(b'R', &[("{rcpt_addr}", path), ("{rcpt_host}", &host)]);
                let list = rcpt_arguments(recipient);
                let list: Vec<&[u8]> = list.iter().map(String::as_bytes).collect();
                link.say(b'R', &[&texts(&list)], steps::MUTE_RCPT, limit).await
            }
            Question::Data { .. } if link.wants(steps::NO_DATA) => {
                link.say(b'T', &[], steps::MUTE_DATA, limit).await
            }
            _ => Ok(Said::Continue),
        }
    }

    /// Header, body, and the end of the message with its changes.
    async fn content(&mut self, object: &mut MailObject) -> Result<(Said, Edits), Failure> {
        let config = &self.shared.config;
        let limit = config.command_timeout;
        let Stand::Open(link) = &mut self.stand else { return Ok((Said::Continue, Edits::default())) };
        let goes_on = |said: &Said| matches!(said, Said::Continue);
        if link.wants(steps::NO_HEADERS) {
            let keeps_space = link.steps & steps::LEADING_SPACE != 0;
            let mut skipped = false;
            for (name, value) in object.fields() {
                let mut value: Vec<u8> = value.iter().copied().filter(|octet| *octet != b'\r').collect();
                if !keeps_space && value.first() == Some(&b' ') {
                    value.remove(0);
                }
                let data = texts(&[name, &value]);
                match link.say(b'L', &[&data], steps::MUTE_HEADERS, limit).await? {
                    Said::Skip => skipped = true,
                    said if !goes_on(&said) => return Ok((said, Edits::default())),
                    _ => {}
                }
                if skipped {
                    break;
                }
            }
        }
        if link.wants(steps::NO_EOH) {
            let said = link.say(b'N', &[], steps::MUTE_EOH, limit).await?;
            if !goes_on(&said) && !matches!(said, Said::Skip) {
                return Ok((said, Edits::default()));
            }
        }
        if link.wants(steps::NO_BODY) {
            let body = object.body();
            for chunk in body.chunks(CHUNK) {
                match link.say(b'B', &[chunk], steps::MUTE_BODY, limit).await? {
                    Said::Skip => break,
                    said if !goes_on(&said) => return Ok((said, Edits::default())),
                    _ => {}
                }
            }
        }
        put(&mut link.out, b'E', &[]);
        let last = Instant::now() + config.message_timeout_max;
        let mut until = last.min(Instant::now() + config.message_timeout);
        let mut edits = Edits::default();
        loop {
            let answered = timeout_at(until, async {
                link.flush().await?;
                wire::get(&mut link.stream).await
            });
            let (answer, data) = answered.await.map_err(|_| Failure::Late("message_timeout"))??;
            if answer == b'p' {
                until = last.min(Instant::now() + config.message_timeout);
            } else if !edits.take(answer, &data, link.actions, config.body_max.bytes())? {
                self.in_midst = false;
                return Ok((said(answer, &data, 0)?, edits));
            }
        }
    }

    /// What the end of a message means: the changes hold only with an answer that lets it in.
    async fn message(&mut self, object: &mut MailObject) -> Result<Answer, Failure> {
        let (said, mut edits) = self.content(object).await?;
        match said {
            Said::Continue | Said::Accept | Said::Skip => {
                let quarantine = edits.quarantine.take();
                let edited = edits.apply(object.clone())?;
                if let Some(reason) = quarantine {
                    match self.shared.config.on_quarantine {
                        OnQuarantine::Defer => {
                            return Ok(Answer::Refuse(Reply::new(
                                451,
                                (4, 7, 1),
                                "held by a filter, try again later",
                            )));
                        }
                        OnQuarantine::Reject => {
                            return Ok(Answer::Refuse(Reply::new(554, (5, 7, 1), "refused by a filter")));
                        }
                        OnQuarantine::Discard => {
                            return Ok(Answer::Discard(format!("quarantined: {reason}").into()));
                        }
                        OnQuarantine::Mark => {
                            *object = edited;
                            object
                                .add_field("X-Quarantine", reason.as_bytes())
                                .map_err(|_| WireError::Broken("a reason that cannot be"))?;
                            return Ok(Answer::Continue);
                        }
                    }
                }
                *object = edited;
                Ok(Answer::Continue)
            }
            Said::Discard => Ok(Answer::Discard(format!("by the filter {}", self.shared.name).into())),
            Said::Refuse(reply) => Ok(Answer::Refuse(reply)),
            Said::Disconnect(reply) => Ok(Answer::Disconnect(reply)),
        }
    }

    async fn answer(&mut self, facts: &Facts, question: Question<'_>) -> Result<Answer, Failure> {
        match question.phase() {
            Phase::Mail => (self.transaction, self.in_midst) = (Transaction::Open, true),
            Phase::Connect | Phase::Hello | Phase::Auth => {}
            Phase::Rcpt | Phase::Data | Phase::Message => match self.transaction {
                Transaction::Accepted => return Ok(Answer::Continue),
                Transaction::Discarded if question.phase() == Phase::Message => {
                    return Ok(Answer::Discard(format!("by the filter {}", self.shared.name).into()));
                }
                Transaction::Discarded => return Ok(Answer::Continue),
                Transaction::None | Transaction::Open => {}
            },
        }
        if let Question::Message(object) = question {
            return self.message(object).await;
        }
        let in_transaction = matches!(question.phase(), Phase::Mail | Phase::Rcpt | Phase::Data);
        Ok(match self.command(facts, &question).await? {
            Said::Continue | Said::Skip => Answer::Continue,
            Said::Accept if in_transaction => {
                self.transaction = Transaction::Accepted;
                Answer::Continue
            }
            Said::Accept => {
                self.stand = Stand::Accepted;
                Answer::Continue
            }
            // It is about the whole message, and the client hears of it at its end.
            Said::Discard if in_transaction => {
                self.transaction = Transaction::Discarded;
                Answer::Continue
            }
            Said::Discard => return Err(WireError::Broken("a discard where there is no message").into()),
            Said::Refuse(reply) => Answer::Refuse(reply),
            Said::Disconnect(reply) => Answer::Disconnect(reply),
        })
    }
}

fn mail_arguments(envelope: &Envelope, size: Option<u64>) -> Vec<String> {
    let mut list = vec![format!("<{}>", envelope.reverse_path)];
    list.extend(size.map(|size| format!("SIZE={size}")));
    match envelope.body {
        mail::BodyType::SevenBit => {}
        mail::BodyType::EightBitMime => list.push("BODY=8BITMIME".into()),
        mail::BodyType::BinaryMime => list.push("BODY=BINARYMIME".into()),
    }
    if envelope.smtputf8 {
        list.push("SMTPUTF8".into());
    }
    list.extend(envelope.envid.as_deref().map(|envid| format!("ENVID={envid}")));
    list
}

fn rcpt_arguments(recipient: &Recipient) -> Vec<String> {
    let mut list = vec![format!("<{}>", recipient.path)];
    if !recipient.notify.is_absent() {
        list.push(format!("NOTIFY={}", recipient.notify));
    }
    list.extend(recipient.orcpt.as_deref().map(|orcpt| format!("ORCPT={orcpt}")));
    list
}

impl Conversation for Talk {
    fn ask<'a>(&'a mut self, facts: &'a Arc<Facts>, question: Question<'a>) -> Asked<'a> {
        Box::pin(async move {
            let phase = question.phase();
            let answer = match self.stand {
                Stand::Accepted => Answer::Continue,
                Stand::Failed => self.shared.config.on_error.answer(),
                Stand::New | Stand::Open(_) => {
                    self.answer(facts, question).await.unwrap_or_else(|failure| {
                        self.stand = Stand::Failed;
                        self.shared.tally.failed();
                        let session = facts.origin.session.map(|id| id.to_string()).unwrap_or_default();
                        error!(milter = %self.shared.name, %phase, %session, reason = %failure, "a milter failed");
                        self.shared.config.on_error.answer()
                    })
                }
            };
            self.shared.tally.answered(&answer);
            answer
        })
    }

    fn transaction_ended(&mut self) {
        self.abort_due |= std::mem::take(&mut self.in_midst);
        self.transaction = Transaction::None;
        if matches!(self.stand, Stand::Failed) {
            // The next transaction tries again, by a new connection.
            (self.stand, self.abort_due) = (Stand::New, false);
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // The milter is told goodbye if that needs no waiting; a closed connection says the same.
        if let Stand::Open(link) = &mut self.stand {
            put(&mut link.out, b'Q', &[]);
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            let out = std::mem::take(&mut link.out);
            let _ = std::pin::Pin::new(link.stream.get_mut()).poll_write(&mut cx, &out);
        }
    }
}
