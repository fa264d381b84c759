//! Which sites have answered: they may use the whole total of connections, the others a part of it. Thousands of
//! next hops that stall then leave room for those that do not.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// Sites remembered in each of two generations; the older one is forgotten when the newer one is full. Two numbers of
/// eight octets each make at most some three megabytes.
const REMEMBERED: usize = 65_536;

/// The share of the total that is kept for sites that have answered: one in this many.
const KEPT: usize = 4;

/// The memory. It outlives the state of a site, which is forgotten seconds after its last mail.
pub(crate) struct Answering<S = RandomState> {
    hasher: S,
    newer: HashSet<u64>,
    older: HashSet<u64>,
}

impl Default for Answering {
    fn default() -> Self {
        Self { hasher: RandomState::new(), newer: HashSet::new(), older: HashSet::new() }
    }
}

impl<S: BuildHasher> Answering<S> {
    /// A site answered.
    pub(crate) fn answered(&mut self, site: &str) {
        let name = self.hasher.hash_one(site);
        if self.newer.len() >= REMEMBERED {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(name);
    }

    /// A site did not answer.
    pub(crate) fn failed(&mut self, site: &str) {
        let name = self.hasher.hash_one(site);
        self.newer.remove(&name);
        self.older.remove(&name);
    }

    /// True if a site answered when it was tried last.
    pub(crate) fn has(&self, site: &str) -> bool {
        let name = self.hasher.hash_one(site);
        self.newer.contains(&name) || self.older.contains(&name)
    }

    /// Connections that may be open before a site gets another one.
    pub(crate) fn share_of(&self, total: usize, answers: bool) -> usize {
        if answers { total } else { total - total / KEPT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_that_answered_is_known_until_it_fails() {
        let mut answering = Answering::default();
        assert!(!answering.has("a.test"));
        answering.answered("a.test");
        assert!(answering.has("a.test") && !answering.has("b.test"));
        answering.failed("a.test");
        assert!(!answering.has("a.test"));
        assert_eq!((answering.share_of(2_000, true), answering.share_of(2_000, false)), (2_000, 1_500));
        assert_eq!(answering.share_of(1, false), 1, "a total of one is for everybody");
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let mut answering = Answering::default();
        for n in 0..3 * REMEMBERED {
            answering.answered(&n.to_string());
        }
        assert!(answering.newer.len() + answering.older.len() <= 2 * REMEMBERED);
        assert!(answering.has(&(3 * REMEMBERED - 1).to_string()));
    }
}
