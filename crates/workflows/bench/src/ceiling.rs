//! What the bench itself can do: loader and sink connected to each other, nothing between.

use std::io;
use std::time::Duration;

use crate::copies::Copies;
use crate::json;
use crate::loader::{self, Report};
use crate::sink::{self, Sink, Stats};

/// Messages whose octets are copied to measure that.
const COPIES_OF: u32 = 5_000;

/// Both ends' account of one direct run.
#[derive(Clone, Debug)]
pub struct Ceiling {
    /// The loader's.
    pub report: Report,
    /// The sink's.
    pub stats: Stats,
    /// What four copies of a message's octets cost on this machine.
    pub copies: Copies,
}

impl Ceiling {
    /// CPU of both ends for one message.
    pub fn cpu_per_message(&self) -> Duration {
        (self.report.cpu + self.stats.cpu) / u32::try_from(self.stats.messages.max(1)).unwrap_or(u32::MAX)
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        json::Object::default()
            .raw("rate", format_args!("{:.1}", self.report.rate()))
            .raw("cpu_us_a_message", format_args!("{:.2}", self.cpu_per_message().as_secs_f64() * 1e6))
            .raw("loader", self.report.to_json())
            .raw("sink", self.stats.to_json())
            .raw("copies", self.copies.to_json())
            .end()
    }
}

impl std::fmt::Display for Ceiling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let us = |cpu: Duration| cpu.as_secs_f64() * 1e6 / self.stats.messages.max(1) as f64;
        writeln!(f, "{}\n{}", self.report, self.stats)?;
        writeln!(
            f,
            "ceiling: {:.0} messages/s at {:.1} µs of CPU a message (loader {:.1}, sink {:.1})",
            self.report.rate(),
            us(self.report.cpu + self.stats.cpu),
            us(self.report.cpu),
            us(self.stats.cpu),
        )?;
        write!(f, "{}", self.copies)
    }
}

/// Runs a loader against a sink of its own; the loader's target is overwritten.
pub async fn ceiling(loader: loader::Options, sink: sink::Options) -> io::Result<Ceiling> {
    let sink = Sink::start(sink)?;
    let size = loader.size;
    let report = loader::run(loader::Options { target: sink.addr(), ..loader }).await;
    let stats = sink.stop();
    // Nothing else runs here by now.
    Ok(Ceiling { report, stats, copies: Copies::measure(size, COPIES_OF)? })
}
