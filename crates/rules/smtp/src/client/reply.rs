//! Reading replies (RFC 5321 §4.2), from a peer that may be broken or hostile.

use mail::{EnhancedStatusCode, Reply, ReplyCode};
use memchr::memchr;

/// Octets of one reply taken, all lines together. RFC 5321 §4.5.3.1.5 asks for lines of 512.
const REPLY_MAX: usize = 16 * 1024;
/// Lines of one reply taken; EHLO replies of real servers have under thirty.
const LINES_MAX: usize = 128;

/// Why what came is not a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// A line does not begin with a reply code and a space or hyphen.
    NotAReply,
    /// Lines of one reply have different codes.
    CodeChanges,
    /// Over 16 KiB or 128 lines.
    TooLong,
}

impl std::fmt::Display for ReplyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotAReply => "the peer sent something that is not a reply",
            Self::CodeChanges => "the peer sent a reply whose lines have different codes",
            Self::TooLong => "the peer sent a reply longer than 16 KiB or 128 lines",
        })
    }
}

/// Collects octets into replies.
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// Octets of a line that has not ended yet.
    partial: Vec<u8>,
    code: Option<ReplyCode>,
    enhanced: Option<EnhancedStatusCode>,
    text: String,
    lines: usize,
}

impl ReplyReader {
    /// Takes octets from the head of `input` up to the end of one reply; `input` is left after it.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Reply>, ReplyError> {
        while let Some(end) = memchr(b'\n', input) {
            let (line, rest) = input.split_at(end + 1);
            *input = rest;
            let done = if self.partial.is_empty() {
                self.line(&line[..end])?
            } else {
                self.extend(&line[..end])?;
                let whole = std::mem::take(&mut self.partial);
                self.line(&whole)?
            };
            if done {
                return Ok(self.finish());
            }
        }
        let rest = std::mem::take(input);
        self.extend(rest)?;
        Ok(None)
    }

    /// True if a reply has begun and not ended.
    pub fn is_partial(&self) -> bool {
        !self.partial.is_empty() || self.lines > 0
    }

    fn extend(&mut self, octets: &[u8]) -> Result<(), ReplyError> {
        if self.partial.len() + self.text.len() + octets.len() > REPLY_MAX {
            return Err(ReplyError::TooLong);
        }
        self.partial.extend_from_slice(octets);
        Ok(())
    }

    /// Reads one line, without its LF. True if the reply ends with it.
    fn line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let digits =
            line.get(..3).filter(|d| d.iter().all(u8::is_ascii_digit)).ok_or(ReplyError::NotAReply)?;
        let number = digits.iter().fold(0u16, |n, d| n * 10 + u16::from(d - b'0'));
        let code = ReplyCode::new(number).ok_or(ReplyError::NotAReply)?;
        let last = match line.get(3) {
            None | Some(b' ') => true,
            Some(b'-') => false,
            Some(_) => return Err(ReplyError::NotAReply),
        };
        if *self.code.get_or_insert(code) != code {
            return Err(ReplyError::CodeChanges);
        }
        let text = line.get(4..).unwrap_or_default();
        if self.lines >= LINES_MAX || self.text.len() + text.len() > REPLY_MAX {
            return Err(ReplyError::TooLong);
        }
        let text = sanitise(text);
        let mut text = text.as_ref();
        if let Some(enhanced) =
            EnhancedStatusCode::parse(text).filter(|e| u16::from(e.class()) == number / 100)
        {
            if self.lines == 0 {
                self.enhanced = Some(enhanced);
            }
            text = text.split_once([' ', '\t']).map_or("", |(_, rest)| rest);
        }
        if self.lines > 0 {
            self.text.push('\n');
        }
        self.text.push_str(text);
        self.lines += 1;
        Ok(last)
    }

    fn finish(&mut self) -> Option<Reply> {
        self.lines = 0;
        let (code, enhanced) = (self.code.take()?, self.enhanced.take());
        Some(Reply { code, enhanced, text: std::mem::take(&mut self.text).into() })
    }
}

/// Control characters become `?`, and octets that are not UTF-8 the replacement character: a reply goes into
/// logs, records and bounces.
fn sanitise(text: &[u8]) -> std::borrow::Cow<'_, str> {
    let text = String::from_utf8_lossy(text);
    if text.chars().any(char::is_control) {
        return text
            .chars()
            .map(|c| if c.is_control() && c != '\t' { '?' } else { c })
            .collect::<String>()
            .into();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(mut input: &[u8]) -> Result<Vec<String>, ReplyError> {
        let mut reader = ReplyReader::default();
        let mut replies = Vec::new();
        while let Some(reply) = reader.read(&mut input)? {
            replies.push(reply.to_string());
        }
        Ok(replies)
    }

    #[test]
    fn replies_of_all_shapes() {
        for (input, replies) in [
            (&b"250 ok\r\n"[..], vec!["250 ok"]),
            (b"250\r\n", vec!["250 "]),
            (b"250 2.1.0 ok\r\n354 go\r\n", vec!["250 2.1.0 ok", "354 go"]),
            (b"550-5.1.1 no\r\n550 5.1.1 such user\r\n", vec!["550 5.1.1 no; such user"]),
            (b"250 5.1.1 odd class\r\n", vec!["250 5.1.1 odd class"]),
            (b"250 ok\n", vec!["250 ok"]),
            (b"550 a\x00b\x1b[1m\xff\r\n", vec!["550 a?b?[1m\u{fffd}"]),
            (b"25", vec![]),
        ] {
            assert_eq!(read_all(input).unwrap(), replies);
        }
    }

    #[test]
    fn replies_split_anywhere_read_the_same() {
        let input = b"250-a.test\r\n250-SIZE 10\r\n250 PIPELINING\r\n550 5.7.1 no\r\n";
        for at in 0..input.len() {
            let mut reader = ReplyReader::default();
            let (mut a, mut b) = input.split_at(at);
            let mut replies = Vec::new();
            while let Some(reply) = reader.read(&mut a).unwrap() {
                replies.push(reply.to_string());
            }
            while let Some(reply) = reader.read(&mut b).unwrap() {
                replies.push(reply.to_string());
            }
            assert_eq!(replies, ["250 a.test; SIZE 10; PIPELINING", "550 5.7.1 no"], "split at {at}");
        }
    }

    #[test]
    fn what_is_no_reply() {
        assert_eq!(read_all(b"hello\r\n"), Err(ReplyError::NotAReply));
        assert_eq!(read_all(b"2x0 ok\r\n"), Err(ReplyError::NotAReply));
        assert_eq!(read_all(b"199 ok\r\n"), Err(ReplyError::NotAReply));
        assert_eq!(read_all(b"250_ok\r\n"), Err(ReplyError::NotAReply));
        assert_eq!(read_all(b"250-a\r\n550 b\r\n"), Err(ReplyError::CodeChanges));
        assert_eq!(read_all(&[b'2'; 200_000]), Err(ReplyError::TooLong));
        assert_eq!(read_all(&b"250-x\r\n".repeat(1_000)), Err(ReplyError::TooLong));
        let long = [&b"250-"[..], &[b'x'; 10_000], b"\r\n250-", &[b'x'; 10_000], b"\r\n"].concat();
        assert_eq!(read_all(&long), Err(ReplyError::TooLong));
    }
}
