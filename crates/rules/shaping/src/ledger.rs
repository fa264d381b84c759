//! The seam through which limits are counted: in memory here, by an engine the nodes of a cluster share later.
//!
//! At every grant, what was spent in the trailing window plus what is out never exceeds the limit. That is exact
//! in any sliding window, not only in aligned ones: everything in a window was either spent or out at the last grant
//! before the window's end.

use crate::{Rate, Window};
use std::time::{Duration, Instant};

/// A counted limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LedgerKey(pub u32);

/// So much of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Which.
    pub key: LedgerKey,
    /// How much: one for a message, its octets for a rate of octets.
    pub amount: u64,
}

/// Counts what is granted and spent. `now` never goes back.
pub trait Ledger {
    /// A new key, with nothing spent.
    fn open(&mut self, rate: Rate) -> LedgerKey;
    /// Forgets a key. What is out may still be spent or given back; nothing may be granted.
    fn close(&mut self, key: LedgerKey);
    /// Another limit for a key, up to its rate's count.
    fn set_limit(&mut self, key: LedgerKey, limit: u64);
    /// Grants all of the charges or none: gives the index of the first that has no room.
    fn grant(&mut self, now: Instant, charges: &[Charge]) -> Result<(), usize>;
    /// What was granted was spent, so long ago.
    fn spend(&mut self, now: Instant, age: Duration, charges: &[Charge]);
    /// What was granted was not used.
    fn give_back(&mut self, charges: &[Charge]);
    /// The length of a key's window; nothing for a key that is closed.
    fn period(&self, key: LedgerKey) -> Duration;
    /// What was spent in the trailing window or is out, and the limit.
    fn used(&mut self, now: Instant, key: LedgerKey) -> (u64, u64);
    /// True if so much would be granted.
    fn fits(&mut self, now: Instant, charge: Charge) -> bool;
    /// When there will be room, if nothing more is granted; `None` if only what is out can make room.
    fn room_at(&self, charge: Charge) -> Option<Instant>;
    /// For how long each spend counts yet, and how much it is.
    fn history(&self, now: Instant, key: LedgerKey) -> Vec<(Duration, u64)>;
    /// Adds a saved history.
    fn restore(&mut self, now: Instant, key: LedgerKey, history: &[(Duration, u64)]);
}

/// A ledger in this process's memory.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug)]
enum Slot {
    Free,
    Open(Box<Window>),
    /// Closed while something was out: the number is not used again before that has come back.
    Closed(u64),
}

impl MemoryLedger {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keys that are open.
    pub fn len(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot, Slot::Open(_))).count()
    }

    /// True if no key is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn window(&mut self, key: LedgerKey) -> Option<&mut Window> {
        match self.slots.get_mut(key.0 as usize) {
            Some(Slot::Open(window)) => Some(window),
            _ => None,
        }
    }

    fn peek(&self, key: LedgerKey) -> Option<&Window> {
        match self.slots.get(key.0 as usize) {
            Some(Slot::Open(window)) => Some(window),
            _ => None,
        }
    }

    /// Something that was out on a closed key has come back.
    fn returned(&mut self, charge: &Charge) {
        let Some(slot) = self.slots.get_mut(charge.key.0 as usize) else { return };
        if let Slot::Closed(out) = slot {
            *out = out.saturating_sub(charge.amount);
            if *out == 0 {
                *slot = Slot::Free;
                self.free.push(charge.key.0);
            }
        }
    }
}

impl Ledger for MemoryLedger {
    fn open(&mut self, rate: Rate) -> LedgerKey {
        let slot = Slot::Open(Box::new(Window::new(rate)));
        if let Some(index) = self.free.pop() {
            self.slots[index as usize] = slot;
            return LedgerKey(index);
        }
        let index = u32::try_from(self.slots.len()).expect("memory ends before the numbers do");
        self.slots.push(slot);
        LedgerKey(index)
    }

    fn close(&mut self, key: LedgerKey) {
        let Some(slot) = self.slots.get_mut(key.0 as usize) else { return };
        let Slot::Open(window) = slot else { return };
        match window.outstanding() {
            0 => {
                *slot = Slot::Free;
                self.free.push(key.0);
            }
            out => *slot = Slot::Closed(out),
        }
    }

    fn set_limit(&mut self, key: LedgerKey, limit: u64) {
        if let Some(window) = self.window(key) {
            window.set_limit(limit);
        }
    }

    fn grant(&mut self, now: Instant, charges: &[Charge]) -> Result<(), usize> {
        for (index, charge) in charges.iter().enumerate() {
            if !self.fits(now, *charge) {
                return Err(index);
            }
        }
        for charge in charges {
            if let Some(window) = self.window(charge.key) {
                window.grant(charge.amount);
            }
        }
        Ok(())
    }

    fn period(&self, key: LedgerKey) -> Duration {
        self.peek(key).map_or(Duration::ZERO, |window| window.rate().period)
    }

    fn spend(&mut self, now: Instant, age: Duration, charges: &[Charge]) {
        for charge in charges {
            match self.window(charge.key) {
                Some(window) => window.spend(now, age, charge.amount),
                None => self.returned(charge),
            }
        }
    }

    fn give_back(&mut self, charges: &[Charge]) {
        for charge in charges {
            match self.window(charge.key) {
                Some(window) => window.give_back(charge.amount),
                None => self.returned(charge),
            }
        }
    }

    fn used(&mut self, now: Instant, key: LedgerKey) -> (u64, u64) {
        self.window(key).map_or((0, 0), |window| (window.used(now), window.limit()))
    }

    fn fits(&mut self, now: Instant, charge: Charge) -> bool {
        self.window(charge.key).is_some_and(|window| window.fits(now, charge.amount))
    }

    fn room_at(&self, charge: Charge) -> Option<Instant> {
        self.peek(charge.key)?.room_at(charge.amount)
    }

    fn history(&self, now: Instant, key: LedgerKey) -> Vec<(Duration, u64)> {
        self.peek(key).map_or_else(Vec::new, |window| window.history(now))
    }

    fn restore(&mut self, now: Instant, key: LedgerKey, history: &[(Duration, u64)]) {
        if let Some(window) = self.window(key) {
            window.restore(now, history);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_charges_are_granted_or_none() {
        let now = Instant::now();
        let mut ledger = MemoryLedger::new();
        let small = ledger.open("1/m".parse().unwrap());
        let large = ledger.open("100/m".parse().unwrap());
        let both = [Charge { key: large, amount: 60 }, Charge { key: small, amount: 1 }];
        assert_eq!(ledger.grant(now, &both), Ok(()));
        assert_eq!(ledger.grant(now, &both), Err(0));
        assert_eq!(ledger.grant(now, &[Charge { key: large, amount: 1 }, both[1]]), Err(1));
        assert_eq!((ledger.used(now, large), ledger.used(now, small)), ((60, 100), (1, 1)));
        ledger.give_back(&both);
        assert_eq!(ledger.used(now, large).0, 0);
    }

    #[test]
    fn a_closed_key_is_not_used_again_while_something_is_out() {
        let now = Instant::now();
        let mut ledger = MemoryLedger::new();
        let old = ledger.open("1/m".parse().unwrap());
        let charge = [Charge { key: old, amount: 1 }];
        ledger.grant(now, &charge).unwrap();
        ledger.close(old);
        assert_eq!(ledger.grant(now, &charge), Err(0));
        let new = ledger.open("1/m".parse().unwrap());
        assert_ne!(new, old);
        ledger.spend(now, Duration::ZERO, &charge);
        assert_eq!(ledger.open("1/m".parse().unwrap()), old);
        assert!(ledger.fits(now, charge[0]));
    }
}
