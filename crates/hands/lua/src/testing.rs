//! A script's own tests: `tuma.test(name, function(client) … end)`.
//!
//! The test runs in one context and the hooks in another, as a client and a server would.

use crate::config::LuaConfig;
use crate::context::Context;
use crate::message::MessageData;
use crate::script::Script;
use crate::session::strict;
use crate::{LoadError, call};
use mail::{Domain, Envelope, Mailbox, Origin, Recipient, ReversePath, SessionId, Tags};
use mlua::{
    AnyUserData, Error, IntoLua, Lua, LuaString, MultiValue, Result, StdLib, Table, UserData,
    UserDataMethods, Value,
};
use policy::Surroundings;
use policy::{Answer, Conversation, Facts, MailObject, Policy, Question};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// What became of one test.
#[derive(Debug)]
pub struct Tested {
    /// Its name.
    pub name: String,
    /// Why it failed, with file and line; `None` if it did not.
    pub failure: Option<String>,
}

/// Limits on one test: it asks many questions, each with limits of its own.
const LIMITS: call::Limits = call::Limits {
    time_max: Duration::from_secs(5),
    instructions_max: 500_000_000,
    timeout: Duration::from_secs(60),
    memory_max: u64::MAX >> 1,
};

/// Runs the tests of a script, in their order.
pub async fn test(config: &LuaConfig) -> std::result::Result<Vec<Tested>, LoadError> {
    let script = Script::load(config, 1, &Surroundings::default()).await?;
    let context = Context::load(config, &Surroundings::default()).await.map_err(LoadError)?;
    let mut tested = Vec::new();
    for (name, function) in &context.tests {
        let client = made(&context.lua, Client::new(&script))
            .map_err(|error| LoadError(call::Failure::Script(error)))?;
        let ended = call::call(&context, function, client, &LIMITS).await;
        tested.push(Tested { name: name.clone(), failure: ended.err().map(|failure| failure.to_string()) });
    }
    Ok(tested)
}

/// A client in the hands of a script. Its methods wait, and to make such a method the machine needs the coroutines that
/// scripts do not get.
fn made(lua: &Lua, client: Client) -> Result<AnyUserData> {
    lua.load_std_libs(StdLib::COROUTINE)?;
    let client = lua.create_userdata(client)?;
    crate::bounded::forbid(lua)?;
    Ok(client)
}

/// `client`: what a test is given. It speaks to the hooks as a session would.
struct Client {
    /// In a lock only because Lua wants to share what it holds; nobody else asks.
    talk: Mutex<Box<dyn Conversation>>,
    facts: Facts,
    envelope: Envelope,
}

fn mailbox(text: &str) -> Result<Mailbox> {
    Mailbox::parse(text).map_err(|_| Error::runtime(format!("`{}` is no mailbox", text.escape_debug())))
}

impl Client {
    fn new(script: &Script) -> Self {
        let origin = Origin {
            session: Some(SessionId(1)),
            peer: Some(SocketAddr::from(([127, 0, 0, 1], 40_000))),
            local: Some(SocketAddr::from(([127, 0, 0, 1], 25))),
            listener: "smtp".into(),
            ..Origin::default()
        };
        let facts = Facts { origin, hostname: "mx.test".into(), trusted: false };
        Self { talk: Mutex::new(script.open()), facts, envelope: nobody() }
    }

    /// Takes what a test says of its client: `peer`, `listener`, `hostname`, `trusted`, `user`.
    fn set(&mut self, given: &Table) -> Result<()> {
        for pair in given.pairs::<String, Value>() {
            let (name, value) = pair?;
            let text = || value.to_string();
            match name.as_str() {
                "peer" => {
                    let ip = text()?.parse().map_err(|_| Error::runtime("`peer` is an IP address"))?;
                    self.facts.origin.peer = Some(SocketAddr::new(ip, 40_000));
                }
                "listener" => self.facts.origin.listener = text()?.into(),
                "user" => self.facts.origin.user = Some(text()?.into()),
                "trusted" => self.facts.trusted = value.as_boolean().unwrap_or(false),
                "hostname" => {
                    let name =
                        Domain::parse(&text()?).map_err(|_| Error::runtime("`hostname` is a domain"))?;
                    self.facts.hostname = name.as_str().into();
                }
                other => return Err(Error::runtime(format!("a client has no `{other}`"))),
            }
        }
        Ok(())
    }
}

fn nobody() -> Envelope {
    Envelope::new(ReversePath::Null, Vec::new())
}

/// An answer as a test sees it: nil for no objection.
fn shown(lua: &Lua, answer: &Answer) -> Result<Value> {
    let table = lua.create_table()?;
    table.set("answer", answer.word())?;
    match answer {
        Answer::Continue => return Ok(Value::Nil),
        Answer::Accept => {}
        Answer::Refuse(reply) | Answer::Disconnect(reply) => {
            table.set("code", reply.code.get())?;
            table.set("status", reply.enhanced.map(|status| status.to_string()))?;
            table.set("text", &*reply.text)?;
        }
        Answer::Discard(why) => table.set("text", &**why)?,
    }
    Ok(Value::Table(table))
}

impl UserData for Client {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_async_method_mut("connect", |lua, mut this, given: Option<Table>| async move {
            if let Some(given) = given {
                this.set(&given)?;
            }
            let facts = Arc::new(this.facts.clone());
            let answer = this.talk.get_mut().ask(&facts, Question::Connect).await;
            shown(&lua, &answer)
        });
        methods.add_async_method_mut("hello", |lua, mut this, name: String| async move {
            this.facts.origin.helo = name.as_str().into();
            let facts = Arc::new(this.facts.clone());
            let answer =
                this.talk.get_mut().ask(&facts, Question::Hello { name: &name, extended: true }).await;
            shown(&lua, &answer)
        });
        methods.add_async_method_mut(
            "auth",
            |lua, mut this, (user, mechanism): (String, Option<String>)| async move {
                let facts = Arc::new(this.facts.clone());
                let mechanism = mechanism.as_deref().unwrap_or("PLAIN");
                let answer = this.talk.get_mut().ask(&facts, Question::Auth { user: &user, mechanism }).await;
                if matches!(answer, Answer::Continue | Answer::Accept) {
                    this.facts.origin.user = Some(user.into());
                    this.facts.trusted = true;
                }
                shown(&lua, &answer)
            },
        );
        methods.add_async_method_mut(
            "mail",
            |lua, mut this, (sender, size): (String, Option<u64>)| async move {
                this.talk.get_mut().transaction_ended();
                let path = match sender.as_str() {
                    "" => ReversePath::Null,
                    sender => ReversePath::Mailbox(mailbox(sender)?),
                };
                this.envelope = Envelope::new(path, Vec::new());
                let (facts, envelope) = (Arc::new(this.facts.clone()), this.envelope.clone());
                let answer =
                    this.talk.get_mut().ask(&facts, Question::Mail { envelope: &envelope, size }).await;
                shown(&lua, &answer)
            },
        );
        methods.add_async_method_mut("rcpt", |lua, mut this, address: String| async move {
            let recipient = Recipient::new(mailbox(&address)?);
            let (facts, envelope) = (Arc::new(this.facts.clone()), this.envelope.clone());
            let question = Question::Rcpt { envelope: &envelope, recipient: &recipient };
            let answer = this.talk.get_mut().ask(&facts, question).await;
            if matches!(answer, Answer::Continue | Answer::Accept) {
                this.envelope.recipients.push(recipient);
            }
            shown(&lua, &answer)
        });
        methods.add_async_method_mut("data", |lua, mut this, ()| async move {
            let (facts, envelope) = (Arc::new(this.facts.clone()), this.envelope.clone());
            let answer = this.talk.get_mut().ask(&facts, Question::Data { envelope: &envelope }).await;
            shown(&lua, &answer)
        });
        methods.add_async_method_mut("message", |lua, mut this, content: LuaString| async move {
            let content = content.as_bytes().to_vec();
            let mut object = MailObject::new(this.envelope.clone(), Tags::default(), content.into());
            let facts = Arc::new(this.facts.clone());
            let answer = this.talk.get_mut().ask(&facts, Question::Message(&mut object)).await;
            this.talk.get_mut().transaction_ended();
            this.envelope = nobody();
            let message: AnyUserData = lua.create_userdata(MessageData(object))?;
            Ok(MultiValue::from_vec(vec![shown(&lua, &answer)?, message.into_lua(&lua)?]))
        });
        strict(methods, "client");
    }
}
