//! Keys: the public ones that DNS has, and the private ones that sign.

use crate::dkim::field::Algorithm;
use aws_lc_rs::digest::{self, Digest, SHA256};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self as lc, Ed25519KeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use std::fmt;

/// The SHA-256 of octets.
pub fn digest(octets: &[u8]) -> Digest {
    digest::digest(&SHA256, octets)
}

/// A kind of key, as `k=` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// RSA.
    Rsa,
    /// Ed25519 (RFC 8463).
    Ed25519,
}

impl KeyKind {
    /// Its word in `k=`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rsa => "rsa",
            Self::Ed25519 => "ed25519",
        }
    }

    /// The algorithm that keys of this kind sign by.
    pub const fn algorithm(self) -> Algorithm {
        match self {
            Self::Rsa => Algorithm::RsaSha256,
            Self::Ed25519 => Algorithm::Ed25519Sha256,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key of somebody's to check signatures with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    kind: KeyKind,
    bits: usize,
    /// RSAPublicKey of RFC 8017 appendix A.1.1, or the 32 octets of an Ed25519 key.
    octets: Box<[u8]>,
}

/// Why octets are no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicKeyError {
    /// They are not in base64.
    Base64,
    /// They have not the form of such a key.
    Form,
}

impl fmt::Display for PublicKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Base64 => "the key is not in base64",
            Self::Form => "the key has not the form of one",
        })
    }
}

impl std::error::Error for PublicKeyError {}

impl PublicKey {
    /// Reads the octets of `p=`: for RSA a SubjectPublicKeyInfo, as everybody publishes, or a bare RSAPublicKey, as
    /// RFC 6376 §3.6.1 says.
    pub fn parse(kind: KeyKind, octets: &[u8]) -> Result<Self, PublicKeyError> {
        match kind {
            KeyKind::Ed25519 if octets.len() == 32 => Ok(Self { kind, bits: 256, octets: octets.into() }),
            // Some publish the SubjectPublicKeyInfo that tools print, although RFC 8463 §4 wants the key alone.
            KeyKind::Ed25519 => match octets.strip_prefix(ED25519_SPKI) {
                Some(key) if key.len() == 32 => Ok(Self { kind, bits: 256, octets: key.into() }),
                _ => Err(PublicKeyError::Form),
            },
            KeyKind::Rsa => {
                let (key, bits) = rsa_public_key(octets).ok_or(PublicKeyError::Form)?;
                Ok(Self { kind, bits, octets: key.into() })
            }
        }
    }

    /// Its kind.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Bits of the modulus; 256 for Ed25519.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// What `p=` has of it, decoded.
    pub fn to_octets(&self) -> Vec<u8> {
        match self.kind {
            KeyKind::Ed25519 => self.octets.to_vec(),
            KeyKind::Rsa => {
                let mut bits = vec![0];
                bits.extend_from_slice(&self.octets);
                let inner = [RSA_ALGORITHM, &der(0x03, &bits)].concat();
                der(0x30, &inner)
            }
        }
    }

    /// True if `signature` was made with the private half over what has this digest. RSA keys of fewer than 1,024 or
    /// more than 8,192 bits never say so.
    pub fn verify(&self, digest: &Digest, signature: &[u8]) -> bool {
        match self.kind {
            KeyKind::Rsa => {
                UnparsedPublicKey::new(&lc::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, &self.octets)
                    .verify_digest(digest, signature)
                    .is_ok()
            }
            KeyKind::Ed25519 => {
                UnparsedPublicKey::new(&lc::ED25519, &self.octets).verify(digest.as_ref(), signature).is_ok()
            }
        }
    }
}

/// A SubjectPublicKeyInfo of Ed25519 up to the key (RFC 8410 §4).
const ED25519_SPKI: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The AlgorithmIdentifier of rsaEncryption.
const RSA_ALGORITHM: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// One value in DER: tag, length, octets. For values of up to 65,535 octets.
fn der(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match value.len() {
        len @ 0..=0x7f => out.push(len as u8),
        len @ 0x80..=0xff => out.extend_from_slice(&[0x81, len as u8]),
        len => out.extend_from_slice(&[0x82, (len >> 8) as u8, len as u8]),
    }
    out.extend_from_slice(value);
    out
}

/// Takes the value of a tag off the front of DER.
fn take_der<'a>(tag: u8, input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let rest = input.strip_prefix(&[tag])?;
    let (&first, mut rest) = rest.split_first()?;
    let len = match first {
        0..=0x7f => usize::from(first),
        0x81 => {
            let (&len, after) = rest.split_first()?;
            rest = after;
            usize::from(len)
        }
        0x82 => {
            let (len, after) = rest.split_first_chunk::<2>()?;
            rest = after;
            usize::from(u16::from_be_bytes(*len))
        }
        _ => return None,
    };
    let (value, after) = rest.split_at_checked(len)?;
    *input = after;
    Some(value)
}

/// The RSAPublicKey in `octets` and the bits of its modulus.
fn rsa_public_key(octets: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut input = octets;
    let mut inner = take_der(0x30, &mut input)?;
    if !input.is_empty() {
        return None;
    }
    let key = if inner.starts_with(&[0x30]) {
        let mut algorithm = take_der(0x30, &mut inner)?;
        let oid = take_der(0x06, &mut algorithm)?;
        let bits = take_der(0x03, &mut inner)?;
        if oid != &RSA_ALGORITHM[4..13] || !inner.is_empty() {
            return None;
        }
        bits.strip_prefix(&[0])?.to_vec()
    } else {
        octets.to_vec()
    };
    let mut outer = &key[..];
    let mut numbers = take_der(0x30, &mut outer)?;
    let modulus = take_der(0x02, &mut numbers)?;
    let exponent = take_der(0x02, &mut numbers)?;
    if !outer.is_empty() || !numbers.is_empty() || exponent.is_empty() || exponent.len() > 5 {
        return None;
    }
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    let (&top, _) = modulus.split_first().filter(|(top, _)| **top != 0)?;
    let bits = modulus.len() * 8 - top.leading_zeros() as usize;
    Some((key, bits))
}

/// A key of ours that signs.
pub struct SigningKey(Pair);

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Ed25519KeyPair),
}

impl fmt::Debug for SigningKey {
    /// Says nothing of the key itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({} {})", self.kind(), self.bits())
    }
}

/// Why a text is no key to sign with; each says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningKeyError {
    /// There is nothing.
    Empty,
    /// It is neither PEM nor base64.
    Text,
    /// It is a public key or a certificate.
    Public,
    /// It needs a passphrase.
    Encrypted,
    /// It is a private key of another kind, such as one on an elliptic curve.
    Kind,
    /// Its octets are not those of a key.
    Damaged,
    /// It is an RSA key of fewer than 2,048 bits.
    Short(usize),
    /// It is an RSA key of more than 4,096 bits, which verifiers need not accept.
    Long(usize),
    /// The system gave no randomness, or the library failed.
    Library,
}

impl fmt::Display for SigningKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::Text => f.write_str("it is neither PEM (-----BEGIN PRIVATE KEY-----) nor base64"),
            Self::Public => f.write_str("it is a public key or a certificate; the private key is wanted"),
            Self::Encrypted => {
                f.write_str("it is encrypted; write it without a passphrase: openssl pkey -in KEY -out NEW")
            }
            Self::Kind => f.write_str("it is neither an RSA nor an Ed25519 key"),
            Self::Damaged => f.write_str("it is damaged: its octets are not those of a key"),
            Self::Short(bits) => write!(
                f,
                "it is an RSA key of {bits} bits; at least 2,048 are needed to sign. Make a new one: tuma dkim new"
            ),
            Self::Long(bits) => write!(
                f,
                "it is an RSA key of {bits} bits; verifiers need not take more than 4,096, and signing gets slow"
            ),
            Self::Library => f.write_str("the library for cryptography failed"),
        }
    }
}

impl std::error::Error for SigningKeyError {}

/// Least bits of an RSA key that signs (RFC 8301 §3.2 wants 2,048).
pub const SIGNING_BITS_MIN: usize = 2_048;
/// Most bits of an RSA key that signs: verifiers must take up to 4,096 (RFC 8301 §3.2).
pub const SIGNING_BITS_MAX: usize = 4_096;

impl SigningKey {
    /// Reads a private key: PEM of PKCS #8 or PKCS #1, or the base64 of either, or of the 32 octets of an Ed25519 key.
    pub fn parse(text: &[u8]) -> Result<Self, SigningKeyError> {
        let text = text.trim_ascii();
        if text.is_empty() {
            return Err(SigningKeyError::Empty);
        }
        let (label, digits) = match pem(text) {
            Some((label, digits)) => (label, digits),
            None if text.starts_with(b"-----") => return Err(SigningKeyError::Text),
            None => (&b""[..], text),
        };
        match label {
            b"PRIVATE KEY" | b"RSA PRIVATE KEY" | b"" => {}
            b"ENCRYPTED PRIVATE KEY" => return Err(SigningKeyError::Encrypted),
            label if label.ends_with(b"PUBLIC KEY") || label.ends_with(b"CERTIFICATE") => {
                return Err(SigningKeyError::Public);
            }
            _ => return Err(SigningKeyError::Kind),
        }
        if digits.starts_with(b"Proc-Type:") {
            return Err(SigningKeyError::Encrypted);
        }
        let no_digits = if label.is_empty() { SigningKeyError::Text } else { SigningKeyError::Damaged };
        let octets = crate::base64::decode(digits).ok_or(no_digits)?;
        Self::from_der(&octets)
    }

    fn from_der(octets: &[u8]) -> Result<Self, SigningKeyError> {
        if octets.len() == 32 {
            let pair = Ed25519KeyPair::from_seed_unchecked(octets).map_err(|_| SigningKeyError::Damaged)?;
            return Ok(Self(Pair::Ed25519(pair)));
        }
        // The object identifier of PKCS #8 says what the key is; PKCS #1 has none and is RSA.
        let mut outer = octets;
        let mut inner = take_der(0x30, &mut outer).ok_or(SigningKeyError::Damaged)?;
        take_der(0x02, &mut inner).ok_or(SigningKeyError::Damaged)?;
        let oid = take_der(0x30, &mut { inner }).and_then(|mut algorithm| take_der(0x06, &mut algorithm));
        let rejected = |_| SigningKeyError::Damaged;
        match oid {
            Some([0x2b, 0x65, 0x70]) => {
                Ok(Self(Pair::Ed25519(Ed25519KeyPair::from_pkcs8_maybe_unchecked(octets).map_err(rejected)?)))
            }
            Some(oid) if oid == &RSA_ALGORITHM[4..13] => {
                let mut rest = inner;
                take_der(0x30, &mut rest);
                let private = take_der(0x04, &mut rest).ok_or(SigningKeyError::Damaged)?;
                rsa_length(private)?;
                Self::rsa(RsaKeyPair::from_pkcs8(octets).map_err(rejected)?)
            }
            Some(_) => Err(SigningKeyError::Kind),
            None => {
                rsa_length(octets)?;
                Self::rsa(RsaKeyPair::from_der(octets).map_err(rejected)?)
            }
        }
    }

    fn rsa(pair: RsaKeyPair) -> Result<Self, SigningKeyError> {
        let key = Self(Pair::Rsa(Box::new(pair)));
        check_length(key.bits())?;
        Ok(key)
    }

    /// Makes a new RSA key of 2,048, 3,072 or 4,096 bits.
    pub fn generate_rsa(bits: usize) -> Result<Self, SigningKeyError> {
        let size = match bits {
            ..=2_048 => KeySize::Rsa2048,
            2_049..=3_072 => KeySize::Rsa3072,
            _ => KeySize::Rsa4096,
        };
        Self::rsa(RsaKeyPair::generate(size).map_err(|_| SigningKeyError::Library)?)
    }

    /// Makes a new Ed25519 key.
    pub fn generate_ed25519() -> Result<Self, SigningKeyError> {
        Ed25519KeyPair::generate().map(|pair| Self(Pair::Ed25519(pair))).map_err(|_| SigningKeyError::Library)
    }

    /// Its kind.
    pub fn kind(&self) -> KeyKind {
        match self.0 {
            Pair::Rsa(_) => KeyKind::Rsa,
            Pair::Ed25519(_) => KeyKind::Ed25519,
        }
    }

    /// Bits of the modulus; 256 for Ed25519.
    pub fn bits(&self) -> usize {
        match &self.0 {
            Pair::Rsa(pair) => pair.public_modulus_len() * 8,
            Pair::Ed25519(_) => 256,
        }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let octets = match &self.0 {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
        };
        PublicKey { kind: self.kind(), bits: self.bits(), octets: octets.into() }
    }

    /// The text of the TXT record that publishes it.
    pub fn record(&self) -> String {
        let digits = crate::base64::encode(&self.public().to_octets());
        format!("v=DKIM1; k={}; p={digits}", self.kind())
    }

    /// PEM of PKCS #8.
    pub fn to_pem(&self) -> Result<String, SigningKeyError> {
        let failed = |_| SigningKeyError::Library;
        let digits = match &self.0 {
            Pair::Rsa(pair) => {
                let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
                crate::base64::encode(der.as_ref())
            }
            // Version 1: what other programs read.
            Pair::Ed25519(pair) => crate::base64::encode(pair.to_pkcs8v1().map_err(failed)?.as_ref()),
        };
        let mut out = String::from("-----BEGIN PRIVATE KEY-----\n");
        for line in digits.as_bytes().chunks(64) {
            out.extend(line.iter().map(|b| char::from(*b)));
            out.push('\n');
        }
        out.push_str("-----END PRIVATE KEY-----\n");
        Ok(out)
    }

    /// Signs what has this digest. RSA of 2,048 bits takes some 350 microseconds, Ed25519 some 20.
    pub fn sign(&self, digest: &Digest) -> Result<Vec<u8>, SigningKeyError> {
        match &self.0 {
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public_modulus_len()];
                // PKCS #1 v1.5 uses no randomness; the interface asks for a source all the same.
                pair.sign_digest(&lc::RSA_PKCS1_SHA256, digest, &mut out)
                    .map_err(|_| SigningKeyError::Library)?;
                Ok(out)
            }
            Pair::Ed25519(pair) => pair
                .try_sign(digest.as_ref())
                .map(|s| s.as_ref().to_vec())
                .map_err(|_| SigningKeyError::Library),
        }
    }
}

/// Tells a short or long RSA key from a damaged one, since the library refuses both without a word.
fn rsa_length(pkcs1: &[u8]) -> Result<(), SigningKeyError> {
    let mut outer = pkcs1;
    let mut numbers = take_der(0x30, &mut outer).ok_or(SigningKeyError::Damaged)?;
    take_der(0x02, &mut numbers).ok_or(SigningKeyError::Damaged)?;
    let modulus = take_der(0x02, &mut numbers).ok_or(SigningKeyError::Damaged)?;
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    check_length(modulus.len() * 8)
}

fn check_length(bits: usize) -> Result<(), SigningKeyError> {
    match bits {
        ..SIGNING_BITS_MIN => Err(SigningKeyError::Short(bits)),
        SIGNING_BITS_MIN..=SIGNING_BITS_MAX => Ok(()),
        _ => Err(SigningKeyError::Long(bits)),
    }
}

/// The label and the digits of the first block of PEM.
fn pem(text: &[u8]) -> Option<(&[u8], &[u8])> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    let at = memchr::memmem::find(text, BEGIN)? + BEGIN.len();
    let rest = &text[at..];
    let (label, rest) = rest.split_at(memchr::memmem::find(rest, b"-----")?);
    let rest = &rest[5..];
    let digits = &rest[..memchr::memmem::find(rest, b"-----END ")?];
    Some((label, digits.trim_ascii()))
}
