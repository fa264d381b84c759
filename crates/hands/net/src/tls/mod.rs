//! TLS 1.2 and 1.3 at both ends of a connection.
//!
//! [`Certificates`] holds what a server shows and swaps it at run time; an [`Acceptor`] is one listener's
//! side, with ticket keys of its own, so that a session of one listener cannot be resumed at another. A
//! [`Connector`] is the client's side. Neither end sends or takes early data.

mod acceptor;
mod certificates;
mod connector;
mod dane;

pub use acceptor::{Acceptor, AcceptorConfig};
pub use certificates::{CertificateError, CertificateFiles, Certificates, Expiry};
pub(crate) use connector::Examiner;
pub use connector::{Connector, ConnectorConfig, Policy, client_config};
pub use dane::{Dane, Tlsa};

use mail::Reply;
use rustls::crypto::CryptoProvider;
use std::fmt;
use std::io;
use std::sync::Arc;

/// The algorithms, X25519MLKEM768 first. Given to every configuration; there is no process-wide default.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Octets of outgoing TLS that rustls holds for a peer that does not read; more waits with its writer.
const OUTGOING_OCTETS_MAX: usize = 32 * 1024;

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertificateFault {
    /// It is for other names.
    Name,
    /// It is over, or has not begun.
    Dates,
    /// Nobody who may vouch for it does.
    Untrusted,
    /// No TLSA record fits it.
    Tlsa,
    /// It is malformed, or used for what it does not allow.
    Other,
}

impl CertificateFault {
    fn of(error: &rustls::CertificateError) -> Self {
        use rustls::CertificateError as E;
        match error {
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::Name,
            E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
                Self::Dates
            }
            E::UnknownIssuer | E::BadSignature | E::Revoked | E::UnknownRevocationStatus => Self::Untrusted,
            _ => Self::Other,
        }
    }
}

/// Why TLS did not begin. The connection is gone.
#[derive(Debug)]
pub enum TlsError {
    /// The peer sent plain text after STARTTLS was agreed: somebody may be writing into the connection
    /// (CVE-2011-0411 and its kin).
    Injected,
    /// The handshake was not done by the deadline.
    TimedOut,
    /// The policy asks for a good certificate, and this one is not: why.
    NotVerified(CertificateFault, Box<str>),
    /// The two sides could not agree, or one of them broke the protocol.
    Failed(Box<str>),
    /// The connection ended or broke.
    Io(io::Error),
}

impl TlsError {
    /// The deferral a recipient gets when TLS is required.
    pub fn reply(&self) -> Reply {
        match self {
            Self::TimedOut | Self::Io(_) => Reply::new(451, (4, 4, 2), self.to_string()),
            Self::NotVerified(..) => Reply::new(454, (4, 7, 5), self.to_string()),
            Self::Injected | Self::Failed(_) => Reply::new(454, (4, 7, 0), self.to_string()),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Injected => f.write_str("plain text after the reply to STARTTLS"),
            Self::TimedOut => f.write_str("TLS handshake not done in time"),
            Self::NotVerified(_, why) => write!(f, "certificate not verified: {why}"),
            Self::Failed(why) => write!(f, "TLS handshake failed: {why}"),
            Self::Io(error) => write!(f, "TLS handshake broken off: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<io::Error> for TlsError {
    /// tokio-rustls wraps what rustls says in an `io::Error`.
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => {
                Self::NotVerified(CertificateFault::of(why), why.to_string().into())
            }
            Some(other) => Self::Failed(other.to_string().into()),
            None => Self::Io(error),
        }
    }
}

#[cfg(test)]
mod tests;
