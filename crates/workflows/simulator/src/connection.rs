//! Simulated connections: from the first packet to the last, and what the receiver says in between.

use crate::counter::Nanos;
use crate::receiver::{Offered, nanos};
use crate::replies::{Refusal, Said};
use crate::simulation::{Event, Observed, Simulation};
use crate::tally::Fate;
use crate::world::DAY_MS;
use dispatch::{ConnectionId, Done, Job, SourceAt, Target};
use shaping::Treat;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is being opened.
    Connecting,
    /// A transaction is under way.
    Sending,
    /// It waits for the next job.
    Idle,
    /// It says QUIT, and takes nothing more.
    Quitting,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) source: SourceAt,
    source_name: Arc<str>,
    site: Arc<str>,
    receiver: usize,
    kind: usize,
    /// The path's place in the audit.
    path: usize,
    pub(crate) phase: Phase,
    /// The first is the one under way.
    jobs: VecDeque<Job>,
    begun: u32,
    messages_max: u32,
    /// The receiver took the connection, and counts it as open.
    taken: bool,
    /// What the receiver decided and we do not know yet.
    verdict: Option<Refusal>,
    /// Counts the times it was idle.
    idle: u32,
}

impl Simulation {
    pub(crate) fn open(
        &mut self,
        id: ConnectionId,
        source: SourceAt,
        target: &Target,
        site: Arc<str>,
        messages_max: u32,
        job: Job,
    ) {
        // Only domains of the world are found by its DNS, and a connection follows the DNS.
        let receiver = self.world.of_domain.get(target).copied().unwrap_or_default();
        let kind = self.world.addresses[receiver].kind;
        let source_name = self.setup.egress.sources[usize::from(source.0)].name.clone();
        let profile = job.profile.clone();
        let path = match &profile {
            Some(profile) => self.audit.path(source.0, &source_name, &site, profile),
            None => unreachable!("a job that is sent has a profile"),
        };
        self.kind_of_site.entry(site.clone()).or_insert(kind);
        let connection = Connection {
            id,
            source,
            source_name,
            site,
            receiver,
            kind,
            path,
            phase: Phase::Connecting,
            jobs: VecDeque::from([job]),
            begun: 0,
            messages_max,
            taken: false,
            verdict: None,
            idle: 0,
        };
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                self.connections.push(None);
                self.connections.len() as u32 - 1
            }
        };
        self.connections[at as usize] = Some(connection);
        self.places.insert(id, at);
        self.connections_peak = self.connections_peak.max(self.places.len());
        let after = self.connect_time(kind) / 2;
        self.plan(self.now + after, Event::Arrives(at));
    }

    fn connect_time(&mut self, kind: usize) -> Nanos {
        let config = &self.world.kinds[kind].config;
        let (length, jitter) = (config.connect_time, config.jitter);
        self.about(length, jitter)
    }

    fn message_time(&mut self, kind: usize) -> Nanos {
        let config = &self.world.kinds[kind].config;
        let (length, jitter) = (config.message_time, config.jitter);
        self.about(length, jitter)
    }

    pub(crate) fn arrives(&mut self, at: u32) {
        let Some(connection) = &mut self.connections[at as usize] else { return };
        self.audit.connection(self.now, connection.path);
        let (kind, source) = (connection.kind, connection.source.0);
        let taken =
            self.world.receivers[connection.receiver].connect(&self.world.kinds[kind], self.now, source);
        connection.taken = taken.is_ok();
        connection.verdict = taken.err();
        let (source, site) = (connection.source_name.clone(), connection.site.clone());
        let after = match taken {
            Err(Refusal::NoAnswer) => nanos(self.setup.connect_timeout),
            Err(Refusal::NoGreeting) => nanos(self.setup.greeting_timeout),
            _ => self.connect_time(kind) / 2,
        };
        self.show(Observed::Opened { source: &source, site: &site });
        self.plan(self.now + after, Event::Ready(at));
    }

    pub(crate) fn ready(&mut self, at: u32) {
        let Some(connection) = &mut self.connections[at as usize] else { return };
        let (id, kind) = (connection.id, connection.kind);
        let Some(refusal) = connection.verdict.take() else {
            self.dispatch.connected(self.instant(), id);
            return self.next_job(at);
        };
        let job = connection.jobs.pop_front();
        let said = self.world.kinds[kind].phrases.say(refusal).clone();
        self.count_refusal(kind, refusal);
        if let Some(job) = job {
            self.refused(id, kind, &job, &said);
        }
        self.gone(at, false, Some(said.shown));
    }

    /// The next job begins, or the connection has nothing to do.
    fn next_job(&mut self, at: u32) {
        let Some(connection) = &mut self.connections[at as usize] else { return };
        let kind = connection.kind;
        if connection.messages_max > 0 && connection.begun >= connection.messages_max {
            return self.quit(at);
        }
        if connection.jobs.is_empty() {
            connection.phase = Phase::Idle;
            connection.idle += 1;
            let turn = connection.idle;
            return self.plan(self.now + nanos(self.setup.idle_timeout), Event::Idle(at, turn));
        }
        connection.phase = Phase::Sending;
        connection.begun += 1;
        let after = self.message_time(kind) / 4 * 3;
        self.plan(self.now + after, Event::Seen(at));
    }

    pub(crate) fn give(&mut self, id: ConnectionId, job: Job) {
        let Some(&at) = self.places.get(&id) else { return };
        let Some(connection) = &mut self.connections[at as usize] else { return };
        connection.jobs.push_back(job);
        if connection.phase == Phase::Idle {
            self.next_job(at);
        }
    }

    /// Others wait for the place of a connection that is not greeted yet.
    pub(crate) fn give_up(&mut self, id: ConnectionId) {
        let Some(&at) = self.places.get(&id) else { return };
        let Some(connection) = &mut self.connections[at as usize] else { return };
        if connection.phase != Phase::Connecting {
            return;
        }
        connection.verdict = Some(Refusal::NoGreeting);
        self.ready(at);
        // An event that was planned for it is still to come, and must not find another connection in its place.
        self.free.retain(|free| *free != at);
    }

    /// Others wait for the place of a connection that has nothing to do.
    pub(crate) fn close(&mut self, id: ConnectionId) {
        let Some(&at) = self.places.get(&id) else { return };
        if let Some(connection) = &self.connections[at as usize] {
            self.idle(at, connection.idle);
        }
    }

    pub(crate) fn idle(&mut self, at: u32, turn: u32) {
        let idle = self.connections[at as usize]
            .as_ref()
            .is_some_and(|connection| connection.phase == Phase::Idle && connection.idle == turn);
        if idle {
            self.quit(at);
        }
    }

    fn quit(&mut self, at: u32) {
        let Some(connection) = &mut self.connections[at as usize] else { return };
        connection.phase = Phase::Quitting;
        let kind = connection.kind;
        let after = self.connect_time(kind) / 4;
        self.plan(self.now + after, Event::Gone(at));
    }

    pub(crate) fn seen(&mut self, at: u32) {
        let day = self.world.wall(self.now).0 / DAY_MS;
        let Some(connection) = &mut self.connections[at as usize] else { return };
        let Some(job) = connection.jobs.front() else { return };
        let campaign = &self.world.campaigns[self.world.campaign_of(job.handle)];
        let octets = campaign.octets;
        let (kind, source) = (connection.kind, connection.source.0);
        self.audit.message(self.now, connection.path, octets);
        if let Some(observer) = &mut self.observer {
            let observed = Observed::Offered {
                source: &connection.source_name,
                site: &connection.site,
                campaign: &campaign.name,
                tenant: campaign.tenant.as_deref(),
                octets,
                attempts: job.entries.first().map_or(0, |entry| entry.attempts),
            };
            observer(Duration::from_nanos(self.now), observed);
        }
        let offered = Offered { handle: job.handle, octets, before: connection.begun - 1, day };
        connection.verdict = self.world.receivers[connection.receiver]
            .offer(&self.world.kinds[kind], self.now, source, &offered, &mut self.random)
            .err();
        self.kinds[kind].attempts += 1;
        let after = self.message_time(kind) / 4;
        self.plan(self.now + after, Event::Answered(at));
    }

    pub(crate) fn answered(&mut self, at: u32) {
        let Some(connection) = &mut self.connections[at as usize] else { return };
        let Some(job) = connection.jobs.pop_front() else { return };
        let (id, kind, source) = (connection.id, connection.kind, connection.source);
        match connection.verdict.take() {
            None => {
                let own = self.is_own(source, &job);
                self.settle(job.handle, Fate::Delivered, Some((source.0, own)));
                let done = Done {
                    entries: job.entries.iter().map(|entry| entry.key).collect(),
                    delivered: job.recipients() as u32,
                    ..Done::default()
                };
                let (now, wall) = (self.instant(), self.wall());
                self.dispatch.done(now, wall, id, done);
                self.next_job(at);
            }
            Some(refusal) => {
                self.count_refusal(kind, refusal);
                let said = self.world.kinds[kind].phrases.say(refusal).clone();
                self.refused(id, kind, &job, &said);
                if said.closes { self.gone(at, true, None) } else { self.next_job(at) }
            }
        }
    }

    fn count_refusal(&mut self, kind: usize, refusal: Refusal) {
        let tally = &mut self.kinds[kind];
        *tally.refused.entry(refusal).or_default() += 1;
        tally.deferred.count(self.now, 1);
    }

    /// True if a source is of the pool that a job is to leave by.
    fn is_own(&self, source: SourceAt, job: &Job) -> bool {
        let egress = &self.setup.egress;
        let pool = egress.pool(&job.queue.pool).and_then(|at| egress.pools.get(usize::from(at.0)));
        pool.is_none_or(|pool| pool.sources.iter().any(|(at, _)| *at == source))
    }

    /// A job got a reply that refuses it: the rules are asked what that means, and it is told.
    fn refused(&mut self, id: ConnectionId, kind: usize, job: &Job, said: &Said) {
        let mut done = Done {
            entries: job.entries.iter().map(|entry| entry.key).collect(),
            host: None,
            ..Done::default()
        };
        let mut permanent = said.reply.is_permanent();
        if let Some(profile) = &job.profile
            && let Some(fired) = self.setup.rules.verdict(profile, said.stage, &said.reply)
        {
            match fired.treat {
                Some(Treat::Temporary) => permanent = false,
                Some(Treat::Permanent) => permanent = true,
                None => {}
            }
            *self.kinds[kind].rules.entry(fired.rule.rule().name.clone()).or_default() += 1;
            done.fired.push((fired, said.shown.clone()));
        }
        if permanent {
            done.bounced = job.recipients() as u32;
            self.settle(job.handle, Fate::Bounced, None);
        } else {
            self.defer(job, &said.shown, Duration::ZERO, &mut done);
        }
        let (now, wall) = (self.instant(), self.wall());
        self.dispatch.done(now, wall, id, done);
    }

    /// A connection is over: what it has not begun goes back.
    pub(crate) fn gone(&mut self, at: u32, connected: bool, reason: Option<Arc<str>>) {
        let Some(connection) = self.connections[at as usize].take() else { return };
        self.free.push(at);
        self.places.remove(&connection.id);
        self.audit.closed(connection.path);
        if connection.taken {
            let kind = &self.world.kinds[connection.kind];
            self.world.receivers[connection.receiver].closed(kind, connection.source.0);
        }
        self.show(Observed::Closed { source: &connection.source_name, site: &connection.site });
        self.dispatch.draining(connection.id);
        for job in &connection.jobs {
            self.dispatch.returned(connection.id, job);
        }
        self.dispatch.closed(self.instant(), connection.id, connected, reason);
    }
}
