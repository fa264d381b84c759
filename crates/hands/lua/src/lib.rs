//! The operator's scripts in Lua 5.4, within limits: a policy that answers by what a script says.
//!
//! A script registers functions with `tuma.on(phase, function)`. [`Script`] loads it into as many contexts as there are
//! threads that serve sessions; a session stays with one context, so that what a hook notes of it is there at the next.
//!
//! A hook is a coroutine that is made to step aside after some thousand instructions, so that a loop without an end never
//! holds the thread: others are served between two slices, until its limits of time, instructions and memory end it. The
//! library functions that could run long without an instruction (patterns, `string.rep`, `table.sort` and the like) are
//! replaced by bounded ones. What a script does wrong, an error, a limit, an answer that is none, is never a yes: the
//! client gets 451 unless the configuration says otherwise.
//!
//! Scripts can reach no file, no process and no socket but through what `tuma` offers them.
//!
//! Read first: `script.rs`, then `context.rs` and `call.rs`.

mod answer;
mod bounded;
mod call;
mod config;
mod context;
mod message;
mod meter;
mod pattern;
mod script;
mod session;
mod surroundings;
mod testing;

pub use config::LuaConfig;
pub use script::{LoadError, Script};
pub use testing::{Tested, test};

/// The interface of scripts, as annotations for the Lua language server.
pub const ANNOTATIONS: &str = include_str!("annotations.lua");

#[cfg(test)]
mod tests;
