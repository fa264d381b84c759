//! Messages kept in memory from acceptance to their first attempt, within a budget.

use crate::job::Hot;
use spool::Handle;
use std::collections::HashMap;

struct Kept {
    hot: Hot,
    /// Attempts still to come that may use it.
    uses: u32,
}

/// The store. A message that finds no room is read from the spool when its turn comes.
pub(crate) struct HotStore {
    kept: HashMap<Handle, Kept>,
    bytes: u64,
    max: u64,
}

fn size(hot: &Hot) -> u64 {
    // The envelope and the map cost some hundred octets a message beside its content.
    (hot.content.prefix.len() + hot.content.body.len() + 512) as u64
}

impl HotStore {
    pub(crate) fn new(max: u64) -> Self {
        Self { kept: HashMap::new(), bytes: 0, max }
    }

    pub(crate) fn set_max(&mut self, max: u64) {
        self.max = max;
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn insert(&mut self, handle: Handle, hot: Hot, uses: u32) {
        if let Some(kept) = self.kept.get_mut(&handle) {
            kept.uses += uses;
            return;
        }
        let size = size(&hot);
        if self.bytes + size <= self.max {
            self.bytes += size;
            self.kept.insert(handle, Kept { hot, uses });
        }
    }

    /// The message for one attempt; forgotten with its last use.
    pub(crate) fn take(&mut self, handle: Handle) -> Option<Hot> {
        let kept = self.kept.get_mut(&handle)?;
        if kept.uses > 1 {
            kept.uses -= 1;
            return Some(kept.hot.clone());
        }
        let kept = self.kept.remove(&handle)?;
        self.bytes -= size(&kept.hot);
        if self.kept.is_empty() && self.kept.capacity() > 1024 {
            self.kept.shrink_to(256);
        }
        Some(kept.hot)
    }
}
