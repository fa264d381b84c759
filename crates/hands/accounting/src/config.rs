//! What is written where, and what is not accepted as configuration.

use crate::csv::CsvLayout;
use crate::json::JsonLayout;
use crate::record::Kind;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Records of what became of every recipient.
#[derive(Clone, Debug, PartialEq)]
pub struct AccountingConfig {
    /// Files written side by side, each with its own choice of records and fields. At most 16.
    pub files: Vec<FileConfig>,
    /// Records kept in memory, so that a message's last events can be shown. At most 1,000,000.
    pub recent_max: usize,
    /// Octets of memory those records may hold on to, messages with many recipients weighed with all of them.
    pub recent_max_octets: usize,
}

impl Default for AccountingConfig {
    fn default() -> Self {
        Self { files: Vec::new(), recent_max: 4_096, recent_max_octets: 4 * 1024 * 1024 }
    }
}

/// The form of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line, ended with LF; `docs/accounting.md` lists the fields.
    #[default]
    JsonLines,
    /// PowerMTA's CSV: a header line, CRLF, types d, b, t and r.
    Csv,
}

/// What to do with a record when the file's queue is full, because the disk is slow or full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Leave the record out and count it. Mail never waits for a log.
    #[default]
    Drop,
    /// Wait up to `block_timeout` for room, once until room comes again; then leave out and count. The waiting
    /// holds one worker of the server, so intake and delivery slow down with the disk.
    Block,
}

/// One accounting file.
#[derive(Clone, Debug, PartialEq)]
pub struct FileConfig {
    /// The file written to now. Filled segments lie beside it as `NAME-YYYY-MM-DD-NNNN.EXT`, day and number in
    /// UTC; with compression `.zst` is appended to both.
    pub path: PathBuf,
    /// Its form.
    pub format: Format,
    /// zstd level, 1 to 19; 0 writes plain text. Level 1 costs about a microsecond a record.
    pub compression_level: i32,
    /// Which records; empty means all that the format has a form for.
    pub records: Vec<Kind>,
    /// Which fields or columns, for every kind; empty means the format's own choice.
    pub fields: Vec<String>,
    /// Fields of single kinds, in place of `fields`.
    pub record_fields: Vec<(Kind, Vec<String>)>,
    /// CSV times as `2026-03-01 10:00:05+0000`; otherwise as seconds since 1970.
    pub iso_times: bool,
    /// The text of the CSV column `userString`.
    pub user_string: String,
    /// Octets in a segment before the next is begun. At least 4,096.
    pub max_size: u64,
    /// Time before the next segment is begun. At least a second.
    pub max_age: Duration,
    /// How long a filled segment is kept.
    pub delete_after: Duration,
    /// Octets of all filled segments together; the oldest go first.
    pub total_max_octets: u64,
    /// Records waiting for the disk. At 500 octets a record, the default holds 2 seconds of 30,000 messages/s.
    pub queue_max: usize,
    /// When that many wait.
    pub when_full: WhenFull,
    /// Longest wait under `when_full = block`.
    pub block_timeout: Duration,
    /// Longest time a record stays in memory before it is handed to the system: what a crash of this process
    /// can lose.
    pub flush_interval: Duration,
    /// Pause before a failed write is tried again.
    pub retry_interval: Duration,
    /// Ask the disk to make a segment durable at each flush. Without it, a power loss takes what the system had
    /// not yet written.
    pub sync: bool,
}

impl Default for FileConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("records.jsonl"),
            format: Format::JsonLines,
            compression_level: 0,
            records: Vec::new(),
            fields: Vec::new(),
            record_fields: Vec::new(),
            iso_times: true,
            user_string: String::new(),
            max_size: 250_000_000,
            max_age: Duration::from_secs(86_400),
            delete_after: Duration::from_secs(8 * 86_400),
            total_max_octets: 20_000_000_000,
            queue_max: 65_536,
            when_full: WhenFull::Drop,
            block_timeout: Duration::from_secs(1),
            flush_interval: Duration::from_secs(1),
            retry_interval: Duration::from_secs(5),
            sync: false,
        }
    }
}

/// A setting of accounting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Which of [`AccountingConfig::files`], if it is about one.
    pub file: Option<usize>,
    /// The setting's name.
    pub setting: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file {
            Some(n) => write!(f, "accounting file {}: {}: {}", n + 1, self.setting, self.problem),
            None => write!(f, "accounting: {}: {}", self.setting, self.problem),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Files written side by side at most.
const FILES_MAX: usize = 16;

impl AccountingConfig {
    /// Every mistake in it.
    pub fn check(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut add = |file, setting, problem: String| errors.push(ConfigError { file, setting, problem });
        if self.files.len() > FILES_MAX {
            add(None, "files", format!("{} files; at most {FILES_MAX}", self.files.len()));
        }
        if self.recent_max > 1_000_000 {
            add(None, "recent_max", format!("{} is above 1000000", self.recent_max));
        }
        for (n, file) in self.files.iter().enumerate() {
            for (setting, problem) in file.problems() {
                add(Some(n), setting, problem);
            }
            if self.files[..n].iter().any(|other| other.current_path() == file.current_path()) {
                add(Some(n), "path", format!("{} is written to by an earlier file", file.path.display()));
            }
        }
        errors
    }
}

impl FileConfig {
    /// Where the segment being written lies.
    pub fn current_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        if self.compression_level > 0 && self.path.extension().is_none_or(|ext| ext != "zst") {
            path.push(".zst");
        }
        path.into()
    }

    fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut must = |holds: bool, setting, problem: &str| {
            if !holds {
                problems.push((setting, problem.to_owned()));
            }
        };
        let name = self.path.file_name().and_then(|name| name.to_str());
        must(name.is_some_and(|name| !name.starts_with('.')), "path", "not the path of a file");
        must((0..=19).contains(&self.compression_level), "compression_level", "not within 0 to 19");
        must(
            self.compression_level > 0 || self.path.extension().is_none_or(|ext| ext != "zst"),
            "compression_level",
            "0, though the path ends in .zst",
        );
        must(self.max_size >= 4_096, "max_size", "below 4096");
        must(self.max_age >= Duration::from_secs(1), "max_age", "below a second");
        must((1..=10_000_000).contains(&self.queue_max), "queue_max", "not within 1 to 10000000");
        must(self.flush_interval <= Duration::from_secs(3_600), "flush_interval", "above an hour");
        must(self.block_timeout <= Duration::from_secs(60), "block_timeout", "above a minute");
        match self.format {
            Format::JsonLines => problems.extend(JsonLayout::new(self).err()),
            Format::Csv => problems.extend(CsvLayout::new(self).err()),
        }
        problems
    }

    /// The kinds this file takes.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        match (self.records.is_empty(), self.format) {
            (false, _) => self.records.clone(),
            (true, Format::JsonLines) => Kind::ALL.to_vec(),
            (true, Format::Csv) => {
                Kind::ALL.into_iter().filter(|kind| crate::csv::type_letter(*kind).is_some()).collect()
            }
        }
    }

    /// The fields chosen for a kind, empty for the format's own choice.
    pub(crate) fn fields_of(&self, kind: Kind) -> &[String] {
        let own = self.record_fields.iter().find(|(of, _)| *of == kind);
        own.map_or(&self.fields, |(_, fields)| fields)
    }
}
