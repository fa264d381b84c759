//! A disk that keeps only what was synced: at a crash it loses, tears and reorders the rest, and before that
//! it fails on request. For tests, here and in other rooms.

use crate::disk::{Disk, DiskFile};
use std::collections::{BTreeMap, HashMap};
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Octets that reach the disk whole or not at all.
const SECTOR: usize = 512;

/// What a crash does to what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is killed: the page cache stays, nothing is lost.
    Kill,
    /// The power fails and nothing unsynced had reached the disk.
    Lose,
    /// The power fails and some sectors, and some changes of names, had reached the disk, by this seed.
    Tear(u64),
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// EIO.
    Io,
    /// ENOSPC.
    Full,
    /// A write takes only half of its octets; other calls are not affected.
    Short,
}

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Any that changes something.
    Any,
    /// Writes.
    Write,
    /// Syncs of files.
    Sync,
    /// Reads.
    Read,
}

#[derive(Clone)]
enum DirOp {
    Name(String, u64),
    Rename(String, String, u64),
    Remove(String),
}

#[derive(Clone, Default)]
struct Node {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// Dirty sectors.
    dirty: std::collections::BTreeSet<usize>,
    /// The length changed since the last sync.
    resized: bool,
}

struct State {
    nodes: HashMap<u64, Node>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    dir_ops: Vec<DirOp>,
    next: u64,
    calls: u64,
    crash_at: Option<(u64, bool)>,
    dead: bool,
    faults: Vec<(Call, u64, u64, Fault)>,
    capacity: u64,
    random: u64,
}

/// The disk. Clones share it.
#[derive(Clone)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

struct SimulatedFile {
    disk: SimulatedDisk,
    node: u64,
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn dead() -> io::Error {
    io::Error::other("the machine is off")
}

impl SimulatedDisk {
    /// An empty disk of so many octets.
    pub fn new(capacity: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            nodes: HashMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            dir_ops: Vec::new(),
            next: 1,
            calls: 0,
            crash_at: None,
            dead: false,
            faults: Vec::new(),
            capacity,
            random: 1,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls made so far that change something.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// From call number `call` on the machine is off; that call itself still happens if `after`, though
    /// nobody hears of it.
    pub fn crash_at(&self, call: u64, after: bool) {
        self.state().crash_at = Some((call, after));
    }

    /// True if the crash has come.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Lets calls of a kind fail: `count` of them, after the next `skip`.
    pub fn fail(&self, call: Call, skip: u64, count: u64, fault: Fault) {
        self.state().faults.push((call, skip, count, fault));
    }

    /// No more failures.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Another size.
    pub fn set_capacity(&self, capacity: u64) {
        self.state().capacity = capacity;
    }

    /// The names of all files.
    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// A file's octets.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let node = state.names.get(name)?;
        state.nodes.get(node).map(|node| node.visible.clone())
    }

    /// Replaces a file's octets, on the disk itself.
    pub fn set_content(&self, name: &str, octets: Vec<u8>) {
        let mut state = self.state();
        let Some(id) = state.names.get(name).copied() else { return };
        let node = Node { visible: octets.clone(), durable: octets, ..Node::default() };
        state.nodes.insert(id, node);
    }

    /// The disk as the next start finds it.
    pub fn after(&self, crash: Crash) -> Self {
        let mut state = self.state();
        let mut seed = if let Crash::Tear(seed) = crash { seed } else { 0 };
        let mut keep = move || match crash {
            Crash::Kill => true,
            Crash::Lose => false,
            Crash::Tear(_) => random(&mut seed) & 1 == 1,
        };
        let mut names = state.durable_names.clone();
        for op in &state.dir_ops {
            if !keep() {
                continue;
            }
            match op {
                DirOp::Name(name, id) => drop(names.insert(name.clone(), *id)),
                DirOp::Rename(from, to, id) => {
                    if names.get(from) == Some(id) {
                        names.remove(from);
                    }
                    names.insert(to.clone(), *id);
                }
                DirOp::Remove(name) => drop(names.remove(name)),
            }
        }
        let mut nodes = HashMap::new();
        let mut ids: Vec<u64> = names.values().copied().collect();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            let Some(node) = state.nodes.get(&id) else { continue };
            // A killed process leaves the page cache as it was, also what a failed sync left in it.
            let mut octets = if crash == Crash::Kill { node.visible.clone() } else { node.durable.clone() };
            if node.resized && keep() {
                octets.resize(node.visible.len(), 0);
            }
            for sector in &node.dirty {
                if keep() {
                    let from = sector * SECTOR;
                    let to = (from + SECTOR).min(node.visible.len());
                    if octets.len() < to {
                        octets.resize(to, 0);
                    }
                    octets[from..to].copy_from_slice(&node.visible[from..to]);
                }
            }
            nodes.insert(id, Node { visible: octets.clone(), durable: octets, ..Node::default() });
        }
        let nonce = random(&mut state.random);
        Self(Arc::new(Mutex::new(State {
            nodes,
            durable_names: names.clone(),
            names,
            dir_ops: Vec::new(),
            next: state.next,
            calls: 0,
            crash_at: None,
            dead: false,
            faults: Vec::new(),
            capacity: state.capacity,
            random: nonce,
        })))
    }

    /// Runs a changing call, unless the machine is off or the call is to fail.
    fn change<T>(
        &self,
        kind: Call,
        act: impl FnOnce(&mut State, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state();
        if state.dead {
            return Err(dead());
        }
        state.calls += 1;
        if let Some((call, after)) = state.crash_at
            && state.calls >= call
        {
            state.dead = true;
            if after {
                let _ = act(&mut state, None);
            }
            return Err(dead());
        }
        let fault = state.fault(kind);
        match fault {
            Some(Fault::Io) => Err(io::Error::from_raw_os_error(nix::libc::EIO)),
            Some(Fault::Full) => Err(io::Error::from_raw_os_error(nix::libc::ENOSPC)),
            other => act(&mut state, other),
        }
    }
}

impl State {
    fn fault(&mut self, kind: Call) -> Option<Fault> {
        for (call, skip, count, fault) in &mut self.faults {
            if *call == kind || (*call == Call::Any && kind != Call::Read) {
                if *skip > 0 {
                    *skip -= 1;
                } else if *count > 0 {
                    *count -= 1;
                    return Some(*fault);
                }
            }
        }
        None
    }

    fn used(&self) -> u64 {
        let linked = self.names.values().filter_map(|id| self.nodes.get(id));
        linked.map(|node| node.visible.len() as u64).sum()
    }

    fn resize(&mut self, id: u64, len: usize) -> io::Result<()> {
        let old = self.nodes.get(&id).map_or(0, |node| node.visible.len());
        if len > old && self.used() + (len - old) as u64 > self.capacity {
            return Err(io::Error::from_raw_os_error(nix::libc::ENOSPC));
        }
        let node = self.nodes.entry(id).or_default();
        if len > old {
            node.visible.resize(len, 0);
            node.resized = true;
        }
        Ok(())
    }
}

impl Disk for SimulatedDisk {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let state = self.state();
        let plain = state.names.iter().filter(|(name, _)| !name.contains('/'));
        Ok(plain.map(|(name, id)| (name.clone(), state.nodes[id].visible.len() as u64)).collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        if state.dead {
            return Err(dead());
        }
        let node = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), node }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let node = self.change(Call::Any, |state, _| {
            let id = state.next;
            state.next += 1;
            state.nodes.insert(id, Node::default());
            state.names.insert(name.to_owned(), id);
            state.dir_ops.push(DirOp::Name(name.to_owned(), id));
            Ok(id)
        })?;
        Ok(Arc::new(SimulatedFile { disk: self.clone(), node }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(Call::Any, |state, _| {
            let id = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(to.to_owned(), id);
            state.dir_ops.push(DirOp::Rename(from.to_owned(), to.to_owned(), id));
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(Call::Any, |state, _| {
            state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
            state.dir_ops.push(DirOp::Remove(name.to_owned()));
            Ok(())
        })
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.change(Call::Any, |state, _| {
            state.durable_names = state.names.clone();
            state.dir_ops.clear();
            Ok(())
        })
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.saturating_sub(state.used()))
    }

    fn nonce(&self) -> u64 {
        random(&mut self.state().random)
    }
}

impl DiskFile for SimulatedFile {
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let octets: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.disk.change(Call::Write, |state, fault| {
            let len = if fault == Some(Fault::Short) { octets.len() / 2 } else { octets.len() };
            let from = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
            state.resize(self.node, from + len)?;
            let node = state.nodes.entry(self.node).or_default();
            node.visible[from..from + len].copy_from_slice(&octets[..len]);
            if len > 0 {
                node.dirty.extend(from / SECTOR..=(from + len - 1) / SECTOR);
            }
            Ok(len)
        })
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        if state.dead {
            return Err(dead());
        }
        if state.fault(Call::Read).is_some() {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        let Some(node) = state.nodes.get(&self.node) else { return Ok(0) };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(node.visible.len());
        let len = into.len().min(node.visible.len() - from);
        into[..len].copy_from_slice(&node.visible[from..from + len]);
        Ok(len)
    }

    fn data_end(&self) -> io::Result<u64> {
        let state = self.disk.state();
        if state.dead {
            return Err(dead());
        }
        let Some(node) = state.nodes.get(&self.node) else { return Ok(0) };
        // By sectors, as a file system does.
        let last = node.visible.iter().rposition(|&octet| octet != 0);
        Ok(last.map_or(0, |last| (last + 1).next_multiple_of(SECTOR).min(node.visible.len()) as u64))
    }

    fn datasync(&self) -> io::Result<()> {
        let synced = self.disk.change(Call::Sync, |state, _| {
            if let Some(node) = state.nodes.get_mut(&self.node) {
                node.durable = node.visible.clone();
                node.dirty.clear();
                node.resized = false;
            }
            Ok(())
        });
        if synced.is_err() {
            // As Linux does: the pages are marked clean although they never reached the disk, so that the next
            // sync succeeds and saves nothing.
            let mut state = self.disk.state();
            if !state.dead
                && let Some(node) = state.nodes.get_mut(&self.node)
            {
                node.dirty.clear();
            }
        }
        synced
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.disk.change(Call::Any, |state, _| state.resize(self.node, len as usize))
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        if state.dead {
            return Err(dead());
        }
        Ok(state.nodes.get(&self.node).map_or(0, |node| node.visible.len() as u64))
    }
}
