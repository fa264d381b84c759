//! What waits by a rule: queues, tenants and campaigns at a site, sources; listing and releasing it.

use std::sync::Arc;
use std::time::Instant;

use super::hold::{Cause, Effect, Left};
use super::state::Suspension;
use super::wake::Timer;
use super::{Disabled, PathKey, Shaper};
use crate::Suspended;

/// A queue by what it is, since its number is the dispatcher's and does not outlive it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName {
    /// Whose mail it is.
    pub tenant: Option<Arc<str>>,
    /// What it is part of.
    pub campaign: Option<Arc<str>>,
    /// Where it goes.
    pub domain: Arc<str>,
    /// From which pool.
    pub pool: Arc<str>,
}

/// A tenant or campaign suspended at a site.
#[derive(Debug)]
pub(super) struct Sender {
    pub what: Suspended,
    pub site: Arc<str>,
    pub name: Arc<str>,
    pub suspension: Suspension,
}

/// What tells a sender at a site from others.
pub(super) fn sender_key(what: Suspended, site: &str, name: &str) -> String {
    format!("{}\0{site}\0{name}", what.word()).to_ascii_lowercase()
}

/// Something that waits by a rule or an order, for lists.
#[derive(Clone, Debug, PartialEq)]
pub enum Listed {
    /// A path in backoff or suspended.
    Path {
        /// Which.
        path: PathKey,
        /// Suspended; else in backoff.
        suspended: bool,
        /// Since when.
        since: Instant,
        /// Until when.
        until: Instant,
        /// Why.
        by: Arc<Cause>,
    },
    /// A queue.
    Queue {
        /// Which.
        name: QueueName,
        /// Its number, if the dispatcher has it at present.
        queue: Option<u32>,
        /// Since when.
        since: Instant,
        /// Until when.
        until: Instant,
        /// Why.
        by: Arc<Cause>,
    },
    /// A tenant or a campaign at a site.
    Sender {
        /// Which of both.
        what: Suspended,
        /// Its name.
        name: Arc<str>,
        /// The site.
        site: Arc<str>,
        /// Since when.
        since: Instant,
        /// Until when.
        until: Instant,
        /// Why.
        by: Arc<Cause>,
    },
    /// A source.
    Source {
        /// Its name.
        source: Arc<str>,
        /// Since when.
        since: Instant,
        /// Until when; `None` is until it is released.
        until: Option<Instant>,
        /// Why.
        by: Arc<Cause>,
    },
}

/// What an operator lets go on.
#[derive(Clone, Copy, Debug)]
pub enum Release<'a> {
    /// A path: from backoff, suspension, slowness and the wait after failures to connect.
    Path(PathKey),
    /// A queue.
    Queue(u32),
    /// A tenant at a site.
    Tenant {
        /// Its name.
        name: &'a str,
        /// The site.
        site: &'a str,
    },
    /// A campaign at a site.
    Campaign {
        /// Its name.
        name: &'a str,
        /// The site.
        site: &'a str,
    },
    /// A source.
    Source(&'a str),
}

/// Suspends, or goes on suspending until the later time; true if nothing was suspended before.
pub(super) fn suspend(known: &mut Option<Suspension>, now: Instant, until: Instant, by: &Arc<Cause>) -> bool {
    match known {
        Some(known) => {
            if until > known.until {
                known.until = until;
                known.by = by.clone();
            }
            false
        }
        None => {
            *known = Some(Suspension { since: now, until, by: by.clone() });
            true
        }
    }
}

impl Shaper {
    /// The dispatcher has a queue under this number from now on: what was suspended by its name is so again.
    pub fn queue_opened(&mut self, queue: u32, name: &QueueName) {
        if self.parked.is_empty() {
            return;
        }
        if let Some((name, suspension)) = self.parked.remove_entry(name) {
            self.timer(suspension.until, Timer::Queue(queue));
            self.queues.insert(queue, (name, suspension));
        }
    }

    /// The dispatcher has dropped a queue, and may give its number to another.
    pub fn queue_closed(&mut self, queue: u32) {
        if let Some((name, suspension)) = self.queues.remove(&queue) {
            self.timer(suspension.until, Timer::Parked(name.clone()));
            self.parked.insert(name, suspension);
        }
    }

    pub(super) fn suspend_queue(
        &mut self,
        now: Instant,
        queue: u32,
        name: QueueName,
        until: Instant,
        by: &Arc<Cause>,
    ) -> bool {
        let known = self.queues.remove(&queue);
        let mut suspension = known.map(|(_, suspension)| suspension);
        let new = suspend(&mut suspension, now, until, by);
        if let Some(suspension) = suspension {
            self.queues.insert(queue, (name, suspension));
        }
        if new {
            self.timer(until, Timer::Queue(queue));
        }
        new
    }

    pub(super) fn suspend_sender(
        &mut self,
        now: Instant,
        (what, site, name): (Suspended, &Arc<str>, &str),
        until: Instant,
        by: &Arc<Cause>,
    ) -> bool {
        let key: Box<str> = sender_key(what, site, name).into();
        let mut suspension = self.senders.remove(&key).map(|sender| sender.suspension);
        let new = suspend(&mut suspension, now, until, by);
        if let Some(suspension) = suspension {
            let sender = Sender { what, site: site.clone(), name: name.into(), suspension };
            self.senders.insert(key.clone(), sender);
        }
        if new {
            self.timer(until, Timer::Sender(key));
        }
        new
    }

    /// Takes a source out of use everywhere, until a time or until it is released. True if it was in use.
    pub fn disable_source(
        &mut self,
        now: Instant,
        name: &str,
        until: Option<Instant>,
        by: &Arc<Cause>,
    ) -> bool {
        let source = self.sources.entry(name.into()).or_default();
        let new = source.disabled.is_none();
        // Without end goes before any end.
        let until = match &source.disabled {
            Some(known) => known.until.zip(until).map(|(known, until)| known.max(until)),
            None => until,
        };
        let since = source.disabled.as_ref().map_or(now, |known| known.since);
        source.disabled = Some(Disabled { since, until, by: by.clone() });
        self.disabled += usize::from(new);
        if let Some(until) = until {
            self.timer(until, Timer::Source(name.into()));
        }
        new
    }

    /// True if a source is disabled.
    pub fn is_disabled(&self, now: Instant, source: &str) -> bool {
        let disabled = self.sources.get(source).and_then(|source| source.disabled.as_ref());
        disabled.is_some_and(|disabled| disabled.until.is_none_or(|until| now < until))
    }

    pub(super) fn enable_source(&mut self, name: &str) -> Option<Effect> {
        let (key, source) = self.sources.get_key_value(name)?;
        source.disabled.as_ref()?;
        let (key, paths): (Arc<str>, Vec<PathKey>) = (key.clone(), source.paths.values().copied().collect());
        self.disabled = self.disabled.saturating_sub(1);
        if paths.is_empty() {
            self.sources.remove(name);
        } else if let Some(source) = self.sources.get_mut(name) {
            source.disabled = None;
        }
        self.woken.extend(paths);
        Some(Effect::SourceEnabled { source: key })
    }

    /// Everything that waits by a rule or an order.
    pub fn listed(&self) -> Vec<Listed> {
        let mut listed = Vec::new();
        for (name, source) in &self.sources {
            if let Some(disabled) = &source.disabled {
                listed.push(Listed::Source {
                    source: name.clone(),
                    since: disabled.since,
                    until: disabled.until,
                    by: disabled.by.clone(),
                });
            }
        }
        for path in self.paths.keys() {
            let Some(rare) = &self.paths[path].rare else { continue };
            let backoff = rare.backoff.as_ref().map(|at| (false, at.since, at.until, &at.by));
            let suspended = rare.suspended.as_ref().map(|at| (true, at.since, at.until, &at.by));
            for (suspended, since, until, by) in suspended.into_iter().chain(backoff) {
                listed.push(Listed::Path { path, suspended, since, until, by: by.clone() });
            }
        }
        let known = self.queues.iter().map(|(queue, (name, suspension))| (Some(*queue), name, suspension));
        let parked = self.parked.iter().map(|(name, suspension)| (None, name, suspension));
        for (queue, name, at) in known.chain(parked) {
            let (name, by) = (name.clone(), at.by.clone());
            listed.push(Listed::Queue { name, queue, since: at.since, until: at.until, by });
        }
        for sender in self.senders.values() {
            let at = &sender.suspension;
            listed.push(Listed::Sender {
                what: sender.what,
                name: sender.name.clone(),
                site: sender.site.clone(),
                since: at.since,
                until: at.until,
                by: at.by.clone(),
            });
        }
        listed
    }

    /// An operator lets something go on; what that leads to. Nothing if it was not held.
    pub fn release(&mut self, release: Release<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        match release {
            Release::Path(key) => {
                effects.extend(self.leave_backoff(key, Left::Operator));
                let path = &mut self.paths[key];
                path.unreachable_until = None;
                if let Some(rare) = &mut path.rare {
                    rare.suspended = None;
                    if rare.slow.take().is_some() {
                        effects.push(Effect::Slowed { path: key, factor: 1.0 });
                    }
                }
                path.scale(&mut *self.ledger);
                self.woken.push_back(key);
            }
            Release::Queue(queue) => {
                self.queues.remove(&queue);
            }
            Release::Tenant { name, site } => self.release_sender(Suspended::Tenant, site, name),
            Release::Campaign { name, site } => self.release_sender(Suspended::Campaign, site, name),
            Release::Source(name) => effects.extend(self.enable_source(name)),
        }
        effects
    }

    fn release_sender(&mut self, what: Suspended, site: &str, name: &str) {
        if self.senders.remove(&*sender_key(what, site, name)).is_some() {
            self.wake_site(site);
        }
    }

    /// Every path to a site is to be asked again.
    pub(super) fn wake_site(&mut self, site: &str) {
        let keys = self.sources.values().filter_map(|source| source.paths.get(site));
        self.woken.extend(keys);
    }
}
