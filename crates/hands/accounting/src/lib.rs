//! One record per recipient per outcome: in files, in memory for the last ones, and as metrics.
//!
//! The workflows build [`Record`]s (shared facts by `Arc`, no text copied) and hand them to the [`Recorder`],
//! which counts them in [`Metrics`], remembers the last ones for [`Recorder::events_of`], and gives each
//! configured file its own. A file has a bounded queue and a thread of its own, so a slow or full disk is never
//! waited for beyond what [`WhenFull`] says; what could not be written is counted and logged, and delivery goes
//! on. Formats are stable: JSON lines as `docs/accounting.md` lists them, CSV as PowerMTA writes it,
//! JSON lines in KumoMTA's field names.
//!
//! This room decides nothing about mail, keeps nothing that a restart needs, and sends nothing anywhere.
//!
//! Read first: `record.rs`, then `recorder.rs`; a file's life is `writer.rs` over `log.rs`.

mod config;
mod csv;
mod files;
mod json;
mod kumo;
mod log;
mod metrics;
mod record;
mod recorder;
mod status;
mod time;
mod writer;

#[cfg(test)]
mod tests;

pub use config::{AccountingConfig, ConfigError, FileConfig, Format, WhenFull};
pub use files::{DiskFiles, Files, Listed, LogFile};
pub use json::JsonLines;
pub use metrics::Metrics;
pub use prometheus_client;
pub use record::{Attempt, Connection, Kind, Record, Refused, Reported, Subject, Via};
pub use recorder::{Observer, Recorder};
pub use status::status_text;
pub use time::iso_time;
pub use writer::FileStats;
