//! Ways in besides plain SMTP: LMTP, PROXY headers, XCLIENT, SMTPUTF8.

use crate::harness::{Session, Setup, keeping, nobody, sink};
use bench::sink::Options;
use std::net::SocketAddr;

/// Begins a transaction; the reply to RCPT tells who the server takes the client for.
fn rcpt(session: &mut Session) -> String {
    session.say("EHLO client.test", "250");
    session.say("MAIL FROM:<a@b.test>", "250");
    session.send(b"RCPT TO:<c@d.test>\r\n");
    session.reply()
}

#[test]
fn lmtp_gives_a_reply_for_each_recipient() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let more = "[listener.lmtp]\nlisten = \"127.0.0.1:0\"\nspeaks = \"lmtp\"\n[relay]\nnetworks = [\"127.0.0.1\"]\nto_domains = [\"d.test\"]\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let mut session = Session::connect(tuma.listener("lmtp"));
    session.say("EHLO client.test", "50");
    session.say("LHLO client.test", "250");
    session.say("MAIL FROM:<a@b.test>", "250");
    session.say("RCPT TO:<one@d.test>", "250");
    session.say("RCPT TO:<x@elsewhere.test>", "550");
    session.say("RCPT TO:<two@d.test>", "250");
    session.say("DATA", "354");
    session.send(b"Subject: x\r\n\r\nx\r\n.\r\n");
    assert!(session.reply().starts_with("250"));
    assert!(session.reply().starts_with("250"));
    session.say("VRFY x", "252");
    tuma.wait_until_settled();
    let messages = sink.messages();
    assert_eq!(messages.iter().map(|m| m.recipients.len()).sum::<usize>(), 2);
    assert!(messages[0].field("Received").unwrap().contains("with LMTP"));
}

/// A PROXY header of version 2 for TCP over IPv4.
fn version_2(source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(source);
    header.extend([127, 0, 0, 1, 0x0f, 0xa0, 0, 25]);
    header
}

#[test]
fn a_proxy_header_is_believed_from_listed_peers_only() {
    let folder = tempfile::tempdir().unwrap();
    let more = "[listener.proxied]\nlisten = \"127.0.0.1:0\"\nproxy_from = [\"127.0.0.0/8\"]\n[relay]\nnetworks = [\"127.0.0.1\"]\n";
    let tuma = Setup::relay_with(folder.path(), nobody(), more).start();
    let proxied = tuma.listener("proxied");
    let headers: [(&[u8], &str); 5] = [
        (b"PROXY TCP4 127.0.0.1 127.0.0.1 4000 25\r\n", "250"),
        (b"PROXY TCP4 203.0.113.9 127.0.0.1 4000 25\r\n", "550"),
        (b"PROXY UNKNOWN\r\n", "250"),
        (&version_2([127, 0, 0, 1]), "250"),
        (&version_2([203, 0, 113, 9]), "550"),
    ];
    for (header, wanted) in headers {
        let mut session = Session::open(proxied);
        session.send(header);
        assert!(session.reply().starts_with("220"));
        let reply = rcpt(&mut session);
        assert!(reply.starts_with(wanted), "{}: {reply}", String::from_utf8_lossy(header));
    }
    // Without one, and with what is none, there is no session.
    for header in [&b"EHLO client.test\r\n"[..], b"PROXY TCP4 1.2.3 127.0.0.1 4000 25\r\n", b"PROXY TCP4\r\n"]
    {
        let mut session = Session::open(proxied);
        session.send(header);
        assert_eq!(session.reply(), "");
    }
    // From others it is a language that is not spoken here.
    let mut session = tuma.session();
    session.say("PROXY TCP4 203.0.113.9 127.0.0.1 4000 25", "421");
    assert_eq!(session.reply(), "");
}

#[test]
fn xclient_is_taken_from_listed_peers_only() {
    let folder = tempfile::tempdir().unwrap();
    let more = "[listener.trusting]\nlisten = \"127.0.0.1:0\"\nxclient_from = [\"127.0.0.0/8\"]\n[relay]\nnetworks = [\"127.0.0.1\"]\n";
    let tuma = Setup::relay_with(folder.path(), nobody(), more).start();
    let mut session = Session::connect(tuma.listener("trusting"));
    assert!(session.say("EHLO client.test", "250").contains("XCLIENT"));
    session.say("MAIL FROM:<forgotten@b.test>", "250");
    session.say("RSET", "250");
    session.say("XCLIENT ADDR=203.0.113.9 PORT=4000 NAME=[UNAVAILABLE]", "220");
    let reply = rcpt(&mut session);
    assert!(reply.starts_with("550"), "the address was not taken: {reply}");
    // A login the trusted peer vouches for is a login.
    session.say("RSET", "250");
    session.say("XCLIENT ADDR=203.0.113.9 LOGIN=user", "220");
    let reply = rcpt(&mut session);
    assert!(reply.starts_with("250"), "{reply}");
    let mut session = tuma.session();
    assert!(!session.say("EHLO client.test", "250").contains("XCLIENT"));
    session.say("XCLIENT ADDR=127.0.0.1 LOGIN=user", "5");
}

#[test]
fn addresses_beyond_ascii_go_through_or_bounce() {
    let send = |next_hop: SocketAddr| {
        let folder = tempfile::tempdir().unwrap();
        let tuma = Setup::relay(folder.path(), next_hop).start();
        let mut session = tuma.session();
        assert!(session.say("EHLO client.test", "250").contains("SMTPUTF8"));
        session.say("MAIL FROM:<jörg@b.test>", "5");
        session.say("MAIL FROM:<jörg@b.test> SMTPUTF8 BODY=8BITMIME", "250");
        session.say("RCPT TO:<müller@d.test>", "250");
        session.say("DATA", "354");
        session.send("Subject: Grüße\r\n\r\nx\r\n.\r\n".as_bytes());
        let reply = session.reply();
        assert!(reply.starts_with("250"), "{reply}");
        tuma.wait_until_settled();
        tuma.events(&reply).last().unwrap().clone()
    };
    let able = sink(keeping());
    assert_eq!(send(able.addr())["kind"], "delivered");
    let message = &able.messages()[0];
    assert_eq!(
        (message.reverse_path.as_str(), message.recipients[0].address.as_str()),
        ("jörg@b.test", "müller@d.test")
    );
    assert!(message.parameters.contains("SMTPUTF8") && message.field("Subject").as_deref() == Some("Grüße"));
    assert!(message.field("Received").unwrap().contains("with UTF8SMTP"));
    let unable = sink(Options { smtputf8: false, ..keeping() });
    let last = send(unable.addr());
    assert!(last["kind"] == "bounced" && last["reply"].as_str().unwrap().contains("5.6.7"), "{last}");
    assert_eq!(unable.stats().messages, 0);
}
