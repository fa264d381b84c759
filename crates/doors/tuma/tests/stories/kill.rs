//! kill -9 under load, again and again (attack row 74). `TUMA_KILL_CYCLES=500` makes it a long one.

use crate::harness::{Setup, block_on, fixed_address, load, rules, sink, wait_until};
use bench::loader::{Amount, Loader, Options};
use bench::sequence::SequenceSet;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// `shaping.default.connections` of the server under test.
const CONNECTIONS_OUT: u64 = 20;

#[test]
fn killed_again_and_again_under_load_nothing_acknowledged_is_lost() {
    let cycles: u64 = std::env::var("TUMA_KILL_CYCLES").map_or(20, |text| text.parse().expect("a number"));
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(bench::sink::Options::default());
    // The next process must be found where the one before was.
    let address = fixed_address();
    let setup = Setup::relay_with(
        folder.path(),
        sink.addr(),
        // Small segments: each process leaves one that was not sealed, and the last one reads them all to their ends.
        "[shaping.default]\nconnections = 20\n[log]\nlevel = \"warn,tuma=info\"\n\
         [spool]\ndirectory = \"${TUMA_DATA}/spool\"\nsegment_bytes = \"4MiB\"\n",
    )
    .env("TUMA_LISTEN", &address.to_string())
    .env("TUMA_RETRY", "200ms");
    let mut tuma = setup.start();
    let loader = Loader::start(Options {
        amount: Amount::Time(Duration::from_secs(24 * 3600)),
        connections: 8,
        failures_max: u64::MAX,
        ..load(address, 0)
    });
    for cycle in 0..cycles {
        // Some mail is taken by each process before a moment that nobody chose.
        let before = loader.accepted();
        wait_until("mail is taken", || loader.accepted() > before);
        let pause = RandomState::new().hash_one(cycle) % 250;
        std::thread::sleep(Duration::from_millis(pause));
        tuma.kill();
        tuma = setup.start();
    }
    loader.stop();
    let report = block_on(loader.finish());
    tuma.wait_until_settled();
    let received = sink.received(report.run);
    assert_eq!(report.acknowledged.without(&received, 10), [], "acknowledged and lost, of {report}");
    assert_eq!(tuma.metric("tuma_spool_set_aside_total") as u64, 0);
    let mut sent = report.acknowledged.clone();
    sent.merge(&report.unanswered);
    assert_eq!(received.without(&sent, 10), [], "received and never sent");
    // What a kill can repeat is the message at each connection whose settlement was not written yet.
    let duplicates = sink.stats().duplicates();
    eprintln!("{cycles} kills, {} acknowledged, {duplicates} duplicates", report.accepted);
    assert!(duplicates <= cycles * CONNECTIONS_OUT, "{duplicates} duplicates after {cycles} kills");
    tuma.stop();
}

#[test]
fn killed_amid_bounces_every_sender_has_the_delivery_or_the_notification() {
    let folder = tempfile::tempdir().unwrap();
    // Every other recipient is refused for good; the senders of those are told.
    let sink = sink(bench::sink::Options {
        rules: rules(&["rcpt:address=b*,every=2:550 5.1.1 no"]),
        keep: bench::sink::Keep::Memory { messages_max: 1_000_000 },
        ..bench::sink::Options::default()
    });
    let address = fixed_address();
    let setup = Setup::relay_with(folder.path(), sink.addr(), "[dsn]\nenabled = true\n")
        .env("TUMA_LISTEN", &address.to_string())
        .env("TUMA_RETRY", "200ms");
    let mut tuma = setup.start();
    let loader = Loader::start(Options {
        amount: Amount::Time(Duration::from_secs(24 * 3600)),
        connections: 4,
        size: 400,
        failures_max: u64::MAX,
        ..load(address, 0)
    });
    for cycle in 0..8 {
        let before = loader.accepted();
        wait_until("mail is taken", || loader.accepted() > before);
        std::thread::sleep(Duration::from_millis(RandomState::new().hash_one(cycle) % 150));
        tuma.kill();
        tuma = setup.start();
    }
    loader.stop();
    let report = block_on(loader.finish());
    tuma.wait_until_settled();
    // The mark stands in what was delivered, and in the header that a notification returns.
    let mark = format!("X-Tuma-Bench: {:08x}-", report.run);
    let (mut told, mut delivered) = (SequenceSet::default(), SequenceSet::default());
    for message in sink.messages() {
        let text = String::from_utf8_lossy(&message.content).into_owned();
        let (_, rest) = text.split_once(&mark).unwrap_or_else(|| panic!("no mark in {text}"));
        let number = rest.split('-').next().unwrap().parse().unwrap();
        if message.reverse_path.is_empty() {
            told.insert(number)
        } else {
            delivered.insert(number)
        };
    }
    assert!(!told.is_empty() && !delivered.is_empty());
    let mut both = told.clone();
    both.merge(&delivered);
    assert_eq!(report.acknowledged.without(&both, 10), [], "acknowledged, and nobody was told");
}
