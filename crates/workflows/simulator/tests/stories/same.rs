//! One seed, one answer.

use crate::rig::{setup, simulation};

const TRAFFIC: &str = r#"
    [receiver.big]
    replies = "gmail"
    connections = 3
    message_rates = ["10/s"]
    unknown_users = 0.05
    [receiver.small]
    count = 50
    mailboxes_full = 0.1
    greylisting = "5m"
    [campaign.one]
    tenant = "a"
    messages = 3_000
    to = { big = 2, small = 1 }
    [campaign.two]
    tenant = "b"
    messages = 1_000
    starts = "1m"
    rate = "5/s"
    to = { big = 1, small = 1 }
"#;

fn told(seed: u64) -> String {
    let mut sim = simulation(setup("[default]\nconnections = 8"), TRAFFIC, seed);
    sim.run();
    format!("{:#?}", sim.report())
}

#[test]
fn the_same_seed_gives_the_same_answer_and_another_one_another() {
    let first = told(7);
    assert_eq!(first, told(7));
    assert_ne!(first, told(8));
}

#[test]
fn a_message_goes_where_its_number_says() {
    let mut sim = simulation(setup(""), TRAFFIC, 3);
    sim.run();
    let report = sim.report();
    let share = report.receivers[0].messages as f64;
    // Two thirds of three thousand and half of one thousand, as far as chance goes.
    assert!((2_500.0 - share).abs() < 150.0, "{share}");
    assert_eq!(report.receivers.iter().map(|kind| kind.messages).sum::<u64>(), 4_000);
}
