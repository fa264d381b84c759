//! Each kind of limit, from the receiver's side: never exceeded in any sliding window, and used.

use crate::rig::{
    What, egress, hours, keeps_to, minutes, most_open, offered, opened, setup, simulation, watch,
};

/// One receiver that tolerates everything, and mail for it.
fn mail(messages: u64, rest: &str) -> String {
    format!(
        "[receiver.site]\n[campaign.mail]\nmessages = {messages}\nrate = \"1k/s\"\nto = {{ site = 1 }}\n{rest}"
    )
}

#[test]
fn connections_at_once() {
    let mut sim = simulation(setup("[default]\nconnections = 3"), &mail(2_000, ""), 1);
    let log = watch(&mut sim);
    sim.run();
    assert_eq!(most_open(&log, |_| true), 3, "all three are used, and no fourth");
    assert_eq!(sim.report().outcomes.delivered, 2_000);
}

#[test]
fn connections_at_once_hold_for_each_source() {
    let setup = simulator::Setup {
        egress: egress(&[("both", &["a", "b"])]),
        ..setup("[default]\nconnections = 3\n[default.source.b]\nconnections = 2")
    };
    let mut sim = simulation(setup, &mail(2_000, ""), 1);
    let log = watch(&mut sim);
    sim.run();
    assert_eq!(most_open(&log, |seen| seen.source == "a"), 3);
    assert_eq!(most_open(&log, |seen| seen.source == "b"), 2);
}

#[test]
fn the_rate_of_connections() {
    let rules = "[default]\nconnection_rates = [\"5/m\", \"2/10s\"]\nmessages_per_connection = 2";
    let mut sim = simulation(setup(rules), &mail(200, ""), 1);
    let log = watch(&mut sim);
    sim.run();
    keeps_to(&log, "2/10s", opened);
    let connections = keeps_to(&log, "5/m", opened);
    // Five a minute: a hundred connections take twenty minutes, and hardly more.
    assert!((100..110).contains(&connections), "{connections} connections");
    assert!(sim.now() < minutes(21), "{:?}", sim.now());
}

#[test]
fn messages_in_several_windows() {
    let rules = "[default]\nmessage_rates = [\"10/s\", \"200/m\", \"3k/h\"]";
    let mut sim = simulation(setup(rules), &mail(7_000, ""), 1);
    let log = watch(&mut sim);
    sim.run();
    for rate in ["10/s", "200/m", "3k/h"] {
        assert_eq!(keeps_to(&log, rate, offered), 7_000);
    }
    // The hour is what binds: 7,000 are two full hours and a third of 1,000, at 200 a minute.
    assert!(sim.now() > hours(2) && sim.now() < hours(2) + minutes(8), "{:?}", sim.now());
}

#[test]
fn octets() {
    let rules = "[default]\nbyte_rates = [\"10MB/m\"]";
    let mut sim =
        simulation(setup(rules), &mail(900, "[campaign.mail.x]").replace("[campaign.mail.x]", ""), 1);
    let log = watch(&mut sim);
    sim.run();
    let octets = |seen: &crate::rig::Seen| (seen.what == What::Offered).then_some(seen.octets);
    keeps_to(&log, "10m/m", octets);
    // 40 KiB each: 244 in a minute.
    assert!(sim.now() > minutes(3) && sim.now() < minutes(4), "{:?}", sim.now());
}

#[test]
fn a_message_larger_than_the_rate_of_octets_goes_alone() {
    let rules = "[default]\nbyte_rates = [\"10kB/m\"]";
    let mut sim = simulation(setup(rules), &mail(4, ""), 1);
    let log = watch(&mut sim);
    sim.run();
    assert_eq!(keeps_to(&log, "1/m", offered), 4);
}

#[test]
fn what_a_tenant_may_send_to_all_sites_together() {
    let rules = "[tenant.\"t*\"]\nmessage_rates = [\"60/m\"]\n[tenant.t1]\nmessage_rates = [\"60/m\"]\n[tenant.t1.site.\"mx.d1.site.test\"]\nmessage_rates = [\"10/m\"]";
    let traffic = r#"
        [receiver.site]
        count = 5
        [campaign.one]
        tenant = "t1"
        messages = 400
        to = { site = 1 }
        [campaign.two]
        tenant = "t2"
        messages = 400
        to = { site = 1 }
        [campaign.free]
        tenant = "other"
        messages = 400
        to = { site = 1 }
    "#;
    let mut sim = simulation(setup(rules), traffic, 1);
    let log = watch(&mut sim);
    sim.run();
    for tenant in ["t1", "t2"] {
        let of = |seen: &crate::rig::Seen| offered(seen).filter(|_| seen.tenant.as_deref() == Some(tenant));
        assert_eq!(keeps_to(&log, "60/m", of), 400);
    }
    let t1 = |seen: &crate::rig::Seen| {
        offered(seen).filter(|_| seen.tenant.as_deref() == Some("t1") && seen.site == "mx.d1.site.test")
    };
    keeps_to(&log, "10/m", t1);
    let free = log.borrow().iter().filter(|s| s.tenant.as_deref() == Some("other")).map(|s| s.at).max();
    assert!(free < Some(minutes(1)), "who has no limit does not wait for those who have: {free:?}");
    // 400 at 60 a minute.
    let two = log.borrow().iter().filter(|s| s.tenant.as_deref() == Some("t2")).map(|s| s.at).max();
    assert!(two > Some(minutes(6)) && two < Some(minutes(7)), "{two:?}");
}

#[test]
fn a_limit_that_sites_and_sources_share() {
    let rules = r#"
        [limit.together]
        sites = ["mx.d1.*", "mx.d2.*"]
        connections = 4
        message_rates = ["100/m"]
        connection_rates = ["20/m"]
        [default]
        messages_per_connection = 10
    "#;
    let traffic = r#"
        [receiver.site]
        count = 3
        [campaign.mail]
        messages = 1_500
        to = { site = 1 }
    "#;
    let setup = simulator::Setup { egress: egress(&[("both", &["a", "b"])]), ..setup(rules) };
    let mut sim = simulation(setup, traffic, 1);
    let log = watch(&mut sim);
    sim.run();
    let shared = |seen: &crate::rig::Seen| !seen.site.starts_with("mx.d3.");
    assert!((3..=4).contains(&most_open(&log, shared)), "{}", most_open(&log, shared));
    keeps_to(&log, "20/m", |seen| opened(seen).filter(|_| shared(seen)));
    let count = keeps_to(&log, "100/m", |seen| offered(seen).filter(|_| shared(seen)));
    assert!(count > 900);
    let free = log.borrow().iter().filter(|seen| !shared(seen)).map(|seen| seen.at).max();
    assert!(free < Some(minutes(1)), "the third site is not held with them: {free:?}");
}

/// Worlds of random limits and tempers: the count at the receivers finds no limit exceeded, and every message ends.
#[test]
fn no_limit_of_random_rules_is_exceeded_in_random_worlds() {
    let mut checked = 0;
    for seed in 0..25u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % n
        };
        let rules = format!(
            r#"
            [default]
            connections = {}
            connection_rates = ["{}/m"]
            message_rates = ["{}/s", "{}/m"]
            byte_rates = ["{}MB/m"]
            messages_per_connection = {}
            backoff.message_rates = ["{}/m"]
            reconnect_min = "{}s"
            [[default.reply]]
            match = '(?i)too (much|many)'
            when = "{}/5m"
            do = ["backoff {}m"]
            [domain."d1.site.test"]
            message_rates = ["{}/m"]
            "#,
            1 + below(12),
            5 + below(60),
            1 + below(30),
            20 + below(600),
            1 + below(100),
            below(30),
            1 + below(60),
            1 + below(60),
            1 + below(4),
            1 + below(20),
            1 + below(100)
        );
        let traffic = format!(
            r#"
            [world]
            lasts = "3d"
            [receiver.site]
            count = {}
            connect_time = "{}ms"
            message_time = "{}ms"
            jitter = 0.9
            connections = {}
            message_rates = ["{}/s"]
            messages_per_connection = {}
            mailboxes_full = 0.05
            unknown_users = 0.05
            strikes = {}
            outages = [{{ starts = "{}s", lasts = "{}s" }}]
            [campaign.a]
            tenant = "a"
            messages = 700
            size = "{}KiB"
            to = {{ site = 1 }}
            [campaign.b]
            tenant = "b"
            priority = "high"
            messages = 300
            starts = "1m"
            rate = "10/s"
            to = {{ site = 1 }}
            "#,
            1 + below(6),
            1 + below(2_000),
            1 + below(5_000),
            below(8),
            1 + below(30),
            below(20),
            below(30),
            below(300),
            1 + below(600),
            1 + below(200)
        );
        let setup = simulator::Setup { egress: egress(&[("both", &["a", "b"])]), ..setup(&rules) };
        let mut sim = simulation(setup, &traffic, seed);
        sim.run();
        let report = sim.report();
        assert_eq!(report.limits_broken, 0, "seed {seed}: {:?}\n{rules}\n{traffic}", report.first_broken);
        assert_eq!(report.queued, 0, "seed {seed}: after three days there is mail left\n{rules}\n{traffic}");
        checked += report.limits_checked;
    }
    assert!(checked > 100_000, "only {checked} checks");
}
