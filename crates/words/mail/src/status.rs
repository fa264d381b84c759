//! Enhanced status codes (RFC 3463, RFC 2034).

use std::fmt;

/// `class.subject.detail`, for example `5.1.1`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnhancedStatusCode {
    class: u8,
    subject: u16,
    detail: u16,
}

impl EnhancedStatusCode {
    /// A code written in our own source: class 2, 4 or 5, the rest below 1,000.
    ///
    /// # Panics
    /// On any other number, which is our mistake; use [`EnhancedStatusCode::parse`] for outside text.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        assert!(matches!(class, 2 | 4 | 5) && subject < 1000 && detail < 1000);
        Self { class, subject, detail }
    }

    /// Reads `2.1.5` and the like from the head of a reply text; `None` if no code stands there.
    pub fn parse(text: &str) -> Option<Self> {
        let word = text.split([' ', '\t']).next()?;
        let mut parts = word.split('.');
        let class = match parts.next()? {
            "2" => 2,
            "4" => 4,
            "5" => 5,
            _ => return None,
        };
        let mut number = || {
            let part = parts.next()?;
            if part.is_empty() || part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            part.parse::<u16>().ok()
        };
        let (subject, detail) = (number()?, number()?);
        parts.next().is_none().then_some(Self { class, subject, detail })
    }

    /// 2, 4 or 5.
    pub const fn class(self) -> u8 {
        self.class
    }

    /// The second number (RFC 3463 §2: 0 other, 1 addressing, 2 mailbox, 3 system, 4 network, 5 protocol,
    /// 6 content, 7 security).
    pub const fn subject(self) -> u16 {
        self.subject
    }

    /// The third number.
    pub const fn detail(self) -> u16 {
        self.detail
    }
}

impl fmt::Display for EnhancedStatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl fmt::Debug for EnhancedStatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_from_reply_texts() {
        assert_eq!(EnhancedStatusCode::parse("5.1.10 null MX"), Some(EnhancedStatusCode::new(5, 1, 10)));
        for text in ["", "5.1", "5.1.1.1 x", "3.1.1", "5.1.1000", "5..1", "ok", "2.0.0;x"] {
            assert_eq!(EnhancedStatusCode::parse(text), None, "{text}");
        }
    }
}
