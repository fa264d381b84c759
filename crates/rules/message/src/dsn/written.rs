//! What we write holds together: it reads back equal, by us and by Python's reader, whatever a peer said.

use super::*;
use crate::encoding::tests::Random;
use crate::{has_bare_newline, is_seven_bit, lines_within, scan};
use mail::{BodyType, Domain, Host, Mailbox, Message, Notify, Origin, Outcome, Reply, Ret, SpoolId, Tags};

const CONTENT: &str = "Received: from x.test ([192.0.2.7])\r\n\tby mx.test; Sun, 01 Mar 2026 10:00:00 +0000\r\n\
    From: a@b.test\r\nSubject: Numbers for March\r\nMessage-ID: <orig-1@b.test>\r\n\r\nThe body.\r\n";

fn message(sender: &str, recipients: &[(&str, Option<&str>)]) -> Message {
    let recipients = recipients.iter().map(|(to, orcpt)| Recipient {
        orcpt: orcpt.map(Into::into),
        ..Recipient::new(Mailbox::parse(to).unwrap())
    });
    let sender = match sender {
        "" => ReversePath::Null,
        text => ReversePath::Mailbox(Mailbox::parse(text).unwrap()),
    };
    Message {
        id: SpoolId(1_790_000_000_000_000),
        received_at: UnixMillis(1_772_359_205_123),
        size: 0,
        envelope: Envelope::new(sender, recipients.collect()),
        origin: Origin::default(),
        tags: Tags::default(),
        headers: Vec::new(),
        extras: None,
    }
}

fn bounced(text: &str) -> Outcome {
    Outcome::Bounced(Reply::new(550, (5, 1, 1), text.to_owned()))
}

/// Writes a report of `outcome` for every recipient, checks what must hold of any report, and reads it back.
fn check(message: &Message, content: &[u8], outcome: &Outcome, config: &DsnConfig) -> DsnDraft {
    let reports: Vec<RecipientReport<'_>> = message
        .envelope
        .recipients
        .iter()
        .map(|recipient| RecipientReport {
            remote_mta: Some("mx.d.test"),
            last_attempt: Some(UnixMillis(1_772_359_300_999)),
            will_retry_until: matches!(outcome, Outcome::Deferred(_))
                .then_some(UnixMillis(1_772_459_300_000)),
            ..RecipientReport::of(recipient, outcome).unwrap()
        })
        .collect();
    let request = DsnRequest {
        message,
        content,
        by: &Host::Domain(Domain::parse("mx.test").unwrap()),
        recipients: &reports,
        now: UnixMillis(1_772_359_400_000),
        seed: 42,
    };
    let draft = write_dsn(&request, config).unwrap();
    let text = String::from_utf8_lossy(&draft.content);
    assert!(!has_bare_newline(&draft.content), "{text}");
    assert!(lines_within(&draft.content, 998), "{text}");
    assert_eq!(draft.envelope.reverse_path, ReversePath::Null);
    assert_eq!(draft.envelope.recipients.len(), 1);
    assert_eq!(draft.envelope.recipients[0].notify, Notify::NEVER);
    assert!(is_seven_bit(&draft.content) || draft.envelope.body == BodyType::EightBitMime, "{text}");
    assert!(draft.envelope.smtputf8 || scan(&draft.content).is_ascii);
    assert_eq!(scan(&draft.content).received_hops, 0);
    let read = read_dsn(&draft.content).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(read.status, draft.status, "{text}");
    draft
}

fn text(draft: &DsnDraft) -> String {
    String::from_utf8_lossy(&draft.content).into_owned()
}

#[test]
fn a_whole_report() {
    let mut message = message("a@b.test", &[("c@d.test", Some("rfc822;c+2Bx@d.test"))]);
    message.envelope.envid = Some("job+2B7".into());
    message.envelope.ret = Some(Ret::Full);
    let outcome = bounced("no such user");
    let draft = check(&message, CONTENT.as_bytes(), &outcome, &DsnConfig::default());
    let expected = "From: Mail Delivery System <MAILER-DAEMON@mx.test>
To: <a@b.test>
Subject: Your message could not be delivered
Date: Sun, 01 Mar 2026 10:03:20 +0000
Message-ID: <ID.000000000000002a@mx.test>
In-Reply-To: <orig-1@b.test>
References: <orig-1@b.test>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary=\"=_tuma_000000000000002a\"

This is a delivery report in MIME format (RFC 3464).

--=_tuma_000000000000002a
Content-Type: text/plain; charset=utf-8
Content-Description: Report
Content-Transfer-Encoding: 7bit

This is the mail system at mx.test.

It is about your message with the subject: Numbers for March

It could NOT be delivered to:

  <c@d.test>
    mx.d.test said: 550 5.1.1 no such user

It will not be tried again. Check the address, or send the message again when the
reason above is gone. If you cannot tell the reason, show this report to your
postmaster.

--=_tuma_000000000000002a
Content-Type: message/delivery-status
Content-Description: Delivery status
Content-Transfer-Encoding: 7bit

Reporting-MTA: dns; mx.test
Original-Envelope-Id: job+7
Arrival-Date: Sun, 01 Mar 2026 10:00:05 +0000

Original-Recipient: rfc822; c+x@d.test
Final-Recipient: rfc822; c@d.test
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx.d.test
Diagnostic-Code: smtp; 550 5.1.1 no such user
Last-Attempt-Date: Sun, 01 Mar 2026 10:01:40 +0000

--=_tuma_000000000000002a
Content-Type: message/rfc822
Content-Description: Your message
Content-Transfer-Encoding: 7bit

CONTENT
--=_tuma_000000000000002a--
";
    let expected = expected.replace('\n', "\r\n").replace("CONTENT", CONTENT);
    let expected = expected.replace("<ID.", &format!("<{}.", message.id));
    assert_eq!(text(&draft), expected);
    let read = read_dsn(&draft.content).unwrap();
    assert_eq!(read.returned, Returned::Message(CONTENT.as_bytes().into()));
}

#[test]
fn what_is_returned() {
    let config = DsnConfig { returned_max_octets: 2_000, ..DsnConfig::default() };
    let kind = |ret: Option<Ret>, content: &str, outcome: &Outcome, tls: bool| {
        let mut message = message("a@b.test", &[("c@d.test", None)]);
        (message.envelope.ret, message.envelope.require_tls) = (ret, tls);
        let draft = check(&message, content.as_bytes(), outcome, &config);
        assert_eq!(draft.envelope.require_tls, tls);
        match read_dsn(&draft.content).unwrap().returned {
            Returned::Nothing => format!("nothing {:?}", draft.envelope.body),
            Returned::Headers(octets) => {
                assert!(content.as_bytes().starts_with(&octets));
                format!("headers {} {:?}", octets.len(), draft.envelope.body)
            }
            Returned::Message(octets) => {
                assert_eq!(content.as_bytes(), &*octets);
                format!("message {:?}", draft.envelope.body)
            }
        }
    };
    let failed = bounced("x");
    let late = Outcome::Deferred(Reply::new(451, (4, 3, 0), "later"));
    let head = CONTENT.find("\r\n\r\n").unwrap() + 2;
    let headers = format!("headers {head} SevenBit");
    assert_eq!(kind(Some(Ret::Full), CONTENT, &failed, false), "message SevenBit");
    assert_eq!(kind(None, CONTENT, &failed, false), headers);
    assert_eq!(kind(Some(Ret::Headers), CONTENT, &failed, false), headers);
    assert_eq!(kind(Some(Ret::Full), CONTENT, &late, false), headers);
    assert_eq!(kind(Some(Ret::Full), CONTENT, &failed, true), headers);
    assert_eq!(
        kind(Some(Ret::Full), &format!("{CONTENT}{}", "x\r\n".repeat(1_000)), &failed, false),
        headers
    );
    assert_eq!(
        kind(Some(Ret::Full), &format!("{CONTENT}\u{fc}\r\n"), &failed, false),
        "message EightBitMime"
    );
    // Content that may not stand inside another message: only its header comes back.
    assert_eq!(kind(Some(Ret::Full), &format!("{CONTENT}a\nb\r\n"), &failed, false), headers);
    assert_eq!(kind(Some(Ret::Full), &format!("{CONTENT}{}\r\n", "x".repeat(999)), &failed, false), headers);
    assert_eq!(kind(Some(Ret::Full), "", &failed, false), "nothing SevenBit");
    assert_eq!(kind(Some(Ret::Full), "no header at all", &failed, false), "message SevenBit");
    // A header too large is cut at a field.
    let large = format!("A: 1\r\nB: {}\r\n\r\n", "x".repeat(3_000));
    assert_eq!(kind(None, &large, &failed, false), "headers 6 SevenBit");
    // Raw eight-bit header octets without SMTPUTF8, and lone line ends, travel encoded.
    assert_eq!(kind(None, "A: \u{fc}\nb\r\n\r\n", &failed, false), "headers 9 SevenBit");
}

#[test]
fn internationalised_reports() {
    let content = "From: δ@b.test\r\nSubject: δοκιμή\r\n\r\nκαλημέρα\r\n";
    let orcpt = Some("utf-8;\\x7b3B4\\x7d@d.test");
    let mut to_ascii = message("a@b.test", &[("δοκ@παράδειγμα.δοκιμή", Some("utf-8;\\x{3B4}@d.test"))]);
    (to_ascii.envelope.smtputf8, to_ascii.envelope.ret) = (true, Some(Ret::Full));
    let outcome = Outcome::Bounced(Reply::new(550, (5, 1, 1), "άγνωστος"));
    let draft = check(&to_ascii, content.as_bytes(), &outcome, &DsnConfig::default());
    assert!(is_seven_bit(&draft.content) && !draft.envelope.smtputf8);
    let text_of = text(&draft);
    assert!(text_of.contains("Final-Recipient: utf-8; \\x{3B4}\\x{3BF}\\x{3BA}@"), "{text_of}");
    assert!(text_of.contains("Content-Type: message/global\r\n"), "{text_of}");
    assert_eq!(draft.status.recipients[0].original.as_ref().unwrap().text, "δ@d.test");
    let read = read_dsn(&draft.content).unwrap();
    assert_eq!(read.returned, Returned::Message(content.as_bytes().into()));

    let mut to_utf8 = message("δ@b.test", &[("\"δ\\\\x\"@d.test", orcpt)]);
    (to_utf8.envelope.smtputf8, to_utf8.envelope.ret) = (true, Some(Ret::Full));
    let draft = check(&to_utf8, content.as_bytes(), &outcome, &DsnConfig::default());
    assert!(draft.envelope.smtputf8 && draft.envelope.body == BodyType::EightBitMime);
    let text_of = text(&draft);
    assert!(text_of.contains("Content-Type: message/global-delivery-status\r\n"), "{text_of}");
    assert!(text_of.contains("Diagnostic-Code: smtp; 550 5.1.1 άγνωστος"), "{text_of}");
    assert_eq!(read_dsn(&draft.content).unwrap().returned, Returned::Message(content.as_bytes().into()));
}

#[test]
fn nobody_to_tell() {
    let message = message("", &[("c@d.test", None)]);
    let outcome = bounced("x");
    let by = Host::Domain(Domain::parse("mx.test").unwrap());
    let report = [RecipientReport::of(&message.envelope.recipients[0], &outcome).unwrap()];
    let request = DsnRequest {
        message: &message,
        content: b"",
        by: &by,
        recipients: &report,
        now: UnixMillis(0),
        seed: 0,
    };
    assert_eq!(write_dsn(&request, &DsnConfig::default()), None);
    assert!(
        RecipientReport::of(
            &message.envelope.recipients[0],
            &Outcome::Discarded(Reply::new(250, (2, 0, 0), ""))
        )
        .is_none()
    );
}

#[test]
fn statuses_follow_outcomes() {
    let to = Recipient::new(Mailbox::parse("c@d.test").unwrap());
    for (outcome, action, status) in [
        (Outcome::Delivered(Reply::bare(250, "ok")), Action::Relayed, "2.0.0"),
        (Outcome::Deferred(Reply::new(451, (4, 7, 1), "x")), Action::Delayed, "4.7.1"),
        (Outcome::Bounced(Reply::bare(552, "x")), Action::Failed, "5.3.4"),
        (Outcome::Bounced(Reply::bare(554, "x")), Action::Failed, "5.0.0"),
        // A deferral's reply that became a bounce keeps its text, not its class.
        (Outcome::Bounced(Reply::new(451, (4, 7, 1), "x")), Action::Failed, "5.0.0"),
        (Outcome::Expired(Reply::new(451, (4, 7, 1), "x")), Action::Failed, "4.4.7"),
    ] {
        let report = RecipientReport::of(&to, &outcome).unwrap();
        assert_eq!((report.action, report.status.to_string().as_str()), (action, status));
    }
}

#[test]
fn a_boundary_in_the_message_is_stepped_over() {
    let mut message = message("a@b.test", &[("c@d.test", None)]);
    message.envelope.ret = Some(Ret::Full);
    let boundary = |n: u64| format!("--=_tuma_{n:016x}--\r\n");
    let content = format!("{CONTENT}{}{}", boundary(42), boundary(43));
    let draft = check(&message, content.as_bytes(), &bounced("x"), &DsnConfig::default());
    assert!(text(&draft).contains("boundary=\"=_tuma_000000000000002c\""));
    let all: String = (42..42 + 16).map(boundary).collect();
    let draft = check(&message, format!("{CONTENT}{all}").as_bytes(), &bounced("x"), &DsnConfig::default());
    assert_eq!(read_dsn(&draft.content).unwrap().returned, Returned::Nothing);
}

#[test]
fn replies_and_parameters_that_attack_the_structure() {
    let fence = "--=_tuma_000000000000002a--";
    for said in [
        "x\n\n--=_tuma_000000000000002a\nContent-Type: text/html\n\n<script>",
        "x\r\n\r\nFinal-Recipient: rfc822; victim@x.test\r\nAction: delivered",
        fence,
        "\u{0}\u{1b}[31m\u{7f}\u{85}\u{2028}\u{202e}",
        "",
        &"z".repeat(100_000),
        &"z ".repeat(50_000),
        &"ö".repeat(3_000),
    ] {
        let mut message = message("a@b.test", &[("c@d.test", Some("rfc822;c+0D+0AEvil:+201@d.test"))]);
        message.envelope.envid = Some("x+0D+0A+0D+0AAction:+20delivered".into());
        let draft = check(&message, CONTENT.as_bytes(), &bounced(said), &DsnConfig::default());
        assert_eq!(draft.status.recipients.len(), 1);
        assert_eq!(draft.status.recipients[0].action, Action::Failed);
        assert_eq!(draft.status.recipients[0].original, None);
        assert_eq!(draft.status.envelope_id, None);
        let text = text(&draft);
        assert_eq!(text.lines().filter(|line| line.starts_with("--=_tuma")).count(), 4, "{text}");
        assert!(!text.to_lowercase().contains("\r\nevil:"), "{text}");
    }
}

/// Addresses so long that seven bits cannot hold them on one line are folded where no blank is, and only there
/// does a reader see another text.
#[test]
fn the_longest_addresses() {
    let domain = vec!["b".repeat(60); 4].join(".");
    for local in ["a".repeat(255), "δ".repeat(127), "😀".repeat(63), format!("\"{}\"", "a ".repeat(126))] {
        let message = message("a@b.test", &[(&format!("{local}@{domain}"), None)]);
        let outcome = bounced("x");
        let report = RecipientReport::of(&message.envelope.recipients[0], &outcome).unwrap();
        let request = DsnRequest {
            message: &message,
            content: CONTENT.as_bytes(),
            by: &Host::Domain(Domain::parse(&domain).unwrap()),
            recipients: &[report],
            now: UnixMillis(0),
            seed: 1,
        };
        let draft = write_dsn(&request, &DsnConfig::default()).unwrap();
        assert!(lines_within(&draft.content, 998) && is_seven_bit(&draft.content), "{}", text(&draft));
        let read = read_dsn(&draft.content).unwrap();
        let squeezed = |text: &str| text.replace(' ', "");
        assert_eq!(
            squeezed(&read.status.recipients[0].recipient.text),
            squeezed(&format!("{local}@{domain}"))
        );
    }
}

#[test]
fn original_headers_that_attack_ours() {
    for id in [
        "<x@y>\r\n\tBcc: z@w.test",
        "<x@y> <z@w>",
        "<x\u{0}@y>",
        "<ö@y>",
        &format!("<{}@y>", "x".repeat(900)),
    ] {
        let content =
            format!("Message-ID: {id}\r\nSubject: \u{1b}]0;x\u{7}\r\n --=_tuma_000000000000002a\r\n\r\n");
        let draft = check(
            &message("a@b.test", &[("c@d.test", None)]),
            content.as_bytes(),
            &bounced("x"),
            &DsnConfig::default(),
        );
        let head = text(&draft).split("\r\n\r\n").next().unwrap().to_owned();
        assert!(!head.contains("References") && !head.contains("Bcc"), "{head}");
    }
}

/// A random message, outcome and reply, hostile more often than not.
fn random_case(random: &mut Random) -> (Message, Vec<u8>, Outcome, DsnConfig) {
    let paths =
        ["c@d.test", "\"a b\"@d.test", "δοκ@παράδειγμα.δοκιμή", "a@[192.0.2.1]", "\"\\\\x{41}\"@d.test"];
    let orcpts = [
        "rfc822;x@y.test",
        "utf-8;\\x{3B4}@d.test",
        "x400;+2FC=de",
        "rfc822;+00",
        "bad",
        "rfc822;a+20+20b@c",
    ];
    let pick = |random: &mut Random, from: &[&'static str]| from[random.below(from.len())];
    let count = 1 + random.below(5);
    let recipients: Vec<_> =
        (0..count).map(|_| (pick(random, &paths), random.chance().then(|| pick(random, &orcpts)))).collect();
    let mut message = message(pick(random, &["a@b.test", "δ@b.test", "\"a b\"@c.test"]), &recipients);
    message.envelope.envid = random.chance().then(|| pick(random, &["x", "+C3+BC", "a+20b", "+"]).into());
    message.envelope.smtputf8 = random.chance();
    message.envelope.ret = [None, Some(Ret::Full), Some(Ret::Headers)][random.below(3)];
    let pieces =
        ["Subject: x\r\n", "\r\n", "\n", "\r", "ö", "--=_tuma_", "Message-ID: <a@b>\r\n", "x", " ", "A: b"];
    let content: String = (0..random.below(30)).map(|_| pick(random, &pieces)).collect();
    let words = [
        "550",
        " ",
        "\n",
        "\r\n",
        "\u{0}",
        "ö",
        "\\x{41}",
        "-",
        ";",
        "=",
        "Action: delivered",
        "zzzzzzzzzzzzzz",
        ".",
    ];
    let said: String = (0..random.below(200)).map(|_| pick(random, &words)).collect();
    let outcome = match random.below(4) {
        0 => Outcome::Delivered(Reply::bare(250, said)),
        1 => Outcome::Deferred(Reply::bare(451, said)),
        2 => Outcome::Expired(Reply::bare(451, said)),
        _ => Outcome::Bounced(Reply::bare(550, said)),
    };
    let config = DsnConfig {
        returned_max_octets: [0, 10, 100, 100_000][random.below(4)],
        reply_max_octets: [20, 100, 4_000][random.below(3)],
        ..DsnConfig::default()
    };
    (message, content.into_bytes(), outcome, config)
}

#[test]
fn random_reports_read_back() {
    for seed in 0..3_000 {
        let (message, content, outcome, config) = random_case(&mut Random(seed));
        check(&message, &content, &outcome, &config);
    }
}

#[test]
fn random_bytes_are_read_without_a_panic() {
    let mut random = Random(5);
    for seed in 0..3_000 {
        let (message, content, outcome, config) = random_case(&mut Random(seed));
        let mut bytes = check(&message, &content, &outcome, &config).content;
        for _ in 0..1 + random.below(8) {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.splice(at..at, *b"\r\n\r\n").for_each(drop),
            }
        }
        fuzz_dsn(&bytes);
    }
}

#[test]
fn reports_of_others() {
    let report = "Content-Type: multipart/report; charset=\"x;y\";\r\n report-type=delivery-status; Boundary = \"a \\\"b\"\r\n\r\n\
        --a \"b\r\n\r\nHello --a \"b\r\n--a \"b\r\nContent-type: Message/Delivery-Status\r\n\r\n\
        Reporting-MTA: DNS; Mail.Example\r\nArrival-Date: Sun, 1 Mar 2026 11:00:05 +0100 (CET)\r\n\r\n\
        final-recipient: RFC822;joe@x.test\r\nAction: FAILED (really)\r\nStatus: 5.1.1 (bad)\r\nDiagnostic-Code: smtp;550\r\n no\r\n\r\n\
        X-Other: 1\r\n\r\n--a \"b--\r\nepilogue";
    let dsn = read_dsn(report.as_bytes()).unwrap();
    assert_eq!(dsn.status.arrival_date, Some(UnixMillis(1_772_359_205_000)));
    assert_eq!(dsn.status.recipients.len(), 1);
    let recipient = &dsn.status.recipients[0];
    assert_eq!(
        (recipient.recipient.kind.as_str(), recipient.recipient.text.as_str()),
        ("rfc822", "joe@x.test")
    );
    assert_eq!(recipient.diagnostic.as_ref().unwrap().text, "550 no");
    for (text, error) in [
        ("Subject: x\r\n\r\n", DsnError::NotAReport),
        ("Content-Type: multipart/report\r\n\r\n", DsnError::NotAReport),
        ("Content-Type: multipart/report; boundary=x\r\n\r\n--x\r\n\r\n--x--\r\n", DsnError::NoStatus),
        (
            "Content-Type: multipart/report; boundary=x\r\n\r\n--x\r\nContent-Type: message/delivery-status\r\n\r\n",
            DsnError::NoRecipients,
        ),
    ] {
        assert_eq!(read_dsn(text.as_bytes()), Err(error), "{text}");
    }
}

/// Python's email package, written by others, must see three parts and the same fields.
#[test]
fn python_reads_our_reports() {
    const SCRIPT: &str = "
import sys, email, email.policy
m = email.message_from_binary_file(sys.stdin.buffer, policy=email.policy.SMTPUTF8)
assert m.get_content_type() == 'multipart/report', m.get_content_type()
assert m.get_param('report-type') == 'delivery-status'
assert m['Auto-Submitted'] == 'auto-replied'
defects = [d for p in m.walk() for d in p.defects]
assert not defects, defects
parts = m.get_payload()
assert len(parts) == 3, len(parts)
print(parts[0].get_content_type(), parts[1].get_content_type(), parts[2].get_content_type())
groups = parts[1].get_payload()
print(groups[0]['Reporting-MTA'])
for g in groups[1:]:
    if g.keys():
        print(g['Final-Recipient'], g['Action'], g['Status'], g['Diagnostic-Code'])
body = parts[2].get_payload()
original = body[0] if isinstance(body, list) else email.message_from_string(parts[2].get_payload(decode=True).decode())
print(original['Subject'])
";
    let mut message = message("a@b.test", &[("c@d.test", None), ("e@d.test", None)]);
    let long = format!("no such user, see {} for more", "https://x.test/".repeat(20));
    for (ret, third) in [(Ret::Full, "message/rfc822"), (Ret::Headers, "text/rfc822-headers")] {
        message.envelope.ret = Some(ret);
        let draft = check(&message, CONTENT.as_bytes(), &bounced(&long), &DsnConfig::default());
        let Some(output) = python(SCRIPT, &draft.content) else { return };
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[0], format!("text/plain message/delivery-status {third}"));
        assert_eq!(lines[1], "dns; mx.test");
        assert!(
            lines[2].starts_with("rfc822; c@d.test failed 5.1.1 smtp; 550 5.1.1 no such user, see"),
            "{output}"
        );
        assert!(lines[3].starts_with("rfc822; e@d.test failed 5.1.1"), "{output}");
        assert_eq!(lines[4], "Numbers for March");
    }
}

/// Runs a script; `None` if there is no Python and `TUMA_REQUIRE_PROGRAMS` does not ask for it.
#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "another program reads what was written, to check it"
)]
fn python(script: &str, input: &[u8]) -> Option<String> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let spawned = Command::new("python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            assert!(std::env::var_os("TUMA_REQUIRE_PROGRAMS").is_none(), "python3 is required: {error}");
            eprintln!("skipped: python3 is absent");
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}
