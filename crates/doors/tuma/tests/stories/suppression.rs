//! The suppression list: at RCPT, before an attempt, by rule, over restarts, from the command line.

use crate::harness::{Setup, keeping, records, rules, sink};
use bench::sink::Options;

const RECORDS: &str = "[accounting.file.lines]\npath = \"records.jsonl\"\nflush_interval = \"0s\"\n";

#[test]
fn who_is_on_the_list_is_refused_at_rcpt_and_never_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let setup = Setup::relay_with(folder.path(), sink.addr(), RECORDS);
    let tuma = setup.start();
    assert_eq!(
        tuma.says(&["suppression", "add", "--note", "asked by phone", "Joe@d.test", "@e.test"]),
        "2 given, 2 new\n"
    );
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    session.say("MAIL FROM:<a@b.test>", "250");
    for (to, reply) in [
        ("joe@d.test", "550 5.7.1 recipient is on a suppression list"),
        ("JOE@D.test", "550"),
        ("anyone@e.test", "550"),
        ("jane@d.test", "250"),
    ] {
        session.say(&format!("RCPT TO:<{to}>"), reply);
    }
    session.say("RSET", "250");
    // Mail about mail reaches them.
    session.say("MAIL FROM:<>", "250");
    session.say("RCPT TO:<joe@d.test>", "250");
    session.say("QUIT", "221");
    let check = tuma.ask(&["suppression", "check", "joe@d.test"]);
    assert_eq!(check.status.code(), Some(1));
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(said, "joe@d.test is not written to: joe@d.test for all (manual, asked by phone)\n");
    assert_eq!(tuma.says(&["suppression", "check", "jane@d.test"]), "jane@d.test is not on the list\n");
    let told = tuma.says(&["explain", "joe@d.test"]);
    assert!(told.contains("joe@d.test is on the list of all (manual, asked by phone)"), "{told}");
    assert!(told.contains("tuma suppression remove joe@d.test"), "{told}");
    tuma.stop();
    // It is there after a restart, can be carried elsewhere, and entries can be taken off it.
    let tuma = setup.start();
    let exported = tuma.says(&["suppression", "export"]);
    assert_eq!(exported.lines().count(), 2, "{exported}");
    let list = folder.path().join("list");
    std::fs::write(&list, format!("# those that follow came with an old server\n\nmax@d.test\n{exported}"))
        .unwrap();
    let list = list.to_str().unwrap();
    assert_eq!(tuma.says(&["suppression", "import", "--tenant", "acme", list]), "3 given, 3 new\n");
    assert_eq!(tuma.says(&["suppression", "remove", "joe@d.test", "nobody@d.test"]), "1 removed\n");
    assert_eq!(tuma.says(&["suppression", "check", "joe@d.test"]), "joe@d.test is not on the list\n");
    assert!(tuma.says(&["suppression", "stats"]).starts_with("4 entries, 2 of whole domains\n"));
    for (arguments, said) in [
        (&["suppression", "add", "not an address"][..], "line 1: `address` \"not an address\""),
        (&["suppression", "add", "--for", "soon", "a@b.test"], "`for` is not a time such as 30d"),
        (&["suppression", "add", "--reason", "bonce", "a@b.test"], "did you mean `bounce`?"),
    ] {
        let refused = tuma.refuses(arguments);
        assert!(refused.contains(said), "{refused}");
    }
    tuma.stop();
}

#[test]
fn a_recipient_that_is_suppressed_while_it_waits_has_a_record_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["rcpt:every=1:451 4.7.1 later"]), ..keeping() });
    let tuma = Setup::relay_with(folder.path(), sink.addr(), RECORDS).env("TUMA_RETRY", "200ms").start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    let said = session.message("a@b.test", &["joe@d.test", "jane@d.test"], "Subject: x\r\n\r\nx");
    assert!(said.starts_with("250"), "{said}");
    session.say("QUIT", "221");
    records(folder.path(), "deferred", 1);
    tuma.says(&["suppression", "add", "joe@d.test"]);
    let suppressed = records(folder.path(), "suppressed", 1);
    assert_eq!(suppressed[0]["recipient"], "joe@d.test");
    assert_eq!(suppressed[0]["reply"], "550 5.7.1 recipient is on a suppression list");
    // The other one goes on.
    tuma.says(&["suppression", "add", "@d.test"]);
    tuma.wait_until_settled();
    assert_eq!(tuma.figure("/recipients/suppressed"), 2);
    assert_eq!(tuma.metric("tuma_recipients_unaccounted"), 0.0);
    tuma.stop();
}

#[test]
fn at_rcpt_a_client_may_be_spared_the_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = format!("{RECORDS}[suppression]\nat_rcpt = \"accept\"\nreply = \"554 5.7.0 not to them\"\n");
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    tuma.says(&["suppression", "add", "joe@d.test"]);
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    let said = session.message("a@b.test", &["joe@d.test", "jane@d.test"], "Subject: x\r\n\r\nx");
    assert!(said.starts_with("250"), "{said}");
    let suppressed = records(folder.path(), "suppressed", 1);
    assert_eq!(suppressed[0]["reply"], "554 5.7.0 not to them");
    let delivered = records(folder.path(), "delivered", 1);
    assert_eq!(delivered[0]["recipient"], "jane@d.test");
    tuma.stop();
}

#[test]
fn hard_bounces_put_recipients_on_the_list_where_a_rule_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["rcpt:every=1:550 5.1.1 no such user"]), ..keeping() });
    let more = format!("{RECORDS}[[suppress]]\nscope = \"all\"\nholds = \"30d\"\n");
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    assert!(session.message("a@b.test", &["joe@d.test"], "Subject: x\r\n\r\nx").starts_with("250"));
    let bounced = records(folder.path(), "bounced", 1);
    assert_eq!(
        (&bounced[0]["class"], &bounced[0]["category"]),
        (&"bad-mailbox".into(), &"bad-mailbox".into())
    );
    crate::harness::wait_until("the list has the recipient", || {
        tuma.ask(&["suppression", "check", "joe@d.test"]).status.code() == Some(1)
    });
    session.say("MAIL FROM:<a@b.test>", "250");
    session.say("RCPT TO:<joe@d.test>", "550 5.7.1");
    let exported = tuma.says(&["suppression", "export"]);
    assert!(
        exported.contains("\"reason\":\"bounce\"") && exported.contains("5.1.1 no such user"),
        "{exported}"
    );
    tuma.stop();
}
