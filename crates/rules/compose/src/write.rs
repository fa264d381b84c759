//! Parts as octets: the header, and the tree of MIME parts (RFC 2045, RFC 2046, RFC 2387).
//!
//! ```text
//! multipart/mixed
//! ├─ multipart/related
//! │  ├─ multipart/alternative
//! │  │  ├─ text/plain
//! │  │  ├─ text/x-amp-html
//! │  │  └─ text/html
//! │  └─ what the HTML text shows
//! └─ attachments
//! ```
//! A multipart of one part is left out.

use crate::field::{write_parameter, write_people, write_plain, write_text};
use crate::sheet::Stamp;
use crate::{Attachment, Parts, Person};
use mail::Host;
use message::{lines_within, write_date, write_quoted_printable};
use std::borrow::Cow;

/// Octets of a line of text that is sent as it is, at most (RFC 5322 §2.1.1).
const LINE_MAX: usize = 998;

/// Parts with their texts filled in.
pub(crate) struct View<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) from: Cow<'a, Person>,
    pub(crate) to: Cow<'a, [Person]>,
    pub(crate) subject: Option<Cow<'a, str>>,
    pub(crate) headers: Vec<(&'a str, Cow<'a, str>)>,
    pub(crate) text: Option<Cow<'a, str>>,
    pub(crate) html: Option<Cow<'a, str>>,
    pub(crate) amp: Option<Cow<'a, str>>,
}

/// Writes a message of parts that were checked, whose texts are no templates. Without `to` of its own it is shown to
/// be for `recipient`. `host` is the right side of its Message-ID.
pub fn write_parts(parts: &Parts, recipient: &Person, host: &Host, stamp: Stamp) -> Vec<u8> {
    let nobody = || Person { email: recipient.email.clone(), name: None };
    let view = View {
        parts,
        from: parts.from.as_ref().map_or_else(|| Cow::Owned(nobody()), Cow::Borrowed),
        to: match parts.to.is_empty() {
            true => Cow::Owned(vec![recipient.clone()]),
            false => Cow::Borrowed(&parts.to),
        },
        subject: parts.subject.as_deref().map(Cow::Borrowed),
        headers: parts.headers.iter().map(|(name, value)| (&**name, Cow::Borrowed(&**value))).collect(),
        text: parts.text.as_deref().map(Cow::Borrowed),
        html: parts.html.as_deref().map(Cow::Borrowed),
        amp: parts.amp.as_deref().map(Cow::Borrowed),
    };
    let mut out = Vec::new();
    view.write(&mut out, host, stamp);
    out
}

impl View<'_> {
    /// Appends the message.
    pub(crate) fn write(&self, out: &mut Vec<u8>, host: &Host, stamp: Stamp) {
        let texts = [&self.text, &self.html, &self.amp];
        let size: usize = texts.into_iter().flatten().map(|text| text.len() + text.len() / 8).sum();
        let files: usize = self.parts.attachments.iter().map(|file| file.content.len() / 38 * 39 + 300).sum();
        out.reserve(1_024 + size + files);
        write_people(out, "From", std::slice::from_ref(&self.from));
        write_people(out, "To", &self.to);
        for (people, name) in [(&self.parts.cc, "Cc"), (&self.parts.reply_to, "Reply-To")] {
            if !people.is_empty() {
                write_people(out, name, people);
            }
        }
        if let Some(subject) = &self.subject {
            write_text(out, "Subject", subject);
        }
        let given = |name: &str| self.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        if !given("Date") {
            out.extend_from_slice(b"Date: ");
            write_date(out, stamp.at);
            out.extend_from_slice(b"\r\n");
        }
        if !given("Message-ID") {
            out.extend_from_slice(format!("Message-ID: <{}@{host}>\r\n", stamp.word()).as_bytes());
        }
        for (name, value) in &self.headers {
            if value.is_ascii() { write_plain(out, name, value) } else { write_text(out, name, value) }
        }
        out.extend_from_slice(b"MIME-Version: 1.0\r\n");
        let boundaries = Boundaries { word: stamp.word(), count: 0 };
        self.mixed(&mut Writer { out, boundaries });
    }

    fn mixed(&self, to: &mut Writer<'_>) {
        let files: Vec<&Attachment> = self.files(false).collect();
        let has_text = self.text.is_some()
            || self.html.is_some()
            || self.amp.is_some()
            || self.files(true).next().is_some();
        match (has_text, &files[..]) {
            (true, []) => self.related(to),
            (false, [one]) => to.file(one),
            _ => {
                let boundary = to.begin("mixed", "");
                if has_text {
                    to.part(&boundary);
                    self.related(to);
                }
                for file in files {
                    to.part(&boundary);
                    to.file(file);
                }
                to.end(&boundary);
            }
        }
    }

    fn related(&self, to: &mut Writer<'_>) {
        if self.files(true).next().is_none() {
            return self.alternative(to);
        }
        let root = if self.texts().count() > 1 { "multipart/alternative" } else { "text/html" };
        let boundary = to.begin("related", &format!(";\r\n type=\"{root}\""));
        to.part(&boundary);
        self.alternative(to);
        for file in self.files(true) {
            to.part(&boundary);
            to.file(file);
        }
        to.end(&boundary);
    }

    fn alternative(&self, to: &mut Writer<'_>) {
        let texts: Vec<(&str, &str)> = self.texts().collect();
        match &texts[..] {
            [] => to.text("plain", ""),
            [(kind, text)] => to.text(kind, text),
            texts => {
                let boundary = to.begin("alternative", "");
                for (kind, text) in texts {
                    to.part(&boundary);
                    to.text(kind, text);
                }
                to.end(&boundary);
            }
        }
    }

    /// The texts in the order of rising worth. Readers of AMP want its part before the HTML, whose readers take the
    /// last one they know.
    fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let texts = [("plain", &self.text), ("x-amp-html", &self.amp), ("html", &self.html)];
        texts.into_iter().filter_map(|(kind, text)| Some((kind, text.as_deref()?)))
    }

    fn files(&self, inline: bool) -> impl Iterator<Item = &Attachment> {
        self.parts.attachments.iter().filter(move |file| file.content_id.is_some() == inline)
    }
}

/// Boundaries that stand in no part: base64 has no `_`, quoted-printable writes `=` and a `-` that begins a line
/// otherwise, and a text that is sent as it is was searched for them.
struct Boundaries {
    word: String,
    count: u32,
}

/// What every boundary begins with.
const BOUNDARY: &str = "=_tuma_";

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    boundaries: Boundaries,
}

impl Writer<'_> {
    fn push(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn begin(&mut self, kind: &str, more: &str) -> String {
        self.boundaries.count += 1;
        let boundary = format!("{BOUNDARY}{}_{}", self.boundaries.word, self.boundaries.count);
        self.push(&format!("Content-Type: multipart/{kind};\r\n boundary=\"{boundary}\"{more}\r\n\r\n"));
        boundary
    }

    fn part(&mut self, boundary: &str) {
        self.push(&format!("--{boundary}\r\n"));
    }

    fn end(&mut self, boundary: &str) {
        self.push(&format!("--{boundary}--\r\n"));
    }

    fn text(&mut self, kind: &str, text: &str) {
        let text = with_crlf(text);
        self.push(&format!("Content-Type: text/{kind}; charset=utf-8\r\nContent-Transfer-Encoding: "));
        let plain = text.is_ascii()
            && !text.contains('\0')
            && !text.contains(BOUNDARY)
            && lines_within(text.as_bytes(), LINE_MAX);
        if plain {
            self.push("7bit\r\n\r\n");
            self.push(&text);
        } else if text.bytes().filter(|b| !b.is_ascii()).count() * 6 <= text.len() {
            self.push("quoted-printable\r\n\r\n");
            write_quoted_printable(self.out, text.as_bytes());
        } else {
            self.push("base64\r\n\r\n");
            message::write_base64(self.out, text.as_bytes());
        }
        // The line end before a boundary is the boundary's (RFC 2046 §5.1.1), so a text keeps its own before it.
        let in_multipart = self.boundaries.count > 0;
        if in_multipart || !self.out.ends_with(b"\r\n") {
            self.push("\r\n");
        }
    }

    fn file(&mut self, file: &Attachment) {
        self.push(&format!("Content-Type: {}", file.media_type));
        if let Some(name) = &file.filename {
            write_parameter(self.out, "name", name);
        }
        let disposition = if file.content_id.is_some() { "inline" } else { "attachment" };
        self.push(&format!("\r\nContent-Disposition: {disposition}"));
        if let Some(name) = &file.filename {
            write_parameter(self.out, "filename", name);
        }
        if let Some(id) = &file.content_id {
            self.push(&format!("\r\nContent-ID: <{id}>"));
        }
        self.push("\r\nContent-Transfer-Encoding: base64\r\n\r\n");
        for line in file.content.as_bytes().chunks(76) {
            self.out.extend_from_slice(line);
            self.push("\r\n");
        }
    }
}

/// A text whose lines end as they do in mail. A lone CR ends a line too.
pub(crate) fn with_crlf(text: &str) -> Cow<'_, str> {
    if !message::has_bare_newline(text.as_bytes()) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + text.len() / 32);
    let mut rest = text;
    while let Some(at) = rest.find(['\r', '\n']) {
        out.push_str(&rest[..at]);
        out.push_str("\r\n");
        rest = &rest[at..];
        rest = rest.strip_prefix("\r\n").unwrap_or(&rest[1..]);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::{SpoolId, UnixMillis};
    use message::Fields;

    fn written(parts: Parts) -> String {
        let mut parts = Parts { from: Some(Person::parse("Acme <news@acme.test>").unwrap()), ..parts };
        parts.check().unwrap();
        let recipient = Person::parse("Ann <ann@b.test>").unwrap();
        let stamp = Stamp { id: SpoolId(5), index: 0, at: UnixMillis(1_772_359_205_123) };
        let octets = write_parts(&parts, &recipient, &Host::parse("mx.test").unwrap(), stamp);
        assert!(!message::has_bare_newline(&octets) && lines_within(&octets, LINE_MAX));
        String::from_utf8(octets).unwrap()
    }

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_plain_one() {
        assert_eq!(
            written(Parts { subject: text("Hi"), text: text("One\nTwo\n"), ..Parts::default() }),
            "From: Acme <news@acme.test>\r\n\
             To: Ann <ann@b.test>\r\n\
             Subject: Hi\r\n\
             Date: Sun, 01 Mar 2026 10:00:05 +0000\r\n\
             Message-ID: <00000000005.0@mx.test>\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: 7bit\r\n\
             \r\n\
             One\r\nTwo\r\n"
        );
    }

    #[test]
    fn the_whole_tree() {
        let file = |name: &str, cid: Option<&str>| Attachment {
            filename: text(name),
            media_type: "image/png".into(),
            content: "QUJD".into(),
            content_id: cid.map(str::to_owned),
        };
        let message = written(Parts {
            text: text("plain"),
            html: text("<p>gr\u{fc}n</p>"),
            amp: text("<html amp4email>"),
            attachments: vec![file("a.png", None), file("logo.png", Some("logo"))],
            ..Parts::default()
        });
        let order = [
            "multipart/mixed",
            "multipart/related",
            "type=\"multipart/alternative\"",
            "multipart/alternative;\r\n boundary",
            "text/plain",
            "text/x-amp-html",
            "text/html",
            "quoted-printable\r\n\r\n<p>gr=C3=BCn</p>\r\n--",
            "Content-ID: <logo>",
            "Content-Disposition: attachment;\r\n filename=\"a.png\"",
        ];
        let mut at = 0;
        for piece in order {
            at +=
                message[at..].find(piece).unwrap_or_else(|| panic!("{piece} is not behind {at}:\n{message}"));
        }
        assert!(message.trim_end().ends_with("_1--"), "{message}");
        let alone = written(Parts { attachments: vec![file("a.png", None)], ..Parts::default() });
        assert!(!alone.contains("multipart") && alone.ends_with("\r\n\r\nQUJD\r\n"), "{alone}");
    }

    #[test]
    fn texts_cannot_end_their_part_or_break_a_line() {
        let evil = "--=_tuma_00000000005.0_1--\r\nX: y\r\n.\r\nQUIT\r\n";
        let message = written(Parts { text: text(evil), html: text("<p>"), ..Parts::default() });
        assert_eq!(message.matches("\r\n--=_tuma_00000000005.0_1--").count(), 1, "{message}");
        let long = written(Parts { text: text(&"x".repeat(5_000)), ..Parts::default() });
        assert!(long.contains("quoted-printable"), "{long}");
        let japanese = written(Parts { text: text(&"\u{65e5}\u{672c}\n".repeat(50)), ..Parts::default() });
        assert!(japanese.contains("base64"));
        for broken in ["a\rb\nc\r\nd", "\n", "\r\n\r", "\0"] {
            written(Parts { text: text(broken), ..Parts::default() });
        }
    }

    #[test]
    fn fields_of_ones_own() {
        let headers = [
            ("List-Unsubscribe", "<https://acme.test/u?x=1>, <mailto:u@acme.test>"),
            ("X-Note", "gr\u{fc}n"),
            ("Message-ID", "<mine@acme.test>"),
            ("Date", "Mon, 02 Mar 2026 10:00:05 +0000"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let message = written(Parts { headers, text: text("t"), ..Parts::default() });
        let names: Vec<String> = Fields::new(message.as_bytes())
            .map(|field| String::from_utf8_lossy(field.name).into_owned())
            .collect();
        assert_eq!(
            names.iter().filter(|name| *name == "Date" || *name == "Message-ID").count(),
            2,
            "{names:?}"
        );
        assert!(message.contains("X-Note: =?utf-8?b?Z3LDvG4=?=\r\n"), "{message}");
    }
}
