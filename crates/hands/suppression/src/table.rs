//! The entries in memory: for each a hash of its tenant and subject, and the place of its record in a file.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Parts with a lock of their own. A part's table doubles by itself, so that memory grows in small steps.
const SHARDS: usize = 256;

/// A hash that is one already.
#[derive(Default, Clone, Copy)]
pub(crate) struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, octets: &[u8]) {
        for octet in octets {
            self.0 = self.0.rotate_left(8) ^ u64::from(*octet);
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[derive(Default, Clone, Copy)]
struct BuildSame;

impl BuildHasher for BuildSame {
    type Hasher = Same;
    fn build_hasher(&self) -> Same {
        Same::default()
    }
}

/// Where a record is, in which of the two files and at which octet of it; and what is known of it without reading it:
/// until when it holds, to the day, and some bits of a second hash. Two are equal that are at one place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(u64);

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        (self.0 ^ other.0) & (Self::SECOND | Self::OFFSET) == 0
    }
}

impl Eq for Place {}

/// What is known of an entry without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// It holds.
    Yes,
    /// Its time is over.
    Over,
    /// Its time ends today, or too far off to be noted: the record says.
    Ask,
}

impl Place {
    const SECOND: u64 = 1 << 63;
    /// Bits of the octet: four terabytes.
    const OFFSET: u64 = (1 << 42) - 1;
    /// Above them the day on which it ends, 0 for none; and then the bits of a hash.
    const DAY_SHIFT: u32 = 42;
    const DAY_MAX: u64 = (1 << 15) - 1;
    const CHECK_SHIFT: u32 = 57;
    pub(crate) const CHECK_MAX: u64 = (1 << 6) - 1;
    /// The day before 1 January 2020, in days since 1970: days are counted from there, for a century less ten years.
    const FIRST_DAY: u64 = 18_261;

    /// Where a record is; for comparing.
    pub(crate) fn new(second: bool, offset: u64) -> Self {
        Self(offset & Self::OFFSET | if second { Self::SECOND } else { 0 })
    }

    /// The same with what is known of it: when it ends, in Unix seconds, 0 for never, and the bits of a hash.
    pub(crate) fn known(second: bool, offset: u64, until: u32, check: u64) -> Self {
        let day = match until {
            0 => 0,
            until => (u64::from(until) / 86_400).saturating_sub(Self::FIRST_DAY).clamp(1, Self::DAY_MAX),
        };
        Self(
            Self::new(second, offset).0
                | day << Self::DAY_SHIFT
                | (check & Self::CHECK_MAX) << Self::CHECK_SHIFT,
        )
    }

    pub(crate) fn is_second(self) -> bool {
        self.0 & Self::SECOND != 0
    }

    pub(crate) fn offset(self) -> u64 {
        self.0 & Self::OFFSET
    }

    pub(crate) fn check(self) -> u64 {
        self.0 >> Self::CHECK_SHIFT & Self::CHECK_MAX
    }

    /// Whether it holds, at a time in Unix seconds.
    pub(crate) fn lasts(self, now: u64) -> Lasts {
        let day = self.0 >> Self::DAY_SHIFT & Self::DAY_MAX;
        let today = (now / 86_400).saturating_sub(Self::FIRST_DAY);
        match day {
            0 => Lasts::Yes,
            // The first and the last stand for all that is before and behind them.
            1 | Self::DAY_MAX => Lasts::Ask,
            day if day > today => Lasts::Yes,
            day if day < today => Lasts::Over,
            _ => Lasts::Ask,
        }
    }
}

#[derive(Default)]
pub(crate) struct Shard {
    /// The first of each hash.
    first: HashMap<u64, Place, BuildSame>,
    /// Further ones of a hash that another has: one in millions of lists has any.
    more: Vec<(u64, Place)>,
}

impl Shard {
    /// The places of a hash.
    pub(crate) fn places(&self, hash: u64) -> impl Iterator<Item = Place> {
        let more = self.more.iter().filter(move |(known, _)| *known == hash).map(|(_, place)| *place);
        self.first.get(&hash).copied().into_iter().chain(more)
    }

    /// Adds the first place of a hash; false if there is one.
    pub(crate) fn put_new(&mut self, hash: u64, place: Place) -> bool {
        match self.first.entry(hash) {
            Entry::Vacant(vacant) => {
                vacant.insert(place);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// Adds a place, or puts it where `old` is.
    pub(crate) fn put(&mut self, hash: u64, old: Option<Place>, place: Place) {
        match old {
            Some(old) if self.first.get(&hash) == Some(&old) => {
                self.first.insert(hash, place);
            }
            Some(old) => {
                for known in self.more.iter_mut().filter(|known| **known == (hash, old)) {
                    known.1 = place;
                }
            }
            None if self.first.contains_key(&hash) => self.more.push((hash, place)),
            None => {
                self.first.insert(hash, place);
            }
        }
    }

    /// Takes a place out.
    pub(crate) fn take(&mut self, hash: u64, old: Place) {
        if self.first.get(&hash) == Some(&old) {
            self.first.remove(&hash);
            if let Some(at) = self.more.iter().position(|(known, _)| *known == hash) {
                let (_, place) = self.more.swap_remove(at);
                self.first.insert(hash, place);
            }
        } else {
            self.more.retain(|known| *known != (hash, old));
        }
    }
}

/// The table.
pub(crate) struct Table {
    shards: Vec<RwLock<Shard>>,
    /// Keyed at each start, so that nobody can choose addresses that share a hash.
    keys: RandomState,
    /// For the bits of [`Place::check`].
    check_keys: RandomState,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            keys: RandomState::new(),
            check_keys: RandomState::new(),
        }
    }

    /// The hash of a tenant and a subject.
    pub(crate) fn hash(&self, tenant: &str, subject: &str) -> u64 {
        hash(&self.keys, tenant, subject)
    }

    /// Bits of another hash of them.
    pub(crate) fn check(&self, tenant: &str, subject: &str) -> u64 {
        hash(&self.check_keys, tenant, subject) & Place::CHECK_MAX
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        // The map inside takes the high and the low bits of a hash; the shard goes by others.
        &self.shards[(hash >> 24) as usize % SHARDS]
    }

    pub(crate) fn read(&self, hash: u64) -> RwLockReadGuard<'_, Shard> {
        self.shard(hash).read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self, hash: u64) -> RwLockWriteGuard<'_, Shard> {
        self.shard(hash).write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(keys: &RandomState, tenant: &str, subject: &str) -> u64 {
    let mut hasher = keys.build_hasher();
    hasher.write(tenant.as_bytes());
    hasher.write_u8(0xff);
    hasher.write(subject.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_knows_when_its_entry_ends_to_the_day() {
        let day = |n: u64| u32::try_from(n * 86_400).unwrap();
        let at = |until: u32| Place::known(true, 1 << 41, until, 0x3f);
        for (until, today, expected) in [
            (0, 20_000, Lasts::Yes),
            (day(20_001), 20_000, Lasts::Yes),
            (day(20_001) - 1, 20_000, Lasts::Ask),
            (day(20_000), 20_000, Lasts::Ask),
            (day(20_000) - 1, 20_000, Lasts::Over),
            // Before 2020 all is one day.
            (1, 20_000, Lasts::Ask),
            (1, 3, Lasts::Ask),
            (u32::MAX, 20_000, Lasts::Yes),
        ] {
            assert_eq!(at(until).lasts(today * 86_400 + 5), expected, "{until} on {today}");
            assert_eq!((at(until).offset(), at(until).check()), (1 << 41, 0x3f));
            assert!(at(until).is_second() && at(until) == Place::new(true, 1 << 41));
        }
        assert_ne!(Place::new(false, 7), Place::new(true, 7));
        assert_ne!(Place::new(false, 7), Place::new(false, 8));
    }
}
