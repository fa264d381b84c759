//! Transport security towards other sites: what the operator and the receiving domains ask for, and what an attacker
//! on the way tries.

use crate::harness::authority::{Authority, over};
use crate::harness::dns::NameServer;
use crate::harness::{Setup, fixed_address, records, rules, send, sink, wait_until};
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
    let sink = exchanger(2, port, Options { ..crate::harness::keeping() });
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
