//! Haraka's plugins in real sessions: some of our own, and the published ones as they come from npm.

use crate::harness::{Setup, Tuma, has_program, keeping, sink};
use bench::sink::SinkHandle;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `.ci/run` puts Haraka and its plugins.
const INSTALLED: &str = "/usr/local/share/haraka";

/// The published packages, wherever they are; `None` if they are not installed.
fn published() -> Option<PathBuf> {
    let folder = std::env::var_os("TUMA_HARAKA").map_or_else(|| PathBuf::from(INSTALLED), PathBuf::from);
    let core = folder.join("node_modules/Haraka");
    let there = has_program("Haraka (npm)", Command::new("test").arg("-f").arg(core.join("package.json")));
    there.then_some(core)
}

/// A folder of Haraka, with these files.
fn folder(at: &Path, files: &[(&str, &str)]) -> PathBuf {
    let root = at.join("haraka");
    for (name, text) in files {
        let file = root.join(name);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("make the folder");
        std::fs::write(file, text).expect("write the file");
    }
    root
}

/// A relay that asks the plugins of a folder.
fn relay(at: &Path, root: &Path, core: Option<&Path>, more: &str) -> (Tuma, SinkHandle) {
    let sink = sink(keeping());
    let core = core.map(|core| format!("core = \"{}\"\n", core.display())).unwrap_or_default();
    // A busy machine may keep plugins from running for longer than the usual limit.
    let settings = format!(
        "[policy.haraka]\ndirectory = \"{}\"\ncontexts = 1\ntime_max = \"5s\"\n{core}{more}",
        root.display()
    );
    let setup = Setup::relay_with(at, sink.addr(), &settings);
    (setup.start(), sink)
}

#[test]
fn a_folder_of_haraka_is_served() {
    let folder_of = tempfile::tempdir().unwrap();
    let root = folder(
        folder_of.path(),
        &[
            ("config/plugins", "# in this order\nnames\nmarks\n"),
            ("config/names.ini", "[bad]\nno@from.test = go away\n"),
            (
                "plugins/names.js",
                "exports.register = function () { this.cfg = this.config.get('names.ini') }
                 exports.hook_ehlo = (next, c, name) => next(name === 'bad.test' ? DENY : CONT, 'bad name')
                 exports.hook_mail = function (next, c, [from]) { next(this.cfg.bad[from.address()] ? DENY : CONT, this.cfg.bad[from.address()]) }
                 exports.hook_rcpt = async (next, c, [to]) => {
                   if (to.user === 'throw') throw new Error('thrown')
                   if (to.user === 'loop') for (;;) {}
                   await new Promise((resolve) => setTimeout(resolve, 1))
                   next(to.user === 'later' ? DENYSOFT : CONT, 'not now')
                 }",
            ),
            (
                "plugins/marks.js",
                "exports.hook_data_post = function (next, c) {
                   this.loginfo(c, 'marked')
                   c.transaction.add_header('X-Marked', `${c.hello.host} ${c.transaction.rcpt_to.length}`)
                   next(c.transaction.header.get('Subject').trim() === 'no' ? DENY : CONT, ['one', 'two'])
                 }",
            ),
        ],
    );
    let (tuma, sink) = relay(folder_of.path(), &root, None, "");
    let mut session = tuma.session();
    session.say("EHLO bad.test", "550 5.7.1 bad name");
    session.say("EHLO client.test", "250");
    session.say("MAIL FROM:<no@from.test>", "550 5.7.1 go away");
    session.say("MAIL FROM:<a@from.test>", "250");
    session.say("RCPT TO:<later@to.test>", "450 4.7.1 not now");
    session.say("RCPT TO:<throw@to.test>", "451 4.3.0");
    session.say("RCPT TO:<loop@to.test>", "451 4.3.0");
    session.say("RSET", "250");
    let reply = session.message("a@from.test", &["b@to.test"], "Subject: no\r\n\r\nx");
    assert!(reply.starts_with("550-5.7.1 one"), "{reply}");
    let reply = session.message("a@from.test", &["b@to.test", "c@to.test"], "Subject: yes\r\n\r\nx");
    assert!(reply.starts_with("250"), "{reply}");
    tuma.wait_until_settled();
    assert_eq!(sink.messages()[0].field("X-Marked").as_deref(), Some("client.test 2"));
    let told = tuma.log();
    assert!(told.contains("names.hook_rcpt at rcpt: Error: thrown") && told.contains("marked"), "{told}");
}

#[test]
fn published_plugins_do_their_jobs() {
    let Some(core) = published() else { return };
    let folder_of = tempfile::tempdir().unwrap();
    let root = folder(
        folder_of.path(),
        &[
            (
                "config/plugins",
                "record_envelope_addresses\nrelay\naccess\nhelo.checks\naliases\nrcpt_to.in_host_list\nheaders\ndata.signatures\nprevent_credential_leaks\nqueue/discard\n",
            ),
            ("config/mail_from.access.blacklist", "bad@from.test\n"),
            (
                "config/access.ini",
                "[check]\nany=false\nconn=false\nhelo=false\nmail=true\nrcpt=true\n[deny_msg]\nmail=not you\n",
            ),
            (
                "config/helo.checks.ini",
                "[check]\nbare_ip=true\nvalid_hostname=false\nforward_dns=false\nrdns_match=false\ndynamic=false\nbig_company=false\nliteral_mismatch=0\nmatch_re=false\nhost_mismatch=false\nproto_mismatch=false\n[reject]\nbare_ip=true\n[skip]\nprivate_ip=false\nrelaying=false\n",
            ),
            ("config/host_list", "to.test\n"),
            (
                "config/aliases.json",
                "{\"old@to.test\": {\"action\": \"alias\", \"to\": \"new@to.test\"}, \"void@to.test\": {\"action\": \"drop\"}}",
            ),
            (
                "config/headers.ini",
                "required=From,Date\n[check]\ndate_valid=false\nfrom_match=false\ndelivered_to=false\nmailing_list=false\nuser_agent=false\ndirect_to_mx=false\nfrom_phish=false\nduplicate_singular=true\nmissing_required=true\ninvalid_date=false\ninvalid_return_path=false\n[reject]\nmissing_required=true\n",
            ),
            ("config/data.signatures", "EICAR-TEST-WORD\n"),
        ],
    );
    let (tuma, sink) = relay(folder_of.path(), &root, Some(&core), "");
    let mut session = tuma.session();
    session.say("EHLO 192.0.2.1", "550");
    session.say("EHLO client.test", "250");
    session.say("MAIL FROM:<bad@from.test>", "550");
    let good = "From: a@from.test\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\nSubject: x\r\n\r\n";
    let reply = session.message("a@from.test", &["b@to.test"], "Subject: neither date nor author\r\n\r\nx");
    assert!(reply.starts_with("550"), "headers: {reply}");
    let reply = session.message("a@from.test", &["b@to.test"], &format!("{good}EICAR-TEST-WORD here"));
    assert!(reply.starts_with("550"), "data.signatures: {reply}");
    let reply = session.message("a@from.test", &["old@to.test"], &format!("{good}fine"));
    assert!(reply.starts_with("250"), "{reply}");
    let reply = session.message("a@from.test", &["void@to.test"], &format!("{good}dropped"));
    assert!(reply.starts_with("250"), "{reply}");
    tuma.wait_until_settled();
    let messages = sink.messages();
    assert_eq!(messages.len(), 1, "the other one was dropped");
    let to: Vec<&str> = messages[0].recipients.iter().map(|to| &*to.address).collect();
    assert_eq!(to, ["new@to.test"]);
    assert!(messages[0].field("X-Envelope-From").is_some(), "record_envelope_addresses");
}

#[test]
fn most_of_what_is_published_loads() {
    let Some(core) = published() else { return };
    let folder_of = tempfile::tempdir().unwrap();
    let root = folder(
        folder_of.path(),
        &[("config/plugins", "relay\naccess\ntarpit\nheaders\nspf\nno.such.plugin\n")],
    );
    let mut look = Command::new(env!("CARGO_BIN_EXE_tuma"));
    look.args(["policy", "haraka"]).arg(&root).arg("--core").arg(&core);
    let said = String::from_utf8_lossy(&look.output().expect("run tuma").stdout).into_owned();
    for line in [
        "ok      relay: connect_init connect",
        "ok      spf: helo ehlo mail",
        "FAILED  no.such.plugin",
        "6 plugins, 1 failed",
    ] {
        assert!(said.contains(line), "{line} is not in:\n{said}");
    }
}
