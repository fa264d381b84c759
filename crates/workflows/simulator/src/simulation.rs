//! The run: one virtual clock, one heap of what is to happen, and the same [`Dispatch`] that a server runs.

use crate::audit::Audit;
use crate::connection::{Connection, Phase};
use crate::counter::Nanos;
use crate::holds;
use crate::random::Random;
use crate::receiver::{is_out, nanos};
use crate::tally::{CampaignTally, Fate, KindTally};
use crate::traffic::Traffic;
use crate::world::{Destination, World};
use dispatch::{Action, ConnectionId, Dispatch, Done, Egress, Job, NewMail, SiteFound, Target};
use mail::{Reply, UnixMillis};
use queue::Schedule;
use shaping::Rules;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Messages are handed in as often as this, those that are due by then at once.
const HAND_IN_EVERY: Nanos = 10_000_000;

/// How long a job without a connection takes to be settled.
const SETTLE_TIME: Nanos = 1_000_000;

/// The machine is told the time at least as often as this.
const TELL_EVERY: Nanos = 1_000_000_000;

/// How long a site stays known, as the server's driver says it.
const SITE_HOLDS: Duration = Duration::from_secs(300);

/// Turns in which no time passes, before it is certain that the machine does not come to rest.
const TURNS_MAX: u32 = 1_000_000;

/// What the configuration says, as far as it is simulated.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Sources and pools.
    pub egress: Egress,
    /// The rules for traffic.
    pub rules: Arc<Rules>,
    /// Bounds of dispatching.
    pub dispatch: dispatch::Config,
    /// When a deferred recipient is tried again, where no rule says.
    pub schedule: Schedule,
    /// Longest wait for an address to accept a connection.
    pub connect_timeout: Duration,
    /// Longest wait for a greeting.
    pub greeting_timeout: Duration,
    /// How long a connection with nothing to send stays open.
    pub idle_timeout: Duration,
}

/// What happens at a moment; the numbers are places of campaigns and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    /// A campaign hands in what is due.
    HandIn(u32),
    /// A look-up is answered: the oldest one under way.
    Resolved,
    /// A job without a connection is settled: the oldest one.
    Settled,
    /// A connection reaches its receiver.
    Arrives(u32),
    /// A connection is ready, or it is known that it never will be.
    Ready(u32),
    /// The receiver has a message and makes up its mind.
    Seen(u32),
    /// The receiver's reply is here.
    Answered(u32),
    /// A connection has had nothing to do for its time, unless it has had since.
    Idle(u32, u32),
    /// A connection is closed.
    Gone(u32),
}

/// What an observer is shown, at the receivers.
#[derive(Clone, Copy, Debug)]
pub enum Observed<'a> {
    /// A connection arrives.
    Opened {
        /// Its source.
        source: &'a str,
        /// Its site.
        site: &'a str,
    },
    /// A connection is over.
    Closed {
        /// Its source.
        source: &'a str,
        /// Its site.
        site: &'a str,
    },
    /// A message arrives.
    Offered {
        /// Its source.
        source: &'a str,
        /// Its site.
        site: &'a str,
        /// The campaign's name in the traffic file.
        campaign: &'a str,
        /// Its tenant.
        tenant: Option<&'a str>,
        /// Its octets.
        octets: u64,
        /// Attempts made before.
        attempts: u16,
    },
}

/// Told of what happens at the receivers, with the time since the beginning.
pub type Observer = Box<dyn FnMut(Duration, Observed<'_>)>;

/// A moment and what happens then; the number in the middle keeps what was planned first before the rest.
type Planned = Reverse<(Nanos, u64, Event)>;

/// A running simulation.
pub struct Simulation {
    pub(crate) base: Instant,
    pub(crate) now: Nanos,
    pub(crate) setup: Setup,
    pub(crate) world: World,
    pub(crate) dispatch: Dispatch,
    pub(crate) random: Random,
    planned: BinaryHeap<Planned>,
    order: u64,
    next_tick: Nanos,
    /// When deferred messages are due.
    dues: BinaryHeap<Reverse<Nanos>>,
    next_sample: Nanos,
    turns: u32,
    pub(crate) connections: Vec<Option<Connection>>,
    pub(crate) free: Vec<u32>,
    pub(crate) places: HashMap<ConnectionId, u32>,
    pub(crate) connections_peak: usize,
    resolving: VecDeque<Target>,
    dns_time: Nanos,
    dns_outages: Vec<crate::OutageConfig>,
    settling: VecDeque<(Job, dispatch::Fate)>,
    pub(crate) audit: Audit,
    pub(crate) observer: Option<Observer>,
    /// Jumps of the wall clock, in milliseconds.
    jumps: Vec<(Nanos, i64)>,
    /// Messages each campaign has handed in.
    handed_in: Vec<u64>,
    pub(crate) accepted: u64,
    pub(crate) kinds: Vec<KindTally>,
    pub(crate) campaigns: Vec<CampaignTally>,
    /// The kind of a site's receiver, once a connection went there.
    pub(crate) kind_of_site: HashMap<Arc<str>, usize>,
    pub(crate) holds: holds::Holds,
    pub(crate) notes: HashMap<String, u64>,
}

impl Simulation {
    /// A world before anything has happened. `base` is where the virtual clock starts; the answer does not depend
    /// on it.
    pub fn new(base: Instant, setup: Setup, traffic: &Traffic, seed: u64) -> Result<Self, String> {
        let world = World::new(traffic, seed)?;
        let dispatch = Dispatch::new(base, setup.dispatch.clone(), setup.egress.clone(), setup.rules.clone());
        let mut sim = Self {
            base,
            now: 0,
            dispatch,
            random: Random::new(seed),
            planned: BinaryHeap::new(),
            order: 0,
            next_tick: 0,
            dues: BinaryHeap::new(),
            next_sample: 0,
            turns: 0,
            connections: Vec::new(),
            free: Vec::new(),
            places: HashMap::new(),
            connections_peak: 0,
            resolving: VecDeque::new(),
            dns_time: nanos(traffic.world.dns_time),
            dns_outages: traffic.world.dns_outages.clone(),
            settling: VecDeque::new(),
            audit: Audit::default(),
            observer: None,
            jumps: Vec::new(),
            handed_in: vec![0; world.campaigns.len()],
            accepted: 0,
            kinds: vec![KindTally::default(); world.kinds.len()],
            campaigns: vec![CampaignTally::default(); world.campaigns.len()],
            kind_of_site: HashMap::new(),
            holds: holds::Holds::default(),
            notes: HashMap::new(),
            setup,
            world,
        };
        for at in 0..sim.world.campaigns.len() {
            let campaign = &sim.world.campaigns[at];
            let (starts, first, messages) = (campaign.starts, campaign.first, campaign.messages);
            sim.campaigns[at].through.expect(messages);
            for handle in first..first + messages {
                let destination = sim.world.destination(at, handle);
                sim.kinds[sim.world.addresses[destination.receiver].kind].through.expect(1);
            }
            sim.plan(starts, Event::HandIn(at as u32));
        }
        Ok(sim)
    }

    /// Shows an observer what happens at the receivers.
    pub fn observe(&mut self, observer: Observer) {
        self.observer = Some(observer);
    }

    /// The wall clock jumps by so many milliseconds at a moment. To be told in the order of the moments.
    pub fn jump(&mut self, at: Duration, by_ms: i64) {
        self.jumps.push((nanos(at), by_ms));
    }

    /// The time since the beginning.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    /// The same as the machine is told it.
    pub fn instant(&self) -> Instant {
        self.base + self.now()
    }

    /// The wall clock, with its jumps.
    pub fn wall(&self) -> UnixMillis {
        let plain = self.world.wall(self.now).0;
        let jumped = self.jumps.iter().filter(|(at, _)| *at <= self.now).map(|(_, by)| by).sum();
        UnixMillis(plain.saturating_add_signed(jumped))
    }

    /// The machine under test.
    pub fn dispatch(&mut self) -> &mut Dispatch {
        &mut self.dispatch
    }

    /// Messages accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Messages settled so far.
    pub fn settled(&self) -> u64 {
        self.campaigns.iter().map(|campaign| campaign.outcomes.sum()).sum()
    }

    /// Messages of all campaigns.
    pub fn messages(&self) -> u64 {
        self.world.messages()
    }

    pub(crate) fn plan(&mut self, at: Nanos, event: Event) {
        self.order += 1;
        self.planned.push(Reverse((at, self.order, event)));
    }

    /// A span of about that length, as the receiver's jitter has it.
    pub(crate) fn about(&mut self, length: Duration, jitter: f64) -> Nanos {
        let factor = 1.0 + jitter * (2.0 * self.random.part() - 1.0);
        ((nanos(length) as f64 * factor) as Nanos).max(1)
    }

    // ---- the clock ----------------------------------------------------------------------------------------

    /// Goes to the next moment at which something happens. False when everything is settled, or its time is over.
    ///
    /// # Panics
    /// If a message is lost or counted twice, or the machine does not come to rest: our mistake.
    pub fn step(&mut self) -> bool {
        let wake = self.dispatch.wake_at().map(|at| nanos(at.saturating_duration_since(self.base)));
        let mut next = self.next_tick;
        if let Some(Reverse((at, ..))) = self.planned.peek() {
            next = next.min(*at);
        }
        if let Some(at) = wake {
            next = next.min(at);
        }
        let next = next.max(self.now);
        self.turns = if next == self.now { self.turns + 1 } else { 0 };
        assert!(self.turns < TURNS_MAX, "the machine does not come to rest after {:?}", self.now());
        self.now = next;
        if self.now > self.world.lasts {
            self.now = self.world.lasts;
            return false;
        }
        if self.now >= self.next_tick || wake.is_some_and(|at| at <= self.now) {
            let (now, wall) = (self.instant(), self.wall());
            self.dispatch.advance(now, wall);
            self.plan_tick();
        }
        while let Some(Reverse((at, _, event))) = self.planned.peek().copied()
            && at <= self.now
        {
            self.planned.pop();
            self.happen(event);
        }
        self.serve();
        self.sample();
        let queued = self.dispatch.recipients();
        assert_eq!(
            self.accepted,
            self.settled() + queued,
            "accepted is not settled and queued after {:?}",
            self.now()
        );
        self.settled() < self.messages()
    }

    /// The machine is told the time at every tick at which something is due, as a server does at every tick; and each
    /// second besides, for what it does by and by.
    fn plan_tick(&mut self) {
        let tick = nanos(queue::TICK);
        while self.dues.peek().is_some_and(|Reverse(due)| *due <= self.now) {
            self.dues.pop();
        }
        let each = (self.now / TELL_EVERY + 1) * TELL_EVERY;
        let due = self.dues.peek().map_or(each, |Reverse(due)| due.div_ceil(tick) * tick);
        self.next_tick = due.min(each).max(self.now + 1);
    }

    /// Runs to the end.
    pub fn run(&mut self) {
        while self.step() {}
    }

    /// Runs up to a moment. False if it ended before.
    pub fn run_until(&mut self, at: Duration) -> bool {
        let at = nanos(at);
        while self.now < at {
            if !self.step() {
                return false;
            }
        }
        true
    }

    fn serve(&mut self) {
        let mut rounds = 0;
        loop {
            let (now, wall) = (self.instant(), self.wall());
            self.dispatch.serve(now, wall);
            let actions = self.dispatch.actions();
            for action in actions {
                self.act(action);
            }
            if !self.dispatch.has_more() {
                return;
            }
            rounds += 1;
            assert!(rounds < TURNS_MAX, "the machine serves without end after {:?}", self.now());
        }
    }

    fn sample(&mut self) {
        if self.now < self.next_sample {
            return;
        }
        // About a thousand looks for each time the run grows threefold: close ones at first, when much happens.
        let apart = (self.now / 1_000).clamp(1_000_000_000, 300_000_000_000);
        self.next_sample = self.now + apart;
        self.holds.sample(apart, &self.dispatch, &self.kind_of_site);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::HandIn(at) => self.hand_in(at as usize),
            Event::Resolved => self.resolved(),
            Event::Settled => self.settle_next(),
            Event::Arrives(at) => self.arrives(at),
            Event::Ready(at) => self.ready(at),
            Event::Seen(at) => self.seen(at),
            Event::Answered(at) => self.answered(at),
            Event::Idle(at, turn) => self.idle(at, turn),
            Event::Gone(at) => self.gone(at, true, None),
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Resolve(target) => {
                self.resolving.push_back(target);
                self.plan(self.now + self.dns_time, Event::Resolved);
            }
            Action::Open { id, source, target, site, messages_max, job, .. } => {
                self.open(id, source, &target, site, messages_max, job);
            }
            Action::Give(id, job) => self.give(id, job),
            Action::GiveUp(id) => self.give_up(id),
            Action::Close(id) => self.close(id),
            Action::Settle(job, fate) => {
                self.settling.push_back((job, fate));
                self.plan(self.now + SETTLE_TIME, Event::Settled);
            }
            // A receiver here has one exchanger for all: skipping it would be an outage of our own making.
            Action::SkipExchanger { .. } => {
                *self.notes.entry("an exchanger is skipped".into()).or_default() += 1
            }
            Action::Note(note) => {
                let text = format!("{}: {}", note.about, note.text);
                // What is told is bounded by sites and rules, not by messages; a rate's factor is a text of its own.
                if self.notes.len() < 10_000 {
                    *self.notes.entry(text).or_default() += 1;
                }
            }
        }
    }

    // ---- mail comes in ------------------------------------------------------------------------------------

    fn hand_in(&mut self, at: usize) {
        let now = self.instant();
        loop {
            let campaign = &self.world.campaigns[at];
            let n = self.handed_in[at];
            if n >= campaign.messages {
                return;
            }
            let due = campaign.handed_in(n);
            if due > self.now {
                self.plan(due.max(self.now + HAND_IN_EVERY), Event::HandIn(at as u32));
                return;
            }
            let handle = campaign.first + n;
            let destination = self.world.destination(at, handle);
            let mail = NewMail {
                tenant: campaign.tenant.as_deref(),
                campaign: campaign.campaign.as_deref(),
                pool: campaign.pool.as_deref(),
                class: campaign.class,
                size: campaign.octets,
                ..NewMail::new(handle, &self.world.domains[destination.domain])
            };
            self.dispatch.push(now, &mail);
            self.handed_in[at] += 1;
            self.accepted += 1;
        }
    }

    fn resolved(&mut self) {
        let Some(target) = self.resolving.pop_front() else { return };
        let found = match self.world.of_domain.get(&target) {
            _ if is_out(&self.dns_outages, self.now) => {
                SiteFound::Failed(Reply::new(451, (4, 4, 3), "no answer of the DNS"))
            }
            Some(&receiver) => {
                SiteFound::Exchangers(self.world.addresses[receiver].exchangers.clone(), SITE_HOLDS)
            }
            None => SiteFound::Failed(Reply::new(451, (4, 4, 3), "no receiver has this domain")),
        };
        self.dispatch.site_found(self.instant(), &target, found);
    }

    // ---- mail is settled ----------------------------------------------------------------------------------

    fn settle_next(&mut self) {
        let Some((job, fate)) = self.settling.pop_front() else { return };
        let mut done =
            Done { entries: job.entries.iter().map(|entry| entry.key).collect(), ..Done::default() };
        match fate {
            dispatch::Fate::Expired(_) => self.settle_all(&job, Fate::Expired),
            dispatch::Fate::Bounced(_) => self.settle_all(&job, Fate::Bounced),
            dispatch::Fate::Deferred(reply, wait) => {
                self.defer(&job, &reply.to_string().into(), wait, &mut done)
            }
        }
        self.dispatch.settled(self.instant(), done);
    }

    fn settle_all(&mut self, job: &Job, fate: Fate) {
        for _ in 0..job.recipients() {
            self.settle(job.handle, fate, None);
        }
    }

    /// Every recipient of a job waits, but for those whose time is over.
    pub(crate) fn defer(&mut self, job: &Job, reply: &Arc<str>, at_least: Duration, done: &mut Done) {
        let now = self.instant();
        for entry in &job.entries {
            for index in entry.first..entry.first + entry.count {
                if entry.expires <= now {
                    self.settle(job.handle, Fate::Expired, None);
                    continue;
                }
                let attempts = entry.attempts.saturating_add(1);
                let random = self.random.number();
                let wait = match &job.retry_waits {
                    Some(waits) => {
                        let backoff = queue::Backoff::List(waits.to_vec());
                        Schedule { backoff, jitter: self.setup.schedule.jitter }.wait(attempts, random)
                    }
                    None => self.setup.schedule.wait(attempts, random),
                };
                let due = now + wait.max(at_least);
                let due_at = nanos(due.saturating_duration_since(self.base)).div_ceil(nanos(queue::TICK));
                self.dues.push(Reverse(due_at * nanos(queue::TICK)));
                self.next_tick = self.next_tick.min(due_at * nanos(queue::TICK));
                done.deferred.push(dispatch::Deferred {
                    key: entry.key,
                    index,
                    attempts,
                    ambiguous: false,
                    delay_reported: entry.delay_reported,
                    reply: reply.clone(),
                    due,
                });
            }
        }
    }

    /// A message has its final outcome; a delivered one by a source, in its own pool or not.
    pub(crate) fn settle(&mut self, handle: u64, fate: Fate, by: Option<(u16, bool)>) {
        let at = self.world.campaign_of(handle);
        let Destination { receiver, .. } = self.world.destination(at, handle);
        let kind = &mut self.kinds[self.world.addresses[receiver].kind];
        let campaign = &self.world.campaigns[at];
        let tally = &mut self.campaigns[at];
        tally.outcomes.count(fate);
        tally.through.settled(self.now);
        tally.settled.count(self.now, 1);
        kind.outcomes.count(fate);
        kind.through.settled(self.now);
        if fate == Fate::Delivered {
            tally.waits.count(self.now - campaign.handed_in(handle - campaign.first));
            kind.delivered.count(self.now, 1);
            if let Some((source, own)) = by {
                let first_day = self.world.begins.0 / crate::world::DAY_MS;
                let wall = self.world.wall(self.now).0;
                kind.delivered_by(source, own, wall, first_day);
            }
        }
    }

    pub(crate) fn show(&mut self, observed: Observed<'_>) {
        if let Some(observer) = &mut self.observer {
            observer(Duration::from_nanos(self.now), observed);
        }
    }

    /// Connections that have a phase, for tests and the progress line.
    pub fn open_connections(&self) -> usize {
        self.connections.iter().flatten().filter(|connection| connection.phase != Phase::Connecting).count()
    }
}
