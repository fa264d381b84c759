//! What a key allows.

use mail::UnixMillis;
use std::fmt;
use std::str::FromStr;

/// What one may do. Each may what those before it may, but for sending: who only looks does not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Send messages and see what became of them.
    Sender,
    /// See everything.
    Viewer,
    /// See everything, send, and give orders: suspend, flush, release.
    Operator,
    /// Everything: keys, templates of all, reload.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sender, Self::Viewer, Self::Operator, Self::Admin];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// True if it may hand messages in.
    pub const fn may_send(self) -> bool {
        !matches!(self, Self::Viewer)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(())
    }
}

/// A key to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Whose mail it is limited to.
    pub tenant: Option<String>,
    /// The networks it may be used from, as text; none is all.
    pub networks: Vec<String>,
    /// The domains of From addresses, and of reverse-paths, it may send with; none is all.
    pub from_domains: Vec<String>,
    /// Requests a minute at most.
    pub requests_per_minute_max: Option<u32>,
    /// When it ends.
    pub expires_at: Option<UnixMillis>,
}

/// A key that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its public part, by which lists and logs call it.
    pub id: String,
    /// What it allows.
    pub new: NewKey,
    /// When it was made.
    pub created_at: UnixMillis,
    /// When it was taken back.
    pub revoked_at: Option<UnixMillis>,
    /// The HMAC of its secret part.
    pub(crate) hash: [u8; 32],
}

impl Key {
    /// True if it opens anything at that time.
    pub fn is_valid(&self, now: UnixMillis) -> bool {
        self.revoked_at.is_none() && self.new.expires_at.is_none_or(|end| now < end)
    }
}
