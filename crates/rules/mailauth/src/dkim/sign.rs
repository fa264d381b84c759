//! Making signatures: what a message is signed as, and the field that says so.
//!
//! Work comes in two parts, so that the dear one can be done elsewhere: [`Unsigned::prepare`] reads the message, and
//! [`Prepared::sign`] computes.

use crate::dkim::canon::{BodyHash, Canon, Canonicalization};
use crate::dkim::field::hash_without_signature;
use crate::dkim::key::{SigningKey, SigningKeyError};
use crate::dkim::verify::HeaderIndex;
use aws_lc_rs::digest::{Context, Digest, SHA256};
use mail::Domain;
use message::Fields;
use std::fmt;
use std::fmt::Write;
use std::sync::Arc;

/// Fields that are signed where they are there: RFC 6376 §5.4.1, what mail programs show or act on, and what large
/// receivers ask to see signed (RFC 8058 §4, Feedback-ID).
pub const HEADERS: &[&str] = &[
    "From",
    "Sender",
    "Reply-To",
    "Subject",
    "Date",
    "Message-ID",
    "To",
    "Cc",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-ID",
    "Content-Description",
    "List-ID",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
    "Feedback-ID",
    "Auto-Submitted",
];

/// Fields that are named once more than they are there, so that nobody can add another one on the way. Relays add a
/// missing Message-ID, so that is not among them.
pub const OVERSIGN: &[&str] = &[
    "From",
    "Reply-To",
    "Subject",
    "Date",
    "To",
    "Cc",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
];

/// Fields of one name that are signed: more than anybody has, and a bound for the rest.
const SAME_NAME_MAX: usize = 32;

/// Octets of a line of the signature, where it can be folded.
const LINE_OCTETS: usize = 76;

/// Who signs, and how.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `d=`.
    pub domain: Domain,
    /// `s=`.
    pub selector: Domain,
    /// The key.
    pub key: Arc<SigningKey>,
    /// `c=`.
    pub canonicalization: Canonicalization,
    /// Fields that are signed, in the order of `h=`.
    pub headers: Vec<SignedName>,
    /// Seconds until it expires; 0 never.
    pub expires_after: u64,
    /// `i=`, within the domain; left out if there is none.
    pub identity: Option<Box<str>>,
}

/// A field that is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedName {
    /// Its name as it is written into `h=`.
    pub name: Box<str>,
    /// The same in lower case.
    lower: Box<str>,
    /// Once more than it is there.
    pub oversign: bool,
}

impl SignedName {
    /// A field by its name.
    pub fn new(name: &str, oversign: bool) -> Self {
        Self { name: name.into(), lower: name.to_ascii_lowercase().into(), oversign }
    }

    /// [`HEADERS`] and [`OVERSIGN`].
    pub fn usual() -> Vec<Self> {
        HEADERS.iter().map(|name| Self::new(name, OVERSIGN.contains(name))).collect()
    }
}

/// Why a message is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignError {
    /// Its header holds a line that is no field, before the empty line: readers disagree about where it ends.
    Header,
    /// It has no From field, or several.
    From,
    /// It has more than 32 fields of one name that is signed.
    TooManyFields,
    /// The key failed.
    Key(SigningKeyError),
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("its header holds a line that is no field"),
            Self::From => f.write_str("it has not exactly one From field"),
            Self::TooManyFields => f.write_str("it has too many fields of one name"),
            Self::Key(error) => write!(f, "the key failed: {error}"),
        }
    }
}

impl std::error::Error for SignError {}

/// A message to be signed, in pieces that lie back to back: our trace fields, perhaps, and the rest.
#[derive(Debug)]
pub struct Unsigned<'a> {
    header: Vec<u8>,
    body: [&'a [u8]; 2],
    hashes: [Option<[u8; 32]>; 2],
}

impl<'a> Unsigned<'a> {
    /// Finds where the header ends. It is copied, the body is not.
    pub fn new(content: [&'a [u8]; 2]) -> Result<Self, SignError> {
        let [first, second] = content;
        let scan = message::scan(first);
        let (header, body) = if scan.header_len < first.len() {
            (first[..scan.header_len].to_vec(), [check_end(first, &scan)?, second])
        } else {
            let scan = message::scan(second);
            ([first, &second[..scan.header_len]].concat(), [check_end(second, &scan)?, &[]])
        };
        if Fields::new(&header).filter(|field| field.is("from")).count() != 1 {
            return Err(SignError::From);
        }
        Ok(Self { header, body, hashes: [None; 2] })
    }

    fn body_hash(&mut self, canon: Canon) -> [u8; 32] {
        let body = self.body;
        *self.hashes[canon as usize].get_or_insert_with(|| {
            let mut hash = BodyHash::new(canon, None);
            body.into_iter().for_each(|piece| hash.update(piece));
            hash.finish().hash
        })
    }

    /// All that is to be done before the key is needed. Bodies are hashed once for all identities that write them the
    /// same way. `now` is in seconds since 1970.
    pub fn prepare(&mut self, identity: &Identity, now: u64) -> Result<Prepared, SignError> {
        let body_hash = self.body_hash(identity.canonicalization.body);
        let index = HeaderIndex::new(&self.header);
        let mut names: Vec<&SignedName> = Vec::with_capacity(identity.headers.len() * 2);
        for name in &identity.headers {
            let count = index.named(&name.lower).len();
            if count > SAME_NAME_MAX {
                return Err(SignError::TooManyFields);
            }
            names.extend(std::iter::repeat_n(name, count + usize::from(name.oversign)));
        }
        let mut field = Folded::new("DKIM-Signature:");
        field.word(" v=1;");
        field.word(&format!(" a={};", identity.key.kind().algorithm()));
        field.word(&format!(" c={};", identity.canonicalization));
        field.word(&format!(" d={};", identity.domain));
        field.word(&format!(" s={};", identity.selector));
        if let Some(text) = &identity.identity {
            field.word(&format!(" i={};", quoted(text)));
        }
        field.word(&format!(" t={now};"));
        if identity.expires_after > 0 {
            field.word(&format!(" x={};", now.saturating_add(identity.expires_after)));
        }
        for (n, name) in names.iter().enumerate() {
            let (before, after) =
                (if n == 0 { " h=" } else { "" }, if n + 1 == names.len() { ";" } else { ":" });
            field.word(&format!("{before}{}{after}", name.name));
        }
        field.word(&format!(" bh={};", crate::base64::encode(&body_hash)));
        field.line(" b=");
        let text = field.0.into_bytes();

        let mut hash = Context::new(&SHA256);
        index.hash_named(identity.canonicalization.header, names.iter().map(|name| &*name.lower), &mut hash);
        let own = Fields::new(&text).next().ok_or(SignError::Header)?;
        hash_without_signature(identity.canonicalization, &own, &text, &mut hash);
        Ok(Prepared { text, digest: hash.finish(), key: identity.key.clone() })
    }

    /// The header alone.
    pub fn header(&self) -> &[u8] {
        &self.header
    }
}

/// What follows a header; an error if that is no empty line, and not the end either.
fn check_end<'a>(content: &'a [u8], scan: &message::Scan) -> Result<&'a [u8], SignError> {
    if scan.has_separator || scan.header_len == content.len() {
        Ok(&content[scan.body_start..])
    } else {
        Err(SignError::Header)
    }
}

/// A signature but for what the key makes of it.
#[derive(Debug)]
pub struct Prepared {
    text: Vec<u8>,
    digest: Digest,
    key: Arc<SigningKey>,
}

impl Prepared {
    /// The whole field, with its CRLF, to be put in front of the message.
    pub fn sign(self) -> Result<Vec<u8>, SignError> {
        let signature = self.key.sign(&self.digest).map_err(SignError::Key)?;
        let mut out = self.text;
        let digits = crate::base64::encode(&signature);
        for (n, line) in digits.as_bytes().chunks(LINE_OCTETS - 4).enumerate() {
            if n > 0 {
                out.extend_from_slice(b"\r\n\t ");
            }
            out.extend_from_slice(line);
        }
        out.extend_from_slice(b"\r\n");
        Ok(out)
    }
}

/// A field that is folded while it is written.
struct Folded(String);

impl Folded {
    fn new(name: &str) -> Self {
        let mut text = String::with_capacity(1024);
        text.push_str(name);
        Self(text)
    }

    fn width(&self) -> usize {
        self.0.rfind('\n').map_or(self.0.len(), |at| self.0.len() - at - 1)
    }

    /// On this line if there is room, else on the next.
    fn word(&mut self, text: &str) {
        if self.width() + text.len() > LINE_OCTETS { self.line(text) } else { self.0.push_str(text) }
    }

    /// On the next line.
    fn line(&mut self, text: &str) {
        self.0.push_str("\r\n\t");
        self.0.push_str(text.trim_start_matches(' '));
    }
}

/// A text as `i=` holds it (RFC 6376 §2.11).
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for octet in text.bytes() {
        match octet {
            33..=58 | 60 | 62..=126 => out.push(char::from(octet)),
            // Writing to a string cannot fail.
            octet => drop(write!(out, "={octet:02X}")),
        }
    }
    out
}

/// A message signed by one identity: the field.
pub fn sign(identity: &Identity, content: &[u8], now: u64) -> Result<Vec<u8>, SignError> {
    Unsigned::new([content, &[]])?.prepare(identity, now)?.sign()
}
