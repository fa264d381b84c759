//! Where private keys come from.

use mailauth::dkim::{SigningKey, SigningKeyError};
use std::fmt;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Octets of a key's file at most: one of 4,096 bits has some 3,300.
const KEY_MAX_OCTETS: u64 = 64 * 1024;

/// A key that was read from a file.
#[derive(Debug)]
pub struct KeyFile {
    /// The key.
    pub key: SigningKey,
    /// The file can be read by every user of the machine.
    pub exposed: bool,
    /// What tells that it has changed.
    pub(crate) stamp: Stamp,
}

/// What tells that a file has changed: device, inode, size, and time of its last change with nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(u64, u64, u64, i64, i64);

impl Stamp {
    /// Of a file as it is now; `None` if it cannot be looked at.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|meta| Self::from(&meta))
    }

    fn from(meta: &std::fs::Metadata) -> Self {
        Self(meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec())
    }
}

/// Why a file gives no key.
#[derive(Debug)]
pub enum KeyFileError {
    /// It cannot be read.
    Io(std::io::Error),
    /// It is no file, or larger than any key.
    NotAKey,
    /// What it holds is no key to sign with.
    Key(SigningKeyError),
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "it cannot be read: {error}"),
            Self::NotAKey => write!(f, "it is not a file of at most {KEY_MAX_OCTETS} octets"),
            Self::Key(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for KeyFileError {}

/// Reads a key from a file.
pub fn read_key(path: &Path) -> Result<KeyFile, KeyFileError> {
    // What the path names is looked at before it is opened: a pipe would wait for its other end.
    let meta = std::fs::metadata(path).map_err(KeyFileError::Io)?;
    if !meta.is_file() || meta.len() > KEY_MAX_OCTETS {
        return Err(KeyFileError::NotAKey);
    }
    let file = std::fs::File::open(path).map_err(KeyFileError::Io)?;
    // Of the open file, so that what is remembered is what was read.
    let meta = file.metadata().map_err(KeyFileError::Io)?;
    let mut text = Vec::new();
    file.take(KEY_MAX_OCTETS).read_to_end(&mut text).map_err(KeyFileError::Io)?;
    let key = SigningKey::parse(&text).map_err(KeyFileError::Key)?;
    Ok(KeyFile { key, exposed: meta.permissions().mode() & 0o004 != 0, stamp: Stamp::from(&meta) })
}
