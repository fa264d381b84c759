//! Listening: a bound socket, and connections from it that have passed the limits.

use crate::stream::canonical;
use crate::{Limits, Refusal, Slot, Stream};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// How a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Connections the kernel holds before they are accepted. It caps this at `net.core.somaxconn`.
    pub backlog: u32,
    /// An IPv6 socket takes IPv6 only. Without it `[::]` takes IPv4 too.
    pub only_v6: bool,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self { backlog: 1024, only_v6: true }
    }
}

/// A bound and listening socket that no runtime knows yet: bind as root, drop privileges, start the
/// runtime, then [`Bound::start`].
#[derive(Debug)]
pub struct Bound {
    socket: std::net::TcpListener,
    local: SocketAddr,
}

impl Bound {
    /// Binds `address`. The error's text names it.
    pub fn bind(address: SocketAddr, config: &ListenerConfig) -> io::Result<Self> {
        let bind = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            if address.is_ipv6() {
                socket.set_only_v6(config.only_v6)?;
            }
            // A restart must not wait for the last run's connections to be forgotten.
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(config.backlog.clamp(1, i32::MAX as u32) as i32)?;
            let socket = std::net::TcpListener::from(socket);
            let local = socket.local_addr()?;
            Ok(Self { socket, local })
        };
        bind().map_err(|error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
        })
    }

    /// Where it listens; the port is the real one when 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Hands the socket to the runtime that calls.
    pub fn start(self, limits: Arc<Limits>) -> io::Result<Listener> {
        Ok(Listener { socket: TcpListener::from_std(self.socket)?, local: self.local, limits })
    }
}

/// A connection taken from a listener.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: Stream,
    /// Who dialled.
    pub peer: SocketAddr,
    /// Our end of it.
    pub local: SocketAddr,
    /// Its place among the open connections; or it is to be told 421 and closed.
    pub admission: Result<Slot, Refusal>,
}

/// A listening socket and the limits its connections pass.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    local: SocketAddr,
    limits: Arc<Limits>,
}

/// The first wait after an error of `accept` that does not concern one connection only.
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
/// The longest such wait.
const BACKOFF_LAST: Duration = Duration::from_millis(500);
/// How often free descriptors are looked for while accepting is paused.
const PAUSE: Duration = Duration::from_millis(20);

impl Listener {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The next connection, with TCP_NODELAY set. Never fails: errors of one connection are skipped, want
    /// of descriptors or memory is waited out, and both are counted. Losing the future loses no
    /// connection.
    pub async fn accept(&self) -> Accepted {
        let mut backoff = BACKOFF_FIRST;
        loop {
            self.wait_for_descriptors().await;
            match self.socket.accept().await {
                Ok((tcp, peer)) => {
                    if let Some(accepted) = self.admit(tcp, canonical(peer)) {
                        return accepted;
                    }
                }
                Err(error) => {
                    self.limits.counters().accept_errors.fetch_add(1, Relaxed);
                    if concerns_one_connection(&error) {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    tracing::warn!(listener = %self.local, %error, backoff_ms = backoff.as_millis() as u64, "accept failed");
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_LAST);
                }
            }
        }
    }

    async fn wait_for_descriptors(&self) {
        if !self.limits.is_short_of_descriptors() {
            return;
        }
        self.limits.counters().accept_pauses.fetch_add(1, Relaxed);
        tracing::warn!(listener = %self.local, "few file descriptors are free, accepting is paused");
        while self.limits.is_short_of_descriptors() {
            sleep(PAUSE).await;
        }
        tracing::info!(listener = %self.local, "file descriptors are free again, accepting goes on");
    }

    fn admit(&self, tcp: TcpStream, peer: SocketAddr) -> Option<Accepted> {
        self.limits.counters().accepted.fetch_add(1, Relaxed);
        let admission = match self.limits.admit(peer.ip()) {
            Ok(slot) => Ok(slot),
            Err(Some(refusal)) => Err(refusal),
            Err(None) => return None,
        };
        // Both fail only when the peer has reset already; then the session learns it by reading.
        let _ = tcp.set_nodelay(true);
        let local = tcp.local_addr().map_or(self.local, canonical);
        Some(Accepted { stream: Stream::from(tcp), peer, local, admission })
    }
}

/// Errors that accept(2) passes on from a connection that died in the backlog.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EINTR
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::EPERM
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Descriptors, LimitsConfig, RefusedWhy};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    fn listener(config: LimitsConfig, descriptors: Descriptors) -> (Listener, Arc<Limits>) {
        let limits = Limits::new(config, descriptors);
        let bound = Bound::bind(any(), &ListenerConfig::default()).unwrap();
        (bound.start(limits.clone()).unwrap(), limits)
    }

    #[tokio::test]
    async fn a_connection_over_the_limit_is_refused_and_the_next_one_served() {
        let config = LimitsConfig { connections_max: 1, ..LimitsConfig::default() };
        let (listener, limits) = listener(config, Descriptors::raise());
        let mut first = TcpStream::connect(listener.local_addr()).await.unwrap();
        let one = listener.accept().await;
        let slot = one.admission.unwrap();
        let _second = TcpStream::connect(listener.local_addr()).await.unwrap();
        assert_eq!(listener.accept().await.admission.unwrap_err().why(), RefusedWhy::All);
        drop(slot);
        let _third = TcpStream::connect(listener.local_addr()).await.unwrap();
        assert!(listener.accept().await.admission.is_ok());

        let mut stream = one.stream;
        assert_eq!(one.peer, first.local_addr().unwrap());
        first.write_all(b"x").await.unwrap();
        stream.readable().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        assert_eq!(limits.figures().accepted, 3);
    }

    #[tokio::test]
    async fn accepting_pauses_before_descriptors_run_out_and_goes_on() {
        let now = Descriptors::raise().in_use();
        let reserve = 64;
        let config = LimitsConfig { descriptors_reserve: reserve, ..LimitsConfig::default() };
        // Other tests of this process use descriptors too; leave room for theirs, then use it up.
        let (listener, limits) = listener(config, Descriptors::with_max(now + reserve + 200));
        let client = TcpStream::connect(listener.local_addr()).await.unwrap();
        let files: Vec<_> = (0..400).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!(timeout(Duration::from_millis(100), listener.accept()).await.is_err());
        assert_eq!(limits.figures().accept_pauses, 1);
        drop(files);
        let accepted = timeout(Duration::from_secs(5), listener.accept()).await.unwrap();
        assert_eq!(accepted.peer, client.local_addr().unwrap());
    }

    #[tokio::test]
    async fn connections_that_are_reset_at_once_leak_nothing() {
        let (listener, limits) = listener(LimitsConfig::default(), Descriptors::raise());
        let at = listener.local_addr();
        let flood = tokio::spawn(async move {
            for _ in 0..300 {
                let tcp = TcpStream::connect(at).await.unwrap();
                // Lingering for no time turns the close into a reset.
                socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
            }
        });
        for _ in 0..300 {
            drop(timeout(Duration::from_secs(5), listener.accept()).await.unwrap());
        }
        flood.await.unwrap();
        assert_eq!(limits.figures().connections, 0);
    }

    #[test]
    fn a_bind_that_fails_names_the_address() {
        let bound = Bound::bind(any(), &ListenerConfig::default()).unwrap();
        let error = Bound::bind(bound.local_addr(), &ListenerConfig::default()).unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("cannot listen on {}", bound.local_addr())),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_socket_for_both_families_tells_ipv4_clients_as_such() {
        let config = ListenerConfig { only_v6: false, ..ListenerConfig::default() };
        // A machine without IPv6 has nothing to test here.
        let Ok(bound) = Bound::bind("[::]:0".parse().unwrap(), &config) else { return };
        let listener = bound.start(Limits::new(LimitsConfig::default(), Descriptors::raise())).unwrap();
        let port = listener.local_addr().port();
        let client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let accepted = listener.accept().await;
        assert_eq!(accepted.peer, client.local_addr().unwrap());
        assert_eq!(accepted.local, client.peer_addr().unwrap());
    }

    #[test]
    fn want_of_descriptors_is_waited_out_without_a_busy_loop() {
        // Its limit would starve the other tests of this process.
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "listener::tests::child_without_descriptors", "--ignored"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
    }

    #[tokio::test]
    #[ignore = "run by want_of_descriptors_is_waited_out_without_a_busy_loop"]
    async fn child_without_descriptors() {
        use nix::sys::resource::{Resource, setrlimit};
        setrlimit(Resource::RLIMIT_NOFILE, 64, 64).unwrap();
        // The count is told a limit that is not there, so that accept itself fails.
        let (listener, limits) = listener(LimitsConfig::default(), Descriptors::with_max(1_000_000));
        let client = TcpStream::connect(listener.local_addr()).await.unwrap();
        let mut files: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        assert!(timeout(Duration::from_secs(1), listener.accept()).await.is_err());
        let errors = limits.figures().accept_errors;
        assert!((2..20).contains(&errors), "{errors}");
        files.clear();
        let accepted = timeout(Duration::from_secs(5), listener.accept()).await.unwrap();
        assert_eq!(accepted.peer, client.local_addr().unwrap());
    }
}
