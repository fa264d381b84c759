//! Transport security towards other sites: what the operator and the receiving domains ask for, and what an attacker
//! on the way tries.

use crate::harness::authority::{Authority, over};
use crate::harness::dns::NameServer;
use crate::harness::signed::{Signed, has_unbound};
use crate::harness::web::{Asked, WebServer};
use crate::harness::{
    Setup, fixed_address, has_python, keeping, python, records, rules, send, sink, wait_until,
};
use bench::sink::{Options, SinkHandle};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// A sink at an exchanger's address; all exchangers listen at one port.
fn exchanger(last: u8, port: u16, options: Options) -> SinkHandle {
    sink(Options { listen: ([127, 0, 0, last], port).into(), ..options })
}

/// Domains with one exchanger each: `name.test` by `mx.name.test` at 127.0.0.n.
fn domains(dns: &NameServer, names: &[(&str, u8)]) {
    for (name, last) in names {
        dns.mx(&format!("{name}.test"), &[(10, &format!("mx.{name}.test"))]);
        dns.a(&format!("mx.{name}.test"), [127, 0, 0, *last]);
    }
}

/// The one record of a kind about a recipient.
fn record_of(data: &Path, kind: &str, recipient: &str) -> Value {
    let mut found = None;
    wait_until("the record is written", || {
        found = records(data, kind, 0).into_iter().find(|record| record["recipient"] == recipient);
        found.is_some()
    });
    found.expect("found")
}

#[test]
fn tls_is_as_the_operator_says_for_each_domain() {
    let (folder, dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    let authority = Authority::new("authority.test");
    domains(
        &dns,
        &[
            ("good", 2),
            ("expired", 3),
            ("wrongname", 4),
            ("stranger", 5),
            ("stripped", 6),
            ("broken", 7),
            ("named", 8),
        ],
    );
    let with = |tls| Options { tls: Some(tls), ..Options::default() };
    let expired = authority.certify(&["mx.expired.test"], over).server();
    let _sinks = [
        exchanger(2, port, with(authority.server("mx.good.test"))),
        exchanger(3, port, with(expired)),
        exchanger(4, port, with(authority.server("mx.other.test"))),
        exchanger(5, port, with(bench::tls::self_signed(&["mx.stranger.test"]).unwrap())),
        exchanger(6, port, Options::default()),
        exchanger(
            7,
            port,
            Options {
                rules: rules(&["starttls:junk=220 go ahead"]),
                ..with(authority.server("mx.broken.test"))
            },
        ),
        exchanger(8, port, with(authority.server("mail.bank.test"))),
    ];
    let ca = authority.file(folder.path());
    let mut more = format!(
        "[delivery]\ntls = \"opportunistic\"\ntls_ca_file = \"{}\"\n[tls_policy.\"named.test\"]\ntls = \"verified\"\n\
         names = [\"mail.bank.test\"]\n",
        ca.display()
    );
    for name in ["good", "expired", "wrongname", "stranger", "stripped", "broken"] {
        more += &format!("[tls_policy.\"*.verified.{name}.test\"]\ntls = \"verified\"\n");
        dns.mx(&format!("x.verified.{name}.test"), &[(10, &format!("mx.{name}.test"))]);
    }
    for name in ["stranger", "stripped", "broken"] {
        more += &format!("[tls_policy.\"required.{name}.test\"]\ntls = \"required\"\n");
        dns.mx(&format!("required.{name}.test"), &[(10, &format!("mx.{name}.test"))]);
    }
    more += "[tls_policy.\"off.good.test\"]\ntls = \"off\"\n";
    dns.mx("off.good.test", &[(10, "mx.good.test")]);
    let tuma = Setup::direct(folder.path(), &dns, port, &more).start();
    // domain, TLS of the delivery, what is said of the certificate; or the status of the deferral.
    let delivered = [
        ("good.test", "opportunistic", true, "verified"),
        ("off.good.test", "off", false, ""),
        ("x.verified.good.test", "verified", true, "verified"),
        ("named.test", "verified", true, "verified"),
        ("expired.test", "opportunistic", true, "expired"),
        ("wrongname.test", "opportunistic", true, "not valid for name"),
        ("stranger.test", "opportunistic", true, "UnknownIssuer"),
        ("required.stranger.test", "required", true, "UnknownIssuer"),
        ("stripped.test", "opportunistic", false, ""),
        ("broken.test", "opportunistic", false, ""),
    ];
    let deferred = [
        ("x.verified.expired.test", "4.7.5"),
        ("x.verified.wrongname.test", "4.7.5"),
        ("x.verified.stranger.test", "4.7.5"),
        ("x.verified.stripped.test", "4.7.10"),
        ("required.stripped.test", "4.7.10"),
        ("required.broken.test", "4.7.0"),
        ("x.verified.broken.test", "4.7.0"),
    ];
    for (domain, ..) in delivered {
        send(&tuma, &format!("x@{domain}"), 1);
    }
    for (domain, _) in deferred {
        send(&tuma, &format!("x@{domain}"), 1);
    }
    for (domain, policy, tls, verified) in delivered {
        let record = record_of(folder.path(), "delivered", &format!("x@{domain}"));
        assert_eq!(record["tls_policy"], policy, "{record}");
        assert_eq!(record["tls"].is_string(), tls, "{record}");
        let said = record["tls_verified"].as_str().unwrap_or_default();
        assert!(said.contains(verified) && said.is_empty() == verified.is_empty(), "{record}");
    }
    for (domain, status) in deferred {
        let record = record_of(folder.path(), "deferred", &format!("x@{domain}"));
        assert_eq!(record["status"], status, "{record}");
    }
    assert_eq!(tuma.figure("/recipients/bounced"), 0);

    // What fell back is remembered, shown and counted; the next connection does not try again.
    assert_eq!(tuma.metric("tuma_tls_clear_exchangers"), 1.0);
    assert_eq!(tuma.metric("tuma_tls_fallbacks_total"), 1.0);
    assert!(tuma.metric("tuma_tls_refusals_total") >= 7.0);
    let told = tuma.says(&["explain", "y@broken.test"]);
    assert!(told.contains("mx.broken.test in the clear for"), "{told}");
    let told = tuma.says(&["explain", "y@named.test"]);
    assert!(
        told.contains("TLS verified: by tls_policy.named.test; certificate for mail.bank.test"),
        "{told}"
    );
    let told = tuma.says(&["explain", "x@x.verified.expired.test"]);
    assert!(told.contains("certificate not verified") && told.contains("expired"), "{told}");
}

#[test]
fn what_fails_for_one_domain_holds_no_other_of_the_site() {
    let (folder, dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    domains(&dns, &[("plain", 2)]);
    dns.mx("strict.test", &[(10, "mx.plain.test")]);
    let sink = exchanger(2, port, keeping());
    let more = "[delivery]\ntls = \"opportunistic\"\n[tls_policy.\"strict.test\"]\ntls = \"required\"\n\
                [shaping.default]\nreconnect_min = \"1h\"\nreconnect_max = \"1h\"\n";
    let tuma = Setup::direct(folder.path(), &dns, port, more).start();
    send(&tuma, "x@plain.test", 5);
    send(&tuma, "x@strict.test", 5);
    record_of(folder.path(), "deferred", "x@strict.test");
    // Were the site held for it, this would wait for an hour.
    send(&tuma, "x@plain.test", 5);
    records(folder.path(), "delivered", 10);
    send(&tuma, "x@strict.test", 5);
    send(&tuma, "x@plain.test", 5);
    records(folder.path(), "delivered", 15);
    let leaked = sink.messages().iter().filter(|m| m.recipients[0].address == "x@strict.test").count();
    assert_eq!(leaked, 0, "not one message of the strict domain went in the clear");
    assert_eq!(tuma.figure("/recipients/queued"), 10);
}

// ---- MTA-STS ------------------------------------------------------------------------------------------------

fn policy(mode: &str, mx: &str, max_age: u64) -> String {
    format!("version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: {max_age}\r\n")
}

/// A domain whose policy host is `web`.
fn with_policy(dns: &NameServer, web: &WebServer, domain: &str, policy: &str) {
    dns.only_txt(&format!("_mta-sts.{domain}"), "v=STSv1; id=1;");
    dns.a(&format!("mta-sts.{domain}"), [127, 0, 0, 1]);
    web.policy(&format!("mta-sts.{domain}"), policy);
}

/// Policy hosts with a certificate for these domains' ones.
fn policy_hosts(authority: &Authority, domains: &[&str]) -> WebServer {
    let names: Vec<String> = domains.iter().map(|domain| format!("mta-sts.{domain}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    WebServer::start(authority.certify(&names, |_| {}).server())
}

fn sts_settings(authority: &Authority, folder: &Path, web: &WebServer) -> String {
    let ca = authority.file(folder);
    let (ca, port) = (ca.display(), web.at.port());
    format!(
        "[delivery]\ntls = \"opportunistic\"\ntls_ca_file = \"{ca}\"\n\
         [mta_sts]\nca_file = \"{ca}\"\nport = {port}\nfetch_timeout = \"2s\"\n"
    )
}

/// The doctor fetches the policy of our own domain as a sender would, and holds it against the exchangers.
#[test]
fn the_doctor_reads_the_policy_that_senders_read() {
    let (folder, dns) = (tempfile::tempdir().unwrap(), NameServer::start());
    let authority = Authority::new("authority.test");
    let web = policy_hosts(&authority, &["acme.test"]);
    dns.mx("acme.test", &[(10, "mx.acme.test")]);
    dns.a("mx.acme.test", [192, 0, 2, 25]);
    let key = mailauth::dkim::SigningKey::generate_ed25519().and_then(|key| key.to_pem()).unwrap();
    let config = folder.path().join("tuma.toml");
    let settings = sts_settings(&authority, folder.path(), &web);
    let text = format!(
        "hostname = \"mx.acme.test\"\n[spool]\ndirectory = \"{}\"\n[dkim.a]\ndomain = \"acme.test\"\nselector = \"s1\"\n\
         key_text = \"\"\"{key}\"\"\"\n{settings}",
        folder.path().join("spool").display()
    );
    std::fs::write(&config, text).unwrap();
    let server = dns.at.to_string();
    let told = || {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tuma"))
            .args([
                "doctor",
                "--json",
                "--nameserver",
                &server,
                "--reach",
                "none",
                "--time-server",
                "none",
                "-c",
            ])
            .arg(&config)
            .output()
            .unwrap();
        let all: Vec<serde_json::Value> =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let one = all.iter().find(|one| one["check"] == "mta-sts").unwrap_or_else(|| panic!("{all:#?}"));
        (one["state"].as_str().unwrap().to_owned(), format!("{one}"))
    };
    let check = |text: &str, state: &str, says: &str| {
        with_policy(&dns, &web, "acme.test", text);
        let (found, whole) = told();
        assert!(found == state && whole.contains(says), "{text}: {whole}");
    };
    check(&policy("enforce", "*.acme.test", 86_400), "ok", "told to use TLS");
    check(&policy("enforce", "mail.acme.test", 86_400), "fail", "mx: mx.acme.test");
    check(&policy("testing", "mx.acme.test", 86_400), "warn", "mode: enforce");
    check("version: STSv1\nmode: none\nmax_age: 60\n", "warn", "mode: none");
    check("<html>", "fail", "cannot be used");
    drop(web);
    assert_eq!(told().0, "fail");
}

#[test]
fn mta_sts_policies_are_kept_to() {
    let (folder, dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    let authority = Authority::new("authority.test");
    let names = [
        "good",
        "stripped",
        "wrongname",
        "unlisted",
        "testing",
        "none",
        "broken",
        "html",
        "moved",
        "huge",
        "hidden",
        "private",
    ];
    let all: Vec<String> = names.iter().map(|name| format!("{name}.test")).collect();
    let hosts: Vec<&str> = all.iter().map(String::as_str).filter(|domain| *domain != "hidden.test").collect();
    let web = policy_hosts(&authority, &hosts);
    let tls = |name: &str| Options { tls: Some(authority.server(name)), ..Options::default() };
    let _sinks = [
        exchanger(2, port, tls("mx.good.test")),
        exchanger(3, port, Options::default()),
        exchanger(4, port, tls("mx.other.test")),
    ];
    domains(
        &dns,
        &[("good", 2), ("stripped", 3), ("wrongname", 4), ("unlisted", 2), ("testing", 3), ("none", 3)],
    );
    domains(&dns, &[("broken", 3), ("html", 3), ("moved", 3), ("huge", 3), ("hidden", 3), ("private", 3)]);
    for name in ["good", "stripped", "wrongname"] {
        with_policy(
            &dns,
            &web,
            &format!("{name}.test"),
            &policy("enforce", &format!("*.{name}.test"), 86_400),
        );
    }
    with_policy(&dns, &web, "unlisted.test", &policy("enforce", "mail.unlisted.test", 86_400));
    with_policy(&dns, &web, "testing.test", &policy("testing", "mail.testing.test", 86_400));
    with_policy(&dns, &web, "none.test", "version: STSv1\nmode: none\nmax_age: 60\n");
    // What cannot be had is no policy: a domain that was never known to have one gets its mail.
    with_policy(&dns, &web, "broken.test", "version: STSv1\nmode: enforce\n");
    with_policy(&dns, &web, "hidden.test", &policy("enforce", "x.test", 60));
    with_policy(&dns, &web, "html.test", "");
    let enforced = policy("enforce", "x.test", 60);
    web.answer(
        "mta-sts.html.test",
        &format!("200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{enforced}", enforced.len()),
    );
    with_policy(&dns, &web, "moved.test", "");
    web.answer("mta-sts.moved.test", "301 Moved\r\nLocation: https://mta-sts.good.test/.well-known/mta-sts.txt\r\nContent-Length: 0\r\n\r\n");
    with_policy(&dns, &web, "huge.test", &(enforced.clone() + &"x: y\n".repeat(20_000)));
    with_policy(&dns, &web, "private.test", &enforced);
    dns.forget("mta-sts.private.test");
    dns.a("mta-sts.private.test", [169, 254, 169, 254]);
    let tuma =
        Setup::direct(folder.path(), &dns, port, &sts_settings(&authority, folder.path(), &web)).start();
    for name in names {
        send(&tuma, &format!("x@{name}.test"), 1);
    }
    for (name, word, tls) in [
        ("good", "mta-sts", true),
        ("testing", "opportunistic", false),
        ("none", "opportunistic", false),
        ("broken", "opportunistic", false),
        ("html", "opportunistic", false),
        ("moved", "opportunistic", false),
        ("huge", "opportunistic", false),
        ("hidden", "opportunistic", false),
        ("private", "opportunistic", false),
    ] {
        let record = record_of(folder.path(), "delivered", &format!("x@{name}.test"));
        assert_eq!((&record["tls_policy"], record["tls"].is_string()), (&Value::from(word), tls), "{record}");
    }
    for (name, status, text) in [
        ("stripped", "4.7.10", "does not offer STARTTLS"),
        ("wrongname", "4.7.5", "certificate not verified"),
        (
            "unlisted",
            "4.7.5",
            "mx.unlisted.test is not among the exchangers of unlisted.test's MTA-STS policy",
        ),
    ] {
        let record = record_of(folder.path(), "deferred", &format!("x@{name}.test"));
        assert_eq!(record["status"], status, "{record}");
        assert!(record["reply"].as_str().unwrap().contains(text), "{record}");
    }
    assert_eq!(tuma.figure("/recipients/bounced"), 0);
    // Redirects are not followed: the other host was asked for its own domain only.
    assert_eq!(web.asked_for("mta-sts.good.test"), 1);
    let lines = web.asked();
    let usual = |asked: &Asked| {
        asked.line == "GET /.well-known/mta-sts.txt"
            && asked.head.contains_key("host")
            && asked.body.is_empty()
    };
    assert!(lines.iter().all(usual), "{lines:?}");
    let told = tuma.says(&["explain", "y@good.test"]);
    assert!(told.contains("MTA-STS policy, mode enforce: *.good.test"), "{told}");
    let told = tuma.says(&["explain", "x@unlisted.test"]);
    assert!(told.contains("not among the exchangers of unlisted.test's MTA-STS policy"), "{told}");
    let told = tuma.says(&["explain", "y@moved.test"]);
    assert!(told.contains("redirects are not followed"), "{told}");
}

#[test]
fn a_policy_once_known_outlives_its_record_its_host_and_the_process() {
    let (folder, mut dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    let authority = Authority::new("authority.test");
    let web = policy_hosts(&authority, &["a.test"]);
    dns.mx("a.test", &[(10, "mx.a.test")]);
    dns.a("mx.a.test", [127, 0, 0, 2]);
    with_policy(&dns, &web, "a.test", &policy("enforce", "mx.a.test", 86_400));
    let good = exchanger(2, port, Options { tls: Some(authority.server("mx.a.test")), ..Options::default() });
    let setup = Setup::direct(folder.path(), &dns, port, &sts_settings(&authority, folder.path(), &web));
    let tuma = setup.start();
    send(&tuma, "x@a.test", 1);
    records(folder.path(), "delivered", 1);
    let kept = folder.path().join("state/mta-sts.json");
    wait_until("the policy is on disk", || {
        std::fs::read_to_string(&kept).is_ok_and(|text| text.contains("a.test"))
    });
    tuma.kill();
    // Somebody suppresses the record, blocks the policy host and strips STARTTLS.
    drop(good);
    let stripped = exchanger(2, port, Options::default());
    dns.forget("mta-sts.a.test");
    for (n, what) in ["no record", "no answer", "bad host"].into_iter().enumerate() {
        match what {
            "no record" => dns.forget("_mta-sts.a.test"),
            "no answer" => dns.servfail("_mta-sts.a.test"),
            _ => {
                dns.only_txt("_mta-sts.a.test", "v=STSv1; id=2;");
                dns.a("mta-sts.a.test", [127, 0, 0, 1]);
                web.show(authority.certify(&["mta-sts.a.test"], over).server());
                web.policy("mta-sts.a.test", "version: STSv1\nmode: none\nmax_age: 0\n");
            }
        }
        let tuma = setup.start();
        send(&tuma, "x@a.test", 1);
        records(folder.path(), "deferred", n + 1);
        let told = tuma.says(&["explain", "y@a.test"]);
        assert!(told.contains("MTA-STS policy, mode enforce"), "{what}: {told}");
        assert_eq!(told.contains("sts-webpki-invalid"), what == "bad host", "{told}");
        tuma.kill();
    }
    assert_eq!(stripped.stats().messages, 0);
    dns.go_away();
}

#[test]
fn an_enforced_domain_never_leaks_to_the_connections_of_others_at_its_exchangers() {
    let (folder, dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    let authority = Authority::new("authority.test");
    let web = policy_hosts(&authority, &["strict.test"]);
    // Both have the same exchanger, which does not offer TLS.
    for domain in ["plain.test", "strict.test"] {
        dns.mx(domain, &[(10, "mx.host.test")]);
    }
    dns.a("mx.host.test", [127, 0, 0, 2]);
    with_policy(&dns, &web, "strict.test", &policy("enforce", "mx.host.test", 86_400));
    let options = Options { rules: rules(&["dot:stall=5ms"]), ..keeping() };
    let sink = exchanger(2, port, options);
    let tuma =
        Setup::direct(folder.path(), &dns, port, &sts_settings(&authority, folder.path(), &web)).start();
    for _ in 0..10 {
        send(&tuma, "x@plain.test", 10);
        send(&tuma, "x@strict.test", 2);
    }
    records(folder.path(), "delivered", 100);
    record_of(folder.path(), "deferred", "x@strict.test");
    let leaked = sink.messages().iter().filter(|m| m.recipients[0].address == "x@strict.test").count();
    assert_eq!((leaked, tuma.figure("/recipients/queued")), (0, 20));
}

#[test]
fn a_policy_that_comes_while_connections_are_open_holds_at_once() {
    let (folder, dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    let authority = Authority::new("authority.test");
    domains(&dns, &[("a", 2)]);
    let web = policy_hosts(&authority, &["a.test"]);
    let sink = exchanger(2, port, keeping());
    let setup = Setup::direct(folder.path(), &dns, port, &sts_settings(&authority, folder.path(), &web));
    let tuma = setup.start();
    send(&tuma, "x@a.test", 1);
    records(folder.path(), "delivered", 1);
    // The operator asks for more while the connection idles.
    let text = std::fs::read_to_string(folder.path().join("direct.toml")).unwrap();
    std::fs::write(folder.path().join("direct.toml"), text + "[tls_policy.\"a.test\"]\ntls = \"required\"\n")
        .unwrap();
    tuma.says(&["reload"]);
    send(&tuma, "x@a.test", 1);
    record_of(folder.path(), "deferred", "x@a.test");
    assert_eq!(sink.stats().messages, 1);
}

// ---- DANE ---------------------------------------------------------------------------------------------------

#[test]
fn tlsa_records_decide_where_dnssec_vouches_for_them() {
    tlsa_records_decide(false);
}

#[test]
fn a_validating_name_server_on_this_machine_is_believed() {
    if has_unbound() {
        tlsa_records_decide(true);
    }
}

/// What DNSSEC vouches for, by our own word or by that of a name server which checks signatures.
fn tlsa_records_decide(trusted: bool) {
    let (folder, port) = (tempfile::tempdir().unwrap(), fixed_address().port());
    // Nobody that the machine knows vouches for it, it is over, and for another name.
    let authority = Authority::new("authority.test");
    let own = authority.certify(&["other.test"], over);
    let digest = own.key_digest();
    let with = |tls| Options { tls: Some(tls), ..Options::default() };
    let _tls = exchanger(2, port, with(own.server()));
    let _stripped = exchanger(3, port, Options::default());
    let mut zone = Signed::default();
    for (domain, host, last) in [
        ("good.test", "mx.good.test", 2),
        ("mismatch.test", "mx.mismatch.test", 2),
        ("stripped.test", "mx.stripped.test", 3),
        ("unusable.test", "mx.unusable.test", 2),
        ("unusable-stripped.test", "mx.unusable-stripped.test", 3),
        ("without.test", "mx.without.test", 3),
        ("only.test", "mx.without.test", 3),
        ("a.unsigned.test", "mx.unsigned.test", 3),
        ("abroad.test", "mx2.unsigned.test", 3),
        ("a.bogus.test", "mx.bogus.test", 2),
        ("home.test", "mx2.bogus.test", 2),
    ] {
        zone.mx(domain, host).a(host, last);
    }
    zone.tlsa("mx.good.test", port, (3, 1, 1), &digest);
    zone.tlsa("mx.mismatch.test", port, (3, 1, 1), &[7; 32]);
    zone.tlsa("mx.stripped.test", port, (3, 1, 1), &digest);
    for host in ["mx.unusable.test", "mx.unusable-stripped.test"] {
        zone.tlsa(host, port, (1, 1, 1), &digest).tlsa(host, port, (3, 1, 1), &[1]);
    }
    // Nobody signs there, so it counts for nothing; were it believed, this mail would wait.
    zone.tlsa("mx.unsigned.test", port, (3, 1, 1), &[7; 32]);
    zone.tlsa("mx2.unsigned.test", port, (3, 1, 1), &[7; 32]);
    let dns = zone.serve(folder.path());
    let more = "[delivery]\ntls = \"opportunistic\"\n[mta_sts]\nenabled = false\n[tls_policy.\"only.test\"]\ntls = \"dane\"\n";
    let (_unbound, settings) = match trusted {
        true => {
            let (unbound, settings) = dns.trusted(folder.path());
            (Some(unbound), settings)
        }
        false => (None, dns.settings()),
    };
    let tuma = Setup::direct_by(folder.path(), &settings, port, more).start();
    let delivered = [
        ("good.test", "dane", true, "dane"),
        ("unusable.test", "required", true, "expired"),
        ("without.test", "opportunistic", false, ""),
        ("a.unsigned.test", "opportunistic", false, ""),
        ("abroad.test", "opportunistic", false, ""),
    ];
    let deferred = [
        ("mismatch.test", "4.7.5", "no TLSA record fits"),
        ("stripped.test", "4.7.10", "does not offer STARTTLS"),
        ("unusable-stripped.test", "4.7.10", "does not offer STARTTLS"),
        ("only.test", "4.7.5", "no TLSA records that DNSSEC vouches for"),
        ("a.bogus.test", "4.7.5", "dnssec"),
        ("home.test", "4.7.5", "dnssec"),
    ];
    for domain in delivered.iter().map(|d| d.0).chain(deferred.iter().map(|d| d.0)) {
        send(&tuma, &format!("x@{domain}"), 1);
    }
    for (domain, policy, tls, verified) in delivered {
        let record = record_of(folder.path(), "delivered", &format!("x@{domain}"));
        assert_eq!(
            (&record["tls_policy"], record["tls"].is_string()),
            (&Value::from(policy), tls),
            "{record}"
        );
        assert!(record["tls_verified"].as_str().unwrap_or_default().contains(verified), "{record}");
    }
    for (domain, status, text) in deferred {
        let record = record_of(folder.path(), "deferred", &format!("x@{domain}"));
        // A server that checks signatures itself does not even say where forged mail would go.
        let (status, text) = match trusted && text == "dnssec" {
            true => ("4.4.3", "servfail"),
            false => (status, text),
        };
        assert_eq!(record["status"], status, "{record}");
        assert!(record["reply"].as_str().unwrap().to_lowercase().contains(&text.to_lowercase()), "{record}");
    }
    assert_eq!(tuma.figure("/recipients/bounced"), 0);
    let told = tuma.says(&["explain", "y@good.test"]);
    assert!(told.contains("DNSSEC vouches for its exchangers"), "{told}");
}

// ---- REQUIRETLS ---------------------------------------------------------------------------------------------

/// Sends a message to each recipient by STARTTLS, under REQUIRETLS.
const UNDER_REQUIRETLS: &str = r#"
import smtplib, ssl, sys
tls = ssl.create_default_context()
tls.check_hostname = False
tls.verify_mode = ssl.CERT_NONE
smtp = smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=60)
smtp.starttls(context=tls)
smtp.ehlo()
assert smtp.has_extn("requiretls")
for to in sys.argv[2:]:
    assert smtp.mail("a@from.test", ["REQUIRETLS"])[0] == 250
    assert smtp.rcpt(to)[0] == 250
    assert smtp.data(b"Subject: x\r\nTLS-Required: No\r\n\r\nsecret\r\n")[0] == 250
smtp.quit()
"#;

#[test]
fn mail_under_requiretls_only_goes_to_servers_that_are_vouched_for_and_know_it() {
    if !has_python() {
        return;
    }
    let (folder, dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    let authority = Authority::new("authority.test");
    let web = policy_hosts(&authority, &["good.test", "unable.test"]);
    domains(&dns, &[("good", 2), ("unable", 3), ("unnamed", 4), ("stranger", 5), ("clear", 6)]);
    for domain in ["good.test", "unable.test"] {
        with_policy(&dns, &web, domain, &policy("enforce", &format!("mx.{domain}"), 86_400));
    }
    let offering = |tls| Options { tls: Some(tls), requiretls: true, ..keeping() };
    let good = exchanger(2, port, offering(authority.server("mx.good.test")));
    let others = [
        exchanger(3, port, Options { requiretls: false, ..offering(authority.server("mx.unable.test")) }),
        exchanger(4, port, offering(authority.server("mx.unnamed.test"))),
        exchanger(5, port, offering(bench::tls::self_signed(&["mx.stranger.test"]).unwrap())),
        exchanger(6, port, keeping()),
    ];
    let more = sts_settings(&authority, folder.path(), &web)
        + "[listener.smtp]\ntls = \"starttls\"\n[server]\nself_signed = true\n[dsn]\nenabled = true\n\
           [route.\"from.test\"]\nnext_hop = \"127.0.0.6\"\n";
    let more = more.replace("127.0.0.6\"", &format!("127.0.0.6:{port}\""));
    let tuma = Setup::direct(folder.path(), &dns, port, &more).start();
    let names = ["good", "unable", "unnamed", "stranger", "clear"];
    let recipients: Vec<String> = names.iter().map(|name| format!("x@{name}.test")).collect();
    let port = tuma.smtp().port().to_string();
    let arguments: Vec<&str> =
        std::iter::once(port.as_str()).chain(recipients.iter().map(String::as_str)).collect();
    python(UNDER_REQUIRETLS, &arguments);
    record_of(folder.path(), "delivered", "x@good.test");
    for (name, text) in [
        ("unable", "does not support REQUIRETLS"),
        ("unnamed", "neither DNSSEC nor MTA-STS vouches for"),
        ("stranger", "certificate is not verified"),
        ("clear", "does not support REQUIRETLS"),
    ] {
        let record = record_of(folder.path(), "bounced", &format!("x@{name}.test"));
        assert_eq!((&record["code"], &record["status"]), (&550.into(), &"5.7.30".into()), "{record}");
        assert!(record["reply"].as_str().unwrap().contains(text), "{record}");
    }
    let taken = good.messages();
    assert!(taken[0].secure && taken[0].parameters.contains("REQUIRETLS"), "{:?}", taken[0].parameters);
    tuma.wait_until_settled();
    // Not an octet of the content went anywhere else, in notifications neither: those are under REQUIRETLS too, and
    // their next hop knows nothing of it.
    let elsewhere: Vec<_> = others.iter().flat_map(SinkHandle::messages).map(|m| m.content).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

#[test]
fn mail_that_says_it_needs_no_tls_goes_where_the_domains_policy_keeps_other_mail() {
    let (folder, dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    let authority = Authority::new("authority.test");
    let web = policy_hosts(&authority, &["strict.test"]);
    domains(&dns, &[("strict", 2)]);
    with_policy(&dns, &web, "strict.test", &policy("enforce", "mx.strict.test", 86_400));
    let sink = exchanger(2, port, keeping());
    let settings = sts_settings(&authority, folder.path(), &web);
    let tuma = Setup::direct(folder.path(), &dns, port, &settings).start();
    let mut session = tuma.greeted();
    for n in 0..4 {
        session.taken("a@from.test", "x@strict.test", &format!("X-N: {n}\r\n"));
    }
    session.taken("a@from.test", "y@strict.test", "TLS-Required: No\r\n");
    session.taken("a@from.test", "z@strict.test", "TLS-Required: Yes\r\n");
    let record = record_of(folder.path(), "delivered", "y@strict.test");
    assert_eq!(record["tls"], Value::Null, "{record}");
    record_of(folder.path(), "deferred", "z@strict.test");
    let recipients: Vec<String> = sink.messages().iter().map(|m| m.recipients[0].address.clone()).collect();
    assert_eq!((recipients, tuma.figure("/recipients/queued")), (vec!["y@strict.test".to_owned()], 5));
}

// ---- certificates of our own --------------------------------------------------------------------------------

/// Says which name the certificate has that is shown to who asks for a name.
const SHOWN: &str = r#"
import smtplib, ssl, sys
tls = ssl.create_default_context(cafile=sys.argv[2])
smtp = smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=60)
smtp._host = sys.argv[3]
try:
    smtp.starttls(context=tls)
    print(",".join(name for kind, name in smtp.sock.getpeercert()["subjectAltName"]))
except ssl.SSLCertVerificationError as error:
    print(error.verify_message)
"#;

#[test]
fn certificates_are_chosen_by_name_taken_when_they_change_and_told_of_before_they_end() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let authority = Authority::new("authority.test");
    let ca = authority.file(folder.path());
    let soon = |params: &mut rcgen::CertificateParams| {
        params.not_after = (std::time::SystemTime::now() + Duration::from_secs(5 * 86_400)).into();
    };
    authority.certify(&["zeta.test"], |_| {}).files(folder.path(), "default");
    authority.certify(&["alpha.test"], soon).files(folder.path(), "alpha");
    let more = "[listener.smtp]\ntls = \"starttls\"\n[server]\ncertificates_check_every = \"1s\"\n\
                [notify]\nmail = [\"ops@d.test\"]\nmail_wait = \"1s\"\n\
                [tls.default]\ncertificate = \"default.pem\"\nkey = \"default.key\"\n\
                [tls.alpha]\ncertificate = \"alpha.pem\"\nkey = \"alpha.key\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let port = tuma.smtp().port().to_string();
    let shown = |name: &str| python(SHOWN, &[&port, ca.to_str().unwrap(), name]).trim().to_owned();
    assert_eq!(shown("alpha.test"), "alpha.test");
    assert_eq!(shown("zeta.test"), "zeta.test");
    let refused = shown("beta.test");
    assert!(refused.contains("not valid for 'beta.test'"), "the default is shown: {refused}");
    // People hear of the one that ends in five days, and not of the other.
    let told =
        |text: &str| sink.messages().iter().any(|m| String::from_utf8_lossy(&m.content).contains(text));
    wait_until("people are told", || told("alpha.pem expires in 4 days"));
    assert!(!told("default.pem"));
    let left = tuma.metric("tuma_certificate_expiry_seconds{file=\"alpha.pem\"}");
    assert!((4.0 * 86_400.0..5.0 * 86_400.0).contains(&left), "{left}");

    // A session that is open goes on; new ones see the new certificate.
    let mut open = tuma.greeted();
    authority.certify(&["beta.test", "alpha.test"], |_| {}).files(folder.path(), "alpha");
    wait_until("it is taken", || shown("beta.test") == "beta.test,alpha.test");
    open.taken("a@b.test", "c@d.test", "");
    // A pair that does not belong together changes nothing, and is said with the file.
    std::fs::write(
        folder.path().join("alpha.key"),
        authority.certify(&["x.test"], |_| {}).key.serialize_pem(),
    )
    .unwrap();
    wait_until("it is said", || {
        let log = tuma.log();
        log.contains("changed certificates are not taken")
            && log.contains("alpha.key: does not belong to the certificate")
    });
    assert_eq!(shown("beta.test"), "beta.test,alpha.test");
    wait_until("people are told", || told("the old ones stay"));
}

// ---- TLS-RPT ------------------------------------------------------------------------------------------------

/// Reads a report as a receiver would: the mail or the posted octets, the gzip, the JSON, and what RFC 8460 §4.4 wants
/// of each field. Prints the JSON.
const READ_REPORT: &str = r#"
import sys, gzip, json, email, email.policy, datetime, ipaddress
data = open(sys.argv[1], "rb").read()
if sys.argv[2] == "mail":
    mail = email.message_from_bytes(data, policy=email.policy.default)
    assert mail.get_content_type() == "multipart/report" and mail["Content-Type"].params["report-type"] == "tlsrpt"
    assert mail["TLS-Report-Domain"] == sys.argv[3] and mail["TLS-Report-Submitter"] == "tuma.test"
    assert mail["TLS-Required"] == "No" and mail["From"] == "reports@tuma.test", mail["From"]
    assert mail["Subject"].startswith(f"Report Domain: {sys.argv[3]} Submitter: tuma.test Report-ID: <")
    text, report = mail.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert report.get_content_type() == "application/tlsrpt+gzip"
    name = report.get_filename()
    assert name.startswith(f"tuma.test!{sys.argv[3]}!") and name.endswith(".json.gz"), name
    data = report.get_content()
report = json.loads(gzip.decompress(data))
assert set(report) == {"organization-name", "date-range", "contact-info", "report-id", "policies"}
begin, end = (datetime.datetime.fromisoformat(report["date-range"][key]) for key in ("start-datetime", "end-datetime"))
assert end - begin == datetime.timedelta(days=1) - datetime.timedelta(seconds=1) and begin.hour == begin.minute == 0
RESULTS = {"starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted",
    "validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required", "sts-policy-fetch-error",
    "sts-policy-invalid", "sts-webpki-invalid"}
for entry in report["policies"]:
    policy, summary, details = entry["policy"], entry["summary"], entry["failure-details"]
    assert policy["policy-type"] in {"sts", "tlsa", "no-policy-found"} and policy["policy-domain"] == sys.argv[3]
    assert all(isinstance(text, str) for text in policy.get("policy-string", []) + policy.get("mx-host", []))
    assert isinstance(summary["total-successful-session-count"], int)
    assert sum(d["failed-session-count"] for d in details) == summary["total-failure-session-count"]
    for d in details:
        assert d["result-type"] in RESULTS
        ipaddress.ip_address(d["sending-mta-ip"]), ipaddress.ip_address(d["receiving-ip"])
print(json.dumps(report))
"#;

#[test]
fn receivers_are_told_once_a_day_how_tls_went() {
    if !has_python() {
        return;
    }
    let (folder, dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    let authority = Authority::new("authority.test");
    let hosts = ["mta-sts.good.test", "mta-sts.bad.test", "reports.good.test"];
    let web = WebServer::start(authority.certify(&hosts, |_| {}).server());
    domains(&dns, &[("good", 2), ("bad", 3), ("silent", 3)]);
    with_policy(&dns, &web, "good.test", &policy("enforce", "mx.good.test", 86_400));
    with_policy(&dns, &web, "bad.test", &policy("enforce", "mx.bad.test", 86_400));
    let url = format!("https://reports.good.test:{}/tls?v=1", web.at.port());
    dns.txt("_smtp._tls.good.test", &format!("v=TLSRPTv1; rua={url}"));
    dns.txt("_smtp._tls.bad.test", "v=TLSRPTv1; rua=https://nowhere.bad.test/x,mailto:tls@bad.test");
    dns.a("reports.good.test", [127, 0, 0, 1]);
    web.answer("reports.good.test", "201 Created\r\nContent-Length: 0\r\n\r\n");
    let _good =
        exchanger(2, port, Options { tls: Some(authority.server("mx.good.test")), ..Options::default() });
    let bad = exchanger(3, port, keeping());
    let more = sts_settings(&authority, folder.path(), &web)
        + "[tls_reports]\nenabled = true\norganization = \"Tuma Test\"\ncontact = \"mailto:tls@tuma.test\"\n\
           from = \"reports@tuma.test\"\nspread = \"0s\"\n";
    let setup = Setup::direct(folder.path(), &dns, port, &more);
    let tuma = setup.start();
    for domain in ["good.test", "bad.test", "silent.test"] {
        send(&tuma, &format!("x@{domain}"), 1);
    }
    record_of(folder.path(), "delivered", "x@good.test");
    record_of(folder.path(), "delivered", "x@silent.test");
    record_of(folder.path(), "deferred", "x@bad.test");
    tuma.stop();
    // The day passes.
    let file = folder.path().join("state/tls-reports.json");
    let mut book: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    for day in book["days"].as_array_mut().unwrap() {
        day["day"] = Value::from(day["day"].as_u64().unwrap() - 1);
    }
    std::fs::write(&file, book.to_string()).unwrap();
    let tuma = setup.start();
    wait_until("the reports are sent", || {
        let (_, text) = tuma.http("GET", "/metrics", "");
        let has = |fate: &str| text.contains(&format!("tuma_tls_reports_total{{fate=\"{fate}\"}} 1"));
        has("mailed") && has("posted") && has("unwanted")
    });
    record_of(folder.path(), "delivered", "tls@bad.test");
    let read = |name: &str, octets: &[u8], how: &str, domain: &str| -> Value {
        let file = folder.path().join(name);
        std::fs::write(&file, octets).unwrap();
        serde_json::from_str(&python(READ_REPORT, &[file.to_str().unwrap(), how, domain])).unwrap()
    };
    let posted = web.asked().into_iter().find(|asked| asked.host == "reports.good.test").expect("a post");
    assert_eq!(
        (posted.line.as_str(), posted.head["content-type"].as_str()),
        ("POST /tls?v=1", "application/tlsrpt+gzip")
    );
    let report = read("posted", &posted.body, "post", "good.test");
    let policy = &report["policies"][0];
    assert_eq!(
        (&policy["policy"]["policy-type"], &policy["policy"]["mx-host"][0]),
        (&"sts".into(), &"mx.good.test".into())
    );
    assert!(policy["summary"]["total-successful-session-count"].as_u64() > Some(0), "{report}");
    let mails = bad.messages();
    let mail = mails.iter().find(|m| m.recipients[0].address == "tls@bad.test").expect("the report");
    assert!(!mail.secure && mail.reverse_path.is_empty());
    let report = read("mailed", &mail.content, "mail", "bad.test");
    let failure = &report["policies"][0]["failure-details"][0];
    assert_eq!(
        (&failure["result-type"], &failure["receiving-mx-hostname"], &failure["receiving-ip"]),
        (&"starttls-not-supported".into(), &"mx.bad.test".into(), &"127.0.0.3".into())
    );
    // Told once: another start sends nothing again.
    tuma.stop();
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(!kept.contains("good.test") && !kept.contains("silent.test"), "{kept}");
}
