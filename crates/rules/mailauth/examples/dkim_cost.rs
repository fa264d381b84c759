//! What a DKIM signature costs: the library for cryptography alone, and beside it a whole message signed and verified
//! by us.
//!
//! `cargo run --release -p mailauth --example dkim_cost`; with `threads N`, only how often the library signs a second
//! on so many threads, for a comparison in the same run.

#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock; the rules do not")]

use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use mail::Domain;
use mailauth::dkim::{
    BodyHash, Canon, Canonicalization, Identity, KeyAnswer, SignedName, SigningKey, Unsigned, Verifier,
    VerifyPolicy, digest,
};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The median of rounds, in nanoseconds each.
fn time(name: &str, times: u32, mut f: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..7)
        .map(|_| {
            let began = Instant::now();
            (0..times).for_each(|_| f());
            began.elapsed().as_nanos() as f64 / f64::from(times)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:<64} {:>9.1} us", rounds[3] / 1_000.0);
    rounds[3]
}

/// Signatures a second that the library makes on so many threads.
fn library(threads: usize) -> f64 {
    let pair = Arc::new(RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key"));
    let span = Duration::from_secs(3);
    let works: Vec<_> = (0..threads)
        .map(|_| {
            let pair = pair.clone();
            std::thread::spawn(move || {
                let (digest, began, mut count) = (digest(b"x"), Instant::now(), 0u64);
                let mut out = vec![0; pair.public_modulus_len()];
                while began.elapsed() < span {
                    pair.sign_digest(&RSA_PKCS1_SHA256, &digest, &mut out).expect("a signature");
                    count += 1;
                }
                count as f64 / began.elapsed().as_secs_f64()
            })
        })
        .collect();
    works.into_iter().map(|work| work.join().expect("a figure")).sum()
}

fn message(octets: usize) -> Vec<u8> {
    let header = "Received: from app7.sender.test ([203.0.113.9])\r\n\tby mx.test (Tuma) with ESMTP id 1jw0f00300g\r\n\t\
        for <user1@example.test>; Sun, 01 Mar 2026 10:00:05 +0000\r\nFrom: News <news@sender.test>\r\n\
        To: user1@example.test\r\nSubject: The numbers for March, and what comes next\r\n\
        Date: Sun, 01 Mar 2026 10:00:00 +0000\r\nMessage-ID: <1@sender.test>\r\nMIME-Version: 1.0\r\n\
        Content-Type: text/plain; charset=utf-8\r\nList-Unsubscribe: <https://sender.test/u/1>\r\n\
        List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\n";
    let line = "Nobody reads what stands here, but it has words and blanks as mail does.\r\n";
    [header.as_bytes(), line.repeat(octets / line.len()).as_bytes()].concat()
}

fn main() {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("threads") {
        let threads = words.next().and_then(|word| word.parse().ok()).expect("threads N");
        println!("{:.0}", library(threads));
        return;
    }
    let [rsa, ed] =
        [SigningKey::generate_rsa(2_048), SigningKey::generate_ed25519()].map(|key| key.expect("a key"));
    let long = SigningKey::generate_rsa(4_096).expect("a key");
    let of = digest(b"x");
    time("the library alone: RSA-2048", 300, || drop(black_box(rsa.sign(&of))));
    time("the library alone: RSA-4096", 50, || drop(black_box(long.sign(&of))));
    time("the library alone: Ed25519", 2_000, || drop(black_box(ed.sign(&of))));
    let [rsa, ed] = [rsa, ed].map(Arc::new);
    let identity = |key: &Arc<SigningKey>| Identity {
        domain: Domain::parse("sender.test").expect("a domain"),
        selector: Domain::parse("s2026").expect("a selector"),
        key: key.clone(),
        canonicalization: Canonicalization::RELAXED,
        headers: SignedName::usual(),
        expires_after: 0,
        identity: None,
    };
    for octets in [4 * 1024, 50 * 1024] {
        let content = message(octets);
        let kib = octets / 1024;
        for canon in [Canon::Relaxed, Canon::Simple] {
            time(&format!("body of {kib} KiB hashed, {canon}"), 2_000, || {
                black_box(BodyHash::of(canon, &content));
            });
        }
        let sign = |keys: &[&Arc<SigningKey>]| {
            let mut unsigned = Unsigned::new([&content, &[]]).expect("a message");
            for key in keys {
                let field =
                    unsigned.prepare(&identity(key), 1_700_000_000).and_then(|prepared| prepared.sign());
                black_box(field.expect("a signature"));
            }
        };
        time(&format!("message of {kib} KiB signed, RSA-2048"), 300, || sign(&[&rsa]));
        time(&format!("message of {kib} KiB signed, Ed25519"), 1_000, || sign(&[&ed]));
        time(&format!("message of {kib} KiB signed, RSA-2048 and Ed25519"), 300, || sign(&[&rsa, &ed]));
        for key in [&rsa, &ed] {
            let field = mailauth::dkim::sign(&identity(key), &content, 1_700_000_000).expect("a signature");
            let signed = [&field[..], &content].concat();
            let answer = KeyAnswer::Records(vec![key.record().into_bytes()]);
            let policy = VerifyPolicy::default();
            time(&format!("message of {kib} KiB verified, {}", key.kind()), 500, || {
                let mut machine = Verifier::of(&signed, &policy, 1_700_000_000);
                machine.answer("s2026._domainkey.sender.test", &answer);
                let verified = black_box(machine.finish());
                assert!(verified[0].reason.is_none());
            });
        }
    }
}
