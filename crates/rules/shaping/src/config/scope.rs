//! The limits a scope may set, listed once for the tables of all scopes.

use std::collections::BTreeMap;
use std::time::Duration;

use settings::{Node, Placed, Problems, Text};

use super::reply::ReplyRule;
use crate::{ByteRate, Date, NamePattern, Rate};

/// Most windows of one kind in one scope.
pub const RATES_MAX: usize = 8;
/// Most steps of a list of waits or caps.
pub const STEPS_MAX: usize = 400;

settings::table! {
    /// What holds while the path is in backoff. What is left out stays as it normally is; the normal limits hold
    /// as well.
    pub struct BackoffLimits {
        /// Connections open at once; 1 if no scope says.
        #[in(1..=100_000)]
        pub connections: Option<Placed<u32>> = None,
        /// New connections in any window of each of these.
        pub connection_rates: Option<Placed<Vec<Text<Rate>>>> = None,
        /// Messages in any window of each of these; `["10/m"]` if no scope says.
        pub message_rates: Option<Placed<Vec<Text<Rate>>>> = None,
        /// Octets in any window of each of these.
        pub byte_rates: Option<Placed<Vec<Text<ByteRate>>>> = None,
        /// The wait after each attempt of a recipient; the last repeats.
        #[in(1s..=7d)]
        pub retry_waits: Option<Placed<Vec<Duration>>> = None,
        /// The path leaves backoff after so long, unless the rule says how long; 1h if no scope says.
        #[in(1s..=30d)]
        pub leave_after: Option<Placed<Duration>> = None,
        /// The path leaves backoff at the first delivery.
        pub leave_on_delivery: Option<Placed<bool>> = None,
        /// One message in each such time is sent to see how it goes; 0s sends as the rates allow.
        #[in(0s..=7d)]
        pub probe: Option<Placed<Duration>> = None,
    }
}

settings::table! {
    /// A controller that finds the rate of messages a receiver tolerates from its recent share of deferrals. It
    /// works where `max` is set.
    pub struct AdaptiveLimits {
        /// Off, it does not work although `max` is set in a more general scope.
        pub enabled: Option<Placed<bool>> = None,
        /// The least rate it goes down to; one message in the window of `max` if no scope says.
        pub min: Option<Placed<Text<Rate>>> = None,
        /// The greatest rate it goes up to.
        pub max: Option<Placed<Text<Rate>>> = None,
        /// The share of attempts that may be deferred; above it the rate goes down. 0.05 if no scope says.
        #[in(0.0..=1.0)]
        pub deferrals_max: Option<Placed<f64>> = None,
        /// How long attempts are watched before the rate goes up; 1m if no scope says.
        #[in(1s..=1d)]
        pub window: Option<Placed<Duration>> = None,
        /// What is added after each good window, as a share of the present rate; at least one message. 0.1 if no
        /// scope says.
        #[in(0.001..=10.0)]
        pub increase: Option<Placed<f64>> = None,
        /// What the rate is multiplied by after a bad window; 0.7 if no scope says.
        #[in(0.01..=0.99)]
        pub decrease: Option<Placed<f64>> = None,
    }
}

settings::table! {
    /// Daily caps on messages from a new source to each site, days by UTC. Usually under a `source`. Either
    /// `caps`, or `start`, `growth` and `max`.
    #[check(WarmupLimits::check)]
    pub struct WarmupLimits {
        /// The most messages of each day, first day first; after the last the warm-up is over.
        #[in(1..)]
        pub caps: Option<Placed<Vec<u64>>> = None,
        /// The cap of the first day.
        #[in(1..)]
        pub start: Option<Placed<u64>> = None,
        /// What each day's cap is multiplied by; 1.5 if no scope says.
        #[in(1.01..=10.0)]
        pub growth: Option<Placed<f64>> = None,
        /// The warm-up is over on the day whose cap would be above this.
        #[in(1..)]
        pub max: Option<Placed<u64>> = None,
        /// The first day, such as "2026-11-01"; left out, the day of the first message.
        pub begins: Option<Placed<Text<Date>>> = None,
        /// Sources that take what is beyond the cap.
        pub overflow: Option<Placed<Vec<String>>> = None,
    }
}

impl WarmupLimits {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.caps.is_some() && self.start.is_some() {
            problems.error(node.at("start"), "`caps` and `start` cannot both be set");
        }
        if self.caps.as_ref().is_some_and(|caps| caps.is_empty() || caps.len() > STEPS_MAX) {
            problems.error(node.at("caps"), format!("`caps` must have 1 to {STEPS_MAX} days"));
        }
    }
}

/// The fields every scope has, as they stand in its table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    pub connections: Option<Placed<u32>>,
    pub connection_rates: Option<Placed<Vec<Text<Rate>>>>,
    pub message_rates: Option<Placed<Vec<Text<Rate>>>>,
    pub byte_rates: Option<Placed<Vec<Text<ByteRate>>>>,
    pub messages_per_connection: Option<Placed<u32>>,
    pub recipients_per_transaction: Option<Placed<u32>>,
    pub connection_ramp: Option<Placed<Duration>>,
    pub reconnect_min: Option<Placed<Duration>>,
    pub reconnect_max: Option<Placed<Duration>>,
    pub retry_waits: Option<Placed<Vec<Duration>>>,
    pub expire_after: Option<Placed<Duration>>,
    pub backoff: BackoffLimits,
    pub adaptive: AdaptiveLimits,
    pub warmup: WarmupLimits,
    pub reply: Vec<ReplyRule>,
}

impl Limits {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if let (Some(min), Some(max)) = (self.reconnect_min, self.reconnect_max)
            && *min > *max
        {
            problems.error(node.at("reconnect_min"), "`reconnect_min` must not exceed `reconnect_max`");
        }
        let (own, backoff) = (self, &self.backoff);
        let lists = [
            ("connection_rates", own.connection_rates.as_ref().map(|rates| rates.len())),
            ("message_rates", own.message_rates.as_ref().map(|rates| rates.len())),
            ("byte_rates", own.byte_rates.as_ref().map(|rates| rates.len())),
            ("backoff.connection_rates", backoff.connection_rates.as_ref().map(|rates| rates.len())),
            ("backoff.message_rates", backoff.message_rates.as_ref().map(|rates| rates.len())),
            ("backoff.byte_rates", backoff.byte_rates.as_ref().map(|rates| rates.len())),
        ];
        for (key, len) in lists {
            if len.is_some_and(|len| len > RATES_MAX) {
                problems.error(node.at(key), format!("`{key}` may have at most {RATES_MAX} windows"));
            }
        }
        for (key, waits) in [("retry_waits", &own.retry_waits), ("backoff.retry_waits", &backoff.retry_waits)]
        {
            if waits.as_ref().is_some_and(|waits| waits.is_empty() || waits.len() > STEPS_MAX) {
                problems.error(node.at(key), format!("`{key}` must have 1 to {STEPS_MAX} waits"));
            }
        }
    }
}

/// A table with fields of its own and those of every scope.
macro_rules! scope {
    ($(#[doc = $doc:literal])* pub struct $name:ident { $($own:tt)* }) => {
        settings::table! {
            $(#[doc = $doc])*
            #[check(|scope: &$name, node, problems| scope.limits().check(node, problems))]
            pub struct $name {
                $($own)*
                /// Connections open at once; 20 if no scope says.
                #[in(1..=100_000)]
                pub connections: Option<Placed<u32>> = None,
                /// New connections in any window of each of these, such as `["10/m"]`.
                pub connection_rates: Option<Placed<Vec<Text<Rate>>>> = None,
                /// Messages in any window of each of these, such as `["20/s", "5000/h", "100k/d"]`; all of them
                /// hold. An empty list sets no limit.
                pub message_rates: Option<Placed<Vec<Text<Rate>>>> = None,
                /// Octets of messages in any window of each of these, such as `["50MB/m"]`.
                pub byte_rates: Option<Placed<Vec<Text<ByteRate>>>> = None,
                /// Messages on one connection before it is closed; 0 sets no limit. 1000 if no scope says.
                pub messages_per_connection: Option<Placed<u32>> = None,
                /// Recipients of one message in one transaction; 100 if no scope says.
                #[in(1..=10_000)]
                pub recipients_per_transaction: Option<Placed<u32>> = None,
                /// After the first connection that was greeted, one more is allowed each such time; 0s allows all
                /// at once, and so it is if no scope says.
                #[in(0s..=1d)]
                pub connection_ramp: Option<Placed<Duration>> = None,
                /// The wait before a site whose exchangers cannot be reached is tried again; doubles each time.
                /// 30s if no scope says.
                #[in(100ms..=1d)]
                pub reconnect_min: Option<Placed<Duration>> = None,
                /// The longest such wait; 15m if no scope says.
                #[in(100ms..=1d)]
                pub reconnect_max: Option<Placed<Duration>> = None,
                /// The wait after each attempt of a recipient; the last repeats. Left out everywhere, as the retry
                /// schedule says.
                #[in(100ms..=7d)]
                pub retry_waits: Option<Placed<Vec<Duration>>> = None,
                /// How long a message is tried; left out everywhere, as the retry schedule says.
                #[in(1s..=60d)]
                pub expire_after: Option<Placed<Duration>> = None,
                /// What holds in backoff.
                pub backoff: BackoffLimits = BackoffLimits::default(),
                /// The adaptive rate.
                pub adaptive: AdaptiveLimits = AdaptiveLimits::default(),
                /// The warm-up of a new source.
                pub warmup: WarmupLimits = WarmupLimits::default(),
                /// What is done at which reply, in this order; the first that matches is taken.
                pub reply: Vec<ReplyRule> = Vec::new(),
            }
        }

        impl $name {
            /// The fields every scope has.
            pub(crate) fn limits(&self) -> Limits {
                Limits {
                    connections: self.connections,
                    connection_rates: self.connection_rates.clone(),
                    message_rates: self.message_rates.clone(),
                    byte_rates: self.byte_rates.clone(),
                    messages_per_connection: self.messages_per_connection,
                    recipients_per_transaction: self.recipients_per_transaction,
                    connection_ramp: self.connection_ramp,
                    reconnect_min: self.reconnect_min,
                    reconnect_max: self.reconnect_max,
                    retry_waits: self.retry_waits.clone(),
                    expire_after: self.expire_after,
                    backoff: self.backoff.clone(),
                    adaptive: self.adaptive.clone(),
                    warmup: self.warmup.clone(),
                    reply: self.reply.clone(),
                }
            }
        }
    };
}

scope! {
    /// Limits of a scope for one source or one pool.
    pub struct SelectedScope {}
}

scope! {
    /// Limits and reply rules of a scope. Within a scope, those of a source go before those of a pool, and those
    /// before the scope's own.
    pub struct Scope {
        /// Those of one pool.
        pub pool: BTreeMap<String, SelectedScope> = BTreeMap::new(),
        /// Those of one source.
        pub source: BTreeMap<String, SelectedScope> = BTreeMap::new(),
    }
}

scope! {
    /// A named receiver: which exchangers and domains are its, and its limits and reply rules. What is left out
    /// is as the shipped rules of that name say.
    pub struct ProviderScope {
        /// Its exchangers, such as `["*.google.com"]`. A domain is the provider's if all exchangers of its lowest
        /// preference are.
        pub exchangers: Option<Vec<Text<NamePattern>>> = None,
        /// Its domains, such as `["gmail.com", "*.gmail.com"]`, whatever their exchangers.
        pub domains: Option<Vec<Text<NamePattern>>> = None,
        /// All of the provider is one site, named after it: its limits hold for all together.
        pub rollup: Option<bool> = None,
        /// Those of one pool.
        pub pool: BTreeMap<String, SelectedScope> = BTreeMap::new(),
        /// Those of one source.
        pub source: BTreeMap<String, SelectedScope> = BTreeMap::new(),
    }
}

scope! {
    /// Limits and reply rules of the site a domain's mail goes to.
    pub struct DomainScope {
        /// Off, the domain is a site of its own, named after it, whoever shares its exchangers.
        pub rollup: Option<bool> = None,
        /// Those of one pool.
        pub pool: BTreeMap<String, SelectedScope> = BTreeMap::new(),
        /// Those of one source.
        pub source: BTreeMap<String, SelectedScope> = BTreeMap::new(),
    }
}
