//! When a certificate is renewed, and when it is tried again. Pure: time and chance are arguments.

use mail::UnixMillis;
use std::time::Duration;

/// When a certificate's turn is: `before` its end or a third of its lifetime before, whichever is later; then up to a
/// tenth of that span later still, by `seed`, so that the servers of a farm do not all come at once.
pub fn due(not_before: UnixMillis, not_after: UnixMillis, before: Duration, seed: u64) -> UnixMillis {
    let lifetime = not_after.0.saturating_sub(not_before.0);
    let before = u64::try_from(before.as_millis()).unwrap_or(u64::MAX).min(lifetime / 3);
    let late = (before / 10).saturating_mul(seed % 1_000) / 1_000;
    UnixMillis(not_after.0.saturating_sub(before) + late)
}

/// How long to wait after so many failures in a row: `min`, doubled with each, until `max`; up to a tenth longer by
/// `seed`.
pub fn wait(failures: u32, min: Duration, max: Duration, seed: u64) -> Duration {
    let doubled = min.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let wait = doubled.min(max);
    wait.saturating_add(wait / 10_000 * (seed % 1_000) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    #[test]
    fn turns() {
        let thirty = Duration::from_secs(30 * 86_400);
        let turn =
            |lifetime: u64, seed| due(UnixMillis(DAY), UnixMillis(DAY + lifetime), thirty, seed).0 - DAY;
        assert_eq!(turn(90 * DAY, 0), 60 * DAY);
        assert_eq!(turn(90 * DAY, 500), 61 * DAY + DAY / 2);
        assert_eq!(turn(398 * DAY, 0), 368 * DAY);
        // Six days: two before the end.
        assert_eq!(turn(6 * DAY, 0), 4 * DAY);
        assert_eq!(turn(0, 999), 0);
        assert_eq!(due(UnixMillis(5), UnixMillis(1), Duration::MAX, 999).0, 1);
    }

    #[test]
    fn waits_double_until_their_bound() {
        let (min, max) = (Duration::from_secs(600), Duration::from_secs(86_400));
        let waits: Vec<u64> = [0, 1, 2, 3, 8, 9, 40, u32::MAX].map(|n| wait(n, min, max, 0).as_secs()).into();
        assert_eq!(waits, [600, 600, 1_200, 2_400, 76_800, 86_400, 86_400, 86_400]);
        assert!(wait(1, min, max, 999) > min && wait(1, min, max, 999) < min + min / 10);
    }
}
