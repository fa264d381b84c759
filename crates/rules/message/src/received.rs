//! The Received field (RFC 5321 §4.4), and the fields a submission may lack (RFC 6409 §8).

use crate::date::write_date;
use crate::header::Scan;
use mail::{ForwardPath, Host, Origin, Protocol, SpoolId, UnixMillis};
use std::fmt::Write as _;
use std::net::IpAddr;

/// What one Received field says.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedField<'a> {
    /// Who handed the message to us, and how.
    pub origin: &'a Origin,
    /// Our name for the message.
    pub id: SpoolId,
    /// Our own name, or address literal.
    pub by: &'a Host,
    /// The transaction was internationalised: MAIL had SMTPUTF8.
    pub smtputf8: bool,
    /// The recipient, only when there is exactly one: a second name would tell one recipient of the other.
    pub for_recipient: Option<&'a ForwardPath>,
    /// When the end of data was seen.
    pub at: UnixMillis,
}

/// Lines are folded so that they stay within 78 octets (RFC 5322 §2.1.1) where a blank allows it.
const LINE_MAX: usize = 78;

/// What a client called itself is cut here; with it no line of ours comes near 998 octets.
const HELO_MAX: usize = 255;

/// Writes words with single blanks between, folding before a word that would not fit.
struct Folded<'a> {
    out: &'a mut Vec<u8>,
    line_start: usize,
}

impl Folded<'_> {
    fn word(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let at = self.out.len();
        self.out.push(b' ');
        write(self.out);
        if self.out.len() - self.line_start > LINE_MAX && at > self.line_start {
            // Rarely taken: the word moves three octets along to make room for the fold.
            self.out.splice(at..=at, *b"\r\n\t");
            self.line_start = at + 2;
        }
    }

    fn text(&mut self, word: &str) {
        self.word(|out| out.extend_from_slice(word.as_bytes()));
    }

    /// Begins a line with `word`.
    fn line(&mut self, word: &str) {
        self.out.extend_from_slice(b"\r\n\t");
        self.line_start = self.out.len() - 1;
        self.out.extend_from_slice(word.as_bytes());
    }
}

impl ReceivedField<'_> {
    /// Appends the field, its last CRLF included. Nothing in it that a peer chose can end the line, a comment or
    /// the field.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.reserve(320);
        let line_start = out.len();
        out.extend_from_slice(b"Received:");
        let mut field = Folded { out, line_start };
        if let Some(peer) = self.origin.peer {
            self.write_from(&mut field, peer.ip().to_canonical());
            if let Some(tls) = &self.origin.tls {
                field.line("(using ");
                sanitised(field.out, &tls.protocol, 64);
                field.text("with");
                field.text("cipher");
                field.word(|out| {
                    sanitised(out, &tls.cipher, 64);
                    out.push(b')');
                });
            }
            field.line("by");
        } else {
            field.text("by");
        }
        field.word(|out| host(out, self.by));
        field.text("(Tuma)");
        if let Some(keyword) = with_protocol(self.origin, self.smtputf8) {
            field.text("with");
            field.text(keyword);
        }
        field.text("id");
        // Writing to a vector or a string cannot fail.
        field.word(|out| write_display(out, format_args!("{}", self.id)));
        // RFC 6531 §3.7.3: a UTF-8 address only behind a UTF8 keyword.
        if let Some(path) = self.for_recipient.filter(|path| path.0.is_ascii() || self.smtputf8) {
            field.line("for");
            field.word(|out| {
                out.push(b'<');
                out.extend_from_slice(path.as_str().as_bytes());
                out.extend_from_slice(b">;");
            });
            field.word(|out| write_date(out, self.at));
        } else {
            field.out.push(b';');
            field.word(|out| write_date(out, self.at));
        }
        out.extend_from_slice(b"\r\n");
    }

    /// `from helo ([address])`, or `from [address] (helo=what-it-said)` when that is neither a domain nor a
    /// literal.
    fn write_from(&self, field: &mut Folded<'_>, peer: IpAddr) {
        let helo = &*self.origin.helo;
        field.text("from");
        if is_domain_or_literal(helo) {
            field.text(helo);
            field.word(|out| {
                out.push(b'(');
                host(out, &Host::Literal(peer));
                out.push(b')');
            });
        } else {
            field.word(|out| host(out, &Host::Literal(peer)));
            if !helo.is_empty() {
                field.word(|out| {
                    out.extend_from_slice(b"(helo=");
                    sanitised(out, helo, HELO_MAX);
                    out.push(b')');
                });
            }
        }
    }
}

fn write_display(out: &mut Vec<u8>, args: std::fmt::Arguments<'_>) {
    let mut text = String::new();
    text.write_fmt(args).expect("writing to a string cannot fail");
    out.extend_from_slice(text.as_bytes());
}

fn host(out: &mut Vec<u8>, host: &Host) {
    match host {
        Host::Domain(domain) => out.extend_from_slice(domain.as_str().as_bytes()),
        Host::Literal(_) => write_display(out, format_args!("{host}")),
    }
}

/// Letters, digits and harmless marks as they are, everything else `?`.
fn sanitised(out: &mut Vec<u8>, text: &str, max: usize) {
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"-_.:[]+/@".contains(&b);
    out.extend(text.bytes().take(max).map(|b| if harmless(b) { b } else { b'?' }));
}

/// True for what may stand bare behind `from`: a domain's letters, digits, hyphens, underscores and single
/// dots, or an address in brackets. Looser than DNS, tight enough for the field.
fn is_domain_or_literal(helo: &str) -> bool {
    if helo.is_empty() || helo.len() > HELO_MAX {
        return false;
    }
    match helo.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => {
            let inner = inner.strip_prefix("IPv6:").unwrap_or(inner);
            inner.parse::<IpAddr>().is_ok()
        }
        None => {
            let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
            edge(helo.bytes().next())
                && edge(helo.bytes().next_back())
                && helo.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && !helo.contains("..")
        }
    }
}

/// The with-protocol keyword of RFC 3848 and RFC 6531 §4.3; `None` for a message of our own making.
pub fn with_protocol(origin: &Origin, smtputf8: bool) -> Option<&'static str> {
    let (tls, auth) = (origin.tls.is_some(), origin.user.is_some());
    Some(match (origin.protocol, smtputf8, tls, auth) {
        (Protocol::Internal, ..) => return None,
        // No keyword is registered for it; RFC 5321 §4.4 lets an atom stand.
        (Protocol::Http, ..) => "HTTP",
        // HELO has no extensions, so the keyword says nothing of TLS on a port where it comes first.
        (Protocol::Smtp, ..) => "SMTP",
        (Protocol::Esmtp, false, false, false) => "ESMTP",
        (Protocol::Esmtp, false, true, false) => "ESMTPS",
        (Protocol::Esmtp, false, false, true) => "ESMTPA",
        (Protocol::Esmtp, false, true, true) => "ESMTPSA",
        (Protocol::Esmtp, true, false, false) => "UTF8SMTP",
        (Protocol::Esmtp, true, true, false) => "UTF8SMTPS",
        (Protocol::Esmtp, true, false, true) => "UTF8SMTPA",
        (Protocol::Esmtp, true, true, true) => "UTF8SMTPSA",
        (Protocol::Lmtp, false, false, false) => "LMTP",
        (Protocol::Lmtp, false, true, false) => "LMTPS",
        (Protocol::Lmtp, false, false, true) => "LMTPA",
        (Protocol::Lmtp, false, true, true) => "LMTPSA",
        (Protocol::Lmtp, true, false, false) => "UTF8LMTP",
        (Protocol::Lmtp, true, true, false) => "UTF8LMTPS",
        (Protocol::Lmtp, true, false, true) => "UTF8LMTPA",
        (Protocol::Lmtp, true, true, true) => "UTF8LMTPSA",
    })
}

/// Appends the Date and Message-ID fields that `scan` did not find. For submissions only: a relay leaves a
/// message as it is (RFC 6409 §8).
pub fn add_missing(out: &mut Vec<u8>, scan: &Scan, id: SpoolId, by: &Host, at: UnixMillis) {
    if !scan.has_date {
        out.extend_from_slice(b"Date: ");
        write_date(out, at);
        out.extend_from_slice(b"\r\n");
    }
    if !scan.has_message_id {
        out.extend_from_slice(b"Message-ID: <");
        write_display(out, format_args!("{id}@{by}"));
        out.extend_from_slice(b">\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fields, has_bare_newline, lines_within, scan};
    use mail::{Domain, Mailbox, TlsInfo};

    fn origin(helo: &str) -> Origin {
        Origin { peer: Some("192.0.2.1:40000".parse().unwrap()), helo: helo.into(), ..Origin::default() }
    }

    fn written(origin: &Origin, smtputf8: bool, to: Option<&str>) -> String {
        let to = to.map(|text| ForwardPath(Mailbox::parse(text).unwrap()));
        let field = ReceivedField {
            origin,
            id: SpoolId(1_790_000_000_000_000),
            by: &Host::Domain(Domain::parse("mx.test").unwrap()),
            smtputf8,
            for_recipient: to.as_ref(),
            at: UnixMillis(1_772_359_205_000),
        };
        let mut out = Vec::new();
        field.write(&mut out);
        let scan = scan(&out);
        assert_eq!((scan.fields, scan.received_hops, scan.header_len), (1, 1, out.len()));
        assert!(!has_bare_newline(&out) && lines_within(&out, 998));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_plain_field() {
        assert_eq!(
            written(&origin("client.test"), false, Some("c@d.test")),
            "Received: from client.test ([192.0.2.1])\r\n\tby mx.test (Tuma) with ESMTP id 1jw0f00300g00\r\n\t\
             for <c@d.test>; Sun, 01 Mar 2026 10:00:05 +0000\r\n"
                .replace("1jw0f00300g00", &SpoolId(1_790_000_000_000_000).to_string())
        );
    }

    #[test]
    fn marks_of_tls_and_auth() {
        let mut origin = origin("client.test");
        origin.tls = Some(TlsInfo { protocol: "TLSv1.3".into(), cipher: "TLS_AES_256_GCM_SHA384".into() });
        origin.user = Some("secret-user".into());
        let text = written(&origin, false, None);
        assert!(
            text.contains("\r\n\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)\r\n\tby mx.test"),
            "{text}"
        );
        assert!(text.contains(" with ESMTPSA id ") && !text.contains("secret-user"), "{text}");
        assert!(lines_within(text.as_bytes(), 78), "{text}");
    }

    #[test]
    fn every_keyword() {
        let mut seen = Vec::new();
        for protocol in [Protocol::Smtp, Protocol::Esmtp, Protocol::Lmtp, Protocol::Internal] {
            for bits in 0..8 {
                let tls = TlsInfo { protocol: "x".into(), cipher: "y".into() };
                let origin = Origin {
                    protocol,
                    tls: (bits & 1 != 0).then_some(tls),
                    user: (bits & 2 != 0).then(|| "u".into()),
                    ..Origin::default()
                };
                seen.push(with_protocol(&origin, bits & 4 != 0).unwrap_or("-"));
            }
        }
        seen.dedup();
        assert_eq!(
            seen.join(" "),
            "SMTP ESMTP ESMTPS ESMTPA ESMTPSA UTF8SMTP UTF8SMTPS UTF8SMTPA UTF8SMTPSA \
             LMTP LMTPS LMTPA LMTPSA UTF8LMTP UTF8LMTPS UTF8LMTPA UTF8LMTPSA -"
        );
    }

    #[test]
    fn what_a_client_calls_itself() {
        let long = "x".repeat(5_000);
        for (helo, from) in [
            ("client.test", "from client.test ([192.0.2.1])"),
            ("my_pc", "from my_pc ([192.0.2.1])"),
            ("[192.0.2.9]", "from [192.0.2.9] ([192.0.2.1])"),
            ("[IPv6:2001:db8::1]", "from [IPv6:2001:db8::1] ([192.0.2.1])"),
            ("", "from [192.0.2.1]\r\n"),
            ("a) by evil (", "from [192.0.2.1] (helo=a??by?evil??)"),
            ("a\r\nBcc: x@y.test", "from [192.0.2.1] (helo=a??Bcc:?x@y.test)"),
            ("a\\", "from [192.0.2.1] (helo=a?)"),
            ("[a b]", "from [192.0.2.1] (helo=[a?b])"),
            ("ö", "from [192.0.2.1] (helo=??)"),
            ("a..b", "from [192.0.2.1] (helo=a..b)"),
            (&long, "from [192.0.2.1]\r\n\t(helo=xxx"),
        ] {
            let text = written(&origin(helo), false, None);
            assert!(text.starts_with(&format!("Received: {from}")), "{text}");
        }
    }

    #[test]
    fn random_clients_cannot_leave_the_field() {
        let mut random = crate::encoding::tests::Random(11);
        for _ in 0..5_000 {
            let helo: String = (0..1 + random.below(400))
                .map(|_| char::from_u32(random.below(0x300) as u32).unwrap_or('x'))
                .collect();
            let text = written(&origin(&helo), random.chance(), Some("\"a (;\\\"b\"@c.test"));
            let field = Fields::new(text.as_bytes()).next().unwrap();
            let clause = field.unfolded();
            assert_eq!(clause.matches("by mx.test (Tuma)").count(), 1);
            assert_eq!(clause.matches('(').count(), 3, "{clause}");
        }
    }

    #[test]
    fn long_paths_stay_below_998() {
        let path = format!("{}@{}.test", "a".repeat(255), vec!["b".repeat(60); 4].join("."));
        let text = written(&origin(&format!("{}.test", "h".repeat(250))), false, Some(&path));
        assert!(lines_within(text.as_bytes(), 600));
        assert!(!written(&origin("c.test"), false, Some("δ@b.test")).contains("for <"));
        assert!(written(&origin("c.test"), true, Some("δ@b.test")).contains("for <δ@b.test>;"));
    }

    #[test]
    fn our_own_messages_have_no_from() {
        let origin = Origin { protocol: Protocol::Internal, ..Origin::default() };
        let text = written(&origin, false, Some("c@d.test"));
        assert!(text.starts_with("Received: by mx.test (Tuma) id ") && !text.contains("with"), "{text}");
    }

    #[test]
    fn fields_a_submission_lacks() {
        let by = Host::Domain(Domain::parse("mx.test").unwrap());
        let added = |content: &str| {
            let mut out = Vec::new();
            add_missing(&mut out, &scan(content.as_bytes()), SpoolId(5), &by, UnixMillis(0));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            added("From: a@b.test\r\n\r\n"),
            "Date: Thu, 01 Jan 1970 00:00:00 +0000\r\nMessage-ID: <00000000005@mx.test>\r\n"
        );
        assert_eq!(added("Date: x\r\nMessage-ID: <y@z>\r\n\r\n"), "");
    }
}
