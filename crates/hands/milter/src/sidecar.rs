//! Questions posted as JSON over HTTP: `POST path`, answered with 200 and a JSON object.

use crate::address::Duplex;
use crate::config::SidecarConfig;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use mail::{Mailbox, Priority, Recipient, ReversePath, Tags};
use policy::{Answer, Asked, Conversation, Facts, MailObject, Phase, Phases, Policy, Question, Tally};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::error;

/// Octets of an answer at most.
const ANSWER_MAX: usize = 64 << 20;
/// Octets of the notes of one session at most, as JSON.
const NOTES_MAX: usize = 16 << 10;

/// A sidecar.
pub struct Sidecar {
    shared: Arc<Shared>,
}

struct Shared {
    config: SidecarConfig,
    name: String,
    phases: Phases,
    tally: Arc<Tally>,
    /// Connections that wait for the next question.
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Sidecar {
    /// A sidecar as configured.
    pub fn new(config: SidecarConfig, tally: Arc<Tally>) -> Arc<Self> {
        let name = config.name.clone().unwrap_or_else(|| config.address.to_string());
        let phases = config.phases.iter().map(|phase| phase.0.0).collect();
        Arc::new(Self { shared: Arc::new(Shared { config, name, phases, tally, idle: Mutex::default() }) })
    }
}

impl Policy for Sidecar {
    fn phases(&self) -> Phases {
        self.shared.phases
    }

    fn open(&self) -> Box<dyn Conversation> {
        Box::new(Talk { shared: self.shared.clone(), notes: Map::new() })
    }
}

/// One session with a sidecar, which needs no memory of its own: its notes come back with every question.
struct Talk {
    shared: Arc<Shared>,
    notes: Map<String, Value>,
}

/// What a sidecar answers. A key that is not here is a mistake: it would be taken for a yes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    answer: Word,
    code: Option<u16>,
    status: Option<String>,
    text: Option<String>,
    notes: Option<Map<String, Value>>,
    message: Option<Changes>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Word {
    Continue,
    Accept,
    Reject,
    Defer,
    Disconnect,
    Discard,
}

/// What is to be changed of a message, in this order.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Changes {
    sender: Option<String>,
    recipients: Option<Vec<String>>,
    remove_headers: Vec<String>,
    set_headers: Vec<(String, String)>,
    add_headers: Vec<(String, String)>,
    prepend_headers: Vec<(String, String)>,
    body: Option<String>,
    tenant: Option<String>,
    campaign: Option<String>,
    job: Option<String>,
    envid: Option<String>,
    pool: Option<String>,
    priority: Option<String>,
}

impl Changes {
    fn apply(&self, object: &mut MailObject) -> Result<(), String> {
        let mailbox =
            |text: &str| Mailbox::parse(text).map_err(|_| format!("`{}` is no mailbox", text.escape_debug()));
        let envelope = &mut object.envelope;
        if let Some(sender) = self.sender.as_deref() {
            envelope.reverse_path = match sender {
                "" => ReversePath::Null,
                sender => ReversePath::Mailbox(mailbox(sender)?),
            };
        }
        if let Some(recipients) = &self.recipients {
            // The DSN parameters of those who stay are kept.
            let before = std::mem::take(&mut envelope.recipients);
            for text in recipients {
                let path = mailbox(text)?;
                let kept = before.iter().find(|recipient| recipient.path.0 == path);
                envelope.recipients.push(kept.cloned().unwrap_or_else(|| Recipient::new(path)));
            }
        }
        for name in &self.remove_headers {
            object.remove_fields(name);
        }
        for (name, value) in &self.set_headers {
            object.set_field(name, value.as_bytes()).map_err(|error| error.to_string())?;
        }
        for (name, value) in &self.add_headers {
            object.add_field(name, value.as_bytes()).map_err(|error| error.to_string())?;
        }
        for (name, value) in self.prepend_headers.iter().rev() {
            object.insert_field(0, name, value.as_bytes()).map_err(|error| error.to_string())?;
        }
        if let Some(body) = &self.body {
            object.set_body(body.as_bytes());
        }
        let tags = &mut object.tags;
        for (given, tag) in [
            (&self.tenant, &mut tags.tenant),
            (&self.campaign, &mut tags.campaign),
            (&self.job, &mut tags.job),
            (&self.envid, &mut tags.envid),
            (&self.pool, &mut tags.pool),
        ] {
            if let Some(text) = given {
                *tag = Some(mail::tag(text).map_err(|error| error.to_string())?);
            }
        }
        if let Some(priority) = &self.priority {
            tags.priority =
                priority.parse::<Priority>().map_err(|()| "there is no such priority".to_owned())?;
        }
        Ok(())
    }
}

impl Said {
    /// The answer, if it is one.
    fn answer(&self) -> Result<Answer, String> {
        let reply = |usual: u16, usual_text: &str| {
            let code = self.code.unwrap_or(usual);
            let text = self.text.as_deref().unwrap_or(usual_text);
            policy::reply(code, self.status.as_deref(), text).map_err(|error| error.to_string())
        };
        let refused = |usual: u16, usual_text: &str| {
            let reply = reply(usual, usual_text)?;
            if reply.code.get() / 100 == usual / 100 {
                Ok(Answer::Refuse(reply))
            } else {
                Err(format!("the code {} does not fit the answer", reply.code))
            }
        };
        match self.answer {
            Word::Continue => Ok(Answer::Continue),
            Word::Accept => Ok(Answer::Accept),
            Word::Reject => refused(550, "refused by a local rule"),
            Word::Defer => refused(451, "try again later"),
            Word::Disconnect => Ok(Answer::Disconnect(reply(421, "goodbye")?)),
            Word::Discard => {
                let why = policy::text(self.text.as_deref().unwrap_or("by a sidecar")).replace('\n', " ");
                Ok(Answer::Discard(why.into()))
            }
        }
    }
}

/// The session, as a question tells of it.
fn session(facts: &Facts) -> Value {
    let origin = &facts.origin;
    json!({
        "id": origin.session.map(|id| id.to_string()),
        "peer": origin.peer.map(|peer| peer.ip()),
        "peer_port": origin.peer.map(|peer| peer.port()),
        "local_address": origin.local.map(|local| local.ip()),
        "local_port": origin.local.map(|local| local.port()),
        "helo": &*origin.helo,
        "user": origin.user.as_deref(),
        "listener": &*origin.listener,
        "hostname": &*facts.hostname,
        "trusted": facts.trusted,
        "tls": origin.tls.as_ref().map(|tls| &*tls.protocol),
        "cipher": origin.tls.as_ref().map(|tls| &*tls.cipher),
    })
}

/// A whole message, as a question tells of it.
fn message(object: &mut MailObject, body_max: u64) -> Value {
    #[derive(Serialize)]
    struct Message {
        sender: String,
        recipients: Vec<String>,
        size: usize,
        verified: Option<String>,
        fields: Vec<(String, String)>,
        #[serde(skip_serializing_if = "Option::is_none")]
        body: Option<String>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        body_is_cut: bool,
        #[serde(flatten)]
        tags: Map<String, Value>,
    }
    let Tags { tenant, campaign, job, envid, pool, priority } = object.tags.clone();
    let tags = [("tenant", tenant), ("campaign", campaign), ("job", job), ("envid", envid), ("pool", pool)];
    let mut all: Map<String, Value> =
        tags.into_iter().filter_map(|(name, text)| Some((name.into(), String::from(text?).into()))).collect();
    all.insert("priority".into(), priority.as_str().into());
    let lossy = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let unfolded = |value: &[u8]| lossy(value).replace(['\r', '\n'], "").trim().to_owned();
    let fields = object.fields().map(|(name, value)| (lossy(name), unfolded(value))).collect();
    let whole = object.body();
    let sent = whole.len().min(usize::try_from(body_max).unwrap_or(usize::MAX));
    let message = Message {
        sender: object.envelope.reverse_path.as_str().into(),
        recipients: object.envelope.recipients.iter().map(|one| one.path.as_str().into()).collect(),
        size: object.content().len(),
        verified: object.verified.as_deref().map(str::to_owned),
        fields,
        body: (body_max > 0).then(|| lossy(&whole[..sent])),
        body_is_cut: body_max > 0 && sent < whole.len(),
        tags: all,
    };
    serde_json::to_value(message).unwrap_or_default()
}

impl Talk {
    fn question(&self, facts: &Facts, question: &mut Question<'_>) -> Bytes {
        let phase = question.phase();
        let (name, about) = match question {
            Question::Connect => ("connect", json!({})),
            Question::Hello { name, extended } => ("hello", json!({ "name": name, "extended": extended })),
            Question::Auth { user, mechanism } => ("auth", json!({ "user": user, "mechanism": mechanism })),
            Question::Mail { envelope, size } => (
                "mail",
                json!({ "address": envelope.reverse_path.as_str(), "size": size, "smtputf8": envelope.smtputf8 }),
            ),
            Question::Rcpt { envelope, recipient } => (
                "rcpt",
                json!({
                    "address": recipient.path.as_str(),
                    "sender": envelope.reverse_path.as_str(),
                    "accepted": envelope.recipients.len(),
                }),
            ),
            Question::Data { envelope } => {
                let recipients: Vec<&str> = envelope.recipients.iter().map(|one| one.path.as_str()).collect();
                ("data", json!({ "sender": envelope.reverse_path.as_str(), "recipients": recipients }))
            }
            Question::Message(object) => ("message", message(object, self.shared.config.body_max.bytes())),
        };
        let body =
            json!({ "phase": phase.word(), "session": session(facts), "notes": self.notes, name: about });
        body.to_string().into()
    }

    /// Posts a question; a connection that was kept too long is given up for a new one.
    async fn post(&self, body: Bytes) -> Result<Bytes, String> {
        let kept = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(mut sender) = kept
            && sender.ready().await.is_ok()
        {
            match self.send(&mut sender, body.clone()).await {
                Ok(answer) => {
                    self.keep(sender);
                    return Ok(answer);
                }
                // It was closed while it was idle, and nobody has read the question.
                Err(Trouble::Connection(_)) => {}
                Err(Trouble::Answer(text)) => return Err(text),
            }
        }
        let stream = self
            .shared
            .config
            .address
            .connect()
            .await
            .map_err(|error| format!("it cannot be reached: {error}"))?;
        let mut sender = handshake(stream).await.map_err(|error| error.to_string())?;
        match self.send(&mut sender, body).await {
            Ok(answer) => {
                self.keep(sender);
                Ok(answer)
            }
            Err(Trouble::Connection(text) | Trouble::Answer(text)) => Err(text),
        }
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.shared.config.idle_max {
            idle.push(sender);
        }
    }

    async fn send(&self, sender: &mut SendRequest<Full<Bytes>>, body: Bytes) -> Result<Bytes, Trouble> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(&self.shared.config.path)
            .header("host", "sidecar")
            .header("content-type", "application/json")
            .header("user-agent", "tuma")
            .body(Full::new(body))
            .map_err(|error| Trouble::Answer(error.to_string()))?;
        let response =
            sender.send_request(request).await.map_err(|error| Trouble::Connection(error.to_string()))?;
        if response.status() != StatusCode::OK {
            return Err(Trouble::Answer(format!("it answered {}", response.status())));
        }
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        Ok(body.map_err(|error| Trouble::Answer(error.to_string()))?.to_bytes())
    }

    async fn answer(&mut self, facts: &Facts, mut question: Question<'_>) -> Result<Answer, String> {
        let body = self.question(facts, &mut question);
        let posted = tokio::time::timeout(self.shared.config.timeout, self.post(body));
        let answered = posted.await.map_err(|_| "it is late: `timeout` is over".to_owned())??;
        let mut said: Said =
            serde_json::from_slice(&answered).map_err(|error| format!("its answer is none: {error}"))?;
        let answer = said.answer()?;
        if let Some(notes) = said.notes.take() {
            if serde_json::to_string(&notes).is_ok_and(|text| text.len() > NOTES_MAX) {
                return Err(format!("its notes have more than {NOTES_MAX} octets"));
            }
            self.notes = notes;
        }
        if let Some(changes) = &said.message {
            let Question::Message(object) = question else {
                return Err("it changes a message where there is none".into());
            };
            // All of it or nothing.
            let mut edited = object.clone();
            changes.apply(&mut edited)?;
            *object = edited;
        }
        Ok(answer)
    }
}

/// Why a question got no answer.
enum Trouble {
    /// The connection failed before an answer began.
    Connection(String),
    /// The answer is none.
    Answer(String),
}

async fn handshake(stream: Box<dyn Duplex>) -> hyper::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with its sender.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

impl Conversation for Talk {
    fn ask<'a>(&'a mut self, facts: &'a Arc<Facts>, question: Question<'a>) -> Asked<'a> {
        Box::pin(async move {
            let phase: Phase = question.phase();
            let answer = match self.answer(facts, question).await {
                Ok(answer) => answer,
                Err(reason) => {
                    self.shared.tally.failed();
                    let session = facts.origin.session.map(|id| id.to_string()).unwrap_or_default();
                    error!(sidecar = %self.shared.name, %phase, %session, %reason, "a sidecar failed");
                    self.shared.config.on_error.answer()
                }
            };
            self.shared.tally.answered(&answer);
            answer
        })
    }
}
