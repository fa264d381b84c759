//! What is in force on a path, field by field, each value with the setting it came from.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use settings::{Place, Placed, Setting, Text};

use super::matcher::Matcher;
use super::traced::{Origin, SettingAt, Traced};
use crate::config::scope::Limits;
use crate::{ByteRate, Date, Rate};

/// What is in force on a path.
#[derive(Debug)]
pub struct Profile {
    /// Connections open at once.
    pub connections: Traced<u32>,
    /// New connections in any window of each of these.
    pub connection_rates: Traced<Vec<Rate>>,
    /// Messages in any window of each of these.
    pub message_rates: Traced<Vec<Rate>>,
    /// Octets in any window of each of these.
    pub byte_rates: Traced<Vec<Rate>>,
    /// Messages on one connection; 0 is no limit.
    pub messages_per_connection: Traced<u32>,
    /// Recipients of one message in one transaction.
    pub recipients_per_transaction: Traced<u32>,
    /// One more connection is allowed each such time after the first.
    pub connection_ramp: Option<Traced<Duration>>,
    /// The first wait after a failure to connect.
    pub reconnect_min: Traced<Duration>,
    /// The longest such wait; never below the first.
    pub reconnect_max: Traced<Duration>,
    /// The wait after each attempt of a recipient; the last repeats.
    pub retry_waits: Option<Traced<Vec<Duration>>>,
    /// How long a message is tried.
    pub expire_after: Option<Traced<Duration>>,
    /// What holds in backoff.
    pub backoff: BackoffProfile,
    /// The adaptive rate, where it is on.
    pub adaptive: Option<AdaptiveProfile>,
    /// The warm-up, where there is one.
    pub warmup: Option<WarmupProfile>,
    /// Reply rules, the most specific scope's first.
    pub(crate) rules: Box<[Arc<Matcher>]>,
}

/// What holds in backoff.
#[derive(Debug)]
pub struct BackoffProfile {
    /// Connections open at once.
    pub connections: Traced<u32>,
    /// New connections.
    pub connection_rates: Option<Traced<Vec<Rate>>>,
    /// Messages.
    pub message_rates: Traced<Vec<Rate>>,
    /// Octets.
    pub byte_rates: Option<Traced<Vec<Rate>>>,
    /// The wait after each attempt of a recipient.
    pub retry_waits: Option<Traced<Vec<Duration>>>,
    /// How long it lasts, unless the rule says.
    pub leave_after: Traced<Duration>,
    /// It ends at the first delivery.
    pub leave_on_delivery: bool,
    /// One message in each such time.
    pub probe: Option<Traced<Duration>>,
}

/// Bounds and pace of the adaptive rate.
#[derive(Debug)]
pub struct AdaptiveProfile {
    /// The greatest rate; its period is the window of all of them.
    pub max: Traced<Rate>,
    /// The least count in that window.
    pub min: u64,
    /// The share of attempts that may be deferred.
    pub deferrals_max: f64,
    /// How long attempts are watched.
    pub window: Duration,
    /// Share of the present rate added after a good window.
    pub increase: f64,
    /// What the rate is multiplied by after a bad one.
    pub decrease: f64,
}

/// A schedule of daily caps.
#[derive(Debug)]
pub struct WarmupProfile {
    /// The caps, and the setting that says so.
    pub caps: Traced<Caps>,
    /// The first day; left out, that of the first message.
    pub begins: Option<Date>,
    /// Sources that take the rest.
    pub overflow: Vec<Arc<str>>,
}

/// Daily caps.
#[derive(Clone, Debug, PartialEq)]
pub enum Caps {
    /// Day by day.
    List(Vec<u64>),
    /// A curve.
    Growth {
        /// The first day's.
        start: u64,
        /// From day to day.
        factor: f64,
        /// The warm-up is over when a day's would be above it.
        max: u64,
    },
}

impl Caps {
    /// The most messages of the n-th day, the first being 0; `None` when the warm-up is over.
    pub fn on(&self, day: u32) -> Option<u64> {
        match self {
            Self::List(caps) => caps.get(day as usize).copied(),
            Self::Growth { start, factor, max } => {
                let cap = *start as f64 * factor.powi(i32::try_from(day).unwrap_or(i32::MAX));
                (cap <= *max as f64).then_some(cap as u64)
            }
        }
    }
}

/// The setting behind a written value.
fn traced<T: Setting, U>(
    placed: &Placed<T>,
    prefix: &str,
    key: &str,
    origin: &dyn Fn(Place) -> Origin,
    convert: impl Fn(&T) -> U,
) -> Traced<U> {
    let at = SettingAt {
        name: format!("{prefix}.{key}").into(),
        value: placed.value.show().to_string().into(),
        origin: origin(placed.place),
    };
    Traced { value: convert(&placed.value), at: Arc::new(at) }
}

/// The smaller of two values that hold together.
fn least<T: PartialOrd + Clone>(a: &Traced<T>, b: &Traced<T>) -> Traced<T> {
    if b.value < a.value { b.clone() } else { a.clone() }
}

/// The one of the later name.
fn last<T: Clone>(_: &Traced<T>, b: &Traced<T>) -> Traced<T> {
    b.clone()
}

/// Both lists.
fn joined(a: &Traced<Vec<Rate>>, b: &Traced<Vec<Rate>>) -> Traced<Vec<Rate>> {
    let mut value = a.value.clone();
    value.extend(b.value.iter().filter(|rate| !a.value.contains(rate)));
    let both = |one: &dyn Display, other: &dyn Display| format!("{one} and {other}").into();
    let at = SettingAt {
        name: both(&a.at.name, &b.at.name),
        value: both(&a.at.value, &b.at.value),
        origin: b.at.origin.clone(),
    };
    Traced { value, at: Arc::new(at) }
}

pub(super) fn rates(list: &[Text<Rate>]) -> Vec<Rate> {
    list.iter().map(|rate| rate.0).collect()
}

pub(super) fn byte_rates(list: &[Text<ByteRate>]) -> Vec<Rate> {
    list.iter().map(|rate| rate.0.0).collect()
}

fn names(list: &[String]) -> Vec<Arc<str>> {
    list.iter().map(|name| name.as_str().into()).collect()
}

macro_rules! merged {
    ($($field:ident: $ty:ty = $key:literal, $($way:ident).+, $convert:expr, $tighter:expr;)*) => {
        /// What the scopes of a path say together.
        #[derive(Clone, Debug, Default)]
        pub struct Merged {
            $(pub $field: Option<Traced<$ty>>,)*
        }

        impl Merged {
            /// What one scope says.
            pub fn of(limits: &Limits, prefix: &str, origin: &dyn Fn(Place) -> Origin) -> Self {
                Self {
                    $($field: limits.$($way).+.as_ref().map(|set| traced(set, prefix, $key, origin, $convert)),)*
                }
            }

            /// What a more specific scope says goes before.
            pub fn over(&mut self, other: &Self) {
                // Two ways to say the same: the more specific scope's way.
                if other.warmup_caps.is_some() {
                    self.warmup_start = None;
                }
                if other.warmup_start.is_some() {
                    self.warmup_caps = None;
                }
                $(if let Some(set) = &other.$field {
                    self.$field = Some(set.clone());
                })*
            }

            /// A scope as specific as this one holds as well.
            pub fn beside(&mut self, other: &Self) {
                $(match (&self.$field, &other.$field) {
                    (Some(a), Some(b)) => self.$field = Some($tighter(a, b)),
                    (None, Some(b)) => self.$field = Some(b.clone()),
                    _ => {}
                })*
            }
        }
    };
}

merged! {
    connections: u32 = "connections", connections, |v| *v, least;
    connection_rates: Vec<Rate> = "connection_rates", connection_rates, |v| rates(v), joined;
    message_rates: Vec<Rate> = "message_rates", message_rates, |v| rates(v), joined;
    byte_rates: Vec<Rate> = "byte_rates", byte_rates, |v| byte_rates(v), joined;
    messages_per_connection: u32 = "messages_per_connection", messages_per_connection, |v| *v, fewest;
    recipients_per_transaction: u32 = "recipients_per_transaction", recipients_per_transaction, |v| *v, least;
    connection_ramp: Duration = "connection_ramp", connection_ramp, |v| *v, last;
    reconnect_min: Duration = "reconnect_min", reconnect_min, |v| *v, last;
    reconnect_max: Duration = "reconnect_max", reconnect_max, |v| *v, last;
    retry_waits: Vec<Duration> = "retry_waits", retry_waits, Vec::clone, last;
    expire_after: Duration = "expire_after", expire_after, |v| *v, least;
    backoff_connections: u32 = "backoff.connections", backoff.connections, |v| *v, least;
    backoff_connection_rates: Vec<Rate> = "backoff.connection_rates", backoff.connection_rates, |v| rates(v), joined;
    backoff_message_rates: Vec<Rate> = "backoff.message_rates", backoff.message_rates, |v| rates(v), joined;
    backoff_byte_rates: Vec<Rate> = "backoff.byte_rates", backoff.byte_rates, |v| byte_rates(v), joined;
    backoff_retry_waits: Vec<Duration> = "backoff.retry_waits", backoff.retry_waits, Vec::clone, last;
    backoff_leave_after: Duration = "backoff.leave_after", backoff.leave_after, |v| *v, last;
    backoff_leave_on_delivery: bool = "backoff.leave_on_delivery", backoff.leave_on_delivery, |v| *v, least;
    backoff_probe: Duration = "backoff.probe", backoff.probe, |v| *v, last;
    adaptive_enabled: bool = "adaptive.enabled", adaptive.enabled, |v| *v, last;
    adaptive_min: Rate = "adaptive.min", adaptive.min, |v: &Text<Rate>| v.0, last;
    adaptive_max: Rate = "adaptive.max", adaptive.max, |v: &Text<Rate>| v.0, last;
    adaptive_deferrals_max: f64 = "adaptive.deferrals_max", adaptive.deferrals_max, |v| *v, least;
    adaptive_window: Duration = "adaptive.window", adaptive.window, |v| *v, last;
    adaptive_increase: f64 = "adaptive.increase", adaptive.increase, |v| *v, least;
    adaptive_decrease: f64 = "adaptive.decrease", adaptive.decrease, |v| *v, least;
    warmup_caps: Vec<u64> = "warmup.caps", warmup.caps, Vec::clone, last;
    warmup_start: u64 = "warmup.start", warmup.start, |v| *v, least;
    warmup_growth: f64 = "warmup.growth", warmup.growth, |v| *v, least;
    warmup_max: u64 = "warmup.max", warmup.max, |v| *v, last;
    warmup_begins: Date = "warmup.begins", warmup.begins, |v: &Text<Date>| v.0, last;
    warmup_overflow: Vec<Arc<str>> = "warmup.overflow", warmup.overflow, |v| names(v), last;
}

/// Messages on a connection: 0 is no limit.
fn fewest(a: &Traced<u32>, b: &Traced<u32>) -> Traced<u32> {
    match (a.value, b.value) {
        (0, _) => b.clone(),
        (_, 0) => a.clone(),
        _ => least(a, b),
    }
}

/// What nobody wrote.
fn built_in<T: Clone>(set: &Option<Traced<T>>, key: &str, value: T, shown: &str) -> Traced<T> {
    set.clone().unwrap_or_else(|| {
        let name = format!("shaping.default.{key}").into();
        Traced { value, at: Arc::new(SettingAt { name, value: shown.into(), origin: Origin::built_in() }) }
    })
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Profile {
    /// What is in force when all scopes have spoken.
    pub fn new(merged: &Merged, rules: Vec<Arc<Matcher>>) -> Self {
        let m = merged;
        let on = |set: &Option<Traced<Duration>>| set.clone().filter(|time| !time.is_zero());
        let reconnect_min = built_in(&m.reconnect_min, "reconnect_min", seconds(30), "\"30s\"");
        let mut reconnect_max = built_in(&m.reconnect_max, "reconnect_max", seconds(900), "\"15m\"");
        if reconnect_max.value < reconnect_min.value {
            reconnect_max = reconnect_min.clone();
        }
        let ten = Rate { count: 10, period: seconds(60) };
        Self {
            connections: built_in(&m.connections, "connections", 20, "20"),
            connection_rates: built_in(&m.connection_rates, "connection_rates", vec![], "[]"),
            message_rates: built_in(&m.message_rates, "message_rates", vec![], "[]"),
            byte_rates: built_in(&m.byte_rates, "byte_rates", vec![], "[]"),
            messages_per_connection: built_in(
                &m.messages_per_connection,
                "messages_per_connection",
                1_000,
                "1000",
            ),
            recipients_per_transaction: built_in(
                &m.recipients_per_transaction,
                "recipients_per_transaction",
                100,
                "100",
            ),
            connection_ramp: on(&m.connection_ramp),
            reconnect_min,
            reconnect_max,
            retry_waits: m.retry_waits.clone(),
            expire_after: m.expire_after.clone(),
            backoff: BackoffProfile {
                connections: built_in(&m.backoff_connections, "backoff.connections", 1, "1"),
                connection_rates: m.backoff_connection_rates.clone(),
                message_rates: built_in(
                    &m.backoff_message_rates,
                    "backoff.message_rates",
                    vec![ten],
                    "[\"10/m\"]",
                ),
                byte_rates: m.backoff_byte_rates.clone(),
                retry_waits: m.backoff_retry_waits.clone(),
                leave_after: built_in(
                    &m.backoff_leave_after,
                    "backoff.leave_after",
                    seconds(3_600),
                    "\"1h\"",
                ),
                leave_on_delivery: m.backoff_leave_on_delivery.as_ref().is_some_and(|on| on.value),
                probe: on(&m.backoff_probe),
            },
            adaptive: Self::adaptive(m),
            warmup: Self::warmup(m),
            rules: rules.into(),
        }
    }

    fn adaptive(m: &Merged) -> Option<AdaptiveProfile> {
        let max = m.adaptive_max.clone()?;
        if m.adaptive_enabled.as_ref().is_some_and(|on| !on.value) {
            return None;
        }
        // The least rate in the greatest one's window.
        let min = m
            .adaptive_min
            .as_ref()
            .map_or(1.0, |min| min.count as f64 * max.period.as_secs_f64() / min.period.as_secs_f64());
        Some(AdaptiveProfile {
            min: (min as u64).clamp(1, max.count),
            max,
            deferrals_max: m.adaptive_deferrals_max.as_ref().map_or(0.05, |set| set.value),
            window: m.adaptive_window.as_ref().map_or(seconds(60), |set| set.value),
            increase: m.adaptive_increase.as_ref().map_or(0.1, |set| set.value),
            decrease: m.adaptive_decrease.as_ref().map_or(0.7, |set| set.value),
        })
    }

    fn warmup(m: &Merged) -> Option<WarmupProfile> {
        let caps = match (&m.warmup_caps, &m.warmup_start) {
            (Some(caps), _) => Traced { value: Caps::List(caps.value.clone()), at: caps.at.clone() },
            (None, Some(start)) => {
                let factor = m.warmup_growth.as_ref().map_or(1.5, |set| set.value);
                let max = m.warmup_max.as_ref().map_or(u64::MAX, |set| set.value);
                let growth = Caps::Growth { start: start.value, factor, max };
                Traced { value: growth, at: start.at.clone() }
            }
            (None, None) => return None,
        };
        Some(WarmupProfile {
            caps,
            begins: m.warmup_begins.as_ref().map(|set| set.value),
            overflow: m.warmup_overflow.as_ref().map_or_else(Vec::new, |set| set.value.clone()),
        })
    }
}
