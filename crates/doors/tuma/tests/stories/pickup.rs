//! The pickup directory.

use crate::harness::{Setup, keeping, sink, wait_until};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

fn drop_in(pickup: &Path, name: &str, text: &str) {
    let beside = pickup.join(format!(".{name}"));
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, pickup.join(name)).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let entries =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

fn is_empty(pickup: &Path) -> bool {
    names(&pickup.join("taking")).is_empty()
        && names(pickup).iter().all(|name| ["bad", "taking"].contains(&&**name) || name.starts_with('.'))
}

/// Attack 53 for this door: what lies there is read as what it is, and never as what it points to.
#[test]
fn what_is_renamed_in_is_mail_and_what_is_none_is_put_aside() {
    let (folder, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pickup = place.path().join("pickup");
    fs::create_dir(&pickup).unwrap();
    let sink = sink(keeping());
    let more = format!(
        "[pickup]\ndirectory = \"{}\"\nlook_every = \"50ms\"\ntenant = \"acme\"\n[smtp]\nmessage_size_max = \"64KiB\"\n",
        pickup.display()
    );
    let setup = Setup::relay_with(folder.path(), sink.addr(), &more);

    // What was there before the start is mail too.
    drop_in(&pickup, "first", "X-Sender: b@acme.test\nX-Receiver: a@x.test\n\nno header\n");
    drop_in(
        &pickup,
        "second",
        "X-Sender: b@acme.test\nX-Receiver: a@x.test\nX-Receiver: c@x.test\nX-Job: j7\nFrom: a@acme.test\nSubject: picked\n\nHello\n",
    );
    let secret = place.path().join("secret");
    fs::write(&secret, "From: a@x.test\nTo: leaked@x.test\n\nsecret\n").unwrap();
    symlink(&secret, pickup.join("link")).unwrap();
    fs::hard_link(&secret, pickup.join("hard")).unwrap();
    symlink("/dev/zero", pickup.join("endless")).unwrap();
    nix::unistd::mkfifo(&pickup.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(pickup.join("open"), "From: a@x.test\nTo: leaked@x.test\n\nx\n").unwrap();
    fs::set_permissions(pickup.join("open"), fs::Permissions::from_mode(0o666)).unwrap();
    drop_in(&pickup, "large", &format!("From: a@x.test\nTo: b@x.test\n\n{}", "line\n".repeat(20_000)));
    fs::write(pickup.join(".unfinished"), "From: a@x.test\nTo: leaked@x.test\n\nx\n").unwrap();
    fs::write(pickup.join("unfinished.tmp"), "From: a@x.test\nTo: leaked@x.test\n\nx\n").unwrap();
    fs::create_dir(pickup.join("folder")).unwrap();

    let tuma = setup.start();
    let bad = pickup.join("bad");
    let wanted = ["first", "link", "hard", "endless", "fifo", "open", "large"];
    wait_until("all is taken or put aside", || {
        bad.is_dir() && names(&bad).iter().filter(|name| name.ends_with(".why")).count() == wanted.len()
    });
    wait_until("the mail is gone", || names(&pickup.join("taking")).is_empty());
    tuma.wait_until_settled();
    let why = |name: &str| {
        let found = names(&bad).into_iter().find(|file| file.ends_with(&format!("-{name}.why")));
        fs::read_to_string(bad.join(found.unwrap_or_else(|| panic!("no {name}")))).unwrap()
    };
    for (name, text) in [
        ("first", "header fields"),
        ("link", "symbolic link"),
        ("hard", "more than one name"),
        ("endless", "symbolic link"),
        ("fifo", "no ordinary file"),
        ("open", "everybody"),
        ("large", "smtp.message_size_max"),
    ] {
        assert!(why(name).contains(text), "{name}: {}", why(name));
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "From: a@x.test\nTo: leaked@x.test\n\nsecret\n");
    assert_eq!(names(&pickup), [".unfinished", "bad", "folder", "taking", "unfinished.tmp"]);
    let messages = sink.messages();
    assert_eq!(messages.len(), 1, "{messages:?}");
    let text = String::from_utf8_lossy(&messages[0].content);
    assert!(text.contains("Subject: picked\r\n") && text.contains("\r\nMessage-ID: "), "{text}");
    assert_eq!(messages[0].recipients.len(), 2);
    let (_, events) = tuma.http("GET", "/v1/events?tenant=acme&kind=delivered", "");
    assert!(events.contains("c@x.test"), "{events}");

    // While it runs, too; and many.
    for n in 0..300 {
        drop_in(&pickup, &format!("many{n}"), &format!("From: a@acme.test\nTo: m{n}@x.test\n\nHello\n"));
    }
    wait_until("all are taken", || {
        names(&pickup).iter().all(|name| !name.starts_with("many"))
            && names(&pickup.join("taking")).is_empty()
    });
    tuma.wait_until_settled();
    assert_eq!(sink.messages().len(), 301);
}

/// What was taken and not yet removed when the server was killed is taken at the next start; and a folder that others
/// may write to is not used.
#[test]
fn a_kill_loses_nothing_and_an_open_folder_is_not_used() {
    let (folder, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pickup = place.path().join("pickup");
    fs::create_dir(&pickup).unwrap();
    fs::set_permissions(&pickup, fs::Permissions::from_mode(0o777)).unwrap();
    let sink = sink(keeping());
    let more = format!("[pickup]\ndirectory = \"{}\"\nlook_every = \"50ms\"\n", pickup.display());
    let setup = Setup::relay_with(folder.path(), sink.addr(), &more);
    drop_in(&pickup, "one", "From: a@acme.test\nTo: one@x.test\n\nHello\n");
    let tuma = setup.start();
    wait_until("it is told", || tuma.log().contains("everybody on this machine may write to"));
    assert!(names(&pickup).contains(&"one".to_owned()) && sink.messages().is_empty());
    tuma.kill();

    fs::set_permissions(&pickup, fs::Permissions::from_mode(0o770)).unwrap();
    let taking = pickup.join("taking");
    fs::create_dir(&taking).unwrap();
    fs::set_permissions(&taking, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(taking.join("0000000000a-left"), "From: a@acme.test\nTo: left@x.test\n\nHello\n").unwrap();
    let _tuma = setup.start();
    wait_until("both are taken", || sink.messages().len() == 2);
    wait_until("and gone", || is_empty(&pickup));
}
