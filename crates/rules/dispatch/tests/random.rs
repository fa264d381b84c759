//! The machine under random events: whatever happens, in whatever order, no recipient is lost or handed out twice,
//! permits come back, a path never has more connections than it may, and what is not used is forgotten.
//! `examples/random.rs` makes as many runs as wanted.

#![allow(clippy::disallowed_methods, reason = "only the clock makes an Instant")]

mod driver;

/// Runs of this test; a debug build takes some seconds for them.
const RUNS: u64 = 40;

#[test]
fn nothing_is_lost_or_handed_out_twice_whatever_happens() {
    for seed in 0..RUNS {
        println!("seed {seed}");
        driver::run(seed);
    }
}
