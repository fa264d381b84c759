//! `xtext` of RFC 3461 §4: how ENVID, ORCPT, AUTH= and XCLIENT carry octets that a parameter may not hold.

/// Appends the xtext form of `bytes` to `out`.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &b in bytes {
        if is_xchar(b) {
            out.push(b);
        } else {
            out.extend_from_slice(&[b'+', HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
        }
    }
}

/// Reads xtext; `None` if it is not. The result may hold any octet: whoever shows or stores it must mind
/// CR, LF and NUL, see [`is_printable`].
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    octets(text).try_for_each(|b| b.map(|b| out.push(b)))?;
    Some(out)
}

/// True if `text` is xtext whose decoded form holds no control character. A CR, LF or NUL smuggled in by
/// xtext would end up in a DSN or a log.
pub fn is_printable(text: &[u8]) -> bool {
    octets(text).all(|b| b.is_some_and(|b| b >= 32 && b != 127))
}

/// The decoded octets; `None` once where the text is no xtext.
fn octets(text: &[u8]) -> impl Iterator<Item = Option<u8>> + '_ {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (&first, tail) = rest.split_first()?;
        rest = tail;
        if first == b'+' {
            let Some((&[high, low], tail)) = tail.split_first_chunk::<2>() else {
                rest = &[];
                return Some(None);
            };
            rest = tail;
            return Some(nibble(high).and_then(|high| Some(high << 4 | nibble(low)?)));
        }
        Some(is_xchar(first).then_some(first))
    })
}

fn is_xchar(b: u8) -> bool {
    matches!(b, b'!'..=b'~') && b != b'+' && b != b'='
}

/// The RFC wants upper case; lower case is understood, since it can mean nothing else.
fn nibble(b: u8) -> Option<u8> {
    Some(match b {
        b'0'..=b'9' => b - b'0',
        b'A'..=b'F' => b - b'A' + 10,
        b'a'..=b'f' => b - b'a' + 10,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_their_xtext() {
        for (plain, coded) in
            [("a@b", "a@b"), ("a+b=c", "a+2Bb+3Dc"), ("é \r\n", "+C3+A9+20+0D+0A"), ("", "")]
        {
            let mut out = Vec::new();
            encode(plain.as_bytes(), &mut out);
            assert_eq!(out, coded.as_bytes());
            assert_eq!(decode(coded.as_bytes()).as_deref(), Some(plain.as_bytes()));
        }
        assert_eq!(decode(b"+2b").as_deref(), Some(&b"+"[..]));
    }

    #[test]
    fn texts_that_are_no_xtext() {
        for text in ["a b", "a=b", "+", "+2", "+GG", "a\r", "é"] {
            assert_eq!(decode(text.as_bytes()), None, "{text:?}");
        }
        for text in ["a+0Db", "+00", "+0A", "+7F", "+"] {
            assert!(!is_printable(text.as_bytes()), "{text}");
        }
        assert!(is_printable(b"a+20b"));
    }
}
