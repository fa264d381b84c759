//! Dialogues: `S` the server's lines, `C` what must have been sent, `>` a transaction handed in, `=` an event.

use super::*;
use bytes::Bytes;
use mail::{
    BodyType, Envelope, Mailbox, Message, Notify, Origin, Recipient, Reply, ReversePath, SpoolId, Tags,
    UnixMillis,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn transaction(
    token: u64,
    recipients: u32,
    content: &'static [u8],
    shape: impl FnOnce(&mut Envelope),
) -> Transaction {
    let mailbox = |text: String| Mailbox::parse(&text).unwrap();
    let list = (0..recipients).map(|n| Recipient::new(mailbox(format!("r{n}@b.test")))).collect();
    let mut envelope = Envelope::new(ReversePath::Mailbox(mailbox("s@a.test".into())), list);
    shape(&mut envelope);
    let message = Message {
        id: SpoolId(token),
        received_at: UnixMillis(0),
        size: content.len() as u64,
        envelope,
        origin: Origin::default(),
        tags: Tags::default(),
        headers: Vec::new(),
        extras: None,
    };
    let (head, tail) = content.split_at(content.len() / 2);
    Transaction {
        reverse_path: None,
        token,
        message: Arc::new(message),
        recipients: (0..recipients).collect(),
        content: [Bytes::from_static(head), Bytes::from_static(tail)],
        size: content.len() as u64,
    }
}

fn describe(event: Event) -> String {
    match event {
        Event::Finished(finished) => {
            let mut text = format!("finished {}", finished.token);
            for r in finished.recipients {
                let doubt = if r.ambiguous { " ambiguous" } else { "" };
                text += &format!(" | {} {}{doubt} {}", r.index, r.outcome.name(), r.outcome.reply());
            }
            text
        }
        Event::Unsent(token) => format!("unsent {token}"),
        Event::Failed(failure) => format!("failed {:?} {}", failure.stage, failure.reply),
        Event::StartTls => "starttls".into(),
        Event::Ready => "ready".into(),
        Event::Closed => "closed".into(),
    }
}

/// What there is to send, in one piece.
fn all(client: &Client) -> Vec<u8> {
    client.output().flatten().copied().collect()
}

struct Dialogue {
    client: Client,
    now: Instant,
}

impl Dialogue {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        Self { client: Client::new(Config { ehlo_name: "me.test".into(), ..config }, false, now), now }
    }

    fn play(&mut self, script: &str) -> &mut Self {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (kind, rest) = line.split_at(1);
            let rest = rest.trim_start();
            match kind {
                "S" => {
                    let octets = format!("{}\r\n", rest.replace("\\r\\n", "\r\n"));
                    self.client.receive(self.now, octets.as_bytes());
                }
                "C" => {
                    let wanted = format!("{rest}\\r\\n").replace("\\r\\n", "\r\n");
                    let got = String::from_utf8_lossy(&all(&self.client)).into_owned();
                    assert!(got.starts_with(&wanted), "at {line:?} the client sent {got:?}");
                    self.client.sent(self.now, wanted.len());
                }
                "=" => {
                    let got = self.client.event().map_or("nothing".into(), describe);
                    assert_eq!(got, rest, "at {line:?}");
                }
                "!" => self.client.disconnected(Reply::new(451, (4, 4, 2), "connection lost")),
                _ => panic!("no such line: {line}"),
            }
        }
        self
    }

    fn submit(&mut self, tx: Transaction) -> &mut Self {
        self.client.submit(self.now, tx);
        self
    }

    /// Nothing may be left unsaid.
    fn done(&mut self) {
        assert!(!self.client.has_output(), "{}", String::from_utf8_lossy(&all(&self.client)));
        assert_eq!(self.client.event(), None);
    }
}

fn ready(keywords: &str) -> Dialogue {
    let mut dialogue = Dialogue::new(Config::default());
    let reply: String = keywords.split_whitespace().map(|word| format!("250-{word}\\r\\n")).collect();
    dialogue.play(&format!("S 220 hi\nC EHLO me.test\nS 250-b.test\\r\\n{reply}250 HELP\n= ready"));
    dialogue
}

const BODY: &[u8] = b"Subject: x\r\n\r\n.hi\r\n";
fn plain(_: &mut Envelope) {}

#[test]
fn the_plain_path_without_extensions() {
    ready("")
        .submit(transaction(1, 2, BODY, plain))
        .play(
            "C MAIL FROM:<s@a.test>
         S 250 ok
         C RCPT TO:<r0@b.test>
         S 250 ok
         C RCPT TO:<r1@b.test>
         S 550 5.1.1 no such user
         C DATA
         S 354 go
         C Subject: x\\r\\n\\r\\n..hi\\r\\n.
         S 250 2.0.0 queued
         = finished 1 | 0 delivered 250 2.0.0 queued | 1 bounced 550 5.1.1 no such user",
        )
        .done();
}

#[test]
fn with_pipelining_the_next_envelope_travels_behind_the_content() {
    let mut d = ready("PIPELINING");
    d.submit(transaction(1, 1, BODY, plain)).submit(transaction(2, 1, BODY, plain));
    assert!(!d.client.wants());
    d.play(
        "C MAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nDATA
         S 250 ok\\r\\n250 ok\\r\\n354 go
         C Subject: x\\r\\n\\r\\n..hi\\r\\n.\\r\\nMAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nDATA
         S 250 one\\r\\n250 ok\\r\\n250 ok\\r\\n354 go
         = finished 1 | 0 delivered 250 one
         C Subject: x\\r\\n\\r\\n..hi\\r\\n.
         S 250 two
         = finished 2 | 0 delivered 250 two",
    )
    .done();
}

#[test]
fn chunking_sends_content_as_it_is() {
    ready("PIPELINING CHUNKING SIZE").submit(transaction(1, 1, BODY, plain)).submit(transaction(2, 1, BODY, plain)).play(
        "C MAIL FROM:<s@a.test> SIZE=19\\r\\nRCPT TO:<r0@b.test>\\r\\nBDAT 19 LAST\\r\\nSubject: x\\r\\n\\r\\n.hi
         C RSET\\r\\nMAIL FROM:<s@a.test> SIZE=19\\r\\nRCPT TO:<r0@b.test>\\r\\nBDAT 19 LAST\\r\\nSubject: x\\r\\n\\r\\n.hi
         S 250 ok\\r\\n250 ok\\r\\n250 one
         = finished 1 | 0 delivered 250 one
         S 250 reset\\r\\n250 ok\\r\\n550 no\\r\\n503 none
         = finished 2 | 0 bounced 550 no",
    ).done();
}

#[test]
fn a_354_with_nobody_accepted_gets_the_lone_dot_and_is_no_delivery() {
    ready("PIPELINING")
        .submit(transaction(1, 1, BODY, plain))
        .play(
            "C MAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nDATA
         S 250 ok\\r\\n452 4.2.2 full\\r\\n354 go
         C .
         S 250 empty message queued
         = finished 1 | 0 deferred 452 4.2.2 full",
        )
        .done();
}

#[test]
fn a_250_in_place_of_354_is_no_delivery() {
    ready("PIPELINING")
        .submit(transaction(1, 1, BODY, plain))
        .play(
            "C MAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nDATA
         S 250 ok\\r\\n250 ok\\r\\n250 ok
         = finished 1 | 0 deferred 451 4.5.0 reply out of place: 250 ok
         = failed Transaction 451 4.5.0 reply out of place: 250 ok",
        )
        .done();
}

#[test]
fn a_250_before_the_end_of_data_is_out_is_no_delivery() {
    let mut d = ready("PIPELINING");
    d.submit(transaction(1, 1, BODY, plain))
        .play(
            "C MAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nDATA
         S 250 ok\\r\\n250 ok\\r\\n354 go\\r\\n250 queued
         = finished 1 | 0 deferred 451 4.5.0 reply out of place: 250 queued
         = failed Transaction 451 4.5.0 reply out of place: 250 queued",
        )
        .done();
}

#[test]
fn a_reply_to_rcpt_is_never_taken_for_the_reply_to_bdat() {
    ready("PIPELINING CHUNKING")
        .submit(transaction(1, 1, BODY, plain))
        .play(
            "C MAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nBDAT 19 LAST\\r\\nSubject: x\\r\\n\\r\\n.hi
         S 250 2.1.0 ok\\r\\n250 2.1.0 stray\\r\\n250 2.1.5 ok
         = finished 1 | 0 deferred ambiguous 451 4.5.0 reply out of place: 250 2.1.5 ok
         = failed Transaction 451 4.5.0 reply out of place: 250 2.1.5 ok",
        )
        .done();
}

#[test]
fn a_refused_data_leaves_a_session_that_works_after_rset() {
    let mut d = ready("PIPELINING");
    d.submit(transaction(1, 1, BODY, plain)).play(
        "C MAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nDATA
         S 250 ok\\r\\n250 ok\\r\\n451 4.3.0 not now
         = finished 1 | 0 deferred 451 4.3.0 not now",
    );
    d.submit(transaction(2, 1, BODY, plain))
        .play(
            "C RSET\\r\\nMAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nDATA
         S 250 reset\\r\\n550 5.7.1 sender\\r\\n503 no\\r\\n503 no
         = finished 2 | 0 bounced 550 5.7.1 sender",
        )
        .done();
}

#[test]
fn a_connection_lost_after_the_end_of_data_is_ambiguous_and_the_next_message_was_never_begun() {
    ready("PIPELINING")
        .submit(transaction(1, 1, BODY, plain))
        .submit(transaction(2, 1, BODY, plain))
        .play(
            "C MAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nDATA
         S 250 ok\\r\\n250 ok\\r\\n354 go
         !
         = finished 1 | 0 deferred ambiguous 451 4.4.2 connection lost
         = unsent 2
         = failed Transaction 451 4.4.2 connection lost",
        )
        .done();
}

#[test]
fn a_421_between_messages_costs_the_next_message_nothing() {
    let mut d = ready("PIPELINING");
    d.submit(transaction(1, 1, BODY, plain)).play(
        "C MAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nDATA
         S 250 ok\\r\\n250 ok\\r\\n354 go
         C Subject: x\\r\\n\\r\\n..hi\\r\\n.
         S 250 one
         = finished 1 | 0 delivered 250 one",
    );
    d.submit(transaction(2, 1, BODY, plain))
        .play(
            "C MAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nDATA
         S 421 4.7.0 enough
         = unsent 2
         = failed Transaction 421 4.7.0 enough",
        )
        .done();
}

#[test]
fn a_421_to_the_first_message_is_its_deferral() {
    ready("PIPELINING")
        .submit(transaction(1, 2, BODY, plain))
        .play(
            "C MAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nRCPT TO:<r1@b.test>\\r\\nDATA
         S 421 4.7.0 slow down
         = finished 1 | 0 deferred 421 4.7.0 slow down | 1 deferred 421 4.7.0 slow down
         = failed Transaction 421 4.7.0 slow down",
        )
        .done();
}

#[test]
fn lmtp_has_a_reply_for_each_recipient() {
    let mut d = Dialogue::new(Config { lmtp: true, ..Config::default() });
    d.play("S 220 hi\nC LHLO me.test\nS 250-b.test\\r\\n250 PIPELINING\n= ready");
    d.submit(transaction(1, 3, BODY, plain)).play(
        "C MAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nRCPT TO:<r1@b.test>\\r\\nRCPT TO:<r2@b.test>\\r\\nDATA
         S 250 ok\\r\\n250 ok\\r\\n550 no\\r\\n250 ok\\r\\n354 go
         C Subject: x\\r\\n\\r\\n..hi\\r\\n.
         S 250 stored
         S 452 4.2.2 full
         = finished 1 | 0 delivered 250 stored | 1 bounced 550 no | 2 deferred 452 4.2.2 full",
    ).done();
}

#[test]
fn what_the_next_hop_cannot_take_is_bounced_with_the_reason() {
    let eight: &[u8] = "Subject: x\r\n\r\nä\r\n".as_bytes();
    ready("SIZE=10")
        .submit(transaction(1, 1, BODY, plain))
        .play("= finished 1 | 0 bounced 552 5.3.4 message of 19 octets is over the next hop's limit of 10")
        .done();
    ready("").submit(transaction(1, 1, eight, |e| e.body = BodyType::EightBitMime)).play(
        "= finished 1 | 0 bounced 554 5.6.3 next hop does not support 8BITMIME and conversion is not supported",
    ).done();
    ready("")
        .submit(transaction(1, 1, BODY, |e| e.require_tls = true))
        .play("= finished 1 | 0 bounced 550 5.7.30 next hop does not support REQUIRETLS")
        .done();
    let to_utf8 = |e: &mut Envelope| {
        e.smtputf8 = true;
        e.recipients[0] = Recipient::new(Mailbox::parse("δ@b.test").unwrap());
    };
    ready("8BITMIME")
        .submit(transaction(1, 1, BODY, to_utf8))
        .play("= finished 1 | 0 bounced 550 5.6.7 next hop does not support SMTPUTF8")
        .done();
    // Declared 8BITMIME or SMTPUTF8 but in need of neither: it goes as it is.
    ready("")
        .submit(transaction(1, 1, BODY, |e| {
            e.smtputf8 = true;
            e.body = BodyType::EightBitMime;
        }))
        .play("C MAIL FROM:<s@a.test>");
}

#[test]
fn parameters_are_passed_where_offered() {
    let shape = |e: &mut Envelope| {
        e.body = BodyType::EightBitMime;
        e.envid = Some("x+2By".into());
        e.ret = Some(mail::Ret::Headers);
        e.recipients[0].notify = Notify::SUCCESS.with(Notify::FAILURE);
        e.recipients[0].orcpt = Some("rfc822;o@b.test".into());
    };
    ready("DSN 8BITMIME PIPELINING").submit(transaction(1, 1, BODY, shape)).play(
        "C MAIL FROM:<s@a.test> BODY=8BITMIME RET=HDRS ENVID=x+2By\\r\\nRCPT TO:<r0@b.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;o@b.test\\r\\nDATA",
    );
    ready("PIPELINING")
        .submit(transaction(1, 1, BODY, shape))
        .play("C MAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nDATA");
}

#[test]
fn starttls_forgets_what_was_offered_and_refuses_injected_replies() {
    let mut d = Dialogue::new(Config::default());
    d.play(
        "S 220 hi
         C EHLO me.test
         S 250-b.test\\r\\n250-SIZE\\r\\n250 STARTTLS
         C STARTTLS
         S 220 go
         = starttls",
    );
    d.client.tls_started(d.now);
    d.play("C EHLO me.test\nS 250-b.test\\r\\n250 PIPELINING\n= ready").done();
    assert_eq!(d.client.extensions().list(), "PIPELINING");
    Dialogue::new(Config::default())
        .play(
            "S 220 hi
         C EHLO me.test
         S 250-b.test\\r\\n250 STARTTLS
         C STARTTLS
         S 220 go\\r\\n250 injected
         = starttls
         = failed StartTls 451 4.7.0 the peer sent octets in the clear after its reply to STARTTLS",
        )
        .done();
}

#[test]
fn required_tls_and_auth_never_go_without() {
    Dialogue::new(Config { tls: TlsUse::Required, ..Config::default() })
        .play(
            "S 220 hi
         C EHLO me.test
         S 250 b.test
         = failed StartTls 451 4.7.10 TLS is required and the next hop does not offer STARTTLS",
        )
        .done();
    let auth = Some(Credentials { user: "u".into(), password: "p".into() });
    Dialogue::new(Config { auth: auth.clone(), ..Config::default() })
        .play(
            "S 220 hi
         C EHLO me.test
         S 250-b.test\\r\\n250 AUTH PLAIN
         = failed Hello 451 4.7.10 AUTH is configured but the session is not encrypted",
        )
        .done();
    Dialogue::new(Config { auth: auth.clone(), auth_in_clear: true, ..Config::default() })
        .play(
            "S 220 hi
         C EHLO me.test
         S 250-b.test\\r\\n250 AUTH LOGIN
         C AUTH LOGIN
         S 334 VXNlcm5hbWU6
         C dQ==
         S 334 UGFzc3dvcmQ6
         C cA==
         S 235 2.7.0 ok
         = ready",
        )
        .done();
    Dialogue::new(Config { auth, auth_in_clear: true, ..Config::default() })
        .play(
            "S 220 hi
         C EHLO me.test
         S 250-b.test\\r\\n250 AUTH PLAIN
         C AUTH PLAIN AHUAcA==
         S 535 5.7.8 no
         = failed Auth 535 5.7.8 no",
        )
        .done();
}

#[test]
fn an_old_server_is_greeted_with_helo() {
    let mut d = Dialogue::new(Config::default());
    d.play("S 220 hi\nC EHLO me.test\nS 502 what\nC HELO me.test\nS 250 b.test\n= ready").done();
}

#[test]
fn refused_greetings_and_junk_end_the_session() {
    for (line, event) in [
        ("554 5.3.2 no mail here", "failed Greeting 554 5.3.2 no mail here"),
        ("421 later", "failed Greeting 421 later"),
        ("HTTP/1.1 200 OK", "failed Greeting 451 4.5.0 the peer sent something that is not a reply"),
    ] {
        Dialogue::new(Config::default()).play(&format!("S {line}\n= {event}")).done();
    }
}

#[test]
fn every_wait_ends() {
    let mut d = ready("PIPELINING");
    assert_eq!(d.client.wake_at(), None);
    d.submit(transaction(1, 1, BODY, plain));
    assert_eq!(d.client.wake_at(), Some(d.now + Duration::from_secs(180)));
    d.play("C MAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nDATA");
    assert_eq!(d.client.wake_at(), Some(d.now + Duration::from_secs(300)));
    d.play("S 250 ok\\r\\n250 ok");
    assert_eq!(d.client.wake_at(), Some(d.now + Duration::from_secs(120)));
    d.play("S 354 go\nC Subject: x\\r\\n\\r\\n..hi\\r\\n.");
    let at = d.client.wake_at().unwrap();
    assert_eq!(at, d.now + Duration::from_secs(600));
    d.client.wake(at);
    d.play(
        "= finished 1 | 0 deferred ambiguous 451 4.4.2 timed out waiting for the reply to the end of data
         = failed Transaction 451 4.4.2 timed out waiting for the reply to the end of data",
    )
    .done();
}

#[test]
fn large_content_is_written_within_the_output_bound() {
    let content: &'static [u8] = Box::leak(vec![b'x'; 1_000_000].into_boxed_slice());
    for keywords in ["PIPELINING", "PIPELINING CHUNKING", "CHUNKING", ""] {
        let mut d = ready(keywords);
        d.submit(transaction(1, 1, content, plain));
        let mut total = 0;
        for _ in 0..200 {
            let sent = all(&d.client).len();
            assert!(sent < 300_000);
            total += sent;
            d.client.sent(d.now, sent);
            for reply in [&b"250 ok\r\n"[..], b"250 ok\r\n", b"354 go\r\n"] {
                if total < 200 && !(keywords.contains("CHUNKING") && reply.starts_with(b"354")) {
                    d.client.receive(d.now, reply);
                    let sent = all(&d.client).len();
                    total += sent;
                    d.client.sent(d.now, sent);
                }
            }
        }
        assert!(total > 1_000_000, "{keywords}: {total}");
        d.play("S 250 done\n= finished 1 | 0 delivered 250 done").done();
    }
}

#[test]
fn content_leaves_in_the_same_form_whether_it_is_copied_or_not() {
    let mut seed = 11u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    // From content in which no block is plain to content in which all are.
    for odd_one_in in [10, 300, 3_000, 1_000_000] {
        let mut content = Vec::new();
        while content.len() < 500_000 {
            match random(odd_one_in) {
                0 => content.extend_from_slice(b".dots\r\n"),
                1 => content.extend_from_slice(b"bare\nbare\r"),
                _ => content.extend(std::iter::repeat_n(b'x', random(90) as usize).chain(*b"\r\n")),
            }
        }
        let mut wanted = Vec::new();
        crate::data::stuff(&content, &mut wanted);
        let mut d = ready("PIPELINING");
        d.submit(transaction(1, 1, content.leak(), plain));
        d.play("C MAIL FROM:<s@a.test>\\r\\nRCPT TO:<r0@b.test>\\r\\nDATA\nS 250 ok\nS 250 ok\nS 354 go");
        let mut got = Vec::new();
        while d.client.has_output() {
            let octets = all(&d.client);
            let sent = 1 + random(octets.len() as u64) as usize;
            got.extend_from_slice(&octets[..sent]);
            d.client.sent(d.now, sent);
        }
        assert!(got.ends_with(b"\r\n.\r\n"));
        assert!(got[..got.len() - 3] == wanted, "one odd line in {odd_one_in}");
    }
}

#[test]
fn a_server_of_random_octets_never_panics_the_client() {
    let mut seed = 7u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let lines: [&[u8]; 12] = [
        b"220 hi\r\n",
        b"250-x\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
        b"250 ok\r\n",
        b"354 go\r\n",
        b"550 no\r\n",
        b"450 no\r\n",
        b"421 bye\r\n",
        b"25",
        b"0\r\n",
        b"334 \r\n",
        b"\r\n",
        b"\xff\x00",
    ];
    for _ in 0..20_000 {
        let mut d = Dialogue::new(Config::default());
        for token in 0..random(40) {
            d.client.receive(d.now, lines[random(if token < 2 { 2 } else { 12 }) as usize]);
            if random(2) == 0 {
                d.submit(transaction(token, 1 + random(3) as u32, BODY, plain));
            }
            let sent = all(&d.client).len();
            d.client.sent(d.now, random(sent as u64 + 1) as usize);
            while d.client.event().is_some() {}
        }
    }
}
