//! Egress sources and pools: the address a next hop sees, weights, rerouting, and sources taken out of use.

use crate::harness::{Setup, keeping, rules, sink, wait_until};
use bench::sink::{Options, SinkHandle};
use serde_json::Value;
use std::net::IpAddr;

/// Three addresses of this machine, two of them in a pool.
const MORE: &str = "[listener.smtp]\ntag_headers = true\n[delivery]\ndefault_pool = \"one\"\n\
    [source.one]\nv4 = \"127.0.0.11\"\nehlo_name = \"one.test\"\n\
    [source.two]\nv4 = \"127.0.0.12\"\nehlo_name = \"two.test\"\n\
    [source.three]\nv4 = \"127.0.0.13\"\n\
    [pool.both]\nsources = { one = 3, two = 1 }\n";

/// How many came from an address.
fn from(sink: &SinkHandle, address: &str) -> usize {
    let address: IpAddr = address.parse().unwrap();
    sink.messages().iter().filter(|message| message.peer.ip() == address).count()
}

#[test]
fn mail_leaves_by_the_pool_it_names_and_by_another_when_rerouted() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay_with(folder.path(), sink.addr(), MORE).start();
    let mut client = tuma.greeted();
    client.taken("x@x.test", "a@d.test", "");
    client.taken("x@x.test", "b@d.test", "X-Virtual-MTA: three\r\n");
    wait_until("both have arrived", || sink.stats().messages == 2);
    assert_eq!((from(&sink, "127.0.0.11"), from(&sink, "127.0.0.13")), (1, 1));
    assert!(sink.messages().iter().any(|message| message.helo == "one.test"));
    tuma.says(&["order", "reroute", "two", "--tenant", "acme", "--reason", "the address is warm"]);
    let dry = tuma.says(&["explain", "new@d.test", "--tenant", "acme"]);
    assert!(dry.contains("sources: two"), "{dry}");
    for n in 0..5 {
        client.taken("x@x.test", &format!("r{n}@d.test"), "X-Tenant: acme\r\n");
        client.taken("x@x.test", &format!("s{n}@d.test"), "");
    }
    tuma.wait_until_settled();
    assert_eq!((from(&sink, "127.0.0.11"), from(&sink, "127.0.0.12")), (6, 5));
    let rerouted = sink.messages().into_iter().filter(|m| m.helo == "two.test");
    assert!(rerouted.into_iter().all(|m| m.recipients[0].address.starts_with('r')));
    tuma.says(&["order", "cancel", "1"]);
    client.taken("x@x.test", "after@d.test", "X-Tenant: acme\r\n");
    tuma.wait_until_settled();
    assert_eq!(from(&sink, "127.0.0.11"), 7);
}

#[test]
fn notifications_leave_by_their_own_pool() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["rcpt:domain=gone.test:550 5.1.1 no such user"]), ..keeping() });
    // The harness's relay tells nobody; this one does, and by an address of its own.
    let more = MORE.to_owned() + "[dsn]\nenabled = true\npool = \"three\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    tuma.greeted().taken("x@x.test", "a@gone.test", "X-Tenant: acme\r\n");
    wait_until("the sender is told", || sink.stats().messages == 1);
    tuma.wait_until_settled();
    let told = sink.messages().remove(0);
    assert_eq!((&*told.recipients[0].address, &*told.reverse_path), ("x@x.test", ""));
    assert_eq!(told.peer.ip(), "127.0.0.13".parse::<IpAddr>().unwrap());
}

#[test]
fn a_pool_s_weights_share_its_mail() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay_with(folder.path(), sink.addr(), MORE).start();
    let mut client = tuma.greeted();
    // One at a time, so that the one whose turn it is always can; one that cannot leaves its turn to others.
    for n in 1..=40 {
        client.taken("x@x.test", &format!("n{n}@d.test"), "X-Virtual-MTA: both\r\n");
        wait_until("it has arrived", || sink.stats().messages == n);
    }
    assert_eq!((from(&sink, "127.0.0.11"), from(&sink, "127.0.0.12")), (30, 10));
}

#[test]
fn a_source_taken_out_of_use_by_command_leaves_its_mail_to_the_others_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let setup = Setup::relay_with(folder.path(), sink.addr(), MORE);
    let tuma = setup.start();
    let said = tuma.says(&["source", "disable", "one", "--for", "1h", "--reason", "listed somewhere"]);
    assert_eq!(said, "the source one is disabled for 1h\n");
    let mut client = tuma.greeted();
    for n in 0..8 {
        client.taken("x@x.test", &format!("n{n}@d.test"), "X-Virtual-MTA: both\r\n");
    }
    tuma.wait_until_settled();
    assert_eq!((from(&sink, "127.0.0.11"), from(&sink, "127.0.0.12")), (0, 8));
    // Mail of a pool of that source alone waits, and says for what.
    client.taken("x@x.test", "alone@d.test", "");
    let mut text = String::new();
    wait_until("it is held", || {
        text = tuma.says(&["explain", "alone@d.test"]);
        text.contains("✗ source")
    });
    assert!(text.contains("to change it: tuma source enable one"), "{text}");
    tuma.stop();
    let tuma = setup.start();
    wait_until("the spool is read", || tuma.figure("/recipients/queued") == 1);
    let list = tuma.says(&["source", "ls"]);
    assert!(list.contains("127.0.0.11") && list.contains("by an operator: listed somewhere"), "{list}");
    assert_eq!(sink.stats().messages, 8);
    assert_eq!(tuma.says(&["source", "enable", "one"]), "the source one is in use again\n");
    wait_until("it has gone", || from(&sink, "127.0.0.11") == 1);
    assert_eq!(tuma.says(&["source", "enable", "one"]), "the source one was not disabled\n");
}

#[test]
fn a_source_that_a_rule_disables_is_named_with_the_rule_and_the_reply() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["mail:first=1:421 4.7.97 blocked for now"]), ..keeping() });
    let more = MORE.to_owned()
        + "[retry]\nwaits = [\"200ms\"]\n\
           [[shaping.default.reply]]\nname = \"blocked\"\nmatch = 'blocked for now'\ndo = [\"disable source 6h\"]\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    let mut client = tuma.greeted();
    // Three to one: the first goes by the first source.
    client.taken("x@x.test", "first@d.test", "X-Virtual-MTA: both\r\n");
    wait_until("it was refused and has arrived by another", || sink.stats().messages == 1);
    let list = tuma.says_json(&["source", "ls"]);
    let disabled: Vec<&Value> =
        list.as_array().unwrap().iter().filter(|source| source["enabled"] == false).collect();
    assert_eq!(disabled.len(), 1, "{list}");
    let by = disabled[0]["disabled_by"].as_str().unwrap();
    assert!(by.contains("blocked (") && by.contains("421 4.7.97 blocked for now"), "{by}");
    for n in 0..4 {
        client.taken("x@x.test", &format!("n{n}@d.test"), "X-Virtual-MTA: both\r\n");
    }
    tuma.wait_until_settled();
    let stopped = disabled[0]["v4"].as_str().unwrap();
    assert_eq!((from(&sink, stopped), sink.stats().messages), (0, 5));
    let limits = tuma.says(&["limit", "ls"]);
    assert!(limits.contains("disabled") && limits.contains("to end it: tuma source enable"), "{limits}");
}
