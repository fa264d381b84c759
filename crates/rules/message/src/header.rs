//! Header fields, found in one pass without allocation (RFC 5322 §2.2).
//!
//! A line ends with CRLF and with nothing else, as on the wire: a lone LF inside a field is part of that field,
//! so that no reader after us sees a field boundary that we did not.

use mail::Reply;
use memchr::memchr;

/// One header field; all spans point into the content it was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The field name as written, without the colon and without blanks before it.
    pub name: &'a [u8],
    /// What follows the colon, folding included, without the last CRLF.
    pub value: &'a [u8],
    /// Offset of the name in the content.
    pub start: usize,
    /// Offset behind the field's last CRLF.
    pub end: usize,
}

impl Field<'_> {
    /// True if the field's name is `name`, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// The value on one line: line breaks of folding removed, blanks at both ends trimmed (RFC 5322 §2.2.3).
    /// Octets that are not UTF-8 become U+FFFD.
    pub fn unfolded(&self) -> String {
        let mut out = Vec::with_capacity(self.value.len());
        out.extend(self.value.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')));
        String::from_utf8_lossy(&out).trim_matches([' ', '\t']).to_owned()
    }
}

/// Iterates the fields at the head of a content; stops at the empty line, at the first line that is no field,
/// or at the end.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    content: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// Starts at the first octet of `content`.
    pub fn new(content: &'a [u8]) -> Self {
        Self { content, at: 0 }
    }

    /// Offset behind the last field returned.
    pub fn offset(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let (start, rest) = (self.at, &self.content[self.at..]);
        let colon = memchr(b':', &rest[..rest.len().min(NAME_MAX + 1)])?;
        // RFC 5322 §4.5.8 allows blanks before the colon; readers do, so a hop hidden that way must count.
        let mut name = &rest[..colon];
        while let [head @ .., b' ' | b'\t'] = name {
            name = head;
        }
        if name.is_empty() || !name.iter().all(|b| matches!(b, 33..=126)) {
            return None;
        }
        let mut end = colon + 1;
        loop {
            end += line_len(&rest[end..]);
            if !matches!(rest.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        self.at = start + end;
        let value = &rest[colon + 1..end];
        let value = value.strip_suffix(b"\r\n").unwrap_or(value);
        Some(Field { name, value, start, end: self.at })
    }
}

/// Longest field name looked for, in octets; a line without a colon within it is not a field.
const NAME_MAX: usize = 256;

/// Octets up to and with the first CRLF, or all.
fn line_len(bytes: &[u8]) -> usize {
    let mut from = 0;
    while let Some(at) = memchr(b'\n', &bytes[from..]) {
        let lf = from + at;
        if lf > 0 && bytes[lf - 1] == b'\r' {
            return lf + 1;
        }
        from = lf + 1;
    }
    bytes.len()
}

/// What one pass over the header tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Octets of the header fields, without the empty line that ends them.
    pub header_len: usize,
    /// Where the body begins, behind the empty line if there is one.
    pub body_start: usize,
    /// True if an empty line stands between header and body.
    pub has_separator: bool,
    /// Header fields.
    pub fields: u32,
    /// Received fields: hops so far (RFC 5321 §6.3).
    pub received_hops: u32,
    /// From fields; more than one is a forgery or a mistake (RFC 5322 §3.6).
    pub from_fields: u32,
    /// A Date field is there.
    pub has_date: bool,
    /// A Message-ID field is there.
    pub has_message_id: bool,
    /// Octets of the longest field, folding included.
    pub longest_field: usize,
    /// True if no octet of the header is above 127.
    pub is_ascii: bool,
    /// Octets of the content.
    pub content_len: usize,
}

/// Scans the header of `content` once.
pub fn scan(content: &[u8]) -> Scan {
    let mut scan = Scan { content_len: content.len(), ..Scan::default() };
    let mut fields = Fields::new(content);
    for field in fields.by_ref() {
        scan.fields = scan.fields.saturating_add(1);
        scan.longest_field = scan.longest_field.max(field.end - field.start);
        // The length tells most names apart without looking at their letters.
        match field.name.len() {
            4 if field.is("date") => scan.has_date = true,
            4 if field.is("from") => scan.from_fields = scan.from_fields.saturating_add(1),
            8 if field.is("received") => scan.received_hops = scan.received_hops.saturating_add(1),
            10 if field.is("message-id") => scan.has_message_id = true,
            _ => {}
        }
    }
    scan.header_len = fields.offset();
    scan.has_separator = content[scan.header_len..].starts_with(b"\r\n");
    scan.body_start = scan.header_len + if scan.has_separator { 2 } else { 0 };
    scan.is_ascii = content[..scan.header_len].is_ascii();
    scan
}

impl Scan {
    /// True if fields put in front must be followed by an empty line: the content begins with its body, whose
    /// first line would otherwise be read as a field, or as more of ours.
    pub fn needs_separator(&self) -> bool {
        self.header_len == 0 && !self.has_separator && self.content_len > 0
    }

    /// The reply that refuses a header outside `limits`, if it is.
    pub fn refusal(&self, limits: &HeaderLimits) -> Option<Reply> {
        if self.received_hops > limits.hops_max {
            return Some(Reply::new(554, (5, 4, 6), "too many hops, this message is looping"));
        }
        if self.header_len > limits.header_max_octets {
            return Some(Reply::new(552, (5, 3, 4), "header too large"));
        }
        if self.fields > limits.fields_max {
            return Some(Reply::new(552, (5, 3, 4), "too many header fields"));
        }
        if self.longest_field > limits.field_max_octets {
            return Some(Reply::new(552, (5, 3, 4), "header field too large"));
        }
        None
    }
}

/// What a header may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderLimits {
    /// Octets of all header fields together. At least 1,024.
    pub header_max_octets: usize,
    /// Header fields. Real mail has 20 to 80; long chains of forwarders reach a few hundred. At least 30.
    pub fields_max: u32,
    /// Octets of one header field, its folded lines together. Long To fields reach some tens of thousands.
    /// At least 998.
    pub field_max_octets: usize,
    /// Received fields, after which a message is taken to loop and refused with 554 5.4.6. RFC 5321 §6.3 asks
    /// for at least 100.
    pub hops_max: u32,
}

impl Default for HeaderLimits {
    fn default() -> Self {
        Self { header_max_octets: 512 * 1024, fields_max: 1_000, field_max_octets: 128 * 1024, hops_max: 100 }
    }
}

/// Whatever the bytes, spans nest, grow and tell the same story as the scan.
#[doc(hidden)]
pub fn fuzz_header(content: &[u8]) {
    let scan = scan(content);
    let mut end = 0;
    let mut count = 0;
    for field in Fields::new(content) {
        assert!(field.start == end && field.end > field.start && field.end <= content.len());
        assert!(content[field.start..].starts_with(field.name));
        field.unfolded();
        end = field.end;
        count += 1;
    }
    assert_eq!((end, count), (scan.header_len, scan.fields));
    assert!(scan.header_len <= scan.body_start && scan.body_start <= content.len());
    crate::pick::fuzz_pick(content);
    // A field put in front is always the first field seen, and changes no other.
    let mut framed = b"X-First: 1\r\n".to_vec();
    if scan.needs_separator() {
        framed.extend_from_slice(b"\r\n");
    }
    let ours = framed.len();
    framed.extend_from_slice(content);
    let again = crate::scan(&framed);
    assert_eq!(again.fields, scan.fields + 1);
    assert_eq!(again.body_start, if scan.needs_separator() { ours } else { scan.body_start + ours });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &str, header_len: usize, body_start: usize, fields: u32) -> Scan {
        let scan = scan(content.as_bytes());
        assert_eq!(
            (scan.header_len, scan.body_start, scan.fields),
            (header_len, body_start, fields),
            "{content:?}"
        );
        scan
    }

    #[test]
    fn ends_of_headers() {
        check("A: 1\r\nB: 2\r\n\r\nbody", 12, 14, 2);
        check("A: 1\r\nB: 2\r\n", 12, 12, 2);
        check("A: 1", 4, 4, 1);
        check("A: 1\r\n B: 2\r\n\tC: 3\r\n\r\n", 20, 22, 1);
        assert!(!check("A: 1\r\nno field here\r\nB: 2\r\n\r\n", 6, 6, 1).needs_separator());
        assert!(!check("\r\nbody", 0, 2, 0).needs_separator());
        assert!(check(" folded first: x\r\n\r\n", 0, 0, 0).needs_separator());
        assert!(check("just a body\r\n", 0, 0, 0).needs_separator());
        assert!(!check("", 0, 0, 0).needs_separator());
        // A lone LF or CR is no line end.
        check("A: 1\nB: 2\n\nbody", 15, 15, 1);
        check("A: 1\rB: 2\r\n\r\n", 11, 13, 1);
        // A folded line of blanks only is still part of the field (RFC 5322 §4.2).
        check("A: 1\r\n \r\n\r\n", 9, 11, 1);
    }

    #[test]
    fn what_is_counted() {
        let scan = check(
            "Received: a\r\nRECEIVED : b\r\nX-Received: c\r\ndate: d\r\nMessage-Id: <e>\r\nFrom: f\r\nfrom: g\r\n\r\n",
            86,
            88,
            7,
        );
        assert_eq!((scan.received_hops, scan.from_fields), (2, 2));
        assert!(scan.has_date && scan.has_message_id && scan.is_ascii);
    }

    #[test]
    fn a_looping_message_is_refused() {
        let limits = HeaderLimits::default();
        let hops = |n: usize| scan("Received: x\r\n".repeat(n).as_bytes()).refusal(&limits);
        assert_eq!(hops(100), None);
        assert_eq!(hops(101).unwrap().to_string(), "554 5.4.6 too many hops, this message is looping");
    }

    #[test]
    fn oversized_headers_are_refused() {
        let limits = HeaderLimits::default();
        let refused = |text: String| scan(text.as_bytes()).refusal(&limits).map(|r| r.text.into_owned());
        assert_eq!(refused("A: b\r\n".repeat(1_001)).as_deref(), Some("too many header fields"));
        assert_eq!(refused(format!("A: {}\r\n", "b".repeat(1 << 20))).as_deref(), Some("header too large"));
        assert_eq!(
            refused(format!("A: {}\r\n", "b".repeat(130 << 10))).as_deref(),
            Some("header field too large")
        );
        assert_eq!(refused("A: b\r\n".repeat(1_000)), None);
    }

    #[test]
    fn random_headers() {
        let mut random = crate::encoding::tests::Random(7);
        let pieces: [&[u8]; 14] = [
            b"Received",
            b":",
            b" ",
            b"\t",
            b"\r\n",
            b"\r",
            b"\n",
            b"Date: x\r\n",
            b"\r\n\r\n",
            b"\0",
            b"\xff",
            b"From",
            b"a",
            b"message-id:<a@b>\r\n",
        ];
        for _ in 0..20_000 {
            let mut content = Vec::new();
            for _ in 0..random.below(24) {
                content.extend_from_slice(pieces[random.below(pieces.len())]);
            }
            fuzz_header(&content);
        }
    }
}
