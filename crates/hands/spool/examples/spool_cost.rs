//! What the spool costs: messages a second, CPU a message, octets written, time to open, memory.
//!
//! `cargo run --release -p spool --example spool_cost -- DIRECTORY [MESSAGES [LIVE]]`: makes a spool in
//! DIRECTORY, which must be empty or absent, sends MESSAGES (200,000) through it at 4 KiB and an eighth of that
//! at 64 KiB, then leaves LIVE (1,000,000) unsettled and opens it again. Removes what it made.

use bytes::Bytes;
use mail::{Envelope, Mailbox, Message, Origin, Recipient, ReversePath, Tags, UnixMillis};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use spool::{Change, Config, Content, Draft, Fate, LoadEvent, Settlement, Spool, open_directory};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const WRITERS: u64 = 64;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(directory) = arguments.next().filter(|a| !a.starts_with('-')).map(PathBuf::from) else {
        eprintln!("usage: spool_cost DIRECTORY [MESSAGES [LIVE]]");
        std::process::exit(2);
    };
    let mut number = |default: u64| arguments.next().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (messages, live) = (number(200_000).min(10_000_000), number(1_000_000).min(5_000_000));
    if std::fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_some()) {
        eprintln!("{} is not empty", directory.display());
        std::process::exit(2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    for round in 1..=3 {
        through(&runtime, &directory, messages, 4 << 10, &format!("4 KiB, settled at once, round {round}"));
    }
    through(&runtime, &directory, messages / 8, 64 << 10, "64 KiB, settled at once");
    if live > 0 {
        open_again(&runtime, &directory, live);
    }
    let _ = std::fs::remove_dir_all(&directory);
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage works");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros as u64)
}

/// A field of a file of the kernel's, in its own units.
fn kernel(file: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn draft(spool: &Spool, body: &Bytes) -> Draft {
    let mailbox = |text| Mailbox::parse(text).expect("a mailbox of ours");
    let recipients = vec![Recipient::new(mailbox("recipient@destination.example"))];
    let envelope = Envelope::new(ReversePath::Mailbox(mailbox("sender+bounce=1@origin.example")), recipients);
    let id = spool.next_id();
    let prefix =
        Bytes::from(format!("Received: from client.example by here.example\r\n\twith ESMTP id {id};\r\n"));
    let origin = Origin { helo: "client.example".into(), listener: "smtp".into(), ..Origin::default() };
    let message = Message {
        id,
        received_at: UnixMillis(id.0 / 1000),
        size: 0,
        envelope,
        origin,
        tags: Tags::default(),
        headers: Vec::new(),
        extras: None,
    };
    Draft { message, content: Content { prefix, body: body.clone() } }
}

fn send(runtime: &tokio::runtime::Runtime, spool: &Spool, messages: u64, octets: usize, settle: bool) {
    let body = Bytes::from(vec![b'x'; octets]);
    runtime.block_on(async {
        let mut writers = Vec::new();
        for _ in 0..WRITERS {
            let (spool, body) = (spool.clone(), body.clone());
            writers.push(tokio::spawn(async move {
                for _ in 0..messages / WRITERS {
                    let accepted = spool.accept(draft(&spool, &body)).await.expect("the spool takes it");
                    if settle {
                        let change = Change::Final(Fate::Delivered);
                        spool.settle(
                            vec![Settlement { handle: accepted.handle(), recipient: 0, change }],
                            None,
                        );
                    }
                }
            }));
        }
        for writer in writers {
            writer.await.expect("a writer ends well");
        }
    });
}

fn through(runtime: &tokio::runtime::Runtime, directory: &Path, messages: u64, octets: usize, name: &str) {
    let (spool, loader) = open_directory(directory, &Config::default()).expect("the spool opens");
    let _ = loader.count();
    // The first files are new, those after them reused: both are part of it.
    let (cpu_before, io_before) = (cpu(), kernel("/proc/self/io", "write_bytes:"));
    let start = Instant::now();
    send(runtime, &spool, messages, octets, true);
    let (wall, used) = (start.elapsed(), cpu() - cpu_before);
    spool.close();
    let io = kernel("/proc/self/io", "write_bytes:") - io_before;
    let stats = spool.stats();
    let count = stats.committed_messages as f64;
    let payload = stats.committed_payload_bytes as f64;
    println!(
        "{name}: {:.0} messages/s, {:.1} us CPU a message, {:.1} messages a commit, sync {:.2} ms, \
         written/payload {:.3} ({:.3} by the kernel's count of folios touched), recycled {}, deleted {}, prepared in line {}",
        count / wall.as_secs_f64(),
        used.as_secs_f64() * 1e6 / count,
        count / stats.commits as f64,
        stats.sync_nanos as f64 / 1e6 / stats.commits as f64,
        (stats.segment_bytes_written + stats.state_bytes_written) as f64 / payload,
        io as f64 / payload,
        stats.recycled_segments,
        stats.deleted_segments,
        stats.inline_preparations,
    );
}

fn open_again(runtime: &tokio::runtime::Runtime, directory: &Path, live: u64) {
    let (spool, loader) = open_directory(directory, &Config::default()).expect("the spool opens");
    let _ = loader.count();
    let memory = || kernel("/proc/self/status", "VmRSS:") * 1024;
    let before = memory();
    let start = Instant::now();
    send(runtime, &spool, live, 4 << 10, false);
    let rate = live as f64 / start.elapsed().as_secs_f64();
    let stats = spool.stats();
    println!(
        "filling: {rate:.0} messages/s, {} live in {} segments, index {:.2} octets each, process grew by {:.1} MB",
        stats.live_messages,
        stats.segments,
        stats.index_memory_bytes as f64 / stats.live_messages as f64,
        memory().saturating_sub(before) as f64 / 1e6,
    );
    spool.close();
    drop(spool);
    let start = Instant::now();
    let (spool, mut loader) = open_directory(directory, &Config::default()).expect("the spool opens");
    let opened = start.elapsed();
    let body = Bytes::from_static(b"taken while loading");
    runtime.block_on(spool.accept(draft(&spool, &body))).expect("the spool takes it");
    let taken = start.elapsed();
    let first = loader.find(|event| matches!(event, LoadEvent::Message(_)));
    let first_after = start.elapsed();
    let rest = loader.filter(|event| matches!(event, LoadEvent::Message(_))).count();
    println!(
        "opening {}: {opened:.1?} until open, {taken:.1?} until a message is taken, {first_after:.1?} until the \
         first is found, {:.2?} until all are",
        rest + usize::from(first.is_some()),
        start.elapsed(),
    );
    drop(spool);
}
