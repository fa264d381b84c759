//! A script's own tests: `tuma.test(name, async client => { … })`.
//!
//! The test runs in one context and the hooks in another, as a client and a server would.

use crate::LoadError;
use crate::config::JsConfig;
use crate::context::{Context, Failure};
use crate::program::Program;
use crate::script::Script;
use mail::{Domain, Envelope, Mailbox, Origin, Recipient, ReversePath, SessionId, Tags};
use policy::{Answer, Conversation, Facts, MailObject, Policy, Question, Surroundings};
use rquickjs::Function;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, oneshot};

/// The longest that one test takes.
const TEST_MAX: Duration = Duration::from_secs(60);

/// What became of one test.
#[derive(Debug)]
pub struct Tested {
    /// Its name.
    pub name: String,
    /// Why it failed, with file and line; `None` if it did not.
    pub failure: Option<String>,
}

/// Runs the tests of a script, in their order.
pub async fn test(config: &JsConfig) -> Result<Vec<Tested>, LoadError> {
    let script = Script::load(config, 1, &Surroundings::default()).await?;
    let client = Arc::new(Mutex::new(Client::new(&script)));
    let program = Program::script(config).map_err(LoadError)?;
    let context = Context::load(&program, &Surroundings::default(), Some(client.clone())).await;
    let context = context.map_err(LoadError)?;
    let names = context.enter(|ctx| ctx.globals().get::<_, Function>("__tests")?.call::<_, Vec<String>>(()));
    let mut tested = Vec::new();
    for (at, name) in names.await.map_err(LoadError)?.into_iter().enumerate() {
        *client.lock().await = Client::new(&script);
        let call = context.number();
        let (tell, told) = oneshot::channel();
        context.waiting().insert(call, tell);
        let begun =
            context.enter(|ctx| ctx.globals().get::<_, Function>("__test")?.call::<_, ()>((at, call))).await;
        let ended = match begun {
            Err(failure) => Err(failure),
            Ok(()) => match tokio::time::timeout(TEST_MAX, told).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) | Err(_) => Err(Failure::Timeout),
            },
        };
        context.waiting().remove(&call);
        tested.push(Tested { name, failure: ended.err().map(|failure| failure.to_string()) });
    }
    Ok(tested)
}

/// `client`: what a test is given. It speaks to the hooks as a session would.
pub(crate) struct Client {
    talk: Box<dyn Conversation>,
    facts: Facts,
    envelope: Envelope,
}

fn mailbox(text: &str) -> Result<Mailbox, String> {
    Mailbox::parse(text).map_err(|_| format!("`{}` is no mailbox", text.escape_debug()))
}

fn nobody() -> Envelope {
    Envelope::new(ReversePath::Null, Vec::new())
}

/// An answer as a test sees it: null for no objection.
fn shown(answer: &Answer) -> Value {
    match answer {
        Answer::Continue => Value::Null,
        Answer::Accept => json!({ "answer": answer.word() }),
        Answer::Refuse(reply) | Answer::Disconnect(reply) => json!({
            "answer": answer.word(),
            "code": reply.code.get(),
            "status": reply.enhanced.map(|status| status.to_string()),
            "text": &*reply.text,
        }),
        Answer::Discard(why) => json!({ "answer": answer.word(), "text": &**why }),
    }
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
        Self { talk: script.open(), facts, envelope: nobody() }
    }

    /// Takes what a test says of its client: `peer`, `listener`, `hostname`, `trusted`, `user`.
    fn set(&mut self, given: &Value) -> Result<(), String> {
        for (name, value) in given.as_object().into_iter().flatten() {
            let text = || value.as_str().ok_or_else(|| format!("`{name}` is a text"));
            match name.as_str() {
                "peer" => {
                    let ip = text()?.parse().map_err(|_| "`peer` is an IP address".to_owned())?;
                    self.facts.origin.peer = Some(SocketAddr::new(ip, 40_000));
                }
                "listener" => self.facts.origin.listener = text()?.into(),
                "user" => self.facts.origin.user = Some(text()?.into()),
                "trusted" => {
                    let trusted = value.as_bool().ok_or("`trusted` is true or false")?;
                    self.facts.trusted = trusted;
                }
                "hostname" => {
                    let name = Domain::parse(text()?).map_err(|_| "`hostname` is a domain".to_owned())?;
                    self.facts.hostname = name.as_str().into();
                }
                other => return Err(format!("a client has no `{other}`")),
            }
        }
        Ok(())
    }

    /// One step, `["rcpt", "a@b.example"]`; gives what came of it as JSON.
    pub(crate) async fn operate(&mut self, step: &str) -> Result<String, String> {
        let step: Vec<Value> = serde_json::from_str(step).map_err(|error| error.to_string())?;
        let text = |n: usize| {
            step.get(n).and_then(Value::as_str).ok_or_else(|| format!("argument {n} of a step is a text"))
        };
        let envelope = self.envelope.clone();
        let word = text(0)?.to_owned();
        let answer = match word.as_str() {
            "connect" => {
                self.set(step.get(1).unwrap_or(&Value::Null))?;
                self.ask(Question::Connect).await
            }
            "hello" => {
                self.facts.origin.helo = text(1)?.into();
                self.ask(Question::Hello { name: text(1)?, extended: true }).await
            }
            "auth" => {
                let mechanism = if step.len() > 2 { text(2)? } else { "PLAIN" };
                let answer = self.ask(Question::Auth { user: text(1)?, mechanism }).await;
                if matches!(answer, Answer::Continue | Answer::Accept) {
                    self.facts.origin.user = Some(text(1)?.into());
                    self.facts.trusted = true;
                }
                answer
            }
            "mail" => {
                self.talk.transaction_ended();
                let path = match text(1)? {
                    "" => ReversePath::Null,
                    sender => ReversePath::Mailbox(mailbox(sender)?),
                };
                self.envelope = Envelope::new(path, Vec::new());
                let envelope = self.envelope.clone();
                let size = step.get(2).and_then(Value::as_u64);
                self.ask(Question::Mail { envelope: &envelope, size }).await
            }
            "rcpt" => {
                let recipient = Recipient::new(mailbox(text(1)?)?);
                let answer = self.ask(Question::Rcpt { envelope: &envelope, recipient: &recipient }).await;
                if matches!(answer, Answer::Continue | Answer::Accept) {
                    self.envelope.recipients.push(recipient);
                }
                answer
            }
            "data" => self.ask(Question::Data { envelope: &envelope }).await,
            _ => {
                let content = text(1)?.as_bytes().to_vec();
                let mut object = MailObject::new(envelope, Tags::default(), content.into());
                let answer = self.ask(Question::Message(&mut object)).await;
                self.talk.transaction_ended();
                self.envelope = nobody();
                let recipients = object.envelope.recipients.iter().map(|recipient| recipient.path.as_str());
                let recipients = recipients.collect::<Vec<_>>();
                let message = json!({
                    "sender": object.envelope.reverse_path.as_str(),
                    "recipients": recipients,
                    "content": String::from_utf8_lossy(&object.content()),
                });
                return Ok(json!({ "reply": shown(&answer), "message": message }).to_string());
            }
        };
        Ok(shown(&answer).to_string())
    }

    async fn ask(&mut self, question: Question<'_>) -> Answer {
        let facts = Arc::new(self.facts.clone());
        self.talk.ask(&facts, question).await
    }
}
