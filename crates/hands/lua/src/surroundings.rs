//! What scripts may ask of the world around them, and the memory that all contexts share.

use mlua::{Error, Lua, LuaString, MultiValue, Result, Table, Value};
use policy::Tally;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Entries of the store at most; when it is full, those that are over go first, and then nothing more is taken.
const ENTRIES_MAX: usize = 100_000;
/// Octets of a key or a value at most.
const TEXT_MAX_OCTETS: usize = 4_096;

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
pub type Records<'a> = Pin<Box<dyn Future<Output = std::result::Result<Vec<String>, String>> + Send + 'a>>;

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

    fn value(&self, key: &str, now: Instant) -> Option<Box<str>> {
        self.entries().get(key).filter(|(_, until)| *until > now).map(|(value, _)| value.clone())
    }

    /// False if there is no room.
    fn set(&self, key: &str, value: &str, until: Instant, now: Instant) -> bool {
        put(&mut self.entries(), key, value, until, now)
    }

    /// Adds to a number; an absent one is nothing, and begins to live now. `None` if there is no room.
    fn add(&self, key: &str, by: i64, life: Duration, now: Instant) -> Option<i64> {
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

/// Adds `tuma.dns` and `tuma.store`.
pub(crate) fn install(lua: &Lua, tuma: &Table, surroundings: &Surroundings) -> Result<()> {
    let dns = lua.create_table()?;
    for (name, kind) in
        [("a", Kind::A), ("aaaa", Kind::Aaaa), ("mx", Kind::Mx), ("txt", Kind::Txt), ("ptr", Kind::Ptr)]
    {
        let names = surroundings.names.clone();
        let ask = lua.create_async_function(move |lua, name: String| {
            let names = names.clone();
            async move {
                let answered = match &names {
                    Some(names) => names.records(kind, &name).await,
                    None => Err("there is nobody to ask".into()),
                };
                // No answer is not the same as none: a script that takes it for a list fails.
                match answered {
                    Ok(records) => {
                        let list = Value::Table(lua.create_sequence_from(records)?);
                        Ok(MultiValue::from_vec(vec![list]))
                    }
                    Err(why) => {
                        let why = Value::String(lua.create_string(why)?);
                        Ok(MultiValue::from_vec(vec![Value::Nil, why]))
                    }
                }
            }
        })?;
        dns.set(name, ask)?;
    }
    tuma.set("dns", dns)?;
    let fit = |text: &LuaString| {
        let text = text.to_string_lossy();
        if text.len() > TEXT_MAX_OCTETS {
            Err(Error::runtime("tuma.store: the text is too long"))
        } else {
            Ok(text)
        }
    };
    let life = |seconds: f64| {
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|life| *life <= Duration::from_secs(31 * 86_400))
            .ok_or_else(|| Error::runtime("tuma.store: an entry lives for up to 31 days, in seconds"))
    };
    let table = lua.create_table()?;
    let store = surroundings.store.clone();
    let get = lua.create_function(move |_, key: LuaString| {
        Ok(store.value(&fit(&key)?, Instant::now()).map(String::from))
    })?;
    table.set("get", get)?;
    let store = surroundings.store.clone();
    let set = lua.create_function(move |_, (key, value, seconds): (LuaString, LuaString, f64)| {
        let now = Instant::now();
        Ok(store.set(&fit(&key)?, &fit(&value)?, now + life(seconds)?, now))
    })?;
    table.set("set", set)?;
    let store = surroundings.store.clone();
    let add = lua.create_function(move |_, (key, by, seconds): (LuaString, i64, f64)| {
        Ok(store.add(&fit(&key)?, by, life(seconds)?, Instant::now()))
    })?;
    table.set("add", add)?;
    tuma.set("store", table)
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
