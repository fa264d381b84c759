//! Webhooks against servers that take, refuse, stall and lie.

use super::*;
use mail::{Envelope, Mailbox, Message, Origin, Recipient, ReversePath, SpoolId, Tags, UnixMillis};
use settings::Text;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A request as it came.
#[derive(Debug)]
struct Request {
    head: String,
    body: String,
}

impl Request {
    fn field(&self, name: &str) -> &str {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    }

    /// The recipients of the records in it.
    fn recipients(&self) -> Vec<String> {
        let body: Value = serde_json::from_str(&self.body).expect("JSON");
        let data = body["data"].as_array().expect("a list");
        data.iter().map(|record| record["recipient"].as_str().expect("a text").to_owned()).collect()
    }
}

fn read(stream: &mut TcpStream) -> Option<Request> {
    let (mut text, mut octets) = (Vec::new(), [0; 4_096]);
    loop {
        let count = stream.read(&mut octets).ok().filter(|count| *count > 0)?;
        text.extend_from_slice(&octets[..count]);
        let so_far = String::from_utf8_lossy(&text);
        let Some((head, body)) = so_far.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0usize) {
            return Some(Request { head: head.to_owned(), body: body.to_owned() });
        }
    }
}

/// A server that answers each request with the next of these octets, and then with the last again.
fn server(answers: Vec<&'static str>) -> (String, mpsc::Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (seen, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { return };
            let Some(request) = read(&mut stream) else { continue };
            let answer = answers.get(n).or(answers.last()).copied().unwrap_or("");
            let _ = stream.write_all(answer.as_bytes());
            drop(stream);
            if seen.send(request).is_err() {
                return;
            }
        }
    });
    (url, requests)
}

const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";

fn config(url: &str) -> WebhookConfig {
    WebhookConfig {
        url: Text(url.parse().unwrap()),
        secret: Some(Text(SECRET.parse().unwrap())),
        events: Vec::new(),
        tenants: Vec::new(),
        batch_max: 100,
        batch_wait: Duration::ZERO,
        timeout: Duration::from_secs(20),
        waits: vec![Duration::from_millis(10)],
        give_up_after: Duration::from_secs(3_600),
        log_max: settings::Size::mib(16),
        ca_file: None,
    }
}

fn start(folder: &Path, config: WebhookConfig) -> Arc<Webhooks> {
    let target = Target {
        url: config.url.0.clone(),
        tls: None,
        timeout: config.timeout,
        waits: Vec::new(),
        server: "mx.test".into(),
    };
    let webhooks = Webhooks::new(folder);
    webhooks.reconfigure(&BTreeMap::from([("crm".to_owned(), (config, target))])).unwrap();
    webhooks
}

fn record(kind: accounting::Kind, tenant: Option<&str>, to: &str) -> Record {
    let message = Arc::new(Message {
        id: SpoolId(1),
        received_at: UnixMillis(0),
        size: 1,
        envelope: Envelope::new(ReversePath::Null, vec![Recipient::new(Mailbox::parse(to).unwrap())]),
        origin: Origin::default(),
        tags: Tags { tenant: tenant.map(Into::into), ..Tags::default() },
        headers: Vec::new(),
        extras: None,
    });
    Record::new(kind, UnixMillis(1_800_000_000_000), &message, 0)
}

fn delivered(to: &str) -> Record {
    record(accounting::Kind::Delivered, None, to)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn next(requests: &mpsc::Receiver<Request>) -> Request {
    requests.recv_timeout(Duration::from_secs(60)).expect("a request")
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn records_are_posted_signed_and_filtered() {
    let folder = tempfile::tempdir().unwrap();
    let (url, requests) = server(vec![OK]);
    let runtime = runtime();
    let _inside = runtime.enter();
    let filtered = WebhookConfig {
        events: vec![accounting::Kind::Bounced, accounting::Kind::Delivered],
        tenants: vec!["acme".into()],
        ..config(&url)
    };
    let webhooks = start(folder.path(), filtered);
    webhooks.observe(&[
        record(accounting::Kind::Received, Some("acme"), "no@x.test"),
        record(accounting::Kind::Delivered, Some("other"), "no@x.test"),
        record(accounting::Kind::Delivered, None, "no@x.test"),
        record(accounting::Kind::Delivered, Some("acme"), "\"<script>\\\"\"@x.test"),
        record(accounting::Kind::Bounced, Some("acme"), "b@x.test"),
    ]);
    let request = next(&requests);
    assert_eq!(request.recipients(), ["\"<script>\\\"\"@x.test", "b@x.test"]);
    let timestamp = request.field("webhook-timestamp").parse().unwrap();
    let secret: Secret = SECRET.parse().unwrap();
    let signature = secret.signature(request.field("webhook-id"), timestamp, request.body.as_bytes());
    assert_eq!(request.field("webhook-signature"), signature);
    assert!(request.head.starts_with("POST /hook HTTP/1.1"), "{}", request.head);
    wait_until("it counts as taken", || webhooks.status()[0].taken == 2);
    let status = webhooks.status().remove(0);
    assert_eq!((status.pending_octets, status.failures, status.dropped), (0, 0, 0));
}

/// Refuses, stalls, lies about its length, speaks no HTTP, redirects, and hangs up.
#[test]
fn what_is_not_taken_is_posted_again_with_the_same_id() {
    let folder = tempfile::tempdir().unwrap();
    let (url, requests) = server(vec![
        "HTTP/1.1 500 No\r\n\r\n",
        "HTTP/1.1 400 No\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
        "220 mx.test ESMTP\r\n",
        "HTTP/1.1 2",
        "",
        OK,
    ]);
    let runtime = runtime();
    let _inside = runtime.enter();
    let webhooks = start(folder.path(), config(&url));
    webhooks.observe(&[delivered("a@x.test")]);
    let tries: Vec<Request> = (0..7).map(|_| next(&requests)).collect();
    for request in &tries {
        assert_eq!(request.recipients(), ["a@x.test"]);
        assert_eq!(request.field("webhook-id"), tries[0].field("webhook-id"));
    }
    wait_until("it counts as taken", || webhooks.status()[0].taken == 1);
    let status = webhooks.status().remove(0);
    assert_eq!((status.failures, status.last_failure, status.failing_seconds), (6, None, None));
    // Another batch has another id.
    webhooks.observe(&[delivered("b@x.test")]);
    assert_ne!(next(&requests).field("webhook-id"), tries[0].field("webhook-id"));
}

#[test]
fn a_dead_endpoint_costs_its_log_and_gets_everything_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let runtime = runtime();
    {
        let _inside = runtime.enter();
        let webhooks = start(folder.path(), config(&format!("http://{closed}/")));
        for n in 0..250 {
            webhooks.observe(&[delivered(&format!("a{n}@x.test"))]);
        }
        wait_until("all of it is in the log", || {
            let status = webhooks.status().remove(0);
            status.failures > 1 && status.pending_octets > 250 * 100
        });
        assert!(webhooks.status()[0].last_failure.is_some());
        // The server stops; what is still in memory goes with the rest.
        webhooks.observe(&[delivered("last@x.test")]);
        webhooks.close();
    }
    let (url, requests) = server(vec![OK]);
    let _inside = runtime.enter();
    let webhooks = start(folder.path(), config(&url));
    let mut got = Vec::new();
    while got.len() < 251 {
        let batch = next(&requests).recipients();
        assert!(batch.len() <= 100);
        got.extend(batch);
    }
    let mut expected: Vec<String> = (0..250).map(|n| format!("a{n}@x.test")).collect();
    expected.push("last@x.test".into());
    assert_eq!(got, expected);
    wait_until("it counts as taken", || webhooks.status()[0].pending_octets == 0);
}

#[test]
fn what_was_put_aside_is_shown_and_posted_again_by_order() {
    let folder = tempfile::tempdir().unwrap();
    let (url, requests) = server(vec!["HTTP/1.1 503 No\r\n\r\n", "HTTP/1.1 503 No\r\n\r\n", OK]);
    let runtime = runtime();
    let _inside = runtime.enter();
    let impatient = WebhookConfig { give_up_after: Duration::ZERO, ..config(&url) };
    let webhooks = start(folder.path(), impatient);
    webhooks.observe(&[delivered("a@x.test")]);
    next(&requests);
    wait_until("it is put aside", || webhooks.status()[0].dead_octets > 0);
    webhooks.observe(&[delivered("b@x.test")]);
    next(&requests);
    let dead = || webhooks.dead("crm", 10).unwrap().unwrap();
    wait_until("both are put aside", || dead().len() == 2);
    assert_eq!(dead()[0]["recipient"], "a@x.test");
    assert_eq!(webhooks.status()[0].pending_octets, 0);
    webhooks.replay("crm", false).unwrap().unwrap();
    assert_eq!(next(&requests).recipients(), ["a@x.test", "b@x.test"]);
    wait_until("they are taken", || webhooks.status()[0].taken == 2);
    assert_eq!(dead().len(), 0);
    // Everything that is kept, once more.
    webhooks.replay("crm", true).unwrap().unwrap();
    assert_eq!(next(&requests).recipients().len(), 4);
    assert!(webhooks.dead("other", 1).is_none() && webhooks.replay("other", true).is_none());
}
