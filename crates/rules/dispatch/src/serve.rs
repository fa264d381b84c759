//! The decision: which queue of a site has its turn, by which source it may leave, and whether now.

use crate::act::{Action, ConnectionId, Granted, Job, JobEntry, QueueName};
use crate::egress::{PoolAt, SourceAt};
use crate::hold::{Hold, Reason};
use crate::state::{Aside, Assigned, Binding, Dispatch, Ending, Line, PathAt, PathState, SiteKey};
use crate::{Fate, JOBS_MAX};
use mail::{Reply, UnixMillis};
use queue::{EntryKey, LineKey};
use shaping::{MessageFacts, PathFacts, Profile};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Jobs being settled without a connection at once; more wait for these.
const SETTLING_MAX: usize = 2_000;

/// Jobs placed at one site before others have their turn.
const PLACED_AT_ONCE: usize = 512;

/// A queue that was set aside without a known end is looked at again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What one try to place a job came to.
enum Placed {
    /// It is on its way.
    Yes,
    /// The queue was set aside or had its mail given up; another may have its turn.
    Aside,
    /// No source of the pool can take more now.
    Held(Option<Hold>),
}

/// What a path said.
enum Tried {
    Placed,
    /// Its connections have all they can carry, or one is being opened.
    Busy,
    Held(Hold),
    /// An order sent it another way.
    Moved,
}

impl Dispatch {
    /// Serves every site for which something has changed. To be called after anything else was told.
    pub fn serve(&mut self, now: Instant, wall: UnixMillis) {
        self.resolve(now);
        self.give_up_some(now);
        if self.stopping {
            self.touched.clear();
            return;
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        // Of sites that want the same, those after the one that had something last go first: in the order of their
        // keys the first one would have all of a limit that they share.
        let from = touched.partition_point(|site| *site <= self.placed_last);
        touched.rotate_left(from);
        for site in touched.drain(..) {
            self.serve_site(now, wall, site);
        }
        // What was touched meanwhile is served next time.
        touched.append(&mut self.touched);
        self.touched = touched;
    }

    /// True if [`Dispatch::serve`] has more to do at once.
    pub fn has_more(&self) -> bool {
        let more = self.bounce_walk.is_some() && self.settling < SETTLING_MAX;
        !self.stopping && (!self.touched.is_empty() || more)
    }

    /// Nothing more is begun; what is under way may end.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    fn serve_site(&mut self, now: Instant, wall: UnixMillis, key: SiteKey) {
        let mut held: Vec<usize> = Vec::new();
        for _ in 0..PLACED_AT_ONCE {
            let Some(site) = self.site(key) else { return };
            let count = site.groups.len();
            // Priority goes before pools: the group with the most urgent mail is next, equal ones in turns.
            let next = (0..count)
                .map(|n| (site.turn + n) % count)
                .filter(|at| !held.contains(at))
                .filter_map(|at| self.queue.class(site.groups[at].key).map(|class| (class, at)))
                .min_by_key(|(class, _)| *class);
            let Some((_, group)) = next else { return self.served(now, key) };
            let Some(line) = self.queue.next(site.groups[group].key) else { return };
            if count > 1
                && let Some(site) = self.site_mut(key)
            {
                site.turn = (group + 1) % count;
            }
            match self.place(now, wall, key, group, line) {
                Placed::Yes => self.placed_last = key,
                Placed::Aside => {}
                Placed::Held(hold) => {
                    self.group_held(now, key, group, hold);
                    held.push(group);
                }
            }
        }
        self.touch(key);
    }

    /// Everything that can go has been given away: what is left is held, or there is none.
    fn served(&mut self, now: Instant, key: SiteKey) {
        let Some(site) = self.site(key) else { return };
        let empty: Vec<usize> =
            (0..site.groups.len()).filter(|&at| self.queue.class(site.groups[at].key).is_none()).collect();
        if let Some(site) = self.site_mut(key) {
            for at in empty {
                site.groups[at].hold = None;
            }
            if site.groups.is_empty() {
                self.list_idle_site(now, key);
            }
        }
    }

    fn group_held(&mut self, now: Instant, key: SiteKey, group: usize, hold: Option<Hold>) {
        let Some(site) = self.site_mut(key) else { return };
        let Some(state) = site.groups.get_mut(group) else { return };
        match hold {
            None => state.hold = None,
            Some(hold) => {
                // What other sites have of a limit comes back with their connections; that is told when one closes.
                // Looking again after a while as well costs little.
                let shared = hold.until.is_none() && hold.is_shared();
                let until = if shared { Some(now + LOOK_AGAIN) } else { hold.until };
                let shares = shared && !std::mem::replace(&mut site.shares, true);
                let Some(state) = site.groups.get_mut(group) else { return };
                match &mut state.hold {
                    Some(known) if known.0.is_like(&hold) => known.0 = hold,
                    other => *other = Some(Box::new((hold, now))),
                }
                if shares {
                    self.sharing.push_back(key);
                }
                if let Some(until) = until {
                    self.wake_site(now, key, until.max(now + Duration::from_millis(1)));
                }
            }
        }
    }

    /// Tries to send the next message of a queue by one of its pool's sources.
    fn place(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        site: SiteKey,
        group: usize,
        line: LineKey,
    ) -> Placed {
        self.look_at_orders(line);
        let Some(state) = self.line(line) else { return Placed::Held(None) };
        if let Some((Aside::Order(_), _)) = state.aside.as_deref() {
            self.queue.set_aside(line, true);
            return Placed::Aside;
        }
        if let Some(order) = state.bounced_by() {
            let reply = Arc::new(self.order_reply(order));
            if let Some(key) = self.queue.take(line) {
                self.giving_up.push_back((key, Ending::Ordered(order, reply)));
            }
            return Placed::Aside;
        }
        let name = state.name;
        let other = state.other_pool();
        let depends = state.depends;
        if let Some(target) = self.target(name.target)
            && let Binding::Bound { until, .. } = &target.binding
            && *until <= now
        {
            // The exchangers may have changed; mail goes on by what is known until the answer is there.
            self.want_site(name.target);
        }
        let pool = other.unwrap_or(name.pool);
        self.place_by_pool(now, wall, site, group, line, pool, depends)
    }

    #[allow(clippy::too_many_arguments, reason = "each is a fact of one decision")]
    fn place_by_pool(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        site: SiteKey,
        group: usize,
        line: LineKey,
        pool: PoolAt,
        depends: bool,
    ) -> Placed {
        let Some(weights) = self.egress.pools.get(usize::from(pool.0)).map(|pool| pool.sources.clone())
        else {
            return Placed::Held(None);
        };
        let mut order = std::mem::take(&mut self.scratch);
        if let Some(state) = self.site_mut(site)
            && let Some(group) = state.groups.get_mut(group)
        {
            group.turns.order(&weights, &mut order);
        }
        let mut why: Option<Hold> = None;
        let mut overflow: Vec<Arc<str>> = Vec::new();
        let mut placed = None;
        let mut held: Vec<usize> = Vec::new();
        for &at in &order {
            let Some(&(source, _)) = weights.get(at) else { continue };
            match self.try_source(now, wall, site, line, source, depends) {
                Tried::Placed => {
                    if let Some(state) = self.site_mut(site)
                        && let Some(group) = state.groups.get_mut(group)
                    {
                        group.turns.had_turn(&weights, at, &held);
                    }
                    placed = Some(Placed::Yes);
                    break;
                }
                Tried::Busy => {}
                Tried::Moved => {
                    placed = Some(Placed::Aside);
                    break;
                }
                Tried::Held(hold) if hold.is_of_queue() => {
                    placed = Some(self.line_held(now, line, hold));
                    break;
                }
                Tried::Held(hold) => {
                    held.push(at);
                    if hold.overflows()
                        && let Some(path) = self.path_for(now, site, source).and_then(|at| self.path(at))
                        && let Some(warmup) = &self.shaper.profile(path.key).warmup
                    {
                        overflow.extend(warmup.overflow.iter().cloned());
                    }
                    // The one that ends first is when to look again.
                    if why.as_ref().is_none_or(|known| later(known, &hold)) {
                        why = Some(hold);
                    }
                }
            }
        }
        self.scratch = order;
        if let Some(placed) = placed {
            return placed;
        }
        // A source that is still being warmed up sends what is beyond its day's share by warm ones.
        for warm in overflow {
            if let Some(source) = self.egress.source(&warm)
                && matches!(self.try_source(now, wall, site, line, source, depends), Tried::Placed)
            {
                return Placed::Yes;
            }
        }
        Placed::Held(why)
    }

    /// A limit or suspension that holds for one queue and not for the others.
    fn line_held(&mut self, now: Instant, line: LineKey, hold: Hold) -> Placed {
        let until = hold.until.unwrap_or(now + LOOK_AGAIN).max(now + Duration::from_millis(1));
        if let Some(state) = self.line_mut(line) {
            state.aside = Some(Box::new((Aside::Held(hold), now)));
        }
        self.queue.set_aside(line, true);
        self.wakes.push(std::cmp::Reverse((until, crate::state::Wake::Line(line))));
        Placed::Aside
    }

    fn try_source(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        site: SiteKey,
        line: LineKey,
        source: SourceAt,
        depends: bool,
    ) -> Tried {
        if let Some(hold) = self.source_hold(source) {
            return Tried::Held(hold);
        }
        if depends && let Some(hold) = self.order_on_source(line, source) {
            return Tried::Held(hold);
        }
        if depends
            && let Some(pool) = self.reroute_on_source(line, source)
            && let Some(key) = self.queue.take(line)
        {
            self.move_to_pool(now, key, pool);
            return Tried::Moved;
        }
        let Some(at) = self.path_for(now, site, source) else { return Tried::Busy };
        let tried = self.try_path(now, wall, at, line);
        let hold = match &tried {
            Tried::Held(hold) if !hold.is_of_queue() => Some(hold.clone()),
            Tried::Placed => None,
            _ => return tried,
        };
        if let Some(path) = self.path_mut(at) {
            match (hold, &mut path.hold) {
                (None, known) => *known = None,
                (Some(hold), Some(known)) if known.0.is_like(&hold) => known.0 = hold,
                (Some(hold), known) => *known = Some(Box::new((hold, now))),
            }
        }
        tried
    }

    fn try_path(&mut self, now: Instant, wall: UnixMillis, at: PathAt, line: LineKey) -> Tried {
        let Some(path) = self.path(at) else { return Tried::Busy };
        let exchangers = self.exchangers_of(line);
        // The connection with the least to do, if it has room for more and leads to an exchanger of the domain.
        let free = path
            .connections
            .iter()
            .enumerate()
            .filter(|(_, line)| line.ready && !line.draining && line.jobs.len() < JOBS_MAX)
            .filter(|(_, line)| line.exchangers == exchangers)
            .min_by_key(|(_, line)| line.jobs.len())
            .map(|(n, line)| (n, line.recipients_max));
        let key = path.key;
        if let Some((n, recipients_max)) = free {
            return match self.ask_message(now, wall, key, line) {
                Err(hold) => Tried::Held(hold.into()),
                Ok(permit) => {
                    let octets = self.octets_of(line);
                    let Some((job, keys)) = self.take_job(line, at, recipients_max) else {
                        self.shaper.give_back(permit);
                        return Tried::Busy;
                    };
                    let Some(path) = self.path_mut(at) else { return Tried::Busy };
                    let connection = &mut path.connections[n];
                    connection.jobs.push(Assigned { keys, permit, line });
                    let id = connection.id;
                    self.note_granted(at, &job, permit, octets, false);
                    self.actions.push(Action::Give(id, job));
                    Tried::Placed
                }
            };
        }
        self.open(now, wall, at, line)
    }

    /// Opens a connection with the next job, if one may be opened.
    fn open(&mut self, now: Instant, wall: UnixMillis, at: PathAt, line: LineKey) -> Tried {
        let Some(path) = self.path(at) else { return Tried::Busy };
        let (key, site, source) = (path.key, path.site, path.source);
        // One that is being opened will soon take up to JOBS_MAX: no need for one for each message.
        let exchangers = self.exchangers_of(line);
        let opening =
            path.connections.iter().filter(|line| !line.ready && line.exchangers == exchangers).count();
        let ready = self.queue.rank(line).map_or(0, |rank| self.queue.group_ready(rank.group)) as usize;
        if opening > 0 && ready < opening * JOBS_MAX {
            return Tried::Busy;
        }
        let total = self.config.connections_total_max;
        let answers = self.site(site).is_some_and(|site| self.answering.has(&site.name));
        if self.owners.len() >= self.answering.share_of(total, answers) {
            if let Some(state) = self.site_mut(site)
                && !std::mem::replace(&mut state.wants_connection, true)
            {
                let line = if answers { &mut self.wanting } else { &mut self.wanting_unknown };
                line.push_back(site);
            }
            return Tried::Busy;
        }
        if let Err(hold) = self.shaper.ask_connection(now, key) {
            // One that waits at exchangers of another domain keeps this domain's mail from a place: it goes first.
            let idle = self.path(at).and_then(|path| {
                path.connections.iter().find(|line| line.is_idle() && line.exchangers != exchangers)
            });
            if let (shaping::Gate::Connections { .. }, Some(id)) = (&hold.gate, idle.map(|line| line.id)) {
                self.close(id);
            }
            return Tried::Held(hold.into());
        }
        let permit = match self.ask_message(now, wall, key, line) {
            Ok(permit) => permit,
            Err(hold) => {
                self.shaper.unopened(key);
                return Tried::Held(hold.into());
            }
        };
        let octets = self.octets_of(line);
        let Some((job, keys)) = self.take_job(line, at, u32::MAX) else {
            self.shaper.unopened(key);
            self.shaper.give_back(permit);
            return Tried::Busy;
        };
        self.last_connection += 1;
        let id = ConnectionId(self.last_connection);
        let Some(target) = self
            .line(line)
            .and_then(|line| self.target(line.name.target))
            .and_then(crate::state::TargetState::target)
        else {
            return Tried::Busy;
        };
        let of_site = self.site(site).map(|site| (site.name.clone(), site.provider.clone()));
        let Some((name, provider)) = of_site else { return Tried::Busy };
        let messages_max = self.shaper.profile(key).messages_per_connection.value;
        self.owners.insert(id, at);
        self.beginning.push_back((now, id));
        let Some(path) = self.path_mut(at) else { return Tried::Busy };
        path.connections.push(Line {
            id,
            jobs: vec![Assigned { keys, permit, line }],
            ready: false,
            draining: false,
            recipients_max: u32::MAX,
            exchangers,
        });
        self.note_granted(at, &job, permit, octets, true);
        self.actions.push(Action::Open { id, source, target, site: name, provider, messages_max, job });
        Tried::Placed
    }

    /// Octets of the next message of a queue.
    fn octets_of(&self, line: LineKey) -> u64 {
        self.queue.peek(line).map_or(0, |entry| u64::from(entry.size))
    }

    /// Remembers leave that counts for long, so that it can be written down before it is used.
    fn note_granted(&mut self, at: PathAt, job: &Job, permit: shaping::Permit, octets: u64, opens: bool) {
        let Some(path) = self.path(at) else { return };
        let (key, site, source) = (path.key, path.site, path.source);
        let connections = u64::from(opens && self.shaper.connection_outlives(key));
        let messages = u64::from(self.shaper.outlives(permit));
        if messages + connections == 0 {
            return;
        }
        let Some(state) = self.site(site) else { return };
        let (site, provider, domains) = (state.name.clone(), state.provider.clone(), state.domains.clone());
        let source = self.egress.source_name(source);
        // What goes the same way in one pass is one note.
        let same = |known: &&mut Granted| {
            known.site == site
                && known.source == source
                && known.tenant == job.queue.tenant
                && known.campaign == job.queue.campaign
        };
        match self.granted.last_mut().filter(same) {
            Some(known) => {
                known.messages += messages;
                known.octets += octets;
                known.connections += connections;
            }
            None => self.granted.push(Granted {
                site,
                provider,
                domains,
                source,
                tenant: job.queue.tenant.clone(),
                campaign: job.queue.campaign.clone(),
                messages,
                octets,
                connections,
            }),
        }
    }

    /// Tells the exchangers of a queue's target from others.
    fn exchangers_of(&self, line: LineKey) -> u64 {
        self.line(line).and_then(|line| self.target(line.name.target)).map_or(0, |target| target.exchangers)
    }

    fn ask_message(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        key: shaping::PathKey,
        line: LineKey,
    ) -> Result<shaping::Permit, shaping::Hold> {
        let Some(name) = self.line(line).map(|line| line.name) else {
            // A queue that stands in line is known; this cannot be met, and a later turn costs nothing.
            return Ok(shaping::Permit::FREE);
        };
        let facts = MessageFacts {
            tenant: self.tenants.get(name.tenant).map(|text| &**text),
            campaign: self.campaigns.get(name.campaign).map(|text| &**text),
            queue: line.0,
            bytes: self.octets_of(line),
        };
        self.shaper.ask_message(now, wall, key, &facts)
    }

    // ---- paths --------------------------------------------------------------------------------------------

    /// The path of a source and a site; made when it is first wanted.
    pub(crate) fn path_for(&mut self, now: Instant, key: SiteKey, source: SourceAt) -> Option<PathAt> {
        let site = self.sites.get(key.0 as usize)?.as_ref()?;
        let place = match site.paths.binary_search_by_key(&source, |(source, _)| *source) {
            Ok(found) => return Some(site.paths[found].1),
            Err(place) => place,
        };
        let domains: Vec<&str> = site.domains.iter().map(|domain| &**domain).collect();
        let facts = PathFacts {
            site: &site.name,
            provider: site.provider.as_deref(),
            domains: &domains,
            pool: self.egress.home(source),
            source: &self.egress.sources.get(usize::from(source.0))?.name,
        };
        let path = self.shaper.path(now, &facts);
        let state = PathState {
            site: key,
            source,
            key: path,
            connections: Vec::new(),
            hold: None,
            last_failure: None,
        };
        let at = PathAt(Self::insert(&mut self.paths, &mut self.free_paths, state));
        self.path_of.insert(path, at);
        if let Some(site) = self.site_mut(key) {
            site.paths.reserve_exact(1);
            site.paths.insert(place, (source, at));
        }
        Some(at)
    }

    /// The rules that hold between a site and a source, without making a path of them.
    pub(crate) fn profile_of(&self, _now: Instant, key: SiteKey, source: SourceAt) -> Option<Arc<Profile>> {
        let site = self.site(key)?;
        let domains: Vec<&str> = site.domains.iter().map(|domain| &**domain).collect();
        Some(self.rules.profile(&PathFacts {
            site: &site.name,
            provider: site.provider.as_deref(),
            domains: &domains,
            pool: self.egress.home(source),
            source: &self.egress.sources.get(usize::from(source.0))?.name,
        }))
    }

    /// A source that the configuration or a rule has switched off.
    pub(crate) fn source_hold(&self, source: SourceAt) -> Option<Hold> {
        let state = self.egress.sources.get(usize::from(source.0))?;
        if !state.enabled {
            return Some(Hold { reason: Reason::SourceOff(state.name.clone()), until: None });
        }
        None
    }

    // ---- jobs ---------------------------------------------------------------------------------------------

    /// The next entries of a queue that belong to one message.
    fn take_job(&mut self, line: LineKey, at: PathAt, recipients_max: u32) -> Option<(Job, Vec<EntryKey>)> {
        let path = self.path(at)?.key;
        let profile = self.shaper.profile(path).clone();
        let keys = self.take_keys(line, profile.recipients_per_transaction.value.min(recipients_max))?;
        let retry_waits = self.shaper.retry_waits(path).map(Arc::from);
        let orders = self.message_orders(line, at);
        let job = Job { retry_waits, orders, profile: Some(profile), ..self.job_of(line, &keys) };
        Some((job, keys))
    }

    fn take_keys(&mut self, line: LineKey, recipients_max: u32) -> Option<Vec<EntryKey>> {
        let first = self.queue.take(line)?;
        let recipients_max = if self.queue.entry(first).alone { 1 } else { recipients_max };
        self.split(first, recipients_max.max(1));
        let handle = self.queue.entry(first).handle;
        let mut keys = vec![first];
        let mut recipients = self.queue.entry(first).count;
        while let Some(next) = self.queue.peek(line)
            && next.handle == handle
            && recipients + next.count <= recipients_max
        {
            recipients += next.count;
            keys.extend(self.queue.take_more(line));
        }
        Some(keys)
    }

    /// Leaves so many recipients in an entry; the others stand at the head of its line.
    pub(crate) fn split(&mut self, key: EntryKey, count: u32) {
        if self.queue.split(key, count) {
            self.replies.share(self.queue.entry(key).last_reply);
        }
    }

    /// A job that no connection will carry.
    pub(crate) fn job_without_path(&mut self, line: LineKey) -> Option<Job> {
        let keys = self.take_keys(line, u32::MAX)?;
        Some(self.job_of(line, &keys))
    }

    pub(crate) fn job_of(&self, line: LineKey, keys: &[EntryKey]) -> Job {
        let entries = keys
            .iter()
            .map(|&key| {
                let view = self.queue.view(key);
                JobEntry {
                    key,
                    first: view.entry.first,
                    count: view.entry.count,
                    attempts: view.entry.attempts,
                    delay_reported: view.entry.delay_reported,
                    expires: view.expires,
                }
            })
            .collect();
        let handle = keys.first().map_or(0, |&key| self.queue.entry(key).handle);
        Job { entries, handle, queue: self.queue_name(line), retry_waits: None, profile: None, orders: None }
    }

    /// A queue's name as the rules for traffic keep it over restarts.
    pub(crate) fn shaped_name(&self, line: LineKey) -> shaping::QueueName {
        let name = self.queue_name(line);
        shaping::QueueName {
            tenant: name.tenant,
            campaign: name.campaign,
            domain: name.target,
            pool: name.pool,
        }
    }

    /// A queue's name.
    pub(crate) fn queue_name(&self, line: LineKey) -> QueueName {
        let Some(state) = self.line(line) else {
            return QueueName {
                tenant: None,
                campaign: None,
                target: "?".into(),
                pool: "?".into(),
                class: 0,
            };
        };
        QueueName {
            tenant: self.tenants.get(state.name.tenant).cloned(),
            campaign: self.campaigns.get(state.name.campaign).cloned(),
            target: self.target(state.name.target).map_or_else(|| "?".into(), |target| target.name.clone()),
            pool: self.egress.pool_name(state.name.pool),
            class: state.name.class,
        }
    }

    // ---- giving up ----------------------------------------------------------------------------------------

    /// All that stands in a queue now is given up.
    pub(crate) fn give_up_line(&mut self, line: LineKey, reply: Reply) {
        let reply = Arc::new(reply);
        let keys: Vec<EntryKey> = self
            .queue
            .views()
            .filter(|view| view.entry.line == line && !view.attempted)
            .map(|view| view.key)
            .collect();
        for key in keys {
            if self.queue.pull(key) {
                self.giving_up.push_back((key, Ending::Refused(reply.clone())));
            }
        }
    }

    fn give_up_some(&mut self, now: Instant) {
        self.walk_for_bounces();
        while self.settling < SETTLING_MAX
            && let Some((key, ending)) = self.giving_up.pop_front()
        {
            let entry = *self.queue.entry(key);
            let fate = match ending {
                Ending::Expired => Fate::Expired(self.replies.get(entry.last_reply)),
                Ending::Refused(reply) => Fate::Bounced(Reply::clone(&reply)),
                Ending::Ordered(order, reply) if self.order(order).is_some() => {
                    Fate::Bounced(Reply::clone(&reply))
                }
                // The order ended first: the entry waits as it did.
                Ending::Ordered(..) => {
                    self.queue.postpone(now, key, self.queue.view(key).due);
                    self.line_is_due(now, entry.line);
                    continue;
                }
            };
            let job = self.job_of(entry.line, &[key]);
            self.settle(job, fate);
        }
    }
}

/// True if `known` ends later than `hold`, or nobody knows when.
fn later(known: &Hold, hold: &Hold) -> bool {
    match (known.until, hold.until) {
        (None, until) => until.is_some(),
        (Some(known), Some(until)) => until < known,
        (Some(_), None) => false,
    }
}
