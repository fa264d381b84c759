//! Writing header fields: folding (RFC 5322 §2.2.3), encoded words (RFC 2047) and parameters (RFC 2231).

use crate::Person;

/// Octets of a line aimed at, without its CRLF (RFC 5322 §2.1.1).
const LINE: usize = 76;
/// Octets of a line at most, with some room below the 998 of RFC 5322 §2.1.1.
const LINE_MAX: usize = 990;
/// Octets of an encoded word at most (RFC 2047 §2).
const WORD_MAX: usize = 75;

/// True if a text has a character that no header field may hold: a control character, or one that ends a line.
pub(crate) fn has_control(text: &str) -> bool {
    text.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f)
        || text.contains(['\u{2028}', '\u{2029}', '\u{85}'])
}

/// What came out of a template, fit for a header field: what would end a line becomes a blank.
pub(crate) fn tame(text: &str) -> String {
    let blank = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let spaced: String = text.chars().map(|c| if blank(c) { ' ' } else { c }).collect();
    spaced.trim().to_owned()
}

/// Appends an unstructured field, or a structured one whose text is ASCII. The text holds no control characters.
pub(crate) fn write_text(out: &mut Vec<u8>, name: &str, text: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let column = name.len() + 2;
    let longest = text.split([' ', '\t']).map(str::len).max().unwrap_or(0);
    // What looks like an encoded word would be read as one.
    if text.is_ascii() && longest <= LINE_MAX && !text.contains("=?") {
        fold(out, text, column);
    } else {
        write_words(out, text, column);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a text that is sent as it is, which only gets its line breaks. For fields that machines read.
pub(crate) fn write_plain(out: &mut Vec<u8>, name: &str, text: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    fold(out, text, name.len() + 2);
    out.extend_from_slice(b"\r\n");
}

/// Breaks lines before blanks. A word longer than a line stands on a line of its own, and is cut only where it
/// would break the limit that no line may break.
fn fold(out: &mut Vec<u8>, text: &str, mut column: usize) {
    let mut rest = text;
    let mut first = true;
    while !rest.is_empty() {
        let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let end = rest[blanks..].find([' ', '\t']).map_or(rest.len(), |at| at + blanks);
        let (mut token, left) = rest.split_at(end);
        rest = left;
        // A line of blanks only would be taken for the end of the header by some.
        if !first && blanks > 0 && blanks < token.len() && column + token.len() > LINE {
            out.extend_from_slice(b"\r\n");
            column = 0;
        }
        while column + token.len() > LINE_MAX {
            let cut = token.floor_char_boundary(LINE_MAX - column);
            out.extend_from_slice(&token.as_bytes()[..cut]);
            out.extend_from_slice(b"\r\n ");
            (token, column) = (&token[cut..], 1);
        }
        out.extend_from_slice(token.as_bytes());
        column += token.len();
        first = false;
    }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// True for what Q may leave as it is even in a phrase (RFC 2047 §5 (3)).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'!' | b'*' | b'+' | b'-' | b'/')
}

/// Appends a text as encoded words in UTF-8; the first begins at `column`.
fn write_words(out: &mut Vec<u8>, text: &str, mut column: usize) {
    let encoded = text.bytes().filter(|&b| !is_plain(b) && b != b' ').count();
    let q = encoded * 3 <= text.len();
    let frame = "=?utf-8?q??=".len();
    let cost = |c: char| match q {
        true if c == ' ' || (c.is_ascii() && is_plain(c as u8)) => 1,
        true => 3 * c.len_utf8(),
        false => c.len_utf8(),
    };
    let mut rest = text;
    loop {
        let room = (LINE.saturating_sub(column)).min(WORD_MAX).saturating_sub(frame);
        let room = if q { room } else { room / 4 * 3 };
        let (mut len, mut used) = (0, 0);
        for c in rest.chars() {
            if used + cost(c) > room {
                break;
            }
            used += cost(c);
            len += c.len_utf8();
        }
        // Twelve octets hold any character; a long field name leaves fewer on its own line.
        if len > 0 || rest.is_empty() {
            let word = &rest.as_bytes()[..len];
            out.extend_from_slice(if q { b"=?utf-8?q?" } else { b"=?utf-8?b?" });
            if q {
                write_q(out, word);
            } else {
                write_b(out, word);
            }
            out.extend_from_slice(b"?=");
            rest = &rest[len..];
        }
        if rest.is_empty() {
            return;
        }
        out.extend_from_slice(b"\r\n ");
        column = 1;
    }
}

fn write_q(out: &mut Vec<u8>, word: &[u8]) {
    for &byte in word {
        match byte {
            b' ' => out.push(b'_'),
            _ if is_plain(byte) => out.push(byte),
            _ => out.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
}

fn write_b(out: &mut Vec<u8>, word: &[u8]) {
    let mut lines = Vec::new();
    message::write_base64(&mut lines, word);
    out.extend(lines.into_iter().filter(|byte| !matches!(byte, b'\r' | b'\n')));
}

/// True for a phrase that needs no quotes: atoms with single blanks between them (RFC 5322 §3.2.5).
fn is_phrase(name: &str) -> bool {
    let atom = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b);
    !name.contains("=?") && name.split(' ').all(|word| !word.is_empty() && word.bytes().all(atom))
}

/// Appends a field of people. Their addresses are mailboxes and their names hold no control characters.
pub(crate) fn write_people(out: &mut Vec<u8>, name: &str, people: &[Person]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let mut column = name.len() + 2;
    for (n, person) in people.iter().enumerate() {
        let shown = person.name.as_deref().unwrap_or("");
        let plain = shown.is_ascii() && shown.len() <= LINE;
        if n > 0 {
            out.extend_from_slice(b",");
            let len = person.email.len() + shown.len() + 6;
            if column + len > LINE {
                out.extend_from_slice(b"\r\n ");
                column = 1;
            } else {
                out.push(b' ');
                column += 2;
            }
        }
        let before = out.len();
        if shown.is_empty() {
            out.extend_from_slice(person.email.as_bytes());
        } else {
            if plain && is_phrase(shown) {
                out.extend_from_slice(shown.as_bytes());
            } else if plain && !shown.contains("=?") {
                write_quoted(out, shown);
            } else {
                write_words(out, shown, column);
            }
            out.extend_from_slice(b" <");
            out.extend_from_slice(person.email.as_bytes());
            out.push(b'>');
        }
        let line = out[before..].rsplit(|&b| b == b'\n').next().map_or(0, <[u8]>::len);
        column = if out[before..].contains(&b'\n') { line } else { column + line };
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a quoted string (RFC 5322 §3.2.4) of ASCII.
fn write_quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

/// Appends `; name=value` on a line of its own: quoted, or as RFC 2231 §4 has it where it is not ASCII.
pub(crate) fn write_parameter(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(b";\r\n ");
    out.extend_from_slice(name.as_bytes());
    if value.is_ascii() {
        out.push(b'=');
        return write_quoted(out, value);
    }
    out.extend_from_slice(b"*=utf-8''");
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, value: &str) -> String {
        let mut out = Vec::new();
        write_text(&mut out, name, value);
        String::from_utf8(out).unwrap()
    }

    fn people(list: &str) -> String {
        let mut out = Vec::new();
        write_people(&mut out, "To", &crate::read_people(list).unwrap());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn texts() {
        assert_eq!(text("Subject", "Hello  world"), "Subject: Hello  world\r\n");
        assert_eq!(
            text("Subject", "Gr\u{fc}\u{df}e an alle"),
            "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe_an_alle?=\r\n"
        );
        assert_eq!(text("Subject", "\u{65e5}\u{672c}"), "Subject: =?utf-8?b?5pel5pys?=\r\n");
        assert_eq!(text("Subject", "=?utf-8?q?x?="), "Subject: =?utf-8?b?PT91dGYtOD9xP3g/PQ==?=\r\n");
        let long = text("Subject", &"word ".repeat(40));
        assert!(long.lines().all(|line| line.len() <= 78), "{long}");
        assert_eq!(
            long.replace("\r\n ", " ").trim_end(),
            format!("Subject: {}", "word ".repeat(40)).trim_end()
        );
        for value in [&"\u{1f600}".repeat(100), &"x".repeat(5_000), &"\u{e9}x".repeat(200)] {
            let written =
                text("X-Name-Of-A-Field-That-Is-Very-Long-And-Takes-Nearly-All-Of-A-Line-By-Itself", value);
            assert!(written.is_ascii() && written.lines().skip(1).all(|line| line.len() <= 76), "{written}");
        }
    }

    #[test]
    fn lists_of_people() {
        assert_eq!(people("a@b.test"), "To: a@b.test\r\n");
        assert_eq!(
            people("Ann Lee <a@b.test>, \"Lee, A\" <c@d.test>"),
            "To: Ann Lee <a@b.test>, \"Lee, A\" <c@d.test>\r\n"
        );
        assert_eq!(people("Zo\u{eb} <z@b.test>"), "To: =?utf-8?b?Wm/Dqw==?= <z@b.test>\r\n");
        let many =
            people(&(0..50).map(|n| format!("Person {n} <p{n}@b.test>")).collect::<Vec<_>>().join(","));
        assert!(many.lines().all(|line| line.len() <= 80), "{many}");
    }

    #[test]
    fn parameters() {
        let mut out = Vec::new();
        write_parameter(&mut out, "filename", "a \"b\".pdf");
        write_parameter(&mut out, "filename", "\u{fc} b.pdf");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            ";\r\n filename=\"a \\\"b\\\".pdf\";\r\n filename*=utf-8''%C3%BC%20b.pdf"
        );
    }

    #[test]
    fn what_ends_a_line_is_known() {
        for text in ["a\rb", "a\nb", "a\0b", "a\u{85}b", "a\u{2028}b", "\x7f", "\x1b"] {
            assert!(has_control(text), "{text:?}");
            assert!(!has_control(&tame(text)), "{text:?}");
        }
        assert!(!has_control("a\tb \u{e9}"));
        assert_eq!(tame("a\r\nBcc: x"), "a  Bcc: x");
    }
}
