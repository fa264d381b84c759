//! What a hostile client may try in a session (attack rows 10 to 15, 19, 23 to 31, 36, 41, 42, 47, 48, 57, 58), by
//! the real server: each is refused or bounded, and mail still flows after all of them.

use crate::harness::{Session, Setup, Tuma, has_python, keeping, python, sink, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;

fn begin(tuma: &Tuma) -> Session {
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    session
}

/// Says lines and takes the reply to each, which must begin as given.
fn dialogue(tuma: &Tuma, lines: &[(&str, &str)]) {
    let mut session = begin(tuma);
    for (line, wanted) in lines {
        session.say(line, wanted);
    }
}

const MAIL: (&str, &str) = ("MAIL FROM:<a@b.test>", "250");
const RCPT: (&str, &str) = ("RCPT TO:<c@d.test>", "250");

#[test]
fn a_session_survives_whatever_is_said_in_whatever_order() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma =
        Setup::relay_with(folder.path(), sink.addr(), "[smtp]\nerrors_prompt_max = 100\nerrors_max = 100\n")
            .start();
    // Chunks of nothing, out of order, of impossible sizes.
    dialogue(&tuma, &[MAIL, RCPT, ("BDAT 0", "250"), ("DATA", "503"), ("RSET", "250")]);
    dialogue(&tuma, &[MAIL, RCPT, ("BDAT 0", "250"), ("RSET", "250"), MAIL, ("RSET", "250")]);
    for size in
        ["-1", "", "9223372036854775808", "18446744073709551616", "99999999999999999999999999", "x", "1 2"]
    {
        let mut session = begin(&tuma);
        session.say(MAIL.0, MAIL.1);
        session.say(RCPT.0, RCPT.1);
        session.say(&format!("BDAT {size}"), "5");
    }
    // Commands out of order.
    dialogue(
        &tuma,
        &[
            ("RCPT TO:<c@d.test>", "503"),
            ("DATA", "503"),
            ("BDAT 0 LAST", "503"),
            MAIL,
            ("MAIL FROM:<x@b.test>", "503"),
        ],
    );
    dialogue(
        &tuma,
        &[MAIL, ("DATA", "503"), RCPT, ("EHLO again.test", "250"), ("RCPT TO:<c@d.test>", "503"), MAIL],
    );
    // UTF-8 without SMTPUTF8, forms of addresses that look like relaying, NUL and control characters.
    dialogue(
        &tuma,
        &[("MAIL FROM:<jörg@b.test>", "5"), MAIL, ("RCPT TO:<müller@d.test>", "5"), RCPT, ("VRFY ü", "5")],
    );
    for path in [
        "<c@d.test\0>",
        "<c\t@d.test>",
        "<c@d.test>\0",
        "<@a,b:c@d.test",
        "<c@@d.test>",
        "<c@d@e.test>",
        "c d@e.test",
        "<c@d..test>",
        "<c@-d.test>",
        "<c@[300.1.1.1]>",
    ] {
        let mut session = begin(&tuma);
        session.say(MAIL.0, MAIL.1);
        session.say(&format!("RCPT TO:{path}"), "5");
        session.say("NOOP", "250");
    }
    // Sizes that are no sizes; one that is over the limit.
    for size in ["SIZE=-1", "SIZE=x", "SIZE=99999999999999999999999999", "SIZE=", "SIZE=10000000000"] {
        dialogue(&tuma, &[(&format!("MAIL FROM:<a@b.test> {size}"), "5"), MAIL]);
    }
    // A line without end, and one too long: what is in it is never run.
    let mut session = begin(&tuma);
    session.send(format!("NOOP {}\r\n", "x".repeat(10_000)).as_bytes());
    assert!(session.reply().starts_with("500"));
    session.say("NOOP", "250");
    let mut session = begin(&tuma);
    while session.try_send(&[b'x'; 16_384]) {}
    // A foreign language ends the session.
    let mut session = tuma.session();
    session.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nEHLO client.test\r\nMAIL FROM:<a@b.test>\r\n");
    assert!(session.reply().starts_with("421"));
    assert_eq!(session.reply(), "");
    // Replies in order, one each, when all is sent at once.
    let mut session = tuma.session();
    session.send(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<bad\r\nDATA\r\nSubject: 1\r\n\r\n1\r\n.\r\nMAIL FROM:<a@b.test>\r\nRSET\r\nQUIT\r\n");
    let codes: Vec<String> = (0..9).map(|_| session.reply().chars().take(3).collect()).collect();
    assert_eq!(codes, ["250", "250", "250", "501", "354", "250", "250", "250", "221"]);
    tuma.wait_until_settled();
    assert_eq!(sink.stats().messages, 1);
    assert!(sink.stats().faults.is_empty());
    tuma.stop();
}

#[test]
fn content_out_of_bounds_is_refused_and_the_session_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = "[smtp]\nmessage_size_max = \"256KiB\"\nmessage_overrun_max = \"2MiB\"\nheader_size_max = \"16KiB\"\nheader_count_max = 50\nrecipients_max = 10\n[reception]\nhops_max = 20\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let mut session = begin(&tuma);
    let contents = [
        ("552", format!("Subject: x\r\n\r\n{}", "0123456789\r\n".repeat(50_000))),
        ("5", format!("{}\r\nx", "X-A: 1\r\n".repeat(100))),
        ("5", format!("X-A: {}\r\n\r\nx", format!("{}\r\n ", "y".repeat(900)).repeat(30) + "y")),
        ("5", format!("Subject: x\r\n\r\n{}", "x".repeat(5_000))),
        (
            "554 5.4.6",
            format!(
                "{}Subject: x\r\n\r\nx",
                "Received: from a by b; Mon, 1 Jan 2024 00:00:00 +0000\r\n".repeat(30)
            ),
        ),
        ("250", "Subject: x\r\n\r\n\0 nul\r\n".to_owned()),
    ];
    for (wanted, content) in contents {
        let reply = session.message("a@b.test", &["c@d.test"], &content);
        assert!(reply.starts_with(wanted), "wanted {wanted}: {reply}");
    }
    session.say("MAIL FROM:<a@b.test>", "250");
    for n in 0..10 {
        session.say(&format!("RCPT TO:<c{n}@d.test>"), "250");
    }
    session.say("RCPT TO:<more@d.test>", "452 4.5.3");
    session.say("DATA", "354");
    session.send(b"Subject: x\r\n\r\nx\r\n.\r\n");
    assert!(session.reply().starts_with("250"));
    tuma.wait_until_settled();
    assert_eq!((sink.stats().messages, sink.stats().recipients), (2, 11));
}

#[test]
fn strangers_gain_nothing_by_tricks_of_address() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = "[relay]\nnetworks = []\ndomains = [\"ours.test\"]\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    for path in [
        "c@elsewhere.test",
        "c%elsewhere.test@elsewhere.test",
        "@ours.test:c@elsewhere.test",
        "\"c@ours.test\"@elsewhere.test",
        "c@elsewhere.test.",
        "c@ours.test.elsewhere.test",
        "c@xours.test",
        "c@[127.0.0.1]",
        "c@OURS.test@elsewhere.test",
        "elsewhere.test!c@elsewhere.test",
        "c@sub.ours.test",
        "c@ours.test,d@elsewhere.test",
        "c",
    ] {
        let mut session = tuma.session();
        // Names of ours make no difference.
        session.say("EHLO relay.test", "250");
        session.say("MAIL FROM:<postmaster@ours.test>", "250");
        session.say(&format!("RCPT TO:<{path}>"), "5");
    }
    let mut session = begin(&tuma);
    // To the last domain, unchanged, or not at all.
    for path in [
        "c@ours.test",
        "c%elsewhere.test@OURS.test",
        "elsewhere.test!c@ours.test",
        "\"c@elsewhere.test\"@ours.test",
    ] {
        session.say("MAIL FROM:<a@b.test>", "250");
        session.send(format!("RCPT TO:<{path}>\r\n").as_bytes());
        let reply = session.reply();
        assert!(reply.starts_with("250") || reply.starts_with('5'), "{path}: {reply}");
        if reply.starts_with('2') {
            session.say("DATA", "354");
            session.send(b"Subject: x\r\n\r\nx\r\n.\r\n");
            assert!(session.reply().starts_with("250"));
        }
        session.say("RSET", "250");
    }
    tuma.wait_until_settled();
    for message in sink.messages() {
        assert!(
            message.recipients[0].address.to_lowercase().ends_with("@ours.test"),
            "{:?}",
            message.recipients
        );
    }
}

#[test]
fn junk_is_slowed_and_ended() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more =
        "[smtp]\nerrors_max = 10\nerrors_prompt_max = 3\nerror_delay = \"10ms\"\nidle_commands_max = 30\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    for command in ["JUNK", "RSET", "NOOP", "VRFY x", "EXPN x", "HELP", "EHLO x.test"] {
        let mut session = begin(&tuma);
        let mut said = 0;
        while session.try_send(format!("{command}\r\n").as_bytes()) {
            said += 1;
            let reply = session.reply();
            if reply.starts_with("421") || reply.is_empty() {
                break;
            }
        }
        assert!(said <= 32, "{command}: {said}");
    }
}

#[test]
fn guessing_passwords_is_braked_and_no_secret_is_logged() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = "[reception]\nauth_failures_max = 5\n";
    let tuma = Setup::submission(folder.path(), sink.addr(), more).env("TUMA_LOG", "trace").start();
    let said = python(
        r#"
import smtplib, ssl, sys
tls = ssl.create_default_context()
tls.check_hostname = False
tls.verify_mode = ssl.CERT_NONE
codes = []
while len(codes) < 12:
    smtp = smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=60)
    smtp.starttls(context=tls)
    smtp.ehlo()
    smtp.user, smtp.password = "user", "not-the-secret-%d" % len(codes)
    try:
        while len(codes) < 12:
            try:
                smtp.auth("PLAIN", smtp.auth_plain)
            except smtplib.SMTPAuthenticationError as error:
                codes.append(error.smtp_code)
    except smtplib.SMTPServerDisconnected:
        pass
print(codes)
"#,
        &[&tuma.smtp().port().to_string()],
    );
    assert!(said.starts_with("[535, 535, 535, ") && said.contains("454, 454"), "{said}");
    let log = tuma.stop();
    assert!(log.contains("authentication failed"), "{log}");
    let encoded = ["not-the-secret", "bm90LXRoZS1zZWNyZXQ", "5vdC10aGUtc2VjcmV0", "ub3QtdGhlLXNlY3JldC"];
    assert!(encoded.iter().all(|secret| !log.contains(secret)), "a password is in the log");
}

#[test]
fn orders_by_http_are_taken_from_this_machine_only() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let ask = |head: &str| {
        let mut stream = TcpStream::connect(tuma.http).unwrap();
        stream
            .write_all(format!("{head}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes())
            .unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!(ask("POST /v1/reload HTTP/1.1\r\nHost: localhost"), "200");
    assert_eq!(ask("POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.test"), "403");
    assert_eq!(ask("POST /v1/reload HTTP/1.1\r\nHost: evil.test:8025"), "403");
    assert_eq!(ask("GET /v1/messages/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: localhost"), "400");
    assert_eq!(ask("GET /v1/messages/0 HTTP/1.1\r\nHost: localhost").chars().next(), Some('4'));
    assert_eq!(ask("GET /v1/queue?max=99999999999999999999 HTTP/1.1\r\nHost: localhost"), "400");
    wait_until("it goes on", || tuma.http("GET", "/health", "").0 == 200);
}
