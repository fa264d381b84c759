//! What can be wrong with the TLS of a session, in the words of reports (RFC 8460 §4.3).

use net::tls::{CertificateFault, TlsError};
use resolve::StsFault;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum SessionFault {
    /// STARTTLS is not offered, or refused.
    NoStarttls,
    /// The certificate is for other names.
    HostMismatch,
    /// It is over, or has not begun.
    Expired,
    /// Nobody vouches for it.
    NotTrusted,
    /// Anything else about TLS, and an exchanger that no policy lists.
    Validation,
    /// No TLSA record fits.
    TlsaInvalid,
    /// DNSSEC says that an answer is forged, or nobody could tell.
    DnssecInvalid,
    /// The operator wants TLSA records and there are none.
    DaneRequired,
    /// The MTA-STS policy could not be fetched.
    StsFetch,
    /// It is malformed.
    StsInvalid,
    /// The certificate of its host is not good.
    StsWebpki,
}

impl SessionFault {
    /// The report's word.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::NoStarttls => "starttls-not-supported",
            Self::HostMismatch => "certificate-host-mismatch",
            Self::Expired => "certificate-expired",
            Self::NotTrusted => "certificate-not-trusted",
            Self::Validation => "validation-failure",
            Self::TlsaInvalid => "tlsa-invalid",
            Self::DnssecInvalid => "dnssec-invalid",
            Self::DaneRequired => "dane-required",
            Self::StsFetch => "sts-policy-fetch-error",
            Self::StsInvalid => "sts-policy-invalid",
            Self::StsWebpki => "sts-webpki-invalid",
        }
    }
}

impl From<CertificateFault> for SessionFault {
    fn from(fault: CertificateFault) -> Self {
        match fault {
            CertificateFault::Name => Self::HostMismatch,
            CertificateFault::Dates => Self::Expired,
            CertificateFault::Untrusted => Self::NotTrusted,
            CertificateFault::Tlsa => Self::TlsaInvalid,
            CertificateFault::Other => Self::Validation,
        }
    }
}

impl From<&StsFault> for SessionFault {
    fn from(fault: &StsFault) -> Self {
        match fault {
            StsFault::Fetch(_) => Self::StsFetch,
            StsFault::Certificate(_) => Self::StsWebpki,
            StsFault::Invalid(_) => Self::StsInvalid,
        }
    }
}

impl From<&TlsError> for SessionFault {
    fn from(error: &TlsError) -> Self {
        match error {
            TlsError::NotVerified(fault, _) => (*fault).into(),
            TlsError::Injected | TlsError::TimedOut | TlsError::Failed(_) | TlsError::Io(_) => {
                Self::Validation
            }
        }
    }
}
