//! Certificates as TLSA records want them (RFC 6698, as RFC 7671 and RFC 7672 narrow it for mail): usages 2 and 3,
//! with no say of the authorities of the web.

use super::{CertificateFault, TlsError, provider};
use aws_lc_rs::digest::{SHA256, SHA512, digest};
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;

/// A TLSA record (RFC 6698 §2.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tlsa {
    /// 2: an authority of the site's own; 3: the server's own certificate.
    pub usage: u8,
    /// 0: the whole certificate; 1: its public key.
    pub selector: u8,
    /// 0: as it is; 1: its SHA-256; 2: its SHA-512.
    pub matching: u8,
    /// What to find.
    pub data: Box<[u8]>,
}

impl Tlsa {
    /// True if it can be used for mail. Usages 0 and 1 cannot (RFC 7672 §3.1.3), nor what is not known.
    pub fn is_usable(&self) -> bool {
        let length = match self.matching {
            0 => !self.data.is_empty(),
            1 => self.data.len() == 32,
            2 => self.data.len() == 64,
            _ => false,
        };
        matches!(self.usage, 2 | 3) && self.selector <= 1 && length
    }

    fn matches(&self, certificate: &CertificateDer<'_>) -> bool {
        let key;
        let selected: &[u8] = match self.selector {
            0 => certificate,
            _ => match ParsedCertificate::try_from(certificate) {
                Ok(parsed) => {
                    key = parsed.subject_public_key_info();
                    &key
                }
                Err(_) => return false,
            },
        };
        match self.matching {
            0 => selected == &*self.data,
            1 => digest(&SHA256, selected).as_ref() == &*self.data,
            _ => digest(&SHA512, selected).as_ref() == &*self.data,
        }
    }
}

/// What a server's certificate has to fit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dane {
    /// Usable records, at least one; any may fit.
    pub records: Vec<Tlsa>,
    /// Names the certificate may be for where an authority vouches for it: the exchanger's, and the domain's
    /// (RFC 7672 §3.2.2).
    pub names: Vec<Box<str>>,
}

impl Dane {
    /// Checks the chain a server has shown.
    pub(super) fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), TlsError> {
        let not = |fault, why: &str| Err(TlsError::NotVerified(fault, why.into()));
        let Some((first, rest)) = chain.split_first() else {
            return not(CertificateFault::Other, "the server showed no certificate");
        };
        // The handshake's signature is only checked by a certificate that can be read.
        let Ok(parsed) = ParsedCertificate::try_from(first) else {
            return not(CertificateFault::Other, "the server's certificate is malformed");
        };
        // The server's own certificate: neither its names nor its dates matter (RFC 7672 §3.1.1).
        if self.records.iter().any(|record| record.usage == 3 && record.matches(first)) {
            return Ok(());
        }
        let mut anchors = RootCertStore::empty();
        for record in self.records.iter().filter(|record| record.usage == 2) {
            for certificate in rest.iter().filter(|certificate| record.matches(certificate)) {
                // One that cannot be an anchor vouches for nobody.
                let _ = anchors.add(certificate.clone());
            }
            if (record.selector, record.matching) == (0, 0) {
                // The record is the authority's certificate, which the server need not send (RFC 7671 §5.2.2).
                let _ = anchors.add(CertificateDer::from(record.data.to_vec()));
            }
        }
        if anchors.is_empty() {
            return not(CertificateFault::Tlsa, "no TLSA record fits the server's certificate");
        }
        let algorithms = provider().signature_verification_algorithms;
        verify_server_cert_signed_by_trust_anchor(&parsed, &anchors, rest, now, algorithms.all).map_err(
            |error| match error {
                rustls::Error::InvalidCertificate(why) => {
                    TlsError::NotVerified(CertificateFault::of(&why), why.to_string().into())
                }
                other => TlsError::NotVerified(CertificateFault::Other, other.to_string().into()),
            },
        )?;
        let names = self.names.iter().filter_map(|name| ServerName::try_from(&**name).ok());
        if names.into_iter().any(|name| verify_server_name(&parsed, &name).is_ok()) {
            return Ok(());
        }
        let why = format!("it is for none of {}", self.names.join(", "));
        not(CertificateFault::Name, &why)
    }
}
