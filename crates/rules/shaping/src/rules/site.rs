//! From a domain and its exchangers to the site that is limited as one.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::Rules;
use crate::{NamePattern, ShapingConfig};

/// Longest name made of exchangers, in octets; a longer one is its first exchanger and a number.
const SITE_NAME_MAX: usize = 200;

/// Where a domain's mail goes, as far as limits are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteOf {
    /// The site's name: its exchangers, a provider that is one site, or a domain that is one of its own.
    pub name: Arc<str>,
    /// The provider it belongs to.
    pub provider: Option<Arc<str>>,
}

#[derive(Debug)]
struct Provider {
    name: Arc<str>,
    exchangers: Vec<NamePattern>,
    domains: Vec<NamePattern>,
    rollup: bool,
}

/// What decides which site a domain's mail goes to.
#[derive(Debug, Default)]
pub struct Sites {
    providers: Vec<Provider>,
    /// Providers by domains that are no patterns.
    by_domain: HashMap<String, usize>,
    /// Whether a domain shares its exchangers' site.
    rollup: HashMap<String, bool>,
    rollup_pattern: Vec<(NamePattern, bool)>,
}

impl Sites {
    /// From layers, the shipped one first.
    pub fn new(layers: &[&ShapingConfig]) -> Self {
        let mut providers: BTreeMap<&str, Provider> = BTreeMap::new();
        let mut sites = Self::default();
        for config in layers {
            for (name, scope) in &config.provider {
                let provider = providers.entry(name).or_insert_with(|| Provider {
                    name: name.as_str().into(),
                    exchangers: Vec::new(),
                    domains: Vec::new(),
                    rollup: false,
                });
                if let Some(list) = &scope.exchangers {
                    provider.exchangers = list.iter().map(|pattern| pattern.0.clone()).collect();
                }
                if let Some(list) = &scope.domains {
                    provider.domains = list.iter().map(|pattern| pattern.0.clone()).collect();
                }
                provider.rollup = scope.rollup.unwrap_or(provider.rollup);
            }
            for (name, scope) in &config.domain {
                let Some(rollup) = scope.rollup else { continue };
                match name.parse::<NamePattern>() {
                    Ok(pattern) if !pattern.is_exact() => {
                        sites.rollup_pattern.retain(|(known, _)| *known != pattern);
                        sites.rollup_pattern.push((pattern, rollup));
                    }
                    _ => {
                        sites.rollup.insert(name.to_ascii_lowercase(), rollup);
                    }
                }
            }
        }
        sites.rollup_pattern.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.weight()));
        sites.providers = providers.into_values().collect();
        for (n, provider) in sites.providers.iter().enumerate() {
            for domain in provider.domains.iter().filter(|pattern| pattern.is_exact()) {
                sites.by_domain.entry(domain.as_str().to_string()).or_insert(n);
            }
        }
        sites
    }

    /// The provider with the most specific pattern for the domain, or else for all of its exchangers.
    fn provider(&self, domain: &str, exchangers: &[&str]) -> Option<&Provider> {
        if let Some(n) = self.by_domain.get(domain) {
            return self.providers.get(*n);
        }
        let heaviest = |patterns: &[NamePattern], name: &str| {
            patterns.iter().filter(|pattern| pattern.matches(name)).map(NamePattern::weight).max()
        };
        let best = |weigh: &dyn Fn(&Provider) -> Option<usize>| {
            let weighed = self.providers.iter().filter_map(|provider| Some((weigh(provider)?, provider)));
            // Of equals the first, which is the first by name.
            weighed.rev().max_by_key(|(weight, _)| *weight).map(|(_, provider)| provider)
        };
        best(&|provider| heaviest(&provider.domains, domain)).or_else(|| {
            best(&|provider| {
                let weights = exchangers.iter().map(|exchanger| heaviest(&provider.exchangers, exchanger));
                weights.collect::<Option<Vec<usize>>>()?.into_iter().min()
            })
        })
    }

    fn rollup(&self, domain: &str) -> bool {
        let pattern = || self.rollup_pattern.iter().find(|(pattern, _)| pattern.matches(domain));
        self.rollup.get(domain).copied().or_else(|| pattern().map(|(_, rollup)| *rollup)).unwrap_or(true)
    }
}

impl Rules {
    /// The site of a domain. `exchangers` are the names of those of its lowest preference, which share limits with
    /// every other domain of just the same ones; a domain without any is a site of its own.
    pub fn site(&self, domain: &str, exchangers: &[&str]) -> SiteOf {
        let plain = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
        let domain = plain(domain);
        let mut hosts: Vec<String> = exchangers.iter().map(|host| plain(host)).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let provider = self.sites.provider(&domain, &names);
        let name = if !self.sites.rollup(&domain) || hosts.is_empty() {
            domain.into()
        } else if let Some(provider) = provider.filter(|provider| provider.rollup) {
            provider.name.clone()
        } else {
            site_name(&hosts)
        };
        SiteOf { name, provider: provider.map(|provider| provider.name.clone()) }
    }
}

/// Sorted names as one: `mx1.example.net,mx2.example.net`.
fn site_name(hosts: &[String]) -> Arc<str> {
    let joined = hosts.join(",");
    if joined.len() <= SITE_NAME_MAX {
        return joined.into();
    }
    let mut hasher = DefaultHasher::new();
    hosts.hash(&mut hasher);
    let first = hosts.first().map_or("", String::as_str);
    format!("{first}+{}#{:08x}", hosts.len() - 1, hasher.finish() as u32).into()
}
