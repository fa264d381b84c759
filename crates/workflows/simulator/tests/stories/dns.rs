//! The DNS is away for an hour, and comes back.

use crate::rig::{What, hours, minutes, seconds, setup, simulation, watch};
use std::collections::HashMap;

#[test]
fn an_hour_without_dns_bounces_nothing_and_ends_without_a_rush() {
    let traffic = r#"
        [world]
        dns_outages = [{ starts = "10m", lasts = "1h" }]
        [receiver.site]
        count = 1_000
        connect_time = "50ms"
        message_time = "50ms"
        [campaign.mail]
        messages = 20_000
        rate = "5/s"
        to = { site = 1 }
    "#;
    let mut sim = simulation(setup("[default]\nconnection_ramp = \"10s\""), traffic, 1);
    let log = watch(&mut sim);
    // At any time no more look-ups are under way than may be.
    let (mut most, mut looked) = (0, seconds(0));
    while sim.now() < hours(2) && sim.step() {
        let now = sim.instant();
        if sim.now() > looked + seconds(5) {
            looked = sim.now();
            most = most.max(sim.dispatch().status(now).resolving);
        }
    }
    assert!(most > 0 && most <= 256, "{most} look-ups at once");
    sim.run();
    let report = sim.report();
    let outcomes = report.outcomes;
    assert_eq!((outcomes.delivered, outcomes.bounced, outcomes.expired), (20_000, 0, 0));
    // After it is back every site begins with one connection and gets one more each ten seconds.
    let mut open: HashMap<String, (i64, std::time::Duration)> = HashMap::new();
    for seen in log.borrow().iter().filter(|seen| seen.at > minutes(70)) {
        let known = open.entry(seen.site.clone()).or_insert((0, seen.at));
        match seen.what {
            What::Opened => {
                if known.0 == 0 {
                    known.1 = seen.at;
                }
                known.0 += 1;
                let steps = (seen.at - known.1).as_secs() as i64 / 10;
                assert!(known.0 <= steps + 2, "{} connections to {} after {steps} steps", known.0, seen.site);
            }
            What::Closed => known.0 -= 1,
            What::Offered => {}
        }
    }
    // What waited is through soon after the longest wait for a look-up, a quarter of an hour.
    let nearly = report.campaigns[0].through[2].unwrap();
    assert!(nearly < minutes(70 + 20), "99 % after {nearly:?}");
}
