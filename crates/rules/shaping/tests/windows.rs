//! The ledger under random traffic, as receivers see it. `examples/windows.rs` makes a hundred thousand runs.

#![allow(clippy::disallowed_methods, reason = "only the clock makes an Instant")]

mod driver;

/// Runs of this test; a debug build takes some seconds for them.
const RUNS: u64 = 2_000;

#[test]
fn no_sliding_window_at_the_receiver_is_over_and_enough_mail_uses_nearly_all() {
    let mut windows = 0;
    for seed in 0..RUNS {
        let outcome = driver::run(seed);
        assert_eq!(outcome.over, 0, "seed {seed}: {outcome:?}");
        assert!(outcome.used.is_none_or(|used| used >= 0.98), "seed {seed}: {outcome:?}");
        windows += outcome.windows;
    }
    assert!(windows > 100 * RUNS, "only {windows} windows were looked at");
}
