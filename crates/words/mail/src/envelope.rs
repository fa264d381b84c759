//! The envelope: who sent a message and who shall get it, never header fields (RFC 5321 §2.3.1).

use crate::{Host, Mailbox};
use std::fmt;

/// Where failure is reported (RFC 5321 §3.3, §4.5.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: never answered with a bounce.
    Null,
    /// A mailbox.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// The mailbox, if there is one.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Null => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// The text between the angle brackets; empty for the null path.
    pub fn as_str(&self) -> &str {
        self.mailbox().map_or("", Mailbox::as_str)
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One recipient's mailbox as given in RCPT (RFC 5321 §3.3).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ForwardPath(pub Mailbox);

impl ForwardPath {
    /// The text between the angle brackets.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Where it goes.
    pub fn host(&self) -> &Host {
        self.0.host()
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// When a recipient's fate shall be reported (RFC 3461 §4.1). `Notify::default()` means NOTIFY was absent:
/// report failure, and delay if the server cares to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Notify(u8);

impl Notify {
    /// NOTIFY was absent.
    pub const ABSENT: Self = Self(0);
    /// `NOTIFY=NEVER`.
    pub const NEVER: Self = Self(1);
    /// `NOTIFY=SUCCESS`; combines with the two below by [`Notify::with`].
    pub const SUCCESS: Self = Self(2);
    /// `NOTIFY=FAILURE`.
    pub const FAILURE: Self = Self(4);
    /// `NOTIFY=DELAY`.
    pub const DELAY: Self = Self(8);

    /// Both.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits, for the spool: NEVER 1, SUCCESS 2, FAILURE 4, DELAY 8, absent 0.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From the spool's bits; unknown bits, and NEVER together with others, give `None`.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits > 15 || (bits & 1 == 1 && bits != 1) { None } else { Some(Self(bits)) }
    }

    /// True if success is to be reported.
    pub const fn on_success(self) -> bool {
        self.0 & 2 != 0
    }

    /// True if failure is to be reported; so it is when NOTIFY was absent.
    pub const fn on_failure(self) -> bool {
        self.0 == 0 || self.0 & 4 != 0
    }

    /// True if delay is to be reported; so it may be when NOTIFY was absent.
    pub const fn on_delay(self) -> bool {
        self.0 == 0 || self.0 & 8 != 0
    }

    /// True if NOTIFY was absent.
    pub const fn is_absent(self) -> bool {
        self.0 == 0
    }
}

/// `NEVER`, or a comma-separated list, as RFC 3461 §4.1 writes it; empty when absent.
impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (bit, word) in [(1, "NEVER"), (2, "SUCCESS"), (4, "FAILURE"), (8, "DELAY")] {
            if self.0 & bit != 0 {
                write!(f, "{}{word}", if first { "" } else { "," })?;
                first = false;
            }
        }
        Ok(())
    }
}

/// A forward-path with its DSN parameters (RFC 3461).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recipient {
    /// Where the message goes.
    pub path: ForwardPath,
    /// NOTIFY.
    pub notify: Notify,
    /// ORCPT: `addr-type;xtext`, still encoded, as it was given (RFC 3461 §4.2).
    pub orcpt: Option<Box<str>>,
}

impl Recipient {
    /// A recipient without DSN parameters.
    pub fn new(mailbox: Mailbox) -> Self {
        Self { path: ForwardPath(mailbox), notify: Notify::ABSENT, orcpt: None }
    }
}

/// How much of the message a failure report returns (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ret {
    /// `RET=FULL`.
    Full,
    /// `RET=HDRS`.
    Headers,
}

/// What kind of octets the content holds (RFC 6152, RFC 3030 §3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BodyType {
    /// `BODY=7BIT`, or BODY absent.
    #[default]
    SevenBit,
    /// `BODY=8BITMIME`.
    EightBitMime,
    /// `BODY=BINARYMIME`: lines may be of any length, and CR and LF need not pair.
    BinaryMime,
}

/// Who sent a message, who shall get it, and what was asked of us in MAIL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Where failure is reported.
    pub reverse_path: ReversePath,
    /// Who shall get it, in the order of the RCPT commands. The spool keeps this order: a recipient's
    /// index is its name in every later record.
    pub recipients: Vec<Recipient>,
    /// BODY.
    pub body: BodyType,
    /// SMTPUTF8 was given (RFC 6531 §3.4).
    pub smtputf8: bool,
    /// REQUIRETLS was given (RFC 8689 §2).
    pub require_tls: bool,
    /// RET.
    pub ret: Option<Ret>,
    /// ENVID, still xtext-encoded, as it was given (RFC 3461 §4.4).
    pub envid: Option<Box<str>>,
}

impl Envelope {
    /// An envelope without parameters.
    pub fn new(reverse_path: ReversePath, recipients: Vec<Recipient>) -> Self {
        Self {
            reverse_path,
            recipients,
            body: BodyType::SevenBit,
            smtputf8: false,
            require_tls: false,
            ret: None,
            envid: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notify_words() {
        assert_eq!(Notify::SUCCESS.with(Notify::DELAY).to_string(), "SUCCESS,DELAY");
        assert!(Notify::ABSENT.on_failure() && !Notify::NEVER.on_failure() && !Notify::DELAY.on_failure());
        assert_eq!(Notify::from_bits(3), None);
        assert_eq!(Notify::from_bits(14), Some(Notify::SUCCESS.with(Notify::FAILURE).with(Notify::DELAY)));
    }
}
