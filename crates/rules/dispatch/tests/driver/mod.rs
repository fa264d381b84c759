//! Random events for the machine, with a model of what it was told beside it.

use dispatch::{
    Action, Config, ConnectionId, Deferred, Dispatch, Done, Egress, Job, NewMail, Pool, Release, SiteFound,
    Source, SourceAt, Target,
};
use mail::{Reply, UnixMillis};
use queue::orders;
use settings::{Place, Placed, Text};
use shaping::{Layer, Origin, ReplyRule, Rules, ShapingConfig, SharedScope, Stage, Trigger};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events of a run.
const EVENTS: u32 = 3_000;

/// Connections of a path, as the rules say.
const CONNECTIONS: u32 = 3;

struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 33) % below.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn placed<T>(value: T) -> Option<Placed<T>> {
    Some(Placed { value, place: Place::whole(0) })
}

fn rates(texts: &[&str]) -> Vec<Text<shaping::Rate>> {
    texts.iter().map(|text| Text(text.parse().expect("a rate"))).collect()
}

const ACTIONS: [&str; 10] = [
    "backoff 1m",
    "suspend path 20s",
    "suspend queue 30s",
    "suspend tenant 30s",
    "suspend campaign 30s",
    "disable source 15s",
    "bounce queue",
    "slow 0.5 10s",
    "pool two",
    "normal",
];

fn rules(random: &mut Random) -> Arc<Rules> {
    let mut config = ShapingConfig::default();
    let scope = &mut config.default;
    scope.connections = placed(CONNECTIONS);
    scope.recipients_per_transaction = placed(2);
    scope.reconnect_min = placed(Duration::from_secs(1 + random.below(20)));
    if random.one_in(2) {
        scope.message_rates = placed(rates(&["5/s", "100/m"]));
    }
    if random.one_in(3) {
        scope.connection_rates = placed(rates(&["20/m"]));
    }
    if random.one_in(3) {
        scope.connection_ramp = placed(Duration::from_secs(2));
    }
    for (n, action) in ACTIONS.iter().enumerate() {
        scope.reply.push(ReplyRule {
            name: None,
            r#match: Placed { value: format!("number {n}$"), place: Place::whole(0) },
            stage: Vec::new(),
            when: Text(Trigger::AtOnce),
            r#do: vec![Text(action.parse().expect("an action"))],
        });
    }
    if random.one_in(2) {
        let limit = SharedScope {
            connections: placed(4),
            message_rates: placed(rates(&["60/m"])),
            ..SharedScope::default()
        };
        config.limit.insert("together".into(), limit);
    }
    if random.one_in(2) {
        let limit = SharedScope {
            each: vec![shaping::Dimension::Tenant],
            message_rates: placed(rates(&["30/m"])),
            ..SharedScope::default()
        };
        config.limit.insert("tenants".into(), limit);
    }
    let origin = |_| Origin { file: "test".into(), line: 0 };
    Arc::new(Rules::compile(&[Layer { config: &config, origin: &origin }]).expect("the rules compile"))
}

/// Two pools over two of three sources.
fn egress(variant: u64) -> Egress {
    let names: [&str; 2] = [["a", "b"], ["b", "c"], ["a", "c"]][variant as usize % 3];
    let pool = |name: &str, members: &[u16]| Pool {
        name: name.into(),
        sources: members.iter().map(|at| (SourceAt(*at), 1 + u32::from(*at))).collect(),
    };
    Egress {
        sources: names.map(|name| Source { name: name.into(), enabled: true }).into(),
        pools: vec![pool("one", &[0, 1]), pool("two", &[1])],
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Queued,
    Out,
}

#[derive(Debug)]
struct Open {
    path: (Arc<str>, Arc<str>),
    jobs: VecDeque<Job>,
    ready: bool,
    draining: bool,
}

/// The machine, and what we know of it.
struct World {
    random: Random,
    dispatch: Dispatch,
    rules: Arc<Rules>,
    now: Instant,
    wall: u64,
    targets: Vec<Target>,
    recipients: BTreeMap<(u64, u32), Where>,
    open: BTreeMap<ConnectionId, Open>,
    resolving: Vec<Target>,
    settling: Vec<(Job, dispatch::Fate)>,
    next: u64,
    pushed: u64,
    ended: u64,
    /// Everything answers and succeeds.
    calm: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let now = Instant::now();
        let rules = rules(&mut random);
        let config = Config {
            connections_total_max: 3 + random.below(12) as usize,
            resolving_max: 1 + random.below(4) as usize,
            expire_after: Duration::from_secs(60 + random.below(4_000)),
            idle_for: Duration::from_secs(random.below(20)),
            ..Config::default()
        };
        let mut targets: Vec<Target> = ["a.test", "b.test", "c.test", "d.test", "e.test"]
            .map(|name| Target::parse(name).unwrap())
            .into();
        targets.push(Target::Route("relay".into()));
        targets.push(Target::parse("[192.0.2.1]").unwrap());
        let dispatch = Dispatch::new(now, config, egress(random.below(3)), rules.clone());
        Self {
            random,
            dispatch,
            rules,
            now,
            wall: 1_800_000_000_000,
            targets,
            recipients: BTreeMap::new(),
            open: BTreeMap::new(),
            resolving: Vec::new(),
            settling: Vec::new(),
            next: 0,
            pushed: 0,
            ended: 0,
            calm: false,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.wall += time.as_millis() as u64;
        self.dispatch.advance(self.now, UnixMillis(self.wall));
    }

    fn push(&mut self) {
        const NAMES: [Option<&str>; 4] = [None, Some("x"), Some("y"), Some("z")];
        let random = &mut self.random;
        let count = 1 + random.below(4) as u32;
        let target = self.targets[random.below(self.targets.len() as u64) as usize].clone();
        let due = random.one_in(6).then(|| self.now + Duration::from_secs(random.below(30)));
        let mail = NewMail {
            tenant: NAMES[random.below(4) as usize],
            campaign: NAMES[random.below(3) as usize],
            pool: [None, Some("one"), Some("two"), Some("none such")][random.below(4) as usize],
            class: random.below(4) as u8,
            first: random.below(3) as u32,
            count,
            size: random.below(100_000),
            due,
            ..NewMail::new(self.next, &target)
        };
        self.dispatch.push(self.now, &mail);
        for index in mail.first..mail.first + count {
            self.recipients.insert((self.next, index), Where::Queued);
        }
        self.next += 1;
        self.pushed += u64::from(count);
    }

    /// A job is handed out: each of its recipients was queued.
    fn handed_out(&mut self, job: &Job) {
        for index in job.indices() {
            let place = self.recipients.get_mut(&(job.handle, index));
            assert_eq!(place.as_deref(), Some(&Where::Queued), "recipient {index} of {}", job.handle);
            *place.unwrap() = Where::Out;
        }
    }

    fn back(&mut self, job: &Job) {
        for index in job.indices() {
            self.recipients.insert((job.handle, index), Where::Queued);
        }
    }

    fn act(&mut self) {
        loop {
            self.dispatch.serve(self.now, UnixMillis(self.wall));
            for action in self.dispatch.actions() {
                self.carry_out(action);
            }
            if !self.dispatch.has_more() {
                break;
            }
        }
        assert_eq!(self.dispatch.recipients(), self.recipients.len() as u64);
        assert_eq!(self.dispatch.connections(), self.open.len());
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Resolve(target) => self.resolving.push(target),
            Action::Open { id, source, site, job, .. } => {
                self.handed_out(&job);
                let source = self.dispatch.egress().sources[usize::from(source.0)].name.clone();
                let path = (source, site);
                let jobs = VecDeque::from([job]);
                let new = Open { path: path.clone(), jobs, ready: false, draining: false };
                assert!(self.open.insert(id, new).is_none());
                let count = self.open.values().filter(|open| open.path == path).count();
                assert!(count <= CONNECTIONS as usize, "{count} connections of {path:?}");
            }
            Action::Give(id, job) => {
                self.handed_out(&job);
                let open = self.open.get_mut(&id).expect("a job is given to a connection that is open");
                assert!(open.ready && !open.draining && open.jobs.len() < dispatch::JOBS_MAX);
                open.jobs.push_back(job);
            }
            Action::Settle(job, fate) => {
                self.handed_out(&job);
                self.settling.push((job, fate));
            }
            Action::GiveUp(id) => {
                if self.open.get(&id).is_some_and(|open| !open.ready) {
                    self.close(id);
                }
            }
            Action::Close(id) => {
                let open = self.open.get(&id).expect("a connection that is closed is open");
                assert!(open.ready && open.jobs.is_empty(), "one that has something to do is closed");
                self.close(id);
            }
            Action::SkipExchanger { .. } | Action::Note(_) => {}
        }
    }

    /// What becomes of a job.
    fn outcome(&mut self, job: &Job, fate: Option<&dispatch::Fate>) -> Done {
        let mut done = Done {
            entries: job.entries.iter().map(|entry| entry.key).collect(),
            host: Some("mx.test".into()),
            ..Done::default()
        };
        for entry in &job.entries {
            for index in entry.first..entry.first + entry.count {
                let deferred = match fate {
                    Some(fate) => matches!(fate, dispatch::Fate::Deferred(..)),
                    None => !self.calm && self.random.one_in(3),
                };
                if deferred {
                    self.recipients.insert((job.handle, index), Where::Queued);
                    done.deferred.push(Deferred {
                        key: entry.key,
                        index,
                        attempts: entry.attempts + 1,
                        ambiguous: false,
                        delay_reported: false,
                        reply: "450 later".into(),
                        due: self.now + Duration::from_millis(self.random.below(60_000)),
                    });
                } else {
                    self.recipients.remove(&(job.handle, index));
                    self.ended += 1;
                    done.delivered += u32::from(fate.is_none());
                }
            }
        }
        if fate.is_none() && !self.calm && self.random.one_in(12) {
            let text = format!("number {}", self.random.below(ACTIONS.len() as u64));
            let reply = Reply::bare(450, text);
            let profile = job.profile.as_ref().expect("a job of a connection has a profile");
            let fired = self.rules.verdict(profile, Stage::End, &reply);
            done.fired.extend(fired.map(|fired| (fired, reply.to_string().into())));
        }
        done
    }

    fn any_connection(&mut self) -> Option<ConnectionId> {
        let at = self.random.below(self.open.len() as u64) as usize;
        self.open.keys().nth(at).copied()
    }

    /// A job of a connection is over, any of those it has.
    fn job_done(&mut self, id: ConnectionId) {
        let Some(open) = self.open.get_mut(&id) else { return };
        if !open.ready || open.jobs.is_empty() {
            return;
        }
        let at = self.random.below(open.jobs.len() as u64) as usize;
        let Some(job) = open.jobs.remove(at) else { return };
        let done = self.outcome(&job, None);
        self.dispatch.done(self.now, UnixMillis(self.wall), id, done);
    }

    fn ready(&mut self, id: ConnectionId) {
        if let Some(open) = self.open.get_mut(&id)
            && !std::mem::replace(&mut open.ready, true)
        {
            self.dispatch.connected(self.now, id);
        }
    }

    /// A connection ends: its first job may be over, the others go back; or it ends without a word.
    fn close(&mut self, id: ConnectionId) {
        let Some(mut open) = self.open.remove(&id) else { return };
        if !self.calm && self.random.one_in(10) {
            let due = self.now + Duration::from_secs(5);
            for job in &open.jobs {
                self.back(job);
            }
            self.dispatch.lost(self.now, UnixMillis(self.wall), id, due, "451 internal error");
            return self.dispatch.closed(self.now, id, false, Some("internal error".into()));
        }
        if !open.ready
            && let Some(job) = open.jobs.pop_front()
        {
            let done = self.outcome(&job, None);
            self.dispatch.done(self.now, UnixMillis(self.wall), id, done);
        }
        self.dispatch.draining(id);
        for job in &open.jobs {
            self.back(job);
            self.dispatch.returned(id, job);
        }
        self.dispatch.closed(self.now, id, open.ready, (!open.ready).then(|| "refused".into()));
    }

    fn answer(&mut self) {
        if self.resolving.is_empty() {
            return;
        }
        let at = self.random.below(self.resolving.len() as u64) as usize;
        let target = self.resolving.swap_remove(at);
        let holds = Duration::from_secs(1 + self.random.below(300));
        let found = match self.random.below(10) {
            0 if !self.calm => SiteFound::Failed(Reply::new(451, (4, 4, 3), "no answer")),
            1 if !self.calm => SiteFound::Refused(Reply::new(550, (5, 1, 2), "no such domain"), holds),
            // Exchangers change now and then; two domains share some.
            n => {
                let host = match target.to_string().as_str() {
                    "a.test" | "b.test" => "mx.ab.test".to_owned(),
                    other if n == 2 && !self.calm => format!("mx2.{other}"),
                    other => format!("mx.{other}"),
                };
                SiteFound::Exchangers(vec![host.as_str().into()], holds)
            }
        };
        self.dispatch.site_found(self.now, &target, found);
    }

    fn settle_one(&mut self) {
        if self.settling.is_empty() {
            return;
        }
        let at = self.random.below(self.settling.len() as u64) as usize;
        let (job, fate) = self.settling.swap_remove(at);
        let done = self.outcome(&job, Some(&fate));
        self.dispatch.settled(self.now, done);
    }

    fn order(&mut self) {
        let tenant = self.random.one_in(2).then(|| "x".into());
        let site = self.random.one_in(3).then(|| "mx.ab.test".into());
        let source = self.random.one_in(5).then(|| "b".into());
        let scope = orders::Scope { tenant, site, source, ..orders::Scope::default() };
        let action = match self.random.below(4) {
            0 => orders::Action::Suspend,
            1 => orders::Action::Hold,
            2 => orders::Action::Reroute("two".into()),
            _ => orders::Action::Bounce,
        };
        let ends = UnixMillis(self.wall + self.random.below(60_000));
        // An order that makes no sense is refused, which is as good a thing to happen.
        let _ = self.dispatch.add_order(self.now, UnixMillis(self.wall), action, scope, "test", Some(ends));
    }

    fn event(&mut self) {
        let connection = self.any_connection();
        match self.random.below(60) {
            0..14 => self.push(),
            14..20 => self.answer(),
            20..28 => {
                if let Some(id) = connection {
                    self.ready(id);
                }
            }
            28..40 => {
                if let Some(id) = connection {
                    self.job_done(id);
                }
            }
            40..44 => {
                if let Some(id) = connection {
                    self.close(id);
                }
            }
            44..48 => self.settle_one(),
            48..54 => {
                let ms = self.random.below(3_000);
                self.pass(Duration::from_millis(ms));
            }
            54 => {
                // To the next moment that it names.
                if let Some(at) = self.dispatch.wake_at() {
                    let time = at.saturating_duration_since(self.now);
                    self.pass(time);
                }
            }
            55 if self.random.one_in(8) => self.pass(Duration::from_secs(1_000)),
            56 if self.random.one_in(3) => self.order(),
            57 if self.random.one_in(3) => {
                let variant = self.random.below(3);
                let total = 3 + self.random.below(12) as usize;
                let config = Config { connections_total_max: total, ..Config::default() };
                if self.random.one_in(2) {
                    self.rules = rules(&mut self.random);
                }
                self.dispatch.reconfigure(self.now, config, egress(variant), self.rules.clone());
            }
            58 => {
                self.dispatch.flush(self.now, None);
            }
            59 => {
                let what = match self.random.below(2) {
                    0 => Release::Site("mx.ab.test".into()),
                    _ => Release::Source("b".into()),
                };
                self.dispatch.release(self.now, &what);
            }
            _ => {}
        }
    }

    /// Everybody answers: all that is queued leaves, and nothing is left.
    fn end(&mut self) {
        self.calm = true;
        for order in self.dispatch.orders().list().to_vec() {
            self.dispatch.cancel_order(self.now, order.id);
        }
        for _ in 0..20_000 {
            if self.recipients.is_empty() {
                break;
            }
            self.pass(Duration::from_millis(500));
            self.act();
            while !self.resolving.is_empty() {
                self.answer();
            }
            while !self.settling.is_empty() {
                self.settle_one();
            }
            for id in self.open.keys().copied().collect::<Vec<_>>() {
                self.ready(id);
                self.job_done(id);
                if self.open.get(&id).is_some_and(|open| open.jobs.is_empty()) {
                    self.close(id);
                }
            }
            self.act();
        }
        let status = self.dispatch.status(self.now);
        assert!(self.recipients.is_empty(), "{} are left: {status:#?}", self.recipients.len());
        for id in self.open.keys().copied().collect::<Vec<_>>() {
            self.close(id);
        }
        assert_eq!(self.ended, self.pushed, "as many ended as came");
        assert_eq!(self.dispatch.shaper().sizes().2, 0, "every permit has come back");
        for _ in 0..200 {
            self.pass(Duration::from_secs(60));
            self.act();
            while !self.resolving.is_empty() {
                self.answer();
            }
        }
        let status = self.dispatch.status(self.now);
        assert_eq!(
            (status.queues, status.targets, status.paths, status.connections, status.resolving),
            (0, 0, 0, 0, 0),
            "what is not used is forgotten: {status:#?}"
        );
        assert_eq!(self.dispatch.shaper().sizes().0, 0, "the shaper forgets its paths as well");
    }
}

/// One run; panics if the machine loses something, hands it out twice, or keeps what it should forget.
pub fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..EVENTS {
        world.event();
        world.act();
    }
    world.end();
}
