//! Not now, and why: what the shaping of traffic says, an order, the configuration, or the want of a site.

use queue::orders::OrderId;
use shaping::{HoldScope, SettingAt};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// Why mail does not move.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// What the site tolerates, or a rule for its replies.
    Shaping(Box<shaping::Hold>),
    /// The source is switched off in the configuration.
    SourceOff(Arc<str>),
    /// An operator's order.
    Order {
        /// Its name.
        id: OrderId,
        /// Its word.
        action: &'static str,
        /// Its reason.
        reason: Arc<str>,
    },
    /// The site of the target is not known.
    NoSite(Arc<str>),
    /// All connections of the total are open.
    Total(usize),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shaping(hold) => hold.gate.fmt(f),
            Self::SourceOff(source) => write!(f, "the source {source} is switched off"),
            Self::Order { id, action, reason } if reason.is_empty() => write!(f, "order {id} ({action})"),
            Self::Order { id, action, reason } => write!(f, "order {id} ({action}): {reason}"),
            Self::NoSite(reply) => write!(f, "its domain takes no mail for now: {reply}"),
            Self::Total(max) => write!(f, "all {max} connections of the total are open"),
        }
    }
}

/// Not now.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    /// Why.
    pub reason: Reason,
    /// When to ask again; `None` is when something that is under way ends, or somebody acts.
    pub until: Option<Instant>,
}

impl Hold {
    /// The setting that says so: its name, its value and where it was written.
    pub fn setting(&self) -> Option<&SettingAt> {
        match &self.reason {
            Reason::Shaping(hold) => Some(&hold.setting),
            _ => None,
        }
    }

    /// True if it holds one queue only, so that others at the site may go.
    pub(crate) fn is_of_queue(&self) -> bool {
        match &self.reason {
            Reason::Shaping(hold) => {
                matches!(hold.scope, HoldScope::Queue | HoldScope::Tenant | HoldScope::Campaign)
            }
            _ => false,
        }
    }

    /// True if it is a limit that several sites share.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(&self.reason, Reason::Shaping(hold) if hold.scope == HoldScope::Shared)
    }

    /// True if nobody could be reached.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(&self.reason, Reason::Shaping(hold) if matches!(hold.gate, shaping::Gate::Unreachable { .. }))
    }

    /// True if the sources that the warm-up names may take the message.
    pub(crate) fn overflows(&self) -> bool {
        matches!(&self.reason, Reason::Shaping(hold) if hold.overflow)
    }

    /// True if it is the same gate, whatever its times.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        match (&self.reason, &other.reason) {
            (Reason::Shaping(a), Reason::Shaping(b)) => {
                std::mem::discriminant(&a.gate) == std::mem::discriminant(&b.gate) && a.setting == b.setting
            }
            (a, b) => a == b,
        }
    }
}

impl From<shaping::Hold> for Hold {
    fn from(hold: shaping::Hold) -> Self {
        Self { until: hold.until, reason: Reason::Shaping(Box::new(hold)) }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)?;
        match self.setting() {
            Some(setting) => write!(f, " ({setting})"),
            None => Ok(()),
        }
    }
}
