//! Base64 as AUTH carries it (RFC 4954 §4): the standard alphabet, padded, no line breaks.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends the base64 form of `bytes` to `out`.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for group in bytes.chunks(3) {
        let value = group.iter().fold(0u32, |value, &b| value << 8 | u32::from(b)) << (8 * (3 - group.len()));
        for n in 0..4 {
            let digit = ALPHABET[(value >> (18 - 6 * n) & 63) as usize];
            out.push(if n <= group.len() { digit } else { b'=' });
        }
    }
}

/// Reads padded base64; `None` if `text` is not exactly that. Bits that padding leaves over must be zero, so
/// that each value has one spelling.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let groups = text.len() / 4;
    for (n, group) in text.chunks_exact(4).enumerate() {
        let padding = group.iter().rev().take_while(|&&b| b == b'=').count();
        if padding > 2 || (padding > 0 && n + 1 != groups) {
            return None;
        }
        let mut value = 0u32;
        for &b in &group[..4 - padding] {
            value = value << 6 | digit(b)?;
        }
        value <<= 6 * padding;
        let octets = value.to_be_bytes();
        if octets[4 - padding..].iter().any(|&b| b != 0) {
            return None;
        }
        out.extend_from_slice(&octets[1..4 - padding]);
    }
    Some(out)
}

fn digit(b: u8) -> Option<u32> {
    Some(u32::from(match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("\0a\0b", "AGEAYg=="),
        ] {
            let mut out = Vec::new();
            encode(plain.as_bytes(), &mut out);
            assert_eq!(out, coded.as_bytes());
            assert_eq!(decode(coded.as_bytes()).as_deref(), Some(plain.as_bytes()));
        }
    }

    #[test]
    fn texts_that_are_no_base64() {
        for text in ["Z", "Zg", "Zg=", "Zh==", "Zm9=", "====", "Z===", "Zg==Zg==", "Zm 9", "Zm9v\r", "Zm-_"] {
            assert_eq!(decode(text.as_bytes()), None, "{text}");
        }
    }
}
