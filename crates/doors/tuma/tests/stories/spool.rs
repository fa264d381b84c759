//! The spool of a process that is gone: its tools, and damage in it (attack row 79).

use crate::harness::{Setup, keeping, nobody, output_of, sink, wait_until};
use std::path::Path;
use std::process::{Command, Output};

/// Takes messages for a next hop that is away, and dies.
fn left_behind(data: &Path, count: usize) {
    let tuma = Setup::relay(data, nobody()).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    for n in 0..count {
        let reply = session.message(
            "a@b.test",
            &["c@d.test", "e@d.test"],
            &format!("Subject: x\r\n\r\nbody number {n:04} of it"),
        );
        assert!(reply.starts_with("250"), "{reply}");
    }
    tuma.kill();
}

fn tool(data: &Path, arguments: &[&str]) -> Output {
    let (what, rest) = arguments.split_first().expect("a subcommand");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tuma"));
    command.args(["spool", what, "--directory"]).arg(data.join("spool")).args(rest);
    command.output().expect("run tuma")
}

#[test]
fn what_a_killed_process_left_is_whole_and_can_be_carried_elsewhere() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    left_behind(old.path(), 30);
    let output = tool(old.path(), &["verify"]);
    assert!(output.status.success(), "{output:?}");
    let listed = String::from_utf8_lossy(&tool(old.path(), &["ls"]).stdout).into_owned();
    assert_eq!(listed.lines().filter(|line| line.contains("c@d.test")).count(), 30, "{listed}");
    let file = new.path().join("export");
    assert!(tool(old.path(), &["export", file.to_str().unwrap()]).status.success());
    assert!(tool(new.path(), &["import", file.to_str().unwrap()]).status.success());
    let sink = sink(keeping());
    for data in [&old, &new] {
        let tuma = Setup::relay(data.path(), sink.addr()).start();
        tuma.wait_until_settled();
        // Not while the server runs.
        assert!(!tool(data.path(), &["import", file.to_str().unwrap()]).status.success());
        tuma.stop();
    }
    let messages = sink.messages();
    assert_eq!(messages.iter().map(|m| m.recipients.len()).sum::<usize>(), 2 * 2 * 30);
    for n in 0..30 {
        let body = format!("body number {n:04} of it");
        let copies = messages.iter().filter(|m| String::from_utf8_lossy(&m.content).contains(&body));
        assert_eq!(copies.count(), 2, "{body}");
    }
    let listed = String::from_utf8_lossy(&tool(old.path(), &["ls"]).stdout).into_owned();
    assert!(!listed.contains("c@d.test"), "{listed}");
    output_of(
        Command::new(env!("CARGO_BIN_EXE_tuma"))
            .args(["spool", "verify", "-d"])
            .arg(old.path().join("spool")),
    );
}

#[test]
fn a_rotten_message_is_set_aside_and_the_others_are_delivered() {
    let folder = tempfile::tempdir().unwrap();
    left_behind(folder.path(), 20);
    // One octet of one body.
    let spool = folder.path().join("spool");
    let mut flipped = 0;
    for entry in std::fs::read_dir(&spool).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_file() {
            continue;
        }
        let mut octets = std::fs::read(&path).unwrap();
        if let Some(at) = octets.windows(16).position(|window| window == b"body number 0007") {
            octets[at + 3] ^= 0x20;
            std::fs::write(&path, octets).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1);
    assert_eq!(tool(folder.path(), &["verify"]).status.code(), Some(3));
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    wait_until("the others arrive", || sink.stats().messages == 19);
    wait_until("the damage is set aside", || tuma.metric("tuma_spool_set_aside_total") >= 1.0);
    tuma.wait_until_settled();
    assert!(tuma.log().contains("ERROR"), "{}", tuma.log());
    assert!(std::fs::read_dir(spool.join("quarantine")).unwrap().count() >= 1);
    let bodies: Vec<String> =
        sink.messages().iter().map(|m| String::from_utf8_lossy(&m.content).into_owned()).collect();
    assert!(bodies.iter().all(|body| !body.contains("0007")) && bodies.len() == 19);
}
