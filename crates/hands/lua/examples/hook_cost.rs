//! What scripts cost: a trivial hook at every phase of a message, by processor time, and how long it takes to end what
//! has no end: `cargo run --release -p lua --example hook_cost`.

use bytes::Bytes;
use lua::{LuaConfig, Script};
use mail::{Envelope, Mailbox, Origin, Recipient, ReversePath, SessionId, Tags};
use policy::{Answer, Facts, MailObject, Policy, Question, Surroundings};
use std::sync::Arc;
use std::time::Instant;

const MESSAGES: u32 = 200_000;

const TRIVIAL: &str = r#"
tuma.on("connect", function(session) end)
tuma.on("hello", function(session, hello) end)
tuma.on("mail", function(session, mail) end)
tuma.on("rcpt", function(session, rcpt) end)
tuma.on("data", function(session, envelope) end)
tuma.on("message", function(session, message) end)
"#;

const READING: &str = r#"
tuma.on("connect", function(session) if session.peer == "x" then return tuma.reject() end end)
tuma.on("hello", function(session, hello) if hello.name == "x" then return tuma.reject() end end)
tuma.on("mail", function(session, mail) if mail.domain == "x" then return tuma.reject() end end)
tuma.on("rcpt", function(session, rcpt) if rcpt.domain == "x" then return tuma.reject() end end)
tuma.on("data", function(session, envelope) if envelope.sender == "x" then return tuma.reject() end end)
tuma.on("message", function(session, message)
  if message:header("Subject") == "x" then return tuma.reject() end
  message:add_header("X-Policy", "seen")
end)
"#;

fn config(file: &std::path::Path) -> LuaConfig {
    LuaConfig { contexts: 1, ..LuaConfig::of(file.into()) }
}

async fn load(text: &str) -> Arc<Script> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("policy.lua");
    std::fs::write(&file, text).expect("write the script");
    Script::load(&config(&file), 1, &Surroundings::default()).await.unwrap_or_else(|error| panic!("{error}"))
}

fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text).expect("a mailbox")
}

async fn messages(name: &str, text: &str) {
    let script = load(text).await;
    let origin = Origin {
        session: Some(SessionId(7)),
        peer: Some("192.0.2.1:4711".parse().expect("an address")),
        helo: "client.test".into(),
        ..Origin::default()
    };
    let facts = Arc::new(Facts { origin, hostname: "mx.test".into(), trusted: true });
    let recipient = Recipient::new(mailbox("a@one.test"));
    let envelope = Envelope::new(ReversePath::Mailbox(mailbox("me@from.test")), vec![recipient.clone()]);
    let content = Bytes::from(format!("Subject: hello\r\nFrom: a\r\nTo: b\r\n\r\n{}", "x".repeat(4_000)));
    let began = Instant::now();
    for _ in 0..MESSAGES {
        // A session for each message is the dearest there is.
        let mut talk = script.open();
        let mut ask = async |question| assert_eq!(talk.ask(&facts, question).await, Answer::Continue);
        ask(Question::Connect).await;
        ask(Question::Hello { name: "client.test", extended: true }).await;
        ask(Question::Mail { envelope: &envelope, size: None }).await;
        ask(Question::Rcpt { envelope: &envelope, recipient: &recipient }).await;
        ask(Question::Data { envelope: &envelope }).await;
        let mut object = MailObject::new(envelope.clone(), Tags::default(), content.clone());
        ask(Question::Message(&mut object)).await;
        std::hint::black_box(object.content());
    }
    let each = began.elapsed().as_secs_f64() * 1e6 / f64::from(MESSAGES);
    println!("{name}: {each:.2} us a message, session and all six phases");
}

async fn ends(name: &str, body: &str) {
    let script = load(&format!("tuma.on('connect', function() {body} end)")).await;
    let facts = Arc::new(Facts::default());
    let began = Instant::now();
    let answer = script.open().ask(&facts, Question::Connect).await;
    println!("{name}: {} after {:.1} ms", answer.word(), began.elapsed().as_secs_f64() * 1e3);
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    messages("trivial hooks", TRIVIAL).await;
    messages("hooks that read and add a field", READING).await;
    println!("limits: 50 ms, 5 million instructions, 16 MiB");
    ends("endless loop", "while true do end").await;
    ends("endless loop behind pcall", "while true do pcall(function() while true do end end) end").await;
    ends(
        "endless sort",
        "local t = {} for i = 1, 1000 do t[i] = -i end table.sort(t, function() while true do end end)",
    )
    .await;
    ends("catastrophic pattern", "return ('a'):rep(30000):find('.-.-.-.-b')").await;
    ends("patterns in a loop", "while true do ('a'):rep(3000):find('.-.-b') end").await;
    ends("memory by strings", "local s = 'x' while true do s = s .. s end").await;
    ends("memory by a table", "local t = {} for i = 1, 1e9 do t[i] = { i } end").await;
}
