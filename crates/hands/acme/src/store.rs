//! What outlives the process: the account's key, the certificates with theirs, and what became of the last try.

use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Octets of a file of ours at most.
const FILE_MAX_OCTETS: u64 = 1 << 20;

/// What is remembered of a certificate beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The directory that the certificate in use is from; empty when there is none.
    pub directory: String,
    /// What was asked for: failures count only while it is the same.
    pub question: String,
    /// Failures since the last success.
    pub failures: u32,
    /// Why the last try failed; empty after a success.
    pub error: String,
    /// Nothing is asked of the authority before, in milliseconds since 1970.
    pub not_before_ms: u64,
}

/// The folder, which only its owner may look into.
#[derive(Clone, Debug)]
pub struct Store(PathBuf);

impl Store {
    /// Below the folder of what outlives the process. Nothing is made before something is kept.
    pub fn new(state: &Path) -> Self {
        Self(state.join("acme"))
    }

    /// The file of a certificate: its key, its chain. One file, so that no crash leaves one without the other.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.pem"))
    }

    /// Where a new certificate is looked at before it takes the old one's place.
    pub fn new_certificate(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.pem.new"))
    }

    /// Writes a new certificate beside the old one.
    pub fn write_new(&self, name: &str, text: &str) -> io::Result<()> {
        self.write(&self.new_certificate(name), text)
    }

    /// Puts the new certificate in the old one's place.
    pub fn take_new(&self, name: &str) -> io::Result<()> {
        fs::rename(self.new_certificate(name), self.certificate(name))?;
        File::open(&self.0)?.sync_all()
    }

    /// What is remembered of a certificate. What cannot be read is as if nothing were.
    pub fn memory(&self, name: &str) -> Memory {
        let text = read(&self.0.join(format!("{name}.json"))).ok().flatten();
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Remembers.
    pub fn remember(&self, name: &str, memory: &Memory) -> io::Result<()> {
        let text = serde_json::to_string(memory).map_err(io::Error::other)?;
        self.replace(&self.0.join(format!("{name}.json")), &text)
    }

    /// The account at an authority, if there is one.
    pub(crate) fn account(&self, directory: &str) -> io::Result<Option<String>> {
        read(&self.account_file(directory))
    }

    /// Keeps the account.
    pub(crate) fn keep_account(&self, directory: &str, text: &str) -> io::Result<()> {
        self.replace(&self.account_file(directory), text)
    }

    /// Puts an account aside that the authority does not know any more.
    pub(crate) fn retire_account(&self, directory: &str) -> io::Result<()> {
        let file = self.account_file(directory);
        fs::rename(&file, file.with_extension("old"))
    }

    /// Each authority has its own: accounts of its staging directory are of no use at the real one.
    fn account_file(&self, directory: &str) -> PathBuf {
        use aws_lc_rs::digest::{SHA256, digest};
        let digest = digest(&SHA256, directory.as_bytes());
        let hex: String = digest.as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect();
        self.0.join(format!("account-{hex}.json"))
    }

    fn replace(&self, file: &Path, text: &str) -> io::Result<()> {
        let new = file.with_extension("json.new");
        self.write(&new, text)?;
        fs::rename(&new, file)?;
        File::open(&self.0)?.sync_all()
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        // One that a crash left has its old mode.
        if let Err(error) = fs::remove_file(file)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        open.write_all(text.as_bytes())?;
        open.sync_all()
    }
}

fn read(file: &Path) -> io::Result<Option<String>> {
    let open = match File::open(file) {
        Ok(open) => open,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    open.take(FILE_MAX_OCTETS).read_to_string(&mut text)?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_kept_is_there_again_and_nobody_else_s() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        assert_eq!(store.memory("default"), Memory::default());
        assert_eq!(store.account("https://a.test/").unwrap(), None);
        let memory = Memory { failures: 3, error: "no".into(), not_before_ms: 7, ..Memory::default() };
        store.remember("default", &memory).unwrap();
        assert_eq!(store.memory("default"), memory);
        store.keep_account("https://a.test/", "{}").unwrap();
        assert_eq!(store.account("https://a.test/").unwrap().as_deref(), Some("{}"));
        assert_eq!(store.account("https://b.test/").unwrap(), None);
        store.write_new("default", "old").unwrap();
        store.take_new("default").unwrap();
        store.write_new("default", "new").unwrap();
        assert_eq!(fs::read_to_string(store.certificate("default")).unwrap(), "old");
        store.take_new("default").unwrap();
        assert_eq!(fs::read_to_string(store.certificate("default")).unwrap(), "new");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path().join("acme")), 0o700);
        for entry in fs::read_dir(folder.path().join("acme")).unwrap() {
            assert_eq!(mode(&entry.unwrap().path()), 0o600);
        }
        store.retire_account("https://a.test/").unwrap();
        assert_eq!(store.account("https://a.test/").unwrap(), None);
        fs::write(folder.path().join("acme/default.json"), "{broken").unwrap();
        assert_eq!(store.memory("default"), Memory::default());
    }
}
