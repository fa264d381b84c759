//! What verifying a message costs with the answers of DNS remembered, and with it its parts:
//! `cargo run --release -p reception --example verify_cost`.

use mail::{Domain, Envelope, Mailbox, Origin, Recipient, ReversePath};
use mailauth::dkim::{Canonicalization, Identity, SignedName, SigningKey, sign};
use reception::{VerifyConfig, VerifyFigures, VerifyRules};
use resolve::{Cached, Config, zone::Zone};
use std::sync::Arc;
use std::time::Instant;

const ROUNDS: u32 = 5_000;

/// A message of so many octets, signed by RSA of 2,048 bits.
fn message(zone: &Zone, octets: usize) -> Vec<u8> {
    let key = Arc::new(SigningKey::generate_rsa(2048).expect("a key"));
    zone.remove("s1._domainkey.a.test").txt("s1._domainkey.a.test", &key.record());
    let identity = Identity {
        domain: "a.test".parse().expect("a domain"),
        selector: "s1".parse().expect("a selector"),
        key,
        canonicalization: Canonicalization::RELAXED,
        headers: SignedName::usual(),
        expires_after: 0,
        identity: None,
    };
    let mut content = b"Received: from x by y; Thu, 14 Jan 2015 15:00:01 -0800\r\nFrom: A <x@a.test>\r\n\
        To: y@dest.test\r\nSubject: a subject of the usual length\r\nDate: Thu, 14 Jan 2015 15:00:01 -0800\r\n\
        Message-ID: <1@a.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n"
        .to_vec();
    while content.len() < octets {
        content
            .extend_from_slice(b"A line of text as it stands in many messages, of seventy octets or so.\r\n");
    }
    [sign(&identity, &content, 1_700_000_000).expect("a signature"), content].concat()
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let zone = Arc::new(Zone::new());
    zone.txt("a.test", "v=spf1 include:_spf.a.test ~all")
        .txt("_spf.a.test", "v=spf1 ip4:198.51.100.0/24 ip4:203.0.113.0/24 ip4:192.0.2.0/24 -all")
        .txt("_dmarc.a.test", "v=DMARC1; p=reject; rua=mailto:r@a.test")
        .ptr("192.0.2.7", "out.a.test")
        .a("out.a.test", "192.0.2.7");
    let mailbox = |text: &str| Mailbox::parse(text).expect("a mailbox");
    let envelope = Envelope::new(
        ReversePath::Mailbox(mailbox("x@a.test")),
        vec![Recipient::new(mailbox("y@dest.test"))],
    );
    let origin =
        Origin { peer: Some(([192, 0, 2, 7], 25).into()), helo: "out.a.test".into(), ..Origin::default() };
    let hostname = Domain::parse("mx.test").expect("a domain");
    let figures = VerifyFigures::default();
    for octets in [4 * 1024, 50 * 1024] {
        let content = message(&zone, octets);
        let dns = Cached::new(zone.clone(), &Config::default());
        let measure = |what: &str, config: &VerifyConfig| {
            let rules = VerifyRules::new(config, &hostname, None);
            let took = runtime.block_on(async {
                let mut took = f64::MAX;
                // The best of five: what is measured is the work, not the neighbours.
                for _ in 0..5 {
                    let began = Instant::now();
                    for _ in 0..ROUNDS / 5 {
                        let fields = rules.measure(&content, &envelope, &origin, &dns, &figures).await;
                        assert!(fields.is_ok(), "{fields:?}");
                    }
                    took = took.min(began.elapsed().as_secs_f64() / f64::from(ROUNDS / 5));
                }
                took
            });
            println!("{octets:>6} octets  {what:<22} {:>8.1} us a message", took * 1e6);
        };
        let off = VerifyConfig {
            spf: false,
            dkim: false,
            dmarc: false,
            arc: false,
            iprev: false,
            ..VerifyConfig::default()
        };
        measure("SPF", &VerifyConfig { spf: true, ..off.clone() });
        measure("DKIM", &VerifyConfig { dkim: true, ..off.clone() });
        measure("SPF, DKIM, DMARC", &VerifyConfig { spf: true, dkim: true, dmarc: true, ..off });
        measure("all, with ARC and iprev", &VerifyConfig::default());
    }
    let all = figures.results();
    assert!(all.iter().any(|(word, count)| word == "dmarc=pass" && *count >= u64::from(ROUNDS)), "{all:?}");
}
