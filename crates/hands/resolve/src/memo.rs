//! Answers remembered for a while, within a bound; and one question at a time for each key.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// Remembers values by key until they expire, within a bound of octets: answers differ a hundredfold in size,
/// and who controls a zone controls theirs. Two generations: new and used entries are young; when the young
/// fill half the bound they become the old, and the former old are forgotten. That is close to "least
/// recently used" and has no list to keep.
#[derive(Debug)]
pub(crate) struct Memo<K, V> {
    octets_max: usize,
    weigh: fn(&K, &V) -> usize,
    state: Mutex<State<K, V>>,
}

#[derive(Debug)]
struct State<K, V> {
    young: HashMap<K, (V, Instant)>,
    young_octets: usize,
    old: HashMap<K, (V, Instant)>,
    flights: HashMap<K, Arc<OnceCell<(V, Instant)>>>,
    /// Counts how often everything was forgotten: what was asked before is not remembered after.
    life: u64,
}

/// What an entry costs beside its key's and value's own heap: its place in the table, the allocator's share.
const ENTRY_OCTETS: usize = 160;

impl<K: Hash + Eq + Clone, V: Clone> Memo<K, V> {
    /// `weigh` says how many octets of heap a key and a value hold, about.
    pub(crate) fn new(octets_max: usize, weigh: fn(&K, &V) -> usize) -> Self {
        let (young, old, flights) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { octets_max, weigh, state: Mutex::new(State { young, young_octets: 0, old, flights, life: 0 }) }
    }

    /// The value for `key`, and until when it holds; `ask` is run if none is remembered and nobody is asking
    /// already. It returns the value and for how long to remember it. Should the caller that asks go away,
    /// one that waits asks in its stead.
    pub(crate) async fn get_or<F, Fut>(&self, key: &K, ask: F) -> (V, Instant)
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = (V, Duration)>,
    {
        let (flight, life) = {
            let mut state = self.state();
            if let Some(found) = self.find(&mut state, key, Instant::now()) {
                return found;
            }
            (state.flights.entry(key.clone()).or_default().clone(), state.life)
        };
        let landing = Landing { memo: self, key, flight };
        let value = landing.flight.get_or_init(|| async {
            let (value, lasts) = ask().await;
            let until = Instant::now() + lasts;
            let mut state = self.state();
            if !lasts.is_zero() && state.life == life {
                self.insert(&mut state, key.clone(), value.clone(), until);
            }
            drop(state);
            (value, until)
        });
        value.await.clone()
    }

    /// Forgets everything. Answers under way go to those who wait for them, and to nobody who asks from now on.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        state.young = HashMap::new();
        state.young_octets = 0;
        state.old = HashMap::new();
        state.flights = HashMap::new();
        state.life += 1;
    }

    /// Entries held, expired ones included.
    pub(crate) fn len(&self) -> usize {
        let state = self.state();
        state.young.len() + state.old.len()
    }

    fn find(&self, state: &mut State<K, V>, key: &K, now: Instant) -> Option<(V, Instant)> {
        if let Some((value, until)) = state.young.get(key) {
            return (now < *until).then(|| (value.clone(), *until));
        }
        let (value, until) = state.old.remove(key)?;
        if now >= until {
            return None;
        }
        self.insert(state, key.clone(), value.clone(), until);
        Some((value, until))
    }

    fn insert(&self, state: &mut State<K, V>, key: K, value: V, until: Instant) {
        let octets = (self.weigh)(&key, &value) + ENTRY_OCTETS;
        let half = self.octets_max / 2;
        if octets > half {
            return;
        }
        state.old.remove(&key);
        if let Some((former, _)) = state.young.remove(&key) {
            state.young_octets -= (self.weigh)(&key, &former) + ENTRY_OCTETS;
        }
        if state.young_octets + octets > half {
            state.old = std::mem::take(&mut state.young);
            state.young_octets = 0;
        }
        state.young_octets += octets;
        state.young.insert(key, (value, until));
    }

    fn state(&self) -> MutexGuard<'_, State<K, V>> {
        // Nothing in here can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clears the flight away when it has landed, or when the last who waited for it goes.
struct Landing<'a, K: Hash + Eq + Clone, V: Clone> {
    memo: &'a Memo<K, V>,
    key: &'a K,
    flight: Arc<OnceCell<(V, Instant)>>,
}

impl<K: Hash + Eq + Clone, V: Clone> Drop for Landing<'_, K, V> {
    fn drop(&mut self) {
        let mut state = self.memo.state();
        let Some(current) = state.flights.get(self.key) else { return };
        // Two holders: the table and this one. More can only come from the table, under its lock.
        let is_last = Arc::strong_count(current) == 2;
        if Arc::ptr_eq(current, &self.flight) && (self.flight.initialized() || is_last) {
            state.flights.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use tokio::time::{advance, sleep};

    const LASTS: Duration = Duration::from_secs(10);

    /// A bound for this many values that weigh nothing themselves.
    fn entries<K: Hash + Eq + Clone, V: Clone>(count: usize) -> Memo<K, V> {
        Memo::new(count * ENTRY_OCTETS, |_, _| 0)
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_before_all_was_forgotten_is_not_remembered() {
        let memo = entries(10);
        assert_eq!(memo.get_or(&"k", || async { (1, LASTS) }).await.0, 1);
        let before = memo.get_or(&"z", || async {
            sleep(Duration::from_secs(1)).await;
            (2, LASTS)
        });
        let forget = async {
            sleep(Duration::from_millis(1)).await;
            memo.forget();
            assert_eq!(memo.len(), 0);
            // Not the answer that is under way.
            memo.get_or(&"z", || async { (3, LASTS) }).await.0
        };
        let (before, after) = tokio::join!(before, forget);
        assert_eq!((before.0, after), (2, 3));
        assert_eq!(memo.get_or(&"k", || async { (4, LASTS) }).await.0, 4);
        assert_eq!(memo.get_or(&"z", || async { (5, LASTS) }).await.0, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_is_remembered_until_it_expires() {
        let memo = entries(10);
        let ask = async |value| memo.get_or(&"k", || async move { (value, LASTS) }).await.0;
        assert_eq!(ask(1).await, 1);
        advance(LASTS - Duration::from_millis(1)).await;
        assert_eq!(ask(2).await, 1);
        advance(Duration::from_millis(1)).await;
        assert_eq!(ask(3).await, 3);
        assert_eq!(memo.get_or(&"z", || async { (4, Duration::ZERO) }).await.0, 4);
        assert_eq!(memo.get_or(&"z", || async { (5, LASTS) }).await.0, 5);
        assert_eq!(memo.state().flights.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_and_keeps_what_is_used() {
        let memo = entries(100);
        for n in 0..100_000 {
            memo.get_or(&n, || async { (n, LASTS) }).await;
            assert_eq!(memo.get_or(&0, || async { (-1, LASTS) }).await.0, 0, "{n}");
            assert!(memo.len() <= 100);
        }
        let none = entries(0);
        assert_eq!(none.get_or(&1, || async { (1, LASTS) }).await.0, 1);
        assert_eq!(none.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn large_values_leave_room_for_fewer() {
        let memo = Memo::new(100 * (1000 + ENTRY_OCTETS), |_, octets: &Vec<u8>| octets.capacity());
        for n in 0..10_000 {
            memo.get_or(&n, || async { (vec![0; 1000], LASTS) }).await;
        }
        assert_eq!(memo.len(), 100);
        memo.get_or(&-1, || async { (vec![0; 60_000], LASTS) }).await;
        assert_eq!(memo.len(), 100);
        // A new value in place of an expired one counts once.
        for _ in 0..1000 {
            advance(LASTS).await;
            memo.get_or(&-2, || async { (vec![0; 1000], LASTS) }).await;
        }
        assert!(memo.len() > 50);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_asks_once_and_survives_the_one_that_asks() {
        let memo = Arc::new(entries(10));
        let asked = Arc::new(AtomicUsize::new(0));
        let caller = || {
            let (memo, asked) = (memo.clone(), asked.clone());
            tokio::spawn(async move {
                let ask = || async {
                    asked.fetch_add(1, Relaxed);
                    sleep(Duration::from_secs(1)).await;
                    (7, LASTS)
                };
                memo.get_or(&"k", ask).await
            })
        };
        let first = caller();
        tokio::task::yield_now().await;
        let rest: Vec<_> = (0..1000).map(|_| caller()).collect();
        advance(Duration::from_millis(500)).await;
        first.abort();
        for task in rest {
            assert_eq!(task.await.unwrap().0, 7);
        }
        assert_eq!(asked.load(Relaxed), 2);
        assert_eq!(memo.state().flights.len(), 0);

        // The only one that waits goes away.
        let alone = {
            let memo = memo.clone();
            tokio::spawn(async move { memo.get_or(&"j", std::future::pending).await })
        };
        tokio::task::yield_now().await;
        assert_eq!(memo.state().flights.len(), 1);
        alone.abort();
        assert!(alone.await.is_err());
        assert_eq!(memo.state().flights.len(), 0);
    }
}
