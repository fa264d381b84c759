//! Checking a chain (RFC 8617 §5.2).

use super::{ArcResult, Outcome, Problem, SETS_MAX};
use crate::dkim::{
    Algorithm, BodyHash, Canon, FieldError, FieldLimits, HeaderIndex, KeyAnswer, KeyKind, KeyRecord,
    PublicKey, Reason, Signature, SignatureKind, TagList, VerifyPolicy, canonical_field, check_body,
    hash_without_signature, key_of, number, signed_digest, without_blanks,
};
use crate::dkim::{Canonicalization, HashedBody};
use crate::results::Results;
use aws_lc_rs::digest::{Context, Digest, SHA256};
use mail::Domain;
use message::{Field, Fields};
use std::collections::BTreeMap;

/// The three fields of a set: results, message signature and seal.
type Set<'a> = [Option<Field<'a>>; 3];

/// Which of the three a field is.
pub(super) fn kind(field: &Field<'_>) -> Option<usize> {
    // The length tells most names apart without looking at their letters.
    match field.name.len() {
        26 if field.is("arc-authentication-results") => Some(0),
        21 if field.is("arc-message-signature") => Some(1),
        8 if field.is("arc-seal") => Some(2),
        _ => None,
    }
}

/// What `cv=` of a seal says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    None,
    Pass,
    Fail,
}

/// A seal as its field says.
#[derive(Clone, Debug)]
struct Seal {
    algorithm: Algorithm,
    signature: Vec<u8>,
    status: Status,
    domain: Domain,
    selector: Domain,
}

impl Seal {
    fn parse(value: &[u8], policy: &VerifyPolicy) -> Result<Self, FieldError> {
        if value.len() > policy.field.octets_max {
            return Err(FieldError::TooLong);
        }
        let tags = TagList::parse(value, policy.field.tags_max).map_err(FieldError::Tags)?;
        // RFC 8617 §4.1.3: a seal covers what it covers, and says so by its number alone.
        if tags.value("h").is_some() {
            return Err(FieldError::Value("h"));
        }
        let wanted = |name: &'static str| tags.value(name).ok_or(FieldError::Missing(name));
        let algorithm = match wanted("a")?.to_ascii_lowercase().as_str() {
            "rsa-sha256" => Algorithm::RsaSha256,
            "ed25519-sha256" => Algorithm::Ed25519Sha256,
            "rsa-sha1" => return Err(FieldError::Sha1),
            _ => return Err(FieldError::Algorithm),
        };
        let status = match wanted("cv")?.to_ascii_lowercase().as_str() {
            "none" => Status::None,
            "pass" => Status::Pass,
            "fail" => Status::Fail,
            _ => return Err(FieldError::Value("cv")),
        };
        let signature = crate::base64::decode(without_blanks(wanted("b")?).as_bytes())
            .filter(|octets| !octets.is_empty())
            .ok_or(FieldError::Value("b"))?;
        let name = |tag| Domain::parse(&without_blanks(wanted(tag)?)).map_err(|_| FieldError::Value(tag));
        if let Some(text) = tags.value("t") {
            number(text).ok_or(FieldError::Value("t"))?;
        }
        Ok(Self { algorithm, signature, status, domain: name("d")?, selector: name("s")? })
    }

    fn key_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }
}

/// Something that is checked with a key.
#[derive(Debug)]
struct Check {
    key_name: String,
    algorithm: Algorithm,
    signature: Vec<u8>,
    digest: Digest,
    key: Option<Result<PublicKey, Reason>>,
}

impl Check {
    fn run(&self) -> Result<(), Reason> {
        match &self.key {
            None => Err(Reason::Dns),
            Some(Err(reason)) => Err(*reason),
            Some(Ok(key)) if key.verify(&self.digest, &self.signature) => Ok(()),
            Some(Ok(_)) => Err(Reason::Signature),
        }
    }
}

/// The machine. Its order of work: the header, the body piece by piece, the answers of DNS, then one signature after
/// the other, so that whoever drives it may do other things between.
#[derive(Debug)]
pub struct Validator {
    policy: VerifyPolicy,
    sets: u32,
    problem: Option<Problem>,
    /// The signature over the message, and then the seals, the newest first.
    message: Option<(Signature, Check)>,
    seals: Vec<(u32, Check)>,
    body: Option<BodyHash>,
    sealer: Option<Domain>,
    said: Results,
    /// Signatures checked already.
    done: usize,
}

impl Validator {
    /// Reads the header at the head of `content`.
    pub fn new(content: &[u8], policy: &VerifyPolicy) -> Self {
        let mut validator = Self {
            policy: policy.clone(),
            sets: 0,
            problem: None,
            message: None,
            seals: Vec::new(),
            body: None,
            sealer: None,
            said: Results::default(),
            done: 0,
        };
        if let Err(problem) = validator.read(content) {
            validator.problem = Some(problem);
            validator.message = None;
            validator.seals.clear();
            validator.body = None;
        }
        validator
    }

    fn read(&mut self, content: &[u8]) -> Result<(), Problem> {
        let mut sets: BTreeMap<u32, Set<'_>> = BTreeMap::new();
        let mut structure = Ok(());
        let mut fields = 0;
        for field in Fields::new(content) {
            let Some(kind) = kind(&field) else { continue };
            fields += 1;
            if fields > 3 * SETS_MAX {
                self.sets = SETS_MAX;
                return Err(Problem::TooManySets);
            }
            match instance(&field) {
                Some(n) => {
                    if sets.entry(n).or_default()[kind].replace(field).is_some() {
                        structure = Err(Problem::Structure);
                    }
                }
                None => structure = Err(Problem::Structure),
            }
        }
        let Some((&newest, last)) = sets.last_key_value() else { return structure };
        self.sets = newest;
        if newest > SETS_MAX {
            return Err(Problem::TooManySets);
        }
        // RFC 8617 §5.2 step 2: what was found broken before is not looked at again.
        if let Some(field) = &last[2]
            && Seal::parse(field.value, &self.policy).is_ok_and(|seal| seal.status == Status::Fail)
        {
            return Err(Problem::SaidBroken);
        }
        structure?;
        let whole = |set: &Set<'_>| set.iter().all(Option::is_some);
        if sets.len() as u32 != newest || !sets.values().all(whole) {
            return Err(Problem::Structure);
        }
        self.read_message(content, last)?;
        self.read_seals(content, &sets)
    }

    /// The signature of the newest set over the message.
    fn read_message(&mut self, content: &[u8], set: &Set<'_>) -> Result<(), Problem> {
        let [Some(results), Some(field), _] = set else {
            return Err(Problem::Structure);
        };
        let wrong = |error| Problem::Message(Reason::Field(error));
        let signature =
            Signature::parse(field.value, SignatureKind::Arc, &self.policy.field).map_err(wrong)?;
        // RFC 8617 §4.1.2: seals come later, so none can be signed here.
        if signature.headers.iter().any(|name| &**name == "arc-seal") {
            return Err(wrong(FieldError::Value("h")));
        }
        self.body = Some(BodyHash::new(signature.canonicalization.body, signature.body_length));
        let check = Check {
            key_name: signature.key_name(),
            algorithm: signature.algorithm,
            signature: signature.signature.clone(),
            digest: signed_digest(&HeaderIndex::new(content), &signature, field),
            key: None,
        };
        self.message = Some((signature, check));
        self.said = Results::parse(results.value).unwrap_or_default();
        Ok(())
    }

    fn read_seals(&mut self, content: &[u8], sets: &BTreeMap<u32, Set<'_>>) -> Result<(), Problem> {
        // Each seal covers all sets before it and the rest of its own, so one hash goes on and on
        // (RFC 8617 §5.1.1).
        let mut hash = Context::new(&SHA256);
        let mut out = Vec::with_capacity(2048);
        for (&n, set) in sets {
            let [Some(results), Some(message), Some(field)] = set else {
                return Err(Problem::Structure);
            };
            let seal =
                Seal::parse(field.value, &self.policy).map_err(|error| Problem::SealField(n, error))?;
            let wanted = if n == 1 { Status::None } else { Status::Pass };
            if seal.status != wanted {
                return Err(Problem::Status(n));
            }
            out.clear();
            canonical_field(Canon::Relaxed, results, content, &mut out);
            canonical_field(Canon::Relaxed, message, content, &mut out);
            hash.update(&out);
            let mut own = hash.clone();
            hash_without_signature(Canonicalization::RELAXED, field, content, &mut own);
            out.clear();
            canonical_field(Canon::Relaxed, field, content, &mut out);
            hash.update(&out);
            self.sealer = Some(seal.domain.clone());
            let check = Check {
                key_name: seal.key_name(),
                algorithm: seal.algorithm,
                signature: seal.signature,
                digest: own.finish(),
                key: None,
            };
            self.seals.insert(0, (n, check));
        }
        Ok(())
    }

    /// True if there are sets that must be checked with the body and with keys.
    pub fn is_open(&self) -> bool {
        self.problem.is_none() && self.message.is_some()
    }

    /// Takes the next piece of the body.
    pub fn body(&mut self, piece: &[u8]) {
        if let Some(body) = &mut self.body {
            body.update(piece);
        }
    }

    /// The body is over; then the names whose TXT records are wanted, each once.
    pub fn questions(&mut self) -> Vec<String> {
        if let (Some(body), Some((signature, _))) = (self.body.take(), &self.message) {
            let hashed: HashedBody = body.finish();
            let partial = signature.body_length.is_some_and(|length| length < hashed.octets);
            let verdict = match check_body(signature, &hashed) {
                Ok(()) if partial && !self.policy.partial_bodies => Err(Reason::PartialBody),
                verdict => verdict,
            };
            if let Err(reason) = verdict {
                self.problem = Some(Problem::Message(reason));
            }
        }
        if self.problem.is_some() {
            return Vec::new();
        }
        let mut names: Vec<String> = Vec::new();
        for check in
            self.message.iter().map(|(_, check)| check).chain(self.seals.iter().map(|(_, check)| check))
        {
            if !names.contains(&check.key_name) {
                names.push(check.key_name.clone());
            }
        }
        names
    }

    /// Takes the answer to a question.
    pub fn answer(&mut self, name: &str, answer: &KeyAnswer) {
        let policy = &self.policy;
        if let Some((signature, check)) = &mut self.message
            && check.key_name == name
        {
            check.key = Some(key_of(signature, answer, policy).map(|(key, _)| key));
        }
        let mut known: [Option<Result<PublicKey, Reason>>; 2] = [None, None];
        for (_, check) in self.seals.iter_mut().filter(|(_, check)| check.key_name == name) {
            // A name has one key; it is read once for each algorithm.
            let known = &mut known[usize::from(check.algorithm == Algorithm::RsaSha256)];
            let key = known.get_or_insert_with(|| seal_key(check.algorithm, answer, policy));
            check.key = Some(key.clone());
        }
    }

    /// Checks one more signature. False when there is none left, or one was not good.
    pub fn advance(&mut self) -> bool {
        if self.problem.is_some() {
            return false;
        }
        let checked = match (self.done, &self.message) {
            (0, Some((_, check))) => check.run().map_err(Problem::Message),
            (n, _) => match n.checked_sub(1).and_then(|n| self.seals.get(n)) {
                Some((number, check)) => check.run().map_err(|reason| Problem::Seal(*number, reason)),
                None => return false,
            },
        };
        self.done += 1;
        self.problem = checked.err();
        self.problem.is_none()
    }

    /// What the chain comes to.
    pub fn finish(mut self) -> Outcome {
        self.questions();
        while self.advance() {}
        let result = match self.problem {
            Some(Problem::Message(Reason::Dns) | Problem::Seal(_, Reason::Dns)) => ArcResult::TempError,
            Some(_) => ArcResult::Fail,
            None if self.sets == 0 => ArcResult::None,
            None => ArcResult::Pass,
        };
        let passes = result == ArcResult::Pass;
        Outcome {
            result,
            sets: self.sets,
            problem: self.problem,
            sealer: self.sealer.filter(|_| passes),
            said: if passes { self.said.results } else { Vec::new() },
        }
    }
}

/// The key of a seal: under the same rules as those of DKIM, but a seal has no `i=` that could be too deep.
fn seal_key(algorithm: Algorithm, answer: &KeyAnswer, policy: &VerifyPolicy) -> Result<PublicKey, Reason> {
    let records = match answer {
        KeyAnswer::Records(records) => records,
        KeyAnswer::Absent => return Err(Reason::NoKey),
        KeyAnswer::Temporary => return Err(Reason::Dns),
    };
    let record = records.iter().find_map(|text| KeyRecord::parse(text).ok()).ok_or(Reason::NoKey)?;
    let key = record.key.ok_or(Reason::Revoked)?;
    let kind = match algorithm {
        Algorithm::RsaSha256 => KeyKind::Rsa,
        Algorithm::Ed25519Sha256 => KeyKind::Ed25519,
    };
    match key.bits() {
        _ if record.kind != kind => Err(Reason::KeyKind),
        bits if kind == KeyKind::Rsa && bits < policy.rsa_bits_min => Err(Reason::ShortKey(bits)),
        bits if kind == KeyKind::Rsa && bits > policy.rsa_bits_max => Err(Reason::LongKey(bits)),
        _ => Ok(key),
    }
}

/// Which set a field belongs to. One above the limit is told too, so that too many is not called broken.
pub(super) fn instance(field: &Field<'_>) -> Option<u32> {
    let limits = FieldLimits::default();
    let n = if field.is("arc-authentication-results") {
        Results::parse(field.value)?.instance?
    } else {
        if field.value.len() > limits.octets_max {
            return None;
        }
        let tags = TagList::parse(field.value, limits.tags_max).ok()?;
        u32::try_from(number(tags.value("i")?)?).ok()?
    };
    (n > 0).then_some(n)
}
