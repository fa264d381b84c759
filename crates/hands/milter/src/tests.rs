//! Filters that answer, and filters that do not: each is a script of packets at the other end of a socket.

use crate::wire::{self, actions, put, steps};
use crate::{Address, Milter, MilterConfig, OnQuarantine, Sidecar, SidecarConfig};
use bytes::Bytes;
use mail::{Envelope, Mailbox, Origin, Recipient, ReversePath, Tags};
use policy::{Answer, Conversation, Facts, MailObject, OnError, Phase, Policy, Question, Tally};
use settings::{Size, Text};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn config(address: Address) -> MilterConfig {
    MilterConfig {
        address: Text(address),
        name: None,
        connect_timeout: Duration::from_secs(10),
        command_timeout: Duration::from_secs(30),
        message_timeout: Duration::from_secs(60),
        message_timeout_max: Duration::from_secs(600),
        body_max: Size::mib(1),
        on_error: OnError::Defer,
        on_quarantine: OnQuarantine::Defer,
    }
}

/// What a filter does with each command: the packets it answers.
type Answers = fn(u8, &[u8]) -> Vec<(u8, Vec<u8>)>;

/// A filter, and what it heard: commands by their letter.
async fn filter(unwanted: u32, answers: Answers) -> (Address, Arc<std::sync::Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let heard = Arc::new(std::sync::Mutex::new(String::new()));
    let log = heard.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, unwanted, answers, log.clone()));
        }
    });
    (address, heard)
}

async fn serve(mut stream: TcpStream, unwanted: u32, answers: Answers, log: Arc<std::sync::Mutex<String>>) {
    while let Ok((command, data)) = wire::get(&mut stream).await {
        let mut out = Vec::new();
        log.lock().unwrap().push(char::from(command));
        match command {
            b'O' => {
                let answer = [6, actions::ALL, unwanted].map(u32::to_be_bytes).concat();
                put(&mut out, b'O', &[&answer]);
            }
            b'D' | b'A' => {}
            b'Q' => return,
            _ => {
                for (answer, data) in answers(command, &data) {
                    // A zero is a filter that dies.
                    if answer == 0 {
                        stream.write_all(&out).await.unwrap();
                        return;
                    }
                    put(&mut out, answer, &[&data]);
                }
            }
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

fn goes_on() -> Vec<(u8, Vec<u8>)> {
    vec![(b'c', vec![])]
}

fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text).unwrap()
}

fn facts() -> Arc<Facts> {
    let origin = Origin {
        session: Some(mail::SessionId(7)),
        peer: Some("192.0.2.1:4711".parse().unwrap()),
        helo: "client.test".into(),
        listener: "smtp".into(),
        ..Origin::default()
    };
    Arc::new(Facts { origin, hostname: "mx.test".into(), trusted: false })
}

fn envelope() -> Envelope {
    let recipients = ["a@one.test", "b@two.test"].map(|text| Recipient::new(mailbox(text)));
    Envelope::new(ReversePath::Mailbox(mailbox("me@from.test")), recipients.to_vec())
}

const CONTENT: &str = "Subject: hello\r\nX-Spam: yes\r\nX-Spam: no\r\n\r\nthe body\r\n";

fn object() -> MailObject {
    MailObject::new(envelope(), Tags::default(), Bytes::from(CONTENT))
}

/// A whole transaction; the first answer that decides, and the message.
async fn transaction(talk: &mut dyn Conversation) -> (Phase, Answer, MailObject) {
    let (facts, envelope, mut object) = (facts(), envelope(), object());
    talk.transaction_ended();
    for question in [
        Question::Mail { envelope: &envelope, size: Some(100) },
        Question::Rcpt { envelope: &envelope, recipient: &envelope.recipients[0] },
        Question::Data { envelope: &envelope },
    ] {
        let phase = question.phase();
        let answer = talk.ask(&facts, question).await;
        if answer.decides() {
            return (phase, answer, object);
        }
    }
    let answer = talk.ask(&facts, Question::Message(&mut object)).await;
    talk.transaction_ended();
    (Phase::Message, answer, object)
}

async fn session(talk: &mut dyn Conversation) -> (Phase, Answer, MailObject) {
    let facts = facts();
    for question in [Question::Connect, Question::Hello { name: "client.test", extended: true }] {
        let phase = question.phase();
        let answer = talk.ask(&facts, question).await;
        if answer.decides() {
            return (phase, answer, object());
        }
    }
    transaction(talk).await
}

async fn with(answers: Answers, change: impl Fn(&mut MilterConfig)) -> (Phase, Answer, MailObject) {
    let (address, _) = filter(0, answers).await;
    let mut config = config(address);
    change(&mut config);
    let milter = Milter::new(config, Arc::default());
    session(&mut *milter.open()).await
}

fn said(answer: &Answer) -> String {
    match answer {
        Answer::Refuse(reply) => reply.to_string(),
        Answer::Disconnect(reply) => format!("disconnect {reply}"),
        Answer::Discard(why) => format!("discard {why}"),
        other => other.word().to_owned(),
    }
}

const FAILED: &str = "451 4.3.0 a local rule could not be applied, try again later";

fn text(parts: &[&[u8]]) -> Vec<u8> {
    wire::texts(parts)
}

fn at(number: u32, parts: &[&[u8]]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &text(parts)].concat()
}

#[tokio::test]
async fn every_phase_is_told_and_several_messages_in_one_session() {
    let (address, heard) = filter(0, |_, _| goes_on()).await;
    let tally = Arc::new(Tally::default());
    let milter = Milter::new(config(address), tally.clone());
    let mut talk = milter.open();
    for _ in 0..2 {
        let (_, answer, object) = transaction(&mut *talk).await;
        assert_eq!(answer, Answer::Continue);
        assert_eq!(object.content(), CONTENT);
    }
    // Given up after MAIL, then another.
    let (facts, envelope) = (facts(), envelope());
    talk.ask(&facts, Question::Mail { envelope: &envelope, size: None }).await;
    let (_, answer, _) = transaction(&mut *talk).await;
    assert_eq!(answer, Answer::Continue);
    let one = "DMDRTLLLNBE";
    assert_eq!(*heard.lock().unwrap(), format!("ODCH{one}{one}DMA{one}"));
    assert_eq!(tally.failed.load(Relaxed), 0);
}

#[tokio::test]
async fn steps_that_are_not_wanted_are_not_taken() {
    let unwanted = steps::NO_CONNECT | steps::NO_HELO | steps::NO_DATA | steps::NO_BODY | steps::MUTE_HEADERS;
    let (address, heard) =
        filter(unwanted, |command, _| if command == b'L' { vec![] } else { goes_on() }).await;
    let milter = Milter::new(config(address), Arc::default());
    assert_eq!(session(&mut *milter.open()).await.1, Answer::Continue);
    assert_eq!(*heard.lock().unwrap(), "ODMDRLLLNE");
    let (address, _) = filter(0x8000_0000, |_, _| goes_on()).await;
    let milter = Milter::new(config(address), Arc::default());
    assert_eq!(said(&session(&mut *milter.open()).await.1), FAILED, "what was not offered");
}

#[tokio::test]
async fn answers_at_commands() {
    let cases: [(Answers, Phase, &str); 12] = [
        (
            |command, _| if command == b'C' { vec![(b'r', vec![])] } else { goes_on() },
            Phase::Connect,
            "550 5.7.1 refused by a filter",
        ),
        (
            |command, _| if command == b'H' { vec![(b't', vec![])] } else { goes_on() },
            Phase::Hello,
            "451 4.7.1 refused by a filter for now, try again later",
        ),
        (
            |command, _| if command == b'M' { vec![(b'y', b"554 5.7.9 no\0".to_vec())] } else { goes_on() },
            Phase::Mail,
            "554 5.7.9 no",
        ),
        (
            |command, _| {
                if command == b'R' {
                    vec![(b'y', b"450-4.2.1 a\r\n450 4.2.1 b\0".to_vec())]
                } else {
                    goes_on()
                }
            },
            Phase::Rcpt,
            "450 4.2.1 a; b",
        ),
        (
            |command, _| if command == b'R' { vec![(b'd', vec![])] } else { goes_on() },
            Phase::Message,
            "discard by the filter f",
        ),
        (
            |command, _| if command == b'T' { vec![(b'S', vec![])] } else { goes_on() },
            Phase::Data,
            "disconnect 421 4.7.0 goodbye",
        ),
        (
            |command, _| if command == b'L' { vec![(b'r', vec![])] } else { goes_on() },
            Phase::Message,
            "550 5.7.1 refused by a filter",
        ),
        (|command, _| if command == b'B' { vec![(b's', vec![])] } else { goes_on() }, Phase::Message, FAILED),
        (
            |command, _| if command == b'C' { vec![(b'a', vec![])] } else { vec![] },
            Phase::Message,
            "continue",
        ),
        (
            |command, _| if matches!(command, b'C' | b'H') { goes_on() } else { vec![(b'a', vec![])] },
            Phase::Message,
            "continue",
        ),
        (
            |command, _| {
                if command == b'E' { vec![(b'p', vec![]), (b'p', vec![]), (b'a', vec![])] } else { goes_on() }
            },
            Phase::Message,
            "continue",
        ),
        (
            |command, _| if command == b'M' { vec![(b'y', b"250 2.0.0 ok\0".to_vec())] } else { goes_on() },
            Phase::Mail,
            FAILED,
        ),
    ];
    for (n, (answers, phase, expected)) in cases.into_iter().enumerate() {
        let (at, answer, object) = with(answers, |config| config.name = Some("f".into())).await;
        assert_eq!((at, said(&answer).as_str()), (phase, expected), "case {n}");
        assert_eq!(object.content(), CONTENT);
    }
}

fn changes() -> Vec<(u8, Vec<u8>)> {
    vec![
        (b'h', text(&[b"X-Added", b"one\n two"])),
        (b'i', at(0, &[b"X-First", b"1"])),
        (b'm', at(2, &[b"X-Spam", b"maybe"])),
        (b'm', at(1, &[b"x-spam", b""])),
        (b'+', text(&[b"<c@three.test>"])),
        (b'2', text(&[b"<d@four.test>", b"NOTIFY=NEVER"])),
        (b'-', text(&[b"<a@one.test>"])),
        (b'e', text(&[b"<>"])),
        (b'p', vec![]),
        (b'b', b"new\n".to_vec()),
        (b'b', b"body".to_vec()),
    ]
}

#[tokio::test]
async fn changes_are_made_at_the_end() {
    let (_, answer, object) = with(
        |command, _| match command {
            b'E' => changes().into_iter().chain(goes_on()).collect(),
            _ => goes_on(),
        },
        |_| (),
    )
    .await;
    assert_eq!(answer, Answer::Continue);
    assert_eq!(
        object.content(),
        "X-First: 1\r\nSubject: hello\r\nX-Spam: maybe\r\nX-Added: one\r\n two\r\n\r\nnew\r\nbody\r\n"
    );
    assert_eq!(object.envelope.reverse_path, ReversePath::Null);
    let recipients: Vec<&str> = object.envelope.recipients.iter().map(|r| r.path.as_str()).collect();
    assert_eq!(recipients, ["b@two.test", "c@three.test", "d@four.test"]);
}

#[tokio::test]
async fn a_filter_that_dies_in_its_changes_has_changed_nothing() {
    for on_error in [OnError::Defer, OnError::Reject, OnError::Continue] {
        let dies: Answers = |command, _| match command {
            b'E' => changes().into_iter().chain([(0, vec![])]).collect(),
            _ => goes_on(),
        };
        let (_, answer, object) = with(dies, |config| config.on_error = on_error).await;
        assert_eq!(answer, on_error.answer());
        assert!(!object.is_edited() && object.envelope == envelope());
    }
    // Changes, and then a no: nothing of them matters either.
    let refuses: Answers = |command, _| match command {
        b'E' => changes().into_iter().chain([(b'r', vec![])]).collect(),
        _ => goes_on(),
    };
    let (_, answer, object) = with(refuses, |_| ()).await;
    assert_eq!(said(&answer), "550 5.7.1 refused by a filter");
    assert!(!object.is_edited());
}

#[tokio::test]
async fn nonsense_is_a_failure_and_not_an_answer() {
    let cases: [Answers; 14] = [
        |command, _| if command == b'M' { vec![(b'Z', vec![])] } else { goes_on() },
        |command, _| if command == b'M' { vec![(b'h', text(&[b"X", b"y"]))] } else { goes_on() },
        |command, _| if command == b'M' { vec![(b'y', b"nonsense\0".to_vec())] } else { goes_on() },
        |command, _| if command == b'M' { vec![(b'y', "5\u{e9}".into())] } else { goes_on() },
        |command, _| if command == b'M' { vec![(0, vec![])] } else { goes_on() },
        |command, _| {
            if command == b'E' { vec![(b'h', b"X\0no end".to_vec()), (b'c', vec![])] } else { goes_on() }
        },
        |command, _| if command == b'E' { vec![(b'h', text(&[b"X"])), (b'c', vec![])] } else { goes_on() },
        |command, _| {
            if command == b'E' { vec![(b'h', text(&[b"X Y", b"z"])), (b'c', vec![])] } else { goes_on() }
        },
        |command, _| {
            if command == b'E' { vec![(b'h', text(&[b"X", b"a\rb"])), (b'c', vec![])] } else { goes_on() }
        },
        |command, _| if command == b'E' { vec![(b'm', vec![0, 0]), (b'c', vec![])] } else { goes_on() },
        |command, _| {
            if command == b'E' { vec![(b'+', text(&[b"no address"])), (b'c', vec![])] } else { goes_on() }
        },
        |command, _| if command == b'E' { vec![(b'b', vec![b'x'; 600_000]); 3] } else { goes_on() },
        |command, _| if command == b'E' { vec![(b'h', text(&[b"X", b"y"])); 20_000] } else { goes_on() },
        |command, _| if command == b'E' { vec![(b's', vec![])] } else { goes_on() },
    ];
    for (n, answers) in cases.into_iter().enumerate() {
        let (_, answer, object) = with(answers, |_| ()).await;
        assert_eq!(said(&answer), FAILED, "case {n}");
        assert!(!object.is_edited() && object.envelope == envelope(), "case {n}");
    }
}

#[tokio::test]
async fn quarantine_is_what_the_operator_says() {
    let answers: Answers = |command, _| match command {
        b'E' => vec![(b'q', text(&[b"smells\nbad"])), (b'c', vec![])],
        _ => goes_on(),
    };
    for (on, expected) in [
        (OnQuarantine::Defer, "451 4.7.1 held by a filter, try again later"),
        (OnQuarantine::Reject, "554 5.7.1 refused by a filter"),
        (OnQuarantine::Discard, "discard quarantined: smells bad"),
        (OnQuarantine::Mark, "continue"),
    ] {
        let (_, answer, mut object) = with(answers, |config| config.on_quarantine = on).await;
        assert_eq!(said(&answer), expected);
        let mark = (on == OnQuarantine::Mark).then(|| "smells bad".to_owned());
        assert_eq!(object.first("X-Quarantine"), mark);
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_does_not_answer_is_given_up() {
    let silent: [Answers; 3] = [
        |command, _| if command == b'M' { vec![] } else { goes_on() },
        |command, _| if command == b'E' { vec![] } else { goes_on() },
        |command, _| if command == b'M' { vec![(b'p', vec![])] } else { goes_on() },
    ];
    for answers in silent {
        assert_eq!(said(&with(answers, |_| ()).await.1), FAILED);
    }
}

#[tokio::test]
async fn a_filter_that_cannot_be_reached_and_comes_back() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let milter = Milter::new(config(Address::Tcp(address)), Arc::default());
    let mut talk = milter.open();
    assert_eq!(said(&session(&mut *talk).await.1), FAILED);
    let listener = TcpListener::bind(address).await.unwrap();
    let log = Arc::new(std::sync::Mutex::new(String::new()));
    let heard = log.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, 0, |_, _| goes_on(), log).await;
    });
    // In the same session, which it hears of from its beginning.
    assert_eq!(transaction(&mut *talk).await.1, Answer::Continue);
    assert_eq!(*heard.lock().unwrap(), "ODCHDMDRTLLLNBE");
}

/// A sidecar that answers each request with the next of these, and its address.
async fn sidecar(answers: Vec<&'static str>) -> (Address, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = heard.clone();
    tokio::spawn(async move {
        let mut answers = answers.into_iter();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut octets = Vec::new();
            loop {
                let mut piece = [0; 4096];
                let count = stream.read(&mut piece).await.unwrap();
                octets.extend_from_slice(&piece[..count]);
                let text = String::from_utf8_lossy(&octets).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    if count == 0 {
                        break;
                    }
                    continue;
                };
                let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                if body.len() < len.parse().unwrap() {
                    continue;
                }
                log.lock().unwrap().push(body.to_owned());
                octets.clear();
                let Some(answer) = answers.next() else { break };
                let answer = match answer.strip_prefix('!') {
                    Some(raw) => raw.to_owned(),
                    None => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len()),
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    (address, heard)
}

fn asks(address: Address) -> Arc<Sidecar> {
    let phases = Phase::ALL.map(|phase| Text(crate::config::Asked(phase))).to_vec();
    let config = SidecarConfig {
        address: Text(address),
        path: "/ask".into(),
        name: None,
        phases,
        timeout: Duration::from_secs(10),
        body_max: Size(4),
        idle_max: 2,
        on_error: OnError::Defer,
    };
    Sidecar::new(config, Arc::default())
}

#[tokio::test]
async fn a_sidecar_is_asked_and_answers() {
    let (address, heard) = sidecar(vec![
        r#"{"answer":"continue","notes":{"n":1}}"#,
        r#"{"answer":"reject","code":554,"status":"5.7.9","text":"no"}"#,
        r#"{"answer":"accept","message":{"sender":"","recipients":["b@two.test","c@three.test"],"remove_headers":["x-spam"],
            "add_headers":[["X-A","1"]],"prepend_headers":[["X-P","2"]],"set_headers":[["Subject","new"]],"body":"new","tenant":"t","priority":"bulk"}}"#,
    ])
    .await;
    let sidecar = asks(address);
    let mut talk = sidecar.open();
    let (facts, envelope, mut object) = (facts(), envelope(), object());
    let mail = Question::Mail { envelope: &envelope, size: None };
    assert_eq!(talk.ask(&facts, mail).await, Answer::Continue);
    let rcpt = Question::Rcpt { envelope: &envelope, recipient: &envelope.recipients[0] };
    assert_eq!(said(&talk.ask(&facts, rcpt).await), "554 5.7.9 no");
    assert_eq!(talk.ask(&facts, Question::Message(&mut object)).await, Answer::Accept);
    assert_eq!(object.content(), "X-P: 2\r\nSubject: new\r\nX-A: 1\r\n\r\nnew\r\n");
    assert_eq!((object.tags.tenant.as_deref(), object.tags.priority), (Some("t"), mail::Priority::Bulk));
    assert_eq!(object.envelope.recipients[0], envelope.recipients[1]);
    let heard: Vec<serde_json::Value> =
        heard.lock().unwrap().iter().map(|body| serde_json::from_str(body).unwrap()).collect();
    assert_eq!(heard[0]["phase"], "mail");
    assert_eq!(heard[0]["session"]["peer"], "192.0.2.1");
    assert_eq!(heard[1]["notes"]["n"], 1);
    assert_eq!(heard[1]["rcpt"]["address"], "a@one.test");
    assert_eq!(heard[2]["message"]["fields"][0], serde_json::json!(["Subject", "hello"]));
    assert_eq!(
        (&heard[2]["message"]["body"], &heard[2]["message"]["body_is_cut"]),
        (&"the ".into(), &true.into())
    );
}

#[tokio::test]
async fn what_is_no_answer_of_a_sidecar_is_a_failure() {
    for answer in [
        "",
        "null",
        "{}",
        "[]",
        r#"{"answer":"yes"}"#,
        r#"{"answer":"continue","mesage":{}}"#,
        r#"{"answer":"continue","message":{"subject":"x"}}"#,
        r#"{"answer":"continue","message":{"sender":"x"}}"#,
        r#"{"answer":"continue","message":{"sender":"","add_headers":[["X Y","z"]]}}"#,
        r#"{"answer":"continue","message":{"sender":"","priority":"x"}}"#,
        r#"{"answer":"reject","code":250}"#,
        r#"{"answer":"reject","code":451}"#,
        r#"{"answer":"defer","status":"5.0.0"}"#,
        r#"{"answer":"continue"} and more"#,
        "!HTTP/1.1 204 No Content\r\n\r\n",
        "!HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n",
        "!HTTP/1.1 500 x\r\ncontent-length: 23\r\n\r\n{\"answer\":\"continue\"}  ",
        "!nonsense\r\n\r\n",
    ] {
        let (address, _) = sidecar(vec![answer]).await;
        let mut object = object();
        let facts = facts();
        let mut talk = asks(address).open();
        let answered = talk.ask(&facts, Question::Message(&mut object)).await;
        assert_eq!(said(&answered), FAILED, "{answer}");
        assert!(!object.is_edited() && object.envelope == envelope(), "{answer}");
    }
}

#[tokio::test]
async fn a_connection_that_a_sidecar_closed_is_made_anew() {
    let (address, _) = sidecar(vec![
        "!HTTP/1.1 200 OK\r\ncontent-length: 21\r\n\r\n{\"answer\":\"continue\"}",
        r#"{"answer":"accept"}"#,
    ])
    .await;
    let sidecar = asks(address);
    let facts = facts();
    assert_eq!(sidecar.open().ask(&facts, Question::Connect).await, Answer::Continue);
    assert_eq!(sidecar.open().ask(&facts, Question::Connect).await, Answer::Accept);
}
