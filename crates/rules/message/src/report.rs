//! Mail that carries a report for machines, with a few words for people (RFC 6522, RFC 8460 §5.3).

use crate::date::write_date;
use crate::encoding::{one_line, write_base64};
use mail::{Host, Mailbox, UnixMillis};

/// What such a mail is made of. Its texts are ASCII.
#[derive(Clone, Copy, Debug)]
pub struct ReportMail<'a> {
    /// Our own name.
    pub by: &'a Host,
    /// Who writes.
    pub from: &'a Mailbox,
    /// Who gets it.
    pub to: &'a Mailbox,
    /// The subject; put on one line.
    pub subject: &'a str,
    /// Further header fields.
    pub fields: &'a [(&'a str, &'a str)],
    /// A few words, their lines ended with LF.
    pub text: &'a str,
    /// The `report-type`, such as `tlsrpt`.
    pub report_type: &'a str,
    /// The media type of the report.
    pub media_type: &'a str,
    /// Its file name.
    pub file: &'a str,
    /// The report.
    pub report: &'a [u8],
    /// The time of writing.
    pub now: UnixMillis,
    /// Fresh randomness, for the Message-ID field and the boundary.
    pub seed: u64,
}

/// Writes it, header and body.
pub fn write_report_mail(mail: &ReportMail<'_>) -> Vec<u8> {
    let ReportMail { by, from, to, now, seed, .. } = mail;
    let boundary = format!("=_report_{seed:016x}");
    let mut out = Vec::with_capacity(1_024 + mail.text.len() + mail.report.len() * 4 / 3);
    out.extend_from_slice(format!("From: <{from}>\r\nTo: <{to}>\r\n").as_bytes());
    out.extend_from_slice(format!("Subject: {}\r\nDate: ", one_line(mail.subject, 400)).as_bytes());
    write_date(&mut out, *now);
    out.extend_from_slice(format!("\r\nMessage-ID: <{:x}.{seed:016x}@{by}>\r\n", now.0).as_bytes());
    for (name, value) in mail.fields {
        out.extend_from_slice(format!("{name}: {}\r\n", one_line(value, 400)).as_bytes());
    }
    let head = format!(
        "Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=\"{}\";\r\n\
         \tboundary=\"{boundary}\"\r\n\r\n--{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n",
        mail.report_type
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(mail.text.replace('\r', "").replace('\n', "\r\n").as_bytes());
    let part = format!(
        "\r\n--{boundary}\r\nContent-Type: {}\r\nContent-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment;\r\n\tfilename=\"{}\"\r\n\r\n",
        mail.media_type, mail.file
    );
    out.extend_from_slice(part.as_bytes());
    write_base64(&mut out, mail.report);
    out.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_stands_in_the_second_part() {
        let (by, from) = (Host::parse("tuma.test").unwrap(), Mailbox::parse("r@tuma.test").unwrap());
        let to = Mailbox::parse("tls@a.test").unwrap();
        let mail = ReportMail {
            by: &by,
            from: &from,
            to: &to,
            subject: "Report\r\nBcc: x@y.test",
            fields: &[("TLS-Report-Domain", "a.test")],
            text: "one\ntwo\n",
            report_type: "tlsrpt",
            media_type: "application/tlsrpt+gzip",
            file: "x.json.gz",
            report: &[0xFF; 100],
            now: UnixMillis(1_700_000_000_000),
            seed: 7,
        };
        let text = String::from_utf8(write_report_mail(&mail)).unwrap();
        assert!(!text.contains("\r\nBcc:"), "{text}");
        assert!(text.contains("\r\nTLS-Report-Domain: a.test\r\n"), "{text}");
        assert!(text.contains("report-type=\"tlsrpt\""), "{text}");
        assert!(text.replace("\r\n", "").lines().count() == 1, "every line ends with CRLF");
        assert!(text.split("\r\n").all(|line| line.len() <= 78), "{text}");
        let encoded =
            text.split("\r\n\r\n").nth(4).unwrap().split("\r\n--").next().unwrap().replace("\r\n", "");
        assert_eq!(encoded, format!("{}/w==", "/".repeat(132)));
    }
}
