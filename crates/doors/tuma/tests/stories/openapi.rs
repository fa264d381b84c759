//! The OpenAPI document, and a running server asked by it.

use crate::harness::{Setup, Tuma, has_program, keeping, nobody, send, sink};
use serde_json::{Value, json};
use std::process::Command;

/// Requests of each kind and call.
const EXAMPLES_MAX: &str = "8";

/// So that lists are not empty.
const SOMETHING_OF_EACH: &str = r#"
[source.main]
[pool.shared]
sources = { main = 1 }
[tenant.acme]
from_domains = ["acme.test"]
pools = ["shared"]
[webhook.crm]
url = "http://127.0.0.1:9/"
"#;

#[test]
fn schemathesis_finds_nothing_that_the_document_does_not_say() {
    if !has_program("schemathesis", Command::new("schemathesis").arg("--version")) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let more = |open: bool| format!("[http]\nloopback_trusted = {open}\n{SOMETHING_OF_EACH}");
    let tuma = Setup::relay_with(folder.path(), nobody(), &more(true)).start();
    let (status, key) = tuma.post("/v1/keys", &[], &json!({ "name": "schemathesis", "role": "admin" }));
    assert_eq!(status, 201, "{key:#}");
    let key = format!("Authorization: Bearer {}", key["token"].as_str().unwrap());
    send(&tuma, "waits@far.test", 2);
    tuma.says(&["order", "hold", "--tenant", "acme"]);
    tuma.stop();
    // From here on nobody gets in without a key.
    let tuma = Setup::relay_with(folder.path(), nobody(), &more(false)).start();
    every_call_asks_for_a_key(&tuma);
    let document = format!("http://{}/v1/openapi.json", tuma.http);
    let mut command = Command::new("schemathesis");
    command.args(["run", &document, "--header", &key, "--checks", "all"]);
    // What an address, a network or a name is cannot be said in a schema: right requests may be refused.
    // Wrong keys, of which there would be too many, are tried by others.
    command.args(["--exclude-checks", "positive_data_acceptance,ignored_auth"]);
    // It would take its own key back.
    command.args(["--exclude-operation-id", "delete_v1_keys_id"]);
    command.args(["--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES_MAX, "--seed", "1"]);
    command.args(["--generation-database", "none", "--no-color"]).current_dir(folder.path());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Every call but those that say so refuses one who has no key.
fn every_call_asks_for_a_key(tuma: &Tuma) {
    let (_, text) = tuma.http("GET", "/v1/openapi.json", "");
    let document: Value = serde_json::from_str(&text).unwrap();
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path = path.replace("{id}", "0").replace("{name}", "x").replace("{version}", "1");
            let (status, answer) = tuma.http(&method.to_ascii_uppercase(), &path, "");
            let open = operation["security"] == json!([]);
            assert_eq!(status == 401, !open, "{method} {path}: {status} {answer}");
            asked += 1;
        }
    }
    assert!(asked > 40, "{asked}");
}

#[test]
fn the_command_and_the_server_give_the_same_document() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    let (status, text) = tuma.http("GET", "/v1/openapi.json", "");
    assert_eq!(status, 200);
    let served: Value = serde_json::from_str(&text).unwrap();
    let printed: Value = serde_json::from_str(&tuma.says(&["openapi"])).unwrap();
    assert_eq!(served, printed);
    assert_eq!(served["openapi"], "3.1.0");
    // Every operation says what it answers, who may, and how it says no.
    let methods =
        served["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
    for operation in methods {
        let id = &operation["operationId"];
        let answers = operation["responses"].as_object().unwrap();
        assert!(answers.keys().any(|status| status.starts_with('2')), "{id}");
        let open = operation["security"] == json!([]);
        assert_eq!(answers.contains_key("401"), !open, "{id}");
    }
    // A method that a path does not take is refused with those it takes.
    let (status, head, body) = tuma.http_with("DELETE", "/v1/status", &[], "");
    assert_eq!(status, 405, "{body}");
    assert!(head.to_ascii_lowercase().contains("allow: get"), "{head}");
    assert!(body.contains("\"status\":405"), "{body}");
}
