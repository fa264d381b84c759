//! The text of a key: `tuma_ID_SECRET`. The id says which key to compare with, the secret opens.

use aws_lc_rs::constant_time;
use aws_lc_rs::hmac;
use aws_lc_rs::rand;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What every token begins with, so that searches for leaked ones find them.
const PREFIX: &str = "tuma_";
/// Characters of an id.
const ID_LEN: usize = 10;
/// Characters of a secret: 256 bits.
const SECRET_LEN: usize = 52;
/// Five bits a character, none of which is easily taken for another.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A token as it is shown once, or as somebody sends it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Which key it claims to be.
    pub id: String,
    secret: String,
}

impl Token {
    /// Reads a text that looks like a token.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let sound = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| DIGITS.contains(&b));
        (sound(id, ID_LEN) && sound(secret, SECRET_LEN))
            .then(|| Self { id: id.into(), secret: secret.into() })
    }

    /// The text that is to be kept by who gets it.
    pub fn to_text(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, self.secret)
    }
}

/// The secret part stays out of logs.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PREFIX}{}_…", self.id)
    }
}

/// The server's own secret, under which keys are kept.
pub struct Secret(hmac::Key);

impl Secret {
    /// Reads the secret, or makes it: a file that only its owner may read.
    pub fn open(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(octets) if octets.len() == 32 => return Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &octets))),
            Ok(_) => {
                let text = format!(
                    "{} is not a secret of 32 octets; move it away and make new keys",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut octets = [0; 32];
        rand::fill(&mut octets).map_err(|_| io::Error::other("no randomness"))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&octets)?;
        file.sync_all()?;
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &octets)))
    }

    /// A new token.
    pub(crate) fn make(&self) -> io::Result<Token> {
        let mut random = [0; ID_LEN + SECRET_LEN];
        rand::fill(&mut random).map_err(|_| io::Error::other("no randomness"))?;
        let text: String = random.iter().map(|byte| char::from(DIGITS[usize::from(byte & 31)])).collect();
        let (id, secret) = text.split_at(ID_LEN);
        Ok(Token { id: id.into(), secret: secret.into() })
    }

    /// What is kept of a token.
    pub(crate) fn hash(&self, token: &Token) -> [u8; 32] {
        let mut hash = [0; 32];
        let tag = hmac::sign(&self.0, token.to_text().as_bytes());
        hash.copy_from_slice(tag.as_ref());
        hash
    }

    /// True if this is the token that was kept so. Takes as long whatever differs.
    pub(crate) fn fits(&self, token: &Token, hash: &[u8; 32]) -> bool {
        constant_time::verify_slices_are_equal(&self.hash(token), hash).is_ok()
    }
}
