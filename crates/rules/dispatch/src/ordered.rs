//! Operator orders at work: which queues they hold, give up, or send another way.

use crate::act::{ConnectionId, Job};
use crate::egress::{PoolAt, SourceAt};
use crate::hold::{Hold, Reason};
use crate::state::{Aside, Dispatch, Ending, HeldEntries, PathAt};
use mail::{Reply, UnixMillis};
use queue::orders::{Action, Fact, Facts, Match, Order, OrderError, OrderId, Orders, Scope};
use queue::{EntryKey, LineKey};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Entries looked at in one step of the walk that gives up what orders bounce.
const WALK_AT_ONCE: u32 = 20_000;

/// A message that an order holds by its sender or job is looked at again after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// Mail that an order has sent another way, where an order may do so again, waits this long.
const MOVE_AGAIN: Duration = Duration::from_secs(1);

/// What an order would touch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// Queues it names.
    pub queues: u64,
    /// Recipients in them.
    pub recipients: u64,
    /// Recipients of which only the message can tell whether the order names them.
    pub depends: u64,
}

/// An entry that an order may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name in the queue; another entry may have it later.
    pub key: EntryKey,
    /// The spool's handle of the message.
    pub handle: u64,
    /// Index of the first recipient.
    pub first: u32,
    /// How many, with consecutive indices.
    pub count: u32,
    /// All but the sender and the job is known to match; else the site or source is not known yet.
    pub certain: bool,
}

impl Dispatch {
    /// The orders of an earlier process.
    pub fn restore_orders(&mut self, now: Instant, orders: Orders) {
        self.orders = orders;
        self.orders_changed(now);
    }

    /// Takes an order.
    pub fn add_order(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        action: Action,
        scope: Scope,
        reason: &str,
        ends_at: Option<UnixMillis>,
    ) -> Result<Order, OrderError> {
        if let Action::Reroute(pool) = &action
            && self.egress.pool(pool).is_none()
        {
            return Err(OrderError::UnknownPool(pool.clone()));
        }
        let order = self.orders.add(action, scope, reason, wall, ends_at)?.clone();
        self.orders_changed(now);
        Ok(order)
    }

    /// Ends an order; gives it back.
    pub fn cancel_order(&mut self, now: Instant, id: OrderId) -> Option<Order> {
        let order = self.orders.cancel(id)?;
        self.orders_changed(now);
        Some(order)
    }

    /// What an order of this scope would touch now.
    pub fn preview(&self, scope: &Scope) -> Preview {
        let mut preview = Preview::default();
        for (key, _) in self.lines() {
            let count = self.queue.counts(key).recipients;
            match scope.matches(&self.facts(key, Fact::Unknown)) {
                Match::Yes => {
                    preview.queues += 1;
                    preview.recipients += count;
                }
                Match::Depends => {
                    preview.queues += 1;
                    preview.depends += count;
                }
                Match::No => {}
            }
        }
        preview
    }

    /// Entries at places `from` and after in the queue that an order of this scope may name, for a caller who can
    /// read messages, and the place to ask from next; `None` at the end.
    pub fn candidates(&self, scope: &Scope, from: u32) -> (Vec<Candidate>, Option<u32>) {
        // What only the message can tell is for the caller.
        let scope = Scope { sender: None, job: None, ..scope.clone() };
        let mut known: Vec<Option<Match>> = vec![None; self.lines.len()];
        let (views, next) = self.queue.views_from(from, WALK_AT_ONCE);
        let found = views
            .into_iter()
            .filter_map(|view| {
                let line = view.entry.line;
                let matches = *known[line.0 as usize]
                    .get_or_insert_with(|| scope.matches(&self.facts(line, Fact::Unknown)));
                (matches != Match::No).then_some(Candidate {
                    key: view.key,
                    handle: view.entry.handle,
                    first: view.entry.first,
                    count: view.entry.count,
                    certain: matches == Match::Yes,
                })
            })
            .collect();
        (found, next)
    }

    /// A caller has read the messages of these entries, and found that an order that bounces names them. How many
    /// are given up, without those in an attempt; `None` once the order has ended.
    pub fn bounce_named(&mut self, id: OrderId, named: &[Candidate]) -> Option<u32> {
        if self.order(id)?.action != Action::Bounce {
            return None;
        }
        let reply = Arc::new(self.order_reply(id));
        let mut count = 0;
        for candidate in named {
            // The place may be another entry's by now.
            let same = self.queue.get(candidate.key).is_some_and(|entry| {
                (entry.handle, entry.first, entry.count)
                    == (candidate.handle, candidate.first, candidate.count)
            });
            if same && self.queue.pull(candidate.key) {
                self.giving_up.push_back((candidate.key, Ending::Ordered(id, reply.clone())));
                count += 1;
            }
        }
        Some(count)
    }

    /// What a queue is, as orders see it.
    pub(crate) fn facts(&self, line: LineKey, source: Fact<'static>) -> Facts<'_> {
        let Some(name) = self.line(line).map(|line| line.name) else { return Facts::default() };
        Facts {
            tenant: self.tenants.get(name.tenant).map(|text| &**text).into(),
            campaign: self.campaigns.get(name.campaign).map(|text| &**text).into(),
            domain: self.target(name.target).map(|target| &*target.name).into(),
            site: self
                .site_of_line(line)
                .and_then(|site| self.site(site))
                .map_or(Fact::Unknown, |site| Fact::Is(&site.name)),
            source,
            pool: self
                .egress
                .pools
                .get(usize::from(name.pool.0))
                .map_or(Fact::Unknown, |pool| Fact::Is(&pool.name)),
            sender: Fact::Unknown,
            job: Fact::Unknown,
        }
    }

    /// Every queue looks at the orders again before its next turn; what an order held that is no more moves.
    pub(crate) fn orders_changed(&mut self, now: Instant) {
        let lines: Vec<LineKey> = self.lines().map(|(key, _)| key).collect();
        for line in lines {
            self.look_at_orders(line);
            // Where its site is not known, what an order has held may be asked for, or refused, from now on.
            if self.site_of_line(line).is_some() || self.queue.counts(line).ready > 0 {
                self.line_is_due(now, line);
            }
        }
        let live: Vec<OrderId> = self.orders.list().iter().map(|order| order.id).collect();
        let over: Vec<OrderId> = self.held_entries.keys().copied().filter(|id| !live.contains(id)).collect();
        for id in over {
            let Some(held) = self.held_entries.remove(&id) else { continue };
            for key in held.keys {
                if self.queue.get(key).is_some_and(|entry| entry.last_reply == held.reply) {
                    self.queue.hasten(now, key);
                }
            }
            self.replies.release(held.reply);
        }
        if self.orders.list().iter().any(|order| order.action == Action::Bounce) {
            self.bounce_walk = Some(0);
        }
    }

    /// Takes the orders to heart that hold for a queue, if they have changed since it last did.
    pub(crate) fn look_at_orders(&mut self, line: LineKey) {
        let version = self.orders.version();
        if self.line(line).is_none_or(|state| state.orders_version == version) {
            return;
        }
        let facts = self.facts(line, Fact::Unknown);
        let (mut held, mut timeless, mut bounced, mut rerouted, mut depends) =
            (None, false, None, None, false);
        for (order, found) in self.orders.matching(&facts) {
            if found == Match::Depends {
                depends = true;
                continue;
            }
            match &order.action {
                Action::Suspend => held = held.or(Some(order.id)),
                Action::Hold => {
                    held = held.or(Some(order.id));
                    timeless = true;
                }
                Action::Bounce => bounced = bounced.or(Some(order.id)),
                Action::Reroute(pool) => rerouted = rerouted.or(self.egress.pool(pool)),
                // Those of a whole site hold through the rules that are made of them.
                Action::Limit(_) => depends |= order.scope.is_part_of_site(),
            }
        }
        self.queue.set_timeless(line, timeless);
        let Some(state) = self.line_mut(line) else { return };
        state.orders_version = version;
        state.divert(|to| (to.bounced_by, to.rerouted) = (bounced, rerouted));
        state.depends = depends;
        let was_ordered = matches!(state.aside.as_deref(), Some((Aside::Order(_), _)));
        let since = self.order_since(held);
        let Some(state) = self.line_mut(line) else { return };
        match (held, since) {
            // What is given up need not wait first.
            (Some(order), Some(since)) if bounced.is_none() => {
                state.aside = Some(Box::new((Aside::Order(order), since)));
                self.queue.set_aside(line, true);
            }
            _ if was_ordered => {
                state.aside = None;
                self.queue.set_aside(line, false);
            }
            _ => {}
        }
    }

    fn order_since(&self, order: Option<OrderId>) -> Option<Instant> {
        order.map(|_| self.last_advanced)
    }

    pub(crate) fn order(&self, id: OrderId) -> Option<&Order> {
        self.orders.list().iter().find(|order| order.id == id)
    }

    pub(crate) fn order_reply(&self, id: OrderId) -> Reply {
        let text = match self.order(id) {
            Some(order) if !order.reason.is_empty() => format!("given up by order {id}: {}", order.reason),
            _ => format!("given up by order {id}"),
        };
        // RFC 3463 §3.8: a matter of policy, and nobody's mistake at the destination.
        Reply::new(550, (5, 7, 0), text)
    }

    /// An order that names a queue only together with this source.
    pub(crate) fn order_on_source(&self, line: LineKey, source: SourceAt) -> Option<Hold> {
        let name = self.egress.source_name(source);
        let facts = Facts { source: Fact::Is(&name), ..self.facts(line, Fact::Unknown) };
        let order = self
            .orders
            .list()
            .iter()
            .filter(|order| {
                order.scope.source.is_some() && matches!(order.action, Action::Suspend | Action::Hold)
            })
            .find(|order| order.scope.matches(&facts) == Match::Yes)?;
        Some(self.hold_of(order))
    }

    /// The pool to which an order that names a queue only together with this source sends its mail.
    pub(crate) fn reroute_on_source(&self, line: LineKey, source: SourceAt) -> Option<PoolAt> {
        let own = self.line(line)?.name.pool;
        let name = self.egress.source_name(source);
        let facts = Facts { source: Fact::Is(&name), ..self.facts(line, Fact::Unknown) };
        self.orders
            .list()
            .iter()
            .filter(|order| order.scope.source.is_some())
            .filter_map(|order| Some((order, self.pool_of_reroute(order)?)))
            .find(|(order, pool)| *pool != own && order.scope.matches(&facts) == Match::Yes)
            .map(|(_, pool)| pool)
    }

    fn pool_of_reroute(&self, order: &Order) -> Option<PoolAt> {
        match &order.action {
            Action::Reroute(pool) => self.egress.pool(pool),
            _ => None,
        }
    }

    /// An entry that is in nobody's hands goes by another pool.
    pub(crate) fn move_to_pool(&mut self, now: Instant, key: EntryKey, pool: PoolAt) {
        let from = self.queue.entry(key).line;
        let Some(line) = self.line_in_pool(now, from, pool) else { return self.queue.untake(key) };
        // Orders that send mail back and forth must not make more of it than a move a second.
        let facts = self.facts(line, Fact::Unknown);
        let moves_on = self.orders.matching(&facts).any(|(order, found)| {
            found == Match::Depends && self.pool_of_reroute(order).is_some_and(|other| other != pool)
        });
        let wait = if moves_on { MOVE_AGAIN } else { Duration::ZERO };
        self.queue.transfer(now, key, line, now + wait);
        self.list_idle(now, from);
        self.entry_came(now, line);
        if self.line(line).is_some_and(|line| line.bounced_by().is_some()) {
            self.bounce_walk = Some(0);
        }
    }

    pub(crate) fn hold_of(&self, order: &Order) -> Hold {
        let left = order.ends_at.map(|end| Duration::from_millis(end.0.saturating_sub(self.last_wall.0)));
        Hold {
            reason: Reason::Order {
                id: order.id,
                action: order.action.word(),
                reason: (&*order.reason).into(),
            },
            until: left.map(|left| self.last_advanced + left),
        }
    }

    /// Orders that only the message can match, for the connection that will have it at hand.
    pub(crate) fn message_orders(&self, line: LineKey, path: PathAt) -> Option<Arc<[Order]>> {
        let state = self.line(line)?;
        if !state.depends {
            return None;
        }
        let own = state.name.pool;
        let source = self.egress.source_name(self.path(path)?.source);
        let facts = Facts { source: Fact::Is(&source), ..self.facts(line, Fact::Unknown) };
        let orders: Vec<Order> = self
            .orders
            .matching(&facts)
            .filter(|(order, found)| {
                let by_message = *found == Match::Depends;
                match &order.action {
                    Action::Limit(_) => order.scope.is_part_of_site(),
                    // Its mail is there already.
                    Action::Reroute(pool) => by_message && self.egress.pool(pool) != Some(own),
                    Action::Suspend | Action::Hold | Action::Bounce => by_message,
                }
            })
            .map(|(order, _)| order.clone())
            .collect();
        (!orders.is_empty()).then(|| orders.into())
    }

    /// A connection found that an order names its message: the job waits, or goes by another pool, without an attempt.
    /// `until` is when a limit may have room for it.
    pub fn ordered(
        &mut self,
        now: Instant,
        wall: UnixMillis,
        id: ConnectionId,
        job: &Job,
        order: OrderId,
        until: Option<Instant>,
    ) {
        self.returned(id, job);
        let Some(found) = self.order(order).cloned() else { return };
        if let Action::Reroute(_) = &found.action {
            let Some(pool) = self.pool_of_reroute(&found) else { return };
            for entry in &job.entries {
                if self.queue.pull(entry.key) {
                    self.move_to_pool(now, entry.key, pool);
                }
            }
            return;
        }
        let again = found.ends_at.map_or(LOOK_AGAIN, |end| {
            Duration::from_millis(end.0.saturating_sub(wall.0)).clamp(Duration::from_secs(1), LOOK_AGAIN)
        });
        let again = until.map_or(again, |until| until.saturating_duration_since(now));
        let text = format!("450 4.7.0 held by order {order} ({}): {}", found.action.word(), found.reason);
        for entry in &job.entries {
            if !self.queue.pull(entry.key) {
                continue;
            }
            let before = self.queue.entry(entry.key).last_reply;
            let held = self.replies.hold(&text);
            self.replies.release(before);
            self.queue.set_last_reply(entry.key, held);
            if found.action == Action::Hold {
                self.queue.keep_until(entry.key, now + again + Duration::from_secs(120));
            }
            self.queue.postpone(now, entry.key, now + again);
            let replies = &mut self.replies;
            let held = self
                .held_entries
                .entry(order)
                .or_insert_with(|| HeldEntries { reply: replies.hold(&text), keys: HashSet::new() });
            held.keys.insert(entry.key);
        }
    }

    /// One step of the walk over everything queued that gives up what orders bounce.
    pub(crate) fn walk_for_bounces(&mut self) {
        let Some(from) = self.bounce_walk.filter(|_| self.giving_up.len() < WALK_AT_ONCE as usize) else {
            return;
        };
        let (views, next) = self.queue.views_from(from, WALK_AT_ONCE);
        self.bounce_walk = next;
        let found: Vec<(EntryKey, OrderId)> = views
            .into_iter()
            .filter(|view| !view.attempted)
            .filter_map(|view| Some((view.key, self.line(view.entry.line)?.bounced_by()?)))
            .collect();
        for (key, order) in found {
            if self.queue.pull(key) {
                let reply = Arc::new(self.order_reply(order));
                self.giving_up.push_back((key, Ending::Ordered(order, reply)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action as Act, Config, Egress, NewMail, Pool, SiteFound, Source, Target};
    use mail::Domain;
    use shaping::Rules;

    const WALL: UnixMillis = UnixMillis(1_000_000_000_000);

    struct World {
        now: Instant,
        dispatch: Dispatch,
    }

    /// Pools `a`, `b`, … of one source each: `s0`, `s1`, …
    fn egress(pools: &[&str]) -> Egress {
        let sources = (0..pools.len()).map(|n| Source { name: format!("s{n}").into(), enabled: true });
        let pool =
            |(n, name): (usize, &&str)| Pool { name: (*name).into(), sources: vec![(SourceAt(n as u16), 1)] };
        Egress { sources: sources.collect(), pools: pools.iter().enumerate().map(pool).collect() }
    }

    impl World {
        fn new() -> Self {
            Self::with(Egress::default())
        }

        fn with(egress: Egress) -> Self {
            let now = Instant::now();
            let rules = Arc::new(Rules::compile(&[]).unwrap());
            let dispatch = Dispatch::new(now, Config::default(), egress, rules);
            Self { now, dispatch }
        }

        /// Serves as connections would that know the sender of every message: those of `bad` are found to be named
        /// by the orders that come with their job. The handles of what left, with its source.
        fn serve_reading(&mut self, bad: u64) -> Vec<(u64, SourceAt)> {
            let mut sent = Vec::new();
            for _ in 0..20 {
                self.dispatch.serve(self.now, WALL);
                for action in self.dispatch.actions() {
                    match action {
                        Act::Resolve(target) => {
                            let hosts = vec![format!("mx.{target}").into()];
                            let found = SiteFound::Exchangers(hosts, Duration::from_secs(600));
                            self.dispatch.site_found(self.now, &target, found);
                        }
                        Act::Open { id, source, job, .. } => {
                            self.dispatch.connected(self.now, id);
                            let order = job.orders.as_ref().map(|orders| orders[0].id);
                            match order.filter(|_| job.handle == bad) {
                                Some(order) => {
                                    self.dispatch.ordered(self.now, WALL, id, &job, order, None);
                                    self.dispatch.closed(self.now, id, true, None);
                                }
                                None => sent.push((job.handle, source)),
                            }
                        }
                        _ => {}
                    }
                }
            }
            sent
        }

        fn target(domain: &str) -> Target {
            Target::Domain(Domain::parse(domain).unwrap())
        }

        fn push(&mut self, handle: u64, domain: &str, tenant: Option<&str>) {
            let target = Self::target(domain);
            self.dispatch.push(self.now, &NewMail { tenant, ..NewMail::new(handle, &target) });
        }

        fn order(&mut self, action: Action, scope: Scope) -> OrderId {
            self.dispatch.add_order(self.now, WALL, action, scope, "why", None).unwrap().id
        }

        /// Serves until nothing more happens; the handles of jobs given to connections, and of those given up.
        fn serve(&mut self) -> (Vec<u64>, Vec<u64>) {
            let (mut sent, mut given_up) = (Vec::new(), Vec::new());
            loop {
                self.dispatch.serve(self.now, WALL);
                let actions = self.dispatch.actions();
                if actions.is_empty() && !self.dispatch.has_more() {
                    return (sent, given_up);
                }
                for action in actions {
                    match action {
                        Act::Resolve(target) => {
                            let hosts = vec![format!("mx.{target}").into()];
                            let found = SiteFound::Exchangers(hosts, Duration::from_secs(600));
                            self.dispatch.site_found(self.now, &target, found);
                        }
                        Act::Open { job, .. } | Act::Give(_, job) => sent.push(job.handle),
                        Act::Settle(job, crate::Fate::Bounced(_)) => given_up.push(job.handle),
                        _ => {}
                    }
                }
            }
        }
    }

    fn scope(set: impl FnOnce(&mut Scope)) -> Scope {
        let mut scope = Scope::default();
        set(&mut scope);
        scope
    }

    #[test]
    fn an_order_by_site_holds_mail_whose_site_was_not_known_when_it_was_given() {
        let mut world = World::new();
        world.push(1, "a.test", None);
        world.push(2, "b.test", None);
        let site = scope(|scope| scope.site = Some("mx.a.test".into()));
        assert_eq!(world.dispatch.preview(&site).depends, 2);
        let id = world.order(Action::Suspend, site.clone());
        assert_eq!(world.serve().0, [2]);
        assert_eq!(world.dispatch.preview(&site).recipients, 1);
        world.dispatch.cancel_order(world.now, id).unwrap();
        assert_eq!(world.serve().0, [1]);
    }

    #[test]
    fn candidates_say_whether_all_but_the_message_is_known() {
        let mut world = World::new();
        world.push(1, "a.test", Some("acme"));
        world.push(2, "a.test", Some("other"));
        let of = |world: &World, scope: &Scope| -> Vec<(u64, bool)> {
            let (found, next) = world.dispatch.candidates(scope, 0);
            assert_eq!(next, None);
            found.into_iter().map(|candidate| (candidate.handle, candidate.certain)).collect()
        };
        let sender = |scope: &mut Scope| scope.sender = Some("*@x.test".into());
        assert_eq!(of(&world, &scope(sender)), [(1, true), (2, true)]);
        let tenant = scope(|scope| {
            sender(scope);
            scope.tenant = Some("acme".into());
        });
        assert_eq!(of(&world, &tenant), [(1, true)]);
        let site = scope(|scope| {
            sender(scope);
            scope.site = Some("mx.*".into());
        });
        assert_eq!(of(&world, &site), [(1, false), (2, false)], "no site is known yet");
    }

    #[test]
    fn what_a_caller_names_is_given_up_once_and_only_for_an_order_that_bounces() {
        let mut world = World::new();
        let held = world.order(Action::Hold, scope(|scope| scope.domain = Some("*".into())));
        for handle in 1..=3 {
            world.push(handle, "a.test", None);
        }
        assert_eq!(world.serve(), (vec![], vec![]));
        let by_job = scope(|scope| scope.job = Some("run".into()));
        let (found, _) = world.dispatch.candidates(&by_job, 0);
        assert_eq!(world.dispatch.bounce_named(held, &found[..1]), None, "it does not bounce");
        let id = world.order(Action::Bounce, by_job);
        let gone = Candidate { handle: 99, ..found[2] };
        assert_eq!(world.dispatch.bounce_named(id, &[found[0], found[0], gone]), Some(1));
        let given_up = world.serve().1;
        assert_eq!(given_up, [found[0].handle]);
        world.dispatch.cancel_order(world.now, id).unwrap();
        assert_eq!(world.dispatch.bounce_named(id, &found), None, "the order has ended");
    }

    #[test]
    fn mail_that_only_the_message_tells_apart_leaves_by_the_pool_that_an_order_names() {
        let mut world = World::with(egress(&["a", "b"]));
        world.push(1, "a.test", None);
        world.push(2, "b.test", None);
        world.order(Action::Reroute("b".into()), scope(|scope| scope.sender = Some("bad@x.test".into())));
        let mut sent = world.serve_reading(1);
        sent.sort_unstable_by_key(|(handle, _)| *handle);
        assert_eq!(sent, [(1, SourceAt(1)), (2, SourceAt(0))]);
        assert_eq!(world.dispatch.recipients(), 2, "both are in an attempt, neither twice");
    }

    #[test]
    fn mail_of_a_source_leaves_by_the_pool_that_an_order_names() {
        let mut world = World::with(egress(&["a", "b"]));
        world.push(1, "a.test", None);
        world.order(Action::Reroute("b".into()), scope(|scope| scope.source = Some("s0".into())));
        assert_eq!(world.serve_reading(0), [(1, SourceAt(1))]);
    }

    #[test]
    fn orders_that_send_mail_back_and_forth_do_not_spin() {
        let mut world = World::with(egress(&["a", "b"]));
        world.push(1, "a.test", None);
        for (source, pool) in [("s0", "b"), ("s1", "a")] {
            world.order(Action::Reroute(pool.into()), scope(|scope| scope.source = Some(source.into())));
        }
        assert_eq!(world.serve_reading(0), []);
        assert!(!world.dispatch.has_more(), "it waits for a moment");
        assert_eq!(world.dispatch.recipients(), 1);
    }
}
