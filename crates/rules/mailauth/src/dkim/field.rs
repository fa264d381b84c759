//! The fields that carry signatures: DKIM-Signature, and ARC-Message-Signature which differs in two tags.

use crate::dkim::canon::Canonicalization;
use crate::dkim::tags::{TagList, TagListError, items, number, without_blanks};
use aws_lc_rs::digest::Context;
use mail::Domain;
use message::Field;
use std::fmt;

/// How a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 over SHA-256 (RFC 6376 §3.3.2).
    RsaSha256,
    /// PureEdDSA over a SHA-256 (RFC 8463).
    Ed25519Sha256,
}

impl Algorithm {
    /// Its name in `a=`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RsaSha256 => "rsa-sha256",
            Self::Ed25519Sha256 => "ed25519-sha256",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which field it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureKind {
    /// DKIM-Signature.
    Dkim,
    /// ARC-Message-Signature (RFC 8617 §4.1.2): `i=` is the instance, and there is no `v=`.
    Arc,
}

/// What a signature may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldLimits {
    /// Octets of the field.
    pub octets_max: usize,
    /// Tags.
    pub tags_max: usize,
    /// Names in `h=`.
    pub names_max: usize,
}

impl Default for FieldLimits {
    fn default() -> Self {
        // Real signatures have twelve tags and name up to some sixty fields, in less than two kilooctets.
        Self { octets_max: 16 * 1024, tags_max: 32, names_max: 200 }
    }
}

/// Why a field is no signature that can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldError {
    /// It is no list of tags.
    Tags(TagListError),
    /// It, or its `h=`, is longer than the limit.
    TooLong,
    /// A tag that must be there is not.
    Missing(&'static str),
    /// A tag's value is none.
    Value(&'static str),
    /// `v=` is not 1.
    Version,
    /// `a=` is rsa-sha1, which proves nothing any more (RFC 8301 §3.1).
    Sha1,
    /// `a=` is an algorithm that we do not know.
    Algorithm,
    /// `q=` does not offer `dns/txt`.
    Query,
    /// `h=` does not name From (RFC 6376 §3.5).
    FromNotSigned,
    /// `i=` is not within `d=` (RFC 6376 §3.5).
    Identity,
    /// `x=` is not after `t=`.
    ExpiresBeforeMade,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tags(error) => error.fmt(f),
            Self::TooLong => f.write_str("signature too long"),
            Self::Missing(tag) => write!(f, "{tag}= is missing"),
            Self::Value(tag) => write!(f, "{tag}= has a value that is none"),
            Self::Version => f.write_str("unknown version"),
            Self::Sha1 => f.write_str("rsa-sha1 is not accepted"),
            Self::Algorithm => f.write_str("unknown algorithm"),
            Self::Query => f.write_str("unknown query method"),
            Self::FromNotSigned => f.write_str("From is not signed"),
            Self::Identity => f.write_str("i= is not within d="),
            Self::ExpiresBeforeMade => f.write_str("x= is not after t="),
        }
    }
}

impl std::error::Error for FieldError {}

/// A signature as its field says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// `a=`.
    pub algorithm: Algorithm,
    /// `b=`, decoded.
    pub signature: Vec<u8>,
    /// The first eight digits of `b=`, by which results name it (RFC 6008).
    pub prefix: Box<str>,
    /// `bh=`.
    pub body_hash: [u8; 32],
    /// `c=`.
    pub canonicalization: Canonicalization,
    /// `d=`: who takes responsibility.
    pub domain: Domain,
    /// `s=`.
    pub selector: Domain,
    /// `h=`, in lower case.
    pub headers: Vec<Box<str>>,
    /// `i=` decoded, or `@` and `d=` if it is not there; of ARC, nothing.
    pub identity: Box<str>,
    /// The domain of `i=`.
    pub identity_domain: Domain,
    /// `i=` of ARC: which set it belongs to, 1 to 50.
    pub instance: u32,
    /// `l=`: octets of the canonical body that are signed.
    pub body_length: Option<u64>,
    /// `t=`, seconds since 1970.
    pub timestamp: Option<u64>,
    /// `x=`, seconds since 1970.
    pub expires: Option<u64>,
}

impl Signature {
    /// Reads the value of a field.
    pub fn parse(value: &[u8], kind: SignatureKind, limits: &FieldLimits) -> Result<Self, FieldError> {
        if value.len() > limits.octets_max {
            return Err(FieldError::TooLong);
        }
        let tags = TagList::parse(value, limits.tags_max).map_err(|error| match error {
            TagListError::TooMany => FieldError::TooLong,
            error => FieldError::Tags(error),
        })?;
        let wanted = |name: &'static str| tags.value(name).ok_or(FieldError::Missing(name));
        if kind == SignatureKind::Dkim && wanted("v")? != "1" {
            return Err(FieldError::Version);
        }
        let algorithm = match wanted("a")?.to_ascii_lowercase().as_str() {
            "rsa-sha256" => Algorithm::RsaSha256,
            "ed25519-sha256" => Algorithm::Ed25519Sha256,
            "rsa-sha1" => return Err(FieldError::Sha1),
            _ => return Err(FieldError::Algorithm),
        };
        let digits = without_blanks(wanted("b")?);
        let decoded = |name, digits: &str| {
            crate::base64::decode(digits.as_bytes())
                .filter(|octets| !octets.is_empty())
                .ok_or(FieldError::Value(name))
        };
        let signature = decoded("b", &digits)?;
        let prefix = digits.get(..8).unwrap_or(&digits).into();
        let body_hash = decoded("bh", wanted("bh")?)?.try_into().map_err(|_| FieldError::Value("bh"))?;
        let canonicalization = match tags.value("c") {
            Some(text) => without_blanks(text).parse().map_err(|_| FieldError::Value("c"))?,
            None => Canonicalization::default(),
        };
        let name = |tag| Domain::parse(&without_blanks(wanted(tag)?)).map_err(|_| FieldError::Value(tag));
        let (domain, selector) = (name("d")?, name("s")?);
        let listed = wanted("h")?;
        if items(listed).take(limits.names_max + 1).count() > limits.names_max {
            return Err(FieldError::TooLong);
        }
        let headers: Vec<Box<str>> = items(listed).map(|name| name.to_ascii_lowercase().into()).collect();
        if !headers.iter().all(|name| is_field_name(name)) {
            return Err(FieldError::Value("h"));
        }
        if !headers.iter().any(|name| &**name == "from") {
            return Err(FieldError::FromNotSigned);
        }
        if let Some(methods) = tags.value("q")
            && !items(methods).any(|method| method.eq_ignore_ascii_case("dns/txt"))
        {
            return Err(FieldError::Query);
        }
        let mut instance = 0;
        let (mut identity, mut identity_domain) = (format!("@{domain}"), domain.clone());
        match (kind, tags.value("i")) {
            (SignatureKind::Arc, text) => {
                let text = text.ok_or(FieldError::Missing("i"))?;
                let within =
                    number(text).filter(|n| (1..=50).contains(n)).and_then(|n| u32::try_from(n).ok());
                instance = within.ok_or(FieldError::Value("i"))?;
                identity = String::new();
            }
            (SignatureKind::Dkim, Some(text)) => {
                identity = unquoted(&without_blanks(text)).ok_or(FieldError::Value("i"))?;
                let (_, text) = identity.rsplit_once('@').ok_or(FieldError::Value("i"))?;
                identity_domain = Domain::parse(text).map_err(|_| FieldError::Value("i"))?;
                if !identity_domain.is_within(&domain) {
                    return Err(FieldError::Identity);
                }
            }
            (SignatureKind::Dkim, None) => {}
        }
        let seconds = |name| match tags.value(name) {
            Some(text) => number(text).map(Some).ok_or(FieldError::Value(name)),
            None => Ok(None),
        };
        // An `l=` of up to 76 digits is lawful, and more octets than anybody has.
        let body_length = match tags.value("l") {
            Some(text) if text.len() > 19 && text.len() <= 76 && text.bytes().all(|b| b.is_ascii_digit()) => {
                Some(u64::MAX)
            }
            _ => seconds("l")?,
        };
        let (timestamp, expires) = (seconds("t")?, seconds("x")?);
        if let (Some(made), Some(expires)) = (timestamp, expires)
            && expires <= made
        {
            return Err(FieldError::ExpiresBeforeMade);
        }
        Ok(Self {
            algorithm,
            signature,
            prefix,
            body_hash,
            canonicalization,
            domain,
            selector,
            headers,
            identity: identity.into(),
            identity_domain,
            instance,
            body_length,
            timestamp,
            expires,
        })
    }

    /// Where DNS has the key (RFC 6376 §3.6.2.1).
    pub fn key_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }
}

/// RFC 5322 §3.6.8; a semicolon cannot come this far.
fn is_field_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 256 && name.bytes().all(|b| matches!(b, 33..=57 | 59..=126))
}

/// Takes `=3D` and the like apart (RFC 6376 §2.11). `None` for what is no UTF-8 or no such text.
fn unquoted(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [octet, after @ ..] = rest {
        rest = after;
        if *octet != b'=' {
            out.push(*octet);
            continue;
        }
        let ([high, low], after) = rest.split_first_chunk::<2>()?;
        // RFC 6376 §2.11 knows only capital letters here.
        let digit = |b: u8| (!b.is_ascii_lowercase()).then(|| char::from(b).to_digit(16)).flatten();
        out.push((digit(*high)? << 4 | digit(*low)?) as u8);
        rest = after;
    }
    String::from_utf8(out).ok().filter(|text| !text.chars().any(char::is_control))
}

/// Feeds a signature's own field, in canonical form, with nothing behind `b=` and without the last CRLF
/// (RFC 6376 §3.7).
pub fn hash_without_signature(
    canonicalization: Canonicalization,
    field: &Field<'_>,
    whole: &[u8],
    hash: &mut Context,
) {
    let bare = without_signature(&whole[field.start..field.end]);
    let mut out = Vec::with_capacity(bare.len());
    let Some(bare_field) = message::Fields::new(&bare).next() else { return };
    crate::dkim::canon::canonical_field(canonicalization.header, &bare_field, &bare, &mut out);
    hash.update(out.strip_suffix(b"\r\n").unwrap_or(&out));
}

/// A field with everything between the `=` of `b` and the next semicolon left out.
fn without_signature(field: &[u8]) -> Vec<u8> {
    let colon = field.iter().position(|b| *b == b':').map_or(0, |at| at + 1);
    let mut at = colon;
    while at < field.len() {
        let end = field[at..].iter().position(|b| *b == b';').map_or(field.len(), |len| at + len);
        let tag = &field[at..end];
        if let Some(equals) = tag.iter().position(|b| *b == b'=') {
            let name = tag[..equals].trim_ascii();
            if name == b"b" {
                return [&field[..at + equals + 1], &field[end..]].concat();
            }
        }
        at = end + 1;
    }
    field.to_vec()
}

/// Whatever the octets, a field is read or refused.
#[doc(hidden)]
pub fn fuzz_field(data: &[u8]) {
    let limits = FieldLimits::default();
    for kind in [SignatureKind::Dkim, SignatureKind::Arc] {
        if let Ok(signature) = Signature::parse(data, kind, &limits) {
            assert!(signature.headers.len() <= limits.names_max);
            assert!(signature.identity_domain.is_within(&signature.domain));
            assert!(mail::Domain::parse(&signature.key_name()).is_ok() || signature.key_name().len() > 253);
        }
    }
    if let Some(field) = message::Fields::new(data).next() {
        let mut hash = Context::new(&aws_lc_rs::digest::SHA256);
        hash_without_signature(Canonicalization::RELAXED, &field, data, &mut hash);
        hash_without_signature(Canonicalization::default(), &field, data, &mut hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "v=1; a=rsa-sha256; d=example.net; s=brisbane; c=simple; q=dns/txt;\r\n\
        \ti=@eng.example.net; t=1117574938; x=1118006938;\r\n\
        \th=from:to : subject:date;\r\n\
        \tbh=MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=;\r\n\
        \tb=dzdVyOfAKCdLXdJOc9G2q8LoXSlEniSbav+yuU4zGeeruD00lszZ\r\n\tVoG4ZHRNiYzR";

    fn parse(text: &str) -> Result<Signature, FieldError> {
        Signature::parse(text.as_bytes(), SignatureKind::Dkim, &FieldLimits::default())
    }

    #[test]
    fn the_example_of_rfc_6376_section_3_5() {
        let signature = parse(GOOD).unwrap();
        assert_eq!(signature.canonicalization.to_string(), "simple/simple");
        assert_eq!(signature.headers.join(","), "from,to,subject,date");
        assert_eq!((&*signature.identity, &*signature.prefix), ("@eng.example.net", "dzdVyOfA"));
        assert_eq!(signature.key_name(), "brisbane._domainkey.example.net");
        assert_eq!((signature.timestamp, signature.expires), (Some(1_117_574_938), Some(1_118_006_938)));
        assert_eq!((signature.signature.len(), signature.body_length), (48, None));
    }

    #[test]
    fn what_is_refused_and_why() {
        for (from, to, expected) in [
            ("v=1;", "", FieldError::Missing("v")),
            ("v=1;", "v=2;", FieldError::Version),
            ("v=1;", "v=1;v=1;", FieldError::Tags(TagListError::Twice)),
            ("rsa-sha256", "rsa-sha1", FieldError::Sha1),
            ("rsa-sha256", "rsa-sha512", FieldError::Algorithm),
            ("d=example.net", "d=-.net", FieldError::Value("d")),
            ("d=example.net", "d=example.com", FieldError::Identity),
            ("i=@eng.example.net", "i=@badexample.net", FieldError::Identity),
            ("i=@eng.example.net", "i=eng.example.net", FieldError::Value("i")),
            ("i=@eng.example.net", "i=a=4x@eng.example.net", FieldError::Value("i")),
            ("s=brisbane", "s=", FieldError::Value("s")),
            ("q=dns/txt", "q=http/get", FieldError::Query),
            ("c=simple", "c=simple/nofws", FieldError::Value("c")),
            ("h=from:", "h=", FieldError::FromNotSigned),
            ("h=from:", "h=from::", FieldError::Value("h")),
            ("t=1117574938", "t=1118006938", FieldError::ExpiresBeforeMade),
            ("t=1117574938", "t=soon", FieldError::Value("t")),
            ("bh=MTIz", "bh=", FieldError::Value("bh")),
            ("b=dzdV", "b=!", FieldError::Value("b")),
        ] {
            assert!(GOOD.contains(from), "{from}");
            assert_eq!(parse(&GOOD.replacen(from, to, 1)), Err(expected), "{to}");
        }
    }

    #[test]
    fn long_ones_are_refused_before_they_cost() {
        let long = GOOD.replace("h=from:", &format!("h=from:{}", "x:".repeat(200)));
        assert_eq!(parse(&long), Err(FieldError::TooLong));
        assert_eq!(parse(&format!("{GOOD};{}", "z".repeat(20_000))), Err(FieldError::TooLong));
        let many: String = (0..30).map(|n| format!("; t{n}=")).collect();
        assert_eq!(parse(&format!("{GOOD}{many}")), Err(FieldError::TooLong));
    }

    #[test]
    fn identities_are_unquoted() {
        let text = GOOD.replace("i=@eng", "i=a=3Db=20\r\n\tc=C3=A9@eng");
        assert_eq!(&*parse(&text).unwrap().identity, "a=b c\u{e9}@eng.example.net");
        let international =
            GOOD.replace("d=example.net", "d=b\u{fc}cher.test").replace("i=@eng.example.net; ", "");
        assert_eq!(parse(&international).unwrap().domain.as_str(), "xn--bcher-kva.test");
    }

    #[test]
    fn lengths_of_bodies() {
        let length = |text: &str| parse(&format!("{GOOD}; l={text}")).map(|signature| signature.body_length);
        assert_eq!(length("0"), Ok(Some(0)));
        assert_eq!(length(&"9".repeat(76)), Ok(Some(u64::MAX)));
        assert_eq!(length(&"9".repeat(77)), Err(FieldError::Value("l")));
        assert_eq!(length("-1"), Err(FieldError::Value("l")));
    }

    #[test]
    fn arc_has_an_instance() {
        let arc = |text: &str| Signature::parse(text.as_bytes(), SignatureKind::Arc, &FieldLimits::default());
        let good = GOOD.replace("v=1; ", "").replace("i=@eng.example.net", "i=12");
        assert_eq!(arc(&good).unwrap().instance, 12);
        for bad in ["i=0", "i=51", "i=x", "i="] {
            assert_eq!(arc(&good.replace("i=12", bad)), Err(FieldError::Value("i")), "{bad}");
        }
    }

    #[test]
    fn the_signature_is_left_out_and_nothing_else() {
        for (field, bare) in [
            ("DKIM-Signature: a=b; b=xyz\r\n", "DKIM-Signature: a=b; b="),
            ("D: b=x\r\n y; bh=b=; z=1\r\n", "D: b=; bh=b=; z=1\r\n"),
            ("D: bb=1; b\r\n = x ;c=b=2\r\n", "D: bb=1; b\r\n =;c=b=2\r\n"),
            ("D: h=b\r\n", "D: h=b\r\n"),
            ("B=x: a=1; b=2\r\n", "B=x: a=1; b="),
        ] {
            assert_eq!(String::from_utf8(without_signature(field.as_bytes())).unwrap(), bare, "{field:?}");
        }
    }

    #[test]
    fn random_fields() {
        let mut random = crate::tests::Random(5);
        let pieces = [
            "v=1;",
            "a=",
            "b",
            "=",
            ";",
            " ",
            "\r\n ",
            "rsa-sha256",
            "d=a.test;",
            "h=from",
            ":",
            "i=@a.test;",
            "bh=MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=;",
            "s=x;",
            "b=AAAA;",
            "\u{e9}",
            "l=1;",
            "=3D",
        ];
        for _ in 0..20_000 {
            let mut text = if random.chance() { "D: ".to_owned() } else { GOOD.to_owned() };
            (0..random.below(20)).for_each(|_| text += pieces[random.below(pieces.len())]);
            fuzz_field(text.as_bytes());
        }
    }
}
