//! The spool with its threads, over a real directory.

use super::draft;
use crate::{
    Change, Config, Fate, Handle, LoadEvent, Loaded, Loader, OpenError, ReadError, Settlement, Spool,
    open_directory,
};
use mail::{Reply, UnixMillis};
use settings::Size;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) fn small() -> Config {
    Config {
        segment_bytes: Size::kib(64),
        min_free_bytes: Size(0),
        copy_after: Duration::ZERO,
        state_sync_interval: Duration::from_millis(5),
        retry_after_failure: Duration::from_millis(10),
        ..Config::default()
    }
}

fn opened(path: &Path) -> (Spool, Vec<Loaded>) {
    let (spool, loader) = open_directory(path, &small()).unwrap();
    (spool, messages(loader))
}

fn messages(loader: Loader) -> Vec<Loaded> {
    let message = |event| match event {
        LoadEvent::Message(loaded) => Some(*loaded),
        LoadEvent::SegmentDone { .. } => None,
        other => panic!("{other:?}"),
    };
    loader.filter_map(message).collect()
}

fn done(handle: Handle, recipient: u16) -> Settlement {
    Settlement { handle, recipient, change: Change::Final(Fate::Delivered) }
}

fn settle(spool: &Spool, settlements: Vec<Settlement>) {
    let (sender, written) = std::sync::mpsc::channel();
    spool.settle(settlements, Some(Box::new(move || sender.send(()).unwrap())));
    written.recv_timeout(Duration::from_secs(10)).unwrap();
}

#[test]
fn what_was_accepted_comes_back_until_it_is_settled() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, loaded) = opened(folder.path());
    assert!(loaded.is_empty());
    let mut accepted = Vec::new();
    for n in 0..50 {
        let draft = draft(spool.next_id(), 1 + n % 3, 1000 + usize::from(n) * 100);
        let took = spool.accept_blocking(draft.clone()).unwrap();
        let stored = spool.read(took.handle()).unwrap();
        assert_eq!(stored.message, draft.message);
        assert_eq!(stored.content.to_vec(), draft.content.to_vec());
        accepted.push((took.handle(), draft));
    }
    // The first is settled whole, of the second one recipient of two, the third is deferred.
    settle(&spool, vec![done(accepted[0].0, 0), done(accepted[1].0, 1)]);
    let reply = Reply::new(451, (4, 7, 1), "greylisted, \u{e4}".to_owned());
    let change =
        Change::Deferred { attempts: 3, due: UnixMillis(77), reply: Some(reply.clone()), ambiguous: true };
    settle(&spool, vec![Settlement { handle: accepted[2].0, recipient: 2, change }]);
    assert!(matches!(spool.read(accepted[0].0), Err(ReadError::NotFound)));
    spool.close();
    drop(spool);
    let (spool, loaded) = opened(folder.path());
    assert_eq!(loaded.len(), 49);
    for (loaded, (_, draft)) in loaded.iter().zip(&accepted[1..]) {
        assert_eq!(loaded.message, draft.message);
        assert_eq!(spool.read(loaded.handle).unwrap().content.to_vec(), draft.content.to_vec());
    }
    assert_eq!(loaded[0].pending.iter().map(|p| p.index).collect::<Vec<_>>(), [0]);
    let waiting = &loaded[1].pending[2];
    assert_eq!((waiting.attempts, waiting.due, waiting.ambiguous), (3, Some(UnixMillis(77)), true));
    assert_eq!(waiting.last_reply.as_ref(), Some(&reply));
    assert_eq!(spool.stats().live_messages, 49);
    let all = loaded.iter().flat_map(|l| l.pending.iter().map(|p| done(l.handle, p.index))).collect();
    settle(&spool, all);
    assert_eq!(spool.stats().live_messages, 0);
    drop(spool);
    let (_spool, loaded) = opened(folder.path());
    assert!(loaded.is_empty());
}

#[test]
fn segments_are_reused_once_everything_in_them_is_settled() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = opened(folder.path());
    for round in 0..200 {
        let took = spool.accept_blocking(draft(spool.next_id(), 1, 20_000)).unwrap();
        settle(&spool, vec![done(took.handle(), 0)]);
        if round % 50 == 49 {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let end = Instant::now() + Duration::from_secs(10);
    while spool.stats().segments > 1 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let stats = spool.stats();
    assert_eq!(stats.segments, 1, "{stats:?}");
    assert!(stats.recycled_segments > 0, "{stats:?}");
    let files = std::fs::read_dir(folder.path()).unwrap().count();
    assert!(files < 20, "{files}");
}

#[test]
fn a_message_larger_than_a_segment_has_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = opened(folder.path());
    let draft = draft(spool.next_id(), 1, 1 << 20);
    let took = spool.accept_blocking(draft.clone()).unwrap();
    assert_eq!(spool.read(took.handle()).unwrap().content.to_vec(), draft.content.to_vec());
    drop(spool);
    let (spool, loaded) = opened(folder.path());
    assert_eq!(spool.read(loaded[0].handle).unwrap().content.to_vec(), draft.content.to_vec());
    settle(&spool, vec![done(loaded[0].handle, 0)]);
    drop(spool);
    assert!(opened(folder.path()).1.is_empty());
}

#[test]
fn a_second_process_is_told_who_has_the_spool() {
    let folder = tempfile::tempdir().unwrap();
    let (_spool, _loader) = open_directory(folder.path(), &small()).unwrap();
    let error = open_directory(folder.path(), &small()).err().unwrap();
    assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()));
    assert!(error.to_string().contains("stop it first"), "{error}");
}

#[test]
fn a_directory_others_may_write_or_redirect_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    for mode in [0o770, 0o707, 0o722] {
        std::fs::set_permissions(&spool, PermissionsExt::from_mode(mode)).unwrap();
        let error = open_directory(&spool, &small()).err().unwrap();
        assert!(matches!(error, OpenError::Writable { .. }), "{error}");
        assert!(error.to_string().contains("chmod go-w"), "{error}");
    }
    std::fs::set_permissions(&spool, PermissionsExt::from_mode(0o700)).unwrap();
    let link = folder.path().join("link");
    symlink(&spool, &link).unwrap();
    assert!(matches!(open_directory(&link, &small()).err().unwrap(), OpenError::Symlink { .. }));
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(open_directory(&file, &small()).err().unwrap(), OpenError::NotADirectory { .. }));
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&spool, Some(12_345), None).unwrap();
        let error = open_directory(&spool, &small()).err().unwrap();
        assert!(matches!(error, OpenError::Owner { owner: 12_345, .. }), "{error}");
    }
}

#[test]
fn another_version_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    drop(open_directory(folder.path(), &small()).unwrap());
    std::fs::write(folder.path().join("FORMAT"), "tuma-spool 7\n").unwrap();
    let error = open_directory(folder.path(), &small()).err().unwrap();
    assert!(matches!(error, OpenError::Format { found: 7, known: 1 }), "{error}");
    assert!(error.to_string().contains("version 7"), "{error}");
    std::fs::write(folder.path().join("FORMAT"), "somebody's notes\n").unwrap();
    assert!(matches!(open_directory(folder.path(), &small()).err().unwrap(), OpenError::NotASpool));
}
