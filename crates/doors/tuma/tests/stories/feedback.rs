//! Bounces and complaints that come as mail: what mail carries on its way out, and what is made of what comes back.

use crate::harness::{Setup, Tuma, keeping, records, sink, wait_until};
use bench::sink::SinkHandle;
use std::path::Path;

const SETTINGS: &str = "[accounting.file.lines]\npath = \"records.jsonl\"\nflush_interval = \"1h\"\n\
    [returns]\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
    [[verp]]\nfrom = [\"b.test\"]\n\
    [[feedback]]\nto = [\"news@b.test\", \"@fbl.test\"]\n\
    [[suppress]]\non = [\"remote_bounce\", \"complained\"]\nscope = \"all\"\n";

fn dsn(recipient: &str, returned: &str) -> String {
    format!(
        "From: MAILER-DAEMON@d.test\r\nSubject: failed\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=B\r\n\r\n\
         --B\r\n\r\nSorry.\r\n--B\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.d.test\r\n\r\n\
         Final-Recipient: rfc822; {recipient}\r\nAction: failed\r\nStatus: 5.1.1\r\n\
         Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n\
         --B\r\nContent-Type: text/rfc822-headers\r\n\r\n{returned}\r\n--B--\r\n"
    )
}

/// Sends a message to two recipients and gives, for each, the reverse-path and the header it arrived with.
fn sent(tuma: &Tuma, sink: &SinkHandle) -> Vec<(String, String, String)> {
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    let said = session.message("news@b.test", &["joe@d.test", "jane@d.test"], "Subject: x\r\n\r\nx");
    assert!(said.starts_with("250"), "{said}");
    session.say("QUIT", "221");
    wait_until("both have it", || sink.messages().len() >= 2);
    let arrived = |message: &bench::sink::Captured| {
        let text = String::from_utf8_lossy(&message.content).into_owned();
        let header = text.split("\r\n\r\n").next().unwrap_or_default().to_owned();
        (message.recipients[0].address.clone(), message.reverse_path.clone(), header + "\r\n")
    };
    let mut all: Vec<_> = sink.messages().iter().map(arrived).collect();
    all.sort();
    all
}

fn report(tuma: &Tuma, to: &str, content: &str) -> String {
    let mut session = tuma.session();
    session.say("EHLO mx.d.test", "250");
    let said = session.message("", &[to], content);
    session.say("QUIT", "221");
    said
}

fn is_listed(tuma: &Tuma, address: &str) -> bool {
    tuma.ask(&["suppression", "check", address]).status.code() == Some(1)
}

fn start(folder: &Path, sink: &SinkHandle) -> Tuma {
    Setup::relay_with(folder, sink.addr(), SETTINGS).start()
}

#[test]
fn a_bounce_that_comes_back_is_recorded_and_suppresses_before_it_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = start(folder.path(), &sink);
    let all = sent(&tuma, &sink);
    let [(_, jane_path, _), (to, path, header)] = &all[..] else { panic!("two messages: {all:?}") };
    assert_eq!(to, "joe@d.test");
    assert!(path.starts_with("news-joe=d.test-n") && path.ends_with("@b.test"), "{path}");
    assert!(jane_path.starts_with("news-jane=d.test-n"), "{jane_path}");
    assert!(header.starts_with("X-Tuma-Ref: "), "{header}");
    // By the field, though it went to the plain address.
    assert!(report(&tuma, "news@b.test", &dsn("other@d.test", header)).starts_with("250"));
    // Nothing was waited for: the answer came when it was on the disk.
    let bounces = records(folder.path(), "remote_bounce", 1);
    let bounce = &bounces[0];
    assert_eq!((&bounce["recipient"], &bounce["proven"]), (&"joe@d.test".into(), &true.into()));
    assert_eq!((&bounce["found_by"], &bounce["class"]), (&"field".into(), &"bad-mailbox".into()));
    assert_eq!((&bounce["sender"], &bounce["reporting_mta"]), (&"news@b.test".into(), &"mx.d.test".into()));
    assert!(is_listed(&tuma, "joe@d.test") && !is_listed(&tuma, "other@d.test"));
    // By the reverse-path alone.
    assert!(report(&tuma, jane_path, &dsn("jane@d.test", "")).starts_with("250"));
    assert!(is_listed(&tuma, "jane@d.test"));
    wait_until("nothing is left", || tuma.metric("tuma_recipients_unaccounted") == 0.0);
    assert_eq!(tuma.metric("tuma_remote_bounces_total"), 2.0);
    tuma.stop();
}

#[test]
fn a_report_that_is_handed_in_over_http_is_read_as_one_that_comes_by_smtp() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = start(folder.path(), &sink);
    let all = sent(&tuma, &sink);
    let (_, _, header) = &all[1];
    let hand_in = |recipients: &[&str], raw: &str| {
        let recipients: Vec<_> =
            recipients.iter().map(|email| serde_json::json!({ "email": email })).collect();
        let body = serde_json::json!({
            "envelope_sender": "mailer-daemon@d.test",
            "content": raw,
            "recipients": recipients,
            "template_dialect": "Static",
        });
        tuma.http("POST", "/api/inject/v1", &body.to_string())
    };
    let (status, answer) = hand_in(&["news@b.test", "copy@d.test"], &dsn("joe@d.test", header));
    assert_eq!(status, 200, "{answer}");
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&answer["success_count"], &answer["fail_count"]), (&2.into(), &0.into()), "{answer}");
    // What it tells is on the disk before the answer, and the copy goes its way.
    let bounce = &records(folder.path(), "remote_bounce", 1)[0];
    assert_eq!((&bounce["recipient"], &bounce["proven"]), (&"joe@d.test".into(), &true.into()));
    assert!(is_listed(&tuma, "joe@d.test"));
    wait_until("the copy arrived", || sink.messages().len() == 3);
    wait_until("nothing is left", || tuma.metric("tuma_recipients_unaccounted") == 0.0);
    assert_eq!(tuma.metric("tuma_remote_bounces_total"), 1.0);
    tuma.stop();
}

#[test]
fn forged_reports_are_recorded_and_gain_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = start(folder.path(), &sink);
    let all = sent(&tuma, &sink);
    let (_, path, header) = &all[1];
    let stolen = path.replace("joe", "victim");
    let broken = header.replacen("X-Tuma-Ref: A", "X-Tuma-Ref: B", 1);
    let complaint = "From: fbl@isp.test\r\nContent-Type: multipart/report; report-type=feedback-report; boundary=B\r\n\r\n\
        --B\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nVersion: 1\r\nUser-Agent: x\r\n\
        Original-Rcpt-To: <victim@d.test>\r\n--B--\r\n";
    for (to, content) in [
        (&*stolen, dsn("victim@d.test", "")),
        ("news@b.test", dsn("victim@d.test", "")),
        ("news@b.test", dsn("victim@d.test", &broken)),
        ("news-victim=d.test@b.test", dsn("victim@d.test", "")),
        ("any@fbl.test", complaint.to_owned()),
    ] {
        assert!(report(&tuma, to, &content).starts_with("250"), "{to}");
    }
    for kind in ["remote_bounce", "complained"] {
        let told = records(folder.path(), kind, 1);
        assert!(told.iter().all(|record| record["proven"] == false), "{told:?}");
    }
    assert!(!is_listed(&tuma, "victim@d.test"));
    // The same complaint about mail of ours counts.
    let real = complaint
        .replace("--B--", &format!("--B\r\nContent-Type: message/rfc822\r\n\r\n{header}\r\nx\r\n--B--"));
    assert!(report(&tuma, "any@fbl.test", &real).starts_with("250"));
    assert!(is_listed(&tuma, "joe@d.test"));
    // Other addresses of the domain are nobody's.
    let mut session = tuma.session();
    session.say("EHLO mx.d.test", "250");
    session.say("MAIL FROM:<>", "250");
    session.say("RCPT TO:<newsletter@fbl.test>", "250");
    tuma.stop();
}

#[test]
fn what_is_no_report_is_handed_on() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more =
        "[[feedback]]\nto = [\"news@b.test\"]\nunmatched = \"forward\"\nforward_to = \"people@s.test\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let said = report(&tuma, "news@b.test", "From: joe@d.test\r\nSubject: please\r\n\r\nTake me off.\r\n");
    assert!(said.starts_with("250"), "{said}");
    wait_until("it was handed on", || {
        sink.messages().iter().any(|message| message.recipients[0].address == "people@s.test")
    });
    tuma.stop();
}

#[test]
fn one_click_unsubscribes_and_a_look_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = "[returns]\nsecret = \"0123456789abcdef0123456789abcdef\"\nfield = false\n\
        [unsubscribe]\nurl = \"https://u.test/unsubscribe\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let all = sent(&tuma, &sink);
    let (_, path, header) = &all[1];
    assert_eq!(path, "news@b.test");
    let token =
        header.strip_prefix("List-Unsubscribe: <https://u.test/unsubscribe/").expect("the link comes first");
    let token = token.split('>').next().unwrap();
    let link = format!("/unsubscribe/{token}");
    let (status, page) = tuma.http("GET", &link, "");
    assert!(
        status == 200 && page.contains("joe@d.test") && page.contains("method=\"post\""),
        "{status} {page}"
    );
    assert!(!is_listed(&tuma, "joe@d.test"));
    assert_eq!(tuma.http("POST", &link, "nothing").0, 400);
    assert_eq!(tuma.http("POST", &format!("{link}x"), "List-Unsubscribe=One-Click").0, 404);
    assert!(!is_listed(&tuma, "joe@d.test"));
    assert_eq!(tuma.http("POST", &link, "List-Unsubscribe=One-Click").0, 200);
    assert!(is_listed(&tuma, "joe@d.test") && !is_listed(&tuma, "jane@d.test"));
    let exported = tuma.says(&["suppression", "export"]);
    assert!(exported.contains("\"reason\":\"unsubscribe\""), "{exported}");
    // Who is on the list is refused when he is handed in over HTTP, and the others are not.
    let (status, answer) = tuma.post(
        "/v1/messages",
        &[],
        &serde_json::json!({
            "from": "news@b.test",
            "recipients": [{ "email": "joe@d.test" }, { "email": "jane@d.test" }],
            "content": { "subject": "x", "text": "x" },
        }),
    );
    assert_eq!(status, 202, "{answer:#}");
    assert_eq!((&answer["queued"], &answer["refused"]), (&1.into(), &1.into()));
    assert_eq!(answer["results"][0]["detail"], "recipient is on a suppression list");
    tuma.stop();
}
