//! What the rules of this room cost a message.
//!
//! `cargo run --release -p message --example message_cost`

#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock; the rules do not")]

use mail::{
    Domain, Envelope, FieldName, Host, Mailbox, Message, Origin, Outcome, Recipient, Reply, ReversePath,
    SpoolId, Tags, TlsInfo, UnixMillis,
};
use message::{
    DsnConfig, DsnRequest, ReceivedField, RecipientReport, first_values, has_bare_newline, is_seven_bit,
    read_dsn, scan, take_out_fields, write_dsn,
};
use std::hint::black_box;
use std::time::Instant;

fn time(name: &str, mut f: impl FnMut()) {
    const TIMES: u32 = 200_000;
    let start = Instant::now();
    for _ in 0..TIMES {
        f();
    }
    println!("{name:<40} {:>8.0} ns", start.elapsed().as_nanos() as f64 / f64::from(TIMES));
}

fn main() {
    let header = "Received: from app7.sender.test ([203.0.113.9])\r\n\tby mx.test (Tuma) with ESMTP id 1jw0f00300g\r\n\t\
        for <user1@example.test>; Sun, 01 Mar 2026 10:00:05 +0000\r\nFrom: News <news@sender.test>\r\n\
        To: user1@example.test\r\nSubject: The numbers for March, and what comes next\r\n\
        Date: Sun, 01 Mar 2026 10:00:05 +0000\r\nMessage-ID: <20260301100005.1234@sender.test>\r\n\
        MIME-Version: 1.0\r\nContent-Type: multipart/alternative;\r\n\tboundary=\"----=_Part_123\"\r\n\
        List-Unsubscribe: <https://sender.test/u/1234567890>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\
        Feedback-ID: 1:2:3:sender\r\nX-Job: job7\r\n\r\n";
    let content =
        format!("{header}{}", "This is a line of an ordinary body, and ends as one.\r\n".repeat(68));
    let bytes = content.as_bytes();
    println!("header of {} octets, content of {}", header.len(), bytes.len());
    time("scan", || _ = black_box(scan(black_box(bytes))));
    time("is_seven_bit", || _ = black_box(is_seven_bit(black_box(bytes))));
    time("has_bare_newline", || _ = black_box(has_bare_newline(black_box(bytes))));

    let names =
        ["x-virtual-mta", "x-job", "x-envid", "x-tenant", "x-campaign", "x-priority-class", "subject", "x-s"];
    let names = names.map(|name| name.parse::<FieldName>().expect("a name"));
    let names = names.each_ref();
    time("first_values of 8 names", || _ = black_box(first_values(black_box(bytes), &names)));
    let mut octets = bytes.to_vec();
    time("take_out_fields, none there", || {
        _ = black_box(take_out_fields(black_box(&mut octets), |field| field.is("x-envid")));
    });
    time("copy and take_out_fields of one", || {
        octets.copy_from_slice(black_box(bytes));
        _ = black_box(take_out_fields(black_box(&mut octets), |field| field.is("x-job")));
    });

    let mailbox = |text: &str| Mailbox::parse(text).expect("a mailbox");
    let by = Host::Domain(Domain::parse("mx.test").expect("a domain"));
    let message = Message {
        id: SpoolId(1_790_000_000_000_000),
        received_at: UnixMillis(1_790_000_000_000),
        size: bytes.len() as u64,
        envelope: Envelope::new(
            ReversePath::Mailbox(mailbox("a@b.test")),
            vec![Recipient::new(mailbox("user1@example.test"))],
        ),
        origin: Origin {
            peer: Some("203.0.113.9:41000".parse().expect("an address")),
            helo: "app7.sender.test".into(),
            tls: Some(TlsInfo { protocol: "TLSv1.3".into(), cipher: "TLS_AES_256_GCM_SHA384".into() }),
            ..Origin::default()
        },
        tags: Tags::default(),
        headers: Vec::new(),
        extras: None,
    };
    let to = &message.envelope.recipients[0];
    let mut out = Vec::with_capacity(1_024);
    time("ReceivedField::write", || {
        out.clear();
        ReceivedField {
            origin: &message.origin,
            id: message.id,
            by: &by,
            smtputf8: false,
            for_recipient: Some(&to.path),
            at: message.received_at,
        }
        .write(black_box(&mut out));
    });
    let outcome = Outcome::Bounced(Reply::new(550, (5, 1, 1), "no such user here"));
    let report = RecipientReport::of(to, &outcome).expect("a bounce is reported");
    let recipients = [RecipientReport { remote_mta: Some("mx.example.test"), ..report }];
    let now = UnixMillis(1_790_000_001_000);
    let request =
        DsnRequest { message: &message, content: bytes, by: &by, recipients: &recipients, now, seed: 7 };
    let config = DsnConfig::default();
    time("write_dsn", || drop(black_box(write_dsn(black_box(&request), &config))));
    let draft = write_dsn(&request, &config).expect("the sender is not null");
    time("read_dsn", || drop(black_box(read_dsn(black_box(&draft.content)))));
}
