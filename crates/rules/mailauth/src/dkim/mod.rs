//! DKIM signatures (RFC 6376, RFC 8301, RFC 8463): made and checked.
//!
//! Read first: [`Identity`] and [`Unsigned`] for making, [`Verifier`] for checking. `canon.rs` is what both hash.

mod canon;
mod field;
mod key;
mod record;
mod sign;
mod tags;
mod verify;

pub use canon::{
    BodyCanon, BodyHash, Canon, Canonicalization, CanonicalizationError, HashedBody, canonical_field,
};
pub use field::{Algorithm, FieldError, FieldLimits, Signature, SignatureKind, hash_without_signature};
pub use key::{
    KeyKind, PublicKey, PublicKeyError, SIGNING_BITS_MAX, SIGNING_BITS_MIN, SigningKey, SigningKeyError,
    digest,
};
pub use record::{KeyRecord, RECORD_MAX_OCTETS, RecordError};
pub use sign::{HEADERS, Identity, OVERSIGN, Prepared, SignError, SignedName, Unsigned, sign};
pub use tags::{TagList, TagListError};
pub(crate) use tags::{number, without_blanks};
pub use verify::{
    HeaderIndex, KeyAnswer, Reason, Verdict, Verified, Verifier, VerifyPolicy, check_body, check_times,
    key_of, signed_digest,
};

/// Entry points for the fuzz targets.
#[doc(hidden)]
pub mod fuzz {
    pub use super::canon::fuzz_canon as canon;
    pub use super::field::fuzz_field as field;
    pub use super::record::fuzz_record as record;
}

#[cfg(test)]
mod tests;
