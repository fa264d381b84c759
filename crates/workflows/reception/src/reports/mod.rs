//! Aggregate reports of DMARC: collected as lines in a file of each interval, added up when it is over, and sent by
//! the front door like any other mail.
//!
//! Collecting never holds a session up: what the writer cannot take is counted and left out. A kill loses the lines
//! of about a second; a kill while reports are sent may send some of them twice, under the same id.

mod collect;
mod config;
mod send;

pub use collect::Collector;
pub use config::ReportsConfig;
pub use send::report;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counted since the start.
#[derive(Debug, Default)]
pub struct ReportFigures {
    pub(crate) collected: AtomicU64,
    pub(crate) left_out: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) not_sent: AtomicU64,
}

impl ReportFigures {
    /// Messages that reports will tell of.
    pub fn collected(&self) -> u64 {
        self.collected.load(Relaxed)
    }

    /// Messages left out for want of room.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Relaxed)
    }

    /// Reports handed to delivery.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Reports that nobody would take: too large, no address that agreed, or no room here.
    pub fn not_sent(&self) -> u64 {
        self.not_sent.load(Relaxed)
    }
}
