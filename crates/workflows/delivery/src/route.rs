//! Which destination a recipient belongs to: a static route, its domain, or an address literal.

use crate::config::{RouteConfig, TlsUse};

use dispatch::Target;
use mail::{Domain, Host};
use smtp::client::Credentials;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A host and port of a static route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// A name, or an address.
    pub host: HopHost,
    /// The port.
    pub port: u16,
}

/// The host of a next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HopHost {
    /// Looked up by A and AAAA.
    Name(Domain),
    /// As it is.
    Address(IpAddr),
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            HopHost::Name(name) => write!(f, "{name}:{}", self.port),
            HopHost::Address(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            HopHost::Address(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

/// Reads `host:port; [address]:port; …`; a port left out is 25.
pub(crate) fn parse_next_hops(text: &str) -> Result<Vec<NextHop>, String> {
    text.split(';').map(str::trim).map(parse_next_hop).collect()
}

fn parse_next_hop(text: &str) -> Result<NextHop, String> {
    let wrong = || {
        format!("`{text}` is not a next hop: write `host`, `host:port`, `192.0.2.1:25` or `[2001:db8::1]:25`")
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or_else(wrong)?;
            let address = address.strip_prefix("IPv6:").unwrap_or(address);
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) };
            (HopHost::Address(address.parse().map_err(|_| wrong())?), port)
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let host = match host.parse() {
                Ok(address) => HopHost::Address(address),
                Err(_) => HopHost::Name(Domain::parse(host).map_err(|_| wrong())?),
            };
            (host, port)
        }
    };
    let port = port.map_or(Ok(25), |port| port.parse().map_err(|_| wrong()))?;
    if port == 0 {
        return Err(wrong());
    }
    Ok(NextHop { host, port })
}

/// A static route, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its key in the configuration.
    pub name: Box<str>,
    /// In the order they are tried.
    pub next_hops: Vec<NextHop>,
    /// LMTP.
    pub lmtp: bool,
    /// STARTTLS; `None` is as for everybody.
    pub tls: Option<TlsUse>,
    /// AUTH.
    pub auth: Option<Credentials>,
    /// AUTH also without TLS.
    pub auth_without_tls: bool,
}

/// All static routes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routes {
    routes: HashMap<Box<str>, Arc<Route>>,
    exact: HashMap<Domain, Box<str>>,
    below: HashMap<Domain, Box<str>>,
    any: bool,
}

impl Routes {
    /// Reads the configuration; an error names the key.
    pub fn new(table: &BTreeMap<String, RouteConfig>) -> Result<Self, (String, String)> {
        let mut routes = Self::default();
        for (key, config) in table {
            let fault = |text: String| (key.clone(), text);
            let name: Box<str> = key.as_str().into();
            if key == "*" {
                routes.any = true;
            } else if let Some(parent) = key.strip_prefix("*.") {
                let parent = Domain::parse(parent).map_err(|e| fault(e.to_string()))?;
                routes.below.insert(parent, name.clone());
            } else {
                let domain = Domain::parse(key).map_err(|e| fault(e.to_string()))?;
                routes.exact.insert(domain, name.clone());
            }
            let auth = match (&config.user, &config.password) {
                (Some(user), Some(password)) => {
                    Some(Credentials { user: user.as_str().into(), password: password.as_str().into() })
                }
                _ => None,
            };
            let route = Route {
                name: name.clone(),
                next_hops: parse_next_hops(&config.next_hop).map_err(fault)?,
                lmtp: config.lmtp,
                tls: config.tls,
                auth,
                auth_without_tls: config.auth_without_tls,
            };
            routes.routes.insert(name, Arc::new(route));
        }
        Ok(routes)
    }

    /// Where mail for a host goes: the route of its domain, of the nearest domain above, of all; else itself.
    pub fn target(&self, host: &Host) -> Target {
        let domain = match host {
            Host::Literal(_) if self.any => return Target::Route("*".into()),
            Host::Literal(ip) => return Target::Literal(*ip),
            Host::Domain(domain) => domain,
        };
        if self.routes.is_empty() {
            return Target::Domain(domain.clone());
        }
        if let Some(name) = self.exact.get(domain) {
            return Target::Route(name.clone());
        }
        if !self.below.is_empty() {
            let mut rest = domain.as_str();
            while let Some((_, parent)) = rest.split_once('.') {
                rest = parent;
                if let Some(name) = Domain::parse(parent).ok().and_then(|parent| self.below.get(&parent)) {
                    return Target::Route(name.clone());
                }
            }
        }
        if self.any { Target::Route("*".into()) } else { Target::Domain(domain.clone()) }
    }

    /// A route by its key.
    pub fn get(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_hops() {
        for (text, read) in [
            ("mx.test", "mx.test:25"),
            ("MX.test:2525", "mx.test:2525"),
            ("127.0.0.1:25", "127.0.0.1:25"),
            ("[::1]:26", "[::1]:26"),
            ("[2001:db8::1]", "[2001:db8::1]:25"),
        ] {
            assert_eq!(parse_next_hop(text).unwrap().to_string(), read);
        }
        for text in ["", "a b", "mx.test:", "mx.test:0", "mx.test:99999", "[::1", "::1", "[::1]25", "a:b:c"] {
            assert!(parse_next_hop(text).is_err(), "{text}");
        }
        assert_eq!(parse_next_hops("a.test; b.test:26").unwrap().len(), 2);
    }

    #[test]
    fn the_nearest_route_wins() {
        let route = |hop: &str| RouteConfig {
            next_hop: hop.into(),
            lmtp: false,
            tls: None,
            user: None,
            password: None,
            auth_without_tls: false,
        };
        let keys = ["a.test", "*.a.test", "*.b.a.test"];
        let mut table: BTreeMap<String, RouteConfig> =
            keys.iter().map(|key| (key.to_string(), route("mx.test"))).collect();
        let target = |routes: &Routes, host: &str| routes.target(&Host::parse(host).unwrap()).to_string();
        let routes = Routes::new(&table).unwrap();
        for (host, expected) in [
            ("A.test", "route:a.test"),
            ("x.a.test", "route:*.a.test"),
            ("x.b.a.test", "route:*.b.a.test"),
            ("xa.test", "xa.test"),
            ("[192.0.2.1]", "[192.0.2.1]"),
        ] {
            assert_eq!(target(&routes, host), expected);
        }
        table.insert("*".into(), route("smart.test:587"));
        let routes = Routes::new(&table).unwrap();
        assert_eq!(target(&routes, "xa.test"), "route:*");
        assert_eq!(target(&routes, "[192.0.2.1]"), "route:*");
        table.insert("bad domain".into(), route("x"));
        assert_eq!(Routes::new(&table).unwrap_err().0, "bad domain");
    }
}
