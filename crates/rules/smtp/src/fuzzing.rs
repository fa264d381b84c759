//! One function for each fuzz target: any octets go in, and a broken promise is a panic. The targets under
//! `fuzz/` call them, and so does a short deterministic run among the tests.

use crate::command::{self, Command};
use crate::data;
use crate::parameter::{MailParameters, RcptParameters};
use crate::path;
use crate::reply;
use crate::server::{Answer, BareNewline, Config, Connection, Event, LongLine, Server, SessionConfig, State};
use mail::{BodyType, Domain, Reply};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A command line: what is read as a command holds no control character, and MAIL and RCPT read back what was
/// written.
pub fn command(input: &[u8]) {
    command::verb_of(input);
    let Ok(Command { argument, .. }) = Command::parse(input) else { return };
    assert!(!argument.bytes().any(|b| b < b' ' || b == 127));
    if let Some((size, _)) = command::bdat(argument) {
        assert!(argument.starts_with(|c: char| c.is_ascii_digit()), "{argument} is {size}");
    }
    for keyword in ["FROM:", "TO:"] {
        command::after_keyword(argument, keyword, true);
    }
}

/// A path with its parameters: what is read, written and read again is the same.
pub fn address(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let here = Domain::parse("here.test").expect("a domain name");
    if let Ok((found, rest)) = path::reverse(text) {
        let mut out = Vec::new();
        path::write(found.as_str(), &mut out);
        let again = std::str::from_utf8(&out).expect("written from text");
        assert_eq!(path::reverse(again), Ok((found.clone(), "")));
        if let Ok(parameters) = MailParameters::parse(rest) {
            let mut out = Vec::new();
            parameters.write(&mut out);
            let again = std::str::from_utf8(&out).expect("written from text");
            assert_eq!(MailParameters::parse(again), Ok(parameters));
        }
    }
    if let Ok((found, rest)) = path::forward(text, &here) {
        let mut out = Vec::new();
        path::write(found.as_str(), &mut out);
        let again = std::str::from_utf8(&out).expect("written from text");
        assert_eq!(path::forward(again, &here), Ok((found, "")));
        if let Ok(parameters) = RcptParameters::parse(rest) {
            let mut out = Vec::new();
            parameters.write(&mut out);
            let again = std::str::from_utf8(&out).expect("written from text");
            assert_eq!(RcptParameters::parse(again), Ok(parameters));
        }
    }
}

/// Text of a reply: it stays within its reply, whatever it holds.
pub fn reply(input: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    let mut out = Vec::new();
    reply::write(&Reply::new(550, (5, 7, 1), text), &mut out);
    let wire = std::str::from_utf8(&out).expect("replies are ASCII");
    let lines: Vec<&str> = wire.strip_suffix("\r\n").expect("replies end in CRLF").split("\r\n").collect();
    for (n, line) in lines.iter().enumerate() {
        let head = if n + 1 == lines.len() { "550 5.7.1 " } else { "550-5.7.1 " };
        assert!(
            line.starts_with(head) && line.len() <= 510 && line.bytes().all(|b| matches!(b, b' '..=b'~'))
        );
    }
}

/// Content: what DATA hands over does not depend on how the octets were cut; it holds no bare CR or LF; and what
/// is written to the wire is read back as it was (with its newlines made whole).
pub fn data(input: &[u8]) {
    let Some((&choices, content)) = input.split_first() else { return };
    let config = config_of(choices);
    let wire = [content, b"\r\n.\r\n"].concat();
    let whole = deliver(&config, &wire, usize::MAX);
    assert_eq!(whole, deliver(&config, &wire, 1));
    assert_eq!(whole, deliver(&config, &wire, 3 + usize::from(choices >> 4)));
    if let Some(content) = &whole {
        assert_whole_newlines(content);
    }

    let mut stuffed = Vec::new();
    data::stuff(content, &mut stuffed);
    assert_whole_newlines(&stuffed);
    stuffed.extend_from_slice(data::END_OF_DATA);
    let permissive = with(|session| session.body_line_max = usize::MAX);
    let read = deliver(&permissive, &stuffed, usize::MAX);
    let expected = normalise(content);
    assert_eq!(read, Some(expected), "what is emitted is one message");
}

/// A whole session: nothing panics, nothing is kept past its bounds, and what is handed over is fit to relay.
pub fn session(input: &[u8]) {
    let Some((&[choices, cut], octets)) = input.split_first_chunk::<2>() else { return };
    let mut config = config_of(choices);
    (config.session.vrfy, config.session.expn) = (choices & 4 != 0, choices & 8 != 0);
    let config = Arc::new(config);
    let connection = Connection {
        tls: choices & 16 != 0,
        lmtp: choices & 32 != 0,
        starttls_available: true,
        auth_mechanisms: ["PLAIN".into(), "LOGIN".into()].into(),
        xclient_allowed: choices & 64 != 0,
        ..Connection::default()
    };
    let mut now = epoch();
    let mut server = Server::new(config.clone(), connection, now);
    server.greet(now, (choices & 128 != 0 && cut == 0).then(|| Reply::bare(554, "no")));
    let mut rest = octets;
    while !rest.is_empty() {
        let piece = &rest[..rest.len().min(1 + usize::from(cut))];
        let taken = server.receive(now, piece);
        assert!(taken <= piece.len());
        rest = &rest[taken..];
        let obeyed = obey(&mut server, now, &mut Vec::new());
        assert!(server.output().len() <= config.session.output_max.len() + 4096, "output has a bound");
        let line_end = server.output().ends_with(b"\r\n") || server.output().is_empty();
        assert!(line_end && server.output().is_ascii());
        if obeyed == Obeyed::Closed {
            assert_eq!(server.state(), State::Closed);
            assert_eq!(server.receive(now, rest), rest.len());
            return;
        }
        if taken == 0 && obeyed == Obeyed::Nothing {
            if server.output().is_empty() {
                now = server.wake_at().expect("a session that takes nothing waits for something");
                server.wake(now);
            }
            server.output().clear();
        }
    }
    server.wake(now + Duration::from_secs(1_000_000));
    assert_eq!(server.state(), State::Closed);
}

/// A whole session: what is said and handed over does not depend on how the octets were cut.
pub fn segments(input: &[u8]) {
    let Some((&choices, octets)) = input.split_first() else { return };
    let whole = converse(choices, octets, usize::MAX);
    for piece in [1, 2, 7, 1 + usize::from(choices)] {
        let cut = converse(choices, octets, piece);
        assert_eq!(whole.0.escape_ascii().to_string(), cut.0.escape_ascii().to_string(), "by {piece}");
        assert_eq!(whole.1, cut.1, "by {piece}");
    }
}

/// All that is said to `octets`, and the contents handed over.
fn converse(choices: u8, octets: &[u8], piece: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut config = config_of(choices);
    config.session.output_max = settings::Size(u64::MAX);
    let connection = Connection {
        tls: true,
        lmtp: choices & 32 != 0,
        auth_mechanisms: ["PLAIN".into()].into(),
        xclient_allowed: choices & 64 != 0,
        ..Connection::default()
    };
    let mut now = epoch();
    let mut server = Server::new(Arc::new(config), connection, now);
    server.greet(now, None);
    let mut contents = vec![];
    for part in octets.chunks(piece.min(octets.len()).max(1)) {
        let mut rest = part;
        while !rest.is_empty() {
            let taken = server.receive(now, rest);
            rest = &rest[taken..];
            let obeyed = obey(&mut server, now, &mut contents);
            if taken == 0 && obeyed == Obeyed::Nothing {
                now = server.held_until().expect("a session that takes nothing makes its client wait");
                server.wake(now);
            }
        }
    }
    (std::mem::take(server.output()), contents)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obeyed {
    Nothing,
    Something,
    Closed,
}

/// Says yes to everything, except what begins with `n`.
fn obey(server: &mut Server, now: Instant, contents: &mut Vec<Vec<u8>>) -> Obeyed {
    let mut obeyed = Obeyed::Nothing;
    loop {
        let no = |name: &str| name.starts_with('n').then(|| Reply::new(550, (5, 1, 1), "no"));
        let reply = match server.event() {
            None => return obeyed,
            Some(Event::Close) => {
                obeyed = Obeyed::Closed;
                continue;
            }
            Some(Event::StartTls) => {
                server.tls_started(now);
                obeyed = Obeyed::Something;
                continue;
            }
            Some(Event::Message { envelope, content }) => {
                if envelope.body != BodyType::BinaryMime {
                    assert_whole_newlines(&content);
                }
                assert!(!envelope.recipients.is_empty());
                let reply = content.contains(&b'%').then(|| Reply::new(451, (4, 3, 0), "not now"));
                contents.push(content);
                reply
            }
            Some(Event::Auth { .. }) => {
                server.answer(now, Answer::Challenge(b"go on".to_vec()));
                obeyed = Obeyed::Something;
                continue;
            }
            Some(Event::AuthResponse(response)) => {
                let answer = match response.first() {
                    Some(b'y') => Answer::Authenticated("user".into()),
                    _ => Answer::Reply(Reply::new(535, (5, 7, 8), "no")),
                };
                server.answer(now, answer);
                obeyed = Obeyed::Something;
                continue;
            }
            Some(Event::Hello { name, .. } | Event::Vrfy(name) | Event::Expn(name)) => no(name),
            Some(Event::Mail { envelope, .. }) => no(envelope.reverse_path.as_str()),
            Some(Event::Rcpt { recipient, .. }) => no(recipient.path.as_str()),
            Some(Event::Data { .. } | Event::XClient(_)) => None,
        };
        obeyed = Obeyed::Something;
        server.answer(now, reply.map_or(Answer::Accept, Answer::Reply));
    }
}

fn with(change: impl FnOnce(&mut SessionConfig)) -> Config {
    let mut config = Config::default();
    change(&mut config.session);
    config
}

fn config_of(choices: u8) -> Config {
    with(|session| {
        session.bare_newline = if choices & 1 == 0 { BareNewline::Refuse } else { BareNewline::Normalise };
        session.long_line = if choices & 2 == 0 { LongLine::Refuse } else { LongLine::Fold };
        session.body_line_max = 64;
        session.message_size_max = settings::Size(100_000);
        session.message_overrun_max = settings::Size(100_000);
        session.header_count_max = 100;
        session.header_size_max = settings::Size(50_000);
        session.output_max = settings::Size(500);
    })
}

/// The content of one DATA command as it is handed over, or `None` if it was refused. What follows it on the
/// wire is not looked at.
fn deliver(config: &Config, wire: &[u8], piece: usize) -> Option<Vec<u8>> {
    let now = epoch();
    let mut server = Server::new(Arc::new(config.clone()), Connection::default(), now);
    server.greet(now, None);
    let opening: [&[u8]; 4] =
        [b"HELO a\r\n", b"MAIL FROM:<a@b.test>\r\n", b"RCPT TO:<a@b.test>\r\n", b"DATA\r\n"];
    let mut handed_over = None;
    for part in opening.into_iter().chain(wire.chunks(piece.min(wire.len()))) {
        let mut rest = part;
        while !rest.is_empty() {
            let taken = server.receive(now, rest);
            assert!(taken > 0, "nothing stops content");
            rest = &rest[taken..];
            while let Some(event) = server.event() {
                match event {
                    Event::Close | Event::StartTls => return None,
                    Event::Message { content, .. } => handed_over = Some(content),
                    _ => {}
                }
                server.answer(now, Answer::Accept);
            }
            let answered = server.output().starts_with(b"55") || handed_over.is_some();
            if answered {
                return handed_over;
            }
            server.output().clear();
        }
    }
    panic!("content has an end")
}

fn assert_whole_newlines(content: &[u8]) {
    for (at, &b) in content.iter().enumerate() {
        let whole = match b {
            b'\r' => content.get(at + 1) == Some(&b'\n'),
            b'\n' => at > 0 && content[at - 1] == b'\r',
            _ => true,
        };
        assert!(whole, "bare newline in {}", content.escape_ascii());
    }
}

/// The obvious way to do what [`data::stuff`] does to newlines.
fn normalise(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < content.len() {
        match &content[at..] {
            [b'\r', b'\n', ..] => {
                out.extend_from_slice(b"\r\n");
                at += 1;
            }
            [b'\r' | b'\n', ..] => out.extend_from_slice(b"\r\n"),
            _ => out.push(content[at]),
        }
        at += 1;
    }
    if !out.is_empty() && !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Some moment; which one does not matter, since time stands still but where a target moves it.
#[expect(
    clippy::disallowed_methods,
    reason = "a moment cannot be made from nothing, and no rule depends on it"
)]
fn epoch() -> Instant {
    Instant::now()
}
