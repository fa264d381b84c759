//! TLS at a listener.

use super::{Certificates, OUTGOING_OCTETS_MAX, TlsError, provider};
use crate::Stream;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// How a listener speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptorConfig {
    /// How long a client may take for the handshake.
    pub handshake_timeout: Duration,
    /// Offer session tickets, so that a returning client spares both sides a full handshake.
    pub resumption: bool,
    /// PEM file of the certificates that must vouch for a client; absent, clients are asked for none.
    pub client_ca_file: Option<PathBuf>,
}

impl Default for AcceptorConfig {
    fn default() -> Self {
        Self { handshake_timeout: Duration::from_secs(30), resumption: true, client_ca_file: None }
    }
}

/// One listener's side of TLS. Make one for each listener: its ticket keys are its own, and never leave
/// memory.
#[derive(Clone)]
pub struct Acceptor {
    acceptor: TlsAcceptor,
    handshake_timeout: Duration,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("handshake_timeout", &self.handshake_timeout).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Shows `certificates`. Fails if the file of those that vouch for clients is of no use, or if the machine gives
    /// no randomness.
    pub fn new(certificates: Arc<Certificates>, config: &AcceptorConfig) -> Result<Self, TlsError> {
        let failed = |error: rustls::Error| TlsError::Failed(error.to_string().into());
        let server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(failed)?;
        let server = match &config.client_ca_file {
            None => server.with_no_client_auth(),
            Some(file) => {
                let of_file = |why: String| TlsError::Failed(why.into());
                let roots = super::connector::roots(Some(file)).map_err(|e| of_file(e.to_string()))?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                    .build()
                    .map_err(|e| of_file(format!("{}: {e}", file.display())))?;
                server.with_client_cert_verifier(verifier)
            }
        };
        let mut server = server.with_cert_resolver(certificates);
        // Tickets carry the session, encrypted, and rustls binds each to the name it was asked by; so
        // nothing is stored here for a client that is gone.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        // The default is two; a client of mail comes back one connection at a time.
        server.send_tls13_tickets = usize::from(config.resumption);
        if config.resumption {
            server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(failed)?;
        }
        // Early data can be replayed (RFC 8446 §8), and a replayed MAIL is a second message.
        server.max_early_data_size = 0;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            handshake_timeout: config.handshake_timeout,
        })
    }

    /// Takes the client's handshake. What the client sent before it must be thrown away by the caller, who
    /// holds it (RFC 3207 §4.2).
    pub async fn accept(&self, stream: Stream) -> Result<Stream, TlsError> {
        let io = stream.into_plain()?;
        let handshake =
            self.acceptor.accept_with(io, |session| session.set_buffer_limit(Some(OUTGOING_OCTETS_MAX)));
        match timeout(self.handshake_timeout, handshake).await {
            Ok(done) => Ok(Stream::server(done?)),
            Err(_) => Err(TlsError::TimedOut),
        }
    }
}
