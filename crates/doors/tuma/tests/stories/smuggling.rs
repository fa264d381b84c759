//! No octets within a message make a second one at the next hop (attack rows 1 to 8).

use crate::harness::{Session, Setup, Tuma, keeping, sink};
use bench::sink::{Options, SinkHandle};

/// What a receiver somewhere has taken for the end of data.
const ENDS: &[&str] = &[
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r",
    "\r.\r\n",
    "\r\n.\r",
    "\n.\r",
    "\r.\n",
    "\r\r\n.\r\r\n",
    "\r\n.\r\r\n",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\r\n. \r\n",
    "\r\n .\r\n",
    "\u{85}.\u{85}",
    "\u{2028}.\u{2028}",
    "\u{b}.\u{b}",
    "\u{c}.\u{c}",
    "\r\n..\r\n",
    "\r\n.\t\r\n",
    "\n\r.\r\n",
    "\r\n.\r\r",
    "\n\n.\n\n",
];

fn content(end: &str) -> Vec<u8> {
    let second =
        "MAIL FROM:<evil@x.test>\r\nRCPT TO:<victim@d.test>\r\nDATA\r\nSubject: second\r\n\r\nsecond";
    format!("Subject: first\r\n\r\nfirst{end}{second}").into_bytes()
}

/// Sends one by DATA, dot-stuffed where a line of CRLF begins with a dot; gives the reply.
fn by_data(session: &mut Session, content: &[u8]) -> String {
    session.say("MAIL FROM:<a@b.test> BODY=8BITMIME", "250");
    session.say("RCPT TO:<c@d.test>", "250");
    session.say("DATA", "354");
    session.send(content);
    session.send(b"\r\n.\r\n");
    session.reply()
}

/// The same by BDAT: what stands there is content, whatever it looks like.
fn by_bdat(session: &mut Session, content: &[u8]) -> String {
    session.say("MAIL FROM:<a@b.test> BODY=8BITMIME", "250");
    session.say("RCPT TO:<c@d.test>", "250");
    session.send(format!("BDAT {} LAST\r\n", content.len() + 2).as_bytes());
    session.send(content);
    session.send(b"\r\n");
    session.reply()
}

fn check(tuma: &Tuma, sink: &SinkHandle) -> usize {
    let mut accepted = 0;
    for end in ENDS {
        for (how, send) in [("DATA", by_data as fn(&mut Session, &[u8]) -> String), ("BDAT", by_bdat)] {
            let mut session = tuma.session();
            session.say("EHLO client.test", "250");
            let reply = send(&mut session, &content(end));
            assert!(reply.starts_with("250 ") || reply.starts_with('5'), "{how} {end:?}: {reply}");
            accepted += usize::from(reply.starts_with('2'));
            // One reply and no more: what follows answers this.
            session.say("VRFY c", "252");
        }
    }
    // The true end within BDAT is content.
    for end in ["\r\n.\r\n", "\r\r\n.\r\n"] {
        let mut session = tuma.session();
        session.say("EHLO client.test", "250");
        let reply = by_bdat(&mut session, &content(end));
        assert!(reply.starts_with("250 ") || end.contains("\r\r"), "{reply}");
        session.say("VRFY c", "252");
        accepted += usize::from(reply.starts_with('2'));
    }
    tuma.wait_until_settled();
    let messages = sink.messages();
    for message in &messages {
        assert_eq!(
            (message.reverse_path.as_str(), message.recipients[0].address.as_str()),
            ("a@b.test", "c@d.test")
        );
        assert!(String::from_utf8_lossy(&message.content).contains("Subject: second"), "a message was cut");
    }
    assert_eq!(messages.len(), accepted);
    // A NUL is no line end and is carried whole.
    let faults: Vec<&str> =
        sink.stats().faults.into_keys().filter(|fault| *fault != "NUL in content").collect();
    assert_eq!(faults, [""; 0]);
    accepted
}

#[test]
fn nothing_is_smuggled_when_bare_line_ends_are_refused() {
    for chunking in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let sink = sink(Options { chunking, ..keeping() });
        let tuma = Setup::relay(folder.path(), sink.addr()).start();
        check(&tuma, &sink);
    }
}

#[test]
fn nothing_is_smuggled_when_bare_line_ends_are_made_whole() {
    for chunking in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let sink = sink(Options { chunking, ..keeping() });
        let tuma =
            Setup::relay_with(folder.path(), sink.addr(), "[smtp]\nbare_newline = \"normalise\"\n").start();
        let accepted = check(&tuma, &sink);
        assert!(accepted > ENDS.len(), "they are taken: {accepted}");
    }
}
