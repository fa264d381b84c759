//! Times as the files write them, always UTC.

use mail::UnixMillis;

/// Writes times, remembering the last second: records come thousands to the second.
#[derive(Debug, Default)]
pub(crate) struct TimeWriter {
    second: Option<u64>,
    /// `2026-03-01 10:00:05`
    text: [u8; 19],
}

impl TimeWriter {
    fn at(&mut self, second: u64) -> &mut [u8; 19] {
        if self.second != Some(second) {
            self.second = Some(second);
            let (year, month, day) = civil(second / 86_400);
            let of_day = second % 86_400;
            let parts = [year / 100, year % 100, month, day, of_day / 3_600, of_day / 60 % 60, of_day % 60];
            let at = [0, 2, 5, 8, 11, 14, 17];
            self.text = *b"0000-00-00 00:00:00";
            for (part, at) in parts.into_iter().zip(at) {
                self.text[at] = b'0' + (part / 10 % 10) as u8;
                self.text[at + 1] = b'0' + (part % 10) as u8;
            }
        }
        &mut self.text
    }

    /// `2026-03-01T10:00:05.123Z`
    pub(crate) fn iso_millis(&mut self, out: &mut Vec<u8>, time: UnixMillis) {
        let text = self.at(time.0 / 1_000);
        out.extend_from_slice(&text[..10]);
        out.push(b'T');
        out.extend_from_slice(&text[11..]);
        let millis = time.0 % 1_000;
        let digit = |n: u64| b'0' + (n % 10) as u8;
        out.extend_from_slice(&[b'.', digit(millis / 100), digit(millis / 10), digit(millis), b'Z']);
    }

    /// `2026-03-01 10:00:05+0000`
    pub(crate) fn iso_zone(&mut self, out: &mut Vec<u8>, time: UnixMillis) {
        out.extend_from_slice(self.at(time.0 / 1_000));
        out.extend_from_slice(b"+0000");
    }
}

/// `2026-03-01T10:00:05.123Z`
pub fn iso_time(time: UnixMillis) -> String {
    let mut out = Vec::with_capacity(24);
    TimeWriter::default().iso_millis(&mut out, time);
    // Digits and a few signs.
    String::from_utf8_lossy(&out).into_owned()
}

/// `2026-03-01`
pub(crate) fn day(time: UnixMillis) -> String {
    let (year, month, day) = civil(time.0 / 86_400_000);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month and day of a day counted from 1970-01-01; the year is taken to begin in March, so that the leap
/// day comes last. `message` has the same for its own field; a room for eight lines would be one room too many.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// Appends a number in decimal; several times cheaper than `write!`.
pub(crate) fn push_number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_written() {
        let mut times = TimeWriter::default();
        let mut text = |millis: u64| {
            let mut out = Vec::new();
            times.iso_millis(&mut out, UnixMillis(millis));
            out.push(b' ');
            times.iso_zone(&mut out, UnixMillis(millis));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(0), "1970-01-01T00:00:00.000Z 1970-01-01 00:00:00+0000");
        assert_eq!(text(1_772_359_205_123), "2026-03-01T10:00:05.123Z 2026-03-01 10:00:05+0000");
        assert_eq!(text(1_772_359_205_999), "2026-03-01T10:00:05.999Z 2026-03-01 10:00:05+0000");
        assert_eq!(text(951_782_400_000), "2000-02-29T00:00:00.000Z 2000-02-29 00:00:00+0000");
        assert_eq!(day(UnixMillis(4_107_542_400_000)), "2100-03-01");
        text(u64::MAX);
    }

    #[test]
    fn numbers() {
        for value in [0, 9, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }
}
