//! Dialling: a TCP connection to one address, from an egress source, by a deadline.

use crate::{BoxFuture, Stream, Upstream};
use mail::Reply;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout_at};

/// Where connections to other sites come from: a local address for each family. With neither, the machine
/// chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressSource {
    /// Its name in the configuration, in logs and in accounting.
    pub name: Box<str>,
    /// The local address for IPv4 destinations.
    pub v4: Option<Ipv4Addr>,
    /// The local address for IPv6 destinations.
    pub v6: Option<Ipv6Addr>,
    /// The host its connections leave through.
    pub upstream: Option<Upstream>,
}

impl EgressSource {
    /// The local address to bind for `destination`; `Ok(None)` lets the machine choose. A source that names
    /// an address for one family only does not serve the other: mail would leave from an address that
    /// nobody chose.
    pub fn address_for(&self, destination: IpAddr) -> Result<Option<IpAddr>, DialError> {
        let (wanted, other) = match destination {
            IpAddr::V4(_) => (self.v4.map(IpAddr::V4), self.v6.is_some()),
            IpAddr::V6(_) => (self.v6.map(IpAddr::V6), self.v4.is_some()),
        };
        if wanted.is_none() && other {
            let family = if destination.is_ipv4() { "IPv4" } else { "IPv6" };
            let detail = format!("egress source {} has no {family} address", self.name);
            return Err(DialError::new(DialErrorKind::NoSourceAddress, detail));
        }
        Ok(wanted)
    }
}

/// Why a dial failed, by what the caller should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DialErrorKind {
    /// The host answers and nobody listens: try the next address at once.
    Refused,
    /// No answer by the deadline.
    TimedOut,
    /// No route to the host or its network; for IPv6, often every address of the family.
    Unreachable,
    /// The connection was reset or closed while it opened.
    Reset,
    /// The egress source has no address of this family, or the address is not ours: an operator must look.
    NoSourceAddress,
    /// This machine is out of descriptors, ports or memory: nothing is wrong with the site.
    Exhausted,
    /// Anything else.
    Other,
}

/// A dial that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialError {
    /// What kind of failure.
    pub kind: DialErrorKind,
    /// The system's words, for logs and the reply.
    pub detail: Box<str>,
}

impl DialError {
    /// A failure of `kind`.
    pub fn new(kind: DialErrorKind, detail: impl Into<Box<str>>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// The deferral a recipient gets when this was the last address to try.
    pub fn reply(&self) -> Reply {
        let status = match self.kind {
            DialErrorKind::NoSourceAddress | DialErrorKind::Exhausted => (4, 3, 0),
            DialErrorKind::Unreachable => (4, 4, 0),
            _ => (4, 4, 1),
        };
        Reply::new(451, status, self.to_string())
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for DialError {}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as E;
        use nix::libc;
        let kind = match error.kind() {
            E::ConnectionRefused => DialErrorKind::Refused,
            E::TimedOut => DialErrorKind::TimedOut,
            E::HostUnreachable | E::NetworkUnreachable | E::NetworkDown => DialErrorKind::Unreachable,
            // A firewall of our own that says no.
            E::PermissionDenied => DialErrorKind::Unreachable,
            E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe => DialErrorKind::Reset,
            E::AddrInUse | E::OutOfMemory => DialErrorKind::Exhausted,
            _ => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::EAGAIN) => DialErrorKind::Exhausted,
                Some(libc::EAFNOSUPPORT) => DialErrorKind::Unreachable,
                _ => DialErrorKind::Other,
            },
        };
        Self::new(kind, error.to_string())
    }
}

/// Opens connections to other sites. In production [`TcpDialer`], in tests [`crate::memory::Wire`].
pub trait Dialer: Send + Sync {
    /// Connects to `address` from `source`, or says why not; never later than `deadline`.
    fn dial<'a>(
        &'a self,
        source: &'a EgressSource,
        address: SocketAddr,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Stream, DialError>>;
}

/// Dials by TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDialer;

impl Dialer for TcpDialer {
    fn dial<'a>(
        &'a self,
        source: &'a EgressSource,
        address: SocketAddr,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Stream, DialError>> {
        Box::pin(async move {
            if let Some(upstream) = &source.upstream {
                upstream.sends_from(address)?;
            }
            let first = source.upstream.as_ref().map_or(address, Upstream::address);
            let socket = match first {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            // Small writes are whole commands: waiting for more would only add a round trip.
            socket.set_nodelay(true)?;
            if let Some(local) = source.address_for(first.ip())? {
                // The port is chosen when connecting, so that one local port can serve many destinations.
                // A kernel without the option binds early, which only costs ports.
                let _ = nix::sys::socket::setsockopt(
                    &socket,
                    nix::sys::socket::sockopt::IpBindAddressNoPort,
                    &true,
                );
                socket.bind(SocketAddr::new(local, 0)).map_err(|error| {
                    let kind = match error.kind() {
                        io::ErrorKind::AddrInUse => DialErrorKind::Exhausted,
                        _ => DialErrorKind::NoSourceAddress,
                    };
                    DialError::new(kind, format!("egress source {}: {local}: {error}", source.name))
                })?;
            }
            let connect = async {
                let stream = socket.connect(first).await?;
                match &source.upstream {
                    Some(upstream) => upstream.ask(stream, address).await,
                    None => Ok(stream),
                }
            };
            match timeout_at(deadline, connect).await {
                Ok(connected) => Ok(Stream::from(connected?)),
                Err(_) => Err(DialError::new(DialErrorKind::TimedOut, "no answer to the connection attempt")),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Wire;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    fn source(v4: Option<&str>, v6: Option<&str>) -> EgressSource {
        EgressSource {
            name: "s".into(),
            v4: v4.map(|a| a.parse().unwrap()),
            v6: v6.map(|a| a.parse().unwrap()),
            upstream: None,
        }
    }

    #[tokio::test]
    async fn tcp_from_a_chosen_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let from = source(Some("127.0.0.77"), None);
        let stream = TcpDialer.dial(&from, address, soon()).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip().to_string(), "127.0.0.77");
        assert_eq!(stream.peer_addr().unwrap(), address);
        let (tcp, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip().to_string(), "127.0.0.77");
        drop(tcp);
    }

    #[tokio::test]
    async fn tcp_failures_have_kinds() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let kind = |from: EgressSource, to: SocketAddr| async move {
            TcpDialer.dial(&from, to, soon()).await.unwrap_err().kind
        };
        assert_eq!(kind(source(None, None), free).await, DialErrorKind::Refused);
        assert_eq!(kind(source(Some("192.0.2.77"), None), free).await, DialErrorKind::NoSourceAddress);
        assert_eq!(kind(source(None, Some("::1")), free).await, DialErrorKind::NoSourceAddress);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wire_in_memory_connects_refuses_and_hangs() {
        let (wire, from) = (Wire::new(), source(None, None));
        let [open, silent, gone] =
            ["192.0.2.1:25", "192.0.2.2:25", "192.0.2.3:25"].map(|a| a.parse::<SocketAddr>().unwrap());
        let mut listener = wire.listen(open);
        wire.silence(silent);
        drop(wire.listen(gone));

        let mut near = wire.dial(&from, open, soon()).await.unwrap();
        let mut far = listener.accept().await.unwrap();
        far.write_all(b"220 hi\r\n").await.unwrap();
        near.readable().await.unwrap();
        let mut greeting = [0; 8];
        near.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 hi\r\n");
        assert_eq!(near.try_read(&mut greeting).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(far);
        near.readable().await.unwrap();
        assert_eq!(near.try_read(&mut greeting).unwrap(), 0);

        let began = Instant::now();
        let error = wire.dial(&from, silent, began + Duration::from_secs(30)).await.unwrap_err();
        assert_eq!((error.kind, began.elapsed().as_secs()), (DialErrorKind::TimedOut, 30));
        assert_eq!(wire.dial(&from, gone, soon()).await.unwrap_err().kind, DialErrorKind::Refused);
    }
}
