//! The spool with its threads, over a real directory.

use super::draft;
use crate::simulated::{Call, Crash, Fault, SimulatedDisk};
use crate::{
    Change, Config, Fate, Handle, LoadEvent, Loaded, Loader, OpenError, ReadError, Refusal, Settlement,
    Spool, open_directory,
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
        // A kill can interrupt a write half way.
        LoadEvent::SegmentDone { .. } | LoadEvent::Torn { .. } => None,
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
fn messages_are_read_and_settled_while_they_are_copied_forward() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = opened(folder.path());
    let mut kept = Vec::new();
    for n in 0..400 {
        let draft = draft(spool.next_id(), 2, 3000);
        let took = spool.accept_blocking(draft.clone()).unwrap();
        if n % 20 == 0 {
            settle(&spool, vec![done(took.handle(), 0)]);
            kept.push((took.handle(), draft));
        } else {
            spool.settle(vec![done(took.handle(), 0), done(took.handle(), 1)], None);
        }
    }
    let end = Instant::now() + Duration::from_secs(20);
    while spool.stats().moved_messages < 15 && Instant::now() < end {
        for (handle, draft) in &kept {
            assert_eq!(spool.read(*handle).unwrap().content.to_vec(), draft.content.to_vec());
        }
    }
    let stats = spool.stats();
    assert!(stats.moved_messages >= 15 && stats.live_messages == 20, "{stats:?}");
    // Their names are the same as before, wherever they stand now.
    for (handle, _) in kept.iter().take(10) {
        settle(&spool, vec![done(*handle, 1)]);
        assert!(matches!(spool.read(*handle), Err(ReadError::NotFound)));
    }
    drop(spool);
    let (_spool, loaded) = opened(folder.path());
    let ids: Vec<_> = loaded.iter().map(|l| l.message.id).collect();
    let mut expected: Vec<_> = kept.iter().skip(10).map(|(_, draft)| draft.message.id).collect();
    expected.sort_unstable();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    assert!(loaded.iter().all(|l| l.pending.len() == 1 && l.pending[0].index == 1));
}

#[test]
fn a_failed_sync_refuses_the_commit_and_intake_comes_back_by_itself() {
    let disk = SimulatedDisk::new(4 << 20);
    let (spool, loader) = crate::open(std::sync::Arc::new(disk.clone()), &small()).unwrap();
    assert_eq!(loader.count(), 0);
    let first = spool.accept_blocking(draft(spool.next_id(), 1, 100)).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    disk.fail(Call::Sync, 0, 1, Fault::Io);
    assert_eq!(spool.accept_blocking(draft(spool.next_id(), 1, 100)).err(), Some(Refusal::Io));
    let end = Instant::now() + Duration::from_secs(10);
    while spool.may_accept().is_err() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = spool.accept_blocking(draft(spool.next_id(), 1, 100)).unwrap();
    assert_eq!(spool.stats().refused_io, 1);
    spool.close();
    assert_eq!(spool.accept_blocking(draft(spool.next_id(), 1, 100)).err(), Some(Refusal::Closed));
    let again = crate::open(std::sync::Arc::new(disk.after(Crash::Lose)), &small()).unwrap();
    let ids: Vec<_> = messages(again.1).iter().map(|l| l.message.id).collect();
    assert_eq!(ids, [first.message().id, second.message().id]);
}

#[test]
fn a_session_that_goes_away_before_the_answer_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (spool, _) = opened(folder.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut accept = Box::pin(spool.accept(draft(spool.next_id(), 1, 100)));
        std::future::poll_fn(|context| {
            let _ = accept.as_mut().poll(context);
            std::task::Poll::Ready(())
        })
        .await;
    });
    let end = Instant::now() + Duration::from_secs(10);
    while spool.stats().commits == 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    spool.close();
    assert_eq!(spool.stats().live_messages, 0);
    drop(spool);
    assert!(opened(folder.path()).1.is_empty());
}

/// The child of the next test: accepts and settles, and says so, until it is killed.
#[test]
#[ignore = "run by kill_nine_again_and_again"]
fn kill_nine_child() {
    use std::io::Write;
    let folder = std::env::var("SPOOL_KILL_FOLDER").unwrap();
    let (spool, loader) = open_directory(Path::new(&folder), &small()).unwrap();
    let found = messages(loader);
    let mut out = std::io::stdout().lock();
    for loaded in &found {
        writeln!(out, "found {}", loaded.message.id.0).unwrap();
    }
    writeln!(out, "loaded").unwrap();
    for loaded in found.iter().step_by(2) {
        writeln!(out, "settling {}", loaded.message.id.0).unwrap();
        settle(&spool, vec![done(loaded.handle, 0)]);
        writeln!(out, "settled {}", loaded.message.id.0).unwrap();
    }
    for n in 0.. {
        let draft = draft(spool.next_id(), 1, 100 + n % 9 * 1000);
        let took = spool.accept_blocking(draft).unwrap();
        writeln!(out, "accepted {}", took.message().id.0).unwrap();
        if n % 4 != 0 {
            writeln!(out, "settling {}", took.message().id.0).unwrap();
            settle(&spool, vec![done(took.handle(), 0)]);
            writeln!(out, "settled {}", took.message().id.0).unwrap();
        }
    }
}

#[test]
fn kill_nine_again_and_again() {
    use std::collections::BTreeSet;
    use std::io::BufRead;
    use std::process::{Command, Stdio};
    let folder = tempfile::tempdir().unwrap();
    let cycles = std::env::var("SPOOL_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(8u64);
    let (mut accepted, mut settled) = (BTreeSet::new(), BTreeSet::new());
    let mut settling = 0;
    for cycle in 0..cycles {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "tests::threads::kill_nine_child", "--nocapture"])
            .env("SPOOL_KILL_FOLDER", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut found = BTreeSet::new();
        let mut budget = 40 + cycle * 37 % 300;
        let mut loaded = false;
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        // What was said before the kill but read after it counts, too.
        for line in &mut lines {
            let line = line.unwrap();
            if let Some((word, Ok(id))) = line.split_once(' ').map(|(w, id)| (w, id.parse::<u64>())) {
                match word {
                    "found" => assert!(found.insert(id), "{id} twice"),
                    "accepted" => drop(accepted.insert(id)),
                    "settling" => settling = id,
                    "settled" => drop(settled.insert(id)),
                    _ => {}
                }
            } else if line == "loaded" {
                loaded = true;
                // What was being settled at the kill may be so or not.
                if !found.contains(&settling) {
                    settled.insert(settling);
                }
                for id in accepted.difference(&settled) {
                    assert!(found.contains(id), "{id} is lost in cycle {cycle}");
                }
                // The one in flight may come back, or be here without having been acknowledged.
                let extra = found.iter().filter(|id| settled.contains(id) || !accepted.contains(id)).count();
                assert!(extra <= 1, "{extra} came back in cycle {cycle}");
                accepted.extend(&found);
                settled.retain(|id| !found.contains(id));
            }
            if loaded {
                budget = budget.saturating_sub(1);
                if budget == 0 {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(loaded);
    }
    assert!(accepted.len() > 50);
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
