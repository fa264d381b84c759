//! Values remembered within a bound, the least lately used forgotten first, about.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Entries in each of two generations; the older one is forgotten when the younger one is full.
const GENERATION: usize = 32_768;

/// The memory.
#[derive(Debug)]
pub(crate) struct Memory<K, V>(Mutex<Generations<K, V>>);

#[derive(Debug)]
struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self(Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() }))
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Memory<K, V> {
    pub(crate) fn put(&self, key: &K, value: V) {
        let mut all = self.lock();
        all.old.remove(key);
        if all.young.len() >= GENERATION && !all.young.contains_key(key) {
            all.old = std::mem::take(&mut all.young);
        }
        all.young.insert(key.clone(), value);
    }

    pub(crate) fn find(&self, key: &K) -> Option<V> {
        let mut all = self.lock();
        if let Some(found) = all.young.get(key) {
            return Some(found.clone());
        }
        let found = all.old.remove(key)?;
        all.young.insert(key.clone(), found.clone());
        Some(found)
    }

    fn lock(&self) -> MutexGuard<'_, Generations<K, V>> {
        // Nothing in here can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let memory = Memory::default();
        memory.put(&0, 7);
        for n in 1..5 * GENERATION {
            memory.put(&n, n);
            assert_eq!(memory.find(&0), Some(7), "{n}");
        }
        let all = memory.lock();
        assert!(all.young.len() + all.old.len() <= 2 * GENERATION + 1);
    }
}
