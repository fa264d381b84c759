//! Adding a set to a chain (RFC 8617 §5.1).

use super::{ArcResult, Outcome, SETS_MAX};
use crate::dkim::{
    BodyHash, Canon, Canonicalization, HeaderIndex, SignedName, SigningKey, SigningKeyError, canonical_field,
    hash_without_signature,
};
use crate::results::{MethodResult, write_results};
use aws_lc_rs::digest::{Context, Digest, SHA256};
use mail::Domain;
use message::{Field, Fields};
use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

/// Octets of a line, where it can be folded.
const LINE_OCTETS: usize = 72;
/// Fields of one name that are signed.
const SAME_NAME_MAX: usize = 32;

/// Who seals.
#[derive(Clone, Debug)]
pub struct Sealer {
    /// `d=`.
    pub domain: Domain,
    /// `s=`.
    pub selector: Domain,
    /// The key.
    pub key: Arc<SigningKey>,
}

/// Why no set is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// The chain has as many sets as may be, was found broken before, or could not be checked now.
    Chain,
    /// The header has no From field, several, or more fields of one name than are signed.
    Header,
    /// The key failed.
    Key(SigningKeyError),
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain => f.write_str("the chain takes no more sets"),
            Self::Header => f.write_str("the header cannot be signed"),
            Self::Key(error) => write!(f, "the key failed: {error}"),
        }
    }
}

impl std::error::Error for SealError {}

/// Makes the three fields of a set, to be put in front of a message: its header and its body, without the empty line
/// between. `chain` is what came of checking it, `results` what `id` found out about it. `now` is in seconds since 1970.
pub fn seal(
    sealer: &Sealer,
    header: &[u8],
    body: &[u8],
    chain: &Outcome,
    id: &str,
    results: &[MethodResult],
    now: u64,
) -> Result<Vec<u8>, SealError> {
    if !chain.may_be_sealed() {
        return Err(SealError::Chain);
    }
    let n = chain.sets + 1;
    debug_assert!(n <= SETS_MAX);
    let mut said = Vec::with_capacity(512);
    write_results(&mut said, Some(n), id, results);
    let message = message_signature(sealer, header, body, n, now)?;
    let seal = seal_field(sealer, header, chain, n, [&said, &message], now)?;
    Ok([seal, message, said].concat())
}

fn message_signature(
    sealer: &Sealer,
    header: &[u8],
    body: &[u8],
    n: u32,
    now: u64,
) -> Result<Vec<u8>, SealError> {
    let index = HeaderIndex::new(header);
    if index.named("from").len() != 1 {
        return Err(SealError::Header);
    }
    // What our own signatures sign, and those of others: a seal over a signature says that it was there.
    let mut names: Vec<String> = Vec::new();
    for name in SignedName::usual().iter().map(|name| &*name.name).chain(["DKIM-Signature"]) {
        let lower = name.to_ascii_lowercase();
        let count = index.named(&lower).len();
        if count > SAME_NAME_MAX {
            return Err(SealError::Header);
        }
        names.extend(std::iter::repeat_n(lower, count));
    }
    let body_hash = BodyHash::of(Canon::Relaxed, body).hash;
    let mut text = format!(
        "ARC-Message-Signature: i={n}; a={}; c=relaxed/relaxed;\r\n\td={}; s={}; t={now};\r\n\th=",
        sealer.key.kind().algorithm(),
        sealer.domain,
        sealer.selector
    );
    let mut width = 3;
    for (at, name) in names.iter().enumerate() {
        if width + name.len() > LINE_OCTETS {
            text.push_str("\r\n\t ");
            width = 2;
        }
        let after = if at + 1 == names.len() { ";" } else { ":" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{name}{after}");
        width += name.len() + 1;
    }
    let _ = write!(text, "\r\n\tbh={};\r\n\tb=", crate::base64::encode(&body_hash));
    let mut hash = Context::new(&SHA256);
    index.hash_named(Canon::Relaxed, names.iter().map(String::as_str), &mut hash);
    let own = Fields::new(text.as_bytes()).next().ok_or(SealError::Header)?;
    hash_without_signature(Canonicalization::RELAXED, &own, text.as_bytes(), &mut hash);
    signed(sealer, text, &hash.finish())
}

fn seal_field(
    sealer: &Sealer,
    header: &[u8],
    chain: &Outcome,
    n: u32,
    own_set: [&[u8]; 2],
    now: u64,
) -> Result<Vec<u8>, SealError> {
    let status = match chain.result {
        ArcResult::None => "none",
        ArcResult::Pass => "pass",
        ArcResult::Fail | ArcResult::TempError => "fail",
    };
    let mut hash = Context::new(&SHA256);
    // A broken chain is not sealed over: the seal stands for its own set alone (RFC 8617 §5.1.2).
    if chain.result == ArcResult::Pass {
        let mut sets: BTreeMap<u32, [Option<Field<'_>>; 3]> = BTreeMap::new();
        for field in Fields::new(header) {
            let Some(place) = super::validate::kind(&field) else { continue };
            let number = super::validate::instance(&field).ok_or(SealError::Chain)?;
            sets.entry(number).or_default()[place] = Some(field);
        }
        let mut out = Vec::with_capacity(2048);
        for field in sets.values().flatten() {
            out.clear();
            canonical_field(Canon::Relaxed, field.as_ref().ok_or(SealError::Chain)?, header, &mut out);
            hash.update(&out);
        }
    }
    let mut out = Vec::with_capacity(1024);
    for text in own_set {
        out.clear();
        let field = Fields::new(text).next().ok_or(SealError::Header)?;
        canonical_field(Canon::Relaxed, &field, text, &mut out);
        hash.update(&out);
    }
    let text = format!(
        "ARC-Seal: i={n}; a={}; t={now}; cv={status};\r\n\td={}; s={};\r\n\tb=",
        sealer.key.kind().algorithm(),
        sealer.domain,
        sealer.selector
    );
    let own = Fields::new(text.as_bytes()).next().ok_or(SealError::Header)?;
    hash_without_signature(Canonicalization::RELAXED, &own, text.as_bytes(), &mut hash);
    signed(sealer, text, &hash.finish())
}

/// The field with what the key makes of the digest behind its `b=`.
fn signed(sealer: &Sealer, text: String, digest: &Digest) -> Result<Vec<u8>, SealError> {
    let signature = sealer.key.sign(digest).map_err(SealError::Key)?;
    let mut out = text.into_bytes();
    for (at, line) in crate::base64::encode(&signature).as_bytes().chunks(LINE_OCTETS).enumerate() {
        if at > 0 {
            out.extend_from_slice(b"\r\n\t ");
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b"\r\n");
    Ok(out)
}
