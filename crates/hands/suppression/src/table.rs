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

/// Where a record is: in which of the two files, and at which octet of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u64);

impl Place {
    const SECOND: u64 = 1 << 63;

    pub(crate) fn new(second: bool, offset: u64) -> Self {
        Self(offset | if second { Self::SECOND } else { 0 })
    }

    pub(crate) fn is_second(self) -> bool {
        self.0 & Self::SECOND != 0
    }

    pub(crate) fn offset(self) -> u64 {
        self.0 & !Self::SECOND
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
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), keys: RandomState::new() }
    }

    /// The hash of a tenant and a subject.
    pub(crate) fn hash(&self, tenant: &str, subject: &str) -> u64 {
        let mut hasher = self.keys.build_hasher();
        hasher.write(tenant.as_bytes());
        hasher.write_u8(0xff);
        hasher.write(subject.as_bytes());
        hasher.finish()
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
