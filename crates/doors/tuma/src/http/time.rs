//! Times as people write them.

/// Reads `2026-12-24`, `2026-12-24T18:00Z`, `2026-12-24 18:00:30`, fractions of a second and an offset such as
/// `+02:00` (RFC 3339): milliseconds since 1970. Without an offset it is UTC.
pub(super) fn rfc3339(text: &str) -> Option<u64> {
    let text = text.trim();
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, "00:00"),
    };
    let (time, offset) = match time.find(['Z', 'z', '+', '-']) {
        Some(at) => (&time[..at], offset(&time[at..])?),
        None => (time, 0),
    };
    let (time, millis) = match time.split_once('.') {
        Some((time, fraction)) => {
            let digits = fraction.bytes().all(|b| b.is_ascii_digit()) && (1..=9).contains(&fraction.len());
            let padded = format!("{fraction:0<3}");
            (time, digits.then(|| padded.get(..3)?.parse::<i64>().ok()).flatten()?)
        }
        None => (time, 0),
    };
    let (date, time) = (numbers(date, '-', 3, 3)?, numbers(time, ':', 2, 3)?);
    let (year, month, day) = (date[0], date[1], date[2]);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => 31,
    };
    let (hour, minute, second) = (time[0], time[1], time.get(2).copied().unwrap_or(0));
    let fits = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !fits {
        return None;
    }
    // Days since 1970 of a date of the Gregorian calendar (Hinnant's algorithm).
    let y = if month <= 2 { year - 1 } else { year };
    let era = y / 400;
    let of_era = y - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    u64::try_from(seconds * 1_000 + millis).ok()
}

fn numbers(text: &str, by: char, least: usize, most: usize) -> Option<Vec<i64>> {
    let parts: Vec<&str> = text.split(by).collect();
    let digits =
        |part: &&str| !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
    if !(least..=most).contains(&parts.len()) || !parts.iter().all(digits) {
        return None;
    }
    parts.iter().map(|part| part.parse().ok()).collect()
}

/// Seconds east of UTC.
fn offset(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let parts = numbers(text.get(1..)?, ':', 2, 2)?;
    (parts[0] < 24 && parts[1] < 60).then(|| sign * (parts[0] * 3_600 + parts[1] * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, expected) in [
            ("1970-01-01", 0),
            ("1970-01-01T00:00:01Z", 1_000),
            ("1970-01-01 00:01", 60_000),
            ("2000-02-29T12:00:00.25Z", 951_825_600_250),
            ("2026-12-24T18:00:00+02:00", 1_798_128_000_000),
            ("2026-12-24T16:00:00-00:00", 1_798_128_000_000),
        ] {
            assert_eq!(rfc3339(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "soon",
            "2026-13-01",
            "2026-02-29",
            "1969-12-31",
            "2026-01-01T24:00",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00+2",
            "2026-01-01T00:00:00.Z",
            "1970-01-01T00:00:00+01:00",
            "99999-01-01",
        ] {
            assert_eq!(rfc3339(text), None, "{text}");
        }
    }
}
