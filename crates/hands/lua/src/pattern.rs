//! Patterns as Lua has them (manual §6.4.1), matched in a bounded number of steps.
//!
//! Lua's own matcher backtracks without bound and runs no instruction meanwhile, so no limit would end it. This one does
//! the same and counts.

use std::fmt;

/// Captures of one pattern, as in Lua.
const CAPTURES_MAX: usize = 32;
/// How deep the matcher may call itself, as in Lua.
const DEPTH_MAX: u32 = 200;
/// Steps of one match. At some nanoseconds each they are some milliseconds.
pub(crate) const STEPS_MAX: u64 = 1_000_000;

/// Why a match gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatternError {
    Malformed(&'static str),
    TooComplex,
    TooManySteps,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "malformed pattern ({what})"),
            Self::TooComplex => f.write_str("pattern too complex"),
            Self::TooManySteps => f.write_str("the pattern takes too many steps on this text"),
        }
    }
}

/// What a capture holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capture {
    /// From here to there.
    Span(usize, usize),
    /// `()`: a place, from 1.
    Position(usize),
    /// It was opened and not closed: a mistake once it is asked for.
    Unfinished,
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Open,
    Position,
    Closed(usize),
}

/// Where a match is, and what it captured. With no capture in the pattern, the whole match is the only one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Match {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) captures: Vec<Capture>,
    /// The pattern has captures of its own.
    pub(crate) explicit: bool,
}

struct Matcher<'a> {
    text: &'a [u8],
    pattern: &'a [u8],
    captures: Vec<(usize, Length)>,
    depth: u32,
    steps: u64,
}

type Found = Result<Option<usize>, PatternError>;

/// The first match of `pattern` in `text` from `from` on, and the steps it took.
pub(crate) fn find(text: &[u8], pattern: &[u8], from: usize) -> (Result<Option<Match>, PatternError>, u64) {
    match pattern.strip_prefix(b"^") {
        Some(pattern) => search(text, pattern, from, true),
        None => search(text, pattern, from, false),
    }
}

/// The same where a `^` stands for itself, as in `gmatch`.
pub(crate) fn find_unanchored(
    text: &[u8],
    pattern: &[u8],
    from: usize,
) -> (Result<Option<Match>, PatternError>, u64) {
    search(text, pattern, from, false)
}

fn search(
    text: &[u8],
    pattern: &[u8],
    from: usize,
    anchored: bool,
) -> (Result<Option<Match>, PatternError>, u64) {
    let mut matcher = Matcher { text, pattern, captures: Vec::new(), depth: 0, steps: 0 };
    let mut start = from;
    loop {
        matcher.captures.clear();
        match matcher.go(start, 0) {
            Err(error) => return (Err(error), matcher.steps),
            Ok(Some(end)) => return (Ok(Some(matcher.finish(start, end))), matcher.steps),
            Ok(None) if anchored || start >= text.len() => return (Ok(None), matcher.steps),
            Ok(None) => start += 1,
        }
    }
}

fn is_class(octet: u8, class: u8) -> bool {
    let is = match class.to_ascii_lowercase() {
        b'a' => octet.is_ascii_alphabetic(),
        b'c' => octet.is_ascii_control(),
        b'd' => octet.is_ascii_digit(),
        b'g' => octet.is_ascii_graphic(),
        b'l' => octet.is_ascii_lowercase(),
        b'p' => octet.is_ascii_punctuation(),
        b's' => octet.is_ascii_whitespace() || octet == 0x0b,
        b'u' => octet.is_ascii_uppercase(),
        b'w' => octet.is_ascii_alphanumeric(),
        b'x' => octet.is_ascii_hexdigit(),
        _ => return class == octet,
    };
    is != class.is_ascii_uppercase()
}

impl Matcher<'_> {
    fn step(&mut self) -> Result<(), PatternError> {
        self.steps += 1;
        if self.steps > STEPS_MAX { Err(PatternError::TooManySteps) } else { Ok(()) }
    }

    fn finish(&self, start: usize, end: usize) -> Match {
        let explicit = !self.captures.is_empty();
        let captures = if explicit {
            let all = self.captures.iter().map(|&(at, length)| match length {
                Length::Open => Capture::Unfinished,
                Length::Position => Capture::Position(at + 1),
                Length::Closed(len) => Capture::Span(at, at + len),
            });
            all.collect()
        } else {
            vec![Capture::Span(start, end)]
        };
        Match { start, end, captures, explicit }
    }

    /// Where the single-character class at `p` ends.
    fn class_end(&self, p: usize) -> Result<usize, PatternError> {
        let pattern = self.pattern;
        match pattern[p] {
            b'%' if p + 1 >= pattern.len() => Err(PatternError::Malformed("ends with '%'")),
            b'%' => Ok(p + 2),
            b'[' => {
                let mut at = p + 1;
                if pattern.get(at) == Some(&b'^') {
                    at += 1;
                }
                // A `]` in the first place stands for itself.
                let mut first = true;
                loop {
                    match pattern.get(at) {
                        None => return Err(PatternError::Malformed("missing ']'")),
                        Some(b']') if !first => return Ok(at + 1),
                        Some(b'%') if at + 1 >= pattern.len() => {
                            return Err(PatternError::Malformed("missing ']'"));
                        }
                        Some(b'%') => at += 2,
                        Some(_) => at += 1,
                    }
                    first = false;
                }
            }
            _ => Ok(p + 1),
        }
    }

    /// True if `octet` is in the set from `p`, a `[`, to `end`, behind its `]`.
    fn is_in_set(&self, octet: u8, p: usize, end: usize) -> bool {
        let pattern = self.pattern;
        let last = end - 1;
        let mut at = p + 1;
        let negated = pattern[at] == b'^';
        if negated {
            at += 1;
        }
        while at < last {
            if pattern[at] == b'%' && at + 1 < last {
                if is_class(octet, pattern[at + 1]) {
                    return !negated;
                }
                at += 2;
            } else if at + 2 < last && pattern[at + 1] == b'-' {
                if (pattern[at]..=pattern[at + 2]).contains(&octet) {
                    return !negated;
                }
                at += 3;
            } else {
                if pattern[at] == octet {
                    return !negated;
                }
                at += 1;
            }
        }
        negated
    }

    /// True if the octet at `s` is of the single class from `p` to `end`.
    fn is_single(&self, s: usize, p: usize, end: usize) -> bool {
        let Some(&octet) = self.text.get(s) else { return false };
        match self.pattern[p] {
            b'.' => true,
            b'%' => is_class(octet, self.pattern[p + 1]),
            b'[' => self.is_in_set(octet, p, end),
            exact => exact == octet,
        }
    }

    fn go(&mut self, s: usize, p: usize) -> Found {
        if self.depth >= DEPTH_MAX {
            return Err(PatternError::TooComplex);
        }
        self.depth += 1;
        let found = self.go_on(s, p);
        self.depth -= 1;
        found
    }

    fn go_on(&mut self, mut s: usize, mut p: usize) -> Found {
        loop {
            self.step()?;
            let Some(&head) = self.pattern.get(p) else { return Ok(Some(s)) };
            let next = self.pattern.get(p + 1).copied();
            match head {
                b'(' if next == Some(b')') => return self.open(s, p + 2, Length::Position),
                b'(' => return self.open(s, p + 1, Length::Open),
                b')' => return self.close(s, p + 1),
                b'$' if next.is_none() => return Ok((s == self.text.len()).then_some(s)),
                b'%' if next == Some(b'b') => match self.balanced(s, p + 2)? {
                    Some(after) => (s, p) = (after, p + 4),
                    None => return Ok(None),
                },
                b'%' if next == Some(b'f') => {
                    let p_set = p + 2;
                    if self.pattern.get(p_set) != Some(&b'[') {
                        return Err(PatternError::Malformed("missing '[' after '%f'"));
                    }
                    let end = self.class_end(p_set)?;
                    let before = s.checked_sub(1).map_or(0, |at| self.text[at]);
                    let here = self.text.get(s).copied().unwrap_or(0);
                    if self.is_in_set(before, p_set, end) || !self.is_in_set(here, p_set, end) {
                        return Ok(None);
                    }
                    p = end;
                }
                b'%' if next.is_some_and(|octet| octet.is_ascii_digit()) => {
                    match self.again(s, next.unwrap_or(b'0'))? {
                        Some(after) => (s, p) = (after, p + 2),
                        None => return Ok(None),
                    }
                }
                _ => {
                    let end = self.class_end(p)?;
                    let single = self.is_single(s, p, end);
                    match self.pattern.get(end) {
                        Some(b'?') => {
                            if single && let Some(found) = self.go(s + 1, end + 1)? {
                                return Ok(Some(found));
                            }
                            p = end + 1;
                        }
                        Some(b'*') => return self.most(s, p, end),
                        Some(b'+') if single => return self.most(s + 1, p, end),
                        Some(b'-') => return self.least(s, p, end),
                        _ if single => (s, p) = (s + 1, end),
                        _ => return Ok(None),
                    }
                }
            }
        }
    }

    /// As many as there are, then fewer.
    fn most(&mut self, s: usize, p: usize, end: usize) -> Found {
        let mut count = 0;
        while self.is_single(s + count, p, end) {
            self.step()?;
            count += 1;
        }
        loop {
            if let Some(found) = self.go(s + count, end + 1)? {
                return Ok(Some(found));
            }
            match count.checked_sub(1) {
                Some(fewer) => count = fewer,
                None => return Ok(None),
            }
        }
    }

    /// As few as will do.
    fn least(&mut self, mut s: usize, p: usize, end: usize) -> Found {
        loop {
            if let Some(found) = self.go(s, end + 1)? {
                return Ok(Some(found));
            }
            if !self.is_single(s, p, end) {
                return Ok(None);
            }
            self.step()?;
            s += 1;
        }
    }

    fn open(&mut self, s: usize, p: usize, length: Length) -> Found {
        if self.captures.len() >= CAPTURES_MAX {
            return Err(PatternError::Malformed("too many captures"));
        }
        let before = self.captures.len();
        self.captures.push((s, length));
        let found = self.go(s, p)?;
        if found.is_none() {
            self.captures.truncate(before);
        }
        Ok(found)
    }

    fn close(&mut self, s: usize, p: usize) -> Found {
        let open = self.captures.iter().rposition(|(_, length)| matches!(length, Length::Open));
        let Some(at) = open else { return Err(PatternError::Malformed("invalid pattern capture")) };
        self.captures[at].1 = Length::Closed(s - self.captures[at].0);
        let found = self.go(s, p)?;
        if found.is_none() {
            self.captures[at].1 = Length::Open;
        }
        Ok(found)
    }

    /// `%bxy`.
    fn balanced(&mut self, s: usize, p: usize) -> Found {
        let (Some(&open), Some(&close)) = (self.pattern.get(p), self.pattern.get(p + 1)) else {
            return Err(PatternError::Malformed("missing arguments to '%b'"));
        };
        if self.text.get(s) != Some(&open) {
            return Ok(None);
        }
        let mut depth = 1;
        for at in s + 1..self.text.len() {
            self.step()?;
            let octet = self.text[at];
            if octet == close {
                depth -= 1;
                if depth == 0 {
                    return Ok(Some(at + 1));
                }
            } else if octet == open {
                depth += 1;
            }
        }
        Ok(None)
    }

    /// `%1`: what a capture holds, once more.
    fn again(&mut self, s: usize, digit: u8) -> Found {
        let capture = usize::from(digit).checked_sub(usize::from(b'1')).and_then(|n| self.captures.get(n));
        let Some(&(at, Length::Closed(len))) = capture else {
            return Err(PatternError::Malformed("invalid capture index"));
        };
        self.steps += len as u64;
        Ok(self.text[s..].starts_with(&self.text[at..at + len]).then_some(s + len))
    }
}
