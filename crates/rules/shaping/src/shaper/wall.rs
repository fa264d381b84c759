//! A wall clock that does not jump.

use std::time::{Duration, Instant};

use mail::UnixMillis;

/// Milliseconds of a day.
pub const DAY_MS: u64 = 86_400_000;
/// How far the clocks may be apart before it is a jump.
const DRIFT_MAX: u64 = 2_000;
/// The pace at which a jump is followed: a tenth of the time that passes.
const FOLLOW: u64 = 10;

/// The wall clock as the monotonic one carries it on. A jump of an hour is followed in ten hours, so that a clock
/// that was set wrong neither ends a warm-up nor holds mail for years.
#[derive(Debug, Default)]
pub struct SteadyWall(Option<(Instant, u64)>);

impl SteadyWall {
    /// The time of day, for days and their ends.
    pub fn read(&mut self, now: Instant, wall: UnixMillis) -> UnixMillis {
        let Some((at, then)) = self.0 else {
            self.0 = Some((now, wall.0));
            return wall;
        };
        let elapsed = u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX);
        let expected = then.saturating_add(elapsed);
        let apart = wall.0.abs_diff(expected);
        if apart <= DRIFT_MAX {
            self.0 = Some((now, wall.0));
            return wall;
        }
        if elapsed < 10_000 {
            return UnixMillis(expected);
        }
        let step = apart.min(elapsed / FOLLOW);
        let steady =
            if wall.0 > expected { expected.saturating_add(step) } else { expected.saturating_sub(step) };
        self.0 = Some((now, steady));
        UnixMillis(steady)
    }
}

/// The day, counted from 1970-01-01 UTC.
pub fn day(wall: UnixMillis) -> u32 {
    u32::try_from(wall.0 / DAY_MS).unwrap_or(u32::MAX)
}

/// How long the day lasts yet.
pub fn until_midnight(wall: UnixMillis) -> Duration {
    Duration::from_millis(DAY_MS - wall.0 % DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_followed_slowly_and_a_drift_at_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut clock = SteadyWall::default();
        assert_eq!(clock.read(at(0), UnixMillis(1_000_000)).0, 1_000_000);
        assert_eq!(clock.read(at(10), UnixMillis(1_011_000)).0, 1_011_000, "a second off is drift");
        let year = 365 * DAY_MS;
        assert_eq!(clock.read(at(11), UnixMillis(1_012_000 + year)).0, 1_012_000);
        let mut steady = 0;
        for second in 12..3_612 {
            steady = clock.read(at(second), UnixMillis(1_000_000 + second * 1_000 + year)).0;
        }
        assert!(
            (4_900_000..5_000_000).contains(&steady),
            "an hour later it has followed six minutes: {steady}"
        );
        for second in 3_612..7_212 {
            steady = clock.read(at(second), UnixMillis(second * 1_000)).0;
        }
        assert!(steady > 7_000_000, "nor does it go back: {steady}");
    }
}
