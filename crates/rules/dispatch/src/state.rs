//! The state: queues, targets, sites, paths, connections, and what they know of each other.

use crate::act::{Action, ConnectionId, Granted};
use crate::answering::Answering;
use crate::egress::{Egress, PoolAt, SourceAt, Turns};
use crate::hold::Hold;
use crate::names::Names;
use crate::replies::Replies;
use crate::target::Target;
use mail::{Reply, UnixMillis};
use queue::orders::{OrderId, Orders};
use queue::{EntryKey, GroupKey, LineKey, Queue};
use shaping::{PathKey, Permit, Rules, Shaper};
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bounds and times that hold for all mail.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Connections open at once, over all sites.
    pub connections_total_max: usize,
    /// How long a connection may wait for its greeting while sites wait for a connection of the total.
    pub greeting_patience: Duration,
    /// How long mail is tried where no rule says otherwise.
    pub expire_after: Duration,
    /// Targets whose site is asked for at once.
    pub resolving_max: usize,
    /// How long a site stays known after its name was looked up, at most and at least.
    pub site_known_for: (Duration, Duration),
    /// The wait after a look-up failed; doubles up to the longest.
    pub resolve_again: (Duration, Duration),
    /// How long a queue, target or site without mail stays in memory.
    pub idle_for: Duration,
    /// Transactions a tenant gets in a turn, where it is not one.
    pub weights: HashMap<Box<str>, u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_total_max: 2_000,
            greeting_patience: Duration::from_secs(5),
            expire_after: Duration::from_secs(5 * 86_400),
            resolving_max: 256,
            site_known_for: (Duration::from_secs(3600), Duration::from_secs(60)),
            resolve_again: (Duration::from_secs(30), Duration::from_secs(900)),
            idle_for: Duration::from_secs(10),
            weights: HashMap::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TargetKey(pub(crate) u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SiteKey(pub(crate) u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PathAt(pub(crate) u32);

/// What a queue's name is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LineName {
    pub(crate) tenant: u32,
    pub(crate) campaign: u32,
    pub(crate) target: TargetKey,
    pub(crate) pool: PoolAt,
    pub(crate) class: u8,
}

/// Why a queue is set aside.
#[derive(Clone, Debug)]
pub(crate) enum Aside {
    /// An order.
    Order(OrderId),
    /// A limit or suspension that holds for it but not for others at its site.
    Held(Hold),
}

/// A queue.
pub(crate) struct LineState {
    pub(crate) name: LineName,
    pub(crate) aside: Option<Box<(Aside, Instant)>>,
    /// The version of the orders that the following were taken from.
    pub(crate) orders_version: u64,
    /// What few queues have: it is a million that have nothing to send which cost memory.
    pub(crate) diverted: Option<Box<Diverted>>,
    /// An order may name some of its messages, or some of its sources.
    pub(crate) depends: bool,
    /// It stands among those that may be forgotten.
    pub(crate) listed_idle: bool,
}

/// Where a queue's mail goes instead.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Diverted {
    /// An order gives it up.
    pub(crate) bounced_by: Option<OrderId>,
    /// An order sends it by another pool.
    pub(crate) rerouted: Option<PoolAt>,
    /// A rule sends it by another pool, until that path leaves backoff.
    pub(crate) moved: Option<(PoolAt, PathKey)>,
}

impl LineState {
    pub(crate) fn bounced_by(&self) -> Option<OrderId> {
        self.diverted.as_ref()?.bounced_by
    }

    /// The pool it goes by in place of its own.
    pub(crate) fn other_pool(&self) -> Option<PoolAt> {
        let diverted = self.diverted.as_ref()?;
        diverted.rerouted.or(diverted.moved.map(|(pool, _)| pool))
    }

    pub(crate) fn divert(&mut self, change: impl FnOnce(&mut Diverted)) {
        let mut diverted = self.diverted.as_deref().copied().unwrap_or_default();
        change(&mut diverted);
        let Diverted { bounced_by, rerouted, moved } = &diverted;
        let any = bounced_by.is_some() || rerouted.is_some() || moved.is_some();
        self.diverted = any.then(|| Box::new(diverted));
    }
}

/// What is known of a target's site.
#[derive(Debug)]
pub(crate) enum Binding {
    /// Nothing yet; it is being asked for, or will be.
    Unknown,
    /// It is known.
    Bound {
        site: SiteKey,
        /// When to ask again.
        until: Instant,
    },
    /// Mail for it can never be delivered, for now.
    Refused { reply: Box<Reply>, until: Instant },
    /// It could not be found out.
    Failed { reply: Box<Reply>, until: Instant, failures: u32 },
}

/// There may be a million of these that have nothing to send, so they hold what they must.
pub(crate) struct TargetState {
    /// The target's text, which is its key too.
    pub(crate) name: Arc<str>,
    /// Nearly all have one.
    pub(crate) lines: SmallVec<[LineKey; 4]>,
    pub(crate) binding: Binding,
    /// Tells its exchangers, and what it asks of connections to them, from others: a site may have several sets of
    /// them, and mail must not reach one of another domain's, nor go by a connection made for less.
    pub(crate) exchangers: u64,
    /// It stands in line to be asked for.
    pub(crate) wants_site: bool,
    /// It was asked for, and the answer is on its way: it is not asked for twice at a time, nor forgotten.
    pub(crate) asked: bool,
    /// How often in a row its mail could not leave for a reason of its own.
    pub(crate) failed_before: u32,
}

impl TargetState {
    /// The target. None never comes, for the text was made of one.
    pub(crate) fn target(&self) -> Option<Target> {
        Target::parse(&self.name)
    }
}

/// The queues of a site that leave by one pool.
pub(crate) struct GroupState {
    pub(crate) pool: PoolAt,
    pub(crate) key: GroupKey,
    pub(crate) turns: Turns,
    pub(crate) lines: u32,
    /// Why it got nothing the last time, and since when.
    pub(crate) hold: Option<Box<(Hold, Instant)>>,
}

pub(crate) struct SiteState {
    pub(crate) name: Arc<str>,
    pub(crate) provider: Option<Arc<str>>,
    /// Domains at it that the rules name.
    pub(crate) domains: Vec<Arc<str>>,
    pub(crate) groups: Vec<GroupState>,
    /// By source.
    pub(crate) paths: Vec<(SourceAt, PathAt)>,
    pub(crate) targets: u32,
    /// It stands in the line for a connection of the total.
    pub(crate) wants_connection: bool,
    /// It stands among those that wait for what other sites have of a limit they share.
    pub(crate) shares: bool,
    /// It stands among those that may be forgotten.
    pub(crate) listed_idle: bool,
    /// Where the next pass over its groups begins.
    pub(crate) turn: usize,
    /// When it is served again at the latest.
    pub(crate) wake_at: Option<Instant>,
}

/// A job that a connection has.
pub(crate) struct Assigned {
    pub(crate) keys: Vec<EntryKey>,
    pub(crate) permit: Permit,
    pub(crate) line: LineKey,
}

/// A connection.
pub(crate) struct Line {
    pub(crate) id: ConnectionId,
    pub(crate) jobs: Vec<Assigned>,
    pub(crate) ready: bool,
    pub(crate) draining: bool,
    /// Recipients that its exchanger takes in a transaction.
    pub(crate) recipients_max: u32,
    /// The exchangers it was opened to one of.
    pub(crate) exchangers: u64,
}

impl Line {
    /// It may carry mail and has none.
    pub(crate) fn is_idle(&self) -> bool {
        self.ready && !self.draining && self.jobs.is_empty()
    }
}

pub(crate) struct PathState {
    pub(crate) site: SiteKey,
    pub(crate) source: SourceAt,
    pub(crate) key: PathKey,
    pub(crate) connections: Vec<Line>,
    /// Why it took nothing the last time, and since when.
    pub(crate) hold: Option<Box<(Hold, Instant)>>,
    /// Why it could not be reached the last time it was tried.
    pub(crate) last_failure: Option<Arc<str>>,
}

/// What is to be looked at when a time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wake {
    Site(SiteKey),
    Line(LineKey),
    Target(TargetKey),
}

/// Entries that an order holds although their queue may send.
pub(crate) struct HeldEntries {
    /// The name of the text that stands as their last reply.
    pub(crate) reply: u32,
    /// Each once, however often it is looked at again.
    pub(crate) keys: HashSet<EntryKey>,
}

/// Why an entry ends without an attempt.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    /// Its time is over.
    Expired,
    /// Its target takes no mail, or a rule gives its queue up.
    Refused(Arc<Reply>),
    /// An order gives it up, if it is still in force when the entry has its turn.
    Ordered(OrderId, Arc<Reply>),
}

/// The machine. See the crate's page.
pub struct Dispatch {
    pub(crate) config: Config,
    pub(crate) egress: Egress,
    pub(crate) rules: Arc<Rules>,
    pub(crate) queue: Queue,
    pub(crate) shaper: Shaper,
    pub(crate) orders: Orders,
    pub(crate) replies: Replies,
    pub(crate) tenants: Names,
    pub(crate) campaigns: Names,
    pub(crate) lines: Vec<Option<LineState>>,
    pub(crate) line_names: HashMap<LineName, LineKey>,
    pub(crate) targets: Vec<Option<TargetState>>,
    pub(crate) free_targets: Vec<u32>,
    /// By their text.
    pub(crate) target_keys: HashMap<Arc<str>, TargetKey>,
    pub(crate) sites: Vec<Option<SiteState>>,
    pub(crate) free_sites: Vec<u32>,
    pub(crate) site_keys: HashMap<Arc<str>, SiteKey>,
    pub(crate) paths: Vec<Option<PathState>>,
    pub(crate) free_paths: Vec<u32>,
    pub(crate) path_of: HashMap<PathKey, PathAt>,
    /// Paths that only the shaper knows, for what an earlier process had granted there.
    pub(crate) strays: Vec<PathKey>,
    /// When room may be made again for sites that wait for a connection; `None` if none waited the last time.
    pub(crate) room_at: Option<Instant>,
    /// When connections with nothing to do were last looked for.
    pub(crate) idle_sought_at: Option<Instant>,
    pub(crate) owners: HashMap<ConnectionId, PathAt>,
    pub(crate) last_connection: u64,
    /// Connections in the order they were begun, until they are greeted or over; some that are stand here yet.
    pub(crate) beginning: VecDeque<(Instant, ConnectionId)>,
    /// Sites to serve.
    pub(crate) touched: Vec<SiteKey>,
    /// Sites that want a connection when the total allows.
    pub(crate) wanting: VecDeque<SiteKey>,
    /// The same, of those that have not answered lately.
    pub(crate) wanting_unknown: VecDeque<SiteKey>,
    /// The next place goes to the one that came last.
    pub(crate) newest_first: bool,
    /// Sites that wait for what other sites have of a limit they share.
    pub(crate) sharing: VecDeque<SiteKey>,
    /// Sites that have answered.
    pub(crate) answering: Answering,
    /// The site that something was placed at last: among those that want the same, others go before it.
    pub(crate) placed_last: SiteKey,
    pub(crate) wakes: BinaryHeap<Reverse<(Instant, Wake)>>,
    pub(crate) to_resolve: VecDeque<TargetKey>,
    pub(crate) resolving: usize,
    /// Entries that end without an attempt, a few at a time.
    pub(crate) giving_up: VecDeque<(EntryKey, Ending)>,
    /// Where the walk over all entries for orders that bounce stands.
    pub(crate) bounce_walk: Option<u32>,
    pub(crate) held_entries: HashMap<OrderId, HeldEntries>,
    pub(crate) idle: VecDeque<(Instant, LineKey)>,
    pub(crate) idle_sites: VecDeque<(Instant, SiteKey)>,
    pub(crate) actions: Vec<Action>,
    pub(crate) granted: Vec<Granted>,
    /// Jobs that are being settled without a connection.
    pub(crate) settling: usize,
    pub(crate) stopping: bool,
    /// When time was last told.
    pub(crate) last_advanced: Instant,
    pub(crate) last_wall: UnixMillis,
    /// Room for the order of a pool's sources, used again each time.
    pub(crate) scratch: Vec<usize>,
}

impl Dispatch {
    /// A machine with nothing queued.
    pub fn new(now: Instant, config: Config, egress: Egress, rules: Arc<Rules>) -> Self {
        Self {
            config,
            egress,
            queue: Queue::new(now),
            shaper: Shaper::new(rules.clone()),
            rules,
            orders: Orders::default(),
            replies: Replies::default(),
            tenants: Names::default(),
            campaigns: Names::default(),
            lines: Vec::new(),
            line_names: HashMap::new(),
            targets: Vec::new(),
            free_targets: Vec::new(),
            target_keys: HashMap::new(),
            sites: Vec::new(),
            free_sites: Vec::new(),
            site_keys: HashMap::new(),
            paths: Vec::new(),
            free_paths: Vec::new(),
            path_of: HashMap::new(),
            strays: Vec::new(),
            room_at: None,
            idle_sought_at: None,
            owners: HashMap::new(),
            last_connection: 0,
            beginning: VecDeque::new(),
            touched: Vec::new(),
            wanting: VecDeque::new(),
            wanting_unknown: VecDeque::new(),
            newest_first: false,
            sharing: VecDeque::new(),
            answering: Answering::default(),
            placed_last: SiteKey(0),
            wakes: BinaryHeap::new(),
            to_resolve: VecDeque::new(),
            resolving: 0,
            giving_up: VecDeque::new(),
            bounce_walk: None,
            held_entries: HashMap::new(),
            idle: VecDeque::new(),
            idle_sites: VecDeque::new(),
            actions: Vec::new(),
            granted: Vec::new(),
            settling: 0,
            stopping: false,
            last_advanced: now,
            last_wall: UnixMillis::default(),
            scratch: Vec::new(),
        }
    }

    /// What is to be done; to be carried out in order.
    pub fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Leave given since the last call that must be known to a process after this one before anything is sent.
    pub fn granted(&mut self) -> Vec<Granted> {
        std::mem::take(&mut self.granted)
    }

    /// Recipients queued.
    pub fn recipients(&self) -> u64 {
        self.queue.recipients()
    }

    /// Connections open or being opened.
    pub fn connections(&self) -> usize {
        self.owners.len()
    }

    /// The rules for traffic, for questions and for what must survive a restart.
    pub fn shaper(&mut self) -> &mut Shaper {
        &mut self.shaper
    }

    /// The sources and pools.
    pub fn egress(&self) -> &Egress {
        &self.egress
    }

    /// The operator's orders.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = (LineKey, &LineState)> {
        self.lines.iter().enumerate().filter_map(|(at, line)| Some((LineKey(at as u32), line.as_ref()?)))
    }

    // ---- keys ---------------------------------------------------------------------------------------------

    pub(crate) fn line(&self, key: LineKey) -> Option<&LineState> {
        self.lines.get(key.0 as usize)?.as_ref()
    }

    pub(crate) fn line_mut(&mut self, key: LineKey) -> Option<&mut LineState> {
        self.lines.get_mut(key.0 as usize)?.as_mut()
    }

    /// The key of a target that is known.
    pub(crate) fn target_key(&self, target: &Target) -> Option<TargetKey> {
        match target {
            Target::Domain(domain) => self.target_keys.get(domain.as_str()),
            other => self.target_keys.get(&*other.to_string()),
        }
        .copied()
    }

    pub(crate) fn target(&self, key: TargetKey) -> Option<&TargetState> {
        self.targets.get(key.0 as usize)?.as_ref()
    }

    pub(crate) fn target_mut(&mut self, key: TargetKey) -> Option<&mut TargetState> {
        self.targets.get_mut(key.0 as usize)?.as_mut()
    }

    pub(crate) fn site(&self, key: SiteKey) -> Option<&SiteState> {
        self.sites.get(key.0 as usize)?.as_ref()
    }

    pub(crate) fn site_mut(&mut self, key: SiteKey) -> Option<&mut SiteState> {
        self.sites.get_mut(key.0 as usize)?.as_mut()
    }

    pub(crate) fn path(&self, at: PathAt) -> Option<&PathState> {
        self.paths.get(at.0 as usize)?.as_ref()
    }

    pub(crate) fn path_mut(&mut self, at: PathAt) -> Option<&mut PathState> {
        self.paths.get_mut(at.0 as usize)?.as_mut()
    }

    /// The site of a queue, if it is known.
    pub(crate) fn site_of_line(&self, line: LineKey) -> Option<SiteKey> {
        match self.target(self.line(line)?.name.target)?.binding {
            Binding::Bound { site, .. } => Some(site),
            _ => None,
        }
    }

    /// A job ends without a connection.
    pub(crate) fn settle(&mut self, job: crate::Job, fate: crate::Fate) {
        self.settling += 1;
        self.actions.push(Action::Settle(job, fate));
    }

    pub(crate) fn touch(&mut self, site: SiteKey) {
        self.touched.push(site);
    }

    /// Serves a site again at `at`, unless it is served earlier anyway.
    pub(crate) fn wake_site(&mut self, now: Instant, site: SiteKey, at: Instant) {
        let Some(state) = self.site_mut(site) else { return };
        if state.wake_at.is_some_and(|known| known > now && known <= at) {
            return;
        }
        state.wake_at = Some(at);
        self.wakes.push(Reverse((at, Wake::Site(site))));
    }

    /// A place in a table with holes.
    pub(crate) fn insert<T>(table: &mut Vec<Option<T>>, free: &mut Vec<u32>, value: T) -> u32 {
        match free.pop() {
            Some(at) => {
                table[at as usize] = Some(value);
                at
            }
            None => {
                table.push(Some(value));
                table.len() as u32 - 1
            }
        }
    }
}
