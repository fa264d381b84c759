//! Runs dialogues: text files in which a client and the server talk, read top to bottom.
//!
//! | line | meaning |
//! | --- | --- |
//! | `# text` | what the story is |
//! | `set name=value` | a field of the configuration or of the connection |
//! | `C: text` | the client sends the text and CRLF |
//! | `C~: text` | the client sends the text alone |
//! | `S: text` | the server says this line; `*` stands for anything |
//! | `M: from to,to content` | the server hands over this message |
//! | `R: from to reply` | this refusal is for the records; `-` is nobody. In a dialogue without one none are looked at |
//! | `E: close`, `E: starttls` | the server orders this |
//! | `T: 10` | ten seconds pass |
//! | `TLS:` | the handshake succeeds |
//! | `SHUT:` | the server is told to shut down |
//!
//! `C 5x:` and `S 5x:` repeat the line. Escapes: `\r \n \0 \t \\ \xNN`, and `\{text*n}` for n times the text.
//!
//! The driver's answers depend on names: `refused@` gets 5yz at MAIL or RCPT, `deferred@` 4yz, `banned@` 421,
//! `bare@` a reply without enhanced code;
//! `full@` gets 452 after the content under LMTP; content with `REJECT` gets 554.

#![allow(dead_code)] // Two test binaries share this, and each uses a part.

use smtp::server::{Answer, BareNewline, Config, Connection, Event, HelloName, LongLine, Server};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use mail::Reply;

pub struct Script {
    pub name: String,
    /// The comment lines.
    pub about: String,
    pub config: Config,
    pub connection: Connection,
    greeting: Option<Reply>,
    busy: bool,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    Client(Vec<u8>),
    Server(String),
    Message(String),
    Refusal(String),
    Order(String),
    Time(Duration),
    TlsDone,
    ShutDown,
}

impl Step {
    /// Input behind it may not be read before it.
    fn is_barrier(&self) -> bool {
        matches!(self, Step::Time(_) | Step::TlsDone | Step::ShutDown)
    }
}

/// How the input is cut into segments.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// As the dialogue says, and each reply must come when it stands there.
    Lockstep,
    /// All at once.
    Whole,
    /// Pieces of one size.
    Every(usize),
    /// Pieces of random sizes.
    Random(u64),
}

pub fn parse(name: &str, text: &str) -> Script {
    let mut script = Script {
        name: name.into(),
        about: text.lines().filter(|line| line.starts_with('#')).collect(),
        config: Config::default(),
        connection: Connection::default(),
        greeting: None,
        busy: false,
        steps: Vec::new(),
    };
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(setting) = line.strip_prefix("set ") {
            let (key, value) = setting.split_once('=').unwrap_or((setting, "true"));
            script.set(key, value);
            continue;
        }
        let (head, rest) = line.split_once(':').unwrap_or_else(|| panic!("{name}: no colon in {line}"));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        let (head, times) = match head.split_once(' ') {
            Some((head, times)) => (head, times.trim_end_matches('x').parse().expect("a number of times")),
            None => (head, 1),
        };
        let step = match head {
            "C" => Step::Client([unescape(rest), b"\r\n".to_vec()].concat()),
            "C~" => Step::Client(unescape(rest)),
            "S" => Step::Server(rest.into()),
            "M" => Step::Message(rest.into()),
            "R" => Step::Refusal(rest.into()),
            "E" => Step::Order(rest.into()),
            "T" => Step::Time(Duration::from_secs(rest.parse().expect("seconds"))),
            "TLS" => Step::TlsDone,
            "SHUT" => Step::ShutDown,
            _ => panic!("{name}: what is {line}?"),
        };
        script.steps.extend(std::iter::repeat_n(step, times));
    }
    script
}

impl Script {
    fn set(&mut self, key: &str, value: &str) {
        let (config, connection) = (&mut self.config.session, &mut self.connection);
        let number = || value.parse::<u64>().unwrap_or_else(|_| panic!("{key} is not a number"));
        let flag = || value == "true";
        match key {
            "hostname" => self.config.hostname = value.parse().expect("a domain"),
            "command_line_max" => config.command_line_max = number() as usize,
            "command_line_discard_max" => config.command_line_discard_max = settings::Size(number()),
            "message_size_max" => config.message_size_max = settings::Size(number()),
            "message_overrun_max" => config.message_overrun_max = settings::Size(number()),
            "header_size_max" => config.header_size_max = settings::Size(number()),
            "header_count_max" => config.header_count_max = number() as u32,
            "recipients_max" => config.recipients_max = number() as u32,
            "transactions_max" => config.transactions_max = number() as u32,
            "chunks_max" => config.chunks_max = number() as u32,
            "errors_max" => config.errors_max = number() as u32,
            "refusal_records_max" => config.refusal_records_max = number() as u32,
            "refusals_max" => config.refusals_max = number() as u32,
            "idle_commands_max" => config.idle_commands_max = number() as u32,
            "data_rate_min" => config.data_rate_min = number() as u32,
            "session_time_max" => config.session_time_max = Duration::from_secs(number()),
            "bare_newline" => config.bare_newline = BareNewline::Normalise,
            "long_line" => config.long_line = LongLine::Fold,
            "hello_name" => config.hello_name = HelloName::Strict,
            "space_after_colon" => config.space_after_colon = flag(),
            "auth_without_tls" => config.auth_without_tls = flag(),
            "vrfy" => config.vrfy = flag(),
            "expn" => config.expn = flag(),
            "smtputf8" => config.smtputf8 = flag(),
            "dsn" => config.dsn = flag(),
            "chunking" => config.chunking = flag(),
            "binarymime" => config.binarymime = flag(),
            "tls" => connection.tls = flag(),
            "lmtp" => connection.lmtp = flag(),
            "starttls" => connection.starttls_available = flag(),
            "tls_required" => connection.tls_required = flag(),
            "auth_required" => connection.auth_required = flag(),
            "auth" => connection.auth_mechanisms = value.split(' ').map(Into::into).collect(),
            "xclient" => connection.xclient_allowed = flag(),
            "busy" => self.busy = flag(),
            "greeting" => {
                let (code, text) = value.split_once(' ').expect("a code and a text");
                self.greeting = Some(Reply::bare(code.parse().expect("a code"), text.to_owned()));
            }
            _ => panic!("{}: unknown setting {key}", self.name),
        }
    }

    /// What the client sends, without the pauses: food for fuzzing.
    pub fn input(&self) -> Vec<u8> {
        let mut input = Vec::new();
        for step in &self.steps {
            if let Step::Client(bytes) = step {
                input.extend_from_slice(bytes);
            }
        }
        input
    }

    /// Runs the dialogue; says where it goes another way.
    pub fn run(&self, cut: Cut) -> Result<(), String> {
        #[expect(clippy::disallowed_methods, reason = "tests need some moment to begin with")]
        let start = Instant::now();
        let mut driver = Driver::new(self, start);
        let mut at = 0;
        while at < self.steps.len() || at == 0 {
            let rest = &self.steps[at..];
            let len = rest
                .iter()
                .enumerate()
                .position(|(n, step)| match cut {
                    Cut::Lockstep => {
                        n > 0
                            && (step.is_barrier()
                                || (matches!(step, Step::Client(_))
                                    && !matches!(rest[n - 1], Step::Client(_))))
                    }
                    _ => n > 0 && step.is_barrier(),
                })
                .unwrap_or(rest.len());
            self.run_part(&mut driver, &rest[..len], cut)?;
            at += len.max(1);
        }
        Ok(())
    }

    fn run_part(&self, driver: &mut Driver<'_>, part: &[Step], cut: Cut) -> Result<(), String> {
        let mut input = Vec::new();
        let (mut replies, mut messages, mut refusals, mut orders) = (vec![], vec![], vec![], vec![]);
        for step in part {
            match step {
                Step::Client(bytes) => input.extend_from_slice(bytes),
                Step::Server(line) => replies.push(line.clone()),
                Step::Message(message) => messages.push(message.clone()),
                Step::Refusal(refusal) => refusals.push(refusal.clone()),
                Step::Order(order) => orders.push(order.clone()),
                Step::Time(time) => driver.pass(*time),
                Step::TlsDone => driver.server.tls_started(driver.now),
                Step::ShutDown => driver.server.shut_down(),
            }
        }
        let mut sizes = Sizes::new(cut);
        let mut rest = &input[..];
        driver.obey();
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(sizes.next().min(rest.len()));
            driver.send(piece);
            rest = tail;
        }
        let context = format!("{} by {cut:?}, after {:?}", self.name, input.escape_ascii().to_string());
        compare(&replies, &driver.take_replies(), &context)?;
        compare(&messages, &std::mem::take(&mut driver.messages), &context)?;
        let noted = driver.take_refusals();
        if self.steps.iter().any(|step| matches!(step, Step::Refusal(_))) {
            compare(&refusals, &noted, &context)?;
        }
        compare(&orders, &std::mem::take(&mut driver.orders), &context)
    }
}

struct Sizes {
    cut: Cut,
    random: u64,
}

impl Sizes {
    fn new(cut: Cut) -> Self {
        Self { cut, random: if let Cut::Random(seed) = cut { seed | 1 } else { 1 } }
    }

    fn next(&mut self) -> usize {
        match self.cut {
            Cut::Lockstep | Cut::Whole => usize::MAX,
            Cut::Every(size) => size,
            Cut::Random(_) => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                1 + (self.random >> 20) as usize % 40
            }
        }
    }
}

/// A driver whose policy is made of names, see above.
pub struct Driver<'a> {
    script: &'a Script,
    pub server: Server,
    pub now: Instant,
    pub messages: Vec<String>,
    pub orders: Vec<String>,
    sent: Vec<u8>,
}

impl<'a> Driver<'a> {
    pub fn new(script: &'a Script, now: Instant) -> Self {
        let mut server = Server::new(Arc::new(script.config.clone()), script.connection.clone(), now);
        assert_eq!(server.receive(now, b""), 0);
        server.greet(now, script.greeting.clone());
        Self { script, server, now, messages: vec![], orders: vec![], sent: vec![] }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.server.wake_at().filter(|&at| at <= end) {
            self.now = at;
            self.server.wake(at);
        }
        self.now = end;
    }

    pub fn send(&mut self, mut input: &[u8]) {
        while !input.is_empty() {
            if self.orders.iter().any(|order| order == "close") {
                return;
            }
            let taken = self.server.receive(self.now, input);
            input = &input[taken..];
            let obeyed = self.obey();
            if taken == 0 && !obeyed {
                // A client that makes mistakes is made to wait.
                let at = self.server.wake_at().expect("a session that takes nothing waits for something");
                assert!(at > self.now && at <= self.now + Duration::from_secs(2), "{}", self.script.name);
                self.now = at;
                self.server.wake(at);
            }
        }
    }

    /// Answers, obeys and sends until there is nothing to do; says if there was.
    pub fn obey(&mut self) -> bool {
        let mut worked = !self.server.output().is_empty();
        self.sent.append(self.server.output());
        loop {
            let lmtp = self.script.connection.lmtp;
            let answer = match self.server.event() {
                None => break,
                Some(Event::Close) => {
                    self.orders.push("close".into());
                    continue;
                }
                Some(Event::StartTls) => {
                    self.orders.push("starttls".into());
                    continue;
                }
                Some(event) => answer(event, self.script.busy, lmtp, &mut self.messages),
            };
            assert!(self.server.wake_at().is_none(), "no time limit while we think");
            self.server.answer(self.now, answer);
            self.sent.append(self.server.output());
            worked = true;
        }
        worked
    }

    fn take_refusals(&mut self) -> Vec<String> {
        let text = |refusal: smtp::server::Refusal| {
            let from = refusal.reverse_path.map_or("-".into(), |path| format!("<{}>", path.as_str()));
            let to = refusal.recipient.unwrap_or_else(|| "-".into());
            format!("{from} {to} {}", refusal.reply)
        };
        self.server.take_refusals().into_iter().map(text).collect()
    }

    pub fn take_replies(&mut self) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut self.sent)).expect("replies are ASCII");
        assert!(text.is_empty() || text.ends_with("\r\n"), "{text:?}");
        text.split_terminator("\r\n").map(Into::into).collect()
    }
}

fn answer(event: Event<'_>, busy: bool, lmtp: bool, messages: &mut Vec<String>) -> Answer {
    match event {
        Event::Hello { name, .. } => match name {
            "refused.test" => Answer::Reply(Reply::new(550, (5, 7, 1), "not you")),
            _ => Answer::Accept,
        },
        Event::Mail { envelope, .. } => by_name(envelope.reverse_path.as_str()),
        Event::Rcpt { recipient, .. } => by_name(recipient.path.as_str()),
        Event::Data { .. } if busy => Answer::Reply(Reply::new(452, (4, 3, 1), "no room")),
        Event::Data { .. } => Answer::Accept,
        Event::Message { envelope, content } => {
            let to: Vec<&str> = envelope.recipients.iter().map(|r| r.path.as_str()).collect();
            let from = envelope.reverse_path.as_str();
            messages.push(format!("<{from}> {} {}", to.join(","), content.escape_ascii()));
            if content.windows(6).any(|w| w == b"REJECT") {
                return Answer::Reply(Reply::new(554, (5, 7, 1), "no"));
            }
            if content.windows(6).any(|w| w == b"HANGUP") {
                return Answer::Close(Reply::new(421, (4, 3, 0), "gone"));
            }
            if !lmtp {
                return Answer::Reply(Reply::new(250, (2, 0, 0), "queued"));
            }
            let replies = to.iter().map(|to| match to.starts_with("full@") {
                true => Reply::new(452, (4, 2, 2), format!("{to} full")),
                false => Reply::new(250, (2, 0, 0), format!("{to} delivered")),
            });
            Answer::Replies(replies.collect())
        }
        Event::Auth { mechanism: "PLAIN", initial: Some(initial) } => plain(initial),
        Event::Auth { mechanism: "LOGIN", .. } => Answer::Challenge(b"Username:".to_vec()),
        Event::Auth { .. } => Answer::Challenge(Vec::new()),
        Event::AuthResponse(response) => plain(response),
        Event::Vrfy(name) => Answer::Reply(Reply::new(250, (2, 1, 5), format!("<{name}@b.test>"))),
        Event::Expn(_) => Answer::Reply(Reply::new(550, (5, 7, 1), "no lists here")),
        Event::XClient(attributes) => match attributes.name.as_deref() {
            Some("refused.test") => Answer::Close(Reply::new(554, (5, 7, 1), "not you")),
            _ => Answer::Accept,
        },
        Event::StartTls | Event::Close => unreachable!("orders are obeyed elsewhere"),
    }
}

fn by_name(path: &str) -> Answer {
    match path.split('@').next().unwrap_or_default() {
        "refused" => Answer::Reply(Reply::new(550, (5, 1, 1), "refused")),
        "deferred" => Answer::Reply(Reply::new(450, (4, 2, 0), "later")),
        "bare" => Answer::Reply(Reply::bare(451, "no enhanced code")),
        "banned" => Answer::Reply(Reply::new(421, (4, 7, 0), "go away")),
        _ => Answer::Accept,
    }
}

fn plain(response: &[u8]) -> Answer {
    match response {
        b"\0user\0secret" => Answer::Authenticated("user".into()),
        b"user" => Answer::Challenge(b"Password:".to_vec()),
        b"secret" => Answer::Authenticated("user".into()),
        _ => Answer::Reply(Reply::new(535, (5, 7, 8), "authentication failed")),
    }
}

fn compare(expected: &[String], found: &[String], context: &str) -> Result<(), String> {
    let fits = expected.len() == found.len()
        && expected.iter().zip(found).all(|(pattern, text)| matches(pattern.as_bytes(), text.as_bytes()));
    if fits { Ok(()) } else { Err(format!("{context}\nexpected {expected:#?}\nfound {found:#?}\n")) }
}

/// `*` stands for anything.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|n| matches(rest, &text[n..])),
        Some((b, rest)) => text.split_first().is_some_and(|(t, tail)| t == b && matches(rest, tail)),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let tail = &rest[at + 2..];
        rest = match rest.as_bytes()[at + 1] {
            b'r' => (out.push(b'\r'), tail).1,
            b'n' => (out.push(b'\n'), tail).1,
            b't' => (out.push(b'\t'), tail).1,
            b'0' => (out.push(0), tail).1,
            b'\\' => (out.push(b'\\'), tail).1,
            b'x' => {
                out.push(u8::from_str_radix(&tail[..2], 16).expect("two digits"));
                &tail[2..]
            }
            b'{' => {
                let (inner, after) = tail.split_once('}').expect("a closing brace");
                let (text, times) = inner.rsplit_once('*').expect("text and times");
                out.extend(unescape(text).repeat(times.parse().expect("times")));
                after
            }
            other => panic!("what is \\{}?", char::from(other)),
        };
    }
    out.extend_from_slice(rest.as_bytes());
    out
}
