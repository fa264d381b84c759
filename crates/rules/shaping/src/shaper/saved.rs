//! What outlives the process: windows of a minute and more, backoff, suspensions, disabled sources, warm-up and
//! adaptive rates.
//!
//! On disk there is one wall-clock time, that of the snapshot; all else is how long ago and how long yet. A
//! wall clock that went back holds nothing longer than it would have been held, and one that jumps while the process
//! runs changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::UnixMillis;

use super::adaptive::Adaptive;
use super::counts::{age, restore};
use super::hold::Cause;
use super::state::{Backoff, Slow, Suspension, Warm, WindowKind};
use super::suspension::{QueueName, Sender, sender_key};
use super::wake::Timer;
use super::{Cold, Disabled, PathKey, Shaper};
use crate::{Origin, Rate, SettingAt, Suspended};

/// The least window that is worth saving: a start takes longer than what a shorter one remembers.
pub(super) const WINDOW_MIN: Duration = Duration::from_secs(60);

/// A warm-up without a message for so long begins anew when one comes.
const WARM_FORGET_DAYS: u32 = 60;

/// A window's spends.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedWindow {
    /// What it counts.
    pub kind: WindowKind,
    /// The limit.
    pub rate: Rate,
    /// For how long each spend counts yet, and how much it is.
    pub spends: Vec<(Duration, u64)>,
}

/// A cause in plain texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedCause {
    /// [`Cause::name`].
    pub name: String,
    /// The setting's key.
    pub setting: String,
    /// The setting's value.
    pub value: String,
    /// The file it was written in.
    pub file: String,
    /// The line.
    pub line: u32,
    /// [`Cause::reply`].
    pub reply: String,
}

/// Something that holds for a time.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedState {
    /// How long it has held.
    pub held: Duration,
    /// How long yet; `None` is until it is released.
    pub left: Option<Duration>,
    /// Why.
    pub by: SavedCause,
}

/// A path that was slowed down.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedSlow {
    /// What rates are multiplied by.
    pub factor: f64,
    /// What one step back divides by.
    pub by_step: f64,
    /// The time between steps.
    pub step: Duration,
    /// Until the next one.
    pub left: Duration,
    /// Why.
    pub by: SavedCause,
}

/// A warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavedWarm {
    /// The day that `sent` is of, from 1970-01-01.
    pub day: u32,
    /// Messages of that day.
    pub sent: u64,
    /// The day of the first message.
    pub began: Option<u32>,
}

/// What is known of a path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SavedPath {
    /// Its source.
    pub source: String,
    /// Its site.
    pub site: String,
    /// Its windows.
    pub windows: Vec<SavedWindow>,
    /// Backoff.
    pub backoff: Option<SavedState>,
    /// Suspension.
    pub suspended: Option<SavedState>,
    /// Slowness.
    pub slow: Option<SavedSlow>,
    /// The adaptive rate.
    pub adaptive_rate: Option<f64>,
    /// The warm-up.
    pub warm: Option<SavedWarm>,
}

impl SavedPath {
    fn is_empty(&self) -> bool {
        self.windows.is_empty()
            && self.backoff.is_none()
            && self.suspended.is_none()
            && self.slow.is_none()
            && self.adaptive_rate.is_none()
            && self.warm.is_none()
    }

    /// The same when some time has passed.
    fn aged(mut self, passed: Duration) -> Self {
        for window in &mut self.windows {
            window.spends = age(&window.spends, passed);
        }
        self.windows.retain(|window| !window.spends.is_empty());
        self.backoff = self.backoff.and_then(|state| state.aged(passed));
        self.suspended = self.suspended.and_then(|state| state.aged(passed));
        if let Some(slow) = &mut self.slow {
            slow.left = slow.left.saturating_sub(passed);
        }
        self
    }
}

impl SavedState {
    fn new(now: Instant, since: Instant, until: Option<Instant>, by: &Cause) -> Self {
        Self {
            held: now.saturating_duration_since(since),
            left: until.map(|until| until.saturating_duration_since(now)),
            by: by.into(),
        }
    }

    fn aged(mut self, passed: Duration) -> Option<Self> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(passed).filter(|left| !left.is_zero())?;
        }
        self.held = self.held.saturating_add(passed);
        Some(self)
    }

    /// As it is now: since, until and why.
    fn alive(&self, now: Instant) -> (Instant, Option<Instant>, Arc<Cause>) {
        let since = now.checked_sub(self.held).unwrap_or(now);
        (since, self.left.map(|left| now + left.min(STATE_MAX)), Arc::new((&self.by).into()))
    }

    fn suspension(&self, now: Instant) -> Option<Suspension> {
        let (since, until, by) = self.alive(now);
        Some(Suspension { since, until: until?, by })
    }
}

/// Nothing is held for longer, whatever a file says.
const STATE_MAX: Duration = Duration::from_secs(366 * 86_400);

impl From<&Cause> for SavedCause {
    fn from(cause: &Cause) -> Self {
        Self {
            name: cause.name.to_string(),
            setting: cause.setting.name.to_string(),
            value: cause.setting.value.to_string(),
            file: cause.setting.origin.file.to_string(),
            line: cause.setting.origin.line,
            reply: cause.reply.to_string(),
        }
    }
}

impl From<&SavedCause> for Cause {
    fn from(saved: &SavedCause) -> Self {
        let setting = SettingAt {
            name: saved.setting.as_str().into(),
            value: saved.value.as_str().into(),
            origin: Origin { file: saved.file.as_str().into(), line: saved.line },
        };
        Self {
            name: saved.name.as_str().into(),
            setting: Arc::new(setting),
            reply: saved.reply.as_str().into(),
        }
    }
}

/// A shared count.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedCount {
    /// What tells it from others.
    pub key: String,
    /// Its windows.
    pub windows: Vec<SavedWindow>,
}

/// A suspended queue.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedQueue {
    /// Which.
    pub name: QueueName,
    /// How long, and why.
    pub state: SavedState,
}

/// A tenant or campaign suspended at a site.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedSender {
    /// Which of both.
    pub what: Suspended,
    /// The site.
    pub site: String,
    /// Its name.
    pub name: String,
    /// How long, and why.
    pub state: SavedState,
}

/// A disabled source.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedSource {
    /// Its name.
    pub name: String,
    /// How long, and why.
    pub state: SavedState,
}

/// All that outlives the process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// When it was taken.
    pub taken_at: UnixMillis,
    /// Paths that are worth it.
    pub paths: Vec<SavedPath>,
    /// Shared counts.
    pub counts: Vec<SavedCount>,
    /// Suspended queues.
    pub queues: Vec<SavedQueue>,
    /// Suspended tenants and campaigns.
    pub senders: Vec<SavedSender>,
    /// Disabled sources.
    pub sources: Vec<SavedSource>,
}

impl Shaper {
    /// All that is to outlive the process.
    pub fn snapshot(&mut self, now: Instant, wall: UnixMillis) -> Snapshot {
        let counts = self.counts.save(now, &*self.ledger, WINDOW_MIN).into_iter();
        let live = self.paths.keys().map(|key| self.save_path(now, key));
        let cold = self
            .cold
            .values()
            .map(|cold| cold.path.clone().aged(now.saturating_duration_since(cold.saved_at)));
        let known = self.queues.values().map(|(name, suspension)| (name, suspension));
        let queues = known.chain(&self.parked);
        let state = |at: &Suspension| SavedState::new(now, at.since, Some(at.until), &at.by);
        Snapshot {
            taken_at: wall,
            paths: live.chain(cold).filter(|path| !path.is_empty()).collect(),
            counts: counts
                .map(|(key, history)| SavedCount {
                    key,
                    windows: history
                        .into_iter()
                        .map(|(kind, rate, spends)| SavedWindow { kind, rate, spends })
                        .collect(),
                })
                .collect(),
            queues: queues.map(|(name, at)| SavedQueue { name: name.clone(), state: state(at) }).collect(),
            senders: self
                .senders
                .values()
                .map(|sender| SavedSender {
                    what: sender.what,
                    site: sender.site.to_string(),
                    name: sender.name.to_string(),
                    state: state(&sender.suspension),
                })
                .collect(),
            sources: self
                .sources
                .iter()
                .filter_map(|(name, source)| {
                    let at = source.disabled.as_ref()?;
                    let state = SavedState::new(now, at.since, at.until, &at.by);
                    Some(SavedSource { name: name.to_string(), state })
                })
                .collect(),
        }
    }

    pub(super) fn save_path(&self, now: Instant, key: PathKey) -> SavedPath {
        let path = &self.paths[key];
        let long = path.windows.iter().filter(|window| window.rate.period >= WINDOW_MIN);
        let windows = long.map(|window| SavedWindow {
            kind: window.kind,
            rate: window.rate,
            spends: self.ledger.history(now, window.key),
        });
        let mut saved = SavedPath {
            source: path.source.to_string(),
            site: path.site.to_string(),
            windows: windows.filter(|window| !window.spends.is_empty()).collect(),
            ..SavedPath::default()
        };
        let Some(rare) = &path.rare else { return saved };
        saved.backoff =
            rare.backoff.as_ref().map(|at| SavedState::new(now, at.since, Some(at.until), &at.by));
        saved.suspended =
            rare.suspended.as_ref().map(|at| SavedState::new(now, at.since, Some(at.until), &at.by));
        saved.slow = rare.slow.as_ref().map(|slow| SavedSlow {
            factor: slow.factor,
            by_step: slow.by_step,
            step: slow.step,
            left: slow.next.saturating_duration_since(now),
            by: (&*slow.by).into(),
        });
        saved.adaptive_rate = rare.adaptive.as_ref().map(Adaptive::rate);
        // What is under way may have arrived.
        saved.warm =
            rare.warm.as_ref().filter(|warm| warm.began.is_some() || warm.out > 0).map(|warm| SavedWarm {
                day: warm.day,
                sent: warm.sent.saturating_add(warm.out),
                began: warm.began.or(Some(warm.day)),
            });
        saved
    }

    /// Takes over what an earlier process saved, before any path is opened or after.
    pub fn restore(&mut self, now: Instant, wall: UnixMillis, snapshot: Snapshot) {
        // A clock that went back since makes it as if no time had passed.
        let passed = Duration::from_millis(wall.0.saturating_sub(snapshot.taken_at.0));
        let today = super::wall::day(wall);
        for path in snapshot.paths {
            let mut path = path.aged(passed);
            path.warm.take_if(|warm| today.saturating_sub(warm.day) > WARM_FORGET_DAYS);
            if path.is_empty() {
                continue;
            }
            let names: (Arc<str>, Arc<str>) = (path.source.as_str().into(), path.site.as_str().into());
            let open = self.sources.get(&names.0).and_then(|source| source.paths.get(&names.1)).copied();
            let cold = Cold { saved_at: now, path };
            match open {
                Some(key) => {
                    self.thaw_states(now, key, &cold);
                    self.fit(now, key);
                    self.thaw_windows(now, key, &cold);
                }
                None => {
                    self.cold.insert(names, cold);
                }
            }
        }
        for count in snapshot.counts {
            let history = count.windows.into_iter();
            let history = history.map(|window| (window.kind, window.rate, age(&window.spends, passed)));
            self.counts.load(now, &mut *self.ledger, count.key, history.collect());
        }
        for queue in snapshot.queues {
            if let Some(suspension) = queue.state.aged(passed).and_then(|state| state.suspension(now)) {
                self.timer(suspension.until, Timer::Parked(queue.name.clone()));
                self.parked.insert(queue.name, suspension);
            }
        }
        for saved in snapshot.senders {
            if let Some(suspension) = saved.state.aged(passed).and_then(|state| state.suspension(now)) {
                let key: Box<str> = sender_key(saved.what, &saved.site, &saved.name).into();
                self.timer(suspension.until, Timer::Sender(key.clone()));
                let (site, name) = (saved.site.as_str().into(), saved.name.as_str().into());
                self.senders.insert(key, Sender { what: saved.what, site, name, suspension });
            }
        }
        for saved in snapshot.sources {
            let Some(state) = saved.state.aged(passed) else { continue };
            let (since, until, by) = state.alive(now);
            self.disable_source(now, &saved.name, until, &by);
            if let Some(source) = self.sources.get_mut(saved.name.as_str()) {
                source.disabled = Some(Disabled { since, until, by });
            }
        }
    }

    /// Gives a path that is opened the states it had.
    pub(super) fn thaw_states(&mut self, now: Instant, key: PathKey, cold: &Cold) {
        let saved = cold.path.clone().aged(now.saturating_duration_since(cold.saved_at));
        let path = &mut self.paths[key];
        if let Some((since, Some(until), by)) = saved.backoff.as_ref().map(|state| state.alive(now)) {
            path.rare().backoff = Some(Backoff { since, until, by });
        }
        if let Some(suspension) = saved.suspended.as_ref().and_then(|state| state.suspension(now)) {
            path.rare().suspended = Some(suspension);
        }
        if let Some(slow) = &saved.slow {
            path.rare().slow = Some(Slow {
                factor: slow.factor.clamp(super::state::SLOW_MIN, 1.0),
                by_step: slow.by_step.clamp(super::state::SLOW_MIN, 0.999),
                step: slow.step.clamp(Duration::from_secs(1), STATE_MAX),
                next: now + slow.left.min(STATE_MAX),
                by: Arc::new((&slow.by).into()),
            });
        }
        if let (Some(rate), Some(profile)) = (saved.adaptive_rate, path.profile.clone().adaptive.as_ref()) {
            path.rare().adaptive = Some(Adaptive::new(now, profile, Some(rate)));
        }
        if let Some(warm) = saved.warm {
            path.rare().warm = Some(Warm { day: warm.day, sent: warm.sent, out: 0, began: warm.began });
        }
        self.arm(key);
    }

    /// Gives a path that is opened what its windows had spent.
    pub(super) fn thaw_windows(&mut self, now: Instant, key: PathKey, cold: &Cold) {
        let saved = cold.path.windows.iter();
        let history: Vec<_> = saved.map(|window| (window.kind, window.rate, window.spends.clone())).collect();
        restore(now, &mut *self.ledger, &self.paths[key].windows, cold.saved_at, &history);
    }
}
