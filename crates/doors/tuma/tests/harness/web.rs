//! An HTTPS server on loopback whose answers a test writes and changes.

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request it got.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Such as `GET /x`.
    pub line: String,
    /// The host it was asked for in the handshake.
    pub host: String,
    /// Header lines, in lower case up to the colon.
    pub head: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

#[derive(Default)]
struct State {
    /// By host: everything after `HTTP/1.1 `, head and body.
    answers: BTreeMap<String, Vec<u8>>,
    asked: Vec<Asked>,
    tls: Option<Arc<ServerConfig>>,
}

/// The server. It ends with the test's process.
pub struct WebServer {
    /// Where it answers.
    pub at: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl WebServer {
    /// One that shows this certificate and answers 404.
    pub fn start(tls: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let at = listener.local_addr().expect("an address");
        let state: Arc<Mutex<State>> = Arc::default();
        state.lock().unwrap().tls = Some(tls);
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { at, state }
    }

    /// Shows another certificate from now on.
    pub fn show(&self, tls: Arc<ServerConfig>) {
        self.state.lock().unwrap().tls = Some(tls);
    }

    /// Answers so to whoever asks this host: everything after `HTTP/1.1 `.
    pub fn answer(&self, host: &str, answer: &str) {
        self.state.lock().unwrap().answers.insert(host.to_owned(), answer.as_bytes().to_vec());
    }

    /// Answers with a policy file.
    pub fn policy(&self, host: &str, policy: &str) {
        self.answer(
            host,
            &format!(
                "200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{policy}",
                policy.len()
            ),
        );
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// How often a host was asked for.
    pub fn asked_for(&self, host: &str) -> usize {
        self.asked().iter().filter(|asked| asked.host == host).count()
    }
}

/// One request, answered as well as the peer lets us.
fn serve(stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    let tls = state.lock().unwrap().tls.clone()?;
    let mut stream = StreamOwned::new(ServerConnection::new(tls).ok()?, stream);
    let mut reader = BufReader::new(&mut stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut head = BTreeMap::new();
    loop {
        let mut field = String::new();
        reader.read_line(&mut field).ok()?;
        let Some((name, value)) = field.trim_end().split_once(':') else { break };
        head.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = head.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let host = stream.conn.server_name().unwrap_or_default().to_owned();
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let answer = {
        let mut state = state.lock().unwrap();
        state.asked.push(Asked { line, host: host.clone(), head, body });
        let none = b"404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec();
        state.answers.get(&host).cloned().unwrap_or(none)
    };
    stream.write_all(b"HTTP/1.1 ").ok()?;
    stream.write_all(&answer).ok()?;
    stream.conn.send_close_notify();
    stream.flush().ok()
}
