//! What a message is made of, and what of it is refused.

use crate::Person;
use crate::field::has_control;
use crate::person::NAME_MAX_OCTETS;
use mail::FieldName;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Header fields of the sender's own at most.
pub const FIELDS_MAX: usize = 100;
/// Octets of the value of such a field, and of a subject, at most.
pub const VALUE_MAX_OCTETS: usize = 8_192;
/// Attachments and inline images at most.
pub const ATTACHMENTS_MAX: usize = 100;
/// Addresses shown in one field at most.
pub const ADDRESSES_MAX: usize = 1_000;

/// A message as its parts. Its texts may be templates, see [`crate::Template`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parts {
    /// From.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Person>,
    /// Reply-To.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reply_to: Vec<Person>,
    /// To, as every recipient sees it; left out, each sees only himself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<Person>,
    /// Cc.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cc: Vec<Person>,
    /// Subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Other fields, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The HTML text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// The AMP text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amp: Option<String>,
    /// Attachments, and images that the HTML text shows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
}

/// A file that goes with the message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Its media type, such as `image/png`.
    pub media_type: String,
    /// Its octets in base64.
    pub content: String,
    /// The name by which the HTML text shows it, `cid:…`; left out, it is an attachment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_id: Option<String>,
}

/// What is wrong with the parts of a message, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The place as a JSON pointer (RFC 6901), beginning at the parts.
    pub pointer: String,
    /// What to do about it.
    pub text: String,
}

impl Mistake {
    pub(crate) fn new(pointer: impl Into<String>, text: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), text: text.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pointer, self.text)
    }
}

impl std::error::Error for Mistake {}

/// Fields that are written from parts of their own, or by the servers on the way, with what to use instead.
const OURS: [(&str, &str); 15] = [
    ("From", "set `from`"),
    ("To", "set `to`"),
    ("Cc", "set `cc`"),
    ("Bcc", "name the address among the recipients only: a Bcc field would show it"),
    ("Subject", "set `subject`"),
    ("Reply-To", "set `reply_to`"),
    ("MIME-Version", "it is written by the server"),
    ("Content-Type", "it is written by the server"),
    ("Content-Transfer-Encoding", "it is written by the server"),
    ("Content-Disposition", "it is written by the server"),
    ("Received", "it is written by the server"),
    ("Return-Path", "it is written where the message arrives"),
    ("DKIM-Signature", "it is written by the server"),
    ("Resent-Bcc", "a Bcc field would show the address"),
    ("Delivered-To", "it is written where the message arrives"),
];

impl Parts {
    /// Refuses what no message can be made of: a control character where a header field would break, a field that
    /// is not the sender's to write, addresses that are none. Puts the content of attachments in one line.
    pub fn check(&mut self) -> Result<(), Mistake> {
        let from =
            self.from.as_ref().ok_or_else(|| Mistake::new("/from", "a message needs a From address"))?;
        check_person(from, "/from")?;
        for (people, pointer) in [(&self.reply_to, "/reply_to"), (&self.to, "/to"), (&self.cc, "/cc")] {
            if people.len() > ADDRESSES_MAX {
                return Err(Mistake::new(
                    pointer,
                    format!("a field shows at most {ADDRESSES_MAX} addresses"),
                ));
            }
            for (n, person) in people.iter().enumerate() {
                check_person(person, &format!("{pointer}/{n}"))?;
            }
        }
        if let Some(subject) = &self.subject {
            check_value(subject, "/subject")?;
        }
        if self.headers.len() > FIELDS_MAX {
            return Err(Mistake::new(
                "/headers",
                format!("a message takes at most {FIELDS_MAX} fields of its own"),
            ));
        }
        for (name, value) in &self.headers {
            let pointer = format!("/headers/{}", escape(name));
            if let Err(error) = name.parse::<FieldName>() {
                return Err(Mistake::new(pointer, error.to_string()));
            }
            if let Some((_, instead)) = OURS.iter().find(|(ours, _)| ours.eq_ignore_ascii_case(name)) {
                return Err(Mistake::new(pointer, format!("the field {name} cannot be set here: {instead}")));
            }
            check_value(value, &pointer)?;
        }
        if self.text.is_none() && self.html.is_none() && self.amp.is_none() && self.attachments.is_empty() {
            return Err(Mistake::new("", "a message needs `text`, `html` or an attachment"));
        }
        if self.attachments.len() > ATTACHMENTS_MAX {
            return Err(Mistake::new(
                "/attachments",
                format!("a message takes at most {ATTACHMENTS_MAX} files"),
            ));
        }
        for (n, file) in self.attachments.iter_mut().enumerate() {
            check_attachment(file, &format!("/attachments/{n}"))?;
        }
        Ok(())
    }

    /// True if a field needs SMTPUTF8: an address whose local part is not ASCII (RFC 6531).
    pub fn needs_smtputf8(&self) -> bool {
        let people = self.from.iter().chain(&self.reply_to).chain(&self.to).chain(&self.cc);
        people.into_iter().any(|person| !person.email.is_ascii())
    }
}

fn check_person(person: &Person, pointer: &str) -> Result<(), Mistake> {
    if let Err(error) = person.mailbox() {
        return Err(Mistake::new(format!("{pointer}/email"), error));
    }
    let Some(name) = &person.name else { return Ok(()) };
    let pointer = format!("{pointer}/name");
    if has_control(name) {
        return Err(Mistake::new(pointer, "a name must not hold line breaks or other control characters"));
    }
    if name.len() > NAME_MAX_OCTETS {
        return Err(Mistake::new(pointer, format!("a name has at most {NAME_MAX_OCTETS} octets")));
    }
    Ok(())
}

fn check_value(value: &str, pointer: &str) -> Result<(), Mistake> {
    if has_control(value) {
        return Err(Mistake::new(
            pointer,
            "a header field must not hold line breaks or other control characters; long ones are folded by the server",
        ));
    }
    if value.len() > VALUE_MAX_OCTETS {
        return Err(Mistake::new(pointer, format!("a header field has at most {VALUE_MAX_OCTETS} octets")));
    }
    Ok(())
}

fn check_attachment(file: &mut Attachment, pointer: &str) -> Result<(), Mistake> {
    if !is_media_type(&file.media_type) {
        return Err(Mistake::new(
            format!("{pointer}/type"),
            "write a media type, such as \"application/pdf\"",
        ));
    }
    for (text, key) in [(&file.filename, "filename"), (&file.content_id, "content_id")] {
        let Some(text) = text else { continue };
        if text.is_empty() || text.len() > 255 || has_control(text) {
            let text = format!("`{key}` has 1 to 255 octets and no control characters");
            return Err(Mistake::new(format!("{pointer}/{key}"), text));
        }
    }
    if let Some(id) = &mut file.content_id {
        let bare = id.trim_start_matches('<').trim_end_matches('>');
        if bare.is_empty() || !bare.bytes().all(|b| b.is_ascii_graphic() && !b"<>()[]\"\\".contains(&b)) {
            let text = "a content id is a word of ASCII, such as \"logo\" or \"logo@a.example\"";
            return Err(Mistake::new(format!("{pointer}/content_id"), text));
        }
        *id = bare.to_owned();
    }
    file.content.retain(|c| !matches!(c, '\r' | '\n' | ' ' | '\t'));
    if !is_base64(&file.content) {
        return Err(Mistake::new(
            format!("{pointer}/content"),
            "the content of a file is base64 (RFC 4648 §4)",
        ));
    }
    Ok(())
}

/// True for base64 with its padding (RFC 4648 §4), all in one line.
pub fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    text.len().is_multiple_of(4)
        && text.len() - digits.len() <= 2
        && digits.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

/// `token/token` (RFC 2045 §5.1), without parameters. Multipart types have no place in a file.
fn is_media_type(text: &str) -> bool {
    let token = |text: &str| {
        !text.is_empty()
            && text.len() <= 127
            && text.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b))
    };
    let (kind, rest) = text.split_once('/').unwrap_or(("", ""));
    token(kind)
        && token(rest)
        && !kind.eq_ignore_ascii_case("multipart")
        && !kind.eq_ignore_ascii_case("message")
}

/// A key as a step of a JSON pointer (RFC 6901 §3).
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        Parts {
            from: Some(Person::parse("Acme <news@acme.test>").unwrap()),
            subject: Some("s".into()),
            text: Some("t".into()),
            ..Parts::default()
        }
    }

    /// Where the mistake is, after a change.
    fn pointer(change: impl FnOnce(&mut Parts)) -> String {
        let mut parts = parts();
        change(&mut parts);
        parts.check().expect_err("it is taken").pointer
    }

    fn field(name: &str, value: &str) -> impl FnOnce(&mut Parts) {
        let field = (name.to_owned(), value.to_owned());
        move |parts| parts.headers.push(field)
    }

    fn file(media_type: &str, content: &str) -> Attachment {
        Attachment { media_type: media_type.into(), content: content.into(), ..Attachment::default() }
    }

    #[test]
    fn what_would_break_a_header_is_refused() {
        assert_eq!(parts().check(), Ok(()));
        assert_eq!(pointer(|parts| parts.from = None), "/from");
        assert_eq!(pointer(|parts| parts.subject = Some("a\r\nBcc: x@y.test".into())), "/subject");
        assert_eq!(pointer(|parts| parts.subject = Some("a\nb".into())), "/subject");
        assert_eq!(pointer(|parts| parts.subject = Some("a\0b".into())), "/subject");
        assert_eq!(pointer(|parts| parts.from.as_mut().unwrap().name = Some("a\rb".into())), "/from/name");
        assert_eq!(
            pointer(|parts| parts.from.as_mut().unwrap().email = "a@b.test\r\nX: y".into()),
            "/from/email"
        );
        let to = Person { email: "a b@c.test".into(), name: None };
        assert_eq!(pointer(|parts| parts.to = vec![to]), "/to/0/email");
        assert_eq!(pointer(field("X-A\r\nBcc", "x")), "/headers/X-A\r\nBcc");
        assert_eq!(pointer(field("X/A:", "x")), "/headers/X~1A:");
        assert_eq!(pointer(field("X-A", "a\r\n b")), "/headers/X-A");
        assert_eq!(pointer(field("X-A", &"a".repeat(10_000))), "/headers/X-A");
        for name in ["bcc", "BCC", "From", "to", "Content-Type", "dkim-signature", "Received"] {
            assert_eq!(pointer(field(name, "x")), format!("/headers/{name}"));
        }
        assert_eq!(pointer(|parts| parts.text = None), "");
    }

    #[test]
    fn files_are_looked_at() {
        for media_type in
            ["", "pdf", "a/b/c", "a/b; c=d", "multipart/mixed", "text/pl\r\nain", "message/rfc822"]
        {
            assert_eq!(
                pointer(|parts| parts.attachments = vec![file(media_type, "")]),
                "/attachments/0/type"
            );
        }
        for content in ["a", "####", "QQ==QQ==", "QQ===", "Q\u{e9}=="] {
            assert_eq!(
                pointer(|parts| parts.attachments = vec![file("a/b", content)]),
                "/attachments/0/content"
            );
        }
        let mut whole = parts();
        whole.attachments = vec![file("a/b", "QU\r\nJD ")];
        whole.attachments[0].content_id = Some("<logo@a.test>".into());
        assert_eq!(whole.check(), Ok(()));
        assert_eq!(whole.attachments[0].content, "QUJD");
        assert_eq!(whole.attachments[0].content_id.as_deref(), Some("logo@a.test"));
        let mut evil = file("a/b", "");
        evil.filename = Some("a\r\nX: y".into());
        assert_eq!(pointer(|parts| parts.attachments = vec![evil]), "/attachments/0/filename");
    }
}
