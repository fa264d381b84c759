//! Calendar dates: the day a warm-up begins.

use std::fmt;
use std::str::FromStr;

/// A day of the Gregorian calendar, as days since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(pub u32);

/// A text that is no date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateError;

impl fmt::Display for DateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a date is a year from 1970 to 9999, a month and a day, such as 2026-11-01")
    }
}

impl std::error::Error for DateError {}

const fn days_in(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to January 1st of a year.
const fn days_before(year: u32) -> u32 {
    let y = year - 1;
    (365 * y + y / 4 - y / 100 + y / 400) - 719_162
}

impl FromStr for Date {
    type Err = DateError;

    fn from_str(text: &str) -> Result<Self, DateError> {
        let mut parts = text.split('-');
        let mut part = |len: usize| {
            let part = parts.next().filter(|part| part.len() == len).ok_or(DateError)?;
            if part.bytes().all(|b| b.is_ascii_digit()) {
                part.parse::<u32>().map_err(|_| DateError)
            } else {
                Err(DateError)
            }
        };
        let (year, month, day) = (part(4)?, part(2)?, part(2)?);
        let sound = year >= 1970 && (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
        if !sound || parts.next().is_some() {
            return Err(DateError);
        }
        Ok(Self(days_before(year) + (1..month).map(|month| days_in(year, month)).sum::<u32>() + day - 1))
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut year = 1970 + self.0 / 366;
        while days_before(year + 1) <= self.0 {
            year += 1;
        }
        let (mut day, mut month) = (self.0 - days_before(year), 1);
        while day >= days_in(year, month) {
            day -= days_in(year, month);
            month += 1;
        }
        write!(f, "{year:04}-{month:02}-{:02}", day + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_and_print() {
        for (text, days) in [
            ("1970-01-01", 0),
            ("1970-12-31", 364),
            ("2000-02-29", 11_016),
            ("2026-11-01", 20_758),
            ("9999-12-31", 2_932_896),
        ] {
            assert_eq!(text.parse::<Date>(), Ok(Date(days)), "{text}");
            assert_eq!(Date(days).to_string(), text);
        }
        for text in [
            "",
            "2026-11",
            "2026-13-01",
            "2026-02-29",
            "2026-11-00",
            "1969-12-31",
            "2026-11-1",
            "2026-11-01-1",
            "+026-11-01",
        ] {
            assert_eq!(text.parse::<Date>(), Err(DateError), "{text}");
        }
    }
}
