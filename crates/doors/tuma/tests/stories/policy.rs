//! The operator's policies: what a script answers, what its failures do, and how it is exchanged.

use crate::harness::{Session, Setup, Tuma, example, keeping, output_of, records, sink, wait_until};
use bench::sink::SinkHandle;
use std::path::Path;
use std::process::Command;

/// The settings of a relay with a script.
fn settings(folder: &Path) -> String {
    let file = folder.join("policy.lua");
    format!("[accounting.file.records]\ncompression_level = 0\n[policy.lua]\nfile = \"{}\"\n", file.display())
}

fn write(folder: &Path, script: &str) {
    std::fs::write(folder.join("policy.lua"), script).expect("write the script");
}

/// A relay with a script, and where its mail goes.
fn relay(folder: &Path, script: &str) -> (Setup, Tuma, SinkHandle) {
    write(folder, script);
    let sink = sink(keeping());
    let setup = Setup::relay_with(folder, sink.addr(), &settings(folder));
    let tuma = setup.start();
    (setup, tuma, sink)
}

fn greeted(tuma: &Tuma) -> Session {
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    session
}

const MESSAGE: &str = "Subject: x\r\n\r\nbody";

#[test]
fn a_script_decides_at_every_phase() {
    let folder = tempfile::tempdir().unwrap();
    let (_, tuma, sink) = relay(
        folder.path(),
        r#"
local sessions = 0
tuma.on("connect", function(session) assert(session.peer == "127.0.0.1" and session.trusted) end)
tuma.on("hello", function(session, hello)
  if hello.name == "bad.test" then return tuma.reject("bad name") end
  if hello.name == "worse.test" then return tuma.disconnect(554, "5.7.1", "go away") end
end)
tuma.on("mail", function(session, mail)
  if mail.address == "no@from.test" then return tuma.reject(550, "5.1.8", "no") end
  if mail.address == "later@from.test" then return tuma.defer("not now") end
  if mail.address == "void@from.test" then return tuma.discard("to the void") end
end)
tuma.on("rcpt", function(session, rcpt)
  if rcpt.local_part == "no" then return tuma.reject(550, "5.1.1", "no such user") end
  if rcpt.local_part == "void" then return tuma.discard("nobody there") end
end)
tuma.on("data", function(session, envelope)
  if #envelope.recipients > 3 then return tuma.reject(554, "5.5.3", "too many for me") end
end)
tuma.on("message", function(session, message)
  local subject = message:header("Subject")
  if subject == "no" then return tuma.reject(554, "5.7.1", "not this") end
  if subject == "void" then return tuma.discard("all of it") end
  if subject == "nobody" then message:remove_recipient(message.recipients[1]) end
  if subject == "edit" then
    message:set_header("Subject", "edited")
    message:add_header("X-Helo", session.helo)
    message.body = "new\nbody"
    message.sender = "changed@from.test"
    message:add_recipient("added@to.test")
    message.tenant = "acme"
  end
end)
"#,
    );
    let mut session = tuma.session();
    session.say("EHLO bad.test", "550 5.7.1 bad name");
    session.say("EHLO client.test", "250");
    session.say("MAIL FROM:<no@from.test>", "550 5.1.8 no");
    session.say("MAIL FROM:<later@from.test>", "451 4.7.1 not now");
    session.say("MAIL FROM:<a@from.test>", "250");
    session.say("RCPT TO:<no@to.test>", "550 5.1.1 no such user");
    session.say("RSET", "250");
    let four: Vec<String> = (0..4).map(|n| format!("r{n}@to.test")).collect();
    session.say("MAIL FROM:<a@from.test>", "250");
    for to in &four {
        session.say(&format!("RCPT TO:<{to}>"), "250");
    }
    session.say("DATA", "554 5.5.3 too many for me");
    let reply = session.message("a@from.test", &["r@to.test"], "Subject: no\r\n\r\nx");
    assert!(reply.starts_with("554 5.7.1 not this"), "{reply}");

    // Discarded: the whole transaction, one recipient of two, all of them, a message, and by its own recipients.
    for (from, to, subject) in [
        ("void@from.test", &["r1@to.test", "r2@to.test"][..], "x"),
        ("a@from.test", &["void@to.test", "kept@to.test"], "x"),
        ("a@from.test", &["void@to.test"], "x"),
        ("a@from.test", &["r3@to.test"], "void"),
        ("a@from.test", &["r4@to.test"], "nobody"),
        ("a@from.test", &["r5@to.test"], "edit"),
    ] {
        let reply = session.message(from, to, &format!("Subject: {subject}\r\nTo: x\r\n\r\nold"));
        assert!(reply.starts_with("250 2.0.0 queued as "), "{reply}");
    }
    tuma.wait_until_settled();
    let discarded = records(folder.path(), "discarded", 6);
    let mut who: Vec<(String, String)> = discarded
        .iter()
        .map(|record| (record["recipient"].to_string(), record["reply"].to_string()))
        .collect();
    who.sort();
    for ((recipient, reply), (wanted, why)) in who.iter().zip([
        ("r1@to.test", "to the void"),
        ("r2@to.test", "to the void"),
        ("r3@to.test", "all of it"),
        ("r4@to.test", "every recipient was taken out"),
        ("void@to.test", "nobody there"),
        ("void@to.test", "nobody there"),
    ]) {
        assert!(recipient.contains(wanted) && reply.contains(why), "{recipient} {reply}");
    }
    assert_eq!(who.len(), 6);
    assert_eq!(tuma.figure("/recipients/discarded"), 6);
    assert_eq!(tuma.figure("/recipients/unaccounted"), 0);
    assert_eq!(tuma.figure("/recipients/rejected"), 8, "three commands, four at DATA, one message");

    let messages = sink.messages();
    assert_eq!(messages.len(), 2, "the kept one and the edited one");
    let edited = messages.iter().find(|m| m.recipients.iter().any(|r| r.address == "added@to.test")).unwrap();
    assert_eq!(edited.reverse_path, "changed@from.test");
    assert_eq!(edited.field("Subject").as_deref(), Some("edited"));
    assert_eq!(edited.field("X-Helo").as_deref(), Some("client.test"));
    assert!(edited.content.ends_with(b"\r\n\r\nnew\r\nbody\r\n"));
    let received = records(folder.path(), "received", 9);
    assert!(received.iter().any(|record| record["tenant"] == "acme"));
    session.say("EHLO worse.test", "554 5.7.1 go away");
    assert_eq!(session.reply(), "", "the connection is closed");
}

#[test]
fn what_a_script_does_wrong_is_deferred_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let (_, tuma, sink) = relay(
        folder.path(),
        r#"
tuma.on("rcpt", function(session, rcpt)
  if rcpt.local_part == "loop" then while true do end end
  if rcpt.local_part == "bomb" then local t = {} while true do t[#t + 1] = ("x"):rep(1000) .. #t end end
  if rcpt.local_part == "regex" then return ("a"):rep(30000):find(".-.-.-.-b") end
  if rcpt.local_part == "nonsense" then return "OK" end
  if rcpt.local_part == "throw" then error("thrown") end
end)
tuma.on("message", function(session, message)
  if message:header("Subject") == "half" then
    message:set_header("Subject", "edited")
    message.body = "edited"
    while true do end
  end
end)
"#,
    );
    let mut session = greeted(&tuma);
    session.say("MAIL FROM:<a@from.test>", "250");
    for kind in ["loop", "bomb", "regex", "nonsense", "throw"] {
        session.say(&format!("RCPT TO:<{kind}@to.test>"), "451 4.3.0 ");
    }
    session.say("RSET", "250");
    let reply = session.message("a@from.test", &["r@to.test"], "Subject: half\r\n\r\nold");
    assert!(reply.starts_with("451 4.3.0 "), "{reply}");
    let reply = session.message("a@from.test", &["r@to.test"], MESSAGE);
    assert!(reply.starts_with("250"), "{reply}");
    tuma.wait_until_settled();
    assert_eq!(sink.messages().len(), 1, "nothing half edited went out");
    let metrics = tuma.http("GET", "/metrics", "").1;
    assert!(metrics.contains("tuma_policy_failures_total{policy=\"lua\"} 6"), "{metrics}");
    let log = tuma.log();
    for told in ["policy.lua:3: ", "policy.lua:7: thrown", "a string was returned", "policy.lua:13: "] {
        assert!(log.contains(told), "{told}: {log}");
    }
}

#[test]
fn one_session_that_loops_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "tuma.on('rcpt', function(session, rcpt) if rcpt.local_part == 'loop' then while true do end end end)",
    );
    let sink = sink(keeping());
    let more = format!(
        "{}time_max = \"10s\"\ninstructions_max = 1000000000\n[server]\nthreads = 1\n",
        settings(folder.path())
    );
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    let mut looping = greeted(&tuma);
    looping.say("MAIL FROM:<a@from.test>", "250");
    looping.send(b"RCPT TO:<loop@to.test>\r\n");
    // One thread serves both, and the other's whole transaction is through first.
    let mut other = greeted(&tuma);
    let reply = other.message("a@from.test", &["r@to.test"], MESSAGE);
    assert!(reply.starts_with("250"), "{reply}");
    let metrics = tuma.http("GET", "/metrics", "").1;
    assert!(
        metrics.contains("tuma_policy_failures_total{policy=\"lua\"} 0"),
        "the loop ended first: {metrics}"
    );
    assert!(looping.reply().starts_with("451 4.3.0 "));
}

#[test]
fn a_script_is_exchanged_whole_and_only_for_a_sound_one() {
    let folder = tempfile::tempdir().unwrap();
    let script = |text: &str| format!("tuma.on('rcpt', function() return tuma.reject('{text}') end)");
    let (_, tuma, _sink) = relay(folder.path(), &script("first"));
    let said = || {
        let mut session = greeted(&tuma);
        session.say("MAIL FROM:<a@from.test>", "250");
        session.say("RCPT TO:<r@to.test>", "550")
    };
    assert!(said().contains("first"));
    let mut old = greeted(&tuma);
    for (wrong, place) in [
        ("tuma.on('rcpt', function(", "policy.lua:1: "),
        ("\n\nerror('at load')", "policy.lua:3: at load"),
        ("while true do end", "policy.lua:1: "),
    ] {
        write(folder.path(), wrong);
        let (status, text) = tuma.http("POST", "/v1/reload", "");
        assert!(status >= 400 && text.contains(place), "{status} {text}");
        assert!(said().contains("first"), "the old script stays");
    }
    write(folder.path(), &script("second"));
    tuma.signal("HUP");
    wait_until("the new script is in force", || said().contains("second"));
    // A session keeps the one it began with.
    old.say("MAIL FROM:<a@from.test>", "250");
    old.say("RCPT TO:<r@to.test>", "550 5.7.1 first");
}

#[test]
fn a_server_does_not_start_with_a_script_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "tuma.on('recipient', function() end)");
    let setup = Setup::relay_with(folder.path(), crate::harness::nobody(), &settings(folder.path()));
    let output = setup.command().output().expect("run tuma");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("policy.lua:1: tuma.on: there is no phase `recipient`"), "{text}");
}

#[test]
fn connections_are_refused_before_a_word_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (_, tuma, _sink) = relay(
        folder.path(),
        r#"
local n = 0
tuma.on("connect", function(session)
  n = n + 1
  if n == 1 then return tuma.reject(554, "5.7.1", "not you") end
  if n == 2 then return tuma.defer(421, "4.7.0", "not now") end
  if n == 3 then return tuma.disconnect(554, "never") end
  if n == 4 then return tuma.discard("all of it") end
  error("x")
end)
"#,
    );
    // A context for each thread counts for itself.
    let mut heard = std::collections::BTreeSet::new();
    wait_until("every answer was heard", || {
        let mut session = Session::open(tuma.smtp());
        let greeting = session.reply();
        match greeting.as_str() {
            "554 not you\r\n" => drop(session.say("EHLO x.test", "503")),
            "421 not now\r\n" | "521 never\r\n" => assert_eq!(session.reply(), ""),
            text if text.starts_with("451 a local rule") => assert_eq!(session.reply(), ""),
            text => {
                assert!(text.starts_with("220"), "{text}");
                session.say("EHLO x.test", "250");
                assert!(session.message("a@from.test", &["r@to.test"], MESSAGE).starts_with("250"));
            }
        }
        heard.insert(greeting[..3].to_owned());
        heard.len() == 5
    });
    tuma.wait_until_settled();
    assert_eq!(tuma.figure("/recipients/delivered"), 0);
    assert!(tuma.figure("/recipients/discarded") >= 1);
}

fn tuma(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tuma"));
    command.args(arguments);
    command
}

#[test]
fn the_scripts_that_are_shown_pass_their_tests() {
    let example = example("policy.lua");
    let text = output_of(&mut tuma(&["policy", "test", example.to_str().unwrap()]));
    assert!(text.ends_with("3 tests, 0 failed\n"), "{text}");
    // What the page shows, as one script.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/policy.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let blocks: Vec<&str> =
        page.split("```lua\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &blocks.concat());
    let file = folder.path().join("policy.lua");
    let text = output_of(&mut tuma(&["policy", "test", file.to_str().unwrap()]));
    assert!(text.ends_with("1 tests, 0 failed\n"), "{text}");
}

#[test]
fn tests_that_fail_say_where() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "tuma.test('wrong', function(client)\n  error('so')\nend)\n");
    let file = folder.path().join("policy.lua");
    let output = tuma(&["policy", "test", file.to_str().unwrap()]).output().expect("run tuma");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && text.contains("policy.lua:2: so"), "{text}");
    let text = output_of(&mut tuma(&["policy", "annotations"]));
    assert!(text.contains("---@class tuma.Session"), "{text}");
}

#[test]
fn a_script_in_javascript_decides_and_its_failures_defer() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.js");
    let script = r#"
tuma.on("hello", (session, hello) => { session.notes.name = hello.name })
tuma.on("rcpt", async (session, rcpt) => {
  switch (rcpt.local_part) {
    case "no": return tuma.reject(550, "5.1.1", "no such user at " + session.notes.name)
    case "later": await tuma.sleep(0.001); return tuma.defer("not now")
    case "throw": throw new Error("thrown")
    case "never": return new Promise(() => {})
    case "loop": for (;;) {}
    case "bomb": { const list = []; for (;;) list.push("x".repeat(1000) + list.length) }
    case "nonsense": return true
  }
})
tuma.on("message", (session, message) => { message.add_header("X-Seen", message.recipients.join()) })
"#;
    std::fs::write(&file, script).expect("write the script");
    let sink = sink(keeping());
    let settings = format!("[policy.js]\nfile = \"{}\"\ntimeout = \"500ms\"\n", file.display());
    let setup = Setup::relay_with(folder.path(), sink.addr(), &settings);
    let tuma = setup.start();
    let mut session = greeted(&tuma);
    session.say("MAIL FROM:<me@from.test>", "250");
    session.say("RCPT TO:<no@to.test>", "550 5.1.1 no such user at client.test");
    session.say("RCPT TO:<later@to.test>", "451 4.7.1 not now");
    for bad in ["throw", "never", "loop", "bomb", "nonsense"] {
        session.say(&format!("RCPT TO:<{bad}@to.test>"), "451 4.3.0");
    }
    session.say("RSET", "250");
    let reply = session.message("me@from.test", &["yes@to.test"], MESSAGE);
    assert!(reply.starts_with("250"), "{reply}");
    wait_until("the message is delivered", || sink.messages().len() == 1);
    let content = String::from_utf8_lossy(&sink.messages()[0].content).into_owned();
    assert!(content.contains("X-Seen: yes@to.test\r\n"), "{content}");
    // A reload takes the new script whole, and not one with a mistake.
    std::fs::write(&file, "tuma.on('rcpt', () => tuma.reject(553, 'new'))").expect("write the script");
    assert_eq!(tuma.http("POST", "/v1/reload", "").0, 200);
    std::fs::write(&file, "tuma.on('rcpt', () => {").expect("write the script");
    assert_ne!(tuma.http("POST", "/v1/reload", "").0, 200);
    let mut session = greeted(&tuma);
    session.say("MAIL FROM:<me@from.test>", "250");
    session.say("RCPT TO:<yes@to.test>", "553 5.7.1 new");
}

#[test]
fn the_script_in_javascript_that_is_shown_passes_its_tests() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/policy.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let blocks: Vec<&str> =
        page.split("```js\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.js");
    // No resolver answers a test: what asks for names would fail.
    let script = blocks.concat().replace("await tuma.dns.ptr(session.peer)", "[session.peer]");
    std::fs::write(&file, script).expect("write the script");
    let text = output_of(&mut tuma(&["policy", "test", file.to_str().unwrap()]));
    assert!(text.ends_with("1 tests, 0 failed\n"), "{text}");
    let text = output_of(&mut tuma(&["policy", "annotations", "--typescript"]));
    assert!(text.contains("interface TumaSession"), "{text}");
}
