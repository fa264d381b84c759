//! A plain letter of the server's own to people: header, text, nothing returned.

use crate::content::lines_within;
use crate::date::write_date;
use crate::encoding::{one_line, to_unitext, write_quoted_printable};
use mail::{Host, Mailbox, UnixMillis};

/// Octets of a line of mail at most, without its CRLF (RFC 5321 §4.5.3.1.6).
const LINE_MAX_OCTETS: usize = 998;

/// What a letter is made of.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// Our own name.
    pub by: &'a Host,
    /// Who gets it.
    pub to: &'a [&'a Mailbox],
    /// The subject; put on one line and cut at 150 octets.
    pub subject: &'a str,
    /// The text, its lines ended with LF.
    pub text: &'a str,
    /// The time of writing.
    pub now: UnixMillis,
    /// Fresh randomness, for the Message-ID field.
    pub seed: u64,
}

/// Writes a letter, header and body. It says that no person wrote it (RFC 3834 §5), so that nobody's vacation answers.
pub fn write_letter(letter: &Letter<'_>) -> Vec<u8> {
    let Letter { by, to, now, seed, .. } = letter;
    let mut out = Vec::with_capacity(512 + letter.text.len());
    out.extend_from_slice(format!("From: Mail Delivery System <MAILER-DAEMON@{by}>\r\n").as_bytes());
    let to: Vec<String> = to.iter().map(|mailbox| format!("<{mailbox}>")).collect();
    out.extend_from_slice(format!("To: {}\r\n", to.join(",\r\n\t")).as_bytes());
    let subject = one_line(letter.subject, 150);
    out.extend_from_slice(format!("Subject: {}\r\nDate: ", to_unitext(&subject, false)).as_bytes());
    write_date(&mut out, *now);
    out.extend_from_slice(format!("\r\nMessage-ID: <{:x}.{seed:016x}@{by}>\r\n", now.0).as_bytes());
    out.extend_from_slice(b"Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n");
    out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: ");
    let text = letter.text.replace("\r\n", "\n").replace('\r', "?").replace('\n', "\r\n");
    if text.is_ascii() && lines_within(text.as_bytes(), LINE_MAX_OCTETS) {
        out.extend_from_slice(b"7bit\r\n\r\n");
        out.extend_from_slice(text.as_bytes());
    } else {
        out.extend_from_slice(b"quoted-printable\r\n\r\n");
        write_quoted_printable(&mut out, text.as_bytes());
    }
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::Fields;

    fn written(subject: &str, text: &str) -> String {
        let (ops, boss) = (Mailbox::parse("ops@a.test").unwrap(), Mailbox::parse("boss@b.test").unwrap());
        let by = Host::parse("mx.test").unwrap();
        let letter = Letter {
            by: &by,
            to: &[&ops, &boss],
            subject,
            text,
            now: UnixMillis(1_772_359_205_123),
            seed: 7,
        };
        String::from_utf8(write_letter(&letter)).expect("ASCII")
    }

    #[test]
    fn a_letter_in_full() {
        assert_eq!(
            written("two things", "One.\nTwo.\n"),
            "From: Mail Delivery System <MAILER-DAEMON@mx.test>\r\n\
             To: <ops@a.test>,\r\n\t<boss@b.test>\r\n\
             Subject: two things\r\n\
             Date: Sun, 01 Mar 2026 10:00:05 +0000\r\n\
             Message-ID: <19ca8d74103.0000000000000007@mx.test>\r\n\
             Auto-Submitted: auto-generated\r\n\
             MIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: 7bit\r\n\
             \r\n\
             One.\r\nTwo.\r\n"
        );
    }

    /// Subject and text quote what remote hosts say.
    #[test]
    fn what_others_said_cannot_add_fields_or_break_lines() {
        let letter = written("no\r\nBcc: x@y.test \u{202e}grün", "a\rb \u{e9}\n");
        let names: Vec<String> =
            Fields::new(letter.as_bytes()).map(|f| String::from_utf8_lossy(f.name).into_owned()).collect();
        assert_eq!(names.len(), 9, "{names:?}");
        assert!(letter.contains("Subject: no Bcc: x@y.test ?gr\\x{FC}n\r\n"), "{letter}");
        assert!(letter.is_ascii() && letter.ends_with("\r\n\r\na?b =C3=A9\r\n"), "{letter}");
        let long = written("s", &"x".repeat(5_000));
        assert!(long.lines().all(|line| line.len() <= 76), "{long}");
    }
}
