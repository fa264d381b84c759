//! Lists of tags, `v=1; a=rsa-sha256; …`: the form of signatures and of key records (RFC 6376 §3.2).

use std::fmt;

/// A list of tags over a text that is kept elsewhere. Values have no blanks around them; folding within them is theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagList<'a> {
    tags: Vec<(&'a str, &'a str)>,
}

/// Why a text is no list of tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagListError {
    /// It is not UTF-8, or holds a control character.
    Octets,
    /// A tag has no `=`, or a name that is none.
    Syntax,
    /// A tag stands there twice.
    Twice,
    /// There are more than the limit.
    TooMany,
}

impl fmt::Display for TagListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Octets => "octets that no tag may hold",
            Self::Syntax => "not a list of tags",
            Self::Twice => "a tag stands there twice",
            Self::TooMany => "too many tags",
        })
    }
}

impl std::error::Error for TagListError {}

/// Blanks and line ends of folding.
pub(crate) const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

impl<'a> TagList<'a> {
    /// Reads a list of at most `tags_max` tags.
    pub fn parse(text: &'a [u8], tags_max: usize) -> Result<Self, TagListError> {
        let text = std::str::from_utf8(text).map_err(|_| TagListError::Octets)?;
        if text.chars().any(|c| c.is_control() && !BLANKS.contains(&c)) {
            return Err(TagListError::Octets);
        }
        let mut tags: Vec<(&str, &str)> = Vec::with_capacity(12);
        let mut rest = Some(text);
        while let Some(text) = rest {
            let (tag, after) = match text.split_once(';') {
                Some((tag, after)) => (tag, Some(after)),
                None => (text, None),
            };
            rest = after;
            if after.is_none() && tag.trim_matches(BLANKS).is_empty() && !tags.is_empty() {
                // The list may end with a semicolon.
                break;
            }
            let (name, value) = tag.split_once('=').ok_or(TagListError::Syntax)?;
            let (name, value) = (name.trim_matches(BLANKS), value.trim_matches(BLANKS));
            let mut octets = name.bytes();
            if !octets.next().is_some_and(|b| b.is_ascii_alphabetic())
                || !octets.all(|b| b.is_ascii_alphanumeric() || b == b'_')
            {
                return Err(TagListError::Syntax);
            }
            if tags.len() == tags_max {
                return Err(TagListError::TooMany);
            }
            // Names are told apart by case (RFC 6376 §3.2). The list is short: looking through it is quickest.
            if tags.iter().any(|(known, _)| *known == name) {
                return Err(TagListError::Twice);
            }
            tags.push((name, value));
        }
        Ok(Self { tags })
    }

    /// The value of a tag, if it is there; it may be empty.
    pub fn value(&self, name: &str) -> Option<&'a str> {
        self.tags.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// The first tag and its value.
    pub fn first(&self) -> Option<(&'a str, &'a str)> {
        self.tags.first().copied()
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.tags.iter().copied()
    }
}

/// A value without the blanks and folding within it: for domains, words and lists.
pub(crate) fn without_blanks(value: &str) -> String {
    value.split(BLANKS).collect()
}

/// The items of a list with colons between.
pub(crate) fn items(value: &str) -> impl Iterator<Item = &str> {
    value.split(':').map(|item| item.trim_matches(BLANKS))
}

/// A number of at most 19 digits, so that it cannot overflow.
pub(crate) fn number(value: &str) -> Option<u64> {
    let fits = (1..=19).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    if fits { value.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<Vec<(String, String)>, TagListError> {
        let list = TagList::parse(text.as_bytes(), 4)?;
        Ok(list.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn lists() {
        let pairs = |list: &[(&str, &str)]| {
            Ok(list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>())
        };
        assert_eq!(list("a=1"), pairs(&[("a", "1")]));
        assert_eq!(list(" a = 1 ;\r\n\tb2_c=x y\r\n z ; "), pairs(&[("a", "1"), ("b2_c", "x y\r\n z")]));
        assert_eq!(list("a=;A=b=c"), pairs(&[("a", ""), ("A", "b=c")]));
        assert_eq!(list(""), Err(TagListError::Syntax));
        for text in [";", "a", "a=1;;b=2", "=1", "1a=2", "a-b=1", "a=1; b", "\u{e9}=1"] {
            assert_eq!(list(text), Err(TagListError::Syntax), "{text:?}");
        }
        assert_eq!(list("a=1;a=1"), Err(TagListError::Twice));
        assert_eq!(list("a=1;b=1;c=1;d=1;"), pairs(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]));
        assert_eq!(list("a=1;b=1;c=1;d=1;e=1"), Err(TagListError::TooMany));
        assert_eq!(list("a=\0"), Err(TagListError::Octets));
        assert_eq!(TagList::parse(b"a=\xff", 4), Err(TagListError::Octets));
    }

    #[test]
    fn numbers() {
        assert_eq!([number("0"), number("1117574938")], [Some(0), Some(1_117_574_938)]);
        for text in ["", "-1", "+1", "1 2", "1.0", "99999999999999999999", "\u{661}"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
