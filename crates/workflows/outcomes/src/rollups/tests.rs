//! Counters over time: what is counted where, over restarts, and within bounds.

use super::*;
use accounting::Connection;
use mail::{BounceClass, Envelope, Mailbox, Message, Origin, Recipient, ReversePath, SpoolId, Tags};
use std::path::Path;

/// A whole day, in Unix seconds.
const DAY: u64 = 20_000 * 86_400;

/// A record of a mailing of a job, so many seconds into the day.
fn record(kind: Kind, second: u64, job: &str) -> Record {
    let time = UnixMillis((DAY + second) * 1_000 + 250);
    let to = Recipient::new(Mailbox::parse("joe@d.test").unwrap());
    let message = Arc::new(Message {
        id: SpoolId(1),
        received_at: UnixMillis(time.0 - 250),
        size: 1_000,
        envelope: Envelope::new(ReversePath::Null, vec![to]),
        origin: Origin::default(),
        tags: Tags { tenant: Some("acme".into()), job: Some(job.into()), ..Tags::default() },
        headers: Vec::new(),
        extras: None,
    });
    let connection = Connection {
        source: "s1".into(),
        pool: "bulk".into(),
        provider: Some("gmail".into()),
        ..Connection::default()
    };
    let class = (kind == Kind::Bounced).then_some(BounceClass::BadMailbox);
    Record { connection: Some(Arc::new(connection)), class, ..Record::new(kind, time, &message, 0) }
}

fn config() -> RollupsConfig {
    // Records of the tests are of one day long ago.
    RollupsConfig {
        enabled: true,
        minutes_kept: days(36_600),
        hours_kept: days(36_600),
        days_kept: days(36_600),
        ..RollupsConfig::default()
    }
}

fn ask(rollups: &Rollups, span: Span, by: &[By], total: bool) -> Vec<StatsRow> {
    let query = StatsQuery {
        span,
        from: DAY,
        to: DAY + 86_400,
        by: by.to_vec(),
        only: Vec::new(),
        total,
        max: 1_000,
    };
    let answer = rollups.ask(&query).unwrap();
    assert!(answer.complete);
    answer.rows
}

fn sum(rows: &[StatsRow], kind: Kind) -> u64 {
    rows.iter().map(|row| row.count(kind)).sum()
}

fn open(folder: &Path, config: RollupsConfig) -> Arc<Rollups> {
    Rollups::open(folder, &config).unwrap()
}

#[test]
fn minutes_hours_and_days_are_counted_and_kept_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let rollups = open(folder.path(), config());
    rollups.observe(&[record(Kind::Delivered, 0, "a"), record(Kind::Delivered, 59, "a")]);
    rollups.observe(&[record(Kind::Bounced, 61, "a"), record(Kind::Delivered, 3_601, "b")]);
    rollups.close();
    drop(rollups);
    let rollups = open(folder.path(), config());
    rollups.observe(&[record(Kind::Delivered, 3_602, "b")]);
    let minutes = ask(&rollups, Span::Minute, &[], false);
    let shown: Vec<(u64, u64, u64)> = minutes
        .iter()
        .map(|row| (row.start - DAY, row.count(Kind::Delivered), row.count(Kind::Bounced)))
        .collect();
    assert_eq!(shown, [(0, 2, 0), (60, 0, 1), (3_600, 2, 0)]);
    let hours = ask(&rollups, Span::Hour, &[By::Job, By::Class], false);
    let shown: Vec<(u64, &str, &str)> =
        hours.iter().map(|row| (row.start - DAY, row.labels[0].as_str(), row.labels[1].as_str())).collect();
    assert_eq!(shown, [(0, "a", ""), (0, "a", "bad-mailbox"), (3_600, "b", "")]);
    let of_all = ask(&rollups, Span::Day, &[By::Tenant, By::Pool, By::Source, By::Provider], true);
    assert_eq!(of_all.len(), 1);
    assert_eq!(of_all[0].labels, ["acme", "bulk", "s1", "gmail"]);
    assert_eq!((of_all[0].octets(), of_all[0].latency_ms()), (4_000, 1_000));
    // One label of many, and a label that nobody has.
    let only = |label: &str| {
        let query = StatsQuery {
            span: Span::Day,
            from: DAY,
            to: DAY + 86_400,
            by: vec![],
            only: vec![(By::Job, label.to_owned())],
            total: true,
            max: 10,
        };
        rollups.ask(&query).unwrap().rows
    };
    assert_eq!(sum(&only("b"), Kind::Delivered), 2);
    assert_eq!(only("' OR 1=1 --"), []);
    assert_eq!(rollups.figures(), RollupFigures::default());
}

#[test]
fn what_is_one_series_too_many_is_counted_under_other() {
    let folder = tempfile::tempdir().unwrap();
    let few = RollupsConfig { series_max: 3, ..config() };
    let rollups = open(folder.path(), few.clone());
    for minute in 0..4 {
        for job in 0..10 {
            rollups.observe(&[record(Kind::Delivered, minute * 60, &format!("job{minute}.{job}"))]);
            // Each is written by itself, so that it is the file that has to know of the others.
            assert_eq!(sum(&ask(&rollups, Span::Day, &[], true), Kind::Delivered), minute * 10 + job + 1);
        }
    }
    assert_eq!(rollups.figures().folded, 4 * 7);
    drop(rollups);
    // A restart does not make room for three more.
    let rollups = open(folder.path(), few);
    for job in 0..10 {
        rollups.observe(&[record(Kind::Delivered, 0, &format!("late{job}"))]);
    }
    for (span, buckets) in [(Span::Minute, 4), (Span::Hour, 1), (Span::Day, 1)] {
        let rows = ask(&rollups, span, &[By::Job], false);
        assert_eq!(sum(&rows, Kind::Delivered), 50, "{span}");
        assert!(rows.len() <= buckets * 4, "{span}: {}", rows.len());
        assert!(rows.iter().any(|row| row.labels[0] == OTHER), "{span}");
    }
    assert_eq!(rollups.figures().folded, 10);
}

#[test]
fn what_finds_the_queue_full_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let rollups = open(folder.path(), RollupsConfig { queue_max: 1_000, ..config() });
    let many = vec![record(Kind::Delivered, 0, "a"); 2_500];
    rollups.observe(&many);
    let counted = sum(&ask(&rollups, Span::Day, &[], true), Kind::Delivered);
    assert_eq!((counted, rollups.figures().dropped), (1_000, 1_500));
}

#[test]
fn what_is_too_old_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(&folder.path().join("stats.sqlite")).unwrap();
    let config = RollupsConfig { hours_kept: days(2), days_kept: days(30), ..RollupsConfig::default() };
    let write = |store: &mut Store, second: u64, now: u64| {
        let mut waiting = Waiting::default();
        waiting.add(&record(Kind::Delivered, second, &second.to_string()), 100);
        store.write(&waiting, &config, UnixMillis((DAY + now) * 1_000)).unwrap();
    };
    let rows = |store: &Store, span| {
        let query = StatsQuery {
            span,
            from: 0,
            to: DAY * 2,
            by: vec![By::Job],
            only: vec![],
            total: false,
            max: 100,
        };
        store.ask(&query).unwrap().rows.len()
    };
    write(&mut store, 0, 0);
    write(&mut store, 3 * 86_400, 3 * 86_400);
    assert_eq!([Span::Minute, Span::Hour, Span::Day].map(|span| rows(&store, span)), [1, 1, 2]);
    write(&mut store, 40 * 86_400, 40 * 86_400);
    assert_eq!([Span::Minute, Span::Hour, Span::Day].map(|span| rows(&store, span)), [1, 1, 1]);
}

#[test]
fn a_file_that_is_none_of_ours_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stats.sqlite");
    std::fs::write(&path, "this is no database, and long enough to be taken for the head of one".repeat(20))
        .unwrap();
    assert!(Rollups::open(folder.path(), &config()).is_err());
    std::fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 7").unwrap();
    let failure = Rollups::open(folder.path(), &config()).unwrap_err().to_string();
    assert!(failure.contains("version 7"), "{failure}");
}

#[test]
fn what_is_in_the_file_is_not_added_again_because_old_rows_could_not_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    let rollups = Rollups::open(folder.path(), &RollupsConfig { minutes_kept: days(1), ..config() }).unwrap();
    let other = rusqlite::Connection::open(folder.path().join("stats.sqlite")).unwrap();
    other
        .execute_batch("CREATE TRIGGER kept BEFORE DELETE ON counts BEGIN SELECT RAISE(FAIL, 'kept'); END;")
        .unwrap();
    rollups.observe(&[record(Kind::Delivered, 0, "a")]);
    for _ in 0..3 {
        let found = ask(&rollups, Span::Day, &[], true);
        assert_eq!(found[0].sums[Kind::Delivered as usize], 1);
    }
    assert_eq!(rollups.figures().failed, 0);
}
