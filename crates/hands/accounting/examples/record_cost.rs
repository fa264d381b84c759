//! What a record costs: CPU of the whole process, writer thread included, for each form of file.
//!
//! `cargo run --release -p accounting --example record_cost`

use accounting::{
    AccountingConfig, Attempt, Connection, FileConfig, Format, Kind, Metrics, Record, Recorder, WhenFull,
};
use mail::{
    Envelope, Mailbox, Message, Origin, Recipient, Reply, ReversePath, SpoolId, Tags, TlsInfo, UnixMillis,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MESSAGES: u64 = 400_000;

/// User and system time of this process, from the system's own count in hundredths of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks = |n: usize| fields.get(n).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

/// Scatters a counter (SplitMix64): addresses and ids that compress no better than real ones.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn run(name: &str, file: Option<FileConfig>) -> f64 {
    let file = file.map(|file| ("records".to_owned(), file)).into_iter().collect();
    let config = AccountingConfig { file, ..AccountingConfig::default() };
    let recorder = Recorder::open(&config, Arc::new(Metrics::new())).expect("the configuration is right");
    let connection = Arc::new(Connection {
        site: "mx.example.test".into(),
        host: "mx1.example.test".into(),
        remote: Some("198.51.100.7:25".parse().expect("an address")),
        local: Some("192.0.2.7:50123".parse().expect("an address")),
        source: "pool-a-1".into(),
        pool: "pool-a".into(),
        tls: Some(TlsInfo { protocol: "TLSv1.3".into(), cipher: "TLS_AES_256_GCM_SHA384".into() }),
        extensions: "PIPELINING,SIZE,8BITMIME,STARTTLS,ENHANCEDSTATUSCODES".into(),
        ..Connection::default()
    });
    let queue: Arc<str> = "example.test/pool-a".into();
    let messages: Vec<Arc<Message>> = (0..20_000).map(|n| message(mix(n) >> 16)).collect();
    let (wall, before) = (Instant::now(), cpu());
    for n in 0..MESSAGES {
        let message = &messages[n as usize % messages.len()];
        recorder.record(Record::new(Kind::Received, UnixMillis(1_790_000_000_000 + n), message, 0));
        let reply = Reply::new(250, (2, 0, 0), format!("ok: queued as {:016x}", mix(n)));
        recorder.record(Record {
            reply: Some(Arc::new(reply)),
            attempt: Attempt { number: 1, duration: Duration::from_millis(40), ..Attempt::default() },
            connection: Some(Arc::clone(&connection)),
            queue: Some(Arc::clone(&queue)),
            ..Record::new(Kind::Delivered, UnixMillis(1_790_000_000_300 + n), message, 0)
        });
    }
    let called = wall.elapsed();
    recorder.close(Duration::from_secs(60));
    let (wall, cpu) = (wall.elapsed(), cpu() - before);
    let per = |time: Duration| time.as_secs_f64() * 1e6 / (2 * MESSAGES) as f64;
    let stats = recorder.stats();
    let octets: u64 = stats.iter().map(|file| file.octets).sum();
    let dropped: u64 = stats.iter().map(|file| file.dropped).sum();
    println!(
        "{name:<34} {:>5.2} us CPU, {:>5.2} us for the caller, {:>5.2} us elapsed, {:>4} octets a record, {dropped} dropped",
        per(cpu),
        per(called),
        per(wall),
        octets / (2 * MESSAGES),
    );
    per(cpu)
}

fn message(n: u64) -> Arc<Message> {
    let mailbox = |text: String| Mailbox::parse(&text).expect("a mailbox");
    let sender = mailbox(format!("bounce-{:010x}@news.sender.test", mix(n) >> 24));
    Arc::new(Message {
        id: SpoolId(1_790_000_000_000_000 + n),
        received_at: UnixMillis(1_790_000_000_000 + n % 1_000),
        size: 4_300,
        envelope: Envelope::new(
            ReversePath::Mailbox(sender),
            vec![Recipient::new(mailbox(format!("user{:08x}@example.test", mix(n + 1) >> 32)))],
        ),
        origin: Origin {
            peer: Some("203.0.113.9:41000".parse().expect("an address")),
            helo: "app7.sender.test".into(),
            listener: "submission".into(),
            ..Origin::default()
        },
        tags: Tags::default(),
        headers: Vec::new(),
        extras: None,
    })
}

fn main() {
    let folder = std::env::temp_dir().join(format!("record-cost-{}", std::process::id()));
    let file = |name: &str| FileConfig {
        when_full: WhenFull::Block,
        block_timeout: Duration::from_secs(30),
        ..FileConfig::at(folder.join(name))
    };
    run("no file", None);
    run("JSON lines", Some(file("plain.jsonl")));
    for compression_level in [1, 3] {
        let name = format!("level{compression_level}.jsonl");
        run(
            &format!("JSON lines, zstd {compression_level}"),
            Some(FileConfig { compression_level, ..file(&name) }),
        );
    }
    run("CSV", Some(FileConfig { format: Format::Csv, ..file("acct.csv") }));
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        eprintln!("{}: {error}", folder.display());
    }
}
