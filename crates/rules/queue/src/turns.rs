//! Whose turn it is within a group of lines: priority classes first, then tenants in weighted turns, then the
//! lines of a tenant in turns.
//!
//! A turn is one transaction, which is what limits are counted in. With a deficit of a whole transaction a turn,
//! deficit round robin needs no carried remainder, and every step costs the same with ten lines or a million.

use crate::LineKey;
use crate::ring::{Link, Linked, Ring};
use std::collections::HashMap;

/// Priority classes; 0 goes first.
pub const CLASSES: usize = 4;

/// So many turns of higher classes in a row, then one of a lower class that waits: strict order would let a flood
/// of urgent mail keep the rest waiting without end.
const TURNS_BEFORE_LOWER: u32 = 64;

/// Lines that share exchangers and pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey(pub u32);

/// A tenant's part of a class of a group.
#[derive(Debug)]
struct Seat {
    group: u32,
    class: u8,
    tenant: u32,
    lines: Ring,
    weight: u32,
    /// Transactions left of its turn.
    left: u32,
    link: Link,
}

impl Linked for Seat {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
}

/// A line's place.
#[derive(Debug, Default)]
struct Place {
    seat: Option<u32>,
    link: Link,
}

impl Linked for Place {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
}

#[derive(Debug, Default)]
struct Group {
    classes: [Ring; CLASSES],
    /// Turns of higher classes since a lower one that waits had one.
    passed: u32,
    used: bool,
}

/// Who a line is for the order of turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    /// Its group.
    pub group: GroupKey,
    /// Its tenant, as the caller numbers them.
    pub tenant: u32,
    /// Transactions its tenant gets in a turn; 0 counts as 1.
    pub weight: u32,
    /// Its class, below [`CLASSES`].
    pub class: u8,
}

#[derive(Debug, Default)]
pub(crate) struct Turns {
    groups: Vec<Group>,
    free_groups: Vec<u32>,
    seats: Vec<Seat>,
    free_seats: Vec<u32>,
    /// Seats with lines in them.
    taken: HashMap<(u32, u8, u32), u32>,
    places: Vec<Place>,
}

impl Turns {
    pub(crate) fn add_group(&mut self) -> GroupKey {
        let new = Group { used: true, ..Group::default() };
        if let Some(at) = self.free_groups.pop() {
            self.groups[at as usize] = new;
            return GroupKey(at);
        }
        self.groups.push(new);
        GroupKey(self.groups.len() as u32 - 1)
    }

    /// False while a line of it is active.
    pub(crate) fn remove_group(&mut self, key: GroupKey) -> bool {
        let group = &mut self.groups[key.0 as usize];
        if !group.used || group.classes.iter().any(|ring| !ring.is_empty()) {
            return false;
        }
        group.used = false;
        self.free_groups.push(key.0);
        true
    }

    /// A line has something to send. Nothing happens if it stands in line already.
    pub(crate) fn enter(&mut self, line: LineKey, rank: Rank) {
        if line.0 as usize >= self.places.len() {
            self.places.resize_with(line.0 as usize + 1, Place::default);
        }
        if self.places[line.0 as usize].seat.is_some() {
            return;
        }
        let class = rank.class.min(CLASSES as u8 - 1);
        let key = (rank.group.0, class, rank.tenant);
        let weight = rank.weight.max(1);
        let seat = *self.taken.entry(key).or_insert_with(|| {
            let seat = Seat {
                group: rank.group.0,
                class,
                tenant: rank.tenant,
                lines: Ring::default(),
                weight,
                left: weight,
                link: Link::default(),
            };
            match self.free_seats.pop() {
                Some(at) => {
                    self.seats[at as usize] = seat;
                    at
                }
                None => {
                    self.seats.push(seat);
                    self.seats.len() as u32 - 1
                }
            }
        });
        self.places[line.0 as usize].seat = Some(seat);
        self.seats[seat as usize].weight = weight;
        self.seats[seat as usize].lines.push(&mut self.places, line.0);
        self.groups[rank.group.0 as usize].classes[usize::from(class)].push(&mut self.seats, seat);
    }

    /// A line has nothing to send, or may not.
    pub(crate) fn leave(&mut self, line: LineKey) {
        let Some(place) = self.places.get_mut(line.0 as usize) else { return };
        let Some(seat) = place.seat.take() else { return };
        let at = seat as usize;
        self.seats[at].lines.unlink(&mut self.places, line.0);
        if self.seats[at].lines.is_empty() {
            let (group, class, tenant) = (self.seats[at].group, self.seats[at].class, self.seats[at].tenant);
            self.groups[group as usize].classes[usize::from(class)].unlink(&mut self.seats, seat);
            self.taken.remove(&(group, class, tenant));
            self.free_seats.push(seat);
            if self.taken.is_empty() {
                // A flood of tenants that is over gives its memory back.
                self.taken.shrink_to(1024);
                self.seats = Vec::new();
                self.free_seats = Vec::new();
            }
        }
    }

    /// The class whose turn it is.
    pub(crate) fn class(&self, group: GroupKey) -> Option<u8> {
        let group = &self.groups[group.0 as usize];
        let mut waiting = (0..CLASSES).filter(|&class| !group.classes[class].is_empty());
        let first = waiting.next()?;
        let lower = waiting.next().filter(|_| group.passed >= TURNS_BEFORE_LOWER);
        Some(lower.unwrap_or(first) as u8)
    }

    /// The line whose turn it is.
    pub(crate) fn next(&self, group: GroupKey) -> Option<LineKey> {
        let class = self.class(group)?;
        let seat = self.groups[group.0 as usize].classes[usize::from(class)].head()?;
        self.seats[seat as usize].lines.head().map(LineKey)
    }

    /// The line had its turn: a transaction of it was taken.
    pub(crate) fn had_turn(&mut self, line: LineKey) {
        let Some(seat) = self.places.get(line.0 as usize).and_then(|place| place.seat) else { return };
        let at = seat as usize;
        let class = usize::from(self.seats[at].class);
        let group = &mut self.groups[self.seats[at].group as usize];
        let first = (0..CLASSES).find(|&class| !group.classes[class].is_empty());
        let lower = (class + 1..CLASSES).any(|class| !group.classes[class].is_empty());
        match first == Some(class) && lower {
            true => group.passed += 1,
            false => group.passed = 0,
        }
        if self.seats[at].lines.head() == Some(line.0) {
            self.seats[at].lines.turn(&mut self.places);
        }
        self.seats[at].left = self.seats[at].left.saturating_sub(1);
        if self.seats[at].left == 0 {
            self.seats[at].left = self.seats[at].weight;
            if group.classes[class].head() == Some(seat) && !group.classes[class].is_single() {
                group.classes[class].turn(&mut self.seats);
            }
        }
    }

    /// Octets of memory a line takes here, for the figure of an idle queue.
    pub(crate) const LINE_OCTETS: usize = std::mem::size_of::<Place>();
}
