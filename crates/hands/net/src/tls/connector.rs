//! TLS towards other sites.

use super::certificates::pem_problem;
use super::{CertificateError, CertificateFault, Dane, OUTGOING_OCTETS_MAX, TlsError, provider};
use crate::{Stream, Verification};
use mail::Host;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

/// How we speak TLS to other sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorConfig {
    /// PEM file of the certificates that may vouch for a site; the machine's own when absent.
    pub ca_file: Option<PathBuf>,
    /// Exchangers whose sessions are remembered for resumption, least recently used first out. A session
    /// costs some kilobytes.
    pub session_servers_max: usize,
    /// PEM files of the certificate we show to servers that ask for one, and of its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Default for ConnectorConfig {
    fn default() -> Self {
        Self { ca_file: None, session_servers_max: 1024, client: None }
    }
}

/// What is asked of a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing, and the caller goes on in the clear if TLS fails.
    Opportunistic,
    /// Nothing, but there is no going on in the clear.
    Required,
    /// Name, dates and chain must be good.
    Verified,
    /// Dates and chain must be good, and the certificate must be for one of these names.
    Named(Arc<[Box<str>]>),
    /// It must be what TLSA records say.
    Dane(Arc<Dane>),
}

/// The client's side of TLS, with the sessions it remembers.
#[derive(Clone)]
pub struct Connector {
    // Their sessions are apart: one begun without verification never serves where it is asked for.
    lax: TlsConnector,
    strict: Option<TlsConnector>,
    verifier: Option<Arc<WebPkiServerVerifier>>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("has_roots", &self.verifier.is_some()).finish_non_exhaustive()
    }
}

impl Connector {
    /// Reads the certificates that may vouch for a site.
    pub fn new(config: &ConnectorConfig) -> Result<Self, CertificateError> {
        let roots = roots(config.ca_file.as_deref())?;
        let provider = provider();
        let own = config
            .client
            .as_ref()
            .map(|(chain, key)| super::certificates::read_pair(chain, key))
            .transpose()?;
        let verifier = if roots.is_empty() {
            None
        } else {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map(Some)
                .map_err(|e| CertificateError::new(config.ca_file.as_deref(), e))?
        };
        let connector = |verifier: Arc<dyn ServerCertVerifier>| {
            let client = ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
                .map_err(|e| CertificateError::new(None, e))?
                .dangerous()
                .with_custom_certificate_verifier(verifier);
            let mut client = match &own {
                Some((chain, key)) => client
                    .with_client_auth_cert(chain.clone(), key.clone_key())
                    .map_err(|e| CertificateError::new(None, e))?,
                None => client.with_no_client_auth(),
            };
            // rustls keeps up to eight tickets for a server and divides the number by that.
            client.resumption = Resumption::in_memory_sessions(config.session_servers_max.saturating_mul(8));
            client.enable_early_data = false;
            Ok(TlsConnector::from(Arc::new(client)))
        };
        Ok(Self {
            lax: connector(Arc::new(Unverified(provider.clone())))?,
            strict: verifier.clone().map(|v| connector(v)).transpose()?,
            verifier,
        })
    }

    /// Begins TLS after the server's 220 to STARTTLS. `name` is the exchanger's (or the smart host's); it
    /// goes into SNI, is what the certificate must cover, and is what sessions are remembered by.
    /// `leftover` is what the caller has read beyond the 220: anything there is an injection.
    pub async fn starttls(
        &self,
        stream: Stream,
        name: &Host,
        policy: &Policy,
        leftover: &[u8],
        deadline: Instant,
    ) -> Result<Stream, TlsError> {
        if !leftover.is_empty() {
            return Err(TlsError::Injected);
        }
        self.connect(stream, name, policy, deadline).await
    }

    /// Begins TLS at once, as for port 465.
    pub async fn connect(
        &self,
        stream: Stream,
        name: &Host,
        policy: &Policy,
        deadline: Instant,
    ) -> Result<Stream, TlsError> {
        let connector = match policy {
            // What is asked of the certificate beyond the exchanger's own name is looked at after the handshake, also
            // of a session that is resumed.
            Policy::Opportunistic | Policy::Required | Policy::Named(_) | Policy::Dane(_) => &self.lax,
            Policy::Verified => self.strict.as_ref().ok_or_else(no_roots)?,
        };
        let server_name = server_name(name)
            .ok_or_else(|| TlsError::Failed(format!("{name} cannot be a server's name in TLS").into()))?;
        let io = stream.into_plain()?;
        let handshake = connector.connect_with(server_name.clone(), io, |session| {
            session.set_buffer_limit(Some(OUTGOING_OCTETS_MAX));
        });
        let tls = match timeout_at(deadline, handshake).await {
            Ok(done) => done?,
            Err(_) => return Err(TlsError::TimedOut),
        };
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let found = match policy {
            Policy::Verified => Some(Verification::Verified),
            Policy::Named(names) => {
                let verifier = self.verifier.as_ref().ok_or_else(no_roots)?;
                named(verifier, chain, names)?;
                Some(Verification::Verified)
            }
            Policy::Dane(dane) => {
                dane.verify(chain, UnixTime::now())?;
                Some(Verification::Dane)
            }
            Policy::Opportunistic | Policy::Required => None,
        };
        Ok(Stream::client(tls, Examiner { found, verifier: self.verifier.clone(), name: server_name }))
    }
}

fn no_roots() -> TlsError {
    let why = "this machine has no certificates that may vouch for a site";
    TlsError::NotVerified(CertificateFault::Untrusted, why.into())
}

/// Checks dates and chain, and that the certificate is for one of `names`.
fn named(
    verifier: &WebPkiServerVerifier,
    chain: &[CertificateDer<'_>],
    names: &[Box<str>],
) -> Result<(), TlsError> {
    let not = |fault, why: String| TlsError::NotVerified(fault, why.into());
    let [first, rest @ ..] = chain else {
        return Err(not(CertificateFault::Other, "the server showed no certificate".to_owned()));
    };
    let parsed =
        ParsedCertificate::try_from(first).map_err(|e| not(CertificateFault::Other, e.to_string()))?;
    let fitting = names.iter().find_map(|name| {
        let name = ServerName::try_from(name.to_string()).ok()?;
        rustls::client::verify_server_name(&parsed, &name).is_ok().then_some(name)
    });
    let Some(name) = fitting else {
        return Err(not(CertificateFault::Name, format!("it is for none of {}", names.join(", "))));
    };
    match verifier.verify_server_cert(first, rest, &name, &[], UnixTime::now()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InvalidCertificate(why)) => Err(not(CertificateFault::of(&why), why.to_string())),
        Err(other) => Err(not(CertificateFault::Other, other.to_string())),
    }
}

/// Says what verification would have said of a certificate that was not asked to pass it.
#[derive(Debug)]
pub(crate) struct Examiner {
    /// What the policy has found already.
    found: Option<Verification>,
    /// `None`: nothing to verify it by.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    name: ServerName<'static>,
}

impl Examiner {
    pub(crate) fn examine(&self, chain: Option<&[CertificateDer<'_>]>) -> Verification {
        if let Some(found) = &self.found {
            return found.clone();
        }
        let not = |fault, why: String| Verification::NotVerified(fault, why.into());
        let Some(verifier) = &self.verifier else {
            return not(CertificateFault::Untrusted, "no certificates that may vouch for a site".to_owned());
        };
        let Some([first, rest @ ..]) = chain else {
            return not(CertificateFault::Other, "the server showed no certificate".to_owned());
        };
        match verifier.verify_server_cert(first, rest, &self.name, &[], UnixTime::now()) {
            Ok(_) => Verification::Verified,
            Err(rustls::Error::InvalidCertificate(why)) => not(CertificateFault::of(&why), why.to_string()),
            Err(other) => not(CertificateFault::Other, other.to_string()),
        }
    }
}

fn server_name(host: &Host) -> Option<ServerName<'static>> {
    match host {
        Host::Domain(domain) => ServerName::try_from(domain.as_str().to_owned()).ok(),
        Host::Literal(ip) => Some(ServerName::from(*ip)),
    }
}

/// TLS towards a server that is asked for a good certificate, for clients that bring their own streams. `ca_file` is
/// as in [`ConnectorConfig`].
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, CertificateError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| CertificateError::new(ca_file, e))?
        .with_root_certificates(roots(ca_file)?)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = ca_file else {
        let native = rustls_native_certs::load_native_certs();
        for error in &native.errors {
            tracing::warn!(%error, "some of the machine's certificates cannot be read");
        }
        roots.add_parsable_certificates(native.certs);
        if roots.is_empty() {
            tracing::warn!("this machine has no certificates that may vouch for a site");
        }
        return Ok(roots);
    };
    let problem = |e| CertificateError::new(Some(file), pem_problem(e, "certificate"));
    for certificate in CertificateDer::pem_file_iter(file).map_err(problem)? {
        roots.add(certificate.map_err(problem)?).map_err(|e| CertificateError::new(Some(file), e))?;
    }
    if roots.is_empty() {
        return Err(CertificateError::new(Some(file), "holds no certificate"));
    }
    Ok(roots)
}

/// Takes any certificate: whoever could forge one could also have removed STARTTLS. The handshake's
/// signature is still checked, so that what [`Examiner`] says of the certificate holds for the
/// peer; only where the certificate cannot be read at all, and so never counts as verified, is it not.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl Unverified {
    fn or_unreadable(
        certificate: &CertificateDer<'_>,
        checked: Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match checked {
            Err(_) if ParsedCertificate::try_from(certificate).is_err() => {
                Ok(HandshakeSignatureValid::assertion())
            }
            checked => checked,
        }
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let checked = verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms);
        Self::or_unreadable(cert, checked)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let checked = verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms);
        Self::or_unreadable(cert, checked)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
