//! Mail goes through: whole, once, accounted for, over restarts and a next hop that says later.

use crate::harness::{Setup, keeping, load, nobody, rules, run, sink, wait_until};
use bench::sink::Options;

#[test]
fn a_thousand_messages_arrive_once_each_and_the_sum_holds() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { strict: true, ..Options::default() });
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let report = run(load(tuma.smtp(), 1_000));
    assert_eq!((report.accepted, report.refused, report.failed), (1_000, 0, 0));
    tuma.wait_until_settled();
    let stats = sink.stats();
    assert_eq!((stats.messages, stats.duplicates(), stats.faults.len()), (1_000, 0, 0), "{stats}");
    assert_eq!(tuma.figure("/recipients/received"), 1_000);
    assert_eq!(tuma.figure("/recipients/delivered"), 1_000);
    tuma.stop();
}

#[test]
fn a_message_arrives_as_it_was_sent_with_our_received_field_in_front() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    let content = "Subject: x\r\n\r\n..dots\r\n..\r\nlast";
    let reply = session.message("a@b.test", &["c@d.test"], content);
    assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    tuma.wait_until_settled();
    let messages = sink.messages();
    assert_eq!(messages.len(), 1);
    let text = String::from_utf8(messages[0].content.to_vec()).unwrap();
    let (head, rest) = text.split_once("Subject:").unwrap();
    assert!(head.starts_with("Received: from client.test ") && head.contains("ESMTP id "), "{head}");
    assert_eq!(rest, " x\r\n\r\n.dots\r\n.\r\nlast\r\n");
    assert_eq!(messages[0].reverse_path, "a@b.test");
}

#[test]
fn a_deferred_recipient_is_tried_again_and_the_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let rules = rules(&["rcpt:address=late@d.test,first=2:451 4.7.1 later"]);
    let sink = sink(Options { rules, ..keeping() });
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    session.message("a@b.test", &["now@d.test", "late@d.test"], "Subject: x\r\n\r\nx");
    tuma.wait_until_settled();
    let arrived: Vec<Vec<String>> =
        sink.messages().iter().map(|m| m.recipients.iter().map(|r| r.address.clone()).collect()).collect();
    assert_eq!(arrived, [vec!["now@d.test".to_owned()], vec!["late@d.test".to_owned()]]);
    assert_eq!(tuma.figure("/recipients/deferred"), 2);
}

#[test]
fn what_was_queued_when_the_process_was_killed_is_delivered_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let address = nobody();
    let setup = Setup::relay(folder.path(), address);
    let tuma = setup.start();
    let report = run(load(tuma.smtp(), 500));
    assert_eq!(report.accepted, 500);
    assert_eq!(tuma.figure("/recipients/queued"), 500);
    tuma.kill();
    let sink = sink(Options { listen: address, ..Options::default() });
    let tuma = setup.start();
    wait_until("all have arrived", || sink.stats().messages >= 500);
    tuma.wait_until_settled();
    assert_eq!((sink.stats().messages, sink.stats().duplicates()), (500, 0));
    assert!(sink.missing(report.run, 500, 10).is_empty());
}
