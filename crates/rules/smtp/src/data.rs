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

    /// True if the transparent form of the next piece is the piece itself; it then counts as pushed, and the caller
    /// sends it as it is.
    pub fn passes(&mut self, piece: &[u8]) -> bool {
        let plain = match self.at {
            At::LineStart => piece.first() != Some(&b'.'),
            At::Within => true,
            At::Cr => false,
        };
        if !plain || !is_plain(piece) {
            return false;
        }
        match piece.last() {
            Some(b'\n') => self.at = At::LineStart,
            Some(_) => self.at = At::Within,
            None => {}
        }
        true
    }

    /// Ends the last line, if it is not ended.
    pub fn finish(self, out: &mut Vec<u8>) {
        if self.at != At::LineStart {
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// True if no CR or LF in `octets` stands alone and no dot stands behind an LF. Looks at each octet and the next
/// without branches, which the compiler makes a few instructions for sixteen of them: a tenth of the time of a
/// search from line to line.
pub(crate) fn is_plain(octets: &[u8]) -> bool {
    /// Octets looked at before asking whether to go on.
    const BLOCK: usize = 2048;
    let ([first, nexts @ ..], [.., last]) = (octets, octets) else { return true };
    let odd = |this: &[u8], next: &[u8]| {
        this.iter().zip(next).fold(false, |odd, (&this, &next)| {
            odd | ((this == b'\r') != (next == b'\n')) | ((this == b'\n') & (next == b'.'))
        })
    };
    *first != b'\n'
        && *last != b'\r'
        && !octets.chunks(BLOCK).zip(nexts.chunks(BLOCK)).any(|(this, next)| odd(this, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_is_what_leaves_as_it_is() {
        let mut plain = 0;
        for n in 0..5usize.pow(6) {
            // All texts of six of these octets.
            let text: Vec<u8> = (0..6).map(|digit| b"\r\n.ab"[n / 5usize.pow(digit) % 5]).collect();
            let (mut out, mut stuffer) = (Vec::new(), Stuffer { at: At::Within });
            let mut again = stuffer;
            stuffer.push(&text, &mut out);
            let passes = again.passes(&text);
            assert_eq!(passes, out == text, "{:?}", text.escape_ascii().to_string());
            assert!(!passes || again.at == stuffer.at);
            plain += u32::from(passes);
        }
        assert!(plain > 100);
        assert!(Stuffer::default().passes(b"a\r\n") && !Stuffer::default().passes(b".a\r\n"));
        // Wherever it stands in a long text.
        for at in 0..5000 {
            let mut text = vec![b'x'; 5001];
            text[at] = b'\n';
            assert!(!is_plain(&text), "{at}");
            if at > 0 {
                text[at - 1] = b'\r';
                assert!(is_plain(&text), "{at}");
                text[at + 1] = b'.';
                assert!(!is_plain(&text), "{at}");
            }
        }
    }

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
