//! Webhooks of a running server: what it records is posted, signed, over restarts of either side.

use crate::harness::{Setup, keeping, nobody, send, sink, wait_until};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// Takes posts and keeps their bodies.
fn taking(listener: TcpListener) -> Arc<Mutex<Vec<(String, Value)>>> {
    let kept: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
    let keeping = kept.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (mut text, mut octets) = (Vec::new(), [0; 8_192]);
            let body = loop {
                match stream.read(&mut octets) {
                    Ok(count) if count > 0 => text.extend_from_slice(&octets[..count]),
                    _ => break None,
                }
                let so_far = String::from_utf8_lossy(&text).into_owned();
                let Some((head, body)) = so_far.split_once("\r\n\r\n") else { continue };
                let head = head.to_ascii_lowercase();
                let length =
                    head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
                if body.len() >= length.unwrap_or(0usize) {
                    break Some((head, serde_json::from_str(body).expect("JSON")));
                }
            };
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            keeping.lock().unwrap().extend(body);
        }
    });
    kept
}

#[test]
fn what_is_recorded_is_posted_also_when_the_endpoint_was_away() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    // Nobody answers there yet.
    let address = nobody();
    let more = format!(
        "[webhook.crm]\nurl = \"http://{address}/in\"\nsecret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n\
         events = [\"delivered\"]\nbatch_wait = \"0s\"\nwaits = [\"100ms\"]\n"
    );
    let setup = Setup::relay_with(folder.path(), sink.addr(), &more);
    let tuma = setup.start();
    send(&tuma, "to@there.test", 20);
    tuma.wait_until_settled();
    wait_until("the endpoint is known to be away", || {
        tuma.says(&["webhook", "ls"]).contains("not taken since")
    });
    let refused = tuma.refuses(&["webhook", "replay", "cmr"]);
    assert!(refused.contains("did you mean `crm`?"), "{refused}");
    tuma.stop();
    let kept = taking(TcpListener::bind(address).unwrap());
    let tuma = setup.start();
    let count = || -> usize {
        let kept = kept.lock().unwrap();
        kept.iter().map(|(_, body)| body["data"].as_array().map_or(0, Vec::len)).sum()
    };
    wait_until("all of it was posted", || count() == 20);
    {
        let kept = kept.lock().unwrap();
        let (head, body) = &kept[0];
        assert!(head.contains("webhook-signature: v1,") && head.contains("webhook-id: crm_"), "{head}");
        assert_eq!(body["data"][0]["kind"], "delivered");
        assert_eq!(body["data"][0]["recipient"], "to@there.test");
    }
    wait_until("nothing waits", || tuma.says(&["webhook", "ls"]).contains(" 0 octets wait, 0 put aside"));
    assert_eq!(tuma.says(&["webhook", "dead", "crm"]), "");
    tuma.says(&["webhook", "replay", "--all", "crm"]);
    wait_until("all of it was posted again", || count() == 40);
    tuma.stop();
}
