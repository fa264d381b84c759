//! Room: prepares files ahead, takes back segments whose messages are all settled, watches free space.

use crate::disk::is_full;
use crate::state::state_header;
use crate::table::{Phase, Shared, Spare, add, lock, segment_name, state_name};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A file for the next segment: one prepared ahead, or one made now.
pub(crate) fn take_spare(shared: &Shared) -> io::Result<Spare> {
    let spare = lock(&shared.spares).ready.pop();
    shared.janitor_bell.ring();
    match spare {
        Some(spare) => Ok(spare),
        None => {
            add(&shared.counters.inline_preparations, 1);
            prepare_for(shared, shared.config.segment_bytes.bytes())
        }
    }
}

/// Makes a file of this size, if that leaves enough room free.
pub(crate) fn prepare_for(shared: &Shared, size: u64) -> io::Result<Spare> {
    let reuse =
        if size == shared.config.segment_bytes.bytes() { lock(&shared.spares).leftovers.pop() } else { None };
    if reuse.is_none() {
        let free = shared.disk.free_bytes()?;
        if free < shared.config.min_free_bytes.bytes().saturating_add(size) {
            return Err(io::ErrorKind::StorageFull.into());
        }
    }
    prepare(shared, size, reuse)
}

/// Makes a file and its sidecar, from one no longer needed or anew. Nothing of an earlier life can be
/// believed in it: the number is new, so the old header is not this file's, and so is the generation.
fn prepare(shared: &Shared, size: u64, reuse: Option<u32>) -> io::Result<Spare> {
    let number = {
        let mut table = lock(&shared.table);
        let number = table.next_number;
        table.next_number = number.checked_add(1).ok_or(io::ErrorKind::FileTooLarge)?;
        number
    };
    let name = segment_name(number);
    let file = match reuse {
        Some(old) => {
            if let Err(error) = shared.disk.rename(&segment_name(old), &name) {
                lock(&shared.spares).leftovers.push(old);
                return Err(error);
            }
            shared.disk.open(&name)
        }
        None => shared.disk.create(&name),
    };
    let finished = file.and_then(|file| {
        // Also for a file that is reused: it may have had another size, and costs nothing if not.
        file.allocate(size)?;
        let generation = shared.disk.nonce().max(1);
        let sidecar = shared.disk.create(&state_name(number))?;
        let header = state_header(number, generation);
        crate::disk::write_all(&*sidecar, &mut [IoSlice::new(&header)], 0)?;
        sidecar.datasync()?;
        file.datasync()?;
        shared.disk.sync_dir()?;
        Ok(Spare { number, generation, size, file })
    });
    match finished {
        Ok(spare) => {
            // Only now: were the renaming lost, the old segment would come back without its outcomes.
            if let Some(old) = reuse {
                let _ = shared.disk.remove(&state_name(old));
            }
            Ok(spare)
        }
        Err(error) => {
            let _ = shared.disk.remove(&state_name(number));
            if reuse.is_some() {
                lock(&shared.spares).leftovers.push(number);
            } else {
                // A file that could not be made whole only takes room.
                let _ = shared.disk.remove(&name);
            }
            Err(error)
        }
    }
}

/// The owner of that work.
pub(crate) struct Janitor {
    shared: Arc<Shared>,
    /// Segments taken out of the table whose files are still to be removed.
    doomed: Vec<u32>,
    /// Sidecars whose segment is removed, but not durably yet.
    orphans: Vec<u32>,
}

impl Janitor {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, doomed: Vec::new(), orphans: Vec::new() }
    }

    /// Does what there is to do.
    pub fn step(&mut self) {
        self.retire();
        self.remove_doomed();
        self.watch_room();
        self.prepare_ahead();
    }

    /// Takes segments that nobody needs out of the table.
    fn retire(&mut self) {
        let mut emptied = Vec::new();
        {
            let mut table = lock(&self.shared.table);
            let all_loaded = table.all_loaded;
            table.segments.retain(|number, segment| {
                let needed = segment.phase != Phase::Sealed
                    || segment.index.live() > 0
                    || segment.barred > 0
                    || segment.keep
                    || !(all_loaded || segment.born_here);
                if !needed {
                    emptied.push((*number, segment.size));
                }
                needed
            });
        }
        for (number, size) in emptied {
            self.shared.close_file(number);
            let spares = lock(&self.shared.spares);
            let kept = spares.ready.len() + spares.leftovers.len();
            drop(spares);
            let low = self.shared.gate.full.load(Relaxed) && kept > 0;
            let reusable = size == self.shared.config.segment_bytes.bytes() && !low;
            if reusable && kept < self.shared.config.spare_segments as usize {
                match prepare(&self.shared, size, Some(number)) {
                    Ok(spare) => {
                        lock(&self.shared.spares).ready.push(spare);
                        add(&self.shared.counters.recycled_segments, 1);
                    }
                    Err(error) => tracing::warn!(segment = number, %error, "segment not reused yet"),
                }
            } else {
                self.doomed.push(number);
            }
        }
        // Leftovers beyond what we keep.
        let mut spares = lock(&self.shared.spares);
        let keep = (self.shared.config.spare_segments as usize).saturating_sub(spares.ready.len());
        while spares.leftovers.len() > keep {
            self.doomed.extend(spares.leftovers.pop());
        }
    }

    fn remove_doomed(&mut self) {
        let mut left = Vec::new();
        for number in std::mem::take(&mut self.doomed) {
            match self.shared.disk.remove(&segment_name(number)) {
                Ok(()) => {
                    add(&self.shared.counters.deleted_segments, 1);
                    self.orphans.push(number);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.orphans.push(number),
                Err(error) => {
                    tracing::warn!(segment = number, %error, "segment not removed yet");
                    left.push(number);
                }
            }
        }
        self.doomed = left;
        if self.orphans.is_empty() {
            return;
        }
        // A sidecar goes only when its segment has gone durably: were the segment to come back without it,
        // every message in it would be delivered again.
        match self.shared.disk.sync_dir() {
            Ok(()) => {
                for number in self.orphans.drain(..) {
                    let _ = self.shared.disk.remove(&state_name(number));
                }
            }
            Err(error) => tracing::warn!(%error, "directory not synced"),
        }
    }

    fn watch_room(&mut self) {
        let Ok(free) = self.shared.disk.free_bytes() else { return };
        self.shared.counters.free_bytes.store(free, Relaxed);
        let shared = self.shared.clone();
        let gate = &shared.gate;
        if free < self.shared.config.min_free_bytes.bytes() {
            if !gate.full.swap(true, Relaxed) {
                tracing::warn!(free_bytes = free, "spool is full, intake stops");
            }
        } else if gate.full.load(Relaxed) {
            let ready = !lock(&self.shared.spares).ready.is_empty();
            let room = ready || self.prepare_one().is_ok();
            if room {
                gate.full.store(false, Relaxed);
                tracing::info!(free_bytes = free, "spool has room again, intake goes on");
            }
        }
    }

    fn prepare_ahead(&mut self) {
        if lock(&self.shared.spares).ready.is_empty()
            && let Err(error) = self.prepare_one()
            && !is_full(&error)
        {
            tracing::warn!(%error, "no segment prepared ahead");
        }
    }

    fn prepare_one(&mut self) -> io::Result<()> {
        let spare = prepare_for(&self.shared, self.shared.config.segment_bytes.bytes())?;
        lock(&self.shared.spares).ready.push(spare);
        Ok(())
    }
}
