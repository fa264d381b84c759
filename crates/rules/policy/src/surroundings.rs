//! What scripts may ask of the world around them, and the memory that all of them share.

use crate::Tally;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Entries of the store at most; when it is full, those that are over go first, and then nothing more is taken.
const ENTRIES_MAX: usize = 100_000;
/// Octets of a key or a value at most.
pub const STORE_TEXT_MAX_OCTETS: usize = 4_096;

/// What DNS has of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Exchangers, as `preference name`.
    Mx,
    /// Texts.
    Txt,
    /// Names of an address.
    Ptr,
}

/// Records, or why there was no answer that could be believed.
pub type Records<'a> = Pin<Box<dyn Future<Output = Result<Vec<String>, String>> + Send + 'a>>;

/// Who answers questions about names.
pub trait Names: Send + Sync {
    /// The records of a name; none if it has none or does not exist.
    fn records<'a>(&'a self, kind: Kind, name: &'a str) -> Records<'a>;
}

/// Texts by key that all contexts of all scripts share, each for a while. It outlives a reload, not the process.
#[derive(Debug, Default)]
pub struct Store(Mutex<Entries>);

/// Values by key, and until when they hold.
type Entries = HashMap<Box<str>, (Box<str>, Instant)>;

impl Store {
    fn entries(&self) -> std::sync::MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a key holds now.
    pub fn value(&self, key: &str, now: Instant) -> Option<Box<str>> {
        self.entries().get(key).filter(|(_, until)| *until > now).map(|(value, _)| value.clone())
    }

    /// Puts a value under a key. False if there is no room.
    pub fn set(&self, key: &str, value: &str, until: Instant, now: Instant) -> bool {
        put(&mut self.entries(), key, value, until, now)
    }

    /// Adds to a number; an absent one is nothing, and begins to live now. `None` if there is no room.
    pub fn add(&self, key: &str, by: i64, life: Duration, now: Instant) -> Option<i64> {
        let mut entries = self.entries();
        let (before, until) = match entries.get(key) {
            Some((value, until)) if *until > now => (value.parse().unwrap_or(0), *until),
            _ => (0i64, now + life),
        };
        let after = before.saturating_add(by);
        put(&mut entries, key, &after.to_string(), until, now).then_some(after)
    }
}

fn put(entries: &mut Entries, key: &str, value: &str, until: Instant, now: Instant) -> bool {
    if entries.len() >= ENTRIES_MAX && !entries.contains_key(key) {
        entries.retain(|_, (_, until)| *until > now);
        if entries.len() >= ENTRIES_MAX {
            return false;
        }
    }
    entries.insert(key.into(), (value.into(), until));
    true
}

/// What a script is surrounded by.
#[derive(Clone, Default)]
pub struct Surroundings {
    /// What is counted.
    pub tally: Arc<Tally>,
    /// The memory that contexts share.
    pub store: Arc<Store>,
    /// Who answers questions about names; with nobody, every question fails.
    pub names: Option<Arc<dyn Names>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_forgets_in_time_and_is_bounded() {
        let store = Store::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        assert!(store.set("k", "v", later, now));
        assert_eq!(store.value("k", now).as_deref(), Some("v"));
        assert_eq!(store.value("k", later), None);
        let life = Duration::from_secs(5);
        assert_eq!(store.add("n", 2, life, now), Some(2));
        assert_eq!(store.add("n", 3, life, now + Duration::from_secs(4)), Some(5));
        assert_eq!(store.add("n", 1, life, now + Duration::from_secs(5)), Some(1), "it began anew");
        for n in 0..ENTRIES_MAX {
            store.set(&n.to_string(), "", later, now);
        }
        assert!(!store.set("one more", "", later, now));
        assert!(store.set("one more", "", later + life, later), "the old ones are over");
    }
}
