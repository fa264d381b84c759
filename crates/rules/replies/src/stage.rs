//! The stages of a session at which a reply may come.

settings::words! {
    /// Where in a session a reply came.
    pub enum Stage {
        /// The connection was not made; the text is the system's.
        Connect,
        /// The greeting.
        Greeting,
        /// EHLO or HELO.
        Ehlo,
        /// STARTTLS and the handshake.
        Starttls,
        /// AUTH.
        Auth,
        /// MAIL FROM.
        Mail,
        /// RCPT TO.
        Rcpt,
        /// DATA or BDAT, before the end of the content.
        Data,
        /// The reply to the whole content.
        End,
    }
}

/// The bit of a stage in a set of stages.
const fn bit(stage: Stage) -> u16 {
    1 << stage as u16
}

impl Stage {
    /// A set of stages as bits; an empty list is all of them.
    pub fn set(stages: &[Self]) -> u16 {
        let stages = if stages.is_empty() { Self::ALL } else { stages };
        stages.iter().fold(0, |set, stage| set | bit(*stage))
    }

    /// True if it is in a set.
    pub const fn is_in(self, set: u16) -> bool {
        set & bit(self) != 0
    }
}
