//! Where mail goes: a static route, a domain, or an address.

use mail::Domain;
use std::fmt;
use std::net::IpAddr;

/// Where mail goes, as far as its address and the configuration tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A static route, by its key.
    Route(Box<str>),
    /// A domain, by its mail exchangers.
    Domain(Domain),
    /// An address literal.
    Literal(IpAddr),
}

impl Target {
    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix("route:") {
            return Some(Self::Route(name.into()));
        }
        if let Some(literal) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return literal.parse().ok().map(Self::Literal);
        }
        Domain::parse(text).ok().map(Self::Domain)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(name) => write!(f, "route:{name}"),
            Self::Domain(domain) => domain.fmt(f),
            Self::Literal(ip) => write!(f, "[{ip}]"),
        }
    }
}
