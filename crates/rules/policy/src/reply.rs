//! Replies that others make for us: checked before they are ours.

use mail::{EnhancedStatusCode, Reply, ReplyClass, ReplyCode};
use std::fmt;

/// Octets of the text of a reply that a policy gives. RFC 5321 §4.5.3.1.5 allows 512 for a line with its code; several
/// lines are allowed, and bounded by this.
const TEXT_MAX_OCTETS: usize = 2_000;
/// Octets of one line of it.
const LINE_MAX_OCTETS: usize = 480;

/// Why a reply cannot be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// The code is not one that refuses: 400 to 599.
    Code,
    /// The enhanced status code is none, or of another class than the code.
    Status,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Code => "the code of a refusal is within 400 to 599",
            Self::Status => "the enhanced status code is not x.y.z with the first digit of the code",
        })
    }
}

impl std::error::Error for ReplyError {}

/// A refusal made of what somebody else gave. Its text is made fit for the wire; an absent status is general.
pub fn reply(code: u16, status: Option<&str>, given: &str) -> Result<Reply, ReplyError> {
    let code = ReplyCode::new(code).ok_or(ReplyError::Code)?;
    let class = match code.class() {
        ReplyClass::Transient => 4,
        ReplyClass::Permanent => 5,
        ReplyClass::Completed | ReplyClass::Intermediate => return Err(ReplyError::Code),
    };
    let enhanced = match status {
        Some(status) => EnhancedStatusCode::parse(status).ok_or(ReplyError::Status)?,
        None => EnhancedStatusCode::new(class, 7, 1),
    };
    if enhanced.class() != class {
        return Err(ReplyError::Status);
    }
    Ok(Reply { code, enhanced: Some(enhanced), text: text(given).into() })
}

/// A text fit for a reply: printable, its lines and itself within bounds. Line ends become breaks between lines of the
/// reply; other control characters become blanks, so that nobody can put a second reply into ours.
pub fn text(given: &str) -> String {
    let mut out = String::with_capacity(given.len().min(TEXT_MAX_OCTETS));
    for line in given.lines() {
        let line = line.trim_end();
        if line.is_empty() {
            continue;
        }
        let room = TEXT_MAX_OCTETS.saturating_sub(out.len());
        if room < LINE_MAX_OCTETS {
            break;
        }
        if !out.is_empty() {
            out.push('\n');
        }
        let cut = line.floor_char_boundary(LINE_MAX_OCTETS);
        out.extend(line[..cut].chars().map(|c| if c.is_control() { ' ' } else { c }));
        out.truncate(out.trim_end().len());
    }
    out
}

/// What a client is told when a policy could not answer. The reason is for the log.
pub fn failure() -> Reply {
    Reply::new(451, (4, 3, 0), "a local rule could not be applied, try again later")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_of_others_are_checked() {
        let said = |code, status, text| reply(code, status, text).map(|reply| reply.to_string());
        assert_eq!(said(550, Some("5.7.1"), "no"), Ok("550 5.7.1 no".into()));
        assert_eq!(said(451, None, "later"), Ok("451 4.7.1 later".into()));
        assert_eq!(said(554, None, "a\r\nb\n\nc"), Ok("554 5.7.1 a; b; c".into()));
        assert_eq!(said(554, None, "a\rQUIT\0\u{7}"), Ok("554 5.7.1 a QUIT".into()));
        for code in [0, 99, 200, 250, 354, 399, 600, 65_535] {
            assert_eq!(said(code, None, "x"), Err(ReplyError::Code), "{code}");
        }
        for status in ["4.7.1", "5.7", "5", "", "5.7.1.2", "x.y.z", "2.0.0"] {
            assert_eq!(said(550, Some(status), "x"), Err(ReplyError::Status), "{status}");
        }
        let long = reply(550, None, &"\u{e9}".repeat(10_000)).unwrap();
        assert!(long.text.len() <= LINE_MAX_OCTETS, "cut between characters");
        let lines = reply(550, None, &"x\n".repeat(100_000)).unwrap();
        assert!(lines.text.len() <= TEXT_MAX_OCTETS);
    }
}
