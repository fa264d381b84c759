//! What messages are filed under: by header field, rule, user and listener, on the wire and in the records.

use crate::harness::{Setup, Tuma, has_python, keeping, nobody, python, sink, wait_until};
use bench::sink::Options;
use serde_json::Value;
use std::path::Path;

/// Records as JSON lines, written at once.
fn records(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("lines.jsonl")).expect("the records");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The first record of a kind for a recipient.
fn record(folder: &Path, kind: &str, recipient: &str) -> Value {
    let all = records(folder);
    let found = all.iter().find(|record| record["kind"] == kind && record["recipient"] == recipient);
    found.unwrap_or_else(|| panic!("no {kind} for {recipient} in {all:#?}")).clone()
}

const MORE: &str = "assign = [\
    { senders = [\"*@news.test\"], pool = \"marketing\", priority = \"bulk\", campaign = \"by rule\" }, \
    { header = { name = \"X-Stream\", match = \"^rec(eipt)?$\" }, tenant = \"by header\", final = true }, \
    { campaign = \"the rest\" } ]\n\
    [source.marketing]\n[source.pool-7]\n\
    [listener.smtp]\ntag_headers = true\n\
    [accounting.file.lines]\npath = \"lines.jsonl\"\nflush_interval = \"0s\"\nheaders = [\"Subject\", \"X-Job\"]\n\
    [accounting.file.table]\npath = \"table.csv\"\nformat = \"csv\"\nflush_interval = \"0s\"\nrecords = [\"delivered\"]\n\
    fields = [\"rcpt\", \"jobId\", \"envId\", \"tenant\", \"campaign\", \"priority\"]\nheaders = [\"subject\"]\n";

fn say_hello(tuma: &Tuma) -> crate::harness::Session {
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    session
}

#[test]
fn header_fields_tag_a_message_and_never_leave() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay_with(folder.path(), sink.addr(), MORE).start();
    let mut session = say_hello(&tuma);
    let content = "X-Virtual-MTA: pool-7\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\nx-job: run\r\n 42\r\nX-EnvID: own-1\r\n\
        X-Priority-Class: low\r\nX-JOB: another\r\nX-Mailer: kept\r\n\r\nx-job: in the body\r\n";
    let reply = session.message("a@b.test", &["tagged@d.test"], content);
    assert!(reply.starts_with("250"), "{reply}");
    // One that has none stays as it is, and so does one whose body alone speaks of them.
    session.message("a@b.test", &["plain@d.test"], "Subject: plain\r\n\r\nX-Virtual-MTA: x\r\n");
    session.message("x@news.test", &["ruled@d.test"], "Subject: ruled\r\nX-Stream: rec\r\n\r\nx");
    session.message("x@y.test", &["streamed@d.test"], "Subject: streamed\r\nX-Stream: receipt\r\n\r\nx");
    let reply = session.message("a@b.test", &["refused@d.test"], "X-Priority-Class: 50\r\n\r\nx");
    assert!(reply.starts_with("550 5.6.0 x-priority-class: "), "{reply}");
    session.say("QUIT", "221");
    tuma.wait_until_settled();
    tuma.stop();

    let arrived = |to: &str| {
        let messages = sink.messages();
        let message =
            messages.iter().find(|message| message.recipients[0].address == to).expect("it arrived");
        let text = String::from_utf8(message.content.to_vec()).unwrap();
        text.split_once("Subject:").map(|(_, rest)| rest.to_owned()).expect("a subject")
    };
    assert_eq!(
        arrived("tagged@d.test"),
        " =?utf-8?q?caf=C3=A9?=\r\nX-Mailer: kept\r\n\r\nx-job: in the body\r\n\r\n"
    );
    assert_eq!(arrived("plain@d.test"), " plain\r\n\r\nX-Virtual-MTA: x\r\n\r\n");
    let messages = sink.messages();
    assert_eq!(messages.len(), 4);
    for message in messages {
        for name in ["X-Virtual-MTA", "X-Job", "X-EnvID", "X-Priority-Class"] {
            assert_eq!(message.field(name), None);
        }
    }

    let folder = folder.path();
    let tagged = record(folder, "received", "tagged@d.test");
    assert_eq!(
        ["pool", "job", "envid", "priority", "header_X-Job", "header_Subject", "campaign"]
            .map(|key| &tagged[key]),
        ["pool-7", "run 42", "own-1", "low", "run 42", "=?utf-8?q?caf=C3=A9?=", "the rest"]
    );
    let ruled = record(folder, "delivered", "ruled@d.test");
    assert_eq!(
        ["campaign", "priority", "tenant", "header_Subject"].map(|key| &ruled[key]),
        ["by rule", "bulk", "by header", "ruled"]
    );
    assert!(ruled["job"].is_null() && ruled["header_X-Job"].is_null(), "{ruled}");
    let streamed = record(folder, "delivered", "streamed@d.test");
    assert_eq!(streamed["tenant"], "by header");
    assert!(streamed["campaign"].is_null(), "a rule follows a final one: {streamed}");

    let table = std::fs::read_to_string(folder.join("table.csv")).unwrap();
    let mut rows: Vec<&str> = table.lines().collect();
    rows[1..].sort_unstable();
    assert_eq!(
        rows,
        [
            "type,rcpt,jobId,envId,tenant,campaign,priority,header_subject",
            "d,plain@d.test,,,,the rest,normal,plain",
            "d,ruled@d.test,,,by header,by rule,bulk,ruled",
            "d,streamed@d.test,,,by header,,normal,streamed",
            "d,tagged@d.test,run 42,own-1,,the rest,low,=?utf-8?q?caf=C3=A9?=",
        ]
    );
}

#[test]
fn tags_and_chosen_fields_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let address = nobody();
    let setup = Setup::relay_with(folder.path(), address, MORE);
    let tuma = setup.start();
    let content =
        "Subject: kept over a kill\r\nX-Job: j7\r\nX-Tenant: acme\r\nX-Priority-Class: high\r\n\r\nx";
    let reply = say_hello(&tuma).message("a@b.test", &["later@d.test"], content);
    assert!(reply.starts_with("250"), "{reply}");
    tuma.kill();
    let sink = sink(Options { listen: address, ..keeping() });
    let tuma = setup.start();
    wait_until("it has arrived", || sink.stats().messages == 1);
    tuma.wait_until_settled();
    tuma.stop();
    let delivered = record(folder.path(), "delivered", "later@d.test");
    assert_eq!(
        ["header_Subject", "header_X-Job", "job", "tenant", "priority"].map(|key| &delivered[key]),
        ["kept over a kill", "j7", "j7", "acme", "high"]
    );
}

#[test]
fn a_stranger_s_fields_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    // Everybody may send to d.test, and nobody is trusted.
    let more = MORE.to_owned() + "[relay]\nnetworks = []\ndomains = [\"d.test\"]\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    let content = "X-Job: theirs\r\nSubject: s\r\n\r\nx";
    let reply = say_hello(&tuma).message("a@b.test", &["in@d.test"], content);
    assert!(reply.starts_with("250"), "{reply}");
    tuma.wait_until_settled();
    tuma.stop();
    assert_eq!(sink.messages()[0].field("X-Job").as_deref(), Some("theirs"));
    let received = record(folder.path(), "received", "in@d.test");
    assert!(received["job"].is_null(), "{received}");
    assert_eq!(received["header_X-Job"], "theirs", "for the records it was asked for");
}

#[test]
fn a_user_s_tenant_is_not_for_the_mail_to_say() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = "[listener.submission]\ntag_headers = true\n\
        [source.theirs]\n[source.p2]\n\
        [users.one]\ntenant = \"acme\"\npool = \"theirs\"\n\
        [accounting.file.lines]\npath = \"lines.jsonl\"\nflush_interval = \"0s\"\n";
    let tuma = Setup::submission(folder.path(), sink.addr(), more).start();
    python(
        r#"
import smtplib, ssl, sys
tls = ssl.create_default_context()
tls.check_hostname = False
tls.verify_mode = ssl.CERT_NONE
smtp = smtplib.SMTP("127.0.0.1", int(sys.argv[1]), local_hostname="client.test", timeout=60)
smtp.starttls(context=tls)
smtp.login("user", "secret")
fields = b"X-Tenant: mallory\r\nX-Job: j1\r\nSubject: x\r\n\r\nhello\r\n"
assert smtp.sendmail("a@b.test", ["one@example.test"], fields) == {}
assert smtp.sendmail("a@b.test", ["two@example.test"], b"X-Virtual-MTA: p2\r\n" + fields) == {}
smtp.quit()
"#,
        &[&tuma.smtp().port().to_string()],
    );
    tuma.wait_until_settled();
    tuma.stop();
    let (one, two) = ("one@example.test", "two@example.test");
    for (to, pool) in [(one, "theirs"), (two, "p2")] {
        let received = record(folder.path(), "received", to);
        assert_eq!(["tenant", "user", "job", "pool"].map(|key| &received[key]), ["acme", "user", "j1", pool]);
    }
    assert!(sink.messages().iter().all(|message| message.field("X-Tenant").is_none()));
}
