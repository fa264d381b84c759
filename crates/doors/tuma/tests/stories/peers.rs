//! Programs of others as clients and as next hops.

use crate::harness::{
    Process, Setup, Tuma, certificate, fixed_address, has_program, has_python, keeping, output_of, python,
    sink, wait_until,
};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where a program of Postfix is: its folder is not in every PATH.
fn postfix(name: &str) -> PathBuf {
    let sbin = Path::new("/usr/sbin").join(name);
    if sbin.exists() { sbin } else { name.into() }
}

/// True if a program can be started at all: those of Postfix end with an error when asked for nothing.
fn starts(name: &str) -> bool {
    has_program(name, Command::new("sh").args(["-c", &format!("command -v {}", postfix(name).display())]))
}

/// Starts a program and waits until it takes connections.
fn serve(mut command: Command, address: SocketAddr) -> Process {
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start");
    let process = Process(child);
    wait_until("the program listens", || TcpStream::connect(address).is_ok());
    process
}

/// Sends messages to `address` and waits until they are delivered.
fn deliver(tuma: &Tuma, count: i64) {
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    for n in 0..count {
        let reply =
            session.message("a@b.test", &["c@d.test"], &format!("Subject: {n}\r\n\r\n..dot\r\nbody {n}"));
        assert!(reply.starts_with("250"), "{reply}");
    }
    tuma.wait_until_settled();
    assert_eq!(tuma.figure("/recipients/delivered"), count);
}

#[test]
fn smtplib_sends() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    python(
        r#"
import smtplib, sys
from email.message import EmailMessage
message = EmailMessage()
message["From"], message["To"], message["Subject"] = "a@b.test", "c@d.test", "Grüße"
message.set_content("hello\n.\n..dots ü\n")
with smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=60) as smtp:
    assert smtp.send_message(message) == {}
    assert smtp.verify("c@d.test")[0] == 252
    assert smtp.noop()[0] == 250
    # Over ASCII addresses.
    smtp.ehlo()
    assert smtp.sendmail("jörg@b.test", ["müller@d.test"], "Subject: x\r\n\r\nü".encode(), ["SMTPUTF8", "BODY=8BITMIME"]) == {}
"#,
        &[&tuma.smtp().port().to_string()],
    );
    tuma.wait_until_settled();
    let messages = sink.messages();
    let mut recipients: Vec<&str> = messages.iter().map(|m| m.recipients[0].address.as_str()).collect();
    recipients.sort_unstable();
    assert_eq!(recipients, ["c@d.test", "müller@d.test"]);
}

#[test]
fn swaks_sends() {
    if !has_program("swaks", Command::new("swaks").arg("--version")) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    certificate(folder.path(), "relay.test");
    let more = "[listener.tls]\nlisten = \"127.0.0.1:0\"\ntls = \"required\"\n[tls.default]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n";
    let tuma = Setup::relay_with(folder.path(), sink.addr(), more).start();
    let swaks = |address: SocketAddr, more: &[&str]| {
        let server = address.to_string();
        output_of(
            Command::new("swaks")
                .args([
                    "--to",
                    "c@d.test",
                    "--from",
                    "a@b.test",
                    "--ehlo",
                    "client.test",
                    "--server",
                    &server,
                ])
                .args(more),
        )
    };
    swaks(tuma.listener("smtp"), &[]);
    swaks(tuma.listener("smtp"), &["--pipeline"]);
    swaks(tuma.listener("tls"), &["--tls"]);
    tuma.wait_until_settled();
    let with: Vec<bool> =
        sink.messages().iter().map(|m| m.field("Received").unwrap().contains("with ESMTPS")).collect();
    assert_eq!(with.iter().filter(|secure| **secure).count(), 1);
    assert_eq!(with.len(), 3);
}

#[test]
fn postfix_smtp_source_sends() {
    if !starts("smtp-source") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sink = sink(keeping());
    let tuma = Setup::relay(folder.path(), sink.addr()).start();
    for more in [&["-d"][..], &[]] {
        output_of(
            Command::new(postfix("smtp-source"))
                .args(["-c", "-m", "200", "-s", "10", "-l", "5000", "-f", "a@b.test", "-t", "c@d.test"])
                .args(more)
                .arg(format!("inet:{}", tuma.smtp())),
        );
    }
    tuma.wait_until_settled();
    assert_eq!((sink.stats().messages, tuma.figure("/recipients/delivered")), (400, 400));
    assert!(sink.stats().faults.is_empty(), "{:?}", sink.stats().faults);
}

#[test]
fn aiosmtpd_takes() {
    if !has_program("aiosmtpd", Command::new("python3").args(["-c", "import aiosmtpd"])) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let address = fixed_address();
    let mut command = Command::new("python3");
    command.args(["-m", "aiosmtpd", "-n", "-u", "-l", &address.to_string(), "-c", "aiosmtpd.handlers.Sink"]);
    let _server = serve(command, address);
    deliver(&Setup::relay(folder.path(), address).start(), 20);
}

#[test]
fn postfix_smtp_sink_takes() {
    if !starts("smtp-sink") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let address = fixed_address();
    let mut command = Command::new(postfix("smtp-sink"));
    // It must not run as root, and Postfix's own user may not be there.
    if nix::unistd::geteuid().is_root() {
        command.args(["-u", "nobody"]);
    }
    command.arg(address.to_string()).arg("100");
    let _server = serve(command, address);
    deliver(&Setup::relay(folder.path(), address).start(), 100);
}

/// A whole Postfix with folders of its own, which keeps what it gets in its queue.
struct Postfix {
    config: PathBuf,
}

impl Postfix {
    fn start(folder: &Path, address: SocketAddr) -> Self {
        let (config, queue, data) = (folder.join("postfix"), folder.join("queue"), folder.join("lib"));
        for path in [&config, &queue, &data] {
            std::fs::create_dir(path).unwrap();
        }
        let owner = nix::unistd::User::from_name("postfix").unwrap().expect("Postfix's user");
        std::os::unix::fs::chown(&data, Some(owner.uid.as_raw()), None).unwrap();
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {}\ndata_directory = {}\nmyhostname = postfix.test\n\
             mydestination =\nlocal_recipient_maps =\nalias_maps =\nalias_database =\ninet_interfaces = 127.0.0.1\ninet_protocols = ipv4\n\
             mynetworks = 127.0.0.0/8\nrelay_domains = d.test\ndefer_transports = smtp relay\nmaillog_file = {}\nmaillog_file_prefixes = {}\n\
             smtpd_peername_lookup = no\nsmtpd_forbid_bare_newline = reject\nstrict_rfc821_envelopes = yes\nimport_environment = MAIL_CONFIG=$config_directory\n",
            queue.display(),
            data.display(),
            folder.join("maillog").display(),
            folder.display(),
        );
        std::fs::write(config.join("main.cf"), main).unwrap();
        let master = format!(
            "{address} inet n - n - - smtpd\npickup unix n - n 60 1 pickup\ncleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\n\
             tlsmgr unix - - n 1000? 1 tlsmgr\nrewrite unix - - n - - trivial-rewrite\nbounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\n\
             trace unix - - n - 0 bounce\nverify unix - - n - 1 verify\nflush unix n - n 1000? 0 flush\nproxymap unix - - n - - proxymap\n\
             smtp unix - - n - - smtp\nrelay unix - - n - - smtp\nshowq unix n - n - - showq\nerror unix - - n - - error\nretry unix - - n - - error\n\
             discard unix - - n - - discard\nlocal unix - n n - - local\nanvil unix - - n - 1 anvil\nscache unix - - n - 1 scache\npostlog unix-dgram n - n - 1 postlogd\n"
        );
        std::fs::write(config.join("master.cf"), master).unwrap();
        let postfix = Self { config };
        postfix.command("start");
        wait_until("Postfix listens", || TcpStream::connect(address).is_ok());
        postfix
    }

    fn command(&self, what: &str) -> std::process::Output {
        let run = Command::new(postfix("postfix"))
            .arg("-c")
            .arg(&self.config)
            .arg(what)
            .stdin(Stdio::null())
            .output();
        run.expect("run postfix")
    }

    /// Messages in its queue.
    fn queued(&self) -> usize {
        let list = Command::new(postfix("postqueue"))
            .arg("-c")
            .arg(&self.config)
            .arg("-j")
            .output()
            .expect("postqueue");
        String::from_utf8_lossy(&list.stdout).lines().filter(|line| line.contains("c@d.test")).count()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        self.command("abort");
    }
}

#[test]
fn postfix_takes() {
    if !starts("postfix") {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: Postfix starts as root only");
        return;
    }
    // Its processes must be able to pass through the folder.
    let folder = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .unwrap();
    let address = fixed_address();
    let postfix = Postfix::start(folder.path(), address);
    let tuma = Setup::relay(folder.path(), address).start();
    deliver(&tuma, 50);
    wait_until("all is in Postfix's queue", || postfix.queued() == 50);
}
