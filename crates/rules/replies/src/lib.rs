//! Which of many patterns a reply matches, and the stage of a session at which it came.
//!
//! Two rooms judge replies by rules an operator writes: `shaping`, by what it does next, and `bounce`, by the class of
//! a failure. Both have thousands of patterns and a reply every few microseconds, so the search is shared: a
//! [`Pattern`] says which texts must stand in whatever it matches, a [`PatternSet`] finds in one pass over the reply
//! which patterns may match, and only those are tried.
//!
//! Nothing here knows what follows from a match.
//!
//! Read first: [`Pattern::new`], then [`PatternSet`].

mod pattern;
mod set;
mod stage;

pub use pattern::{PATTERN_MAX, Pattern, Required, check, subject};
pub use set::PatternSet;
pub use stage::Stage;
