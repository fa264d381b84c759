//! A connection, whatever carries it: TCP or a pipe in memory, in the clear or through TLS at either end.

use crate::memory::Pipe;
use crate::tls::{CertificateFault, Examiner};
use mail::TlsInfo;
use rustls::{CommonState, HandshakeKind};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What carries the bytes below TLS.
#[derive(Debug)]
pub(crate) enum Io {
    Tcp(TcpStream),
    Memory(Pipe),
}

/// What was found out about a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// There is no certificate: the connection is in the clear, or we are the server.
    None,
    /// Name, dates and chain are good.
    Verified,
    /// It is what TLSA records say (RFC 7672).
    Dane,
    /// It is not good, and why; the policy of the connection did not ask for it.
    NotVerified(CertificateFault, Box<str>),
}

/// A connection: plain, TLS as server, or TLS as client.
///
/// [`Stream::readable`] waits for bytes without holding a buffer; read only after it returns, and an idle
/// connection costs no buffer of the caller's. Flush after writing: TLS may hold up to 32 KB back until then, and
/// no more, however little the peer reads.
#[derive(Debug)]
pub struct Stream(Inner);

#[derive(Debug)]
enum Inner {
    Plain(Io),
    Server(Box<tokio_rustls::server::TlsStream<Io>>),
    Client(Box<Client>),
}

#[derive(Debug)]
struct Client {
    tls: tokio_rustls::client::TlsStream<Io>,
    examiner: Examiner,
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self(Inner::Plain(Io::Tcp(tcp)))
    }
}

impl From<Pipe> for Stream {
    fn from(pipe: Pipe) -> Self {
        Self(Inner::Plain(Io::Memory(pipe)))
    }
}

impl Stream {
    pub(crate) fn server(tls: tokio_rustls::server::TlsStream<Io>) -> Self {
        Self(Inner::Server(Box::new(tls)))
    }

    pub(crate) fn client(tls: tokio_rustls::client::TlsStream<Io>, examiner: Examiner) -> Self {
        Self(Inner::Client(Box::new(Client { tls, examiner })))
    }

    /// What is below, to begin TLS on it. A stream that already speaks TLS is refused and dropped: its
    /// keys belong to it, and TLS within TLS is nobody's wish.
    pub(crate) fn into_plain(self) -> io::Result<Io> {
        match self.0 {
            Inner::Plain(io) => Ok(io),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the connection already speaks TLS")),
        }
    }

    fn io(&self) -> &Io {
        match &self.0 {
            Inner::Plain(io) => io,
            Inner::Server(tls) => tls.get_ref().0,
            Inner::Client(client) => client.tls.get_ref().0,
        }
    }

    fn session(&self) -> Option<&CommonState> {
        match &self.0 {
            Inner::Plain(_) => None,
            Inner::Server(tls) => Some(tls.get_ref().1),
            Inner::Client(client) => Some(client.tls.get_ref().1),
        }
    }

    /// True if the connection speaks TLS.
    pub fn is_tls(&self) -> bool {
        !matches!(self.0, Inner::Plain(_))
    }

    /// Protocol and cipher, in the IANA's spelling, if the connection speaks TLS.
    pub fn tls_info(&self) -> Option<TlsInfo> {
        let session = self.session()?;
        let protocol = match session.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3".into(),
            rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2".into(),
            other => format!("{other:?}").into(),
        };
        let name = format!("{:?}", session.negotiated_cipher_suite()?.suite());
        let cipher = name.strip_prefix("TLS13_").map(|rest| format!("TLS_{rest}")).unwrap_or(name).into();
        Some(TlsInfo { protocol, cipher })
    }

    /// True if the TLS session was resumed from an earlier one.
    pub fn is_resumed(&self) -> bool {
        self.session().and_then(CommonState::handshake_kind) == Some(HandshakeKind::Resumed)
    }

    /// The key exchange group, such as `X25519MLKEM768`, if the connection speaks TLS.
    pub fn key_exchange(&self) -> Option<Box<str>> {
        let group = self.session()?.negotiated_key_exchange_group()?;
        Some(format!("{:?}", group.name()).into())
    }

    /// The name the client asked for in its handshake, if we are the server of a TLS connection.
    pub fn server_name(&self) -> Option<&str> {
        match &self.0 {
            Inner::Server(tls) => tls.get_ref().1.server_name(),
            _ => None,
        }
    }

    /// What is to be said of the server's certificate, if we are the client. Unless the policy has
    /// verified it already, it is verified now, at each call: signatures are checked, so ask once.
    pub fn verification(&self) -> Verification {
        match &self.0 {
            Inner::Client(client) => client.examiner.examine(client.tls.get_ref().1.peer_certificates()),
            _ => Verification::None,
        }
    }

    /// The other end, with a mapped IPv4 address written as IPv4.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self.io() {
            Io::Tcp(tcp) => tcp.peer_addr().map(canonical),
            Io::Memory(pipe) => Ok(pipe.peer()),
        }
    }

    /// Our end, with a mapped IPv4 address written as IPv4.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.io() {
            Io::Tcp(tcp) => tcp.local_addr().map(canonical),
            Io::Memory(pipe) => Ok(pipe.local()),
        }
    }

    /// Waits until a read would return bytes, the end, or an error. Holds no buffer while it waits (a TLS
    /// connection holds what rustls needs, 4 KB), and losing the future loses nothing.
    pub async fn readable(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// The poll form of [`Stream::readable`].
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Plain(Io::Tcp(tcp)) => tcp.poll_read_ready(cx),
            Inner::Plain(Io::Memory(pipe)) => pipe.poll_readable(cx),
            Inner::Server(tls) => Pin::new(&mut **tls).poll_fill_buf(cx).map_ok(drop),
            Inner::Client(client) => Pin::new(&mut client.tls).poll_fill_buf(cx).map_ok(drop),
        }
    }

    /// Reads what is there now; `WouldBlock` if nothing is. `Ok(0)` is the end: how a pooled connection
    /// that its peer has closed is told from an idle one.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        // A later poll registers its own waker, so this one wakes nobody.
        match Pin::new(self).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
            Poll::Ready(done) => done.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// `::ffff:192.0.2.1` is `192.0.2.1` that came in by a socket for both families.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Memory(pipe) => Pin::new(pipe).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Memory(pipe) => Pin::new(pipe).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Memory(pipe) => Pin::new(pipe).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Memory(pipe) => Pin::new(pipe).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Memory(pipe) => Pin::new(pipe).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Inner::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Inner::Server(tls) => Pin::new(&mut **tls).poll_read(cx, buf),
            Inner::Client(client) => Pin::new(&mut client.tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Inner::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Inner::Server(tls) => Pin::new(&mut **tls).poll_write(cx, buf),
            Inner::Client(client) => Pin::new(&mut client.tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Inner::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Inner::Server(tls) => Pin::new(&mut **tls).poll_write_vectored(cx, bufs),
            Inner::Client(client) => Pin::new(&mut client.tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Inner::Plain(io) => io.is_write_vectored(),
            Inner::Server(tls) => tls.is_write_vectored(),
            Inner::Client(client) => client.tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Inner::Plain(io) => Pin::new(io).poll_flush(cx),
            Inner::Server(tls) => Pin::new(&mut **tls).poll_flush(cx),
            Inner::Client(client) => Pin::new(&mut client.tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = match &mut self.get_mut().0 {
            Inner::Plain(io) => ready!(Pin::new(io).poll_shutdown(cx)),
            Inner::Server(tls) => ready!(Pin::new(&mut **tls).poll_shutdown(cx)),
            Inner::Client(client) => ready!(Pin::new(&mut client.tls).poll_shutdown(cx)),
        };
        // A peer that has already gone has read what it wanted to read.
        Poll::Ready(done.or_else(|e| if e.kind() == io::ErrorKind::NotConnected { Ok(()) } else { Err(e) }))
    }
}
