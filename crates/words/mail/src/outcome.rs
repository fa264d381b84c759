//! What became of one recipient in one attempt.

use crate::Reply;

/// What became of one recipient; final unless `Deferred`. Actions of RFC 3464 §2.3.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The next hop took responsibility.
    Delivered(Reply),
    /// Not now; it stays queued. The reply is the peer's, or ours with a 4yz code when there was none.
    Deferred(Reply),
    /// Never; the reply is the peer's, or ours with a 5yz code.
    Bounced(Reply),
    /// Not in time; the reply is the last deferral's.
    Expired(Reply),
    /// Dropped by an order or rule that says so, with its reason.
    Discarded(Reply),
    /// On a suppression list: never tried. The reply is ours.
    Suppressed(Reply),
}

impl Outcome {
    /// The reply that decided.
    pub fn reply(&self) -> &Reply {
        match self {
            Self::Delivered(r)
            | Self::Deferred(r)
            | Self::Bounced(r)
            | Self::Expired(r)
            | Self::Discarded(r)
            | Self::Suppressed(r) => r,
        }
    }

    /// True unless `Deferred`.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Deferred(_))
    }

    /// `delivered`, `deferred`, `bounced`, `expired`, `discarded` or `suppressed`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Delivered(_) => "delivered",
            Self::Deferred(_) => "deferred",
            Self::Bounced(_) => "bounced",
            Self::Expired(_) => "expired",
            Self::Discarded(_) => "discarded",
            Self::Suppressed(_) => "suppressed",
        }
    }
}
