//! The little SMTP that the bench needs, written apart from the product's `smtp` room so that the two
//! check each other: a read buffer, replies, the end of data, and numbers patched into fixed places.

use std::io;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What ends a message's content on the wire; the first CRLF belongs to the content (RFC 5321 §4.1.1.4).
pub const END_OF_DATA: &[u8] = b"\r\n.\r\n";

static END_OF_DATA_FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(END_OF_DATA));

/// Where `CRLF . CRLF` begins.
pub fn end_of_data(data: &[u8]) -> Option<usize> {
    END_OF_DATA_FINDER.find(data)
}

/// Octets read and not yet used. Grows to a bound, keeps its memory between messages.
pub struct Buffer {
    data: Vec<u8>,
    start: usize,
    end: usize,
    bound: usize,
}

impl Buffer {
    /// A buffer of `initial` octets that may grow to `bound`.
    pub fn new(initial: usize, bound: usize) -> Self {
        Self { data: vec![0; initial], start: 0, end: 0, bound: bound.max(initial) }
    }

    /// What has been read and not yet consumed.
    pub fn unread(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// Forgets the first `octets` of `unread`.
    pub fn consume(&mut self, octets: usize) {
        self.start = (self.start + octets).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Reads once; `UnexpectedEof` when the peer has closed, `InvalidData` when the bound is reached.
    pub async fn fill<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> io::Result<usize> {
        if self.end == self.data.len() {
            if self.start > 0 {
                self.data.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else if self.data.len() < self.bound {
                let larger = (self.data.len() * 2).min(self.bound);
                self.data.resize(larger, 0);
            } else {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "line or header longer than the buffer",
                ));
            }
        }
        let octets = stream.read(&mut self.data[self.end..]).await?;
        if octets == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.end += octets;
        if self.end == self.data.len() && self.data.len() < self.bound {
            // More was waiting than fits: large mail deserves large reads, an idle connection little memory.
            let larger = (self.data.len() * 4).min(self.bound);
            self.data.resize(larger, 0);
        }
        Ok(octets)
    }

    /// The next line without its line end, if a whole one is there. Bare LF ends a line here; who cares
    /// looks at `unread` first.
    pub fn line(&self) -> Option<(&[u8], usize)> {
        let data = self.unread();
        let at = memchr::memchr(b'\n', data)?;
        let line = &data[..at];
        Some((line.strip_suffix(b"\r").unwrap_or(line), at + 1))
    }

    /// Takes the next whole reply, if it is there.
    fn take_reply(&mut self, text: &mut String, text_from: u16) -> io::Result<Option<u16>> {
        let data = self.unread();
        let mut at = 0;
        let code = loop {
            let Some(length) = memchr::memchr(b'\n', &data[at..]) else { return Ok(None) };
            let line = &data[at..at + length];
            let Some(code) = reply_code(line) else {
                let shown = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("not a reply: {shown:?}")));
            };
            at += length + 1;
            if line.get(3) != Some(&b'-') {
                break code;
            }
        };
        if code >= text_from {
            text.clear();
            text.push_str(String::from_utf8_lossy(&data[..at]).trim_end());
        }
        self.consume(at);
        Ok(Some(code))
    }

    /// Waits for a whole reply and gives its code. The lines go to `text` when the code is at least
    /// `text_from`: who reads a 250 a hundred thousand times a second wants only the number.
    pub async fn reply<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        text: &mut String,
        text_from: u16,
    ) -> io::Result<u16> {
        loop {
            if let Some(code) = self.take_reply(text, text_from)? {
                return Ok(code);
            }
            self.fill(stream).await?;
        }
    }
}

fn reply_code(line: &[u8]) -> Option<u16> {
    let [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = line else { return None };
    if !matches!(rest.first(), None | Some(b' ' | b'-' | b'\r')) {
        return None;
    }
    Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
}

/// Writes `value` right-aligned in decimal, padded with zeros; digits that find no place are lost.
pub fn patch_decimal(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Reads a decimal number of at most 19 digits.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits
        .iter()
        .try_fold(0u64, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u64::from(digit - b'0')))
}

/// Base64 with padding, for AUTH.
pub fn base64(octets: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(octets.len().div_ceil(3) * 4);
    for group in octets.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, octet| bits << 8 | u32::from(*octet)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) & 63;
            text.push(if place <= group.len() { ALPHABET[index as usize] as char } else { '=' });
        }
    }
    text
}

/// `\0user\0password` in base64, the initial response of AUTH PLAIN (RFC 4616).
pub fn auth_plain(user: &str, password: &str) -> String {
    base64(format!("\0{user}\0{password}").as_bytes())
}

/// Microseconds since 1970: the clock that loader and sink share.
pub fn unix_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map(|since| since.as_micros() as u64).unwrap_or(0)
}

/// A number nobody else has drawn, for naming runs and seeding; not for secrets.
pub fn random_u64() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// SplitMix64: enough randomness to choose what a rule refuses, reproducible from its seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, not including, 1.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replies_come_whole_whatever_the_segments() {
        let wire = b"250-one\r\n250-two\r\n250 three\r\n354 go\r\n";
        for size in 1..wire.len() {
            let mut buffer = Buffer::new(4, 64);
            let mut stream = tokio_test_chunks(wire, size);
            let mut text = String::new();
            assert_eq!(buffer.reply(&mut stream, &mut text, 200).await.expect("first reply"), 250);
            assert_eq!(text, "250-one\r\n250-two\r\n250 three");
            assert_eq!(buffer.reply(&mut stream, &mut text, 400).await.expect("second reply"), 354);
            let end = buffer.reply(&mut stream, &mut text, 400).await.expect_err("nothing is left");
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    /// A reader that hands out at most `size` octets at a time.
    fn tokio_test_chunks(wire: &'static [u8], size: usize) -> impl AsyncRead + Unpin {
        struct Chunks(&'static [u8], usize);
        impl AsyncRead for Chunks {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                into: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                let octets = self.0.len().min(self.1).min(into.remaining());
                let (now, later) = self.0.split_at(octets);
                into.put_slice(now);
                self.0 = later;
                std::task::Poll::Ready(Ok(()))
            }
        }
        Chunks(wire, size)
    }

    #[test]
    fn small_parsers() {
        assert_eq!(reply_code(b"250"), Some(250));
        assert_eq!(reply_code(b"250\r"), Some(250));
        assert_eq!(reply_code(b"2500 x"), None);
        assert_eq!(reply_code(b"hello"), None);
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"a"), "YQ==");
        assert_eq!(base64(b"ab"), "YWI=");
        assert_eq!(base64(b"abc"), "YWJj");
        assert_eq!(auth_plain("tim", "tanstaaftanstaaf"), "AHRpbQB0YW5zdGFhZnRhbnN0YWFm");
        assert_eq!(decimal(b"0042"), Some(42));
        assert_eq!(decimal(b"4x"), None);
        assert_eq!(decimal(b""), None);
        let mut place = *b"....";
        patch_decimal(&mut place, 123);
        assert_eq!(&place, b"0123");
    }
}
