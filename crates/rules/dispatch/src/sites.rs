//! Sites: asked for, found, bound to the queues of their domains, and refused or given up.

use crate::act::{Action, ConnectionId};
use crate::egress::PoolAt;
use crate::state::{Binding, Dispatch, Ending, GroupState, SiteKey, SiteState, TargetKey, Wake};
use crate::target::Target;
use mail::Reply;
use queue::{LineKey, Rank};
use std::cmp::Reverse;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a look-up of a target's site gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteFound {
    /// The most preferred exchangers' names, sorted, and how long that holds.
    Exchangers(Vec<Arc<str>>, Duration),
    /// The same of a target that asks something of its connections: they carry no mail of a target that asks for
    /// anything else, or for nothing. The text stands for what is asked.
    Apart(Vec<Arc<str>>, Arc<str>, Duration),
    /// Mail can never be delivered there, and how long that holds.
    Refused(Reply, Duration),
    /// Nobody could tell.
    Failed(Reply),
}

impl Dispatch {
    pub(crate) fn want_site(&mut self, key: TargetKey) {
        let Some(target) = self.target_mut(key) else { return };
        if !target.asked && !std::mem::replace(&mut target.wants_site, true) {
            self.to_resolve.push_back(key);
        }
    }

    /// Asks for the sites of targets that want one, as many at a time as may be.
    pub(crate) fn resolve(&mut self, now: Instant) {
        while self.resolving < self.config.resolving_max
            && let Some(key) = self.to_resolve.pop_front()
        {
            let Some(target) = self.target_mut(key) else { continue };
            target.wants_site = false;
            match target.target() {
                // The operator, or the address itself, says where it goes.
                Some(Target::Route(_) | Target::Literal(_)) => {
                    let name = target.name.clone();
                    self.bind(now, key, &name, &[], None, Duration::MAX);
                    self.forget_unused_target(now, key);
                }
                Some(asks @ Target::Domain(_)) => {
                    target.asked = true;
                    self.resolving += 1;
                    self.actions.push(Action::Resolve(asks));
                }
                None => {}
            }
        }
    }

    /// A look-up is over.
    pub fn site_found(&mut self, now: Instant, target: &Target, found: SiteFound) {
        self.resolving = self.resolving.saturating_sub(1);
        let Some(key) = self.target_key(target) else { return };
        if let Some(target) = self.target_mut(key) {
            target.asked = false;
        }
        match found {
            SiteFound::Exchangers(exchangers, holds) => {
                let hosts: Vec<&str> = exchangers.iter().map(|host| &**host).collect();
                let domain = target.to_string();
                self.bind(now, key, &domain, &hosts, None, holds);
            }
            SiteFound::Apart(exchangers, asks, holds) => {
                let hosts: Vec<&str> = exchangers.iter().map(|host| &**host).collect();
                let domain = target.to_string();
                self.bind(now, key, &domain, &hosts, Some(&asks), holds);
            }
            SiteFound::Refused(reply, holds) => {
                self.unbind(now, key);
                let until = now + holds.clamp(self.config.site_known_for.1, self.config.site_known_for.0);
                if let Some(state) = self.target_mut(key) {
                    state.binding = Binding::Refused { reply: Box::new(reply), until };
                    for line in state.lines.clone() {
                        self.refuse_line(line);
                    }
                }
                self.wakes.push(Reverse((until, Wake::Target(key))));
            }
            SiteFound::Failed(reply) => self.site_failed(now, key, reply),
        }
        self.forget_unused_target(now, key);
    }

    /// Its mail may have ended while its site was asked for.
    fn forget_unused_target(&mut self, now: Instant, key: TargetKey) {
        if self.target(key).is_some_and(|target| target.lines.is_empty()) {
            self.forget_target(now, key);
        }
    }

    /// Mail for a target cannot leave for a reason of its own, whatever its site does: all of it waits a while, then
    /// its site is asked for again and one message tries.
    pub fn target_failed(&mut self, now: Instant, target: &Target, reply: Reply) {
        let Some(key) = self.target_key(target) else { return };
        let failed_before = self.target(key).map_or(0, |state| state.failed_before);
        let (first, longest) = self.config.resolve_again;
        let wait = first.saturating_mul(1 << failed_before.min(20)).min(longest);
        let until = now + wait;
        self.unbind(now, key);
        let Some(state) = self.target_mut(key) else { return };
        state.failed_before = failed_before.saturating_add(1);
        state.binding = Binding::Failed { reply: Box::new(reply), until, failures: failed_before + 1 };
        self.wakes.push(Reverse((until, Wake::Target(key))));
        self.forget_unused_target(now, key);
    }

    /// A connection for a target's mail is as it wants them.
    pub(crate) fn target_served(&mut self, id: ConnectionId) {
        let Some(at) = self.owners.get(&id) else { return };
        let line = self.path(*at).and_then(|path| path.connections.iter().find(|line| line.id == id));
        let lines: Vec<LineKey> =
            line.map(|line| line.jobs.iter().map(|job| job.line).collect()).unwrap_or_default();
        for line in lines {
            let target = self.line(line).map(|line| line.name.target);
            if let Some(state) = target.and_then(|target| self.target_mut(target)) {
                state.failed_before = 0;
            }
        }
    }

    fn site_failed(&mut self, now: Instant, key: TargetKey, reply: Reply) {
        let (first, longest) = self.config.resolve_again;
        let Some(state) = self.target_mut(key) else { return };
        let failures = match &mut state.binding {
            // A site that was known yesterday is a better guess than none.
            Binding::Bound { until, .. } => {
                *until = now + longest;
                return;
            }
            Binding::Failed { failures, .. } => failures.saturating_add(1),
            Binding::Unknown | Binding::Refused { .. } => 1,
        };
        let wait = first.saturating_mul(1 << (failures - 1).min(20)).min(longest);
        let until = now + wait;
        state.binding = Binding::Failed { reply: Box::new(reply.clone()), until, failures };
        let lines = state.lines.clone();
        self.wakes.push(Reverse((until, Wake::Target(key))));
        // One message makes the attempt that failed; the others wait in line without one, and so does what an order
        // holds.
        let attempted = lines.into_iter().find_map(|line| {
            self.look_at_orders(line);
            if self.queue.is_aside(line) { None } else { self.job_without_path(line) }
        });
        if let Some(job) = attempted {
            self.settle(job, crate::Fate::Deferred(reply, wait));
        }
    }

    /// A target's site is known.
    fn bind(
        &mut self,
        now: Instant,
        key: TargetKey,
        domain: &str,
        hosts: &[&str],
        asks: Option<&str>,
        holds: Duration,
    ) {
        let of = self.rules.site(domain, hosts);
        let (longest, shortest) = self.config.site_known_for;
        let until = now + holds.clamp(shortest, longest);
        let site = self.site_for(of.name, of.provider);
        let Some(state) = self.target_mut(key) else { return };
        let mut set = DefaultHasher::new();
        hosts.hash(&mut set);
        asks.hash(&mut set);
        state.exchangers = set.finish();
        if let Binding::Bound { site: known, until: ends } = &mut state.binding
            && *known == site
        {
            *ends = until;
            return self.touch(site);
        }
        self.unbind(now, key);
        if let Some(state) = self.target_mut(key) {
            state.binding = Binding::Bound { site, until };
        }
        if let Some(site) = self.site_mut(site) {
            site.targets += 1;
        }
        if self.rules.names_domain(domain) {
            self.domain_came(now, site, domain);
        }
        for line in self.target(key).map(|state| state.lines.clone()).unwrap_or_default() {
            self.bind_line(now, line, site);
        }
        self.touch(site);
    }

    /// A domain that rules name came to a site: its rules hold there from now on.
    fn domain_came(&mut self, now: Instant, key: SiteKey, domain: &str) {
        let Some(site) = self.site_mut(key) else { return };
        if site.domains.iter().any(|known| &**known == domain) {
            return;
        }
        site.domains.push(domain.into());
        site.domains.sort_unstable();
        let domains: Vec<Arc<str>> = site.domains.clone();
        let names: Vec<&str> = domains.iter().map(|domain| &**domain).collect();
        for (_, at) in site.paths.clone() {
            if let Some(path) = self.path(at).map(|path| path.key) {
                self.shaper.set_domains(now, path, &names);
            }
        }
    }

    /// A target's site is not known any more.
    fn unbind(&mut self, now: Instant, key: TargetKey) {
        let Some(state) = self.target_mut(key) else { return };
        let Binding::Bound { site, .. } = std::mem::replace(&mut state.binding, Binding::Unknown) else {
            return;
        };
        for line in state.lines.clone() {
            self.unbind_line(line, site);
        }
        if let Some(state) = self.site_mut(site) {
            state.targets -= 1;
        }
        // Nothing may happen at it any more that would tell.
        self.list_idle_site(now, site);
    }

    fn site_for(&mut self, name: Arc<str>, provider: Option<Arc<str>>) -> SiteKey {
        if let Some(&key) = self.site_keys.get(&name) {
            return key;
        }
        let state = SiteState {
            name: name.clone(),
            provider,
            domains: Vec::new(),
            groups: Vec::new(),
            paths: Vec::new(),
            targets: 0,
            wants_connection: false,
            shares: false,
            listed_idle: false,
            turn: 0,
            wake_at: None,
        };
        let key = SiteKey(Self::insert(&mut self.sites, &mut self.free_sites, state));
        self.site_keys.insert(name, key);
        key
    }

    pub(crate) fn bind_line(&mut self, now: Instant, line: LineKey, site: SiteKey) {
        let Some(name) = self.line(line).map(|line| line.name) else { return };
        let known = self.site(site).and_then(|site| site.groups.iter().position(|g| g.pool == name.pool));
        let at = match known {
            Some(at) => at,
            None => {
                let key = self.queue.add_group();
                let Some(state) = self.site_mut(site) else { return };
                // Nearly every site has mail by one pool.
                state.groups.reserve_exact(1);
                state.groups.push(GroupState {
                    pool: name.pool,
                    key,
                    turns: crate::egress::Turns::default(),
                    lines: 0,
                    hold: None,
                });
                state.groups.len() - 1
            }
        };
        let Some(state) = self.site_mut(site) else { return };
        state.groups[at].lines += 1;
        let group = state.groups[at].key;
        let weight = self.tenants.get(name.tenant).and_then(|tenant| self.config.weights.get(&**tenant));
        let rank =
            Rank { group, tenant: name.tenant, weight: weight.copied().unwrap_or(1), class: name.class };
        self.queue.set_rank(line, Some(rank));
        self.set_line_expiry(now, line, site, name.pool);
        // An order by site could not tell before.
        if let Some(state) = self.line_mut(line) {
            state.orders_version = u64::MAX;
        }
        self.look_at_orders(line);
        if self.line(line).is_some_and(|state| state.bounced_by().is_some()) {
            self.bounce_walk = Some(0);
        }
    }

    /// How long a queue's mail is tried may be a rule's word.
    pub(crate) fn set_line_expiry(&mut self, now: Instant, line: LineKey, site: SiteKey, pool: PoolAt) {
        let Some(&(source, _)) =
            self.egress.pools.get(usize::from(pool.0)).and_then(|pool| pool.sources.first())
        else {
            return;
        };
        let after = self
            .profile_of(now, site, source)
            .and_then(|profile| profile.expire_after.as_ref().map(|set| set.value))
            .unwrap_or(self.config.expire_after);
        self.queue.set_expire_after(line, after);
    }

    pub(crate) fn unbind_line(&mut self, line: LineKey, site: SiteKey) {
        self.queue.set_rank(line, None);
        let Some(pool) = self.line(line).map(|line| line.name.pool) else { return };
        let Some(state) = self.site_mut(site) else { return };
        let Some(at) = state.groups.iter().position(|group| group.pool == pool) else { return };
        state.groups[at].lines -= 1;
        if state.groups[at].lines == 0 {
            let gone = state.groups.remove(at);
            self.queue.remove_group(gone.key);
        }
    }

    /// Everything a queue may send is given up, for its target takes no mail. What an order holds is none of it: it
    /// may be held for just that.
    pub(crate) fn refuse_line(&mut self, line: LineKey) {
        self.look_at_orders(line);
        if self.queue.is_aside(line) {
            return;
        }
        let Some(Binding::Refused { reply, .. }) =
            self.line(line).and_then(|line| self.target(line.name.target)).map(|target| &target.binding)
        else {
            return;
        };
        let reply = Arc::new((**reply).clone());
        while let Some(key) = self.queue.take(line) {
            self.giving_up.push_back((key, Ending::Refused(reply.clone())));
        }
    }
}
