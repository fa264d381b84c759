//! Patterns of enhanced status codes, and the class of a code by itself.

use std::fmt;
use std::str::FromStr;

use mail::{BounceClass, EnhancedStatusCode};

/// An enhanced status code of which parts may be any: `5.1.1`, `5.1.*`, `*.2.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusPattern {
    class: Option<u8>,
    subject: Option<u16>,
    detail: Option<u16>,
}

/// Not a pattern of enhanced status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusPatternError;

impl fmt::Display for StatusPatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it must be three numbers with dots between, such as 5.1.1; a `*` stands for any")
    }
}

impl std::error::Error for StatusPatternError {}

/// A number of up to three digits, or any.
fn part(text: &str) -> Result<Option<u16>, StatusPatternError> {
    if text == "*" {
        return Ok(None);
    }
    let digits = !text.is_empty() && text.len() <= 3 && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().map(Some).map_err(|_| StatusPatternError) } else { Err(StatusPatternError) }
}

impl FromStr for StatusPattern {
    type Err = StatusPatternError;

    fn from_str(text: &str) -> Result<Self, StatusPatternError> {
        let mut parts = text.split('.');
        let (Some(class), Some(subject), Some(detail), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(StatusPatternError);
        };
        let class = match part(class)? {
            None => None,
            Some(class @ (4 | 5)) => Some(class as u8),
            Some(_) => return Err(StatusPatternError),
        };
        Ok(Self { class, subject: part(subject)?, detail: part(detail)? })
    }
}

impl fmt::Display for StatusPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |part: Option<u16>| part.map_or_else(|| "*".to_owned(), |part| part.to_string());
        write!(f, "{}.{}.{}", shown(self.class.map(u16::from)), shown(self.subject), shown(self.detail))
    }
}

impl StatusPattern {
    /// True if the code is one of those it stands for.
    pub fn matches(&self, code: EnhancedStatusCode) -> bool {
        self.class.is_none_or(|class| class == code.class())
            && self.subject.is_none_or(|subject| subject == code.subject())
            && self.detail.is_none_or(|detail| detail == code.detail())
    }
}

/// The class of a code alone (RFC 3463, RFC 5248 and the registry it opens). `None` for codes that say nothing.
pub fn class_of(code: EnhancedStatusCode) -> Option<BounceClass> {
    use BounceClass as C;
    let permanent = code.class() == 5;
    Some(match (code.subject(), code.detail()) {
        (1, 1 | 3 | 4) => C::BadMailbox,
        (1, 6) => C::InactiveMailbox,
        (1, 2 | 10) => C::BadDomain,
        (1, 7 | 8) => C::InvalidSender,
        (1, 9) => C::RoutingErrors,
        (1, 0 | 5) if permanent => C::BadMailbox,
        (2, 1) => C::InactiveMailbox,
        (2, 2) => C::QuotaIssues,
        (2, 3) => C::ContentRelated,
        (2, 4) => C::BadMailbox,
        (3, 3) => C::ProtocolErrors,
        (3, 4) => C::ContentRelated,
        (3, 5) => C::BadConfiguration,
        (3, 6) => C::ContentRelated,
        (3, _) if !permanent => C::TransientFailure,
        (4, 0 | 1) => C::NoAnswerFromHost,
        (4, 2) => C::BadConnection,
        (4, 3) => C::DnsFailure,
        (4, 4 | 6) => C::RoutingErrors,
        (4, 5) => C::TransientFailure,
        (4, 7) => C::MessageExpired,
        (5, 3) => C::TooManyRecipients,
        (5, _) => C::ProtocolErrors,
        (6, _) => C::ContentRelated,
        (7, 4 | 10 | 11) => C::PolicyRelated,
        (7, 5 | 6 | 7 | 8 | 9 | 20..=24 | 26..=27 | 29 | 30..=32) => C::AuthenticationFailed,
        (7, 13) => C::InactiveMailbox,
        (7, 17 | 18) => C::InactiveMailbox,
        (7, 25) => C::DnsFailure,
        (7, 28) => C::RateLimited,
        (7, _) if permanent => C::PolicyRelated,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_and_match() {
        let code = |text: &str| EnhancedStatusCode::parse(text).unwrap();
        for (pattern, text, expected) in [
            ("5.1.1", "5.1.1", true),
            ("5.1.1", "5.1.10", false),
            ("5.1.*", "5.1.10", true),
            ("*.2.2", "4.2.2", true),
            ("*.*.*", "4.7.28", true),
            ("4.*.*", "5.7.28", false),
        ] {
            let read: StatusPattern = pattern.parse().unwrap();
            assert_eq!(read.to_string(), pattern);
            assert_eq!(read.matches(code(text)), expected, "{pattern} {text}");
        }
        for wrong in ["", "5", "5.1", "5.1.1.1", "2.1.1", "x.1.1", "5.1.+1", "5.1.1000", "5. 1.1", "5.1."] {
            assert_eq!(wrong.parse::<StatusPattern>(), Err(StatusPatternError), "{wrong}");
        }
    }
}
