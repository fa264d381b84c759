//! Runs of random events through the machine: `cargo run --release -p dispatch --example random -- FROM COUNT`.

#![allow(clippy::disallowed_methods, reason = "only the clock makes an Instant")]

#[path = "../tests/driver/mod.rs"]
mod driver;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let from = numbers.next().and_then(Result::ok).unwrap_or(0);
    let count = numbers.next().and_then(Result::ok).unwrap_or(1_000);
    for seed in from..from + count {
        // A run that goes wrong panics; this is the seed that replays it.
        println!("seed {seed}");
        driver::run(seed);
    }
}
