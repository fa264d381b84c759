//! What may be asked of the counters, and what is answered.

use super::{COLUMNS, LATENCY_MS, OCTETS, Span, Sums};
use accounting::Kind;

settings::words! {
    /// A label of a series.
    pub enum By {
        /// Whose mail it is.
        Tenant,
        /// The mailing.
        Campaign,
        /// The run of a mailing.
        Job,
        /// The egress pool.
        Pool,
        /// The egress source.
        Source,
        /// The provider of the site.
        Provider,
        /// Why it failed.
        Class,
    }
}

/// A question.
#[derive(Clone, Debug)]
pub struct StatsQuery {
    /// Of minutes, hours or days.
    pub span: Span,
    /// From here on, in Unix seconds.
    pub from: u64,
    /// Up to here and no further, in Unix seconds.
    pub to: u64,
    /// Labels that are told apart.
    pub by: Vec<By>,
    /// Only series with this label; the empty text is those without one.
    pub only: Vec<(By, String)>,
    /// All of the time in one row, in place of a row for each minute, hour or day.
    pub total: bool,
    /// Rows at most.
    pub max: usize,
}

/// One row of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsRow {
    /// When its minute, hour or day began, in Unix seconds; the beginning of what was asked for of a total.
    pub start: u64,
    /// The labels that were asked for, in that order; the empty text where there is none.
    pub labels: Vec<String>,
    pub(crate) sums: Sums,
}

impl StatsRow {
    /// How many records of a kind.
    pub fn count(&self, kind: Kind) -> u64 {
        self.sums[kind as usize]
    }

    /// Octets delivered.
    pub fn octets(&self) -> u64 {
        self.sums[OCTETS]
    }

    /// Milliseconds from acceptance to delivery, of all deliveries together.
    pub fn latency_ms(&self) -> u64 {
        self.sums[LATENCY_MS]
    }
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// In the order of time and labels.
    pub rows: Vec<StatsRow>,
    /// False if there were more rows than were asked for.
    pub complete: bool,
}

/// The names of the columns of sums in the file: the words of the kinds, and two more.
pub(super) fn columns() -> [&'static str; COLUMNS] {
    let mut names = ["octets"; COLUMNS];
    for (name, kind) in names.iter_mut().zip(Kind::ALL) {
        *name = kind.as_str();
    }
    names[LATENCY_MS] = "latency_ms";
    names
}
