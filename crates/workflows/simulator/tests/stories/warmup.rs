//! New sources: daily caps, days of UTC, and the mail that is beyond them.

use crate::rig::{What, egress, setup, simulation, watch};

/// Fifty messages an hour for five days, from eight in the morning of the first.
const TRAFFIC: &str = r#"
    [receiver.site]
    [campaign.mail]
    pool = "fresh"
    messages = 6_000
    rate = "50/h"
    to = { site = 1 }
"#;

fn pools() -> dispatch::Egress {
    egress(&[("fresh", &["new"]), ("old", &["old1"])])
}

#[test]
fn what_is_beyond_a_day_of_the_warm_up_goes_by_warm_sources() {
    let rules = r#"
        [default.source.new.warmup]
        caps = [12, 25, 100]
        overflow = ["old1"]
    "#;
    let mut sim = simulation(simulator::Setup { egress: pools(), ..setup(rules) }, TRAFFIC, 1);
    sim.run();
    let report = sim.report();
    assert_eq!(report.outcomes.delivered, 6_000);
    let by = |name: &str| report.receivers[0].sources.iter().find(|s| s.source == name).cloned().unwrap();
    let (new, old) = (by("new"), by("old1"));
    // 50 an hour: 800 on the first day, which begins at eight, then 1,200.
    assert_eq!(new.by_day[..4], [12, 25, 100, 1_200], "all of each cap and no more, then no cap: {new:?}");
    assert_eq!(old.by_day[..3], [788, 1_175, 1_100], "{old:?}");
    assert_eq!((new.for_others, old.for_others), (0, old.delivered));
    assert!(report.receivers[0].held.iter().all(|held| held.gate != "warm-up"), "nothing waited");
}

#[test]
fn without_warm_sources_it_waits_for_the_day() {
    let rules = r#"
        [default.source.new.warmup]
        start = 250
        growth = 2.0
        max = 25_000
    "#;
    let mut sim = simulation(simulator::Setup { egress: pools(), ..setup(rules) }, TRAFFIC, 1);
    let log = watch(&mut sim);
    sim.run();
    let report = sim.report();
    assert_eq!(report.outcomes.delivered, 6_000);
    let new = &report.receivers[0].sources[0];
    assert_eq!(new.by_day[..3], [250, 500, 1_000], "{new:?}");
    assert!(new.by_day[3] <= 2_000 && new.by_day.iter().sum::<u64>() == 6_000, "{new:?}");
    let held = &report.receivers[0].held;
    assert!(held.iter().any(|held| held.gate == "warm-up" && held.setting.is_some()), "{held:?}");
    assert!(log.borrow().iter().filter(|seen| seen.what == What::Offered).all(|seen| seen.source == "new"));
}

#[test]
fn a_receiver_that_takes_more_day_by_day_refuses_nothing_of_a_warm_up_that_fits() {
    let traffic = TRAFFIC.replace("[receiver.site]", "[receiver.site]\ndaily_first = 15\ndaily_growth = 2.0");
    let careful = "[default.source.new.warmup]\ncaps = [15, 30, 60, 120, 240, 480]\noverflow = [\"old1\"]\n\
                   [default.source.old1]\nmessage_rates = [\"1/s\"]";
    let mut sim = simulation(simulator::Setup { egress: pools(), ..setup(careful) }, &traffic, 1);
    let log = watch(&mut sim);
    sim.run_until(crate::rig::hours(40));
    let by = |source: &str| {
        log.borrow().iter().filter(|s| s.what == What::Offered && s.source == source).count() as u64
    };
    let site = sim.report().receivers.remove(0);
    let new = site.sources.iter().find(|source| source.source == "new").expect("it sent");
    assert_eq!(new.by_day, [15, 30], "sixteen hours of the first day, all of the second");
    assert_eq!(by("new"), 15 + 30, "nothing of it was refused");
    // The old source is as new to this receiver, which takes no more of it than of the other.
    let old = site.sources.iter().find(|source| source.source == "old1").expect("it sent");
    assert_eq!(old.by_day, [15, 30]);
    assert!(by("old1") > 500, "most of it was refused");
}
