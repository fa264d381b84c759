//! Leave to send, and what it was charged to.

use super::PathKey;
use crate::Charge;

/// Leave to send one message or open one connection; it is spent or given back, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permit {
    index: u32,
    generation: u32,
}

impl Permit {
    /// Leave that nothing was charged for.
    pub const FREE: Self = Self { index: u32::MAX, generation: 0 };
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    used: bool,
    path: PathKey,
    warm: bool,
    charges: Vec<Charge>,
}

/// The permits that are out. A slot's list is used again, so that granting allocates nothing in the long run.
#[derive(Debug, Default)]
pub struct Permits {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

/// What a permit was charged to.
#[derive(Debug)]
pub struct Charged<'a> {
    /// The path it was for.
    pub path: PathKey,
    /// It counts for the source's warm-up.
    pub warm: bool,
    /// What was charged.
    pub charges: &'a [Charge],
}

impl Permits {
    /// Gives leave.
    pub fn add(&mut self, path: PathKey, warm: bool, charges: &[Charge]) -> Permit {
        if charges.is_empty() && !warm {
            return Permit::FREE;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("memory ends before the numbers do")
        });
        let slot = &mut self.slots[index as usize];
        slot.used = true;
        (slot.path, slot.warm) = (path, warm);
        slot.charges.clear();
        slot.charges.extend_from_slice(charges);
        Permit { index, generation: slot.generation }
    }

    /// Takes leave back: what it was charged to; nothing if it was free or is over already.
    pub fn take(&mut self, permit: Permit) -> Option<Charged<'_>> {
        let slot = self.slots.get_mut(permit.index as usize)?;
        if !slot.used || slot.generation != permit.generation {
            return None;
        }
        slot.used = false;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(permit.index);
        Some(Charged { path: slot.path, warm: slot.warm, charges: &slot.charges })
    }

    /// What a permit that is out was charged to.
    pub fn peek(&self, permit: Permit) -> Option<Charged<'_>> {
        let slot = self.slots.get(permit.index as usize)?;
        (slot.used && slot.generation == permit.generation).then_some(Charged {
            path: slot.path,
            warm: slot.warm,
            charges: &slot.charges,
        })
    }

    /// Permits that are out, but for the free ones.
    pub fn out(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
