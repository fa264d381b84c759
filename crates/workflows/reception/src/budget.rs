//! The share of memory that messages being received may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A bounded count of octets.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    max: AtomicU64,
}

impl Budget {
    /// A budget of `max` octets.
    pub fn new(max: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), max: AtomicU64::new(max) })
    }

    /// Octets taken.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Octets there are.
    pub fn max(&self) -> u64 {
        self.max.load(Relaxed)
    }

    /// Another bound, from a reload.
    pub fn set_max(&self, max: u64) {
        self.max.store(max, Relaxed);
    }

    /// True past three quarters: new messages should wait.
    pub fn is_short(&self) -> bool {
        self.used() >= self.max() / 4 * 3
    }

    /// True if all is taken: reading should pause.
    pub fn is_spent(&self) -> bool {
        self.used() >= self.max()
    }
}

/// What one session or request has taken; given back with it.
#[derive(Debug)]
pub struct Taken {
    budget: Arc<Budget>,
    octets: u64,
}

impl Taken {
    /// Nothing yet.
    pub fn nothing(budget: &Arc<Budget>) -> Self {
        Self { budget: budget.clone(), octets: 0 }
    }

    /// Takes more, whatever there is: who takes much asks the budget first.
    pub fn add(&mut self, octets: u64) {
        self.octets += octets;
        self.budget.used.fetch_add(octets, Relaxed);
    }

    pub(crate) fn give_back(&mut self) {
        if self.octets > 0 {
            self.budget.used.fetch_sub(std::mem::take(&mut self.octets), Relaxed);
        }
    }

    /// Octets this session has taken.
    pub(crate) fn octets(&self) -> u64 {
        self.octets
    }

    /// Where it is taken from.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back() {
        let budget = Budget::new(100);
        let mut a = Taken::nothing(&budget);
        a.add(80);
        assert!(budget.is_short() && !budget.is_spent());
        let mut b = Taken::nothing(&budget);
        b.add(40);
        assert!(budget.is_spent());
        a.give_back();
        drop(b);
        assert_eq!(budget.used(), 0);
    }
}
