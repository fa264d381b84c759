//! A server in a process and a folder of its own, and ways to wait for what it should do.

pub mod authority;
pub mod dns;
pub mod signed;
pub mod web;

use bench::loader;
use bench::sink::{self, Keep, Sink, SinkHandle};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
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

/// A next hop of ours.
pub fn sink(options: sink::Options) -> SinkHandle {
    Sink::start(sink::Options { threads: 1, ..options }).expect("a sink")
}

/// One that keeps what it gets and looks at every octet.
pub fn keeping() -> sink::Options {
    sink::Options { keep: Keep::Memory { messages_max: 10_000 }, strict: true, ..sink::Options::default() }
}

/// One that behaves so.
pub fn rules(list: &[&str]) -> Vec<sink::Rule> {
    list.iter().map(|rule| rule.parse().unwrap_or_else(|error| panic!("{error}"))).collect()
}

/// An address at which nobody listens.
pub fn nobody() -> SocketAddr {
    fixed_address()
}

/// An address that stays ours between two processes: outside the range the system takes ports for connections
/// from.
pub fn fixed_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 200) as u16 * 100;
    loop {
        let port = 10_000 + (first + NEXT.fetch_add(1, Relaxed)) % 20_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A load of so many messages.
pub fn load(target: SocketAddr, messages: u64) -> loader::Options {
    let amount = loader::Amount::Messages(messages);
    loader::Options { target, amount, connections: 10, threads: 1, ..loader::Options::default() }
}

/// Waits for what has no thread of its own.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Offers a load and reports.
pub fn run(options: loader::Options) -> loader::Report {
    block_on(loader::run(options))
}

/// True if there is Python, see [`has_program`].
pub fn has_python() -> bool {
    has_program("python3", Command::new("python3").arg("--version"))
}

/// Runs a Python script, which must end well; gives what it printed.
pub fn python(script: &str, arguments: &[&str]) -> String {
    output_of(Command::new("python3").arg("-c").arg(script).args(arguments))
}

/// Runs a command, which must end well; gives what it printed.
pub fn output_of(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("run the program");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Makes a certificate for a name, as `cert.pem` and `key.pem` in a folder.
pub fn certificate(folder: &Path, name: &str) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).expect("write the certificate");
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).expect("write its key");
}

/// A process that ends with the test.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two texts of tables as one; what the second says of a key holds.
fn merged(first: &str, second: &str) -> String {
    let mut tables: Vec<(String, Vec<String>)> = vec![(String::new(), Vec::new())];
    for (text, over) in [(first, false), (second, true)] {
        let mut at = 0;
        for line in text.lines() {
            if line.starts_with('[') {
                // Each header in two brackets is a table of its own.
                let known = tables.iter().position(|(name, _)| name == line && !line.starts_with("[["));
                at = known.unwrap_or(tables.len());
                if at == tables.len() {
                    tables.push((line.to_owned(), Vec::new()));
                }
                continue;
            }
            if let Some((key, _)) = line.split_once('=').filter(|_| over) {
                tables[at]
                    .1
                    .retain(|old| old.split_once('=').is_none_or(|(name, _)| name.trim() != key.trim()));
            }
            tables[at].1.push(line.to_owned());
        }
    }
    tables.iter().map(|(name, lines)| format!("{name}\n{}\n", lines.join("\n"))).collect()
}

/// A server without routes. What fails is tried again at once: these tests have no time.
const DIRECT: &str = r#"
hostname = "tuma.test"
[http]
listen = "${TUMA_HTTP}"
[listener.smtp]
listen = "${TUMA_LISTEN}"
[relay]
networks = ["127.0.0.0/8"]
[spool]
directory = "${TUMA_DATA}/spool"
[accounting.file.records]
path = "${TUMA_DATA}/records.jsonl"
[dsn]
enabled = false
[retry]
waits = ["1s"]
jitter = 0.0
[shaping.default]
reconnect_min = "1s"
reconnect_max = "1s"
[delivery]
allow = ["127.0.0.0/8"]
tls = "off"
resolve_again_min = "500ms"
resolve_again_max = "500ms"
connect_next_after = "500ms"
"#;

/// The records that a server wrote by now, once it has written `count` of a kind.
pub fn records(data: &Path, kind: &str, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    wait_until("the records are written", || {
        let text = std::fs::read_to_string(data.join("records.jsonl")).unwrap_or_default();
        // The last line may still be on its way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let all = whole.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        found = all.filter(|record| record["kind"] == kind).collect();
        found.len() >= count
    });
    found
}

/// Sends messages of one line by one session; every one must be taken.
pub fn send(tuma: &Tuma, to: &str, count: usize) {
    let mut session = tuma.session();
    session.say("EHLO client.test", "250");
    for n in 0..count {
        let reply = session.message("sender@from.test", &[to], &format!("Subject: {n}\r\n\r\nx"));
        assert!(reply.starts_with("250"), "{reply}");
    }
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

    /// The relay of the examples with more settings, see [`Setup::with`].
    pub fn relay_with(data: &Path, next_hop: SocketAddr, more: &str) -> Self {
        Self::with("relay.toml", data, next_hop, more)
    }

    /// The submission server of the examples with a new certificate and more settings, see [`Setup::with`].
    pub fn submission(data: &Path, next_hop: SocketAddr, more: &str) -> Self {
        certificate(data, "submission.test");
        let file = |name: &str| data.join(name).to_str().expect("text").to_owned();
        Self::with("submission.toml", data, next_hop, more)
            .env("TUMA_CERT", &file("cert.pem"))
            .env("TUMA_KEY", &file("key.pem"))
    }

    /// A configuration of the examples with more settings: a key given here takes the place of the example's,
    /// in tables of the same name.
    pub fn with(name: &str, data: &Path, next_hop: SocketAddr, more: &str) -> Self {
        let file = data.join("with.toml");
        let text = std::fs::read_to_string(example(name)).expect("the example");
        std::fs::write(&file, merged(&text, more)).expect("write the configuration");
        Self::new(&file, data).env("TUMA_NEXT_HOP", &next_hop.to_string())
    }

    /// A server that finds its next hops by DNS, at `port`, with more settings, see [`Setup::with`].
    pub fn direct(data: &Path, dns: &dns::NameServer, port: u16, more: &str) -> Self {
        Self::direct_by(data, &dns.settings(), port, more)
    }

    /// The same by other name servers.
    pub fn direct_by(data: &Path, dns: &str, port: u16, more: &str) -> Self {
        let file = data.join("direct.toml");
        let text = format!("{DIRECT}{dns}[delivery]\nport = {port}\n");
        std::fs::write(&file, merged(&text, more)).expect("write the configuration");
        Self::new(&file, data)
    }

    /// Writes the configuration file anew, for a reload.
    pub fn rewrite(&self, name: &str, more: &str) {
        let text = std::fs::read_to_string(example(name)).expect("the example");
        std::fs::write(&self.config, merged(&text, more)).expect("write the configuration");
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
                line.split_whitespace()
                    .find_map(|word| word.strip_prefix(name))
                    .map(|word| word.trim_matches('"').to_owned())
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
    /// Where the example's own listener takes mail: of several, the one called `smtp`.
    pub fn smtp(&self) -> SocketAddr {
        let smtp = self.listeners.iter().find(|(name, _)| name == "smtp");
        smtp.unwrap_or(&self.listeners[0]).1
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
        let signal: Signal = format!("SIG{name}").parse().expect("a signal");
        kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("send a signal");
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

    /// Where HTTP is spoken.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Asks by HTTP with header fields; gives status, head and body.
    pub fn http_with(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.http).expect("connect to HTTP");
        let mut head = format!("{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n", body.len());
        if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {}\r\n", self.http);
        }
        for (name, value) in fields {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).expect("send");
        // A server that refuses by the head alone may close before it has read all.
        let _ = stream.write_all(body.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, head.into(), body.into())
    }

    /// Hands JSON in; the status and the JSON that came back.
    pub fn post(&self, path: &str, fields: &[(&str, &str)], body: &Value) -> (u16, Value) {
        let fields = [&[("Content-Type", "application/json")], fields].concat();
        let (status, _, text) = self.http_with("POST", path, &fields, &body.to_string());
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} {text}")))
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
        let began = Instant::now();
        loop {
            let status = self.status();
            // Right after a start the spool may not have been read yet.
            let settled = [
                "/spool/segments_to_load",
                "/spool/messages",
                "/recipients/queued",
                "/recipients/unaccounted",
            ]
            .iter()
            .all(|figure| status.pointer(figure) == Some(&0.into()));
            if settled {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "the queue does not empty: {status:#}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A figure of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.http("GET", "/metrics", "");
        let sum = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .fold(None, |sum: Option<f64>, value| Some(sum.unwrap_or(0.0) + value));
        sum.unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
    }

    /// Where a listener takes mail.
    pub fn listener(&self, name: &str) -> SocketAddr {
        self.listeners.iter().find(|(listener, _)| listener == name).expect("a listener of that name").1
    }

    /// What is remembered of a message, by the reply to its end.
    pub fn events(&self, reply: &str) -> Vec<Value> {
        let id = reply.trim_end().rsplit(' ').next().expect("an id");
        let (code, body) = self.http("GET", &format!("/v1/messages/{id}"), "");
        assert_eq!(code, 200, "{body}");
        let known: Value = serde_json::from_str(&body).expect("JSON");
        known["events"].as_array().expect("events").clone()
    }

    /// Runs a subcommand that asks this server.
    pub fn ask(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tuma"));
        command
            .args(arguments)
            .env("TUMA_HTTP", self.http.to_string())
            .env("TUMA_LISTEN", self.smtp().to_string());
        command.stdin(Stdio::null()).output().expect("run tuma")
    }

    /// What a subcommand that asks this server printed; it must end well.
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {text}{error}");
        text
    }

    /// The same, as JSON.
    pub fn says_json(&self, arguments: &[&str]) -> Value {
        let text = self.says(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    /// What a subcommand said against what it was given; it must fail.
    pub fn refuses(&self, arguments: &[&str]) -> String {
        let output = self.ask(arguments);
        assert!(!output.status.success(), "{arguments:?} was taken: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A session with the first listener.
    pub fn session(&self) -> Session {
        Session::connect(self.smtp())
    }

    /// The same, after EHLO.
    pub fn greeted(&self) -> Session {
        let mut session = self.session();
        session.say("EHLO client.test", "250");
        session
    }
}

impl Drop for Tuma {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What the queue says of itself, if it still can.
            let address = self.http.to_string();
            let mut command = Command::new(env!("CARGO_BIN_EXE_tuma"));
            let queue = command.args(["queue", "ls"]).env("TUMA_HTTP", address).output();
            eprintln!(
                "---- queue\n{}",
                queue.map_or_else(|e| e.to_string(), |q| String::from_utf8_lossy(&q.stdout).into())
            );
            eprintln!("---- tuma's log\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
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

    /// Sends octets as far as the peer takes them: false when the connection is gone.
    pub fn try_send(&mut self, octets: &[u8]) -> bool {
        self.stream.write_all(octets).is_ok()
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

    /// Sends a short message with header fields, which must be taken; gives its id.
    pub fn taken(&mut self, from: &str, to: &str, header: &str) -> String {
        let reply = self.message(from, &[to], &format!("{header}Subject: x\r\n\r\nx"));
        assert!(reply.starts_with("250"), "{reply}");
        reply.trim_end().rsplit(' ').next().expect("an id").to_owned()
    }
}
