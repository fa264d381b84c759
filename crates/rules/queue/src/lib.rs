//! What is due, for whom, in which order.
//!
//! [`Queue`] is a pure machine: it holds one small [`Entry`] for each group of recipients of one message that
//! share a destination, and answers three questions: what may be attempted now at a destination, what has
//! become due, and what has expired. It never opens a socket, reads a clock or keeps an address or a body: those
//! stay in the spool until the moment of the attempt, so an entry costs about sixty octets.
//!
//! Read first: [`Queue`], then [`Schedule`], which says when a deferred recipient is tried again.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "only the clock makes an Instant"))]

mod schedule;
mod slab;
mod wheel;

pub use schedule::{Backoff, Schedule};
pub use slab::EntryKey;

use slab::{List, Slab};
use std::time::{Duration, Instant};
use wheel::Wheel;

/// Length of one tick, the grain of due and expiry times.
pub const TICK: Duration = Duration::from_millis(100);

/// A destination's place in the queue. Reused once the destination is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestinationKey(pub u32);

/// A group of recipients of one message that wait for the same destination.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The spool's handle of the message.
    pub handle: u64,
    /// Where it goes.
    pub destination: DestinationKey,
    /// Index of the first recipient in the envelope.
    pub first: u32,
    /// How many recipients, with consecutive indices.
    pub count: u32,
    /// Attempts already made.
    pub attempts: u16,
    /// The last attempt ended in doubt: the peer may have the message (RFC 1047).
    pub ambiguous: bool,
    /// The sender was told that it is late.
    pub delay_reported: bool,
    /// The caller's name for the last reply, 0 if there was none.
    pub last_reply: u32,
    /// When it is given up, in ticks of the queue's own clock.
    expires: u32,
    /// When it may next be attempted, in ticks.
    due: u32,
    /// When it was queued, in ticks.
    queued: u32,
    place: Place,
}

/// Where an entry is: exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In its destination's line.
    Ready,
    /// In the wheel, until due.
    Waiting,
    /// Handed out for an attempt.
    Attempted,
}

/// What a caller hands in.
#[derive(Clone, Copy, Debug)]
pub struct NewEntry {
    /// The spool's handle of the message.
    pub handle: u64,
    /// Where it goes.
    pub destination: DestinationKey,
    /// Index of the first recipient.
    pub first: u32,
    /// How many recipients, with consecutive indices.
    pub count: u32,
    /// Attempts already made.
    pub attempts: u16,
    /// The last attempt ended in doubt.
    pub ambiguous: bool,
    /// The caller's name for the last reply, 0 if none.
    pub last_reply: u32,
    /// When it may first be attempted; `None` is at once.
    pub due: Option<Instant>,
    /// When it is given up.
    pub expires: Instant,
}

/// An entry seen from outside, with its times.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The entry.
    pub entry: Entry,
    /// When it may next be attempted.
    pub due: Instant,
    /// When it is given up.
    pub expires: Instant,
    /// When this server queued it.
    pub queued: Instant,
    /// True while an attempt runs.
    pub attempted: bool,
}

#[derive(Debug, Default)]
struct Destination {
    line: List,
    ready: u32,
    waiting: u32,
    attempted: u32,
    recipients: u64,
    used: bool,
}

/// Counts of one destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries that may be attempted now.
    pub ready: u32,
    /// Entries that wait for their due time.
    pub waiting: u32,
    /// Entries in an attempt.
    pub attempted: u32,
    /// Recipients in all three.
    pub recipients: u64,
}

/// The queue. See the crate's page.
#[derive(Debug)]
pub struct Queue {
    epoch: Instant,
    slab: Slab,
    destinations: Vec<Destination>,
    free_destinations: Vec<u32>,
    wheel: Wheel,
    sweep: u32,
    recipients: u64,
}

/// What [`Queue::advance`] found.
#[derive(Debug, Default)]
pub struct Due {
    /// Destinations whose line gained entries.
    pub destinations: Vec<DestinationKey>,
    /// Entries whose time is over; they are handed out as if attempted, for the caller to settle.
    pub expired: Vec<EntryKey>,
}

impl Queue {
    /// An empty queue; `now` is the zero of its clock.
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            slab: Slab::default(),
            destinations: Vec::new(),
            free_destinations: Vec::new(),
            wheel: Wheel::new(),
            sweep: 0,
            recipients: 0,
        }
    }

    fn tick_of(&self, at: Instant) -> u32 {
        let ticks = at.saturating_duration_since(self.epoch).as_millis() / TICK.as_millis();
        u32::try_from(ticks).unwrap_or(u32::MAX - 1)
    }

    /// The first tick not before `at`: rounding up keeps "not before" exact.
    fn tick_after(&self, at: Instant) -> u32 {
        let ticks = at.saturating_duration_since(self.epoch).as_millis().div_ceil(TICK.as_millis());
        u32::try_from(ticks).unwrap_or(u32::MAX - 1)
    }

    fn instant_of(&self, tick: u32) -> Instant {
        self.epoch + TICK * tick
    }

    /// A place for a new destination.
    pub fn add_destination(&mut self) -> DestinationKey {
        if let Some(key) = self.free_destinations.pop() {
            self.destinations[key as usize] = Destination { used: true, ..Destination::default() };
            return DestinationKey(key);
        }
        self.destinations.push(Destination { used: true, ..Destination::default() });
        DestinationKey(self.destinations.len() as u32 - 1)
    }

    /// Forgets a destination; refused (false) while it has entries.
    pub fn remove_destination(&mut self, key: DestinationKey) -> bool {
        let destination = &mut self.destinations[key.0 as usize];
        if !destination.used || destination.ready + destination.waiting + destination.attempted > 0 {
            return false;
        }
        destination.used = false;
        self.free_destinations.push(key.0);
        true
    }

    /// Queues recipients. True if they may be attempted at once.
    pub fn push(&mut self, now: Instant, new: NewEntry) -> (EntryKey, bool) {
        let tick = self.tick_of(now);
        let due = new.due.map_or(tick, |at| self.tick_after(at));
        let key = self.slab.insert(Entry {
            handle: new.handle,
            destination: new.destination,
            first: new.first,
            count: new.count,
            attempts: new.attempts,
            ambiguous: new.ambiguous,
            delay_reported: false,
            last_reply: new.last_reply,
            expires: self.tick_after(new.expires),
            due,
            queued: tick,
            place: Place::Attempted,
        });
        self.recipients += u64::from(new.count);
        let destination = &mut self.destinations[new.destination.0 as usize];
        destination.recipients += u64::from(new.count);
        destination.attempted += 1;
        (key, self.place(key, tick, due))
    }

    /// Puts an entry that is nowhere into its line or the wheel. True if it is ready.
    fn place(&mut self, key: EntryKey, now: u32, due: u32) -> bool {
        let at = self.slab[key].destination.0 as usize;
        let destination = &mut self.destinations[at];
        destination.attempted -= 1;
        self.slab[key].due = due;
        if due <= now {
            destination.ready += 1;
            self.slab[key].place = Place::Ready;
            self.slab.push_back(&mut destination.line, key);
            true
        } else {
            destination.waiting += 1;
            self.slab[key].place = Place::Waiting;
            self.wheel.insert(&mut self.slab, key, due);
            false
        }
    }

    /// Takes the next entry of a destination's line for an attempt. Recipients of the same message that stand
    /// next in line come with the following calls; [`Queue::peek`] tells.
    pub fn take(&mut self, destination: DestinationKey) -> Option<EntryKey> {
        let d = &mut self.destinations[destination.0 as usize];
        let key = self.slab.pop_front(&mut d.line)?;
        d.ready -= 1;
        d.attempted += 1;
        self.slab[key].place = Place::Attempted;
        Some(key)
    }

    /// The next entry of a destination's line.
    pub fn peek(&self, destination: DestinationKey) -> Option<&Entry> {
        self.destinations[destination.0 as usize].line.first().map(|key| &self.slab[key])
    }

    /// Gives a taken entry back to the head of its line: its attempt never began.
    pub fn untake(&mut self, key: EntryKey) {
        assert!(self.slab[key].place == Place::Attempted, "only an entry in an attempt can go back");
        let d = &mut self.destinations[self.slab[key].destination.0 as usize];
        d.attempted -= 1;
        d.ready += 1;
        self.slab[key].place = Place::Ready;
        self.slab.push_front(&mut d.line, key);
    }

    /// Some of an attempted entry's recipients wait for another attempt: those with indices `first` up to
    /// `first + count`. The entry itself stays handed out; finish it with [`Queue::settle`].
    pub fn defer(&mut self, now: Instant, key: EntryKey, part: Part) -> EntryKey {
        let whole = self.slab[key];
        let new = NewEntry {
            handle: whole.handle,
            destination: whole.destination,
            first: part.first,
            count: part.count,
            attempts: part.attempts,
            ambiguous: part.ambiguous,
            last_reply: part.last_reply,
            due: Some(part.due),
            expires: self.instant_of(whole.expires),
        };
        let (again, _) = self.push(now, new);
        self.slab[again].queued = whole.queued;
        self.slab[again].delay_reported = part.delay_reported;
        again
    }

    /// Ends an attempted entry: every recipient of it is settled, or stands in an entry of its own by
    /// [`Queue::defer`].
    pub fn settle(&mut self, key: EntryKey) {
        let entry = self.slab[key];
        assert!(entry.place == Place::Attempted, "only an entry in an attempt can be settled");
        let destination = &mut self.destinations[entry.destination.0 as usize];
        destination.attempted -= 1;
        destination.recipients -= u64::from(entry.count);
        self.recipients -= u64::from(entry.count);
        self.slab.remove(key);
    }

    /// Moves what has become due into its line, and looks at a share of all entries for expiry, such that
    /// every entry is looked at once a minute wherever it waits.
    pub fn advance(&mut self, now: Instant) -> Due {
        let tick = self.tick_of(now);
        let mut due = Due::default();
        let mut ready = Vec::new();
        let steps = self.wheel.advance(&mut self.slab, tick, &mut ready);
        for key in ready {
            let destination = self.slab[key].destination;
            let d = &mut self.destinations[destination.0 as usize];
            d.waiting -= 1;
            d.attempted += 1;
            self.place(key, tick, tick);
            due.destinations.push(destination);
        }
        due.destinations.sort_unstable();
        due.destinations.dedup();
        self.sweep_expired(tick, steps, &mut due.expired);
        due
    }

    fn sweep_expired(&mut self, tick: u32, steps: u32, expired: &mut Vec<EntryKey>) {
        let slots = self.slab.slots();
        let share = (slots / 600 + 1).saturating_mul(steps.clamp(1, 600)).min(slots);
        for _ in 0..share {
            self.sweep = if self.sweep + 1 >= slots { 0 } else { self.sweep + 1 };
            if let Some(key) = self.slab.key_at(self.sweep)
                && self.slab[key].expires <= tick
                && self.slab[key].place != Place::Attempted
            {
                self.pull(key);
                expired.push(key);
            }
        }
    }

    /// Takes an entry out of its line or the wheel, as if for an attempt. False if it is in one already.
    pub fn pull(&mut self, key: EntryKey) -> bool {
        let entry = self.slab[key];
        let d = &mut self.destinations[entry.destination.0 as usize];
        match entry.place {
            Place::Attempted => return false,
            Place::Ready => {
                self.slab.unlink(&mut d.line, key);
                d.ready -= 1;
            }
            Place::Waiting => {
                self.wheel.remove(&mut self.slab, key, entry.due);
                d.waiting -= 1;
            }
        }
        d.attempted += 1;
        self.slab[key].place = Place::Attempted;
        true
    }

    /// Makes everything that waits at a destination due now. How many entries moved.
    pub fn flush(&mut self, now: Instant, destination: DestinationKey) -> u32 {
        let tick = self.tick_of(now);
        let keys: Vec<EntryKey> = self
            .slab
            .iter()
            .filter(|(_, entry)| entry.destination == destination && entry.place == Place::Waiting)
            .map(|(key, _)| key)
            .collect();
        for &key in &keys {
            self.pull(key);
            self.place(key, tick, tick);
        }
        keys.len() as u32
    }

    /// When [`Queue::advance`] must be called again at the latest: the next tick, while anything is queued.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        (self.slab.len() > 0).then(|| self.instant_of(self.tick_of(now) + 1))
    }

    /// An entry.
    pub fn entry(&self, key: EntryKey) -> &Entry {
        &self.slab[key]
    }

    /// An entry with its times.
    pub fn view(&self, key: EntryKey) -> View {
        self.view_of(&self.slab[key])
    }

    fn view_of(&self, entry: &Entry) -> View {
        View {
            entry: *entry,
            due: self.instant_of(entry.due),
            expires: self.instant_of(entry.expires),
            queued: self.instant_of(entry.queued),
            attempted: entry.place == Place::Attempted,
        }
    }

    /// True if an attempted entry's time is over, so that a deferral would be in vain.
    pub fn is_expired(&self, now: Instant, key: EntryKey) -> bool {
        self.slab[key].expires <= self.tick_of(now)
    }

    /// All entries, in no order.
    pub fn views(&self) -> impl Iterator<Item = View> + '_ {
        self.slab.iter().map(|(_, entry)| self.view_of(entry))
    }

    /// Counts of a destination.
    pub fn counts(&self, destination: DestinationKey) -> Counts {
        let d = &self.destinations[destination.0 as usize];
        Counts { ready: d.ready, waiting: d.waiting, attempted: d.attempted, recipients: d.recipients }
    }

    /// Entries in all.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// True if nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Recipients in all.
    pub fn recipients(&self) -> u64 {
        self.recipients
    }
}

/// Recipients of an attempted entry that wait for another attempt.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Index of the first recipient.
    pub first: u32,
    /// How many, with consecutive indices.
    pub count: u32,
    /// Attempts made, this one included.
    pub attempts: u16,
    /// It ended in doubt.
    pub ambiguous: bool,
    /// The sender was told that it is late.
    pub delay_reported: bool,
    /// The caller's name for the reply.
    pub last_reply: u32,
    /// When to try again.
    pub due: Instant,
}

#[cfg(test)]
mod tests;
