//! Scripts as an operator may write them, the bad ones first.

use super::*;
use bytes::Bytes;
use mail::{Envelope, ForwardPath, Mailbox, Recipient, ReversePath, Tags};
use policy::{
    Answer, Conversation, Facts, Kind, MailObject, Names, OnError, Policy, Question, Records, Surroundings,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// One name has an address, another an answer that never comes.
struct Zone;

impl Names for Zone {
    fn records<'a>(&'a self, kind: Kind, name: &'a str) -> Records<'a> {
        Box::pin(async move {
            match (kind, name) {
                (Kind::A, "here.example") => Ok(vec!["192.0.2.1".into()]),
                (_, "never.example") => std::future::pending().await,
                (_, "broken.example") => Err("no server answers".into()),
                _ => Ok(Vec::new()),
            }
        })
    }
}

struct House {
    _folder: tempfile::TempDir,
    config: JsConfig,
    surroundings: Surroundings,
}

fn house(script: &str) -> House {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("policy.js");
    std::fs::write(&file, script).unwrap();
    std::fs::write(folder.path().join("lists.js"), "exports.bad = ['evil.example']").unwrap();
    // A busy machine may keep an innocent hook from running for longer than the usual limit.
    let config = JsConfig {
        time_max: Duration::from_millis(300),
        timeout: Duration::from_secs(1),
        ..JsConfig::of(file)
    };
    let surroundings = Surroundings { names: Some(Arc::new(Zone)), ..Surroundings::default() };
    House { _folder: folder, config, surroundings }
}

async fn opened(house: &House) -> Box<dyn Conversation> {
    Script::load(&house.config, 1, &house.surroundings).await.unwrap().open()
}

fn text(answer: &Answer) -> String {
    match answer {
        Answer::Refuse(reply) => reply.to_string(),
        Answer::Disconnect(reply) => format!("bye {reply}"),
        Answer::Discard(why) => format!("discard {why}"),
        other => other.word().into(),
    }
}

const FAILED: &str = "451 4.3.0 a local rule could not be applied, try again later";

async fn rcpt(talk: &mut Box<dyn Conversation>, facts: &Arc<Facts>, address: &str) -> String {
    let envelope = Envelope::new(ReversePath::Null, vec![]);
    let recipient = Recipient {
        path: ForwardPath(Mailbox::parse(address).unwrap()),
        ..Recipient::new(Mailbox::parse(address).unwrap())
    };
    text(&talk.ask(facts, Question::Rcpt { envelope: &envelope, recipient: &recipient }).await)
}

/// What a script that is asked at RCPT answers.
async fn check(script: &str, expected: &str) {
    let house = house(script);
    let mut talk = opened(&house).await;
    let facts = Arc::new(Facts { hostname: "mx.test".into(), ..Facts::default() });
    assert_eq!(rcpt(&mut talk, &facts, "a@evil.example").await, expected, "{script}");
}

fn hook(body: &str) -> String {
    format!("tuma.on('rcpt', (session, rcpt) => {{ {body} }})")
}

#[tokio::test]
async fn answers_are_what_they_say() {
    check(&hook("return tuma.reject(550, '5.1.1', 'no ' + rcpt.address)"), "550 5.1.1 no a@evil.example")
        .await;
    check(&hook("return tuma.defer('later')"), "451 4.7.1 later").await;
    check(&hook("return tuma.disconnect()"), "bye 421 4.7.1 goodbye").await;
    check(&hook("return tuma.discard('spam')"), "discard spam").await;
    check(&hook("return tuma.accept()"), "accept").await;
    check(&hook(""), "continue").await;
    check(&hook("return null"), "continue").await;
    check("const l = require('./lists'); tuma.on('rcpt', (s, r) => l.bad.includes(r.domain) ? tuma.reject('listed') : undefined)", "550 5.7.1 listed").await;
    check("tuma.on('rcpt', async (s, r) => { const [a] = await tuma.dns.a('here.example'); return tuma.reject(a) })", "550 5.7.1 192.0.2.1").await;
    check("tuma.on('rcpt', async () => { await tuma.sleep(0.001) }); tuma.on('rcpt', () => tuma.defer('second'))", "451 4.7.1 second").await;
    check("tuma.on('rcpt', () => new Promise(r => setTimeout(() => r(tuma.accept()), 1)))", "accept").await;
}

#[tokio::test]
async fn what_a_script_does_wrong_is_never_a_yes() {
    for body in [
        "throw new Error('x')",
        "throw null",
        "return true",
        "return {}",
        "return 'reject'",
        "return Promise.reject(new Error('x'))",
        "return Promise.resolve(true)",
        "tuma.reject('made and not returned')",
        "return rcpt.adress === undefined ? undefined : undefined",
        "session.nope = 1",
        "return tuma.reject(250, 'ok')",
        "return tuma.reject(550, '4.0.0', 'another class')",
        "null.x",
        "for (;;) {}",
        "try { for (;;) {} } catch { return tuma.accept() }",
        "const loop = async () => { for (;;) await null }; return loop()",
        "/^(a+)+$/.test('a'.repeat(64) + 'b')",
        "const list = []; for (;;) list.push('x'.repeat(1000) + list.length)",
        "let text = 'x'; for (;;) text += text",
        "const f = () => f() + 1; return f()",
        "return new Promise(() => {})",
        "return tuma.dns.a('never.example').then(() => undefined)",
        "return tuma.dns.a('broken.example').then(() => undefined)",
        "return require('/etc/passwd')",
        "return require('../../etc/passwd')",
        "return __host",
    ] {
        check(&hook(body), FAILED).await;
    }
}

/// After each of them the same context serves the next session.
#[tokio::test]
async fn a_script_that_runs_away_stops_nobody_else() {
    let house = house(
        "tuma.on('rcpt', (session, rcpt) => { switch (rcpt.local_part) {
           case 'loop': for (;;) {}
           case 'bomb': { const list = []; for (;;) list.push(new Array(1000).fill(list.length)) }
           case 'regex': return /^(a+)+$/.test('a'.repeat(64) + 'b');
           case 'stack': { const f = () => f() + 1; return f() }
           case 'jobs': { const again = () => Promise.resolve().then(again); again(); return new Promise(() => {}) }
           case 'never': return new Promise(() => {});
           default: return tuma.reject(550, 'said ' + rcpt.local_part) } })",
    );
    let script = Script::load(&house.config, 1, &house.surroundings).await.unwrap();
    let facts = Arc::new(Facts::default());
    for _ in 0..3 {
        for bad in ["loop", "bomb", "regex", "stack", "jobs", "never"] {
            assert_eq!(
                rcpt(&mut script.open(), &facts, &format!("{bad}@evil.example")).await,
                FAILED,
                "{bad}"
            );
            assert_eq!(
                rcpt(&mut script.open(), &facts, "x@evil.example").await,
                "550 5.7.1 said x",
                "after {bad}"
            );
        }
    }
    assert_eq!(house.surroundings.tally.failed.load(Relaxed), 18);
}

#[tokio::test]
async fn one_that_waits_holds_nobody_up() {
    let house = house(
        "tuma.on('rcpt', async (s, r) => { if (r.local_part === 'wait') await new Promise(() => {}); return tuma.accept() })",
    );
    let script = Script::load(&house.config, 1, &house.surroundings).await.unwrap();
    let facts = Arc::new(Facts::default());
    let (mut first, mut second) = (script.open(), script.open());
    let began = Instant::now();
    let (waits, goes) = tokio::join!(rcpt(&mut first, &facts, "wait@evil.example"), async {
        (rcpt(&mut second, &facts, "go@evil.example").await, Instant::now())
    });
    assert_eq!((waits.as_str(), goes.0.as_str()), (FAILED, "accept"));
    assert!(goes.1 - began < house.config.timeout, "it did not wait for the other");
}

#[tokio::test]
async fn notes_and_facts_last_as_long_as_the_session() {
    let house = house(
        "tuma.on('hello', (session, hello) => { session.notes.first = hello.name });
         tuma.on('rcpt', (session) => tuma.reject(550, `${session.notes.first} ${session.hostname} ${session.user}`))",
    );
    let script = Script::load(&house.config, 1, &house.surroundings).await.unwrap();
    let (mut talk, mut other) = (script.open(), script.open());
    let facts = Arc::new(Facts { hostname: "mx.test".into(), ..Facts::default() });
    talk.ask(&facts, Question::Hello { name: "c.example", extended: true }).await;
    let mut later = (*facts).clone();
    later.origin.user = Some("joe".into());
    assert_eq!(rcpt(&mut talk, &Arc::new(later), "a@b.example").await, "550 5.7.1 c.example mx.test joe");
    assert_eq!(rcpt(&mut other, &facts, "a@b.example").await, "550 5.7.1 undefined mx.test undefined");
}

async fn message(script: &str, on_error: OnError) -> (String, MailObject) {
    let mut house = house(&format!("tuma.on('message', (session, message) => {{ {script} }})"));
    house.config.on_error = on_error;
    let mut talk = opened(&house).await;
    let recipients = vec![Recipient::new(Mailbox::parse("a@b.example").unwrap())];
    let content = Bytes::from_static(b"Subject: hello\r\nX-Old: 1\r\n\r\nbody\r\n");
    let mut object = MailObject::new(Envelope::new(ReversePath::Null, recipients), Tags::default(), content);
    let answer = talk.ask(&Arc::new(Facts::default()), Question::Message(&mut object)).await;
    (text(&answer), object)
}

#[tokio::test]
async fn a_message_is_changed_whole_or_not_at_all() {
    let (answer, mut object) = message(
        "message.add_header('X-New', message.header('subject')); message.remove_header('x-old');
         message.body = 'other\\n'; message.tenant = 'shop'; message.priority = 'bulk';
         message.add_recipient('c@d.example'); message.sender = 'me@b.example';",
        OnError::Defer,
    )
    .await;
    assert_eq!(answer, "continue");
    assert_eq!(object.content(), "Subject: hello\r\nX-New: hello\r\n\r\nother\r\n");
    assert_eq!(object.first("x-new").as_deref(), Some("hello"));
    assert_eq!(object.tags.tenant.as_deref(), Some("shop"));
    assert_eq!(object.envelope.recipients.len(), 2);
    assert_eq!(object.envelope.reverse_path.as_str(), "me@b.example");
    let (answer, object) = message("message.body = 'half'; throw new Error('x')", OnError::Continue).await;
    assert_eq!(answer, "continue");
    assert!(!object.is_edited(), "half an edit is never kept");
    let (answer, object) = message("message.body = new Uint8Array([0xff, 10])", OnError::Defer).await;
    assert_eq!(
        (answer.as_str(), &object.content()[..]),
        ("continue", &b"Subject: hello\r\nX-Old: 1\r\n\r\n\xff\r\n"[..])
    );
    for wrong in
        ["message.nope", "message.tenant = 'no\\nline'", "message.add_recipient('x')", "message.size = 1"]
    {
        assert_eq!(message(wrong, OnError::Defer).await.0, FAILED, "{wrong}");
    }
    let (_, object) = message("message.add_header('X', 'a\\r\\nBcc: evil@x')", OnError::Defer).await;
    assert!(
        String::from_utf8_lossy(&object.content()).contains("X: a\r\n\tBcc: evil@x\r\n"),
        "no field slips in"
    );
}

#[tokio::test]
async fn a_script_with_a_mistake_is_not_taken() {
    for (script, told) in [
        ("tuma.on('rcpt', (", "policy.js"),
        ("throw new Error('not today')", "not today"),
        ("for (;;) {}", "time_max"),
        ("tuma.on('helo', () => {})", "there is no phase `helo`"),
        ("require('./absent')", "Cannot find module './absent'"),
        ("require('child_process')", "Cannot find module 'child_process'"),
    ] {
        let house = house(script);
        let Err(error) = Script::load(&house.config, 1, &house.surroundings).await else {
            panic!("{script} was taken");
        };
        assert!(error.to_string().contains(told), "{script}: {error}");
    }
}

#[tokio::test]
async fn a_scripts_own_tests_run() {
    let house = house(
        "tuma.on('rcpt', (s, r) => r.domain === 'no.example' ? tuma.reject(550, '5.1.2', 'no') : undefined);
         tuma.test('refused', async (client) => {
           await client.connect({ peer: '192.0.2.9' });
           await client.mail('');
           const reply = await client.rcpt('a@no.example');
           if (reply.code !== 550) throw new Error('it is ' + JSON.stringify(reply)) });
         tuma.test('taken', async (client) => {
           const reply = await client.rcpt('a@yes.example');
           if (reply === null) throw new Error('nothing said') })",
    );
    let tested = test(&house.config).await.unwrap();
    assert_eq!(tested.len(), 2);
    assert_eq!((tested[0].name.as_str(), &tested[0].failure), ("refused", &None));
    assert!(tested[1].failure.as_ref().unwrap().contains("nothing said"));
}

#[tokio::test]
async fn sessions_that_are_over_are_forgotten() {
    let house = house("tuma.on('rcpt', (s) => { s.notes.text = 'x'.repeat(100000) })");
    let script = Script::load(&house.config, 1, &house.surroundings).await.unwrap();
    let facts = Arc::new(Facts::default());
    for _ in 0..2_000 {
        // More than the context may hold, if they stayed.
        assert_eq!(rcpt(&mut script.open(), &facts, "a@b.example").await, "continue");
    }
}
