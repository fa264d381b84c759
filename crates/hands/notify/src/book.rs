//! What was told lately: many notices of one subject make one.

use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Subjects remembered at once. What is about further ones is folded as if it were about one.
const SUBJECTS_MAX: usize = 1_000;

/// Something to tell people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// When it happened, as `2026-03-01T10:00:05.123Z`.
    pub time: String,
    /// What it is about, such as a source and a site.
    pub about: String,
    /// What happened, in one line.
    pub text: String,
    /// The egress source, if it is about one.
    pub source: Option<String>,
    /// The site, if it is about one.
    pub site: Option<String>,
    /// The rule that asks to tell, with its file and line.
    pub rule: Option<String>,
    /// Notices of the same subject that were kept back since the last one.
    pub suppressed: u64,
}

type Subject = (Box<str>, Box<str>);

/// What is known of a subject that was told of.
#[derive(Debug, Default)]
struct Told {
    suppressed: u64,
    /// The latest that was kept back.
    latest: Option<Notice>,
}

/// The machine that folds notices.
#[derive(Debug)]
pub struct Book {
    every: Duration,
    told: HashMap<Subject, Told>,
    /// When each may be told again, with a number that makes it the only one.
    ends: BTreeMap<(Instant, u64), Subject>,
    number: u64,
}

impl Book {
    /// An empty one, which tells of one subject once in a time.
    pub fn new(every: Duration) -> Self {
        Self { every, told: HashMap::new(), ends: BTreeMap::new(), number: 0 }
    }

    /// Tells once in another time, from the next notice of a subject on.
    pub fn set_every(&mut self, every: Duration) {
        self.every = every;
    }

    /// Something happened: given back if it is to be told now, else kept back and counted.
    pub fn told(&mut self, now: Instant, notice: Notice) -> Option<Notice> {
        let mut subject: Subject =
            (notice.about.as_str().into(), notice.rule.as_deref().unwrap_or_default().into());
        if !self.told.contains_key(&subject) && self.told.len() >= SUBJECTS_MAX {
            subject = Subject::default();
        }
        if let Some(told) = self.told.get_mut(&subject) {
            // Each kept back stands for those that it was made of.
            told.suppressed = told.suppressed.saturating_add(1).saturating_add(notice.suppressed);
            told.latest = Some(notice);
            return None;
        }
        self.remember(now, subject);
        Some(notice)
    }

    /// The notices that were kept back long enough.
    pub fn due(&mut self, now: Instant) -> Vec<Notice> {
        let mut due = Vec::new();
        while let Some(entry) = self.ends.first_entry().filter(|entry| entry.key().0 <= now) {
            let subject = entry.remove();
            let Some(told) = self.told.remove(&subject) else { continue };
            if let Some(latest) = told.latest {
                // The one that is told now was not suppressed.
                due.push(Notice { suppressed: told.suppressed.saturating_sub(1), ..latest });
                self.remember(now, subject);
            }
        }
        due
    }

    /// When to ask for what is due at the latest.
    pub fn wake_at(&self) -> Option<Instant> {
        self.ends.first_key_value().map(|((at, _), _)| *at)
    }

    /// Subjects remembered.
    pub fn len(&self) -> usize {
        self.told.len()
    }

    /// True if nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    fn remember(&mut self, now: Instant, subject: Subject) {
        self.number += 1;
        self.ends.insert((now + self.every, self.number), subject.clone());
        self.told.insert(subject, Told::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(about: &str, text: &str) -> Notice {
        Notice { about: about.into(), text: text.into(), rule: Some("r".into()), ..Notice::default() }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_same_subject_is_told_once_in_a_time_with_the_number_kept_back() {
        let start = Instant::now();
        let mut book = Book::new(15 * MINUTE);
        assert_eq!(book.told(start, notice("a", "1")).unwrap().text, "1");
        for n in 2..=100 {
            assert_eq!(book.told(start + MINUTE, notice("a", &n.to_string())), None);
        }
        assert!(book.told(start + MINUTE, notice("b", "other")).is_some(), "another subject");
        let other = Notice { rule: None, ..notice("a", "another rule") };
        assert!(book.told(start + MINUTE, other).is_some());
        assert_eq!(book.wake_at(), Some(start + 15 * MINUTE));
        assert_eq!(book.due(start + 14 * MINUTE), []);
        let due = book.due(start + 15 * MINUTE);
        assert_eq!(due, [Notice { suppressed: 98, ..notice("a", "100") }]);
        // Telling of it began its time anew.
        assert_eq!(book.told(start + 16 * MINUTE, notice("a", "later")), None);
        assert_eq!(book.due(start + 29 * MINUTE), []);
        let due = book.due(start + 30 * MINUTE);
        assert_eq!(due, [notice("a", "later")]);
        // Without more of them it is forgotten.
        assert_eq!(book.due(start + 45 * MINUTE), []);
        assert!(book.is_empty() && book.wake_at().is_none());
        assert!(book.told(start + 46 * MINUTE, notice("a", "again")).is_some());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_nothing_goes_uncounted() {
        let start = Instant::now();
        let mut book = Book::new(15 * MINUTE);
        let mut told = 0;
        for n in 0..5_000 {
            told += u64::from(book.told(start, notice(&format!("path {n}"), "x")).is_some());
        }
        assert_eq!(told, 1_001, "each subject there is room for, and one for all others");
        assert_eq!(book.len(), 1_001);
        let due = book.due(start + 15 * MINUTE);
        assert_eq!(due.len(), 1);
        assert_eq!(told + due[0].suppressed + 1, 5_000);
    }

    #[test]
    fn a_shorter_time_holds_for_subjects_told_of_later() {
        let start = Instant::now();
        let mut book = Book::new(15 * MINUTE);
        book.told(start, notice("long", ""));
        book.set_every(MINUTE);
        book.told(start, notice("short", ""));
        book.told(start, notice("short", "kept"));
        assert_eq!(book.wake_at(), Some(start + MINUTE));
        assert_eq!(book.due(start + MINUTE), [notice("short", "kept")]);
    }
}
