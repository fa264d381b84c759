//! Not now, and why; and what a report leads to.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::PathKey;
use crate::{Origin, Rate, Rule, SettingAt, Suspended};

/// Who waits: whether another source may help, or another queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoldScope {
    /// The path: all of this source's mail to the site.
    Path,
    /// The source, to any site.
    Source,
    /// The queue.
    Queue,
    /// The tenant, here or everywhere as the gate says.
    Tenant,
    /// The campaign, here or everywhere as the gate says.
    Campaign,
    /// All paths that share a limit.
    Shared,
}

/// A rule and the reply that fired it, or an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The rule's name, or who ordered it.
    pub name: Arc<str>,
    /// The rule as a setting: its key, pattern, file and line.
    pub setting: Arc<SettingAt>,
    /// The reply that fired it; empty if none did.
    pub reply: Arc<str>,
}

impl Cause {
    /// A rule that a reply fired.
    pub fn rule(rule: &Rule, reply: &str) -> Self {
        // A reply may have hundreds of lines, and the cause is kept for days.
        let mut end = reply.len().min(REPLY_MAX);
        while !reply.is_char_boundary(end) {
            end -= 1;
        }
        Self { name: rule.name.clone(), setting: rule.at.clone(), reply: reply[..end].into() }
    }

    /// A person, with a reason.
    pub fn operator(reason: &str) -> Self {
        let setting = SettingAt {
            name: "order".into(),
            value: reason.into(),
            origin: Origin { file: "operator".into(), line: 0 },
        };
        Self { name: "operator".into(), setting: Arc::new(setting), reply: "".into() }
    }
}

/// Octets of a reply that are kept.
const REPLY_MAX: usize = 500;

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.setting.origin)?;
        if !self.reply.is_empty() {
            write!(f, " on \"{}\"", self.reply)?;
        }
        Ok(())
    }
}

/// What holds mail back.
#[derive(Clone, Debug, PartialEq)]
pub enum Gate {
    /// All connections allowed are open.
    Connections {
        /// How many those are.
        limit: u32,
    },
    /// The first connections have not been greeted yet, and a site that stalls must not hold many sockets.
    Greeting,
    /// A rate of new connections is used up.
    ConnectionRate(Rate),
    /// A rate of messages is used up.
    MessageRate(Rate),
    /// A rate of octets is used up.
    ByteRate(Rate),
    /// The number of connections grows step by step.
    Ramp {
        /// So many are allowed yet.
        allowed: u32,
    },
    /// No exchanger could be reached lately.
    Unreachable {
        /// Failures in a row.
        failures: u32,
    },
    /// The path is in backoff, and a rate that holds there is used up.
    Backoff {
        /// The rate.
        rate: Rate,
        /// What began it.
        by: Arc<Cause>,
    },
    /// The path is in backoff, and one message in a time is sent to see how it goes.
    Probe {
        /// The time.
        every: Duration,
        /// What began it.
        by: Arc<Cause>,
    },
    /// A rule suspended it.
    Suspended {
        /// What is suspended.
        what: Suspended,
        /// Which rule.
        by: Arc<Cause>,
    },
    /// The source is disabled.
    SourceDisabled {
        /// What disabled it.
        by: Arc<Cause>,
    },
    /// The day's share of a new source is sent.
    WarmUp {
        /// Sent today or under way.
        sent: u64,
        /// The day's cap.
        cap: u64,
    },
    /// The adaptive rate is used up.
    Adaptive {
        /// Messages in the window that are allowed at present.
        limit: u64,
        /// The window.
        period: Duration,
    },
    /// A limit shared with other paths is used up.
    Shared {
        /// Its key in the configuration.
        name: Arc<str>,
        /// Its window; none if it is of connections.
        rate: Option<Rate>,
    },
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connections { limit } => write!(f, "all connections allowed ({limit}) are open"),
            Self::Greeting => f.write_str("the first connections have not been greeted yet"),
            Self::ConnectionRate(rate) => write!(f, "the rate of new connections ({rate}) is used up"),
            Self::MessageRate(rate) => write!(f, "the rate of messages ({rate}) is used up"),
            Self::ByteRate(rate) => write!(f, "the rate of octets ({}) is used up", crate::ByteRate(*rate)),
            Self::Ramp { allowed } => {
                write!(f, "the number of connections grows step by step, {allowed} are allowed yet")
            }
            Self::Unreachable { failures } => {
                write!(f, "no exchanger could be reached, {failures} times in a row")
            }
            Self::Backoff { rate, by } => {
                write!(f, "the path is in backoff by {by}, and its rate there ({rate}) is used up")
            }
            Self::Probe { every, by } => {
                let every = settings::show_duration(*every);
                write!(f, "the path is in backoff by {by}, and one message each {every} tries how it goes")
            }
            Self::Suspended { what, by } => write!(f, "the {} is suspended by {by}", what.word()),
            Self::SourceDisabled { by } => write!(f, "the source is disabled by {by}"),
            Self::WarmUp { sent, cap } => {
                write!(f, "the source warms up, and {sent} of today's {cap} messages are sent")
            }
            Self::Adaptive { limit, period } => {
                let rate = Rate { count: *limit, period: *period };
                write!(f, "the rate found for this site ({rate}) is used up")
            }
            Self::Shared { name, rate: Some(rate) } => {
                write!(f, "the limit {name} ({rate}) is used up")
            }
            Self::Shared { name, rate: None } => write!(f, "all connections that {name} allows are open"),
        }
    }
}

/// Not now, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    /// What holds.
    pub gate: Gate,
    /// Who waits.
    pub scope: HoldScope,
    /// Since when, where that is known.
    pub since: Option<Instant>,
    /// When to ask again; `None` is when something that is under way ends.
    pub until: Option<Instant>,
    /// The setting that says so.
    pub setting: Arc<SettingAt>,
    /// The sources named by the path's warm-up may take the message.
    pub overflow: bool,
}

/// One gate as it stands, for explanations.
#[derive(Clone, Debug, PartialEq)]
pub struct GateState {
    /// The setting.
    pub setting: Arc<SettingAt>,
    /// Who would wait.
    pub scope: HoldScope,
    /// So much is used.
    pub used: u64,
    /// Of so much; 0 for a gate that counts nothing.
    pub limit: u64,
    /// Set if it holds.
    pub hold: Option<Hold>,
}

/// Why a path left backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Its time was over.
    Time,
    /// A message was delivered.
    Delivery,
    /// A rule said so.
    Rule,
    /// An operator released it.
    Operator,
}

/// What a report leads to beyond the shaper: what the caller must do, and what logs and metrics may want.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// All that waits in the queue fails.
    BounceQueue {
        /// The queue of the message.
        queue: u32,
        /// Why.
        by: Arc<Cause>,
    },
    /// This exchanger is not to be used for so long.
    SkipExchanger {
        /// Its name, if the report had it.
        host: Option<Arc<str>>,
        /// How long.
        length: Duration,
        /// Why.
        by: Arc<Cause>,
    },
    /// What waits in the queue moves to another pool.
    MovePool {
        /// The queue of the message.
        queue: u32,
        /// The pool.
        pool: Arc<str>,
        /// Why.
        by: Arc<Cause>,
    },
    /// People are to be told.
    Notify {
        /// Of what.
        text: String,
        /// Why.
        by: Arc<Cause>,
    },
    /// A path went into backoff.
    BackoffEntered {
        /// Which.
        path: PathKey,
        /// When it ends.
        until: Instant,
        /// Why.
        by: Arc<Cause>,
    },
    /// A path left backoff.
    BackoffLeft {
        /// Which.
        path: PathKey,
        /// Why.
        why: Left,
    },
    /// A path was slowed down, or steps back: its rates are multiplied by this.
    Slowed {
        /// Which.
        path: PathKey,
        /// 1 when it is back.
        factor: f64,
    },
    /// Something was suspended.
    Suspended {
        /// What.
        what: Suspended,
        /// The path it happened on.
        path: PathKey,
        /// When it ends.
        until: Instant,
        /// Why.
        by: Arc<Cause>,
    },
    /// A source was disabled.
    SourceDisabled {
        /// Which.
        source: Arc<str>,
        /// When it is enabled again; `None` when it is released.
        until: Option<Instant>,
        /// Why.
        by: Arc<Cause>,
    },
    /// A source is enabled again.
    SourceEnabled {
        /// Which.
        source: Arc<str>,
    },
}

impl Effect {
    /// The rule or order that led to it, if it is known.
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Self::BounceQueue { by, .. }
            | Self::SkipExchanger { by, .. }
            | Self::MovePool { by, .. }
            | Self::Notify { by, .. }
            | Self::BackoffEntered { by, .. }
            | Self::Suspended { by, .. }
            | Self::SourceDisabled { by, .. } => Some(by),
            Self::BackoffLeft { .. } | Self::Slowed { .. } | Self::SourceEnabled { .. } => None,
        }
    }
}
