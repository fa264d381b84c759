//! The machine under random events.
