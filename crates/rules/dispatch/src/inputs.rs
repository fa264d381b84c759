//! What the machine is told: mail, sites, connections and what became of jobs.

use crate::act::{Action, ConnectionId, Done, Job, Note};
use crate::egress::PoolAt;
use crate::state::{
    Binding, Dispatch, Ending, GroupState, LineName, LineState, PathAt, SiteKey, SiteState, TargetKey,
    TargetState, Wake,
};
use crate::target::Target;
use mail::{Reply, UnixMillis};
use queue::{LineKey, NewEntry, Part, Rank};
use shaping::{Attempted, Effect, Fired};
use std::cmp::Reverse;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sites that are looked at when another one has closed a connection, in case it is what they wait for.
const SHARING_AT_ONCE: usize = 16;

/// Recipients of one message that go to one target.
#[derive(Clone, Copy, Debug)]
pub struct NewMail<'a> {
    /// The spool's handle of the message.
    pub handle: u64,
    /// The tenant.
    pub tenant: Option<&'a str>,
    /// The campaign.
    pub campaign: Option<&'a str>,
    /// The pool; one that is not configured counts as none.
    pub pool: Option<&'a str>,
    /// The priority class; 0 goes first.
    pub class: u8,
    /// Where it goes.
    pub target: &'a Target,
    /// Index of the first recipient.
    pub first: u32,
    /// How many, with consecutive indices.
    pub count: u32,
    /// Octets of the message.
    pub size: u64,
    /// Attempts already made.
    pub attempts: u16,
    /// The last one ended in doubt.
    pub ambiguous: bool,
    /// The last reply.
    pub last_reply: Option<&'a str>,
    /// When it may first be attempted; `None` is at once.
    pub due: Option<Instant>,
    /// How long ago it was accepted.
    pub age: Duration,
    /// It is not given up before this moment.
    pub kept_until: Option<Instant>,
    /// Each recipient has a message of his own, and goes in a transaction of his own.
    pub alone: bool,
}

impl<'a> NewMail<'a> {
    /// One recipient of a message accepted just now, without anything particular.
    pub fn new(handle: u64, target: &'a Target) -> Self {
        Self {
            handle,
            tenant: None,
            campaign: None,
            pool: None,
            class: 1,
            target,
            first: 0,
            count: 1,
            size: 0,
            attempts: 0,
            ambiguous: false,
            last_reply: None,
            due: None,
            age: Duration::ZERO,
            kept_until: None,
            alone: false,
        }
    }
}

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
    // ---- mail ---------------------------------------------------------------------------------------------

    /// Queues recipients. False if there is reason to think that they will not leave soon.
    pub fn push(&mut self, now: Instant, mail: &NewMail<'_>) -> bool {
        let line = self.line_for(now, mail);
        let last_reply = mail.last_reply.map_or(0, |text| self.replies.hold(text));
        let (key, _) = self.queue.push(
            now,
            NewEntry {
                handle: mail.handle,
                line,
                first: mail.first,
                count: mail.count,
                size: u32::try_from(mail.size).unwrap_or(u32::MAX),
                attempts: mail.attempts,
                ambiguous: mail.ambiguous,
                last_reply,
                due: mail.due,
                age: mail.age,
                kept_until: mail.kept_until,
                alone: mail.alone,
            },
        );
        // Nothing else would find it while its site is not known.
        if let Some(order) = self.line(line).and_then(|line| line.bounced_by)
            && self.queue.pull(key)
        {
            let reply = Arc::new(self.order_reply(order));
            self.giving_up.push_back((key, Ending::Ordered(order, reply)));
            return true;
        }
        self.entry_came(now, line)
    }

    /// A queue has something new to send. False if it will not leave soon.
    pub(crate) fn entry_came(&mut self, now: Instant, line: LineKey) -> bool {
        let Some(target) = self.line(line).map(|line| line.name.target) else { return false };
        match self.target(target).map(|target| &target.binding) {
            Some(Binding::Bound { site, .. }) => {
                let site = *site;
                self.touch(site);
                !self.is_unreachable(site)
            }
            Some(Binding::Unknown) => {
                self.want_site(target);
                true
            }
            Some(Binding::Refused { until, .. }) if *until > now => {
                self.refuse_line(line);
                true
            }
            Some(Binding::Refused { .. }) => {
                self.want_site(target);
                true
            }
            _ => false,
        }
    }

    /// True if every path of a site waits because nobody answered.
    fn is_unreachable(&self, site: SiteKey) -> bool {
        let Some(site) = self.site(site) else { return false };
        let held = |at: &PathAt| {
            self.path(*at).and_then(|path| path.hold.as_ref()).is_some_and(|hold| hold.0.is_unreachable())
        };
        !site.paths.is_empty() && site.paths.iter().all(|(_, at)| held(at))
    }

    fn line_for(&mut self, now: Instant, mail: &NewMail<'_>) -> LineKey {
        let pool = mail.pool.and_then(|name| self.egress.pool(name)).unwrap_or(PoolAt(0));
        let class = mail.class.min(queue::CLASSES as u8 - 1);
        if let (Some(tenant), Some(campaign), Some(&target)) = (
            self.tenants.find(mail.tenant),
            self.campaigns.find(mail.campaign),
            self.target_keys.get(mail.target),
        ) {
            let name = LineName { tenant, campaign, target, pool, class };
            if let Some(&line) = self.line_names.get(&name) {
                return line;
            }
        }
        let target = self.target_for(mail.target);
        let name = LineName {
            tenant: self.tenants.hold(mail.tenant),
            campaign: self.campaigns.hold(mail.campaign),
            target,
            pool,
            class,
        };
        let line = self.queue.add_line(self.config.expire_after);
        if line.0 as usize >= self.lines.len() {
            self.lines.resize_with(line.0 as usize + 1, || None);
        }
        self.lines[line.0 as usize] = Some(LineState {
            name,
            aside: None,
            orders_version: 0,
            bounced_by: None,
            rerouted: None,
            moved: None,
            depends: false,
            listed_idle: false,
        });
        self.line_names.insert(name, line);
        let shaped = self.shaped_name(line);
        self.shaper.queue_opened(line.0, &shaped);
        if let Some(state) = self.target_mut(target) {
            state.lines.push(line);
        }
        self.look_at_orders(line);
        if let Some(site) = self.site_of_line(line) {
            self.bind_line(now, line, site);
        }
        line
    }

    /// The queue of the same mail in another pool.
    pub(crate) fn line_in_pool(&mut self, now: Instant, line: LineKey, pool: PoolAt) -> Option<LineKey> {
        let name = self.line(line)?.name;
        let target = self.target(name.target)?.target.clone();
        let (tenant, campaign) =
            (self.tenants.get(name.tenant).cloned(), self.campaigns.get(name.campaign).cloned());
        let pool = self.egress.pools.get(usize::from(pool.0))?.name.clone();
        let like = NewMail {
            tenant: tenant.as_deref(),
            campaign: campaign.as_deref(),
            pool: Some(&pool),
            class: name.class,
            ..NewMail::new(0, &target)
        };
        Some(self.line_for(now, &like))
    }

    fn target_for(&mut self, target: &Target) -> TargetKey {
        if let Some(&key) = self.target_keys.get(target) {
            return key;
        }
        let state = TargetState {
            name: target.to_string().into(),
            target: target.clone(),
            lines: Vec::new(),
            binding: Binding::Unknown,
            exchangers: 0,
            wants_site: false,
            asked: false,
            failed_before: 0,
        };
        let key = TargetKey(Self::insert(&mut self.targets, &mut self.free_targets, state));
        self.target_keys.insert(target.clone(), key);
        key
    }

    // ---- sites --------------------------------------------------------------------------------------------

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
            match &target.target {
                // The operator, or the address itself, says where it goes.
                Target::Route(_) | Target::Literal(_) => {
                    let name = target.target.to_string();
                    self.bind(now, key, &name, &[], None, Duration::MAX);
                    self.forget_unused_target(now, key);
                }
                Target::Domain(_) => {
                    let asks = target.target.clone();
                    target.asked = true;
                    self.resolving += 1;
                    self.actions.push(Action::Resolve(asks));
                }
            }
        }
    }

    /// A look-up is over.
    pub fn site_found(&mut self, now: Instant, target: &Target, found: SiteFound) {
        self.resolving = self.resolving.saturating_sub(1);
        let Some(&key) = self.target_keys.get(target) else { return };
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
                    state.binding = Binding::Refused { reply, until };
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
        let Some(&key) = self.target_keys.get(target) else { return };
        let failed_before = self.target(key).map_or(0, |state| state.failed_before);
        let (first, longest) = self.config.resolve_again;
        let wait = first.saturating_mul(1 << failed_before.min(20)).min(longest);
        let until = now + wait;
        self.unbind(now, key);
        let Some(state) = self.target_mut(key) else { return };
        state.failed_before = failed_before.saturating_add(1);
        state.binding = Binding::Failed { reply, until, failures: failed_before + 1 };
        self.wakes.push(Reverse((until, Wake::Target(key))));
        self.forget_unused_target(now, key);
    }

    /// A connection for a target's mail is as it wants them.
    fn target_served(&mut self, id: ConnectionId) {
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
        state.binding = Binding::Failed { reply: reply.clone(), until, failures };
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
        if self.line(line).is_some_and(|state| state.bounced_by.is_some()) {
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
        let reply = Arc::new(reply.clone());
        while let Some(key) = self.queue.take(line) {
            self.giving_up.push_back((key, Ending::Refused(reply.clone())));
        }
    }

    // ---- connections --------------------------------------------------------------------------------------

    /// A connection was greeted and is ready.
    pub fn connected(&mut self, now: Instant, id: ConnectionId) {
        let Some(&at) = self.owners.get(&id) else { return };
        let Some(path) = self.path_mut(at) else { return };
        path.hold = None;
        path.last_failure = None;
        if let Some(line) = path.connections.iter_mut().find(|line| line.id == id) {
            line.ready = true;
        }
        let (key, site) = (path.key, path.site);
        self.target_served(id);
        self.shaper.connected(now, key);
        if let Some(name) = self.site(site).map(|site| site.name.clone()) {
            self.answering.answered(&name);
        }
        self.touch(site);
    }

    /// A connection takes no more jobs; those it was given and has not begun come by [`Dispatch::returned`].
    pub fn draining(&mut self, id: ConnectionId) {
        if let Some(line) = self.connection_mut(id) {
            line.draining = true;
        }
    }

    /// A connection is closed; the last word of it. `connected` is false if it never became ready, and
    /// `reason` then says why.
    pub fn closed(&mut self, now: Instant, id: ConnectionId, connected: bool, reason: Option<Arc<str>>) {
        let Some(at) = self.owners.remove(&id) else { return };
        let Some(path) = self.path_mut(at) else { return };
        let was_ready = path.connections.iter().any(|line| line.id == id && line.ready);
        path.connections.retain(|line| line.id != id);
        if path.connections.is_empty() {
            // A path that is only known must cost little: there may be a million.
            path.connections = Vec::new();
        }
        let (key, site) = (path.key, path.site);
        if connected || was_ready {
            self.shaper.closed(key);
        } else {
            path.last_failure = reason;
            let until = self.shaper.connect_failed(now, key);
            // Whether mail waits then or not: a path with nothing to remember is forgotten.
            self.wake_site(now, site, until);
            self.did_not_answer(site);
        }
        self.touch(site);
        self.offer_places();
    }

    /// Ends a connection that has nothing to do.
    pub(crate) fn close(&mut self, id: ConnectionId) {
        self.draining(id);
        self.actions.push(Action::Close(id));
    }

    /// A connection to a site came to nothing; unless another one is ready, it is a site that does not answer.
    fn did_not_answer(&mut self, site: SiteKey) {
        let Some(state) = self.site(site) else { return };
        let ready = |at: &PathAt| {
            self.path(*at).is_some_and(|path| path.connections.iter().any(|connection| connection.ready))
        };
        if !state.paths.iter().any(|(_, at)| ready(at)) {
            let name = state.name.clone();
            self.answering.failed(&name);
        }
    }

    /// A connection is gone: what it had of the total, and of limits that sites share, is there for those that wait.
    fn offer_places(&mut self) {
        self.offer_total();
        let count = self.sharing.len().min(SHARING_AT_ONCE);
        for site in self.sharing.drain(..count).collect::<Vec<_>>() {
            if let Some(state) = self.site_mut(site) {
                state.shares = false;
            }
            self.touch(site);
        }
    }

    /// What is left of the total goes to those that wait for it. Told at every tick as well: one that was offered a
    /// place may have nothing to send any more, and then no connection ends that would tell the next.
    pub(crate) fn offer_total(&mut self) {
        if self.wanting.is_empty() && self.wanting_unknown.is_empty() {
            return;
        }
        let (total, open) = (self.config.connections_total_max, self.owners.len());
        let mut next = Vec::new();
        // As many as there are places, or one that has nothing to send any more would keep the others waiting.
        while open + next.len() < total
            && let Some(site) = self.wanting.pop_front()
        {
            next.push(site);
        }
        while open + next.len() < self.answering.share_of(total, false) {
            // By turns the one that came last and the one that waits longest: behind thousands that will stall, a site
            // that would answer at once need not wait for all of them.
            self.newest_first = !self.newest_first;
            let site = match self.newest_first {
                true => self.wanting_unknown.pop_back(),
                false => self.wanting_unknown.pop_front(),
            };
            let Some(site) = site else { break };
            next.push(site);
        }
        for &site in &next {
            if let Some(state) = self.site_mut(site) {
                state.wants_connection = false;
            }
        }
        self.touched.extend(next);
    }

    /// The entries a connection holds that ended without a word, which is our mistake: they are tried again.
    pub fn lost(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        id: ConnectionId,
        due: Instant,
        reply: &str,
    ) -> usize {
        let jobs = self.connection_mut(id).map(|line| std::mem::take(&mut line.jobs)).unwrap_or_default();
        let mut count = 0;
        for job in jobs {
            self.shaper.spent(now, wall, job.permit);
            for key in job.keys {
                let entry = *self.queue.entry(key);
                let part = Part {
                    first: entry.first,
                    count: entry.count,
                    attempts: entry.attempts.saturating_add(1),
                    ambiguous: true,
                    delay_reported: entry.delay_reported,
                    last_reply: self.replies.hold(reply),
                    due,
                };
                self.queue.defer(now, key, part);
                self.settle_entry(now, key);
                count += 1;
            }
        }
        count
    }

    pub(crate) fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut crate::state::Line> {
        let at = *self.owners.get(&id)?;
        self.path_mut(at)?.connections.iter_mut().find(|line| line.id == id)
    }

    // ---- jobs ---------------------------------------------------------------------------------------------

    /// A job of a connection is over.
    pub fn done(&mut self, now: Instant, wall: UnixMillis, id: ConnectionId, done: Done) {
        let assigned = self.connection_mut(id).and_then(|line| {
            let at = line.jobs.iter().position(|job| job.keys.first() == done.entries.first())?;
            Some(line.jobs.remove(at))
        });
        let path = self.owners.get(&id).and_then(|&at| self.path(at)).map(|path| (path.key, path.site));
        if let (Some(job), Some((key, site))) = (assigned, path) {
            self.shaper.spent(now, wall, job.permit);
            self.report(now, wall, key, job.line, &done);
            self.touch(site);
        }
        self.end(now, done);
    }

    /// Tells the rules what became of an attempt, and does what they say.
    fn report(&mut self, now: Instant, wall: UnixMillis, key: shaping::PathKey, line: LineKey, done: &Done) {
        let Some(name) = self.line(line).map(|line| line.name) else { return };
        let (tenant, campaign) =
            (self.tenants.get(name.tenant).cloned(), self.campaigns.get(name.campaign).cloned());
        let domain = self.target(name.target).map(|target| target.name.clone());
        let fired: Vec<(Fired, &str)> =
            done.fired.iter().map(|(fired, reply)| (fired.clone(), &**reply)).collect();
        let effects = self.shaper.report(
            now,
            wall,
            key,
            &Attempted {
                delivered: done.delivered,
                deferred: done.deferred.len() as u32,
                bounced: done.bounced,
                fired: &fired,
                tenant: tenant.as_deref(),
                campaign: campaign.as_deref(),
                queue: line.0,
                domain: domain.as_deref().unwrap_or_default(),
                exchanger: done.host.as_deref(),
            },
        );
        self.carry_out_and_tell(key, effects, !done.is_notice);
    }

    /// A session ended outside of any job, with a reply that a rule knows: what `failed` says of it is its rule, its
    /// exchanger, and whether it last carried a notice.
    pub fn session_failed(&mut self, now: Instant, wall: UnixMillis, id: ConnectionId, failed: Done) {
        let Some(path) = self.owners.get(&id).and_then(|&at| self.path(at)) else { return };
        let (key, site) = (path.key, path.site);
        // The queue it last carried mail of stands for it, where a rule speaks of the queue.
        let line = path
            .connections
            .iter()
            .find(|line| line.id == id)
            .and_then(|line| line.jobs.first())
            .map(|job| job.line);
        let done = failed;
        match line {
            Some(line) => self.report(now, wall, key, line, &done),
            None => {
                let fired: Vec<(Fired, &str)> =
                    done.fired.iter().map(|(fired, reply)| (fired.clone(), &**reply)).collect();
                let attempted = Attempted {
                    fired: &fired,
                    queue: u32::MAX,
                    exchanger: done.host.as_deref(),
                    ..Attempted::default()
                };
                let effects = self.shaper.report(now, wall, key, &attempted);
                self.carry_out_and_tell(key, effects, !done.is_notice);
            }
        }
        self.touch(site);
    }

    /// Does what the rules for traffic ask for, and tells what they did by themselves.
    pub(crate) fn carry_out(&mut self, key: shaping::PathKey, effects: Vec<Effect>) {
        self.carry_out_and_tell(key, effects, true);
    }

    /// The same; people are told only if `told`.
    fn carry_out_and_tell(&mut self, key: shaping::PathKey, effects: Vec<Effect>, told: bool) {
        for effect in effects {
            let path = match &effect {
                Effect::BackoffEntered { path, .. }
                | Effect::BackoffLeft { path, .. }
                | Effect::Slowed { path, .. }
                | Effect::Suspended { path, .. } => *path,
                _ => key,
            };
            let (mut source, mut site) = (None, None);
            if let Some(path) = self.path_of.get(&path).and_then(|&at| self.path(at)) {
                source = Some(self.egress.source_name(path.source));
                site = self.site(path.site).map(|site| site.name.clone());
            }
            if let Effect::SourceDisabled { source: name, .. } | Effect::SourceEnabled { source: name } =
                &effect
            {
                (source, site) = (Some(name.clone()), None);
            }
            let about = match (&source, &site) {
                (Some(source), Some(site)) => format!("{source} to {site}"),
                (Some(source), None) => source.to_string(),
                _ => String::new(),
            };
            let rule = effect.cause().map(|by| format!("{} ({})", by.name, by.setting.origin));
            let mut note = |text: String, notify: bool| {
                self.actions.push(Action::Note(Note {
                    about: about.clone(),
                    text,
                    notify: notify && told,
                    source: source.clone(),
                    site: site.clone(),
                    rule: rule.clone(),
                }));
            };
            match effect {
                Effect::BounceQueue { queue, by } => {
                    note(format!("the queue is given up by {by}"), false);
                    // RFC 3463 §3.8: the receiver's policy, as a rule reads it.
                    let reply = Reply::new(550, (5, 7, 0), format!("given up: {by}"));
                    self.give_up_line(LineKey(queue), reply);
                }
                Effect::SkipExchanger { host, length, by } => {
                    note(format!("an exchanger is skipped by {by}"), false);
                    if let Some(host) = host {
                        self.actions.push(Action::SkipExchanger { host, wait: length });
                    }
                }
                Effect::MovePool { queue, pool, by } => match self.egress.pool(&pool) {
                    Some(at) => {
                        note(format!("the queue moves to the pool {pool} by {by}"), false);
                        if let Some(line) = self.line_mut(LineKey(queue)) {
                            line.moved = Some((at, key));
                        }
                    }
                    None => {
                        note(format!("{by} moves mail to the pool {pool}, which is not configured"), true)
                    }
                },
                Effect::Notify { text, .. } => note(text, true),
                Effect::BackoffEntered { by, .. } => note(format!("backoff begins by {by}"), false),
                Effect::BackoffLeft { path, why } => {
                    note(format!("backoff ends: {}", left(why)), false);
                    for line in self.lines.iter_mut().flatten() {
                        line.moved.take_if(|(_, by)| *by == path);
                    }
                }
                Effect::Slowed { factor, .. } => note(format!("rates are multiplied by {factor:.3}"), false),
                Effect::Suspended { what, by, .. } => {
                    note(format!("the {} is suspended by {by}", what.word()), false);
                }
                Effect::SourceDisabled { source, by, .. } => {
                    note(format!("the source {source} is disabled by {by}"), true);
                }
                Effect::SourceEnabled { source } => {
                    note(format!("the source {source} is enabled again"), false)
                }
            }
        }
    }

    /// A job is over that no connection carried.
    pub fn settled(&mut self, now: Instant, done: Done) {
        self.settling = self.settling.saturating_sub(1);
        self.end(now, done);
    }

    fn end(&mut self, now: Instant, done: Done) {
        for deferred in done.deferred {
            let last_reply = self.replies.hold(&deferred.reply);
            let part = Part {
                first: deferred.index,
                count: 1,
                attempts: deferred.attempts,
                ambiguous: deferred.ambiguous,
                delay_reported: deferred.delay_reported,
                last_reply,
                due: deferred.due,
            };
            self.queue.defer(now, deferred.key, part);
        }
        for key in done.entries {
            self.settle_entry(now, key);
        }
    }

    /// An exchanger takes fewer recipients in a transaction than a job has (LIMITS RCPTMAX, RFC 9422). Each
    /// transaction counts with the receiver, so the job keeps what fits into one, as [`Job::truncate`] does; the
    /// others go back to the head of their line, and the connection's further jobs have no more.
    pub fn narrowed(&mut self, id: ConnectionId, job: &Job, recipients_max: u32) {
        let max = recipients_max.max(1);
        let Some(&at) = self.owners.get(&id) else { return };
        let Some(path) = self.path_mut(at) else { return };
        let site = path.site;
        let Some(connection) = path.connections.iter_mut().find(|line| line.id == id) else { return };
        connection.recipients_max = max;
        let first = job.entries.first().map(|entry| entry.key);
        let Some(assigned) = connection.jobs.iter_mut().find(|held| held.keys.first().copied() == first)
        else {
            return;
        };
        let mut left = max;
        let parts: Vec<(queue::EntryKey, u32)> = job
            .entries
            .iter()
            .map(|entry| {
                let kept = entry.count.min(left);
                left -= kept;
                (entry.key, kept)
            })
            .collect();
        assigned.keys.retain(|key| !parts.contains(&(*key, 0)));
        // From the last one on, so that they stand in their order again.
        for (key, kept) in parts.into_iter().rev() {
            match kept {
                0 => self.queue.untake(key),
                kept => self.split(key, kept),
            }
        }
        self.touch(site);
    }

    /// A job was not begun; it goes back to the head of its line.
    pub fn returned(&mut self, id: ConnectionId, job: &Job) {
        let first = job.entries.first().map(|entry| entry.key);
        let assigned = self.connection_mut(id).and_then(|line| {
            let at = line.jobs.iter().position(|held| held.keys.first().copied() == first)?;
            Some(line.jobs.remove(at))
        });
        if let Some(assigned) = assigned {
            self.shaper.give_back(assigned.permit);
        }
        for entry in job.entries.iter().rev() {
            self.queue.untake(entry.key);
        }
        if let Some(site) = self.owners.get(&id).and_then(|&at| self.path(at)).map(|path| path.site) {
            self.touch(site);
        }
    }

    pub(crate) fn settle_entry(&mut self, now: Instant, key: queue::EntryKey) {
        let entry = *self.queue.entry(key);
        self.replies.release(entry.last_reply);
        self.queue.settle(key);
        self.list_idle(now, entry.line);
    }

    /// A queue without mail is forgotten after a while.
    pub(crate) fn list_idle(&mut self, now: Instant, line: LineKey) {
        if self.queue.counts(line).entries() > 0 {
            return;
        }
        let at = now + self.config.idle_for;
        if let Some(state) = self.line_mut(line)
            && !std::mem::replace(&mut state.listed_idle, true)
        {
            self.idle.push_back((at, line));
        }
    }
}

/// Why a path left backoff, in words.
fn left(why: shaping::Left) -> &'static str {
    match why {
        shaping::Left::Time => "its time is over",
        shaping::Left::Delivery => "a message was delivered",
        shaping::Left::Rule => "a rule says so",
        shaping::Left::Operator => "an operator released it",
    }
}
