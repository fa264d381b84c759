//! A hierarchical timing wheel (Varghese and Lauck, 1987): insertion, removal and expiry cost the same whether
//! ten entries wait or ten million.

use crate::slab::{EntryKey, List, Slab};

const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
/// Six levels of 64 slots cover every tick a `u32` can name.
const LEVELS: usize = 6;

#[derive(Debug)]
pub(crate) struct Wheel {
    /// The tick up to which everything has been handed out.
    now: u32,
    levels: Vec<[List; SLOTS]>,
    len: usize,
}

impl Wheel {
    pub(crate) fn new() -> Self {
        Self { now: 0, levels: vec![[List::default(); SLOTS]; LEVELS], len: 0 }
    }

    /// The slot an entry due at `due` is in while the wheel stands at `now`: the level of the highest digit in
    /// which the two differ.
    fn slot_of(&self, due: u32) -> (usize, usize) {
        let differing = (due ^ self.now).max(1);
        let level = ((31 - differing.leading_zeros()) / BITS) as usize;
        (level, (due >> (BITS * level as u32)) as usize % SLOTS)
    }

    /// `due` must be after the tick last advanced to.
    pub(crate) fn insert(&mut self, slab: &mut Slab, key: EntryKey, due: u32) {
        let (level, slot) = self.slot_of(due.max(self.now + 1));
        self.len += 1;
        slab.push_back(&mut self.levels[level][slot], key);
    }

    pub(crate) fn remove(&mut self, slab: &mut Slab, key: EntryKey, due: u32) {
        let (level, slot) = self.slot_of(due.max(self.now + 1));
        self.len -= 1;
        slab.unlink(&mut self.levels[level][slot], key);
    }

    /// Hands out everything due up to `tick`; how many ticks passed.
    pub(crate) fn advance(&mut self, slab: &mut Slab, tick: u32, due: &mut Vec<EntryKey>) -> u32 {
        let steps = tick.saturating_sub(self.now);
        if self.len == 0 {
            // Nothing waits: a process that slept for a week need not count its ticks.
            self.now = self.now.max(tick);
            return steps;
        }
        while self.now < tick {
            self.now += 1;
            for level in (1..LEVELS).rev() {
                if self.now & ((1 << (BITS * level as u32)) - 1) == 0 {
                    self.cascade(slab, level);
                }
            }
            let slot = self.now as usize % SLOTS;
            while let Some(key) = slab.pop_front(&mut self.levels[0][slot]) {
                self.len -= 1;
                due.push(key);
            }
        }
        steps
    }

    /// Spreads a slot of a higher level over the lower ones. Nothing of it can land in the slot it left.
    fn cascade(&mut self, slab: &mut Slab, level: usize) {
        let slot = (self.now >> (BITS * level as u32)) as usize % SLOTS;
        let mut list = std::mem::take(&mut self.levels[level][slot]);
        while let Some(key) = slab.pop_front(&mut list) {
            let due = slab[key].due;
            let (level, slot) =
                if due <= self.now { (0, self.now as usize % SLOTS) } else { self.slot_of(due) };
            slab.push_back(&mut self.levels[level][slot], key);
        }
    }
}
