//! The small encodings of mail about mail: xtext, unitext, quoted-printable, base64, and text made safe to show.

use std::borrow::Cow;
use std::fmt::Write;

/// Longest word kept whole by [`one_line`], in octets, so that a text can always be folded at blanks.
const WORD_MAX: usize = 200;

/// A text from outside on one line: control characters, line separators and marks that change the direction of
/// reading become `?`, runs of blanks one space, words over 200 octets are parted, and what exceeds `max` octets
/// is cut with `...`.
pub fn one_line(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for word in text.split([' ', '\t', '\r', '\n']).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        let mut len = 0;
        for c in word.chars() {
            if len + c.len_utf8() > WORD_MAX {
                out.push(' ');
                len = 0;
            }
            out.push(if is_unsafe(c) { '?' } else { c });
            len += c.len_utf8();
        }
        if out.len() > max {
            break;
        }
    }
    if out.len() > max {
        let mut cut = max.saturating_sub(3);
        while !out.is_char_boundary(cut) {
            cut -= 1;
        }
        out.truncate(cut);
        out.truncate(out.trim_end().len());
        out.push_str("...");
    }
    out
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Non-ASCII characters as `\x{HEX}`, the unitext form of RFC 6533 §3. The backslash is written so too when
/// `reversible`, as it must be in an address that will be read back.
pub fn to_unitext(text: &str, reversible: bool) -> Cow<'_, str> {
    if text.is_ascii() && !(reversible && text.contains('\\')) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if c.is_ascii() && !(reversible && c == '\\') {
            out.push(c);
        } else {
            write!(out, "\\x{{{:02X}}}", u32::from(c)).expect("writing to a string cannot fail");
        }
    }
    Cow::Owned(out)
}

/// Reads unitext back; what is not well-formed stays as it is.
pub fn from_unitext(text: &str) -> Cow<'_, str> {
    if !text.contains("\\x{") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\\x{") {
        out.push_str(&rest[..at]);
        let code = &rest[at + 3..];
        let decoded = code
            .find('}')
            .filter(|&end| (1..=6).contains(&end))
            .and_then(|end| Some((char::from_u32(u32::from_str_radix(&code[..end], 16).ok()?)?, end)));
        match decoded {
            Some((c, end)) => {
                out.push(c);
                rest = &code[end + 1..];
            }
            None => {
                out.push_str("\\x{");
                rest = code;
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Decodes xtext (RFC 3461 §4): `+41` is `A`. `None` if it is malformed or does not decode to UTF-8.
pub fn decode_xtext(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'+' {
            let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
            out.push(high << 4 | low);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// Appends `content` in quoted-printable (RFC 2045 §6.7), CRLF kept as line breaks, every other CR or LF
/// encoded. Lines are at most 76 octets.
pub fn write_quoted_printable(out: &mut Vec<u8>, content: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut column = 0;
    let mut at = 0;
    while at < content.len() {
        let byte = content[at];
        if content[at..].starts_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
            (column, at) = (0, at + 2);
            continue;
        }
        // A blank at the end of a line would be lost on the way; a dot or "From " at its head might be.
        let ends_line = content[at + 1..].starts_with(b"\r\n") || at + 1 == content.len();
        let plain = matches!(byte, b'!'..=b'<' | b'>'..=b'~')
            && !(column == 0 && matches!(byte, b'.' | b'F' | b'-'))
            || (matches!(byte, b' ' | b'\t') && !ends_line);
        let len = if plain { 1 } else { 3 };
        if column + len > 75 {
            out.extend_from_slice(b"=\r\n");
            column = 0;
            continue;
        }
        if plain {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        (column, at) = (column + len, at + 1);
    }
}

/// Reads quoted-printable; what is malformed stays as it is (RFC 2045 §6.7, robust reading).
pub fn read_quoted_printable(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len());
    let mut at = 0;
    while at < content.len() {
        let rest = &content[at..];
        let code = |n: usize| rest.get(n).and_then(|&byte| hex(byte));
        if rest.starts_with(b"=\r\n") {
            at += 3;
        } else if let (b'=', Some(high), Some(low)) = (rest[0], code(1), code(2)) {
            out.push(high << 4 | low);
            at += 3;
        } else {
            out.push(rest[0]);
            at += 1;
        }
    }
    out
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends `content` in base64, 76 octets a line, each line ended with CRLF (RFC 2045 §6.8).
pub fn write_base64(out: &mut Vec<u8>, content: &[u8]) {
    for line in content.chunks(57) {
        for group in line.chunks(3) {
            let byte = |n: usize| u32::from(group.get(n).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for n in 0..4 {
                let digit = BASE64[(bits >> (18 - 6 * n) & 63) as usize];
                out.push(if n <= group.len() { digit } else { b'=' });
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Reads base64, passing over everything that is no digit of it; stops at the padding.
pub fn read_base64(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for &byte in content {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => continue,
        };
        (bits, count) = (bits << 6 | u32::from(digit), count + 6);
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small generator (SplitMix64): a failing seed replays, and no outside crate is needed.
    pub(crate) struct Random(pub u64);

    impl Random {
        pub(crate) fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        pub(crate) fn below(&mut self, n: usize) -> usize {
            (self.next() % n as u64) as usize
        }

        pub(crate) fn chance(&mut self) -> bool {
            self.next() & 1 == 1
        }
    }

    #[test]
    fn hostile_text_on_one_line() {
        assert_eq!(one_line("a\r\n.\r\nQUIT\0 \u{202e}b\u{85}", 100), "a . QUIT? ?b?");
        assert_eq!(one_line("  a \t b  ", 100), "a b");
        assert_eq!(
            one_line(&"x".repeat(450), 1_000).split(' ').map(str::len).collect::<Vec<_>>(),
            [200, 200, 50]
        );
        assert_eq!(one_line("äöü äöü äöü", 10), "äöü...");
        assert_eq!(one_line(&"x ".repeat(10_000), 20).len(), 20);
    }

    #[test]
    fn unitext() {
        assert_eq!(to_unitext("δ@b.test", true), "\\x{3B4}@b.test");
        assert_eq!(to_unitext("a\\b", true), "a\\x{5C}b");
        for text in ["δοκ@παράδειγμα.δοκιμή", "\"a\\\\b\"@c.test", "a@b.test", "\\x{41}", "😀"]
        {
            assert_eq!(from_unitext(&to_unitext(text, true)), text);
        }
        for text in ["\\x{", "\\x{}", "\\x{D800}", "\\x{1234567}", "\\x{zz}"] {
            assert_eq!(from_unitext(text), text);
        }
    }

    #[test]
    fn xtext() {
        assert_eq!(decode_xtext("a+2Bb+3D").as_deref(), Some("a+b="));
        for text in ["+", "+4", "+4G", "+FF"] {
            assert_eq!(decode_xtext(text), None, "{text}");
        }
    }

    #[test]
    fn transfer_encodings_read_back() {
        let mut random = Random(3);
        for _ in 0..2_000 {
            let content: Vec<u8> = (0..random.below(300))
                .map(|_| match random.below(6) {
                    0 => b"\r\n .=F-"[random.below(7)],
                    1 => random.next() as u8,
                    _ => b'a',
                })
                .collect();
            let mut out = Vec::new();
            write_quoted_printable(&mut out, &content);
            assert_eq!(read_quoted_printable(&out), content);
            assert!(out.is_ascii() && !crate::has_bare_newline(&out) && crate::lines_within(&out, 76));
            let mut out = Vec::new();
            write_base64(&mut out, &content);
            assert_eq!(read_base64(&out), content);
            assert!(!crate::has_bare_newline(&out) && crate::lines_within(&out, 76));
        }
    }
}
