//! What came of attempts, and what the rules that matched do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::UnixMillis;

use super::hold::{Cause, Effect, Left};
use super::state::{Backoff, SLOW_MIN, Slow};
use super::suspension::{QueueName, suspend};
use super::{PathKey, Shaper};
use crate::{Action, Fired, Suspended};

/// How long a step down has to show before the next: a twentieth of the time to the step back, within these.
const SETTLES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What came of one message, or of one connection that never carried any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempted<'a> {
    /// Recipients that were delivered.
    pub delivered: u32,
    /// Recipients that were deferred.
    pub deferred: u32,
    /// Recipients that failed for good.
    pub bounced: u32,
    /// Rules that matched, each with the reply, once for each recipient it was for.
    pub fired: &'a [(Fired, &'a str)],
    /// Whose mail it was.
    pub tenant: Option<&'a str>,
    /// What it was part of.
    pub campaign: Option<&'a str>,
    /// The queue, as the dispatcher numbers them.
    pub queue: u32,
    /// The domain.
    pub domain: &'a str,
    /// The exchanger that was spoken to.
    pub exchanger: Option<&'a str>,
}

impl Shaper {
    /// What came of an attempt on a path. The permit is spent separately.
    pub fn report(
        &mut self,
        now: Instant,
        _wall: UnixMillis,
        key: PathKey,
        attempted: &Attempted<'_>,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let path = &mut self.paths[key];
        let total = attempted.delivered + attempted.deferred + attempted.bounced;
        let profile = path.profile.clone();
        if let (Some(rare), Some(profile)) = (&mut path.rare, &profile.adaptive)
            && let Some(adaptive) = &mut rare.adaptive
            && adaptive.report(now, profile, total.into(), attempted.deferred.into())
        {
            path.scale(&mut *self.ledger);
        }
        if attempted.delivered > 0 && profile.backoff.leave_on_delivery {
            effects.extend(self.leave_backoff(key, Left::Delivery));
        }
        if attempted.fired.is_empty() && self.paths[key].rare.is_none() {
            return effects;
        }
        // A rule that matched several recipients of a message acts once.
        let mut seen: Vec<(&Fired, &str, u32)> = Vec::new();
        for (fired, reply) in attempted.fired {
            match seen.iter_mut().find(|(known, ..)| known.rule == fired.rule) {
                Some((_, _, times)) => *times += 1,
                None => seen.push((fired, reply, 1)),
            }
        }
        let rare = self.paths[key].rare();
        let acting: Vec<(&Fired, &str)> = seen
            .iter()
            .filter(|(fired, _, times)| {
                let rule = fired.rule.rule();
                rare.triggers.matched(now, rule.key, rule.trigger, *times)
            })
            .map(|(fired, reply, _)| (*fired, *reply))
            .collect();
        rare.triggers.others(total, |rule| {
            seen.iter().find(|(fired, ..)| fired.rule.rule().key == rule).map_or(0, |(_, _, times)| *times)
        });
        for (fired, reply) in acting {
            let rule = fired.rule.rule();
            let by = Arc::new(Cause::rule(rule, reply));
            for action in &rule.actions {
                self.act(now, key, action, &by, attempted, &mut effects);
            }
        }
        self.arm(key);
        effects
    }

    fn act(
        &mut self,
        now: Instant,
        key: PathKey,
        action: &Action,
        by: &Arc<Cause>,
        attempted: &Attempted<'_>,
        effects: &mut Vec<Effect>,
    ) {
        match action {
            Action::Backoff(length) => effects.extend(self.enter_backoff(now, key, *length, by)),
            Action::Normal => effects.extend(self.leave_backoff(key, Left::Rule)),
            Action::Slow { factor, step } => effects.extend(self.slow(now, key, (*factor, *step), by)),
            Action::Suspend(what, length) => {
                if self.suspend(now, key, *what, now + *length, by, attempted) {
                    let (until, by) = (now + *length, by.clone());
                    effects.push(Effect::Suspended { what: *what, path: key, until, by });
                }
            }
            Action::DisableSource(length) => {
                let source = self.paths[key].source.clone();
                let until = length.map(|length| now + length);
                if self.disable_source(now, &source, until, by) {
                    effects.push(Effect::SourceDisabled { source, until, by: by.clone() });
                }
            }
            Action::BounceQueue => {
                effects.push(Effect::BounceQueue { queue: attempted.queue, by: by.clone() });
            }
            Action::SkipExchanger(length) => effects.push(Effect::SkipExchanger {
                host: attempted.exchanger.map(Arc::from),
                length: *length,
                by: by.clone(),
            }),
            Action::Pool(pool) => {
                effects.push(Effect::MovePool { queue: attempted.queue, pool: pool.clone(), by: by.clone() });
            }
            Action::Notify => {
                let path = &self.paths[key];
                let text = format!("{} to {}: {by}", path.source, path.site);
                effects.push(Effect::Notify { text, by: by.clone() });
            }
            // These are of the reply itself; `Rules::verdict` has said so where it came in.
            Action::Temporary | Action::Permanent => {}
        }
    }

    /// The path goes by its backoff limits; one that does already, does so until the later time.
    fn enter_backoff(
        &mut self,
        now: Instant,
        key: PathKey,
        length: Option<Duration>,
        by: &Arc<Cause>,
    ) -> Option<Effect> {
        let path = &mut self.paths[key];
        let until = now + length.unwrap_or(path.profile.backoff.leave_after.value);
        if let Some(backoff) = &mut path.rare().backoff {
            backoff.until = backoff.until.max(until);
            return None;
        }
        path.rare().backoff = Some(Backoff { since: now, until, by: by.clone() });
        path.ramp_from = path.ramp_from.map(|_| now);
        self.fit_windows(key);
        Some(Effect::BackoffEntered { path: key, until, by: by.clone() })
    }

    /// The path goes by its normal limits again.
    pub(super) fn leave_backoff(&mut self, key: PathKey, why: Left) -> Option<Effect> {
        self.paths[key].rare.as_mut()?.backoff.take()?;
        self.fit_windows(key);
        self.woken.push_back(key);
        Some(Effect::BackoffLeft { path: key, why })
    }

    /// The path is slowed down. What was under way when it was says the same once more: until that has settled no
    /// further step is taken, or one crowded moment would drive the rate to nothing.
    fn slow(
        &mut self,
        now: Instant,
        key: PathKey,
        (factor, step): (f64, Duration),
        by: &Arc<Cause>,
    ) -> Option<Effect> {
        let path = &mut self.paths[key];
        let settles = (step / 20).clamp(SETTLES.0, SETTLES.1);
        if let Some(slow) = path.rare().slow.as_mut()
            && let Some(last) = slow.next.checked_sub(slow.step)
            && now < last + settles
        {
            return None;
        }
        let slow = path.rare().slow.get_or_insert_with(|| Slow {
            factor: 1.0,
            by_step: factor,
            step,
            next: now + step,
            by: by.clone(),
        });
        slow.factor = (slow.factor * factor).max(SLOW_MIN);
        (slow.by_step, slow.step, slow.next) = (factor, step, now + step);
        let factor = slow.factor;
        path.scale(&mut *self.ledger);
        Some(Effect::Slowed { path: key, factor })
    }

    fn suspend(
        &mut self,
        now: Instant,
        key: PathKey,
        what: Suspended,
        until: Instant,
        by: &Arc<Cause>,
        attempted: &Attempted<'_>,
    ) -> bool {
        let path = &mut self.paths[key];
        let site = path.site.clone();
        match what {
            Suspended::Path => suspend(&mut path.rare().suspended, now, until, by),
            Suspended::Queue => {
                let name = QueueName {
                    tenant: attempted.tenant.map(Arc::from),
                    campaign: attempted.campaign.map(Arc::from),
                    domain: attempted.domain.into(),
                    pool: path.pool.clone(),
                };
                self.suspend_queue(now, attempted.queue, name, until, by)
            }
            // A message without a tenant or campaign suspends none.
            Suspended::Tenant => {
                attempted.tenant.is_some_and(|name| self.suspend_sender(now, (what, &site, name), until, by))
            }
            Suspended::Campaign => attempted
                .campaign
                .is_some_and(|name| self.suspend_sender(now, (what, &site, name), until, by)),
        }
    }
}
