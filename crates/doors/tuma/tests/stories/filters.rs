//! Milters and sidecars of others: one by libmilter, one written by itself in Python, and opendkim.

use crate::harness::{Process, Session, Setup, has_program, has_python, keeping, sink, wait_until};
use std::path::Path;
use std::process::{Command, Stdio};

const MESSAGE: &str = "From: a@from.test\r\nTo: r@to.test\r\nSubject: hello\r\n\r\nbody";

/// A filter by pymilter, which stands on Sendmail's own library.
const PYMILTER: &str = r#"
import sys, Milter
class Filter(Milter.Base):
    def connect(self, name, family, address):
        self.seen = ["connect " + address[0]]
        return Milter.CONTINUE
    def hello(self, name):
        self.seen.append("helo " + name)
        return Milter.CONTINUE
    def envfrom(self, address, *args):
        self.seen.append("mail " + address)
        if "reject" in address:
            self.setreply("554", "5.7.1", "not from there")
            return Milter.REJECT
        return Milter.CONTINUE
    def envrcpt(self, address, *args):
        self.seen.append("rcpt " + address)
        if "later" in address:
            return Milter.TEMPFAIL
        return Milter.CONTINUE
    def data(self):
        self.seen.append("data")
        return Milter.CONTINUE
    def header(self, name, value):
        self.seen.append("header " + name)
        return Milter.CONTINUE
    def eoh(self):
        return Milter.CONTINUE
    def body(self, chunk):
        self.seen.append("body %d" % len(chunk))
        return Milter.CONTINUE
    def eom(self):
        self.progress()
        self.addheader("X-Seen", "; ".join(self.seen))
        self.chgheader("Subject", 1, "changed")
        self.addheader("X-First", "1", 0)
        self.addrcpt("<added@to.test>")
        self.chgfrom("<new@from.test>")
        self.replacebody(b"another body\r\n")
        self.seen = self.seen[:2]
        return Milter.ACCEPT
    def abort(self):
        self.seen = self.seen[:2]
        return Milter.CONTINUE
Milter.factory = Filter
Milter.set_flags(Milter.CHGBODY | Milter.CHGHDRS | Milter.ADDHDRS | Milter.ADDRCPT | Milter.CHGFROM)
Milter.runmilter("filter", sys.argv[1], 60)
"#;

/// A filter that knows nothing of libmilter: struct and socket. It dies in the midst of its changes when told to.
const BARE: &str = r#"
import socket, struct, sys, os
path = sys.argv[1]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
def send(s, command, data=b""):
    s.sendall(struct.pack(">I", len(data) + 1) + command + data)
while True:
    s, _ = listener.accept()
    f = s.makefile("rb")
    subject = b""
    while True:
        head = f.read(4)
        if len(head) < 4:
            break
        packet = f.read(struct.unpack(">I", head)[0])
        command, data = packet[:1], packet[1:]
        if command == b"O":
            version, actions, steps = struct.unpack(">III", data)
            assert version == 6 and actions & 0x3f == 0x3f, (version, actions)
            send(s, b"O", struct.pack(">III", 6, 0x3f, 0))
        elif command == b"L":
            name, value, _ = data.split(b"\0")
            if name == b"Subject":
                subject = value.strip()
            send(s, b"c")
        elif command == b"E":
            send(s, b"h", b"X-Bare\0" + subject + b"\0")
            send(s, b"b", b"half of a body\r\n")
            if subject == b"die":
                break
            send(s, b"c")
        elif command in b"CHMRTNB":
            send(s, b"c")
        elif command in b"AQ":
            pass
    f.close()
    s.close()
"#;

fn script(folder: &Path, name: &str, text: &str, argument: &str) -> Process {
    let file = folder.join(name);
    std::fs::write(&file, text).expect("write the script");
    let child =
        Command::new("python3").arg(&file).arg(argument).stdin(Stdio::null()).spawn().expect("start Python");
    Process(child)
}

fn has_socket(path: &Path) {
    wait_until("the filter listens", || std::os::unix::net::UnixStream::connect(path).is_ok());
}

fn milter(path: &Path) -> String {
    format!("[[policy.milter]]\naddress = \"unix:{}\"\n", path.display())
}

#[test]
fn a_milter_of_sendmails_library_and_one_of_its_own_in_order() {
    if !has_python() || !has_program("pymilter", Command::new("python3").args(["-c", "import Milter"])) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first.sock"), folder.path().join("second.sock"));
    let _one = script(folder.path(), "first.py", PYMILTER, &format!("unix:{}", first.display()));
    let _two = script(folder.path(), "second.py", BARE, second.to_str().unwrap());
    has_socket(&first);
    has_socket(&second);
    let sink = sink(keeping());
    let more = format!("{}{}", milter(&first), milter(&second));
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    session.say("MAIL FROM:<reject@from.test>", "554 5.7.1 not from there");
    session.say("MAIL FROM:<a@from.test>", "250");
    session.say("RCPT TO:<later@to.test>", "451 4.7.1 ");
    session.say("RSET", "250");
    for _ in 0..2 {
        let reply = session.message("a@from.test", &["r@to.test"], MESSAGE);
        assert!(reply.starts_with("250"), "{reply}");
    }
    tuma.wait_until_settled();
    let messages = sink.messages();
    assert_eq!(messages.len(), 2);
    for message in messages {
        assert_eq!(message.reverse_path, "new@from.test");
        assert_eq!(message.recipients.len(), 2);
        assert_eq!(message.field("Subject").as_deref(), Some("changed"));
        let seen = message.field("X-Seen").expect("what it saw");
        let all = "connect 127.0.0.1; helo client.test; mail <a@from.test>; rcpt <r@to.test>; data; header From; header To; header Subject; body 6";
        assert_eq!(seen, all);
        // The second sees what the first made of it, and has the last word.
        assert_eq!(message.field("X-Bare").as_deref(), Some("changed"));
        assert!(message.content.ends_with(b"\r\n\r\nhalf of a body\r\n"));
    }
}

#[test]
fn a_milter_that_dies_in_the_midst_of_its_changes_has_changed_nothing() {
    if !has_python() {
        return;
    }
    for (on_error, expected) in [("defer", "451 4.3.0 "), ("reject", "554 5.3.0 "), ("continue", "250 ")] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("filter.sock");
        let _filter = script(folder.path(), "filter.py", BARE, path.to_str().unwrap());
        has_socket(&path);
        let sink = sink(keeping());
        let more = format!("{}on_error = \"{on_error}\"\n", milter(&path));
        let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
        let mut session = tuma.session();
        session.say("EHLO client.test", "250");
        let reply = session.message("a@from.test", &["r@to.test"], "Subject: die\r\n\r\nwhole");
        assert!(reply.starts_with(expected), "{reply}");
        // The next message, by the same session, finds it well again.
        let reply = session.message("a@from.test", &["r@to.test"], "Subject: live\r\n\r\nwhole");
        assert!(reply.starts_with("250"), "{reply}");
        tuma.wait_until_settled();
        for message in sink.messages() {
            let whole = message.field("Subject").as_deref() == Some("die");
            assert_eq!(whole, message.field("X-Bare").is_none());
            assert_eq!(whole, message.content.ends_with(b"\r\n\r\nwhole\r\n"));
        }
        assert_eq!(sink.messages().len(), if on_error == "continue" { 2 } else { 1 });
    }
}

#[test]
fn opendkim_signs() {
    if !has_program("opendkim", Command::new("opendkim").arg("-V")) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("opendkim.sock");
    let key = folder.path().join("key.pem");
    crate::harness::output_of(Command::new("openssl").args([
        "genrsa",
        "-traditional",
        "-out",
        key.to_str().unwrap(),
        "2048",
    ]));
    let config = folder.path().join("opendkim.conf");
    std::fs::write(
        &config,
        "Background no\nRequireSafeKeys no\nInternalHosts 127.0.0.1\nExternalIgnoreList 127.0.0.1\n",
    )
    .unwrap();
    let child = Command::new("opendkim")
        .args(["-f", "-x", config.to_str().unwrap(), "-p", &format!("local:{}", socket.display())])
        .args(["-d", "from.test", "-s", "sel", "-k", key.to_str().unwrap(), "-c", "simple/simple", "-b", "s"])
        .stdin(Stdio::null())
        .spawn()
        .expect("start opendkim");
    let _filter = Process(child);
    has_socket(&socket);
    let sink = sink(keeping());
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &milter(&socket)).start();
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    let reply = session.message("a@from.test", &["r@to.test"], MESSAGE);
    assert!(reply.starts_with("250"), "{reply}");
    tuma.wait_until_settled();
    let signed = &sink.messages()[0];
    let signature = signed.field("DKIM-Signature").expect("a signature");
    assert!(signature.contains("d=from.test") && signature.contains("s=sel"), "{signature}");
}

/// A sidecar in Python's own library.
const SIDECAR: &str = r#"
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = {"answer": "continue", "notes": asked["notes"]}
        if asked["phase"] == "rcpt":
            said["notes"]["count"] = said["notes"].get("count", 0) + 1
            if asked["rcpt"]["address"].startswith("no@"):
                said = {"answer": "reject", "code": 550, "status": "5.1.1", "text": "no such user"}
        if asked["phase"] == "message":
            said["message"] = {"add_headers": [["X-Count", str(asked["notes"]["count"])]]}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"#;

#[test]
fn a_sidecar_is_asked_over_http() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let address = crate::harness::fixed_address();
    let _sidecar = script(folder.path(), "sidecar.py", SIDECAR, &address.port().to_string());
    wait_until("the sidecar listens", || std::net::TcpStream::connect(address).is_ok());
    let sink = sink(keeping());
    let more = format!("[[policy.http]]\naddress = \"{address}\"\nphases = [\"rcpt\", \"message\"]\n");
    let tuma = Setup::relay_with(folder.path(), sink.addr(), &more).start();
    let mut session: Session = tuma.session();
    session.say("EHLO client.test", "250");
    session.say("MAIL FROM:<a@from.test>", "250");
    session.say("RCPT TO:<no@to.test>", "550 5.1.1 no such user");
    session.say("RSET", "250");
    let reply = session.message("a@from.test", &["r1@to.test", "r2@to.test"], MESSAGE);
    assert!(reply.starts_with("250"), "{reply}");
    tuma.wait_until_settled();
    assert_eq!(sink.messages()[0].field("X-Count").as_deref(), Some("2"));
}
