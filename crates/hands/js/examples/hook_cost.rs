//! What scripts cost: a trivial hook at every phase of a message, by processor time, and how long it takes to end what
//! has no end: `cargo run --release -p js --example hook_cost`.

use bytes::Bytes;
use js::{JsConfig, Script};
use mail::{Envelope, Mailbox, Origin, Recipient, ReversePath, SessionId, Tags};
use policy::{Answer, Facts, MailObject, Policy, Question, Surroundings};
use std::sync::Arc;
use std::time::Instant;

const MESSAGES: u32 = 200_000;

const TRIVIAL: &str = r#"
tuma.on("connect", (session) => {})
tuma.on("hello", (session, hello) => {})
tuma.on("mail", (session, mail) => {})
tuma.on("rcpt", (session, rcpt) => {})
tuma.on("data", (session, envelope) => {})
tuma.on("message", (session, message) => {})
"#;

const READING: &str = r#"
tuma.on("connect", (session) => { if (session.peer === "x") return tuma.reject() })
tuma.on("hello", (session, hello) => { if (hello.name === "x") return tuma.reject() })
tuma.on("mail", (session, mail) => { if (mail.domain === "x") return tuma.reject() })
tuma.on("rcpt", (session, rcpt) => { if (rcpt.domain === "x") return tuma.reject() })
tuma.on("data", (session, envelope) => { if (envelope.sender === "x") return tuma.reject() })
tuma.on("message", (session, message) => {
  if (message.header("Subject") === "x") return tuma.reject()
  message.add_header("X-Policy", "seen")
})
"#;

fn config(file: &std::path::Path) -> JsConfig {
    JsConfig { contexts: 1, ..JsConfig::of(file.into()) }
}

async fn load(text: &str) -> Arc<Script> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("policy.js");
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
    let script = load(&format!("tuma.on('connect', () => {{ {body} }})")).await;
    let facts = Arc::new(Facts::default());
    let began = Instant::now();
    let answer = script.open().ask(&facts, Question::Connect).await;
    println!("{name}: {} after {:.1} ms", answer.word(), began.elapsed().as_secs_f64() * 1e3);
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    messages("trivial hooks", TRIVIAL).await;
    messages("hooks that read and add a field", READING).await;
    println!("limits: 50 ms, 64 MiB");
    ends("endless loop", "for (;;) {}").await;
    ends("endless loop behind catch", "for (;;) { try { for (;;) {} } catch {} }").await;
    ends(
        "endless sort",
        "const l = []; for (let i = 0; i < 1000; i++) l.push(-i); l.sort(() => { for (;;) {} })",
    )
    .await;
    ends("catastrophic pattern", "/^(a+)+$/.test('a'.repeat(64) + 'b')").await;
    ends("jobs without end", "const f = async () => { for (;;) await null }; return f()").await;
    ends("memory by strings", "let s = 'x'; for (;;) s += s").await;
    ends("memory by a list", "const l = []; for (;;) l.push({ l })").await;
}
