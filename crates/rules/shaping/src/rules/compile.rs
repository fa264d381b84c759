//! From the tables of the configuration to rules.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use replies::{Pattern, Required};
use settings::{Place, show_key};

use super::exchanger::Exchanger;
use super::matcher::{Matcher, Rule, RuleKey};
use super::profile::Merged;
use super::traced::{Origin, SettingAt};
use super::{Rules, shared, site};
use crate::config::scope::Limits;
use crate::{NamePattern, ReplyRule, SelectedScope, ShapingConfig, Stage};

/// One layer of configuration: the shipped rules, or the operator's over them.
pub struct Layer<'a> {
    /// The table.
    pub config: &'a ShapingConfig,
    /// Where its places are.
    pub origin: &'a dyn Fn(Place) -> Origin,
}

/// What one scope says.
#[derive(Debug)]
pub struct Entry {
    /// Tells it from others.
    pub id: u32,
    /// Its limits.
    pub limits: Merged,
    /// Its reply rules.
    pub matcher: Option<Arc<Matcher>>,
}

/// A scope with what it says for pools and sources.
#[derive(Debug)]
pub struct ScopeSet {
    all: Arc<Entry>,
    pools: HashMap<String, Arc<Entry>>,
    sources: HashMap<String, Arc<Entry>>,
}

impl ScopeSet {
    /// Those that hold for a pool and a source, the most specific last.
    pub fn select(&self, pool: &str, source: &str) -> impl Iterator<Item = &Arc<Entry>> {
        [Some(&self.all), self.pools.get(pool), self.sources.get(source)].into_iter().flatten()
    }
}

type Wrong = (Place, String);

/// What is being made, and what is wrong so far.
struct Compiler<'a> {
    next: u32,
    count: usize,
    origin: &'a dyn Fn(Place) -> Origin,
    wrong: Vec<Wrong>,
}

impl Rules {
    /// Compiles layers, the shipped one first. A layer that does not want the shipped rules drops those before it.
    pub fn compile(layers: &[Layer<'_>]) -> Result<Self, Vec<Wrong>> {
        let first = layers.iter().rposition(|layer| !layer.config.shipped).unwrap_or_default();
        let layers = &layers[first..];
        let mut rules = Self::default();
        let mut compiler = Compiler { next: 0, count: 0, origin: &|_| Origin::built_in(), wrong: Vec::new() };
        for layer in layers {
            compiler.origin = layer.origin;
            compiler.layer(layer.config, &mut rules);
        }
        rules.domain_pattern.sort_by_key(|(pattern, _)| pattern.weight());
        let configs: Vec<&ShapingConfig> = layers.iter().map(|layer| layer.config).collect();
        rules.sites = site::Sites::new(&configs);
        rules.count = compiler.count;
        if compiler.wrong.is_empty() { Ok(rules) } else { Err(compiler.wrong) }
    }
}

impl Compiler<'_> {
    fn layer(&mut self, config: &ShapingConfig, rules: &mut Rules) {
        let d = &config.default;
        rules.default.push(self.set("shaping.default", &d.limits(), &d.pool, &d.source));
        for (name, scope) in &config.provider {
            let prefix = format!("shaping.provider.{}", show_key(name));
            let set = self.set(&prefix, &scope.limits(), &scope.pool, &scope.source);
            rules.provider.entry(name.clone()).or_default().push(set);
        }
        for (name, scope) in &config.site {
            let prefix = format!("shaping.site.{}", show_key(name));
            let set = self.set(&prefix, &scope.limits(), &scope.pool, &scope.source);
            rules.site.entry(name.to_ascii_lowercase()).or_default().push(set);
        }
        for (name, scope) in &config.domain {
            let prefix = format!("shaping.domain.{}", show_key(name));
            let set = self.set(&prefix, &scope.limits(), &scope.pool, &scope.source);
            match name.parse::<NamePattern>() {
                Ok(pattern) if !pattern.is_exact() => {
                    let known = rules.domain_pattern.iter_mut().find(|(known, _)| *known == pattern);
                    match known {
                        Some((_, sets)) => sets.push(set),
                        None => rules.domain_pattern.push((pattern, vec![set])),
                    }
                }
                _ => rules.domain.entry(name.to_ascii_lowercase()).or_default().push(set),
            }
        }
        shared::compile(config, self.origin, &mut rules.shared);
        for (name, scope) in &config.exchanger {
            rules.exchangers.retain(|known| known.name() != name.to_ascii_lowercase());
            rules.exchangers.extend(Exchanger::new(name, scope, self.origin));
        }
    }

    fn set(
        &mut self,
        prefix: &str,
        limits: &Limits,
        pools: &BTreeMap<String, SelectedScope>,
        sources: &BTreeMap<String, SelectedScope>,
    ) -> ScopeSet {
        let all = self.entry(prefix, limits);
        let mut selected = |kind: &str, scopes: &BTreeMap<String, SelectedScope>| {
            let entry = |(name, scope): (&String, &SelectedScope)| {
                let prefix = format!("{prefix}.{kind}.{}", show_key(name));
                (name.clone(), self.entry(&prefix, &scope.limits()))
            };
            scopes.iter().map(entry).collect()
        };
        let pools = selected("pool", pools);
        let sources = selected("source", sources);
        ScopeSet { all, pools, sources }
    }

    fn entry(&mut self, prefix: &str, limits: &Limits) -> Arc<Entry> {
        let id = self.next;
        self.next += 1;
        let mut list = Vec::with_capacity(limits.reply.len());
        for (n, reply) in limits.reply.iter().enumerate() {
            match self.rule(prefix, n, reply) {
                Ok(rule) => list.push(rule),
                Err(reason) => self.wrong.push((reply.r#match.place, reason)),
            }
        }
        self.count += list.len();
        let matcher = if list.is_empty() {
            None
        } else {
            match Matcher::new(list) {
                Ok(matcher) => Some(Arc::new(matcher)),
                Err(reason) => {
                    let place = limits.reply.first().map_or(Place::whole(0), |reply| reply.r#match.place);
                    self.wrong.push((place, format!("the reply rules of [{prefix}] are too many: {reason}")));
                    None
                }
            }
        };
        Arc::new(Entry { id, limits: Merged::of(limits, prefix, self.origin), matcher })
    }

    fn rule(
        &mut self,
        prefix: &str,
        n: usize,
        reply: &ReplyRule,
    ) -> Result<(Arc<Rule>, Vec<Required>), String> {
        let (pattern, options) = Pattern::new(&reply.r#match)?;
        let stages = Stage::set(&reply.stage);
        let actions: Box<[_]> = reply.actions().into();
        let mut hasher = DefaultHasher::new();
        let texts: Vec<String> = actions.iter().map(ToString::to_string).collect();
        (prefix, pattern.text(), stages, reply.when.to_string(), texts).hash(&mut hasher);
        let at = SettingAt {
            name: format!("{prefix}.reply[{n}]").into(),
            value: pattern.text().into(),
            origin: (self.origin)(reply.r#match.place),
        };
        let rule = Rule {
            key: RuleKey(hasher.finish()),
            name: reply.name.as_deref().unwrap_or(pattern.text()).into(),
            at: Arc::new(at),
            trigger: reply.when.0,
            actions,
            stages,
            pattern,
        };
        Ok((Arc::new(rule), options))
    }
}
