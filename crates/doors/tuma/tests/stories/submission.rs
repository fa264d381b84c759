//! Submission: STARTTLS, AUTH, who may send, and what senders are told.

use crate::harness::{Setup, has_python, keeping, python, rules, sink, wait_until};
use bench::sink::Options;

/// Begins every script: `submit(port, **auth)` is an authenticated session; certificates are not checked.
const PYTHON: &str = r#"
import smtplib, ssl, sys, email, base64, hashlib, hmac, os, socket
port = int(sys.argv[1])
tls = ssl.create_default_context()
tls.check_hostname = False
tls.verify_mode = ssl.CERT_NONE
def session(starttls=True):
    smtp = smtplib.SMTP("127.0.0.1", port, local_hostname="client.test", timeout=60)
    smtp.ehlo()
    if starttls:
        smtp.starttls(context=tls)
        smtp.ehlo()
    return smtp
MESSAGE = b"Subject: x\r\n\r\nhello\r\n"
"#;

fn script(tuma: &crate::harness::Tuma, script: &str) -> String {
    python(&format!("{PYTHON}\n{script}"), &[&tuma.smtp().port().to_string()])
}

#[test]
fn users_authenticate_under_starttls_and_others_may_not_relay() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::submission(folder.path(), sink.addr(), "").start();
    script(
        &tuma,
        r#"
smtp = session(starttls=False)
assert not smtp.has_extn("auth"), smtp.esmtp_features
assert smtp.docmd("AUTH PLAIN AHVzZXIAc2VjcmV0")[0] >= 500
assert smtp.mail("a@b.test")[0] == 250
code, text = smtp.rcpt("c@example.test")
assert code == 550 and text.startswith(b"5.7.1"), (code, text)
smtp.quit()

for mechanism in ("PLAIN", "LOGIN"):
    smtp = session()
    assert "SCRAM-SHA-256" in smtp.esmtp_features["auth"], smtp.esmtp_features
    smtp.user, smtp.password = "user", "wrong"
    method = getattr(smtp, "auth_" + mechanism.lower())
    try:
        smtp.auth(mechanism, method)
        sys.exit("a wrong password was taken")
    except smtplib.SMTPAuthenticationError as error:
        assert error.smtp_code == 535 and error.smtp_error.startswith(b"5.7.8"), error
    # Nobody's word yet.
    assert smtp.mail("a@b.test")[0] == 250
    assert smtp.rcpt("c@example.test")[0] == 550
    smtp.rset()
    smtp.password = "secret"
    assert smtp.auth(mechanism, method)[0] == 235
    refused = smtp.sendmail("a@b.test", ["c@example.test", "d@sub.example.test", "e@elsewhere.test"], MESSAGE)
    assert list(refused) == ["e@elsewhere.test"] and refused["e@elsewhere.test"][0] == 550, refused
    smtp.quit()
"#,
    );
    tuma.wait_until_settled();
    let messages = sink.messages();
    assert_eq!(messages.len(), 2);
    for message in messages {
        assert_eq!(message.recipients.len(), 2);
        let received = message.field("Received").unwrap();
        assert!(received.contains("with ESMTPSA"), "{received}");
        assert!(message.field("Date").is_some() && message.field("Message-ID").is_some());
    }
    assert_eq!(tuma.figure("/recipients/rejected"), 5);
}

#[test]
fn scram_proves_both_sides() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::submission(folder.path(), sink.addr(), "").start();
    script(
        &tuma,
        r#"
def b64(data): return base64.b64encode(data).decode()
def scram(smtp, user, password):
    nonce = b64(os.urandom(18))
    bare = "n=%s,r=%s" % (user, nonce)
    code, text = smtp.docmd("AUTH SCRAM-SHA-256", b64(("n,," + bare).encode()))
    assert code == 334, (code, text)
    first = base64.b64decode(text).decode()
    fields = dict(part.split("=", 1) for part in first.split(","))
    assert fields["r"].startswith(nonce) and len(fields["r"]) > len(nonce) and int(fields["i"]) >= 4096
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
    mac = lambda key, text: hmac.new(key, text, hashlib.sha256).digest()
    client = mac(salted, b"Client Key")
    without = "c=biws,r=" + fields["r"]
    whole = ",".join((bare, first, without)).encode()
    signature = mac(hashlib.sha256(client).digest(), whole)
    proof = bytes(a ^ b for a, b in zip(client, signature))
    code, text = smtp.docmd(b64((without + ",p=" + b64(proof)).encode()))
    if code == 334:
        # The server's signature, answered by an empty response.
        assert base64.b64decode(text).decode() == "v=" + b64(mac(mac(salted, b"Server Key"), whole)), text
        code, text = smtp.docmd("")
    return code, text

smtp = session()
assert scram(smtp, "user", "secret")[0] == 235
assert smtp.sendmail("a@b.test", ["c@example.test"], MESSAGE) == {}
smtp.quit()
smtp = session()
assert scram(smtp, "user", "wrong")[0] == 535
smtp.quit()
# One who does not exist is not told apart.
smtp = session()
assert scram(smtp, "nobody", "secret")[0] == 535
smtp.quit()
"#,
    );
    tuma.wait_until_settled();
    assert_eq!(sink.stats().messages, 1);
}

#[test]
fn what_was_sent_behind_starttls_in_the_clear_is_thrown_away() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::submission(folder.path(), sink.addr(), "").start();
    script(
        &tuma,
        r#"
raw = socket.create_connection(("127.0.0.1", port), timeout=60)
file = raw.makefile("rb")
def reply(file):
    while True:
        line = file.readline()
        if line[3:4] != b"-":
            return line
assert reply(file)[:3] == b"220"
raw.sendall(b"EHLO client.test\r\n")
assert reply(file)[:3] == b"250"
raw.sendall(b"MAIL FROM:<kept@b.test>\r\n")
assert reply(file)[:3] == b"250"
raw.sendall(b"RSET\r\n")
assert reply(file)[:3] == b"250"
raw.sendall(b"STARTTLS\r\nEHLO injected.test\r\nMAIL FROM:<evil@x.test>\r\n")
assert reply(file)[:3] == b"220"
try:
    wrapped = tls.wrap_socket(raw)
except (ssl.SSLError, OSError):
    sys.exit(0) # Closed: as good.
file = wrapped.makefile("rb")
# Nothing was said before, not even EHLO.
wrapped.sendall(b"RCPT TO:<c@example.test>\r\n")
assert reply(file)[:3] == b"503"
wrapped.sendall(b"MAIL FROM:<a@b.test>\r\n")
assert reply(file)[:3] in (b"503", b"250")
"#,
    );
}

#[test]
fn senders_are_told_of_bounces_unless_they_do_not_want_to_be() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink =
        sink(Options { rules: rules(&["rcpt:address=gone*:550 5.1.1 no such <user> here"]), ..keeping() });
    // The sender's own domain may be sent to.
    let tuma = Setup::submission(folder.path(), sink.addr(), "").start();
    let send = |from: &str, options: &str, to: &str| {
        script(
            &tuma,
            &format!(
                r#"
smtp = session()
smtp.login("user", "secret")
code, text = smtp.mail("{from}", ["RET=HDRS", "ENVID=QQ314159"])
assert code == 250, text
for address in "{to}".split():
    code, text = smtp.rcpt(address, {options})
    assert code == 250, text
assert smtp.data(b"Subject: the original\r\nX-Mark: 1\r\n\r\nthe body\r\n")[0] == 250
smtp.quit()
"#
            ),
        );
    };
    // No one is told.
    send("me@example.test", r#"["NOTIFY=NEVER"]"#, "gone-never@example.test");
    send("", "[]", "gone-null@example.test");
    tuma.wait_until_settled();
    assert_eq!((sink.stats().messages, tuma.figure("/recipients/bounced")), (0, 2));
    // The sender is.
    send(
        "me@example.test",
        r#"["NOTIFY=FAILURE", "ORCPT=rfc822;First@example.test"]"#,
        "gone@example.test there@example.test",
    );
    wait_until("the notification arrives", || sink.stats().messages == 2);
    tuma.wait_until_settled();
    let messages = sink.messages();
    let dsn = messages
        .iter()
        .find(|m| m.reverse_path.is_empty())
        .expect("a notification from the null reverse-path");
    assert_eq!(dsn.recipients[0].address, "me@example.test");
    let file = folder.path().join("dsn.eml");
    std::fs::write(&file, &dsn.content).unwrap();
    let out = python(
        r#"
import email, email.policy, sys
message = email.message_from_binary_file(open(sys.argv[1], "rb"), policy=email.policy.default)
assert not message.defects, message.defects
assert message.get_content_type() == "multipart/report", message["Content-Type"]
assert message.get_param("report-type") == "delivery-status"
assert message["Auto-Submitted"].startswith("auto-replied"), message["Auto-Submitted"]
assert message["To"] and message["From"] and message["Date"] and message["Message-ID"] and message["Subject"]
text, status, original = message.get_payload()
assert text.get_content_type() == "text/plain"
assert "gone@example.test" in text.get_content() and "there@example.test" not in text.get_content()
assert status.get_content_type() == "message/delivery-status"
whole, one = status.get_payload()
assert whole["Original-Envelope-Id"] == "QQ314159", whole.items()
assert whole["Reporting-MTA"] == "dns; submission.test", whole.items()
assert one["Action"] == "failed" and one["Status"] == "5.1.1", one.items()
assert one["Final-Recipient"].replace(" ", "") == "rfc822;gone@example.test", one.items()
assert one["Original-Recipient"].replace(" ", "") == "rfc822;First@example.test", one.items()
assert one["Diagnostic-Code"] == "smtp; 550 5.1.1 no such <user> here", one.items()
assert original.get_content_type() == "text/rfc822-headers", original.get_content_type()
assert "X-Mark: 1" in original.as_string() and "the body" not in original.as_string()
print("good")
"#,
        &[file.to_str().unwrap()],
    );
    assert_eq!(out.trim(), "good");
}

#[test]
fn mail_that_requires_tls_bounces_where_there_is_none() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::submission(folder.path(), sink.addr(), "").start();
    script(
        &tuma,
        r#"
smtp = session()
assert smtp.has_extn("requiretls")
smtp.login("user", "secret")
assert smtp.mail("me@example.test", ["REQUIRETLS"])[0] == 250
assert smtp.rcpt("c@example.test")[0] == 250
assert smtp.data(MESSAGE)[0] == 250
smtp.quit()
"#,
    );
    wait_until("it bounced", || tuma.figure("/recipients/bounced") >= 1);
    tuma.wait_until_settled();
    // The notification requires TLS no less, or comes without content (RFC 8689 §5).
    for message in sink.messages() {
        let text = String::from_utf8_lossy(&message.content).into_owned();
        assert!(
            message.reverse_path.is_empty() && text.contains("5.7.30") && !text.contains("hello"),
            "{text}"
        );
    }
}
