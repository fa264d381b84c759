//! The transaction at hand: envelope, the search for the mark, and what may be wrong with content.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::Shared;
use crate::sequence::{MARK_FIELD, Mark};
use crate::wire;

static MARK_FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(MARK_FIELD));
static HEADER_END_FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// A header in which no mark was found so far is given up.
const HEADER_MAX: usize = 64 * 1024;

/// What is known of the message being received; its memory is used again for the next.
#[derive(Default)]
pub(super) struct Transaction {
    pub(super) is_open: bool,
    pub(super) mail: Argument,
    pub(super) recipients: Vec<Argument>,
    /// Recipients in use; those behind keep their memory.
    pub(super) recipient_count: usize,
    pub(super) content: Vec<u8>,
    pub(super) octets: u64,
    /// BDAT has begun.
    pub(super) in_chunks: bool,
    pub(super) header: Header,
}

/// The argument of MAIL or RCPT: an address and what follows.
#[derive(Default)]
pub(super) struct Argument {
    pub(super) address: Vec<u8>,
    pub(super) parameters: Vec<u8>,
}

/// The search for the mark.
#[derive(Default)]
pub(super) struct Header {
    /// What has been searched in vain, when it came in pieces.
    so_far: Vec<u8>,
    is_decided: bool,
    pub(super) mark: Option<Mark>,
}

impl Header {
    pub(super) fn look(&mut self, piece: &[u8]) {
        if self.is_decided {
            return;
        }
        if !self.so_far.is_empty() {
            self.so_far.extend_from_slice(piece);
        }
        let text = if self.so_far.is_empty() { piece } else { &self.so_far };
        match find_mark(text) {
            Some(mark) => (self.is_decided, self.mark) = (true, mark),
            None if text.len() > HEADER_MAX => self.is_decided = true,
            None if self.so_far.is_empty() => self.so_far.extend_from_slice(piece),
            None => {}
        }
    }

    pub(super) fn clear(&mut self) {
        self.so_far.clear();
        (self.is_decided, self.mark) = (false, None);
    }
}

/// `None` while more of the header is needed to tell.
fn find_mark(text: &[u8]) -> Option<Option<Mark>> {
    let end = || if text.starts_with(b"\r\n") { Some(0) } else { HEADER_END_FINDER.find(text) };
    let Some(at) = MARK_FINDER.find(text) else { return end().map(|_| None) };
    if HEADER_END_FINDER.find(&text[..at]).is_some() || (at > 0 && text[at - 1] != b'\n') {
        return Some(None);
    }
    let value = &text[at + MARK_FIELD.len()..];
    let length = memchr::memchr(b'\r', value)?;
    Some(Mark::parse(&value[..length]))
}

impl Transaction {
    pub(super) fn clear(&mut self) {
        self.is_open = false;
        self.recipient_count = 0;
        self.content.clear();
        self.octets = 0;
        self.in_chunks = false;
        self.header.clear();
    }

    /// A piece of content.
    pub(super) fn take(&mut self, piece: &[u8], shared: &Shared) {
        self.header.look(piece);
        self.octets += piece.len() as u64;
        if shared.collects() && self.octets <= shared.options.size_max {
            self.content.extend_from_slice(piece);
        }
    }

    pub(super) fn recipients(&self) -> &[Argument] {
        &self.recipients[..self.recipient_count]
    }
}

impl Argument {
    /// Takes `<address> parameters`; false when there are no angle brackets.
    pub(super) fn set(&mut self, text: &[u8]) -> bool {
        let text = text.trim_ascii_start();
        let Some(end) = closing_bracket(text) else { return false };
        self.address.clear();
        self.address.extend_from_slice(&text[1..end]);
        self.parameters.clear();
        self.parameters.extend_from_slice(text[end + 1..].trim_ascii());
        true
    }

    /// The number in the loader's `b<number>@`.
    pub(super) fn index(&self) -> Option<u64> {
        let rest = self.address.strip_prefix(b"b")?;
        wire::decimal(&rest[..memchr::memchr(b'@', rest)?])
    }
}

/// Where the `>` of the `<` at the beginning is; one within quotes belongs to the address, and one behind it may
/// belong to a parameter.
fn closing_bracket(text: &[u8]) -> Option<usize> {
    let mut is_quoted = false;
    let mut is_escaped = false;
    text.strip_prefix(b"<")?;
    text.iter().position(|octet| {
        match octet {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b'>' => return !is_quoted,
            _ => {}
        }
        false
    })
}

/// Strips a keyword without regard to case.
pub(super) fn after_keyword<'a>(line: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = line.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then_some(rest)
}

/// `SIZE=n` among the parameters of MAIL.
pub(super) fn size_parameter(parameters: &[u8]) -> Option<u64> {
    let mut words = parameters.split(|octet| *octet == b' ');
    words.find_map(|word| after_keyword(word, b"SIZE=")).and_then(wire::decimal)
}

/// Takes away the dot that the client put before each line that began with one (RFC 5321 §4.5.2).
pub(super) fn without_stuffing(content: Vec<u8>) -> Vec<u8> {
    let stuffed: Vec<usize> = memchr::memmem::find_iter(&content, b"\r\n.").map(|at| at + 2).collect();
    if stuffed.is_empty() && !content.starts_with(b".") {
        return content;
    }
    let mut plain = Vec::with_capacity(content.len());
    let mut from = usize::from(content.starts_with(b"."));
    for dot in stuffed {
        plain.extend_from_slice(&content[from..dot]);
        from = dot + 1;
    }
    plain.extend_from_slice(&content[from..]);
    plain
}

/// Longest line without its CRLF (RFC 5321 §4.5.3.1.6).
const LINE_MAX: usize = 998;

pub(super) fn content_faults(content: &[u8], parameters: &[u8]) -> impl Iterator<Item = &'static str> {
    let mut bare = false;
    let mut long = false;
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        let text = line.strip_suffix(b"\r\n").unwrap_or(line);
        bare |= text.iter().any(|octet| matches!(octet, b'\r' | b'\n'));
        long |= text.len() > LINE_MAX;
    }
    let words = || parameters.split(|octet| *octet == b' ');
    let may_be_8bit = words().any(|word| {
        after_keyword(word, b"BODY=").is_some_and(|body| !body.eq_ignore_ascii_case(b"7BIT"))
            || word.eq_ignore_ascii_case(b"SMTPUTF8")
    });
    let faults = [
        (bare, "bare CR or LF in content"),
        (long, "content line longer than 998 octets"),
        (content.contains(&0), "NUL in content"),
        (!content.is_ascii() && !may_be_8bit, "8-bit content without BODY=8BITMIME"),
    ];
    faults.into_iter().filter(|(is_fault, _)| *is_fault).map(|(_, what)| what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_found_in_the_header_only() {
        let parse = |text: &str| find_mark(text.as_bytes()).map(|mark| mark.map(|mark| mark.sequence));
        assert_eq!(parse("Received: x\r\nX-Tuma-Bench: be-7-1\r\nA: b\r\n"), Some(Some(7)));
        assert_eq!(parse("X-Tuma-Bench: be-7-1\r\n"), Some(Some(7)));
        assert_eq!(parse("X-Tuma-Bench: be-7-"), None, "the value is not whole yet");
        assert_eq!(parse("A: b\r\n\r\nX-Tuma-Bench: be-7-1\r\n"), Some(None));
        assert_eq!(parse("\r\nbody"), Some(None));
        assert_eq!(parse("A: b\r\n"), None);
        assert_eq!(parse("A: X-Tuma-Bench: be-7-1\r\n"), Some(None));
    }

    #[test]
    fn stuffing() {
        let plain = |text: &str| String::from_utf8(without_stuffing(text.into())).expect("ASCII");
        assert_eq!(plain("a\r\n..b\r\n...\r\n"), "a\r\n.b\r\n..\r\n");
        assert_eq!(plain("..\r\na.b\r\n"), ".\r\na.b\r\n");
    }

    #[test]
    fn faults() {
        let faults = |content: &str, parameters: &str| {
            content_faults(content.as_bytes(), parameters.as_bytes()).collect::<Vec<_>>()
        };
        assert_eq!(faults("a\r\nb\r\n", ""), [""; 0]);
        assert_eq!(faults("a\nb\r\n", ""), ["bare CR or LF in content"]);
        assert_eq!(faults("a\rb\r\n", ""), ["bare CR or LF in content"]);
        assert_eq!(faults(&format!("{}\r\n", "a".repeat(999)), ""), ["content line longer than 998 octets"]);
        assert_eq!(faults("ü\r\n", "SIZE=9"), ["8-bit content without BODY=8BITMIME"]);
        assert_eq!(faults("ü\r\n", "SIZE=9 body=8bitmime"), [""; 0]);
    }

    #[test]
    fn the_mark_is_found_in_pieces_of_any_size() {
        let header = b"Received: by x\r\nX-Tuma-Bench: be-7-1\r\nSubject: y\r\n\r\nbody\r\n";
        for size in 1..header.len() {
            let mut search = Header::default();
            header.chunks(size).for_each(|piece| search.look(piece));
            assert_eq!(search.mark.map(|mark| mark.sequence), Some(7), "pieces of {size}");
        }
    }

    #[test]
    fn arguments() {
        for (text, address, parameters) in [
            ("<a@b.test>", "a@b.test", ""),
            ("<>  SIZE=1 ", "", "SIZE=1"),
            (" <a@b.test> ORCPT=rfc822;<c>", "a@b.test", "ORCPT=rfc822;<c>"),
            (r#"<"a>\"b"@c.test> NOTIFY=NEVER"#, r#""a>\"b"@c.test"#, "NOTIFY=NEVER"),
        ] {
            let mut argument = Argument::default();
            assert!(argument.set(text.as_bytes()), "{text}");
            assert_eq!(String::from_utf8_lossy(&argument.address), address);
            assert_eq!(String::from_utf8_lossy(&argument.parameters), parameters);
        }
        assert!(
            ["", "a@b.test", "<a@b.test", "a <b>"]
                .iter()
                .all(|text| !Argument::default().set(text.as_bytes()))
        );
    }
}
