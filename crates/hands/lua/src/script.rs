//! A script as a policy.

use crate::answer;
use crate::call::{Failure, Limits, call};
use crate::config::LuaConfig;
use crate::context::Context;
use crate::message::MessageData;
use crate::session::{EnvelopeData, MailData, RcptData, SessionData, table};
use mail::{Envelope, ReversePath, Tags};
use mlua::{AnyUserData, IntoLuaMulti, MultiValue};
use policy::{
    Answer, Asked, Conversation, Facts, MailObject, OnError, Phase, Phases, Policy, Question, Sparing,
    Surroundings, Tally,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;
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
    limits: Limits,
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
        config: &LuaConfig,
        threads: usize,
        surroundings: &Surroundings,
    ) -> Result<Arc<Self>, LoadError> {
        let count = if config.contexts == 0 { threads.max(1) } else { config.contexts };
        let mut contexts = Vec::with_capacity(count);
        for _ in 0..count {
            let context = Context::load(config, surroundings).await.map_err(LoadError)?;
            contexts.push(context);
        }
        let phases = contexts.iter().fold(Phases::NONE, |all, context| all.and(context.phases()));
        let limits = Limits {
            time_max: config.time_max,
            instructions_max: config.instructions_max,
            timeout: config.timeout,
            memory_max: config.memory_max.bytes(),
        };
        let shared = Shared {
            limits,
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
        Box::new(Talk { context: self.contexts[turn].clone(), shared: self.shared.clone(), session: None })
    }
}

impl Shared {
    /// Tells of a failure, and gives what is answered in its place.
    fn failed(&self, facts: &Facts, phase: Phase, failure: &Failure) -> Answer {
        self.tally.failed();
        if self.sparing.tells(self.began.elapsed().as_secs()) {
            let session = facts.origin.session.map(|id| id.to_string()).unwrap_or_default();
            error!(script = "lua", %phase, %session, reason = %failure, "a script failed");
        }
        self.on_error.answer()
    }
}

/// One session with a script.
struct Talk {
    context: Arc<Context>,
    shared: Arc<Shared>,
    /// `session`, made when it is first needed.
    session: Option<AnyUserData>,
}

impl Talk {
    fn session(&mut self, facts: &Arc<Facts>) -> mlua::Result<AnyUserData> {
        if let Some(session) = &self.session {
            let mut data = session.borrow_mut::<SessionData>()?;
            if !Arc::ptr_eq(&data.0, facts) {
                data.0 = facts.clone();
            }
            drop(data);
            return Ok(session.clone());
        }
        let session = self.context.lua.create_userdata(SessionData(facts.clone()))?;
        self.session = Some(session.clone());
        Ok(session)
    }

    /// Asks every function of a phase until one decides.
    async fn run(&mut self, phase: Phase, arguments: MultiValue) -> Result<Answer, Failure> {
        for function in self.context.hooks(phase) {
            let returned = call(&self.context, function, arguments.clone(), &self.shared.limits).await?;
            let answer = answer::of(returned)?;
            if answer.decides() {
                return Ok(answer);
            }
        }
        Ok(Answer::Continue)
    }

    /// The arguments of a hook at a command.
    fn arguments(&mut self, facts: &Arc<Facts>, question: &Question<'_>) -> mlua::Result<MultiValue> {
        let session = self.session(facts)?;
        let lua = &self.context.lua;
        match question {
            Question::Connect => session.into_lua_multi(lua),
            Question::Hello { name, extended } => {
                (session, table(lua, &[("name", name)], Some(*extended))?).into_lua_multi(lua)
            }
            Question::Auth { user, mechanism } => {
                (session, table(lua, &[("user", user), ("mechanism", mechanism)], None)?).into_lua_multi(lua)
            }
            Question::Mail { envelope, size } => (session, MailData::of(envelope, *size)).into_lua_multi(lua),
            Question::Rcpt { envelope, recipient } => {
                (session, RcptData::of(envelope, recipient)).into_lua_multi(lua)
            }
            Question::Data { envelope } => (session, EnvelopeData::of(envelope)).into_lua_multi(lua),
            Question::Message(_) => session.into_lua_multi(lua),
        }
    }

    async fn ask_command(&mut self, facts: &Arc<Facts>, question: Question<'_>) -> Result<Answer, Failure> {
        let arguments = self.arguments(facts, &question).map_err(Failure::Script)?;
        self.run(question.phase(), arguments).await
    }

    /// The script gets the message itself, and what it made of it is taken back only with its answer.
    async fn ask_message(&mut self, facts: &Arc<Facts>, object: &mut MailObject) -> Result<Answer, Failure> {
        let session = self.session(facts).map_err(Failure::Script)?;
        let taken = std::mem::replace(object, nothing());
        let as_it_was = (self.shared.on_error == OnError::Continue).then(|| taken.clone());
        let answer = async {
            let message = self.context.lua.create_userdata(MessageData(taken)).map_err(Failure::Script)?;
            let arguments = (session, message.clone()).into_lua_multi(&self.context.lua);
            let answer = self.run(Phase::Message, arguments.map_err(Failure::Script)?).await?;
            let edited = message.take::<MessageData>().map_err(Failure::Script)?;
            Ok((answer, edited.0))
        };
        match answer.await {
            Ok((answer, edited)) => {
                *object = edited;
                Ok(answer)
            }
            Err(failure) => {
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

impl Conversation for Talk {
    fn ask<'a>(&'a mut self, facts: &'a Arc<Facts>, question: Question<'a>) -> Asked<'a> {
        Box::pin(async move {
            let phase = question.phase();
            let answer = match question {
                Question::Message(object) => self.ask_message(facts, object).await,
                question => self.ask_command(facts, question).await,
            };
            let answer = answer.unwrap_or_else(|failure| self.shared.failed(facts, phase, &failure));
            self.shared.tally.answered(&answer);
            answer
        })
    }
}
