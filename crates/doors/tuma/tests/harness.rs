//! A server in a process and a folder of its own, and ways to wait for what it should do.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up. Generous: machines that test are busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `done` says so.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// True if a program can be run. Absent, it fails the test when TUMA_REQUIRE_PROGRAMS is set, and else the test
/// says so and ends.
pub fn has_program(name: &str, probe: &mut Command) -> bool {
    let found = probe
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .stdin(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !found {
        assert!(std::env::var_os("TUMA_REQUIRE_PROGRAMS").is_none(), "{name} is not installed");
        eprintln!("skipped: {name} is not installed");
    }
    found
}

/// A configuration from the examples folder.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../examples").join(name)
}

/// A server under test.
pub struct Tuma {
    child: Child,
    /// Where it takes mail, by listener.
    pub listeners: Vec<(String, SocketAddr)>,
    /// Where it answers HTTP.
    pub http: SocketAddr,
    log: Arc<Mutex<String>>,
}

/// How to start one.
pub struct Setup {
    config: PathBuf,
    env: Vec<(String, String)>,
    data: PathBuf,
}

impl Setup {
    /// By a configuration file, with data in `data`.
    pub fn new(config: &Path, data: &Path) -> Self {
        let mut setup = Self { config: config.into(), env: Vec::new(), data: data.into() };
        setup = setup.env("TUMA_LISTEN", "127.0.0.1:0").env("TUMA_HTTP", "127.0.0.1:0");
        let text = data.to_str().expect("a temporary folder's name is text").to_owned();
        setup.env("TUMA_DATA", &text)
    }

    /// The relay of the examples, towards `next_hop`.
    pub fn relay(data: &Path, next_hop: SocketAddr) -> Self {
        Self::new(&example("relay.toml"), data).env("TUMA_NEXT_HOP", &next_hop.to_string())
    }

    /// The relay of the examples with more settings appended.
    pub fn relay_with(data: &Path, next_hop: SocketAddr, more: &str) -> Self {
        let file = data.join("relay-with.toml");
        // Tables may come once only, so what is appended replaces the examples' tables of the same name.
        let text = std::fs::read_to_string(example("relay.toml")).expect("examples/relay.toml");
        let replaced: Vec<&str> = more.lines().filter(|line| line.starts_with('[')).collect();
        let mut keep = true;
        let kept: Vec<&str> = text
            .lines()
            .filter(|line| {
                if line.starts_with('[') {
                    keep = !replaced.contains(line);
                }
                keep
            })
            .collect();
        std::fs::write(&file, kept.join("\n") + "\n" + more).expect("write the configuration");
        Self::new(&file, data).env("TUMA_NEXT_HOP", &next_hop.to_string())
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(n, _)| n != name);
        self.env.push((name.into(), value.into()));
        self
    }

    /// The command, not yet run.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tuma"));
        command.arg("serve").arg("-c").arg(&self.config).current_dir(&self.data);
        command.envs(self.env.iter().map(|(n, v)| (n, v)));
        command
    }

    /// Starts the server and waits until it takes mail.
    pub fn start(&self) -> Tuma {
        self.start_as(self.command())
    }

    /// The same, by a command of the caller's making.
    pub fn start_as(&self, mut command: Command) -> Tuma {
        std::fs::create_dir_all(&self.data).expect("the data folder");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start tuma");
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(String::new()));
        let copy = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = copy.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut tuma = Tuma { child, listeners: Vec::new(), http: ([127, 0, 0, 1], 0).into(), log };
        wait_until("tuma listens", || {
            if let Ok(Some(status)) = tuma.child.try_wait() {
                panic!("tuma ended with {status}:\n{}", tuma.log());
            }
            tuma.log().contains("taking mail")
        });
        for line in tuma.log().lines() {
            let field = |name: &str| {
                line.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned)
            };
            if line.contains(" listening ") {
                let address = field("address=").expect("an address").parse().expect("an address");
                match field("listener=").expect("a name").as_str() {
                    "http" => tuma.http = address,
                    name => tuma.listeners.push((name.into(), address)),
                }
            }
        }
        tuma
    }
}

impl Tuma {
    /// Where the first listener takes mail.
    pub fn smtp(&self) -> SocketAddr {
        self.listeners[0].1
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Sends it a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status().expect("kill");
        assert!(sent.success());
    }

    /// Kills it as a power cut would, as far as a process can tell.
    pub fn kill(mut self) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("wait");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let mut status = None;
        wait_until("tuma ends", || {
            status = self.child.try_wait().expect("wait");
            status.is_some()
        });
        status.expect("it has ended")
    }

    /// Stops it by SIGTERM and waits for its end.
    pub fn stop(mut self) -> String {
        self.signal("TERM");
        let status = self.wait();
        assert!(status.success(), "{status}:\n{}", self.log());
        self.log()
    }

    /// Asks by HTTP.
    pub fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http).expect("connect to HTTP");
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
            self.http,
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("send");
        stream.write_all(body.as_bytes()).expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("receive");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status"), body.into())
    }

    /// `/v1/status`.
    pub fn status(&self) -> Value {
        let (code, body) = self.http("GET", "/v1/status", "");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// A number of `/v1/status`, by its JSON pointer.
    pub fn figure(&self, pointer: &str) -> i64 {
        self.status().pointer(pointer).and_then(Value::as_i64).unwrap_or_else(|| panic!("no {pointer}"))
    }

    /// Waits until nothing is queued and everything is accounted for.
    pub fn wait_until_settled(&self) {
        wait_until("the queue is empty", || {
            let status = self.status();
            status.pointer("/recipients/queued") == Some(&0.into())
                && status.pointer("/recipients/unaccounted") == Some(&0.into())
        });
    }

    /// A session with the first listener.
    pub fn session(&self) -> Session {
        Session::connect(self.smtp())
    }
}

impl Drop for Tuma {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- tuma's log\n{}", self.log());
        }
    }
}

/// A client that says just what a test says.
pub struct Session {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Session {
    /// Connects, without waiting for the greeting.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("nodelay");
        let reader = BufReader::new(stream.try_clone().expect("clone"));
        Self { stream, reader }
    }

    /// Connects and takes the greeting.
    pub fn connect(address: SocketAddr) -> Self {
        let mut session = Self::open(address);
        assert!(session.reply().starts_with("220"));
        session
    }

    /// Sends octets as they are.
    pub fn send(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).expect("send");
    }

    /// The next reply, all its lines; empty at the end of the connection.
    pub fn reply(&mut self) -> String {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            match self.reader.read_line(&mut line) {
                Ok(0) | Err(_) => return text,
                Ok(_) => text.push_str(&line),
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return text;
            }
        }
    }

    /// Says a line and takes the reply, which must begin so.
    pub fn say(&mut self, line: &str, wanted: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes());
        let reply = self.reply();
        assert!(reply.starts_with(wanted), "{line:?} got {reply:?}, not {wanted}");
        reply
    }

    /// Sends a message; gives the reply to its end.
    pub fn message(&mut self, from: &str, to: &[&str], content: &str) -> String {
        self.say(&format!("MAIL FROM:<{from}>"), "250");
        for to in to {
            self.say(&format!("RCPT TO:<{to}>"), "250");
        }
        self.say("DATA", "354");
        self.send(format!("{content}\r\n.\r\n").as_bytes());
        self.reply()
    }
}
