//! The name of a header field (RFC 5322 §2.2).

use std::fmt;
use std::str::FromStr;

/// The name of a header field: 1 to 76 printable octets of ASCII without a colon. Written as it was given, compared
/// without regard to case.
#[derive(Clone, Debug)]
pub struct FieldName(Box<str>);

/// Octets of a field name taken. RFC 5322 sets no bound but that of a line; real ones have fewer than 40.
const NAME_MAX_OCTETS: usize = 76;

/// A text is no name of a header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldNameError;

impl fmt::Display for FieldNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a field name has 1 to {NAME_MAX_OCTETS} letters, digits and hyphens, and no colon")
    }
}

impl std::error::Error for FieldNameError {}

impl FieldName {
    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FieldName {
    type Err = FieldNameError;

    fn from_str(text: &str) -> Result<Self, FieldNameError> {
        let sound = (1..=NAME_MAX_OCTETS).contains(&text.len())
            && text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b':');
        if sound { Ok(Self(text.into())) } else { Err(FieldNameError) }
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq for FieldName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for FieldName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_of_ascii() {
        let name = |text: &str| text.parse::<FieldName>();
        assert_eq!(name("X-Job").unwrap(), name("x-jOB").unwrap());
        assert_eq!(name("X-Job").unwrap().to_string(), "X-Job");
        for text in ["", "x job", "x-job:", "x\tjob", "b\u{fc}ro", "x\r\n", &"x".repeat(77)] {
            assert_eq!(name(text), Err(FieldNameError), "{text:?}");
        }
    }
}
