//! What the session machine alone costs: microseconds for a transaction of 4 KiB, no sockets.
//!
//! `cargo run --release -p smtp --example machine_cost`. Runs about two seconds.
#![allow(clippy::disallowed_methods)] // A benchmark needs a clock; the machine itself is given one.

use smtp::server::{Answer, Connection, Event, Server};
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: u32 = 20;
const TRANSACTIONS: u32 = 5_000;

fn main() {
    let mut content = b"Subject: a message of four kibibytes\r\nFrom: <a@b.test>\r\n\r\n".to_vec();
    while content.len() < 4096 {
        content.extend_from_slice(
            b"The quick brown fox jumps over the lazy dog, again and again, for ever.\r\n",
        );
    }
    content.extend_from_slice(b".\r\n");
    let chunk = format!("BDAT {} LAST\r\n", content.len() - 3).into_bytes();
    let mail = b"MAIL FROM:<bounce-12345@sender.example> SIZE=4096\r\n".to_vec();
    let rcpt = b"RCPT TO:<someone@recipient.example>\r\n".to_vec();
    let data = b"DATA\r\n".to_vec();
    let last = [chunk, content[..content.len() - 3].to_vec()].concat();
    let group = [&mail[..], &rcpt, &data].concat();
    let small: Vec<Vec<u8>> = content.chunks(1460).map(<[u8]>::to_vec).collect();
    let commands = vec![mail.clone(), rcpt.clone(), data.clone()];
    for (name, segments) in [
        ("lockstep, DATA in one segment", [commands.clone(), vec![content.clone()]].concat()),
        ("lockstep, DATA in segments of 1460", [commands, small].concat()),
        ("pipelined, DATA in one segment", vec![group, content]),
        ("pipelined, BDAT", vec![[mail, rcpt, last].concat()]),
    ] {
        let mut best = Duration::MAX;
        let start = Instant::now();
        for _ in 0..ROUNDS {
            best = best.min(round(&segments));
            if start.elapsed() > Duration::from_secs(2) {
                break;
            }
        }
        println!("{name}: {:.2} microseconds", best.as_secs_f64() * 1e6 / f64::from(TRANSACTIONS));
    }
}

fn round(segments: &[Vec<u8>]) -> Duration {
    let now = Instant::now();
    let mut server = Server::new(Arc::default(), Connection::default(), now);
    server.greet(now, None);
    feed(&mut server, now, b"EHLO client.example\r\n");
    let mut messages = 0;
    let start = Instant::now();
    for _ in 0..TRANSACTIONS {
        for segment in segments {
            messages += feed(&mut server, now, segment);
        }
    }
    let took = start.elapsed();
    assert_eq!(messages, TRANSACTIONS);
    took
}

fn feed(server: &mut Server, now: Instant, mut input: &[u8]) -> u32 {
    let mut messages = 0;
    while !input.is_empty() {
        input = &input[server.receive(now, input)..];
        while let Some(event) = server.event() {
            if let Event::Message { envelope, content } = event {
                std::hint::black_box((envelope, content));
                messages += 1;
            }
            server.answer(now, Answer::Accept);
        }
    }
    // A driver sends here.
    std::hint::black_box(server.output()).clear();
    messages
}
