//! Loader, bare relay and sink against each other over loopback, and the sink's rules as a client sees them.

use std::time::Duration;

use bench::loader::{self, Amount, Loader, Report, Tls};
use bench::relay::{self, Relay};
use bench::sink::{self, Keep, Sink, SinkHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(20);

fn sink(rules: &[&str]) -> SinkHandle {
    let rules = rules.iter().map(|rule| rule.parse().expect("a rule")).collect();
    Sink::start(sink::Options { rules, threads: 2, ..Default::default() }).expect("a free port")
}

fn few(sink: &SinkHandle, messages: u64) -> loader::Options {
    loader::Options {
        target: sink.addr(),
        amount: Amount::Messages(messages),
        size: 1000,
        connections: 4,
        timeout: PATIENCE,
        failure_pause: Duration::from_millis(1),
        ..Default::default()
    }
}

async fn load(options: loader::Options) -> Report {
    loader::run(options).await
}

#[track_caller]
fn assert_all_arrived(report: &Report, sink: &SinkHandle, messages: u64) {
    assert_eq!(
        (report.sent, report.accepted, report.refused, report.failed),
        (messages, messages, 0, 0),
        "{report}"
    );
    assert_eq!(report.acknowledged.len(), messages);
    let stats = sink.stats();
    let run = &stats.runs[&report.run];
    assert_eq!((run.messages, run.duplicates, run.missing), (messages, 0, 0));
    assert_eq!(sink.missing(report.run, messages, 10), []);
    assert_eq!(stats.faults.len(), 0, "{:?}", stats.faults);
}

#[tokio::test]
async fn every_way_of_sending_arrives_once_and_whole() {
    type Change = fn(&mut loader::Options);
    let ways: [(&str, Change); 9] = [
        ("plain", |_| {}),
        ("in lockstep", |o| o.pipelining = false),
        ("overlapping", |o| o.overlap = true),
        ("in chunks", |o| o.chunking = true),
        ("one message a connection", |o| o.messages_per_connection = 1),
        ("seven messages a connection, overlapping", |o| (o.messages_per_connection, o.overlap) = (7, true)),
        ("many recipients and domains", |o| (o.recipients, o.recipient_domains) = (3, 5)),
        ("large", |o| o.size = 300_000),
        ("smallest", |o| o.size = 0),
    ];
    for (way, change) in ways {
        let sink = Sink::start(sink::Options {
            strict: true,
            chunking: true,
            keep: Keep::Memory { messages_max: 1000 },
            ..Default::default()
        })
        .expect("a free port");
        let mut options = few(&sink, 100);
        change(&mut options);
        let recipients = options.recipients;
        let size = options.size;
        let report = load(options).await;
        println!("{way}: {report}");
        assert_all_arrived(&report, &sink, 100);
        assert_eq!(sink.stats().recipients, 100 * recipients, "{way}");
        let messages = sink.messages();
        assert_eq!(messages.len(), 100);
        assert!(
            messages.iter().all(|message| message.content.len() == size.max(message.content.len().min(400)))
        );
        assert!(messages[0].field("subject").is_some_and(|subject| subject.starts_with("Message 0")));
        if recipients > 1 {
            let domain =
                |nth: usize| messages[0].recipients[nth].address.split_once('@').expect("an address").1;
            assert_ne!(domain(0), domain(1));
        }
    }
}

#[tokio::test]
async fn a_fixed_rate_is_kept_and_latency_counts_from_the_schedule() {
    let sink = sink(&["dot:first=1:stall=300ms"]);
    let options = loader::Options { connections: 1, rate: Some(500.0), ..few(&sink, 250) };
    let report = load(options).await;
    assert_eq!(report.accepted, 250, "{report}");
    // The first message stalls; those behind it were due all the while, and their waiting is counted.
    let seconds = report.elapsed.as_secs_f64();
    assert!((0.45..2.0).contains(&seconds), "{report}");
    assert!(report.latency.p50 > Duration::from_millis(5), "{report}");
    assert!(report.latency.max >= Duration::from_millis(295), "{report}");
    let end_to_end = sink.stats().runs[&report.run].latency;
    assert!(end_to_end.p50 > Duration::from_millis(5), "{end_to_end}");
}

#[tokio::test]
async fn a_run_may_be_bounded_by_time_or_stopped() {
    let sink = sink(&[]);
    let timed = loader::Options { amount: Amount::Time(Duration::from_millis(200)), ..few(&sink, 0) };
    let report = load(timed.clone()).await;
    assert!(report.accepted > 10 && report.accepted == report.sent, "{report}");
    let report = load(loader::Options { rate: Some(200.0), ..timed.clone() }).await;
    assert_eq!(report.sent, 40, "{report}");
    for rate in [None, Some(100.0)] {
        let loader = Loader::start(loader::Options { amount: Amount::Time(PATIENCE), rate, ..timed.clone() });
        let run = loader.run_id();
        assert!(sink.wait_for(PATIENCE, |stats| stats.runs.contains_key(&run)).await);
        loader.stop();
        let report = loader.finish().await;
        assert!(report.elapsed < PATIENCE / 2 && report.accepted > 0, "{report}");
    }
}

#[tokio::test]
async fn the_bare_relay_passes_everything_on() {
    for fresh in [false, true] {
        let sink = sink(&[]);
        let options = relay::Options { next_hop: sink.addr(), fresh, ..Default::default() };
        let relay = Relay::start(options).expect("a free port");
        for (messages_per_connection, size) in [(0, 4096), (1, 100_000)] {
            let options = few(&sink, 60);
            let options = loader::Options { target: relay.addr(), messages_per_connection, size, ..options };
            let report = load(options).await;
            assert_all_arrived(&report, &sink, 60);
        }
        assert_eq!(sink.stats().connections >= 120, fresh, "{}", sink.stats());
    }
}

#[tokio::test]
async fn loss_and_duplicates_are_told_apart() {
    // Dropped before the reply, the message may have been taken or not. Sent again, the first is a duplicate.
    let sink = sink(&["dot:every=10:take-drop"]);
    let report = load(loader::Options { connections: 1, ..few(&sink, 100) }).await;
    assert_eq!((report.accepted, report.failed, report.unanswered.len()), (90, 10, 10), "{report}");
    assert_eq!(sink.missing(report.run, 100, 10), [], "taken all the same");
    assert_eq!(sink.received(report.run).without(&report.acknowledged, 100).len(), 10);

    sink.set_rules(vec!["dot:every=10:drop".parse().expect("a rule")]);
    let report = load(loader::Options { connections: 1, ..few(&sink, 100) }).await;
    assert_eq!((report.accepted, report.failed), (90, 10), "{report}");
    let missing = sink.missing(report.run, 100, 100);
    assert_eq!(missing.len(), 10);
    assert_eq!(missing[0], 9..10);
    assert_eq!(
        report.acknowledged.without(&sink.received(report.run), 10),
        [],
        "nothing acknowledged is lost"
    );

    let mut client = Client::open(&sink).await;
    for mark in ["aa-0-1-2", "aa-0-1-2", "aa-2-1-2"] {
        client.say("MAIL FROM:<>\r\nRCPT TO:<b0@x.test>\r\nDATA\r\n").await;
        client.say(&format!("X-Tuma-Bench: {mark}\r\n\r\nhi\r\n.\r\n")).await;
    }
    assert!(
        sink.wait_for(PATIENCE, |stats| stats.runs.get(&0xaa).is_some_and(|run| run.messages == 3)).await
    );
    let run = &sink.stats().runs[&0xaa];
    assert_eq!((run.received, run.duplicates, run.missing), (2, 1, 4));
    assert_eq!(run.missing_ranges, vec![0..3; 1], "half of messages 0 and 2, all of 1");
    assert_eq!(sink.missing(0xaa, 4, 10), vec![0..4; 1]);
}

/// A client that is told line by line what to do.
struct Client {
    stream: TcpStream,
    heard: String,
}

impl Client {
    async fn open(sink: &SinkHandle) -> Self {
        let mut client = Self::connect(sink).await;
        client.say("EHLO me.test\r\n").await;
        client.hear("ENHANCEDSTATUSCODES\r\n").await;
        client
    }

    async fn connect(sink: &SinkHandle) -> Self {
        let stream = TcpStream::connect(sink.addr()).await.expect("the sink listens");
        Self { stream, heard: String::new() }
    }

    async fn say(&mut self, text: &str) {
        // After a drop the write may fail; the test then sees it in what it hears.
        let _ = self.stream.write_all(text.as_bytes()).await;
    }

    /// Reads until that was heard, and forgets everything up to it.
    #[track_caller]
    fn hear(&mut self, wanted: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let reading = async {
                let mut piece = [0; 1000];
                while !self.heard.contains(wanted) {
                    let octets = self.stream.read(&mut piece).await.unwrap_or(0);
                    assert!(octets > 0, "{caller}: closed, wanted {wanted:?}, heard {:?}", self.heard);
                    self.heard.push_str(&String::from_utf8_lossy(&piece[..octets]));
                }
            };
            let in_time = tokio::time::timeout(PATIENCE, reading).await.is_ok();
            assert!(in_time, "{caller}: wanted {wanted:?}, heard {:?}", self.heard);
            let end = self.heard.find(wanted).expect("just heard") + wanted.len();
            self.heard.drain(..end);
        }
    }

    /// Reads until the end; what was said before, and whether it was a reset.
    async fn hear_the_end(&mut self) -> (String, bool) {
        let mut said = Vec::new();
        let reading = self.stream.read_to_end(&mut said);
        let end = tokio::time::timeout(PATIENCE, reading).await.expect("the connection is closed");
        let said = std::mem::take(&mut self.heard) + &String::from_utf8_lossy(&said);
        (said, end.is_err())
    }
}

const MESSAGE: &str =
    "MAIL FROM:<a@from.test>\r\nRCPT TO:<b@to.test>\r\nDATA\r\nSubject: x\r\n\r\nhi\r\n.\r\n";

#[tokio::test]
async fn replies_by_rule() {
    for (rule, said) in [
        ("banner:554 5.3.2 no", "554 5.3.2 no\r\n"),
        ("helo:domain=me.test:550 5.7.1 not you", "550 5.7.1 not you\r\n"),
        ("mail:from=a@*:451 4.7.1 later", "451 4.7.1 later\r\n503"),
        ("rcpt:domain=to.test:550 5.1.1 nobody", "250 2.1.0 ok\r\n550 5.1.1 nobody\r\n503"),
        ("data:domain=to.test:452 4.3.1 full", "250 2.1.5 ok\r\n452 4.3.1 full\r\n"),
        (r"dot:from=a@from.test:554 5.6.0 one\n5.6.0 two", "354 go on\r\n554-5.6.0 one\r\n554 5.6.0 two\r\n"),
        ("mail:junk=hello?", "hello?\r\n"),
        ("rcpt:address=c@*:550 never", "250 2.0.0 taken\r\n"),
        ("quit:500 stay", "500 stay\r\n"),
    ] {
        let sink = sink(&[rule]);
        let mut client = Client::connect(&sink).await;
        client.say(&format!("EHLO me.test\r\n{MESSAGE}QUIT\r\n")).await;
        let (heard, _) = client.hear_the_end().await;
        assert!(heard.contains(said), "{rule}: {heard}");
        let taken =
            u64::from(said.contains("taken") || rule.starts_with("quit") || rule.starts_with("banner"));
        assert_eq!(sink.stats().messages, taken, "{rule}");
    }
}

#[tokio::test]
async fn drops_by_rule() {
    for (rule, last, taken) in [
        ("connect:drop", "", 0),
        ("banner:close 421 4.3.2 bye", "421 4.3.2 bye\r\n", 0),
        ("helo:drop", "220 sink.test ESMTP sink\r\n", 0),
        ("mail:drop", "ENHANCEDSTATUSCODES\r\n", 0),
        ("rcpt:close 421 4.7.0 enough", "250 2.1.0 ok\r\n421 4.7.0 enough\r\n", 0),
        ("data:drop", "250 2.1.5 ok\r\n", 0),
        ("body:drop", "354 go on\r\n", 0),
        ("dot:drop", "354 go on\r\n", 0),
        ("dot:take-drop", "354 go on\r\n", 1),
        ("quit:drop", "250 2.0.0 taken\r\n", 1),
    ] {
        let sink = sink(&[rule]);
        let mut client = Client::connect(&sink).await;
        client.say(&format!("EHLO me.test\r\n{MESSAGE}QUIT\r\n")).await;
        let (heard, _) = client.hear_the_end().await;
        // Closing with unread input resets the connection, which may cost the peer the last reply.
        assert!(heard.ends_with(last) || heard.is_empty() && rule != "quit:drop", "{rule}: {heard}");
        assert_eq!(sink.stats().messages, taken, "{rule}");
    }
    let sink = sink(&["mail:reset"]);
    let mut client = Client::open(&sink).await;
    client.say("MAIL FROM:<>\r\n").await;
    assert!(client.hear_the_end().await.1, "a reset is an error to the reader");
}

#[tokio::test]
async fn stalls_by_rule() {
    for phase in ["connect", "banner", "helo", "mail", "rcpt", "data", "body", "dot", "quit"] {
        let stalled = sink(&[&format!("{phase}:stall")]);
        let mut client = Client::connect(&stalled).await;
        client.say(&format!("EHLO me.test\r\n{MESSAGE}QUIT\r\n")).await;
        let waited = tokio::time::timeout(Duration::from_millis(60), client.hear("221")).await;
        assert!(waited.is_err(), "{phase} goes on");
        assert_eq!(stalled.stats().open, 1, "{phase}");

        let late = sink(&[&format!("{phase}:stall=50ms")]);
        let started = std::time::Instant::now();
        let mut client = Client::connect(&late).await;
        client.say(&format!("EHLO me.test\r\n{MESSAGE}QUIT\r\n")).await;
        client.hear("221").await;
        assert!(started.elapsed() >= Duration::from_millis(50), "{phase}");
        assert_eq!(late.stats().messages, 1, "{phase}");
    }
}

#[tokio::test]
async fn slowness_by_rule() {
    let sink = sink(&["mail:slow=5ms"]);
    let mut client = Client::open(&sink).await;
    let started = std::time::Instant::now();
    client.say("MAIL FROM:<>\r\n").await;
    client.hear("250 2.1.0 ok\r\n").await;
    assert!(started.elapsed() >= Duration::from_millis(14 * 5));
    sink.set_rules(vec!["body:slow=30ms".parse().expect("a rule")]);
    let started = std::time::Instant::now();
    client.say("RCPT TO:<a@b.test>\r\nDATA\r\n").await;
    client.hear("354 go on\r\n").await;
    client.say("hi\r\n").await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    client.say(".\r\n").await;
    client.hear("250 2.0.0 taken").await;
    assert!(started.elapsed() >= Duration::from_millis(30));
}

#[tokio::test]
async fn open_connections_are_limited_by_rule() {
    let sink = sink(&["banner:open=1:close 421 4.7.0 one at a time"]);
    let mut first = Client::open(&sink).await;
    let mut second = Client::connect(&sink).await;
    assert_eq!(second.hear_the_end().await.0, "421 4.7.0 one at a time\r\n");
    first.say("QUIT\r\n").await;
    first.hear("221").await;
    first.hear_the_end().await;
    assert!(sink.wait_for(PATIENCE, |stats| stats.open == 0).await);
    Client::open(&sink).await;
}

#[tokio::test]
async fn a_loader_reports_refusals_in_words() {
    let sink =
        sink(&["mail:every=4:451 4.7.1 later", "rcpt:every=5:550 5.1.1 nobody", "dot:every=7:554 5.6.0 no"]);
    for pipelining in [true, false] {
        let report = load(loader::Options { pipelining, connections: 2, ..few(&sink, 100) }).await;
        assert_eq!((report.sent, report.failed), (100, 0), "{report}");
        assert_eq!(report.accepted + report.refused, 100);
        assert!(report.refused > 30 && report.accepted > 30, "{report}");
        assert_eq!(
            sink.missing(report.run, 100, 100).iter().map(|r| r.end - r.start).sum::<u64>(),
            report.refused
        );
        for complaint in ["451 4.7.1 later", "550 5.1.1 nobody", "554 5.6.0 no"] {
            assert!(report.complaints.iter().any(|text| text == complaint), "{report}");
        }
        assert!(report.codes[&451] > 0 && report.codes[&354] > 0);
    }
    sink.set_rules(vec!["mail:close 421 4.3.2 bye".parse().expect("a rule")]);
    let report = load(loader::Options { failures_max: 20, ..few(&sink, 1000) }).await;
    assert!(report.accepted == 0 && report.connections_failed >= 20 && report.sent < 100, "{report}");
}

#[tokio::test]
async fn a_peer_that_is_away_for_a_while_is_tried_again() {
    let first = sink(&[]);
    let addr = first.addr();
    let options = loader::Options { amount: Amount::Time(PATIENCE), rate: Some(500.0), ..few(&first, 0) };
    let loader = Loader::start(options);
    assert!(first.wait_for(PATIENCE, |stats| stats.messages > 5).await);
    drop(first);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let second =
        Sink::start(sink::Options { listen: addr, ..Default::default() }).expect("the port is free again");
    assert!(second.wait_for(PATIENCE, |stats| stats.messages > 5).await);
    loader.stop();
    let report = loader.finish().await;
    assert!(report.accepted > 10 && report.connections_failed > 0, "{report}");
}

#[tokio::test]
async fn a_port_in_use_is_an_error() {
    let first = sink(&[]);
    let error = Sink::start(sink::Options { listen: first.addr(), ..Default::default() }).err();
    assert_eq!(error.expect("the port is taken").kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn kept_messages_are_as_they_were_sent() {
    let folder = std::env::temp_dir().join(format!("bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
    for keep in [Keep::Memory { messages_max: 2 }, Keep::Folder(folder.clone())] {
        let sink = Sink::start(sink::Options { keep, ..Default::default() }).expect("a free port");
        let mut client = Client::open(&sink).await;
        for text in ["one", "two", "three"] {
            client
                .say("MAIL FROM:<> SIZE=20 RET=HDRS\r\nRCPT TO:<\"a b\"@c.test> NOTIFY=NEVER\r\nDATA\r\n")
                .await;
            client.hear("354 go on\r\n").await;
            client.say(&format!("Subject: {text}\r\n folded\r\n\r\n..x\r\n..\r\n.\r\n")).await;
            client.hear("250 2.0.0 taken\r\n").await;
        }
        let messages = sink.messages();
        if let Some(last) = messages.last() {
            assert_eq!((messages.len(), last.number), (2, 3));
            assert_eq!(last.field("SUBJECT").as_deref(), Some("three folded"));
            assert_eq!(&last.content[..], b"Subject: three\r\n folded\r\n\r\n.x\r\n.\r\n");
            assert_eq!((last.reverse_path.as_str(), last.parameters.as_str()), ("", "SIZE=20 RET=HDRS"));
            let to = &last.recipients[0];
            assert_eq!((to.address.as_str(), to.parameters.as_str()), ("\"a b\"@c.test", "NOTIFY=NEVER"));
        } else {
            let kept = std::fs::read(folder.join("00000003.eml")).expect("the third message is a file");
            assert!(kept.ends_with(b"\r\n\r\n.x\r\n.\r\n"));
        }
    }
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
}

#[tokio::test]
async fn content_in_any_segmentation() {
    let sink = Sink::start(sink::Options { keep: Keep::Memory { messages_max: 100 }, ..Default::default() })
        .expect("a free port");
    let mut client = Client::open(&sink).await;
    for content in ["", ".\r\n", "a\r\n", "a\r\n..\r\n\r\n..b\r\n"] {
        client.say("MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n").await;
        client.hear("354 go on\r\n").await;
        let stuffed = if content.starts_with('.') { format!(".{content}") } else { content.to_owned() };
        for octet in format!("{stuffed}.\r\n").as_bytes() {
            client.say(std::str::from_utf8(&[*octet]).expect("ASCII")).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        client.hear("250 2.0.0 taken\r\n").await;
        let kept = sink.messages().pop().expect("it was taken");
        let plain = content.replace("\r\n..", "\r\n.");
        assert_eq!(String::from_utf8_lossy(&kept.content), plain);
    }
}

#[tokio::test]
async fn authentication() {
    let credentials = loader::Credentials { user: "me".into(), password: "secret".into() };
    let options = sink::Options {
        auth: Some(credentials.clone()),
        keep: Keep::Memory { messages_max: 9 },
        ..Default::default()
    };
    let sink = Sink::start(options).expect("a free port");
    let right = loader::Options { auth: Some(credentials.clone()), ..few(&sink, 3) };
    assert_eq!(load(right.clone()).await.accepted, 3);
    assert!(sink.messages().iter().all(|message| message.authenticated));
    let wrong = loader::Credentials { password: "guess".into(), ..credentials };
    let report = load(loader::Options { auth: Some(wrong), failures_max: 3, ..right }).await;
    assert_eq!(report.accepted, 0);
    assert!(report.complaints[0].contains("535"), "{report}");
}

#[tokio::test]
async fn encryption() {
    for (tls, implicit_tls) in [(Tls::Starttls, false), (Tls::Implicit, true)] {
        let sink = Sink::start(sink::Options {
            tls: Some(bench::tls::self_signed(&["sink.test"]).expect("a certificate")),
            implicit_tls,
            keep: Keep::Memory { messages_max: 1000 },
            ..Default::default()
        })
        .expect("a free port");
        for messages_per_connection in [0, 1] {
            let report =
                load(loader::Options { tls, messages_per_connection, size: 100_000, ..few(&sink, 30) }).await;
            assert_all_arrived(&report, &sink, 30);
        }
        assert!(sink.messages().iter().all(|message| message.secure));
    }
    let sink = sink(&[]);
    let report = load(loader::Options { tls: Tls::Starttls, failures_max: 2, ..few(&sink, 3) }).await;
    assert_eq!(report.accepted, 0, "never in the clear");
    let offers =
        sink::Options { tls: Some(bench::tls::self_signed(&["a.test"]).expect("one")), ..Default::default() };
    let sink = Sink::start(sink::Options {
        rules: vec!["starttls:454 4.7.0 not now".parse().expect("a rule")],
        ..offers
    })
    .expect("a free port");
    let report = load(loader::Options { tls: Tls::Starttls, failures_max: 2, ..few(&sink, 3) }).await;
    assert!(report.accepted == 0 && report.complaints[0].contains("454 4.7.0 not now"), "{report}");
}

#[tokio::test]
async fn strictness_names_what_is_wrong() {
    let sink = Sink::start(sink::Options { strict: true, pipelining: false, ..Default::default() })
        .expect("a free port");
    let mut client = Client::open(&sink).await;
    client.say("RCPT TO:<a@b.test>\r\nFROB\nMAIL FROM:<> SIZE=3\r\nRCPT TO:<a@b.test>\r\nDATA\r\na\nb\r\n.\r\nQUIT\r\n").await;
    client.hear("221").await;
    let faults: Vec<&str> = sink.stats().faults.into_keys().collect();
    assert_eq!(
        faults,
        [
            "SIZE declared too small",
            "bare CR or LF in content",
            "command ended by a bare LF",
            "command out of order",
            "content before 354",
            "pipelining without an offer",
            "unknown command",
        ]
    );
}
