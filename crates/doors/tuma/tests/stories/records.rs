//! The records: one for each outcome of each recipient, in every file, and the same sums as the metrics.

use crate::harness::{Setup, keeping, load, rules, run, sink};
use bench::sink::Options;
use std::collections::BTreeMap;

#[test]
fn every_outcome_has_its_record_in_every_file() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options {
        rules: rules(&["rcpt:every=10:550 5.1.1 no", "rcpt:every=7:451 4.7.1 \"later\", they say"]),
        ..keeping()
    });
    let more = "[accounting.file.lines]\npath = \"lines.jsonl\"\nflush_interval = \"0s\"\n[accounting.file.table]\npath = \"table.csv\"\nformat = \"csv\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).env("TUMA_RETRY", "100ms").start();
    let report = run(load(tuma.smtp(), 300));
    assert_eq!(report.accepted, 300);
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    assert!(
        session
            .message("a@b.test", &["c@d.test"], &format!("{}\r\nx", "Received: y\r\n".repeat(200)))
            .starts_with('5')
    );
    // Refused by the session itself, for its line ends, with two recipients.
    assert!(
        session
            .message("a@b.test", &["c@d.test", "e@d.test"], "Subject: x\r\n\r\nbare\nline")
            .starts_with("550 5.6.11")
    );
    // Refused before there was a message: one record each.
    session.say("MAIL FROM:<big@b.test> SIZE=99999999999", "552 5.3.4");
    session.say("MAIL FROM:<a@b.test> COLOUR=red", "555 5.5.4");
    session.say("MAIL FROM:<a@b.test>", "250");
    session.say("RCPT TO:<no path", "501 5.1.3");
    session.say("QUIT", "221");
    tuma.wait_until_settled();
    let kinds = ["received", "delivered", "deferred", "bounced", "expired", "rejected"];
    let metrics: BTreeMap<&str, i64> =
        kinds.iter().map(|kind| (*kind, tuma.figure(&format!("/recipients/{kind}")))).collect();
    assert_eq!(
        (metrics["received"], metrics["rejected"], metrics["delivered"] + metrics["bounced"]),
        (300, 6, 300)
    );
    assert!(metrics["deferred"] > 0 && metrics["bounced"] > 0);
    tuma.stop();
    let text = std::fs::read_to_string(folder.path().join("lines.jsonl")).unwrap();
    let mut counted: BTreeMap<&str, i64> = kinds.iter().map(|kind| (*kind, 0)).collect();
    for line in text.lines() {
        let record: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let kind = kinds.iter().find(|kind| record["kind"] == **kind || record["type"] == **kind);
        *counted.get_mut(kind.unwrap_or_else(|| panic!("{line}"))).unwrap() += 1;
    }
    assert_eq!(counted, metrics);
    assert!(text.contains("\"sender\":\"big@b.test\"") && text.contains("<no path"));
    let table = std::fs::read_to_string(folder.path().join("table.csv")).unwrap();
    let rows = |kind: &str| table.lines().filter(|line| line.starts_with(kind)).count() as i64;
    assert!(table.starts_with("type,"), "{}", &table[..100]);
    assert_eq!((rows("d,"), rows("b,")), (metrics["delivered"], metrics["bounced"]));
}
