//! Our names for a message and for a session.

use std::fmt;

/// Digits of an id: Crockford's base 32, lower case, which sorts as the number does.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Our name for an accepted message; not the Message-ID field. Unique on one node for ever: made from the
/// microsecond of acceptance, never reused and never going back (`spool` sees to it).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpoolId(pub u64);

/// Our name for one session, in logs and records. Unique within one run of the server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

fn write_base32(value: u64, width: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = [0u8; 13];
    for (n, digit) in text.iter_mut().rev().enumerate() {
        *digit = DIGITS[((value >> (5 * n as u32)) & 31) as usize];
    }
    let from = 13 - width as usize;
    let first = text.iter().position(|&b| b != b'0').unwrap_or(12).min(from);
    f.write_str(std::str::from_utf8(&text[first..]).map_err(|_| fmt::Error)?)
}

fn read_base32(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 13 {
        return None;
    }
    text.bytes().try_fold(0u64, |value, byte| {
        let digit = DIGITS.iter().position(|&d| d == byte.to_ascii_lowercase())?;
        value.checked_mul(32)?.checked_add(digit as u64)
    })
}

macro_rules! id {
    ($name:ident, $width:expr) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_base32(self.0, $width, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl $name {
            /// Reads the text form; `None` if it is not one.
            pub fn parse(text: &str) -> Option<Self> {
                read_base32(text).map(Self)
            }
        }
    };
}

id!(SpoolId, 11);
id!(SessionId, 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_sort() {
        for value in [0, 1, 31, 32, 1_790_000_000_000_000, u64::MAX] {
            assert_eq!(SpoolId::parse(&SpoolId(value).to_string()), Some(SpoolId(value)));
            assert_eq!(SessionId::parse(&SessionId(value).to_string()), Some(SessionId(value)));
        }
        assert!(SpoolId(1_790_000_000_000_000).to_string() < SpoolId(1_790_000_000_000_001).to_string());
        assert_eq!(SpoolId::parse("zzzzzzzzzzzzz"), None);
        assert_eq!(SpoolId::parse("u"), None);
    }
}
