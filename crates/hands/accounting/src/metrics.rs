//! Counters, gauges and histograms, and the running sum that must come out at nothing.
//!
//! One [`Metrics`] for one server, handed to whoever counts; there is no global. Other rooms set the public
//! gauges, or register a source, a closure asked at every scrape; a source must not register or encode in its turn.

use crate::record::{Kind, Record};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

type Source<T> = Box<dyn Fn() -> T + Send + Sync>;

/// Every metric of the server. Names begin with `tuma_`; `recipients` are counted one by one, `messages` once
/// whatever their recipients.
pub struct Metrics {
    registry: Mutex<Registry>,
    sum: Arc<Sum>,
    /// Messages accepted: one for each receipt of a recipient with index 0.
    pub messages_accepted: Counter,
    /// Octets of messages accepted.
    pub octets_accepted: Counter,
    /// Octets of messages delivered, once for each recipient.
    pub octets_delivered: Counter,
    /// Attempts that ended in a deferral, once for each recipient.
    pub deferrals: Counter,
    /// Recipients or transactions refused.
    pub rejections: Counter,
    /// Recipients whose failure was reported by mail.
    pub remote_bounces: Counter,
    /// Recipients whose delay or delivery was reported by mail.
    pub remote_statuses: Counter,
    /// Complaints.
    pub complaints: Counter,
    /// Seconds from acceptance to delivery.
    pub delivery_seconds: Histogram,
}

/// The parts of the running sum: accepted + recovered = delivered + bounced + expired + discarded +
/// suppressed + queued.
#[derive(Default)]
struct Sum {
    accepted: Counter,
    recovered: Counter,
    delivered: Counter,
    bounced: Counter,
    expired: Counter,
    discarded: Counter,
    suppressed: Counter,
    queued: OnceLock<Source<u64>>,
}

impl fmt::Debug for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sum").field("unaccounted", &self.unaccounted()).finish_non_exhaustive()
    }
}

impl Sum {
    fn queued(&self) -> u64 {
        self.queued.get().map_or(0, |source| source())
    }

    fn unaccounted(&self) -> i64 {
        // Against the stream: what moves on while we read is counted twice and shows as one too many, below zero.
        // Read the other way it would show as lost.
        let came = self.accepted.get() + self.recovered.get();
        let queued = self.queued();
        let settled: u64 = [&self.delivered, &self.bounced, &self.expired, &self.discarded, &self.suppressed]
            .iter()
            .map(|part| part.get())
            .sum();
        came.wrapping_sub(settled).wrapping_sub(queued) as i64
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("sum", &self.sum).finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Upper ends of the latency buckets, in seconds: a relay answers within milliseconds, a deferral takes days.
const SECONDS: [f64; 17] = [
    0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1_800.0, 14_400.0,
    86_400.0,
];

impl Metrics {
    /// What [`Metrics::encode`] returns, for the HTTP header.
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// A registry of its own, with everything at nothing.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("tuma")),
            sum: Arc::default(),
            messages_accepted: Counter::default(),
            octets_accepted: Counter::default(),
            octets_delivered: Counter::default(),
            deferrals: Counter::default(),
            rejections: Counter::default(),
            remote_bounces: Counter::default(),
            remote_statuses: Counter::default(),
            complaints: Counter::default(),
            delivery_seconds: Histogram::new(SECONDS),
        };
        let sum = &metrics.sum;
        metrics.with_registry(|r| {
            r.register("recipients_accepted", "Recipients accepted", sum.accepted.clone());
            r.register(
                "recipients_recovered",
                "Recipients found in the spool at start",
                sum.recovered.clone(),
            );
            r.register("recipients_delivered", "Recipients delivered", sum.delivered.clone());
            r.register("recipients_bounced", "Recipients bounced", sum.bounced.clone());
            r.register("recipients_expired", "Recipients expired", sum.expired.clone());
            r.register("recipients_discarded", "Recipients discarded by order", sum.discarded.clone());
            r.register("recipients_suppressed", "Recipients on a suppression list", sum.suppressed.clone());
            r.register("deferrals", "Attempts deferred, by recipient", metrics.deferrals.clone());
            r.register("rejections", "Recipients or transactions refused", metrics.rejections.clone());
            r.register("remote_bounces", "Failures reported by mail", metrics.remote_bounces.clone());
            r.register(
                "remote_statuses",
                "Delays and deliveries reported by mail",
                metrics.remote_statuses.clone(),
            );
            r.register("complaints", "Complaints that came as mail", metrics.complaints.clone());
            r.register("messages_accepted", "Messages accepted", metrics.messages_accepted.clone());
            r.register("accepted_octets", "Octets of messages accepted", metrics.octets_accepted.clone());
            r.register(
                "delivered_octets",
                "Octets delivered, by recipient",
                metrics.octets_delivered.clone(),
            );
            r.register("delivery_seconds", "Acceptance to delivery", metrics.delivery_seconds.clone());
        });
        let sum = Arc::clone(&metrics.sum);
        metrics.gauge_source("recipients_queued", "Recipients queued", move || sum.queued() as f64);
        let sum = Arc::clone(&metrics.sum);
        let help = "Accepted and recovered less delivered, bounced, expired, discarded, suppressed and queued; nothing at rest";
        metrics.gauge_source("recipients_unaccounted", help, move || sum.unaccounted() as f64);
        metrics
    }

    /// Counts a record. [`Recorder`](crate::Recorder) does it for every record given to it.
    pub fn count(&self, record: &Record) {
        let sum = &self.sum;
        match record.kind {
            Kind::Received => {
                sum.accepted.inc();
                if let crate::Subject::Recipient(message, 0) = &record.subject {
                    self.messages_accepted.inc();
                    self.octets_accepted.inc_by(message.size);
                }
            }
            Kind::Delivered => {
                sum.delivered.inc();
                self.octets_delivered.inc_by(record.message().map_or(0, |message| message.octets_each()));
                self.delivery_seconds.observe(record.since_received_ms() as f64 / 1_000.0);
            }
            Kind::Deferred => drop(self.deferrals.inc()),
            Kind::Bounced => drop(sum.bounced.inc()),
            Kind::Expired => drop(sum.expired.inc()),
            Kind::Discarded => drop(sum.discarded.inc()),
            Kind::Rejected => drop(self.rejections.inc()),
            Kind::Suppressed => drop(sum.suppressed.inc()),
            Kind::RemoteBounce => drop(self.remote_bounces.inc()),
            Kind::RemoteStatus => drop(self.remote_statuses.inc()),
            Kind::Complained => drop(self.complaints.inc()),
        }
    }

    /// Counts recipients found in the spool at start: accepted by an earlier run, settled by this one.
    pub fn recovered(&self, recipients: u64) {
        self.sum.recovered.inc_by(recipients);
    }

    /// Counts recipients of a message that was damaged on disk: dropped, with the reason in the log.
    pub fn lost_to_damage(&self, recipients: u64) {
        self.sum.discarded.inc_by(recipients);
    }

    /// Who knows how many recipients are queued. The first to say so is asked ever after; false if another was
    /// before.
    pub fn queued_source(&self, queued: impl Fn() -> u64 + Send + Sync + 'static) -> bool {
        self.sum.queued.set(Box::new(queued)).is_ok()
    }

    /// Accepted and recovered less everything settled and queued: 0 at rest. While mail moves it can be off by
    /// what is between two counters; record a final outcome before leaving the queue, and it only falls below.
    pub fn unaccounted(&self) -> i64 {
        self.sum.unaccounted()
    }

    /// The counts of final outcomes and of what came in, by kind; 0 for a kind without one.
    pub fn total(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Received => self.sum.accepted.get(),
            Kind::Delivered => self.sum.delivered.get(),
            Kind::Deferred => self.deferrals.get(),
            Kind::Bounced => self.sum.bounced.get(),
            Kind::Expired => self.sum.expired.get(),
            Kind::Discarded => self.sum.discarded.get(),
            Kind::Rejected => self.rejections.get(),
            Kind::Suppressed => self.sum.suppressed.get(),
            Kind::RemoteBounce => self.remote_bounces.get(),
            Kind::RemoteStatus => self.remote_statuses.get(),
            Kind::Complained => self.complaints.get(),
        }
    }

    /// Registers a gauge whose value is asked for at every scrape. Name without `tuma_`.
    pub fn gauge_source(&self, name: &str, help: &str, value: impl Fn() -> f64 + Send + Sync + 'static) {
        self.source(name, help, None, false, move || vec![(String::new(), value())]);
    }

    /// Registers a counter whose value is asked for at every scrape. Name without `tuma_` and `_total`.
    pub fn counter_source(&self, name: &str, help: &str, value: impl Fn() -> u64 + Send + Sync + 'static) {
        self.source(name, help, None, true, move || vec![(String::new(), value() as f64)]);
    }

    /// Registers a gauge with one label, whose values are asked for at every scrape; the source bounds how many.
    pub fn labelled_gauge_source(
        &self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl Fn() -> Vec<(String, f64)> + Send + Sync + 'static,
    ) {
        self.source(name, help, Some(label), false, values);
    }

    /// Registers a counter with one label, whose values are asked for at every scrape; the source bounds how many.
    pub fn labelled_counter_source(
        &self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl Fn() -> Vec<(String, u64)> + Send + Sync + 'static,
    ) {
        let values = move || values().into_iter().map(|(label, value)| (label, value as f64)).collect();
        self.source(name, help, Some(label), true, values);
    }

    /// Registers a histogram and returns it. Name without `tuma_`; buckets by their upper ends.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let histogram = Histogram::new(buckets.iter().copied());
        self.with_registry(|registry| registry.register(name, help, histogram.clone()));
        histogram
    }

    /// Registers a gauge and returns it. Name without `tuma_`.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.with_registry(|registry| registry.register(name, help, gauge.clone()));
        gauge
    }

    /// Registers a counter and returns it. Name without `tuma_` and `_total`.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.with_registry(|registry| registry.register(name, help, counter.clone()));
        counter
    }

    /// The registry itself, for whatever else a room wants to register.
    pub fn with_registry<T>(&self, f: impl FnOnce(&mut Registry) -> T) -> T {
        f(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything as text, for `/metrics`.
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        let result = self.with_registry(|registry| text::encode(&mut out, registry));
        if result.is_err() {
            // Only a metric's own formatting can fail; half an answer would read as a fall to nothing.
            tracing::error!("metrics cannot be encoded");
            out.clear();
        }
        out
    }

    fn source(
        &self,
        name: &str,
        help: &str,
        label: Option<&'static str>,
        counts: bool,
        values: impl Fn() -> Vec<(String, f64)> + Send + Sync + 'static,
    ) {
        // The registry puts a full stop behind the help of its own metrics, but not behind a collector's.
        let (name, help) = (name.to_owned(), format!("{help}."));
        let source = Asked { name, help, label, counts, values: Box::new(values) };
        self.with_registry(|registry| registry.register_collector(Box::new(source)));
    }
}

/// A metric asked for at every scrape.
struct Asked {
    name: String,
    help: String,
    label: Option<&'static str>,
    counts: bool,
    values: Source<Vec<(String, f64)>>,
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Collector for Asked {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        use prometheus_client::metrics::MetricType;
        let kind = if self.counts { MetricType::Counter } else { MetricType::Gauge };
        let mut metric = encoder.encode_descriptor(&self.name, &self.help, None, kind)?;
        let Some(name) = self.label else {
            let value = (self.values)().first().map_or(0.0, |(_, value)| *value);
            return write(metric, self.counts, value);
        };
        for (label, value) in (self.values)() {
            write(metric.encode_family(&[(name, label)])?, self.counts, value)?;
        }
        Ok(())
    }
}

fn write(metric: MetricEncoder<'_>, counts: bool, value: f64) -> Result<(), fmt::Error> {
    if counts {
        ConstCounter::new(value as u64).encode(metric)
    } else {
        ConstGauge::new(value).encode(metric)
    }
}
