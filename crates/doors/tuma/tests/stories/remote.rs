//! Next hops that misbehave (attack rows 66 to 70): every message arrives once in the end, and nobody else waits.

use crate::harness::{PATIENCE, Session, Setup, keeping, load, nobody, rules, run, sink, wait_until};
use bench::sink::{Options, SinkHandle};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Waits short enough for a test, and connections to one next hop one at a time.
const IMPATIENT: &str = r#"
[delivery]
connect_timeout = "500ms"
greeting_timeout = "500ms"
ehlo_timeout = "500ms"
mail_timeout = "500ms"
rcpt_timeout = "500ms"
data_timeout = "500ms"
block_timeout = "500ms"
end_timeout = "500ms"
[shaping.default]
connections = 1
reconnect_min = "200ms"
reconnect_max = "200ms"
[retry]
waits = ["200ms"]
ambiguous_wait = "200ms"
"#;

fn route(name: &str, next_hop: &str) -> String {
    format!("[route.\"{name}\"]\nnext_hop = \"{next_hop}\"\ntls = \"off\"\n")
}

fn send(session: &mut Session, to: &str) -> String {
    let reply = session.message("a@b.test", &[to], "Subject: x\r\n\r\nx");
    assert!(reply.starts_with("250"), "{reply}");
    reply
}

#[test]
fn whatever_goes_wrong_in_a_phase_the_message_arrives_once_and_others_do_not_wait() {
    let mut cases = Vec::new();
    for phase in ["connect", "banner", "helo", "mail", "rcpt", "data", "body", "dot"] {
        cases.extend(["stall", "drop", "reset"].map(|action| format!("{phase}:first=1:{action}")));
        if !matches!(phase, "connect" | "body") {
            let said = [
                "close 421 4.3.2 bye",
                "421 4.3.2 bye",
                "451 4.3.0 later",
                "junk",
                "junk=999 what",
                "junk=25",
            ];
            cases.extend(said.map(|action| format!("{phase}:first=1:{action}")));
            let long = format!("junk=250 {}", "x".repeat(200_000));
            cases.push(format!("{phase}:first=1:{long}"));
        }
    }
    cases.extend(["quit:stall", "quit:drop", "quit:junk"].map(str::to_owned));
    // In place of 354.
    cases.push("data:first=1:250 2.0.0 ok".into());
    let folder = tempfile::tempdir().unwrap();
    let healthy = sink(Options::default());
    let sinks: Vec<SinkHandle> =
        cases.iter().map(|rule| sink(Options { rules: rules(&[rule]), ..keeping() })).collect();
    let mut more = IMPATIENT.to_owned();
    for (n, sink) in sinks.iter().enumerate() {
        more += &route(&format!("case{n}.test"), &sink.addr().to_string());
    }
    let tuma = Setup::relay_with(folder.path(), healthy.addr(), &more).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    let ids: Vec<String> = (0..cases.len()).map(|n| send(&mut session, &format!("c@case{n}.test"))).collect();
    // Meanwhile mail for others flows.
    let report = run(load(tuma.smtp(), 200));
    assert_eq!(report.accepted, 200);
    wait_until("others' mail has arrived", || healthy.stats().messages == 200);
    tuma.wait_until_settled();
    for (id, case) in ids.iter().zip(&cases) {
        let (events, case) = (tuma.events(id), &case[..case.len().min(40)]);
        assert_eq!(events.last().unwrap()["kind"], "delivered", "{case}: {events:?}");
    }
    let counts: Vec<(u64, &str)> = sinks
        .iter()
        .zip(&cases)
        .map(|(sink, case)| (sink.stats().messages, &case[..case.len().min(40)]))
        .filter(|(messages, _)| *messages != 1)
        .collect();
    assert_eq!(counts, [], "messages that did not arrive once");
    assert_eq!(tuma.figure("/recipients/bounced"), 0);
    for (sink, case) in sinks.iter().zip(&cases) {
        // Commands sent in a group do not know yet that the first is refused.
        let faults: Vec<&str> =
            sink.stats().faults.into_keys().filter(|fault| *fault != "command out of order").collect();
        assert_eq!(faults, [""; 0], "{}", &case[..case.len().min(40)]);
    }
}

#[test]
fn a_connection_lost_after_the_dot_is_marked_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(Options { rules: rules(&["dot:first=1:take-drop"]), ..keeping() });
    let tuma = Setup::relay_with(folder.path(), sink.addr(), IMPATIENT).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    let reply = send(&mut session, "c@d.test");
    tuma.wait_until_settled();
    assert_eq!(sink.stats().messages, 2, "the next hop took it twice, as nobody could know");
    let kinds: Vec<String> =
        tuma.events(&reply).iter().map(|e| e["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["received", "deferred", "delivered"]);
}

#[test]
fn one_next_hop_that_stalls_for_ever_holds_up_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let healthy = sink(Options::default());
    let stalled = sink(Options { rules: rules(&["mail:stall"]), ..Options::default() });
    // The default waits: minutes.
    let tuma =
        Setup::relay_with(folder.path(), healthy.addr(), &route("slow.test", &stalled.addr().to_string()))
            .start();
    let to_slow = bench::loader::Options { recipient_domain: "slow.test".into(), ..load(tuma.smtp(), 100) };
    assert_eq!(run(to_slow).accepted, 100);
    wait_until("the next hop stalls", || stalled.stats().rules_acted > 0);
    assert_eq!(run(load(tuma.smtp(), 300)).accepted, 300);
    wait_until("others' mail has arrived", || healthy.stats().messages == 300);
    wait_until("only the stalled are queued", || tuma.figure("/recipients/queued") == 100);
    wait_until("the sum holds", || tuma.figure("/recipients/unaccounted") == 0);
}

type Talk = Box<dyn Fn(&mut TcpStream) -> std::io::Result<()> + Send>;

/// A next hop that talks so to its first connection, and is gone after that.
fn says(what: Talk) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = what(&mut stream);
        // Until the client leaves.
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
    });
    address
}

#[test]
fn nothing_a_next_hop_says_unasked_counts_as_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let good = sink(keeping());
    let early = b"220 x\r\n250 x\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n".to_vec();
    let early_pipelined =
        b"220 x\r\n250-x\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n".to_vec();
    let words: Vec<Talk> = vec![
        Box::new(move |to| to.write_all(&early)),
        Box::new(move |to| to.write_all(&early_pipelined)),
        // Endless: a multiline reply, a line, NULs.
        Box::new(|to| {
            loop {
                to.write_all(&b"220-more\r\n".repeat(1000))?
            }
        }),
        Box::new(|to| {
            loop {
                to.write_all(&[b'2'; 8192])?
            }
        }),
        Box::new(|to| {
            loop {
                to.write_all(&[0; 8192])?
            }
        }),
        Box::new(|to| to.write_all(b"220 x\r\n250-\xff\xfe\x00\r\n250 x\r\n")),
        Box::new(|to| to.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n")),
        Box::new(|to| to.write_all(b"\r\n\r\n\r\n")),
        // 354 and a 250 although no recipient was taken.
        Box::new(|to| {
            let mut lines = BufReader::new(to.try_clone()?).lines();
            to.write_all(b"220 x\r\n")?;
            while let Some(line) = lines.next().transpose()? {
                if line == "." {
                    to.write_all(b"250 2.0.0 taken\r\n")?;
                    return to.shutdown(std::net::Shutdown::Both);
                }
                to.write_all(match line.get(..4).unwrap_or(&line) {
                    "EHLO" => &b"250-x\r\n250 PIPELINING\r\n"[..],
                    "RCPT" => b"450 4.2.0 later\r\n",
                    "DATA" => b"354 go on\r\n",
                    _ => b"250 2.0.0 ok\r\n",
                })?;
            }
            Ok(())
        }),
    ];
    let count = words.len();
    let mut more = IMPATIENT.to_owned();
    for (n, word) in words.into_iter().enumerate() {
        more += &route(&format!("case{n}.test"), &format!("{};{}", says(word), good.addr()));
    }
    let tuma = Setup::relay_with(folder.path(), good.addr(), &more).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    for n in 0..count {
        send(&mut session, &format!("c@case{n}.test"));
    }
    tuma.wait_until_settled();
    let mut arrived: Vec<String> = good.messages().iter().map(|m| m.recipients[0].address.clone()).collect();
    arrived.sort();
    let wanted: Vec<String> = (0..count).map(|n| format!("c@case{n}.test")).collect();
    assert_eq!(arrived, wanted);
    assert_eq!(tuma.figure("/recipients/bounced"), 0);
}

#[test]
fn a_next_hop_that_takes_few_recipients_at_a_time_gets_several_transactions() {
    let folder = tempfile::tempdir().unwrap();
    let heard = Arc::new(Mutex::new(Vec::<String>::new()));
    let hears = heard.clone();
    let talk: Talk = Box::new(move |to| {
        let mut lines = BufReader::new(to.try_clone()?).lines();
        to.write_all(b"220 x\r\n")?;
        while let Some(line) = lines.next().transpose()? {
            let word = line.get(..4).unwrap_or(&line).to_owned();
            if matches!(&*word, "MAIL" | "RCPT") {
                hears.lock().unwrap().push(word.clone());
            }
            to.write_all(match &*word {
                "EHLO" => &b"250-x\r\n250-LIMITS RCPTMAX=2\r\n250 PIPELINING\r\n"[..],
                "DATA" => b"354 go on\r\n",
                "QUIT" => b"221 bye\r\n",
                "MAIL" | "RCPT" | "." => b"250 2.0.0 ok\r\n",
                _ => b"",
            })?;
        }
        Ok(())
    });
    let more = IMPATIENT.to_owned() + &route("few.test", &says(talk).to_string());
    let tuma = Setup::relay_with(folder.path(), nobody(), &more).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    let to: Vec<String> = (0..5).map(|n| format!("c{n}@few.test")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    session.message("x@x.test", &to, "Subject: x\r\n\r\nx\r\n");
    tuma.wait_until_settled();
    assert_eq!(tuma.figure("/recipients/delivered"), 5);
    let heard = heard.lock().unwrap();
    assert_eq!(*heard, ["MAIL", "RCPT", "RCPT", "MAIL", "RCPT", "RCPT", "MAIL", "RCPT"]);
    assert_eq!(tuma.figure("/recipients/deferred"), 0, "what did not fit was no attempt");
}

#[test]
fn a_route_back_to_this_server_is_a_loop_and_bounces() {
    let folder = tempfile::tempdir().unwrap();
    let address = crate::harness::fixed_address();
    let tuma = Setup::relay(folder.path(), address).env("TUMA_LISTEN", &address.to_string()).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    let reply = send(&mut session, "c@d.test");
    tuma.wait_until_settled();
    let events = tuma.events(&reply);
    let last = events.last().unwrap();
    assert_eq!(last["kind"], "bounced", "{events:?}");
    assert!(last["reply"].as_str().unwrap().contains("5.4.6"), "{events:?}");
}

#[test]
fn what_a_next_hop_says_in_the_clear_behind_its_yes_to_starttls_is_nobodys_word() {
    let folder = tempfile::tempdir().unwrap();
    let good = sink(keeping());
    let injecting = says(Box::new(|to| {
        let mut lines = BufReader::new(to.try_clone()?).lines();
        to.write_all(b"220 x\r\n")?;
        while let Some(line) = lines.next().transpose()? {
            to.write_all(match line.get(..4).unwrap_or(&line) {
                "EHLO" => &b"250-x\r\n250 STARTTLS\r\n"[..],
                _ => b"220 go\r\n250 x\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n",
            })?;
        }
        Ok(())
    }));
    let hops = format!(
        "{IMPATIENT}[route.\"d.test\"]\nnext_hop = \"{injecting};{}\"\ntls = \"opportunistic\"\n",
        good.addr()
    );
    let tuma = Setup::relay_with(folder.path(), good.addr(), &hops).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    send(&mut session, "c@d.test");
    tuma.wait_until_settled();
    assert_eq!((good.stats().messages, tuma.figure("/recipients/delivered")), (1, 1));
    let required = format!("{IMPATIENT}[route.\"*\"]\ntls = \"required\"\n");
    let other = tempfile::tempdir().unwrap();
    let tuma = Setup::relay_with(other.path(), good.addr(), &required).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    send(&mut session, "c@d.test");
    wait_until("it says why", || {
        let said = tuma.ask(&["status"]);
        String::from_utf8_lossy(&said.stdout).contains("last failure")
    });
    // Never in the clear.
    assert_eq!((good.stats().messages, tuma.figure("/recipients/queued")), (1, 1));
}
