//! A hundred thousand runs of random traffic through the ledger: `cargo run --release -p shaping --example windows`.
//! The first argument is another number of runs.

#![allow(clippy::disallowed_methods, reason = "only the clock makes an Instant")]

#[path = "../tests/driver/mod.rs"]
mod driver;

fn main() {
    let runs: u64 = std::env::args().nth(1).and_then(|runs| runs.parse().ok()).unwrap_or(100_000);
    let (mut over, mut windows, mut hungry) = (0, 0, 0);
    let mut least = f64::INFINITY;
    for seed in 0..runs {
        let outcome = driver::run(seed);
        if outcome.over > 0 {
            println!("seed {seed}: {outcome:?}");
        }
        over += outcome.over;
        windows += outcome.windows;
        if let Some(used) = outcome.used {
            hungry += 1;
            least = least.min(used);
        }
    }
    println!("{runs} runs, {windows} sliding windows at the receivers: {over} over the limit");
    println!("{hungry} of them with enough to send: at least {:.2}% of the limit used", 100.0 * least);
}
