//! Tenants made at run time, and tenants that attack each other.

use crate::harness::{Setup, Tuma, keeping, nobody, sink};
use serde_json::{Value, json};

/// A tenant's key as the field that carries it.
struct By(String);

impl By {
    fn new(tuma: &Tuma, tenant: &str, role: &str) -> Self {
        let made = tuma.says_json(&["key", "new", "--name", tenant, "--tenant", tenant, "--role", role]);
        Self(format!("Bearer {}", made["token"].as_str().expect("a token")))
    }

    fn ask(&self, tuma: &Tuma, method: &str, path: &str, body: &Value) -> (u16, String) {
        let fields = [("Authorization", self.0.as_str()), ("Content-Type", "application/json")];
        let (status, _, text) = tuma.http_with(method, path, &fields, &body.to_string());
        (status, text)
    }

    fn send(&self, tuma: &Tuma, from: &str, recipients: usize) -> u16 {
        let to: Vec<String> = (0..recipients).map(|n| format!("r{n}@x.test")).collect();
        let body =
            json!({ "from": from, "recipients": to, "content": { "to": ["all@x.test"], "text": "x" } });
        self.ask(tuma, "POST", "/v1/messages", &body).0
    }
}

#[test]
fn tenants_come_and_go_while_the_server_runs() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let setup = Setup::relay_with(folder.path(), sink.addr(), "[tenant.declared]\n[source.one]\n");
    let mut tuma = setup.start();
    let said = tuma.says(&["tenant", "new", "acme", "--from-domain", "acme.test", "--per-hour", "10"]);
    assert!(said.contains("tuma key new --name NAME --tenant acme"), "{said}");
    let acme = By::new(&tuma, "acme", "sender");
    assert_eq!(acme.send(&tuma, "a@globex.test", 1), 403);
    assert_eq!(acme.send(&tuma, "a@acme.test", 6), 202);
    tuma.says(&["tenant", "suspend", "acme"]);
    assert_eq!(acme.send(&tuma, "a@acme.test", 1), 403);
    tuma.says(&["tenant", "resume", "acme"]);

    // What is declared is changed where it is declared; what is wrong is said with its place.
    let said = tuma.refuses(&["tenant", "change", "declared", "--per-hour", "5"]);
    assert!(said.contains("declared in the configuration"), "{said}");
    let said = tuma.refuses(&["tenant", "rm", "declared"]);
    assert!(said.contains("declared in the configuration"), "{said}");
    let said = tuma.refuses(&["tenant", "new", "globex", "--pool", "onw"]);
    assert!(said.contains("did you mean `one`?"), "{said}");
    let said = tuma.refuses(&["tenant", "change", "acmee", "--per-day", "5"]);
    assert!(said.contains("did you mean `acme`?"), "{said}");

    // Stopped or killed, what was counted stays counted, and so does the tenant.
    tuma.stop();
    tuma = setup.start();
    let shown = tuma.says_json(&["tenant", "show", "acme"]);
    assert_eq!((&shown["recipients_this_hour"], &shown["declared"]), (&json!(6), &json!(false)), "{shown}");
    assert_eq!(acme.send(&tuma, "a@acme.test", 5), 429);
    assert_eq!(acme.send(&tuma, "a@acme.test", 4), 202);
    tuma.kill();
    tuma = setup.start();
    assert_eq!(acme.send(&tuma, "a@acme.test", 1), 429);
    tuma.says(&["tenant", "change", "acme", "--per-hour", "11"]);
    assert_eq!(acme.send(&tuma, "a@acme.test", 1), 202);
    tuma.says(&["tenant", "change", "acme", "--per-hour", "none"]);
    assert_eq!(acme.send(&tuma, "a@acme.test", 100), 202);

    // A reload forgets none of them.
    tuma.signal("HUP");
    let (status, text) = tuma.http("POST", "/v1/reload", "");
    assert_eq!(status, 200, "{text}");
    assert_eq!(acme.send(&tuma, "a@globex.test", 1), 403);

    // Whoever gets the name next finds nothing of what was another's.
    assert_eq!(acme.ask(&tuma, "PUT", "/v1/templates/welcome", &json!({ "text": "x" })).0, 200);
    let said = tuma.says(&["tenant", "rm", "acme"]);
    assert!(said.contains("1 of its keys taken back, 1 templates deleted"), "{said}");
    assert_eq!(acme.send(&tuma, "a@acme.test", 1), 401);
    tuma.says(&["tenant", "new", "acme", "--per-hour", "10"]);
    let next = By::new(&tuma, "acme", "sender");
    assert_eq!(next.ask(&tuma, "GET", "/v1/templates", &Value::Null).1, "[]");
    assert_eq!(next.send(&tuma, "a@acme.test", 10), 202);

    // All of it is in the log of changes.
    let (_, audit) = tuma.http("GET", "/v1/audit?max=1000", "");
    let audit: Vec<Value> = serde_json::from_str(&audit).unwrap();
    for (method, path, status) in [
        ("PUT", "/v1/tenants/acme", 201),
        ("PATCH", "/v1/tenants/acme", 200),
        ("PATCH", "/v1/tenants/declared", 409),
        ("DELETE", "/v1/tenants/acme", 200),
    ] {
        let found =
            |line: &&Value| line["method"] == method && line["path"] == path && line["status"] == status;
        assert!(audit.iter().any(|line| found(&line)), "{method} {path} {status}");
    }
}

/// Whatever the calls, an attacker with the best key that a tenant can have reads and moves nothing of another's.
/// Attacks 51 and 57, from within.
#[test]
fn a_tenant_s_admin_gets_nowhere_near_another_tenant() {
    let folder = tempfile::tempdir().unwrap();
    let tuma = Setup::relay(folder.path(), nobody()).start();
    for name in ["victim", "attacker"] {
        tuma.says(&["tenant", "new", name, "--from-domain", &format!("{name}.test")]);
    }
    let (victim, attacker) = (By::new(&tuma, "victim", "admin"), By::new(&tuma, "attacker", "admin"));
    let mail = json!({ "from": "a@victim.test", "recipients": ["secret@x.test"], "campaign": "secret-campaign",
        "content": { "text": "x" } });
    let (status, sent) = victim.ask(&tuma, "POST", "/v1/messages", &mail);
    assert_eq!(status, 202, "{sent}");
    let id = serde_json::from_str::<Value>(&sent).unwrap()["id"].as_str().unwrap().to_owned();
    let stored = json!({ "subject": "secret-subject", "text": "x" });
    assert_eq!(victim.ask(&tuma, "PUT", "/v1/templates/welcome", &stored).0, 200);
    tuma.says(&["suppression", "add", "--tenant", "victim", "secret-suppressed@x.test"]);

    // Every call that there is, asked about the victim, as a query and in the body too.
    let (_, document) = tuma.http("GET", "/v1/openapi.json", "");
    let document: Value = serde_json::from_str(&document).unwrap();
    let body = json!({ "tenant": "victim", "name": "victim", "address": "new@x.test",
        "addresses": ["secret-suppressed@x.test"], "campaign": "secret-campaign", "from": "a@victim.test",
        "recipients": ["a@x.test"], "content": { "template": "welcome" } });
    let mut open = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let place = if path.contains("templates") { "welcome" } else { "victim" };
        let asked = path
            .replace("{id}", if path.contains("messages") { &id } else { "1" })
            .replace("{name}", place)
            .replace("{version}", "1")
            .replace("{token}", "x");
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            for query in
                ["", "?tenant=victim", "?campaign=secret-campaign", "?address=secret-suppressed@x.test"]
            {
                let (status, text) = attacker.ask(&tuma, &method, &format!("{asked}{query}"), &body);
                assert!(!text.contains("secret-"), "{method} {asked}{query}: {text}");
                assert!(!text.contains("secret@x.test"), "{method} {asked}{query}: {text}");
                if status < 300 {
                    open.push(format!("{method} {path}"));
                }
            }
        }
    }
    // What answers at all is what is the attacker's own, or nobody's.
    open.dedup();
    assert_eq!(open, ["GET /health", "GET /v1/events", "GET /v1/openapi.json", "GET /v1/templates",]);

    // What is the victim's is as it was.
    assert_eq!(victim.ask(&tuma, "GET", "/v1/templates/welcome", &Value::Null).0, 200);
    assert_eq!(victim.ask(&tuma, "GET", "/v1/tenants/victim", &Value::Null).0, 200);
    assert_eq!(victim.ask(&tuma, "GET", &format!("/v1/messages/{id}"), &Value::Null).0, 200);
    let (_, list) = tuma.http("GET", "/v1/suppressions?tenant=victim&address=secret-suppressed@x.test", "");
    assert!(list.contains("\"suppressed\":true"), "{list}");
    assert_eq!(tuma.figure("/recipients/queued"), 1);
}
