//! The one owner of the queue: takes what was accepted, gives it to connections, and hears what became of it.
//!
//! It is reached by messages, batches at a time, and never waits for a peer, a disk or a name server; so nothing
//! here is locked, and a destination that stalls holds nobody else's mail.

use crate::connection::{Connection, JOBS_MAX};
use crate::hot::HotStore;
use crate::job::{ConnectionId, Deferred, Event, Hot, Job, JobDone, JobEntry};
use crate::replies::Replies;
use crate::route::Target;
use crate::settle::Settler;
use crate::shared::{Settings, Shared};
use crate::status::{DestinationStatus, EntryStatus, Order, QueueStatus};
use mail::{Message, UnixMillis};
use queue::{DestinationKey, EntryKey, NewEntry, Part, Queue, View};
use shaping::{Gate, Hold, Limits, Path};
use spool::{Accepted, Handle, Loaded};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, error, info};

/// Messages taken from a channel at a time.
const BATCH: usize = 256;

/// One destination: its limits and its connections.
struct Site {
    target: Target,
    path: Path,
    connections: Vec<Line>,
    hold: Option<Hold>,
    hold_since: Option<Instant>,
    last_failure: Option<Arc<str>>,
    /// It stands in the line for a connection of the total.
    wants_connection: bool,
}

/// The dispatcher's end of a connection.
struct Line {
    id: ConnectionId,
    jobs: mpsc::Sender<Job>,
    /// Entries it was given and has not answered for.
    keys: Vec<EntryKey>,
    assigned: usize,
    ready: bool,
    draining: bool,
}

impl Line {
    fn given(&mut self, job: &Job) {
        self.assigned += 1;
        self.keys.extend(job.entries.iter().map(|entry| entry.key));
    }

    fn answered<'a>(&mut self, entries: impl Iterator<Item = &'a EntryKey>) {
        self.assigned = self.assigned.saturating_sub(1);
        for key in entries {
            self.keys.retain(|kept| kept != key);
        }
    }
}

/// The dispatcher. See the module's page.
pub(crate) struct Dispatcher {
    shared: Arc<Shared>,
    settings: Arc<Settings>,
    queue: Queue,
    keys: HashMap<Target, DestinationKey>,
    sites: Vec<Option<Site>>,
    owners: HashMap<ConnectionId, DestinationKey>,
    next_connection: u64,
    hot: HotStore,
    replies: Replies,
    /// When destinations that are held may be asked again.
    wakes: BinaryHeap<Reverse<(Instant, DestinationKey)>>,
    /// Destinations that want a connection when the total allows.
    wanting: VecDeque<DestinationKey>,
    touched: Vec<DestinationKey>,
    events_in: mpsc::Sender<Event>,
    stopping: bool,
}

/// What the dispatcher listens to.
pub(crate) struct Inputs {
    pub(crate) accepted: mpsc::Receiver<Accepted>,
    pub(crate) loaded: mpsc::Receiver<Vec<Loaded>>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) orders: mpsc::Receiver<Order>,
}

impl Dispatcher {
    pub(crate) fn new(shared: Arc<Shared>, events_in: mpsc::Sender<Event>) -> Self {
        let settings = shared.settings();
        Self {
            hot: HotStore::new(settings.hot_bytes_max),
            settings,
            shared,
            queue: Queue::new(Instant::now().into_std()),
            keys: HashMap::new(),
            sites: Vec::new(),
            owners: HashMap::new(),
            next_connection: 0,
            replies: Replies::default(),
            wakes: BinaryHeap::new(),
            wanting: VecDeque::new(),
            touched: Vec::new(),
            events_in,
            stopping: false,
        }
    }

    /// Runs until the server stops and every connection is closed.
    pub(crate) async fn run(mut self, mut inputs: Inputs) {
        let mut accepted = Vec::with_capacity(BATCH);
        let mut loaded = Vec::new();
        let mut events = Vec::with_capacity(BATCH);
        let mut stopped = self.shared.stopped();
        let mut loading = true;
        let mut tick = tokio::time::interval(queue::TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake_at = self.wakes.peek().map(|Reverse((at, _))| *at);
            tokio::select! {
                count = inputs.events.recv_many(&mut events, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    for event in events.drain(..) {
                        self.event(event);
                    }
                }
                count = inputs.accepted.recv_many(&mut accepted, BATCH), if !self.stopping => {
                    if count == 0 {
                        self.stopping = true;
                    }
                    for message in accepted.drain(..) {
                        self.accepted(message);
                    }
                }
                count = inputs.loaded.recv_many(&mut loaded, 4), if loading && !self.stopping => {
                    loading = count > 0;
                    for message in loaded.drain(..).flatten() {
                        self.loaded(message);
                    }
                }
                Some(order) = inputs.orders.recv() => self.order(order),
                () = stopped.wait(), if !self.stopping => {
                    self.stopping = true;
                    info!(queued = self.queue.recipients(), connections = self.owners.len(), "delivery stops");
                    for site in self.sites.iter_mut().flatten() {
                        // The connections finish what they have begun and give back the rest.
                        site.connections.clear();
                    }
                }
                _ = tick.tick() => self.advance(),
                () = sleep_until(wake_at), if wake_at.is_some() => self.wake(),
            }
            self.dispatch();
            if self.stopping && self.owners.is_empty() {
                return;
            }
        }
    }

    // ---- what comes in ------------------------------------------------------------------------------------

    fn accepted(&mut self, accepted: Accepted) {
        let now = Instant::now();
        let (handle, message, content) = accepted.into_parts();
        let expires = now + self.settings.retry.expire_after;
        let count = message.envelope.recipients.len();
        let (mut groups, mut any_open) = (0, false);
        // Nearly every message has one destination; runs of recipients with the same one are an entry each.
        let mut first = 0;
        while first < count {
            let (key, run) = self.run_of(&message, first, count);
            let new = NewEntry {
                handle: handle.0,
                destination: key,
                first: first as u32,
                count: run as u32,
                attempts: 0,
                ambiguous: false,
                last_reply: 0,
                due: None,
                expires: expires.into_std(),
            };
            self.queue.push(now.into_std(), new);
            self.touched.push(key);
            // Where nobody answers, a message would only take up the room of one that can go at once.
            any_open |= self.sites[key.0 as usize]
                .as_ref()
                .is_some_and(|site| !matches!(site.hold, Some(Hold { gate: Gate::Unreachable { .. }, .. })));
            groups += 1;
            first += run;
        }
        self.shared.queued.set(self.queue.recipients());
        if any_open {
            self.hot.insert(handle, Hot { message, content }, groups);
        }
    }

    /// The destination of recipient `first`, and how many recipients from it on share it, up to a transaction.
    fn run_of(&mut self, message: &Message, first: usize, end: usize) -> (DestinationKey, usize) {
        let recipients = &message.envelope.recipients;
        let target = self.settings.routes.target(recipients[first].path.host());
        let max = self.settings.delivery.recipients_per_transaction as usize;
        let run = recipients[first + 1..end]
            .iter()
            .take(max - 1)
            .take_while(|r| {
                r.path.host() == recipients[first].path.host()
                    || self.settings.routes.target(r.path.host()) == target
            })
            .count();
        (self.destination(target), run + 1)
    }

    fn destination(&mut self, target: Target) -> DestinationKey {
        if let Some(&key) = self.keys.get(&target) {
            return key;
        }
        let key = self.queue.add_destination();
        let site = Site {
            path: Path::new(limits_of(&self.settings, &target)),
            target: target.clone(),
            connections: Vec::new(),
            hold: None,
            hold_since: None,
            last_failure: None,
            wants_connection: false,
        };
        let at = key.0 as usize;
        if at >= self.sites.len() {
            self.sites.resize_with(at + 1, || None);
        }
        self.sites[at] = Some(site);
        self.keys.insert(target, key);
        key
    }

    fn loaded(&mut self, loaded: Loaded) {
        let (now, wall) = (Instant::now(), UnixMillis::from(SystemTime::now()));
        let age = Duration::from_millis(wall.0.saturating_sub(loaded.message.received_at.0));
        // A message found past its time gets one more attempt: the clock may have jumped while we were away.
        let left = self.settings.retry.expire_after.saturating_sub(age).max(Duration::from_secs(60));
        let longest =
            self.settings.retry.schedule().wait(u16::MAX, 0).max(self.settings.retry.ambiguous_wait);
        let mut at = 0;
        while at < loaded.pending.len() {
            let pending = &loaded.pending[at];
            let first = pending.index as usize;
            // Consecutive recipients in the same state make one entry again.
            let mut end = at + 1;
            while end < loaded.pending.len()
                && loaded.pending[end].index as usize == first + (end - at)
                && loaded.pending[end].attempts == pending.attempts
                && loaded.pending[end].due == pending.due
                && loaded.pending[end].ambiguous == pending.ambiguous
            {
                end += 1;
            }
            let (destination, run) = self.run_of(&loaded.message, first, first + (end - at));
            let due = pending.due.map(|due| {
                // Due times are wall-clock on disk; a jump must neither hold mail for years nor matter much.
                let wait = Duration::from_millis(due.0.saturating_sub(wall.0)).min(longest);
                (now + wait).into_std()
            });
            let last_reply =
                pending.last_reply.as_ref().map_or(0, |reply| self.replies.hold(&reply.to_string()));
            let new = NewEntry {
                handle: loaded.handle.0,
                destination,
                first: first as u32,
                count: run as u32,
                attempts: u16::try_from(pending.attempts).unwrap_or(u16::MAX),
                ambiguous: pending.ambiguous,
                last_reply,
                due,
                expires: (now + left).into_std(),
            };
            if self.queue.push(now.into_std(), new).1 {
                self.touched.push(destination);
            }
            at += run;
        }
        self.shared.queued.set(self.queue.recipients());
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Done(id, done) => {
                let now = Instant::now();
                if let Some(site) = self.site_of(id) {
                    site.path.spent(now.into_std());
                    if let Some(line) = site.connections.iter_mut().find(|line| line.id == id) {
                        line.answered(done.entries.iter());
                    }
                }
                self.done(done);
                self.touched.extend(self.owners.get(&id).copied());
            }
            Event::Expired(done) => self.done(done),
            Event::Returned(id, job) => {
                if let Some(site) = self.site_of(id) {
                    site.path.give_back();
                    if let Some(line) = site.connections.iter_mut().find(|line| line.id == id) {
                        line.answered(job.entries.iter().map(|entry| &entry.key));
                    }
                }
                self.give_back(job);
                self.touched.extend(self.owners.get(&id).copied());
            }
            Event::Connected(id) => {
                let now = Instant::now().into_std();
                if let Some(site) = self.site_of(id) {
                    site.path.connected(now);
                    site.hold = None;
                    site.hold_since = None;
                    site.last_failure = None;
                    if let Some(line) = site.connections.iter_mut().find(|line| line.id == id) {
                        line.ready = true;
                    }
                }
                self.touched.extend(self.owners.get(&id).copied());
            }
            Event::Draining(id) => {
                if let Some(site) = self.site_of(id)
                    && let Some(line) = site.connections.iter_mut().find(|line| line.id == id)
                {
                    line.draining = true;
                }
            }
            Event::Closed { id, connected, reason } => self.closed(id, connected, reason),
            Event::Panicked(id) => self.panicked(id),
        }
    }

    fn site_of(&mut self, id: ConnectionId) -> Option<&mut Site> {
        let key = *self.owners.get(&id)?;
        self.sites[key.0 as usize].as_mut()
    }

    fn closed(&mut self, id: ConnectionId, connected: bool, reason: Option<Arc<str>>) {
        let Some(key) = self.owners.remove(&id) else { return };
        self.shared.metrics.connections_out.dec();
        let Some(site) = self.sites[key.0 as usize].as_mut() else { return };
        let was_ready = site.connections.iter().any(|line| line.id == id && line.ready);
        site.connections.retain(|line| line.id != id);
        if connected || was_ready {
            site.path.closed();
        } else {
            let until = site.path.connect_failed(Instant::now().into_std());
            site.last_failure = reason;
            // Whether mail waits then or not: a destination with nothing to remember is forgotten.
            self.wakes.push(Reverse((Instant::from_std(until), key)));
        }
        self.touched.push(key);
        // A place in the total has become free.
        if let Some(next) = self.wanting.pop_front() {
            if let Some(site) = self.sites[next.0 as usize].as_mut() {
                site.wants_connection = false;
            }
            self.touched.push(next);
        }
    }

    /// A connection ended in a panic, which is our mistake and must cost nobody more than a wait. What it was
    /// given may or may not have been sent.
    fn panicked(&mut self, id: ConnectionId) {
        let now = Instant::now();
        let keys = match self.site_of(id) {
            Some(site) => site
                .connections
                .iter_mut()
                .find(|line| line.id == id)
                .map(|line| std::mem::take(&mut line.keys))
                .unwrap_or_default(),
            None => Vec::new(),
        };
        error!(entries = keys.len(), "a connection ended in a panic; what it carried is tried again");
        for key in keys {
            let entry = *self.queue.entry(key);
            let part = Part {
                first: entry.first,
                count: entry.count,
                attempts: entry.attempts.saturating_add(1),
                ambiguous: true,
                delay_reported: entry.delay_reported,
                last_reply: self.replies.hold("451 4.3.0 internal error"),
                due: (now + self.settings.retry.ambiguous_wait).into_std(),
            };
            self.queue.defer(now.into_std(), key, part);
            self.settle_entry(key);
        }
        self.closed(id, false, Some("internal error".into()));
    }

    fn done(&mut self, done: JobDone) {
        let now = Instant::now();
        for deferred in done.deferred {
            let Deferred { key, index, attempts, ambiguous, delay_reported, reply, due } = deferred;
            let last_reply = self.replies.hold(&reply);
            let due = due.into_std();
            let part = Part { first: index, count: 1, attempts, ambiguous, delay_reported, last_reply, due };
            self.queue.defer(now.into_std(), key, part);
        }
        for key in done.entries {
            self.settle_entry(key);
        }
        self.shared.queued.set(self.queue.recipients());
    }

    fn settle_entry(&mut self, key: EntryKey) {
        let entry = *self.queue.entry(key);
        self.replies.release(entry.last_reply);
        self.queue.settle(key);
        self.forget_if_idle(entry.destination);
    }

    fn give_back(&mut self, job: Job) {
        if let Some(hot) = job.hot {
            self.hot.insert(job.handle, hot, 1);
        }
        for entry in job.entries.iter().rev() {
            self.queue.untake(entry.key);
        }
    }

    /// A destination with nothing queued, no connection and nothing to remember costs nothing.
    fn forget_if_idle(&mut self, key: DestinationKey) {
        let counts = self.queue.counts(key);
        if counts.ready + counts.waiting + counts.attempted > 0 {
            return;
        }
        let Some(site) = self.sites[key.0 as usize].as_mut() else { return };
        if site.connections.is_empty()
            && !site.wants_connection
            && site.path.is_idle(Instant::now().into_std())
        {
            self.keys.remove(&site.target);
            self.sites[key.0 as usize] = None;
            self.queue.remove_destination(key);
        }
    }

    // ---- time ---------------------------------------------------------------------------------------------

    fn advance(&mut self) {
        let now = Instant::now();
        let due = self.queue.advance(now.into_std());
        self.touched.extend(due.destinations);
        for key in due.expired {
            self.expire(key);
        }
    }

    fn wake(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, key))) = self.wakes.peek().copied()
            && at <= now
        {
            self.wakes.pop();
            self.touched.push(key);
        }
    }

    /// An entry's time is over: its recipients are settled outside any connection.
    fn expire(&mut self, key: EntryKey) {
        let view = self.queue.view(key);
        let entry = view.entry;
        let reply = self.replies.get(entry.last_reply);
        let job = self.job_of(&[key], Handle(entry.handle));
        let (shared, settings, events) = (self.shared.clone(), self.settings.clone(), self.events_in.clone());
        tokio::spawn(async move {
            let mut settler = Settler::new(&shared, &settings, None);
            let done = settler.expire(job, reply).await;
            let _ = events.send(Event::Expired(done)).await;
        });
    }

    // ---- what goes out ------------------------------------------------------------------------------------

    /// Serves every destination for which something has changed.
    fn dispatch(&mut self) {
        if self.stopping {
            self.touched.clear();
            return;
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for key in touched.drain(..) {
            self.serve(key);
        }
        self.touched = touched;
    }

    /// Gives a destination's mail to its connections, and opens new ones where the limits allow.
    fn serve(&mut self, key: DestinationKey) {
        let now = Instant::now();
        loop {
            if self.queue.peek(key).is_none() {
                if let Some(site) = self.sites[key.0 as usize].as_mut() {
                    site.hold = None;
                    site.hold_since = None;
                }
                self.forget_if_idle(key);
                return;
            }
            let Some(site) = self.sites[key.0 as usize].as_mut() else { return };
            // The connection with the least to do, if it has room for more.
            let line = site
                .connections
                .iter()
                .enumerate()
                .filter(|(_, line)| line.ready && !line.draining && line.assigned < JOBS_MAX)
                .min_by_key(|(_, line)| line.assigned)
                .map(|(at, _)| at);
            let Some(at) = line else { if self.open_connection(key, now) { continue } else { return } };
            match site.path.ask_messages(now.into_std(), 1) {
                Ok(_) => {
                    let Some(job) = self.take_job(key) else { return };
                    let Some(site) = self.sites[key.0 as usize].as_mut() else { return };
                    let line = &mut site.connections[at];
                    line.given(&job);
                    if let Err(error) = line.jobs.try_send(job) {
                        let refused = error.into_inner();
                        // It is closing; what it was given before comes back by itself.
                        line.answered(refused.entries.iter().map(|entry| &entry.key));
                        line.draining = true;
                        site.path.give_back();
                        self.give_back(refused);
                    }
                }
                Err(hold) => return self.held(key, hold, now),
            }
        }
    }

    /// Opens a connection with the next job. False if none may be opened now.
    fn open_connection(&mut self, key: DestinationKey, now: Instant) -> bool {
        let total = self.owners.len();
        let Some(site) = self.sites[key.0 as usize].as_mut() else { return false };
        // One that is being opened will soon take up to JOBS_MAX: no need for one for each message.
        let opening = site.connections.iter().filter(|line| !line.ready).count();
        if opening > 0 && (self.queue.counts(key).ready as usize) < opening * JOBS_MAX {
            return false;
        }
        if total >= self.settings.delivery.connections_total_max as usize {
            if !site.wants_connection {
                site.wants_connection = true;
                self.wanting.push_back(key);
            }
            return false;
        }
        if let Err(hold) = site.path.ask_connection(now.into_std()) {
            self.held(key, hold, now);
            return false;
        }
        if let Err(hold) = site.path.ask_messages(now.into_std(), 1) {
            site.path.unopened();
            self.held(key, hold, now);
            return false;
        }
        let Some(job) = self.take_job(key) else {
            return false;
        };
        let Some(site) = self.sites[key.0 as usize].as_mut() else { return false };
        self.next_connection += 1;
        let id = ConnectionId(self.next_connection);
        let (jobs, receiver) = mpsc::channel(JOBS_MAX + 1);
        let mut line = Line { id, jobs, keys: Vec::new(), assigned: 0, ready: false, draining: false };
        line.given(&job);
        // The channel is new and has room.
        let _ = line.jobs.try_send(job);
        site.connections.push(line);
        self.owners.insert(id, key);
        self.shared.metrics.connections_out.inc();
        let connection = Connection {
            id,
            target: site.target.clone(),
            shared: self.shared.clone(),
            settings: self.settings.clone(),
            jobs: receiver,
            events: self.events_in.clone(),
            messages_max: site.path.limits().messages_per_connection,
        };
        let events = self.events_in.clone();
        self.shared.spawn(async move {
            if tokio::spawn(connection.run()).await.is_err_and(|error| error.is_panic()) {
                let _ = events.send(Event::Panicked(id)).await;
            }
        });
        true
    }

    fn held(&mut self, key: DestinationKey, hold: Hold, now: Instant) {
        let Some(site) = self.sites[key.0 as usize].as_mut() else { return };
        if site.hold.map(|h| h.gate) != Some(hold.gate) {
            site.hold_since = Some(now);
            debug!(target = %site.target, gate = %hold.gate, setting = hold.setting, "held");
        }
        let known = site.hold.and_then(|h| h.until);
        site.hold = Some(hold);
        if let Some(until) = hold.until
            && known != Some(until)
        {
            self.wakes.push(Reverse((Instant::from_std(until), key)));
        }
    }

    /// The next entries of a destination's line that belong to one message.
    fn take_job(&mut self, key: DestinationKey) -> Option<Job> {
        let first = self.queue.take(key)?;
        let handle = self.queue.entry(first).handle;
        let max = self.settings.delivery.recipients_per_transaction;
        let mut keys = vec![first];
        let mut recipients = self.queue.entry(first).count;
        while let Some(next) = self.queue.peek(key)
            && next.handle == handle
            && recipients + next.count <= max
        {
            recipients += next.count;
            keys.extend(self.queue.take(key));
        }
        Some(self.job_of(&keys, Handle(handle)))
    }

    fn job_of(&mut self, keys: &[EntryKey], handle: Handle) -> Job {
        let entries = keys
            .iter()
            .map(|&key| {
                let view: View = self.queue.view(key);
                JobEntry {
                    key,
                    first: view.entry.first,
                    count: view.entry.count,
                    attempts: view.entry.attempts,
                    delay_reported: view.entry.delay_reported,
                    expires: Instant::from_std(view.expires),
                }
            })
            .collect();
        Job { entries, handle, hot: self.hot.take(handle) }
    }

    // ---- orders -------------------------------------------------------------------------------------------

    fn order(&mut self, order: Order) {
        match order {
            Order::Status(reply) => {
                let _ = reply.send(self.status());
            }
            Order::Entries { target, max, reply } => {
                let _ = reply.send(self.entries(target.as_deref(), max));
            }
            Order::Flush { target, reply } => {
                let now = Instant::now();
                let keys: Vec<DestinationKey> = self
                    .keys
                    .iter()
                    .filter(|(t, _)| target.as_deref().is_none_or(|wanted| t.to_string() == wanted))
                    .map(|(_, key)| *key)
                    .collect();
                let mut moved = 0;
                for key in keys {
                    moved += self.queue.flush(now.into_std(), key);
                    if let Some(site) = self.sites[key.0 as usize].as_mut() {
                        site.path.forgive();
                    }
                    self.touched.push(key);
                }
                let _ = reply.send(moved);
            }
            Order::Reload(reply) => {
                self.settings = self.shared.settings();
                self.hot.set_max(self.settings.hot_bytes_max);
                let mut gone = 0;
                for site in self.sites.iter_mut().flatten() {
                    site.path.set_limits(limits_of(&self.settings, &site.target));
                    if let Target::Route(name) = &site.target
                        && self.settings.routes.get(name).is_none()
                    {
                        gone += 1;
                    }
                }
                self.touched.extend(self.keys.values().copied());
                let _ = reply.send(gone);
            }
        }
    }

    fn status(&mut self) -> QueueStatus {
        let now = Instant::now();
        let mut destinations: Vec<DestinationStatus> = Vec::with_capacity(self.keys.len());
        for (target, key) in &self.keys {
            let counts = self.queue.counts(*key);
            let Some(site) = &self.sites[key.0 as usize] else { continue };
            destinations.push(DestinationStatus {
                target: target.to_string(),
                ready: counts.ready,
                waiting: counts.waiting,
                attempted: counts.attempted,
                recipients: counts.recipients,
                connections: site.path.open(),
                hold: site.hold.filter(|_| counts.ready > 0).map(|hold| hold.gate.to_string()),
                hold_setting: site.hold.filter(|_| counts.ready > 0).map(|hold| hold.setting),
                held_for: site.hold_since.map(|since| now.saturating_duration_since(since)),
                held_until: site
                    .hold
                    .and_then(|hold| hold.until)
                    .map(|until| until.saturating_duration_since(now.into_std())),
                last_failure: site.last_failure.as_ref().map(|text| text.to_string()),
            });
        }
        destinations.sort_by(|a, b| b.recipients.cmp(&a.recipients).then_with(|| a.target.cmp(&b.target)));
        QueueStatus {
            recipients: self.queue.recipients(),
            entries: self.queue.len() as u64,
            connections: self.owners.len() as u64,
            hot_bytes: self.hot.bytes(),
            destinations,
        }
    }

    fn entries(&self, target: Option<&str>, max: usize) -> Vec<EntryStatus> {
        let now = Instant::now().into_std();
        let names: HashMap<DestinationKey, String> = self
            .keys
            .iter()
            .map(|(t, key)| (*key, t.to_string()))
            .filter(|(_, name)| target.is_none_or(|wanted| name == wanted))
            .collect();
        self.queue
            .views()
            .filter_map(|view| names.get(&view.entry.destination).map(|name| (view, name)))
            .take(max)
            .map(|(view, name)| EntryStatus {
                handle: Handle(view.entry.handle),
                target: name.clone(),
                first: view.entry.first,
                count: view.entry.count,
                attempts: view.entry.attempts,
                attempted: view.attempted,
                ambiguous: view.entry.ambiguous,
                due_in: view.due.saturating_duration_since(now),
                expires_in: view.expires.saturating_duration_since(now),
                last_reply: self.replies.get(view.entry.last_reply).map(|text| text.to_string()),
            })
            .collect()
    }
}

/// The limits towards a target: everybody's, but for what its route says.
fn limits_of(settings: &Settings, target: &Target) -> Limits {
    let mut limits = settings.delivery.limits();
    if let Target::Route(name) = target
        && let Some(max) = settings.routes.get(name).and_then(|route| route.connections_max)
    {
        limits.connections = max;
    }
    limits
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}
