//! What a content asks of the road: seven or eight bits, line ends, line lengths. We convert nothing; a message
//! that the next hop cannot carry is returned (RFC 6152 §3, RFC 6531 §3.5).

use crate::header::scan;
use mail::{BodyType, Envelope, Recipient, Reply};
use memchr::memchr_iter;

/// True if no octet is above 127.
pub fn is_seven_bit(content: &[u8]) -> bool {
    content.is_ascii()
}

/// True if a CR stands without its LF, or an LF without its CR.
pub fn has_bare_newline(content: &[u8]) -> bool {
    let ([first, ..], [.., last]) = (content, content) else { return false };
    if *first == b'\n' || *last == b'\r' {
        return true;
    }
    // In a clean content an octet is CR exactly where the next is LF. Without a branch in the loop the compiler
    // compares many at a time, several times faster than looking for each line end.
    let pairs = content.iter().zip(&content[1..]);
    pairs.fold(0, |bare, (&this, &next)| bare | u8::from((this == b'\r') != (next == b'\n'))) != 0
}

/// Octets of the longest line, its CRLF not counted; a line ends with LF here, whatever precedes it.
pub fn longest_line(content: &[u8]) -> usize {
    let (mut from, mut longest) = (0, 0);
    for lf in memchr_iter(b'\n', content) {
        let crlf = usize::from(lf > from && content[lf - 1] == b'\r');
        longest = longest.max(lf - from - crlf);
        from = lf + 1;
    }
    longest.max(content.len() - from)
}

/// True if no line is longer than `max` octets, its CRLF not counted (RFC 5322 §2.1.1: 998).
pub fn lines_within(content: &[u8], max: usize) -> bool {
    longest_line(content) <= max
}

/// What the next hop must offer to be given a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Octets above 127 in the content.
    pub eight_bit: bool,
    /// Lines of any length and lone CR or LF: the client said `BODY=BINARYMIME`.
    pub binary: bool,
    /// UTF-8 in the reverse-path, in this forward-path, or in the header.
    pub smtputf8: bool,
}

/// What the next hop offered in its answer to EHLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// 8BITMIME.
    pub eight_bit: bool,
    /// BINARYMIME, and CHUNKING, without which it means nothing.
    pub binary: bool,
    /// SMTPUTF8.
    pub smtputf8: bool,
}

impl Needs {
    /// What `content` asks for on the way to `recipients`. A client that said SMTPUTF8 or 8BITMIME to be on the
    /// safe side does not bind the next hop; what is in the message does.
    pub fn of<'a>(
        envelope: &Envelope,
        recipients: impl IntoIterator<Item = &'a Recipient>,
        content: &[u8],
    ) -> Self {
        let eight_bit = !is_seven_bit(content);
        let smtputf8 = envelope.smtputf8
            && (envelope.reverse_path.mailbox().is_some_and(|mailbox| !mailbox.is_ascii())
                || recipients.into_iter().any(|recipient| !recipient.path.0.is_ascii())
                || (eight_bit && !scan(content).is_ascii));
        Self { eight_bit, binary: envelope.body == BodyType::BinaryMime, smtputf8 }
    }

    /// The reply with which a message bounces when the next hop offers too little; `None` if it offers enough.
    pub fn shortfall(self, offers: Offers) -> Option<Reply> {
        if self.smtputf8 && !offers.smtputf8 {
            return Some(Reply::new(
                550,
                (5, 6, 7),
                "internationalised mail is not supported by the next hop",
            ));
        }
        if self.binary && !offers.binary {
            return Some(Reply::new(554, (5, 6, 3), "binary content is not supported by the next hop"));
        }
        if self.eight_bit && !(offers.eight_bit || (self.binary && offers.binary)) {
            return Some(Reply::new(554, (5, 6, 3), "eight-bit content is not supported by the next hop"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::{Mailbox, ReversePath};

    #[test]
    fn newlines() {
        for text in ["", "a", "a\r\n", "\r\n\r\n", "a\r\nb"] {
            assert!(!has_bare_newline(text.as_bytes()), "{text:?}");
        }
        for text in ["\n", "\r", "a\r", "\r\r\n", "\r\n\n", "a\nb\r\n", "\n\r"] {
            assert!(has_bare_newline(text.as_bytes()), "{text:?}");
        }
        for (text, longest) in [("", 0), ("abc", 3), ("a\r\nbcd\r\n", 3), ("ab\nc", 2), ("a\r\n\r\nbc", 2)] {
            assert_eq!(longest_line(text.as_bytes()), longest, "{text:?}");
        }
    }

    #[test]
    fn needs_against_offers() {
        let path = |text: &str| ReversePath::Mailbox(Mailbox::parse(text).unwrap());
        let to = |text: &str| Recipient::new(Mailbox::parse(text).unwrap());
        let check = |utf8: bool, body, to: Recipient, content: &str, offers: Offers| {
            let mut envelope = Envelope::new(path("a@b.test"), vec![to]);
            (envelope.smtputf8, envelope.body) = (utf8, body);
            let needs = Needs::of(&envelope, &envelope.recipients, content.as_bytes());
            needs.shortfall(offers).and_then(|reply| reply.enhanced).map(|code| code.to_string())
        };
        let (none, eight) = (Offers::default(), Offers { eight_bit: true, ..Offers::default() });
        let ascii = "A: b\r\n\r\nbody\r\n";
        let umlaut = "A: b\r\n\r\nbödy\r\n";
        assert_eq!(check(true, BodyType::EightBitMime, to("c@d.test"), ascii, none), None);
        assert_eq!(check(false, BodyType::SevenBit, to("c@d.test"), umlaut, none).as_deref(), Some("5.6.3"));
        assert_eq!(check(true, BodyType::EightBitMime, to("c@d.test"), umlaut, eight), None);
        assert_eq!(check(true, BodyType::SevenBit, to("δ@d.test"), ascii, eight).as_deref(), Some("5.6.7"));
        assert_eq!(
            check(true, BodyType::SevenBit, to("c@d.test"), "A: ö\r\n\r\n", eight).as_deref(),
            Some("5.6.7")
        );
        assert_eq!(
            check(false, BodyType::BinaryMime, to("c@d.test"), ascii, eight).as_deref(),
            Some("5.6.3")
        );
        let binary = Offers { binary: true, ..none };
        assert_eq!(check(false, BodyType::BinaryMime, to("c@d.test"), umlaut, binary), None);
    }
}
