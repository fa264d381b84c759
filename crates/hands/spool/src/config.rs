//! What an operator may set about the spool.

use settings::Size;
use std::path::PathBuf;
use std::time::Duration;

settings::table! {
    /// Where accepted mail is kept until its last recipient is settled. Every bound the spool has is here.
    #[derive(Eq)]
    pub struct Config {
        /// The directory, on a disk of this machine. It is made if it does not exist, and locked: one process
        /// has it at a time.
        pub directory: PathBuf = PathBuf::from("/var/spool/tuma"),
        /// Size of one segment file, rounded down to a multiple of 4,096. A message that does not fit gets a
        /// segment of its own size. Smaller segments are emptied and reused sooner; larger ones need fewer files.
        #[in(16KiB..=1GiB)]
        pub segment_bytes: Size = Size::mib(64),
        /// Emptied segments kept for reuse, in files. One is always prepared ahead while there is room, so that
        /// no commit waits for an allocation; emptied segments beyond this number are deleted.
        #[in(1..=64)]
        pub spare_segments: u32 = 4,
        /// Octets in one group commit. One larger message is a commit of its own.
        #[in(64KiB..=256MiB)]
        pub batch_bytes_max: Size = Size::mib(8),
        /// Messages in one group commit.
        #[in(1..=4_096)]
        pub batch_messages_max: usize = 512,
        /// Messages that may wait for a commit; beyond it intake is refused (452 4.3.1).
        #[in(1..)]
        pub waiting_messages_max: usize = 65_536,
        /// Outcomes are written at once and made durable at least this often. What a power loss can deliver
        /// twice is what was settled within this time.
        #[in(1ms..=1m)]
        pub state_sync_interval: Duration = Duration::from_millis(100),
        /// The same for deferrals, whose loss costs only an early retry.
        #[in(1ms..=10m)]
        pub deferral_sync_interval: Duration = Duration::from_secs(2),
        /// A segment's record of outcomes is rewritten without what is superseded once it has grown to this.
        #[in(4KiB..)]
        pub sidecar_bytes_max: Size = Size::mib(4),
        /// Outcomes that could not be written yet and wait in memory; at this number intake is refused until
        /// the disk takes them. Deliveries go on.
        #[in(1..)]
        pub unwritten_states_max: usize = 100_000,
        /// Octets of survivors copied forward a second, to empty segments that hold little else; 0 turns the
        /// copying off.
        pub copy_bytes_per_second: Size = Size::mib(16),
        /// A segment is emptied by copying when less than this share of it is still needed, in percent.
        #[in(0..=50)]
        pub copy_below_percent: u64 = 12,
        /// Time a segment is left alone before its survivors are copied. Most messages are settled within
        /// seconds and need no copying.
        pub copy_after: Duration = Duration::from_secs(10),
        /// Free room on the file system below which intake stops (452 4.3.1), while delivery goes on.
        pub min_free_bytes: Size = Size::mib(128),
        /// Time after a failed write or sync before intake is tried again in a new segment; doubles with each
        /// failure, up to a minute.
        #[in(10ms..=1m)]
        pub retry_after_failure: Duration = Duration::from_secs(1),
        /// Segment files held open for reading at once.
        #[in(4..)]
        pub open_files_max: usize = 128,
    }
}

impl Config {
    /// The same with every figure brought within its bounds, for callers that build it themselves.
    pub(crate) fn bounded(&self) -> Self {
        const fn ms(n: u64) -> Duration {
            Duration::from_millis(n)
        }
        Self {
            directory: self.directory.clone(),
            segment_bytes: Size(self.segment_bytes.clamp(Size::kib(16), Size::gib(1)).bytes() & !4095),
            spare_segments: self.spare_segments.clamp(1, 64),
            batch_bytes_max: self.batch_bytes_max.clamp(Size::kib(64), Size::mib(256)),
            batch_messages_max: self.batch_messages_max.clamp(1, 4096),
            waiting_messages_max: self.waiting_messages_max.max(1),
            state_sync_interval: self.state_sync_interval.clamp(ms(1), ms(60_000)),
            deferral_sync_interval: self.deferral_sync_interval.clamp(ms(1), ms(600_000)),
            sidecar_bytes_max: self.sidecar_bytes_max.max(Size::kib(4)),
            unwritten_states_max: self.unwritten_states_max.max(1),
            copy_bytes_per_second: self.copy_bytes_per_second,
            copy_below_percent: self.copy_below_percent.min(50),
            copy_after: self.copy_after,
            min_free_bytes: self.min_free_bytes,
            retry_after_failure: self.retry_after_failure.clamp(ms(10), ms(60_000)),
            open_files_max: self.open_files_max.max(4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::Setting;

    #[test]
    fn the_table_is_sound() {
        assert_eq!(settings::mistakes(&Config::schema()), Vec::<String>::new());
        assert_eq!(Config::default().bounded(), Config::default());
    }
}
