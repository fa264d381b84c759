//! Checking the signatures of a message: a machine that asks for key records and is given them.
//!
//! Its order of work: the header once, the body piece by piece, then the answers of DNS, then the verdicts. What is
//! decided without a key asks no question, so that a message made to cost look-ups costs few.

use crate::dkim::canon::{BodyHash, Canon, HashedBody, canonical_field};
use crate::dkim::field::{
    Algorithm, FieldError, FieldLimits, Signature, SignatureKind, hash_without_signature,
};
use crate::dkim::key::{KeyKind, PublicKey};
use crate::dkim::record::{KeyRecord, RecordError};
use aws_lc_rs::digest::{Context, Digest, SHA256};
use message::{Field, Fields};
use std::collections::HashMap;
use std::fmt;

/// What is checked, and what is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyPolicy {
    /// Signatures of one message that are checked, from the top; the others are only counted.
    pub signatures_max: usize,
    /// Least bits of an RSA key that is believed. RFC 8301 §3.2: at least 1,024.
    pub rsa_bits_min: usize,
    /// Most bits of an RSA key that is used.
    pub rsa_bits_max: usize,
    /// Seconds that clocks may be apart, for `x=`, and for a `t=` in the future.
    pub clock_skew: u64,
    /// Believe a signature whose `l=` leaves a part of the body out. Anybody may have added that part.
    pub partial_bodies: bool,
    /// What a signature may hold.
    pub field: FieldLimits,
}

impl Default for VerifyPolicy {
    fn default() -> Self {
        Self {
            signatures_max: 5,
            rsa_bits_min: 1_024,
            rsa_bits_max: 4_096,
            clock_skew: 300,
            partial_bodies: false,
            field: FieldLimits::default(),
        }
    }
}

/// What became of a signature, in the words of RFC 8601 §2.7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is good.
    Pass,
    /// It is not that of this message.
    Fail,
    /// It could not be read.
    Neutral,
    /// It is good or not, but of a kind that is not believed here.
    Policy,
    /// Its key could not be had now.
    TempError,
    /// It can never be checked.
    PermError,
}

impl Verdict {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Neutral => "neutral",
            Self::Policy => "policy",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a signature did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its field is no signature.
    Field(FieldError),
    /// `x=` has passed.
    Expired,
    /// `t=` lies in the future.
    Future,
    /// The body is another.
    BodyHash,
    /// The header is another, or the signature is no signature.
    Signature,
    /// `l=` is more than the body has.
    Length,
    /// `l=` leaves a part of the body out.
    PartialBody,
    /// DNS has no key.
    NoKey,
    /// DNS gave no answer.
    Dns,
    /// The key's record is none.
    Record(RecordError),
    /// The key is revoked.
    Revoked,
    /// The key is not of the kind that `a=` says.
    KeyKind,
    /// The key is only for `i=` with the very domain of `d=`.
    Strict,
    /// The key has too few bits.
    ShortKey(usize),
    /// The key has too many bits.
    LongKey(usize),
}

impl Reason {
    /// The verdict that follows.
    pub fn verdict(&self) -> Verdict {
        match self {
            // RFC 8601 §2.7.1 calls what cannot be read neutral, and what lacks a part that must be there an error.
            Self::Field(FieldError::Sha1) => Verdict::Policy,
            Self::Field(FieldError::FromNotSigned | FieldError::Identity | FieldError::ExpiresBeforeMade) => {
                Verdict::PermError
            }
            Self::Field(_) => Verdict::Neutral,
            Self::BodyHash | Self::Signature | Self::Length => Verdict::Fail,
            Self::PartialBody | Self::ShortKey(_) | Self::LongKey(_) => Verdict::Policy,
            Self::Dns => Verdict::TempError,
            Self::Expired
            | Self::Future
            | Self::NoKey
            | Self::Record(_)
            | Self::Revoked
            | Self::KeyKind
            | Self::Strict => Verdict::PermError,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(error) => error.fmt(f),
            Self::Expired => f.write_str("signature expired"),
            Self::Future => f.write_str("signature made in the future"),
            Self::BodyHash => f.write_str("body hash did not verify"),
            Self::Signature => f.write_str("signature did not verify"),
            Self::Length => f.write_str("l= is more than the body"),
            Self::PartialBody => f.write_str("l= leaves part of the body unsigned"),
            Self::NoKey => f.write_str("no key for signature"),
            Self::Dns => f.write_str("key not available"),
            Self::Record(error) => error.fmt(f),
            Self::Revoked => f.write_str("key revoked"),
            Self::KeyKind => f.write_str("key not of the kind that a= says"),
            Self::Strict => f.write_str("key not for subdomains"),
            Self::ShortKey(bits) => write!(f, "key of {bits} bits is too short"),
            Self::LongKey(bits) => write!(f, "key of {bits} bits is too long"),
        }
    }
}

/// What DNS says of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyAnswer {
    /// TXT records, the strings of each put together.
    Records(Vec<Vec<u8>>),
    /// The name has no TXT record, or does not exist.
    Absent,
    /// No answer that could be believed: SERVFAIL, a timeout.
    Temporary,
}

/// One signature, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What became of it.
    pub verdict: Verdict,
    /// Why it did not pass.
    pub reason: Option<Reason>,
    /// What it says, if it could be read.
    pub signature: Option<Signature>,
    /// Bits of its key, if it was had.
    pub key_bits: Option<usize>,
    /// Its key says `t=y`: a failure means nothing (RFC 6376 §3.6.1).
    pub testing: bool,
}

/// All fields of a header, to be taken from the bottom by name, each once (RFC 6376 §5.4.2).
#[derive(Debug)]
pub struct HeaderIndex<'a> {
    whole: &'a [u8],
    /// Fields by name in lower case, the topmost first.
    fields: HashMap<Vec<u8>, Vec<Field<'a>>>,
}

impl<'a> HeaderIndex<'a> {
    /// Of the fields at the head of `content`.
    pub fn new(content: &'a [u8]) -> Self {
        let mut fields: HashMap<Vec<u8>, Vec<Field<'a>>> = HashMap::new();
        for field in Fields::new(content) {
            fields.entry(field.name.to_ascii_lowercase()).or_default().push(field);
        }
        Self { whole: content, fields }
    }

    /// The content it was made of.
    pub fn content(&self) -> &'a [u8] {
        self.whole
    }

    /// Fields of a name, which is given in lower case, the topmost first.
    pub fn named(&self, name: &str) -> &[Field<'a>] {
        self.fields.get(name.as_bytes()).map_or(&[], Vec::as_slice)
    }

    /// Feeds the fields that `names` select, in that order, in canonical form. Names beyond the fields there are stand
    /// for nothing.
    pub fn hash_named<'n>(&self, canon: Canon, names: impl IntoIterator<Item = &'n str>, hash: &mut Context) {
        let mut used: HashMap<&str, usize> = HashMap::new();
        let mut out = Vec::with_capacity(1024);
        for name in names {
            let Some(fields) = self.fields.get(name.as_bytes()) else { continue };
            let used = used.entry(name).or_default();
            let Some(at) = fields.len().checked_sub(*used + 1) else { continue };
            *used += 1;
            out.clear();
            canonical_field(canon, &fields[at], self.whole, &mut out);
            hash.update(&out);
        }
    }
}

/// What a signature signs: the fields that its `h=` names, and its own without what `b=` holds.
pub fn signed_digest(index: &HeaderIndex<'_>, signature: &Signature, own: &Field<'_>) -> Digest {
    let mut hash = Context::new(&SHA256);
    let canon = signature.canonicalization.header;
    index.hash_named(canon, signature.headers.iter().map(|name| &**name), &mut hash);
    hash_without_signature(signature.canonicalization, own, index.whole, &mut hash);
    hash.finish()
}

/// The times of a signature.
pub fn check_times(signature: &Signature, now: u64, policy: &VerifyPolicy) -> Result<(), Reason> {
    if signature.expires.is_some_and(|expires| expires.saturating_add(policy.clock_skew) < now) {
        return Err(Reason::Expired);
    }
    // A day is beyond any clock that is merely wrong by its time zone.
    if signature
        .timestamp
        .is_some_and(|made| made > now.saturating_add(policy.clock_skew).saturating_add(86_400))
    {
        return Err(Reason::Future);
    }
    Ok(())
}

/// The body, of which `hashed` was made within `l=`.
pub fn check_body(signature: &Signature, hashed: &HashedBody) -> Result<(), Reason> {
    if signature.body_length.is_some_and(|length| length > hashed.octets) {
        return Err(Reason::Length);
    }
    // Both are public: nothing is told by how long the comparison takes.
    if signature.body_hash != hashed.hash { Err(Reason::BodyHash) } else { Ok(()) }
}

/// The key that an answer of DNS gives for a signature.
pub fn key_of(
    signature: &Signature,
    answer: &KeyAnswer,
    policy: &VerifyPolicy,
) -> Result<(PublicKey, KeyRecord), Reason> {
    let records = match answer {
        KeyAnswer::Records(records) => records,
        KeyAnswer::Absent => return Err(Reason::NoKey),
        KeyAnswer::Temporary => return Err(Reason::Dns),
    };
    // There should be one record (RFC 6376 §3.6.2.2). Of several the first that is one counts, and of none the first
    // mistake is told.
    let mut mistake = Reason::NoKey;
    let mut found = None;
    for text in records.iter().take(RECORDS_MAX) {
        match KeyRecord::parse(text) {
            Ok(record) => {
                found = Some(record);
                break;
            }
            Err(error) if mistake == Reason::NoKey => mistake = Reason::Record(error),
            Err(_) => {}
        }
    }
    let record = found.ok_or(mistake)?;
    let key = record.key.clone().ok_or(Reason::Revoked)?;
    let kind = match signature.algorithm {
        Algorithm::RsaSha256 => KeyKind::Rsa,
        Algorithm::Ed25519Sha256 => KeyKind::Ed25519,
    };
    if record.kind != kind {
        return Err(Reason::KeyKind);
    }
    if record.strict && signature.identity_domain != signature.domain {
        return Err(Reason::Strict);
    }
    if kind == KeyKind::Rsa && key.bits() < policy.rsa_bits_min {
        return Err(Reason::ShortKey(key.bits()));
    }
    if kind == KeyKind::Rsa && key.bits() > policy.rsa_bits_max {
        return Err(Reason::LongKey(key.bits()));
    }
    Ok((key, record))
}

/// Records of one name that are looked at.
const RECORDS_MAX: usize = 5;

/// Signatures beyond this many times `signatures_max` are not even counted.
const COUNTED_FACTOR: usize = 200;

/// The machine.
#[derive(Debug)]
pub struct Verifier {
    policy: VerifyPolicy,
    checks: Vec<Check>,
    bodies: Vec<Body>,
    hashed: Vec<HashedBody>,
    left_out: usize,
}

#[derive(Debug)]
struct Body {
    canon: Canon,
    length: Option<u64>,
    hash: BodyHash,
}

#[derive(Debug)]
struct Check {
    signature: Option<Signature>,
    /// What its header signs.
    digest: Option<Digest>,
    /// Which of the bodies is its own.
    body: usize,
    decided: Option<Reason>,
    passed: bool,
    key_bits: Option<usize>,
    testing: bool,
}

impl Check {
    fn open(&self) -> bool {
        self.decided.is_none() && !self.passed
    }
}

impl Verifier {
    /// Reads the header at the head of `content`; what follows it is for [`Verifier::body`]. `now` is in seconds since
    /// 1970.
    pub fn new(content: &[u8], policy: &VerifyPolicy, now: u64) -> Self {
        let mut machine = Self {
            policy: policy.clone(),
            checks: Vec::new(),
            bodies: Vec::new(),
            hashed: Vec::new(),
            left_out: 0,
        };
        let counted = policy.signatures_max.saturating_mul(COUNTED_FACTOR).saturating_add(1);
        let own: Vec<Field<'_>> =
            Fields::new(content).filter(|field| field.is("dkim-signature")).take(counted).collect();
        if own.is_empty() {
            return machine;
        }
        machine.left_out = own.len().saturating_sub(policy.signatures_max);
        let index = HeaderIndex::new(content);
        for field in own.iter().take(policy.signatures_max) {
            let check = machine.check(&index, field, now);
            machine.checks.push(check);
        }
        machine
    }

    /// All but the answers at once: for a content that is there as a whole.
    pub fn of(content: &[u8], policy: &VerifyPolicy, now: u64) -> Self {
        let mut machine = Self::new(content, policy, now);
        if !machine.checks.is_empty() {
            machine.body(&content[message::scan(content).body_start..]);
        }
        machine.end();
        machine
    }

    fn check(&mut self, index: &HeaderIndex<'_>, own: &Field<'_>, now: u64) -> Check {
        let mut check = Check {
            signature: None,
            digest: None,
            body: 0,
            decided: None,
            passed: false,
            key_bits: None,
            testing: false,
        };
        let signature = match Signature::parse(own.value, SignatureKind::Dkim, &self.policy.field) {
            Ok(signature) => signature,
            Err(error) => {
                check.decided = Some(Reason::Field(error));
                return check;
            }
        };
        match check_times(&signature, now, &self.policy) {
            Err(reason) => check.decided = Some(reason),
            Ok(()) => {
                check.digest = Some(signed_digest(index, &signature, own));
                let (canon, length) = (signature.canonicalization.body, signature.body_length);
                let known = self.bodies.iter().position(|body| body.canon == canon && body.length == length);
                check.body = known.unwrap_or(self.bodies.len());
                if known.is_none() {
                    self.bodies.push(Body { canon, length, hash: BodyHash::new(canon, length) });
                }
            }
        }
        check.signature = Some(signature);
        check
    }

    /// Signatures there are beyond those that are checked.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// True if the message has signatures that are checked.
    pub fn has_signatures(&self) -> bool {
        !self.checks.is_empty()
    }

    /// Takes the next piece of the body.
    pub fn body(&mut self, piece: &[u8]) {
        self.bodies.iter_mut().for_each(|body| body.hash.update(piece));
    }

    /// The body is over. What it decides is decided now.
    pub fn end(&mut self) {
        self.hashed.extend(self.bodies.drain(..).map(|body| body.hash.finish()));
        for check in self.checks.iter_mut().filter(|check| check.decided.is_none()) {
            let (Some(signature), Some(hashed)) = (&check.signature, self.hashed.get(check.body)) else {
                continue;
            };
            let partial = signature.body_length.is_some_and(|length| length < hashed.octets);
            check.decided = match check_body(signature, hashed) {
                Err(reason) => Some(reason),
                Ok(()) if partial && !self.policy.partial_bodies => Some(Reason::PartialBody),
                Ok(()) => None,
            };
        }
    }

    /// The names whose TXT records are wanted, each once. Of use after [`Verifier::end`], or before it to save time.
    pub fn questions(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for signature in self.checks.iter().filter(|check| check.open()).filter_map(|c| c.signature.as_ref())
        {
            let name = signature.key_name();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Takes the answer to a question, after the body is over.
    pub fn answer(&mut self, name: &str, answer: &KeyAnswer) {
        for check in self.checks.iter_mut().filter(|check| check.open()) {
            let (Some(signature), Some(digest)) = (&check.signature, &check.digest) else { continue };
            if signature.key_name() != name {
                continue;
            }
            match key_of(signature, answer, &self.policy) {
                Err(reason) => check.decided = Some(reason),
                Ok((key, record)) => {
                    check.key_bits = Some(key.bits());
                    check.testing = record.testing;
                    if key.verify(digest, &signature.signature) {
                        check.passed = true;
                    } else {
                        check.decided = Some(Reason::Signature);
                    }
                }
            }
        }
    }

    /// The verdicts in the order of the fields; a question without an answer is a temporary error.
    pub fn finish(mut self) -> Vec<Verified> {
        if !self.bodies.is_empty() {
            self.end();
        }
        let verified = self.checks.into_iter().map(|check| {
            let reason = if check.passed { None } else { Some(check.decided.unwrap_or(Reason::Dns)) };
            Verified {
                verdict: reason.map_or(Verdict::Pass, |reason| reason.verdict()),
                reason,
                signature: check.signature,
                key_bits: check.key_bits,
                testing: check.testing,
            }
        });
        verified.collect()
    }
}
