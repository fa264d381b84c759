//! Transport security towards other sites: what the operator and the receiving domains ask for, and what an attacker
//! on the way tries.

use crate::harness::authority::{Authority, over};
use crate::harness::dns::NameServer;
use crate::harness::web::{Asked, WebServer};
use crate::harness::{Setup, fixed_address, keeping, records, rules, send, sink, wait_until};
use bench::sink::{Options, SinkHandle};
use serde_json::Value;
use std::path::Path;

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
