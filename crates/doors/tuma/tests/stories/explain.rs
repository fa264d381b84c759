//! "Why is this message not moving?": each gate answers with what holds, since when, until when, the setting that says
//! so and the one command that changes it.

use crate::harness::{Setup, Tuma, keeping, nobody, rules, sink, wait_until};
use bench::sink::Options;
use serde_json::Value;
use std::path::Path;

/// One next hop for all, one connection to it, and mail tagged by header fields.
const MORE: &str = "[listener.smtp]\ntag_headers = true\n[retry]\nwaits = [\"1h\"]\n";

/// The first answer for what is asked.
fn told(tuma: &Tuma, about: &str) -> Value {
    tuma.says_json(&["explain", about])["answers"][0].clone()
}

/// The first gate of that name that holds, or does not.
fn gate(told: &Value, name: &str, holds: bool) -> Value {
    let gates = told["gates"].as_array().expect("gates");
    let found = gates.iter().find(|gate| gate["gate"] == name && gate["holds"] == holds);
    found.unwrap_or_else(|| panic!("no gate {name}, holds: {holds}, in {told:#}")).clone()
}

/// The file and line of the setting that holds this text.
fn written(folder: &Path, text: &str) -> String {
    let path = folder.join("with.toml");
    let file = std::fs::read_to_string(&path).unwrap();
    let line = 1 + file.lines().position(|line| line.contains(text)).expect("the setting");
    format!("{}:{line}", path.display())
}

#[test]
fn an_address_nothing_is_queued_for_gets_a_dry_run() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = MORE.to_owned()
        + "[source.ip1]\nv4 = \"127.0.0.1\"\n[source.ip2]\nv4 = \"127.0.0.1\"\n\
           [pool.bulk]\nsources = { ip1 = 3, ip2 = 1 }\n\
           [[assign]]\nsenders = [\"*@shop.test\"]\ntenant = \"shop\"\npool = \"bulk\"\n\
           [shaping.site.\"route:*\"]\nmessage_rates = [\"7/m\"]\n\
           [shaping.site.\"route:*\".source.ip2]\nmessage_rates = [\"5/m\"]\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    let text = tuma.says(&["explain", "new@d.test", "--pool", "bulk", "--tenant", "acme"]);
    for part in [
        "nothing is queued for new@d.test",
        "nothing holds it",
        "queue acme@route:*/bulk, site route:*",
        "sources: ip1, ip2",
        &format!("by route:* to {}, TLS off", sink.addr()),
        "✓ order      no order names it",
        &format!("message_rates = [\"7/m\"] ({})", written(folder.path(), "7/m")),
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let one = tuma.says(&["explain", "new@d.test", "--pool", "ip2"]);
    assert!(one.contains("message_rates = [\"5/m\"]"), "{one}");
    assert_eq!(tuma.figure("/queues"), 0, "a question leaves nothing behind");

    tuma.says(&["order", "hold", "--sender", "*@spam.test"]);
    assert!(
        tuma.says(&["explain", "new@d.test", "--sender", "a@spam.test"]).contains("held: order 1 (hold)")
    );
    assert!(tuma.says(&["explain", "new@d.test", "--sender", "a@ham.test"]).contains("nothing holds it"));
    tuma.says(&["source", "disable", "ip2", "--reason", "moved"]);
    let off = tuma.says(&["explain", "new@d.test", "--pool", "ip2"]);
    assert!(off.contains("✗ source") && off.contains("to change it: tuma source enable ip2"), "{off}");

    let ruled = tuma.says(&["explain", "new@d.test", "--sender", "news@shop.test"]);
    assert!(ruled.contains("queue shop@route:*/bulk"), "{ruled}");

    let wrong = |arguments: &[&str]| String::from_utf8_lossy(&tuma.ask(arguments).stderr).into_owned();
    assert!(wrong(&["explain", "new@d.test", "--pool", "bulc"]).contains("did you mean `bulk`?"));
    assert!(wrong(&["explain", "00000000001"]).contains("there is no message"));
}

#[test]
fn greylisted_mail_shows_the_retry_and_the_last_reply_and_delivered_mail_what_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["rcpt:first=1:450 4.2.0 greylisted, come back"]), ..keeping() });
    let tuma = Setup::relay_with(folder.path(), sink.addr(), MORE).start();
    let id = tuma.greeted().taken("x@x.test", "grey@d.test", "");
    wait_until("it is deferred", || tuma.figure("/recipients/deferred") == 1);
    let told = told(&tuma, &id);
    let retry = gate(&told, "retry", true);
    assert!(retry["held_until_seconds"].as_f64().unwrap() > 3_000.0, "{retry}");
    assert_eq!(retry["change"], "tuma queue flush 'route:*/default'");
    assert_eq!(told["recipients"][0], "grey@d.test");
    let reply = gate(&told, "reply", false);
    assert!(reply["text"].as_str().unwrap().contains("450 4.2.0 greylisted, come back"), "{reply}");
    let text = tuma.says(&["explain", "grey@d.test"]);
    assert!(text.contains("it waits for its next attempt; 1 was made"), "{text}");
    assert!(
        text.lines().nth(1).unwrap().contains("it moves in 59m") || text.contains("it moves in 1h"),
        "{text}"
    );
    // The command it names is one that works.
    tuma.says(&["queue", "flush", "route:*/default"]);
    tuma.wait_until_settled();
    let text = tuma.says(&["explain", &id]);
    assert!(text.contains(&format!("nothing of {id} is queued")), "{text}");
    for kind in ["received", "deferred", "delivered"] {
        assert!(text.contains(kind), "{text}");
    }
}

#[test]
fn a_used_up_rate_is_named_with_its_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = MORE.to_owned() + "[shaping.site.\"route:*\"]\nmessage_rates = [\"2/h\"]\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    let mut client = tuma.greeted();
    let ids: Vec<String> = (0..3).map(|n| client.taken("x@x.test", &format!("n{n}@d.test"), "")).collect();
    wait_until("two have gone", || sink.stats().messages == 2);
    let written = written(folder.path(), "2/h");
    let mut answer = Value::Null;
    wait_until("the third is held", || {
        answer = told(&tuma, &ids[2]);
        answer["verdict"].as_str().unwrap().starts_with("held: the rate of messages (2/h) is used up")
    });
    let limit = gate(&answer, "limits", true);
    assert_eq!(limit["setting"], format!("shaping.site.\"route:*\".message_rates = [\"2/h\"] ({written})"));
    assert_eq!(
        limit["change"],
        format!("edit `shaping.site.\"route:*\".message_rates` at {written}, then tuma reload")
    );
    assert!(limit["held_until_seconds"].as_f64().unwrap() > 3_000.0, "{limit}");
    assert!(answer["moves_in_seconds"].as_f64().unwrap() > 3_000.0, "{answer}");
}

#[test]
fn backoff_is_named_with_its_rule_and_the_reply_and_a_release_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["rcpt:first=1:451 4.7.99 slow down, please"]), ..keeping() });
    let more = MORE.to_owned()
        + "[shaping.default.backoff]\nmessage_rates = [\"1/h\"]\n\
           [[shaping.default.reply]]\nname = \"slow-down\"\nmatch = 'slow down, please'\ndo = [\"backoff 2h\"]\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    let mut client = tuma.greeted();
    client.taken("x@x.test", "first@d.test", "");
    wait_until("the rule has acted", || tuma.says(&["limit", "ls"]).contains("slow-down"));
    let limits = tuma.says(&["limit", "ls"]);
    assert!(limits.contains("451 4.7.99 slow down, please"), "{limits}");
    assert!(limits.contains("to end it: tuma limit release --site 'route:*'"), "{limits}");
    // One an hour, and it is sent at once.
    client.taken("x@x.test", "second@d.test", "");
    wait_until("one has gone", || sink.stats().messages == 1);
    let id = client.taken("x@x.test", "third@d.test", "");
    let mut answer = Value::Null;
    wait_until("the third is held", || {
        answer = told(&tuma, &id);
        answer["verdict"].as_str().unwrap().contains("in backoff by slow-down")
    });
    let held = gate(&answer, "limits", true);
    let text = held["text"].as_str().unwrap();
    assert!(text.contains("slow-down") && text.contains("451 4.7.99 slow down, please"), "{text}");
    assert!(text.contains("with.toml:"), "{text}");
    assert_eq!(held["change"], "tuma limit release --site 'route:*'");
    assert!(held["held_for_seconds"].is_number(), "{held}");
    assert_eq!(tuma.says(&["limit", "release", "--site", "route:*"]), "1 released\n");
    wait_until("it has gone", || sink.stats().messages == 2);
    assert_eq!(tuma.says(&["limit", "ls"]), "everything is as usual\n");
    assert_eq!(tuma.says(&["limit", "release", "--site", "route:*"]), "nothing was stopped there\n");
}

#[test]
fn a_tenant_that_a_rule_suspends_is_released_alone() {
    let folder = tempfile::tempdir().unwrap();
    let sink =
        sink(Options { rules: rules(&["mail:first=1:451 4.7.98 bad sender reputation"]), ..keeping() });
    let more = MORE.to_owned()
        + "[[shaping.default.reply]]\nname = \"reputation\"\nmatch = 'bad sender reputation'\ndo = [\"suspend tenant 2h\"]\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    let mut client = tuma.greeted();
    client.taken("x@x.test", "first@d.test", "X-Tenant: acme\r\n");
    wait_until("the rule has acted", || tuma.says(&["limit", "ls"]).contains("reputation"));
    let id = client.taken("x@x.test", "second@d.test", "X-Tenant: acme\r\n");
    client.taken("x@x.test", "other@d.test", "X-Tenant: other\r\n");
    wait_until("another tenant's has gone", || sink.stats().messages == 1);
    let answer = told(&tuma, &id);
    let held = gate(&answer, "tenant", true);
    assert!(held["text"].as_str().unwrap().starts_with("the tenant is suspended by reputation"), "{held}");
    assert_eq!(held["change"], "tuma limit release --site 'route:*' --tenant acme");
    let released = tuma.says(&["limit", "release", "--site", "route:*", "--tenant", "acme"]);
    assert_eq!(released, "1 released\n");
    wait_until("it has gone", || sink.stats().messages == 2);
}

#[test]
fn a_warm_up_shows_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = MORE.to_owned()
        + "[source.fresh]\nv4 = \"127.0.0.1\"\n[shaping.default.source.fresh.warmup]\ncaps = [2, 4, 8]\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    let mut client = tuma.greeted();
    let ids: Vec<String> = (0..3).map(|n| client.taken("x@x.test", &format!("n{n}@d.test"), "")).collect();
    wait_until("today's have gone", || sink.stats().messages == 2);
    let mut answer = Value::Null;
    wait_until("the third is held", || {
        answer = told(&tuma, &ids[2]);
        answer["verdict"].as_str().unwrap().contains("warms up")
    });
    let held = gate(&answer, "warm-up", true);
    assert_eq!(held["text"], "the source warms up, and 2 of today's 2 messages are sent");
    let written = written(folder.path(), "caps = [2, 4, 8]");
    assert!(held["setting"].as_str().unwrap().ends_with(&format!("({written})")), "{held}");
    let limits = tuma.says(&["limit", "ls"]);
    assert!(limits.contains("warm-up") && limits.contains("2 of today's 2 messages are sent"), "{limits}");
}

#[test]
fn a_site_that_cannot_be_reached_says_so_by_message_queue_and_site() {
    let folder = tempfile::tempdir().unwrap();
    let dead = nobody();
    let tuma = Setup::relay_with(folder.path(), dead, MORE).env("TUMA_RETRY", "1h").start();
    let mut client = tuma.greeted();
    client.taken("x@x.test", "first@d.test", "");
    wait_until("it was tried", || tuma.figure("/recipients/deferred") == 1);
    let id = client.taken("x@x.test", "second@d.test", "");
    wait_until("it is held", || told(&tuma, &id)["verdict"].as_str().unwrap().contains("could be reached"));
    for about in [id.as_str(), "route:*/default", "route:*"] {
        let text = tuma.says(&["explain", about]);
        assert!(text.contains("no exchanger could be reached"), "{text}");
        assert!(text.contains("to change it: tuma queue flush 'route:*/default'"), "{text}");
    }
    assert!(tuma.says(&["limit", "ls"]).contains("unreachable"));
    let queues = tuma.says(&["queue", "queues"]);
    assert!(queues.contains("route:*/default") && queues.starts_with("recipients"), "{queues}");
    // Somebody listens now, and a flush tries at once.
    let sink = sink(Options { listen: dead, ..keeping() });
    tuma.says(&["queue", "flush", "route:*/default"]);
    wait_until("both have arrived", || sink.stats().messages == 2);
}
