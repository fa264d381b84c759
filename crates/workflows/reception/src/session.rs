//! The driver of one server session: from a connection to durable messages.
//!
//! It moves octets, answers the machine's questions, and waits. What it answers comes from the static policy,
//! the spool and the users; what is said on the wire is the machine's.

use crate::auth::{Exchange, Step};
use crate::budget::Taken;
use crate::context::{Context, ListenerContext};
use crate::hooks::{Ask, Hooks, greeting};
use accounting::{Record, Refused};
use mail::{Envelope, Origin, Reply, SessionId, UnixMillis};
use net::Stream;
use net::trace::{About, Direction, Tap};
use policy::{Facts, Phase};
use smtp::server::transitions::State;
use smtp::server::{Answer, Connection, Event, Server};
use spool::{Accepted, Refusal};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::mpsc::OwnedPermit;
use tokio::time::{Instant, Sleep};
use tracing::{debug, warn};

mod taking;
mod wire;

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
    /// Who watches, if anybody does.
    tap: Option<Box<Tap>>,
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
        let tap = context.traces.get().and_then(|traces| {
            traces.begin(|_| About {
                direction: Direction::In,
                session: id.to_string(),
                peer: peer.address,
                host: listener.name.to_string(),
            })
        });
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
            tap,
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

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn wall() -> UnixMillis {
    UnixMillis::from(SystemTime::now())
}
