//! The room as a whole: what lands in files and metrics, on disks that are slow, full or gone.

use crate::*;
use mail::{
    BounceClass, Envelope, Mailbox, Message, Origin, Protocol, Recipient, Reply, ReversePath, SessionId,
    SpoolId, Tags, TlsInfo, UnixMillis,
};
use settings::Size;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

mod tags;

const SECOND: Duration = Duration::from_secs(1);

fn message(recipients: usize) -> Arc<Message> {
    let recipients = (0..recipients)
        .map(|n| {
            Recipient::new(
                Mailbox::parse(&format!("u{}@x.test", if n == 0 { String::new() } else { n.to_string() }))
                    .unwrap(),
            )
        })
        .collect();
    Arc::new(Message {
        id: SpoolId(1_790_000_000_000_000),
        received_at: UnixMillis(1_772_359_204_000),
        size: 4_821,
        envelope: Envelope::new(ReversePath::Mailbox(Mailbox::parse("b@s.test").unwrap()), recipients),
        origin: Origin {
            session: Some(SessionId(7)),
            peer: Some("192.0.2.1:40000".parse().unwrap()),
            local: Some("192.0.2.2:25".parse().unwrap()),
            helo: "app".into(),
            user: Some("joe".into()),
            listener: "main".into(),
            protocol: Protocol::Esmtp,
            tls: None,
        },
        tags: Tags { job: Some("job7".into()), ..Tags::default() },
        headers: Vec::new(),
        extras: None,
    })
}

fn connection() -> Arc<Connection> {
    Arc::new(Connection {
        via: Via::Smtp,
        site: "x.test".into(),
        provider: None,
        host: "mx.x.test".into(),
        remote: Some("192.0.2.9:25".parse().unwrap()),
        local: Some("192.0.2.2:50000".parse().unwrap()),
        source: "v1".into(),
        pool: "p1".into(),
        tls: Some(TlsInfo { protocol: "TLSv1.3".into(), cipher: "TLS_AES_128_GCM_SHA256".into() }),
        tls_policy: "required".into(),
        tls_verified: Some("UnknownIssuer".into()),
        extensions: "8BITMIME,STARTTLS".into(),
    })
}

fn record(kind: Kind, message: &Arc<Message>, index: u32, reply: Reply) -> Record {
    Record {
        reply: Some(Arc::new(reply)),
        attempt: Attempt { number: 1, duration: Duration::from_millis(12), ..Attempt::default() },
        connection: Some(connection()),
        queue: Some("x.test/v1".into()),
        class: match kind {
            Kind::Bounced => Some(BounceClass::BadMailbox),
            Kind::Deferred => Some(BounceClass::RateLimited),
            Kind::Expired => Some(BounceClass::MessageExpired),
            _ => None,
        },
        ..Record::new(kind, UnixMillis(1_772_359_205_123), message, index)
    }
}

fn delivered(message: &Arc<Message>, index: u32) -> Record {
    record(Kind::Delivered, message, index, Reply::bare(250, "ok"))
}

/// Files by the names `1`, `2` and so on.
fn all_files<const N: usize>(files: [FileConfig; N]) -> AccountingConfig {
    let file = files.into_iter().zip(1..).map(|(file, n)| (n.to_string(), file)).collect();
    AccountingConfig { file, ..AccountingConfig::default() }
}

fn one_file(file: FileConfig) -> AccountingConfig {
    all_files([file])
}

fn open(config: &AccountingConfig) -> Recorder {
    Recorder::open(config, Arc::default()).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Waits for what another thread brings about.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < 20 * SECOND, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn csv_as_powermta_writes_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acct.csv");
    let recorder = open(&one_file(FileConfig { format: Format::Csv, ..FileConfig::at(path.clone()) }));
    let message = message(1);
    recorder.record_many(vec![
        Record::new(Kind::Received, UnixMillis(1_772_359_204_000), &message, 0),
        delivered(&message, 0),
        record(Kind::Bounced, &message, 0, Reply::new(550, (5, 1, 1), "no such user, \"sorry\"")),
        record(Kind::Deferred, &message, 0, Reply::new(421, (4, 7, 0), "slow\ndown")),
        record(Kind::Expired, &message, 0, Reply::new(451, (4, 2, 2), "full")),
        Record {
            connection: None,
            ..record(Kind::Discarded, &message, 0, Reply::new(550, (5, 7, 1), "purged"))
        },
        Record::rejected(UnixMillis(0), Arc::default(), Arc::new(Reply::new(550, (5, 7, 1), "no"))),
    ]);
    assert!(recorder.close(5 * SECOND));
    let expected = [
        "type,timeLogged,orig,rcpt,orcpt,srcType,srcMta,rcvSourceIp,rcvDestinationIp,vmta,jobId,envId,timeQueued,\
         dsnAction,dsnStatus,dsnDiag,dsnMta,bounceCat,dlvType,dlvSourceIp,dlvDestinationIp,dlvEsmtpAvailable,dlvSize,\
         queue,vmtaPool",
        "r,2026-03-01 10:00:04+0000,b@s.test,u@x.test,,smtp,app (192.0.2.1),192.0.2.1,192.0.2.2,,job7,,,,,,,,,,,,,,",
    ];
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(&(expected.join("\r\n") + "\r\nd,")), "{text}");

    // The usual choice, in PowerMTA's own order of columns.
    let path = folder.path().join("db.csv");
    let records = vec![Kind::Delivered, Kind::Bounced, Kind::Deferred, Kind::Expired, Kind::Discarded];
    let file = FileConfig { format: Format::Csv, records, ..FileConfig::at(path.clone()) };
    let recorder = open(&one_file(file));
    recorder.record(delivered(&message, 0));
    recorder.record(record(
        Kind::Bounced,
        &message,
        0,
        Reply::new(550, (5, 1, 1), "no such user, \"sorry\""),
    ));
    recorder.record(record(Kind::Deferred, &message, 0, Reply::new(421, (4, 7, 0), "slow\ndown")));
    recorder.record(record(Kind::Expired, &message, 0, Reply::new(451, (4, 2, 2), "full")));
    recorder.record(Record {
        connection: None,
        ..record(Kind::Discarded, &message, 0, Reply::new(550, (5, 7, 1), "purged"))
    });
    assert!(recorder.close(5 * SECOND));
    let head = "2026-03-01 10:00:05+0000,2026-03-01 10:00:04+0000,b@s.test,u@x.test,";
    let tail =
        "smtp,app (192.0.2.1),smtp,192.0.2.2,192.0.2.9,\"8BITMIME,STARTTLS\",4821,v1,job7,,x.test/v1,p1";
    let golden = [
        "type,timeLogged,timeQueued,orig,rcpt,orcpt,dsnAction,dsnStatus,dsnDiag,dsnMta,bounceCat,srcType,srcMta,\
         dlvType,dlvSourceIp,dlvDestinationIp,dlvEsmtpAvailable,dlvSize,vmta,jobId,envId,queue,vmtaPool"
            .to_owned(),
        format!("d,{head},relayed,2.0.0 (success),smtp;250 ok,mx.x.test (192.0.2.9),,{tail}"),
        format!(
            "b,{head},failed,5.1.1 (bad destination mailbox address),\"smtp;550 5.1.1 no such user, \"\"sorry\"\"\",\
             mx.x.test (192.0.2.9),bad-mailbox,{tail}"
        ),
        format!(
            "t,{head},delayed,4.7.0 (other or undefined security status),smtp;421 4.7.0 slow; down,\
             mx.x.test (192.0.2.9),policy-related,{tail}"
        ),
        format!(
            "b,{head},failed,4.4.7 (delivery time expired),smtp;451 4.2.2 full,mx.x.test (192.0.2.9),\
             message-expired,{tail}"
        ),
        format!(
            "b,{head},failed,5.7.1 (delivery not authorized),x-tuma;550 5.7.1 purged,,\
             other,smtp,app (192.0.2.1),discard,,,,4821,,job7,,x.test/v1,"
        ),
        String::new(),
    ];
    assert_eq!(std::fs::read_to_string(&path).unwrap(), golden.join("\r\n"));
}

#[test]
fn csv_with_chosen_columns() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acct.csv");
    let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let file = FileConfig {
        format: Format::Csv,
        records: vec![Kind::Delivered, Kind::Bounced],
        record_fields: BTreeMap::from([
            (
                "delivered".to_owned(),
                list(&["timeLogged", "orig", "rcpt", "dlvSourceIp", "userString", "rcvSmtpUser"]),
            ),
            (
                "bounced".to_owned(),
                list(&["type", "timeLogged", "orig", "rcpt", "bounceCat", "dlvTlsProtocol"]),
            ),
        ]),
        iso_times: false,
        user_string: "node1".into(),
        ..FileConfig::at(path.clone())
    };
    let recorder = open(&one_file(file));
    let message = message(1);
    recorder.record(delivered(&message, 0));
    recorder.record(Record {
        class: Some(BounceClass::SpamContent),
        ..record(Kind::Bounced, &message, 0, Reply::bare(554, "our spam filter\u{0}\r said no"))
    });
    recorder.record(Record {
        category: Some("our-word".into()),
        ..record(Kind::Bounced, &message, 0, Reply::bare(554, "no"))
    });
    assert!(recorder.close(5 * SECOND));
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "type,timeLogged,orig,rcpt,dlvSourceIp,userString,rcvSmtpUser,bounceCat,dlvTlsProtocol\r\n\
         d,1772359205,b@s.test,u@x.test,192.0.2.2,node1,joe,,\r\n\
         b,1772359205,b@s.test,u@x.test,,,,spam-related,TLSv1.3\r\n\
         b,1772359205,b@s.test,u@x.test,,,,our-word,TLSv1.3\r\n"
    );
}

#[test]
fn json_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    let recorder = open(&one_file(FileConfig::at(path.clone())));
    let message = message(2);
    recorder.record(Record {
        attempt: Attempt { number: 3, ambiguous: true, first: Some(UnixMillis(1)), ..Attempt::default() },
        ..record(Kind::Deferred, &message, 1, Reply::new(451, (4, 4, 2), "lost \"it\"\n<script>\u{7}"))
    });
    let refused = Refused {
        reverse_path: Some(ReversePath::Null),
        recipient: Some("x\u{0}y@z.test".into()),
        ..Refused::default()
    };
    recorder.record(Record::rejected(
        UnixMillis(5),
        Arc::new(refused),
        Arc::new(Reply::new(550, (5, 7, 1), "no")),
    ));
    recorder.record(Record::new(Kind::Received, UnixMillis(6), &message, 0));
    assert!(recorder.close(5 * SECOND));
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines[0],
        serde_json::json!({
            "v": 1, "kind": "deferred", "time": "2026-03-01T10:00:05.123Z", "id": message.id.to_string(),
            "session": "7", "received_at": "2026-03-01T10:00:04.000Z", "sender": "b@s.test", "recipient": "u1@x.test",
            "index": 1, "size": 4821, "code": 451, "status": "4.4.2",
            "reply": "451 4.4.2 lost \"it\"; <script>\u{7}", "category": "policy-related", "attempt": 3,
            "first_attempt": "1970-01-01T00:00:00.001Z", "duration_ms": 0, "latency_ms": 1123, "ambiguous": true,
            "queue": "x.test/v1", "job": "job7", "via": "smtp", "site": "x.test", "host": "mx.x.test",
            "remote": "192.0.2.9:25", "local": "192.0.2.2:50000", "source": "v1", "pool": "p1", "tls": "TLSv1.3",
            "cipher": "TLS_AES_128_GCM_SHA256", "tls_policy": "required", "tls_verified": "UnknownIssuer", "extensions": "8BITMIME,STARTTLS", "client": "192.0.2.1:40000",
            "helo": "app", "listener": "main", "protocol": "esmtp", "user": "joe", "class": "rate-limited",
        })
    );
    assert_eq!(
        lines[1],
        serde_json::json!({
            "v": 1, "kind": "rejected", "time": "1970-01-01T00:00:00.005Z", "sender": "",
            "recipient": "x\u{0}y@z.test", "code": 550, "status": "5.7.1", "reply": "550 5.7.1 no",
            "protocol": "esmtp",
        })
    );
    assert_eq!(lines[2]["kind"], "received");
    assert_eq!(lines[2].get("status"), None);
    assert_eq!(lines.len(), 3);
}

#[test]
fn several_files_each_with_its_own_choice() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let config = all_files([
        FileConfig::at(at("all.jsonl")),
        FileConfig {
            records: vec![Kind::Received],
            fields: vec!["recipient".into()],
            compression_level: 3,
            ..FileConfig::at(at("in.jsonl"))
        },
        FileConfig { format: Format::Csv, ..FileConfig::at(at("out.csv")) },
    ]);
    let recorder = open(&config);
    let message = message(100);
    for n in 0..100 {
        recorder.record(Record::new(Kind::Received, UnixMillis(0), &message, n));
    }
    recorder.record_many((0..100).map(|n| delivered(&message, n)).collect());
    assert!(recorder.close(5 * SECOND));
    assert_eq!(names(folder.path()), ["all.jsonl", "in.jsonl.zst", "out.csv"]);
    assert_eq!(std::fs::read_to_string(at("all.jsonl")).unwrap().lines().count(), 200);
    assert_eq!(std::fs::read_to_string(at("out.csv")).unwrap().lines().count(), 201);
    let packed = std::fs::read(at("in.jsonl.zst")).unwrap();
    let text = String::from_utf8(zstd::decode_all(&packed[..]).unwrap()).unwrap();
    assert_eq!(text.lines().count(), 100);
    assert_eq!(
        text.lines().next(),
        Some(r#"{"v":1,"kind":"received","time":"1970-01-01T00:00:00.000Z","recipient":"u@x.test"}"#)
    );
    let stats = recorder.stats();
    assert_eq!(stats.iter().map(|file| file.written).collect::<Vec<_>>(), [200, 100, 200]);
    assert_eq!(stats.iter().map(|file| file.dropped + file.queued).sum::<u64>(), 0);
}

/// A disk in memory that can be full, slow, or lose its folder.
#[derive(Clone, Default)]
struct FakeDisk(Arc<(Mutex<FakeState>, Condvar)>);

#[derive(Default)]
struct FakeState {
    files: BTreeMap<String, (Vec<u8>, Stamp)>,
    /// Octets that still fit.
    room: Option<usize>,
    /// At most this much is taken by one write.
    bite: Option<usize>,
    open_fails: bool,
    stuck: bool,
    writes: u64,
}

#[derive(Clone, Copy)]
struct Stamp(SystemTime);

impl Default for Stamp {
    fn default() -> Self {
        Self(SystemTime::now())
    }
}

impl FakeDisk {
    fn change(&self, f: impl FnOnce(&mut FakeState)) {
        f(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn get<T>(&self, f: impl FnOnce(&FakeState) -> T) -> T {
        f(&self.0.0.lock().unwrap())
    }

    fn text(&self) -> String {
        self.get(|state| {
            state.files.values().map(|(octets, _)| String::from_utf8_lossy(octets).into_owned()).collect()
        })
    }
}

struct FakeFile(FakeDisk, String);

impl Write for FakeFile {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let (mutex, condvar) = &*self.0.0;
        let mut state = condvar.wait_while(mutex.lock().unwrap(), |state| state.stuck).unwrap();
        state.writes += 1;
        let mut n = octets.len().min(state.bite.unwrap_or(usize::MAX));
        if let Some(room) = &mut state.room {
            n = n.min(*room);
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= n;
        }
        state.files.entry(self.1.clone()).or_default().0.extend_from_slice(&octets[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogFile for FakeFile {
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

impl Files for FakeDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        if self.get(|state| state.open_fails) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.change(|state| {
            state.files.entry(name_of(path)).or_default();
        });
        Ok(Box::new(FakeFile(self.clone(), name_of(path))))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|state| {
            let file = state.files.remove(&name_of(from)).unwrap();
            assert!(state.files.insert(name_of(to), file).is_none(), "a segment was overwritten");
        });
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|state| assert!(state.files.remove(&name_of(path)).is_some()));
        Ok(())
    }
    fn list(&self, _: &Path) -> io::Result<Vec<Listed>> {
        let listed = |(name, (octets, modified)): (&String, &(Vec<u8>, Stamp))| Listed {
            name: name.clone(),
            octets: octets.len() as u64,
            modified: modified.0,
        };
        Ok(self.get(|state| state.files.iter().map(listed).collect()))
    }
}

fn fast(file: FileConfig) -> FileConfig {
    FileConfig {
        flush_interval: Duration::from_millis(1),
        retry_interval: Duration::from_millis(5),
        path: "/fake/log.jsonl".into(),
        fields: vec!["index".into()],
        ..file
    }
}

fn open_on(disk: &FakeDisk, file: FileConfig) -> Recorder {
    Recorder::open_on(&one_file(file), Arc::default(), Arc::new(disk.clone())).unwrap()
}

fn indices(text: &str) -> Vec<u64> {
    let index =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["index"].as_u64().unwrap();
    text.lines().map(index).collect()
}

#[test]
fn a_full_disk_leaves_no_gap_and_no_torn_line() {
    for compression_level in [0, 1] {
        let disk = FakeDisk::default();
        disk.change(|state| (state.room, state.bite) = (Some(150), Some(7)));
        let recorder =
            open_on(&disk, fast(FileConfig { compression_level, ..FileConfig::at("records.jsonl") }));
        let message = message(100_000);
        for n in 0..5_000 {
            recorder.record(delivered(&message, n));
        }
        eventually("failure seen", || recorder.stats()[0].failing && recorder.stats()[0].errors > 3);
        assert_eq!(recorder.stats()[0].dropped, 0);
        disk.change(|state| (state.room, state.bite) = (None, Some(997)));
        eventually("recovery", || !recorder.stats()[0].failing);
        for n in 5_000..5_100 {
            recorder.record(delivered(&message, n));
        }
        assert!(recorder.close(5 * SECOND));
        let octets = disk.get(|state| state.files.values().next().unwrap().0.clone());
        let octets = if compression_level > 0 { zstd::decode_all(&octets[..]).unwrap() } else { octets };
        assert_eq!(indices(std::str::from_utf8(&octets).unwrap()), (0..5_100).collect::<Vec<_>>());
    }
}

#[test]
fn a_full_queue_drops_and_counts() {
    let disk = FakeDisk::default();
    disk.change(|state| state.stuck = true);
    let recorder = open_on(&disk, fast(FileConfig { queue_max: 100, ..FileConfig::at("records.jsonl") }));
    let message = message(100_000);
    let start = Instant::now();
    for n in 0..10_000 {
        recorder.record(delivered(&message, n));
    }
    assert!(start.elapsed() < 5 * SECOND, "recording waited for the disk");
    let stats = recorder.stats().remove(0);
    // One queue in front of the thread, and what the thread had taken before it got stuck.
    assert!(stats.dropped >= 5_000 && stats.queued <= 200, "{stats:?}");
    disk.change(|state| state.stuck = false);
    assert!(recorder.close(5 * SECOND));
    let stats = recorder.stats().remove(0);
    assert_eq!(stats.written + stats.dropped, 10_000);
    assert_eq!(indices(&disk.text()).len() as u64, stats.written);
    let text = recorder.metrics().encode();
    assert!(
        text.contains(&format!(
            "tuma_accounting_dropped_total{{file=\"/fake/log.jsonl\"}} {}\n",
            stats.dropped
        )),
        "{text}"
    );
}

#[test]
fn blocking_waits_for_a_slow_disk_and_once_for_a_stuck_one() {
    let block = |block_timeout| {
        fast(FileConfig {
            queue_max: 50,
            when_full: WhenFull::Block,
            block_timeout,
            ..FileConfig::at("records.jsonl")
        })
    };
    let message = message(100_000);
    let disk = FakeDisk::default();
    disk.change(|state| state.bite = Some(1_000));
    let recorder = open_on(&disk, block(10 * SECOND));
    for n in 0..2_000 {
        recorder.record(delivered(&message, n));
    }
    assert!(recorder.close(10 * SECOND));
    assert_eq!(recorder.stats()[0].dropped, 0);
    assert_eq!(indices(&disk.text()), (0..2_000).collect::<Vec<_>>());

    let disk = FakeDisk::default();
    disk.change(|state| state.stuck = true);
    let recorder = open_on(&disk, block(Duration::from_millis(200)));
    let start = Instant::now();
    for n in 0..2_000 {
        recorder.record(delivered(&message, n));
    }
    // At most twice: before the thread took the first batch, and after.
    assert!(start.elapsed() < 2 * SECOND, "{:?}", start.elapsed());
    assert!(recorder.stats()[0].dropped >= 1_000, "{:?}", recorder.stats());
    assert!(!recorder.close(Duration::from_millis(100)), "a stuck disk cannot be closed");
    disk.change(|state| state.stuck = false);
}

#[test]
fn a_folder_that_comes_late() {
    let disk = FakeDisk::default();
    disk.change(|state| state.open_fails = true);
    let recorder = open_on(&disk, fast(FileConfig::at("records.jsonl")));
    let message = message(10);
    recorder.record(delivered(&message, 0));
    eventually("failure seen", || recorder.stats()[0].failing);
    disk.change(|state| state.open_fails = false);
    eventually("written", || recorder.stats()[0].written == 1);
    assert!(recorder.close(SECOND));

    let disk = FakeDisk::default();
    disk.change(|state| state.open_fails = true);
    let recorder = open_on(&disk, fast(FileConfig::at("records.jsonl")));
    recorder.record(delivered(&message, 0));
    assert!(!recorder.close(Duration::from_millis(100)));
    let stats = recorder.stats().remove(0);
    assert_eq!((stats.written, stats.dropped), (0, 1));
}

#[test]
fn segments_by_size_and_age_and_how_long_they_stay() {
    let disk = FakeDisk::default();
    let day = |days: u64| Stamp(SystemTime::now() - Duration::from_secs(days * 86_400));
    disk.change(|state| {
        for (name, octets, days) in [
            ("log-2020-01-01-0007.jsonl", 10, 9),
            ("log-2020-01-02-0000.jsonl", 10, 7),
            ("log-2020-01-02-0000.csv", 10, 9),
            ("log-2020-01-02-00x0.jsonl", 10, 9),
            ("logs-2020-01-02-0000.jsonl", 10, 9),
            // Of an earlier run that was killed.
            ("log.jsonl", 5, 0),
        ] {
            state.files.insert(name.into(), (vec![b'x'; octets], day(days)));
        }
    });
    let file = fast(FileConfig {
        max_size: Size(4_096),
        total_max_octets: Size(20_000),
        ..FileConfig::at("records.jsonl")
    });
    let recorder = open_on(&disk, file);
    let message = message(100_000);
    for n in 0..1_000 {
        recorder.record(delivered(&message, n));
        if n % 50 == 0 {
            eventually("written", || recorder.stats()[0].written > u64::from(n));
        }
    }
    assert!(recorder.close(5 * SECOND));
    let files: Vec<(String, usize)> = disk
        .get(|state| state.files.iter().map(|(name, (octets, _))| (name.clone(), octets.len())).collect());
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert!(!names.contains(&"log-2020-01-01-0007.jsonl"), "too old");
    for foreign in ["log-2020-01-02-0000.csv", "log-2020-01-02-00x0.jsonl", "logs-2020-01-02-0000.jsonl"] {
        assert!(names.contains(&foreign), "{foreign} is not ours to remove");
    }
    let today = crate::time::day(SystemTime::now().into());
    let ours: Vec<&(String, usize)> = files.iter().filter(|(name, _)| name.contains(&today)).collect();
    assert!(ours.len() >= 2, "{names:?}");
    let total: usize = ours.iter().map(|(_, octets)| octets).sum();
    assert!(total <= 20_000 + 8_192, "{files:?}");
    assert!(recorder.stats()[0].rotations >= 5);
    for (name, octets) in ours {
        assert!(*octets < 9_000, "{name} {octets}");
    }

    // By age.
    let disk = FakeDisk::default();
    let recorder = open_on(&disk, fast(FileConfig { max_age: SECOND, ..FileConfig::at("records.jsonl") }));
    recorder.record(delivered(&message, 0));
    eventually("rotation by age", || recorder.stats()[0].rotations == 1);
    assert_eq!(
        disk.get(|state| state.files.keys().cloned().collect::<Vec<_>>()),
        [format!("log-{today}-0000.jsonl")]
    );
    recorder.record(delivered(&message, 1));
    assert!(recorder.close(SECOND));
    assert_eq!(disk.get(|state| state.files.len()), 2);
}

#[test]
fn a_torn_file_reads_up_to_the_last_flush() {
    let folder = tempfile::tempdir().unwrap();
    let file = FileConfig {
        fields: vec!["index".into()],
        compression_level: 1,
        flush_interval: Duration::from_millis(1),
        ..FileConfig::at(folder.path().join("records.jsonl"))
    };
    let path = file.current_path();
    let recorder = open(&one_file(file.clone()));
    let message = message(100_000);
    for n in 0..1_000 {
        recorder.record(delivered(&message, n));
    }
    eventually("flushed", || recorder.stats()[0].written == 1_000);
    // What a kill would leave: no end of frame; and then some octets of the next block.
    let torn = std::fs::read(&path).unwrap();
    let read = |octets: &[u8]| {
        let mut text = Vec::new();
        let mut decoder = zstd::stream::read::Decoder::new(octets).unwrap();
        let mut buffer = [0; 512];
        while let Ok(n @ 1..) = decoder.read(&mut buffer) {
            text.extend_from_slice(&buffer[..n]);
        }
        let whole = text.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        indices(std::str::from_utf8(&text[..whole]).unwrap()).len()
    };
    assert_eq!(read(&torn), 1_000);
    for n in 1_000..2_000 {
        recorder.record(delivered(&message, n));
    }
    assert!(recorder.close(5 * SECOND));
    let whole = std::fs::read(&path).unwrap();
    for cut in [1, 2, 50, 200] {
        assert!(read(&whole[..torn.len() + cut]) >= 1_000);
    }
    assert_eq!(read(&whole), 2_000);

    // The next run leaves the torn file alone and begins another.
    std::fs::write(&path, &torn).unwrap();
    let recorder = open(&one_file(file));
    recorder.record(delivered(&message, 0));
    assert!(recorder.close(5 * SECOND));
    let left = names(folder.path());
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(std::fs::read(folder.path().join(&left[0])).unwrap(), torn);
}

#[test]
fn reload_keeps_what_stays_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| FileConfig::at(folder.path().join(name));
    let recorder = open(&all_files([at("a.jsonl"), at("b.jsonl")]));
    let message = message(10);
    recorder.record(delivered(&message, 0));
    let mut changed = at("b.jsonl");
    changed.fields = vec!["index".into()];
    let next = all_files([at("a.jsonl"), changed, at("c.jsonl")]);
    recorder.reconfigure(&next).unwrap();
    recorder.record(delivered(&message, 1));
    let bad = one_file(FileConfig { fields: vec!["nonsense".into()], ..at("d.jsonl") });
    assert_eq!(
        recorder.reconfigure(&bad).unwrap_err().to_string(),
        "accounting.file.1.fields: no field is called \"nonsense\""
    );
    recorder.record(delivered(&message, 2));
    assert!(recorder.close(5 * SECOND));
    let lines = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap().lines().count();
    assert_eq!((lines("a.jsonl"), lines("b.jsonl"), lines("c.jsonl")), (3, 2, 2));
    let aside = names(folder.path()).into_iter().find(|name| name.starts_with("b-")).unwrap();
    assert_eq!(lines(&aside), 1);
}

#[test]
fn settings_that_cannot_be_used() {
    let check = |file: FileConfig| one_file(file).check().first().map(|error| error.setting);
    let base = || FileConfig::at("records.jsonl");
    assert_eq!(check(base()), None);
    for (file, setting) in [
        (FileConfig { path: "/".into(), ..base() }, "path"),
        (FileConfig { path: "x.zst".into(), ..base() }, "compression_level"),
        (FileConfig { fields: vec!["x".into()], ..base() }, "fields"),
        (FileConfig { format: Format::Csv, fields: vec!["header_X".into()], ..base() }, "fields"),
        (FileConfig { format: Format::Csv, records: vec![Kind::Rejected], ..base() }, "records"),
    ] {
        assert_eq!(check(file.clone()), Some(setting), "{file:?}");
    }
    assert_eq!(
        all_files([base(), base()]).check()[0].to_string(),
        "accounting.file.2.path: records.jsonl is written to by `1` too"
    );
}

#[test]
fn recent_events_within_their_bounds() {
    let config = AccountingConfig { recent_max: 100, ..AccountingConfig::default() };
    let recorder = Recorder::open(&config, Arc::default()).unwrap();
    let ours = message(2);
    recorder.record(Record::new(Kind::Received, UnixMillis(1), &ours, 0));
    recorder.record(delivered(&ours, 0));
    let kinds: Vec<Kind> = recorder.events_of(ours.id).iter().map(|record| record.kind).collect();
    assert_eq!(kinds, [Kind::Received, Kind::Delivered]);
    let other = Arc::new(Message { id: SpoolId(1), ..(*ours).clone() });
    for _ in 0..100 {
        recorder.record(delivered(&other, 0));
    }
    assert!(recorder.events_of(ours.id).is_empty());
    assert_eq!(recorder.recent(1_000).len(), 100);
    // Places outlive what stood at them.
    let (first, records) = recorder.after(0, 10);
    assert_eq!((first, records.len(), recorder.place()), (2, 10, 102));
    assert_eq!(recorder.after(100, 10).1.len(), 2);
    assert_eq!((recorder.after(102, 10).1.len(), recorder.after(u64::MAX, 10).0), (0, 102));

    // Many large messages weigh more than the number of records says.
    let config = AccountingConfig {
        recent_max: 1_000,
        recent_max_octets: Size(100_000),
        ..AccountingConfig::default()
    };
    let recorder = Recorder::open(&config, Arc::default()).unwrap();
    let large = message(100);
    for _ in 0..100 {
        recorder.record(delivered(&large, 0));
        recorder.record(delivered(&ours, 0));
    }
    let kept = recorder.recent(1_000).len();
    assert!((1..20).contains(&kept), "{kept}");
    let huge = message(10_000);
    recorder.record(delivered(&huge, 0));
    assert_eq!((recorder.recent(1_000).len(), Arc::strong_count(&huge)), (kept, 1));
}

#[test]
fn the_running_sum_comes_out_at_nothing() {
    let metrics = Arc::new(Metrics::new());
    let recorder = Recorder::without_files(Arc::clone(&metrics));
    let queued = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let source = Arc::clone(&queued);
    assert!(metrics.queued_source(move || source.load(std::sync::atomic::Ordering::Relaxed)));
    let mut seed = 7u64;
    let mut random = move |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let mut pending = 17;
    metrics.recovered(17);
    let message = message(3);
    for step in 0..10_000 {
        let reply = || Reply::bare(250, "");
        match random(7) {
            0 | 1 => {
                let records = (0..3).map(|n| Record::new(Kind::Received, UnixMillis(step), &message, n));
                recorder.record_many(records.collect());
                pending += 3;
            }
            2 => recorder.record(Record::rejected(UnixMillis(step), Arc::default(), Arc::new(reply()))),
            3 => recorder.record(record(Kind::Deferred, &message, 0, reply())),
            n if pending > 0 => {
                let kinds = [Kind::Delivered, Kind::Bounced, Kind::Expired, Kind::Discarded];
                recorder.record(record(kinds[((n + random(4)) % 4) as usize], &message, 1, reply()));
                pending -= 1;
            }
            _ => {}
        }
        queued.store(pending, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(metrics.unaccounted(), 0);
    }
    let text = metrics.encode();
    assert!(text.contains("\ntuma_recipients_unaccounted 0.0\n"), "{text}");
    assert!(text.contains(&format!("\ntuma_recipients_queued {pending}.0\n")), "{text}");
    let total = metrics.total(Kind::Received);
    assert!(text.contains(&format!("\ntuma_recipients_accepted_total {total}\n")), "{text}");
    assert_eq!(metrics.messages_accepted.get() * 3, total);
    queued.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(metrics.unaccounted(), 1, "a lost recipient shows");
}

#[test]
fn metrics_of_other_rooms() {
    let metrics = Metrics::new();
    let gauge = metrics.gauge("sessions_open", "Sessions open");
    gauge.set(3);
    metrics.counter("spool_commits", "Commits").inc_by(9);
    metrics.histogram("spool_commit_seconds", "Commit time", &[0.001, 0.01]).observe(0.005);
    metrics.gauge_source("memory_octets", "Memory", || 1.5);
    metrics.counter_source("dns_queries", "Queries", || 8);
    metrics.labelled_gauge_source("site_queued", "By site", "site", || {
        vec![("a\"b\n".into(), 1.0), ("c".into(), 2.0)]
    });
    let text = metrics.encode();
    for line in [
        "tuma_sessions_open 3",
        "tuma_spool_commits_total 9",
        "tuma_spool_commit_seconds_bucket{le=\"0.01\"} 1",
        "tuma_memory_octets 1.5",
        "# TYPE tuma_dns_queries counter",
        "tuma_dns_queries_total 8",
        "tuma_site_queued{site=\"c\"} 2.0",
        "# EOF",
    ] {
        assert!(text.lines().any(|of| of == line), "{line}\n{text}");
    }
    assert!(text.contains("a\\\"b\\n"), "{text}");
}
