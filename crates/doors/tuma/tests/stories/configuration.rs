//! The configuration over HTTP: read, validated, applied, taken back.

use crate::harness::{Setup, Tuma, example, keeping, sink};
use serde_json::{Value, json};
use std::path::Path;

fn asked(tuma: &Tuma, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> (u16, Value) {
    let (status, _, text) = tuma.http_with(method, path, fields, body);
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} {text}")))
}

#[test]
fn a_configuration_is_put_in_force_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = "[users.ann]\npassword = \"wonderland-7\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let file = folder.path().join("with.toml");
    let before = std::fs::read_to_string(&file).unwrap();

    let (status, shown) = asked(&tuma, "GET", "/v1/config", &[], "");
    assert_eq!(status, 200, "{shown:#}");
    assert!(!shown.to_string().contains("wonderland"), "{shown:#}");
    let text = shown["text"].as_str().unwrap().to_owned();
    let fingerprint = shown["fingerprint"].as_str().unwrap();

    // A mistake is told with its place and changes nothing, whether it is only asked about or meant.
    let wrong = text.replace("hostname =", "hostnam =");
    for (method, path) in [("POST", "/v1/config/validate"), ("PUT", "/v1/config")] {
        let (status, said) = asked(&tuma, method, path, &[], &wrong);
        let detail = said["detail"].as_str().unwrap();
        assert_eq!(status, 422, "{said:#}");
        assert!(detail.contains("with.toml:") && detail.contains("hostname"), "{detail}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);

    let new = format!("{text}[tenant.acme]\nfrom_domains = [\"acme.test\"]\n");
    let (status, said) = asked(&tuma, "POST", "/v1/config/validate", &[], &new);
    assert_eq!((status, &said["valid"]), (200, &json!(true)), "{said:#}");
    let (status, said) = asked(&tuma, "PUT", "/v1/config", &[("If-Match", "\"0000000000000000\"")], &new);
    assert_eq!(status, 412, "{said:#}");
    let fields = [("If-Match", fingerprint)];
    let (status, said) = asked(&tuma, "PUT", "/v1/config?reason=a%20tenant", &fields, &new);
    assert_eq!((status, &said["replaced"]), (200, &json!(1)), "{said:#}");
    let (_, tenants) = asked(&tuma, "GET", "/v1/tenants", &[], "");
    assert_eq!(tenants[0]["tenant"], "acme", "it is in force");
    let now = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        now,
        format!("{before}[tenant.acme]\nfrom_domains = [\"acme.test\"]\n"),
        "the secret is as it was"
    );

    let (_, history) = asked(&tuma, "GET", "/v1/config/history", &[], "");
    assert_eq!((&history[0]["version"], &history[0]["reason"]), (&json!(1), &json!("a tenant")));
    let (_, earlier) = asked(&tuma, "GET", "/v1/config/history/1", &[], "");
    assert_eq!(earlier["text"], text, "and here too secrets are hidden");
    let (status, said) = asked(&tuma, "POST", "/v1/config/rollback", &[], "");
    assert_eq!((status, &said["replaced"]), (200, &json!(2)), "{said:#}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    let (_, tenants) = asked(&tuma, "GET", "/v1/tenants", &[], "");
    assert_eq!(tenants, json!([]));
    assert_eq!(asked(&tuma, "POST", "/v1/config/rollback", &[], "{\"version\": 9}").0, 404);

    // Who changed it is written down, its secrets are not.
    let written = new.replace("\"(hidden)\"", "\"looking-glass-9\"");
    assert_eq!(asked(&tuma, "PUT", "/v1/config", &[], &written).0, 200);
    let (_, audit) = asked(&tuma, "GET", "/v1/audit", &[], "");
    assert_eq!((&audit[0]["method"], &audit[0]["path"]), (&json!("PUT"), &json!("/v1/config")));
    assert!(!audit.to_string().contains("looking-glass") && !tuma.log().contains("looking-glass"));
    // An operator may give orders, and may not do this.
    let (_, key) = tuma.post("/v1/keys", &[], &json!({ "name": "ops", "role": "operator" }));
    let bearer = format!("Bearer {}", key["token"].as_str().unwrap());
    for (method, path) in [("GET", "/v1/config"), ("PUT", "/v1/config"), ("POST", "/v1/config/rollback")] {
        assert_eq!(
            asked(&tuma, method, path, &[("Authorization", &bearer)], &text).0,
            403,
            "{method} {path}"
        );
    }
}

#[test]
fn a_file_named_without_a_folder_is_replaced_too() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(example("relay.toml"), folder.path().join("own.toml")).unwrap();
    // The server runs in the folder.
    let tuma = Setup::new(Path::new("own.toml"), folder.path()).start();
    let (_, shown) = asked(&tuma, "GET", "/v1/config", &[], "");
    let new = format!("{}[tenant.acme]\n", shown["text"].as_str().unwrap());
    let (status, said) = asked(&tuma, "PUT", "/v1/config", &[], &new);
    assert_eq!((status, &said["replaced"]), (200, &json!(1)), "{said:#}");
    assert_eq!(asked(&tuma, "GET", "/v1/tenants", &[], "").1[0]["tenant"], "acme", "it is in force");
}
