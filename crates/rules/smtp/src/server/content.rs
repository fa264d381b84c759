//! The content of a message as it comes in: where it ends, and whether it is fit to keep.
//!
//! Only CRLF.CRLF ends DATA. Whoever takes less for the end lets a second message be smuggled in behind the
//! first, so every other look-alike is content, and content with a bare CR or LF is refused or made CRLF.

use super::config::{BareNewline, LongLine, SessionConfig};
use crate::data::is_plain;

/// Octets of a body that are looked at as one, to see that they are kept as they are.
const BLOCK: usize = 2048;

/// Why content will not be kept, whatever else comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    BareNewline,
    LongLine,
    HeaderSize,
    HeaderCount,
    TooBig,
}

/// Where in a line the scanner stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Behind a CRLF, or at the very beginning.
    #[default]
    LineStart,
    /// Behind a dot at the start of a line. It is not kept: it is transparency or the end.
    Dot,
    /// Behind a dot and a CR.
    DotCr,
    /// Within a line.
    Within,
    /// Behind a CR that is not yet kept.
    Cr,
}

/// Times what has come that room is made for on the word of the client.
const ROOM_MAX: usize = 4;

/// Content under way. Costs one pass over the octets, of which most go in blocks, and grows only with what has come.
#[derive(Debug, Default)]
pub(super) struct Content {
    kept: Vec<u8>,
    /// Octets the client says there will be; 0 if it does not say.
    expected: u64,
    /// Octets that came, kept or not.
    arrived: u64,
    /// Octets in the current line so far.
    line: usize,
    header_size: u64,
    header_count: u32,
    fault: Option<Fault>,
    at: At,
    in_body: bool,
}

impl Content {
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The client says how many octets there will be. A claim: it says how large to make room once octets come, up to
    /// [`ROOM_MAX`] times what has come.
    pub(super) fn expect(&mut self, octets: u64) {
        self.expected = octets;
    }

    pub(super) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// The octets kept.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept)
    }

    /// Takes octets of DATA. Gives how many it took, and whether the end of data was among them.
    pub(super) fn data(&mut self, limits: &SessionConfig, input: &[u8]) -> (usize, bool) {
        let (taken, ended) = self.scan(limits, input, true);
        self.arrived += taken as u64;
        (taken, ended)
    }

    /// Takes octets of a chunk whose lines are text.
    pub(super) fn chunk(&mut self, limits: &SessionConfig, input: &[u8]) {
        self.arrived += input.len() as u64;
        self.scan(limits, input, false);
    }

    /// Takes octets of a chunk of a BINARYMIME message: the header section is text, the rest is not looked at.
    pub(super) fn binary_chunk(&mut self, limits: &SessionConfig, input: &[u8]) {
        self.arrived += input.len() as u64;
        let mut rest = input;
        while !self.in_body && self.fault.is_none() && !rest.is_empty() {
            // Line by line, so that the scanner stops where the body begins.
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            self.scan(limits, &rest[..end], false);
            rest = &rest[end..];
        }
        if self.in_body && self.at == At::Cr && !rest.is_empty() {
            self.keep(limits, b"\r");
            self.at = At::Within;
        }
        self.keep(limits, rest);
    }

    /// The last chunk has come.
    pub(super) fn end_chunks(&mut self, limits: &SessionConfig) {
        if self.at == At::Cr {
            self.bare(limits);
        }
    }

    fn scan(&mut self, limits: &SessionConfig, input: &[u8], dots: bool) -> (usize, bool) {
        let mut i = 0;
        // Octets from `from` to `i` are to be kept as they are.
        let mut from = 0;
        // Before this no block is tried again: what is not plain is not looked at twice for each line of it.
        let mut block_from = 0;
        while let Some(&b) = input.get(i) {
            if self.in_body && i >= block_from && input.len() - i >= BLOCK {
                i += self.plain_blocks(limits, &input[i..]);
                block_from = i + BLOCK;
                continue;
            }
            match self.at {
                At::LineStart => {
                    if b == b'.' && dots {
                        self.keep(limits, &input[from..i]);
                        self.at = At::Dot;
                        i += 1;
                        from = i;
                    } else {
                        self.at = At::Within;
                    }
                }
                At::Within => {
                    let rest = &input[i..];
                    let found = memchr::memchr2(b'\r', b'\n', rest);
                    let len = found.unwrap_or(rest.len());
                    if len > 0 {
                        if self.line == 0 && !self.in_body && !matches!(b, b' ' | b'\t') {
                            self.field(limits);
                        }
                        if self.line + len > limits.body_line_max {
                            self.keep(limits, &input[from..i]);
                            self.long(limits, &rest[..len]);
                            from = i + len;
                        } else {
                            self.line += len;
                        }
                    }
                    i += len;
                    if found.is_none() {
                        break;
                    }
                    match (input[i], input.get(i + 1)) {
                        (b'\r', Some(b'\n')) => {
                            self.end_line(limits);
                            self.at = At::LineStart;
                            i += 2;
                        }
                        (b'\r', None) => {
                            self.keep(limits, &input[from..i]);
                            self.at = At::Cr;
                            i += 1;
                            from = i;
                        }
                        _ => {
                            self.keep(limits, &input[from..i]);
                            self.bare(limits);
                            i += 1;
                            from = i;
                        }
                    }
                }
                At::Dot => {
                    if b == b'\r' {
                        self.at = At::DotCr;
                        i += 1;
                        from = i;
                    } else {
                        self.at = At::Within;
                    }
                }
                At::DotCr => {
                    if b == b'\n' {
                        self.at = At::LineStart;
                        return (i + 1, true);
                    }
                    self.bare(limits);
                }
                At::Cr => {
                    if b == b'\n' {
                        self.keep(limits, b"\r\n");
                        self.end_line(limits);
                        self.at = At::LineStart;
                        i += 1;
                        from = i;
                    } else {
                        self.bare(limits);
                    }
                }
            }
        }
        self.keep(limits, &input[from..i]);
        (i, false)
    }

    /// How many of the next octets of a body are to be kept as they are, found in whole blocks: no line begins with a
    /// dot or is too long, and no CR or LF stands alone.
    fn plain_blocks(&mut self, limits: &SessionConfig, input: &[u8]) -> usize {
        let mut done = 0;
        while input.len() - done >= BLOCK {
            let block = &input[done..done + BLOCK];
            // A line end in two blocks would make the first one look as if it had a bare CR.
            let block = block.strip_suffix(b"\r").unwrap_or(block);
            let begins_well = match self.at {
                At::LineStart => block[0] != b'.',
                At::Within => true,
                At::Dot | At::DotCr | At::Cr => false,
            };
            if !begins_well || !is_plain(block) {
                break;
            }
            let Some(line) = last_line(block, self.line, limits.body_line_max) else { break };
            self.line = line;
            self.at = if line == 0 { At::LineStart } else { At::Within };
            done += block.len();
        }
        done
    }

    /// A CR or LF stands alone, and what came before it is kept. What follows is a new line of content, but
    /// not one on which a dot means anything.
    fn bare(&mut self, limits: &SessionConfig) {
        match limits.bare_newline {
            BareNewline::Refuse => self.fail(Fault::BareNewline),
            BareNewline::Normalise => {
                self.keep(limits, b"\r\n");
                self.end_line(limits);
            }
        }
        self.at = At::Within;
    }

    fn end_line(&mut self, limits: &SessionConfig) {
        if !self.in_body {
            self.header_size += self.line as u64 + 2;
            self.in_body = self.line == 0;
            if self.header_size > limits.header_size_max.bytes() {
                self.fail(Fault::HeaderSize);
            }
        }
        self.line = 0;
    }

    fn field(&mut self, limits: &SessionConfig) {
        self.header_count += 1;
        if self.header_count > limits.header_count_max {
            self.fail(Fault::HeaderCount);
        }
    }

    /// `part` makes the current line too long.
    fn long(&mut self, limits: &SessionConfig, part: &[u8]) {
        if limits.long_line == LongLine::Refuse {
            self.line += part.len();
            return self.fail(Fault::LongLine);
        }
        // Smaller numbers could not hold a folded UTF-8 character.
        let max = limits.body_line_max.max(64);
        let mut rest = part;
        while self.fault.is_none() && self.line + rest.len() > max {
            let (head, tail) = rest.split_at(max - self.line.min(max));
            self.keep(limits, head);
            // Move a character that the break would cut to the new line.
            let kept = self.kept.len();
            let continued = self.kept.iter().rev().take(3).take_while(|&&b| is_continuation(b)).count();
            let cut = match self.kept.get(kept.wrapping_sub(continued + 1)) {
                Some(&b) if tail.first().is_some_and(|&b| is_continuation(b)) && b >= 0xC0 => continued + 1,
                _ => 0,
            };
            let moved = self.kept.split_off(kept - cut);
            self.keep(limits, b"\r\n ");
            self.keep(limits, &moved);
            if !self.in_body {
                self.header_size += max as u64;
            }
            self.line = 1 + cut;
            rest = tail;
        }
        self.line += rest.len();
        self.keep(limits, rest);
    }

    fn keep(&mut self, limits: &SessionConfig, octets: &[u8]) {
        if self.fault.is_some() || octets.is_empty() {
            return;
        }
        if (self.kept.len() + octets.len()) as u64 > limits.message_size_max.bytes() {
            return self.fail(Fault::TooBig);
        }
        self.make_room(octets.len());
        self.kept.extend_from_slice(octets);
    }

    /// Makes room for all of the content at once if the claim is believable: growing by and by copies it twice, and
    /// leaves a message with up to double its size.
    fn make_room(&mut self, more: usize) {
        let needed = self.kept.len() + more;
        if needed > self.kept.capacity() {
            let expected = usize::try_from(self.expected).unwrap_or(usize::MAX);
            let room = expected.min(needed.saturating_mul(ROOM_MAX));
            if room > needed {
                self.kept.reserve_exact(room - self.kept.len());
            }
        }
    }

    fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
        // What is refused is not worth its memory.
        self.kept = Vec::new();
    }
}

/// Octets of the unfinished line at the end of `block`, whose first line has `line` octets already; `None` if
/// some line has more than `max`. Every line ends in CRLF, so that a line end within reach of the beginning of a line
/// says that no line before it is too long: a few looks tell what would take one for each line.
fn last_line(block: &[u8], line: usize, max: usize) -> Option<usize> {
    let mut rest = block;
    let mut line = line;
    loop {
        let reach = (max + 2).checked_sub(line)?;
        match memchr::memrchr(b'\n', &rest[..reach.min(rest.len())]) {
            Some(end) => {
                rest = &rest[end + 1..];
                line = 0;
            }
            None => return Some(line + rest.len()).filter(|&line| line <= max),
        }
    }
}

fn is_continuation(b: u8) -> bool {
    b & 0xC0 == 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::Size;

    fn run(limits: &SessionConfig, wire: &[u8], piece: usize) -> (Result<Vec<u8>, Fault>, usize, bool) {
        let mut content = Content::default();
        let (mut at, mut ended) = (0, false);
        while at < wire.len() && !ended {
            let end = wire.len().min(at + piece);
            let (taken, end) = content.data(limits, &wire[at..end]);
            at += taken;
            ended = end;
        }
        (content.fault().map_or_else(|| Ok(content.take()), Err), at, ended)
    }

    #[track_caller]
    fn check(limits: &SessionConfig, wire: &[u8], content: Result<&[u8], Fault>, rest: usize) {
        for piece in 1..=wire.len() {
            let (found, taken, ended) = run(limits, wire, piece);
            assert!(ended, "no end in {:?} by {piece}", wire.escape_ascii().to_string());
            assert_eq!(found.as_deref().map_err(|&e| e), content, "{} by {piece}", wire.escape_ascii());
            assert_eq!(wire.len() - taken, rest, "{} by {piece}", wire.escape_ascii());
        }
    }

    #[test]
    fn the_end_of_data_and_nothing_else() {
        let strict = SessionConfig::default();
        check(&strict, b".\r\n", Ok(b""), 0);
        check(&strict, b"a\r\n.\r\nNOOP", Ok(b"a\r\n"), 4);
        check(&strict, b"..\r\n.a\r\n...b\r\n.\r\n", Ok(b".\r\na\r\n..b\r\n"), 0);
        check(&strict, b"\r\n. \r\n.\0\r\n\0.\r\n.\r\n", Ok(b"\r\n \r\n\0\r\n\0.\r\n"), 0);
        check(
            &strict,
            b"\x85.\x85\r\n\x0b.\x0b\r\n\xe2\x80\xa8.\xe2\x80\xa8\r\n.\r\n",
            Ok(b"\x85.\x85\r\n\x0b.\x0b\r\n\xe2\x80\xa8.\xe2\x80\xa8\r\n"),
            0,
        );
        for smuggled in [
            &b"a\n.\nb"[..],
            b"a\n.\r\nb",
            b"a\r\n.\nb",
            b"a\r.\rb",
            b"a\r.\r\nb",
            b"a\r\n.\rb",
            b"a\n.\rb",
            b"a\r\r\n.\r\r\nb",
            b"a\r\n.\r\r\nb",
            b"a\r",
            b"a\n",
        ] {
            let wire = [smuggled, b"\r\n.\r\n"].concat();
            check(&strict, &wire, Err(Fault::BareNewline), 0);
        }
    }

    #[test]
    fn bare_newlines_made_whole() {
        let limits = SessionConfig { bare_newline: BareNewline::Normalise, ..SessionConfig::default() };
        check(&limits, b"a\n.\nb\r\n.\r\n", Ok(b"a\r\n.\r\nb\r\n"), 0);
        check(&limits, b"a\r\n.\nb\r\n.\r\n", Ok(b"a\r\n\r\nb\r\n"), 0);
        check(&limits, b"a\r.\r\nb\r\n.\r\n", Ok(b"a\r\n.\r\nb\r\n"), 0);
        check(&limits, b"a\r\n.\rb\r\n.\r\n", Ok(b"a\r\n\r\nb\r\n"), 0);
        check(&limits, b"a\r\r\n.\r\r\nb\r\n.\r\n", Ok(b"a\r\n\r\n\r\n\r\nb\r\n"), 0);
        check(&limits, b"a\r\r\r\n.\r\n", Ok(b"a\r\n\r\n\r\n"), 0);
    }

    #[test]
    fn long_lines_are_refused_or_folded() {
        let limits = SessionConfig { body_line_max: 64, ..SessionConfig::default() };
        let (full, over) = ("x".repeat(64), "x".repeat(65));
        check(&limits, format!("{full}\r\n.\r\n").as_bytes(), Ok(format!("{full}\r\n").as_bytes()), 0);
        check(&limits, format!("{over}\r\n.\r\n").as_bytes(), Err(Fault::LongLine), 0);
        let limits = SessionConfig { long_line: LongLine::Fold, ..limits };
        check(&limits, format!("{full}\r\n.\r\n").as_bytes(), Ok(format!("{full}\r\n").as_bytes()), 0);
        check(&limits, format!("{over}\r\n.\r\n").as_bytes(), Ok(format!("{full}\r\n x\r\n").as_bytes()), 0);
        let accents = format!("x{}", "é".repeat(40));
        let folded = format!("x{}\r\n {}", "é".repeat(31), "é".repeat(9));
        check(&limits, format!("{accents}\r\n.\r\n").as_bytes(), Ok(format!("{folded}\r\n").as_bytes()), 0);
        let junk = [0x80u8; 200];
        let (found, _, ended) = run(&limits, &[&junk[..], b"\r\n.\r\n"].concat(), 7);
        assert!(ended && found.unwrap().split(|&b| b == b'\n').all(|line| line.len() <= 65));
    }

    #[test]
    fn room_is_made_once_for_what_was_announced_and_never_for_much_more_than_came() {
        let limits = SessionConfig::default();
        let body = [b"A: b\r\n\r\n".as_slice(), &b"0123456789abcd\r\n".repeat(3_199)].concat();
        let mut content = Content::default();
        content.expect(body.len() as u64);
        for piece in body.chunks(16 * 1024) {
            content.data(&limits, piece);
            assert!(content.kept.capacity() <= content.kept.len() * ROOM_MAX);
        }
        let kept = content.take();
        assert!(kept == body && kept.capacity() == body.len());
        // A claim that is a lie.
        let mut content = Content::default();
        content.expect(u64::MAX);
        assert_eq!(content.kept.capacity(), 0);
        for piece in body.chunks(1000) {
            content.data(&limits, piece);
            assert!(content.kept.capacity() <= content.kept.len() * ROOM_MAX);
        }
        assert!(content.take() == body);
    }

    #[test]
    fn blocks_and_single_lines_are_judged_alike() {
        let mut seed = 5u64;
        let mut random = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let (mut refused, mut kept) = (0, 0);
        for round in 0..600 {
            let bare_newline = if round % 2 == 0 { BareNewline::Refuse } else { BareNewline::Normalise };
            let long_line = if round % 3 == 0 { LongLine::Fold } else { LongLine::Refuse };
            let limits =
                SessionConfig { bare_newline, long_line, body_line_max: 998, ..SessionConfig::default() };
            let odd_one_in = [50, 400, 100_000][round % 3];
            let mut wire = b"A: b\r\n\r\n".to_vec();
            while wire.len() < 12_000 {
                match random(odd_one_in) {
                    0 => wire.extend_from_slice(b"..\r\n"),
                    1 => wire.extend_from_slice(b"x\ny"),
                    2 => wire.extend_from_slice(b"x\ry"),
                    3 => wire.extend(std::iter::repeat_n(b'x', 990 + random(20)).chain(*b"\r\n")),
                    _ => wire.extend(std::iter::repeat_n(b'x', random(998)).chain(*b"\r\n")),
                }
            }
            wire.extend_from_slice(b"\r\n.\r\nNOOP\r\n");
            // In pieces that are less than a block nothing goes in blocks.
            let by_lines = run(&limits, &wire, 100);
            for piece in [BLOCK, BLOCK + random(5000), wire.len()] {
                assert!(run(&limits, &wire, piece) == by_lines, "round {round}, by {piece}");
            }
            match by_lines.0 {
                Ok(_) => kept += 1,
                Err(_) => refused += 1,
            }
        }
        assert!(kept > 50 && refused > 50, "{kept} and {refused}");
    }

    #[test]
    fn headers_are_counted_and_bodies_are_not() {
        let limits =
            SessionConfig { header_count_max: 3, header_size_max: Size(39), ..SessionConfig::default() };
        check(
            &limits,
            b"A: 1\r\n b\r\n\tc\r\nB: 2\r\nC: 3\r\n\r\nd\r\ne\r\nf\r\n.\r\n",
            Ok(b"A: 1\r\n b\r\n\tc\r\nB: 2\r\nC: 3\r\n\r\nd\r\ne\r\nf\r\n"),
            0,
        );
        check(&limits, b"A:\r\nB:\r\nC:\r\nD:\r\n\r\n.\r\n", Err(Fault::HeaderCount), 0);
        check(&limits, b"A: 123456789\r\n 123456789\r\n 123456789\r\n\r\n.\r\n", Err(Fault::HeaderSize), 0);
        check(
            &limits,
            b"\r\n123456789 123456789 123456789 123456789 1234567890\r\n.\r\n",
            Ok(b"\r\n123456789 123456789 123456789 123456789 1234567890\r\n"),
            0,
        );
    }

    #[test]
    fn too_big_is_read_to_its_end_and_kept_nowhere() {
        let limits = SessionConfig { message_size_max: Size(10), ..SessionConfig::default() };
        check(&limits, b"12345678\r\n.\r\n", Ok(b"12345678\r\n"), 0);
        check(&limits, b"123456789\r\n.\r\nQUIT", Err(Fault::TooBig), 4);
    }

    #[test]
    fn chunks_of_text_and_of_octets() {
        let limits = SessionConfig::default();
        let run = |binary: bool, pieces: &[&[u8]]| {
            let mut content = Content::default();
            for piece in pieces {
                if binary { content.binary_chunk(&limits, piece) } else { content.chunk(&limits, piece) }
            }
            content.end_chunks(&limits);
            content.fault().map_or_else(|| Ok(content.take()), Err)
        };
        assert_eq!(run(false, &[b"a\r", b"\n.\r", b"\n", b".b"]), Ok(b"a\r\n.\r\n.b".to_vec()));
        assert_eq!(run(false, &[b"a\r"]), Err(Fault::BareNewline));
        assert_eq!(run(false, &[b"a\r", b"b"]), Err(Fault::BareNewline));
        assert_eq!(
            run(true, &[b"A: b\r\n\r\n\n\r.", b"\r", b"\n\0"]),
            Ok(b"A: b\r\n\r\n\n\r.\r\n\0".to_vec())
        );
        assert_eq!(run(true, &[b"A: b\nC: d\r\n\r\n"]), Err(Fault::BareNewline));
    }
}
