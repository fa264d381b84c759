//! People are told: by mail and by webhook, once in a while about one thing, and never about the telling.

use crate::harness::{Process, Setup, Tuma, has_python, keeping, nobody, rules, sink, wait_until};
use bench::sink::Options;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// A webhook: appends each body to a file, after so many answers of 503.
const HOOK: &str = r#"
import http.server, sys
fails = int(sys.argv[3])
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        global fails
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if fails > 0:
            fails -= 1
            self.send_error(503)
            return
        with open(sys.argv[2], "ab") as out:
            out.write(body + b"\n")
        self.send_response(204)
        self.end_headers()
    def log_message(self, *args):
        pass
host, port = sys.argv[1].split(":")
server = http.server.HTTPServer((host, int(port)), Hook)
open(sys.argv[2], "ab").close()
server.serve_forever()
"#;

fn hook(address: SocketAddr, file: &Path, fails: u32) -> Process {
    let mut command = Command::new("python3");
    command.args(["-c", HOOK, &address.to_string()]).arg(file).arg(fails.to_string());
    let process = Process(command.stdin(Stdio::null()).spawn().expect("python"));
    wait_until("the webhook listens", || file.exists() && std::net::TcpStream::connect(address).is_ok());
    process
}

fn posted(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn send(tuma: &Tuma, to: &str, count: usize) {
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    for _ in 0..count {
        let reply = session.message("a@b.test", &[to], "Subject: x\r\n\r\nx");
        assert!(reply.starts_with("250"), "{reply}");
    }
}

const RULE: &str = r#"
[[shaping.default.reply]]
name = "listed"
match = '^550 5\.7\.1 .*blocked'
do = ["notify"]
"#;

#[test]
fn a_rule_that_fires_at_every_reply_is_told_of_once_by_mail_and_webhook() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options {
        rules: rules(&["rcpt:domain=d.test:550 5.7.1 <you> are blocked \"here\""]),
        ..keeping()
    });
    let (address, file) = (nobody(), folder.path().join("posted"));
    // The first post meets a server that is busy.
    let _hook = hook(address, &file, 1);
    let more = format!(
        "{RULE}[notify]\nmail = [\"ops@e.test\", \"boss@e.test\"]\nmail_wait = \"1s\"\n\
         webhook = \"http://{address}/hook\"\nwebhook_waits = [\"100ms\"]\n"
    );
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    send(&tuma, "c@d.test", 50);
    wait_until("all bounced", || tuma.figure("/recipients/bounced") == 50);
    wait_until("people are told", || posted(&file).len() == 1 && sink.stats().messages >= 1);
    tuma.wait_until_settled();

    let notice = &posted(&file)[0];
    for (field, wanted) in [("source", "default"), ("server", "relay.test")] {
        assert_eq!(notice[field], wanted, "{notice}");
    }
    for (field, wanted) in [
        ("text", "550 5.7.1 <you> are blocked \"here\""),
        ("rule", "listed ("),
        ("rule", "with.toml:"),
        ("about", "default to "),
        ("time", "20"),
    ] {
        assert!(notice[field].as_str().is_some_and(|text| text.contains(wanted)), "{field}: {notice}");
    }
    assert!(notice["site"].is_string(), "{notice}");

    let messages = sink.messages();
    // Both mailboxes have the same domain, so it is one transaction.
    assert_eq!(messages.len(), 1);
    let (mail, text) = (&messages[0], String::from_utf8_lossy(&messages[0].content).into_owned());
    assert_eq!(mail.reverse_path, "");
    assert_eq!(
        mail.recipients.iter().map(|r| r.address.as_str()).collect::<Vec<_>>(),
        ["ops@e.test", "boss@e.test"]
    );
    assert_eq!(mail.field("Auto-Submitted").as_deref(), Some("auto-generated"));
    assert!(mail.field("Subject").is_some_and(|s| s.starts_with("relay.test: default to ")), "{text}");
    assert!(text.contains("blocked \"here\"") && text.contains("rule: listed ("), "{text}");
    // The log tells as often as people were told; the figures know of the others.
    assert_eq!(tuma.log().matches("a rule asks to be told").count(), 1);
    let (_, metrics) = tuma.http("GET", "/metrics", "");
    for figure in
        ["told\"} 1", "folded\"} 49", "mailed\"} 1", "posted\"} 1", "post_failed\"} 0", "dropped\"} 0"]
    {
        assert!(metrics.contains(&format!("tuma_notices_total{{fate=\"{figure}")), "{figure} in {metrics}");
    }
}

#[test]
fn nobody_is_told_of_what_happens_to_the_telling() {
    let folder = tempfile::tempdir().unwrap();
    // Mail to people is refused with the very words that people are told of.
    let sink = sink(Options { rules: rules(&["rcpt:550 5.7.1 you are blocked"]), ..keeping() });
    let more = format!(
        "{RULE}[notify]\nmail = [\"ops@e.test\"]\nmail_wait = \"0s\"\nevery = \"1s\"\n[dsn]\nenabled = true\n\
         [relay]\nnetworks = [\"127.0.0.0/8\", \"::1\"]\n"
    );
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    session.message("", &["c@d.test"], "Subject: x\r\n\r\nx");
    wait_until("both are refused", || tuma.figure("/recipients/bounced") == 2);
    tuma.wait_until_settled();
    // A second cause is told of in its turn; had the refused notice made one, there would be more.
    wait_until("the subject may be told of again", || {
        session.message("", &["c@d.test"], "Subject: x\r\n\r\nx");
        tuma.metric("tuma_notices_total") > 2.0 && tuma.log().matches("a rule asks to be told").count() == 2
    });
    tuma.wait_until_settled();
    let (sent, bounced) = (tuma.figure("/recipients/received"), tuma.figure("/recipients/bounced"));
    assert_eq!(sent, bounced);
    let told = tuma.log().matches("a rule asks to be told").count() as i64;
    let mailed = tuma.log().matches("people are told by mail").count() as i64;
    assert_eq!(told, mailed);
    assert_eq!(sink.stats().messages, 0);
}

#[test]
fn a_webhook_that_is_down_holds_no_mail_and_a_stop_does_not_wait_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["rcpt:domain=d.test:550 5.7.1 you are blocked"]), ..keeping() });
    // One that takes connections and never answers.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = deaf.local_addr().expect("an address");
    let more = format!(
        "{RULE}[notify]\nmail = [\"ops@e.test\"]\nmail_wait = \"1h\"\nwebhook = \"http://{address}/\"\nwebhook_timeout = \"2m\"\n"
    );
    let setup = Setup::relay_with(folder.path(), sink.addr(), &more);
    let tuma = setup.start();
    send(&tuma, "c@d.test", 20);
    send(&tuma, "c@f.test", 20);
    wait_until("all is settled", || {
        (tuma.figure("/recipients/bounced"), tuma.figure("/recipients/delivered")) == (20, 20)
    });
    wait_until("the rule was noticed", || tuma.log().contains("a rule asks to be told"));
    tuma.stop();
    // What people were to be told by mail was spooled before the end.
    let tuma = setup.start();
    wait_until("it is sent", || sink.messages().iter().any(|m| m.recipients[0].address == "ops@e.test"));
    tuma.wait_until_settled();
}
