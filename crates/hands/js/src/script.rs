//! A script as a policy.

use crate::answer;
use crate::config::JsConfig;
use crate::context::{Context, Failure};
use crate::host::lock;
use crate::program::Program;
use mail::{BodyType, Envelope, Protocol, ReversePath, Tags};
use policy::{
    Answer, Asked, Conversation, Facts, MailObject, OnError, Phase, Phases, Policy, Question, Sparing,
    Surroundings, Tally,
};
use rquickjs::{Ctx, Function, Object, Value};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tracing::error;

/// A script that was not taken. Prints the file, the line and what is wrong.
#[derive(Debug)]
pub struct LoadError(pub(crate) Failure);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for LoadError {}

/// A loaded script.
pub struct Script {
    contexts: Vec<Arc<Context>>,
    next: AtomicUsize,
    shared: Arc<Shared>,
}

/// What the conversations of a script share.
struct Shared {
    program: &'static str,
    is_haraka: bool,
    timeout: Duration,
    on_error: OnError,
    phases: Phases,
    tally: Arc<Tally>,
    began: Instant,
    sparing: Sparing,
}

impl Script {
    /// Loads the script of a configuration: into `threads` contexts unless it says how many. A relative path is taken
    /// from the working directory. What a script says at its end is held to limits too.
    pub async fn load(
        config: &JsConfig,
        threads: usize,
        surroundings: &Surroundings,
    ) -> Result<Arc<Self>, LoadError> {
        Self::run(&Program::script(config).map_err(LoadError)?, threads, surroundings).await
    }

    /// Loads a program into as many contexts.
    pub(crate) async fn run(
        config: &Program,
        threads: usize,
        surroundings: &Surroundings,
    ) -> Result<Arc<Self>, LoadError> {
        let count = if config.contexts == 0 { threads.max(1) } else { config.contexts };
        let mut contexts = Vec::with_capacity(count);
        for _ in 0..count {
            let context = Context::load(config, surroundings, None).await.map_err(LoadError)?;
            if config.is_haraka {
                begin(&context, config.timeout).await.map_err(LoadError)?;
            }
            contexts.push(context);
        }
        let phases = contexts.iter().fold(Phases::NONE, |all, context| all.and(context.phases()));
        let shared = Shared {
            program: config.name,
            is_haraka: config.is_haraka,
            timeout: config.timeout,
            on_error: config.on_error,
            phases,
            tally: surroundings.tally.clone(),
            began: Instant::now(),
            sparing: Sparing::default(),
        };
        Ok(Arc::new(Self { contexts, next: AtomicUsize::new(0), shared: Arc::new(shared) }))
    }
}

impl Policy for Script {
    fn phases(&self) -> Phases {
        self.shared.phases
    }

    fn open(&self) -> Box<dyn Conversation> {
        let turn = self.next.fetch_add(1, Relaxed) % self.contexts.len();
        let context = self.contexts[turn].clone();
        let session = context.number();
        Box::new(Talk { context, shared: self.shared.clone(), session, known: None, mails: 0 })
    }
}

impl Shared {
    /// Tells of a failure, and gives what is answered in its place.
    fn failed(&self, facts: &Facts, phase: Phase, failure: &Failure) -> Answer {
        self.tally.failed();
        if self.sparing.tells(self.began.elapsed().as_secs()) {
            let session = facts.origin.session.map(|id| id.to_string()).unwrap_or_default();
            let script = self.program;
            error!(script, %phase, %session, reason = %failure, "a script failed");
        }
        self.on_error.answer()
    }
}

/// One session with a script.
struct Talk {
    context: Arc<Context>,
    shared: Arc<Shared>,
    /// Its number in the machine.
    session: u64,
    /// The facts that the machine knows.
    known: Option<Arc<Facts>>,
    /// Transactions begun, so that the end of one, of which the machine hears later, is not taken for that of the next.
    mails: u64,
}

impl Drop for Talk {
    fn drop(&mut self) {
        lock(&self.context.host.messages).remove(&self.session);
        if self.known.is_some() {
            // The machine forgets it when it runs next: to wait for it here would hold the thread.
            lock(&self.context.host.gone).push(self.session);
            if self.shared.is_haraka {
                later(&self.context, "__forget", None);
            }
        }
    }
}

/// Calls a function of the machine when it is free. `__forget` is for all sessions that are gone.
fn later(context: &Arc<Context>, name: &'static str, session: Option<(u64, u64)>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let context = context.clone();
    runtime.spawn(async move {
        let called = context.enter(|ctx| {
            let function: Function = ctx.globals().get(name)?;
            match session {
                Some(session) => function.call::<_, ()>(session),
                None => function.call::<_, ()>((std::mem::take(&mut *lock(&context.host.gone)),)),
            }
        });
        if let Err(failure) = called.await {
            error!(script = context.host.program, reason = %failure, "a script failed at the end of a session or transaction");
        }
    });
}

/// Lets the plugins of a fresh machine begin, and waits until they have.
async fn begin(context: &Arc<Context>, timeout: Duration) -> Result<(), Failure> {
    let call = context.number();
    let (tell, told) = oneshot::channel();
    let _ended = Call(context, call);
    context.waiting().insert(call, tell);
    context.enter(|ctx| ctx.globals().get::<_, Function>("__begin")?.call::<_, bool>((call,))).await?;
    match tokio::time::timeout(timeout, told).await {
        Ok(Ok(outcome)) => outcome.map(drop),
        Ok(Err(_)) | Err(_) => Err(Failure::Timeout),
    }
}

/// Takes its call out of those that wait, however it ends.
struct Call<'a>(&'a Context, u64);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.waiting().remove(&self.1);
    }
}

impl Talk {
    /// Asks every function of the phase until one decides.
    async fn run(&mut self, facts: &Arc<Facts>, question: &Question<'_>) -> Result<Answer, Failure> {
        let news = self.known.as_ref().is_none_or(|known| !Arc::ptr_eq(known, facts));
        self.known = Some(facts.clone());
        self.mails += u64::from(question.phase() == Phase::Mail);
        let (context, session, call) = (&*self.context, self.session, self.context.number());
        let (tell, told) = oneshot::channel();
        let _ended = Call(context, call);
        context.waiting().insert(call, tell);
        let at_once = context
            .enter(|ctx| {
                let gone = std::mem::take(&mut *lock(&context.host.gone));
                if !gone.is_empty() {
                    ctx.globals().get::<_, Function>("__forget")?.call::<_, ()>((gone,))?;
                }
                let ask: Function = ctx.globals().get("__ask")?;
                let facts = if news { Some(session_of(&ctx, facts)?) } else { None };
                let subject = subject(&ctx, question)?;
                let value: Value = ask.call((question.phase() as u8, session, call, facts, subject))?;
                // `true` says that it waits.
                Ok(if value.is_bool() { None } else { Some(answer::of(&value)) })
            })
            .await?;
        match at_once {
            Some(answer) => answer,
            None => match tokio::time::timeout(self.shared.timeout, told).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) | Err(_) => Err(Failure::Timeout),
            },
        }
    }

    /// The script gets the message itself, and what it made of it is taken back only with its answer.
    async fn ask_message(&mut self, facts: &Arc<Facts>, object: &mut MailObject) -> Result<Answer, Failure> {
        let taken = std::mem::replace(object, nothing());
        let as_it_was = (self.shared.on_error == OnError::Continue).then(|| taken.clone());
        lock(&self.context.host.messages).insert(self.session, taken);
        let asked = self.run(facts, &Question::Message(object)).await;
        let edited = lock(&self.context.host.messages).remove(&self.session);
        match (asked, edited) {
            (Ok(answer), Some(edited)) => {
                *object = edited;
                Ok(answer)
            }
            (Ok(_), None) => Err(Failure::Script("the message is gone".into())),
            (Err(failure), _) => {
                if let Some(as_it_was) = as_it_was {
                    *object = as_it_was;
                }
                Err(failure)
            }
        }
    }
}

/// What stands in the place of a message while the script has it.
fn nothing() -> MailObject {
    MailObject::new(Envelope::new(ReversePath::Null, Vec::new()), Tags::default(), Default::default())
}

/// The facts of a session as a table.
fn session_of<'js>(ctx: &Ctx<'js>, facts: &Facts) -> rquickjs::Result<Object<'js>> {
    let origin = &facts.origin;
    let table = Object::new(ctx.clone())?;
    table.set("id", origin.session.map(|id| id.to_string()))?;
    table.set("peer", origin.peer.map(|peer| peer.ip().to_string()))?;
    table.set("peer_port", origin.peer.map(|peer| peer.port()))?;
    table.set("local_address", origin.local.map(|local| local.ip().to_string()))?;
    table.set("local_port", origin.local.map(|local| local.port()))?;
    table.set("helo", &*origin.helo)?;
    table.set("user", origin.user.as_deref())?;
    table.set("listener", &*origin.listener)?;
    table.set("hostname", &*facts.hostname)?;
    table.set("trusted", facts.trusted)?;
    let protocol = match origin.protocol {
        Protocol::Smtp => "SMTP",
        Protocol::Esmtp => "ESMTP",
        Protocol::Lmtp => "LMTP",
        Protocol::Http => "HTTP",
        Protocol::Internal => "internal",
    };
    table.set("protocol", protocol)?;
    table.set("tls", origin.tls.as_ref().map(|tls| tls.protocol.to_string()))?;
    table.set("cipher", origin.tls.as_ref().map(|tls| tls.cipher.to_string()))?;
    Ok(table)
}

/// What a command says, as a table.
fn subject<'js>(ctx: &Ctx<'js>, question: &Question<'_>) -> rquickjs::Result<Option<Object<'js>>> {
    let table = Object::new(ctx.clone())?;
    let recipients = |envelope: &Envelope| {
        envelope.recipients.iter().map(|recipient| recipient.path.as_str().to_owned()).collect::<Vec<_>>()
    };
    match question {
        Question::Connect | Question::Message(_) => return Ok(None),
        Question::Hello { name, extended } => {
            table.set("name", *name)?;
            table.set("extended", *extended)?;
        }
        Question::Auth { user, mechanism } => {
            table.set("user", *user)?;
            table.set("mechanism", *mechanism)?;
        }
        Question::Mail { envelope, size } => {
            let mailbox = envelope.reverse_path.mailbox();
            table.set("address", envelope.reverse_path.as_str())?;
            table.set("local_part", mailbox.map(|mailbox| mailbox.local_part().to_owned()))?;
            table.set("domain", mailbox.map(|mailbox| mailbox.host().to_string()))?;
            table.set("size", *size)?;
            let body = match envelope.body {
                BodyType::SevenBit => "7BIT",
                BodyType::EightBitMime => "8BITMIME",
                BodyType::BinaryMime => "BINARYMIME",
            };
            table.set("body", body)?;
            table.set("smtputf8", envelope.smtputf8)?;
            table.set("require_tls", envelope.require_tls)?;
            table.set("envid", envelope.envid.as_deref())?;
        }
        Question::Rcpt { envelope, recipient } => {
            let mailbox = &recipient.path.0;
            table.set("address", mailbox.as_str())?;
            table.set("local_part", mailbox.local_part())?;
            table.set("domain", mailbox.host().to_string())?;
            table.set("notify", recipient.notify.to_string())?;
            table.set("orcpt", recipient.orcpt.as_deref())?;
            table.set("sender", envelope.reverse_path.as_str())?;
            table.set("accepted", envelope.recipients.len())?;
        }
        Question::Data { envelope } => {
            table.set("sender", envelope.reverse_path.as_str())?;
            table.set("recipients", recipients(envelope))?;
        }
    }
    Ok(Some(table))
}

impl Conversation for Talk {
    fn ask<'a>(&'a mut self, facts: &'a Arc<Facts>, question: Question<'a>) -> Asked<'a> {
        Box::pin(async move {
            let phase = question.phase();
            let answer = match question {
                Question::Message(object) => self.ask_message(facts, object).await,
                question => self.run(facts, &question).await,
            };
            let answer = answer.unwrap_or_else(|failure| self.shared.failed(facts, phase, &failure));
            self.shared.tally.answered(&answer);
            answer
        })
    }

    fn transaction_ended(&mut self) {
        if self.shared.is_haraka && self.known.is_some() {
            later(&self.context, "__reset", Some((self.session, self.mails)));
        }
    }
}
