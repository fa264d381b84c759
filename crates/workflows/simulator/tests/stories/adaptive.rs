//! The rate that is found by itself.

use crate::rig::{What, minutes, setup, simulation, watch};

const RULES: &str = r#"
    [default]
    connections = 20
    adaptive.max = "100/s"
    adaptive.min = "1/s"
"#;

fn traffic(rate: u32) -> String {
    format!(
        r#"
        [receiver.site]
        message_rates = ["{rate}/s"]
        [campaign.mail]
        messages = 200_000
        rate = "2k/s"
        to = {{ site = 1 }}
        "#
    )
}

#[test]
fn it_converges_to_what_the_receiver_tolerates() {
    for tolerated in [5u32, 20, 60] {
        let mut sim = simulation(setup(RULES), &traffic(tolerated), 1);
        let log = watch(&mut sim);
        assert!(sim.run_until(minutes(45)));
        let path = sim.dispatch().shaper().paths().next().expect("the path is open");
        let found = sim.dispatch().shaper().adaptive_limit(path).expect("it is adaptive");
        let offered =
            log.borrow().iter().filter(|s| s.what == What::Offered && s.at > minutes(25)).count() as f64;
        let mean = offered / (20.0 * 60.0);
        let share = mean / f64::from(tolerated);
        assert!((0.6..1.15).contains(&share), "{tolerated}/s tolerated, {mean:.1}/s sent, {found} allowed");
        let report = sim.report();
        let deferred: u64 = report.receivers[0].replies.iter().map(|(_, times)| times).sum();
        let share = deferred as f64 / report.receivers[0].attempts as f64;
        assert!(share < 0.2, "{tolerated}/s tolerated: {share:.3} of the attempts were deferred");
    }
}

#[test]
fn a_receiver_that_tolerates_all_is_sent_the_most() {
    let mut sim = simulation(setup(RULES), &traffic(100_000), 1);
    let log = watch(&mut sim);
    // From ten a second by a tenth each minute: a hundred after twenty-four.
    assert!(sim.run_until(minutes(40)));
    let late = log.borrow().iter().filter(|s| s.what == What::Offered && s.at > minutes(39)).count();
    // Twenty connections at four a second are eighty; but what connections hold counts as sent, so that a window of a
    // second is never exceeded, and that is up to sixty of the hundred.
    assert!(late > 60 * 55, "{late} in the last minute");
}
