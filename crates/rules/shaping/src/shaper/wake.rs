//! What ends by itself, and when.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use mail::UnixMillis;

use super::hold::{Effect, Left};
use super::suspension::QueueName;
use super::wall::until_midnight;
use super::{PathKey, Shaper};

/// Most paths handed out, and timers looked at, in one waking.
const WOKEN_MAX: usize = 1_000;

/// What a timer is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Path(PathKey),
    Queue(u32),
    Parked(QueueName),
    Sender(Box<str>),
    Source(Arc<str>),
    Midnight,
}

/// A timer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timed {
    at: Instant,
    what: Timer,
}

/// What ended.
#[derive(Debug, Default, PartialEq)]
pub struct Woken {
    /// Paths to be asked again.
    pub paths: Vec<PathKey>,
    /// Queues that are no longer suspended.
    pub queues: Vec<u32>,
    /// For logs and metrics.
    pub effects: Vec<Effect>,
}

impl Shaper {
    pub(super) fn timer(&mut self, at: Instant, what: Timer) {
        self.timers.push(Reverse(Timed { at, what }));
    }

    /// Sets a path's timer to the next thing that ends there.
    pub(super) fn arm(&mut self, key: PathKey) {
        let path = &mut self.paths[key];
        let rare = path.rare.as_deref();
        let next = [
            path.unreachable_until,
            rare.and_then(|rare| rare.backoff.as_ref()).map(|backoff| backoff.until),
            rare.and_then(|rare| rare.suspended.as_ref()).map(|suspended| suspended.until),
            rare.and_then(|rare| rare.slow.as_ref()).map(|slow| slow.next),
        ];
        // One timer is enough: when it fires, the next is set.
        if let Some(next) = next.into_iter().flatten().min()
            && path.timer.is_none_or(|timer| next < timer)
        {
            path.timer = Some(next);
            self.timer(next, Timer::Path(key));
        }
    }

    /// The path is to be asked again when its warm-up begins another day.
    pub(super) fn wait_for_midnight(&mut self, now: Instant, wall: UnixMillis, key: PathKey) {
        if self.warming.is_empty() {
            self.timer(now + until_midnight(wall), Timer::Midnight);
        }
        if !self.warming.contains(&key) {
            self.warming.push(key);
        }
    }

    /// When to call [`Shaper::wake`] at the latest.
    pub fn wake_at(&self) -> Option<Instant> {
        // Paths that woke and did not fit in the last answer are due at once: no later than any timer was.
        self.woken_at
            .filter(|_| !self.woken.is_empty())
            .or_else(|| self.timers.peek().map(|Reverse(timed)| timed.at))
    }

    /// What ended by now. A bounded amount of work: more is due when [`Shaper::wake_at`] has passed already.
    pub fn wake(&mut self, now: Instant, _wall: UnixMillis) -> Woken {
        let mut woken = Woken::default();
        self.counts.sweep(now, &mut *self.ledger);
        for _ in 0..WOKEN_MAX {
            if self.timers.peek().is_none_or(|Reverse(timed)| timed.at > now) {
                break;
            }
            let Some(Reverse(timed)) = self.timers.pop() else { break };
            match timed.what {
                Timer::Path(key) => self.path_due(now, timed.at, key, &mut woken.effects),
                Timer::Queue(queue) => {
                    match self.queues.get(&queue).map(|(_, suspension)| suspension.until) {
                        Some(until) if until > now => self.timer(until, Timer::Queue(queue)),
                        Some(_) => {
                            self.queues.remove(&queue);
                            woken.queues.push(queue);
                        }
                        None => {}
                    }
                }
                Timer::Parked(name) => {
                    if self.parked.get(&name).is_some_and(|suspension| suspension.until <= now) {
                        self.parked.remove(&name);
                    }
                }
                Timer::Sender(key) => match self.senders.get(&key).map(|sender| sender.suspension.until) {
                    Some(until) if until > now => self.timer(until, Timer::Sender(key)),
                    Some(_) => {
                        if let Some(sender) = self.senders.remove(&key) {
                            self.wake_site(&sender.site);
                        }
                    }
                    None => {}
                },
                Timer::Source(name) => {
                    let disabled = self.sources.get(&name).and_then(|source| source.disabled.as_ref());
                    if disabled.and_then(|disabled| disabled.until).is_some_and(|until| until <= now) {
                        woken.effects.extend(self.enable_source(&name));
                    }
                }
                Timer::Midnight => self.woken.extend(self.warming.drain(..)),
            }
        }
        let many = self.woken.len().min(WOKEN_MAX);
        woken.paths.extend(self.woken.drain(..many));
        woken.paths.sort_unstable();
        woken.paths.dedup();
        woken.paths.retain(|key| self.paths.get(*key).is_some());
        self.woken_at = Some(now);
        woken
    }

    /// Something of a path ended.
    fn path_due(&mut self, now: Instant, at: Instant, key: PathKey, effects: &mut Vec<Effect>) {
        let Some(path) = self.paths.get_mut(key) else { return };
        if path.timer != Some(at) {
            return;
        }
        path.timer = None;
        path.unreachable_until = path.unreachable_until.filter(|until| *until > now);
        let mut leaves = false;
        if let Some(rare) = &mut path.rare {
            rare.suspended.take_if(|suspended| suspended.until <= now);
            leaves = rare.backoff.as_ref().is_some_and(|backoff| backoff.until <= now);
            if let Some(slow) = &mut rare.slow
                && slow.next <= now
            {
                // Steps that were slept through are made up for.
                while slow.next <= now && slow.factor < 1.0 {
                    slow.factor = (slow.factor / slow.by_step).min(1.0);
                    slow.next += slow.step;
                }
                let factor = if slow.factor > 0.999 { 1.0 } else { slow.factor };
                rare.slow.take_if(|slow| slow.factor > 0.999);
                effects.push(Effect::Slowed { path: key, factor });
                path.scale(&mut *self.ledger);
            }
        }
        if leaves {
            effects.extend(self.leave_backoff(key, Left::Time));
        }
        self.woken.push_back(key);
        self.arm(key);
    }
}
