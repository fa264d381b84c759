//! Very many messages of one, and very many destinations: attacks 44 and 45, at a scale that a test has time for.

use crate::harness::dns::NameServer;
use crate::harness::{Setup, Tuma, fixed_address, keeping, sink, wait_until};

/// Sends one message to every address, a hundred to a transaction.
fn send_to_all(tuma: &Tuma, from: &str, addresses: &[String]) {
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    for some in addresses.chunks(100) {
        let to: Vec<&str> = some.iter().map(String::as_str).collect();
        let reply = session.message(from, &to, "Subject: x\r\n\r\nx");
        assert!(reply.starts_with("250"), "{reply}");
    }
}

#[test]
fn one_message_does_not_wait_behind_another_tenants_thousands() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = "[shaping.default]\nconnections = 1\nmessage_rates = [\"4/s\"]\n\
                [[assign]]\nsenders = [\"*@big.test\"]\ntenant = \"big\"\n\
                [[assign]]\nsenders = [\"*@small.test\"]\ntenant = \"small\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    for _ in 0..2_000 {
        session.message("news@big.test", &["x@d.test"], "Subject: news\r\n\r\nx");
    }
    wait_until("the limit holds the rest", || tuma.figure("/recipients/queued") > 1_900);
    session.message("reset@small.test", &["x@d.test"], "Subject: reset\r\n\r\nx");
    let before = sink.stats().messages as usize;
    let place = || sink.messages().iter().position(|m| m.reverse_path == "reset@small.test");
    wait_until("it has come", || place().is_some());
    // Its turn is the next: ahead of it are at most those that the connection and this second's leave had already.
    let ahead = place().expect("it has come").saturating_sub(before);
    assert!(ahead <= 8, "{ahead} of the others went first");
    assert!(tuma.figure("/recipients/queued") > 1_900);
}

/// Resident memory in octets.
fn resident(tuma: &Tuma) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", tuma.pid())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[test]
fn a_destination_costs_little_and_is_forgotten_when_its_mail_is_gone() {
    const DOMAINS: usize = 6_000;
    let (folder, dns) = (tempfile::tempdir().unwrap(), NameServer::start());
    // Every name below has an exchanger that cannot be looked up, until there is none.
    dns.servfail("*.snow.test");
    let more = "[retry]\nwaits = [\"1h\"]\n[dns]\ncache_max = \"64KiB\"\nroutes_max = \"64KiB\"\n[delivery]\nresolve_again_min = \"1h\"\nresolve_again_max = \"1h\"\n\
                [accounting.file.records]\nrecords = [\"bounced\"]\n";
    let tuma = Setup::direct(folder.path(), &dns, fixed_address().port(), more).start();
    let address = |n: usize| format!("x@d{n}.snow.test");
    // As many go first that are not counted: what a crowd takes for a moment, and what is allocated once, is there then.
    send_to_all(&tuma, "a@from.test", &(0..DOMAINS).map(address).collect::<Vec<_>>());
    wait_until("they wait", || tuma.figure("/recipients/deferred") == DOMAINS as i64);
    let before = resident(&tuma);
    send_to_all(&tuma, "a@from.test", &(DOMAINS..2 * DOMAINS).map(address).collect::<Vec<_>>());
    wait_until("they wait", || tuma.figure("/recipients/deferred") == 2 * DOMAINS as i64);
    let each = resident(&tuma).saturating_sub(before) / DOMAINS as u64;
    println!("{each} octets for each destination with a recipient");
    let held = |tuma: &Tuma| ["tuma_queues", "tuma_targets"].map(|name| tuma.metric(name) as usize);
    assert_eq!(held(&tuma), [2 * DOMAINS; 2]);
    // Queue, target, site, entry and the place in the spool. The system counts in pages, and what the first took for a
    // moment serves the second; other tests take their turns in between: this finds many kilobytes, not octets.
    assert!(each <= 8_192, "{each} octets for each destination");
    dns.forget("*.snow.test");
    let output = tuma.ask(&["queue", "flush"]);
    assert!(output.status.success(), "{output:?}");
    for part in 1..=4 {
        let refused = (DOMAINS * part / 2) as i64;
        wait_until("more are refused", || tuma.figure("/recipients/bounced") >= refused);
    }
    tuma.wait_until_settled();
    // Their domains are remembered as taking no mail for a minute; the queues go at once.
    wait_until("no queue is left", || held(&tuma)[0] == 0);
}
