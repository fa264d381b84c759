//! A million messages to a thousand sites: `cargo run --release -p simulator --example million`.
//!
//! Prints what it took in real time, and what the clock of the simulation says. The first argument is another number
//! of messages, the second another number of sites.

#![allow(clippy::disallowed_methods, reason = "it measures")]

use shaping::{Layer, Origin, Rules, ShapingConfig};
use simulator::{CampaignConfig, ReceiverConfig, Setup, Simulation, Traffic};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.replace('_', "").parse::<u64>());
    let messages = arguments.next().and_then(Result::ok).unwrap_or(1_000_000);
    let sites = arguments.next().and_then(Result::ok).unwrap_or(1_000);
    let receiver = ReceiverConfig {
        count: u32::try_from(sites).unwrap_or(1_000),
        connections: 30,
        unknown_users: 0.01,
        mailboxes_full: 0.01,
        ..ReceiverConfig::default()
    };
    let campaign = CampaignConfig {
        tenant: Some("shop".into()),
        campaign: Some("spring".into()),
        pool: None,
        priority: simulator::Class::Bulk,
        messages,
        size: settings::Size::kib(40),
        starts: Duration::ZERO,
        rate: settings::Text("5k/s".parse().expect("it is a rate")),
        to: BTreeMap::from([("site".to_owned(), 1.0)]),
    };
    let traffic = Traffic {
        receiver: BTreeMap::from([("site".to_owned(), receiver)]),
        campaign: BTreeMap::from([("spring".to_owned(), campaign)]),
        ..Traffic::default()
    };
    let config = ShapingConfig::default();
    let origin = |_| Origin { file: "example".into(), line: 0 };
    let rules = Rules::compile(&[Layer { config: &config, origin: &origin }]).expect("the default compiles");
    let setup = Setup {
        egress: dispatch::Egress::default(),
        rules: rules.into(),
        dispatch: dispatch::Config::default(),
        schedule: queue::Schedule {
            backoff: queue::Backoff::Exponential {
                first: Duration::from_secs(600),
                factor: 1.5,
                max: Duration::from_secs(14_400),
            },
            jitter: 0.1,
        },
        connect_timeout: Duration::from_secs(30),
        greeting_timeout: Duration::from_secs(300),
        idle_timeout: Duration::from_secs(5),
    };
    let began = Instant::now();
    let mut simulation = Simulation::new(began, setup, &traffic, 1).expect("the world is sound");
    let mut most = 0;
    let mut steps = 0u64;
    while simulation.step() {
        steps += 1;
        most = most.max(simulation.accepted() - simulation.settled());
    }
    let report = simulation.report();
    println!(
        "{messages} messages to {sites} sites: {:.2}s real, {:?} simulated, {steps} steps, {most} queued at most",
        began.elapsed().as_secs_f64(),
        report.lasted
    );
    println!("{:?}, {} checks, {} broken", report.outcomes, report.limits_checked, report.limits_broken);
}
