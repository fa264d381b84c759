//! Rates: `20/s`, `5000/h`, `100k/d`; of octets, `50MB/m`.

use std::fmt;
use std::time::Duration;

/// So many in any window of such a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The most in any sliding window.
    pub count: u64,
    /// The window's length.
    pub period: Duration,
}

/// A text that is not a rate; says what one looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateError;

impl fmt::Display for RateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a rate is a count, a slash and a period, such as 20/s, 300/m, 5000/h, 100k/d or 50/10s")
    }
}

impl std::error::Error for RateError {}

impl std::str::FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (count, period) = text.split_once('/').ok_or(RateError)?;
        let (count, period) = (count.trim(), period.trim());
        let (digits, scale) = match count.chars().last() {
            Some('k' | 'K') => (&count[..count.len() - 1], 1_000),
            Some('m' | 'M') => (&count[..count.len() - 1], 1_000_000),
            _ => (count, 1),
        };
        let count = number(digits)?.checked_mul(scale).ok_or(RateError)?;
        if count == 0 {
            return Err(RateError);
        }
        Ok(Self { count, period: parse_period(period).ok_or(RateError)? })
    }
}

/// The part of a rate after the slash: `s`, `10m`, `day`.
fn parse_period(period: &str) -> Option<Duration> {
    let unit_at = period.find(|c: char| !c.is_ascii_digit())?;
    let times = if unit_at == 0 { 1 } else { number(&period[..unit_at]).ok()? };
    let seconds = match &period[unit_at..] {
        "s" | "sec" | "second" => 1,
        "m" | "min" | "minute" => 60,
        "h" | "hr" | "hour" => 3_600,
        "d" | "day" => 86_400,
        _ => return None,
    };
    let seconds = times.checked_mul(seconds).filter(|&s| s > 0 && s <= 366 * 86_400)?;
    Some(Duration::from_secs(seconds))
}

fn number(digits: &str) -> Result<u64, RateError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(RateError);
    }
    digits.parse().map_err(|_| RateError)
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, Period(self.period))
    }
}

struct Period(Duration);

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match [(86_400, "d"), (3_600, "h"), (60, "m")].iter().find(|(unit, _)| seconds.is_multiple_of(*unit))
        {
            Some((unit, name)) if seconds == *unit => f.write_str(name),
            Some((unit, name)) => write!(f, "{}{name}", seconds / unit),
            None if seconds == 1 => f.write_str("s"),
            None => write!(f, "{seconds}s"),
        }
    }
}

/// So many octets in any window of such a length: `50MB/m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRate(pub Rate);

/// A text that is not a rate of octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRateError;

impl fmt::Display for ByteRateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a rate of octets is a size, a slash and a period, such as 50MB/m or 2GiB/h")
    }
}

impl std::error::Error for ByteRateError {}

impl std::str::FromStr for ByteRate {
    type Err = ByteRateError;

    fn from_str(text: &str) -> Result<Self, ByteRateError> {
        let (size, period) = text.split_once('/').ok_or(ByteRateError)?;
        let count = settings::parse_size(size).filter(|size| !size.is_empty()).ok_or(ByteRateError)?.bytes();
        Ok(Self(Rate { count, period: parse_period(period.trim()).ok_or(ByteRateError)? }))
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", settings::Size(self.0.count), Period(self.0.period))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_and_print() {
        for (text, count, seconds, printed) in [
            ("20/s", 20, 1, "20/s"),
            ("5000/h", 5000, 3600, "5000/h"),
            ("100k/d", 100_000, 86_400, "100000/d"),
            ("50/10s", 50, 10, "50/10s"),
            ("1M/day", 1_000_000, 86_400, "1000000/d"),
            ("3/ 2min", 3, 120, "3/2m"),
        ] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(
                (rate.count, rate.period.as_secs(), rate.to_string().as_str()),
                (count, seconds, printed)
            );
        }
        for text in
            ["", "20", "/s", "20/", "-1/s", "20/x", "0/s", "1/0s", "1e3/s", "99999999999999999999/s", "k/s"]
        {
            assert_eq!(text.parse::<Rate>(), Err(RateError), "{text}");
        }
    }

    #[test]
    fn rates_of_octets_read_and_print() {
        for (text, count, seconds, printed) in [
            ("50MB/m", 50_000_000, 60, "50MB/m"),
            ("2 GiB / 2h", 2 << 30, 7_200, "2GiB/2h"),
            ("1500/s", 1_500, 1, "1500B/s"),
        ] {
            let rate: ByteRate = text.parse().unwrap();
            assert_eq!(
                (rate.0.count, rate.0.period.as_secs(), rate.to_string().as_str()),
                (count, seconds, printed)
            );
        }
        for text in ["", "50MB", "50M/m", "0B/s", "5MB/x"] {
            assert_eq!(text.parse::<ByteRate>(), Err(ByteRateError), "{text}");
        }
    }
}
