//! `tuma trace`.

use crate::harness::{Setup, keeping, sink};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A trace that is on: its head was read.
fn watching(http: &str, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tuma"));
    command.arg("trace").args(arguments).env("TUMA_HTTP", http).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "watching sessions that begin from now on\n");
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

fn whole(out: BufReader<std::process::ChildStdout>, mut child: Child) -> String {
    let lines: Vec<String> = out.lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success());
    // What comes before the text is the time and the session's name.
    lines.iter().map(|line| line.splitn(3, ' ').nth(2).unwrap().to_owned() + "\n").collect()
}

#[test]
fn sessions_are_followed_both_ways_and_secrets_are_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = "[users.ann]\npassword = \"hunter2\"\n[listener.open]\nlisten = \"127.0.0.1:0\"\nauth = [\"PLAIN\"]\nauth_without_tls = true\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let http = tuma.http.to_string();
    let (child_in, inward) = watching(&http, &["--in", "--host", "open", "--sessions", "1"]);
    let (child_out, outward) = watching(&http, &["--out", "--text", "SECOND@x.test", "--sessions", "1"]);

    // One that nobody looks for, which is not shown.
    let mut other = tuma.greeted();
    other.message("a@acme.test", &["first@x.test"], "Subject: x\r\n\r\nsecret-content");
    tuma.wait_until_settled();
    let mut session = crate::harness::Session::open(tuma.listener("open"));
    assert!(session.reply().starts_with("220 "));
    session.say("EHLO client.test", "250");
    session.say("AUTH PLAIN AGFubgBodW50ZXIy", "235");
    session.message("a@acme.test", &["second@x.test"], "Subject: x\r\n\r\nsecret-content");
    session.say("QUIT", "221");
    let inward = whole(inward, child_in);
    for line in [
        "C: EHLO client.test\n",
        "C: AUTH PLAIN (hidden)\n",
        "S: 235 ",
        "C: MAIL FROM:<a@acme.test>",
        "octets of content)\n",
        "C: .\n",
        "C: QUIT\n",
        "S: 221 ",
    ] {
        assert!(inward.contains(line), "{line}: {inward}");
    }
    assert!(
        !inward.contains("secret") && !inward.contains("AGFub") && !inward.contains("first@"),
        "{inward}"
    );
    assert!(inward.starts_with("-- begins in 127.0.0.1:"), "{inward}");

    // The session out that said the text is shown from its beginning, and once it ends the trace does.
    tuma.wait_until_settled();
    drop(tuma);
    let outward = whole_or_cut(outward, child_out);
    assert!(outward.contains("C: RCPT TO:<second@x.test>"), "{outward}");
    assert!(!outward.contains("secret"), "{outward}");
}

/// What was said until the server ended.
fn whole_or_cut(out: BufReader<std::process::ChildStdout>, mut child: Child) -> String {
    let lines: Vec<String> = out.lines().map_while(Result::ok).collect();
    let _ = child.wait();
    lines.join("\n")
}

#[test]
fn traces_are_for_those_who_see_everything() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let said = tuma.refuses(&["trace", "--address", "x"]);
    assert!(said.contains("192.0.2.0/24"), "{said}");
    let made: Value = tuma.says_json(&["key", "new", "--name", "k", "--role", "sender"]);
    let token = format!("Bearer {}", made["token"].as_str().unwrap());
    let fields = [("Authorization", token.as_str()), ("Accept", "text/event-stream")];
    assert_eq!(tuma.http_with("GET", "/v1/trace", &fields, "").0, 403);
}
