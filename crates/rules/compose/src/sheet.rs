//! A mail merge as the spool keeps it: the content once, then each recipient's values.
//!
//! ```text
//! "TUMA-SHEET 1\n"
//! length of the head, 32 bits    head: JSON, see `Head`
//! count of entries, 32 bits      where each entry ends, 32 bits each, counted from the first
//! entries: name, LF, substitutions as JSON; both may be empty
//! ```
//! Numbers are little-endian. Four octets and the LF are what a recipient costs beside his values.

use crate::parts::Mistake;
use crate::raw::RawTemplate;
use crate::template::{Rendering, Substitutions, Template};
use crate::{Parts, tidy};
use mail::{Host, Mailbox, SpoolId, UnixMillis};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

const MAGIC: &[u8] = b"TUMA-SHEET 1\n";

/// What is written for every recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// Parts, checked.
    Parts(Box<Parts>),
    /// A message that came written.
    Raw(String),
}

#[derive(Serialize, Deserialize)]
struct Head {
    content: Content,
    /// Everybody's values, as JSON in a text.
    #[serde(default)]
    common: String,
}

/// What names one copy of a message: for its Message-ID and Date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The message.
    pub id: SpoolId,
    /// The recipient's place in the envelope.
    pub index: u32,
    /// When it was accepted.
    pub at: UnixMillis,
}

impl Stamp {
    pub(crate) fn word(&self) -> String {
        format!("{}.{}", self.id, self.index)
    }
}

/// Octets are no sheet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SheetError(String);

impl fmt::Display for SheetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the mail merge in the spool cannot be read: {}", self.0)
    }
}

impl std::error::Error for SheetError {}

/// Writes sheets of one content: as many recipients to each as the spool shall keep together.
pub struct SheetWriter {
    head: Vec<u8>,
    templates: Compiled,
    common: Substitutions,
}

impl SheetWriter {
    /// Checks and compiles a content, with everybody's values as a JSON object or an empty text.
    pub fn new(content: Content, common: &str) -> Result<Self, Mistake> {
        let templates = Compiled::of(&content)?;
        let values = Substitutions::parse(common).map_err(|text| Mistake::new("/substitutions", text))?;
        let head = serde_json::to_vec(&Head { content, common: common.to_owned() });
        let head = head.map_err(|error| Mistake::new("", error.to_string()))?;
        Ok(Self { head, templates, common: values })
    }

    /// The message of one recipient, for one who has no need of a sheet and for finding mistakes early.
    pub fn write_one(
        &self,
        to: &Mailbox,
        name: Option<&str>,
        own: &str,
        host: &Host,
        stamp: Stamp,
    ) -> Result<Vec<u8>, String> {
        let own = Substitutions::parse(own)?;
        self.templates.write(&Rendering { to, name, own: &own, common: &self.common }, host, stamp)
    }

    /// Octets of a sheet without its entries.
    pub fn head_octets(&self) -> usize {
        MAGIC.len() + self.head.len() + 8
    }

    /// A sheet of these recipients, each with his name and his values as a JSON object, both of which may be empty.
    /// `None` if it would be larger than the numbers in it.
    pub fn sheet<'a>(&self, entries: impl ExactSizeIterator<Item = (&'a str, &'a str)>) -> Option<Vec<u8>> {
        let count = entries.len();
        let mut out = Vec::with_capacity(self.head_octets() + count * 100);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&u32::try_from(self.head.len()).ok()?.to_le_bytes());
        out.extend_from_slice(&self.head);
        out.extend_from_slice(&u32::try_from(count).ok()?.to_le_bytes());
        let ends = out.len();
        out.resize(ends + 4 * count, 0);
        let first = out.len();
        for (n, (name, own)) in entries.enumerate() {
            // What is between the two is the one thing that no name holds.
            debug_assert!(!name.contains('\n'));
            out.extend_from_slice(name.as_bytes());
            out.push(b'\n');
            out.extend_from_slice(own.as_bytes());
            let end = u32::try_from(out.len() - first).ok()?.to_le_bytes();
            out.get_mut(ends + 4 * n..ends + 4 * n + 4)?.copy_from_slice(&end);
        }
        Some(out)
    }
}

enum Compiled {
    Parts(Box<Template>),
    Raw(Box<RawTemplate>),
}

impl Compiled {
    fn of(content: &Content) -> Result<Self, Mistake> {
        match content {
            Content::Parts(parts) => Template::compile(Parts::clone(parts)).map(|t| Self::Parts(Box::new(t))),
            Content::Raw(text) => RawTemplate::compile(&tidy(text)?).map(|t| Self::Raw(Box::new(t))),
        }
    }

    fn write(&self, rendering: &Rendering<'_>, host: &Host, stamp: Stamp) -> Result<Vec<u8>, String> {
        match self {
            Self::Parts(template) => template.write(rendering, host, stamp),
            Self::Raw(template) => template.write(rendering),
        }
    }
}

/// A sheet that was read, its templates compiled.
pub struct Sheet {
    /// The head as it was read, and what was made of it.
    head: Arc<(Vec<u8>, Compiled, Substitutions)>,
    entries: Vec<u8>,
    spans: Vec<Range<usize>>,
}

impl Sheet {
    /// Reads a sheet and compiles its templates.
    pub fn decode(octets: &[u8]) -> Result<Self, SheetError> {
        Self::decode_like(octets, None)
    }

    /// Reads a sheet. The templates of another one are used if they are the same.
    pub fn decode_like(octets: &[u8], other: Option<&Self>) -> Result<Self, SheetError> {
        let wrong = |text: &str| SheetError(text.to_owned());
        let mut rest = octets.strip_prefix(MAGIC).ok_or_else(|| wrong("it does not begin as one"))?;
        let mut take = |len: usize| -> Result<&[u8], SheetError> {
            let (head, tail) = rest.split_at_checked(len).ok_or_else(|| wrong("it ends too early"))?;
            rest = tail;
            Ok(head)
        };
        let number = |octets: &[u8]| -> usize {
            <[u8; 4]>::try_from(octets).map_or(0, |octets| u32::from_le_bytes(octets) as usize)
        };
        let len = number(take(4)?);
        let head = take(len)?;
        let count = number(take(4)?);
        let ends = take(count.checked_mul(4).ok_or_else(|| wrong("it ends too early"))?)?;
        let entries = rest.to_vec();
        let mut spans = Vec::with_capacity(count);
        let mut from = 0;
        for end in ends.chunks_exact(4).map(number) {
            if end < from || end > entries.len() {
                return Err(wrong("its entries do not follow each other"));
            }
            spans.push(from..end);
            from = end;
        }
        if let Some(same) = other.filter(|other| other.head.0 == head) {
            return Ok(Self { head: same.head.clone(), entries, spans });
        }
        let octets = head.to_vec();
        let head: Head = serde_json::from_slice(head).map_err(|error| SheetError(error.to_string()))?;
        let mut content = head.content;
        if let Content::Parts(parts) = &mut content {
            parts.check().map_err(|mistake| SheetError(mistake.to_string()))?;
        }
        let templates = Compiled::of(&content).map_err(|mistake| SheetError(mistake.to_string()))?;
        let common = Substitutions::parse(&head.common).map_err(SheetError)?;
        Ok(Self { head: Arc::new((octets, templates, common)), entries, spans })
    }

    /// Octets it holds on to, more or less.
    pub fn weight(&self) -> usize {
        self.entries.len() + self.spans.len() * 16 + 64 * 1024
    }

    /// The name of a recipient, and his values as JSON.
    fn entry(&self, index: u32) -> Option<(&str, &str)> {
        let span = self.spans.get(index as usize)?.clone();
        std::str::from_utf8(self.entries.get(span)?).ok()?.split_once('\n')
    }

    /// The message of the recipient at that place of the envelope, or in one line why there is none.
    pub fn expand(&self, to: &Mailbox, host: &Host, stamp: Stamp) -> Result<Vec<u8>, String> {
        let (name, own) = self.entry(stamp.index).ok_or("the mail merge has no such recipient")?;
        let own = Substitutions::parse(own)?;
        let name = Some(name).filter(|name| !name.is_empty());
        let (_, templates, common) = &*self.head;
        templates.write(&Rendering { to, name, own: &own, common }, host, stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Person;

    fn parts() -> Parts {
        Parts {
            from: Some(Person::parse("Acme <news@acme.test>").unwrap()),
            subject: Some("Hi {{ first }}".into()),
            text: Some("{{ code }} at {{ shop }}".into()),
            ..Parts::default()
        }
    }

    fn stamp(index: u32) -> Stamp {
        Stamp { id: SpoolId(9), index, at: UnixMillis(0) }
    }

    #[test]
    fn a_sheet_reads_back_for_each_recipient() {
        let content = Content::Parts(Box::new(parts()));
        let writer = SheetWriter::new(content, r#"{"shop":"Acme"}"#).unwrap();
        let entries =
            [("Ann", r#"{"first":"A","code":1}"#), ("", ""), ("Bob", r#"{"first":"B","code":[2]}"#)];
        let octets = writer.sheet(entries.into_iter()).unwrap();
        let values: usize = entries.iter().map(|(name, own)| name.len() + own.len()).sum();
        assert_eq!(octets.len(), writer.head_octets() + values + 3 * 5);
        let sheet = Sheet::decode(&octets).unwrap();
        let (to, host) = (Mailbox::parse("x@y.test").unwrap(), Host::parse("mx.test").unwrap());
        for (index, (name, own)) in entries.into_iter().enumerate() {
            let name = Some(name).filter(|name| !name.is_empty());
            let alone = writer.write_one(&to, name, own, &host, stamp(index as u32)).unwrap();
            assert_eq!(sheet.expand(&to, &host, stamp(index as u32)).unwrap(), alone);
        }
        let third = String::from_utf8(sheet.expand(&to, &host, stamp(2)).unwrap()).unwrap();
        assert!(third.contains("Subject: Hi B\r\n") && third.contains("\r\n\r\n[2] at Acme\r\n"), "{third}");
        assert!(sheet.expand(&to, &host, stamp(3)).is_err());
        for cut in 0..octets.len() {
            // Cut in an entry its end is beyond the sheet's.
            assert!(Sheet::decode(&octets[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_written_message_makes_a_sheet_too() {
        let raw = Content::Raw("From: a@b.test\nSubject: {{ s }}\n\n{{ s }}".into());
        let writer = SheetWriter::new(raw, "").unwrap();
        let sheet = Sheet::decode(&writer.sheet([("", r#"{"s":"x"}"#)].into_iter()).unwrap()).unwrap();
        let (to, host) = (Mailbox::parse("x@y.test").unwrap(), Host::parse("mx.test").unwrap());
        let message = sheet.expand(&to, &host, stamp(0)).unwrap();
        assert_eq!(String::from_utf8(message).unwrap(), "From: a@b.test\r\nSubject: x\r\n\r\nx\r\n");
        assert!(SheetWriter::new(Content::Raw("From: a@b.test\n\n{{".into()), "").is_err());
        assert!(SheetWriter::new(Content::Parts(Box::new(parts())), "[]").is_err());
    }

    #[test]
    fn octets_of_any_kind() {
        let content = Content::Parts(Box::new(parts()));
        let good = SheetWriter::new(content, "").unwrap().sheet([("A", "{}"), ("", "")].into_iter()).unwrap();
        let mut seed = 7u64;
        for _ in 0..3_000 {
            let mut octets = good.clone();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (seed >> 33) as usize % octets.len();
                octets[at] = (seed >> 24) as u8;
            }
            crate::fuzz_sheet(&octets);
        }
    }
}
