//! The machine that says what may go now: it knows every path, what was sent there, and what the receivers said.
//!
//! [`Shaper`] has one owner and reads no clock. A dispatcher asks it for connections and messages; each answer
//! is a permit, to be spent or given back, or a [`Hold`] that names the gate, the setting and the time. What came of
//! each message is reported, and [`Shaper::report`] answers with the [`Effect`]s that are the caller's to carry
//! out. `explain` asks [`Shaper::gates`], which walks the checks that [`Shaper::ask_message`] walks.

mod adaptive;
mod connections;
mod counts;
mod hold;
mod messages;
mod permit;
mod replay;
mod report;
mod saved;
mod state;
mod suspension;
#[cfg(test)]
mod tests;
mod trigger;
mod wake;
mod wall;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use hold::{Cause, Effect, Gate, GateState, Hold, HoldScope, Left};
pub use messages::MessageFacts;
pub use permit::Permit;
pub use report::Attempted;
pub use saved::{
    SavedCause, SavedCount, SavedPath, SavedQueue, SavedSender, SavedSlow, SavedSource, SavedState,
    SavedWarm, SavedWindow, Snapshot,
};
pub use state::{PathKey, WindowKind};
pub use suspension::{Listed, QueueName, Release};
pub use wake::Woken;

use crate::{Charge, Ledger, MemoryLedger, PathFacts, Profile, Rules};
use counts::Counts;
use permit::Permits;
use state::{PathState, Paths, Suspension, adjust};
use wake::Timed;
use wall::SteadyWall;

/// Forgotten paths whose warm-up or adaptive rate is kept. Beyond it such a path is not forgotten.
const COLD_MAX: usize = 500_000;

/// Whether a path is under its normal limits.
#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    /// Yes.
    Normal,
    /// No.
    Backoff {
        /// Since when.
        since: Instant,
        /// When it ends at the latest.
        until: Instant,
        /// Which rule began it, on which reply.
        by: Arc<Cause>,
    },
}

/// One source.
#[derive(Debug, Default)]
struct Source {
    paths: HashMap<Arc<str>, PathKey>,
    disabled: Option<Disabled>,
}

/// Why a source sends nothing.
#[derive(Clone, Debug)]
struct Disabled {
    since: Instant,
    until: Option<Instant>,
    by: Arc<Cause>,
}

/// What one window or count a charge is for.
#[derive(Clone, Copy, Debug)]
enum Due {
    /// The n-th window of the path.
    Path(u32),
    /// The n-th window of a shared count.
    Count(u32, u32),
}

/// What is remembered of a path that is not open.
#[derive(Debug)]
struct Cold {
    saved_at: Instant,
    path: SavedPath,
}

/// What all sites tolerate, and what they were sent.
pub struct Shaper {
    rules: Arc<Rules>,
    /// Counts the reloads, so that shared counts know whether they fit the rules.
    epoch: u32,
    ledger: Box<dyn Ledger + Send>,
    paths: Paths,
    sources: HashMap<Arc<str>, Source>,
    /// Sources that are disabled: mostly none, and then nobody looks.
    disabled: usize,
    permits: Permits,
    counts: Counts,
    queues: HashMap<u32, (QueueName, Suspension)>,
    /// Suspended queues that the dispatcher does not have at present.
    parked: HashMap<QueueName, Suspension>,
    /// Tenants and campaigns suspended at a site.
    senders: HashMap<Box<str>, suspension::Sender>,
    timers: BinaryHeap<Reverse<Timed>>,
    /// Paths that woke and were not handed out yet.
    woken: VecDeque<PathKey>,
    /// When the last were handed out.
    woken_at: Option<Instant>,
    /// Paths that wait for the next day of their warm-up.
    warming: Vec<PathKey>,
    wall: SteadyWall,
    cold: HashMap<(Arc<str>, Arc<str>), Cold>,
    // Room to work in, so that asking allocates nothing.
    charges: Vec<Charge>,
    dues: Vec<Due>,
    key: String,
}

impl Shaper {
    /// A shaper that has sent nothing yet, counting in memory.
    pub fn new(rules: Arc<Rules>) -> Self {
        Self::with_ledger(rules, Box::new(MemoryLedger::new()))
    }

    /// The same with another ledger.
    pub fn with_ledger(rules: Arc<Rules>, ledger: Box<dyn Ledger + Send>) -> Self {
        Self {
            rules,
            epoch: 0,
            ledger,
            paths: Paths::default(),
            sources: HashMap::new(),
            disabled: 0,
            permits: Permits::default(),
            counts: Counts::default(),
            queues: HashMap::new(),
            parked: HashMap::new(),
            senders: HashMap::new(),
            timers: BinaryHeap::new(),
            woken: VecDeque::new(),
            woken_at: None,
            warming: Vec::new(),
            wall: SteadyWall::default(),
            cold: HashMap::new(),
            charges: Vec::new(),
            dues: Vec::new(),
            key: String::new(),
        }
    }

    /// The rules in force.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// New rules, from a reload. Windows of a rate that stays keep what was spent, and every state stays.
    pub fn set_rules(&mut self, now: Instant, rules: Arc<Rules>) {
        self.rules = rules;
        self.epoch = self.epoch.wrapping_add(1);
        let keys: Vec<PathKey> = self.paths.keys().collect();
        for key in keys {
            self.fit(now, key);
        }
    }

    /// The path of a source to a site; opened if it is not. Domains that are new to it are added.
    pub fn path(&mut self, now: Instant, facts: &PathFacts<'_>) -> PathKey {
        self.woken_at.get_or_insert(now);
        let known = self.sources.get(facts.source).and_then(|source| source.paths.get(facts.site)).copied();
        if let Some(key) = known {
            let path = &self.paths[key];
            let new = |domain: &&&str| {
                self.rules.names_domain(domain) && !path.domains.iter().any(|known| **known == ***domain)
            };
            let new: Vec<&str> = facts.domains.iter().filter(new).copied().collect();
            if !new.is_empty() {
                let mut domains = path.domains.to_vec();
                domains.extend(new.into_iter().map(Arc::from));
                self.paths[key].domains = domains.into();
                self.fit(now, key);
            }
            return key;
        }
        let source: Arc<str> = match self.sources.get_key_value(facts.source) {
            Some((source, _)) => source.clone(),
            None => facts.source.into(),
        };
        let site: Arc<str> = facts.site.into();
        let named = facts.domains.iter().filter(|domain| self.rules.names_domain(domain));
        let path = PathState {
            source: source.clone(),
            site: site.clone(),
            provider: facts
                .provider
                .map(|provider| if provider == facts.site { site.clone() } else { provider.into() }),
            pool: facts.pool.into(),
            domains: named.map(|domain| Arc::from(*domain)).collect(),
            profile: self.rules.profile(facts),
            open: 0,
            connecting: 0,
            failures: 0,
            unreachable_until: None,
            ramp_from: None,
            windows: Box::default(),
            counts: Box::default(),
            by_sender: Box::default(),
            opening: Vec::new(),
            out: 0,
            timer: None,
            rare: None,
        };
        let key = self.paths.insert(path);
        self.sources.entry(source.clone()).or_default().paths.insert(site.clone(), key);
        let cold = self.cold.remove(&(source, site));
        if let Some(cold) = &cold {
            self.thaw_states(now, key, cold);
        }
        self.fit(now, key);
        if let Some(cold) = &cold {
            self.thaw_windows(now, key, cold);
        }
        key
    }

    /// The domains known to have their mail at a path's site, in place of those known before.
    pub fn set_domains(&mut self, now: Instant, key: PathKey, domains: &[&str]) {
        let named = domains.iter().filter(|domain| self.rules.names_domain(domain));
        let domains: Box<[Arc<str>]> = named.map(|domain| Arc::from(*domain)).collect();
        if domains != self.paths[key].domains {
            self.paths[key].domains = domains;
            self.fit(now, key);
        }
    }

    /// Fits a path to what the rules say of it and to its mode.
    fn fit(&mut self, now: Instant, key: PathKey) {
        let path = &self.paths[key];
        let domains: Vec<&str> = path.domains.iter().map(|domain| &**domain).collect();
        let profile = self.rules.profile(&PathFacts { domains: &domains, ..path.facts() });
        let path = &mut self.paths[key];
        path.profile = profile;
        let adaptive = path.profile.adaptive.as_ref().map(|profile| {
            let rate =
                path.rare.as_ref().and_then(|rare| rare.adaptive.as_ref()).map(adaptive::Adaptive::rate);
            adaptive::Adaptive::new(now, profile, rate)
        });
        match (&mut path.rare, adaptive) {
            (Some(rare), adaptive) => rare.adaptive = adaptive,
            (None, Some(adaptive)) => path.rare().adaptive = Some(adaptive),
            (None, None) => {}
        }
        self.fit_windows(key);
        self.fit_counts(now, key);
    }

    /// Gives a path the windows of its profile and mode.
    fn fit_windows(&mut self, key: PathKey) {
        let path = &mut self.paths[key];
        let wanted = path.wanted();
        adjust(&mut *self.ledger, &mut path.windows, &wanted);
        path.scale(&mut *self.ledger);
    }

    /// Charges a path to the shared counts that the rules say.
    fn fit_counts(&mut self, now: Instant, key: PathKey) {
        let (rules, path) = (&self.rules, &self.paths[key]);
        let facts = path.facts();
        let (mut by_sender, mut ids) = (Vec::new(), Vec::new());
        for index in rules.shared_by(&facts) {
            let Some(limit) = rules.shared(index) else { continue };
            if limit.by_sender() {
                by_sender.push(index);
                continue;
            }
            limit.write_key(&facts, None, None, &mut self.key);
            let limit = (index, limit, self.epoch);
            ids.push(self.counts.resolve(now, &mut *self.ledger, limit, &mut self.key));
        }
        let path = &mut self.paths[key];
        path.by_sender = by_sender.into();
        let old = std::mem::replace(&mut path.counts, ids.into());
        let open = path.open;
        for id in &path.counts {
            if let Some(count) = self.counts.get_mut(*id) {
                count.paths += 1;
                count.open += open;
            }
        }
        leave(&mut self.counts, &old, open);
    }

    /// Forgets a path that has nothing open and knows nothing that a new one would not; true if it is not known then.
    pub fn forget_if_idle(&mut self, now: Instant, key: PathKey) -> bool {
        let ledger = &mut self.ledger;
        let Some(path) = self.paths.get_mut(key) else { return true };
        let mut keep = false;
        let busy_rare = path.rare.as_mut().is_some_and(|rare| {
            keep = rare.adaptive.is_some() || rare.warm.as_ref().is_some_and(|warm| warm.began.is_some());
            rare.backoff.is_some()
                || rare.suspended.is_some()
                || rare.slow.is_some()
                || rare.warm.as_ref().is_some_and(|warm| warm.out > 0)
                || !rare.triggers.is_empty(now)
        });
        let busy = path.open > 0
            || path.connecting > 0
            || path.out > 0
            || busy_rare
            || path.unreachable_until.is_some_and(|until| until > now)
            || path.windows.iter().any(|window| ledger.used(now, window.key).0 > 0);
        if busy || (keep && self.cold.len() >= COLD_MAX) {
            return false;
        }
        if keep {
            let saved = self.save_path(now, key);
            let path = &self.paths[key];
            self.cold.insert((path.source.clone(), path.site.clone()), Cold { saved_at: now, path: saved });
        }
        let Some(path) = self.paths.remove(key) else { return false };
        path.windows.iter().for_each(|window| self.ledger.close(window.key));
        leave(&mut self.counts, &path.counts, 0);
        if let Some(source) = self.sources.get_mut(&path.source) {
            source.paths.remove(&path.site);
            if source.paths.is_empty() && source.disabled.is_none() {
                self.sources.remove(&path.source);
            }
        }
        true
    }

    /// What is in force on a path.
    pub fn profile(&self, key: PathKey) -> &Arc<Profile> {
        &self.paths[key].profile
    }

    /// The source and the site of a path.
    pub fn names(&self, key: PathKey) -> (&Arc<str>, &Arc<str>) {
        let path = &self.paths[key];
        (&path.source, &path.site)
    }

    /// Whether a path is under its normal limits.
    pub fn mode(&self, key: PathKey) -> Mode {
        match self.paths[key].backoff() {
            None => Mode::Normal,
            Some(backoff) => {
                Mode::Backoff { since: backoff.since, until: backoff.until, by: backoff.by.clone() }
            }
        }
    }

    /// The waits after each attempt of a recipient: those of backoff while the path is in it.
    pub fn retry_waits(&self, key: PathKey) -> Option<&[Duration]> {
        let path = &self.paths[key];
        let backoff = path.backoff().and(path.profile.backoff.retry_waits.as_ref());
        backoff.or(path.profile.retry_waits.as_ref()).map(|set| set.value.as_slice())
    }

    /// The present adaptive rate of a path: messages in the window of its greatest rate.
    pub fn adaptive_limit(&self, key: PathKey) -> Option<u64> {
        self.paths[key].rare.as_ref()?.adaptive.as_ref().map(adaptive::Adaptive::limit)
    }

    /// What the rates of a path are multiplied by; 1 if it was not slowed down.
    pub fn slowness(&self, key: PathKey) -> f64 {
        self.paths[key].slowness()
    }

    /// Every open path.
    pub fn paths(&self) -> impl Iterator<Item = PathKey> {
        self.paths.keys()
    }

    /// How many paths are open, how many shared counts there are, and how many permits are out.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.paths.len(), self.counts.len(), self.permits.out())
    }
}

/// Takes a path off its counts.
fn leave(counts: &mut Counts, ids: &[u32], open: u32) {
    for id in ids {
        if let Some(count) = counts.get_mut(*id) {
            count.paths = count.paths.saturating_sub(1);
            count.open = count.open.saturating_sub(open);
        }
    }
}
