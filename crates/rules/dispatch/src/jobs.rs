//! What became of jobs, and what the rules make of it.

use crate::act::{Action, ConnectionId, Done, Job, Note};
use crate::state::Dispatch;
use mail::{Reply, UnixMillis};
use queue::{LineKey, Part};
use shaping::{Attempted, Effect, Fired};
use std::time::Instant;

impl Dispatch {
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
                            line.divert(|to| to.moved = Some((at, key)));
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
                        if line.diverted.is_some() {
                            line.divert(|to| to.moved = to.moved.filter(|(_, by)| *by != path));
                        }
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
