//! Content on its way out with DATA (RFC 5321 §4.5.2).

use memchr::memchr2;

/// Writes content for DATA: dots at the head of a line are doubled, and a bare CR or LF becomes CRLF, so that
/// nothing with one ever leaves, wherever the content came from. Content is fed in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Stuffer {
    line_start: bool,
    after_cr: bool,
}

impl Default for Stuffer {
    fn default() -> Self {
        Self { line_start: true, after_cr: false }
    }
}

impl Stuffer {
    /// Appends a piece of content to `out`.
    pub fn push(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        while let Some(&first) = piece.first() {
            if self.after_cr {
                // The CR of the octets before was held back until it was known what follows.
                self.after_cr = false;
                self.line_start = true;
                out.extend_from_slice(b"\r\n");
                if first == b'\n' {
                    piece = &piece[1..];
                    continue;
                }
            }
            if self.line_start && first == b'.' {
                out.push(b'.');
            }
            self.line_start = false;
            match memchr2(b'\r', b'\n', piece) {
                None => {
                    out.extend_from_slice(piece);
                    return;
                }
                Some(at) if piece[at..].starts_with(b"\r\n") => {
                    out.extend_from_slice(&piece[..at + 2]);
                    self.line_start = true;
                    piece = &piece[at + 2..];
                }
                Some(at) => {
                    out.extend_from_slice(&piece[..at]);
                    if piece[at] == b'\r' {
                        self.after_cr = true;
                    } else {
                        out.extend_from_slice(b"\r\n");
                        self.line_start = true;
                    }
                    piece = &piece[at + 1..];
                }
            }
        }
    }

    /// Appends the end of data, after an end of line if the content lacks its last.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.after_cr || !self.line_start {
            out.extend_from_slice(b"\r\n");
        }
        *self = Self::default();
        out.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_doubled_and_line_ends_whole_wherever_the_pieces_break() {
        for (content, wire) in [
            (&b""[..], &b".\r\n"[..]),
            (b"a\r\n", b"a\r\n.\r\n"),
            (b"a", b"a\r\n.\r\n"),
            (b".\r\n", b"..\r\n.\r\n"),
            (b"a\r\n.b\r\n..c\r\n", b"a\r\n..b\r\n...c\r\n.\r\n"),
            (b"a\n.\nb", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\r.\rb", b"a\r\n..\r\nb\r\n.\r\n"),
            (b"a\r\r\n.\r\r\n", b"a\r\n\r\n..\r\n\r\n.\r\n"),
            (b"a\n\r\n.\r", b"a\r\n\r\n..\r\n.\r\n"),
            (b"a\r", b"a\r\n.\r\n"),
        ] {
            for at in 0..=content.len() {
                for to in at..=content.len() {
                    let (mut stuffer, mut out) = (Stuffer::default(), Vec::new());
                    for piece in [&content[..at], &content[at..to], &content[to..]] {
                        stuffer.push(piece, &mut out);
                    }
                    stuffer.finish(&mut out);
                    assert_eq!(out.escape_ascii().to_string(), wire.escape_ascii().to_string());
                }
            }
        }
    }
}
