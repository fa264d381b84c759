//! Later: attempts that are counted over restarts, mail given up, senders told, limits that hold mail back.

use crate::harness::{Session, Setup, Tuma, keeping, rules, sink, wait_until};
use bench::sink::Options;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

fn send(tuma: &Tuma) -> String {
    let mut session: Session = tuma.session();
    session.say("EHLO client.test", "250");
    let reply = session.message("a@b.test", &["c@d.test"], "Subject: x\r\n\r\nx");
    assert!(reply.starts_with("250"), "{reply}");
    reply
}

#[test]
fn attempts_and_due_times_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["rcpt:first=2:451 4.7.1 later"]), ..keeping() });
    let setup = Setup::relay_with(folder.path(), sink.addr(), "[retry]\nwaits = [\"1h\"]\n");
    let tuma = setup.start();
    let reply = send(&tuma);
    let id = reply.trim_end().rsplit(' ').next().unwrap().to_owned();
    wait_until("it is deferred", || tuma.figure("/recipients/deferred") == 1);
    // What an attempt came to is written soon after.
    tuma.stop();
    let tuma = setup.start();
    wait_until("the spool is read", || tuma.figure("/recipients/queued") == 1);
    let listed = |tuma: &Tuma| String::from_utf8_lossy(&tuma.ask(&["queue", "ls"]).stdout).into_owned();
    wait_until("it waits", || listed(&tuma).contains("1 attempts"));
    let text = listed(&tuma);
    assert!(text.contains(&id) && text.contains("due in") && text.contains("c@d.test"), "{text}");
    assert_eq!(sink.stats().connections, 1, "a restart is no reason to try");
    let output = tuma.ask(&["queue", "flush"]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("1 entries"), "{output:?}");
    wait_until("it is tried again", || listed(&tuma).contains("2 attempts"));
    assert!(listed(&tuma).contains("last reply: 451 4.7.1 later"), "{}", listed(&tuma));
    tuma.ask(&["queue", "flush"]);
    tuma.wait_until_settled();
    assert_eq!(sink.stats().messages, 1);
    let (_, body) = tuma.http("GET", &format!("/v1/messages/{id}"), "");
    assert!(body.contains("\"attempt\":3"), "{body}");
}

#[test]
fn mail_that_cannot_be_delivered_in_time_is_given_up_and_the_sender_told() {
    let folder = tempfile::tempdir().unwrap();
    let sink =
        sink(Options { rules: rules(&["rcpt:address=c@*:451 4.7.1 <later> & \"more\""]), ..keeping() });
    let more = "[retry]\nwaits = [\"200ms\"]\nexpire_after = \"1s\"\n[dsn]\nenabled = true\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    send(&tuma);
    wait_until("it is given up", || tuma.figure("/recipients/expired") == 1);
    tuma.wait_until_settled();
    let messages = sink.messages();
    assert_eq!(messages.len(), 1);
    let text = String::from_utf8_lossy(&messages[0].content).into_owned();
    assert_eq!(
        (messages[0].reverse_path.as_str(), messages[0].recipients[0].address.as_str()),
        ("", "a@b.test")
    );
    assert!(text.contains("Action: failed") && text.contains("Status: 4.4.7"), "{text}");
    assert!(text.contains("451 4.7.1 <later> & \"more\""), "{text}");
}

#[test]
fn a_sender_is_told_once_of_a_delay() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["rcpt:address=c@*,first=6:451 4.7.1 later"]), ..keeping() });
    let more = "[retry]\nwaits = [\"300ms\"]\n[dsn]\nenabled = true\ndelay_after = \"500ms\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    send(&tuma);
    wait_until("both have arrived", || sink.stats().messages == 2);
    tuma.wait_until_settled();
    let messages = sink.messages();
    let delays = messages.iter().filter(|m| m.reverse_path.is_empty()).inspect(|m| {
        assert!(String::from_utf8_lossy(&m.content).contains("Action: delayed"));
    });
    assert_eq!((delays.count(), messages.len()), (1, 2));
}

#[test]
fn a_limit_holds_mail_back_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma =
        Setup::relay_with(folder.path(), sink.addr(), "[shaping.default]\nmessage_rates = [\"2/h\"]\n")
            .start();
    for _ in 0..5 {
        send(&tuma);
    }
    wait_until("two are through", || tuma.figure("/recipients/delivered") == 2);
    wait_until("the status tells the setting", || {
        String::from_utf8_lossy(&tuma.ask(&["status"]).stdout).contains("shaping.default.message_rates")
    });
    assert_eq!((tuma.figure("/recipients/queued"), sink.stats().messages), (3, 2));
}

#[test]
fn a_limit_of_an_hour_holds_over_kills_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let limits = "[shaping.default]\nmessage_rates = [\"40/h\"]\nconnections = 1\n";
    let setup = Setup::relay_with(folder.path(), sink.addr(), limits);
    let mut tuma = setup.start();
    for _ in 0..60 {
        send(&tuma);
    }
    // Each process sends some of it before its end, which comes at a moment that nobody chose.
    for cycle in 0..5u64 {
        let before = sink.stats().messages;
        let mut turns = 0;
        // A process that may send no more shows nothing; it is enough that it had the time to.
        while sink.stats().messages == before && turns < 50 {
            std::thread::sleep(Duration::from_millis(10));
            turns += 1;
        }
        std::thread::sleep(Duration::from_millis(RandomState::new().hash_one(cycle) % 40));
        if cycle == 3 {
            tuma.stop();
        } else {
            tuma.kill();
        }
        tuma = setup.start();
    }
    wait_until("the status tells the setting", || {
        String::from_utf8_lossy(&tuma.ask(&["status"]).stdout).contains("shaping.default.message_rates")
    });
    let sent = sink.stats().messages;
    assert!(sent <= 40, "{sent} messages in an hour that may have 40");
    // A connection holds three jobs: what a kill cuts off was granted and may not have been sent.
    assert!(sent >= 25, "only {sent} messages");
}

#[test]
fn connections_to_a_next_hop_are_bounded_and_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options::default());
    let more = "[shaping.default]\nconnections = 3\nmessages_per_connection = 50\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let report = crate::harness::run(crate::harness::load(tuma.smtp(), 600));
    assert_eq!(report.accepted, 600);
    tuma.wait_until_settled();
    let stats = sink.stats();
    assert_eq!((stats.messages, stats.duplicates()), (600, 0));
    // One that has said QUIT may still be open at the other end when the next is opened.
    assert!(stats.open_max <= 6, "{stats}");
    assert!((12..=60).contains(&stats.connections), "{stats}");
}

#[test]
fn a_thousand_bounces_at_once_pass_a_narrow_door_and_a_bounce_makes_no_bounce() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["rcpt:address=b*:550 5.1.1 no"]), ..keeping() });
    let more = "[reception]\nintake_max = 64\n[dsn]\nenabled = true\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let report = crate::harness::run(crate::harness::load(tuma.smtp(), 1_000));
    assert_eq!(report.accepted, 1_000);
    tuma.wait_until_settled();
    let figures =
        ["received", "bounced", "delivered"].map(|kind| tuma.figure(&format!("/recipients/{kind}")));
    assert_eq!(figures, [2_000, 1_000, 1_000]);
    assert!(sink.messages().iter().all(|m| m.reverse_path.is_empty()));
    // Nobody is told of a notification that cannot be delivered.
    sink.set_rules(rules(&["rcpt:550 5.1.1 no"]));
    send(&tuma);
    tuma.wait_until_settled();
    let figures =
        ["received", "bounced", "delivered"].map(|kind| tuma.figure(&format!("/recipients/{kind}")));
    assert_eq!(figures, [2_002, 1_002, 1_000]);
}
