//! The rules as compiled from the configuration: which limits a path has, which site a domain's mail goes to, and
//! what a reply means.

mod compile;
mod exchanger;
mod matcher;
mod profile;
mod shared;
mod site;
mod traced;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

pub use compile::Layer;
pub use exchanger::ExchangerLimit;
pub use matcher::{Rule, RuleKey};
pub use profile::{AdaptiveProfile, BackoffProfile, Caps, Profile, WarmupProfile};
pub(crate) use shared::Shared;
pub use site::SiteOf;
pub use traced::{Origin, SettingAt, Traced};

use crate::{Action, NamePattern, Stage};
use compile::{Entry, ScopeSet};

/// Profiles kept for scopes that no path has any more, before they are looked for and dropped.
const PROFILES_KEPT: usize = 1_024;

/// The compiled rules. Immutable but for a memory of the profiles it handed out.
#[derive(Debug, Default)]
pub struct Rules {
    /// Scopes for every path; of a level, the shipped layer's first.
    default: Vec<ScopeSet>,
    provider: HashMap<String, Vec<ScopeSet>>,
    site: HashMap<String, Vec<ScopeSet>>,
    domain: HashMap<String, Vec<ScopeSet>>,
    /// The less specific first.
    domain_pattern: Vec<(NamePattern, Vec<ScopeSet>)>,
    sites: site::Sites,
    shared: shared::SharedRules,
    exchangers: Vec<exchanger::Exchanger>,
    count: usize,
    profiles: Mutex<Profiles>,
}

#[derive(Debug, Default)]
struct Profiles {
    known: HashMap<Box<[u32]>, Arc<Profile>>,
    sweep_at: usize,
}

/// What decides which limits a path has.
#[derive(Clone, Copy, Debug)]
pub struct PathFacts<'a> {
    /// The site.
    pub site: &'a str,
    /// The provider it belongs to.
    pub provider: Option<&'a str>,
    /// Domains known to have their mail there; only those that [`Rules::names_domain`] knows matter.
    pub domains: &'a [&'a str],
    /// The pool the source was taken from; empty if from none.
    pub pool: &'a str,
    /// The egress source.
    pub source: &'a str,
}

/// What a rule makes of the reply's own class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treat {
    /// As a 4yz.
    Temporary,
    /// As a 5yz.
    Permanent,
}

/// Which rule matched a reply.
#[derive(Clone, Debug)]
pub struct RuleId(pub(crate) Arc<Rule>);

impl RuleId {
    /// The rule.
    pub fn rule(&self) -> &Arc<Rule> {
        &self.0
    }
}

impl PartialEq for RuleId {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for RuleId {}

/// A rule that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    /// Which.
    pub rule: RuleId,
    /// What it makes of the reply, at every match.
    pub treat: Option<Treat>,
}

/// The scopes of one level that hold for a path, the least specific first.
fn select<'a>(sets: &'a [ScopeSet], facts: &PathFacts<'_>) -> Vec<&'a Arc<Entry>> {
    sets.iter().flat_map(|set| set.select(facts.pool, facts.source)).collect()
}

impl Rules {
    /// How many reply rules there are.
    pub fn reply_rules(&self) -> usize {
        self.count
    }

    /// True if some scope is for this domain: such domains are to be told of in [`PathFacts::domains`].
    pub fn names_domain(&self, domain: &str) -> bool {
        self.domain.contains_key(domain)
            || self.domain_pattern.iter().any(|(pattern, _)| pattern.matches(domain))
    }

    /// What is in force on a path.
    pub fn profile(&self, facts: &PathFacts<'_>) -> Arc<Profile> {
        // The scopes of the path, general ones first; between domains, which are equally specific, a gap.
        let mut levels = vec![select(&self.default, facts)];
        let provider = facts.provider.and_then(|provider| self.provider.get(provider));
        levels.extend(provider.map(|sets| select(sets, facts)));
        levels.extend(self.site.get(facts.site).map(|sets| select(sets, facts)));
        let beside_from = levels.len();
        let mut domains: Vec<&str> = facts.domains.to_vec();
        domains.sort_unstable();
        domains.dedup();
        for domain in domains {
            let patterns = self.domain_pattern.iter().filter(|(pattern, _)| pattern.matches(domain));
            let sets = patterns.map(|(_, sets)| sets).chain(self.domain.get(domain));
            let entries: Vec<&Arc<Entry>> = sets.flat_map(|sets| select(sets, facts)).collect();
            if !entries.is_empty() {
                levels.push(entries);
            }
        }
        let mut key = Vec::new();
        for level in &levels {
            key.extend(level.iter().map(|entry| entry.id));
            key.push(u32::MAX);
        }
        let mut profiles = self.profiles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(profile) = profiles.known.get(key.as_slice()) {
            return profile.clone();
        }
        let profile = Arc::new(build(&levels, beside_from));
        if profiles.known.len() >= profiles.sweep_at.max(PROFILES_KEPT) {
            profiles.known.retain(|_, profile| Arc::strong_count(profile) > 1);
            profiles.sweep_at = profiles.known.len() * 2;
        }
        profiles.known.insert(key.into(), profile.clone());
        profile
    }

    /// Which rule a reply falls under, if any. Called where the reply came in: it needs no state.
    pub fn verdict(&self, profile: &Profile, stage: Stage, reply: &mail::Reply) -> Option<Fired> {
        if profile.rules.is_empty() {
            return None;
        }
        let (mut text, mut candidates) = (String::new(), Vec::new());
        replies::subject(reply, &mut text);
        let rule = profile.rules.iter().find_map(|matcher| matcher.first(stage, &text, &mut candidates))?;
        let treat = rule.actions.iter().find_map(|action| match action {
            Action::Temporary => Some(Treat::Temporary),
            Action::Permanent => Some(Treat::Permanent),
            _ => None,
        });
        Some(Fired { rule: RuleId(rule.clone()), treat })
    }
}

/// The levels from `beside_from` on are equally specific.
fn build(levels: &[Vec<&Arc<Entry>>], beside_from: usize) -> Profile {
    let mut merged = profile::Merged::default();
    let (general, beside) = levels.split_at(beside_from);
    general.iter().flatten().for_each(|entry| merged.over(&entry.limits));
    let mut domains = profile::Merged::default();
    for level in beside {
        let mut one = profile::Merged::default();
        level.iter().for_each(|entry| one.over(&entry.limits));
        domains.beside(&one);
    }
    merged.over(&domains);
    let entries = levels.iter().rev().flat_map(|level| level.iter().rev());
    Profile::new(&merged, entries.filter_map(|entry| entry.matcher.clone()).collect())
}

#[cfg(test)]
mod tests;
