//! The two ways of RFC 6376 §3.4 to write a header and a body, so that what a relay may change does not count.
//!
//! Bodies are taken piece by piece and hashed on the way: nothing is copied but a few kilooctets at a time. A line ends
//! with CRLF and nothing else; a CR or LF alone is an octet like any other, as it is on the wire.

use aws_lc_rs::digest::{Context, SHA256};
use message::Field;
use std::fmt;
use std::str::FromStr;

/// One of the two ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Canon {
    /// As it stands; of a body, empty lines at its end do not count (RFC 6376 §3.4.1, §3.4.3).
    #[default]
    Simple,
    /// Blanks are levelled, field names in lower case and on one line (RFC 6376 §3.4.2, §3.4.4).
    Relaxed,
}

impl Canon {
    /// Its word in `c=`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Relaxed => "relaxed",
        }
    }
}

impl fmt::Display for Canon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Canon {
    type Err = ();

    /// Reads the word, in any case.
    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Simple, Self::Relaxed]
            .into_iter()
            .find(|canon| canon.as_str().eq_ignore_ascii_case(text))
            .ok_or(())
    }
}

/// The ways of header and body, as `c=` has them: `relaxed/simple`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Canonicalization {
    /// Of the header.
    pub header: Canon,
    /// Of the body.
    pub body: Canon,
}

impl Canonicalization {
    /// Both relaxed: what survives the relays of today best.
    pub const RELAXED: Self = Self { header: Canon::Relaxed, body: Canon::Relaxed };
}

impl fmt::Display for Canonicalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.header, self.body)
    }
}

/// A text is none of `simple`, `relaxed`, `simple/simple`, `simple/relaxed`, `relaxed/simple` and `relaxed/relaxed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CanonicalizationError;

impl fmt::Display for CanonicalizationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "write `relaxed/relaxed`, `relaxed/simple`, `simple/relaxed` or `simple/simple`, header first",
        )
    }
}

impl std::error::Error for CanonicalizationError {}

impl FromStr for Canonicalization {
    type Err = CanonicalizationError;

    /// One word is the header's; the body's is then simple (RFC 6376 §3.5).
    fn from_str(text: &str) -> Result<Self, CanonicalizationError> {
        let (header, body) = text.split_once('/').unwrap_or((text, "simple"));
        let [header, body] = [header, body].map(|word| word.parse().map_err(|()| CanonicalizationError));
        Ok(Self { header: header?, body: body? })
    }
}

/// Appends a header field in canonical form, its CRLF included.
pub fn canonical_field(canon: Canon, field: &Field<'_>, whole: &[u8], out: &mut Vec<u8>) {
    match canon {
        Canon::Simple => {
            let text = &whole[field.start..field.end];
            out.extend_from_slice(text.strip_suffix(b"\r\n").unwrap_or(text));
        }
        Canon::Relaxed => {
            out.extend(field.name.iter().map(u8::to_ascii_lowercase));
            out.push(b':');
            relaxed_value(field.value, out);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a field's value with folding undone, each run of blanks one space, and none at either end.
pub(crate) fn relaxed_value(value: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    let mut blank = false;
    let mut at = 0;
    while let Some(&octet) = value.get(at) {
        at += 1;
        match octet {
            b' ' | b'\t' => blank = true,
            // Every CRLF within a field's value is one of folding.
            b'\r' if value.get(at) == Some(&b'\n') => at += 1,
            _ => {
                if std::mem::take(&mut blank) && out.len() > begin {
                    out.push(b' ');
                }
                out.push(octet);
            }
        }
    }
}

/// Octets gathered before they are hashed: small pieces cost more by their number than by their octets.
const GATHER_OCTETS: usize = 4 * 1024;

/// Takes a body piece by piece and gives its canonical form on, piece by piece.
#[derive(Clone, Debug)]
pub struct BodyCanon {
    canon: Canon,
    /// Line ends held back: they count only if something follows.
    line_ends: u64,
    /// The last piece ended with a CR that may be half of a CRLF.
    half: bool,
    /// Blanks held back: they count, as one, only if something follows on their line.
    blank: bool,
    /// Something was given on.
    any: bool,
    gathered: Vec<u8>,
}

impl BodyCanon {
    /// Ready for the first piece.
    pub fn new(canon: Canon) -> Self {
        let gathered = Vec::new();
        Self { canon, line_ends: 0, half: false, blank: false, any: false, gathered }
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8], out: &mut impl FnMut(&[u8])) {
        match self.canon {
            Canon::Simple => self.update_simple(piece, out),
            Canon::Relaxed => self.update_relaxed(piece, out),
        }
    }

    /// There is no more.
    pub fn finish(mut self, out: &mut impl FnMut(&[u8])) {
        if std::mem::take(&mut self.half) {
            match self.canon {
                Canon::Simple => {
                    self.give_line_ends(out);
                    out(b"\r");
                    self.any = true;
                }
                Canon::Relaxed => self.give_octets(b"\r", out),
            }
        }
        self.flush(out);
        // A body without its last line end gets one; an empty one is one line end if simple, nothing if relaxed.
        if self.any || self.canon == Canon::Simple {
            out(b"\r\n");
        }
    }

    fn give_line_ends(&mut self, out: &mut impl FnMut(&[u8])) {
        const LINES: &[u8] = b"\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n";
        while self.line_ends > 0 {
            let count = self.line_ends.min(LINES.len() as u64 / 2);
            self.line_ends -= count;
            out(&LINES[..count as usize * 2]);
        }
    }

    fn update_simple(&mut self, piece: &[u8], out: &mut impl FnMut(&[u8])) {
        let mut piece = piece;
        if self.half && !piece.is_empty() {
            self.half = false;
            match piece.strip_prefix(b"\n") {
                Some(rest) => {
                    self.line_ends += 1;
                    piece = rest;
                }
                None => {
                    self.give_line_ends(out);
                    out(b"\r");
                    self.any = true;
                }
            }
        }
        let mut text = piece;
        let mut ends = 0;
        if let Some(head) = text.strip_suffix(b"\r") {
            (text, self.half) = (head, true);
        }
        while let Some(head) = text.strip_suffix(b"\r\n") {
            text = head;
            ends += 1;
        }
        if !text.is_empty() {
            self.give_line_ends(out);
            out(text);
            self.any = true;
        }
        self.line_ends += ends;
    }

    fn update_relaxed(&mut self, piece: &[u8], out: &mut impl FnMut(&[u8])) {
        let mut at = 0;
        // Up to where the line was looked at, so that each octet is, once; and whether it needs no change.
        let (mut line_end, mut level) = (0, false);
        while at < piece.len() {
            if std::mem::take(&mut self.half) {
                if piece[at] == b'\n' {
                    self.end_line();
                    at += 1;
                } else {
                    self.give_octets(b"\r", out);
                }
                continue;
            }
            if at >= line_end {
                let rest = &piece[at..];
                line_end = at + memchr::memchr(b'\r', rest).unwrap_or(rest.len());
                level = is_level(&piece[at..line_end]);
            }
            let line = &piece[at..line_end];
            at += match line {
                [] => {
                    self.half = true;
                    1
                }
                // Most lines are canonical already, and go on as a whole.
                [b' ', ..] if level && !self.blank => {
                    self.give_octets(line, out);
                    line.len()
                }
                [b' ' | b'\t', ..] => {
                    self.blank = true;
                    line.iter().position(|b| !matches!(b, b' ' | b'\t')).unwrap_or(line.len())
                }
                line => {
                    let len = if level { line.len() } else { level_len(line) };
                    self.give_octets(&line[..len], out);
                    len
                }
            };
        }
    }

    fn end_line(&mut self) {
        self.blank = false;
        self.line_ends += 1;
    }

    /// Octets that are no blanks, with what was held back before them.
    fn give_octets(&mut self, octets: &[u8], out: &mut impl FnMut(&[u8])) {
        if self.line_ends > 0 {
            if self.line_ends < GATHER_OCTETS as u64 / 2 {
                for _ in 0..self.line_ends {
                    self.gathered.extend_from_slice(b"\r\n");
                }
                self.line_ends = 0;
            } else {
                self.flush(out);
                self.give_line_ends(out);
            }
        }
        if std::mem::take(&mut self.blank) {
            self.gathered.push(b' ');
        }
        self.any = true;
        if octets.len() >= GATHER_OCTETS {
            self.flush(out);
            out(octets);
            return;
        }
        self.gathered.extend_from_slice(octets);
        if self.gathered.len() >= GATHER_OCTETS {
            self.flush(out);
        }
    }

    fn flush(&mut self, out: &mut impl FnMut(&[u8])) {
        if !self.gathered.is_empty() {
            out(&self.gathered);
            self.gathered.clear();
        }
    }
}

/// True if a line, or a part of one that ends no word, has no blanks to level: no tab, no two spaces in a row, and none at
/// its end.
fn is_level(line: &[u8]) -> bool {
    let ([_, ..], [.., last]) = (line, line) else { return false };
    if matches!(last, b' ' | b'\t') {
        return false;
    }
    // Without a branch in the loop the compiler compares many octets at a time.
    let pairs = line.iter().zip(&line[1..]);
    let found = pairs.fold(0, |found, (&this, &next)| {
        found | u8::from(this == b'\t') | (u8::from(this == b' ') & u8::from(next == b' '))
    });
    found == 0
}

/// Octets of a line, which begins with no blank, up to the first blank that needs to be levelled; at least one.
fn level_len(line: &[u8]) -> usize {
    let mut pairs = line.iter().zip(line[1..].iter().chain(b" "));
    let found =
        pairs.position(|(this, next)| *this == b'\t' || (*this == b' ' && matches!(next, b' ' | b'\t')));
    found.unwrap_or(line.len())
}

/// The SHA-256 of a body in canonical form, taken piece by piece.
#[derive(Clone)]
pub struct BodyHash {
    canon: BodyCanon,
    hash: Context,
    /// Octets that still count: all without `l=`.
    left: u64,
    octets: u64,
}

impl fmt::Debug for BodyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyHash").field("canon", &self.canon.canon).field("octets", &self.octets).finish()
    }
}

/// What was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashedBody {
    /// SHA-256.
    pub hash: [u8; 32],
    /// Octets of the canonical body, those beyond the limit included.
    pub octets: u64,
}

impl BodyHash {
    /// Ready for the first piece; of the canonical body only the first `limit` octets count (`l=`).
    pub fn new(canon: Canon, limit: Option<u64>) -> Self {
        Self {
            canon: BodyCanon::new(canon),
            hash: Context::new(&SHA256),
            left: limit.unwrap_or(u64::MAX),
            octets: 0,
        }
    }

    /// The hash of a whole body.
    pub fn of(canon: Canon, body: &[u8]) -> HashedBody {
        let mut hash = Self::new(canon, None);
        hash.update(body);
        hash.finish()
    }

    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        let Self { canon, hash, left, octets } = self;
        canon.update(piece, &mut |text| take(hash, left, octets, text));
    }

    /// There is no more.
    pub fn finish(self) -> HashedBody {
        let Self { canon, mut hash, mut left, mut octets } = self;
        canon.finish(&mut |text| take(&mut hash, &mut left, &mut octets, text));
        let mut out = [0; 32];
        out.copy_from_slice(hash.finish().as_ref());
        HashedBody { hash: out, octets }
    }
}

fn take(hash: &mut Context, left: &mut u64, octets: &mut u64, text: &[u8]) {
    let len = usize::try_from(*left).unwrap_or(usize::MAX).min(text.len());
    hash.update(&text[..len]);
    *left -= len as u64;
    *octets = octets.saturating_add(text.len() as u64);
}

/// Whatever the octets and however they are cut, a body comes out the same, and again the same if taken once more.
#[doc(hidden)]
pub fn fuzz_canon(data: &[u8]) {
    let Some((&cut, body)) = data.split_first() else { return };
    for canon in [Canon::Simple, Canon::Relaxed] {
        let all = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let (mut out, mut machine) = (Vec::new(), BodyCanon::new(canon));
            pieces.for_each(|piece| machine.update(piece, &mut |text| out.extend_from_slice(text)));
            machine.finish(&mut |text| out.extend_from_slice(text));
            out
        };
        let whole = all(&mut std::iter::once(body));
        assert_eq!(all(&mut body.chunks(usize::from(cut) + 1)), whole);
        assert_eq!(all(&mut std::iter::once(&whole[..])), whole, "canonical stays canonical");
        assert!(whole.is_empty() || whole.ends_with(b"\r\n"));
    }
    for field in message::Fields::new(body) {
        let mut out = Vec::new();
        canonical_field(Canon::Relaxed, &field, body, &mut out);
        let again = message::Fields::new(&out).next().expect("a field stays a field");
        let mut twice = Vec::new();
        canonical_field(Canon::Relaxed, &again, &out, &mut twice);
        assert_eq!(out, twice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(canon: Canon, text: &str) -> String {
        let mut out = Vec::new();
        let mut machine = BodyCanon::new(canon);
        machine.update(text.as_bytes(), &mut |piece| out.extend_from_slice(piece));
        machine.finish(&mut |piece| out.extend_from_slice(piece));
        String::from_utf8(out).unwrap()
    }

    fn field(canon: Canon, text: &str) -> String {
        let field = message::Fields::new(text.as_bytes()).next().unwrap();
        let mut out = Vec::new();
        canonical_field(canon, &field, text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_example_of_rfc_6376_section_3_4_5() {
        let (a, b) = ("A: X\r\n", "B : Y\t\r\n\tZ  \r\n");
        assert_eq!(field(Canon::Relaxed, a) + &field(Canon::Relaxed, b), "a:X\r\nb:Y Z\r\n");
        assert_eq!(field(Canon::Simple, a) + &field(Canon::Simple, b), "A: X\r\nB : Y\t\r\n\tZ  \r\n");
        let text = " C \r\nD \t E\r\n\r\n\r\n";
        assert_eq!(body(Canon::Relaxed, text), " C\r\nD E\r\n");
        assert_eq!(body(Canon::Simple, text), " C \r\nD \t E\r\n");
    }

    #[test]
    fn ends_of_bodies() {
        for (text, simple, relaxed) in [
            ("", "\r\n", ""),
            ("\r\n", "\r\n", ""),
            ("\r\n\r\n\r\n", "\r\n", ""),
            ("a", "a\r\n", "a\r\n"),
            ("a\r\n", "a\r\n", "a\r\n"),
            ("a\r\n\r\n", "a\r\n", "a\r\n"),
            ("\r\n\r\na\r\n\r\nb\r\n\r\n", "\r\n\r\na\r\n\r\nb\r\n", "\r\n\r\na\r\n\r\nb\r\n"),
            // Lines of blanks at the end are empty lines if relaxed.
            ("a\r\n \t\r\n  \r\n", "a\r\n \t\r\n  \r\n", "a\r\n"),
            (" \r\n", " \r\n", ""),
            ("  ", "  \r\n", ""),
            (" a  b \r\n\t\r\nc", " a  b \r\n\t\r\nc\r\n", " a b\r\n\r\nc\r\n"),
            // A CR or LF alone ends no line.
            ("a\r", "a\r\r\n", "a\r\r\n"),
            ("a \n\r\n", "a \n\r\n", "a \n\r\n"),
            ("a\n\n", "a\n\n\r\n", "a\n\n\r\n"),
            ("a\r\r\n\r\n", "a\r\r\n", "a\r\r\n"),
            (" \r \r\n", " \r \r\n", " \r\r\n"),
        ] {
            assert_eq!(body(Canon::Simple, text), simple, "{text:?}");
            assert_eq!(body(Canon::Relaxed, text), relaxed, "{text:?}");
        }
    }

    /// RFC 6376 §3.4.3 and §3.4.4 print the hashes of the empty body.
    #[test]
    fn hashes_of_the_empty_body() {
        let hash = |canon| crate::base64::encode(&BodyHash::of(canon, b"").hash);
        assert_eq!(hash(Canon::Simple), "frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY=");
        assert_eq!(hash(Canon::Relaxed), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    #[test]
    fn fields() {
        for (text, relaxed) in [
            ("SUBJect: AbC\r\n", "subject:AbC\r\n"),
            ("Subject:\r\n", "subject:\r\n"),
            ("Subject: \t \r\n", "subject:\r\n"),
            ("Subject \t:  a\t\tb \r\n \t c\r\n", "subject:a b c\r\n"),
            ("Subject: a\r\n \r\n b\r\n", "subject:a b\r\n"),
            ("Subject: a", "subject:a\r\n"),
            ("Subject: a\n b\r\n", "subject:a\n b\r\n"),
        ] {
            assert_eq!(field(Canon::Relaxed, text), relaxed, "{text:?}");
        }
        assert_eq!(field(Canon::Simple, "Subject: a"), "Subject: a\r\n");
    }

    #[test]
    fn only_the_octets_of_l_count() {
        let whole = BodyHash::of(Canon::Simple, b"abc\r\n");
        let mut hash = BodyHash::new(Canon::Simple, Some(5));
        hash.update(b"abc\r\nmore\r\n");
        let limited = hash.finish();
        assert_eq!((limited.hash, limited.octets), (whole.hash, 11));
    }

    /// A line that is long and needs levelling at many places takes time in proportion to its length, not to its square.
    #[test]
    fn a_long_line_is_looked_at_once() {
        let line = [b"word  ".repeat(500_000), b"\tend \r\n".to_vec()].concat();
        let expected = [b"word ".repeat(500_000), b"end\r\n".to_vec()].concat();
        assert_eq!(body(Canon::Relaxed, &String::from_utf8(line).unwrap()).as_bytes(), expected);
    }

    #[test]
    fn bodies_come_out_the_same_however_they_are_cut() {
        let mut random = crate::tests::Random(3);
        let pieces: [&[u8]; 9] =
            [b"a", b"word", b" ", b"\t", b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"b: c\r\n"];
        for _ in 0..20_000 {
            let mut data = vec![random.below(7) as u8];
            for _ in 0..random.below(24) {
                data.extend_from_slice(pieces[random.below(pieces.len())]);
            }
            fuzz_canon(&data);
        }
        let long =
            [vec![b'x'; 5_000], b" \r\n".repeat(5_000), vec![b'y'; 10], b"\r\n".repeat(9_000)].concat();
        let expected = [vec![b'x'; 5_000], b"\r\n".repeat(5_000), b"yyyyyyyyyy\r\n".to_vec()].concat();
        assert_eq!(body(Canon::Relaxed, &String::from_utf8(long).unwrap()).as_bytes(), expected);
    }
}
