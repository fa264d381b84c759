//! Promises about the grammar and the session that hold for any input.

use mail::{BodyType, Envelope, ForwardPath, Mailbox, Notify, Ret, ReversePath};
use proptest::prelude::*;
use smtp::parameter::{MailParameters, RcptParameters};
use smtp::server::{Answer, Config, Connection, Event, Server, State};
use smtp::{base64, command, fuzzing, path, xtext};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn mailbox() -> impl Strategy<Value = Mailbox> {
    let local = prop_oneof![
        "[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\\.[a-z0-9]{1,5}){0,3}",
        "\"([ !#-\\[\\]-~]|\\\\[ -~]){0,20}\"",
        "[a-zà-ÿα-ω]{1,10}",
    ];
    let host = prop_oneof![
        "[a-z0-9]([a-z0-9_]{0,10}[a-z0-9])?(\\.[a-z0-9]{1,8}){0,4}",
        any::<std::net::Ipv4Addr>().prop_map(|ip| format!("[{ip}]")),
        any::<std::net::Ipv6Addr>().prop_map(|ip| format!("[IPv6:{ip}]")),
    ];
    (local, host).prop_map(|(local, host)| Mailbox::parse(&format!("{local}@{host}")).expect("a mailbox"))
}

fn xtext_of(octets: &[u8]) -> String {
    let mut out = Vec::new();
    xtext::encode(octets, &mut out);
    String::from_utf8(out).expect("xtext is ASCII")
}

proptest! {
    #[test]
    fn mail_lines_read_back(
        mailbox in proptest::option::of(mailbox()),
        size in any::<Option<u64>>(),
        body in proptest::option::of(prop_oneof![
            Just(BodyType::SevenBit), Just(BodyType::EightBitMime), Just(BodyType::BinaryMime)
        ]),
        flags in any::<[bool; 2]>(),
        ret in proptest::option::of(prop_oneof![Just(Ret::Full), Just(Ret::Headers)]),
        envid in proptest::option::of("[ -~]{1,30}"),
        auth in proptest::option::of("[ -~]{1,30}"),
    ) {
        let path = mailbox.map_or(ReversePath::Null, ReversePath::Mailbox);
        let (envid, auth) = (envid.map(|v| xtext_of(v.as_bytes())), auth.map(|v| xtext_of(v.as_bytes())));
        let parameters = MailParameters {
            size, body, smtputf8: flags[0], require_tls: flags[1], ret,
            envid: envid.as_deref(), auth: auth.as_deref(),
        };
        let mut line = Vec::new();
        command::write_mail(&path, &parameters, &mut line);
        let line = line.strip_suffix(b"\r\n").expect("a whole line");
        let command = command::Command::parse(line).expect("a command");
        let text = command::after_keyword(command.argument, "FROM:", false).expect("the keyword");
        let (again, rest) = path::reverse(text).expect("a path");
        prop_assert_eq!(again, path);
        prop_assert_eq!(MailParameters::parse(rest), Ok(parameters));
    }

    #[test]
    fn rcpt_lines_read_back(mailbox in mailbox(), notify in 0u8..16, orcpt in proptest::option::of("[ -~]{1,30}")) {
        let orcpt = orcpt.map(|v| format!("rfc822;{}", xtext_of(v.as_bytes())));
        let notify = Notify::from_bits(notify).unwrap_or_default();
        let parameters = RcptParameters { notify, orcpt: orcpt.as_deref() };
        let path = ForwardPath(mailbox);
        let mut line = Vec::new();
        command::write_rcpt(&path, &parameters, &mut line);
        let line = line.strip_suffix(b"\r\n").expect("a whole line");
        let command = command::Command::parse(line).expect("a command");
        let text = command::after_keyword(command.argument, "TO:", false).expect("the keyword");
        let here = "here.test".parse().expect("a domain");
        let (again, rest) = path::forward(text, &here).expect("a path");
        prop_assert_eq!(again, path);
        prop_assert_eq!(RcptParameters::parse(rest), Ok(parameters));
    }

    #[test]
    fn xtext_and_base64_read_back(octets in any::<Vec<u8>>()) {
        prop_assert_eq!(xtext::decode(xtext_of(&octets).as_bytes()), Some(octets.clone()));
        let mut coded = Vec::new();
        base64::encode(&octets, &mut coded);
        prop_assert_eq!(base64::decode(&coded), Some(octets));
    }

    #[test]
    fn any_content_is_safe_to_relay(octets in any::<Vec<u8>>()) {
        fuzzing::data(&octets);
    }

    #[test]
    fn content_of_dots_and_newlines_is_safe_to_relay(choices in any::<u8>(), text in "[.\r\na \0]{0,60}") {
        fuzzing::data(&[&[choices], text.as_bytes()].concat());
    }

    /// A15: any order of commands, against a model of a few lines.
    #[test]
    fn commands_in_any_order(order in proptest::collection::vec(0usize..8, 1..60)) {
        const LINES: [&[u8]; 8] = [
            b"HELO a\r\n", b"MAIL FROM:<a@b.test>\r\n", b"RCPT TO:<c@d.test>\r\n", b"DATA\r\n", b"RSET\r\n",
            b"NOOP\r\n", b"BDAT 1\r\nx", b"BDAT 1 LAST\r\nx",
        ];
        #[derive(Clone, Copy, Debug, PartialEq)]
        enum Model { Start, Ready, Mail, Rcpt, Chunks }
        let now = start();
        let mut config = Config::default();
        (config.session.errors_max, config.session.errors_prompt_max) = (u32::MAX, u32::MAX);
        let mut server = Server::new(Arc::new(config), Connection::default(), now);
        server.greet(now, None);
        server.output().clear();
        let mut model = Model::Start;
        for command in order {
            let (code, next, handed_over) = match (command, model) {
                (0, _) => ("250", Model::Ready, 0),
                (1, Model::Ready) => ("250", Model::Mail, 0),
                (2, Model::Mail | Model::Rcpt) => ("250", Model::Rcpt, 0),
                (3, Model::Rcpt) => ("354", Model::Ready, 1),
                (4, Model::Start) => ("250", Model::Start, 0),
                (4, _) => ("250", Model::Ready, 0),
                (5, same) => ("250", same, 0),
                (6, Model::Rcpt | Model::Chunks) => ("250", Model::Chunks, 0),
                (7, Model::Rcpt | Model::Chunks) => ("250", Model::Ready, 1),
                (_, same) => ("503", same, 0),
            };
            let mut messages = send(&mut server, now, LINES[command]);
            if code == "354" {
                prop_assert!(server.output().starts_with(b"354"));
                server.output().clear();
                messages = send(&mut server, now, b"hi\r\n.\r\n");
                prop_assert!(server.output().starts_with(b"250"));
            } else {
                let said = server.output().escape_ascii().to_string();
                prop_assert!(said.starts_with(code), "{said} to {command} in {model:?}");
                prop_assert_eq!(server.output().iter().filter(|&&b| b == b'\n').count(), 1);
            }
            server.output().clear();
            prop_assert_eq!(messages.len(), handed_over);
            model = next;
        }
    }

    #[test]
    fn any_session_keeps_its_bounds(octets in any::<Vec<u8>>()) {
        fuzzing::session(&octets);
    }
}

/// Says yes until nothing is asked; gives the messages.
fn accept_all(server: &mut Server, now: Instant) -> Vec<(Envelope, Vec<u8>)> {
    let mut messages = vec![];
    while let Some(event) = server.event() {
        match event {
            Event::Message { envelope, content } => messages.push((envelope, content)),
            Event::Close | Event::StartTls => continue,
            _ => {}
        }
        server.answer(now, Answer::Accept);
    }
    messages
}

fn send(server: &mut Server, now: Instant, mut input: &[u8]) -> Vec<(Envelope, Vec<u8>)> {
    let mut messages = vec![];
    while !input.is_empty() {
        let taken = server.receive(now, input);
        input = &input[taken..];
        messages.extend(accept_all(server, now));
        if taken == 0 {
            break;
        }
    }
    messages
}

fn session(now: Instant) -> Server {
    let mut server = Server::new(Arc::new(Config::default()), Connection::default(), now);
    server.greet(now, None);
    server
}

#[expect(clippy::disallowed_methods, reason = "tests need some moment to begin with")]
fn start() -> Instant {
    Instant::now()
}

/// A20: what comes before the greeting waits, is noticed, and is answered in its own session.
#[test]
fn early_talker_is_noticed_and_answered_after_the_greeting() {
    let now = start();
    let mut server = Server::new(Arc::new(Config::default()), Connection::default(), now);
    assert_eq!(server.receive(now, b"HELO early\r\n"), 0);
    assert!(server.talked_early());
    server.greet(now, None);
    assert!(server.output().starts_with(b"220 "));
    assert_eq!(server.receive(now, b"HELO early\r\n"), 12);
    accept_all(&mut server, now);
    assert_eq!(server.hello(), "early");
}

/// C40: a client that never reads stops being read, and is closed when its time is up.
#[test]
fn client_that_never_reads_replies() {
    let now = start();
    let mut server = session(now);
    let input = b"NOOP\r\n".repeat(50);
    let mut server_took = 0;
    for _ in 0..10_000 {
        // Recipients are not counted against a client; their replies pile up.
        let line = b"RCPT TO:<a@b.test>\r\n";
        let setup = b"HELO a\r\nMAIL FROM:<a@b.test>\r\n";
        if server.state() == State::Start {
            let mut rest = &setup[..];
            while !rest.is_empty() {
                rest = &rest[server.receive(now, rest)..];
                accept_all(&mut server, now);
            }
        }
        server_took = server.receive(now, line);
        accept_all(&mut server, now);
        if server_took == 0 {
            break;
        }
    }
    assert_eq!(server_took, 0, "it is read no more");
    assert_eq!(server.receive(now, &input), 0);
    assert!(server.output().len() < Config::default().session.output_max.len() + 1024);
    let deadline = server.wake_at().expect("a deadline");
    assert!(deadline <= now + Duration::from_secs(300));
    server.wake(deadline);
    assert!(matches!(server.event(), Some(Event::Close)));
}

/// A10, B30: memory follows what has come, never what was announced.
#[test]
fn claimed_sizes_allocate_nothing() {
    let now = start();
    let mut server = session(now);
    send(&mut server, now, b"HELO a\r\nMAIL FROM:<a@b.test> SIZE=50000000\r\nRCPT TO:<a@b.test>\r\n");
    let messages = send(&mut server, now, b"BDAT 2\r\nhiBDAT 0 LAST\r\n");
    assert_eq!(messages[0].1, b"hi");
    assert!(messages[0].1.capacity() < 64);
}

/// C37: what an idle session costs.
#[test]
fn idle_session_is_small() {
    let now = start();
    assert!(size_of::<Server>() <= 768, "{} octets", size_of::<Server>());
    let mut server = session(now);
    send(
        &mut server,
        now,
        b"HELO client.example\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<a@b.test>\r\nDATA\r\nhi\r\n.\r\n",
    );
    server.output().clear();
    server.release();
    assert_eq!(server.output().capacity(), 0);
    assert_eq!(server.envelope().recipients.capacity(), 0);
}

/// B23: twenty megabytes without a line end cost nothing and end in a close.
#[test]
fn twenty_megabytes_of_command() {
    let now = start();
    let mut server = session(now);
    let piece = vec![b'x'; 16 * 1024];
    let mut replies = 0;
    for _ in 0..1280 {
        let taken = server.receive(now, &piece);
        assert_eq!(taken, piece.len());
        replies += server.output().iter().filter(|&&b| b == b'\n').count();
        server.output().clear();
    }
    assert_eq!((server.state(), replies), (State::Closed, 3), "greeting, 500, 421");
}

/// A11: a hundred thousand chunks of one octet.
#[test]
fn chunks_of_one_octet_are_bounded() {
    let now = start();
    let mut server = session(now);
    send(&mut server, now, b"HELO a\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<a@b.test>\r\n");
    for _ in 0..100_000 {
        server.output().clear();
        send(&mut server, now, b"BDAT 1\r\nx");
    }
    assert!(!matches!(server.state(), State::Chunks), "{:?}", server.state());
}
