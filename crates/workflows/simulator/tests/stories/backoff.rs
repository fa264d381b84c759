//! What replies lead to: backoff and its end, suspension, and what a receiver that was pushed too hard does.

use crate::rig::{Log, What, keeps_to, minutes, offered, seconds, setup, simulation, watch};
use std::time::Duration;

/// The receiver tolerates two messages a second, and one connection alone does not send as many.
const TRAFFIC: &str = r#"
    [receiver.site]
    message_rates = ["2/s"]
    message_time = "600ms"
    jitter = 0.1
    [campaign.mail]
    messages = 4_000
    rate = "1k/s"
    to = { site = 1 }
"#;

/// When a note was first told is not kept; what the receiver saw tells when it was in force.
fn offers(log: &Log, from: Duration, to: Duration) -> usize {
    log.borrow().iter().filter(|seen| seen.what == What::Offered && seen.at >= from && seen.at < to).count()
}

#[test]
fn backoff_begins_by_reply_and_ends_by_time() {
    let rules = r#"
        [default]
        connections = 2
        backoff.message_rates = ["6/m"]
        [[default.reply]]
        name = "slow-down"
        match = '^450 4\.7\.1 .*too much mail'
        when = "3/10m"
        do = ["backoff 20m"]
    "#;
    let mut sim = simulation(setup(rules), TRAFFIC, 1);
    let log = watch(&mut sim);
    sim.run_until(minutes(30));
    // The first seconds are at full speed, until the third refusal.
    assert!(offers(&log, Duration::ZERO, seconds(5)) > 6);
    // In backoff, once what was under way is over.
    let before = log.borrow().len();
    let later: Log = Log::default();
    later
        .borrow_mut()
        .extend(log.borrow().iter().filter(|s| s.at > seconds(70) && s.at < minutes(20)).cloned());
    let slow = keeps_to(&later, "6/m", offered);
    assert!((100..=118).contains(&slow), "six a minute for nineteen minutes, and nearly all of them: {slow}");
    // Then at full speed again, and again into backoff.
    assert!(offers(&log, minutes(20), minutes(21)) > 8, "of {before}");
    let report = sim.report();
    let told = |text: &str| {
        report.notes.iter().filter(|(note, _)| note.contains(text)).map(|(_, times)| times).sum::<u64>()
    };
    assert_eq!(told("backoff begins by slow-down"), 2, "{:?}", report.notes);
    assert_eq!(told("backoff ends: its time is over"), 1, "{:?}", report.notes);
}

#[test]
fn backoff_ends_by_a_delivery_where_that_is_said() {
    let rules = r#"
        [default]
        connections = 2
        backoff.message_rates = ["6/m"]
        backoff.leave_on_delivery = true
        [[default.reply]]
        match = 'too much mail'
        do = ["backoff 1h"]
    "#;
    let mut sim = simulation(setup(rules), TRAFFIC, 1);
    sim.run_until(minutes(10));
    let report = sim.report();
    let left = report.notes.iter().find(|(note, _)| note.contains("a message was delivered"));
    assert!(left.is_some_and(|(_, times)| *times > 3), "{:?}", report.notes);
}

#[test]
fn a_suspended_path_sends_nothing_and_goes_on_by_itself() {
    let rules = r#"
        [default]
        connections = 2
        [[default.reply]]
        match = 'too much mail'
        when = "5/10m"
        do = ["suspend path 30m"]
    "#;
    let mut sim = simulation(setup(rules), TRAFFIC, 1);
    let log = watch(&mut sim);
    sim.run_until(minutes(32));
    let first = offers(&log, Duration::ZERO, minutes(1));
    assert!(first > 8 && first < 60, "{first}");
    assert_eq!(offers(&log, minutes(1), minutes(30)), 0);
    assert!(offers(&log, minutes(30), minutes(31)) > 8);
    sim.run();
    assert_eq!(sim.report().queued, 0);
}

#[test]
fn a_slowed_path_finds_what_is_tolerated_and_steps_back() {
    let rules = r#"
        [default]
        connections = 5
        message_rates = ["20/s"]
        [[default.reply]]
        match = 'too much mail'
        when = "5/1m"
        do = ["slow 0.5 10m"]
    "#;
    let mut sim = simulation(setup(rules), TRAFFIC, 1);
    let log = watch(&mut sim);
    sim.run_until(minutes(8));
    let late = offers(&log, minutes(4), minutes(8));
    // It sends some two a second now, which is a tenth of what the rules would allow.
    assert!(late < 4 * 60 * 3, "{late} in four minutes");
    sim.run();
    let report = sim.report();
    // Down until it is below, and up again to see whether it still is too much.
    let times = |factor: &str| {
        let text = format!("rates are multiplied by {factor}");
        report.notes.iter().find(|(note, _)| note.contains(&text)).map_or(0, |(_, times)| *times)
    };
    assert!(times("0.500") >= 1 && times("0.062") + times("0.125") > 3, "{:?}", report.notes);
    assert_eq!(report.outcomes.delivered, 4_000);
}

#[test]
fn a_receiver_that_blocks_a_source_forgets() {
    let traffic = r#"
        [receiver.site]
        replies = "outlook"
        message_rates = ["2/s"]
        message_time = "600ms"
        jitter = 0.1
        strikes = 5
        blocked_for = "1h"
        [campaign.mail]
        messages = 2_000
        to = { site = 1 }
    "#;
    let rules = r#"
        [default]
        connections = 10
        backoff.message_rates = ["10/m"]
        [[default.reply]]
        name = "throttled"
        match = '4\.7\.500 .*server busy'
        when = "3/10m"
        do = ["backoff 12h"]
        [[default.reply]]
        name = "reputation"
        match = '4\.7\.650 .*rate limited due to ip reputation'
        when = "2/10m"
        do = ["suspend path 2h"]
    "#;
    let mut sim = simulation(setup(rules), traffic, 1);
    sim.run();
    let report = sim.report();
    assert_eq!(report.outcomes.delivered, 2_000);
    let site = &report.receivers[0];
    assert!(site.rules.iter().any(|(name, _)| name == "reputation"), "{:?}", site.rules);
    // While the path is suspended nothing is sent into the block.
    let blocked =
        site.replies.iter().find(|(text, _)| text.contains("4.7.650")).map_or(0, |(_, times)| *times);
    assert!(blocked < 100, "{:?}", site.replies);
}
