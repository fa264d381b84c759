use super::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

fn target(url: &str) -> Arc<Target> {
    Arc::new(Target {
        url: url.parse().expect("a URL"),
        tls: None,
        timeout: Duration::from_secs(10),
        waits: vec![Duration::ZERO, Duration::ZERO],
        server: "mx.test".into(),
    })
}

fn notice(text: &str) -> Notice {
    Notice {
        time: "2026-03-01T10:00:05.123Z".into(),
        about: "a to b".into(),
        text: text.into(),
        ..Notice::default()
    }
}

/// Reads one request, head and body, and answers.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
    let mut text = Vec::new();
    loop {
        let mut octets = [0; 1024];
        let read = stream.read(&mut octets).await.expect("read");
        text.extend_from_slice(&octets[..read]);
        let so_far = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = so_far.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
            if body.len() >= length.expect("a length").parse::<usize>().expect("a number") {
                break;
            }
        }
        assert!(read > 0, "the request ended early: {so_far}");
    }
    stream.write_all(answer.as_bytes()).await.expect("answer");
    stream.shutdown().await.expect("end");
    String::from_utf8(text).expect("text")
}

/// Posts one notice to a server that gives these answers in turn; how many were asked for, and how it ended.
async fn posted(answers: &[&str]) -> (Vec<String>, Result<(), Failure>, Tally) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let url = format!("http://{}/hook?k=v", listener.local_addr().expect("an address"));
    let tally = Tally::default();
    let mut requests = Vec::new();
    let target = target(&url);
    let notice = notice("it\r\nhappened \"again\"");
    tokio::select! {
        () = deliver(&target, &notice, &tally) => {}
        () = async {
            for answer in answers {
                let (stream, _) = listener.accept().await.expect("a connection");
                requests.push(serve(stream, answer).await);
            }
            std::future::pending().await
        } => {}
    }
    let ended = if tally.posted.load(Relaxed) == 1 { Ok(()) } else { Err(Failure::ForGood(String::new())) };
    (requests, ended, tally)
}

#[tokio::test]
async fn a_notice_is_posted_as_json() {
    let (requests, ended, _) = posted(&["HTTP/1.1 204 No Content\r\n\r\n"]).await;
    assert!(ended.is_ok());
    let (head, body) = requests[0].split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("POST /hook?k=v HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body["text"], "it\r\nhappened \"again\"");
    assert_eq!((&body["server"], &body["about"]), (&"mx.test".into(), &"a to b".into()));
    assert_eq!((&body["site"], &body["suppressed"]), (&serde_json::Value::Null, &0.into()));
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_will_not_is_not() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let busy = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
    let slow_down = "HTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n";
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    for (answers, tries, is_posted) in [
        (vec![busy, slow_down, ok], 3, true),
        (vec![busy, busy, busy, ok], 3, false),
        (vec!["HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n", ok], 1, false),
        (
            vec!["HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", ok],
            1,
            false,
        ),
        (vec!["220 this is no web server\r\n", "", ok], 3, true),
        (vec![&long, ok], 2, true),
    ] {
        let (requests, ended, tally) = posted(&answers).await;
        assert_eq!((requests.len(), ended.is_ok()), (tries, is_posted), "{answers:.40?}");
        assert_eq!(tally.posted.load(Relaxed) + tally.failed.load(Relaxed), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_never_answers_costs_its_timeout_and_no_more_notices_than_the_queue_holds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let target = target(&format!("http://{}/", listener.local_addr().expect("an address")));
    let webhook = Webhook::start();
    let taken = (0..1_000).filter(|n| webhook.post(&target, notice(&n.to_string()))).count();
    assert_eq!(taken, PENDING_MAX);
    assert_eq!(webhook.tally().dropped.load(Relaxed), 1_000 - PENDING_MAX as u64);
    // Time passes by itself as long as nothing else happens; each takes three tries of ten seconds.
    while webhook.tally().failed.load(Relaxed) < 3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(webhook.tally().posted.load(Relaxed), 0);
}

#[tokio::test]
async fn https_asks_for_a_certificate_that_is_good() {
    let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).expect("a key");
    let server = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key)
        .expect("a configuration");
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let port = listener.local_addr().expect("an address").port();
    for trusts in [true, false] {
        let mut roots = rustls::RootCertStore::empty();
        if trusts {
            roots.add(chain[0].clone()).expect("a root");
        }
        let client = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let url = format!("https://localhost:{port}/hook");
        let target = Target { tls: Some(Arc::new(client)), ..Target::clone(&target(&url)) };
        let serving = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            match acceptor.accept(stream).await {
                Ok(stream) => Some(serve(stream, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await),
                Err(_) => None,
            }
        };
        let (posted, request) = tokio::join!(post(&target, &[], body("mx.test", &notice("x"))), serving);
        assert_eq!((posted.is_ok(), request.is_some()), (trusts, trusts), "{posted:?}");
        if let Err(failure) = posted {
            assert!(matches!(&failure, Failure::ForNow(why) if why.contains("certificate")), "{failure:?}");
        }
    }
}
