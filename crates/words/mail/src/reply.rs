//! Replies: what one side of a session says back (RFC 5321 §4.2).

use crate::EnhancedStatusCode;
use std::borrow::Cow;
use std::fmt;

/// A three-digit reply code, 200 to 599. RFC 5321 §4.2 knows second digits up to 5; receivers answer 460 and 571, and
/// their first digit means what it always does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyCode(u16);

/// What the first digit says (RFC 5321 §4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyClass {
    /// 2yz: done.
    Completed,
    /// 3yz: go on.
    Intermediate,
    /// 4yz: not now.
    Transient,
    /// 5yz: not at all.
    Permanent,
}

impl ReplyCode {
    /// A code, if it is within 200 to 599.
    pub const fn new(code: u16) -> Option<Self> {
        if code >= 200 && code < 600 { Some(Self(code)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// What the first digit says.
    pub const fn class(self) -> ReplyClass {
        match self.0 / 100 {
            2 => ReplyClass::Completed,
            3 => ReplyClass::Intermediate,
            4 => ReplyClass::Transient,
            _ => ReplyClass::Permanent,
        }
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.0)
    }
}

impl fmt::Debug for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A reply: code, enhanced status code where there is one, and text.
///
/// The text of a reply with several lines holds them with `\n` between; it never holds `\r`, and what came
/// from a peer has its control characters replaced before it gets here.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: ReplyCode,
    /// `x.y.z`, when given.
    pub enhanced: Option<EnhancedStatusCode>,
    /// The text without either code.
    pub text: Cow<'static, str>,
}

impl Reply {
    /// A reply of ours: `Reply::new(550, (5, 7, 1), "relaying denied")`.
    ///
    /// # Panics
    /// On a code outside 200 to 599, or an enhanced class that differs from the code's: our mistake.
    pub fn new(code: u16, enhanced: (u8, u16, u16), text: impl Into<Cow<'static, str>>) -> Self {
        let enhanced = EnhancedStatusCode::new(enhanced.0, enhanced.1, enhanced.2);
        assert!(u16::from(enhanced.class()) == code / 100, "enhanced class differs from reply class");
        Self { enhanced: Some(enhanced), ..Self::bare(code, text) }
    }

    /// A reply without an enhanced status code (RFC 2034 §4: greeting, HELO, 3yz).
    ///
    /// # Panics
    /// On a code outside 200 to 599: our mistake.
    pub fn bare(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        let code = ReplyCode::new(code).expect("a reply code of ours is within 200 to 599");
        Self { code, enhanced: None, text: text.into() }
    }

    /// What the first digit says.
    pub fn class(&self) -> ReplyClass {
        self.code.class()
    }

    /// 2yz.
    pub fn is_completed(&self) -> bool {
        self.class() == ReplyClass::Completed
    }

    /// 4yz.
    pub fn is_transient(&self) -> bool {
        self.class() == ReplyClass::Transient
    }

    /// 5yz.
    pub fn is_permanent(&self) -> bool {
        self.class() == ReplyClass::Permanent
    }
}

/// One line, as in logs and accounting: `550 5.7.1 relaying denied`; line breaks become `; `.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for (n, line) in self.text.split('\n').enumerate() {
            write!(f, "{}{line}", if n == 0 { " " } else { "; " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
