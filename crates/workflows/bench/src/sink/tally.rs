//! What a sink has counted: totals, and for each loader's run which marks came and how late.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use crate::histogram::Histogram;
use crate::sequence::{Mark, SequenceSet};
use crate::{Percentiles, json};

/// A moment's figures.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub open: u64,
    /// The most that were open at once.
    pub open_max: u64,
    /// Messages taken.
    pub messages: u64,
    /// Recipients of messages taken.
    pub recipients: u64,
    /// Octets of content of messages taken.
    pub octets: u64,
    /// Messages taken without a mark.
    pub unmarked: u64,
    /// Commands and messages a rule acted on.
    pub rules_acted: u64,
    /// Breaches of the protocol noticed, by what was wrong.
    pub faults: BTreeMap<&'static str, u64>,
    /// Each loader's run, by its name.
    pub runs: BTreeMap<u32, RunStats>,
    /// CPU time of the sink's own threads.
    pub cpu: Duration,
}

impl Stats {
    /// Recipients of all runs that came more than once.
    pub fn duplicates(&self) -> u64 {
        self.runs.values().map(|run| run.duplicates).sum()
    }

    /// One line of JSON; durations in microseconds.
    pub fn to_json(&self) -> String {
        let faults = self.faults.iter().fold(json::Object::default(), |o, (what, n)| o.raw(what, n));
        let runs = self.runs.iter().fold(json::Object::default(), |object, (run, stats)| {
            let inner = json::Object::default()
                .raw("messages", stats.messages)
                .raw("received", stats.received)
                .raw("duplicates", stats.duplicates)
                .raw("missing", stats.missing)
                .raw(
                    "missing_ranges",
                    json::array(stats.missing_ranges.iter().map(|r| format!("[{},{}]", r.start, r.end))),
                )
                .raw("first_us", stats.first_us)
                .raw("last_us", stats.last_us)
                .percentiles("latency", &stats.latency);
            object.raw(&format!("{run:08x}"), inner.end())
        });
        json::Object::default()
            .raw("connections", self.connections)
            .raw("open", self.open)
            .raw("open_max", self.open_max)
            .raw("messages", self.messages)
            .raw("recipients", self.recipients)
            .raw("octets", self.octets)
            .raw("unmarked", self.unmarked)
            .raw("rules_acted", self.rules_acted)
            .raw("faults", faults.end())
            .raw("runs", runs.end())
            .us("cpu_us", self.cpu)
            .end()
    }
}

impl std::fmt::Display for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "messages {}, recipients {}, octets {}, unmarked {}; connections {}, open {}; rules acted {}",
            self.messages,
            self.recipients,
            self.octets,
            self.unmarked,
            self.connections,
            self.open,
            self.rules_acted
        )?;
        for (run, stats) in &self.runs {
            write!(
                f,
                "\nrun {run:08x}: received {}, duplicates {}, missing so far {}; end to end {}",
                stats.received, stats.duplicates, stats.missing, stats.latency
            )?;
            if !stats.missing_ranges.is_empty() {
                write!(f, "\n  messages missing: {:?}", stats.missing_ranges)?;
            }
        }
        for (what, count) in &self.faults {
            write!(f, "\nfault: {what} {count}×")?;
        }
        Ok(())
    }
}

/// One loader's run as this end saw it.
#[derive(Clone, Debug, Default)]
pub struct RunStats {
    /// Transactions that carried a message of this run.
    pub messages: u64,
    /// Different (message, recipient) pairs received.
    pub received: u64,
    /// Pairs received again.
    pub duplicates: u64,
    /// Pairs below the highest that have not come: lost, or on their way.
    pub missing: u64,
    /// Messages to which the missing pairs belong, the first few ranges; [`super::SinkHandle::missing`] has all.
    pub missing_ranges: Vec<Range<u64>>,
    /// When the first message came, in microseconds since 1970.
    pub first_us: u64,
    /// When the last message came.
    pub last_us: u64,
    /// From the scheduled send to the end of data, first copies only.
    pub latency: Percentiles,
}

/// Ranges of missing messages shown in the figures.
const MISSING_RANGES_MAX: usize = 16;

#[derive(Default)]
pub(super) struct Run {
    seen: SequenceSet,
    messages: u64,
    duplicates: u64,
    /// Recipients of each message, from its mark.
    recipients: u64,
    first_us: u64,
    last_us: u64,
    latency: Histogram,
}

impl Run {
    /// Counts a message of this run; `indices` says which of its recipients this copy was for.
    pub fn count(&mut self, mark: &Mark, indices: impl Iterator<Item = u64>, now_us: u64) {
        self.recipients = mark.recipients;
        self.messages += 1;
        if self.messages == 1 {
            self.first_us = now_us;
        }
        self.last_us = self.last_us.max(now_us);
        let mut is_new = false;
        for index in indices {
            let number =
                mark.sequence.saturating_mul(mark.recipients).saturating_add(index % mark.recipients);
            if self.seen.insert(number) {
                is_new = true;
            } else {
                self.duplicates += 1;
            }
        }
        if is_new {
            self.latency.record_us(now_us.saturating_sub(mark.scheduled_us));
        }
    }

    pub fn stats(&self) -> RunStats {
        // A message is begun with its lowest recipient, so whole messages are expected.
        let expected = self.seen.last().map_or(0, |last| (last / self.recipients + 1) * self.recipients);
        RunStats {
            messages: self.messages,
            received: self.seen.len(),
            duplicates: self.duplicates,
            missing: expected - self.seen.len(),
            missing_ranges: self.missing(expected / self.recipients.max(1), MISSING_RANGES_MAX),
            first_us: self.first_us,
            last_us: self.last_us,
            latency: self.latency.percentiles(),
        }
    }

    /// Message numbers below `messages` of which at least one recipient has not come.
    pub fn missing(&self, messages: u64, ranges_max: usize) -> Vec<Range<u64>> {
        let recipients = self.recipients.max(1);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for pairs in self.seen.missing_below(messages * recipients, ranges_max) {
            let range = pairs.start / recipients..(pairs.end - 1) / recipients + 1;
            match ranges.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => ranges.push(range),
            }
        }
        ranges
    }

    /// Messages of which every recipient has come.
    pub fn whole(&self) -> SequenceSet {
        if self.recipients <= 1 {
            return self.seen.clone();
        }
        let mut whole = SequenceSet::default();
        let end = self.seen.last().map_or(0, |last| last / self.recipients + 1);
        for message in 0..end {
            let pairs = message * self.recipients..(message + 1) * self.recipients;
            if pairs.into_iter().all(|pair| self.seen.contains(pair)) {
                whole.insert(message);
            }
        }
        whole
    }
}
