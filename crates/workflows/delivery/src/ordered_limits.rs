//! Limits that an operator has ordered for mail that only a message tells apart, or that is a part of a site's: by sender,
//! job or domain. A connection that has such a message at hand asks here.
//!
//! What has no room is given a moment to ask again, each one its own, so that a million messages of a sender who is
//! held to ten a second are looked at ten times a second.

use queue::orders::{Action, Order, OrderId};
use shaping::{Charge, Ledger, LedgerKey, MemoryLedger, Rate};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The wait where only what is under way can make room.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The counts of orders.
#[derive(Debug, Default)]
pub(crate) struct OrderedLimits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    ledger: MemoryLedger,
    /// At most as many as there may be orders.
    counted: HashMap<OrderId, Counted>,
}

#[derive(Debug)]
struct Counted {
    windows: Vec<LedgerKey>,
    /// The time between two messages that the rates allow on average.
    pace: Duration,
    /// The first moment that nobody was told to ask again at.
    next: Instant,
}

/// Leave to send one message; it counts from when it is dropped, which is when the attempt is over.
#[derive(Debug)]
pub(crate) struct Leave {
    limits: Arc<OrderedLimits>,
    charges: Vec<Charge>,
    unused: bool,
}

impl OrderedLimits {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks to send a message that an order names. `Err` is when to ask again.
    pub(crate) fn ask(self: &Arc<Self>, now: Instant, order: &Order) -> Result<Leave, Instant> {
        let mut guard = self.lock();
        let State { ledger, counted } = &mut *guard;
        let count = counted.entry(order.id).or_insert_with(|| {
            let rates: Vec<Rate> = match &order.action {
                // They were read when the order was given.
                Action::Limit(texts) => texts.iter().filter_map(|text| text.parse().ok()).collect(),
                _ => Vec::new(),
            };
            let pace = rates.iter().map(|rate| rate.period.div_f64(rate.count.max(1) as f64)).max();
            Counted {
                windows: rates.into_iter().map(|rate| ledger.open(rate)).collect(),
                pace: pace.unwrap_or_default(),
                next: now,
            }
        });
        let charges: Vec<Charge> = count.windows.iter().map(|key| Charge { key: *key, amount: 1 }).collect();
        match ledger.grant(now, &charges) {
            Ok(()) => Ok(Leave { limits: self.clone(), charges, unused: false }),
            Err(full) => {
                let room = ledger.room_at(charges[full]).unwrap_or(now + ASK_AGAIN);
                let at = room.max(count.next);
                count.next = at + count.pace;
                Err(at)
            }
        }
    }

    /// Forgets the counts of orders that are over.
    pub(crate) fn keep(&self, orders: &[Order]) {
        let mut guard = self.lock();
        let State { ledger, counted } = &mut *guard;
        counted.retain(|id, count| {
            let stays = orders.iter().any(|order| order.id == *id);
            if !stays {
                count.windows.iter().for_each(|key| ledger.close(*key));
            }
            stays
        });
    }
}

impl Leave {
    /// Nothing was sent: it does not count.
    pub(crate) fn give_back(mut self) {
        self.unused = true;
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        let mut state = self.limits.lock();
        if self.unused {
            state.ledger.give_back(&self.charges);
        } else {
            state.ledger.spend(tokio::time::Instant::now().into_std(), Duration::ZERO, &self.charges);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::UnixMillis;
    use queue::orders::{Orders, Scope};

    fn order(rates: &[&str]) -> Order {
        let scope = Scope { sender: Some("a@b.test".into()), ..Scope::default() };
        let rates = rates.iter().map(|rate| (*rate).into()).collect();
        Orders::default().add(Action::Limit(rates), scope, "", UnixMillis(1), None).unwrap().clone()
    }

    #[test]
    fn what_has_no_room_asks_again_each_at_its_own_time() {
        let limits = Arc::new(OrderedLimits::default());
        let (now, order) = (Instant::now(), order(&["2/10s"]));
        let (first, second) = (limits.ask(now, &order).unwrap(), limits.ask(now, &order).unwrap());
        // Only what is under way can make room yet.
        let again: Vec<Instant> = (0..3).map(|_| limits.ask(now, &order).unwrap_err()).collect();
        let pace = Duration::from_secs(5);
        assert_eq!(again, [now + ASK_AGAIN, now + ASK_AGAIN + pace, now + ASK_AGAIN + 2 * pace]);
        first.give_back();
        drop(limits.ask(now, &order).unwrap());
        drop(second);
        assert!(limits.ask(now + Duration::from_secs(9), &order).is_err());
        assert!(limits.ask(now + Duration::from_secs(11), &order).is_ok());
    }

    #[test]
    fn an_order_that_is_over_is_forgotten() {
        let limits = Arc::new(OrderedLimits::default());
        let (now, order) = (Instant::now(), order(&["1/h"]));
        let leave = limits.ask(now, &order).unwrap();
        limits.keep(&[]);
        drop(leave);
        assert!(limits.lock().counted.is_empty());
        assert!(limits.ask(now, &order).is_ok());
    }
}
