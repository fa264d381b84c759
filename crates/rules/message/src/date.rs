//! Dates as header fields write them (RFC 5322 §3.3), made from and read to milliseconds since 1970.

use mail::UnixMillis;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The last second we write: the end of the year 9999. A clock beyond it is a fault, and five digits of year
/// are not RFC 5322's.
const LAST_SECOND: u64 = 253_402_300_799;

/// Year, month (1 to 12) and day (1 to 31) of a day counted from 1970-01-01, in the Gregorian calendar.
/// The year is taken to begin in March, so that the leap day comes last (Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Days from 1970-01-01 to a date; the reverse of [`civil`]. Negative before 1970.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Appends `Thu, 01 Jan 1970 00:00:00 +0000`: always 31 octets, always UTC, so that a record of ours never
/// depends on a server's time zone.
pub fn write_date(out: &mut Vec<u8>, time: UnixMillis) {
    let seconds = (time.0 / 1_000).min(LAST_SECOND);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    out.extend_from_slice(DAYS[(days % 7) as usize].as_bytes());
    out.extend_from_slice(b", ");
    two(out, day);
    out.push(b' ');
    out.extend_from_slice(MONTHS[(month - 1) as usize].as_bytes());
    out.push(b' ');
    two(out, year / 100);
    two(out, year % 100);
    out.push(b' ');
    two(out, of_day / 3_600);
    out.push(b':');
    two(out, of_day / 60 % 60);
    out.push(b':');
    two(out, of_day % 60);
    out.extend_from_slice(b" +0000");
}

fn two(out: &mut Vec<u8>, value: u64) {
    out.push(b'0' + (value / 10 % 10) as u8);
    out.push(b'0' + (value % 10) as u8);
}

/// Reads a date of RFC 5322 §3.3, the obsolete zones and two-digit years of §4.3 included; comments at the end
/// are passed over. Dates before 1970 become 0.
pub fn parse_date(text: &str) -> Option<UnixMillis> {
    let text = match text.split_once(',') {
        Some((_, rest)) => rest,
        None => text,
    };
    let mut words = text.split([' ', '\t']).filter(|word| !word.is_empty());
    let day = number(words.next()?, 2)?;
    let month_name = words.next()?;
    let month = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(month_name))? as i64 + 1;
    let year_text = words.next()?;
    let year = match (year_text.len(), number(year_text, 4)?) {
        (2, year) if year < 50 => year + 2000,
        (2 | 3, year) => year + 1900,
        (4, year) => year,
        _ => return None,
    };
    let mut clock = words.next()?.split(':');
    let (hour, minute) = (number(clock.next()?, 2)?, number(clock.next()?, 2)?);
    let second = clock.next().map_or(Some(0), |text| number(text, 2))?;
    if clock.next().is_some() || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let offset = zone_minutes(words.next().unwrap_or("+0000"))?;
    let seconds =
        days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset * 60;
    Some(UnixMillis(u64::try_from(seconds).unwrap_or(0) * 1_000))
}

fn number(text: &str, digits_max: usize) -> Option<i64> {
    if text.is_empty() || text.len() > digits_max || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

fn zone_minutes(zone: &str) -> Option<i64> {
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        // Named zones: only the North American ones and UTC ever had a fixed meaning (RFC 5322 §4.3).
        _ => {
            let hours = match zone.to_ascii_uppercase().as_str() {
                "EDT" => -4,
                "EST" | "CDT" => -5,
                "CST" | "MDT" => -6,
                "MST" | "PDT" => -7,
                "PST" => -8,
                _ => 0,
            };
            return Some(hours * 60);
        }
    };
    let value = number(&zone[1..], 4)?;
    (zone.len() == 5 && value % 100 < 60).then_some(sign * (value / 100 * 60 + value % 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(seconds: u64) -> String {
        let mut out = Vec::new();
        write_date(&mut out, UnixMillis(seconds * 1_000 + 999));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates_written() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 +0000"),
            (1_772_359_205, "Sun, 01 Mar 2026 10:00:05 +0000"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 +0000"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 +0000"),
            (LAST_SECOND, "Fri, 31 Dec 9999 23:59:59 +0000"),
        ] {
            assert_eq!(written(seconds), text);
            assert_eq!(parse_date(text), Some(UnixMillis(seconds * 1_000)));
        }
        assert_eq!(written(u64::MAX / 1_000 - 1), "Fri, 31 Dec 9999 23:59:59 +0000");
    }

    #[test]
    fn every_day_reads_back() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..150_000 {
            assert_eq!(civil(days), (year, month, day), "day {days}");
            assert_eq!(days_from_civil(year as i64, month as i64, day as i64), days as i64);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let last = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > last {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }

    #[test]
    fn dates_of_others() {
        for text in [
            "Sun, 1 Mar 2026 10:00:05 +0000",
            "1 Mar 2026 10:00:05 GMT",
            "Sun,  1 mar 26 12:00:05 +0200 (CEST)",
            "Sun, 1 Mar 2026 02:00:05 PST",
            "Sun, 1 Mar 2026 04:30:05 -0530",
        ] {
            assert_eq!(parse_date(text), Some(UnixMillis(1_772_359_205_000)), "{text}");
        }
        for text in [
            "",
            ",",
            "1",
            "1 Mar",
            "32 Mar 2026 1:1:1",
            "1 Mär 2026 1:1",
            "1 Mar 2026 24:00",
            "1 Mar 2026 1:1 +01",
        ] {
            assert_eq!(parse_date(text), None, "{text}");
        }
    }
}
