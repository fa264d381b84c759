//! Operator orders: by command, checked before every attempt, kept over a kill, and ended.

use crate::harness::{Setup, Tuma, keeping, rules, sink, wait_until};
use bench::sink::{Options, SinkHandle};
use std::time::{Duration, SystemTime};

/// Header fields tag a message, and routes give each domain a next hop.
fn settings(routes: &[(&str, &SinkHandle)]) -> String {
    let mut text = "[listener.smtp]\ntag_headers = true\n".to_owned();
    for (domain, sink) in routes {
        text += &format!("[route.\"{domain}\"]\nnext_hop = \"{}\"\ntls = \"off\"\n", sink.addr());
    }
    text
}

fn kinds(tuma: &Tuma, id: &str) -> Vec<String> {
    tuma.events(id).iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn suspended_mail_waits_says_why_over_a_kill_and_goes_when_the_order_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (slow, quick) = (sink(keeping()), sink(keeping()));
    let more = settings(&[("a.test", &slow), ("b.test", &quick)]);
    let setup = Setup::relay_with(folder.path(), quick.addr(), &more);
    let tuma = setup.start();
    let given = tuma.says(&["order", "suspend", "--domain", "route:a.test", "--reason", "they move house"]);
    assert!(
        given.starts_with("order 1 (suspend domain=route:a.test) is in force, until it is cancelled"),
        "{given}"
    );
    let mut client = tuma.greeted();
    let id = client.taken("x@x.test", "c@a.test", "");
    client.taken("x@x.test", "c@b.test", "");
    wait_until("others' mail has arrived", || quick.stats().messages == 1);
    let explained = |tuma: &Tuma, about: &str| tuma.says(&["explain", about]);
    for about in [id.as_str(), "c@a.test", "C@A.TEST", "route:a.test/default", "route:a.test", "a.test"] {
        if about == "a.test" {
            // A domain that has a route is no place in the queue: the dry run names the same order.
            assert!(explained(&tuma, about).contains("nothing is queued for a.test"));
        }
        let text = explained(&tuma, about);
        assert!(text.contains("held: order 1 (suspend): they move house"), "{about}: {text}");
        assert!(text.contains("to change it: tuma order cancel 1"), "{about}: {text}");
    }
    tuma.kill();

    let tuma = setup.start();
    wait_until("the spool is read", || tuma.figure("/recipients/queued") == 1);
    let text = explained(&tuma, &id);
    assert!(text.contains("held: order 1 (suspend): they move house"), "{text}");
    let list = tuma.says_json(&["order", "ls"]);
    assert_eq!((&list[0]["id"], &list[0]["scope"]["domain"]), (&1.into(), &"route:a.test".into()));
    let preview = tuma.says(&["order", "hold", "--domain", "route:a.test", "--dry-run"]);
    assert_eq!(preview, "this order would name 1 recipients in 1 queues\n");
    assert_eq!(slow.stats().connections, 0, "an order is looked at before anything is tried");
    tuma.says(&["order", "cancel", "1"]);
    wait_until("it has arrived", || slow.stats().messages == 1);
    tuma.wait_until_settled();
    assert_eq!(tuma.says(&["order", "ls"]), "no orders are in force\n");
    let second = tuma.says_json(&["order", "hold", "--tenant", "acme"]);
    assert_eq!(second["id"], 2, "a number is never given twice");
}

#[test]
fn what_is_suspended_expires_and_what_is_held_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = settings(&[]) + "[retry]\nwaits = [\"200ms\"]\nexpire_after = \"1s\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    tuma.says(&["order", "suspend", "--tenant", "waits"]);
    tuma.says(&["order", "hold", "--tenant", "kept", "--for", "1h"]);
    let mut client = tuma.greeted();
    // The held one is the older: when the other has expired, it would have.
    let held = client.taken("x@x.test", "held@d.test", "X-Tenant: kept\r\n");
    let waits = client.taken("x@x.test", "waits@d.test", "X-Tenant: waits\r\n");
    wait_until("the suspended one expires", || kinds(&tuma, &waits).last().unwrap() == "expired");
    let told = &tuma.says_json(&["explain", &held])["answers"][0];
    assert_eq!(
        (&told["gates"][0]["gate"], &told["gates"][0]["holds"]),
        (&"order".into(), &true.into()),
        "{told}"
    );
    assert!(told["gates"][0]["held_until_seconds"].as_f64().unwrap() > 3_000.0, "{told}");
    let listed = tuma.says(&["queue", "ls"]);
    assert!(listed.contains("does not expire while it is held"), "{listed}");
    tuma.says(&["order", "cancel", "2"]);
    wait_until("the held one is tried or given up", || kinds(&tuma, &held).len() > 1);
    assert_eq!(kinds(&tuma, &held), ["received", "delivered"]);
    assert_eq!(sink.stats().messages, 1);
}

#[test]
fn bounced_by_tenant_job_and_sender_with_the_reason_to_records_and_senders() {
    let folder = tempfile::tempdir().unwrap();
    let later = sink(Options { rules: rules(&["rcpt:451 4.7.1 later"]), ..keeping() });
    let reports = sink(keeping());
    let more = settings(&[("d.test", &later), ("from.test", &reports)])
        + "[retry]\nwaits = [\"1h\"]\n[dsn]\nenabled = true\n";
    let tuma = Setup::relay_with(folder.path(), reports.addr(), &more).start();
    let mut client = tuma.greeted();
    let by_tenant = client.taken("one@from.test", "t@d.test", "X-Tenant: acme\r\n");
    let by_job = client.taken("two@from.test", "j@d.test", "X-Job: run-42\r\n");
    let by_sender = client.taken("three@from.test", "s@d.test", "");
    let stays = client.taken("four@from.test", "r@d.test", "X-Tenant: other\r\nX-Job: run-43\r\n");
    wait_until("all wait for their next attempt", || tuma.figure("/recipients/deferred") == 4);
    let cases = [
        (&by_tenant, ["--tenant", "acme"], "no longer a customer"),
        (&by_job, ["--job", "run-42"], "sent by mistake"),
        (&by_sender, ["--sender", "THREE@*"], "a stolen account"),
    ];
    for (id, scope, reason) in cases {
        let order = |more: &[&'static str]| {
            [&["order", "bounce", scope[0], scope[1], "--reason", reason], more].concat()
        };
        let count = tuma.says_json(&order(&["--dry-run"]));
        assert_eq!((&count["recipients"], &count["cut"]), (&1.into(), &false.into()), "{scope:?}: {count}");
        let said = tuma.refuses(&order(&[]));
        assert!(said.contains("would bounce 1 recipients") && said.contains("--yes"), "{said}");
        assert_eq!(kinds(&tuma, id).last().unwrap(), "deferred", "nothing happens without --yes");
        tuma.says(&order(&["--yes"]));
        wait_until("it is given up", || kinds(&tuma, id).last().unwrap() == "bounced");
        let events = tuma.events(id);
        let reply = events.last().unwrap()["reply"].as_str().unwrap();
        assert!(reply.starts_with("550 5.7.0") && reply.contains(reason), "{reply}");
    }
    wait_until("the senders are told", || reports.stats().messages == 3);
    for message in reports.messages() {
        let text = String::from_utf8_lossy(&message.content).into_owned();
        assert!(text.contains("Action: failed") && text.contains("given up by order"), "{text}");
    }
    // What comes later is named as well: by tenant at once, by job when a connection has the message.
    let late = [
        client.taken("five@from.test", "t@d.test", "X-Tenant: acme\r\n"),
        client.taken("six@from.test", "t@d.test", "X-Job: run-42\r\n"),
    ];
    for id in &late {
        wait_until("it is given up", || kinds(&tuma, id).last().unwrap() == "bounced");
        assert_eq!(kinds(&tuma, id), ["received", "bounced"]);
    }
    assert_eq!(kinds(&tuma, &stays), ["received", "deferred"]);
    wait_until("the sum holds", || tuma.figure("/recipients/unaccounted") == 0);
}

#[test]
fn a_limit_holds_in_every_window_as_the_receiver_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &settings(&[])).start();
    tuma.says(&["order", "limit", "3/s", "--tenant", "acme", "--reason", "they fell behind"]);
    let mut client = tuma.greeted();
    for n in 0..10 {
        client.taken("x@x.test", &format!("acme{n}@d.test"), "X-Tenant: acme\r\n");
        client.taken("x@x.test", &format!("other{n}@d.test"), "X-Tenant: other\r\n");
    }
    // Ten take three seconds and more, and an answer takes less.
    let mut why = String::new();
    wait_until("the limit holds", || {
        why = tuma.says(&["explain", "acme@route:*/default"]);
        why.contains("held: the limit shaping.limit.order-1 (3/s) is used up")
    });
    assert!(why.contains("shaping.limit.order-1.message_rates = [\"3/s\"] (order 1)"), "{why}");
    assert!(why.contains("to change it: tuma order cancel 1"), "{why}");
    tuma.wait_until_settled();
    let messages = sink.messages();
    let arrived = |name: &str| -> Vec<SystemTime> {
        let of = messages.iter().filter(|message| message.recipients[0].address.starts_with(name));
        of.map(|message| message.received).collect()
    };
    let (limited, free) = (arrived("acme"), arrived("other"));
    assert_eq!((limited.len(), free.len()), (10, 10));
    let windows = limited.windows(4).map(|four| four[3].duration_since(four[0]).unwrap());
    let least = windows.min().unwrap();
    assert!(least >= Duration::from_secs(1), "four messages in {least:?}");
}

#[test]
fn a_limit_by_sender_job_or_domain_holds_for_that_mail_alone() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &settings(&[("a.test", &sink)])).start();
    tuma.says(&["order", "limit", "3/s", "--sender", "*@slow.test", "--reason", "they fell behind"]);
    tuma.says(&["order", "limit", "3/s", "--job", "run"]);
    tuma.says(&["order", "limit", "3/s", "--domain", "route:a.test"]);
    let mut client = tuma.greeted();
    for n in 0..8 {
        client.taken("x@slow.test", &format!("sender{n}@d.test"), "");
        client.taken("x@x.test", &format!("job{n}@d.test"), "X-Job: run\r\n");
        client.taken("x@x.test", &format!("domain{n}@a.test"), "");
        client.taken("x@x.test", &format!("other{n}@d.test"), "");
    }
    let mut why = String::new();
    wait_until("the limit holds", || {
        why = tuma.says(&["explain", "sender7@d.test"]);
        why.contains("held by order 1 (limit): they fell behind")
    });
    tuma.wait_until_settled();
    let messages = sink.messages();
    let least_of_four = |name: &str| {
        let of = messages.iter().filter(|message| message.recipients[0].address.starts_with(name));
        let arrived: Vec<SystemTime> = of.map(|message| message.received).collect();
        assert_eq!(arrived.len(), 8);
        arrived.windows(4).map(|four| four[3].duration_since(four[0]).unwrap()).min().unwrap()
    };
    for name in ["sender", "job", "domain"] {
        assert!(least_of_four(name) >= Duration::from_secs(1), "{name}: {:?}", least_of_four(name));
    }
    let last = |name: &str| {
        messages.iter().rposition(|message| message.recipients[0].address.starts_with(name)).unwrap()
    };
    assert!(last("other") < last("sender").min(last("job")), "what no order names does not wait");
}

#[test]
fn mail_is_sent_another_way_by_its_sender_job_or_source() {
    let folder = tempfile::tempdir().unwrap();
    let next = sink(keeping());
    let source = |name: &str| format!("[source.{name}]\nv4 = \"127.0.0.1\"\nehlo_name = \"{name}.test\"\n");
    let more = settings(&[])
        + &["ip1", "ip2", "ip3"].map(source).concat()
        + "[pool.default]\nsources = { ip1 = 1 }\n[pool.second]\nsources = { ip2 = 1 }\n[pool.third]\nsources = { ip3 = 1 }\n";
    let tuma = Setup::relay_with(folder.path(), next.addr(), &more).start();
    let mut client = tuma.greeted();
    let mut count = 0;
    let mut sent_by = |sender: &str, header: &str| {
        client.taken(sender, "c@d.test", header);
        count += 1;
        wait_until("it has arrived", || next.stats().messages == count);
        next.messages().last().map(|message| message.helo.clone()).unwrap_or_default()
    };
    assert_eq!(sent_by("x@x.test", ""), "ip1.test");
    tuma.says(&["order", "reroute", "second", "--sender", "*@bad.test"]);
    tuma.says(&["order", "reroute", "third", "--job", "run"]);
    assert_eq!(sent_by("x@bad.test", ""), "ip2.test");
    assert_eq!(sent_by("x@x.test", "X-Job: run\r\n"), "ip3.test");
    assert_eq!(sent_by("x@x.test", ""), "ip1.test");
    tuma.says(&["order", "reroute", "third", "--source", "ip1"]);
    assert_eq!(sent_by("x@x.test", ""), "ip3.test");
    tuma.wait_until_settled();
}

#[test]
fn an_order_that_cannot_be_is_refused_with_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = settings(&[("a.test", &sink)])
        + "[source.ip1]\nv4 = \"127.0.0.1\"\n[source.ip2]\nv4 = \"127.0.0.1\"\n[pool.bulk]\nsources = { ip1 = 1, ip2 = 1 }\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    for (arguments, said) in [
        (&["order", "suspend"][..], "must name its mail"),
        (&["order", "suspend", "--pool", "bulc"], "did you mean `bulk`?"),
        (&["order", "suspend", "--source", "ip3"], "there is no source `ip3`"),
        (&["order", "suspend", "--domain", "a.test"], "name the domain `route:a.test`"),
        (&["order", "suspend", "--domain", "route:b.test"], "no route `b.test`"),
        (&["order", "reroute", "warm", "--tenant", "x"], "there is no pool `warm`"),
        (&["order", "limit", "fast", "--tenant", "x"], "`fast`"),
        (&["order", "hold", "--tenant", "x", "--for", "soon"], "`ends_in` must be"),
        (&["order", "hold", "--tenant", "x", "--until", "2001-01-01"], "over before it begins"),
        (&["order", "hold", "--tenant", ""], "`tenant` must be"),
        (&["order", "cancel", "7"], "there is no order 7; none is in force"),
        (&["source", "disable", "ip11"], "did you mean `ip1`?"),
        (&["limit", "release"], "name what is to go on"),
        (&["limit", "release", "--site", "nowhere"], "no site in memory called `nowhere`"),
    ] {
        let text = tuma.refuses(arguments);
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
    let long = format!("{{\"action\":\"hold\",\"scope\":{{\"tenant\":\"{}\"}}}}", "x".repeat(600));
    let huge = format!("{{\"reason\":\"{}\"}}", "x".repeat(100_000));
    for (method, path, body, code) in [
        ("POST", "/v1/orders", "{", 400),
        ("POST", "/v1/orders", "[]", 400),
        ("POST", "/v1/orders", r#"{"action":"hold","scope":{"tenant":"a","x":"b"}}"#, 400),
        ("POST", "/v1/orders", r#"{"action":"hold","scope":{"pool":"x"}}"#, 404),
        ("POST", "/v1/orders", r#"{"action":"hold","scope":{}}"#, 422),
        ("POST", "/v1/orders", r#"{"action":"hold","scope":{"tenant":"a\u0007"}}"#, 400),
        ("POST", "/v1/orders", &long, 400),
        ("POST", "/v1/orders", &huge, 413),
        ("POST", "/v1/orders/preview", r#"{"action":"reroute","scope":{"tenant":"a"}}"#, 400),
        ("DELETE", "/v1/orders/1", "", 404),
        ("DELETE", "/v1/orders/one", "", 400),
        ("PUT", "/v1/orders", "", 405),
        ("POST", "/v1/sources/x/disable", "", 404),
        ("POST", "/v1/sources/ip1/disable", r#"{"for":"1h"}"#, 400),
        ("POST", "/v1/limits/release", r#"{"tenant":"a","queue":"b"}"#, 400),
        ("GET", "/v1/explain", "", 400),
        ("GET", "/v1/explain?about=x&tennant=y", "", 400),
        ("GET", "/v1/explain?about=nothing-of-the-kind", "", 404),
    ] {
        assert_eq!(tuma.http(method, path, body).0, code, "{method} {path} {}", &body[..body.len().min(80)]);
    }
    assert_eq!(tuma.says(&["order", "ls"]), "no orders are in force\n");
    let flushed = tuma.says(&["queue", "flush", "a.test"]);
    assert!(
        flushed.contains("nothing is queued for a.test; its mail goes by the route `route:a.test`"),
        "{flushed}"
    );
    // All mail must be said.
    let all = tuma.says(&["order", "hold", "--all", "--for", "30m"]);
    assert!(all.contains("domain=*") && all.contains("for 30m"), "{all}");
    tuma.greeted().taken("x@x.test", "c@a.test", "");
    let text = tuma.says(&["explain", "c@a.test"]);
    assert!(text.contains("held: order 1 (hold)"), "{text}");
    tuma.says(&["order", "cancel", "1"]);
    tuma.wait_until_settled();
    assert_eq!(sink.stats().messages, 1);
}

#[test]
fn an_order_ends_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &settings(&[])).start();
    tuma.says(&["order", "suspend", "--job", "run-1", "--for", "2s"]);
    let mut client = tuma.greeted();
    let id = client.taken("x@x.test", "c@d.test", "X-Job: run-1\r\n");
    let other = client.taken("x@x.test", "c@d.test", "X-Job: run-2\r\n");
    wait_until("the other has arrived", || kinds(&tuma, &other).last().unwrap() == "delivered");
    wait_until("the order ends and its mail goes", || kinds(&tuma, &id).last().unwrap() == "delivered");
    assert_eq!(tuma.says(&["order", "ls"]), "no orders are in force\n");
    assert_eq!(sink.stats().messages, 2);
}

#[test]
fn a_limit_holds_over_a_restart_and_ends_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let setup = Setup::relay_with(folder.path(), sink.addr(), &settings(&[]));
    let tuma = setup.start();
    tuma.says(&["order", "limit", "1/h", "--tenant", "acme", "--for", "1h"]);
    tuma.stop();

    let tuma = setup.start();
    let mut client = tuma.greeted();
    let mut send = |tenant: &str| {
        for n in 0..2 {
            client.taken("x@x.test", &format!("{tenant}{n}@d.test"), &format!("X-Tenant: {tenant}\r\n"));
        }
    };
    send("acme");
    send("other");
    wait_until("what may go has gone", || sink.stats().messages >= 3);
    let second = tuma.says_json(&["order", "limit", "1/h", "--tenant", "brief", "--for", "3s"]);
    assert_eq!(second["id"], 2);
    send("brief");
    wait_until("the second limit ends and its mail goes", || sink.stats().messages >= 5);
    assert_eq!(tuma.says_json(&["order", "ls"]).as_array().unwrap().len(), 1);
    let why = tuma.says(&["explain", "acme@route:*/default"]);
    assert!(why.contains("held: the limit shaping.limit.order-1 (1/h) is used up"), "{why}");
    assert_eq!(sink.stats().messages, 5, "the first limit holds over the restart");
    let kept = std::fs::read_to_string(folder.path().join("state/orders.json")).unwrap();
    assert!(!kept.contains("brief"), "{kept}");
}

#[test]
fn kumomta_s_admin_calls_give_orders() {
    let folder = tempfile::tempdir().unwrap();
    let more = "[source.main]\n[source.warm]\n[pool.main]\nsources = { main = 1 }\n[pool.warm]\nsources = { warm = 1 }\n\
                [tenant.acme]\n[tenant.other]\n[delivery]\ndefault_pool = \"main\"\n";
    let sink = sink(keeping());
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let asked = |method: &str, path: &str, body: &serde_json::Value| {
        let fields = [("Content-Type", "application/json")];
        let (status, _, text) = tuma.http_with(method, path, &fields, &body.to_string());
        let value: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} {text}"));
        (status, value)
    };
    let suspend = serde_json::json!({ "tenant": "acme", "reason": "a pause", "duration": "1h 30m" });
    let (status, suspended) = asked("POST", "/api/admin/suspend/v1", &suspend);
    assert_eq!(status, 200, "{suspended}");
    let send = |tenant: &str, to: &str| {
        let body = serde_json::json!({
            "from": "a@acme.test", "recipients": [to], "tenant": tenant, "content": { "text": "x" },
        });
        assert_eq!(tuma.post("/v1/messages", &[], &body).0, 202);
    };
    send("acme", "ann@far.test");
    send("other", "bob@far.test");
    wait_until("the other tenant's mail has left", || sink.messages().len() == 1);
    assert_eq!(tuma.figure("/recipients/queued"), 1, "that of acme waits");
    let (_, list) = asked("GET", "/api/admin/suspend/v1", &serde_json::json!({}));
    assert_eq!((&list[0]["id"], &list[0]["tenant"]), (&suspended["id"], &"acme".into()), "{list}");
    // It is an order like any other.
    assert!(tuma.says(&["order", "ls"]).contains("a pause"));

    let (status, bounced) =
        asked("POST", "/api/admin/bounce/v1", &serde_json::json!({ "tenant": "acme", "reason": "gone" }));
    assert_eq!((status, &bounced["total_bounced"]), (200, &1.into()), "{bounced}");
    wait_until("it is bounced", || tuma.figure("/recipients/bounced") == 1);
    for (path, id) in [("/api/admin/suspend/v1", &suspended["id"]), ("/api/admin/bounce/v1", &bounced["id"])]
    {
        assert_eq!(asked("DELETE", path, &serde_json::json!({ "id": id })).0, 200);
        assert_eq!(asked("DELETE", path, &serde_json::json!({ "id": id })).0, 404, "it is over");
        assert_eq!(asked("GET", path, &serde_json::json!({})).1, serde_json::json!([]));
    }

    let ready = serde_json::json!({ "name": "main->far.test@smtp_client", "reason": "r" });
    let (status, said) = asked("POST", "/api/admin/suspend-ready-q/v1", &ready);
    assert_eq!(status, 200, "{said}");
    let (_, list) = asked("GET", "/api/admin/suspend-ready-q/v1", &serde_json::json!({}));
    assert_eq!(list[0]["name"], "main->far.test");
    assert_eq!(asked("GET", "/api/admin/suspend/v1", &serde_json::json!({})).1, serde_json::json!([]));

    let rebind = serde_json::json!({ "tenant": "acme", "reason": "warm", "data": { "pool": "warm" } });
    assert_eq!(asked("POST", "/api/admin/rebind/v1", &rebind), (200, serde_json::json!({})));
    assert!(tuma.says(&["order", "ls"]).contains("warm"));
    let other = serde_json::json!({ "tenant": "acme", "data": { "campaign": "x" } });
    assert_eq!(asked("POST", "/api/admin/rebind/v1", &other).0, 422, "what cannot be done is refused");
}
