//! Content made fit for DATA: dot transparency (RFC 5321 §4.5.2) and CRLF line ends.
//!
//! This is the only writer of message content to the wire, so whatever came in, nothing that leaves holds a
//! bare CR or LF, and no line of content can be taken for the end of data.

/// What ends the content of DATA, once it ends in CRLF.
pub const END_OF_DATA: &[u8] = b".\r\n";

/// Appends `content` to `out` in its transparent form. Unless it is empty it ends in CRLF; the caller adds
/// [`END_OF_DATA`].
pub fn stuff(content: &[u8], out: &mut Vec<u8>) {
    let mut stuffer = Stuffer::default();
    out.reserve(content.len() + content.len() / 64 + 8);
    stuffer.push(content, out);
    stuffer.finish(out);
}

/// [`stuff`] for content that comes in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stuffer {
    at: At,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    LineStart,
    Within,
    /// A CR has been read and not yet written.
    Cr,
}

impl Stuffer {
    /// Appends the transparent form of the next piece to `out`.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        // What stands before `rest` and is to be copied as it is.
        let mut from = 0;
        while let Some(&first) = rest.first() {
            let here = piece.len() - rest.len();
            match self.at {
                At::LineStart => {
                    if first == b'.' {
                        out.extend_from_slice(&piece[from..here]);
                        out.push(b'.');
                        from = here;
                    }
                    self.at = At::Within;
                }
                At::Cr => {
                    out.extend_from_slice(b"\r\n");
                    self.at = At::LineStart;
                    if first == b'\n' {
                        rest = &rest[1..];
                    }
                    from = piece.len() - rest.len();
                }
                At::Within => {
                    let Some(end) = memchr::memchr2(b'\r', b'\n', rest) else { break };
                    if rest[end..].starts_with(b"\r\n") {
                        self.at = At::LineStart;
                        rest = &rest[end + 2..];
                        continue;
                    }
                    out.extend_from_slice(&piece[from..here + end]);
                    if rest[end] == b'\n' {
                        out.extend_from_slice(b"\r\n");
                        self.at = At::LineStart;
                    } else {
                        self.at = At::Cr;
                    }
                    from = here + end + 1;
                    rest = &rest[end + 1..];
                }
            }
        }
        out.extend_from_slice(&piece[from..]);
    }

    /// Ends the last line, if it is not ended.
    pub fn finish(self, out: &mut Vec<u8>) {
        if self.at != At::LineStart {
            out.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_on_the_wire() {
        for (content, wire) in [
            ("", ""),
            ("a", "a\r\n"),
            ("a\r\n", "a\r\n"),
            (".\r\n", "..\r\n"),
            ("a\r\n.b\r\n..\r\n", "a\r\n..b\r\n...\r\n"),
            ("a\n.\nb", "a\r\n..\r\nb\r\n"),
            ("a\r.\r\nb\r", "a\r\n..\r\nb\r\n"),
            ("a\r\r\n.\r\r\nb", "a\r\n\r\n..\r\n\r\nb\r\n"),
            ("\n", "\r\n"),
            ("\r", "\r\n"),
        ] {
            for size in 1..=content.len().max(1) {
                let (mut out, mut stuffer) = (Vec::new(), Stuffer::default());
                content.as_bytes().chunks(size).for_each(|piece| stuffer.push(piece, &mut out));
                stuffer.finish(&mut out);
                assert_eq!(String::from_utf8(out).unwrap(), wire, "{content:?} in pieces of {size}");
            }
            let mut out = Vec::new();
            stuff(content.as_bytes(), &mut out);
            assert_eq!(out, wire.as_bytes());
        }
    }
}
