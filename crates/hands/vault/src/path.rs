//! Where a secret is: `MOUNT/PATH#FIELD`.

use std::fmt;
use std::str::FromStr;

/// Octets of a path at most.
const PATH_MAX_OCTETS: usize = 500;

/// One field of a secret in a KV engine of version 2: `secret/mail/dkim#key`, of which `secret` is where the engine is
/// mounted. Without a `#`, the field is `key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretPath {
    mount: Box<str>,
    path: Box<str>,
    field: Box<str>,
}

/// A text is no such path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretPathError;

impl fmt::Display for SecretPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "write `MOUNT/PATH#FIELD`, as in `secret/mail/dkim#key`; letters, digits, `-`, `_`, `.` and `/`",
        )
    }
}

impl std::error::Error for SecretPathError {}

impl FromStr for SecretPath {
    type Err = SecretPathError;

    fn from_str(text: &str) -> Result<Self, SecretPathError> {
        let (path, field) = text.split_once('#').unwrap_or((text, "key"));
        let (mount, path) = path.split_once('/').ok_or(SecretPathError)?;
        // What needs no escape in a URL, and no step out of the path.
        let plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let step = |text: &str| plain(text) && text != "." && text != "..";
        if text.len() > PATH_MAX_OCTETS || !step(mount) || !path.split('/').all(step) || !plain(field) {
            return Err(SecretPathError);
        }
        Ok(Self { mount: mount.into(), path: path.into(), field: field.into() })
    }
}

impl fmt::Display for SecretPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.mount, self.path, self.field)
    }
}

impl SecretPath {
    /// What is asked for below `/v1/`.
    pub(crate) fn request(&self) -> String {
        format!("{}/data/{}", self.mount, self.path)
    }

    /// The field.
    pub(crate) fn field(&self) -> &str {
        &self.field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let path: SecretPath = "secret/mail/dkim#private_key".parse().unwrap();
        assert_eq!((path.request().as_str(), path.field()), ("secret/data/mail/dkim", "private_key"));
        assert_eq!(path.to_string().parse(), Ok(path));
        assert_eq!("kv/a.test".parse::<SecretPath>().unwrap().to_string(), "kv/a.test#key");
        for text in [
            "",
            "secret",
            "secret/",
            "/a",
            "secret//a",
            "secret/a#",
            "secret/../a",
            "secret/a b",
            "s/a?x",
            "s/a#b#c",
        ] {
            assert_eq!(text.parse::<SecretPath>(), Err(SecretPathError), "{text}");
        }
    }
}
