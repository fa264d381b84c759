//! Who waits for whom.

use crate::rig::{Log, What, minutes, seconds, setup, simulation, watch};
use std::time::Duration;

/// How many messages the site is offered after a moment and before the first of a campaign.
fn overtaken_by(log: &Log, campaign: &str, from: Duration) -> usize {
    let log = log.borrow();
    let offered = || log.iter().filter(|seen| seen.what == What::Offered && seen.at >= from);
    let first = offered().position(|seen| seen.campaign == campaign);
    first.unwrap_or_else(|| panic!("nothing of {campaign} was offered"))
}

const MILLION: &str = r#"
    [receiver.site]
    [campaign.flood]
    tenant = "big"
    priority = "bulk"
    messages = 1_000_000
    rate = "1m/s"
    to = { site = 1 }
"#;

/// Jobs that are with connections already when another message comes: three for each, and one is at its turn.
const UNDER_WAY: usize = 20 * 3 + 1;

#[test]
fn one_message_of_another_tenant_leaves_with_the_next_permit() {
    let one = "[campaign.one]\ntenant = \"small\"\npriority = \"bulk\"\nmessages = 1\nstarts = \"1m\"\nto = { site = 1 }";
    let mut sim = simulation(setup(""), &format!("{MILLION}{one}"), 1);
    let log = watch(&mut sim);
    sim.run_until(minutes(2));
    assert!(sim.settled() < 100_000, "the flood is far from over");
    assert!(overtaken_by(&log, "one", minutes(1)) <= UNDER_WAY);
}

#[test]
fn under_a_rate_it_is_the_very_next_one() {
    let flood = MILLION.replace("1_000_000", "20_000");
    let one = "[campaign.one]\ntenant = \"small\"\npriority = \"bulk\"\nmessages = 1\nstarts = \"10m\"\nto = { site = 1 }";
    let mut sim = simulation(setup("[default]\nmessage_rates = [\"1/10s\"]"), &format!("{flood}{one}"), 1);
    let log = watch(&mut sim);
    sim.run_until(minutes(11));
    // One may have its permit already.
    assert!(overtaken_by(&log, "one", minutes(10)) <= 1);
}

#[test]
fn password_resets_do_not_wait_behind_a_million_newsletters() {
    let resets = "[campaign.resets]\ntenant = \"big\"\npriority = \"high\"\nmessages = 10\nrate = \"1/10s\"\nstarts = \"1m\"\nto = { site = 1 }";
    let mut sim = simulation(setup(""), &format!("{MILLION}{resets}"), 1);
    sim.run_until(minutes(4));
    let report = sim.report();
    let resets = report.campaigns.iter().find(|campaign| campaign.name == "resets").unwrap();
    assert_eq!(resets.outcomes.delivered, 10);
    // At most three jobs of a connection go before it, at a quarter of a second each.
    assert!(resets.waits[3] < seconds(2), "the longest waited {:?}", resets.waits[3]);
}

#[test]
fn four_priorities_go_in_their_order() {
    let mut traffic = "[receiver.site]\n".to_owned();
    for class in ["bulk", "low", "normal", "high"] {
        traffic.push_str(&format!(
            "[campaign.{class}]\ntenant = \"t\"\npriority = \"{class}\"\nmessages = 300\nrate = \"1m/s\"\nto = {{ site = 1 }}\n"
        ));
    }
    let mut sim = simulation(setup("[default]\nmessage_rates = [\"5/s\"]"), &traffic, 1);
    sim.run();
    let report = sim.report();
    let half = |name: &str| report.campaigns.iter().find(|c| c.name == name).unwrap().waits[0];
    assert!(half("high") < half("normal") && half("normal") < half("low") && half("low") < half("bulk"));
    // 300 at five a second are a minute: one class after another.
    assert!(
        half("high") < seconds(40) && half("bulk") > seconds(200),
        "{:?} {:?}",
        half("high"),
        half("bulk")
    );
}

#[test]
fn tenants_share_a_site_alike() {
    let traffic = r#"
        [receiver.site]
        [campaign.a]
        tenant = "a"
        messages = 20_000
        rate = "1m/s"
        to = { site = 1 }
        [campaign.b1]
        tenant = "b"
        campaign = "1"
        messages = 5_000
        rate = "1m/s"
        to = { site = 1 }
        [campaign.b2]
        tenant = "b"
        campaign = "2"
        messages = 5_000
        rate = "1m/s"
        to = { site = 1 }
    "#;
    let mut sim = simulation(setup("[default]\nmessage_rates = [\"20/s\"]"), traffic, 1);
    let log = watch(&mut sim);
    sim.run_until(minutes(5));
    let of = |tenant: &str| {
        log.borrow().iter().filter(|s| s.what == What::Offered && s.tenant.as_deref() == Some(tenant)).count()
            as f64
    };
    let share = of("a") / of("b");
    assert!((0.97..1.03).contains(&share), "a had {share:.3} of what b had");
}

/// Good sites with a little mail, beside next hops that never answer, which get theirs after ten minutes.
fn beside(stalled: u32, seed: u64) -> (Duration, usize) {
    let stalls = match stalled {
        0 => String::new(),
        count => format!(
            "[receiver.bad]\ncount = {count}\nstalls = \"connect\"\n[campaign.lost]\ntenant = \"t\"\nmessages = 20_000\nrate = \"1k/s\"\nstarts = \"10m\"\nto = {{ bad = 1 }}\n"
        ),
    };
    let traffic = format!(
        "[world]\nlasts = \"35m\"\n[receiver.good]\ncount = 100\n[campaign.good]\ntenant = \"t\"\nmessages = 3_600\nrate = \"2/s\"\nto = {{ good = 1 }}\n{stalls}"
    );
    let mut sim = simulation(setup(""), &traffic, seed);
    sim.run_until(minutes(35));
    let report = sim.report();
    let good = report.campaigns.iter().find(|campaign| campaign.name == "good").unwrap();
    (good.waits[2], report.connections_peak)
}

#[test]
fn five_thousand_stalled_next_hops_leave_the_others_alone() {
    let (alone, _) = beside(0, 1);
    let (among, peak) = beside(5_000, 1);
    assert!(peak <= 2_000, "{peak} connections");
    assert!(
        among < alone + seconds(1),
        "99 % of the good mail: {alone:?} alone, {among:?} among stalled ones"
    );
}
