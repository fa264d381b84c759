//! The record that publishes a key (RFC 6376 §3.6.1).

use crate::dkim::key::{KeyKind, PublicKey, PublicKeyError};
use crate::dkim::tags::{TagList, TagListError, items, without_blanks};
use std::fmt;

/// Octets of a record at most: an RSA key of 4,096 bits has some 740.
pub const RECORD_MAX_OCTETS: usize = 4 * 1024;

/// Tags of a record at most; there are eight.
const TAGS_MAX: usize = 32;

/// A key as its record says.
#[derive(Clone, Debug)]
pub struct KeyRecord {
    /// The key; `None` once it is revoked (an empty `p=`).
    pub key: Option<PublicKey>,
    /// What kind of key it is (`k=`), revoked or not.
    pub kind: KeyKind,
    /// `t=y`: its domain is only trying DKIM out.
    pub testing: bool,
    /// `t=s`: the domain of `i=` must be that of `d=` itself.
    pub strict: bool,
}

/// Why a record publishes no key for mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// It is no list of tags.
    Tags(TagListError),
    /// It is longer than [`RECORD_MAX_OCTETS`].
    TooLong,
    /// `v=` is not DKIM1, or not the first tag.
    Version,
    /// `p=` is missing.
    NoKey,
    /// `k=` is a kind of key that we do not know.
    Kind,
    /// `h=` does not allow SHA-256.
    Hash,
    /// `s=` is for something else than mail.
    Service,
    /// `p=` is no key.
    Key(PublicKeyError),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tags(error) => write!(f, "key record: {error}"),
            Self::TooLong => f.write_str("key record too long"),
            Self::Version => f.write_str("key record of an unknown version"),
            Self::NoKey => f.write_str("key record without p="),
            Self::Kind => f.write_str("unknown kind of key"),
            Self::Hash => f.write_str("key not for sha256"),
            Self::Service => f.write_str("key not for mail"),
            Self::Key(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RecordError {}

impl KeyRecord {
    /// Reads the text of a TXT record, its strings put together.
    pub fn parse(text: &[u8]) -> Result<Self, RecordError> {
        if text.len() > RECORD_MAX_OCTETS {
            return Err(RecordError::TooLong);
        }
        let tags = TagList::parse(text, TAGS_MAX).map_err(RecordError::Tags)?;
        if let Some(version) = tags.value("v")
            && (version != "DKIM1" || tags.first() != Some(("v", version)))
        {
            return Err(RecordError::Version);
        }
        let digits = tags.value("p").ok_or(RecordError::NoKey)?;
        let kind = match tags.value("k").map(without_blanks).as_deref() {
            None | Some("rsa") => KeyKind::Rsa,
            Some("ed25519") => KeyKind::Ed25519,
            Some(_) => return Err(RecordError::Kind),
        };
        let lists = |tag, wanted: &[&str]| {
            tags.value(tag).is_none_or(|list| {
                items(list).any(|item| wanted.iter().any(|w| item.eq_ignore_ascii_case(w)))
            })
        };
        if !lists("h", &["sha256"]) {
            return Err(RecordError::Hash);
        }
        if !lists("s", &["*", "email"]) {
            return Err(RecordError::Service);
        }
        let flag = |flag| tags.value("t").is_some_and(|list| items(list).any(|item| item == flag));
        let key = match digits {
            "" => None,
            digits => {
                let octets = crate::base64::decode(digits.as_bytes())
                    .ok_or(RecordError::Key(PublicKeyError::Base64))?;
                Some(PublicKey::parse(kind, &octets).map_err(RecordError::Key)?)
            }
        };
        Ok(Self { key, kind, testing: flag("y"), strict: flag("s") })
    }
}

/// Whatever the octets, a record is read or refused.
#[doc(hidden)]
pub fn fuzz_record(data: &[u8]) {
    if let Ok(KeyRecord { key: Some(key), .. }) = KeyRecord::parse(data) {
        assert!(key.bits() <= 8 * RECORD_MAX_OCTETS);
        assert!(!key.verify(&crate::dkim::key::digest(b"x"), b"no signature"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dkim::tests::{ED25519_RECORD, RSA_RECORD};

    fn refused(text: &str) -> RecordError {
        KeyRecord::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn records() {
        let record = KeyRecord::parse(RSA_RECORD.as_bytes()).unwrap();
        assert_eq!((record.kind, record.key.unwrap().bits()), (KeyKind::Rsa, 1_024));
        assert!(!record.testing && !record.strict);
        let record = KeyRecord::parse(ED25519_RECORD.as_bytes()).unwrap();
        assert_eq!((record.kind, record.key.unwrap().bits()), (KeyKind::Ed25519, 256));
        let more =
            RSA_RECORD.replace("v=DKIM1;", "v=DKIM1; t=y:s; s=email; h=sha1 : sha256; n=hi=3B; g=*; x=;");
        let record = KeyRecord::parse(more.as_bytes()).unwrap();
        assert!(record.testing && record.strict && record.key.is_some());
        // Folded into pieces, as a record of several lines may be.
        let (head, tail) = RSA_RECORD.split_at(100);
        assert!(KeyRecord::parse(format!("{head}\r\n {tail}").as_bytes()).unwrap().key.is_some());
    }

    #[test]
    fn revoked_keys() {
        let record = KeyRecord::parse(b"v=DKIM1; k=ed25519; p=").unwrap();
        assert!(record.key.is_none() && record.kind == KeyKind::Ed25519);
        assert!(KeyRecord::parse(b"p= ;").unwrap().key.is_none());
    }

    #[test]
    fn what_publishes_no_key() {
        let key = RSA_RECORD.split_once("p=").unwrap().1;
        assert_eq!(refused("v=spf1 -all"), RecordError::Version);
        assert_eq!(refused("some text"), RecordError::Tags(TagListError::Syntax));
        assert_eq!(refused("v=DKIM2; p="), RecordError::Version);
        assert_eq!(refused(&format!("p={key}; v=DKIM1")), RecordError::Version);
        assert_eq!(refused("v=DKIM1; k=rsa"), RecordError::NoKey);
        assert_eq!(refused("k=dsa; p="), RecordError::Kind);
        assert_eq!(refused("h=sha1; p="), RecordError::Hash);
        assert_eq!(refused("s=tlsrpt; p="), RecordError::Service);
        assert_eq!(refused("p=!"), RecordError::Key(PublicKeyError::Base64));
        assert_eq!(refused("p=AAAA"), RecordError::Key(PublicKeyError::Form));
        assert_eq!(refused("k=ed25519; p=AAAA"), RecordError::Key(PublicKeyError::Form));
        assert_eq!(refused(&format!("p={}", "A".repeat(16 * 1024))), RecordError::TooLong);
    }

    #[test]
    fn random_records() {
        let mut random = crate::tests::Random(9);
        let pieces = [
            "v=DKIM1;",
            "p=",
            "k=",
            "rsa;",
            "ed25519;",
            "t=y:s;",
            "h=sha256;",
            "s=*;",
            "=",
            ";",
            " ",
            "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQ",
            "AAAA",
            "\u{e9}",
        ];
        for _ in 0..20_000 {
            let mut text = String::new();
            (0..random.below(12)).for_each(|_| text += pieces[random.below(pieces.len())]);
            fuzz_record(text.as_bytes());
        }
        // A key with one octet changed is another key or none.
        for _ in 0..2_000 {
            let mut octets = RSA_RECORD.as_bytes().to_vec();
            let at = random.below(octets.len());
            octets[at] ^= 1 << random.below(8);
            fuzz_record(&octets);
        }
    }
}
