//! Messages handed in by HTTP: what arrives, what is refused, who may.

use crate::harness::{Setup, Tuma, has_python, keeping, nobody, python, rules, sink, wait_until};
use bench::sink::Options;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

fn text(content: &[u8]) -> String {
    String::from_utf8(content.to_vec()).expect("text")
}

/// The message that arrived for an address.
fn arrived(sink: &bench::sink::SinkHandle, address: &str) -> String {
    let messages = sink.messages();
    let mut found =
        messages.iter().filter(|message| message.recipients.iter().any(|to| to.address == address));
    let message = found.next().unwrap_or_else(|| panic!("nothing arrived for {address}"));
    assert!(found.next().is_none(), "{address} got two messages");
    text(&message.content)
}

#[test]
fn a_message_of_parts_arrives_whole() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let (status, answer) = tuma.post(
        "/v1/messages",
        &[],
        &json!({
            "from": "Zoë at Acme <news@acme.test>",
            "envelope": { "from": "bounces@acme.test" },
            "recipients": [{ "email": "ann@far.test", "name": "Ann Ü" }],
            "content": {
                "subject": "Grüße: 50% off – 日本語",
                "text": "Hello\n.\nFrom here\n",
                "html": "<p>Hällo <img src=\"cid:logo\"></p>",
                "amp": "<!doctype html><html amp4email></html>",
                "headers": { "List-Unsubscribe": "<https://acme.test/u>", "X-Note": "naïve" },
                "attachments": [
                    { "filename": "bericht ü.pdf", "type": "application/pdf", "content": "JVBERi0xLjQK" },
                    { "filename": "logo.png", "type": "image/png", "content": "iVBORw0KGgo=", "content_id": "logo" },
                ],
            },
            "campaign": "spring", "tags": ["sale"], "metadata": { "order": 7 },
        }),
    );
    assert_eq!(status, 202, "{answer:#}");
    assert_eq!((&answer["queued"], &answer["refused"]), (&json!(1), &json!(0)));
    tuma.wait_until_settled();
    let message = arrived(&sink, "ann@far.test");
    assert!(message.starts_with("Received: ") && message.contains(" with HTTP"), "{message}");
    std::fs::write(folder.path().join("message.eml"), &message).unwrap();
    // Read by a program that shares nothing with us.
    let read = python(
        r#"
import email, email.policy, json, sys
m = email.message_from_binary_file(open(sys.argv[1], "rb"), policy=email.policy.default)
assert not m.defects, m.defects
parts = [(p.get_content_type(), p.get_filename(), p.get("Content-ID")) for p in m.walk()]
assert all(not p.defects for p in m.walk())
print(json.dumps({
    "from": m["From"].addresses[0].display_name, "to": m["To"].addresses[0].display_name, "subject": m["Subject"],
    "note": m["X-Note"], "bcc": m["Bcc"], "parts": parts,
    "plain": m.get_body(("plain",)).get_content(), "html": m.get_body(("html",)).get_content(),
    "file": [a.get_content().decode("latin-1") for a in m.iter_attachments() if a.get_filename().endswith("pdf")],
}))"#,
        &[folder.path().join("message.eml").to_str().unwrap()],
    );
    let read: Value = serde_json::from_str(&read).unwrap();
    assert_eq!(read["from"], "Zoë at Acme");
    assert_eq!(read["to"], "Ann Ü");
    assert_eq!(read["subject"], "Grüße: 50% off – 日本語");
    assert_eq!(read["note"], "naïve");
    assert_eq!(read["plain"], "Hello\n.\nFrom here\n");
    assert_eq!(read["html"].as_str().unwrap().trim(), "<p>Hällo <img src=\"cid:logo\"></p>");
    assert_eq!(read["file"], json!(["%PDF-1.4\n"]));
    let parts = read["parts"].as_array().unwrap();
    let kinds: Vec<&str> = parts.iter().filter_map(|part| part[0].as_str()).collect();
    assert_eq!(
        kinds,
        [
            "multipart/mixed",
            "multipart/related",
            "multipart/alternative",
            "text/plain",
            "text/x-amp-html",
            "text/html",
            "image/png",
            "application/pdf"
        ]
    );
    assert_eq!(parts[7][1], "bericht ü.pdf");

    let id = answer["results"][0]["id"].as_str().unwrap();
    let (status, body) = tuma.http("GET", &format!("/v1/messages/{id}"), "");
    let timeline: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200, "{timeline:#}");
    let kinds: Vec<&str> =
        timeline["events"].as_array().unwrap().iter().filter_map(|e| e["kind"].as_str()).collect();
    assert_eq!(kinds, ["received", "delivered"]);
    assert_eq!(timeline["metadata"], json!({ "order": 7, "tags": ["sale"] }));
    assert_eq!(timeline["campaign"], "spring");
    assert_eq!(timeline["sender"], "bounces@acme.test");
}

#[test]
fn everybody_gets_his_own_message_of_a_merge() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["rcpt:first=3:452 4.2.2 full"]), ..keeping() });
    let tuma =
        Setup::relay_with(folder.path(), sink.addr(), "[http]\nrecipients_per_message_max = 4\n").start();
    let recipients: Vec<Value> = (0..10)
        .map(|n| {
            json!({
                "email": format!("r{n}@d{}.test", n % 3),
                "name": format!("Person {n}"),
                "substitutions": { "first": format!("F{n}"), "items": [n, n + 1] },
            })
        })
        .collect();
    let mut all = recipients.clone();
    all.insert(3, json!("not an address"));
    let (status, answer) = tuma.post(
        "/v1/messages",
        &[],
        &json!({
            "from": "news@acme.test",
            "recipients": all,
            "content": {
                "subject": "For {{ first }}",
                "text": "{{ greeting }} {{ name }} ({{ email }}):{% for i in items %} {{ i }}{% endfor %}\n",
                "html": "<p>{{ first }}</p>",
            },
            "substitutions": { "greeting": "Dear" },
        }),
    );
    assert_eq!(status, 202, "{answer:#}");
    assert_eq!((&answer["queued"], &answer["refused"]), (&json!(10), &json!(1)));
    assert_eq!(answer["results"][3]["status"], "refused");
    assert_eq!(answer["messages"].as_array().unwrap().len(), 3, "four to a message");
    tuma.wait_until_settled();
    for n in 0..10 {
        let message = arrived(&sink, &format!("r{n}@d{}.test", n % 3));
        assert!(message.contains(&format!("Subject: For F{n}\r\n")), "{message}");
        assert!(message.contains(&format!("To: Person {n} <r{n}@d{}.test>\r\n", n % 3)), "{message}");
        let line = format!("\r\nDear Person {n} (r{n}@d{}.test): {n} {}\r\n", n % 3, n + 1);
        assert!(message.contains(&line), "{message}");
        assert_eq!(message.matches("\r\nMessage-ID: ").count(), 1);
        assert!(message.contains(&format!("for <r{n}@d{}.test>", n % 3)), "{message}");
    }
    let ids: std::collections::HashSet<String> =
        sink.messages().iter().filter_map(|message| message.field("Message-ID")).collect();
    assert_eq!(ids.len(), 10);
    // Where each of them is: by the id that was told.
    for n in [0, 9] {
        let email = format!("r{n}@d{}.test", n % 3);
        let result =
            answer["results"].as_array().unwrap().iter().find(|result| result["email"] == email.as_str());
        let id = result.unwrap()["id"].as_str().unwrap().to_owned();
        let (_, body) = tuma.http("GET", &format!("/v1/messages/{id}"), "");
        let timeline: Value = serde_json::from_str(&body).unwrap();
        for event in timeline["events"].as_array().unwrap() {
            assert_eq!(event["recipient"], email.as_str());
        }
    }
}

#[test]
fn a_merge_outlives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::relay_with(folder.path(), nobody(), "");
    let tuma = setup.start();
    let body = json!({
        "from": "news@acme.test",
        "recipients": [{ "email": "a@x.test", "substitutions": { "v": 1 } }, { "email": "b@x.test", "substitutions": { "v": 2 } }],
        "content": { "text": "value {{ v }}\n" },
    });
    let key = [("Idempotency-Key", "one")];
    let (status, first) = tuma.post("/v1/messages", &key, &body);
    assert_eq!(status, 202, "{first:#}");
    // The same again says the same and makes nothing; another body under the key is refused.
    assert_eq!(tuma.post("/v1/messages", &key, &body), (202, first.clone()));
    let mut other = body.clone();
    other["content"]["text"] = json!("x");
    assert_eq!(tuma.post("/v1/messages", &key, &other).0, 422);
    tuma.kill();

    let sink = sink(keeping());
    let setup = setup.env("TUMA_NEXT_HOP", &sink.addr().to_string());
    let tuma = setup.start();
    wait_until("the keys are known again", || {
        let (status, again) = tuma.post("/v1/messages", &key, &body);
        if status == 202 {
            assert_eq!(again, first);
        }
        status == 202
    });
    tuma.wait_until_settled();
    assert!(arrived(&sink, "a@x.test").contains("\r\nvalue 1\r\n"));
    assert!(arrived(&sink, "b@x.test").contains("\r\nvalue 2\r\n"));
    assert_eq!(sink.messages().len(), 2);

    // Nothing of it is in the spool any more, and the key is known still.
    tuma.kill();
    let tuma = setup.start();
    wait_until("the spool is read", || tuma.post("/v1/messages", &key, &other).0 != 503);
    assert_eq!(tuma.post("/v1/messages", &key, &other).0, 422);
    assert_eq!(tuma.post("/v1/messages", &key, &body), (202, first));
    tuma.wait_until_settled();
    assert_eq!(sink.messages().len(), 2, "nothing is sent twice");
}

#[test]
fn a_written_message_goes_as_it_is_but_for_bcc() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let (status, answer) = tuma.post(
        "/v1/messages",
        &[],
        &json!({
            "recipients": ["a@x.test", "b@y.test"],
            "content": "From: Me <me@acme.test>\nTo: a@x.test\nBcc: b@y.test\nSubject: {{ not a template }}\n\nhello\n",
        }),
    );
    assert_eq!(status, 202, "{answer:#}");
    tuma.wait_until_settled();
    for address in ["a@x.test", "b@y.test"] {
        let message = arrived(&sink, address);
        assert!(
            !message.to_ascii_lowercase().contains("bcc") && !message.contains("for <b@y.test>"),
            "{message}"
        );
        assert!(
            message.contains("Subject: {{ not a template }}\r\n\r\nhello\r\n")
                || message.contains("\r\n\r\nhello\r\n")
        );
        assert!(message.contains("Message-ID: <") && message.contains("Date: "), "{message}");
    }
}

#[test]
fn a_message_waits_for_its_time_and_is_not_sent_after_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let in_ms = |ms: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        json!(now.as_millis() as u64 + ms)
    };
    let message = |to: &str, more: Value| {
        let mut body = json!({ "from": "a@acme.test", "recipients": [to], "content": { "text": "x" } });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let (status, later) =
        tuma.post("/v1/messages", &[], &message("later@x.test", json!({ "send_at": in_ms(3_600_000) })));
    assert_eq!(status, 202, "{later:#}");
    tuma.post("/v1/messages", &[], &message("now@x.test", json!({ "send_at": in_ms(0) })));
    wait_until("what is due arrives", || sink.messages().len() == 1);
    arrived(&sink, "now@x.test");
    let queue = tuma.says_json(&["queue", "ls"]);
    assert!(queue[0]["due_in_seconds"].as_f64().unwrap() > 3_000.0, "{queue:#}");
    assert_eq!(tuma.figure("/recipients/queued"), 1);
    // An operator who flushes the queue sends it now.
    tuma.http("POST", "/v1/queue/flush", "");
    tuma.wait_until_settled();
    arrived(&sink, "later@x.test");
}

#[test]
fn a_message_whose_end_has_come_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["mail:451 4.3.0 later"]), ..keeping() });
    let tuma = Setup::relay(folder.path(), sink.addr()).env("TUMA_RETRY", "1h").start();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let end = now.as_millis() as u64 + 1_500;
    let body = json!({ "from": "a@acme.test", "recipients": ["x@x.test"], "content": { "text": "x" }, "expires_at": end });
    assert_eq!(tuma.post("/v1/messages", &[], &body).0, 202);
    tuma.wait_until_settled();
    let (_, body) = tuma.http("GET", "/v1/events?kind=expired", "");
    let events: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(events["events"][0]["recipient"], "x@x.test", "{events:#}");
    assert_eq!(tuma.figure("/recipients/expired"), 1);
    assert!(sink.messages().is_empty());
}

#[test]
fn what_cannot_be_taken_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let tuma =
        Setup::relay_with(folder.path(), nobody(), "[http]\nbody_max = \"64KiB\"\nrecipients_max = 3\n")
            .start();
    let good = json!({ "from": "a@acme.test", "recipients": ["x@x.test"], "content": { "text": "x" } });
    let with = |pointer: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    let refused = |body: &Value, status: u16, place: &str| {
        let (code, answer) = tuma.post("/v1/messages", &[], body);
        assert_eq!(code, status, "{answer:#}");
        assert_eq!(answer["status"], status);
        assert!(answer["detail"].is_string() && answer["title"].is_string());
        assert_eq!(answer["errors"][0]["pointer"], place, "{answer:#}");
    };
    refused(
        &with("/content", json!({ "text": "x", "subject": "a\nBcc: b@y.test" })),
        422,
        "#/content/subject",
    );
    refused(&with("/from", json!("a@acme.test\r\nX: y")), 400, "#/from");
    refused(&with("/recipients", json!([])), 422, "#/recipients");
    refused(
        &with("/recipients", json!(["a@x.test", "b@x.test", "c@x.test", "d@x.test"])),
        422,
        "#/recipients",
    );
    refused(&with("/content", json!({ "text": "{{ x", "template": "none" })), 422, "#/content/template");
    let (status, answer) = tuma.post("/v1/messages", &[], &with("/recipients", json!(["nobody"])));
    assert_eq!((status, &answer["results"][0]["status"]), (422, &json!("refused")), "{answer:#}");

    let raw = |fields: &[(&str, &str)], body: &str| tuma.http_with("POST", "/v1/messages", fields, body);
    let json = [("Content-Type", "application/json")];
    for body in ["", "{", "[[[[", "null", "\u{0}", "{\"from\":1e999}", &"[".repeat(50_000)] {
        let (status, head, answer) = raw(&json, body);
        assert!(status == 400 && head.contains("application/problem+json"), "{status} {answer}");
    }
    let twice = good.to_string().replacen('{', "{\"from\":\"b@acme.test\",", 1);
    let (status, _, answer) = raw(&json, &twice);
    assert!(status == 400 && answer.contains("stands twice"), "{status} {answer}");
    let (status, _, answer) = raw(&json, &format!("{{\"from\":\"{}\"}}", "x".repeat(70_000)));
    assert_eq!(status, 413, "{answer}");
    // What a form in a web page can send.
    let (status, _, answer) = raw(&[("Content-Type", "text/plain")], &good.to_string());
    assert_eq!(status, 415, "{answer}");
    assert_eq!(tuma.figure("/recipients/received"), 0);
    assert_eq!(tuma.http("GET", "/v1/messages", "").0, 405);
    assert_eq!(tuma.http("GET", "/v2/messages", "").0, 404);
}

/// Attack row 52: a request that means two things to two readers is refused, or is the last on its connection; and row
/// 27: what is packed is not unpacked.
#[test]
fn nothing_is_smuggled_in_behind_a_request() {
    let folder = tempfile::tempdir().unwrap();
    let tuma = Setup::relay_with(folder.path(), nobody(), "").start();
    let good =
        json!({ "from": "a@acme.test", "recipients": ["x@x.test"], "content": { "text": "x" } }).to_string();
    let host = tuma.http_address();
    let head = format!("POST /v1/messages HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");
    let smuggled = format!("{head}Content-Length: {}\r\n\r\n{good}", good.len());
    // All that comes back until the server closes.
    let told = |octets: &str| {
        let mut stream = TcpStream::connect(host).unwrap();
        let _ = stream.write_all(octets.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    for (fields, body) in [
        ("Content-Length: 0\r\nContent-Length: 5\r\n", ""),
        ("Content-Length: +5\r\n", ""),
        ("Content-Length: 5, 5\r\n", ""),
        ("Content-Length: 0x5\r\n", ""),
        ("Content-Length : 5\r\n", ""),
        ("Transfer-Encoding: chunked, identity\r\n", ""),
        ("Transfer-Encoding: xchunked\r\n", ""),
        ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nx\r\n"),
        ("Transfer-Encoding: chunked\r\n", "-1\r\nx\r\n"),
        ("Transfer-Encoding: chunked\r\n", "3\r\nabcdef\r\n0\r\n\r\n"),
    ] {
        let answer = told(&format!("{head}{fields}\r\n{body}{smuggled}"));
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{fields:?}: {answer}");
        assert!(!answer.contains("HTTP/1.1 2"), "{fields:?}: {answer}");
    }
    let (status, _, answer) = tuma.http_with(
        "POST",
        "/v1/messages",
        &[("Content-Type", "application/json"), ("Content-Encoding", "gzip")],
        "\u{1f}\u{8b}\u{8}",
    );
    assert!((400..500).contains(&status), "{answer}");
    assert_eq!(tuma.figure("/recipients/received"), 0);
    // Without tricks it is a good request.
    let (status, _, answer) =
        tuma.http_with("POST", "/v1/messages", &[("Content-Type", "application/json")], &good);
    assert!((200..300).contains(&status), "{answer}");
}

/// Makes a key; gives its token.
fn key(tuma: &Tuma, body: Value) -> String {
    let (status, answer) = tuma.post("/v1/keys", &[], &body);
    assert_eq!(status, 201, "{answer:#}");
    answer["token"].as_str().expect("a token").to_owned()
}

#[test]
fn one_tenant_neither_sees_nor_touches_another() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = "[tenant.acme]\nfrom_domains = [\"acme.test\"]\nrecipients_per_hour_max = 4\npools = [\"one\"]\n\
        [tenant.globex]\nfrom_domains = [\"globex.test\"]\n[source.one]\n[source.two]\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let acme =
        format!("Bearer {}", key(&tuma, json!({ "name": "acme shop", "tenant": "acme", "role": "admin" })));
    let globex = format!("Bearer {}", key(&tuma, json!({ "name": "globex", "tenant": "globex" })));
    let by = |token: &str, body: &Value| tuma.post("/v1/messages", &[("Authorization", token)], body);
    let message =
        |from: &str, to: &str| json!({ "from": from, "recipients": [to], "content": { "text": "x" } });
    let (status, mine) = by(&acme, &message("news@mail.acme.test", "a@x.test"));
    assert_eq!(status, 202, "{mine:#}");
    let id = mine["id"].as_str().unwrap();
    tuma.wait_until_settled();

    let get = |token: &str, path: &str| {
        let (status, _, body) = tuma.http_with("GET", path, &[("Authorization", token)], "");
        (status, body)
    };
    // It sees its own; to the other it looks as if there were none.
    assert_eq!(get(&acme, &format!("/v1/messages/{id}")).0, 200);
    let (status, body) = get(&globex, &format!("/v1/messages/{id}"));
    let nothing = get(&globex, "/v1/messages/0e8x2p4t6v0").1;
    assert_eq!((status, body), (404, nothing));

    // Nobody sends in another's name, into another's books, or by a pool that is not his.
    for (token, body) in [
        (&globex, message("news@acme.test", "a@x.test")),
        (
            &globex,
            json!({ "from": "a@globex.test", "envelope": { "from": "b@acme.test" }, "recipients": ["a@x.test"], "content": { "text": "x" } }),
        ),
        (
            &globex,
            json!({ "from": "a@globex.test", "tenant": "acme", "recipients": ["a@x.test"], "content": { "text": "x" } }),
        ),
        (
            &globex,
            json!({ "recipients": ["a@x.test"], "envelope": { "from": "a@globex.test" }, "content": "From: x@acme.test\n\nx" }),
        ),
        (
            &globex,
            json!({ "recipients": ["a@x.test"], "envelope": { "from": "a@globex.test" },
            "content": "From: x@globex.test, y@acme.test\nSender: x@globex.test\n\nx" }),
        ),
        (
            &globex,
            json!({ "recipients": ["a@x.test"], "envelope": { "from": "a@globex.test" },
            "content": "From: x@globex.test\nFROM: y@acme.test\n\nx" }),
        ),
        (
            &acme,
            json!({ "from": "a@acme.test", "pool": "two", "recipients": ["a@x.test"], "content": { "text": "x" } }),
        ),
    ] {
        let (status, answer) = by(token, &body);
        assert_eq!(status, 403, "{body}: {answer:#}");
    }

    // An admin of a tenant is none of the server's.
    for path in [
        "/v1/status",
        "/v1/queue",
        "/v1/queues",
        "/v1/keys",
        "/v1/audit",
        "/metrics",
        "/v1/orders",
        "/v1/tenants",
    ] {
        assert_eq!(get(&acme, path).0, 403, "{path}");
    }
    for path in ["/v1/keys", "/v1/orders", "/v1/queue/flush", "/v1/reload"] {
        assert_eq!(tuma.post(path, &[("Authorization", &acme)], &json!({})).0, 403, "{path}");
    }

    // Stored templates are their own too.
    let template = json!({ "subject": "Hi {{ v }}", "text": "{{ v }}" }).to_string();
    let put = |token: &str, path: &str| {
        tuma.http_with(
            "PUT",
            path,
            &[("Authorization", token), ("Content-Type", "application/json")],
            &template,
        )
        .0
    };
    assert_eq!(put(&acme, "/v1/templates/welcome"), 200);
    assert_eq!(put(&globex, "/v1/templates/welcome?tenant=acme"), 403);
    assert_eq!(get(&globex, "/v1/templates/welcome").0, 404);
    assert_eq!(get(&globex, "/v1/templates").1, "[]");
    let of_template = |from: &str| {
        json!({ "from": from, "recipients": [{ "email": "t@x.test", "substitutions": { "v": "yes" } }],
            "content": { "template": "welcome" } })
    };
    assert_eq!(by(&globex, &of_template("a@globex.test")).0, 422);
    assert_eq!(by(&acme, &of_template("a@acme.test")).0, 202);
    tuma.wait_until_settled();
    assert!(arrived(&sink, "t@x.test").contains("Subject: Hi yes\r\n"));

    // One's limit is not the other's; idempotency keys do not meet.
    let four = json!({ "from": "a@acme.test", "recipients": ["1@x.test", "2@x.test", "3@x.test"], "content": { "text": "x" } });
    let (status, _, body) = tuma.http_with(
        "POST",
        "/v1/messages",
        &[("Authorization", &acme), ("Content-Type", "application/json")],
        &four.to_string(),
    );
    assert_eq!(status, 429, "{body}");
    let same = |token: &str, from: &str| {
        let fields = [("Authorization", token), ("Idempotency-Key", "k")];
        tuma.post("/v1/messages", &fields, &message(from, "same@x.test"))
    };
    let (a, g) = (same(&acme, "a@acme.test"), same(&globex, "a@globex.test"));
    assert_eq!((a.0, g.0), (202, 202), "{a:?} {g:?}");
    assert_ne!(a.1["id"], g.1["id"]);
}

#[test]
fn keys_open_what_they_are_for_and_nothing_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let tuma = Setup::relay(folder.path(), nobody()).start();
    let status =
        |method: &str, path: &str, fields: &[(&str, &str)]| tuma.http_with(method, path, fields, "").0;
    // Pages in a browser, and programs behind a proxy on this machine, are not this machine itself.
    for foreign in [
        ("Origin", "https://evil.test"),
        ("Host", "evil.test:8025"),
        ("X-Forwarded-For", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.9"),
    ] {
        assert_eq!(status("GET", "/v1/status", &[foreign]), 403, "{foreign:?}");
        assert_eq!(status("POST", "/v1/reload", &[foreign]), 403, "{foreign:?}");
        assert_eq!(status("POST", "/v1/messages", &[foreign]), 403, "{foreign:?}");
    }
    assert_eq!(status("GET", "/health", &[]), 200);
    let bearer = |body: Value| format!("Bearer {}", key(&tuma, body));
    let viewer = bearer(json!({ "name": "v", "role": "viewer" }));
    let operator = bearer(json!({ "name": "o", "role": "operator" }));
    let elsewhere = bearer(json!({ "name": "e", "role": "admin", "networks": ["192.0.2.0/24"] }));
    let brief = bearer(json!({ "name": "b", "role": "admin", "requests_per_minute_max": 2 }));
    let with = |token: &str, method: &str, path: &str| status(method, path, &[("Authorization", token)]);
    assert_eq!(with(&viewer, "GET", "/v1/status"), 200);
    assert_eq!(with(&viewer, "POST", "/v1/queue/flush"), 403);
    assert_eq!(with(&viewer, "POST", "/v1/messages"), 403);
    assert_eq!(with(&operator, "POST", "/v1/queue/flush"), 200);
    assert_eq!(with(&operator, "POST", "/v1/reload"), 403);
    assert_eq!(with(&elsewhere, "GET", "/v1/status"), 403);
    assert_eq!(
        [with(&brief, "GET", "/v1/status"), with(&brief, "GET", "/v1/keys"), with(&brief, "GET", "/v1/keys")],
        [200, 200, 429]
    );
    // A key that is no key does not fall back to being on this machine.
    assert_eq!(with("Bearer nonsense", "GET", "/v1/status"), 401);
    let (_, body) = tuma.http("GET", "/v1/keys", "");
    let keys: Value = serde_json::from_str(&body).unwrap();
    assert!(!body.contains("tuma_") && !body.contains("hash"), "{body}");
    let id = keys.as_array().unwrap().iter().find(|key| key["name"] == "v").unwrap()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(tuma.http("DELETE", &format!("/v1/keys/{id}"), "").0, 200);
    assert_eq!(with(&viewer, "GET", "/v1/status"), 401);
    // Whoever guesses is not listened to for a while, whatever he says then.
    for _ in 0..20 {
        with(&format!("Bearer tuma_{}_{}", "0".repeat(10), "a".repeat(52)), "GET", "/v1/status");
    }
    assert_eq!(with(&operator, "GET", "/v1/status"), 429);

    let (_, body) = tuma.http("GET", "/v1/audit", "");
    let audit: Value = serde_json::from_str(&body).unwrap();
    let audit = audit.as_array().unwrap();
    assert!(
        audit.iter().any(|line| line["path"] == "/v1/queue/flush" && line["status"] == 200),
        "{audit:#?}"
    );
    assert!(audit.iter().any(|line| line["method"] == "DELETE" && line["who"] == "loopback"), "{audit:#?}");
    assert!(!body.contains("tuma_"), "{body}");
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let tuma =
        Setup::relay_with(folder.path(), nobody(), "[delivery]\nrecipients_queued_max = 1000\n").start();
    let recipients: Vec<String> = (0..1_000).map(|n| format!("r{n}@x.test")).collect();
    let body =
        json!({ "from": "a@acme.test", "recipients": recipients, "content": { "text": "x" } }).to_string();
    let post = || tuma.http_with("POST", "/v1/messages", &[("Content-Type", "application/json")], &body);
    assert_eq!(post().0, 202);
    wait_until("it is queued", || tuma.figure("/recipients/queued") == 1_000);
    let (status, head, answer) = post();
    assert_eq!(status, 503, "{answer}");
    assert!(head.to_ascii_lowercase().contains("retry-after: "), "{head}");
}

#[test]
fn events_are_read_from_a_cursor_and_live() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = "[tenant.a]\n[tenant.b]\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let a = format!("Bearer {}", key(&tuma, json!({ "name": "a", "tenant": "a" })));
    let send = |tenant: &str, to: &str| {
        let body = json!({ "from": "a@acme.test", "tenant": tenant, "recipients": [to], "content": { "text": "x" } });
        assert_eq!(tuma.post("/v1/messages", &[], &body).0, 202);
        tuma.wait_until_settled();
    };
    let events = |query: &str, fields: &[(&str, &str)]| -> Value {
        let (status, _, body) = tuma.http_with("GET", &format!("/v1/events{query}"), fields, "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    send("a", "one@x.test");
    let first = events("", &[]);
    assert_eq!(first["events"].as_array().unwrap().len(), 2, "{first:#}");
    let after = format!("?after={}", first["next"].as_str().unwrap());
    assert_eq!(events(&after, &[])["events"], json!([]));
    send("b", "two@x.test");
    let second = events(&after, &[]);
    assert_eq!((&second["events"][0]["recipient"], &second["missed"]), (&json!("two@x.test"), &json!(false)));
    assert_eq!(events(&format!("{after}&kind=delivered"), &[])["events"].as_array().unwrap().len(), 1);
    // A tenant hears of its own mail, whatever it asks for.
    for query in ["", "?tenant=b", "?after=0-0"] {
        let own = events(query, &[("Authorization", &a)]);
        let all_own =
            own["events"].as_array().unwrap().iter().all(|event| event["recipient"] == "one@x.test");
        assert!(all_own, "{own:#}");
    }
    assert_eq!(events("?after=0-0", &[])["missed"], true);
    assert_eq!(tuma.http("GET", "/v1/events?after=x", "").0, 400);
    assert_eq!(tuma.http("GET", "/v1/events?kind=deliverd", "").0, 400);
    let live = format!(
        r#"
import http.client, json, sys
c = http.client.HTTPConnection("{}")
c.request("GET", "/v1/events?kind=delivered", headers={{"Accept": "text/event-stream", "Last-Event-ID": sys.argv[1]}})
r = c.getresponse()
assert r.status == 200 and r.getheader("content-type") == "text/event-stream", r.getheaders()
lines = [r.readline().decode().rstrip("\n") for _ in range(3)]
assert lines[0].startswith("id: ") and lines[1] == "event: delivered" and lines[2].startswith("data: "), lines
print(json.loads(lines[2][6:])["recipient"])
"#,
        tuma.http
    );
    assert_eq!(python(&live, &[first["next"].as_str().unwrap()]).trim(), "two@x.test");
}

#[test]
fn kumomta_s_form_is_taken_as_there() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let (status, answer) = tuma.post(
        "/api/inject/v1",
        &[],
        &json!({
            "envelope_sender": "noreply@acme.test",
            "content": {
                "text_body": "Hello {{ name }}, {{ thing }}", "html_body": "<p>{{ name }}</p>",
                "headers": { "X-Job": "{{ thing }}" },
                "from": { "email": "sales@acme.test", "name": "Sales" }, "subject": "For {{ name }}",
                "reply_to": { "email": "help@acme.test" },
                "attachments": [{ "data": "plain", "content_type": "text/plain", "file_name": "a.txt" }],
            },
            "recipients": [
                { "email": "a@x.test", "name": "Ann", "substitutions": { "thing": "one" } },
                { "email": "nowhere" },
                { "email": "b@x.test", "substitutions": { "name": "Bob", "thing": "two" } },
            ],
            "substitutions": { "unused": 1 },
            "deferred_generation": false,
        }),
    );
    let expected = json!({
        "success_count": 2, "fail_count": 1, "failed_recipients": ["nowhere"],
        "errors": ["nowhere: address needs a local part, an @ and a domain"],
    });
    assert_eq!((status, answer), (200, expected));
    let (status, answer) = tuma.post(
        "/api/inject/v1",
        &[],
        &json!({ "envelope_sender": "noreply@acme.test", "content": "Subject: hello\n\nHello there", "recipients": [{ "email": "c@x.test" }] }),
    );
    assert_eq!((status, &answer["success_count"]), (200, &json!(1)), "{answer:#}");
    tuma.wait_until_settled();
    let ann = arrived(&sink, "a@x.test");
    assert!(
        ann.contains("From: Sales <sales@acme.test>\r\n") && ann.contains("To: Ann <a@x.test>\r\n"),
        "{ann}"
    );
    assert!(
        ann.contains("Subject: For Ann\r\n")
            && ann.contains("Hello Ann, one")
            && ann.contains("X-Job: one\r\n"),
        "{ann}"
    );
    assert!(arrived(&sink, "b@x.test").contains("Hello Bob, two"));
    assert!(arrived(&sink, "c@x.test").ends_with("\r\n\r\nHello there\r\n"));
    let bad = json!({ "envelope_sender": "a@b.test", "content": "Subject: {{\n\nx", "recipients": [{ "email": "c@x.test" }] });
    assert_eq!(tuma.post("/api/inject/v1", &[], &bad).0, 422);
}

#[test]
fn sendgrid_s_own_library_sends_through_us() {
    let probe = &["-c", "import sendgrid"];
    if !crate::harness::has_program(
        "python3 with sendgrid",
        std::process::Command::new("python3").args(probe),
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let token = key(&tuma, json!({ "name": "sendgrid", "from_domains": ["acme.test"] }));
    let template = json!({ "subject": "Order {{ order }}", "html": "<p>{{ order }}</p>" }).to_string();
    let put = tuma.http_with("PUT", "/v1/templates/d-1", &[("Content-Type", "application/json")], &template);
    assert_eq!(put.0, 200, "{}", put.2);
    python(
        r#"
import base64, sys
import sendgrid
from sendgrid.helpers.mail import *
client = sendgrid.SendGridAPIClient(sys.argv[2], host="http://" + sys.argv[1])
m = Mail(from_email=("news@acme.test", "Acme"), to_emails=[("a@x.test", "Ann"), "b@x.test"], subject="Hi -name-",
         plain_text_content="Dear -name-", html_content="<p>-name-</p>")
m.add_cc("c@x.test"); m.add_bcc("d@x.test")
m.add_attachment(Attachment(FileContent(base64.b64encode(b"ABC").decode()), FileName("f.txt"), FileType("text/plain"), Disposition("attachment")))
m.personalizations[0].add_substitution(Substitution("-name-", "Friend"))
m.add_category(Category("spring")); m.add_custom_arg(CustomArg("order", "7"))
m.reply_to = "help@acme.test"
r = client.send(m)
assert r.status_code == 202 and r.headers.get("X-Message-Id") and not r.body, (r.status_code, r.body)
m = Mail(from_email="news@acme.test", to_emails="t@x.test")
m.template_id = "d-1"; m.dynamic_template_data = {"order": "<42>"}
assert client.send(m).status_code == 202
for bad in (Mail("news@other.test", "a@x.test", "s", "t"), Mail("news@acme.test", "a@x.test", "a\r\nBcc: z@x.test", "t")):
    try:
        client.send(bad)
        sys.exit("it was taken")
    except Exception as error:
        assert error.status_code in (400, 403) and b'"errors"' in error.body and b'"message"' in error.body, (error.status_code, error.body)
"#,
        &[&tuma.http.to_string(), &token],
    );
    tuma.wait_until_settled();
    let first = arrived(&sink, "d@x.test");
    assert!(first.contains("Subject: Hi Friend\r\n") && first.contains("Dear Friend"), "{first}");
    assert!(
        first.contains("To: Ann <a@x.test>, b@x.test\r\n") && first.contains("Cc: c@x.test\r\n"),
        "{first}"
    );
    assert!(!first.contains("d@x.test"), "{first}");
    let filled = arrived(&sink, "t@x.test");
    assert!(filled.contains("Subject: Order <42>\r\n") && filled.contains("<p>&lt;42&gt;</p>"), "{filled}");
    assert_eq!(sink.messages().iter().map(|message| message.recipients.len()).sum::<usize>(), 5);
}

#[test]
fn keys_are_made_and_taken_back_by_command() {
    let folder = tempfile::tempdir().unwrap();
    let tuma = Setup::relay_with(folder.path(), nobody(), "[tenant.acme]\n").start();
    let token = tuma.says(&["key", "new", "--name", "shop", "--tenant", "acme", "--expires", "90d"]);
    assert!(token.trim().starts_with("tuma_"), "{token}");
    let refused = tuma.refuses(&["key", "new", "--name", "x", "--tenant", "acmee"]);
    assert!(refused.contains("did you mean `acme`?"), "{refused}");
    assert!(
        tuma.refuses(&["key", "new", "--name", "x", "--role", "amdin"]).contains("did you mean `admin`?")
    );
    let keys = tuma.says_json(&["key", "ls"]);
    let id = keys[0]["id"].as_str().unwrap().to_owned();
    assert!(token.contains(&id) && tuma.says(&["key", "ls"]).contains("valid"));
    assert_eq!(tuma.says_json(&["tenant", "ls"])[0]["keys"], 1);
    tuma.says(&["key", "revoke", &id]);
    assert!(tuma.says(&["key", "ls"]).contains("revoked"));
}

/// Every example of the page is run as it stands, but for the address.
#[test]
fn the_examples_of_the_page_run() {
    let mut probe = std::process::Command::new("curl");
    if !crate::harness::has_program("curl", probe.arg("--version")) {
        return;
    }
    let page = std::fs::read_to_string(crate::harness::example("../docs/http.md")).expect("the page");
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let mut count = 0;
    for block in page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        let script = block.replace("127.0.0.1:8025", &tuma.http.to_string());
        let output = crate::harness::output_of(
            std::process::Command::new("bash").args(["-euo", "pipefail", "-c", &script]),
        );
        assert!(output.contains('{') || output.contains('['), "{block}\n{output}");
        count += 1;
    }
    assert!(count >= 8, "{count} examples");
    tuma.wait_until_settled();
    assert_eq!(
        sink.messages()
            .iter()
            .filter(|message| message.field("Subject").as_deref() == Some("Receipt"))
            .count(),
        1
    );
    assert!(
        sink.messages().iter().any(|message| message.field("Subject").as_deref() == Some("7 points, friend"))
    );
}

#[test]
fn powermta_s_status_has_the_keys_that_scripts_read() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let body = json!({ "from": "a@acme.test", "recipients": ["x@x.test"], "content": { "text": "x" } });
    assert_eq!(tuma.post("/v1/messages", &[], &body).0, 202);
    tuma.wait_until_settled();
    let (status, text) = tuma.http("GET", "/status?format=json", "");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status, 200, "{text}");
    for pointer in [
        "/status/traffic/total/in/rcp",
        "/status/traffic/total/out/msg",
        "/status/traffic/lastHr/in/rcp",
        "/status/traffic/lastMin/out/rcp",
    ] {
        assert_eq!(json.pointer(pointer), Some(&json!(1)), "{pointer} in {json:#}");
    }
    for pointer in [
        "/status/queue/smtp/rcp",
        "/status/queue/smtp/dom",
        "/status/conn/smtpIn/max",
        "/status/conn/smtpOut/cur",
        "/status/spool/files/total",
        "/status/traffic/topPerHr/in/kb",
    ] {
        assert!(json.pointer(pointer).is_some_and(Value::is_u64), "{pointer} in {json:#}");
    }
    let (status, xml) = tuma.http("GET", "/status?format=xml", "");
    assert!(
        status == 200
            && xml.contains("<total><in>")
            && xml.contains("<rcp>1</rcp>")
            && xml.ends_with("</data></rsp>\n"),
        "{xml}"
    );
    assert_eq!(tuma.http("GET", "/status?format=csv", "").0, 400);
}

/// Names of metrics in the files for Prometheus and Grafana are names that the server knows.
#[test]
fn alerts_and_dashboard_speak_of_metrics_that_exist() {
    let folder = tempfile::tempdir().unwrap();
    let tuma = Setup::relay(folder.path(), nobody()).start();
    let (_, text) = tuma.http("GET", "/metrics", "");
    let types: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let known = |name: &str| {
        types.iter().any(|(base, kind)| match *kind {
            "counter" => name.strip_suffix("_total") == Some(base),
            "histogram" => {
                name.strip_prefix(base).is_some_and(|rest| ["_bucket", "_sum", "_count"].contains(&rest))
            }
            _ => name == *base,
        })
    };
    for file in ["alerts.yaml", "grafana.json"] {
        let text = std::fs::read_to_string(crate::harness::example("prometheus").join(file)).unwrap();
        let names: std::collections::BTreeSet<&str> = text
            .split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
            .filter(|word| word.starts_with("tuma_"))
            .collect();
        assert!(names.len() >= 10, "{file}: {names:?}");
        let strange: Vec<&&str> = names.iter().filter(|name| !known(name)).collect();
        assert!(strange.is_empty(), "{file}: {strange:?} of\n{types:?}");
    }
    let dashboard = std::fs::read_to_string(crate::harness::example("prometheus/grafana.json")).unwrap();
    assert!(serde_json::from_str::<Value>(&dashboard).unwrap()["panels"].as_array().unwrap().len() >= 8);
}

#[test]
fn sendmail_hands_a_message_over() {
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let link = folder.path().join("sendmail");
    symlink(env!("CARGO_BIN_EXE_tuma"), &link).unwrap();
    let send = |arguments: &[&str], input: &[u8]| {
        let mut child = Command::new(&link)
            .args(arguments)
            .env("TUMA_LISTEN", tuma.smtp().to_string())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let message =
        b"To: Ann <a@x.test>\nCc: b@x.test\nBcc: c@x.test,\n d@x.test\nSubject: hi\n\n.\n..dots\nb\xfcro\n";
    assert_eq!(send(&["-t", "-oi", "-f", "me@acme.test"], message), (0, String::new()));
    assert_eq!(send(&["e@x.test"], b"Subject: short\n\nbefore\n.\nafter\n"), (0, String::new()));
    tuma.wait_until_settled();
    let messages = sink.messages();
    let whole = messages.iter().find(|message| message.recipients.len() == 4).expect("four recipients");
    assert_eq!(whole.reverse_path, "me@acme.test");
    assert!(
        whole.field("Bcc").is_none() && whole.field("Date").is_some() && whole.field("Message-ID").is_some()
    );
    assert!(whole.content.ends_with(b"\r\n\r\n.\r\n..dots\r\nb\xfcro\r\n"), "{:?}", whole.content);
    let short = arrived(&sink, "e@x.test");
    assert!(short.ends_with("\r\n\r\nbefore\r\n") && short.contains("\r\nFrom: <"), "{short}");
    assert_eq!(send(&["-t"], b"Subject: nobody\n\nx\n").0, 64);
    assert_eq!(send(&["not an address"], b"\n").0, 67);
    assert_eq!(send(&["-bp"], b"").0, 64);
}

#[test]
fn completions_and_manual_pages_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tuma")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).contains("sendmail"), "{shell}");
    }
    run(&["man", folder.path().to_str().unwrap()]);
    let page = std::fs::read_to_string(folder.path().join("tuma-key.1")).unwrap();
    assert!(page.contains("API keys"), "{page}");
}
