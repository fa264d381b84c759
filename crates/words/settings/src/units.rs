//! How times and sizes are written: `1h30m`, `64KiB`.

use std::fmt;
use std::time::Duration;

/// A number of bytes. Written as a whole number or with a unit: `64KiB`, `10MB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

impl Size {
    /// That many times 1,024 bytes.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// That many times 1,024 KiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// That many times 1,024 MiB.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as the length of something in memory.
    pub fn len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// True for no bytes.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

impl fmt::Display for Size {
    /// In the largest unit that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, bytes) in SIZES {
            if self.0 >= bytes && self.0.is_multiple_of(bytes) {
                return write!(f, "{}{unit}", self.0 / bytes);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// Reads `64KiB`, `10MB`, `512`. Case does not matter, a space may stand before the unit, and `K`, `M`,
/// `G` and `T` alone are refused, since half the world reads them as powers of two.
pub fn parse_size(text: &str) -> Option<Size> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.replace('_', "").parse().ok()?;
    let unit = unit.trim_start();
    let (_, bytes) = match unit {
        "" => ("", 1),
        unit => SIZES.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?,
    };
    number.checked_mul(bytes).map(Size)
}

const TIMES: [(&str, u128); 8] = [
    ("w", 7 * 86_400_000_000_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads `500ms`, `30s`, `5m`, `4h`, `5d`, `2w` and sums such as `1h30m`, largest unit first.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut nanos: u128 = 0;
    let mut smallest = u128::MAX;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, size) = TIMES.into_iter().find(|(name, _)| *name == unit)?;
        // Descending units only: `5m1h` and `5m5m` are more likely slips than sums.
        if size >= smallest {
            return None;
        }
        smallest = size;
        nanos = nanos.checked_add(u128::from(number.parse::<u64>().ok()?).checked_mul(size)?)?;
        rest = after;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    // A remainder of a division by 10^9 fits.
    Some(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

/// Writes what [`parse_duration`] reads, exactly.
pub fn show_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    if rest == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    // Weeks are read but not written: `14d` is what people say.
    for (unit, size) in TIMES.into_iter().skip(1) {
        if rest >= size {
            text.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis, shown) in [
            ("500ms", 500, "500ms"),
            ("30s", 30_000, "30s"),
            ("90s", 90_000, "1m30s"),
            ("5m", 300_000, "5m"),
            ("1h30m", 5_400_000, "1h30m"),
            ("5d", 432_000_000, "5d"),
            ("2w", 1_209_600_000, "14d"),
            (" 1d2h3m4s5ms ", 93_784_005, "1d2h3m4s5ms"),
            ("0s", 0, "0s"),
        ] {
            let read = parse_duration(text).unwrap();
            assert_eq!(read, Duration::from_millis(millis), "{text}");
            assert_eq!(show_duration(read), shown);
            assert_eq!(parse_duration(shown), Some(read));
        }
        let exact = Duration::new(3, 1_002_003);
        assert_eq!(parse_duration(&show_duration(exact)), Some(exact));
        assert_eq!(parse_duration(&show_duration(Duration::MAX)), Some(Duration::MAX));
    }

    #[test]
    fn texts_that_are_no_duration() {
        for text in [
            "",
            " ",
            "5",
            "s",
            "5 s",
            "5x",
            "-5s",
            "1.5h",
            "5m1h",
            "5m5m",
            "5S",
            "99999999999999999999s",
            "５s",
            "18446744073709551615d",
            "1h 30m",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes, shown) in [
            ("0", 0, "0B"),
            ("512", 512, "512B"),
            ("64KiB", 65_536, "64KiB"),
            ("64 kib", 65_536, "64KiB"),
            ("10MB", 10_000_000, "10MB"),
            ("1_000_000", 1_000_000, "1MB"),
            ("3TiB", 3 << 40, "3TiB"),
            ("1001B", 1001, "1001B"),
        ] {
            let read = parse_size(text).unwrap();
            assert_eq!(read, Size(bytes), "{text}");
            assert_eq!(read.to_string(), shown);
            assert_eq!(parse_size(shown), Some(read));
        }
        for text in ["", "KiB", "-1", "1.5MB", "64K", "5Q", "99999999999999TiB", "1 2", "_", "１"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
