//! The driver of one server session: from a connection to durable messages.
//!
//! It moves octets, answers the machine's questions, and waits. What it answers comes from the static policy,
//! the spool and the users; what is said on the wire is the machine's.

use crate::auth::{Exchange, Step};
use crate::budget::Taken;
use crate::context::{Context, ListenerContext, Rules};
use crate::feedback::read_report;
use crate::hooks::{Ask, Discarded, Hooks, greeting};
use crate::tagging::{Tagged, Verified, tag};
use crate::verify::Incoming;
use accounting::{Kind, Record, Refused};
use bytes::Bytes;
use mail::{BodyType, Envelope, Host, Message, Origin, Recipient, Reply, SessionId, UnixMillis};
use message::{HeaderLimits, ReceivedField, add_missing, is_seven_bit};
use net::Stream;
use policy::{Facts, MailObject, Phase};
use smtp::server::transitions::State;
use smtp::server::{Answer, Connection, Event, Server};
use spool::{Accepted, Content, Draft, Refusal};
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::SystemTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc::OwnedPermit;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{debug, warn};

thread_local! {
    /// What is read lands here and is taken by the machine at once, so that an idle session owns no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; 64 * 1024].into_boxed_slice());
}

/// Who is at the other end: the connection's own addresses, or what a trusted proxy says.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// What the machine wants done; its event, without the borrow.
enum Task {
    Answer(Answer),
    /// The static rules have no objection: ask the policy.
    Ask(Ask),
    Reserve,
    Message(Envelope, Vec<u8>),
    Check {
        user: Box<str>,
        password: Box<str>,
    },
    XClient(server_xclient::Taken),
    StartTls,
    Close,
}

mod server_xclient {
    //! The attributes of XCLIENT that change what we believe of the peer.
    pub(super) struct Taken {
        pub(super) address: Option<std::net::IpAddr>,
        pub(super) port: Option<u16>,
        pub(super) local_address: Option<std::net::IpAddr>,
        pub(super) local_port: Option<u16>,
        pub(super) login: Option<Box<str>>,
        pub(super) helo: Option<Box<str>>,
    }
}

/// One session.
pub(crate) struct Session {
    context: Arc<Context>,
    listener: Arc<ListenerContext>,
    server: Server,
    stream: Option<Stream>,
    id: SessionId,
    peer: Peer,
    /// Octets read and not taken by the machine yet.
    left: Vec<u8>,
    exchange: Option<Exchange>,
    /// The operator's policy, if there is one.
    hooks: Option<Box<Hooks>>,
    /// A login that XCLIENT vouches for.
    xclient_login: Option<Box<str>>,
    permit: Option<OwnedPermit<Accepted>>,
    taken: Taken,
    timer: Option<Pin<Box<Sleep>>>,
    needs_flush: bool,
    draining: bool,
    /// Since when this session's content waits for memory.
    short_since: Option<Instant>,
}

/// How a wait ended.
enum Waited {
    Progress,
    Gone,
    /// Memory was short for too long: what this session holds must be given back.
    Short,
}

impl Session {
    pub(crate) fn new(
        context: Arc<Context>,
        listener: Arc<ListenerContext>,
        stream: Stream,
        peer: Peer,
        id: SessionId,
    ) -> Self {
        let rules = context.rules.load();
        let config = &listener.config;
        let xclient_allowed = config.xclient_from.iter().any(|net| net.contains(peer.address.ip()));
        let connection = Connection {
            tls: stream.is_tls(),
            lmtp: listener.is_lmtp(),
            starttls_available: listener.offers_starttls() && !stream.is_tls(),
            tls_required: listener.requires_tls(),
            auth_mechanisms: listener.mechanisms.clone(),
            auth_required: config.auth_required,
            xclient_allowed,
        };
        let session_config =
            if config.auth_without_tls { rules.session_auth_in_clear.clone() } else { rules.session.clone() };
        let server = Server::new(session_config, connection, now());
        let taken = Taken::nothing(&context.budget);
        let hooks = Hooks::of(rules.policy.as_ref());
        Self {
            context,
            listener,
            server,
            stream: Some(stream),
            id,
            peer,
            left: Vec::new(),
            exchange: None,
            hooks,
            xclient_login: None,
            permit: None,
            taken,
            timer: None,
            needs_flush: false,
            draining: false,
            short_since: None,
        }
    }

    /// Lives until the client leaves, is sent away, or breaks the connection.
    pub(crate) async fn run(mut self, refusal: Option<Reply>) {
        let refusal = match refusal {
            None if self.wants(Phase::Connect) => self.ask(&Ask::Connect).await.and_then(greeting),
            refusal => refusal,
        };
        self.server.greet(now(), refusal);
        let mut drain = self.context.drain();
        loop {
            if let Some(task) = self.task() {
                if !self.perform(task).await {
                    break;
                }
                continue;
            }
            self.record_refusals();
            if self.feed() {
                continue;
            }
            // A transaction that ended without a message gives back what was reserved for it: places must not
            // pile up in sessions that do nothing.
            if !matches!(self.server.state(), State::Data | State::Chunks) {
                self.permit = None;
                self.taken.give_back();
            }
            match self.wait(&mut drain).await {
                Waited::Progress => {}
                Waited::Gone => break,
                Waited::Short => {
                    warn!(session = %self.id, peer = %self.peer.address, "session ended for want of memory");
                    self.server.output().extend_from_slice(b"421 4.3.1 short of memory, try again later\r\n");
                    self.taken.give_back();
                    self.close().await;
                    break;
                }
            }
        }
        self.record_refusals();
        let left_out = self.server.refusals_left_out();
        if left_out > 0 {
            self.context.recorder.metrics().rejections.inc_by(left_out);
            warn!(session = %self.id, peer = %self.peer.address, refusals = left_out, "refusals beyond refusal_records_max left no record");
        }
        debug!(session = %self.id, peer = %self.peer.address, "session ended");
    }

    /// Gives the machine what was read before. True if it took some.
    fn feed(&mut self) -> bool {
        if self.left.is_empty() {
            return false;
        }
        let taken = self.server.receive(now(), &self.left);
        if taken == self.left.len() {
            self.left = Vec::new();
        } else {
            self.left.drain(..taken);
        }
        taken > 0
    }

    /// The machine's next question, answered as far as that needs no waiting.
    fn task(&mut self) -> Option<Task> {
        let context = &self.context;
        let hooks = self.hooks.as_deref_mut();
        let wants = |hooks: &Option<&mut Hooks>, phase| hooks.as_ref().is_some_and(|hooks| hooks.want(phase));
        let peer = self.peer.address.ip();
        let user = self.server.user().map(Box::<str>::from).or_else(|| self.xclient_login.clone());
        let task = match self.server.event()? {
            Event::Hello { name, extended } if hooks.is_some() => {
                Task::Ask(Ask::Hello { name: name.into(), extended })
            }
            Event::Hello { .. } => Task::Answer(Answer::Accept),
            Event::Mail { size, .. } => match context.may_take(size, &self.taken) {
                Ok(()) if hooks.is_some() => Task::Ask(Ask::Mail { size }),
                Ok(()) => Task::Answer(Answer::Accept),
                Err(reply) => Task::Answer(Answer::Reply(reply)),
            },
            Event::Rcpt { envelope, recipient } => {
                let rules = context.rules.load();
                // Reports come from anybody, and tell of those who are on a list too.
                let is_read =
                    rules.report_reader.as_ref().is_some_and(|reader| reader.takes(&recipient.path.0));
                let refusal = (!is_read).then(|| {
                    rules.relay.refusal(Some(peer), user.as_deref(), recipient).or_else(|| {
                        let tenant = rules.tags.tenant_of(user.as_deref(), &self.listener.config);
                        context.suppression_refusal(&rules, tenant, envelope, recipient)
                    })
                });
                let refusal = refusal.flatten();
                match refusal {
                    None if wants(&hooks, Phase::Rcpt) => Task::Ask(Ask::Rcpt(recipient.clone())),
                    None => Task::Answer(Answer::Accept),
                    Some(reply) => Task::Answer(Answer::Reply(reply)),
                }
            }
            Event::Data { .. } => Task::Reserve,
            Event::Message { envelope, content } => Task::Message(envelope, content),
            Event::Auth { mechanism, initial } => {
                if let Some(hooks) = hooks {
                    hooks.auth_begins(mechanism);
                }
                let held = context.brake.holds(now(), context.auth_failures_max(), Some(peer), None);
                match Exchange::new(mechanism) {
                    _ if held => Task::Answer(Answer::Reply(too_many_failures())),
                    None => Task::Answer(Answer::Reply(Reply::new(504, (5, 5, 4), "unknown mechanism"))),
                    Some(exchange) => {
                        let step = match initial {
                            Some(initial) => exchange.step(&context.rules.load().users, initial),
                            None => exchange.opening(),
                        };
                        auth_task(context, peer, &mut self.exchange, step)
                    }
                }
            }
            Event::AuthResponse(response) => {
                let step = match self.exchange.take() {
                    Some(exchange) => exchange.step(&context.rules.load().users, response),
                    None => Step::Malformed,
                };
                auth_task(context, peer, &mut self.exchange, step)
            }
            Event::Vrfy(_) => {
                Task::Answer(Answer::Reply(Reply::new(252, (2, 5, 1), "cannot verify, send and see")))
            }
            Event::Expn(_) => Task::Answer(Answer::Reply(Reply::new(502, (5, 5, 1), "not implemented"))),
            Event::XClient(given) => Task::XClient(server_xclient::Taken {
                address: given.address,
                port: given.port,
                local_address: given.destination_address,
                local_port: given.destination_port,
                login: given.login.clone(),
                helo: given.helo.clone(),
            }),
            Event::StartTls => Task::StartTls,
            Event::Close => Task::Close,
        };
        Some(task)
    }

    /// Does what the machine wants. False if the session is over.
    async fn perform(&mut self, task: Task) -> bool {
        match task {
            Task::Answer(answer) => self.answer(answer).await,
            Task::Ask(ask) => {
                let is_hello = matches!(ask, Ask::Hello { .. });
                let answer = self.decide(ask).await;
                self.server.answer(now(), answer);
                if is_hello {
                    self.forget_facts();
                }
            }
            Task::Reserve => {
                let answer = match self.reserve().await {
                    Answer::Accept if self.wants(Phase::Data) => {
                        self.ask(&Ask::Data).await.unwrap_or(Answer::Accept)
                    }
                    answer => answer,
                };
                self.server.answer(now(), answer);
            }
            Task::Message(envelope, content) => {
                let recipients = envelope.recipients.len();
                let answer = Box::pin(self.message(envelope, content)).await;
                self.taken.give_back();
                if let Some(hooks) = &mut self.hooks {
                    hooks.transaction_ended();
                }
                let answer = match answer {
                    Answer::Reply(reply) if self.listener.is_lmtp() => {
                        Answer::Replies(vec![reply; recipients])
                    }
                    answer => answer,
                };
                self.server.answer(now(), answer);
            }
            Task::Check { user, password } => {
                let users = self.context.rules.load().users.clone();
                let name = user.clone();
                // A millisecond or more of hashing has no place on a thread that serves others.
                let right = tokio::task::spawn_blocking(move || users.check(&name, &password)).await;
                let step = if right.unwrap_or(false) { Step::Proven(user) } else { Step::Failed(Some(user)) };
                if let Task::Answer(answer) =
                    auth_task(&self.context, self.peer.address.ip(), &mut self.exchange, step)
                {
                    self.answer(answer).await;
                }
            }
            Task::XClient(given) => {
                if let Some(address) = given.address {
                    self.peer.address = SocketAddr::new(address, given.port.unwrap_or(0));
                }
                if let Some(address) = given.local_address {
                    self.peer.local = SocketAddr::new(address, given.local_port.unwrap_or(25));
                }
                self.xclient_login = given.login;
                self.forget_facts();
                debug!(session = %self.id, peer = %self.peer.address, helo = ?given.helo, "XCLIENT");
                self.server.answer(now(), Answer::Accept);
            }
            Task::StartTls => return self.start_tls().await,
            Task::Close => {
                self.close().await;
                return false;
            }
        }
        true
    }

    /// True if the operator's policy is to be asked at a phase.
    fn wants(&self, phase: Phase) -> bool {
        self.hooks.as_ref().is_some_and(|hooks| hooks.want(phase))
    }

    fn forget_facts(&mut self) {
        if let Some(hooks) = &mut self.hooks {
            hooks.forget_facts();
        }
    }

    /// Makes sure that the policy knows who the client is.
    fn gather_facts(&mut self) {
        if self.hooks.as_ref().is_some_and(|hooks| hooks.lack_facts()) {
            let origin = self.origin();
            let rules = self.context.rules.load();
            let trusted = rules.relay.trusts(origin.peer.map(|peer| peer.ip()), origin.user.as_deref());
            let facts = Facts { origin, hostname: rules.hostname.as_str().into(), trusted };
            if let Some(hooks) = &mut self.hooks {
                hooks.set_facts(facts);
            }
        }
    }

    /// Asks the policy at a command. `None` if it has no objection.
    async fn ask(&mut self, ask: &Ask) -> Option<Answer> {
        self.gather_facts();
        self.hooks.as_mut()?.ask(ask, &self.server).await
    }

    /// What the policy answers to a command that the static rules allow.
    async fn decide(&mut self, ask: Ask) -> Answer {
        let asked = match &ask {
            Ask::Mail { .. } => {
                if let Some(hooks) = &mut self.hooks {
                    hooks.transaction_ended();
                }
                self.wants(Phase::Mail)
            }
            Ask::Hello { .. } => {
                self.forget_facts();
                self.wants(Phase::Hello)
            }
            _ => true,
        };
        if !asked {
            return Answer::Accept;
        }
        self.ask(&ask).await.unwrap_or(Answer::Accept)
    }

    /// Answers the machine; a user who proved who they are is let in by the policy too.
    async fn answer(&mut self, answer: Answer) {
        let answer = match answer {
            Answer::Authenticated(user) if self.hooks.is_some() => {
                self.forget_facts();
                let ask = Ask::Auth { user };
                let refused = if self.wants(Phase::Auth) { self.ask(&ask).await } else { None };
                self.forget_facts();
                let Ask::Auth { user } = ask else { unreachable!("it was made above") };
                refused.unwrap_or(Answer::Authenticated(user))
            }
            answer => answer,
        };
        self.server.answer(now(), answer);
    }

    /// Reserves what a message needs before the client is told to send it.
    async fn reserve(&mut self) -> Answer {
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
    async fn message(&mut self, mut envelope: Envelope, mut content: Vec<u8>) -> Answer {
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
        let Some((message, kept, reasons)) = discarded else { return };
        let mut records = Vec::with_capacity(reasons.len() * 2);
        for (n, why) in reasons.into_iter().enumerate() {
            let index = (kept + n) as u32;
            records.push(Record::new(Kind::Received, at, &message, index));
            let mut record = Record::new(Kind::Discarded, at, &message, index);
            record.reply = Some(Arc::new(Reply::new(250, (2, 0, 0), String::from(why))));
            records.push(record);
        }
        self.context.recorder.record_many(records);
    }

    /// A message is refused: each of its recipients is for the records.
    fn refused(&mut self, envelope: &Envelope, reply: Reply) -> Answer {
        self.server.note_refused(envelope, &reply);
        Answer::Reply(reply)
    }

    /// Records what was refused, by the machine or by us: one record for each transaction or recipient, as many
    /// as the session may leave.
    fn record_refusals(&mut self) {
        let refusals = self.server.take_refusals();
        if refusals.is_empty() {
            return;
        }
        let (at, origin) = (wall(), self.origin());
        let records = refusals.into_iter().map(|refusal| {
            let refused = Refused {
                origin: origin.clone(),
                reverse_path: refusal.reverse_path,
                recipient: refusal.recipient,
            };
            Record::rejected(at, Arc::new(refused), Arc::new(refusal.reply))
        });
        self.context.recorder.record_many(records.collect());
    }

    fn origin(&self) -> Origin {
        let mut origin = origin_of(&self.listener, &self.peer, self.id, self.stream.as_ref());
        origin.helo = self.server.hello().into();
        origin.user = self.server.user().map(Box::from).or_else(|| self.xclient_login.clone());
        origin.protocol = self.server.protocol();
        origin
    }

    async fn start_tls(&mut self) -> bool {
        if !self.flush().await {
            return false;
        }
        // Whatever came behind STARTTLS was not protected and is nobody's word (RFC 3207 §4.2).
        self.left = Vec::new();
        let (Some(stream), Some(acceptor)) = (self.stream.take(), &self.listener.acceptor) else {
            return false;
        };
        match acceptor.accept(stream).await {
            Ok(stream) => {
                self.stream = Some(stream);
                self.xclient_login = None;
                self.forget_facts();
                self.server.tls_started(now());
                true
            }
            Err(error) => {
                debug!(session = %self.id, peer = %self.peer.address, %error, "TLS handshake failed");
                false
            }
        }
    }

    /// Sends what is left to say, with little patience, and closes.
    async fn close(&mut self) {
        let limit = std::time::Duration::from_secs(5);
        let _ = tokio::time::timeout(limit, async {
            if self.flush().await
                && let Some(stream) = &mut self.stream
            {
                let _ = tokio::io::AsyncWriteExt::shutdown(stream).await;
            }
        })
        .await;
    }

    /// Sends all output. False if the connection is gone or the client does not read.
    async fn flush(&mut self) -> bool {
        let limit = std::time::Duration::from_secs(30);
        let work = poll_fn(|cx| {
            while !self.server.output().is_empty() {
                match self.write(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
            match self.stream.as_mut().map(|stream| Pin::new(stream).poll_flush(cx)) {
                Some(Poll::Ready(Ok(()))) => Poll::Ready(true),
                Some(Poll::Pending) => Poll::Pending,
                _ => Poll::Ready(false),
            }
        });
        tokio::time::timeout(limit, work).await.unwrap_or(false)
    }

    /// Writes output once.
    fn write(&mut self, cx: &mut TaskContext<'_>) -> Poll<std::io::Result<()>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(std::io::ErrorKind::NotConnected.into()));
        };
        let output = self.server.output();
        match Pin::new(stream).poll_write(cx, output) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(count)) if count == output.len() => {
                output.clear();
                self.needs_flush = true;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(count)) => {
                output.drain(..count);
                self.needs_flush = true;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Waits for octets, for the client to take some, or for time to pass.
    async fn wait(&mut self, drain: &mut crate::context::Drain) -> Waited {
        poll_fn(|cx| {
            let mut progress = false;
            while !self.server.output().is_empty() {
                match self.write(cx) {
                    Poll::Ready(Ok(())) => progress = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(Waited::Gone),
                    Poll::Pending => break,
                }
            }
            if self.needs_flush {
                match self.stream.as_mut().map(|stream| Pin::new(stream).poll_flush(cx)) {
                    Some(Poll::Ready(Ok(()))) => self.needs_flush = false,
                    Some(Poll::Pending) => {}
                    _ => return Poll::Ready(Waited::Gone),
                }
            }
            if progress && !self.left.is_empty() {
                return Poll::Ready(Waited::Progress);
            }
            if !self.draining && drain.poll(cx) {
                self.draining = true;
                self.server.shut_down();
                return Poll::Ready(Waited::Progress);
            }
            // What was read before goes first; and content is not read while memory is spent. Commands are: who
            // holds nothing takes nothing, and gets its 452.
            if self.left.is_empty() && !self.is_short() {
                match self.read(cx) {
                    Poll::Ready(true) => return Poll::Ready(Waited::Progress),
                    Poll::Ready(false) => return Poll::Ready(Waited::Gone),
                    Poll::Pending => {}
                }
            }
            self.server.release();
            self.poll_timer(cx)
        })
        .await
    }

    /// Reads once and gives it to the machine. `false` is the end of the connection.
    fn read(&mut self, cx: &mut TaskContext<'_>) -> Poll<bool> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(false) };
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(stream).poll_read(cx, &mut buffer) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    let octets = buffer.filled();
                    if self.permit.is_some() {
                        self.taken.add(octets.len() as u64);
                    }
                    let taken = self.server.receive(now(), octets);
                    self.left.extend_from_slice(&octets[taken..]);
                    Poll::Ready(true)
                }
                Poll::Ready(_) => Poll::Ready(false),
            }
        })
    }

    /// True if this session holds content and there is no memory for more.
    fn is_short(&self) -> bool {
        self.taken.octets() > 0 && self.taken.budget().is_spent()
    }

    fn poll_timer(&mut self, cx: &mut TaskContext<'_>) -> Poll<Waited> {
        let Some(at) = self.server.wake_at().map(Instant::from_std) else { return Poll::Pending };
        // While memory is short, look again soon: nobody else tells when there is some. It may be that nobody ever
        // would: when partial messages hold all of it, somebody's has to be given up.
        let at = if self.is_short() {
            let now = Instant::now();
            let since = *self.short_since.get_or_insert(now);
            if now.duration_since(since) > self.context.rules.load().reception.intake_wait {
                return Poll::Ready(Waited::Short);
            }
            at.min(now + std::time::Duration::from_millis(50))
        } else {
            self.short_since = None;
            at
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        // A later deadline need not move the timer: it rings early, and is set anew then.
        if timer.is_elapsed() || at < timer.deadline() {
            timer.as_mut().reset(at);
        }
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.server.wake(now());
        Poll::Ready(Waited::Progress)
    }
}

/// What a step of AUTH leads to.
fn auth_task(context: &Context, peer: IpAddr, exchange: &mut Option<Exchange>, step: Step) -> Task {
    *exchange = None;
    Task::Answer(match step {
        Step::Challenge(challenge, next) => {
            *exchange = Some(next);
            Answer::Challenge(challenge)
        }
        Step::Check { user, password } => {
            if context.brake.holds(now(), context.auth_failures_max(), None, Some(&user)) {
                return Task::Answer(Answer::Reply(too_many_failures()));
            }
            return Task::Check { user, password };
        }
        Step::Proven(user) => Answer::Authenticated(user),
        Step::Failed(user) => {
            context.brake.failed(now(), Some(peer), user.as_deref());
            warn!(%peer, user = user.as_deref().unwrap_or(""), "authentication failed");
            Answer::Reply(Reply::new(535, (5, 7, 8), "authentication failed"))
        }
        Step::Malformed => Answer::Reply(Reply::new(501, (5, 5, 2), "not what the mechanism says")),
    })
}

fn too_many_failures() -> Reply {
    Reply::new(454, (4, 7, 0), "too many failures, try again later")
}

fn origin_of(listener: &ListenerContext, peer: &Peer, id: SessionId, stream: Option<&Stream>) -> Origin {
    Origin {
        session: Some(id),
        peer: Some(peer.address),
        local: Some(peer.local),
        listener: listener.name.clone(),
        tls: stream.and_then(Stream::tls_info),
        ..Origin::default()
    }
}

/// The reply for what the spool would not take.
pub(crate) fn refusal_reply(refusal: Refusal) -> Reply {
    match refusal {
        Refusal::Full => Reply::new(452, (4, 3, 1), "no room for mail now, try again later"),
        Refusal::Io => Reply::new(451, (4, 3, 0), "cannot store mail now, try again later"),
        Refusal::Busy => Reply::new(451, (4, 3, 2), "too busy now, try again later"),
        Refusal::TooLarge => Reply::new(552, (5, 3, 4), "message has too many recipients or is too large"),
        Refusal::Closed => Reply::new(451, (4, 3, 2), "shutting down, try again later"),
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

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn wall() -> UnixMillis {
    UnixMillis::from(SystemTime::now())
}
