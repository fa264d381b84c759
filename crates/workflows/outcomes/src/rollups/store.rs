//! The file: a table of series, and one of sums by minute, hour and day.

use super::query::{By, Rows, StatsQuery, StatsRow, columns};
use super::{COLUMNS, Labels, RollupsConfig, Span, Sums, Waiting, other};
use mail::UnixMillis;
use rusqlite::types::Value;
use rusqlite::{Connection, Statement, Transaction, params, params_from_iter};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tracing::warn;

/// The version of the tables.
const VERSION: i64 = 1;
/// Minutes, hours and days of which it is known in memory which series they have.
const KNOWN_MAX: usize = 16;
/// Series known by their numbers in memory; beyond that they are looked up in the file again.
const NUMBERS_MAX: usize = 100_000;
/// Rows that one step of removing takes: readers wait for no more than that.
const REMOVED_AT_ONCE: usize = 50_000;

/// The file, and what of it is kept in memory.
pub(super) struct Store {
    database: Connection,
    insert: String,
    numbers: HashMap<Labels, i64>,
    /// Which series the latest minutes, hours and days have, by span and start.
    known: BTreeMap<(i64, u64), HashSet<i64>>,
    /// The hour in which old rows were last removed.
    cleaned: u64,
}

fn broken(error: rusqlite::Error) -> io::Error {
    io::Error::other(format!("stats.sqlite: {error}"))
}

fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl Store {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // SQLite would make it readable by all.
        OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let database = Connection::open(path).map_err(broken)?;
        // A loss of power may take what a few seconds counted, but never more: NORMAL is enough with WAL.
        database
            .execute_batch(
                "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;",
            )
            .map_err(broken)?;
        let version: i64 = database.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(broken)?;
        match version {
            0 => database.execute_batch(&tables()).map_err(broken)?,
            VERSION => {}
            other => {
                let text = format!(
                    "stats.sqlite has version {other}, this program knows version {VERSION}: use the program that wrote it, or move the file away"
                );
                return Err(io::Error::other(text));
            }
        }
        let adds = columns().map(|name| format!("{name} = {name} + excluded.{name}")).join(", ");
        let insert = format!(
            "INSERT INTO counts VALUES (?1, ?2, ?3{}) ON CONFLICT (span, start, series) DO UPDATE SET {adds}",
            (4..4 + COLUMNS).map(|n| format!(", ?{n}")).collect::<String>()
        );
        Ok(Self { database, insert, numbers: HashMap::new(), known: BTreeMap::new(), cleaned: 0 })
    }

    /// Adds sums to the file, all or nothing; gives how many records had to be counted as others.
    pub(super) fn write(
        &mut self,
        waiting: &Waiting,
        config: &RollupsConfig,
        now: UnixMillis,
    ) -> io::Result<u64> {
        let written = self.try_write(waiting, config);
        if written.is_err() {
            // What was known may be of rows that are not there.
            self.numbers.clear();
            self.known.clear();
        }
        let folded = written.map_err(broken)?;
        // What was added is in the file: to call this a failure would have it added again.
        if let Err(error) = self.clean(config, now.0 / 1_000) {
            self.numbers.clear();
            self.known.clear();
            warn!(%error, "old counters over time cannot be removed");
        }
        Ok(folded)
    }

    fn try_write(&mut self, waiting: &Waiting, config: &RollupsConfig) -> rusqlite::Result<u64> {
        let Self { database, insert, numbers, known, .. } = self;
        if numbers.len() > NUMBERS_MAX {
            numbers.clear();
        }
        let change = database.transaction()?;
        let mut series = Series::of(&change)?;
        let mut of_bucket = change.prepare("SELECT series FROM counts WHERE span = ?1 AND start = ?2")?;
        let mut add = change.prepare(insert)?;
        let others = series.number(numbers, &other())?;
        let mut folded = 0;
        for (span_number, span) in (0i64..).zip(Span::ALL.iter().copied()) {
            for (minute, sums) in &waiting.minutes {
                let start = span.start_of(UnixMillis(minute * 1_000));
                if known.len() >= KNOWN_MAX && !known.contains_key(&(span_number, start)) {
                    known.clear();
                }
                let met = match known.entry((span_number, start)) {
                    Entry::Occupied(found) => found.into_mut(),
                    Entry::Vacant(new) => {
                        let rows =
                            of_bucket.query_map(params![span_number, number(start)], |row| row.get(0))?;
                        new.insert(rows.collect::<rusqlite::Result<_>>()?)
                    }
                };
                for (labels, sums) in sums {
                    let mut id = series.number(numbers, labels)?;
                    if !met.contains(&id) && met.len() >= config.series_max && id != others {
                        // Of a minute that has room, the hour or day may have none: the records are told of once.
                        if span == Span::Minute {
                            folded += sums.iter().take(accounting::Kind::ALL.len()).sum::<u64>();
                        }
                        id = others;
                    }
                    met.insert(id);
                    let head = [span_number, number(start), id];
                    add.execute(params_from_iter(head.into_iter().chain(sums.map(number))))?;
                }
            }
        }
        drop((series, of_bucket, add));
        change.commit()?;
        Ok(folded)
    }

    /// Once an hour, takes out what is too old, and series that nothing counts any more.
    fn clean(&mut self, config: &RollupsConfig, now: u64) -> rusqlite::Result<()> {
        let hour = now / 3_600;
        if hour == self.cleaned {
            return Ok(());
        }
        for (span_number, span) in (0i64..).zip(Span::ALL.iter().copied()) {
            let before = now.saturating_sub(config.kept(span).as_secs());
            loop {
                let removed = self.database.execute(
                    "DELETE FROM counts WHERE (span, start, series) IN \
                     (SELECT span, start, series FROM counts WHERE span = ?1 AND start < ?2 LIMIT ?3)",
                    params![span_number, number(before), REMOVED_AT_ONCE as i64],
                )?;
                if removed < REMOVED_AT_ONCE {
                    break;
                }
            }
        }
        self.database.execute_batch(
            "DELETE FROM series WHERE id NOT IN (SELECT DISTINCT series FROM counts); PRAGMA incremental_vacuum;",
        )?;
        self.numbers.clear();
        self.known.clear();
        self.cleaned = hour;
        Ok(())
    }

    pub(super) fn ask(&self, query: &StatsQuery) -> io::Result<Rows> {
        self.try_ask(query).map_err(broken)
    }

    fn try_ask(&self, query: &StatsQuery) -> rusqlite::Result<Rows> {
        let by: Vec<&str> = query.by.iter().map(|by| by.word()).collect();
        let start = if query.total { "?2" } else { "start" };
        let sums = columns().map(|name| format!("sum({name})")).join(", ");
        let selected = by.iter().map(|name| format!("{name}, ")).collect::<String>();
        let mut values = vec![
            Value::from(query.span as i64),
            Value::from(number(query.from)),
            Value::from(number(query.to)),
            Value::from(number(query.max as u64 + 1)),
        ];
        let mut only = String::new();
        for (by, label) in &query.only {
            values.push(Value::from(label.clone()));
            only += &format!(" AND {} = ?{}", by.word(), values.len());
        }
        // Every name comes from a list of ours, every text as a value.
        let groups = if query.total { by.clone() } else { [vec!["start"], by.clone()].concat() };
        let group = match groups.is_empty() {
            true => String::new(),
            false => format!(" GROUP BY {0} ORDER BY {0}", groups.join(", ")),
        };
        let text = format!(
            "SELECT {selected}{start}, {sums} FROM counts JOIN series ON series.id = counts.series \
             WHERE span = ?1 AND start >= ?2 AND start < ?3{only}{group} LIMIT ?4"
        );
        let mut statement = self.database.prepare(&text)?;
        let width = by.len();
        let rows = statement.query_map(params_from_iter(values), |row| {
            let labels = (0..width).map(|n| row.get(n)).collect::<rusqlite::Result<Vec<String>>>()?;
            let mut sums: Sums = [0; COLUMNS];
            let mut any = false;
            for (n, sum) in sums.iter_mut().enumerate() {
                let value: Option<i64> = row.get(width + 1 + n)?;
                any |= value.is_some();
                *sum = value.unwrap_or(0).max(0) as u64;
            }
            let start = row.get::<_, i64>(width)?.max(0) as u64;
            Ok(any.then_some(StatsRow { start, labels, sums }))
        })?;
        let mut rows = rows.filter_map(Result::transpose).collect::<rusqlite::Result<Vec<StatsRow>>>()?;
        let complete = rows.len() <= query.max;
        rows.truncate(query.max);
        Ok(Rows { rows, complete })
    }
}

/// Finds the numbers of series.
struct Series<'a> {
    make: Statement<'a>,
    find: Statement<'a>,
}

impl<'a> Series<'a> {
    fn of(change: &'a Transaction<'_>) -> rusqlite::Result<Self> {
        let make = change.prepare(
            "INSERT INTO series (tenant, campaign, job, pool, source, provider, class) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
        )?;
        let find = change.prepare(
            "SELECT id FROM series WHERE tenant = ?1 AND campaign = ?2 AND job = ?3 AND pool = ?4 AND source = ?5 \
             AND provider = ?6 AND class = ?7",
        )?;
        Ok(Self { make, find })
    }

    /// The number of a series, made if it is new.
    fn number(&mut self, known: &mut HashMap<Labels, i64>, labels: &Labels) -> rusqlite::Result<i64> {
        if let Some(number) = known.get(labels) {
            return Ok(*number);
        }
        let values = || params_from_iter(labels.iter().map(|label| &**label));
        self.make.execute(values())?;
        let number = self.find.query_row(values(), |row| row.get(0))?;
        known.insert(labels.clone(), number);
        Ok(number)
    }
}

fn tables() -> String {
    let labels = By::ALL.iter().map(|by| by.word()).collect::<Vec<_>>();
    let texts = labels.iter().map(|name| format!("{name} TEXT NOT NULL")).collect::<Vec<_>>().join(", ");
    let sums = columns().map(|name| format!("{name} INTEGER NOT NULL")).join(", ");
    format!(
        "BEGIN;
         CREATE TABLE series (id INTEGER PRIMARY KEY, {texts}, UNIQUE ({})) STRICT;
         CREATE TABLE counts (span INTEGER NOT NULL, start INTEGER NOT NULL, series INTEGER NOT NULL, {sums},
             PRIMARY KEY (span, start, series)) STRICT, WITHOUT ROWID;
         PRAGMA user_version = {VERSION};
         COMMIT;",
        labels.join(", ")
    )
}
