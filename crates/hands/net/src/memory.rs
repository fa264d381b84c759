//! Connections without a network: pipes in memory, and a [`Wire`] that dials them by address. What tests of
//! the workflows put in place of TCP.

use crate::{BoxFuture, DialError, DialErrorKind, Dialer, EgressSource, Stream};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Octets each direction of a pipe holds before its writer waits: about what a socket's buffers hold.
const PIPE_OCTETS: usize = 64 * 1024;
/// Connections that wait to be accepted at one address.
const BACKLOG: usize = 128;

/// One end of a connection in memory.
#[derive(Debug)]
pub struct Pipe {
    duplex: DuplexStream,
    // Readiness is found by reading one octet ahead: a duplex cannot be asked.
    ahead: Option<u8>,
    local: SocketAddr,
    peer: SocketAddr,
}

impl Pipe {
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_none() {
            let mut octet = [0];
            let mut buffer = ReadBuf::new(&mut octet);
            ready!(Pin::new(&mut self.duplex).poll_read(cx, &mut buffer))?;
            self.ahead = buffer.filled().first().copied();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(octet) = self.ahead.take()
        {
            buf.put_slice(&[octet]);
            // More may be there, but nobody need wait for it.
            if let Poll::Ready(Err(error)) = Pin::new(&mut self.duplex).poll_read(cx, buf) {
                return Poll::Ready(Err(error));
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.duplex).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.duplex).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.duplex).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.duplex).poll_shutdown(cx)
    }
}

/// A connection in memory: the client's end and the server's.
pub fn pair(client: SocketAddr, server: SocketAddr) -> (Stream, Stream) {
    let (near, far) = tokio::io::duplex(PIPE_OCTETS);
    (
        Stream::from(Pipe { duplex: near, ahead: None, local: client, peer: server }),
        Stream::from(Pipe { duplex: far, ahead: None, local: server, peer: client }),
    )
}

/// A network in memory: listeners by address, dialled like any other.
#[derive(Debug, Default)]
pub struct Wire {
    hosts: Mutex<HashMap<SocketAddr, Host>>,
}

#[derive(Debug)]
enum Host {
    Listens(mpsc::Sender<Stream>),
    Silent,
}

/// Where connections dialled on a [`Wire`] arrive.
#[derive(Debug)]
pub struct WireListener(mpsc::Receiver<Stream>);

impl WireListener {
    /// The next connection; `None` once the wire is gone.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.0.recv().await
    }
}

impl Wire {
    /// A wire with nobody on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Listens at `address`; an address nobody listens at refuses, and so does one whose listener was
    /// dropped.
    pub fn listen(&self, address: SocketAddr) -> WireListener {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        self.set(address, Host::Listens(sender));
        WireListener(receiver)
    }

    /// Lets dials to `address` hang until their deadline.
    pub fn silence(&self, address: SocketAddr) {
        self.set(address, Host::Silent);
    }

    fn set(&self, address: SocketAddr, host: Host) {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(address, host);
    }

    fn find(&self, address: SocketAddr) -> Option<Option<mpsc::Sender<Stream>>> {
        match self.hosts.lock().unwrap_or_else(PoisonError::into_inner).get(&address)? {
            Host::Listens(sender) => Some(Some(sender.clone())),
            Host::Silent => Some(None),
        }
    }
}

impl Dialer for Wire {
    fn dial<'a>(
        &'a self,
        source: &'a EgressSource,
        address: SocketAddr,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Stream, DialError>> {
        Box::pin(async move {
            let local = source.address_for(address.ip())?.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
            let refused = || DialError::new(DialErrorKind::Refused, "connection refused");
            match self.find(address) {
                None => Err(refused()),
                Some(None) => {
                    tokio::time::sleep_until(deadline).await;
                    Err(DialError::new(DialErrorKind::TimedOut, "no answer"))
                }
                Some(Some(sender)) => {
                    let (near, far) = pair(SocketAddr::new(local, 40_000), address);
                    sender.try_send(far).map_err(|_| refused())?;
                    Ok(near)
                }
            }
        })
    }
}
