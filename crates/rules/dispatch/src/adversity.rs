//! What must not happen: mail that waits for ever, and memory that grows without end. Each case is one that did.

use crate::{
    Action as Act, Config, Dispatch, Egress, Fate, NewMail, Pool, SiteFound, Source, SourceAt, Target,
};
use crate::{Done, Job, act::ConnectionId};
use mail::{Domain, Reply, UnixMillis};
use queue::orders::{Action, OrderId, Scope};
use shaping::Rules;
use std::sync::Arc;
use std::time::{Duration, Instant};

const WALL: UnixMillis = UnixMillis(1_000_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

struct World {
    now: Instant,
    dispatch: Dispatch,
}

fn target(domain: &str) -> Target {
    Target::Domain(Domain::parse(domain).unwrap())
}

fn egress(pools: &[&str]) -> Egress {
    let sources = (0..pools.len()).map(|n| Source { name: format!("s{n}").into(), enabled: true });
    let pool =
        |(n, name): (usize, &&str)| Pool { name: (*name).into(), sources: vec![(SourceAt(n as u16), 1)] };
    Egress { sources: sources.collect(), pools: pools.iter().enumerate().map(pool).collect() }
}

impl World {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        let rules = Arc::new(Rules::compile(&[]).unwrap());
        Self { now, dispatch: Dispatch::new(now, config, egress(&["a", "b"]), rules) }
    }

    fn push(&mut self, handle: u64, domain: &str) {
        self.push_by(handle, domain, None);
    }

    fn push_by(&mut self, handle: u64, domain: &str, pool: Option<&str>) {
        let target = target(domain);
        self.dispatch.push(self.now, &NewMail { pool, ..NewMail::new(handle, &target) });
    }

    fn serve(&mut self) -> Vec<Act> {
        self.dispatch.serve(self.now, WALL);
        self.dispatch.actions()
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = end.min(self.now + SECOND);
            self.dispatch.advance(self.now, WALL);
        }
    }

    fn found(&mut self, domain: &str) {
        let found = SiteFound::Exchangers(vec![format!("mx.{domain}").into()], Duration::from_secs(600));
        self.dispatch.site_found(self.now, &target(domain), found);
    }

    fn refused(&mut self, domain: &str) {
        let found = SiteFound::Refused(Reply::new(556, (5, 1, 10), "null MX"), Duration::from_secs(60));
        self.dispatch.site_found(self.now, &target(domain), found);
    }

    fn order(&mut self, action: Action, domain: &str) -> OrderId {
        let scope = Scope { domain: Some(domain.into()), ..Scope::default() };
        self.dispatch.add_order(self.now, WALL, action, scope, "", None).unwrap().id
    }

    fn delivered(&mut self, id: ConnectionId, job: &Job) {
        let entries = job.entries.iter().map(|entry| entry.key).collect();
        let done = Done { entries, delivered: job.recipients() as u32, ..Done::default() };
        self.dispatch.done(self.now, WALL, id, done);
    }
}

fn opened(actions: &[Act]) -> Vec<(ConnectionId, Job)> {
    let open = |act: &Act| match act {
        Act::Open { id, job, .. } => Some((*id, job.clone())),
        _ => None,
    };
    actions.iter().filter_map(open).collect()
}

fn settled(actions: &[Act]) -> Vec<(Job, Fate)> {
    let settle = |act: &Act| match act {
        Act::Settle(job, fate) => Some((job.clone(), fate.clone())),
        _ => None,
    };
    actions.iter().filter_map(settle).collect()
}

fn asked(actions: &[Act]) -> usize {
    actions.iter().filter(|act| matches!(act, Act::Resolve(_))).count()
}

#[test]
fn a_domain_is_asked_for_once_at_a_time_however_much_mail_comes() {
    let mut world = World::new(Config { resolving_max: 2, ..Config::default() });
    let mut count = 0;
    for handle in 1..=5 {
        world.push(handle, "slow.test");
        count += asked(&world.serve());
    }
    assert_eq!(count, 1);
    world.push(6, "other.test");
    assert_eq!(asked(&world.serve()), 1, "a slow domain must not use up the look-ups of others");
    world.refused("slow.test");
    for (job, _) in settled(&world.serve()) {
        let entries = job.entries.iter().map(|entry| entry.key).collect();
        world.dispatch.settled(world.now, Done { entries, ..Done::default() });
    }
    world.pass(5 * SECOND);
    world.push(7, "slow.test");
    assert_eq!(settled(&world.serve()).len(), 1, "what was found holds for a while");
}

#[test]
fn a_target_that_was_asked_for_when_its_mail_ended_is_forgotten_after_the_answer() {
    let config = Config { site_known_for: (SECOND, SECOND), ..Config::default() };
    let mut world = World::new(config);
    world.push(1, "a.test");
    world.serve();
    world.found("a.test");
    let (id, job) = opened(&world.serve()).remove(0);
    world.dispatch.connected(world.now, id);
    world.pass(2 * SECOND);
    world.push(2, "a.test");
    let actions = world.serve();
    let next = actions.iter().find_map(|act| match act {
        Act::Give(_, job) => Some(job.clone()),
        _ => None,
    });
    let asks = asked(&actions) + asked(&world.serve());
    assert_eq!(asks, 1, "what is known is old");
    world.delivered(id, &job);
    world.delivered(id, &next.unwrap());
    world.dispatch.closed(world.now, id, true, None);
    world.serve();
    world.pass(60 * SECOND);
    world.found("a.test");
    world.serve();
    world.pass(60 * SECOND);
    assert_eq!(world.dispatch.target_keys.len(), 0);
    assert_eq!(world.dispatch.site_keys.len(), 0);
}

#[test]
fn an_order_that_holds_keeps_mail_whose_domain_takes_none_for_the_moment() {
    for action in [Action::Hold, Action::Suspend] {
        let mut world = World::new(Config::default());
        let order = world.order(action, "a.test");
        world.push(1, "a.test");
        world.serve();
        world.refused("a.test");
        assert_eq!(settled(&world.serve()).len(), 0);
        world.dispatch.cancel_order(world.now, order).unwrap();
        let ended = settled(&world.serve());
        assert!(matches!(&ended[..], [(job, Fate::Bounced(_))] if job.handle == 1), "{ended:?}");
    }
}

#[test]
fn an_order_that_holds_lets_no_attempt_be_made_where_the_site_cannot_be_found() {
    let mut world = World::new(Config::default());
    let order = world.order(Action::Hold, "a.test");
    world.push(1, "a.test");
    world.serve();
    world.dispatch.site_found(
        world.now,
        &target("a.test"),
        SiteFound::Failed(Reply::new(451, (4, 4, 3), "x")),
    );
    assert_eq!(settled(&world.serve()).len(), 0);
    world.dispatch.cancel_order(world.now, order).unwrap();
    world.pass(60 * SECOND);
    assert_eq!(asked(&world.serve()), 1);
    world.found("a.test");
    assert_eq!(opened(&world.serve()).len(), 1);
}

#[test]
fn an_order_that_bounces_takes_mail_whose_site_cannot_be_found() {
    let mut world = World::new(Config::default());
    world.order(Action::Bounce, "a.test");
    world.push(1, "a.test");
    let mut ended = settled(&world.serve());
    for _ in 0..3 {
        ended.extend(settled(&world.serve()));
    }
    assert!(matches!(&ended[..], [(job, Fate::Bounced(_))] if job.handle == 1), "{ended:?}");
}

#[test]
fn what_expires_at_once_is_settled_some_at_a_time() {
    let mut world = World::new(Config { expire_after: 5 * SECOND, ..Config::default() });
    world.order(Action::Suspend, "*");
    const MANY: u64 = 10_000;
    for handle in 0..MANY {
        world.push(handle, "a.test");
    }
    world.serve();
    world.pass(90 * SECOND);
    let mut ended = 0;
    for _ in 0..10 {
        let some = settled(&world.serve());
        assert!(some.len() <= 2_000, "{}", some.len());
        ended += some.len() as u64;
        for (job, fate) in some {
            assert_eq!(fate, Fate::Expired(None));
            let entries = job.entries.iter().map(|entry| entry.key).collect();
            world.dispatch.settled(world.now, Done { entries, ..Done::default() });
        }
    }
    assert_eq!((ended, world.dispatch.recipients()), (MANY, 0));
}

#[test]
fn an_order_that_is_cancelled_gives_up_nothing_more() {
    let mut world = World::new(Config::default());
    for handle in 0..5_000 {
        world.push(handle, "a.test");
    }
    let order = world.order(Action::Bounce, "a.test");
    let first = settled(&world.serve()).len();
    assert!(first < 5_000);
    world.dispatch.cancel_order(world.now, order).unwrap();
    assert_eq!(settled(&world.serve()).len(), 0, "nothing is given up after the order has ended");
    world.dispatch.settling = 0;
    assert_eq!(settled(&world.serve()).len(), 0);
    world.found("a.test");
    assert!(!opened(&world.serve()).is_empty(), "the others go on");
    assert_eq!(world.dispatch.giving_up.len(), 0);
}

#[test]
fn what_an_order_holds_by_its_sender_is_remembered_once() {
    let mut world = World::new(Config::default());
    world.push(1, "a.test");
    world.serve();
    world.found("a.test");
    let scope = Scope { sender: Some("x@y.test".into()), ..Scope::default() };
    let order = world.dispatch.add_order(world.now, WALL, Action::Hold, scope, "", None).unwrap().id;
    for _ in 0..20 {
        let actions = world.serve();
        let given = actions.iter().find_map(|act| match act {
            Act::Open { id, job, .. } => Some((*id, job.clone())),
            _ => None,
        });
        let (id, job) = given.expect("it is looked at again");
        world.dispatch.connected(world.now, id);
        world.dispatch.ordered(world.now, WALL, id, &job, order, None);
        world.dispatch.closed(world.now, id, true, None);
        world.serve();
        world.pass(Duration::from_secs(601));
    }
    assert_eq!(world.dispatch.held_entries[&order].keys.len(), 1);
}

#[test]
fn mail_of_a_pool_that_a_reload_took_away_outlives_its_namesake() {
    let mut world = World::new(Config::default());
    world.push_by(1, "a.test", Some("a"));
    world.push_by(2, "a.test", Some("b"));
    let rules = world.dispatch.rules.clone();
    world.dispatch.reconfigure(world.now, Config::default(), egress(&["a"]), rules);
    // Both queues have one name now. One ends and is forgotten; the other waits for its site.
    world.serve();
    let first = world.dispatch.line_names.values().next().copied().unwrap();
    let keys = world.dispatch.queue.views().filter(|view| view.entry.line == first).map(|view| view.key);
    for key in keys.collect::<Vec<_>>() {
        assert!(world.dispatch.queue.pull(key));
        world.dispatch.settle_entry(world.now, key);
    }
    world.pass(60 * SECOND);
    world.found("a.test");
    assert_eq!(opened(&world.serve()).len(), 1);
}

#[test]
fn a_source_that_comes_back_before_its_connections_end_keeps_its_path() {
    let mut world = World::new(Config::default());
    world.push_by(1, "a.test", Some("b"));
    world.serve();
    world.found("a.test");
    let (id, job) = opened(&world.serve()).remove(0);
    world.dispatch.connected(world.now, id);
    let rules = world.dispatch.rules.clone();
    world.dispatch.reconfigure(world.now, Config::default(), egress(&["a"]), rules.clone());
    world.dispatch.reconfigure(world.now, Config::default(), egress(&["a", "b"]), rules);
    world.push_by(2, "a.test", Some("b"));
    assert_eq!(opened(&world.serve()).len(), 1);
    world.delivered(id, &job);
    world.dispatch.closed(world.now, id, true, None);
    for (key, at) in &world.dispatch.path_of {
        assert_eq!(world.dispatch.path(*at).map(|path| path.key), Some(*key));
    }
    assert_eq!(world.dispatch.path_of.len(), 1);
}

#[test]
fn a_place_that_nobody_takes_goes_to_the_next_that_waits() {
    let mut world = World::new(Config { connections_total_max: 1, ..Config::default() });
    for (handle, domain) in [(1, "a.test"), (2, "b.test"), (3, "c.test")] {
        world.push(handle, domain);
    }
    world.serve();
    for domain in ["a.test", "b.test", "c.test"] {
        world.found(domain);
    }
    let (id, job) = opened(&world.serve()).remove(0);
    // The first of the two that wait has nothing to send any more when its turn comes.
    let first = world.dispatch.wanting_unknown[0];
    let name = world.dispatch.site(first).unwrap().name.to_string();
    world.order(Action::Suspend, name.strip_prefix("mx.").unwrap_or(&name));
    world.serve();
    world.dispatch.connected(world.now, id);
    world.delivered(id, &job);
    world.dispatch.closed(world.now, id, true, None);
    let mut next = opened(&world.serve());
    world.pass(SECOND);
    next.extend(opened(&world.serve()));
    assert_eq!(next.len(), 1);
    assert_ne!(&*next[0].1.queue.target, name.strip_prefix("mx.").unwrap_or(&name));
}

#[test]
fn a_site_without_mail_stands_once_among_those_that_may_be_forgotten() {
    let mut world = World::new(Config::default());
    world.push(1, "a.test");
    world.serve();
    world.found("a.test");
    let (id, job) = opened(&world.serve()).remove(0);
    world.dispatch.connected(world.now, id);
    world.delivered(id, &job);
    world.pass(20 * SECOND);
    for _ in 0..50 {
        world.dispatch.touch_all();
        world.serve();
        world.pass(15 * SECOND);
    }
    assert!(world.dispatch.idle_sites.len() <= 1, "{}", world.dispatch.idle_sites.len());
    world.dispatch.closed(world.now, id, true, None);
    world.serve();
    world.pass(60 * SECOND);
    assert_eq!((world.dispatch.site_keys.len(), world.dispatch.idle_sites.len()), (0, 0));
}

#[test]
fn a_job_for_an_exchanger_that_takes_fewer_recipients_is_several_each_with_its_leave() {
    let mut world = World::new(Config::default());
    let target = target("a.test");
    let mail =
        |first, count| NewMail { first, count, last_reply: Some("450 no"), ..NewMail::new(1, &target) };
    world.dispatch.push(world.now, &mail(0, 3));
    world.dispatch.push(world.now, &mail(3, 4));
    world.serve();
    world.found("a.test");
    let (id, mut job) = opened(&world.serve()).remove(0);
    assert_eq!(job.recipients(), 7);
    world.dispatch.connected(world.now, id);
    world.dispatch.narrowed(id, &job, 2);
    job.truncate(2);
    let mut seen: Vec<u32> = job.indices().collect();
    let mut jobs = vec![job];
    while let Some(job) = jobs.pop() {
        world.delivered(id, &job);
        for act in world.serve() {
            let Act::Give(to, job) = act else { continue };
            assert_eq!(to, id);
            assert!(job.recipients() <= 2, "{job:?}");
            seen.extend(job.indices());
            jobs.push(job);
        }
    }
    assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(world.dispatch.recipients(), 0);
}

#[test]
fn what_a_limit_held_is_looked_at_again_when_the_rules_change() {
    use shaping::{Layer, Origin, ShapingConfig, SharedScope};
    let mut world = World::new(Config::default());
    let mut config = ShapingConfig::default();
    let rates = vec![settings::Text("1/h".parse().unwrap())];
    let place = settings::Place::whole(0);
    let rates = Some(settings::Placed { value: rates, place });
    let tenants = vec![settings::Text("acme".parse().unwrap())];
    config.limit.insert("x".into(), SharedScope { tenants, message_rates: rates, ..SharedScope::default() });
    let origin = |_| Origin::built_in();
    let limited = Arc::new(Rules::compile(&[Layer { config: &config, origin: &origin }]).unwrap());
    let free = world.dispatch.rules.clone();
    world.dispatch.reconfigure(world.now, Config::default(), egress(&["a", "b"]), limited);
    let target = target("a.test");
    for handle in 1..=2 {
        let mail = NewMail { tenant: Some("acme"), ..NewMail::new(handle, &target) };
        world.dispatch.push(world.now, &mail);
    }
    world.serve();
    world.found("a.test");
    let (id, job) = opened(&world.serve()).remove(0);
    world.dispatch.connected(world.now, id);
    world.delivered(id, &job);
    assert!(!world.serve().iter().any(|act| matches!(act, Act::Give(..))), "the limit holds");
    world.dispatch.reconfigure(world.now, Config::default(), egress(&["a", "b"]), free);
    assert!(world.serve().iter().any(|act| matches!(act, Act::Give(..))), "it is gone");
}

// ---- what targets ask of connections ------------------------------------------------------------------------

#[test]
fn mail_that_asks_for_more_never_goes_by_a_connection_made_for_less() {
    let mut world = World::new(Config::default());
    for (handle, domain) in [(1, "plain.test"), (2, "strict.test"), (3, "strict.test")] {
        world.push(handle, domain);
    }
    world.serve();
    let hosts = || vec![Arc::from("mx.host.test")];
    let holds = Duration::from_secs(600);
    world.dispatch.site_found(world.now, &target("plain.test"), SiteFound::Exchangers(hosts(), holds));
    let opened_for_plain = opened(&world.serve());
    let [(plain, job)] = &opened_for_plain[..] else { panic!("{opened_for_plain:?}") };
    world.dispatch.connected(world.now, *plain);
    world.delivered(*plain, job);
    // It is idle, and leads to the very exchanger that the other domain's mail goes to.
    let asks: Arc<str> = "verified".into();
    world.dispatch.site_found(
        world.now,
        &target("strict.test"),
        SiteFound::Apart(hosts(), asks.clone(), holds),
    );
    let actions = world.serve();
    assert!(!actions.iter().any(|act| matches!(act, Act::Give(id, _) if id == plain)), "{actions:?}");
    let opened_for_strict = opened(&actions);
    assert!(!opened_for_strict.is_empty());
    // A domain that asks for the same shares with it; one that asks for nothing does not.
    for (id, job) in &opened_for_strict {
        world.dispatch.connected(world.now, *id);
        world.delivered(*id, job);
    }
    world.push(4, "same.test");
    world.serve();
    world.dispatch.site_found(world.now, &target("same.test"), SiteFound::Apart(hosts(), asks, holds));
    let actions = world.serve();
    let given = actions
        .iter()
        .any(|act| matches!(act, Act::Give(id, _) if opened_for_strict.iter().any(|o| o.0 == *id)));
    assert!(given, "{actions:?}");
}

#[test]
fn a_target_that_fails_for_reasons_of_its_own_holds_nobody_else() {
    let mut world = World::new(Config::default());
    for (handle, domain) in [(1, "good.test"), (2, "bad.test"), (3, "bad.test")] {
        world.push(handle, domain);
    }
    world.serve();
    let hosts = || vec![Arc::from("mx.host.test")];
    let holds = Duration::from_secs(600);
    let asks: Arc<str> = "verified".into();
    world.dispatch.site_found(world.now, &target("bad.test"), SiteFound::Apart(hosts(), asks.clone(), holds));
    for round in 0..3 {
        let actions = world.serve();
        let open = opened(&actions);
        let [(id, job)] = &open[..] else { panic!("round {round}: {actions:?}") };
        world.dispatch.target_failed(
            world.now,
            &target("bad.test"),
            Reply::new(454, (4, 7, 5), "not verified"),
        );
        world.dispatch.draining(*id);
        world.dispatch.returned(*id, job);
        world.dispatch.closed(world.now, *id, true, None);
        // Nothing of it moves before its time, and then one tries.
        assert!(opened(&world.serve()).is_empty(), "round {round}");
        let first = Config::default().resolve_again.0;
        world.pass(first * (1 << round) - SECOND);
        assert!(
            !world.serve().iter().any(|act| matches!(act, Act::Resolve(_) | Act::Open { .. })),
            "round {round}"
        );
        world.pass(2 * SECOND);
        assert!(world.serve().iter().any(|act| matches!(act, Act::Resolve(_))), "round {round}");
        world.dispatch.site_found(
            world.now,
            &target("bad.test"),
            SiteFound::Apart(hosts(), asks.clone(), holds),
        );
    }
    // The site answers all the while: another domain's mail goes there.
    for (id, job) in opened(&world.serve()) {
        world.dispatch.connected(world.now, id);
        world.delivered(id, &job);
    }
    world.dispatch.site_found(world.now, &target("good.test"), SiteFound::Exchangers(hosts(), holds));
    let actions = world.serve();
    let good = opened(&actions).into_iter().find(|(_, job)| &*job.queue.target == "good.test");
    assert!(good.is_some(), "{actions:?}");
}
