//! The configuration by the command line, and while the server runs.

use crate::harness::{
    Setup, block_on, certificate, example, has_python, keeping, load, nobody, output_of, python, sink,
    wait_until,
};
use bench::loader::{Amount, Loader};
use bench::sink::Options;
use std::process::{Command, Output};
use std::time::Duration;

fn tuma(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tuma")).args(arguments).output().expect("run tuma")
}

#[test]
fn check_prints_every_mistake_with_its_place_and_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.toml");
    let text = "[listner.smtp]\nlisten = \"127.0.0.1:25\"\n\n[smtp]\nrecipients_max = 0\nbanner = 5\n\n[shaping.default]\nconections = 3\n";
    std::fs::write(&file, text).unwrap();
    let output = tuma(&["config", "check", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    for part in [
        "bad.toml:1:",
        "`listener`",
        "bad.toml:5:",
        "bad.toml:6:",
        "bad.toml:9:",
        "`connections`",
        "^",
        "4 errors",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    // It does not start either.
    let output = tuma(&["serve", "-c", file.to_str().unwrap()]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("bad.toml:9:"));
}

#[test]
fn the_examples_are_right_and_show_says_where_values_come_from() {
    for name in ["relay.toml", "submission.toml"] {
        let file = example(name);
        let output = tuma(&["config", "check", file.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let file = example("submission.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tuma"));
    let said = output_of(command.args(["config", "show"]).arg(&file).env("TUMA_PASSWORD", "opensesame"));
    assert!(said.contains("add_missing_fields = true") && said.contains("submission.toml:"), "{said}");
    assert!(!said.contains("opensesame"), "a secret is shown");
}

#[test]
fn the_schema_is_json() {
    let output = tuma(&["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(schema.pointer("/properties/delivery/properties/connections_total_max").is_some(), "{schema}");
}

#[test]
fn a_new_configuration_is_applied_by_signal_and_by_command_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let closed = "[relay]\nnetworks = [\"192.0.2.0/24\"]\n";
    let setup = Setup::relay_with(folder.path(), sink.addr(), closed);
    let server = setup.start();
    let may_send = || {
        let mut session = server.session();
        session.say("EHLO client.test", "250");
        session.say("MAIL FROM:<a@b.test>", "250");
        session.send(b"RCPT TO:<c@d.test>\r\n");
        session.reply().starts_with("250")
    };
    assert!(!may_send());
    // A session that is open goes on.
    let mut open = server.session();
    open.say("EHLO client.test", "250");
    setup.rewrite("relay.toml", "");
    let output = server.ask(&["reload"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(may_send());
    setup.rewrite("relay.toml", &format!("{closed}networcs = []\n"));
    let output = server.ask(&["reload"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("`networks`") && said.contains("stays in force"),
        "{said}"
    );
    assert!(may_send());
    server.signal("HUP");
    wait_until("the mistake is in the log", || server.log().contains("networcs"));
    assert!(may_send());
    setup.rewrite("relay.toml", closed);
    server.signal("HUP");
    wait_until("the signal is heeded", || !may_send());
    // What cannot change is said.
    setup.rewrite("relay.toml", "[listener.more]\nlisten = \"127.0.0.1:0\"\n");
    let output = server.ask(&["reload"]);
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("restart to take effect: listener"),
        "{output:?}"
    );
    assert!(open.message("a@b.test", &["c@d.test"], "Subject: x\r\n\r\nx").starts_with("250"));
    server.wait_until_settled();
}

#[test]
fn a_reload_says_where_mail_may_go_and_at_which_port() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let file = folder.path().join("direct.toml");
    let write = |delivery: &str| {
        let text = format!(
            r#"
hostname = "direct.test"
[http]
listen = "${{TUMA_HTTP}}"
[listener.smtp]
listen = "${{TUMA_LISTEN}}"
[relay]
networks = ["127.0.0.0/8"]
[spool]
directory = "${{TUMA_DATA}}/spool"
[dsn]
enabled = false
[delivery]
tls = "off"
{delivery}"#
        );
        std::fs::write(&file, text).unwrap();
    };
    write("");
    let server = Setup::new(&file, folder.path()).start();
    let mut session = server.session();
    session.say("EHLO client.test", "250");
    // To another destination each time: one that is refused goes on refusing for a moment what waits for it.
    let mut send = |to: &str| {
        let reply = session.message("a@b.test", &[to], "Subject: x\r\n\r\nx");
        assert!(reply.starts_with("250"), "{reply}");
        server.wait_until_settled();
        (server.figure("/recipients/bounced"), server.figure("/recipients/delivered"))
    };
    assert_eq!(send("c@[127.0.0.2]"), (1, 0), "loopback is no place for mail");
    write(&format!("allow = [\"127.0.0.0/8\"]\nport = {}\n", sink.addr().port()));
    let output = server.ask(&["reload"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && !text.contains("restart"), "{text}");
    assert_eq!(send("c@[127.0.0.1]"), (1, 1));
    assert_eq!(sink.stats().messages, 1);
}

#[test]
fn reloads_under_load_disturb_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options::default());
    let setup = Setup::relay_with(folder.path(), sink.addr(), "");
    let server = setup.start();
    let loader = Loader::start(bench::loader::Options {
        amount: Amount::Time(Duration::from_secs(3600)),
        ..load(server.smtp(), 0)
    });
    for n in 1..=20 {
        let before = loader.accepted();
        wait_until("mail is taken", || loader.accepted() > before + 10);
        setup.rewrite(
            "relay.toml",
            &format!(
                "[shaping.default]\nconnections = {}\n[smtp]\nrecipients_max = {}\n",
                5 + n % 3,
                100 + n
            ),
        );
        assert!(server.ask(&["reload"]).status.success());
    }
    loader.stop();
    let report = block_on(loader.finish());
    assert_eq!((report.refused, report.failed), (0, 0), "{report}");
    server.wait_until_settled();
    assert_eq!((sink.stats().messages, sink.stats().duplicates()), (report.accepted, 0));
}

#[test]
fn a_new_certificate_is_shown_after_a_reload_and_a_broken_one_is_not_taken() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Setup::submission(folder.path(), nobody(), "").start();
    let shown = || {
        python(
            r#"
import smtplib, ssl, sys, hashlib
tls = ssl.create_default_context()
tls.check_hostname = False
tls.verify_mode = ssl.CERT_NONE
smtp = smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=60)
smtp.starttls(context=tls)
print(hashlib.sha256(smtp.sock.getpeercert(binary_form=True)).hexdigest())
"#,
            &[&server.smtp().port().to_string()],
        )
    };
    let first = shown();
    certificate(folder.path(), "submission.test");
    assert_eq!(shown(), first);
    assert!(server.ask(&["reload"]).status.success());
    let second = shown();
    assert_ne!(second, first);
    std::fs::write(folder.path().join("key.pem"), "no key").unwrap();
    let output = server.ask(&["reload"]);
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("key.pem"),
        "{output:?}"
    );
    assert_eq!(shown(), second);
    std::fs::remove_file(folder.path().join("cert.pem")).unwrap();
    assert!(!server.ask(&["reload"]).status.success());
    assert_eq!(shown(), second);
}
