//! `tuma dkim`: a key is made, published, looked at and replaced, against a name server that answers.

use crate::harness::{Setup, dns::NameServer, has_program, keeping, output_of, sink};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs `tuma dkim` with words, in a folder.
fn run(folder: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tuma"));
    command.arg("dkim").args(line.split_whitespace()).current_dir(folder);
    command.output().expect("run tuma")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What it printed; it must end well.
fn says(folder: &Path, line: &str) -> String {
    let output = run(folder, line);
    assert!(output.status.success(), "{line}: {}", text(&output));
    text(&output)
}

/// The same for what should fail.
fn refuses(folder: &Path, line: &str) -> String {
    let output = run(folder, line);
    assert!(!output.status.success(), "{line}: {}", text(&output));
    text(&output)
}

/// What stands between two lines, as it would be copied.
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("no {from} in {text}"));
    rest.split_once(to).unwrap_or_else(|| panic!("no {to} in {rest}")).0.trim()
}

/// Publishes a record as it was printed for a zone file.
fn publish(dns: &NameServer, printed: &str) {
    let (name, rest) = printed.split_once(". IN TXT ").unwrap_or_else(|| panic!("no record: {printed}"));
    let strings: Vec<&str> = rest.split('"').skip(1).step_by(2).collect();
    assert!(strings.iter().all(|text| text.len() <= 255));
    dns.forget(name);
    dns.txt(name, &strings.concat());
}

fn write(folder: &Path, dns: &NameServer, more: &str) {
    let text = format!(
        "[spool]\ndirectory = \"spool\"\n[listener.smtp]\nlisten = \"127.0.0.1:0\"\n{}{more}",
        dns.settings()
    );
    std::fs::write(folder.join("tuma.toml"), text).unwrap();
}

#[test]
fn a_key_from_its_making_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let dns = NameServer::start();
    let made = says(folder, "new --domain a.test --selector s1 --type both");
    let mode = std::fs::metadata(folder.join("a.test.s1.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(
        refuses(folder, "new --domain a.test --selector s1").contains("File exists"),
        "no key is overwritten"
    );
    let settings = between(&made, "Add to the configuration:\n", "Then see").to_owned();
    write(folder, &dns, &settings);
    let check = "check -c tuma.toml";

    // Nothing is published yet: it says what to publish, which is what was printed before.
    let told = refuses(folder, check);
    assert_eq!(told.matches("DNS has no such record").count(), 2, "{told}");
    let records = between(&made, "Publish in DNS:\n", "Add to").to_owned();
    let (rsa, ed) = records.split_at(records.find("s1-ed25519._domainkey").unwrap());
    let level = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(level(&told).contains(&level(rsa)) && level(&told).contains(&level(ed)), "{told}");
    publish(&dns, ed);
    dns.txt("s1._domainkey.a.test", "v=DKIM1; k=rsa; p=");
    let told = refuses(folder, check);
    assert!(told.contains("ok   dkim.a-test-ed25519 (signs)") && told.contains("key is revoked"), "{told}");
    publish(&dns, rsa);
    let told = says(folder, check);
    assert_eq!(told.matches("and a message that it signs is verified").count(), 2, "{told}");
    assert_eq!(
        level(&says(folder, "dns a-test -c tuma.toml")),
        format!("; dkim.a-test, signs {}", level(rsa))
    );

    // The new key beside the old one.
    let told = says(folder, "rotate a-test -c tuma.toml --selector s2");
    let next = between(&told, "world sees it: tuma dkim check a-test\n", "\n3. ").to_owned();
    let record = between(&told, "beside the record of s1:\n", "\n2. ").to_owned();
    write(folder, &dns, &format!("{settings}\n{next}\n"));
    assert!(
        refuses(folder, "rotate a-test -c tuma.toml --selector s3").contains("a next key is there already")
    );
    let told = refuses(folder, check);
    assert!(told.contains("FAIL dkim.a-test (next) s2._domainkey.a.test"), "{told}");
    publish(&dns, &record);
    let told = says(folder, check);
    assert!(told.contains("ready to take over") && told.contains("former = [\"s1\"]"), "{told}");

    // It has taken over; the old one is looked at until it is gone.
    let taken_over = settings.replacen("selector = \"s1\"", "selector = \"s2\"", 1).replacen(
        "a.test.s1.pem\"",
        "a.test.s2.pem\"\nformer = [\"s1\"]",
        1,
    );
    write(folder, &dns, &taken_over);
    let list: Value = serde_json::from_str(&says(folder, "check a-test -c tuma.toml --json")).unwrap();
    let states: Vec<[&str; 2]> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|looked| ["state", "found"].map(|key| looked[key].as_str().unwrap()))
        .collect();
    assert_eq!(states, [["signs", "good"], ["former", "still_there"]]);
    dns.forget("s1._domainkey.a.test");
    assert!(says(folder, check).contains("DNS has forgotten it"));
}

#[test]
fn what_is_wrong_with_a_record_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let dns = NameServer::start();
    let made: Value =
        serde_json::from_str(&says(folder, "new --domain a.test --selector s --type ed25519 --json"))
            .unwrap();
    let other: Value =
        serde_json::from_str(&says(folder, "new --domain b.test --selector s --type ed25519 --json"))
            .unwrap();
    let (record, other) = (made[0]["record"].as_str().unwrap(), other[0]["record"].as_str().unwrap());
    let settings = "[dkim.news]\ndomain = \"a.test\"\nselector = \"s\"\nkey = \"a.test.s.pem\"\n";
    write(folder, &dns, settings);
    let name = "s._domainkey.a.test";
    for (published, expected) in [
        (vec![other.to_owned()], "the record has another key"),
        (vec![record.to_owned(), other.to_owned()], "2 TXT records stand there"),
        (vec!["k=ed25519".to_owned()], "key record without p="),
        (vec![record.replace("p=", "h=sha1; p=")], "key not for sha256"),
        (vec![record.replace("p=", "p=\"")], "the key is not in base64"),
        (vec![record.replace("v=DKIM1", "v=DKIM2")], "unknown version"),
    ] {
        dns.forget(name);
        published.iter().for_each(|text| dns.txt(name, text));
        let told = refuses(folder, "check -c tuma.toml");
        assert!(told.contains(expected), "{published:?}: {told}");
    }
    dns.forget(name);
    dns.txt(name, &record.replace("k=", "t=y; k="));
    assert!(says(folder, "check -c tuma.toml").contains("t=y says that DKIM is only being tried out"));
    dns.servfail(name);
    assert!(refuses(folder, "check -c tuma.toml").contains("DNS gives no answer"));
    // A key for the domain alone, and an identity below it.
    dns.forget(name);
    dns.txt(name, &record.replace("k=", "t=s; k="));
    write(folder, &dns, &format!("{settings}identity = \"@news.a.test\"\n"));
    assert!(refuses(folder, "check -c tuma.toml").contains("key not for subdomains"));
    assert!(refuses(folder, "check nwes -c tuma.toml").contains("did you mean `news`?"));
}

#[test]
fn mistakes_about_keys_are_shown_where_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut command = Command::new("openssl");
    if !has_program("openssl", command.arg("version")) {
        return;
    }
    let short = path.join("short.pem");
    output_of(Command::new("openssl").args(["genrsa", "-out", short.to_str().unwrap(), "1024"]));
    let public = path.join("public.pem");
    output_of(
        Command::new("openssl").args(["rsa", "-in", short.to_str().unwrap(), "-pubout", "-out"]).arg(&public),
    );
    let good = path.join("good.pem");
    // What openssl writes is read, in both forms.
    output_of(Command::new("openssl").args([
        "genrsa",
        "-traditional",
        "-out",
        good.to_str().unwrap(),
        "2048",
    ]));
    let ed = path.join("ed.pem");
    output_of(Command::new("openssl").args([
        "genpkey",
        "-algorithm",
        "ed25519",
        "-out",
        ed.to_str().unwrap(),
    ]));
    std::fs::set_permissions(&ed, PermissionsExt::from_mode(0o644)).unwrap();
    let file = path.join("tuma.toml");
    let check = |text: &str| {
        std::fs::write(&file, format!("[listener.smtp]\nlisten = \"127.0.0.1:0\"\n{text}")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tuma"));
        text_of(command.args(["config", "check"]).arg(&file).current_dir(path))
    };
    let identity = |key: &str, more: &str| {
        format!("[dkim.news]\ndomain = \"a.test\"\nselector = \"s\"\nkey = \"{key}\"\n{more}")
    };
    for (text, expected) in [
        (
            identity("short.pem", ""),
            "tuma.toml:6:7: error: `short.pem` gives no key to sign with: it is an RSA key of 1024 bits",
        ),
        (identity("public.pem", ""), "it is a public key or a certificate"),
        (identity("none.pem", ""), "it cannot be read: No such file"),
        (identity("/dev/zero", ""), "it is not a file of at most 65536 octets"),
        (identity("ed.pem", ""), "warning: every user of this machine can read the key `ed.pem`"),
        (identity("good.pem", "key_text = \"x\"\n"), "cannot both be set"),
        (identity("good.pem", "identity = \"@b.test\"\n"), "`identity` must be an address within a.test"),
        (identity("good.pem", "headers = [\"To\"]\n"), "`headers` must name From"),
        (identity("good.pem", "canonicalization = \"nowsp\"\n"), "write `relaxed/relaxed`"),
        (identity("good.pem", "[[sign]]\nidentities = [\"nwes\"]\n"), "did you mean `news`?"),
        (
            identity("good.pem", "[[sign]]\nsources = [\"one\"]\nidentities = [\"news\"]\n"),
            "no source is called `one`",
        ),
        (identity("good.pem", "next = { selector = \"s\", key = \"ed.pem\" }\n"), "selector of its own"),
        ("[dkim.news]\ndomain = \"a.test\"\nselector = \"s\"\n".to_owned(), "this identity has no key"),
        (
            "[dkim.news]\ndomain = \"a.test\"\nselector = \"s\"\nkey_text = \"x\"\n".to_owned(),
            "is no key to sign with",
        ),
    ] {
        let told = check(&text);
        assert!(told.contains(expected), "{expected}\nis not in\n{told}");
        assert!(!told.contains("key_text = \"x\""), "a secret is printed: {told}");
    }
    assert_eq!(check(&identity("good.pem", "")).matches("error").count(), 0);
}

fn text_of(command: &mut Command) -> String {
    text(&command.output().expect("run tuma"))
}

/// The key may come from the environment.
#[test]
fn a_key_from_the_environment_signs() {
    let folder = tempfile::tempdir().unwrap();
    says(folder.path(), "new --domain a.test --selector s --type ed25519");
    let pem = std::fs::read_to_string(folder.path().join("a.test.s.pem")).unwrap();
    let sink = sink(keeping());
    let more = "[dkim.news]\ndomain = \"a.test\"\nselector = \"s\"\nkey_text = \"${THE_KEY}\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).env("THE_KEY", &pem).start();
    tuma.greeted().taken("x@a.test", "y@d.test", "From: x@a.test\r\n");
    tuma.wait_until_settled();
    assert!(!tuma.log().contains("PRIVATE"), "{}", tuma.log());
    tuma.stop();
    assert!(sink.messages()[0].content.starts_with(b"DKIM-Signature: v=1; a=ed25519-sha256;"));
}
