//! Entries in chunks, threaded into doubly linked lists by index. Chunks, because a vector of a million entries
//! that doubles would hold three million for a moment.

use crate::Entry;
use std::ops::{Index, IndexMut};

const CHUNK: usize = 4096;
const NONE: u32 = u32::MAX;

/// An entry's place in the queue; reused once it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryKey(pub u32);

#[derive(Debug)]
struct Slot {
    /// Meaningless while the slot is free.
    entry: Entry,
    next: u32,
    prev: u32,
    used: bool,
}

/// A doubly linked list of entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    head: u32,
    tail: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NONE, tail: NONE }
    }
}

impl List {
    pub(crate) fn first(&self) -> Option<EntryKey> {
        (self.head != NONE).then_some(EntryKey(self.head))
    }
}

#[derive(Debug)]
pub(crate) struct Slab {
    chunks: Vec<Vec<Slot>>,
    free: u32,
    len: usize,
}

impl Default for Slab {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: NONE, len: 0 }
    }
}

impl Slab {
    fn slot(&self, at: u32) -> &Slot {
        &self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    fn slot_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.chunks[at as usize / CHUNK][at as usize % CHUNK]
    }

    pub(crate) fn insert(&mut self, entry: Entry) -> EntryKey {
        self.len += 1;
        if self.free != NONE {
            let at = self.free;
            let slot = self.slot_mut(at);
            let next_free = slot.next;
            *slot = Slot { entry, next: NONE, prev: NONE, used: true };
            self.free = next_free;
            return EntryKey(at);
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let at = ((self.chunks.len() - 1) * CHUNK) as u32;
        let chunk = self.chunks.last_mut().expect("a chunk was pushed above");
        chunk.push(Slot { entry, next: NONE, prev: NONE, used: true });
        EntryKey(at + chunk.len() as u32 - 1)
    }

    pub(crate) fn remove(&mut self, key: EntryKey) {
        let free = self.free;
        let slot = self.slot_mut(key.0);
        assert!(slot.used, "an entry is removed once");
        slot.used = false;
        slot.next = free;
        self.free = key.0;
        self.len -= 1;
        if self.len == 0 {
            // A flood that is over gives its memory back.
            *self = Self::default();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Slots, used or free.
    pub(crate) fn slots(&self) -> u32 {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len()) as u32
    }

    pub(crate) fn key_at(&self, at: u32) -> Option<EntryKey> {
        (at < self.slots() && self.slot(at).used).then_some(EntryKey(at))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (EntryKey, &Entry)> {
        (0..self.slots()).filter_map(|at| self.key_at(at).map(|key| (key, &self[key])))
    }

    pub(crate) fn push_back(&mut self, list: &mut List, key: EntryKey) {
        let tail = list.tail;
        let slot = self.slot_mut(key.0);
        (slot.prev, slot.next) = (tail, NONE);
        match tail {
            NONE => list.head = key.0,
            tail => self.slot_mut(tail).next = key.0,
        }
        list.tail = key.0;
    }

    pub(crate) fn push_front(&mut self, list: &mut List, key: EntryKey) {
        let head = list.head;
        let slot = self.slot_mut(key.0);
        (slot.prev, slot.next) = (NONE, head);
        match head {
            NONE => list.tail = key.0,
            head => self.slot_mut(head).prev = key.0,
        }
        list.head = key.0;
    }

    pub(crate) fn pop_front(&mut self, list: &mut List) -> Option<EntryKey> {
        let key = list.first()?;
        self.unlink(list, key);
        Some(key)
    }

    pub(crate) fn unlink(&mut self, list: &mut List, key: EntryKey) {
        let slot = self.slot_mut(key.0);
        let (prev, next) = (slot.prev, slot.next);
        (slot.prev, slot.next) = (NONE, NONE);
        match prev {
            NONE => list.head = next,
            prev => self.slot_mut(prev).next = next,
        }
        match next {
            NONE => list.tail = prev,
            next => self.slot_mut(next).prev = prev,
        }
    }
}

impl Index<EntryKey> for Slab {
    type Output = Entry;
    fn index(&self, key: EntryKey) -> &Entry {
        let slot = self.slot(key.0);
        debug_assert!(slot.used);
        &slot.entry
    }
}

impl IndexMut<EntryKey> for Slab {
    fn index_mut(&mut self, key: EntryKey) -> &mut Entry {
        let slot = self.slot_mut(key.0);
        debug_assert!(slot.used);
        &mut slot.entry
    }
}
