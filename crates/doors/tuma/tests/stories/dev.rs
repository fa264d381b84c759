//! The README's two commands: `serve --dev` and `send`.

use crate::harness::Setup;
use std::process::Command;

#[test]
fn what_is_sent_to_serve_dev_is_captured_and_its_timeline_shown() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tuma"));
    command.args(["serve", "--dev"]).current_dir(folder.path());
    command.env("TUMA_LISTEN", "127.0.0.1:0").env("TUMA_HTTP", "127.0.0.1:0");
    let tuma = Setup::relay(folder.path(), crate::harness::nobody()).start_as(command);
    assert_eq!(tuma.http("GET", "/health", ""), (200, "ok\n".into()));
    let output = tuma.ask(&[
        "send",
        "--to",
        "a@b.test",
        "--to",
        "ü@b.test",
        "--subject",
        "hi",
        "--body",
        ".dots\r\n..\r\n",
    ]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let id = said.split_whitespace().next().unwrap();
    assert!(said.starts_with(&format!("{id}  accepted")), "{said}");
    assert_eq!((said.matches("received").count(), said.matches("delivered").count()), (2, 2), "{said}");
    let captured = std::fs::read_to_string(folder.path().join("tuma-data/captured/00000001.eml")).unwrap();
    assert!(captured.contains("Subject: hi\r\n") && captured.ends_with("\r\n.dots\r\n..\r\n"), "{captured}");
    let output = tuma.ask(&["status"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("delivered 2"), "{output:?}");
    let output = tuma.ask(&["send", "--to", "not an address"]);
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("is not an address"),
        "{output:?}"
    );
    tuma.stop();
}
