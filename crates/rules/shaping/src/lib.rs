//! What a site tolerates: exact windows, permits, backoff, suspension, warm-up and reply rules.
//!
//! A **site** is a set of mail exchangers that share limits, whatever domains point at them; a **path** is one
//! egress source's mail to one site; a **provider** is a named receiver that sites and domains belong to by
//! pattern.
//!
//! [`ShapingConfig`] is the table of the configuration, [`Rules`] is what it compiles to: it knows the site of a
//! domain, the [`Profile`] in force on a path, each value with the line it came from, and which rule a reply falls
//! under.
//!
//! The rule of the windows is the ledger's: what was spent in the trailing window, plus what was granted and not
//! yet spent, never exceeds the limit. It is exact in every sliding window, also as the receiver counts: a
//! spend is dated when the receiver's answer came, which is never before the receiver saw it.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "only the clock makes an Instant"))]

mod config;
pub mod fuzzing;
mod ledger;
mod rate;
mod rules;
mod shaper;
mod window;

pub use config::{
    Action, ActionError, AdaptiveLimits, BackoffLimits, Date, DateError, Dimension, DomainScope,
    ExchangerScope, HolderScope, NamePattern, NamePatternError, PlaceScope, ProviderScope, ReplyRule, Scope,
    SelectedScope, ShapingConfig, SharedScope, Stage, Suspended, Trigger, TriggerError, WarmupLimits,
};
pub use ledger::{Charge, Ledger, LedgerKey, MemoryLedger};
pub use rate::{ByteRate, ByteRateError, Rate, RateError};
pub use rules::{
    AdaptiveProfile, BackoffProfile, Caps, ExchangerLimit, Fired, Layer, Origin, PathFacts, Profile, Rule,
    RuleId, RuleKey, Rules, SettingAt, SiteOf, Traced, Treat, WarmupProfile,
};
pub use shaper::{
    Attempted, Cause, Effect, Gate, GateState, Hold, HoldScope, Left, Listed, MessageFacts, Mode, PathKey,
    Permit, QueueName, Release, SavedCause, SavedCount, SavedPath, SavedQueue, SavedSender, SavedSlow,
    SavedSource, SavedState, SavedWarm, SavedWindow, Shaper, Snapshot, WindowKind, Woken,
};
pub use window::Window;
