//! What a content is made of: seven or eight bits, line ends, line lengths.

use memchr::memchr_iter;

/// True if no octet is above 127.
pub fn is_seven_bit(content: &[u8]) -> bool {
    content.is_ascii()
}

/// True if a CR stands without its LF, or an LF without its CR.
pub fn has_bare_newline(content: &[u8]) -> bool {
    let ([first, ..], [.., last]) = (content, content) else { return false };
    if *first == b'\n' || *last == b'\r' {
        return true;
    }
    // In a clean content an octet is CR exactly where the next is LF. Without a branch in the loop the compiler
    // compares many at a time, several times faster than looking for each line end.
    let pairs = content.iter().zip(&content[1..]);
    pairs.fold(0, |bare, (&this, &next)| bare | u8::from((this == b'\r') != (next == b'\n'))) != 0
}

/// Octets of the longest line, its CRLF not counted; a line ends with LF here, whatever precedes it.
pub fn longest_line(content: &[u8]) -> usize {
    let (mut from, mut longest) = (0, 0);
    for lf in memchr_iter(b'\n', content) {
        let crlf = usize::from(lf > from && content[lf - 1] == b'\r');
        longest = longest.max(lf - from - crlf);
        from = lf + 1;
    }
    longest.max(content.len() - from)
}

/// True if no line is longer than `max` octets, its CRLF not counted (RFC 5322 §2.1.1: 998).
pub fn lines_within(content: &[u8], max: usize) -> bool {
    longest_line(content) <= max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newlines() {
        for text in ["", "a", "a\r\n", "\r\n\r\n", "a\r\nb"] {
            assert!(!has_bare_newline(text.as_bytes()), "{text:?}");
        }
        for text in ["\n", "\r", "a\r", "\r\r\n", "\r\n\n", "a\nb\r\n", "\n\r"] {
            assert!(has_bare_newline(text.as_bytes()), "{text:?}");
        }
        for (text, longest) in [("", 0), ("abc", 3), ("a\r\nbcd\r\n", 3), ("ab\nc", 2), ("a\r\n\r\nbc", 2)] {
            assert_eq!(longest_line(text.as_bytes()), longest, "{text:?}");
        }
    }
}
