//! What is known of one path.

use std::ops::{Index, IndexMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::adaptive::Adaptive;
use super::hold::Cause;
use super::permit::Permit;
use super::trigger::Triggers;
use crate::{Ledger, LedgerKey, PathFacts, Profile, Rate, SettingAt};

/// A path that was opened and not forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathKey(pub u32);

/// What a window counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WindowKind {
    /// Messages.
    Messages,
    /// Octets of messages.
    Bytes,
    /// New connections.
    Connections,
    /// Messages in backoff.
    BackoffMessages,
    /// Octets in backoff.
    BackoffBytes,
    /// New connections in backoff.
    BackoffConnections,
    /// One message in a time, in backoff.
    Probe,
    /// Messages at the adaptive rate.
    Adaptive,
}

impl WindowKind {
    /// True if a new connection is charged, and not a message.
    pub fn is_of_connections(self) -> bool {
        matches!(self, Self::Connections | Self::BackoffConnections)
    }

    /// What a message of so many octets is charged. One that is larger than the limit is charged all of it.
    pub fn amount(self, bytes: u64, rate: &Rate) -> u64 {
        match self {
            Self::Bytes | Self::BackoffBytes => bytes.clamp(1, rate.count),
            _ => 1,
        }
    }
}

/// One window that is counted.
#[derive(Clone, Debug)]
pub struct Counted {
    pub key: LedgerKey,
    pub kind: WindowKind,
    pub rate: Rate,
}

/// Makes the windows those that are wanted. One of the same kind and rate stays, with what was spent.
pub fn adjust(ledger: &mut dyn Ledger, windows: &mut Box<[Counted]>, wanted: &[(WindowKind, Rate)]) {
    let same = windows.iter().map(|window| (window.kind, window.rate)).eq(wanted.iter().copied());
    if same {
        return;
    }
    let mut old: Vec<Counted> = std::mem::take(windows).into_vec();
    let new = wanted.iter().map(|(kind, rate)| {
        match old.iter().position(|window| (window.kind, window.rate) == (*kind, *rate)) {
            Some(index) => old.swap_remove(index),
            None => Counted { key: ledger.open(*rate), kind: *kind, rate: *rate },
        }
    });
    *windows = new.collect();
    old.iter().for_each(|window| ledger.close(window.key));
}

/// A path that goes by its backoff limits.
#[derive(Clone, Debug)]
pub struct Backoff {
    pub since: Instant,
    pub until: Instant,
    pub by: Arc<Cause>,
}

/// Something that waits.
#[derive(Clone, Debug)]
pub struct Suspension {
    pub since: Instant,
    pub until: Instant,
    pub by: Arc<Cause>,
}

/// A path that was slowed down.
#[derive(Clone, Debug)]
pub struct Slow {
    /// Rates and connections are multiplied by it.
    pub factor: f64,
    /// One step back divides it by this.
    pub by_step: f64,
    /// The time between steps.
    pub step: Duration,
    /// The next one.
    pub next: Instant,
    pub by: Arc<Cause>,
}

/// The least a path is slowed down to.
pub const SLOW_MIN: f64 = 0.01;

/// How far a new source has come at a site.
#[derive(Clone, Debug, Default)]
pub struct Warm {
    /// The day `sent` is of.
    pub day: u32,
    /// Messages sent on it.
    pub sent: u64,
    /// Messages under way.
    pub out: u64,
    /// The day of the first message.
    pub began: Option<u32>,
}

impl Warm {
    /// Messages that count for a day. A day that lies before the counted one is no new day.
    pub fn used(&self, day: u32) -> u64 {
        self.out.saturating_add(if day > self.day { 0 } else { self.sent })
    }

    /// One was sent.
    pub fn spend(&mut self, day: u32) {
        self.out = self.out.saturating_sub(1);
        self.sent_more(day, 1);
    }

    /// So many were sent that were not under way.
    pub fn sent_more(&mut self, day: u32, count: u64) {
        if day > self.day {
            (self.day, self.sent) = (day, 0);
        }
        self.began.get_or_insert(day);
        self.sent = self.sent.saturating_add(count);
    }
}

/// What most paths never have.
#[derive(Debug, Default)]
pub struct Rare {
    pub backoff: Option<Backoff>,
    pub suspended: Option<Suspension>,
    pub slow: Option<Slow>,
    pub adaptive: Option<Adaptive>,
    pub warm: Option<Warm>,
    pub triggers: Triggers,
}

/// One path.
#[derive(Debug)]
pub struct PathState {
    pub source: Arc<str>,
    pub site: Arc<str>,
    pub provider: Option<Arc<str>>,
    pub pool: Arc<str>,
    /// Domains at the site that the configuration names.
    pub domains: Box<[Arc<str>]>,
    pub profile: Arc<Profile>,
    /// Connections open, those being opened included.
    pub open: u32,
    /// Those being opened.
    pub connecting: u32,
    /// Failures to connect in a row.
    pub failures: u32,
    pub unreachable_until: Option<Instant>,
    /// When the first of the connections was greeted.
    pub ramp_from: Option<Instant>,
    pub windows: Box<[Counted]>,
    /// Shared counts that every message and connection is charged to.
    pub counts: Box<[u32]>,
    /// Shared limits that depend on who sends.
    pub by_sender: Box<[u32]>,
    /// What connections that are being opened were charged.
    pub opening: Vec<Permit>,
    /// Permits for messages that are out.
    pub out: u32,
    /// When its state has to be looked at, if a timer is set.
    pub timer: Option<Instant>,
    pub rare: Option<Box<Rare>>,
}

impl PathState {
    /// The rarely needed part, made when it is not there.
    pub fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// What decides its limits, but for its domains.
    pub fn facts(&self) -> PathFacts<'_> {
        PathFacts {
            site: &self.site,
            provider: self.provider.as_deref(),
            domains: &[],
            pool: &self.pool,
            source: &self.source,
        }
    }

    pub fn backoff(&self) -> Option<&Backoff> {
        self.rare.as_ref()?.backoff.as_ref()
    }

    /// What rates and connections are multiplied by.
    pub fn slowness(&self) -> f64 {
        self.rare.as_ref().and_then(|rare| rare.slow.as_ref()).map_or(1.0, |slow| slow.factor)
    }

    /// Connections allowed, and the setting that says so.
    pub fn connections_max(&self) -> (u32, &Arc<SettingAt>) {
        let normal = &self.profile.connections;
        let slowed = (f64::from(normal.value) * self.slowness()).ceil() as u32;
        let normal_max = slowed.clamp(1, normal.value);
        match self.backoff() {
            Some(_) => {
                let backoff = &self.profile.backoff.connections;
                if backoff.value < normal_max {
                    (backoff.value, &backoff.at)
                } else {
                    (normal_max, &normal.at)
                }
            }
            None => (normal_max, &normal.at),
        }
    }

    /// The windows it is to have.
    pub fn wanted(&self) -> Vec<(WindowKind, Rate)> {
        let profile = &*self.profile;
        let mut wanted = Vec::new();
        let mut add = |kind, rates: &[Rate]| wanted.extend(rates.iter().map(|rate| (kind, *rate)));
        if self.backoff().is_some() {
            let backoff = &profile.backoff;
            let list = |rates: &Option<crate::Traced<Vec<Rate>>>| {
                rates.as_ref().map_or_else(Vec::new, |rates| rates.value.clone())
            };
            if let Some(every) = &backoff.probe {
                add(WindowKind::Probe, &[Rate { count: 1, period: every.value }]);
            }
            add(WindowKind::BackoffMessages, &backoff.message_rates);
            add(WindowKind::BackoffBytes, &list(&backoff.byte_rates));
            add(WindowKind::BackoffConnections, &list(&backoff.connection_rates));
        }
        add(WindowKind::Messages, &profile.message_rates);
        if let Some(adaptive) = &profile.adaptive {
            add(WindowKind::Adaptive, &[adaptive.max.value]);
        }
        add(WindowKind::Bytes, &profile.byte_rates);
        add(WindowKind::Connections, &profile.connection_rates);
        wanted
    }

    /// The setting behind a window.
    pub fn setting(&self, kind: WindowKind) -> &Arc<SettingAt> {
        let profile = &*self.profile;
        let backoff = &profile.backoff;
        match kind {
            WindowKind::Messages => &profile.message_rates.at,
            WindowKind::Bytes => &profile.byte_rates.at,
            WindowKind::Connections => &profile.connection_rates.at,
            WindowKind::BackoffMessages => &backoff.message_rates.at,
            WindowKind::BackoffBytes => {
                backoff.byte_rates.as_ref().map_or(&profile.byte_rates.at, |set| &set.at)
            }
            WindowKind::BackoffConnections => {
                backoff.connection_rates.as_ref().map_or(&profile.connection_rates.at, |set| &set.at)
            }
            WindowKind::Probe => backoff.probe.as_ref().map_or(&backoff.message_rates.at, |set| &set.at),
            WindowKind::Adaptive => {
                profile.adaptive.as_ref().map_or(&profile.message_rates.at, |adaptive| &adaptive.max.at)
            }
        }
    }

    /// Sets the limits of windows that are not simply their rates'.
    pub fn scale(&self, ledger: &mut dyn Ledger) {
        let slowness = self.slowness();
        for window in &self.windows {
            let limit = match window.kind {
                WindowKind::Messages | WindowKind::Bytes => {
                    (window.rate.count as f64 * slowness).ceil() as u64
                }
                WindowKind::Adaptive => match self.rare.as_ref().and_then(|rare| rare.adaptive.as_ref()) {
                    Some(adaptive) => adaptive.limit(),
                    None => window.rate.count,
                },
                _ => window.rate.count,
            };
            ledger.set_limit(window.key, limit);
        }
    }
}

/// All paths, under numbers that are used again.
#[derive(Debug, Default)]
pub struct Paths {
    slots: Vec<Option<Box<PathState>>>,
    free: Vec<u32>,
}

impl Paths {
    pub fn insert(&mut self, path: PathState) -> PathKey {
        if let Some(index) = self.free.pop() {
            self.slots[index as usize] = Some(Box::new(path));
            return PathKey(index);
        }
        self.slots.push(Some(Box::new(path)));
        PathKey(u32::try_from(self.slots.len() - 1).expect("memory ends before the numbers do"))
    }

    pub fn remove(&mut self, key: PathKey) -> Option<Box<PathState>> {
        let path = self.slots.get_mut(key.0 as usize)?.take()?;
        self.free.push(key.0);
        Some(path)
    }

    pub fn get(&self, key: PathKey) -> Option<&PathState> {
        self.slots.get(key.0 as usize)?.as_deref()
    }

    pub fn get_mut(&mut self, key: PathKey) -> Option<&mut PathState> {
        self.slots.get_mut(key.0 as usize)?.as_deref_mut()
    }

    pub fn keys(&self) -> impl Iterator<Item = PathKey> {
        (0..).zip(&self.slots).filter(|(_, slot)| slot.is_some()).map(|(index, _)| PathKey(index))
    }

    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl Index<PathKey> for Paths {
    type Output = PathState;

    fn index(&self, key: PathKey) -> &PathState {
        self.get(key).expect("a key is of a path that was not forgotten")
    }
}

impl IndexMut<PathKey> for Paths {
    fn index_mut(&mut self, key: PathKey) -> &mut PathState {
        self.get_mut(key).expect("a key is of a path that was not forgotten")
    }
}
