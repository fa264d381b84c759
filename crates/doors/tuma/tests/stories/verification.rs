//! Mail of strangers: SPF, DKIM, DMARC and iprev against a real name server, and what is done about it.

use super::dkim;
use crate::harness::dns::NameServer;
use crate::harness::{
    Session, Setup, Tuma, has_program, has_python, keeping, python, records, sink, wait_until,
};
use bench::sink::{Captured, SinkHandle};
use mailauth::dkim::{Canonicalization, Identity, SignedName, SigningKey, sign};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

/// A server that takes the world's mail for dest.test.
const WORLD: &str = r#"
[listener.smtp]
verify = true
xclient_from = ["127.0.0.0/8"]
[relay]
networks = []
domains = ["dest.test"]
[route."dest.test"]
next_hop = "${TUMA_NEXT_HOP}"
[accounting.file.records]
headers = ["Authentication-Results", "Subject"]
"#;

struct World {
    folder: tempfile::TempDir,
    dns: NameServer,
    sink: SinkHandle,
    tuma: Tuma,
}

impl World {
    /// With more settings, and a zone.
    fn start(more: &str, zone: impl FnOnce(&NameServer)) -> Self {
        let (folder, dns, sink) = (tempfile::tempdir().unwrap(), NameServer::start(), sink(keeping()));
        zone(&dns);
        let setup = Setup::direct(folder.path(), &dns, 25, &format!("{WORLD}{more}"));
        let tuma = setup.env("TUMA_NEXT_HOP", &sink.addr().to_string()).start();
        Self { folder, dns, sink, tuma }
    }

    /// A session of a client at this address.
    fn client(&self, address: &str) -> Session {
        let mut session = self.tuma.session();
        session.say("EHLO balancer.test", "250");
        session.say(&format!("XCLIENT ADDR={address}"), "220");
        session.say("EHLO mail.a.test", "250");
        session
    }

    /// What arrived, once there are so many.
    fn arrived(&self, count: usize) -> Vec<Captured> {
        wait_until("the mail arrives", || self.sink.messages().len() >= count);
        self.sink.messages()
    }
}

/// The values of all fields of a name, on one line each.
fn fields(message: &Captured, name: &str) -> Vec<String> {
    let fields = message::Fields::new(&message.content).filter(|field| field.is(name));
    fields.map(|field| field.unfolded().split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// The key of a signer, in a zone too.
fn key(dns: &NameServer, domain: &str) -> Arc<SigningKey> {
    let key = SigningKey::generate_ed25519().unwrap();
    dns.txt(&format!("s1._domainkey.{domain}"), &key.record());
    Arc::new(key)
}

fn signed(key: &Arc<SigningKey>, domain: &str, content: &str) -> String {
    let identity = Identity {
        domain: domain.parse().unwrap(),
        selector: "s1".parse().unwrap(),
        key: key.clone(),
        canonicalization: Canonicalization::RELAXED,
        headers: SignedName::usual(),
        expires_after: 0,
        identity: None,
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let field = sign(&identity, content.as_bytes(), now).unwrap();
    String::from_utf8(field).unwrap() + content
}

const PLAIN: &str = "From: A <x@a.test>\r\nTo: y@dest.test\r\nSubject: s\r\n\r\nbody";

#[test]
fn what_is_true_is_said_in_one_field_in_front() {
    let mut made = None;
    let world = World::start("", |dns| {
        dns.txt("a.test", "v=spf1 ip4:192.0.2.0/24 -all");
        dns.txt("_dmarc.a.test", "v=DMARC1; p=reject");
        dns.ptr([192, 0, 2, 7], "out.a.test");
        dns.a("out.a.test", [192, 0, 2, 7]);
        made = Some(key(dns, "a.test"));
    });
    let mut session = world.client("192.0.2.7");
    let content = signed(&made.unwrap(), "a.test", PLAIN);
    let reply = session.message("x@a.test", &["y@dest.test"], &content);
    assert!(reply.starts_with("250"), "{reply}");
    let arrived = world.arrived(1);
    let said = fields(&arrived[0], "Authentication-Results");
    let [said] = &said[..] else { panic!("{said:?}") };
    let (head, signature) = said.split_once("header.b=").unwrap();
    assert_eq!(
        head,
        "tuma.test; spf=pass smtp.mailfrom=x@a.test; dkim=pass (256-bit key) header.d=a.test header.s=s1 \
         header.a=ed25519-sha256 "
    );
    let (_, rest) = signature.split_once("; ").unwrap();
    assert_eq!(
        rest,
        "dmarc=pass (p=reject dis=none at a.test) header.from=a.test; arc=none; iprev=pass (out.a.test) \
         policy.iprev=192.0.2.7"
    );
    let content = String::from_utf8_lossy(&arrived[0].content).into_owned();
    assert!(content.starts_with("Authentication-Results: tuma.test;"), "{content}");
    let kept = &records(world.folder.path(), "received", 1)[0];
    assert_eq!(
        kept["header_Authentication-Results"], "spf=pass dkim=pass dmarc=pass arc=none iprev=pass",
        "{kept}"
    );
    assert_eq!(world.tuma.metric("tuma_verified_messages_total"), 1.0);
    assert_eq!(world.tuma.metric("tuma_verify_results_total"), 5.0);
}

#[test]
fn policies_are_followed() {
    let more = "[[assign]]\nquarantined = true\ntenant = \"jail\"\n\
                [[assign]]\ndmarc = [\"none\"]\ntenant = \"free\"\n";
    let folder_more = format!("{more}[accounting.file.records]\nflush_interval = \"0s\"\n");
    let world = World::start(&folder_more, |dns| {
        dns.txt("_dmarc.reject.test", "v=DMARC1; p=reject");
        dns.txt("_dmarc.jail.test", "v=DMARC1; p=quarantine");
        dns.txt("_dmarc.watch.test", "v=DMARC1; p=none");
    });
    let mut session = world.client("198.51.100.1");
    let mut send = |domain: &str| {
        let content = format!("From: x@{domain}\r\nX-Quarantine: no\r\nSubject: {domain}\r\n\r\nbody");
        session.message("x@a.test", &["y@dest.test"], &content)
    };
    assert_eq!(
        send("reject.test").trim_end(),
        "550 5.7.1 reject.test wants mail refused that fails DMARC, as this message does"
    );
    assert_eq!(&send("below.reject.test")[..9], "550 5.7.1");
    for domain in ["jail.test", "watch.test", "free.test"] {
        let reply = send(domain);
        assert!(reply.starts_with("250"), "{domain}: {reply}");
    }
    let arrived = world.arrived(3);
    let of = |subject: &str| {
        arrived.iter().find(|message| fields(message, "Subject") == [subject]).expect("it arrived")
    };
    assert_eq!(fields(of("jail.test"), "X-Quarantine"), ["yes (DMARC policy)"]);
    assert_eq!(
        fields(of("watch.test"), "X-Quarantine"),
        Vec::<String>::new(),
        "a stranger's word is taken out"
    );
    let said = |subject: &str| fields(of(subject), "Authentication-Results").join("|");
    assert!(said("jail.test").contains("dmarc=fail (p=quarantine dis=quarantine at jail.test)"));
    assert!(said("watch.test").contains("dmarc=fail (p=none dis=none at watch.test)"));
    assert!(said("free.test").contains("dmarc=none header.from=free.test"));
    let tenants = records(world.folder.path(), "received", 3);
    let tenant =
        |subject: &str| tenants.iter().find(|r| r["header_Subject"] == subject).map(|r| r["tenant"].clone());
    assert_eq!(tenant("jail.test"), Some("jail".into()));
    assert_eq!(tenant("free.test"), Some("free".into()));
    assert_eq!(tenant("watch.test"), Some(serde_json::Value::Null));
    assert_eq!(records(world.folder.path(), "rejected", 2).len(), 2);
    assert_eq!(world.tuma.metric("tuma_verify_refused_total"), 2.0);
}

#[test]
fn what_dns_does_not_say_is_accepted_or_deferred() {
    let zone = |dns: &NameServer| {
        dns.servfail("a.test");
        dns.servfail("_dmarc.a.test");
    };
    let lenient = World::start("", zone);
    let reply = lenient.client("192.0.2.7").message("x@a.test", &["y@dest.test"], PLAIN);
    assert!(reply.starts_with("250"), "{reply}");
    let said = fields(&lenient.arrived(1)[0], "Authentication-Results").join("|");
    assert!(said.contains("spf=temperror (no answer about a.test)"), "{said}");
    assert!(said.contains("dmarc=temperror header.from=a.test"), "{said}");

    let strict = World::start("[verify]\ntemporary = \"defer\"\n", zone);
    let mut session = strict.client("192.0.2.7");
    let reply = session.message("x@a.test", &["y@dest.test"], PLAIN);
    assert!(reply.starts_with("451 4.7.1 "), "{reply}");
    // Once DNS answers, the mail comes in.
    strict.dns.forget("a.test");
    strict.dns.forget("_dmarc.a.test");
    wait_until("it is taken", || session.message("x@a.test", &["y@dest.test"], PLAIN).starts_with("250"));
    assert!(strict.tuma.metric("tuma_verify_deferred_total") >= 1.0);
}

#[test]
fn an_spf_failure_is_told_and_may_be_refused() {
    let mut made = None;
    let world = World::start("[verify]\nspf_fail = \"reject\"\nreceived_spf = true\n", |dns| {
        dns.txt("a.test", "v=spf1 ip4:192.0.2.7 -all exp=why.a.test");
        dns.txt("why.a.test", "%{i} is not ours");
        dns.txt("_dmarc.a.test", "v=DMARC1; p=none");
        made = Some(key(dns, "a.test"));
    });
    let mut session = world.client("198.51.100.1");
    let reply = session.message("x@a.test", &["y@dest.test"], PLAIN);
    assert_eq!(
        reply.trim_end(),
        "550 5.7.23 198.51.100.1 may not send mail of a.test; a.test says: 198.51.100.1 is not ours"
    );
    // A forwarder breaks SPF; the signature says whose mail it is.
    let content = signed(&made.unwrap(), "a.test", PLAIN);
    let reply = session.message("x@a.test", &["y@dest.test"], &content);
    assert!(reply.starts_with("250"), "{reply}");
    let arrived = world.arrived(1);
    let said = fields(&arrived[0], "Authentication-Results").join("|");
    assert!(said.contains("spf=fail smtp.mailfrom=x@a.test") && said.contains("dmarc=pass"), "{said}");
    assert_eq!(
        fields(&arrived[0], "Received-SPF"),
        ["fail (tuma.test: SPF of a.test) client-ip=198.51.100.1; identity=mailfrom; \
          envelope-from=\"x@a.test\"; helo=\"mail.a.test\""]
    );
}

#[test]
fn an_author_who_cannot_be_told_is_none() {
    let world = World::start("", |dns| dns.txt("_dmarc.bank.test", "v=DMARC1; p=reject"));
    let mut session = world.client("198.51.100.1");
    for header in [
        "From: x@free.test\r\nFrom: x@bank.test\r\n",
        "From: x@free.test, y@bank.test\r\n",
        "From: x@free.test <y@bank.test> <z@other.test>\r\n",
        "Subject: no author\r\n",
        "From: friends: x@bank.test;\r\n",
    ] {
        let reply = session.message("x@free.test", &["y@dest.test"], &format!("{header}\r\nbody"));
        assert!(reply.starts_with("550 5.7.1 who wrote this message cannot be told: "), "{header}: {reply}");
    }
    // What stands in quotes and comments is nobody's address.
    let reply = session.message(
        "x@free.test",
        &["y@dest.test"],
        "From: \"x@bank.test\" <x@free.test> (y@bank.test)\r\n\r\nbody",
    );
    assert!(reply.starts_with("250"), "{reply}");
    let said = fields(&world.arrived(1)[0], "Authentication-Results").join("|");
    assert!(said.contains("header.from=free.test"), "{said}");
}

#[test]
fn results_forged_in_our_name_do_not_come_in() {
    let world = World::start("[verify]\nauthserv_id = \"mx.tuma.test\"\n", |_| {});
    let forged = "Authentication-Results: mx.tuma.test; dmarc=pass header.from=a.test\r\n\
        authentication-results : (x)\r\n\tMX.Tuma.test 1; spf=pass\r\n\
        Authentication-Results: \"mx.tuma.test\" (y); dkim=pass\r\n\
        Authentication-Results: other.test; spf=pass (mx.tuma.test)\r\n";
    let reply =
        world.client("198.51.100.1").message("x@a.test", &["y@dest.test"], &format!("{forged}{PLAIN}"));
    assert!(reply.starts_with("250"), "{reply}");
    let said = fields(&world.arrived(1)[0], "Authentication-Results");
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("mx.tuma.test; spf=none"), "{said:?}");
    assert_eq!(said[1], "other.test; spf=pass (mx.tuma.test)");
}

#[test]
fn our_own_mail_is_not_verified() {
    let more = "[relay]\nnetworks = [\"192.0.2.0/24\"]\n[verify]\nexcept = [\"203.0.113.0/24\"]\n\
                [listener.inside]\nlisten = \"127.0.0.1:0\"\n";
    let world = World::start(more, |dns| dns.txt("_dmarc.a.test", "v=DMARC1; p=reject"));
    for address in ["192.0.2.7", "203.0.113.7"] {
        let reply = world.client(address).message("x@a.test", &["y@dest.test"], PLAIN);
        assert!(reply.starts_with("250"), "{reply}");
    }
    // A listener that does not verify, whoever comes.
    let mut session = Session::connect(world.tuma.listener("inside"));
    session.say("EHLO stranger.test", "250");
    let reply = session.message("x@a.test", &["y@dest.test"], PLAIN);
    assert!(reply.starts_with("250"), "{reply}");
    for message in world.arrived(3) {
        assert_eq!(fields(&message, "Authentication-Results"), Vec::<String>::new());
    }
    assert_eq!(world.dns.asked("_dmarc.a.test"), 0);
    assert_eq!(world.tuma.metric("tuma_verified_messages_total"), 0.0);
}

/// What other programs sign is found good when it comes in, and what was changed on the way is not.
#[test]
fn mail_that_dkimpy_and_opendkim_signed_passes_at_the_door() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (rsa, ed) = (dkim::key(path, "rsa", true), dkim::key(path, "ed", false));
    let world = World::start("", |dns| {
        dns.txt("s._domainkey.a.test", &rsa);
        dns.txt("e._domainkey.a.test", &ed);
        dns.txt("_dmarc.a.test", "v=DMARC1; p=reject");
    });
    let content = PLAIN.to_owned() + "\r\n";
    std::fs::write(path.join("plain.eml"), &content).unwrap();
    let file = |name: &str| path.join(name).to_str().unwrap().to_owned();
    let mut messages = Vec::new();
    if dkim::has_dkimpy() {
        for (kind, key) in [("rsa", file("rsa.pem")), ("ed", dkim::seed(&path.join("ed.pem")))] {
            python(
                dkim::DKIMPY_SIGNS,
                &[&file("plain.eml"), &key, kind, "relaxed/simple", &file("signed.eml")],
            );
            messages.push(std::fs::read_to_string(file("signed.eml")).unwrap());
        }
    }
    if dkim::has_opendkim() {
        messages.push(dkim::opendkim_signs(path, &content, "simple/relaxed"));
    }
    for message in &messages {
        let mut session = world.client("192.0.2.7");
        let reply = session.message("x@a.test", &["y@dest.test"], message.trim_end_matches("\r\n"));
        assert!(reply.starts_with("250"), "{reply}");
        let changed = message.replace("\r\n\r\nbody", "\r\n\r\nBody");
        let reply = session.message("x@a.test", &["y@dest.test"], changed.trim_end_matches("\r\n"));
        assert!(reply.starts_with("550"), "{reply}");
    }
    for (n, arrived) in world.arrived(messages.len()).iter().enumerate() {
        let said = fields(arrived, "Authentication-Results").concat();
        assert!(said.contains("dkim=pass") && said.contains("header.d=a.test"), "{n}: {said}");
        assert!(said.contains("dmarc=pass"), "{n}: {said}");
    }
}

/// True if there is dkimpy with what its ARC needs.
fn has_dkimpy() -> bool {
    has_python() && has_program("dkimpy", Command::new("python3").args(["-c", "import dkim, authres"]))
}

/// A key of a sealer as a file, its record in a zone and in the text that dkimpy gets.
fn sealing_key(folder: &Path, dns: &NameServer) -> String {
    let key = SigningKey::generate_rsa(2048).unwrap();
    dns.txt("s1._domainkey.fwd.test", &key.record());
    std::fs::write(folder.join("seal.pem"), key.to_pem().unwrap()).unwrap();
    key.record()
}

#[test]
fn what_is_sealed_here_holds_for_dkimpy() {
    if !has_dkimpy() {
        return;
    }
    let keys = tempfile::tempdir().unwrap();
    let mut record = String::new();
    let file = keys.path().join("seal.pem");
    let more = format!(
        "[verify]\narc_seal = \"forward\"\n[dkim.forward]\ndomain = \"fwd.test\"\nselector = \"s1\"\n\
         key = \"{}\"\n",
        file.display()
    );
    let world = World::start(&more, |dns| record = sealing_key(keys.path(), dns));
    let reply = world.client("192.0.2.7").message("x@a.test", &["y@dest.test"], PLAIN);
    assert!(reply.starts_with("250"), "{reply}");
    let once = world.arrived(1)[0].clone();
    // It comes round again: the chain grows.
    let again = String::from_utf8(once.content.to_vec()).unwrap();
    let reply = world.client("192.0.2.7").message("x@a.test", &["y@dest.test"], &again);
    assert!(reply.starts_with("250"), "{reply}");
    let twice = world.arrived(2)[1].clone();
    assert!(fields(&twice, "Authentication-Results")[0].contains("arc=pass (i=1, sealed by fwd.test)"));
    let script = r#"
import dkim, sys
message = open(sys.argv[1], "rb").read()
txt = lambda name, timeout=5: sys.argv[2].encode() if name.startswith(b"s1._domainkey.fwd.test") else b""
cv, results, reason = dkim.arc_verify(message, dnsfunc=txt)
print(cv.decode(), len(results), reason)
"#;
    for (message, sets) in [(once, 1), (twice, 2)] {
        let path = keys.path().join("message.eml");
        std::fs::write(&path, &message.content).unwrap();
        let said = python(script, &[path.to_str().unwrap(), &record]);
        assert_eq!(said.trim(), format!("pass {sets} success"));
    }
    assert_eq!(world.tuma.metric("tuma_sealed_total"), 2.0);
}

#[test]
fn what_dkimpy_sealed_holds_here_and_a_trusted_forwarder_is_believed() {
    if !has_dkimpy() {
        return;
    }
    let keys = tempfile::tempdir().unwrap();
    let zone = |dns: &NameServer| {
        dns.txt("_dmarc.a.test", "v=DMARC1; p=reject");
        sealing_key(keys.path(), dns);
    };
    let trusting = World::start("[verify]\narc_trusted = [\"fwd.test\"]\n", zone);
    let script = r#"
import dkim, sys
message = open(sys.argv[1], "rb").read()
set_ = dkim.arc_sign(message, b"s1", b"fwd.test", open(sys.argv[2], "rb").read(), b"fwd.test")
sys.stdout.write((b"".join(set_) + message).decode())
"#;
    let sealed = |results: &str| {
        let path = keys.path().join("plain.eml");
        std::fs::write(&path, format!("Authentication-Results: fwd.test; {results}\r\n{PLAIN}\r\n")).unwrap();
        let key = keys.path().join("seal.pem");
        let text = python(script, &[path.to_str().unwrap(), key.to_str().unwrap()]);
        // Printing may have changed the line ends.
        text.replace("\r\n", "\n").replace('\n', "\r\n").trim_end().to_owned()
    };
    let mut session = trusting.client("198.51.100.1");
    let reply = session.message("x@list.test", &["y@dest.test"], &sealed("arc=none; dmarc=pass"));
    assert!(reply.starts_with("250"), "{reply}");
    let said = fields(&trusting.arrived(1)[0], "Authentication-Results").join("|");
    assert!(said.contains("dmarc=fail (p=reject dis=none at a.test, trusted forwarder)"), "{said}");
    assert!(said.contains("arc=pass (i=1, sealed by fwd.test)"), "{said}");
    // Its word was another, or nobody's, or of a chain that does not hold.
    for content in [
        sealed("arc=none; dmarc=fail"),
        PLAIN.to_owned(),
        sealed("arc=none; dmarc=pass").replace("body", "Body"),
    ] {
        let reply = session.message("x@list.test", &["y@dest.test"], &content);
        assert!(reply.starts_with("550 5.7.1"), "{reply}: {content}");
    }
    // Whoever trusts nobody believes no chain.
    let other = World::start("", |dns| {
        dns.txt("_dmarc.a.test", "v=DMARC1; p=reject");
        sealing_key(keys.path(), dns);
    });
    let content = sealed("arc=none; dmarc=pass");
    let reply = other.client("198.51.100.1").message("x@list.test", &["y@dest.test"], &content);
    assert!(reply.starts_with("550 5.7.1"), "{reply}");
}

#[test]
fn what_was_seen_of_a_domain_is_told_to_its_owner() {
    if !has_python() {
        return;
    }
    let more = "[dmarc_reports]\nenabled = true\ninterval = \"1s\"\norg_name = \"Tom & Co\"\n\
                [route.\"a.test\"]\nnext_hop = \"${TUMA_NEXT_HOP}\"\n\
                [route.\"reports.test\"]\nnext_hop = \"${TUMA_NEXT_HOP}\"\n";
    let mut made = None;
    let world = World::start(more, |dns| {
        let record = "v=DMARC1; p=reject; rua=mailto:agg@a.test,mailto:r@reports.test,mailto:r@victim.test";
        dns.txt("_dmarc.a.test", record);
        dns.txt("a.test._report._dmarc.reports.test", "v=DMARC1");
        dns.txt("_dmarc.silent.test", "v=DMARC1; p=reject");
        made = Some(key(dns, "a.test"));
    });
    let mut session = world.client("192.0.2.7");
    let good = signed(&made.unwrap(), "a.test", PLAIN);
    assert!(session.message("x@a.test", &["y@dest.test"], &good).starts_with("250"));
    assert!(session.message("x@a.test", &["y@dest.test"], PLAIN).starts_with("550"));
    assert!(
        session
            .message("x@b.test", &["y@dest.test"], &PLAIN.replace("a.test", "silent.test"))
            .starts_with("550")
    );
    // The two may fall into two intervals.
    let of_reports = || {
        let all = world.sink.messages();
        all.into_iter().filter(|m| m.reverse_path == "dmarc-reports@tuma.test").collect::<Vec<_>>()
    };
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
import email, email.policy, gzip, sys, xml.etree.ElementTree as tree
ns = "{urn:ietf:params:xml:ns:dmarc-2.0}"
for path in sys.argv[1:]:
    mail = email.message_from_binary_file(open(path, "rb"), policy=email.policy.default)
    parts = [part for part in mail.walk() if part.get_content_type() == "application/gzip"]
    begin, end = parts[0].get_filename().split(".xml.gz")[0].split("!")[2:]
    root = tree.fromstring(gzip.decompress(parts[0].get_payload(decode=True)))
    text = lambda path: root.find("/".join(ns + step for step in path.split("/"))).text
    assert root.tag == ns + "feedback" and [c.tag for c in root][:3] == [ns + "version", ns + "report_metadata", ns + "policy_published"]
    assert (text("report_metadata/date_range/begin"), text("report_metadata/date_range/end")) == (begin, end)
    subject = mail["Subject"].split()
    assert subject[:5] == ["Report", "Domain:", "a.test", "Submitter:", "tuma.test"], subject
    assert subject[6].strip("<>") == text("report_metadata/report_id")
    assert text("report_metadata/org_name") == "Tom & Co" and text("policy_published/p") == "reject"
    for record in root.iter(ns + "record"):
        get = lambda path: record.find("/".join(ns + step for step in path.split("/"))).text
        print(get("row/source_ip"), get("row/count"), get("row/policy_evaluated/disposition"),
              get("row/policy_evaluated/dkim"), get("row/policy_evaluated/spf"), get("identifiers/header_from"))
"#;
    let mut rows: Vec<String> = Vec::new();
    wait_until("the reports arrive", || {
        let paths: Vec<String> = of_reports()
            .iter()
            .enumerate()
            .map(|(n, report)| {
                let path = folder.path().join(format!("{n}.eml"));
                std::fs::write(&path, &report.content).unwrap();
                path.to_str().unwrap().to_owned()
            })
            .collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        rows = python(script, &paths).lines().map(str::to_owned).collect();
        rows.sort();
        // Each of two receivers gets its copy.
        rows.len() == 4
    });
    let (passed, refused) = ("192.0.2.7 1 pass pass fail a.test", "192.0.2.7 1 reject fail fail a.test");
    assert_eq!(rows, [passed, passed, refused, refused]);
    let to: std::collections::BTreeSet<String> =
        of_reports().iter().flat_map(|m| m.recipients.iter().map(|r| r.address.clone())).collect();
    assert_eq!(to.into_iter().collect::<Vec<_>>(), ["agg@a.test", "r@reports.test"]);
    wait_until("what was told is forgotten", || {
        std::fs::read_dir(world.folder.path().join("state/dmarc")).unwrap().count() == 0
    });
    assert_eq!(world.tuma.metric("tuma_dmarc_report_rows_total"), 2.0);
}
