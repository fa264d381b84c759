//! Connections that leave through another host, which has the address a source stands for: a SOCKS5 server
//! (RFC 1928, RFC 1929), or a proxy that reads a PROXY header (version 2) and connects onward from the address
//! it names.

use crate::dial::{DialError, DialErrorKind};
use std::net::{IpAddr, SocketAddr};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;

/// A host that connections leave through.
#[derive(Clone, PartialEq, Eq)]
pub enum Upstream {
    /// A SOCKS5 server.
    Socks5 {
        /// Where it listens.
        address: SocketAddr,
        /// User and password, if it asks for them.
        credentials: Option<(Box<str>, Box<str>)>,
    },
    /// A proxy that reads a PROXY header.
    Proxy {
        /// Where it listens.
        address: SocketAddr,
        /// The address it shall connect from, for IPv4 destinations.
        v4: Option<std::net::Ipv4Addr>,
        /// The address it shall connect from, for IPv6 destinations.
        v6: Option<std::net::Ipv6Addr>,
    },
}

/// Hides the password.
impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socks5 { address, .. } => write!(f, "socks5://{address}"),
            Self::Proxy { address, .. } => write!(f, "proxy://{address}"),
        }
    }
}

impl Upstream {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Socks5 { address, .. } | Self::Proxy { address, .. } => *address,
        }
    }

    /// The address a proxy shall connect from; an error before anything is opened if it has none of the family.
    pub(crate) fn sends_from(&self, destination: SocketAddr) -> Result<Option<IpAddr>, DialError> {
        let Self::Proxy { v4, v6, address } = self else { return Ok(None) };
        let from = match destination {
            SocketAddr::V4(_) => v4.map(IpAddr::V4),
            SocketAddr::V6(_) => v6.map(IpAddr::V6),
        };
        from.map(Some).ok_or_else(|| {
            let family = if destination.is_ipv4() { "IPv4" } else { "IPv6" };
            let detail = format!("the proxy {address} has no {family} address to send from");
            DialError::new(DialErrorKind::NoSourceAddress, detail)
        })
    }

    /// Asks it, over a connection that is open, to go on to `destination`.
    pub(crate) async fn ask(
        &self,
        mut stream: TcpStream,
        destination: SocketAddr,
    ) -> Result<TcpStream, DialError> {
        match self {
            Self::Socks5 { credentials: None, .. } => Socks5Stream::connect_with_socket(stream, destination)
                .await
                .map(Socks5Stream::into_inner)
                .map_err(|error| self.failed(error)),
            Self::Socks5 { credentials: Some((user, password)), .. } => {
                Socks5Stream::connect_with_password_and_socket(stream, destination, user, password)
                    .await
                    .map(Socks5Stream::into_inner)
                    .map_err(|error| self.failed(error))
            }
            Self::Proxy { .. } => {
                let from = self.sends_from(destination)?.unwrap_or(destination.ip());
                stream.write_all(&header_v2(SocketAddr::new(from, 0), destination)).await?;
                Ok(stream)
            }
        }
    }

    fn failed(&self, error: tokio_socks::Error) -> DialError {
        use tokio_socks::Error as E;
        let kind = match &error {
            E::HostUnreachable | E::NetworkUnreachable => DialErrorKind::Unreachable,
            E::ConnectionRefused => DialErrorKind::Refused,
            E::TtlExpired => DialErrorKind::TimedOut,
            E::Io(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => DialErrorKind::Reset,
            // The proxy itself says no: an operator must look.
            _ => DialErrorKind::Other,
        };
        DialError::new(kind, format!("{self:?}: {error}"))
    }
}

/// A PROXY header, version 2, for a TCP connection between two addresses of one family.
fn header_v2(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    let mut addresses = Vec::with_capacity(36);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.push(0x11);
            addresses.extend_from_slice(&from.octets());
            addresses.extend_from_slice(&to.octets());
        }
        (from, to) => {
            let v6 = |ip| match ip {
                IpAddr::V4(ip) => std::net::Ipv4Addr::to_ipv6_mapped(&ip),
                IpAddr::V6(ip) => ip,
            };
            header.push(0x21);
            addresses.extend_from_slice(&v6(from).octets());
            addresses.extend_from_slice(&v6(to).octets());
        }
    }
    addresses.extend_from_slice(&from.port().to_be_bytes());
    addresses.extend_from_slice(&to.port().to_be_bytes());
    header.extend_from_slice(&(addresses.len() as u16).to_be_bytes());
    header.extend_from_slice(&addresses);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::{Dialer, EgressSource, TcpDialer};
    use crate::proxy::{Header, Parsed, parse};
    use std::time::Duration;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn the_header_is_what_our_own_listener_reads() {
        for (from, to) in [("192.0.2.1:0", "192.0.2.2:25"), ("[2001:db8::1]:0", "[2001:db8::2]:25")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let bytes = header_v2(from, to);
            let Ok(Parsed::Header(Header::Proxied { source, destination }, length)) = parse(&bytes) else {
                panic!("{bytes:?}")
            };
            assert_eq!((source, destination, length), (from, to, bytes.len()));
        }
    }

    #[tokio::test]
    async fn a_proxy_gets_the_header_and_then_the_session() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream::Proxy {
            address: listener.local_addr().unwrap(),
            v4: Some("192.0.2.9".parse().unwrap()),
            v6: None,
        };
        let source = EgressSource { upstream: Some(upstream), ..EgressSource::default() };
        let to: SocketAddr = "198.51.100.7:25".parse().unwrap();
        let proxy = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut header = [0; 28];
            socket.read_exact(&mut header).await.unwrap();
            socket.write_all(b"220 onward\r\n").await.unwrap();
            header.to_vec()
        });
        let mut stream = TcpDialer.dial(&source, to, soon()).await.unwrap();
        let mut greeting = [0; 12];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 onward\r\n");
        assert_eq!(proxy.await.unwrap(), header_v2("192.0.2.9:0".parse().unwrap(), to));
        let error = TcpDialer.dial(&source, "[2001:db8::7]:25".parse().unwrap(), soon()).await.unwrap_err();
        assert_eq!(error.kind, DialErrorKind::NoSourceAddress, "{error}");
    }

    /// A server of RFC 1928 that asks for a password, written for the test.
    async fn socks_server(listener: TcpListener, password: &'static str) {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut hello = [0; 2];
            socket.read_exact(&mut hello).await.unwrap();
            let mut methods = vec![0; usize::from(hello[1])];
            socket.read_exact(&mut methods).await.unwrap();
            assert!(methods.contains(&2), "{methods:?}");
            socket.write_all(&[5, 2]).await.unwrap();
            let text = |len: u8| vec![0; usize::from(len)];
            let mut head = [0; 2];
            socket.read_exact(&mut head).await.unwrap();
            let mut user = text(head[1]);
            socket.read_exact(&mut user).await.unwrap();
            let mut len = [0; 1];
            socket.read_exact(&mut len).await.unwrap();
            let mut given = text(len[0]);
            socket.read_exact(&mut given).await.unwrap();
            let good = user == b"u" && given == password.as_bytes();
            socket.write_all(&[1, u8::from(!good)]).await.unwrap();
            if !good {
                continue;
            }
            let mut request = [0; 10];
            socket.read_exact(&mut request).await.unwrap();
            let to = SocketAddr::from((
                [request[4], request[5], request[6], request[7]],
                u16::from_be_bytes([request[8], request[9]]),
            ));
            match TcpStream::connect(to).await {
                Ok(mut onward) => {
                    socket.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
                    tokio::spawn(async move {
                        let _ = tokio::io::copy_bidirectional(&mut socket, &mut onward).await;
                    });
                }
                Err(_) => socket.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap(),
            }
        }
    }

    #[tokio::test]
    async fn a_socks_server_goes_on_to_the_destination() {
        let site = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = site.local_addr().unwrap();
        let socks = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socks.local_addr().unwrap();
        tokio::spawn(socks_server(socks, "secret"));
        let source = |password: &str| EgressSource {
            upstream: Some(Upstream::Socks5 { address, credentials: Some(("u".into(), password.into())) }),
            ..EgressSource::default()
        };
        let mut stream = TcpDialer.dial(&source("secret"), to, soon()).await.unwrap();
        let (mut far, _) = site.accept().await.unwrap();
        far.write_all(b"220 hi\r\n").await.unwrap();
        let mut greeting = [0; 8];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 hi\r\n");
        drop(site);
        let refused = TcpDialer.dial(&source("secret"), to, soon()).await.unwrap_err();
        assert_eq!(refused.kind, DialErrorKind::Refused, "{refused}");
        let wrong = TcpDialer.dial(&source("wrong"), to, soon()).await.unwrap_err();
        assert!(!wrong.to_string().contains("wrong"), "{wrong}");
    }
}
