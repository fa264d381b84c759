//! Next hops by DNS: a real name server, real sockets, domains that share exchangers, and all that can be wrong.

use crate::harness::dns::NameServer;
use crate::harness::{Setup, fixed_address, records, rules, send, sink, wait_until};
use bench::sink::{Options, SinkHandle};
use std::collections::BTreeSet;

/// A sink at an exchanger's address; all exchangers listen at one port.
fn exchanger(last: u8, port: u16, options: Options) -> SinkHandle {
    sink(Options { listen: ([127, 0, 0, last], port).into(), ..options })
}

/// A rule that makes deliveries take a while, so that connections must be used side by side.
fn slowly() -> Options {
    Options { rules: rules(&["dot:stall=20ms"]), ..Options::default() }
}

#[test]
fn domains_with_the_same_exchangers_are_one_site_unless_they_say_no() {
    let (folder, dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    for host in ["mx1.host.test", "mx2.host.test"] {
        dns.a(host, [127, 0, 0, 2]);
    }
    for domain in ["a.test", "b.test", "c.test", "alone.test"] {
        dns.mx(domain, &[(10, "mx1.host.test"), (10, "mx2.host.test"), (20, "backup.host.test")]);
    }
    let sink = exchanger(2, port, slowly());
    let more = "[shaping.default]\nconnections = 2\nmessages_per_connection = 0\n\
                [shaping.domain.\"alone.test\"]\nrollup = false\nconnections = 1\n";
    let tuma = Setup::direct(folder.path(), &dns, port, more).start();
    for _ in 0..5 {
        for domain in ["a.test", "b.test", "c.test"] {
            send(&tuma, &format!("x@{domain}"), 10);
        }
    }
    wait_until("all of the site is through", || sink.stats().messages == 150);
    let stats = sink.stats();
    // Two connections for three domains, used again and again; one that idles may be opened anew.
    assert!(stats.open_max <= 2 && stats.connections <= 6, "{stats}");
    send(&tuma, "x@a.test", 50);
    send(&tuma, "x@alone.test", 50);
    wait_until("both sites are through", || sink.stats().messages == 250);
    assert!(sink.stats().open_max <= 3, "{}", sink.stats());
    tuma.wait_until_settled();
    tuma.stop();
    let site = |domain: &str| -> BTreeSet<String> {
        let of = |record: &serde_json::Value| record["recipient"] == format!("x@{domain}");
        let all = records(folder.path(), "delivered", 250).into_iter().filter(of);
        all.map(|record| record["site"].as_str().expect("a site").to_owned()).collect()
    };
    assert_eq!(site("a.test").len(), 1);
    assert_eq!((site("a.test"), site("a.test")), (site("b.test"), site("c.test")));
}

#[test]
fn a_provider_is_known_by_its_exchangers_and_its_domains() {
    let (folder, dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    for host in ["aspmx.l.google.com", "alt1.aspmx.l.google.com", "gmail-smtp-in.l.google.com"] {
        dns.a(host, [127, 0, 0, 2]);
    }
    dns.mx("gmail.com", &[(5, "gmail-smtp-in.l.google.com")]);
    dns.mx("company.test", &[(1, "aspmx.l.google.com"), (5, "alt1.aspmx.l.google.com")]);
    // Only a backup there is no provider's domain.
    dns.mx("other.test", &[(1, "mx.other.test"), (5, "aspmx.l.google.com")]);
    dns.a("mx.other.test", [127, 0, 0, 3]);
    let (google, other) = (exchanger(2, port, slowly()), exchanger(3, port, slowly()));
    let more = "[shaping.provider.gmail]\nconnections = 2\n[stats]\nenabled = true\n";
    let tuma = Setup::direct(folder.path(), &dns, port, more).start();
    for (domain, count) in [("gmail.com", 30), ("company.test", 30), ("other.test", 30)] {
        send(&tuma, &format!("x@{domain}"), count);
    }
    tuma.wait_until_settled();
    assert_eq!([&google, &other].map(|sink| sink.stats().messages), [60, 30]);
    // The provider is one site: its connections are counted together, whichever exchangers they lead to.
    assert!(google.stats().open_max <= 2, "{}", google.stats());
    // Records and counters say which it was.
    let counted = tuma.says(&["stats", "--by", "provider", "--total", "--provider", "gmail"]);
    assert_eq!(counted.lines().last().unwrap().split_whitespace().collect::<Vec<_>>(), ["gmail", "60"]);
    tuma.stop();
    let delivered = records(folder.path(), "delivered", 90);
    for record in delivered {
        let is_gmail = record["site"] == "gmail";
        assert_eq!(is_gmail, record["recipient"] != "x@other.test", "{record}");
        assert_eq!(is_gmail, record["provider"] == "gmail", "{record}");
    }
}

#[test]
fn what_dns_says_for_good_bounces_and_what_it_cannot_say_waits() {
    let (folder, dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    dns.mx("null.test", &[(0, ".")]);
    dns.servfail("broken.test");
    dns.mx_for("half.test", &[(10, "mx.half.test")], 1);
    dns.servfail("mx.half.test");
    // Each alias of a loop leads to the next.
    dns.cname("loop.test", "loop2.test");
    dns.cname("loop2.test", "loop.test");
    dns.cname("alias.test", "real.test");
    dns.mx("real.test", &[(10, "mx.real.test")]);
    dns.a("mx.real.test", [127, 0, 0, 2]);
    // RFC 5321 §5.1: without MX, the address is the exchanger.
    dns.a("plain.test", [127, 0, 0, 2]);
    let sink = exchanger(2, port, Options::default());
    let tuma = Setup::direct(folder.path(), &dns, port, "").start();
    for domain in
        ["null.test", "gone.test", "broken.test", "half.test", "loop.test", "alias.test", "plain.test"]
    {
        send(&tuma, &format!("x@{domain}"), 1);
    }
    wait_until("what can be decided is", || {
        (tuma.figure("/recipients/bounced"), tuma.figure("/recipients/delivered")) == (3, 2)
    });
    let status = |domain: &str| {
        let bounced = records(folder.path(), "bounced", 3);
        let of = |record: &&serde_json::Value| record["recipient"] == format!("x@{domain}");
        bounced.iter().find(of).map(|record| record["status"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(status("null.test").as_deref(), Some("5.1.10"), "RFC 7505 §4.1");
    assert_eq!(status("gone.test").as_deref(), Some("5.1.2"), "NXDOMAIN");
    // A loop has no end that mail could go to.
    assert_eq!(status("loop.test").as_deref(), Some("5.4.4"));
    // The others wait, and the name server is asked now and then.
    let asked = dns.asked("broken.test");
    wait_until("it is asked again", || dns.asked("broken.test") > asked + 2);
    assert_eq!((tuma.figure("/recipients/queued"), tuma.figure("/recipients/bounced")), (2, 3));
    dns.mx("broken.test", &[(10, "mx.real.test")]);
    dns.mx("half.test", &[(10, "mx.half.test"), (20, "mx.real.test")]);
    tuma.wait_until_settled();
    assert_eq!((sink.stats().messages, tuma.figure("/recipients/delivered")), (4, 4));
}

#[test]
fn a_dead_exchanger_of_three_costs_no_mail() {
    let (folder, dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    for (host, last) in [("mx1.many.test", 2), ("mx2.many.test", 3), ("mx3.many.test", 4)] {
        dns.a(host, [127, 0, 0, last]);
    }
    dns.mx("many.test", &[(10, "mx1.many.test"), (10, "mx2.many.test"), (10, "mx3.many.test")]);
    let alive = [exchanger(2, port, slowly()), exchanger(4, port, slowly())];
    let more = "[shaping.default]\nconnections = 8\nmessages_per_connection = 2\n";
    let tuma = Setup::direct(folder.path(), &dns, port, more).start();
    send(&tuma, "x@many.test", 100);
    tuma.wait_until_settled();
    let counts = alive.each_ref().map(|sink| sink.stats().messages);
    assert_eq!(counts[0] + counts[1], 100);
    assert!(counts.iter().all(|count| *count >= 20), "ties are spread: {counts:?}");
    assert_eq!((tuma.figure("/recipients/deferred"), tuma.figure("/recipients/bounced")), (0, 0));
}

#[test]
fn floods_of_records_and_odd_times_to_live_do_no_harm() {
    let (folder, dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    dns.a("m.t", [127, 0, 0, 2]);
    // As many as one answer by TCP can hold.
    let many: Vec<(u16, &str)> = (0..2_000).map(|n| (n, "m.t")).collect();
    dns.mx("flood.test", &many);
    dns.mx_for("zero.test", &[(10, "mx.zero.test")], 0);
    dns.a_for("mx.zero.test", [127, 0, 0, 2], 0);
    // RFC 2181 §8: a TTL with the top bit set is none.
    dns.mx_for("ages.test", &[(10, "mx.ages.test")], 1 << 31);
    dns.a_for("mx.ages.test", [127, 0, 0, 2], u32::MAX);
    let sink = exchanger(2, port, Options::default());
    let tuma =
        Setup::direct(folder.path(), &dns, port, "[dns]\nttl_min = \"1h\"\nttl_max = \"2h\"\n").start();
    for domain in ["flood.test", "zero.test", "ages.test"] {
        send(&tuma, &format!("x@{domain}"), 100);
    }
    tuma.wait_until_settled();
    assert_eq!((sink.stats().messages, tuma.figure("/recipients/delivered")), (300, 300));
    // A TTL of nothing is no question for every message.
    assert!(dns.asked("zero.test") <= 4, "asked {} times", dns.asked("zero.test"));
    assert!(dns.asked_in_all() <= 30, "asked {} times in all", dns.asked_in_all());
}

/// Attack 89.
#[test]
fn a_name_server_away_and_back_bounces_nothing_and_starts_no_stampede() {
    let (folder, mut dns, port) = (tempfile::tempdir().unwrap(), NameServer::start(), fixed_address().port());
    dns.a("mx.host.test", [127, 0, 0, 2]);
    for n in 0..40 {
        let (domain, host) = (format!("d{n}.test"), format!("mx{n}.host.test"));
        dns.mx(&domain, &[(10, &host)]);
        dns.a(&host, [127, 0, 0, 2]);
    }
    let sink = exchanger(2, port, Options::default());
    dns.go_away();
    let more = "[dns]\nquery_timeout = \"200ms\"\n[delivery]\nresolving_max = 8\nconnections_total_max = 10\nidle_timeout = \"200ms\"\n";
    let setup = Setup::direct(folder.path(), &dns, port, more);
    let tuma = setup.start();
    for n in 0..40 {
        send(&tuma, &format!("x@d{n}.test"), 5);
    }
    let asked = tuma.metric("tuma_recipients_bounced_total");
    assert_eq!(asked, 0.0);
    wait_until("DNS was tried", || {
        tuma.ask(&["status"]).status.success() && tuma.figure("/recipients/queued") == 200
    });
    // A restart without DNS changes nothing.
    tuma.stop();
    let tuma = setup.start();
    wait_until("the queue is whole again", || tuma.figure("/recipients/queued") == 200);
    dns.come_back();
    tuma.wait_until_settled();
    let stats = sink.stats();
    assert_eq!((stats.messages, tuma.figure("/recipients/delivered")), (200, 200));
    assert_eq!((tuma.figure("/recipients/bounced"), tuma.figure("/recipients/expired")), (0, 0));
    assert!(stats.open_max <= 10, "{stats}");
    // Each domain was asked for once, and each exchanger: not once for each message.
    assert!(dns.asked_in_all() <= 200, "asked {} times", dns.asked_in_all());
}
