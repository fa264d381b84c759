//! The operator's scripts in JavaScript, within limits: a policy that answers by what a script says.
//!
//! A script registers functions with `tuma.on(phase, function)`. [`Script`] loads it into as many contexts as there are
//! threads that serve sessions; a session stays with one context, so that what a hook notes of it is there at the next.
//!
//! A hook runs until it returns or waits for a promise; a loop or a pattern without an end is interrupted at its limit
//! of time, and a context has a limit of memory and of stack. What a script waits for (names, timers) runs beside the
//! sessions and comes back into the context when it is done. What a script does wrong, an error, a rejection, a limit,
//! an answer that is none, is never a yes: the client gets 451 unless the configuration says otherwise.
//!
//! Scripts can reach no file, no process and no socket but through what `tuma` offers them.
//!
//! Read first: `script.rs`, then `context.rs` and `prelude.js`.

mod answer;
mod config;
mod context;
mod haraka;
mod host;
mod message;
mod program;
mod script;
mod testing;

pub use config::JsConfig;
pub use context::Failure;
pub use haraka::{Found, HarakaConfig, Plugins};
pub use script::{LoadError, Script};
pub use testing::{Tested, test};

/// The interface of scripts, as declarations for TypeScript, so that editors complete and check.
pub const DECLARATIONS: &str = include_str!("tuma.d.ts");

#[cfg(test)]
mod tests;
