//! A message that comes written, RFC 5322 already: put in order, or filled in as a template.

use crate::field::{has_control, tame, write_people, write_plain, write_text};
use crate::parts::Mistake;
use crate::template::{Rendering, add, engine, fill};
use crate::write::with_crlf;
use crate::{TEMPLATE_MAX_OCTETS, read_people};
use message::{Fields, lines_within, take_out_fields};
use minijinja::Environment;
use std::borrow::Cow;

/// Octets of a line at most (RFC 5322 §2.1.1).
const LINE_MAX: usize = 998;

/// Puts a written message in order: lines end with CRLF, and the fields that only name unseen recipients are gone.
/// Refused are what no server takes: a header that is none, a NUL, a line beyond 998 octets.
pub fn tidy(text: &str) -> Result<Vec<u8>, Mistake> {
    if text.contains('\0') {
        return Err(Mistake::new("", "a message must not hold NUL"));
    }
    let mut octets = with_crlf(text).into_owned().into_bytes();
    if !octets.ends_with(b"\r\n") {
        octets.extend_from_slice(b"\r\n");
    }
    if Fields::new(&octets).next().is_none() {
        return Err(Mistake::new("", "a message begins with its header fields, such as `Subject: …`"));
    }
    if !Fields::new(&octets).any(|field| field.is("From")) {
        return Err(Mistake::new("", "the header has no From field"));
    }
    if !lines_within(&octets, LINE_MAX) {
        let text = "a line has at most 998 octets; encode the body as quoted-printable or base64, and fold the header";
        return Err(Mistake::new("", text));
    }
    let begins = take_out_fields(&mut octets, |field| field.is("Bcc") || field.is("Resent-Bcc"));
    octets.drain(..begins);
    Ok(octets)
}

/// A written message that is a template: its header fields one by one, so that none can become two, and its body.
#[derive(Debug)]
pub(crate) struct RawTemplate {
    /// Name and text, unfolded where it is a template.
    fields: Vec<(String, String)>,
    body: String,
    engine: Environment<'static>,
}

impl RawTemplate {
    /// Compiles a message that was put in order.
    pub(crate) fn compile(octets: &[u8]) -> Result<Self, Mistake> {
        if octets.len() > TEMPLATE_MAX_OCTETS {
            return Err(Mistake::new("", format!("a template has at most {TEMPLATE_MAX_OCTETS} octets")));
        }
        let scan = message::scan(octets);
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let mut engine = engine();
        let mut fields = Vec::new();
        for (n, field) in Fields::new(octets).enumerate() {
            let value = field.unfolded();
            add(&mut engine, format!("h{n}"), &value, "")?;
            fields.push((text(field.name), value));
        }
        let body = text(&octets[scan.body_start..]);
        add(&mut engine, "body".to_owned(), &body, "")?;
        Ok(Self { fields, body, engine })
    }

    /// The message of one recipient.
    pub(crate) fn write(&self, rendering: &Rendering<'_>) -> Result<Vec<u8>, String> {
        let context = rendering.context();
        let mut out = Vec::with_capacity(self.body.len() + 2_048);
        for (n, (name, value)) in self.fields.iter().enumerate() {
            let value = fill(&self.engine, &format!("h{n}"), value, &context)?;
            let value = if has_control(&value) { Cow::Owned(tame(&value)) } else { value };
            let people = ["From", "To", "Cc", "Reply-To", "Sender"]
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known));
            match read_people(&value) {
                Ok(people_read) if people && !value.is_ascii() => write_people(&mut out, name, &people_read),
                _ if value.is_ascii() => write_plain(&mut out, name, &value),
                _ => write_text(&mut out, name, &value),
            }
        }
        out.extend_from_slice(b"\r\n");
        let body = fill(&self.engine, "body", &self.body, &context)?;
        let body = with_crlf(&body);
        if body.contains('\0') || !lines_within(body.as_bytes(), LINE_MAX) {
            return Err("the text of a value makes a line of more than 998 octets, or holds NUL".into());
        }
        out.extend_from_slice(body.as_bytes());
        if !out.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Substitutions;
    use mail::Mailbox;

    #[test]
    fn a_written_message_is_put_in_order() {
        let tidied = |text: &str| tidy(text).map(|octets| String::from_utf8(octets).unwrap());
        assert_eq!(
            tidied("From: a@b.test\nBcc: c@d.test,\n e@f.test\nSubject: s\n\nbody\rmore").unwrap(),
            "From: a@b.test\r\nSubject: s\r\n\r\nbody\r\nmore\r\n"
        );
        for text in ["", "just a body", "Subject: s\r\n\r\n", "From: a@b.test\r\n\r\n\0", " From: a@b.test"] {
            assert!(tidied(text).is_err(), "{text:?}");
        }
        assert!(tidied(&format!("From: a@b.test\r\n\r\n{}", "x".repeat(999))).is_err());
    }

    #[test]
    fn a_written_template_is_filled_in() {
        let text = "From: \"{{ who }}\" <a@b.test>\r\nSubject: {{ v }}\r\n\tfolded\r\nTo: {{ email }}\r\n\r\n{{ v }}\n";
        let template = RawTemplate::compile(&tidy(text).unwrap()).unwrap();
        let to = Mailbox::parse("c@d.test").unwrap();
        let written = |own: &str| {
            let own = Substitutions::parse(own).unwrap();
            let common = Substitutions::default();
            let octets = template.write(&Rendering { to: &to, name: None, own: &own, common: &common });
            octets.map(|octets| String::from_utf8(octets).unwrap())
        };
        assert_eq!(
            written(r#"{"who":"Zoë","v":"a\r\nBcc: x@y.test"}"#).unwrap(),
            "From: =?utf-8?b?Wm/Dqw==?= <a@b.test>\r\nSubject: a  Bcc: x@y.test folded\r\nTo: c@d.test\r\n\r\n\
             a\r\nBcc: x@y.test\r\n"
        );
        assert!(written(&format!(r#"{{"v":"{}"}}"#, "x".repeat(2_000))).is_err());
    }
}
