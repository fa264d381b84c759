//! A server that answers as Vault does, over a real socket.

use super::*;
use settings::Text;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Answers one request with these octets; gives what it was asked.
async fn server(answer: Vec<u8>) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut octets = [0; 1024];
            match stream.read(&mut octets).await.unwrap() {
                0 => break,
                count => asked.extend_from_slice(&octets[..count]),
            }
        }
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
        String::from_utf8(asked).unwrap()
    });
    (address, task)
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn config(address: &str) -> Config {
    let address = Some(Text(address.parse().unwrap()));
    Config { address, token: Some("s.token".into()), ..Config::default() }
}

/// What is read of a server that answers so, and what it was asked.
async fn read(answer: Vec<u8>) -> (Result<String, VaultError>, String) {
    let (address, task) = server(answer).await;
    let vault = Vault::new(&config(&address), None).unwrap();
    let read = vault.read(&"secret/mail/dkim#pem".parse().unwrap()).await;
    (read, task.await.unwrap())
}

#[tokio::test]
async fn a_field_of_a_secret() {
    let body = r#"{"request_id":"x","data":{"data":{"pem":"the key\n","other":1},"metadata":{"version":3}}}"#;
    let (read, asked) = read(ok(body)).await;
    assert_eq!(read.as_deref(), Ok("the key\n"));
    assert!(asked.starts_with("GET /v1/secret/data/mail/dkim HTTP/1.1\r\n"), "{asked}");
    assert!(asked.to_ascii_lowercase().contains("\r\nx-vault-token: s.token\r\n"), "{asked}");
}

#[tokio::test]
async fn what_is_no_secret() {
    for (answer, expected) in [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_vec(), VaultError::Refused(403)),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(), VaultError::Refused(404)),
        (b"HTTP/1.1 503 Sealed\r\nContent-Length: 0\r\n\r\n".to_vec(), VaultError::Refused(503)),
        // A redirect would carry the token to somebody else.
        (
            b"HTTP/1.1 307 x\r\nLocation: http://b.test/\r\nContent-Length: 0\r\n\r\n".to_vec(),
            VaultError::Refused(307),
        ),
        (ok("{}"), VaultError::Answer),
        (ok("<html>"), VaultError::Answer),
        (ok(r#"{"data":{"data":null}}"#), VaultError::Field),
        (ok(r#"{"data":{"data":{"pem":7}}}"#), VaultError::Field),
    ] {
        assert_eq!(read(answer.clone()).await.0, Err(expected), "{}", String::from_utf8_lossy(&answer));
    }
    let long = read(ok(&" ".repeat(ANSWER_MAX_OCTETS + 1))).await.0;
    assert!(matches!(long, Err(VaultError::Away(_))), "{long:?}");
    assert!(matches!(read(b"garbage\r\n\r\n".to_vec()).await.0, Err(VaultError::Away(_))));
    assert!(matches!(read(Vec::new()).await.0, Err(VaultError::Away(_))));
}

#[tokio::test]
async fn a_vault_that_says_nothing_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let config = Config { timeout: Duration::from_millis(100), ..config(&address) };
    let vault = Vault::new(&config, None).unwrap();
    let read = vault.read(&"secret/a".parse().unwrap()).await;
    assert_eq!(read, Err(VaultError::Away("no answer in time".into())));
}

#[tokio::test]
async fn a_token_in_a_file_is_read_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let path = "secret/a".parse().unwrap();
    for token in ["first\n", "second"] {
        std::fs::write(&file, token).unwrap();
        let (address, task) = server(ok(r#"{"data":{"data":{"key":"k"}}}"#)).await;
        let config = Config {
            token: None,
            token_file: Some(file.clone()),
            namespace: Some("ns1".into()),
            ..config(&address)
        };
        let vault = Vault::new(&config, None).unwrap();
        assert_eq!(vault.read(&path).await.as_deref(), Ok("k"));
        let asked = task.await.unwrap().to_ascii_lowercase();
        assert!(asked.contains(&format!("x-vault-token: {}\r\n", token.trim())), "{asked}");
        assert!(asked.contains("x-vault-namespace: ns1\r\n"), "{asked}");
    }
    std::fs::write(&file, "\n").unwrap();
    let config = Config { token: None, token_file: Some(file), ..config("http://127.0.0.1:1") };
    let read = Vault::new(&config, None).unwrap().read(&path).await;
    assert!(matches!(read, Err(VaultError::Token(_))), "{read:?}");
}
