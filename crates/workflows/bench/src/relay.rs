//! The bare relay: reads a transaction and writes it on with the system calls any relay needs, and does
//! nothing else. No spool, no queue, no log, no headers, no checks. What it costs is the floor under every
//! mail server on the same machine.
//!
//! A message is answered with 250 only after the next hop has said so, for want of a spool to promise it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::net::{Workers, lock};
use crate::wire::{self, Buffer};

/// Where to listen and where to relay to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where every message goes.
    pub next_hop: SocketAddr,
    /// Opens a connection to the next hop for every message instead of keeping them.
    pub fresh: bool,
    /// Threads, each with its own listening socket; 0 for one per processor.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            next_hop: SocketAddr::from(([127, 0, 0, 1], 2600)),
            fresh: false,
            threads: 0,
        }
    }
}

/// A running bare relay; dropping it stops it.
pub struct Relay {
    workers: Workers,
}

/// The largest message it passes on; it has to hold one whole.
const MESSAGE_OCTETS_MAX: usize = 64 * 1024 * 1024;
/// Connections to the next hop kept while nobody needs them.
const IDLE_MAX: usize = 1000;

impl Relay {
    /// Listens, and relays on threads of its own.
    pub fn start(options: Options) -> io::Result<Self> {
        let (listen, threads) = (options.listen, options.threads);
        let shared = Arc::new(Shared { options, idle: std::sync::Mutex::default() });
        let workers = Workers::start("relay", listen, threads, move |stream, _| {
            let shared = Arc::clone(&shared);
            async move {
                // What ended the connection is the peer's affair.
                let _ = serve(&shared, stream).await;
            }
        })?;
        Ok(Self { workers })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.workers.addr()
    }

    /// CPU time its threads have used.
    pub fn cpu(&self) -> Duration {
        self.workers.cpu()
    }
}

struct Shared {
    options: Options,
    /// Kept by the thread that opened them: a connection belongs to its runtime.
    idle: std::sync::Mutex<Vec<(std::thread::ThreadId, NextHop)>>,
}

async fn serve(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = Buffer::new(8 * 1024, MESSAGE_OCTETS_MAX);
    let mut commands = Vec::with_capacity(256);
    let mut out = Vec::with_capacity(256);
    // Held between the messages of one connection, like the connection pool of a real server in steady state.
    let mut next_hop: Option<NextHop> = None;
    out.extend_from_slice(b"220 relay.test ESMTP\r\n");
    let ended = loop {
        let Some((line, used)) = buffer.line() else {
            stream.write_all(&out).await?;
            out.clear();
            match buffer.fill(&mut stream).await {
                Ok(_) => continue,
                Err(error) => break Err(error),
            }
        };
        match line.first().map(u8::to_ascii_lowercase) {
            Some(b'e' | b'h') => {
                out.extend_from_slice(
                    b"250-relay.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 67108864\r\n",
                );
            }
            Some(b'm') => {
                commands.clear();
                commands.extend_from_slice(&buffer.unread()[..used]);
                out.extend_from_slice(b"250 2.1.0 ok\r\n");
            }
            Some(b'r') => {
                commands.extend_from_slice(&buffer.unread()[..used]);
                out.extend_from_slice(b"250 2.1.5 ok\r\n");
            }
            Some(b'd') => {
                buffer.consume(used);
                out.extend_from_slice(b"354 go on\r\n");
                commands.extend_from_slice(b"DATA\r\n");
                let length = message(&mut buffer, &mut stream, &mut out).await?;
                let relayed = relay(shared, &mut next_hop, &commands, &buffer.unread()[..length]).await;
                buffer.consume(length);
                match relayed {
                    Ok(()) => out.extend_from_slice(b"250 2.0.0 relayed\r\n"),
                    Err(_) => out.extend_from_slice(b"451 4.4.1 next hop\r\n"),
                }
                continue;
            }
            Some(b'q') => {
                out.extend_from_slice(b"221 2.0.0 bye\r\n");
                stream.write_all(&out).await?;
                break stream.shutdown().await;
            }
            _ => out.extend_from_slice(b"500 5.5.2 unknown\r\n"),
        }
        buffer.consume(used);
    };
    if let Some(next_hop) = next_hop {
        shared.put_back(next_hop);
    }
    ended
}

/// Reads until the end of data is in the buffer; the length of the message with its end.
async fn message(buffer: &mut Buffer, stream: &mut TcpStream, out: &mut Vec<u8>) -> io::Result<usize> {
    let mut searched = 0;
    loop {
        if let Some(at) = wire::end_of_data(&buffer.unread()[searched..]) {
            return Ok(searched + at + wire::END_OF_DATA.len());
        }
        searched = buffer.unread().len().saturating_sub(wire::END_OF_DATA.len() - 1);
        if !out.is_empty() {
            stream.write_all(out).await?;
            out.clear();
        }
        buffer.fill(stream).await?;
    }
}

async fn relay(
    shared: &Shared,
    slot: &mut Option<NextHop>,
    commands: &[u8],
    message: &[u8],
) -> io::Result<()> {
    let mut next_hop = match slot.take().or_else(|| shared.take_idle()) {
        Some(next_hop) => next_hop,
        None => NextHop::open(shared.options.next_hop).await?,
    };
    next_hop.send(commands, message).await?;
    if shared.options.fresh {
        next_hop.quit().await
    } else {
        *slot = Some(next_hop);
        Ok(())
    }
}

impl Shared {
    fn take_idle(&self) -> Option<NextHop> {
        let me = std::thread::current().id();
        let mut idle = lock(&self.idle);
        let at = idle.iter().rposition(|(owner, _)| *owner == me)?;
        Some(idle.swap_remove(at).1)
    }

    fn put_back(&self, next_hop: NextHop) {
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_MAX {
            idle.push((std::thread::current().id(), next_hop));
        }
    }
}

/// A connection to the next hop, past its greeting.
struct NextHop {
    stream: TcpStream,
    buffer: Buffer,
    text: String,
}

impl NextHop {
    async fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let mut this = Self { stream, buffer: Buffer::new(1024, 16 * 1024), text: String::new() };
        this.expect(220).await?;
        this.stream.write_all(b"EHLO relay.test\r\n").await?;
        this.expect(250).await?;
        Ok(this)
    }

    async fn expect(&mut self, wanted: u16) -> io::Result<()> {
        let code = self.buffer.reply(&mut self.stream, &mut self.text, 400).await?;
        if code == wanted {
            Ok(())
        } else {
            Err(io::Error::other(format!("wanted {wanted}, got {}", self.text)))
        }
    }

    async fn send(&mut self, commands: &[u8], message: &[u8]) -> io::Result<()> {
        self.stream.write_all(commands).await?;
        for _ in memchr::memchr_iter(b'\n', commands).skip(1) {
            self.expect(250).await?;
        }
        self.expect(354).await?;
        self.stream.write_all(message).await?;
        self.expect(250).await
    }

    async fn quit(mut self) -> io::Result<()> {
        self.stream.write_all(b"QUIT\r\n").await?;
        self.expect(221).await
    }
}
