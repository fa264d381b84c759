//! The wall clock jumps, and nobody but warm-ups reads it.

use crate::rig::{egress, hours, minutes, setup, simulation};
use simulator::Report;

const DAY: i64 = 86_400_000;

fn run(jump: i64, rules: &str) -> Report {
    let traffic = r#"
        [receiver.site]
        count = 20
        mailboxes_full = 0.2
        greylisting = "10m"
        [campaign.mail]
        pool = "new"
        messages = 1_500
        rate = "1/s"
        to = { site = 1 }
    "#;
    let setup = simulator::Setup { egress: egress(&[("new", &["new"])]), ..setup(rules) };
    let mut sim = simulation(setup, traffic, 1);
    sim.jump(minutes(40), jump);
    sim.run_until(hours(48));
    sim.report()
}

#[test]
fn a_jump_of_the_wall_clock_expires_nothing_and_makes_no_storm() {
    let calm = run(0, "");
    assert_eq!(calm.outcomes.delivered, 1_500);
    for jump in [DAY, -DAY, 3_653 * DAY] {
        let jumped = run(jump, "");
        assert_eq!(jumped.outcomes, calm.outcomes, "{jump} ms");
        assert_eq!(jumped.receivers[0].attempts, calm.receivers[0].attempts, "{jump} ms");
        assert_eq!(jumped.campaigns[0].through, calm.campaigns[0].through, "{jump} ms");
        assert_eq!(jumped.connections_peak, calm.connections_peak, "{jump} ms");
    }
}

#[test]
fn a_jump_does_not_end_a_warm_up() {
    // Ten messages a day for each of the twenty sites, for a month.
    let caps = vec!["10"; 30].join(", ");
    let rules = format!("[default.source.new.warmup]\ncaps = [{caps}]");
    // From eight in the morning, 48 hours see three days.
    for jump in [0, DAY, 3_653 * DAY] {
        let report = run(jump, &rules);
        // A jump is followed by a tenth of the time that passes, so these two days may hold a fourth one.
        let most = if jump == 0 { 3 } else { 4 };
        let attempts = report.receivers[0].attempts;
        assert!(attempts <= 20 * 10 * most, "{jump} ms: {attempts} attempts");
        assert!(attempts > 20 * 10 * 2, "{jump} ms: {attempts} attempts");
    }
}
