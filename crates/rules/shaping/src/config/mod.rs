//! The table `[shaping]` of the configuration.
//!
//! ```toml
//! [shaping.provider.gmail]
//! exchangers = ["*.google.com"]
//! domains = ["gmail.com", "googlemail.com"]
//! rollup = true
//! connections = 20
//! message_rates = ["20/s", "100k/d"]
//!
//! [[shaping.provider.gmail.reply]]
//! match = '^421 4\.7\.(0|28) '
//! when = "3/10m"
//! do = ["backoff 1h", "notify"]
//!
//! [shaping.provider.gmail.source.new1.warmup]
//! caps = [50, 100, 200, 400]
//! overflow = ["old1"]
//! ```

pub(crate) mod action;
mod date;
mod glob;
pub(crate) mod reply;
pub(crate) mod scope;
mod shared;

use std::collections::BTreeMap;

pub use action::{Action, ActionError, Suspended, Trigger, TriggerError};
pub use date::{Date, DateError};
pub use glob::{NamePattern, NamePatternError};
pub use replies::Stage;
pub use reply::ReplyRule;
pub use scope::{
    AdaptiveLimits, BackoffLimits, DomainScope, ProviderScope, Scope, SelectedScope, WarmupLimits,
};
pub use shared::{Dimension, ExchangerScope, HolderScope, PlaceScope, SharedScope};

settings::table! {
    /// What receivers tolerate. A path, one source's mail to one site, goes by the most specific value of each
    /// field: of its domain before its site, its provider and the default; and in each of these by that of its
    /// source before that of its pool and the scope's own.
    #[check(ShapingConfig::check)]
    pub struct ShapingConfig {
        /// Use the shipped rules for large receivers, beneath what is set here.
        pub shipped: bool = true,
        /// For every path.
        pub default: Scope = Scope::default(),
        /// For a named receiver.
        pub provider: BTreeMap<String, ProviderScope> = BTreeMap::new(),
        /// For one site, named as `tuma explain` shows it.
        pub site: BTreeMap<String, Scope> = BTreeMap::new(),
        /// For the site of a domain, or of each domain of a pattern such as `*.example.com`. Of several domains at
        /// one site the tighter numbers hold, and the rates of all.
        pub domain: BTreeMap<String, DomainScope> = BTreeMap::new(),
        /// What a tenant may send to all sites together; a name may be a pattern, each tenant has its own count.
        pub tenant: BTreeMap<String, HolderScope> = BTreeMap::new(),
        /// What a campaign may send to all sites together; a name may be a pattern.
        pub campaign: BTreeMap<String, HolderScope> = BTreeMap::new(),
        /// A limit several paths share.
        pub limit: BTreeMap<String, SharedScope> = BTreeMap::new(),
        /// For each exchanger of a name or pattern, or one for all of a network such as `192.0.2.0/24`.
        pub exchanger: BTreeMap<String, ExchangerScope> = BTreeMap::new(),
    }
}

impl ShapingConfig {
    fn check(&self, node: &settings::Node, problems: &mut settings::Problems) {
        let tables: [(&str, Vec<&String>); 4] = [
            ("domain", self.domain.keys().collect()),
            ("tenant", self.tenant.keys().collect()),
            ("campaign", self.campaign.keys().collect()),
            ("exchanger", self.exchanger.keys().collect()),
        ];
        for (table, keys) in tables {
            for key in keys {
                let network = table == "exchanger" && key.parse::<settings::Cidr>().is_ok();
                if !network && let Err(reason) = key.parse::<NamePattern>() {
                    let place = node.child(table).and_then(|table| table.child(key)).unwrap_or(node).place;
                    problems
                        .error(place, format!("the name {} is no pattern: {reason}", settings::quote(key)));
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
