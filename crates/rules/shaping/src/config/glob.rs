//! Name patterns: `gmail.com`, `*.google.com`, `mx*.example.net`.

use std::fmt;
use std::str::FromStr;

/// Longest pattern, in octets.
const PATTERN_MAX: usize = 255;

/// A name or a pattern for names; `*` stands for any run of characters, dots included. Case does not matter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamePattern(String);

/// A text that is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamePatternError;

impl fmt::Display for NamePatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name pattern has 1 to 255 characters without spaces, and `*` for any of them")
    }
}

impl std::error::Error for NamePatternError {}

impl FromStr for NamePattern {
    type Err = NamePatternError;

    fn from_str(text: &str) -> Result<Self, NamePatternError> {
        let bad = |c: char| c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > PATTERN_MAX || text.contains(bad) {
            return Err(NamePatternError);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl NamePattern {
    /// The pattern, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if it stands for one name only.
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// How many characters it fixes: of two patterns that match, the one with more is the more specific.
    pub fn weight(&self) -> usize {
        self.0.bytes().filter(|b| *b != b'*').count() + if self.is_exact() { PATTERN_MAX } else { 0 }
    }

    /// True if it stands for this name.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        // Where the last star was, and how much of the name it has taken so far.
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            if p < pattern.len() && pattern[p] == b'*' {
                star = Some((p, n));
                p += 1;
            } else if p < pattern.len() && pattern[p] == name[n].to_ascii_lowercase() {
                p += 1;
                n += 1;
            } else if let Some((at, taken)) = star {
                star = Some((at, taken + 1));
                p = at + 1;
                n = taken + 1;
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|b| *b == b'*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, name, expected) in [
            ("gmail.com", "GMAIL.com", true),
            ("gmail.com", "x.gmail.com", false),
            ("*.google.com", "alt1.smtp.google.com", true),
            ("*.google.com", "google.com", false),
            ("*.GOOGLE.com", "a.google.com.evil.example", false),
            ("mx*.example.net", "mx12.example.net", true),
            ("mx*.example.net", "mx.example.org", false),
            ("*", "", true),
            ("*", "anything", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("*aab", "aaaab", true),
        ] {
            assert_eq!(pattern.parse::<NamePattern>().unwrap().matches(name), expected, "{pattern} {name}");
        }
        for bad in ["", "a b", "a\n", &"x".repeat(256)] {
            assert_eq!(bad.parse::<NamePattern>(), Err(NamePatternError));
        }
    }

    #[test]
    fn an_exact_name_weighs_more_than_any_pattern() {
        let weight = |text: &str| text.parse::<NamePattern>().unwrap().weight();
        assert!(weight("a.b") > weight("*.long.example.com"));
        assert!(weight("*.mail.example.com") > weight("*.example.com"));
    }
}
