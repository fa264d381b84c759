//! Enough of MIME to find the parts of a message that machines read (RFC 2045, RFC 2046).
//!
//! The input is hostile: every loop is linear in it, parts are counted, and what is nested is so only to a depth.

use crate::encoding::{read_base64, read_quoted_printable};
use crate::header::{Fields, scan};
use memchr::memmem;
use std::borrow::Cow;

/// Parts of one multipart looked at; a report has three.
pub(crate) const PARTS_MAX: usize = 32;

/// Longest boundary (RFC 2046 §5.1.1).
pub(crate) const BOUNDARY_MAX: usize = 70;

/// Parts of a message looked at, all levels together.
const LEAVES_MAX: usize = 64;

/// Levels of multiparts within each other that are looked into.
const DEPTH_MAX: usize = 5;

/// A part of a message that holds no others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf<'a> {
    /// Its media type in lower case; `text/plain` where none is given (RFC 2045 §5.2).
    pub media_type: String,
    /// Its body, the transfer encoding undone.
    pub body: Cow<'a, [u8]>,
}

/// The parts of a message that hold no others, in their order. Enclosed messages are not opened: they are somebody
/// else's. A multipart without a usable boundary is taken for text, as it would be shown.
pub fn leaves(content: &[u8]) -> Vec<Leaf<'_>> {
    let mut found = Vec::new();
    collect(content, 0, &mut found);
    found
}

fn collect<'a>(part: &'a [u8], depth: usize, found: &mut Vec<Leaf<'a>>) {
    if found.len() >= LEAVES_MAX {
        return;
    }
    let value = field_value(part, "content-type").unwrap_or_default();
    let mut kind = media_type(&value).to_ascii_lowercase();
    if kind.starts_with("multipart/") && depth < DEPTH_MAX {
        let boundary = parameter(&value, "boundary").unwrap_or_default();
        if !boundary.is_empty() && boundary.len() <= BOUNDARY_MAX {
            let inner = parts(&part[scan(part).body_start..], &boundary);
            if !inner.is_empty() {
                for one in inner.into_iter().take(PARTS_MAX) {
                    collect(one, depth + 1, found);
                }
                return;
            }
        }
    }
    if !kind.contains('/') || kind.starts_with("multipart/") {
        kind = "text/plain".to_owned();
    }
    found.push(Leaf { media_type: kind, body: decoded_body(part) });
}

/// The text of the first field of a name, on one line.
pub fn field_value(content: &[u8], name: &str) -> Option<String> {
    Fields::new(content).find(|field| field.is(name)).map(|field| field.unfolded())
}

/// The media type of a Content-Type value, without its parameters.
pub(crate) fn media_type(value: &str) -> &str {
    value.split([';', ' ', '\t', '(']).next().unwrap_or("")
}

/// A parameter of a Content-Type value, quotes removed (RFC 2045 §5.1).
pub(crate) fn parameter(value: &str, name: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start_matches([' ', '\t']);
        let mut text = String::new();
        let mut end = after.len();
        if let Some(quoted) = after.strip_prefix('"') {
            let mut escaped = false;
            for (at, c) in quoted.char_indices() {
                match c {
                    _ if escaped => (escaped, text) = (false, text + c.encode_utf8(&mut [0; 4])),
                    '\\' => escaped = true,
                    '"' => {
                        end = at + 2;
                        break;
                    }
                    _ => text.push(c),
                }
            }
        } else {
            end = after.find([';', ' ', '\t', '(']).unwrap_or(after.len());
            text.push_str(&after[..end]);
        }
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(text);
        }
        rest = &after[end..];
    }
}

/// Splits a multipart body; the last part may lack its closing delimiter.
pub(crate) fn parts<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let delimiter = format!("--{boundary}");
    let mut found: Vec<&[u8]> = Vec::new();
    let mut open: Option<usize> = None;
    for at in memmem::find_iter(body, delimiter.as_bytes()) {
        let after = &body[at + delimiter.len()..];
        let closes = after.starts_with(b"--");
        let tail = if closes { &after[2..] } else { after };
        let blanks = tail.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        let ends_line = tail[blanks..].is_empty() || tail[blanks..].starts_with(b"\r\n");
        if !ends_line || !(at == 0 || body[..at].ends_with(b"\r\n")) {
            continue;
        }
        if let Some(from) = open {
            // The CRLF before a delimiter belongs to the delimiter (RFC 2046 §5.1.1).
            found.push(&body[from..at.saturating_sub(2).max(from)]);
        }
        let from = body.len() - tail.len() + blanks;
        open = (!closes && found.len() < PARTS_MAX).then_some((from + 2).min(body.len()));
        if open.is_none() {
            break;
        }
    }
    found.extend(open.map(|from| &body[from..]));
    found
}

/// The body of a part, its transfer encoding undone.
pub(crate) fn decoded_body(part: &[u8]) -> Cow<'_, [u8]> {
    let body = &part[scan(part).body_start..];
    let encoding = field_value(part, "content-transfer-encoding").unwrap_or_default();
    match encoding.to_ascii_lowercase().as_str() {
        "quoted-printable" => Cow::Owned(read_quoted_printable(body)),
        "base64" => Cow::Owned(read_base64(body)),
        _ => Cow::Borrowed(body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(content: &str) -> Vec<(String, String)> {
        let text = |leaf: Leaf<'_>| (leaf.media_type, String::from_utf8_lossy(&leaf.body).into_owned());
        leaves(content.as_bytes()).into_iter().map(text).collect()
    }

    #[test]
    fn parts_are_found_at_every_level_and_messages_stay_closed() {
        let content = "Content-Type: multipart/mixed; boundary=a\r\n\r\n\
            --a\r\nContent-Type: multipart/alternative; boundary=\"b b\"\r\n\r\n\
            --b b\r\n\r\none\r\n--b b\r\nContent-Type: TEXT/HTML\r\n\
            Content-Transfer-Encoding: base64\r\n\r\ndHdv\r\n--b b--\r\n\
            --a\r\nContent-Type: message/rfc822\r\n\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\nx\r\n--a--\r\n";
        let found = shown(content);
        let kinds: Vec<(&str, &str)> = found.iter().map(|(kind, body)| (&**kind, &**body)).collect();
        assert_eq!(kinds[..2], [("text/plain", "one"), ("text/html", "two")]);
        assert_eq!((kinds.len(), kinds[2].0), (3, "message/rfc822"));
        assert!(kinds[2].1.starts_with("Content-Type: multipart/mixed"));
    }

    #[test]
    fn what_is_no_multipart_is_one_part() {
        assert_eq!(shown("Subject: x\r\n\r\nbody"), [("text/plain".into(), "body".into())]);
        assert_eq!(shown("Content-Type: multipart/report\r\n\r\nbody")[0].0, "text/plain");
        assert_eq!(shown("Content-Type: multipart/report; boundary=x\r\n\r\nbody")[0].0, "text/plain");
        assert_eq!(shown(""), [("text/plain".into(), "".into())]);
    }

    #[test]
    fn what_is_nested_without_end_is_left_alone() {
        let mut content = String::new();
        for n in 0..5_000 {
            content.push_str(&format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"));
        }
        assert_eq!(leaves(content.as_bytes()).len(), 1);
        let wide =
            format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{}", "--b\r\n\r\nx\r\n".repeat(10_000));
        assert_eq!(leaves(wide.as_bytes()).len(), PARTS_MAX);
    }
}
