//! Command lines: the verb, and what stands behind it (RFC 5321 §4.1.1). Reading for the server, writing for
//! the client.

use crate::parameter::{MailParameters, RcptParameters};
use crate::path;
use mail::{ForwardPath, ReversePath};

/// What a client may ask. Verbs are read case-blind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// HELO.
    Helo,
    /// EHLO.
    Ehlo,
    /// LHLO (RFC 2033).
    Lhlo,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// BDAT (RFC 3030).
    Bdat,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
    /// VRFY.
    Vrfy,
    /// EXPN.
    Expn,
    /// HELP.
    Help,
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH (RFC 4954).
    Auth,
    /// XCLIENT, as Postfix defines it.
    XClient,
    /// A verb of SMTP that is not served here: ETRN, TURN, SEND, SOML, SAML, XFORWARD, BURL.
    NotServed,
    /// The verb of another protocol: whoever sends it is not speaking SMTP, or is being used by somebody
    /// who wants to smuggle SMTP through a browser.
    Foreign,
    /// Anything else.
    Unknown,
}

/// A command line taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// The verb.
    pub verb: Verb,
    /// What follows the verb, without spaces around it.
    pub argument: &'a str,
}

/// A line that is no command: a control character, octets that are not UTF-8, or UTF-8 where only ASCII can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotACommand;

impl<'a> Command<'a> {
    /// Reads a line, its CRLF taken off. Spaces at its end are tolerated.
    pub fn parse(line: &'a [u8]) -> Result<Self, NotACommand> {
        let line = line.trim_ascii_end_of_spaces();
        // One pass that the compiler can vectorise; the exceptions are rare.
        if line.iter().fold(false, |bad, &b| bad | (b < b' ') | (b == 127)) {
            return Err(NotACommand);
        }
        let text = std::str::from_utf8(line).map_err(|_| NotACommand)?;
        let (word, argument) = match memchr::memchr(b' ', line) {
            Some(at) => (&text[..at], text[at..].trim_start_matches(' ')),
            None => (text, ""),
        };
        let verb = verb(word.as_bytes());
        let utf8_can_be = matches!(verb, Verb::Mail | Verb::Rcpt | Verb::Vrfy | Verb::Expn);
        if !utf8_can_be && !text.is_ascii() {
            return Err(NotACommand);
        }
        Ok(Self { verb, argument })
    }
}

trait TrimSpaces {
    fn trim_ascii_end_of_spaces(&self) -> &Self;
}

impl TrimSpaces for [u8] {
    /// Only spaces: a CR or TAB at the end of a line is an error, not decoration.
    fn trim_ascii_end_of_spaces(&self) -> &Self {
        let mut line = self;
        while let [head @ .., b' '] = line {
            line = head;
        }
        line
    }
}

/// The verb that begins `line`, which may be cut short or hold anything.
pub fn verb_of(line: &[u8]) -> Verb {
    verb(line.split(|&b| b == b' ').next().unwrap_or_default())
}

fn verb(word: &[u8]) -> Verb {
    if word.len() > 8 {
        return Verb::Unknown;
    }
    let mut upper = [0u8; 8];
    for (to, from) in upper.iter_mut().zip(word) {
        *to = from.to_ascii_uppercase();
    }
    match &upper[..word.len()] {
        b"MAIL" => Verb::Mail,
        b"RCPT" => Verb::Rcpt,
        b"DATA" => Verb::Data,
        b"BDAT" => Verb::Bdat,
        b"EHLO" => Verb::Ehlo,
        b"HELO" => Verb::Helo,
        b"LHLO" => Verb::Lhlo,
        b"RSET" => Verb::Rset,
        b"NOOP" => Verb::Noop,
        b"QUIT" => Verb::Quit,
        b"VRFY" => Verb::Vrfy,
        b"EXPN" => Verb::Expn,
        b"HELP" => Verb::Help,
        b"STARTTLS" => Verb::StartTls,
        b"AUTH" => Verb::Auth,
        b"XCLIENT" => Verb::XClient,
        b"ETRN" | b"TURN" | b"SEND" | b"SOML" | b"SAML" | b"XFORWARD" | b"BURL" => Verb::NotServed,
        b"GET" | b"POST" | b"PUT" | b"HEAD" | b"DELETE" | b"OPTIONS" | b"CONNECT" | b"TRACE" | b"PATCH"
        | b"PRI" | b"PROXY" => Verb::Foreign,
        _ => Verb::Unknown,
    }
}

/// Appends a whole MAIL line.
pub fn write_mail(reverse_path: &ReversePath, parameters: &MailParameters<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"MAIL FROM:");
    path::write(reverse_path.as_str(), out);
    parameters.write(out);
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole RCPT line.
pub fn write_rcpt(path: &ForwardPath, parameters: &RcptParameters<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"RCPT TO:");
    path::write(path.as_str(), out);
    parameters.write(out);
    out.extend_from_slice(b"\r\n");
}

/// What stands behind `FROM:` in MAIL or `TO:` in RCPT. RFC 5321 §3.3 forbids a space there, old clients send
/// one; `space_ok` says whether it is taken.
pub fn after_keyword<'a>(argument: &'a str, keyword: &str, space_ok: bool) -> Option<&'a str> {
    let head = argument.get(..keyword.len())?;
    if !head.eq_ignore_ascii_case(keyword) {
        return None;
    }
    let rest = &argument[keyword.len()..];
    match rest.strip_prefix(' ') {
        Some(after) if space_ok => Some(after),
        Some(_) => None,
        None => Some(rest),
    }
}

/// The size of a chunk and whether it is the last, from `BDAT 123 LAST`. `None` if the size cannot be known:
/// the octets that follow cannot be told from commands then.
pub fn bdat(argument: &str) -> Option<(u64, bool)> {
    let (digits, last) = match argument.split_once(' ') {
        Some((digits, rest)) if rest.trim_start_matches(' ').eq_ignore_ascii_case("LAST") => (digits, true),
        Some(_) => return None,
        None => (argument, false),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((digits.parse().ok()?, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_taken_apart() {
        for (line, verb, argument) in [
            ("noop", Verb::Noop, ""),
            ("MaIl FROM:<> ", Verb::Mail, "FROM:<>"),
            ("RCPT  TO:<é@b.test>", Verb::Rcpt, "TO:<é@b.test>"),
            ("STARTTLS", Verb::StartTls, ""),
            ("STARTTLSX", Verb::Unknown, ""),
            ("GET / HTTP/1.1", Verb::Foreign, "/ HTTP/1.1"),
            ("", Verb::Unknown, ""),
            (" NOOP", Verb::Unknown, "NOOP"),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), Ok(Command { verb, argument }), "{line}");
        }
        for line in
            [&b"NOOP\r"[..], b"NO\0OP", b"NOOP\t", b"NOOP \xff", b"EHLO \xc3\xa9", b"MAIL FROM:<\xff@b>"]
        {
            assert_eq!(Command::parse(line), Err(NotACommand), "{line:?}");
        }
    }

    #[test]
    fn chunk_sizes() {
        assert_eq!(bdat("0"), Some((0, false)));
        assert_eq!(bdat("12 last"), Some((12, true)));
        assert_eq!(bdat("9223372036854775808"), Some((1 << 63, false)));
        for text in [
            "",
            "-1",
            "+1",
            "LAST",
            "1 FIRST",
            "1 LAST x",
            "18446744073709551616",
            "1x",
            "0x10",
            &"9".repeat(26),
        ] {
            assert_eq!(bdat(text), None, "{text}");
        }
    }
}
