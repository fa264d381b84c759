//! Who may send to whom: the static policy.

use crate::config::RelayConfig;
use mail::{Host, Recipient, Reply};
use routing::DomainPattern;
use std::net::IpAddr;

/// The rules of `relay`, ready to be asked. With nothing configured every recipient is refused: no open relay
/// by omission.
#[derive(Clone, Debug)]
pub struct RelayRules {
    networks: Vec<settings::Cidr>,
    authenticated: bool,
    domains: Vec<DomainPattern>,
    to_domains: Vec<DomainPattern>,
}

impl RelayRules {
    /// The rules of a configuration.
    pub fn new(config: &RelayConfig) -> Self {
        let patterns = |list: &[settings::Text<DomainPattern>]| list.iter().map(|p| p.0.clone()).collect();
        Self {
            networks: config.networks.clone(),
            authenticated: config.authenticated,
            domains: patterns(&config.domains),
            to_domains: patterns(&config.to_domains),
        }
    }

    /// True if the client may send to strangers: it is ours, by its address or as a user.
    pub fn trusts(&self, peer: Option<IpAddr>, user: Option<&str>) -> bool {
        (self.authenticated && user.is_some())
            || peer.is_some_and(|ip| self.networks.iter().any(|network| network.contains(ip)))
    }

    /// True if one who may send to strangers may send to this domain.
    pub fn reaches(&self, host: &Host) -> bool {
        match host {
            _ if self.to_domains.is_empty() => true,
            Host::Domain(domain) => {
                self.to_domains.iter().chain(&self.domains).any(|pattern| pattern.covers(domain))
            }
            Host::Literal(_) => false,
        }
    }

    /// The refusal, unless the client may send to this recipient. Nothing that stands in the local part, in
    /// MAIL or in HELO has a say.
    pub fn refusal(&self, peer: Option<IpAddr>, user: Option<&str>, recipient: &Recipient) -> Option<Reply> {
        let host = recipient.path.host();
        if let Host::Domain(domain) = host
            && self.domains.iter().any(|pattern| pattern.covers(domain))
        {
            return None;
        }
        if !self.trusts(peer, user) {
            return Some(Reply::new(550, (5, 7, 1), "relaying denied"));
        }
        let listed = |domain| self.to_domains.iter().any(|pattern: &DomainPattern| pattern.covers(domain));
        match host {
            _ if self.to_domains.is_empty() => None,
            Host::Domain(domain) if listed(domain) => None,
            _ => Some(Reply::new(550, (5, 7, 1), "relaying to this domain is not allowed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::Mailbox;

    #[test]
    fn only_the_listed_may_send_to_strangers() {
        let config = RelayConfig {
            networks: vec!["192.0.2.0/24".parse().unwrap()],
            domains: vec![settings::Text("ours.test".parse().unwrap())],
            ..RelayConfig::default()
        };
        let rules = RelayRules::new(&config);
        let allowed = |peer: &str, user: Option<&str>, to: &str| {
            rules
                .refusal(Some(peer.parse().unwrap()), user, &Recipient::new(Mailbox::parse(to).unwrap()))
                .is_none()
        };
        assert!(allowed("192.0.2.9", None, "a@far.test"));
        assert!(allowed("198.51.100.1", Some("u"), "a@far.test"));
        assert!(allowed("198.51.100.1", None, "a@OURS.test"));
        for to in [
            "a@far.test",
            "a%far.test@far.test",
            "far.test!a@far.test",
            "\"a@ours.test\"@far.test",
            "a@ours.test.far.test",
            "a@xours.test",
            "a@sub.ours.test",
            "a@[192.0.2.1]",
        ] {
            assert!(!allowed("198.51.100.1", None, to), "{to}");
        }
        let nothing = RelayRules::new(&RelayConfig::default());
        assert!(
            nothing
                .refusal(
                    Some("127.0.0.1".parse().unwrap()),
                    None,
                    &Recipient::new(Mailbox::parse("a@b.test").unwrap())
                )
                .is_some()
        );
    }

    #[test]
    fn trust_may_be_limited_to_some_domains() {
        let config = RelayConfig {
            to_domains: vec![settings::Text("*.far.test".parse().unwrap())],
            ..RelayConfig::default()
        };
        let rules = RelayRules::new(&config);
        let refused =
            |to: &str| rules.refusal(None, Some("u"), &Recipient::new(Mailbox::parse(to).unwrap())).is_some();
        assert!(!refused("a@x.far.test") && refused("a@far.test") && refused("a@[192.0.2.1]"));
    }
}
