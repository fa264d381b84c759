//! The operator's word on TLS by recipient domain.

use crate::config::{TlsPolicyConfig, TlsUse};
use mail::Domain;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// One entry of the table, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsPolicy {
    /// Its key in the configuration.
    pub(crate) key: Box<str>,
    pub(crate) tls: TlsUse,
    pub(crate) names: Arc<[Box<str>]>,
}

/// `tls_policy`, by recipient domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsPolicies {
    exact: HashMap<Domain, Arc<TlsPolicy>>,
    below: HashMap<Domain, Arc<TlsPolicy>>,
    any: Option<Arc<TlsPolicy>>,
}

impl TlsPolicies {
    /// Reads the configuration; an error names the key.
    pub fn new(table: &BTreeMap<String, TlsPolicyConfig>) -> Result<Self, (String, String)> {
        let mut policies = Self::default();
        for (key, config) in table {
            let fault = |text: String| (key.clone(), text);
            let mut names = Vec::with_capacity(config.names.len());
            for name in &config.names {
                let name = Domain::parse(name).map_err(|e| fault(format!("`names`: {e}")))?;
                names.push(name.as_str().into());
            }
            let policy =
                Arc::new(TlsPolicy { key: key.as_str().into(), tls: config.tls, names: names.into() });
            let domain = |text: &str| Domain::parse(text).map_err(|e| fault(e.to_string()));
            match key.strip_prefix("*.") {
                Some(parent) => drop(policies.below.insert(domain(parent)?, policy)),
                None if key == "*" => policies.any = Some(policy),
                None => drop(policies.exact.insert(domain(key)?, policy)),
            }
        }
        Ok(policies)
    }

    /// The entry of a domain: its own, that of the nearest domain above, or that of all.
    pub(crate) fn of(&self, domain: &Domain) -> Option<&Arc<TlsPolicy>> {
        if let Some(policy) = self.exact.get(domain) {
            return Some(policy);
        }
        if !self.below.is_empty() {
            let mut rest = domain.as_str();
            while let Some((_, parent)) = rest.split_once('.') {
                rest = parent;
                if let Some(policy) = Domain::parse(parent).ok().and_then(|parent| self.below.get(&parent)) {
                    return Some(policy);
                }
            }
        }
        self.any.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_entry_holds() {
        let entry = |tls| TlsPolicyConfig { tls, names: Vec::new() };
        let mut table: BTreeMap<String, TlsPolicyConfig> = [
            ("a.test".to_owned(), entry(TlsUse::Verified)),
            ("*.a.test".to_owned(), entry(TlsUse::Required)),
            ("*.b.a.test".to_owned(), entry(TlsUse::Off)),
        ]
        .into();
        let word = |policies: &TlsPolicies, domain: &str| {
            policies.of(&Domain::parse(domain).unwrap()).map(|policy| policy.tls)
        };
        let policies = TlsPolicies::new(&table).unwrap();
        for (domain, tls) in [
            ("A.test", Some(TlsUse::Verified)),
            ("x.a.test", Some(TlsUse::Required)),
            ("x.b.a.test", Some(TlsUse::Off)),
            ("b.a.test", Some(TlsUse::Required)),
            ("xa.test", None),
        ] {
            assert_eq!(word(&policies, domain), tls, "{domain}");
        }
        table.insert("*".into(), entry(TlsUse::Opportunistic));
        assert_eq!(word(&TlsPolicies::new(&table).unwrap(), "xa.test"), Some(TlsUse::Opportunistic));
        table.insert("c.test".into(), TlsPolicyConfig { tls: TlsUse::Verified, names: vec!["a b".into()] });
        assert_eq!(TlsPolicies::new(&table).unwrap_err().0, "c.test");
        table.insert("bad domain".into(), entry(TlsUse::Off));
        assert_eq!(TlsPolicies::new(&table).unwrap_err().0, "bad domain");
    }
}
