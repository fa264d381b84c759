//! SIGTERM once and twice, and a spool that is not ours alone (attack rows 86 to 88).

use crate::harness::{Setup, Tuma, block_on, load, nobody, rules, sink, wait_until};
use bench::loader::{Amount, Loader};
use bench::sink::Options;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

#[test]
fn a_stop_under_load_loses_and_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // A next hop slower than the load, so that some is left.
    let sink = sink(Options { rules: rules(&["dot:slow=2ms"]), ..Options::default() });
    let setup = Setup::relay_with(folder.path(), sink.addr(), "[shaping.default]\nconnections = 4\n");
    let tuma = setup.start();
    let loader = Loader::start(bench::loader::Options {
        amount: Amount::Time(Duration::from_secs(3600)),
        failures_max: u64::MAX,
        ..load(tuma.smtp(), 0)
    });
    wait_until("some mail is taken", || loader.accepted() > 300);
    let log = tuma.stop();
    assert!(log.contains("stopping") && log.trim_end().ends_with("stopped"), "{log}");
    loader.stop();
    let report = block_on(loader.finish());
    assert!(report.unanswered.is_empty(), "an end of data was left without a reply: {report}");
    sink.set_rules(Vec::new());
    let tuma = setup.start();
    wait_until("all has arrived", || report.acknowledged.without(&sink.received(report.run), 1).is_empty());
    tuma.wait_until_settled();
    assert_eq!((sink.stats().messages, sink.stats().duplicates()), (report.accepted, 0));
}

#[test]
fn a_second_signal_stops_at_once_and_the_mail_is_still_there() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["dot:stall"]), ..Options::default() });
    let setup = Setup::relay(folder.path(), sink.addr());
    let mut tuma = setup.start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    session.message("a@b.test", &["c@d.test"], "Subject: x\r\n\r\nx");
    wait_until("the next hop stalls", || sink.stats().rules_acted == 1);
    tuma.signal("TERM");
    wait_until("it is stopping", || tuma.log().contains("stopping"));
    assert!(session.reply().starts_with("421"), "the client is told");
    tuma.signal("TERM");
    let status = tuma.wait();
    wait_until("the log is whole", || tuma.log().contains("stopped at once"));
    assert!(status.success(), "{status}");
    sink.set_rules(Vec::new());
    let tuma = setup.start();
    tuma.wait_until_settled();
    assert_eq!(sink.stats().messages, 1);
}

#[test]
fn a_message_that_is_on_its_way_when_the_stop_comes_is_taken_whole() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options::default());
    let setup = Setup::relay(folder.path(), sink.addr());
    let mut tuma = setup.start();
    let mut session = tuma.session();
    let mut idle = tuma.session();
    session.say("EHLO client.test", "250");
    session.say("MAIL FROM:<a@b.test>", "250");
    session.say("RCPT TO:<c@d.test>", "250");
    session.say("DATA", "354");
    session.send(b"Subject: x\r\n\r\nthe first half");
    tuma.signal("TERM");
    assert!(idle.reply().starts_with("421"), "who is at nothing is told to go");
    wait_until("nobody new is let in", || {
        // The socket may close at any moment: between two connections, and between connection and greeting.
        let Ok(stream) = std::net::TcpStream::connect(tuma.smtp()) else { return true };
        // One that was let in by the system alone is never told of its end.
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        let mut greeting = String::new();
        let read = BufReader::new(stream).read_line(&mut greeting);
        read.is_err() || !greeting.starts_with("220")
    });
    session.send(b" and the second\r\n.\r\n");
    let reply = session.reply();
    assert!(reply.starts_with("250"), "{reply}");
    assert!(session.reply().starts_with("421"));
    assert!(tuma.wait().success());
    let tuma = setup.start();
    tuma.wait_until_settled();
    assert_eq!((sink.stats().messages, sink.stats().duplicates()), (1, 0));
}

#[test]
fn signals_right_after_the_start_are_heard() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::relay(folder.path(), nobody());
    for _ in 0..5 {
        let tuma = setup.start();
        tuma.signal("HUP");
        wait_until("it is heard", || tuma.log().contains("configuration reloaded"));
        tuma.stop();
    }
}

/// Starts a server that must not come up; gives what it says.
fn refused(setup: &Setup) -> String {
    let output = setup.command().output().expect("run tuma");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_second_process_on_the_same_spool_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::relay(folder.path(), nobody());
    let first: Tuma = setup.start();
    let text = refused(&setup);
    assert!(text.contains("spool") && text.contains(&first.pid().to_string()), "{text}");
    assert_eq!(first.http("GET", "/health", "").0, 200);
}

#[test]
fn a_spool_that_others_could_change_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::relay(folder.path(), nobody());
    let spool = folder.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    std::fs::set_permissions(&spool, std::fs::Permissions::from_mode(0o770)).unwrap();
    let text = refused(&setup);
    assert!(text.contains("spool") && text.contains("writ"), "{text}");
    std::fs::remove_dir_all(&spool).unwrap();
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &spool).unwrap();
    let text = refused(&setup);
    assert!(text.contains("symbolic link"), "{text}");
    std::fs::remove_file(&spool).unwrap();
    // Only root can give a folder away.
    std::fs::create_dir(&spool).unwrap();
    if std::os::unix::fs::chown(&spool, Some(65_534), None).is_ok() {
        let text = refused(&setup);
        assert!(text.contains("own"), "{text}");
    }
}
