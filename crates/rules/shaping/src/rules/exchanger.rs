//! Limits per exchanger or network of exchangers.

use std::net::IpAddr;
use std::sync::Arc;

use settings::{Cidr, Place, Setting, show_key};

use super::Rules;
use super::profile::rates;
use super::traced::{Origin, SettingAt, Traced};
use crate::{ExchangerScope, NamePattern, Rate};

/// A limit that holds for an exchanger.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangerLimit {
    /// What is counted together: the exchanger's name, or the network.
    pub counted: Arc<str>,
    /// Connections open at once.
    pub connections: Option<Traced<u32>>,
    /// New connections in any window of each of these.
    pub connection_rates: Option<Traced<Vec<Rate>>>,
    /// Messages in any window of each of these.
    pub message_rates: Option<Traced<Vec<Rate>>>,
}

#[derive(Debug)]
enum Which {
    Network(Cidr),
    Name(NamePattern),
}

/// A compiled table.
#[derive(Debug)]
pub struct Exchanger {
    name: String,
    which: Which,
    limit: ExchangerLimit,
}

impl Exchanger {
    /// From its table. The table's check has refused what is neither name nor network.
    pub fn new(name: &str, scope: &ExchangerScope, origin: &dyn Fn(Place) -> Origin) -> Option<Self> {
        let which = match name.parse::<Cidr>() {
            Ok(network) => Which::Network(network),
            Err(_) => Which::Name(name.parse().ok()?),
        };
        let at = |key: &str, value: String, place: Place| {
            let name = format!("shaping.exchanger.{}.{key}", show_key(name));
            Arc::new(SettingAt { name: name.into(), value: value.into(), origin: origin(place) })
        };
        let list = |key: &str, set: &Option<settings::Placed<Vec<settings::Text<Rate>>>>| {
            set.as_ref().map(|set| Traced {
                value: rates(&set.value),
                at: at(key, set.value.show().to_string(), set.place),
            })
        };
        let limit = ExchangerLimit {
            counted: name.into(),
            connections: scope.connections.map(|set| Traced {
                value: set.value,
                at: at("connections", set.value.to_string(), set.place),
            }),
            connection_rates: list("connection_rates", &scope.connection_rates),
            message_rates: list("message_rates", &scope.message_rates),
        };
        Some(Self { name: name.to_ascii_lowercase(), which, limit })
    }

    /// Its key in the configuration, in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Rules {
    /// The limits that hold for an exchanger: those of every network its address is in, and of the most specific
    /// name or pattern, counted for the host.
    pub fn exchanger_limits(&self, host: &str, ip: IpAddr) -> Vec<ExchangerLimit> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let mut limits = Vec::new();
        let mut best: Option<(usize, &ExchangerLimit)> = None;
        for exchanger in &self.exchangers {
            match &exchanger.which {
                Which::Network(network) if network.contains(ip) => limits.push(exchanger.limit.clone()),
                Which::Name(pattern)
                    if pattern.matches(&host) && best.is_none_or(|(weight, _)| pattern.weight() > weight) =>
                {
                    best = Some((pattern.weight(), &exchanger.limit));
                }
                _ => {}
            }
        }
        limits
            .extend(best.map(|(_, limit)| ExchangerLimit { counted: host.as_str().into(), ..limit.clone() }));
        limits
    }
}
