//! A message on its way in, which may be changed.

use bytes::Bytes;
use mail::{Envelope, FieldName, Tags};
use message::Fields;
use std::fmt;

/// A mail object (RFC 5321 §2.3.1): an envelope and content. What nobody changes is never copied; the header is taken
/// apart when it is first looked at.
#[derive(Clone, Debug)]
pub struct MailObject {
    /// Who sent it and who shall get it.
    pub envelope: Envelope,
    /// What it is filed under.
    pub tags: Tags,
    /// As it came.
    content: Bytes,
    /// The header's fields, once they were asked for.
    head: Option<Head>,
    /// What takes the place of the body.
    body: Option<Bytes>,
}

/// A header taken apart.
#[derive(Clone, Debug)]
struct Head {
    fields: Vec<Written>,
    /// Where the body begins in the content.
    body_start: usize,
    /// Some field is not as it came.
    changed: bool,
}

/// One field, whole: name, colon, value and the last CRLF.
#[derive(Clone, Debug)]
struct Written {
    octets: Bytes,
    name_len: usize,
}

impl Written {
    fn name(&self) -> &[u8] {
        &self.octets[..self.name_len]
    }

    fn is(&self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name.as_bytes())
    }

    /// What follows the colon, as it stands, without the last CRLF.
    fn value(&self) -> &[u8] {
        let colon = self.octets.iter().position(|octet| *octet == b':').unwrap_or(self.name_len);
        let value = self.octets.get(colon + 1..).unwrap_or_default();
        value.strip_suffix(b"\r\n").unwrap_or(value)
    }

    fn new(name: &str, value: &[u8]) -> Result<Self, EditError> {
        let parsed: FieldName = name.parse().map_err(|_| EditError::Name)?;
        let name = parsed.as_str();
        if value.len() > VALUE_MAX_OCTETS {
            return Err(EditError::TooLong);
        }
        let mut octets = Vec::with_capacity(name.len() + value.len() + 4);
        octets.extend_from_slice(name.as_bytes());
        octets.extend_from_slice(b":");
        if !matches!(value.first(), Some(b' ' | b'\t')) {
            octets.push(b' ');
        }
        fold(value, &mut octets)?;
        octets.extend_from_slice(b"\r\n");
        Ok(Self { octets: octets.into(), name_len: name.len() })
    }
}

/// Octets of the value of a field that a policy may write.
const VALUE_MAX_OCTETS: usize = 128 * 1024;
/// Fields that a policy may leave in a header, so that an edit in a loop ends.
const FIELDS_MAX: usize = 10_000;

/// Why an edit cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditError {
    /// That is no name of a header field.
    Name,
    /// The value holds an octet that a header may not: NUL, or a lone CR.
    Value,
    /// The value, or the header, is too long.
    TooLong,
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "this is no name of a header field",
            Self::Value => "a header field may hold neither NUL nor a lone CR",
            Self::TooLong => "the header field or the header is too long",
        })
    }
}

impl std::error::Error for EditError {}

/// Writes a value whose lines end in LF or CRLF as a folded one. A line that would begin a field of its own is made to
/// continue this one, whatever its writer meant: nobody slips a second field in by a value.
fn fold(value: &[u8], out: &mut Vec<u8>) -> Result<(), EditError> {
    for (n, line) in value.split(|octet| *octet == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().any(|octet| matches!(octet, 0 | b'\r')) {
            return Err(EditError::Value);
        }
        // A line of blanks within a field reads as its end to some.
        if n > 0 && line.iter().all(|octet| matches!(octet, b' ' | b'\t')) {
            continue;
        }
        if n > 0 {
            out.extend_from_slice(b"\r\n");
            if !matches!(line.first(), Some(b' ' | b'\t')) {
                out.push(b'\t');
            }
        }
        out.extend_from_slice(line);
    }
    Ok(())
}

impl MailObject {
    /// A message as it came: its content has CRLF line ends, unless the envelope says BINARYMIME.
    pub fn new(envelope: Envelope, tags: Tags, content: Bytes) -> Self {
        Self { envelope, tags, content, head: None, body: None }
    }

    /// True if the content is not what came.
    pub fn is_edited(&self) -> bool {
        self.body.is_some() || self.head.as_ref().is_some_and(|head| head.changed)
    }

    fn head(&mut self) -> &mut Head {
        let content = &self.content;
        self.head.get_or_insert_with(|| {
            let mut fields = Fields::new(content);
            let written = fields.by_ref().map(|field| Written {
                octets: content.slice(field.start..field.end),
                name_len: field.name.len(),
            });
            let list = written.collect();
            let end = fields.offset();
            let body_start = end + if content[end..].starts_with(b"\r\n") { 2 } else { 0 };
            Head { fields: list, body_start, changed: false }
        })
    }

    /// The fields in order: name, and value as it stands, folding included.
    pub fn fields(&mut self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.head().fields.iter().map(|field| (field.name(), field.value()))
    }

    /// The value of the first field of a name on one line.
    pub fn first(&mut self, name: &str) -> Option<String> {
        let field = self.head().fields.iter().find(|field| field.is(name))?;
        Some(unfolded(field.value()))
    }

    /// The values of all fields of a name, each on one line.
    pub fn all(&mut self, name: &str) -> Vec<String> {
        let fields = self.head().fields.iter().filter(|field| field.is(name));
        fields.map(|field| unfolded(field.value())).collect()
    }

    /// Puts a field at `place` of the header, 0 being before all; behind the last if there are fewer.
    pub fn insert_field(&mut self, place: usize, name: &str, value: &[u8]) -> Result<(), EditError> {
        let written = Written::new(name, value)?;
        let head = self.head();
        if head.fields.len() >= FIELDS_MAX {
            return Err(EditError::TooLong);
        }
        // A last field without its line end would run into the next.
        if place >= head.fields.len()
            && let Some(last) = head.fields.last_mut()
            && !last.octets.ends_with(b"\r\n")
        {
            let octets = [&last.octets[..], b"\r\n"].concat();
            last.octets = octets.into();
        }
        head.fields.insert(place.min(head.fields.len()), written);
        head.changed = true;
        Ok(())
    }

    /// Puts a field behind the others.
    pub fn add_field(&mut self, name: &str, value: &[u8]) -> Result<(), EditError> {
        self.insert_field(usize::MAX, name, value)
    }

    /// Changes field number `n` of a name, from 1; an empty value takes it out. With fewer than `n` of them, a field
    /// with a value is added, as the milter protocol has it.
    pub fn change_field(&mut self, n: usize, name: &str, value: &[u8]) -> Result<(), EditError> {
        let head = self.head();
        let mut places = head.fields.iter().enumerate().filter(|(_, field)| field.is(name)).map(|(at, _)| at);
        let at = places.nth(n.saturating_sub(1));
        match (at, value.is_empty()) {
            (Some(at), true) => {
                head.fields.remove(at);
            }
            (Some(at), false) => head.fields[at] = Written::new(name, value)?,
            (None, true) => return Ok(()),
            (None, false) => return self.add_field(name, value),
        }
        head.changed = true;
        Ok(())
    }

    /// Takes all fields of a name out; gives how many there were.
    pub fn remove_fields(&mut self, name: &str) -> usize {
        let head = self.head();
        let before = head.fields.len();
        head.fields.retain(|field| !field.is(name));
        let taken = before - head.fields.len();
        head.changed |= taken > 0;
        taken
    }

    /// One field of a name with this value in the place of the first, or behind the others; further ones are taken out.
    pub fn set_field(&mut self, name: &str, value: &[u8]) -> Result<(), EditError> {
        let written = Written::new(name, value)?;
        let head = self.head();
        let Some(at) = head.fields.iter().position(|field| field.is(name)) else {
            return self.add_field(name, value);
        };
        head.fields[at] = written;
        let mut n = 0;
        head.fields.retain(|field| {
            n += 1;
            n <= at + 1 || !field.is(name)
        });
        head.changed = true;
        Ok(())
    }

    /// The body as it stands.
    pub fn body(&mut self) -> Bytes {
        if let Some(body) = &self.body {
            return body.clone();
        }
        let start = self.head().body_start;
        self.content.slice(start..)
    }

    /// Puts another body in the place of this one. Line ends become CRLF, unless the envelope says BINARYMIME.
    pub fn set_body(&mut self, body: &[u8]) {
        self.body = Some(match self.envelope.body {
            mail::BodyType::BinaryMime => Bytes::copy_from_slice(body),
            _ => with_crlf(body),
        });
    }

    /// The content as it stands; what nobody changed is what came.
    pub fn content(&self) -> Bytes {
        if !self.is_edited() {
            return self.content.clone();
        }
        let Some(head) = &self.head else {
            // A body was set without a look at the header.
            let mut looked = self.clone();
            looked.head();
            return looked.content();
        };
        let rest = self.body.clone().unwrap_or_else(|| self.content.slice(head.body_start..));
        let len = head.fields.iter().map(|field| field.octets.len()).sum::<usize>() + rest.len() + 4;
        let mut out = Vec::with_capacity(len);
        for field in &head.fields {
            out.extend_from_slice(&field.octets);
        }
        if !head.fields.is_empty() && !out.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&rest);
        out.into()
    }

    /// Octets that its edits hold beside what came.
    pub fn edits_octets(&self) -> usize {
        let body = self.body.as_ref().map_or(0, Bytes::len);
        body + self.head.as_ref().map_or(0, |head| if head.changed { head.body_start } else { 0 })
    }
}

/// A value on one line, as [`message::Field::unfolded`] has it.
fn unfolded(value: &[u8]) -> String {
    let field = message::Field { name: b"", value, start: 0, end: 0 };
    field.unfolded()
}

/// A text with every line ended by CRLF. Lone CR and LF are line ends too: on the wire they would be ambiguous.
fn with_crlf(text: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(text.len() + text.len() / 32 + 2);
    let mut octets = text.iter().copied().peekable();
    while let Some(octet) = octets.next() {
        match octet {
            b'\r' => {
                if octets.peek() == Some(&b'\n') {
                    octets.next();
                }
                out.extend_from_slice(b"\r\n");
            }
            b'\n' => out.extend_from_slice(b"\r\n"),
            octet => out.push(octet),
        }
    }
    if !out.is_empty() && !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::ReversePath;

    fn object(content: &'static str) -> MailObject {
        MailObject::new(
            Envelope::new(ReversePath::Null, vec![]),
            Tags::default(),
            Bytes::from_static(content.as_bytes()),
        )
    }

    const CONTENT: &str = "Subject: one\r\n two\r\nX-A: 1\r\nTo: t\r\nx-a : 2\r\n\r\nbody\r\n";

    /// What a message becomes by an edit.
    fn edited(content: &'static str, edit: impl Fn(&mut MailObject)) -> String {
        let mut object = object(content);
        edit(&mut object);
        String::from_utf8(object.content().to_vec()).unwrap()
    }

    #[test]
    fn what_nobody_changes_stays_and_is_not_copied() {
        for content in [CONTENT, "", "\r\nbody", "no header\r\n", "A: 1", "A: 1\r\n", "A: 1\r\nno field\r\n"]
        {
            let mut object = object(content);
            assert_eq!(object.first("absent"), None);
            assert_eq!(object.remove_fields("absent"), 0);
            assert!(object.change_field(1, "absent", b"").is_ok() && !object.is_edited());
            assert_eq!(object.content().as_ptr(), content.as_ptr(), "{content:?}");
            assert_eq!(object.content(), content);
        }
    }

    #[test]
    fn header_fields_are_read() {
        let mut object = object(CONTENT);
        assert_eq!(object.first("SUBJECT").as_deref(), Some("one two"));
        assert_eq!(object.all("x-a"), ["1", "2"]);
        assert_eq!(object.body(), "body\r\n");
        let names: Vec<String> =
            object.fields().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(names, ["Subject", "X-A", "To", "x-a"]);
    }

    #[test]
    fn header_fields_are_changed() {
        let tail = "\r\n\r\nbody\r\n";
        assert_eq!(
            edited(CONTENT, |o| o.add_field("X-B", b"3").unwrap()),
            format!("Subject: one\r\n two\r\nX-A: 1\r\nTo: t\r\nx-a : 2\r\nX-B: 3{tail}")
        );
        assert_eq!(
            edited(CONTENT, |o| o.insert_field(0, "X-B", b" 3").unwrap()),
            format!("X-B: 3\r\nSubject: one\r\n two\r\nX-A: 1\r\nTo: t\r\nx-a : 2{tail}")
        );
        assert_eq!(
            edited(CONTENT, |o| o.set_field("x-A", b"9").unwrap()),
            format!("Subject: one\r\n two\r\nx-A: 9\r\nTo: t{tail}")
        );
        assert_eq!(
            edited(CONTENT, |o| o.change_field(2, "X-A", b"9").unwrap()),
            format!("Subject: one\r\n two\r\nX-A: 1\r\nTo: t\r\nX-A: 9{tail}")
        );
        assert_eq!(
            edited(CONTENT, |o| o.change_field(1, "X-A", b"").unwrap()),
            format!("Subject: one\r\n two\r\nTo: t\r\nx-a : 2{tail}")
        );
        assert_eq!(
            edited(CONTENT, |o| o.change_field(5, "X-B", b"3").unwrap()),
            format!("Subject: one\r\n two\r\nX-A: 1\r\nTo: t\r\nx-a : 2\r\nX-B: 3{tail}")
        );
        assert_eq!(
            edited(CONTENT, |o| assert_eq!(o.remove_fields("X-A"), 2)),
            format!("Subject: one\r\n two\r\nTo: t{tail}")
        );
    }

    #[test]
    fn odd_messages_stay_readable() {
        let add = |o: &mut MailObject| o.add_field("X", b"1").unwrap();
        assert_eq!(edited("", add), "X: 1\r\n\r\n");
        assert_eq!(edited("\r\nbody", add), "X: 1\r\n\r\nbody");
        assert_eq!(edited("just a body\r\n", add), "X: 1\r\n\r\njust a body\r\n");
        assert_eq!(edited("A: 1", add), "A: 1\r\nX: 1\r\n\r\n");
        assert_eq!(edited("A: 1\r\nno field\r\n", add), "A: 1\r\nX: 1\r\n\r\nno field\r\n");
        assert_eq!(edited("A: 1\r\n\r\nx", |o| assert_eq!(o.remove_fields("a"), 1)), "\r\nx");
    }

    #[test]
    fn values_cannot_end_their_field() {
        let add =
            |value: &'static str| edited("A: 1\r\n\r\n", |o| o.add_field("X", value.as_bytes()).unwrap());
        assert_eq!(add("1\r\nBcc: evil"), "A: 1\r\nX: 1\r\n\tBcc: evil\r\n\r\n");
        assert_eq!(add("1\n\nbody"), "A: 1\r\nX: 1\r\n\tbody\r\n\r\n");
        assert_eq!(add("1\n two\r\n\tthree\n"), "A: 1\r\nX: 1\r\n two\r\n\tthree\r\n\r\n");
        let mut object = object("A: 1\r\n\r\n");
        assert_eq!(object.add_field("X", b"1\r2"), Err(EditError::Value));
        assert_eq!(object.add_field("X", b"1\0"), Err(EditError::Value));
        for name in ["", "X:", "X Y", "X\r\nY", "\u{e9}"] {
            assert_eq!(object.add_field(name, b"1"), Err(EditError::Name), "{name:?}");
        }
        assert_eq!(object.add_field("X", &vec![b'x'; 200_000]), Err(EditError::TooLong));
        assert!(!object.is_edited());
    }

    #[test]
    fn bodies_are_replaced_and_end_their_lines() {
        assert_eq!(
            edited(CONTENT, |o| o.set_body(b"a\nb\r\nc\rd")).split_once("\r\n\r\n").unwrap().1,
            "a\r\nb\r\nc\r\nd\r\n"
        );
        assert_eq!(edited("body only", |o| o.set_body(b"x")), "\r\nx\r\n", "the first line was no header");
        assert_eq!(edited("A: 1", |o| o.set_body(b"")), "A: 1\r\n\r\n");
        let mut object = object(CONTENT);
        object.set_body(b"new");
        assert_eq!(object.body(), "new\r\n");
        assert!(object.content().ends_with(b"x-a : 2\r\n\r\nnew\r\n"));
    }
}
