//! Requests that were answered, by their idempotency keys: the same request again makes no second message.
//!
//! A key stands in the record of each message that its request made, in the same commit, so whatever is known of a
//! message after a crash its key is known too. From there this table is made again at a start; the keys of messages that
//! are settled by then come from a journal of its own.

use super::journal::{Entry, Journal};
use crate::http::refusal::Refusal;
use mail::{RequestPart, SpoolId, UnixMillis};
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Octets of a key at most.
pub(in crate::http) const KEY_MAX: usize = 255;

struct Known {
    body: [u8; 16],
    at: UnixMillis,
    running: bool,
    /// The messages that were made, by their places in the request.
    parts: HashMap<u32, SpoolId>,
}

#[derive(Default)]
struct Table {
    known: HashMap<[u8; 16], Known>,
    /// Keys in the order in which they came.
    order: VecDeque<[u8; 16]>,
}

/// The table.
#[derive(Default)]
pub(crate) struct Idempotency(Mutex<Table>, Mutex<Option<Journal>>);

/// One request under way. While it lives, another of the same key is told to wait.
pub(in crate::http) struct Running {
    table: Arc<Idempotency>,
    key: [u8; 16],
    body: [u8; 16],
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut table = self.table.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = table.known.get_mut(&self.key) {
            known.running = false;
        }
    }
}

impl Running {
    /// The message that stands at this place of the request already.
    pub(in crate::http) fn made(&self, part: u32) -> Option<SpoolId> {
        let table = self.table.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.known.get(&self.key)?.parts.get(&part).copied()
    }

    /// A message was made.
    pub(in crate::http) fn make(&self, part: u32, id: SpoolId) {
        let at = {
            let mut table = self.table.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(known) = table.known.get_mut(&self.key) else { return };
            known.parts.insert(part, id);
            known.at
        };
        let mut journal = self.table.1.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &mut *journal
            && let Err(error) = open.note(&Entry { request: self.part(part), id, at })
        {
            tracing::error!(%error, "idempotency keys can no longer be written down; a restart will not know those of settled messages");
            *journal = None;
        }
    }

    /// What stands in the record of such a message.
    pub(in crate::http) fn part(&self, part: u32) -> RequestPart {
        RequestPart { key: self.key, body: self.body, part }
    }
}

/// How much is remembered, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) keys_max: usize,
    pub(crate) keeps_ms: u64,
}

impl Bounds {
    /// As configured.
    pub(crate) fn of(config: &crate::http::HttpConfig) -> Self {
        let keeps_ms = u64::try_from(config.idempotency_keeps.as_millis()).unwrap_or(u64::MAX);
        Self { keys_max: config.idempotency_keys_max, keeps_ms }
    }
}

impl Idempotency {
    /// The table with what an earlier run of the server wrote down, and a journal for this one.
    pub(crate) fn open(folder: &Path, now: UnixMillis, bounds: Bounds) -> std::io::Result<Arc<Self>> {
        let (journal, known) = Journal::open(folder, bounds.keys_max)?;
        let table = Arc::new(Self(Mutex::default(), Mutex::new(Some(journal))));
        for Entry { request, id, at } in known {
            if now.0.saturating_sub(at.0) <= bounds.keeps_ms {
                table.recall(request, id, at);
            }
        }
        Ok(table)
    }

    /// A request begins. `complete` is false while the spool is still being read: a key that is not known may then
    /// be known soon.
    pub(in crate::http) fn begin(
        self: &Arc<Self>,
        key: [u8; 16],
        body: [u8; 16],
        now: UnixMillis,
        bounds: Bounds,
        complete: bool,
    ) -> Result<Running, Refusal> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.forget(now, bounds);
        match table.known.get_mut(&key) {
            Some(known) if known.body != body => {
                return Err(Refusal::unfit(
                    "this Idempotency-Key was used for another request; use a new one for each that differs",
                ));
            }
            Some(known) if known.running => {
                return Err(Refusal::conflict("a request with this Idempotency-Key is under way"));
            }
            Some(known) => known.running = true,
            None if !complete => {
                return Err(Refusal::later(
                    "the server has just started and is still reading what it knows of keys",
                ));
            }
            None => {
                let known = Known { body, at: now, running: true, parts: HashMap::new() };
                table.known.insert(key, known);
                table.order.push_back(key);
            }
        }
        Ok(Running { table: self.clone(), key, body })
    }

    /// A message of an earlier run of the server.
    pub(crate) fn recall(&self, request: RequestPart, id: SpoolId, at: UnixMillis) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let RequestPart { key, body, part } = request;
        if !table.known.contains_key(&key) {
            table.order.push_back(key);
        }
        let known = table.known.entry(key).or_insert_with(|| Known {
            body,
            at,
            running: false,
            parts: HashMap::new(),
        });
        known.parts.insert(part, id);
    }
}

impl Table {
    fn forget(&mut self, now: UnixMillis, bounds: Bounds) {
        while let Some(key) = self.order.front() {
            let old = self.known.get(key).is_none_or(|known| {
                let too_many = self.known.len() > bounds.keys_max;
                !known.running && (too_many || now.0.saturating_sub(known.at.0) > bounds.keeps_ms)
            });
            if !old {
                return;
            }
            if let Some(key) = self.order.pop_front() {
                self.known.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { keys_max: 3, keeps_ms: 1_000 };

    fn begin(table: &Arc<Idempotency>, key: u8, body: u8, at: u64) -> Result<Running, u16> {
        let begun = table.begin([key; 16], [body; 16], UnixMillis(at), BOUNDS, true);
        begun.map_err(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn a_request_is_made_once() {
        let table = Arc::new(Idempotency::default());
        let first = begin(&table, 1, 1, 0).unwrap();
        assert_eq!(begin(&table, 1, 1, 0).err(), Some(409), "it is under way");
        assert_eq!(begin(&table, 1, 2, 0).err(), Some(422), "it is another");
        first.make(0, SpoolId(7));
        assert_eq!(first.part(0), RequestPart { key: [1; 16], body: [1; 16], part: 0 });
        drop(first);
        let again = begin(&table, 1, 1, 1).unwrap();
        assert_eq!((again.made(0), again.made(1)), (Some(SpoolId(7)), None));
        drop(again);
        assert_eq!(begin(&table, 1, 1, 1_002).unwrap().made(0), None, "its time is over");
    }

    #[test]
    fn what_the_spool_knows_is_known() {
        let table = Arc::new(Idempotency::default());
        table.recall(RequestPart { key: [1; 16], body: [2; 16], part: 3 }, SpoolId(9), UnixMillis(5));
        assert_eq!(begin(&table, 1, 2, 6).unwrap().made(3), Some(SpoolId(9)));
        let unknown = table.begin([2; 16], [2; 16], UnixMillis(6), BOUNDS, false);
        assert_eq!(unknown.err().map(|refusal| refusal.status().as_u16()), Some(503));
    }

    #[test]
    fn the_table_is_bounded() {
        let table = Arc::new(Idempotency::default());
        let held = begin(&table, 0, 0, 0).unwrap();
        for key in 1..50 {
            drop(begin(&table, key, 0, 0).unwrap());
        }
        // One that is under way is kept, and holds up the rest behind it only as long as it takes.
        drop(held);
        drop(begin(&table, 60, 0, 0).unwrap());
        assert!(table.0.lock().unwrap().known.len() <= BOUNDS.keys_max + 1);
    }
}
