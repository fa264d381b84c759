//! Tuma, a mail transfer agent: the parts of the binary that tests drive too.

pub mod config;
