//! What the call that runs now has left, and who watches that.

use mlua::debug::DebugSource;
use mlua::{HookTriggers, Lua, VmState};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Instructions between two looks at the limits, and after which a hook steps aside: some tens of microseconds.
pub(crate) const SLICE: u32 = 5_000;

/// Steps of a pattern that count as one instruction.
const STEPS_PER_INSTRUCTION: u64 = 2;

/// The meter of a context. It belongs to the call that is being resumed; its values are taken out when that call waits
/// and put back when it goes on.
#[derive(Debug)]
pub(crate) struct Meter {
    instructions_left: AtomicU64,
    /// Something is spent. From now on every look fails, so that no `pcall` can go on with it.
    spent: AtomicBool,
    /// Answers made and not returned yet: one that is forgotten would be a yes by accident.
    pub(crate) answers_made: AtomicU32,
    /// When this slice of work must be over.
    until: Mutex<Instant>,
    /// Where the script was when something was spent.
    place: Mutex<Option<String>>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            instructions_left: AtomicU64::new(u64::MAX),
            spent: AtomicBool::new(false),
            answers_made: AtomicU32::new(0),
            until: Mutex::new(Instant::now()),
            place: Mutex::new(None),
        }
    }
}

/// What is kept of a call between two resumptions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) instructions_left: u64,
    pub(crate) answers_made: u32,
}

impl Meter {
    /// A call goes on, with so much left.
    pub(crate) fn resume(&self, reading: Reading, now: Instant, time_left: Duration) {
        self.instructions_left.store(reading.instructions_left, Relaxed);
        self.answers_made.store(reading.answers_made, Relaxed);
        self.spent.store(false, Relaxed);
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = now + time_left;
        *self.place() = None;
    }

    /// What is left of a call that waits or is done; `None` if something is spent.
    pub(crate) fn pause(&self) -> Option<Reading> {
        let reading = Reading {
            instructions_left: self.instructions_left.load(Relaxed),
            answers_made: self.answers_made.load(Relaxed),
        };
        (!self.spent.load(Relaxed)).then_some(reading)
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the script was when something was spent.
    pub(crate) fn spent_at(&self) -> Option<String> {
        self.place().clone()
    }

    fn is_late(&self) -> bool {
        Instant::now() > *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error once something is spent: called wherever a script could go on after one.
    pub(crate) fn check(&self) -> mlua::Result<()> {
        if self.spent.load(Relaxed) { Err(spent()) } else { Ok(()) }
    }

    /// Takes the steps of a library function off the instructions.
    pub(crate) fn charge(&self, steps: u64) -> mlua::Result<()> {
        self.check()?;
        let cost = steps / STEPS_PER_INSTRUCTION;
        let left = self.instructions_left.load(Relaxed);
        self.instructions_left.store(left.saturating_sub(cost), Relaxed);
        // Only work that takes long is worth a look at the clock.
        if cost > left || (steps > 10_000 && self.is_late()) {
            self.spent.store(true, Relaxed);
            return Err(spent());
        }
        Ok(())
    }

    /// Watches every coroutine of a context.
    pub(crate) fn watch(self: &std::sync::Arc<Self>, lua: &Lua) -> mlua::Result<()> {
        let meter = self.clone();
        lua.set_global_hook(HookTriggers::new().every_nth_instruction(SLICE), move |_, debug| {
            let left = meter.instructions_left.load(Relaxed);
            meter.instructions_left.store(left.saturating_sub(u64::from(SLICE)), Relaxed);
            if left > u64::from(SLICE) && !meter.is_late() && !meter.spent.load(Relaxed) {
                return Ok(VmState::Yield);
            }
            if !meter.spent.swap(true, Relaxed) {
                let DebugSource { short_src, .. } = debug.source();
                let source = short_src.as_deref().unwrap_or("?");
                *meter.place() = Some(format!("{source}:{}", debug.current_line().unwrap_or(0)));
                // Where the coroutine can be left it is: no `pcall` hears of it.
                return Ok(VmState::Yield);
            }
            // It could not: it is within a comparison of a sort, or the like.
            Err(spent())
        })
    }
}

/// The error that a spent limit raises within a script.
fn spent() -> mlua::Error {
    mlua::Error::runtime("a limit on time or instructions is spent")
}
