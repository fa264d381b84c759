//! What a server shows: certificate chains and keys from PEM files, chosen by SNI, swapped at run time.

use super::provider;
use arc_swap::ArcSwap;
use mail::UnixMillis;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A certificate chain and its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM file with the server's certificate first, then those that sign it.
    pub chain: PathBuf,
    /// PEM file with the private key: PKCS #8, PKCS #1 or SEC1, not encrypted. It may be the chain's file.
    pub key: PathBuf,
    /// While the chain's file is not there, a certificate for these names is made for the moment, which nobody vouches
    /// for. None: a file that is not there is an error.
    pub stand_in: Vec<String>,
}

/// Why certificates were not loaded: which file, and what about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateError {
    /// The file; absent when none was named or none is concerned.
    pub file: Option<PathBuf>,
    /// What is wrong with it.
    pub problem: Box<str>,
}

impl CertificateError {
    pub(super) fn new(file: Option<&Path>, problem: impl fmt::Display) -> Self {
        Self { file: file.map(Path::to_owned), problem: problem.to_string().into() }
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}: {}", file.display(), self.problem),
            None => f.write_str(&self.problem),
        }
    }
}

impl std::error::Error for CertificateError {}

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The chain's file; empty for a certificate made by [`Certificates::self_signed`].
    pub chain: PathBuf,
    /// The server certificate's notBefore.
    pub not_before: UnixMillis,
    /// The server certificate's notAfter.
    pub not_after: UnixMillis,
    /// True if it was made for the moment, see [`CertificateFiles::stand_in`].
    pub is_stand_in: bool,
}

impl Expiry {
    /// Seconds left at `now`; negative once it has passed.
    pub fn seconds_left(&self, now: UnixMillis) -> i64 {
        (self.not_after.0 as i64 - now.0 as i64).div_euclid(1_000)
    }

    /// Whole days left at `now`; negative once it has passed.
    pub fn days_left(&self, now: UnixMillis) -> i64 {
        (self.not_after.0 as i64 - now.0 as i64).div_euclid(86_400_000)
    }
}

#[derive(Debug)]
struct Entry {
    expiry: Expiry,
    key: Arc<CertifiedKey>,
}

/// The certificates of a server. The first is shown when no other fits the name the client asks for.
/// Listeners share one set; each [`super::Acceptor`] sees a reload at once.
#[derive(Debug)]
pub struct Certificates(ArcSwap<Vec<Entry>>);

impl Certificates {
    /// Loads them all, or says which file is at fault.
    pub fn load(files: &[CertificateFiles]) -> Result<Arc<Self>, CertificateError> {
        read(files).map(|entries| Arc::new(Self(ArcSwap::from_pointee(entries))))
    }

    /// Loads them again. On an error the old ones stay; sessions that are open are not touched.
    pub fn reload(&self, files: &[CertificateFiles]) -> Result<(), CertificateError> {
        read(files).map(|entries| self.0.store(Arc::new(entries)))
    }

    /// A certificate for `names` that nobody vouches for, made now: for trying things out.
    pub fn self_signed(names: &[&str]) -> Result<Arc<Self>, CertificateError> {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        let entry = made_now(&CertificateFiles { stand_in: names, ..CertificateFiles::default() })?;
        Ok(Arc::new(Self(ArcSwap::from_pointee(vec![entry]))))
    }

    /// Looks at a chain and its key without showing them: they must belong together and be for all of these names.
    pub fn examine(files: &CertificateFiles, names: &[&str]) -> Result<Expiry, CertificateError> {
        let (chain, key) = read_pair(&files.chain, &files.key)?;
        let entry = entry(files, chain, key)?;
        for &name in names {
            let is_for = ServerName::try_from(name).is_ok_and(|name| covers(&entry.key, &name));
            if !is_for {
                return Err(CertificateError::new(Some(&files.chain), format_args!("is not for {name}")));
            }
        }
        Ok(entry.expiry)
    }

    /// When each of them ends, in order.
    pub fn expiry(&self) -> Vec<Expiry> {
        self.0.load().iter().map(|entry| entry.expiry.clone()).collect()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let entries = self.0.load();
        let by_name = || {
            let name = ServerName::try_from(hello.server_name()?).ok()?;
            entries.iter().find(|entry| covers(&entry.key, &name))
        };
        let chosen = if entries.len() > 1 { by_name() } else { None };
        chosen.or(entries.first()).map(|entry| entry.key.clone())
    }
}

fn covers(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.end_entity_cert().and_then(ParsedCertificate::try_from);
    parsed.is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

fn read(files: &[CertificateFiles]) -> Result<Vec<Entry>, CertificateError> {
    if files.is_empty() {
        return Err(CertificateError::new(None, "no certificate is configured"));
    }
    files
        .iter()
        .map(|files| {
            if !files.stand_in.is_empty() && !files.chain.exists() {
                return made_now(files);
            }
            let (chain, key) = read_pair(&files.chain, &files.key)?;
            entry(files, chain, key)
        })
        .collect()
}

/// A certificate that nobody vouches for.
fn made_now(files: &CertificateFiles) -> Result<Entry, CertificateError> {
    let failed = |e: &dyn fmt::Display| CertificateError::new(None, e);
    let made = rcgen::generate_simple_self_signed(files.stand_in.clone()).map_err(|e| failed(&e))?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(|e| failed(&e))?;
    let mut entry = entry(files, vec![made.cert.der().clone()], key)?;
    entry.expiry.is_stand_in = true;
    Ok(entry)
}

/// A chain and its private key from PEM files.
pub(super) fn read_pair(
    chain: &Path,
    key: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CertificateError> {
    let certificates = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| CertificateError::new(Some(chain), pem_problem(e, "certificate")))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| CertificateError::new(Some(key), pem_problem(e, "private key")))?;
    Ok((certificates, private))
}

fn entry(
    files: &CertificateFiles,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Entry, CertificateError> {
    let bad_chain = |problem: &str| CertificateError::new(Some(&files.chain), problem);
    let first = chain.first().ok_or_else(|| bad_chain("holds no certificate"))?;
    let (not_before, not_after) =
        validity(first).ok_or_else(|| bad_chain("its first certificate is malformed"))?;
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => CertificateError::new(
            Some(&files.key),
            format_args!("does not belong to the certificate in {}", files.chain.display()),
        ),
        rustls::Error::InvalidCertificate(why) => CertificateError::new(Some(&files.chain), why),
        other => CertificateError::new(Some(&files.key), other),
    })?;
    let expiry = Expiry { chain: files.chain.clone(), not_before, not_after, is_stand_in: false };
    Ok(Entry { expiry, key: Arc::new(key) })
}

pub(super) fn pem_problem(error: rustls::pki_types::pem::Error, what: &str) -> String {
    use rustls::pki_types::pem::Error;
    match error {
        Error::NoItemsFound => format!("holds no {what}"),
        Error::Io(error) => format!("cannot be read: {error}"),
        other => format!("is not PEM: {other}"),
    }
}

/// notBefore and notAfter of a certificate (RFC 5280 §4.1.2.5): just enough DER to walk there.
fn validity(certificate: &[u8]) -> Option<(UnixMillis, UnixMillis)> {
    const SEQUENCE: u8 = 0x30;
    let (_, certificate, _) = der(certificate).filter(|d| d.0 == SEQUENCE)?;
    let (_, mut tbs, _) = der(certificate).filter(|d| d.0 == SEQUENCE)?;
    // version [0], if it is there, serialNumber, signature, issuer.
    let (tag, _, rest) = der(tbs)?;
    if tag == 0xA0 {
        tbs = rest;
    }
    for _ in 0..3 {
        tbs = der(tbs)?.2;
    }
    let (_, validity, _) = der(tbs).filter(|d| d.0 == SEQUENCE)?;
    let (tag, time, rest) = der(validity)?;
    let not_before = der_time(tag, time)?;
    let (tag, time, _) = der(rest)?;
    Some((not_before, der_time(tag, time)?))
}

/// Tag, content and what follows.
fn der(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [tag, first, rest @ ..] = bytes else { return None };
    let (len, rest) = match *first {
        short @ ..=0x7F => (usize::from(short), rest),
        long @ 0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(long & 0x7F))?;
            (octets.iter().fold(0, |len, &b| len << 8 | usize::from(b)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((*tag, content, rest))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn der_time(tag: u8, text: &[u8]) -> Option<UnixMillis> {
    let digits = text.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |part: &[u8]| part.iter().fold(0i64, |n, &b| n * 10 + i64::from(b - b'0'));
    let (year, rest) = match (tag, digits.len()) {
        (0x17, 12) => {
            let year = number(&digits[..2]);
            (if year < 50 { 2000 + year } else { 1900 + year }, &digits[2..])
        }
        (0x18, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days from civil: years begin in March, so that the leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    Some(UnixMillis(u64::try_from(seconds).unwrap_or(0) * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_certificates() {
        for (tag, text, seconds) in [
            (0x17, "700101000000Z", Some(0)),
            (0x17, "260228235959Z", Some(1_772_323_199)),
            (0x17, "240229000000Z", Some(1_709_164_800)),
            (0x18, "20500101000000Z", Some(2_524_608_000)),
            (0x18, "99991231235959Z", Some(253_402_300_799)),
            (0x17, "491231235959Z", Some(2_524_607_999)),
            (0x17, "990101000000Z", Some(915_148_800)),
            (0x17, "991301000000Z", None),
            (0x17, "990100000000Z", None),
            (0x17, "9901010000Z", None),
            (0x18, "990101000000Z", None),
            (0x17, "990101000000+0100", None),
            (0x17, "99010100000xZ", None),
        ] {
            assert_eq!(der_time(tag, text.as_bytes()).map(|t| t.0 / 1000), seconds, "{text}");
        }
    }

    #[test]
    fn a_certificate_cut_or_broken_anywhere_is_an_error_at_most() {
        let certificates = Certificates::self_signed(&["a.test"]).unwrap();
        let der = certificates.0.load()[0].key.end_entity_cert().unwrap().to_vec();
        assert!(validity(&der).unwrap().1 > UnixMillis::from(std::time::SystemTime::now()));
        for at in 0..der.len().min(200) {
            validity(&der[..at]);
            for value in [0, 0x7F, 0x80, 0x84, 0xFF] {
                let mut broken = der.clone();
                broken[at] = value;
                validity(&broken);
            }
        }
    }
}
