//! `tuma top`, one picture of it.

use crate::harness::{Setup, keeping, rules, send, sink, wait_until};
use bench::sink::Options;

#[test]
fn top_shows_what_holds_mail_up() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["rcpt:452 4.2.2 mailbox full"]), ..keeping() });
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    send(&tuma, "ann@far.test", 2);
    wait_until("both were deferred", || tuma.figure("/recipients/deferred") >= 2);
    let text = tuma.says(&["top", "--once", "--every", "100ms"]);
    assert!(text.contains("mailbox full") && text.contains("queued 2"), "{text}");
    assert!(!text.contains('\u{1b}'), "no terminal is asked for: {text}");
    let json = tuma.says_json(&["top", "--once", "--every", "100ms"]);
    let worst = &json["worst_replies"][0];
    assert!(
        worst["reply"].as_str().unwrap().contains("4.2.2") && worst["count"].as_u64().unwrap() >= 2,
        "{json:#}"
    );
    assert_eq!(json["status"]["recipients"]["queued"], 2);
    // Without a terminal it does not draw on one.
    assert!(tuma.refuses(&["top"]).contains("--once"));
}
