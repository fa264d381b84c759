//! Connections that plugins make, for `net` and `tls`. They are bounded in number and by time, and end with the machine.

use crate::host::lock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Connections that one context may have open.
const SOCKETS_MAX: usize = 500;
/// The longest that a connection takes to come about, for each address.
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// The longest that a write waits for the other side; plugins bound their reads themselves.
const WRITE_MAX: Duration = Duration::from_secs(120);
/// Octets of one read.
const READ_MAX_OCTETS: usize = 64 << 10;

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Both directions of a connection, each held by whoever uses it.
struct Socket {
    reader: tokio::sync::Mutex<Option<ReadHalf<Box<dyn Wire>>>>,
    writer: tokio::sync::Mutex<Option<WriteHalf<Box<dyn Wire>>>>,
}

impl Socket {
    fn new(wire: Box<dyn Wire>) -> Self {
        let (reader, writer) = tokio::io::split(wire);
        Self { reader: tokio::sync::Mutex::new(Some(reader)), writer: tokio::sync::Mutex::new(Some(writer)) }
    }
}

/// The connections of one context.
#[derive(Default)]
pub(crate) struct Sockets {
    open: Mutex<HashMap<u64, Arc<Socket>>>,
    last: AtomicU64,
    /// Connections that are being made count as well.
    making: AtomicU64,
}

/// Counts a connection in the making, however that ends.
struct Making<'a>(&'a AtomicU64);

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

const GONE: &str = "the connection is closed";

impl Sockets {
    fn socket(&self, id: &str) -> Result<Arc<Socket>, String> {
        let id: u64 = id.parse().map_err(|_| GONE)?;
        lock(&self.open).get(&id).cloned().ok_or_else(|| GONE.to_owned())
    }

    /// Closes a connection; what reads or writes it ends.
    pub(crate) fn close(&self, id: u64) {
        lock(&self.open).remove(&id);
    }

    /// `socket`, `socket_read`, `socket_write`, `socket_end` and `socket_tls`. Octets come and go as characters up to 255.
    pub(crate) async fn operate(&self, kind: &str, argument: &str) -> Result<String, String> {
        match kind {
            "socket" => self.connect(argument).await,
            "socket_read" => {
                let socket = self.socket(argument)?;
                let mut reader = socket.reader.lock().await;
                let reader = reader.as_mut().ok_or(GONE)?;
                let mut octets = vec![0; READ_MAX_OCTETS];
                let count = reader.read(&mut octets).await.map_err(|error| error.to_string())?;
                Ok(octets[..count].iter().map(|octet| char::from(*octet)).collect())
            }
            "socket_write" => {
                let (id, text) = argument.split_once(' ').ok_or(GONE)?;
                let socket = self.socket(id)?;
                let octets = octets(text)?;
                let mut writer = socket.writer.lock().await;
                let writer = writer.as_mut().ok_or(GONE)?;
                let work = async {
                    writer.write_all(&octets).await?;
                    writer.flush().await
                };
                let written = timeout(WRITE_MAX, work).await;
                written.map_err(|_| "ETIMEDOUT".to_owned())?.map_err(|error| error.to_string())?;
                Ok(String::new())
            }
            "socket_end" => {
                let socket = self.socket(argument)?;
                let mut writer = socket.writer.lock().await;
                if let Some(writer) = writer.as_mut() {
                    // A peer that is gone already needs no farewell.
                    let _ = timeout(WRITE_MAX, writer.shutdown()).await;
                }
                Ok(String::new())
            }
            "socket_tls" => self.secure(argument).await,
            other => Err(format!("there is no `{other}`")),
        }
    }

    async fn connect(&self, place: &str) -> Result<String, String> {
        let making = self.making.fetch_add(1, Relaxed);
        let _making = Making(&self.making);
        let under_way = usize::try_from(making).unwrap_or(usize::MAX);
        if lock(&self.open).len().saturating_add(under_way) >= SOCKETS_MAX {
            return Err(format!("EMFILE: plugins may have {SOCKETS_MAX} connections open at once"));
        }
        let (kind, place) = place.split_once(' ').unwrap_or_default();
        let mut about = serde_json::json!({});
        let wire: Box<dyn Wire> = if kind == "unix" {
            let stream = timeout(CONNECT_MAX, UnixStream::connect(place)).await;
            Box::new(stream.map_err(|_| format!("ETIMEDOUT {place}"))?.map_err(|error| told(&error, place))?)
        } else {
            let mut outcome = Err(format!("ECONNREFUSED {place}"));
            for address in place.split(' ') {
                outcome = match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
                    Ok(Ok(stream)) => Ok(stream),
                    Ok(Err(error)) => Err(told(&error, address)),
                    Err(_) => Err(format!("ETIMEDOUT {address}")),
                };
                if outcome.is_ok() {
                    break;
                }
            }
            let stream = outcome?;
            // Small requests go at once; a socket that cannot be told works as well.
            let _ = stream.set_nodelay(true);
            if let (Ok(local), Ok(remote)) = (stream.local_addr(), stream.peer_addr()) {
                about["local"] = serde_json::json!([local.ip().to_string(), local.port()]);
                about["remote"] = serde_json::json!([remote.ip().to_string(), remote.port()]);
            }
            Box::new(stream)
        };
        let id = self.last.fetch_add(1, Relaxed) + 1;
        lock(&self.open).insert(id, Arc::new(Socket::new(wire)));
        about["id"] = id.into();
        Ok(about.to_string())
    }

    /// TLS over a connection: `[id, name, verified, authorities]`.
    async fn secure(&self, argument: &str) -> Result<String, String> {
        let (id, name, verified, authorities): (u64, String, bool, Vec<String>) =
            serde_json::from_str(argument).map_err(|error| error.to_string())?;
        let socket = self.socket(&id.to_string())?;
        let (reader, writer) = (socket.reader.lock().await.take(), socket.writer.lock().await.take());
        let wire = match (reader, writer) {
            (Some(reader), Some(writer)) => reader.unsplit(writer),
            _ => return Err(GONE.into()),
        };
        let config = client(verified, &authorities)?;
        let name = if name.is_empty() { "localhost".to_owned() } else { name };
        let name = ServerName::try_from(name).map_err(|_| "this is no name of a server".to_owned())?;
        let connector = tokio_rustls::TlsConnector::from(config);
        let stream = timeout(CONNECT_MAX, connector.connect(name, wire)).await;
        let stream = stream.map_err(|_| "ETIMEDOUT".to_owned())?.map_err(|error| error.to_string())?;
        let (_, session) = stream.get_ref();
        let about = serde_json::json!({
            "version": match session.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            "cipher": session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite())),
        });
        let (reader, writer) = tokio::io::split(Box::new(stream) as Box<dyn Wire>);
        *socket.reader.lock().await = Some(reader);
        *socket.writer.lock().await = Some(writer);
        Ok(about.to_string())
    }
}

/// Characters up to 255 as octets.
pub(super) fn octets(text: &str) -> Result<Vec<u8>, String> {
    let octets: Result<Vec<u8>, _> = text.chars().map(|c| u8::try_from(u32::from(c))).collect();
    octets.map_err(|_| "these are no octets".into())
}

fn told(error: &std::io::Error, place: &str) -> String {
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => "ENOENT",
        std::io::ErrorKind::PermissionDenied => "EACCES",
        std::io::ErrorKind::TimedOut => "ETIMEDOUT",
        std::io::ErrorKind::HostUnreachable => "EHOSTUNREACH",
        std::io::ErrorKind::ConnectionReset => "ECONNRESET",
        _ => "ECONNREFUSED",
    };
    format!("{code} {place}: {error}")
}

fn client(verified: bool, authorities: &[String]) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    if !verified {
        let any = Arc::new(Unverified(provider));
        return Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth()));
    }
    let mut roots = RootCertStore::empty();
    if authorities.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    for authority in authorities {
        for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            let certificate = certificate.map_err(|error| format!("an authority: {error}"))?;
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
    }
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Takes any certificate: the plugin said `rejectUnauthorized: false`. What the peer signs is verified all the same.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
