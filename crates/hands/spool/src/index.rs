//! Which records of one segment are still needed: four octets a message and a bit a recipient.

/// The records of a segment in ascending order, and which of their recipients are pending.
#[derive(Debug, Default)]
pub(crate) struct Index {
    units: Vec<u32>,
    /// The first bit of each record; empty as long as every message has one recipient.
    first: Vec<u32>,
    pending: Vec<u64>,
    bits: u32,
    end: u32,
    live: u32,
    live_units: u64,
}

/// What settling a recipient did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was the message's last.
    Last,
    /// Others are pending.
    More,
    /// It was not pending.
    Already,
}

impl Index {
    /// Adds a record behind all others.
    pub fn push(&mut self, unit: u32, units: u32, recipients: u16) {
        assert!(unit >= self.end, "records are indexed in ascending order");
        if recipients != 1 && self.first.is_empty() {
            self.first = (0..self.units.len() as u32).collect();
        }
        if recipients != 1 || !self.first.is_empty() {
            self.first.push(self.bits);
        }
        self.units.push(unit);
        self.end = unit + units;
        let from = self.bits;
        self.bits += u32::from(recipients);
        self.pending.resize((self.bits as usize).div_ceil(64), 0);
        for bit in from..self.bits {
            self.pending[bit as usize / 64] |= 1 << (bit % 64);
        }
        if recipients > 0 {
            self.live += 1;
            self.live_units += u64::from(units);
        }
    }

    fn range(&self, place: usize) -> (u32, u32) {
        if self.first.is_empty() {
            return (place as u32, place as u32 + 1);
        }
        (self.first[place], self.first.get(place + 1).copied().unwrap_or(self.bits))
    }

    fn units_of(&self, place: usize) -> u64 {
        u64::from(self.units.get(place + 1).copied().unwrap_or(self.end) - self.units[place])
    }

    fn any(&self, from: u32, to: u32) -> bool {
        // Word by word: a message may have 65,535 recipients, settled one at a time.
        let mut bit = from;
        while bit < to {
            let next = (bit | 63).saturating_add(1).min(to);
            let mask = (u64::MAX >> (64 - (next - bit))) << (bit % 64);
            if self.pending[bit as usize / 64] & mask != 0 {
                return true;
            }
            bit = next;
        }
        false
    }

    /// True if the record at `unit` has a pending recipient.
    pub fn is_live(&self, unit: u32) -> bool {
        self.units.binary_search(&unit).is_ok_and(|place| {
            let (from, to) = self.range(place);
            self.any(from, to)
        })
    }

    /// True if this recipient of the record at `unit` is pending.
    pub fn is_pending(&self, unit: u32, recipient: u16) -> bool {
        self.units.binary_search(&unit).is_ok_and(|place| {
            let (from, to) = self.range(place);
            let bit = from + u32::from(recipient);
            bit < to && self.any(bit, bit + 1)
        })
    }

    /// Settles one recipient.
    pub fn take(&mut self, unit: u32, recipient: u16) -> Taken {
        let Ok(place) = self.units.binary_search(&unit) else { return Taken::Already };
        let (from, to) = self.range(place);
        let bit = from + u32::from(recipient);
        if bit >= to || !self.any(bit, bit + 1) {
            return Taken::Already;
        }
        self.pending[bit as usize / 64] &= !(1 << (bit % 64));
        if self.any(from, to) {
            return Taken::More;
        }
        self.live -= 1;
        self.live_units = self.live_units.saturating_sub(self.units_of(place));
        Taken::Last
    }

    /// Settles all recipients of a record; true if one was pending.
    pub fn drop_record(&mut self, unit: u32) -> bool {
        let Ok(place) = self.units.binary_search(&unit) else { return false };
        let (from, to) = self.range(place);
        if !self.any(from, to) {
            return false;
        }
        for bit in from..to {
            self.pending[bit as usize / 64] &= !(1 << (bit % 64));
        }
        self.live -= 1;
        self.live_units = self.live_units.saturating_sub(self.units_of(place));
        true
    }

    /// The records with pending recipients.
    pub fn live_units_iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.units
            .iter()
            .enumerate()
            .filter(|(place, _)| {
                let (from, to) = self.range(*place);
                self.any(from, to)
            })
            .map(|(_, unit)| *unit)
    }

    /// Every record, live or not, with its liveness.
    pub fn all_units(&self) -> impl Iterator<Item = (u32, bool)> + '_ {
        self.units.iter().enumerate().map(|(place, unit)| {
            let (from, to) = self.range(place);
            (*unit, self.any(from, to))
        })
    }

    /// Where the record at `unit` ends, at the latest.
    pub fn end_of(&self, unit: u32) -> Option<u32> {
        let place = self.units.binary_search(&unit).ok()?;
        Some(self.units.get(place + 1).copied().unwrap_or(self.end))
    }

    /// Messages with a pending recipient.
    pub fn live(&self) -> u32 {
        self.live
    }

    /// Octets of their records, roughly: a hole behind a record counts as part of it.
    pub fn live_bytes(&self) -> u64 {
        self.live_units * 8
    }

    /// Gives back what growing took in advance.
    pub fn shrink(&mut self) {
        self.units.shrink_to_fit();
        self.first.shrink_to_fit();
        self.pending.shrink_to_fit();
    }

    /// Octets of memory.
    pub fn memory(&self) -> usize {
        self.units.capacity() * 4 + self.first.capacity() * 4 + self.pending.capacity() * 8
    }
}
