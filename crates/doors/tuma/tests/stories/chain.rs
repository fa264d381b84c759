//! Two servers in a row: what one says as a client, the other hears as a server.

use crate::harness::{Setup, Tuma, fixed_address, keeping, load, nobody, run, sink, wait_until};

fn send(tuma: &Tuma, to: &str, content: &str) -> String {
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    let reply = session.message("a@b.test", &[to], content);
    assert!(reply.starts_with("250"), "{reply}");
    reply
}

#[test]
fn mail_is_submitted_with_starttls_and_auth_by_a_relay() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let sink = sink(keeping());
    let second =
        Setup::submission(folders[1].path(), sink.addr(), "[listener.submission]\nauth_required = true\n")
            .start();
    let route = "[route.\"*\"]\ntls = \"required\"\nuser = \"user\"\npassword = \"secret\"\n";
    let first = Setup::relay_with(folders[0].path(), second.smtp(), route).start();
    send(&first, "c@example.test", "Subject: x\r\n\r\n..\r\nx");
    first.wait_until_settled();
    second.wait_until_settled();
    let messages = sink.messages();
    assert_eq!(messages.len(), 1);
    let received = messages[0].field("Received").unwrap();
    assert!(received.contains("from relay.test") && received.contains("with ESMTPSA"), "{received}");
    // Many, over the same few connections.
    let many = bench::loader::Options { recipient_domain: "example.test".into(), ..load(first.smtp(), 300) };
    assert_eq!(run(many).accepted, 300);
    first.wait_until_settled();
    second.wait_until_settled();
    assert_eq!((sink.stats().messages, sink.stats().duplicates()), (301, 0));
    assert!(sink.stats().faults.is_empty(), "{:?}", sink.stats().faults);
}

#[test]
fn a_wrong_password_and_a_certificate_nobody_vouches_for_keep_the_mail_queued() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let second = Setup::submission(folders[1].path(), nobody(), "").start();
    let wrong = "[route.\"*\"]\ntls = \"required\"\nuser = \"user\"\npassword = \"wrong\"\n[reception]\n";
    let unverified = "[route.\"*\"]\ntls = \"verified\"\n";
    for (route, reason) in [(wrong, "535"), (unverified, "certificate")] {
        let folder = tempfile::tempdir().unwrap();
        let first = Setup::relay_with(folder.path(), second.smtp(), route).start();
        send(&first, "c@example.test", "Subject: x\r\n\r\nx");
        wait_until("the reason is told", || {
            let said = first.ask(&["status"]);
            String::from_utf8_lossy(&said.stdout).to_lowercase().contains(reason)
        });
        assert_eq!((first.figure("/recipients/queued"), first.figure("/recipients/bounced")), (1, 0));
    }
    assert_eq!(second.figure("/recipients/received"), 0);
}

#[test]
fn mail_goes_on_in_the_clear_when_tls_fails_and_is_only_opportunistic() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let sink = sink(keeping());
    let second =
        Setup::submission(folders[1].path(), sink.addr(), "[relay]\nnetworks = [\"127.0.0.1\"]\n").start();
    let first =
        Setup::relay_with(folders[0].path(), second.smtp(), "[route.\"*\"]\ntls = \"opportunistic\"\n")
            .start();
    send(&first, "c@example.test", "Subject: x\r\n\r\nx");
    first.wait_until_settled();
    second.wait_until_settled();
    let received = sink.messages()[0].field("Received").unwrap();
    assert!(
        received.contains("with ESMTPS"),
        "a certificate nobody vouches for is better than none: {received}"
    );
}

#[test]
fn lmtp_to_the_next_hop_settles_each_recipient() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let sink = sink(keeping());
    let more = "[listener.smtp]\nspeaks = \"lmtp\"\n[relay]\nto_domains = [\"d.test\"]\n";
    let second = Setup::relay_with(folders[1].path(), sink.addr(), more).start();
    let first = Setup::relay_with(folders[0].path(), second.smtp(), "[route.\"*\"]\nlmtp = true\n").start();
    let mut session = first.session();
    session.say("EHLO client.test", "250");
    let reply = session.message(
        "a@b.test",
        &["one@d.test", "two@d.test", "no@elsewhere.test"],
        "Subject: x\r\n\r\nx",
    );
    first.wait_until_settled();
    second.wait_until_settled();
    assert_eq!((first.figure("/recipients/delivered"), first.figure("/recipients/bounced")), (2, 1));
    let events = first.events(&reply);
    let bounced = events.iter().find(|event| event["kind"] == "bounced").unwrap();
    assert!(
        bounced["recipient"] == "no@elsewhere.test" && bounced["reply"].as_str().unwrap().starts_with("550"),
        "{bounced}"
    );
}

#[test]
fn a_loop_between_two_servers_is_stopped_by_the_count_of_hops() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let address = fixed_address();
    let few = "[reception]\nhops_max = 10\n";
    let first = Setup::relay_with(folders[0].path(), address, few).start();
    let second = Setup::relay_with(folders[1].path(), first.smtp(), few)
        .env("TUMA_LISTEN", &address.to_string())
        .start();
    send(&first, "c@d.test", "Subject: x\r\n\r\nx");
    wait_until("the loop ends", || {
        first.figure("/recipients/bounced") + second.figure("/recipients/bounced") == 1
    });
    first.wait_until_settled();
    second.wait_until_settled();
    let passed = first.figure("/recipients/received") + second.figure("/recipients/received");
    assert!((9..=12).contains(&passed), "it passed {passed} times");
}
