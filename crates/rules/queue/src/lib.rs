//! What is due, for whom, in which order.
//!
//! [`Queue`] is a pure machine. It holds one small [`Entry`] for each group of recipients of one message that wait
//! in the same line, and answers three questions: whose turn is it within a group of lines, what has become due,
//! and what has expired. A line is what the trade calls a queue: the mail of one tenant, campaign, destination,
//! pool and priority. A group is the lines that compete for the same exchangers through the same pool. Within a
//! group priority classes come first, then tenants in weighted turns, then a tenant's lines in turns; an answer
//! costs the same with a thousand lines or a million.
//!
//! It never opens a socket, reads a clock or keeps an address or a body: those stay in the spool until the moment
//! of the attempt, so an entry costs about sixty octets. What names a line (tenant, domain) its caller knows.
//!
//! [`orders`] holds what an operator has ordered: suspend, hold, bounce, limit, reroute.
//!
//! Read first: [`Queue`], then `turns.rs`, then [`Schedule`], which says when a deferred recipient is tried again.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "only the clock makes an Instant"))]

mod entry;
pub mod fuzzing;
pub mod orders;
mod ring;
mod schedule;
mod slab;
mod turns;
mod wheel;

pub use entry::{Entry, NewEntry, Part, View};
pub use schedule::{Backoff, Schedule};
pub use slab::EntryKey;
pub use turns::{CLASSES, GroupKey, Rank};

use entry::Place;
use slab::{List, Slab};
use std::time::{Duration, Instant};
use turns::Turns;
use wheel::Wheel;

/// Length of one tick, the grain of due and expiry times.
pub const TICK: Duration = Duration::from_millis(100);

/// A line's place in the queue. Reused once the line is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineKey(pub u32);

#[derive(Debug, Default)]
struct Line {
    ready_list: List,
    rank: Option<Rank>,
    ready: u32,
    waiting: u32,
    attempted: u32,
    recipients: u64,
    /// Ticks from the time an entry was queued to its expiry.
    expire_after: u32,
    /// Its entries get no turn until it is released.
    set_aside: bool,
    /// Time does not count against its entries.
    timeless: bool,
    used: bool,
}

/// Counts of one line.
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

impl Counts {
    /// Entries in all.
    pub fn entries(&self) -> u32 {
        self.ready + self.waiting + self.attempted
    }
}

/// The queue. See the crate's page.
#[derive(Debug)]
pub struct Queue {
    epoch: Instant,
    slab: Slab,
    lines: Vec<Line>,
    free_lines: Vec<u32>,
    turns: Turns,
    /// Entries that may have a turn, by group.
    group_ready: Vec<u32>,
    wheel: Wheel,
    sweep: u32,
    recipients: u64,
}

/// What [`Queue::advance`] found.
#[derive(Debug, Default)]
pub struct Due {
    /// Lines that gained entries to attempt.
    pub lines: Vec<LineKey>,
    /// Entries whose time is over; they are handed out as if attempted, for the caller to settle.
    pub expired: Vec<EntryKey>,
}

impl Queue {
    /// An empty queue; `now` is the zero of its clock.
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            slab: Slab::default(),
            lines: Vec::new(),
            free_lines: Vec::new(),
            turns: Turns::default(),
            group_ready: Vec::new(),
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

    // ---- lines and groups ---------------------------------------------------------------------------------

    /// A place for a new line, in no group yet. Its entries are given up `expire_after` they were queued.
    pub fn add_line(&mut self, expire_after: Duration) -> LineKey {
        let line = Line { used: true, expire_after: ticks(expire_after), ..Line::default() };
        if let Some(key) = self.free_lines.pop() {
            self.lines[key as usize] = line;
            return LineKey(key);
        }
        self.lines.push(line);
        LineKey(self.lines.len() as u32 - 1)
    }

    /// Forgets a line; refused (false) while it has entries.
    pub fn remove_line(&mut self, key: LineKey) -> bool {
        let line = &mut self.lines[key.0 as usize];
        if !line.used || line.ready + line.waiting + line.attempted > 0 {
            return false;
        }
        line.used = false;
        line.rank = None;
        self.turns.leave(key);
        self.free_lines.push(key.0);
        if self.free_lines.len() == self.lines.len() {
            // A flood that is over gives its memory back.
            self.lines = Vec::new();
            self.free_lines = Vec::new();
        }
        true
    }

    /// A place for a group of lines.
    pub fn add_group(&mut self) -> GroupKey {
        let key = self.turns.add_group();
        if key.0 as usize >= self.group_ready.len() {
            self.group_ready.resize(key.0 as usize + 1, 0);
        }
        self.group_ready[key.0 as usize] = 0;
        key
    }

    /// Entries of a group that may be attempted now; those of lines that are set aside do not count.
    pub fn group_ready(&self, group: GroupKey) -> u32 {
        self.group_ready[group.0 as usize]
    }

    /// So many entries of a line came to be, or ceased to be, ones that may have a turn.
    fn count_ready(&mut self, line: LineKey, count: u32, more: bool) {
        let line = &self.lines[line.0 as usize];
        if let Some(rank) = line.rank
            && !line.set_aside
        {
            let ready = &mut self.group_ready[rank.group.0 as usize];
            *ready = if more { *ready + count } else { *ready - count };
        }
    }

    /// Forgets a group; refused (false) while a line of it waits for its turn.
    pub fn remove_group(&mut self, key: GroupKey) -> bool {
        self.turns.remove_group(key)
    }

    /// Puts a line into a group, or into none: then its entries get no turn.
    pub fn set_rank(&mut self, line: LineKey, rank: Option<Rank>) {
        if self.lines[line.0 as usize].rank == rank {
            return;
        }
        self.turns.leave(line);
        let ready = self.lines[line.0 as usize].ready;
        self.count_ready(line, ready, false);
        self.lines[line.0 as usize].rank = rank;
        self.count_ready(line, ready, true);
        self.enter(line);
    }

    /// A line's place in the order of turns.
    pub fn rank(&self, line: LineKey) -> Option<Rank> {
        self.lines[line.0 as usize].rank
    }

    /// How long after they were queued a line's entries are given up.
    pub fn set_expire_after(&mut self, line: LineKey, expire_after: Duration) {
        self.lines[line.0 as usize].expire_after = ticks(expire_after);
    }

    /// Sets a line aside, so that others have their turn, or takes it back.
    pub fn set_aside(&mut self, line: LineKey, aside: bool) {
        if self.lines[line.0 as usize].set_aside == aside {
            return;
        }
        let ready = self.lines[line.0 as usize].ready;
        self.count_ready(line, ready, false);
        self.lines[line.0 as usize].set_aside = aside;
        self.count_ready(line, ready, true);
        if aside {
            self.turns.leave(line);
        } else {
            self.enter(line);
        }
    }

    /// True if a line is set aside.
    pub fn is_aside(&self, line: LineKey) -> bool {
        self.lines[line.0 as usize].set_aside
    }

    /// True if time does not count against a line's entries.
    pub fn is_timeless(&self, line: LineKey) -> bool {
        self.lines[line.0 as usize].timeless
    }

    /// While a line is timeless its entries do not expire.
    pub fn set_timeless(&mut self, line: LineKey, timeless: bool) {
        self.lines[line.0 as usize].timeless = timeless;
    }

    /// Lets a line stand for its turn if it has what to send and may.
    fn enter(&mut self, key: LineKey) {
        let line = &self.lines[key.0 as usize];
        if let Some(rank) = line.rank
            && line.ready > 0
            && !line.set_aside
        {
            self.turns.enter(key, rank);
        }
    }

    /// The class of a group whose turn it is; lower goes first.
    pub fn class(&self, group: GroupKey) -> Option<u8> {
        self.turns.class(group)
    }

    /// The line of a group whose turn it is. Asking changes nothing.
    pub fn next(&self, group: GroupKey) -> Option<LineKey> {
        self.turns.next(group)
    }

    // ---- entries ------------------------------------------------------------------------------------------

    /// Queues recipients. True if they may be attempted at once.
    pub fn push(&mut self, now: Instant, new: NewEntry) -> (EntryKey, bool) {
        let tick = self.tick_of(now);
        let due = new.due.map_or(tick, |at| self.tick_after(at));
        let key = self.slab.insert(Entry {
            handle: new.handle,
            line: new.line,
            first: new.first,
            count: new.count,
            size: new.size,
            attempts: new.attempts,
            ambiguous: new.ambiguous,
            delay_reported: false,
            alone: new.alone,
            last_reply: new.last_reply,
            queued: i64::from(tick).saturating_sub(i64::from(ticks(new.age))).max(i32::MIN.into()) as i32,
            kept_until: new.kept_until.map_or(0, |at| self.tick_after(at)),
            due,
            place: Place::Attempted,
        });
        self.recipients += u64::from(new.count);
        let line = &mut self.lines[new.line.0 as usize];
        line.recipients += u64::from(new.count);
        line.attempted += 1;
        (key, self.place(key, tick, due))
    }

    /// Puts an entry that is nowhere into its line or the wheel. True if it is ready.
    fn place(&mut self, key: EntryKey, now: u32, due: u32) -> bool {
        let at = self.slab[key].line;
        let line = &mut self.lines[at.0 as usize];
        line.attempted -= 1;
        self.slab[key].due = due;
        if due <= now {
            line.ready += 1;
            self.slab[key].place = Place::Ready;
            self.slab.push_back(&mut line.ready_list, key);
            let first = line.ready == 1;
            self.count_ready(at, 1, true);
            if first {
                self.enter(at);
            }
            true
        } else {
            line.waiting += 1;
            self.slab[key].place = Place::Waiting;
            self.wheel.insert(&mut self.slab, key, due);
            false
        }
    }

    /// Takes the next entry of a line for an attempt, as the line's turn. Recipients of the same message that
    /// stand next in line come with [`Queue::take_more`].
    pub fn take(&mut self, line: LineKey) -> Option<EntryKey> {
        self.turns.had_turn(line);
        self.take_more(line)
    }

    /// Takes a further entry within the same turn; [`Queue::peek`] tells which.
    pub fn take_more(&mut self, line: LineKey) -> Option<EntryKey> {
        let l = &mut self.lines[line.0 as usize];
        let key = self.slab.pop_front(&mut l.ready_list)?;
        l.ready -= 1;
        l.attempted += 1;
        self.slab[key].place = Place::Attempted;
        let last = l.ready == 0;
        self.count_ready(line, 1, false);
        if last {
            self.turns.leave(line);
        }
        Some(key)
    }

    /// The next entry of a line.
    pub fn peek(&self, line: LineKey) -> Option<&Entry> {
        self.lines[line.0 as usize].ready_list.first().map(|key| &self.slab[key])
    }

    /// Leaves the first `count` recipients in a taken entry; the others go back to the head of the line as an entry
    /// of their own. True if there were others; the name of the last reply is then that of both.
    pub fn split(&mut self, key: EntryKey, count: u32) -> bool {
        let whole = self.slab[key];
        assert!(whole.place == Place::Attempted && count > 0, "only an entry in an attempt can be split");
        if whole.count <= count {
            return false;
        }
        self.slab[key].count = count;
        let rest = Entry { first: whole.first + count, count: whole.count - count, ..whole };
        let rest = self.slab.insert(rest);
        self.lines[whole.line.0 as usize].attempted += 1;
        self.untake(rest);
        true
    }

    /// Gives a taken entry back to the head of its line: its attempt never began.
    pub fn untake(&mut self, key: EntryKey) {
        assert!(self.slab[key].place == Place::Attempted, "only an entry in an attempt can go back");
        let at = self.slab[key].line;
        let line = &mut self.lines[at.0 as usize];
        line.attempted -= 1;
        line.ready += 1;
        self.slab[key].place = Place::Ready;
        self.slab.push_front(&mut line.ready_list, key);
        self.count_ready(at, 1, true);
        self.enter(at);
    }

    /// An entry is not given up before `at`.
    pub fn keep_until(&mut self, key: EntryKey, at: Instant) {
        self.slab[key].kept_until = self.tick_after(at);
    }

    /// Names the last reply of an entry anew.
    pub fn set_last_reply(&mut self, key: EntryKey, name: u32) {
        self.slab[key].last_reply = name;
    }

    /// The entry of that name, if there is one.
    pub fn get(&self, key: EntryKey) -> Option<&Entry> {
        self.slab.key_at(key.0).map(|key| &self.slab[key])
    }

    /// Makes an entry that waits due now. False if it does not wait.
    pub fn hasten(&mut self, now: Instant, key: EntryKey) -> bool {
        if self.get(key).is_none_or(|entry| entry.place != Place::Waiting) {
            return false;
        }
        let tick = self.tick_of(now);
        self.pull(key);
        self.place(key, tick, tick);
        true
    }

    /// Gives a taken entry back to wait: its attempt never began and may not before `due`.
    pub fn postpone(&mut self, now: Instant, key: EntryKey, due: Instant) {
        assert!(self.slab[key].place == Place::Attempted, "only an entry in an attempt can wait again");
        let due = self.tick_after(due);
        self.place(key, self.tick_of(now), due);
    }

    /// Moves a taken entry, whose attempt never began, to another line, where it may be attempted from `due` on.
    pub fn transfer(&mut self, now: Instant, key: EntryKey, line: LineKey, due: Instant) {
        let entry = self.slab[key];
        assert!(entry.place == Place::Attempted, "only an entry in an attempt can change its line");
        let left = &mut self.lines[entry.line.0 as usize];
        left.attempted -= 1;
        left.recipients -= u64::from(entry.count);
        let joined = &mut self.lines[line.0 as usize];
        joined.attempted += 1;
        joined.recipients += u64::from(entry.count);
        self.slab[key].line = line;
        let now = self.tick_of(now);
        self.place(key, now, self.tick_of(due).max(now));
    }

    /// Some of an attempted entry's recipients wait for another attempt: those with indices `first` up to
    /// `first + count`. The entry itself stays handed out; finish it with [`Queue::settle`].
    pub fn defer(&mut self, now: Instant, key: EntryKey, part: Part) -> EntryKey {
        let whole = self.slab[key];
        let new = NewEntry {
            handle: whole.handle,
            line: whole.line,
            first: part.first,
            count: part.count,
            size: whole.size,
            attempts: part.attempts,
            ambiguous: part.ambiguous,
            last_reply: part.last_reply,
            due: Some(part.due),
            age: Duration::ZERO,
            kept_until: None,
            alone: whole.alone,
        };
        let (again, _) = self.push(now, new);
        self.slab[again].queued = whole.queued;
        self.slab[again].kept_until = whole.kept_until;
        self.slab[again].delay_reported = part.delay_reported;
        again
    }

    /// Ends an attempted entry: every recipient of it is settled, or stands in an entry of its own by
    /// [`Queue::defer`].
    pub fn settle(&mut self, key: EntryKey) {
        let entry = self.slab[key];
        assert!(entry.place == Place::Attempted, "only an entry in an attempt can be settled");
        let line = &mut self.lines[entry.line.0 as usize];
        line.attempted -= 1;
        line.recipients -= u64::from(entry.count);
        self.recipients -= u64::from(entry.count);
        self.slab.remove(key);
    }

    /// Takes an entry out of its line or the wheel, as if for an attempt. False if it is in one already.
    pub fn pull(&mut self, key: EntryKey) -> bool {
        let entry = self.slab[key];
        let line = &mut self.lines[entry.line.0 as usize];
        match entry.place {
            Place::Attempted => return false,
            Place::Ready => {
                self.slab.unlink(&mut line.ready_list, key);
                line.ready -= 1;
                let last = line.ready == 0;
                self.count_ready(entry.line, 1, false);
                if last {
                    self.turns.leave(entry.line);
                }
            }
            Place::Waiting => {
                self.wheel.remove(&mut self.slab, key, entry.due);
                line.waiting -= 1;
            }
        }
        self.lines[entry.line.0 as usize].attempted += 1;
        self.slab[key].place = Place::Attempted;
        true
    }

    // ---- time ---------------------------------------------------------------------------------------------

    /// Moves what has become due into its line, and looks at a share of all entries for expiry, such that
    /// every entry is looked at once a minute wherever it waits.
    pub fn advance(&mut self, now: Instant) -> Due {
        let tick = self.tick_of(now);
        let mut due = Due::default();
        let mut ready = Vec::new();
        let steps = self.wheel.advance(&mut self.slab, tick, &mut ready);
        for key in ready {
            let at = self.slab[key].line;
            let line = &mut self.lines[at.0 as usize];
            line.waiting -= 1;
            line.attempted += 1;
            self.place(key, tick, tick);
            due.lines.push(at);
        }
        due.lines.sort_unstable();
        due.lines.dedup();
        self.sweep_expired(tick, steps, &mut due.expired);
        due
    }

    fn sweep_expired(&mut self, tick: u32, steps: u32, expired: &mut Vec<EntryKey>) {
        let slots = self.slab.slots();
        let share = (slots / 600 + 1).saturating_mul(steps.clamp(1, 600)).min(slots);
        for _ in 0..share {
            self.sweep = if self.sweep + 1 >= slots { 0 } else { self.sweep + 1 };
            if let Some(key) = self.slab.key_at(self.sweep)
                && self.expiry(&self.slab[key]) <= tick
                && self.slab[key].place != Place::Attempted
            {
                self.pull(key);
                expired.push(key);
            }
        }
    }

    /// The tick at which an entry is given up.
    fn expiry(&self, entry: &Entry) -> u32 {
        let line = &self.lines[entry.line.0 as usize];
        if line.timeless {
            return u32::MAX;
        }
        let at = i64::from(entry.queued) + i64::from(line.expire_after);
        u32::try_from(at.max(0)).unwrap_or(u32::MAX).max(entry.kept_until)
    }

    /// Makes everything that waits in a line due now. How many entries moved.
    pub fn flush(&mut self, now: Instant, line: LineKey) -> u32 {
        let keys: Vec<EntryKey> =
            self.slab.iter().filter(|(_, entry)| entry.line == line).map(|(key, _)| key).collect();
        keys.into_iter().filter(|&key| self.hasten(now, key)).count() as u32
    }

    // ---- what stands in it --------------------------------------------------------------------------------

    /// An entry.
    pub fn entry(&self, key: EntryKey) -> &Entry {
        &self.slab[key]
    }

    /// An entry with its times.
    pub fn view(&self, key: EntryKey) -> View {
        self.view_of(key, &self.slab[key])
    }

    fn view_of(&self, key: EntryKey, entry: &Entry) -> View {
        let age = TICK * entry.queued.unsigned_abs();
        View {
            key,
            entry: *entry,
            due: self.instant_of(entry.due),
            expires: self.instant_of(self.expiry(entry)),
            queued: if entry.queued < 0 { self.epoch.checked_sub(age) } else { self.epoch.checked_add(age) }
                .unwrap_or(self.epoch),
            attempted: entry.place == Place::Attempted,
        }
    }

    /// All entries, in no order.
    pub fn views(&self) -> impl Iterator<Item = View> + '_ {
        self.slab.iter().map(|(key, entry)| self.view_of(key, entry))
    }

    /// Entries at places `from` and after, at most `count` places of them, and the next place to ask from;
    /// `None` at the end. For walks over a large queue in small steps.
    pub fn views_from(&self, from: u32, count: u32) -> (Vec<View>, Option<u32>) {
        let end = from.saturating_add(count).min(self.slab.slots());
        let views = (from..end)
            .filter_map(|at| self.slab.key_at(at))
            .map(|key| self.view_of(key, &self.slab[key]))
            .collect();
        (views, (end < self.slab.slots()).then_some(end))
    }

    /// Counts of a line.
    pub fn counts(&self, line: LineKey) -> Counts {
        let l = &self.lines[line.0 as usize];
        Counts { ready: l.ready, waiting: l.waiting, attempted: l.attempted, recipients: l.recipients }
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

    /// Octets of memory that a line with nothing in it costs here.
    pub const LINE_OCTETS: usize = std::mem::size_of::<Line>() + Turns::LINE_OCTETS;
}

/// Ticks of a time span, rounded up.
fn ticks(span: Duration) -> u32 {
    u32::try_from(span.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX - 1)
}

#[cfg(test)]
mod tests;
