//! What an operator calls a message by: whose it is, which mailing it belongs to, how it shall leave.

use std::fmt;
use std::str::FromStr;

/// Octets of the text of one tag at most.
pub const TAG_MAX_OCTETS: usize = 255;

/// What a message is filed under, besides its envelope. None of it comes from the message's authors unless an
/// operator lets their header fields say so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tags {
    /// Whose mail it is: limits and records are kept by tenant.
    pub tenant: Option<Box<str>>,
    /// The mailing it belongs to, as its sender calls it.
    pub campaign: Option<Box<str>>,
    /// The run of that mailing: what can be paused or cancelled as one.
    pub job: Option<Box<str>>,
    /// The sender's own name for this one message. Not ENVID of MAIL, which is the envelope's.
    pub envid: Option<Box<str>>,
    /// The pool of egress sources it shall leave by.
    pub pool: Option<Box<str>>,
    /// What goes first.
    pub priority: Priority,
}

impl Tags {
    /// True if nothing was said of the message.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a text is no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagError {
    /// Nothing is left of it without the blanks around it.
    Empty,
    /// It has more than [`TAG_MAX_OCTETS`] octets.
    TooLong,
    /// It holds a control character or the end of a line, which would break logs and records.
    Control,
}

impl fmt::Display for TagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong => write!(f, "it has more than {TAG_MAX_OCTETS} octets"),
            Self::Control => f.write_str("it holds a control character"),
        }
    }
}

impl std::error::Error for TagError {}

/// The text of a tag: blanks around it taken off, and refused if it is empty, long or not printable.
pub fn tag(text: &str) -> Result<Box<str>, TagError> {
    let text = text.trim();
    if text.is_empty() {
        Err(TagError::Empty)
    } else if text.len() > TAG_MAX_OCTETS {
        Err(TagError::TooLong)
    } else if text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        Err(TagError::Control)
    } else {
        Ok(text.into())
    }
}

/// What goes first among the mail of one destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits for it: a sign-in code, a password.
    High,
    /// Mail as people and programs send it.
    #[default]
    Normal,
    /// May wait behind others.
    Low,
    /// One of very many.
    Bulk,
}

impl Priority {
    /// All, the most urgent first.
    pub const ALL: [Self; 4] = [Self::High, Self::Normal, Self::Low, Self::Bulk];

    /// Its place among them: 0 is the most urgent, 3 the least.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// From its place; `None` above 3.
    pub const fn from_u8(place: u8) -> Option<Self> {
        match place {
            0 => Some(Self::High),
            1 => Some(Self::Normal),
            2 => Some(Self::Low),
            3 => Some(Self::Bulk),
            _ => None,
        }
    }

    /// The word in settings, header fields and records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
            Self::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Priority {
    type Err = ();

    /// Reads the word, in any case.
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|priority| priority.as_str().eq_ignore_ascii_case(text)).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_short_and_printable() {
        assert_eq!(tag(" spring sale \t").as_deref(), Ok("spring sale"));
        assert_eq!(tag("b\u{fc}cher").as_deref(), Ok("b\u{fc}cher"));
        assert_eq!(tag(" \r\n"), Err(TagError::Empty));
        assert_eq!(tag(&"x".repeat(255)).map(|tag| tag.len()), Ok(255));
        assert_eq!(tag(&"x".repeat(256)), Err(TagError::TooLong));
        for text in ["a\0b", "a\r\nb", "a\u{7f}", "a\u{85}b", "a\u{2028}b", "\u{1b}[2J"] {
            assert_eq!(tag(text), Err(TagError::Control), "{text:?}");
        }
    }

    #[test]
    fn priorities_have_words_and_places() {
        for (place, priority) in Priority::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(priority.as_u8()), place);
            assert_eq!(Priority::from_u8(priority.as_u8()), Some(priority));
            assert_eq!(priority.as_str().to_uppercase().parse(), Ok(priority));
        }
        assert_eq!(Priority::from_u8(4), None);
        assert_eq!("50".parse::<Priority>(), Err(()));
        assert!(Tags::default().is_empty());
        assert!(!Tags { priority: Priority::Bulk, ..Tags::default() }.is_empty());
    }
}
