//! The list over restarts, torn and damaged files, and rewrites.

use crate::list::BATCH_MAX;
use crate::{Entry, Reason, Subject, Suppression};
use mail::{Mailbox, UnixMillis};
use std::os::unix::fs::FileExt;
use std::path::Path;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn entry(tenant: Option<&str>, subject: &str) -> Entry {
    Entry {
        tenant: tenant.map(Into::into),
        subject: Subject::parse(subject).unwrap(),
        reason: Reason::Bounce,
        note: "550 5.1.1 no such user".into(),
        since: NOW,
        until: None,
    }
}

fn open(folder: &Path) -> Suppression {
    Suppression::open(folder, 1_000_000).unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn add(list: &Suppression, entries: Vec<Entry>) -> u64 {
    run(list.add(entries)).unwrap()
}

fn find(list: &Suppression, tenant: Option<&str>, mailbox: &str) -> Option<String> {
    let mailbox = Mailbox::parse(mailbox).unwrap();
    let found = list.find(tenant, &mailbox, NOW);
    // Both ways of asking say the same, also of what is looked at a day earlier or years later.
    for now in [NOW, UnixMillis(NOW.0 - 86_400_000), UnixMillis(NOW.0 + 86_400_000), UnixMillis(NOW.0 * 2)] {
        assert_eq!(
            list.find(tenant, &mailbox, now).is_some(),
            list.holds(tenant, &mailbox, now),
            "{mailbox}"
        );
    }
    let found = found?;
    Some(format!("{}:{}", found.tenant.as_deref().unwrap_or("-"), found.subject))
}

fn file(folder: &Path) -> std::fs::File {
    std::fs::OpenOptions::new().read(true).write(true).open(folder.join("suppression.log")).unwrap()
}

#[test]
fn entries_hold_for_a_tenant_or_for_all_for_an_address_or_a_domain() {
    let folder = tempfile::tempdir().unwrap();
    let list = open(folder.path());
    assert_eq!(find(&list, None, "a@x.test"), None);
    let over = Entry { until: Some(NOW), ..entry(None, "over@x.test") };
    let lasting = Entry { until: Some(UnixMillis(NOW.0 + 1_000)), ..entry(None, "lasting@x.test") };
    let own = entry(Some("acme"), "b@x.test");
    let new = vec![entry(None, "A@X.test"), own, entry(Some("acme"), "@y.test"), over, lasting];
    assert_eq!(add(&list, new), 5);
    let check = |list: &Suppression| {
        for (tenant, mailbox, expected) in [
            (None, "a@x.test", Some("-:a@x.test")),
            (Some("acme"), "\"a\"@X.TEST", Some("-:a@x.test")),
            (Some("other"), "b@x.test", None),
            (None, "b@x.test", None),
            (Some("acme"), "B@x.test", Some("acme:b@x.test")),
            (Some("acme"), "anyone@y.test", Some("acme:@y.test")),
            (None, "anyone@y.test", None),
            (Some("acme"), "anyone@sub.y.test", None),
            (None, "over@x.test", None),
            (None, "lasting@x.test", Some("-:lasting@x.test")),
        ] {
            assert_eq!(find(list, tenant, mailbox).as_deref(), expected, "{tenant:?} {mailbox}");
        }
        let stats = list.stats();
        assert_eq!((stats.entries, stats.domains, stats.by_reason[Reason::Bounce as usize]), (5, 1, 5));
    };
    check(&list);
    drop(list);
    check(&open(folder.path()));
}

#[test]
fn adding_again_replaces_and_what_is_removed_stays_away() {
    let folder = tempfile::tempdir().unwrap();
    let list = open(folder.path());
    add(&list, vec![entry(None, "a@x.test"), entry(None, "b@x.test")]);
    let again =
        Entry { reason: Reason::Complaint, note: "x".repeat(1_000).into(), ..entry(None, "a@x.test") };
    assert_eq!(add(&list, vec![again]), 0);
    let subjects = ["b@x.test", "c@x.test"].map(|text| Subject::parse(text).unwrap());
    assert_eq!(run(list.remove(None, subjects.to_vec())).unwrap(), 1);
    let check = |list: &Suppression| {
        let found = list.entry(None, &Subject::parse("a@x.test").unwrap()).unwrap();
        assert_eq!((found.reason, found.note.len()), (Reason::Complaint, 200));
        assert_eq!(find(list, None, "b@x.test"), None);
        let stats = list.stats();
        assert_eq!((stats.entries, stats.stale), (1, 3));
        let (page, next) = list.page(0, 10).unwrap();
        assert_eq!((page.len(), next), (1, None));
    };
    check(&list);
    drop(list);
    check(&open(folder.path()));
}

#[test]
fn a_torn_end_is_cut_off_and_damage_costs_only_what_it_hits() {
    let folder = tempfile::tempdir().unwrap();
    let list = open(folder.path());
    let count = 1_000;
    add(&list, (0..count).map(|n| entry(None, &format!("a{n}@x.test"))).collect());
    let whole = list.stats().octets;
    drop(list);
    let on_disk = file(folder.path());
    // Half a record at the end, and an octet changed in the middle of the file.
    on_disk.write_all_at(&[7; 20], whole).unwrap();
    let mut octet = [0];
    on_disk.read_exact_at(&mut octet, whole / 2).unwrap();
    on_disk.write_all_at(&[octet[0] ^ 0x40], whole / 2).unwrap();
    let list = open(folder.path());
    let stats = list.stats();
    assert_eq!((stats.entries, stats.damaged, stats.octets), (count - 1, 1, whole));
    assert_eq!(on_disk.metadata().unwrap().len(), whole);
    assert_eq!((0..count).filter(|n| find(&list, None, &format!("a{n}@x.test")).is_none()).count(), 1);
    drop(list);
    // Torn within the first octets; and a file that is none of ours.
    on_disk.set_len(3).unwrap();
    let list = open(folder.path());
    assert_eq!(list.stats().entries, 0);
    assert_eq!(add(&list, vec![entry(None, "a@x.test")]), 1);
    drop(list);
    on_disk.write_all_at(b"something", 0).unwrap();
    assert!(Suppression::open(folder.path(), 10).is_err());
}

#[test]
fn a_file_that_is_mostly_stale_is_rewritten_and_looked_up_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let list = open(folder.path());
    let many: Vec<Entry> = (0..BATCH_MAX).map(|n| entry(Some("acme"), &format!("user{n}@x.test"))).collect();
    add(&list, many.clone());
    add(&list, vec![Entry { until: Some(UnixMillis(1_000)), ..entry(None, "over@x.test") }]);
    let first = list.page(0, 10).unwrap().1.unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || looks < 1_000 {
                let mailbox = format!("user{}@x.test", looks % BATCH_MAX);
                assert!(find(&list, Some("acme"), &mailbox).is_some(), "{mailbox}");
                looks += 1;
            }
        });
        // The same again and again, until the file is large and mostly stale.
        for _ in 0..6 {
            assert_eq!(add(&list, many.clone()), 0);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        looking.join().unwrap();
    });
    // A change that comes after a rewrite has waited for it.
    add(&list, vec![entry(None, "last@x.test")]);
    let stats = list.stats();
    assert!(stats.octets < 16 << 20 && stats.stale < stats.entries, "{stats:?}");
    assert_eq!(stats.entries, BATCH_MAX as u64 + 1, "what was over is gone: {stats:?}");
    assert!(list.page(first, 10).is_err(), "a cursor of the file before");
    let (mut cursor, mut count) = (0, 0);
    loop {
        let (page, next) = list.page(cursor, 1_000).unwrap();
        count += page.len();
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!(count as u64, stats.entries);
    drop(list);
    let list = open(folder.path());
    assert_eq!(list.stats().entries, stats.entries);
    assert!(find(&list, Some("acme"), "user77@x.test").is_some());
}

#[test]
fn a_full_list_takes_no_more_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let list = Suppression::open(folder.path(), 1).unwrap();
    add(&list, vec![entry(None, "a@x.test")]);
    let refused = run(list.add(vec![entry(None, "b@x.test")])).unwrap_err();
    assert!(refused.to_string().contains("entries_max"), "{refused}");
    assert_eq!(list.stats().entries, 1);
}

/// A full disk, as the system tells of it.
#[test]
fn a_disk_that_fails_promises_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("suppression.log")).unwrap();
    // Not even the beginning of the file can be written.
    assert!(Suppression::open(folder.path(), 10).is_err());
}

#[test]
fn random_octets_are_read_as_records_within_their_bounds() {
    let (mut seed, mut octets) = (5u64, Vec::new());
    for _ in 0..20_000 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        octets.clear();
        // A fixed part whose lengths often fit, and a text behind it.
        let (tenant, subject, note) = (seed >> 62, seed >> 61 & 7, seed >> 59 & 1);
        octets.extend_from_slice(&[(seed >> 40) as u8 & 3, (seed >> 48) as u8, 0, 0, 0, 0, 0, 0, 0, 1]);
        octets.extend_from_slice(&[tenant as u8, subject as u8, 0, note as u8]);
        let length = tenant + subject + note + u64::from(seed >> 33 & 7 == 0);
        octets.extend((0..length).map(|n| (seed >> (n % 8 * 7)) as u8));
        crate::decode_arbitrary(&octets);
    }
}
