//! What an operator may set about the spool.

/// Settings of the spool. Every bound the spool has is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Size of one segment file, in octets; 16,384 to 1,073,741,824, rounded down to a multiple of 4,096.
    /// A message that does not fit gets a segment of its own size. Smaller segments are emptied and reused
    /// sooner; larger ones need fewer files.
    pub segment_bytes: u64,
    /// Emptied segments kept for reuse, in files; 1 to 64. One is always prepared ahead while there is
    /// room, so that no commit waits for an allocation; emptied segments beyond this number are deleted.
    pub spare_segments: u32,
    /// Octets in one group commit; 65,536 to 268,435,456. One larger message is a commit of its own.
    pub batch_bytes_max: u64,
    /// Messages in one group commit; 1 to 4,096.
    pub batch_messages_max: usize,
    /// Messages that may wait for a commit; beyond it intake is refused with [`crate::Refusal::Busy`].
    pub waiting_messages_max: usize,
    /// Outcomes are written at once and made durable at least this often, in milliseconds; 1 to 60,000.
    /// What a power loss can deliver twice is what was settled within this time.
    pub state_sync_interval_ms: u64,
    /// The same for deferrals, whose loss costs only an early retry, in milliseconds; 1 to 600,000.
    pub deferral_sync_interval_ms: u64,
    /// A segment's record of outcomes is rewritten without what is superseded once it has grown to this
    /// many octets; 4,096 or more.
    pub sidecar_bytes_max: u64,
    /// Outcomes that could not be written yet and wait in memory; at this number intake is refused until
    /// the disk takes them. Deliveries go on.
    pub unwritten_states_max: usize,
    /// Octets of survivors copied forward a second, to empty segments that hold little else; 0 turns the
    /// copying off.
    pub copy_bytes_per_second: u64,
    /// A segment is emptied by copying when less than this share of it is still needed, in percent; 0 to 50.
    pub copy_below_percent: u64,
    /// Time a segment is left alone before its survivors are copied, in milliseconds. Most messages are
    /// settled within seconds and need no copying.
    pub copy_after_ms: u64,
    /// Free octets on the file system below which intake stops (452 4.3.1), while delivery goes on.
    pub min_free_bytes: u64,
    /// Time after a failed write or sync before intake is tried again in a new segment, in milliseconds;
    /// doubles with each failure, up to a minute.
    pub retry_after_failure_ms: u64,
    /// Segment files held open for reading at once; 4 or more.
    pub open_files_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            spare_segments: 4,
            batch_bytes_max: 8 << 20,
            batch_messages_max: 512,
            waiting_messages_max: 65_536,
            state_sync_interval_ms: 100,
            deferral_sync_interval_ms: 2_000,
            sidecar_bytes_max: 4 << 20,
            unwritten_states_max: 100_000,
            copy_bytes_per_second: 16 << 20,
            copy_below_percent: 12,
            copy_after_ms: 10_000,
            min_free_bytes: 128 << 20,
            retry_after_failure_ms: 1_000,
            open_files_max: 128,
        }
    }
}

impl Config {
    /// The same with every figure brought within its bounds.
    pub(crate) fn bounded(&self) -> Self {
        Self {
            segment_bytes: self.segment_bytes.clamp(16 << 10, 1 << 30) & !4095,
            spare_segments: self.spare_segments.clamp(1, 64),
            batch_bytes_max: self.batch_bytes_max.clamp(64 << 10, 256 << 20),
            batch_messages_max: self.batch_messages_max.clamp(1, 4096),
            waiting_messages_max: self.waiting_messages_max.max(1),
            state_sync_interval_ms: self.state_sync_interval_ms.clamp(1, 60_000),
            deferral_sync_interval_ms: self.deferral_sync_interval_ms.clamp(1, 600_000),
            sidecar_bytes_max: self.sidecar_bytes_max.max(4096),
            unwritten_states_max: self.unwritten_states_max.max(1),
            copy_bytes_per_second: self.copy_bytes_per_second,
            copy_below_percent: self.copy_below_percent.min(50),
            copy_after_ms: self.copy_after_ms,
            min_free_bytes: self.min_free_bytes,
            retry_after_failure_ms: self.retry_after_failure_ms.clamp(10, 60_000),
            open_files_max: self.open_files_max.max(4),
        }
    }
}
