//! Limits that are not of one path: of tenants and campaigns, shared ones, and of exchangers.

use std::collections::BTreeMap;

use settings::{Node, Placed, Problems, Text};

use super::scope::RATES_MAX;
use crate::{ByteRate, NamePattern, Rate};

settings::words! {
    /// What a shared limit may be counted by.
    pub enum Dimension {
        /// The egress source.
        Source,
        /// The egress pool.
        Pool,
        /// The site.
        Site,
        /// The provider; what has none is counted together.
        Provider,
        /// The tenant; what has none is counted together.
        Tenant,
        /// The campaign; what has none is counted together.
        Campaign,
    }
}

settings::table! {
    /// What a tenant or campaign may send to one place.
    #[check(|scope: &PlaceScope, node, problems| check_rates(node, problems, &[
        ("message_rates", scope.message_rates.as_ref().map(|rates| rates.len())),
        ("byte_rates", scope.byte_rates.as_ref().map(|rates| rates.len())),
    ]))]
    pub struct PlaceScope {
        /// Messages in any window of each of these.
        pub message_rates: Option<Placed<Vec<Text<Rate>>>> = None,
        /// Octets of messages in any window of each of these.
        pub byte_rates: Option<Placed<Vec<Text<ByteRate>>>> = None,
    }
}

settings::table! {
    /// What a tenant or campaign may send. All that apply hold together.
    #[check(|scope: &HolderScope, node, problems| check_rates(node, problems, &[
        ("message_rates", scope.message_rates.as_ref().map(|rates| rates.len())),
        ("byte_rates", scope.byte_rates.as_ref().map(|rates| rates.len())),
    ]))]
    pub struct HolderScope {
        /// Messages in any window of each of these.
        pub message_rates: Option<Placed<Vec<Text<Rate>>>> = None,
        /// Octets of messages in any window of each of these.
        pub byte_rates: Option<Placed<Vec<Text<ByteRate>>>> = None,
        /// What it may send to one site.
        pub site: BTreeMap<String, PlaceScope> = BTreeMap::new(),
        /// What it may send to one provider.
        pub provider: BTreeMap<String, PlaceScope> = BTreeMap::new(),
    }
}

settings::table! {
    /// A limit that several paths are charged to together. A list of names or patterns that is empty stands for
    /// all.
    #[check(SharedScope::check)]
    pub struct SharedScope {
        /// Of these sources.
        pub sources: Vec<Text<NamePattern>> = Vec::new(),
        /// Of these pools.
        pub pools: Vec<Text<NamePattern>> = Vec::new(),
        /// To these sites.
        pub sites: Vec<Text<NamePattern>> = Vec::new(),
        /// To these providers.
        pub providers: Vec<Text<NamePattern>> = Vec::new(),
        /// For these tenants.
        pub tenants: Vec<Text<NamePattern>> = Vec::new(),
        /// For these campaigns.
        pub campaigns: Vec<Text<NamePattern>> = Vec::new(),
        /// What gets a count of its own, such as `["source"]`; empty, one count is shared by all.
        pub each: Vec<Dimension> = Vec::new(),
        /// Connections open at once.
        #[in(1..=1_000_000)]
        pub connections: Option<Placed<u32>> = None,
        /// New connections in any window of each of these.
        pub connection_rates: Option<Placed<Vec<Text<Rate>>>> = None,
        /// Messages in any window of each of these.
        pub message_rates: Option<Placed<Vec<Text<Rate>>>> = None,
        /// Octets of messages in any window of each of these.
        pub byte_rates: Option<Placed<Vec<Text<ByteRate>>>> = None,
    }
}

impl SharedScope {
    fn check(&self, node: &Node, problems: &mut Problems) {
        // A connection is opened for a path, and carries mail of many tenants.
        let by_message = !self.tenants.is_empty()
            || !self.campaigns.is_empty()
            || self.each.iter().any(|each| matches!(each, Dimension::Tenant | Dimension::Campaign));
        if by_message && (self.connections.is_some() || self.connection_rates.is_some()) {
            let key = if self.connections.is_some() { "connections" } else { "connection_rates" };
            problems.error(
                node.at(key),
                format!("`{key}` cannot be limited by tenant or campaign: a connection carries mail of many"),
            );
        }
        check_rates(
            node,
            problems,
            &[
                ("connection_rates", self.connection_rates.as_ref().map(|rates| rates.len())),
                ("message_rates", self.message_rates.as_ref().map(|rates| rates.len())),
                ("byte_rates", self.byte_rates.as_ref().map(|rates| rates.len())),
            ],
        );
    }
}

settings::table! {
    /// What one exchanger, or one network of them, is sent from all sources together.
    #[check(|scope: &ExchangerScope, node, problems| check_rates(node, problems, &[
        ("connection_rates", scope.connection_rates.as_ref().map(|rates| rates.len())),
        ("message_rates", scope.message_rates.as_ref().map(|rates| rates.len())),
    ]))]
    pub struct ExchangerScope {
        /// Connections open at once.
        #[in(1..=100_000)]
        pub connections: Option<Placed<u32>> = None,
        /// New connections in any window of each of these.
        pub connection_rates: Option<Placed<Vec<Text<Rate>>>> = None,
        /// Messages in any window of each of these.
        pub message_rates: Option<Placed<Vec<Text<Rate>>>> = None,
    }
}

fn check_rates(node: &Node, problems: &mut Problems, lists: &[(&str, Option<usize>)]) {
    for (key, len) in lists {
        if len.is_some_and(|len| len > RATES_MAX) {
            problems.error(node.at(key), format!("`{key}` may have at most {RATES_MAX} windows"));
        }
    }
}
