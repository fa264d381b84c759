//! Messages are signed on their way out, and programs of others find the signatures good.

use crate::harness::{
    Setup, has_program, has_python, keeping, nobody, output_of, python, records, rules, sink, wait_until,
};
use bench::sink::Options;
use mailauth::dkim::{KeyAnswer, SigningKey, Verified, Verifier, VerifyPolicy};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// Makes a key, writes it into a folder, and gives the text of its record.
pub(super) fn key(folder: &Path, name: &str, rsa: bool) -> String {
    let key = if rsa { SigningKey::generate_rsa(2_048) } else { SigningKey::generate_ed25519() };
    let key = key.expect("a key");
    let path = folder.join(format!("{name}.pem"));
    std::fs::write(&path, key.to_pem().expect("PEM")).expect("write the key");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, mode).expect("chmod");
    key.record()
}

/// True if there is dkimpy with PyNaCl, which it needs for Ed25519.
pub(super) fn has_dkimpy() -> bool {
    has_python() && has_program("dkimpy", Command::new("python3").args(["-c", "import dkim, nacl"]))
}

/// The verdict of dkimpy on each signature of a message, with a zone of `name=text` lines.
fn dkimpy_says(folder: &Path, message: &[u8], zone: &[(&str, &str)]) -> String {
    let file = folder.join("message.eml");
    std::fs::write(&file, message).expect("write the message");
    let lines: Vec<String> = zone.iter().map(|(name, text)| format!("{name}={text}")).collect();
    let script = r#"
import dkim, sys
message = open(sys.argv[1], "rb").read()
zone = dict(line.split("=", 1) for line in sys.argv[2].split("\n"))
def txt(name, timeout=5):
    return zone.get(name.decode().rstrip("."), "").encode()
verifier = dkim.DKIM(message)
count = len([name for name, _ in verifier.headers if name.lower() == b"dkim-signature"])
for at in range(count):
    try:
        print("pass" if dkim.DKIM(message).verify(at, dnsfunc=txt) else "fail")
    except dkim.DKIMException as error:
        print(error)
"#;
    python(script, &[file.to_str().expect("text"), &lines.join("\n")])
}

/// True if there is OpenDKIM's filter, which has a mode for tests.
pub(super) fn has_opendkim() -> bool {
    has_program("opendkim", Command::new("test").args(["-x", OPENDKIM]))
}

const OPENDKIM: &str = "/usr/sbin/opendkim";

/// What OpenDKIM says of a message, or puts into it.
pub(super) fn opendkim(folder: &Path, message: &[u8], settings: &str) -> String {
    let (file, conf) = (folder.join("filtered.eml"), folder.join("opendkim.conf"));
    std::fs::write(&file, message).expect("write the message");
    std::fs::write(&conf, format!("Syslog no\n{settings}")).expect("write the configuration");
    output_of(Command::new(OPENDKIM).arg("-x").arg(conf).arg("-t").arg(file).arg("-vv"))
}

/// How many signatures OpenDKIM finds good, and how many it sees.
fn opendkim_says(folder: &Path, message: &[u8], zone: &[(&str, &str)]) -> (usize, usize) {
    let keys = folder.join("keys.txt");
    let lines: String = zone.iter().map(|(name, text)| format!("{name} {text}\n")).collect();
    std::fs::write(&keys, lines).expect("write the keys");
    let settings = format!("Mode v\nInternalHosts /dev/null\nTestPublicKeys {}\n", keys.display());
    let told = opendkim(folder, message, &settings);
    (told.matches("dkim=pass").count(), told.matches("header.d=").count())
}

/// Our own verdicts.
fn we_say(message: &[u8], zone: &[(&str, &str)]) -> Vec<Verified> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let mut machine = Verifier::of(message, &VerifyPolicy::default(), now);
    for name in machine.questions() {
        let found = zone.iter().find(|(known, _)| *known == name);
        let answer =
            found.map_or(KeyAnswer::Absent, |(_, text)| KeyAnswer::Records(vec![text.as_bytes().into()]));
        machine.answer(&name, &answer);
    }
    machine.finish()
}

const MORE: &str = "[dkim.rsa]\ndomain = \"a.test\"\nselector = \"r1\"\nkey = \"${TUMA_DATA}/rsa.pem\"\n\
    [dkim.ed]\ndomain = \"a.test\"\nselector = \"e1\"\nkey = \"${TUMA_DATA}/ed.pem\"\nexpires_after = \"7d\"\n\
    identity = \"@news.a.test\"\nsubdomains = true\ncanonicalization = \"simple/simple\"\n";

const CONTENT: &str = "From: \"z@b.test\" <x@a.test>\r\nTo: y@d.test\r\nSubject: two\r\n\tlines\r\n\
    List-Unsubscribe: <https://a.test/u>\r\nMIME-Version: 1.0\r\n\r\n.a dot  and blanks \r\n\r\n \r\n";

#[test]
fn a_message_gets_the_signatures_of_its_author_and_dkimpy_finds_them_good() {
    let folder = tempfile::tempdir().unwrap();
    let (rsa, ed) = (key(folder.path(), "rsa", true), key(folder.path(), "ed", false));
    let sink = sink(keeping());
    let tuma = Setup::relay_with(folder.path(), sink.addr(), MORE).start();
    let mut session = tuma.greeted();
    let contents = [
        CONTENT.to_owned(),
        CONTENT.replace("x@a.test", "x@deep.below.a.test"),
        CONTENT.replace("x@a.test", "x@other.test"),
        // Who it is from could be read in two ways: nobody signs for it.
        CONTENT.replace("\r\nTo:", "\r\nFrom: x@b.test\r\nTo:"),
    ];
    for (n, content) in contents.iter().enumerate() {
        let reply = session.message("bounces@esp.test", &[&format!("y{n}@d.test")], content);
        assert!(reply.starts_with("250"), "{reply}");
    }
    tuma.wait_until_settled();
    assert_eq!((tuma.metric("tuma_signatures_total"), tuma.metric("tuma_signing_failed_total")), (3.0, 0.0));
    assert_eq!(tuma.metric("tuma_signing_unmatched_total"), 2.0);
    tuma.stop();

    let zone = [("r1._domainkey.a.test", rsa.as_str()), ("e1._domainkey.a.test", ed.as_str())];
    // They may arrive in any order.
    let mut messages = sink.messages();
    messages.sort_by(|a, b| a.recipients[0].address.cmp(&b.recipients[0].address));
    let counts: Vec<usize> = messages.iter().map(|m| we_say(&m.content, &zone).len()).collect();
    assert_eq!(counts, [2, 1, 0, 0]);
    for message in &messages[..2] {
        for verified in we_say(&message.content, &zone) {
            assert_eq!(verified.reason, None, "{verified:?}");
        }
    }
    let first = we_say(&messages[0].content, &zone);
    let signature = first[0].signature.as_ref().unwrap();
    assert_eq!((signature.selector.as_str(), &*signature.identity), ("e1", "@news.a.test"));
    assert_eq!(signature.expires.unwrap() - signature.timestamp.unwrap(), 7 * 86_400);
    // The signature stands above everything else, our Received field too.
    assert!(messages[0].content.starts_with(b"DKIM-Signature:"));
    if has_dkimpy() {
        assert_eq!(dkimpy_says(folder.path(), &messages[0].content, &zone), "pass\npass\n");
        assert_eq!(dkimpy_says(folder.path(), &messages[1].content, &zone), "pass\n");
        let changed =
            String::from_utf8(messages[0].content.to_vec()).unwrap().replace("Subject: two", "Subject: six");
        assert!(!dkimpy_says(folder.path(), changed.as_bytes(), &zone).contains("pass"));
    }
    if has_opendkim() {
        assert_eq!(opendkim_says(folder.path(), &messages[0].content, &zone), (2, 2));
        assert_eq!(opendkim_says(folder.path(), &messages[1].content, &zone), (1, 1));
        let changed =
            String::from_utf8(messages[0].content.to_vec()).unwrap().replace("Subject: two", "Subject: six");
        assert_eq!(opendkim_says(folder.path(), changed.as_bytes(), &zone).0, 0);
    }
}

#[test]
fn rules_say_who_signs() {
    let folder = tempfile::tempdir().unwrap();
    let records =
        [key(folder.path(), "rsa", true), key(folder.path(), "ed", false), key(folder.path(), "esp", false)];
    let sink = sink(keeping());
    let more = format!(
        "{MORE}[dkim.esp]\ndomain = \"esp.test\"\nselector = \"s\"\nkey = \"${{TUMA_DATA}}/esp.pem\"\n\
        [source.one]\n[source.two]\n[pool.bulk]\nsources = {{ two = 1 }}\n[listener.smtp]\ntag_headers = true\n\
        [[sign]]\nfrom_domains = [\"quiet.test\"]\n\
        [[sign]]\npools = [\"bulk\"]\nidentities = [\"esp\"]\nauthor = true\n\
        [[sign]]\nsources = [\"two\"]\nidentities = [\"esp\"]\n\
        [[sign]]\ntenants = [\"acme\"]\nheader = {{ name = \"X-Stream\", match = \"^news\" }}\nidentities = [\"rsa\"]\n"
    );
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    let mut session = tuma.greeted();
    for (to, fields) in [
        ("quiet", "From: x@quiet.test\r\nX-Virtual-MTA: bulk\r\n"),
        ("bulk", "From: x@a.test\r\nX-Virtual-MTA: bulk\r\n"),
        ("bulk2", "From: x@none.test\r\nX-Virtual-MTA: bulk\r\n"),
        ("two", "From: x@a.test\r\nX-Virtual-MTA: two\r\n"),
        ("tenant", "From: x@none.test\r\nX-Virtual-MTA: one\r\nX-Tenant: acme\r\nX-Stream: news\r\n"),
        ("other", "From: x@none.test\r\nX-Virtual-MTA: one\r\nX-Tenant: acme\r\nX-Stream: old news\r\n"),
        ("author", "From: x@a.test\r\nX-Virtual-MTA: one\r\n"),
    ] {
        session.taken("b@esp.test", &format!("{to}@d.test"), fields);
    }
    tuma.wait_until_settled();
    // The same is told of mail that is not there yet.
    let foretold = |sender: &str, pool: &str| {
        let told = tuma.says_json(&["explain", "z@d.test", "--sender", sender, "--pool", pool]);
        told["answers"][0]["dkim"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap().into())
            .collect()
    };
    let bulk: Vec<String> = foretold("x@a.test", "bulk");
    let selectors: Vec<&str> =
        bulk.iter().map(|line| line.split(" s=").nth(1).unwrap().split(',').next().unwrap()).collect();
    assert_eq!(selectors, ["s", "e1", "r1"], "{bulk:?}");
    let quiet: Vec<String> = foretold("x@quiet.test", "bulk");
    assert_eq!(quiet, ["not signed: a rule of `sign` says so"]);
    let nobody: Vec<String> = foretold("x@none.test", "one");
    assert_eq!(nobody, ["not signed: nobody signs for its author"]);
    tuma.stop();
    let zone: Vec<(&str, &str)> = ["r1._domainkey.a.test", "e1._domainkey.a.test", "s._domainkey.esp.test"]
        .into_iter()
        .zip(records.iter().map(String::as_str))
        .collect();
    let signed = |to: &str| {
        let messages = sink.messages();
        let to = format!("{to}@d.test");
        let message = messages.iter().find(|m| m.recipients[0].address == to).expect("it arrived");
        let by = we_say(&message.content, &zone).into_iter().map(|verified| {
            assert_eq!(verified.reason, None, "{verified:?}");
            verified.signature.expect("a signature").selector.to_string()
        });
        by.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(["quiet", "bulk", "bulk2", "two"].map(signed), ["", "s e1 r1", "s", "s"]);
    assert_eq!(["tenant", "other", "author"].map(signed), ["r1", "", "e1 r1"]);
}

/// Attack 90: a key is swapped, spoiled, and put back, and mail goes on.
#[test]
fn a_key_that_changes_is_used_and_a_spoiled_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let old = key(path, "ed", false);
    let sink = sink(keeping());
    let more = "[dkim.ed]\ndomain = \"a.test\"\nselector = \"e1\"\nkey = \"${TUMA_DATA}/ed.pem\"\n\
        [signing]\nkey_check = \"1s\"\n";
    let tuma = Setup::relay_with(path, sink.addr(), more).start();
    let mut session = tuma.greeted();
    let mut next = |record: &str| {
        let before = sink.messages().len();
        session.taken("x@a.test", "y@d.test", "From: x@a.test\r\n");
        wait_until("it has arrived", || sink.messages().len() > before);
        let message = sink.messages().pop().unwrap();
        let zone = [("e1._domainkey.a.test", record)];
        we_say(&message.content, &zone)[0].reason.is_none()
    };
    assert!(next(&old));
    std::fs::write(path.join("ed.pem"), "-----BEGIN PRIVATE KEY-----\nspoiled\n-----END PRIVATE KEY-----\n")
        .unwrap();
    wait_until("the spoiled key is told of", || tuma.log().contains("a DKIM key cannot be read again"));
    assert!(next(&old));
    assert!(tuma.refuses(&["reload"]).contains("gives no key to sign with"));
    std::fs::remove_file(path.join("ed.pem")).unwrap();
    let new = key(path, "ed", false);
    wait_until("the new key is in use", || tuma.log().contains("a DKIM key has changed and is used"));
    assert!(next(&new));
    assert!(tuma.says(&["reload"]).contains("reloaded"));
    assert!(next(&new));
}

#[test]
fn what_cannot_be_signed_waits_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    key(folder.path(), "rsa", true);
    key(folder.path(), "ed", false);
    let sink = sink(keeping());
    let more = format!("{MORE}[accounting.file.records]\ncompression_level = 0\n");
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    // Forty To fields: no mail program writes that, and each would have to be signed.
    let header = format!("From: x@a.test\r\n{}", "To: y@d.test\r\n".repeat(40));
    tuma.greeted().taken("x@a.test", "y@d.test", &header);
    let found = records(folder.path(), "deferred", 1);
    let reply = found[0]["reply"].as_str().unwrap().to_owned();
    assert_eq!(found[0]["status"], "4.7.5", "{found:?}");
    assert!(
        reply.contains("not signed: dkim.ed could not sign it: it has too many fields of one name"),
        "{reply}"
    );
    assert!(tuma.says(&["explain", "y@d.test"]).contains("not signed: dkim.ed could not sign it"));
    tuma.stop();
    assert!(sink.messages().is_empty(), "nothing leaves unsigned by accident");
}

#[test]
fn unsigned_mail_is_bounced_where_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = "[signing]\nunmatched = \"bounce\"\n[accounting.file.records]\ncompression_level = 0\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    tuma.greeted().taken("x@a.test", "y@d.test", "From: x@a.test\r\n");
    let bounced = records(folder.path(), "bounced", 1);
    assert_eq!(bounced[0]["status"], "5.7.5");
    tuma.stop();
    assert!(sink.messages().is_empty());
}

/// A message to several sites is signed once, and again when that has become old; mail that waited for its next hop is
/// signed when it leaves.
#[test]
fn one_message_to_several_sites_is_signed_once() {
    let folder = tempfile::tempdir().unwrap();
    let record = key(folder.path(), "rsa", true);
    let second = nobody();
    let sinks = [sink(keeping()), sink(keeping())];
    let more = format!(
        "[dkim.rsa]\ndomain = \"a.test\"\nselector = \"r1\"\nkey = \"${{TUMA_DATA}}/rsa.pem\"\n\
        [route.\"two.test\"]\nnext_hop = \"{}\"\ntls = \"off\"\n[route.\"late.test\"]\nnext_hop = \"{second}\"\ntls = \"off\"\n",
        sinks[1].addr()
    );
    let tuma = Setup::relay_with(folder.path(), sinks[0].addr(), &more).start();
    let reply = tuma.greeted().message(
        "x@a.test",
        &["y@one.test", "y@two.test", "y@late.test"],
        "From: x@a.test\r\nSubject: s\r\n\r\nx",
    );
    assert!(reply.starts_with("250"), "{reply}");
    wait_until("it is at two sites", || sinks.iter().all(|sink| sink.messages().len() == 1));
    let made = (tuma.metric("tuma_signatures_total"), tuma.metric("tuma_signatures_used_again_total"));
    assert_eq!(made, (1.0, 1.0));
    let late = sink(Options { listen: second, ..keeping() });
    tuma.wait_until_settled();
    tuma.stop();
    let zone = [("r1._domainkey.a.test", record.as_str())];
    for sink in [&sinks[0], &sinks[1], &late] {
        let message = sink.messages().pop().unwrap();
        assert_eq!(we_say(&message.content, &zone)[0].reason, None);
    }
}

/// The signature is counted in SIZE, and goes by BDAT as well as by DATA.
#[test]
fn signed_mail_goes_by_every_road() {
    let folder = tempfile::tempdir().unwrap();
    let record = key(folder.path(), "ed", false);
    let zone = [("e1._domainkey.a.test", record.as_str())];
    for (chunking, body) in [("true", 10), ("false", 10), ("true", 300_000), ("false", 300_000)] {
        let data = folder.path().join(format!("{chunking}-{body}"));
        std::fs::create_dir(&data).unwrap();
        let sink = sink(Options { rules: rules(&[]), ..keeping() });
        let more = format!(
            "[dkim.ed]\ndomain = \"a.test\"\nselector = \"e1\"\nkey = \"{}\"\n[delivery]\nchunking = {chunking}\n",
            folder.path().join("ed.pem").display()
        );
        let tuma = Setup::relay_with(&data, sink.addr(), &more).start();
        let mut session = tuma.greeted();
        let content = format!("From: x@a.test\r\n\r\n{}", ".line of text\r\n".repeat(body / 15 + 1));
        for _ in 0..3 {
            let reply = session.message("x@a.test", &["y@d.test"], &content.replace("\r\n.", "\r\n.."));
            assert!(reply.starts_with("250"), "{reply}");
        }
        tuma.wait_until_settled();
        tuma.stop();
        assert_eq!(sink.messages().len(), 3);
        for message in sink.messages() {
            assert_eq!(we_say(&message.content, &zone)[0].reason, None, "{chunking} {body}");
        }
    }
}

/// Signs a file by dkimpy for a.test: the file, the key's file or seed, its kind, canonicalisation, where to.
pub(super) const DKIMPY_SIGNS: &str = r#"
import dkim, sys
message = open(sys.argv[1], "rb").read()
key = open(sys.argv[2], "rb").read() if sys.argv[3] == "rsa" else sys.argv[2].encode()
header, body = [word.encode() for word in sys.argv[4].split("/")]
selector = b"s" if sys.argv[3] == "rsa" else b"e"
algorithm = b"rsa-sha256" if sys.argv[3] == "rsa" else b"ed25519-sha256"
field = dkim.sign(message, selector, b"a.test", key, canonicalize=(header, body), signature_algorithm=algorithm)
open(sys.argv[5], "wb").write(field + message)
"#;

/// The seed of an Ed25519 key, as dkimpy takes it.
pub(super) fn seed(file: &Path) -> String {
    let pem = std::fs::read_to_string(file).unwrap();
    let digits: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = mailauth::base64_decode(digits.as_bytes()).unwrap();
    mailauth::base64_encode(&der[der.len() - 32..])
}

/// A message with OpenDKIM's signature for a.test, by `rsa.pem` of the folder.
pub(super) fn opendkim_signs(folder: &Path, content: &str, canonicalization: &str) -> String {
    let settings = format!(
        "Mode s\nDomain a.test\nSelector s\nKeyFile {}\nInternalHosts 0.0.0.0/0\nRequireSafeKeys no\n\
        OversignHeaders From\nSignatureAlgorithm rsa-sha256\nCanonicalization {canonicalization}\n",
        folder.join("rsa.pem").display()
    );
    let told = opendkim(folder, content.as_bytes(), &settings);
    let (_, field) = told.split_once("hvalue='").expect("a field is put in");
    let field = field.split_once('\'').expect("its end").0.replace('\n', "\r\n");
    format!("DKIM-Signature: {field}\r\n{content}")
}

/// What others sign is good to us: dkimpy and OpenDKIM.
#[test]
fn signatures_of_other_programs_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (rsa, ed) = (key(path, "rsa", true), key(path, "ed", false));
    let zone = [("s._domainkey.a.test", rsa.as_str()), ("e._domainkey.a.test", ed.as_str())];
    std::fs::write(path.join("plain.eml"), CONTENT).unwrap();
    let file = |name: &str| path.join(name).to_str().unwrap().to_owned();
    if has_dkimpy() {
        let seed = seed(&path.join("ed.pem"));
        for (kind, key) in [("rsa", file("rsa.pem")), ("ed", seed)] {
            for canonicalization in ["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"] {
                let signed = file("signed.eml");
                python(DKIMPY_SIGNS, &[&file("plain.eml"), &key, kind, canonicalization, &signed]);
                let verified = we_say(&std::fs::read(&signed).unwrap(), &zone);
                assert_eq!(verified[0].reason, None, "{kind} {canonicalization}");
            }
        }
    }
    if has_opendkim() {
        for canonicalization in ["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"] {
            let signed = opendkim_signs(path, CONTENT, canonicalization);
            let verified = we_say(signed.as_bytes(), &zone);
            assert_eq!((verified.len(), verified[0].reason), (1, None), "{signed}");
        }
    }
}

/// A message says who signs it where it may, and the field that says so never leaves.
#[test]
fn a_message_asks_for_its_signature_where_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let texts = [key(folder.path(), "rsa", true), key(folder.path(), "ed", false)];
    let sink = sink(keeping());
    let more = format!(
        "{MORE}[listener.other]\nlisten = \"127.0.0.1:0\"\n[signing]\noptions_from = [\"smtp\"]\n\
        [accounting.file.records]\ncompression_level = 0\n"
    );
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    let mut session = tuma.greeted();
    for (to, fields) in [
        ("one", "X-DKIM-Options: d=a.test;\r\n s=r1\r\nFrom: x@none.test\r\n"),
        ("two", "From: x@none.test\r\nx-dkim-options: s=r1; i=@b.a.test\r\nX-DKIM-OPTIONS: s=e1\r\n"),
        ("all", "From: x@none.test\r\nX-DKIM-Options: d=A.TEST\r\n"),
        ("author", "From: x@a.test\r\n"),
    ] {
        session.taken("b@esp.test", &format!("{to}@d.test"), fields);
    }
    // A listener that is not named: the field is the author's own business, and stays.
    let mut session = crate::harness::Session::connect(tuma.listener("other"));
    session.say("EHLO client.test", "250");
    session.taken("b@esp.test", "stranger@d.test", "From: x@none.test\r\nX-DKIM-Options: d=a.test\r\n");
    tuma.wait_until_settled();
    // What it asks for is not there: it waits.
    let mut session = tuma.greeted();
    for fields in
        ["X-DKIM-Options: d=b.test\r\n", "X-DKIM-Options: d=a.test; i=@b.test\r\n", "X-DKIM-Options: x\r\n"]
    {
        session.taken("b@esp.test", "never@d.test", &format!("From: x@a.test\r\n{fields}"));
    }
    let waits = records_of(folder.path(), 3);
    for expected in ["there is no identity with d=b.test", "i= is not within a.test", "not a list of tags"] {
        assert!(waits.iter().any(|reply| reply.contains(expected)), "{expected} {waits:?}");
    }
    tuma.stop();
    let zone = [("r1._domainkey.a.test", texts[0].as_str()), ("e1._domainkey.a.test", texts[1].as_str())];
    let signed = |to: &str| {
        let messages = sink.messages();
        let to = format!("{to}@d.test");
        let message = messages.iter().find(|m| m.recipients[0].address == to).expect("it arrived");
        assert_eq!(message.field("X-DKIM-Options").is_some(), to == "stranger@d.test");
        let by = we_say(&message.content, &zone).into_iter().map(|verified| {
            assert_eq!(verified.reason, None, "{verified:?}");
            let signature = verified.signature.expect("a signature");
            format!("{} {}", signature.selector, signature.identity)
        });
        by.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(signed("one"), "r1 @a.test");
    assert_eq!(signed("two"), "r1 @b.a.test, e1 @news.a.test");
    assert_eq!(signed("all"), "e1 @news.a.test, r1 @a.test");
    assert_eq!(signed("author"), "e1 @news.a.test, r1 @a.test");
    assert_eq!(signed("stranger"), "");
    assert!(!sink.messages().iter().any(|message| message.recipients[0].address == "never@d.test"));
}

/// The replies of the deferred records, once there are so many.
fn records_of(folder: &Path, count: usize) -> Vec<String> {
    let found = records(folder, "deferred", count);
    found.iter().map(|record| record["reply"].as_str().expect("a reply").to_owned()).collect()
}
