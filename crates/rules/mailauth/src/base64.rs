//! Base64 (RFC 4648 §4) as tags of DKIM and keys in PEM hold it: blanks and line ends between the digits count for
//! nothing, everything else is a mistake.

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends `octets` as base64 with padding.
pub(crate) fn encode_into(octets: &[u8], out: &mut Vec<u8>) {
    for group in octets.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|n| u32::from(group.get(n).copied().unwrap_or(0)));
        let bits = a << 16 | b << 8 | c;
        for (n, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = DIGITS[(bits >> shift & 63) as usize];
            out.push(if n <= group.len() { digit } else { b'=' });
        }
    }
}

/// `octets` as base64 with padding.
pub fn encode(octets: &[u8]) -> String {
    let mut out = Vec::with_capacity(octets.len().div_ceil(3) * 4);
    encode_into(octets, &mut out);
    out.into_iter().map(char::from).collect()
}

/// Reads base64; padding may be left out, as some keys in DNS have it. `None` for anything else.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut digits, mut padding) = (0u32, 0u32, 0u32);
    for &octet in text {
        let value = match octet {
            b'A'..=b'Z' => octet - b'A',
            b'a'..=b'z' => octet - b'a' + 26,
            b'0'..=b'9' => octet - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                padding += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            _ => return None,
        };
        if padding > 0 {
            return None;
        }
        bits = bits << 6 | u32::from(value);
        digits += 1;
        if digits.is_multiple_of(4) {
            out.extend_from_slice(&bits.to_be_bytes()[1..]);
            bits = 0;
        }
    }
    match (digits % 4, padding) {
        (0, 0) => {}
        (2, 0 | 2) => out.push((bits >> 4) as u8),
        (3, 0 | 1) => out.extend_from_slice(&[(bits >> 10) as u8, (bits >> 2) as u8]),
        _ => return None,
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (octets, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(octets.as_bytes()), text);
            assert_eq!(decode(text.as_bytes()).as_deref(), Some(octets.as_bytes()), "{text}");
            assert_eq!(decode(text.trim_end_matches('=').as_bytes()).as_deref(), Some(octets.as_bytes()));
        }
        assert_eq!(decode(b" Zm9v\r\n\tYmFy ").as_deref(), Some(&b"foobar"[..]));
    }

    #[test]
    fn what_is_no_base64() {
        for text in ["Z", "Zm9vY", "Zg=", "Zm8==", "Zg==Zg==", "Zm9v=", "Zm-v", "Zm9v\0", "====", "Zg=a"] {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
    }
}
