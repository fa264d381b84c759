//! What is written where, and what is not accepted as configuration.

use crate::csv::CsvLayout;
use crate::json::JsonLayout;
use crate::record::Kind;
use mail::{FieldName, KEPT_FIELDS_MAX};
use settings::{Key, Node, Place, Problems, Setting, Size, Text, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

settings::table! {
    /// Records of what became of every recipient.
    #[derive(Eq)]
    #[check(AccountingConfig::check_at)]
    pub struct AccountingConfig {
        /// Files written side by side, by a name of the operator's choice, each with its own choice of records
        /// and fields. At most 16.
        pub file: BTreeMap<String, FileConfig> = BTreeMap::new(),
        /// Records kept in memory, so that a message's last events can be shown.
        #[in(0..=1_000_000)]
        pub recent_max: usize = 4_096,
        /// Memory those records may hold on to, messages with many recipients weighed with all of them.
        pub recent_max_octets: Size = Size::mib(4),
    }
}

settings::words! {
    /// The form of a file.
    pub enum Format {
        /// One JSON object a line, ended with LF; `docs/accounting.md` lists the fields.
        JsonLines,
        /// PowerMTA's CSV: a header line, CRLF, types d, b, t and r.
        Csv,
        /// One JSON object a line with the field names of KumoMTA's records.
        Kumomta,
    }
}

settings::words! {
    /// What to do with a record when the file's queue is full, because the disk is slow or full.
    pub enum WhenFull {
        /// Leave the record out and count it. Mail never waits for a log.
        Drop,
        /// Wait up to `block_timeout` for room, once until room comes again; then leave out and count. The waiting
        /// holds one worker of the server, so intake and delivery slow down with the disk.
        Block,
    }
}

settings::table! {
    /// One accounting file.
    #[derive(Eq)]
    pub struct FileConfig {
        /// The file written to now. Filled segments lie beside it as `NAME-YYYY-MM-DD-NNNN.EXT`, day and number
        /// in UTC; with compression `.zst` is appended to both.
        pub path: PathBuf,
        /// Its form.
        pub format: Format = Format::JsonLines,
        /// zstd level; 0 writes plain text. Level 1 costs about a microsecond a record.
        #[in(0..=19)]
        pub compression_level: i32 = 0,
        /// Which records; empty means all in JSON, d, b, t and r in CSV, and in KumoMTA's form all that it has.
        pub records: Vec<Kind> = Vec::new(),
        /// Which fields or columns, for every kind; empty means the format's own choice.
        pub fields: Vec<String> = Vec::new(),
        /// Fields of single kinds, in place of `fields`: `record_fields.bounced = ["time", "recipient"]`.
        pub record_fields: BTreeMap<String, Vec<String>> = BTreeMap::new(),
        /// Header fields of the message to write as well, each as `header_NAME`, the first 256 octets of its text. They
        /// are kept with the message from its acceptance; all files together may name 8.
        pub headers: Vec<Text<FieldName>> = Vec::new(),
        /// CSV times as `2026-03-01 10:00:05+0000`; otherwise as seconds since 1970.
        pub iso_times: bool = true,
        /// The text of the CSV column `userString`.
        pub user_string: String = String::new(),
        /// Octets in a segment before the next is begun.
        #[in(4KiB..)]
        pub max_size: Size = Size(250_000_000),
        /// Time before the next segment is begun.
        #[in(1s..)]
        pub max_age: Duration = seconds(86_400),
        /// How long a filled segment is kept.
        pub delete_after: Duration = seconds(8 * 86_400),
        /// Octets of all filled segments together; the oldest go first.
        pub total_max_octets: Size = Size(20_000_000_000),
        /// Records waiting for the disk. At 500 octets a record, the default holds 2 seconds of 30,000 messages/s.
        #[in(1..=10_000_000)]
        pub queue_max: usize = 65_536,
        /// When that many wait.
        pub when_full: WhenFull = WhenFull::Drop,
        /// Longest wait under `when_full = "block"`.
        #[in(0s..=1m)]
        pub block_timeout: Duration = seconds(1),
        /// Longest time a record stays in memory before it is handed to the system: what a crash of this process
        /// can lose.
        #[in(0s..=1h)]
        pub flush_interval: Duration = seconds(1),
        /// Pause before a failed write is tried again.
        pub retry_interval: Duration = seconds(5),
        /// Ask the disk to make a segment durable at each flush. Without it, a power loss takes what the system
        /// had not yet written.
        pub sync: bool = false,
    }
}

/// A setting of accounting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The name of the one of [`AccountingConfig::file`] that it is about, if it is about one.
    pub file: Option<String>,
    /// The setting's name.
    pub setting: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(name) => write!(f, "accounting.file.{name}.{}: {}", self.setting, self.problem),
            None => write!(f, "accounting.{}: {}", self.setting, self.problem),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Files written side by side at most.
const FILES_MAX: usize = 16;

impl AccountingConfig {
    /// Every mistake in it that the bounds of single settings do not show.
    pub fn check(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut add = |file: Option<&String>, setting, problem: String| {
            errors.push(ConfigError { file: file.cloned(), setting, problem });
        };
        if self.file.len() > FILES_MAX {
            add(None, "file", format!("{} files; at most {FILES_MAX}", self.file.len()));
        }
        let mut paths = BTreeMap::new();
        for (name, file) in &self.file {
            for (setting, problem) in file.problems() {
                add(Some(name), setting, problem);
            }
            if let Some(other) = paths.insert(file.current_path(), name) {
                add(Some(name), "path", format!("{} is written to by `{other}` too", file.path.display()));
            }
        }
        let fields = self.kept_fields().len();
        if fields > KEPT_FIELDS_MAX {
            // At the file that names most, since that is where some can go.
            let file =
                self.file.iter().max_by_key(|(_, file)| file.headers.len()).map(|(name, _)| name.clone());
            let problem =
                format!("all files together name {fields} header fields; at most {KEPT_FIELDS_MAX}");
            errors.push(ConfigError { file, setting: "headers", problem });
        }
        errors
    }

    /// The header fields that the files name: what must be kept of a message when it is accepted.
    pub fn kept_fields(&self) -> Vec<FieldName> {
        distinct(self.file.values().flat_map(|file| &file.headers))
    }

    /// Adds every mistake where the settings stand.
    fn check_at(&self, node: &Node, problems: &mut Problems) {
        for error in self.check() {
            // Step by step, since the name of a file may hold a dot, which `at` would split.
            let mut table = node;
            for step in error.file.iter().flat_map(|name| ["file", name.as_str()]) {
                table = table.child(step).unwrap_or(table);
            }
            problems.error(table.at(error.setting), error.to_string());
        }
    }
}

/// The names, each once, in order.
fn distinct<'a>(names: impl Iterator<Item = &'a Text<FieldName>>) -> Vec<FieldName> {
    let mut distinct: Vec<FieldName> = Vec::new();
    for name in names {
        if !distinct.contains(name) {
            distinct.push(name.0.clone());
        }
    }
    distinct
}

impl FileConfig {
    /// A file at a path, everything else as it is by default.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let place = Place::whole(0);
        let key = Key { name: "path".into(), place };
        let entry = (key, Node::new(Value::String("file".into()), place));
        let table = Node::new(Value::Table(vec![entry]), place);
        let read = Self::read(&table, &mut Problems::new()).expect("only the path has no default");
        Self { path: path.into(), ..read }
    }

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
        let name = self.path.file_name().and_then(|name| name.to_str());
        if name.is_none_or(|name| name.starts_with('.')) {
            problems.push(("path", "not the path of a file".to_owned()));
        }
        for kind in self.record_fields.keys().filter(|word| Kind::parse(word).is_none()) {
            problems.push(("record_fields", format!("no record is called {kind:?}")));
        }
        if self.compression_level == 0 && self.path.extension().is_some_and(|ext| ext == "zst") {
            problems.push(("compression_level", "0, though the path ends in .zst".to_owned()));
        }
        match self.format {
            Format::JsonLines => problems.extend(JsonLayout::new(self).err()),
            Format::Csv => problems.extend(CsvLayout::new(self).err()),
            Format::Kumomta => problems.extend(crate::kumo::problem(self)),
        }
        problems
    }

    /// The kinds this file takes.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        match (self.records.is_empty(), self.format) {
            (false, _) => self.records.clone(),
            (true, Format::JsonLines) => Kind::ALL.to_vec(),
            (true, Format::Kumomta) => {
                let form = |kind: &Kind| crate::kumo::type_word(*kind).is_some();
                Kind::ALL.iter().copied().filter(form).collect()
            }
            // Those of mail itself: files that were there before reports were read keep their columns.
            (true, Format::Csv) => {
                let reported = [Kind::RemoteBounce, Kind::RemoteStatus, Kind::Complained];
                let form = |kind: &Kind| crate::csv::type_word(*kind).is_some() && !reported.contains(kind);
                Kind::ALL.iter().copied().filter(form).collect()
            }
        }
    }

    /// The header fields to write, each once.
    pub(crate) fn header_names(&self) -> Vec<FieldName> {
        distinct(self.headers.iter())
    }

    /// The fields chosen for a kind, empty for the format's own choice.
    pub(crate) fn fields_of(&self, kind: Kind) -> &[String] {
        self.record_fields.get(kind.as_str()).unwrap_or(&self.fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sound() {
        assert_eq!(settings::mistakes(&AccountingConfig::schema()), Vec::<String>::new());
    }

    #[test]
    fn mistakes_are_found_across_settings() {
        let mut config = AccountingConfig::default();
        config.file.insert("a".into(), FileConfig::at("x.csv"));
        assert_eq!(config.check(), []);
        config.file.insert("b".into(), FileConfig { fields: vec!["nme".into()], ..FileConfig::at("x.csv") });
        let kinds = BTreeMap::from([("bounce".into(), vec![])]);
        config.file.insert("c".into(), FileConfig { record_fields: kinds, ..FileConfig::at("y.csv") });
        let found: Vec<String> = config.check().iter().map(ConfigError::to_string).collect();
        assert_eq!(
            found,
            [
                "accounting.file.b.fields: no field is called \"nme\"",
                "accounting.file.b.path: x.csv is written to by `a` too",
                "accounting.file.c.record_fields: no record is called \"bounce\"",
            ]
        );

        let table = |entries: Vec<(&str, Node)>| {
            let key = |name: &str| Key { name: name.into(), place: Place::whole(0) };
            let entries = entries.into_iter().map(|(name, node)| (key(name), node)).collect();
            Node::new(Value::Table(entries), Place::whole(0))
        };
        let text = |text: &str, at| Node::new(Value::String(text.into()), Place::new(0, at, at + 1));
        let file = table(vec![("path", text(".hidden", 7))]);
        let node = table(vec![("file", table(vec![("a.b", file)]))]);
        let mut problems = Problems::new();
        assert_eq!(AccountingConfig::read(&node, &mut problems), None);
        let problem = problems.iter().next().expect("one problem");
        assert_eq!(problem.place, Place::new(0, 7, 8));
    }
}
