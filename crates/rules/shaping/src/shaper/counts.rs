//! Counts that several paths are charged to.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::state::{Counted, WindowKind, adjust};
use crate::rules::Shared;
use crate::{Ledger, Rate};

/// Most counts at once. Beyond it new ones of a limit share one, which is stricter and never looser.
pub const COUNTS_MAX: usize = 1_000_000;

/// Counts looked at for being idle after a new one was made, and at each waking.
const SWEPT: usize = 8;

/// One count of a shared limit.
#[derive(Debug)]
pub struct Count {
    key: Box<str>,
    /// The limit, as the rules number it in `epoch`.
    pub limit: u32,
    epoch: u32,
    /// Connections open.
    pub open: u32,
    /// Paths that are charged to it always.
    pub paths: u32,
    pub windows: Box<[Counted]>,
}

/// Of each window, for how long each spend counts yet, and how much it is.
pub type History = Vec<Spends>;

/// Of one.
pub type Spends = (WindowKind, Rate, Vec<(Duration, u64)>);

/// All counts.
#[derive(Debug, Default)]
pub struct Counts {
    by_key: HashMap<Box<str>, u32>,
    slots: Vec<Option<Count>>,
    free: Vec<u32>,
    next_swept: usize,
    /// One was made since the last sweep.
    grew: bool,
    /// Saved by an earlier process, until the count is made.
    saved: HashMap<Box<str>, (Instant, History)>,
}

fn wanted(limit: &Shared) -> Vec<(WindowKind, Rate)> {
    let kinds = [
        (WindowKind::Messages, &limit.message_rates),
        (WindowKind::Bytes, &limit.byte_rates),
        (WindowKind::Connections, &limit.connection_rates),
    ];
    let rates = kinds.into_iter().filter_map(|(kind, set)| Some((kind, set.as_ref()?)));
    rates.flat_map(|(kind, set)| set.value.iter().map(move |rate| (kind, *rate))).collect()
}

impl Counts {
    /// The count under a key; made, or fitted to rules that are new, where need be.
    pub fn resolve(
        &mut self,
        now: Instant,
        ledger: &mut dyn Ledger,
        (index, limit, epoch): (u32, &Shared, u32),
        key: &mut String,
    ) -> u32 {
        if self.by_key.len() >= COUNTS_MAX && !self.by_key.contains_key(key.as_str()) {
            key.clear();
            key.push_str(&limit.name);
            key.push_str("\0\0all others");
        }
        if let Some(id) = self.by_key.get(key.as_str()).copied() {
            if let Some(count) = self.slots.get_mut(id as usize).and_then(Option::as_mut)
                && count.epoch != epoch
            {
                adjust(ledger, &mut count.windows, &wanted(limit));
                (count.limit, count.epoch) = (index, epoch);
            }
            return id;
        }
        self.grew = true;
        let mut count = Count {
            key: key.as_str().into(),
            limit: index,
            epoch,
            open: 0,
            paths: 0,
            windows: Box::default(),
        };
        adjust(ledger, &mut count.windows, &wanted(limit));
        if let Some((saved_at, history)) = self.saved.remove(key.as_str()) {
            restore(now, ledger, &count.windows, saved_at, &history);
        }
        let id = match self.free.pop() {
            Some(id) => {
                self.slots[id as usize] = Some(count);
                id
            }
            None => {
                self.slots.push(Some(count));
                u32::try_from(self.slots.len() - 1).expect("there are at most COUNTS_MAX")
            }
        };
        self.by_key.insert(key.as_str().into(), id);
        id
    }

    pub fn get(&self, id: u32) -> Option<&Count> {
        self.slots.get(id as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, id: u32) -> Option<&mut Count> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Sweeps if one was made since the last time. Not while charges are being gathered: what was made for them
    /// knows nothing yet.
    pub fn sweep_if_grown(&mut self, now: Instant, ledger: &mut dyn Ledger) {
        if self.grew {
            self.sweep(now, ledger);
        }
    }

    /// Forgets a few that nobody is charged to and that know nothing.
    pub fn sweep(&mut self, now: Instant, ledger: &mut dyn Ledger) {
        self.grew = false;
        for _ in 0..SWEPT.min(self.slots.len()) {
            self.next_swept = (self.next_swept + 1) % self.slots.len();
            let Some(slot) = self.slots.get_mut(self.next_swept) else { continue };
            let idle = slot.as_ref().is_some_and(|count| {
                count.paths == 0
                    && count.open == 0
                    && count.windows.iter().all(|window| ledger.used(now, window.key).0 == 0)
            });
            if idle && let Some(count) = slot.take() {
                count.windows.iter().for_each(|window| ledger.close(window.key));
                self.by_key.remove(&count.key);
                self.free.push(self.next_swept as u32);
            }
        }
    }

    /// What is spent of each, for the next process; windows below `least` are too short to matter.
    pub fn save(&mut self, now: Instant, ledger: &dyn Ledger, least: Duration) -> Vec<(String, History)> {
        // What no count was made for is of use until its windows have passed.
        self.saved.retain(|_, (saved_at, history)| {
            let passed = now.saturating_duration_since(*saved_at);
            history.iter().any(|(_, _, spends)| spends.iter().any(|(left, _)| *left > passed))
        });
        let known = self.slots.iter().flatten().map(|count| {
            let windows = count.windows.iter().filter(|window| window.rate.period >= least);
            let history = windows.map(|window| (window.kind, window.rate, ledger.history(now, window.key)));
            (count.key.to_string(), history.collect::<History>())
        });
        let waiting = self.saved.iter().map(|(key, (saved_at, history))| {
            let passed = now.saturating_duration_since(*saved_at);
            let aged = history.iter().map(|(kind, rate, spends)| (*kind, *rate, age(spends, passed)));
            (key.to_string(), aged.collect())
        });
        let kept = |(_, history): &(String, History)| history.iter().any(|(_, _, spends)| !spends.is_empty());
        known.chain(waiting).filter(kept).collect()
    }

    /// Takes what an earlier process saved.
    pub fn load(&mut self, now: Instant, ledger: &mut dyn Ledger, key: String, history: History) {
        if let Some(id) = self.by_key.get(key.as_str())
            && let Some(Some(count)) = self.slots.get(*id as usize)
        {
            restore(now, ledger, &count.windows, now, &history);
        } else if self.saved.len() < COUNTS_MAX {
            self.saved.insert(key.into(), (now, history));
        }
    }
}

/// Spends as they count after some time has passed.
pub fn age(spends: &[(Duration, u64)], passed: Duration) -> Vec<(Duration, u64)> {
    let left = |(left, amount): &(Duration, u64)| Some((left.checked_sub(passed)?, *amount));
    spends.iter().filter_map(left).filter(|(left, _)| !left.is_zero()).collect()
}

/// Fills windows with saved histories of the same kind and rate.
pub fn restore(
    now: Instant,
    ledger: &mut dyn Ledger,
    windows: &[Counted],
    saved_at: Instant,
    history: &[Spends],
) {
    let passed = now.saturating_duration_since(saved_at);
    for (kind, rate, spends) in history {
        let same = windows.iter().find(|window| (window.kind, window.rate) == (*kind, *rate));
        if let Some(window) = same {
            ledger.restore(now, window.key, &age(spends, passed));
        }
    }
}
