//! Keys kept in a Vault that answers over a real socket, goes away, and comes back.

use crate::harness::{Setup, Tuma, fixed_address, keeping, sink, wait_until};
use bench::sink::SinkHandle;
use mailauth::dkim::SigningKey;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// A server with one secret, at `/v1/secret/data/dkim`, for those who have the token `right`.
struct Vault {
    at: SocketAddr,
    key: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    task: Option<std::thread::JoinHandle<()>>,
}

impl Vault {
    fn start(at: SocketAddr, key: &str) -> Self {
        let listener = TcpListener::bind(at).expect("bind");
        let mut vault =
            Self { at, key: Arc::new(Mutex::new(key.to_owned())), stop: Arc::default(), task: None };
        let (key, stop) = (vault.key.clone(), vault.stop.clone());
        vault.task = Some(std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Relaxed) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let mut lines = Vec::new();
                let mut reader = BufReader::new(stream.try_clone().expect("clone"));
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap_or(0) < 3 {
                        break;
                    }
                    lines.push(line.trim().to_ascii_lowercase());
                }
                let right = lines.iter().any(|line| line == "x-vault-token: right");
                let found = lines.first().is_some_and(|line| line == "get /v1/secret/data/dkim http/1.1");
                let data = serde_json::json!({ "data": { "data": { "pem": *key.lock().unwrap() } } });
                let (status, body) = match (right, found) {
                    (false, _) => ("403 Forbidden", r#"{"errors":["permission denied"]}"#.to_owned()),
                    (_, false) => ("404 Not Found", r#"{"errors":[]}"#.to_owned()),
                    _ => ("200 OK", data.to_string()),
                };
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(head.as_bytes());
            }
        }));
        vault
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = std::net::TcpStream::connect(self.at);
        if let Some(task) = self.task.take() {
            let _ = task.join();
        }
    }
}

fn pem() -> (String, String) {
    let key = SigningKey::generate_ed25519().unwrap();
    (key.to_pem().unwrap(), key.record())
}

/// Sends a message and tells whether the key of this record signed it.
fn signs(tuma: &Tuma, sink: &SinkHandle, record: &str) -> bool {
    let before = sink.messages().len();
    tuma.greeted().taken("x@a.test", "y@d.test", "From: x@a.test\r\n");
    wait_until("it has arrived", || sink.messages().len() > before);
    verified(&sink.messages().pop().unwrap().content, record)
}

fn verified(message: &[u8], record: &str) -> bool {
    let policy = mailauth::dkim::VerifyPolicy::default();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut machine = mailauth::dkim::Verifier::of(message, &policy, now);
    machine
        .answer("s._domainkey.a.test", &mailauth::dkim::KeyAnswer::Records(vec![record.as_bytes().to_vec()]));
    let verified = machine.finish();
    verified.len() == 1 && verified[0].reason.is_none()
}

#[test]
fn keys_in_vault_are_fetched_changed_and_kept_while_it_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let ((first, first_record), (second, second_record)) = (pem(), pem());
    let vault = Vault::start(fixed_address(), &first);
    let at = vault.at;
    let token = folder.path().join("token");
    std::fs::write(&token, "right\n").unwrap();
    let sink = sink(keeping());
    let more = format!(
        "[vault]\naddress = \"http://{at}\"\ntoken_file = \"{}\"\ntimeout = \"2s\"\n[signing]\nkey_check = \"1s\"\n\
        [dkim.v]\ndomain = \"a.test\"\nselector = \"s\"\nkey_vault = \"secret/dkim#pem\"\n",
        token.display()
    );
    let setup = Setup::relay_with(folder.path(), sink.addr(), &more);
    let tuma = setup.start();
    assert!(signs(&tuma, &sink, &first_record), "fetched before the first message");

    second.clone_into(&mut vault.key.lock().unwrap());
    tuma.says(&["reload"]);
    assert!(signs(&tuma, &sink, &second_record), "fetched again at a reload");
    first.clone_into(&mut vault.key.lock().unwrap());
    wait_until("it is fetched from time to time", || {
        tuma.log().matches("a DKIM key from Vault is used").count() == 3
    });
    assert!(signs(&tuma, &sink, &first_record));

    // What is no key, and a token that is not taken, change nothing.
    "no key".clone_into(&mut vault.key.lock().unwrap());
    wait_until("it is told of", || tuma.log().contains("what Vault has is no DKIM key to sign with"));
    std::fs::write(&token, "wrong").unwrap();
    wait_until("it is told of", || tuma.log().contains("Vault answered 403"));
    drop(vault);
    wait_until("it is told of", || tuma.log().contains("Vault cannot be asked"));
    tuma.says(&["reload"]);
    assert!(signs(&tuma, &sink, &first_record), "the old key is kept while Vault is away");
    assert!(!tuma.log().contains("right"), "{}", tuma.log());
    tuma.stop();

    // A start without Vault: mail is taken, and waits for its key.
    std::fs::write(&token, "right").unwrap();
    let tuma = setup.start();
    let before = sink.messages().len();
    tuma.greeted().taken("x@a.test", "y@d.test", "From: x@a.test\r\n");
    wait_until("it waits and says why", || {
        tuma.says(&["queue", "ls"]).contains("451 4.7.5 not signed: dkim.v has no key: Vault cannot be asked")
    });
    assert_eq!(sink.messages().len(), before);
    let _vault = Vault::start(at, &second);
    tuma.wait_until_settled();
    assert!(verified(&sink.messages().pop().unwrap().content, &second_record));
    tuma.stop();
}
