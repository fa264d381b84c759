//! The phases at which a policy may be asked.

use std::fmt;

/// A moment in a session at which a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// A client connected, and has not been greeted.
    Connect,
    /// HELO, EHLO or LHLO.
    Hello,
    /// AUTH succeeded.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT that the server's own rules allow.
    Rcpt,
    /// DATA, or the first BDAT.
    Data,
    /// The whole message is here.
    Message,
}

impl Phase {
    /// All, in the order of a session.
    pub const ALL: [Self; 7] =
        [Self::Connect, Self::Hello, Self::Auth, Self::Mail, Self::Rcpt, Self::Data, Self::Message];

    /// Its word, in scripts, requests and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Hello => "hello",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Message => "message",
        }
    }

    /// The phase of a word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.word() == word)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A set of phases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases(u8);

impl Phases {
    /// None.
    pub const NONE: Self = Self(0);
    /// Every one.
    pub const ALL: Self = Self(0x7f);

    /// These and that.
    #[must_use]
    pub const fn with(self, phase: Phase) -> Self {
        Self(self.0 | 1 << phase as u8)
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// True if it is among them.
    pub const fn has(self, phase: Phase) -> bool {
        self.0 & (1 << phase as u8) != 0
    }

    /// True if there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Phase> for Phases {
    fn from_iter<T: IntoIterator<Item = Phase>>(phases: T) -> Self {
        phases.into_iter().fold(Self::NONE, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_have_words_and_places() {
        assert_eq!(Phase::ALL.into_iter().collect::<Phases>(), Phases::ALL);
        for phase in Phase::ALL {
            assert_eq!(Phase::of_word(phase.word()), Some(phase));
            assert!(Phases::NONE.with(phase).has(phase) && !Phases::NONE.has(phase));
        }
        assert_eq!(Phase::of_word("Rcpt"), None);
        assert!(!Phases::NONE.with(Phase::Rcpt).has(Phase::Mail));
    }
}
