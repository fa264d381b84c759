//! Sources and pools as configured: the rules' view of them, and the sockets' view.

use crate::config::{PoolConfig, SourceConfig};
use dispatch::{Egress, Pool, Source, SourceAt};
use net::tls::{CertificateError, Connector, ConnectorConfig};
use net::{EgressSource, Upstream};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most sources or pools.
const MAX: usize = 10_000;

/// One source, ready to dial from.
#[derive(Clone)]
pub struct ReadySource {
    /// Where connections come from.
    pub(crate) egress: EgressSource,
    /// What it calls itself.
    pub(crate) ehlo_name: Box<str>,
    /// TLS with its own certificate; `None` is everybody's.
    pub(crate) connector: Option<Connector>,
}

/// All sources and pools.
#[derive(Clone)]
pub struct Sources {
    /// As the rules see them.
    pub egress: Egress,
    pub(crate) ready: Vec<ReadySource>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("egress", &self.egress).finish_non_exhaustive()
    }
}

/// A pool or source that is not as it should be: where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    /// Keys of the configuration, such as `pool.bulk.sources.a`.
    pub at: String,
    /// What is wrong.
    pub text: String,
}

impl std::fmt::Display for SourceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.at, self.text)
    }
}

impl std::error::Error for SourceError {}

/// The pools and sources by name, without touching a file.
pub fn egress(
    sources: &BTreeMap<String, SourceConfig>,
    pools: &BTreeMap<String, PoolConfig>,
    default_pool: Option<&str>,
) -> Result<Egress, SourceError> {
    let fault = |at: String, text: String| SourceError { at, text };
    if sources.len() > MAX || pools.len() > MAX {
        return Err(fault("source".into(), format!("at most {MAX} sources and pools")));
    }
    if sources.is_empty() {
        if let Some((name, _)) = pools.first_key_value() {
            return Err(fault(
                format!("pool.{name}"),
                "a pool needs sources: there is no table `source`".into(),
            ));
        }
        return Ok(Egress::default());
    }
    let names: Vec<&String> = sources.keys().collect();
    let place = |name: &str| names.binary_search_by(|known| known.as_str().cmp(name)).ok();
    let mut list: Vec<Pool> = Vec::with_capacity(pools.len() + sources.len());
    for (name, pool) in pools {
        let mut members = Vec::with_capacity(pool.sources.len());
        for (source, weight) in &pool.sources {
            let Some(at) = place(source) else {
                let near = settings::nearest(source, names.iter().map(|name| name.as_str()));
                let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                return Err(fault(
                    format!("pool.{name}.sources.{source}"),
                    format!("there is no source `{source}`{hint}"),
                ));
            };
            members.push((SourceAt(at as u16), *weight));
        }
        list.push(Pool { name: name.as_str().into(), sources: members });
    }
    // A source's name stands for a pool of that source alone: PowerMTA's virtual MTAs are named like that.
    for (at, name) in names.iter().enumerate() {
        if !pools.contains_key(*name) {
            list.push(Pool { name: name.as_str().into(), sources: vec![(SourceAt(at as u16), 1)] });
        }
    }
    let wanted = default_pool.unwrap_or("default");
    match list.iter().position(|pool| &*pool.name == wanted) {
        Some(at) => list.swap(0, at),
        None if default_pool.is_some() => {
            let near = settings::nearest(wanted, list.iter().map(|pool| &*pool.name));
            let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            return Err(fault("delivery.default_pool".into(), format!("there is no pool `{wanted}`{hint}")));
        }
        None => {
            let all = (0..names.len()).map(|at| (SourceAt(at as u16), 1)).collect();
            list.insert(0, Pool { name: "default".into(), sources: all });
        }
    }
    let sources = sources
        .iter()
        .map(|(name, config)| Source { name: name.as_str().into(), enabled: config.enabled })
        .collect();
    Ok(Egress { sources, pools: list })
}

impl Sources {
    /// Reads certificates, and makes all of it ready.
    pub fn new(
        sources: &BTreeMap<String, SourceConfig>,
        egress: Egress,
        ehlo_name: &str,
        tls: &ConnectorConfig,
    ) -> Result<Self, CertificateError> {
        if sources.is_empty() {
            let egress_source = EgressSource { name: "default".into(), ..EgressSource::default() };
            let ready = ReadySource { egress: egress_source, ehlo_name: ehlo_name.into(), connector: None };
            return Ok(Self { egress, ready: vec![ready] });
        }
        let ready = sources
            .iter()
            .map(|(name, config)| {
                let upstream = match (config.socks5, config.proxy) {
                    (Some(address), _) => Some(Upstream::Socks5 {
                        address,
                        credentials: config
                            .socks5_user
                            .as_deref()
                            .zip(config.socks5_password.as_deref())
                            .map(|(user, password)| (user.into(), password.into())),
                    }),
                    (None, Some(address)) => {
                        Some(Upstream::Proxy { address, v4: config.proxy_v4, v6: config.proxy_v6 })
                    }
                    (None, None) => None,
                };
                let client = config.certificate.clone().zip(config.key.clone());
                let connector = match client {
                    Some(client) => {
                        let own = ConnectorConfig { client: Some(client), ..tls.clone() };
                        Some(Connector::new(&own)?)
                    }
                    None => None,
                };
                Ok(ReadySource {
                    egress: EgressSource {
                        name: name.as_str().into(),
                        v4: config.v4,
                        v6: config.v6,
                        upstream,
                    },
                    ehlo_name: config.ehlo_name.as_deref().unwrap_or(ehlo_name).into(),
                    connector,
                })
            })
            .collect::<Result<Vec<_>, CertificateError>>()?;
        Ok(Self { egress, ready })
    }

    /// A source by its place; after a reload that removed it, the first.
    pub(crate) fn get(&self, at: SourceAt) -> &ReadySource {
        // There is always one: `new` makes it.
        self.ready.get(usize::from(at.0)).unwrap_or(&self.ready[0])
    }

    /// The names of all pools.
    pub fn pool_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.egress.pools.iter().map(|pool| &pool.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> SourceConfig {
        SourceConfig::default()
    }

    fn sources(names: &[&str]) -> BTreeMap<String, SourceConfig> {
        names.iter().map(|name| (name.to_string(), source())).collect()
    }

    fn pool(members: &[(&str, u32)]) -> PoolConfig {
        PoolConfig { sources: members.iter().map(|(name, weight)| (name.to_string(), *weight)).collect() }
    }

    #[test]
    fn without_sources_there_is_one() {
        assert_eq!(egress(&BTreeMap::new(), &BTreeMap::new(), None).unwrap(), Egress::default());
    }

    #[test]
    fn every_source_is_a_pool_and_the_default_is_first() {
        let pools: BTreeMap<String, PoolConfig> = [("bulk".to_string(), pool(&[("a", 3), ("b", 1)]))].into();
        let found = egress(&sources(&["a", "b"]), &pools, None).unwrap();
        let names: Vec<&str> = found.pools.iter().map(|pool| &*pool.name).collect();
        assert_eq!(names, ["default", "bulk", "a", "b"]);
        assert_eq!(found.pools[0].sources.len(), 2);
        let found = egress(&sources(&["a", "b"]), &pools, Some("bulk")).unwrap();
        assert_eq!(&*found.pools[0].name, "bulk");
    }

    #[test]
    fn a_name_that_is_not_there_is_told_with_the_nearest() {
        let pools: BTreeMap<String, PoolConfig> = [("bulk".to_string(), pool(&[("ip1x", 1)]))].into();
        let error = egress(&sources(&["ip1", "other"]), &pools, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pool.bulk.sources.ip1x: there is no source `ip1x`; did you mean `ip1`?"
        );
        let error = egress(&sources(&["ip1"]), &BTreeMap::new(), Some("bulk")).unwrap_err();
        assert_eq!(error.at, "delivery.default_pool");
    }
}
