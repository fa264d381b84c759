//! Messages are signed on their way out (DKIM, RFC 6376): who signs, with which key, on which thread.
//!
//! A message is signed when its turn has come, so that source, tenant and the time of sending have a say, and mail of
//! our own making is signed like any other; the spool keeps it as it came in. RSA takes a third of a millisecond, which
//! is long for a thread that serves connections, so it runs on threads of its own, at most as many as cores.

mod choose;
mod config;
mod keys;
mod options;
mod threads;

pub(crate) use choose::{Choice, Chosen, Facts};
pub use config::{DkimConfig, NextKey, Selector, SignRule, SigningConfig, Unsigned};
pub use keys::{KeyFile, KeyFileError, read_key};

use crate::shared::Shared;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use keys::Stamp;
use mailauth::dkim::{Identity, KeyKind, SignError, SignedName, SigningKey, SigningKeyError};
use spool::Content;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use threads::Threads;
use tracing::{debug, info, warn};
use vault::{Vault, VaultError};

/// Octets of content up to which an Ed25519 signature is made where it is needed: hashing more would hold up a thread
/// that serves connections.
const INLINE_MAX_OCTETS: u64 = 128 * 1024;

/// Signatures of one message that are kept for its other sites.
const KEPT_MAX: usize = 16;

/// Figures of signing.
#[derive(Debug, Default)]
pub struct SigningFigures {
    /// Signatures made, RSA.
    pub rsa: AtomicU64,
    /// Signatures made, Ed25519.
    pub ed25519: AtomicU64,
    /// Signatures used again.
    pub again: AtomicU64,
    /// Messages that should have been signed and could not be.
    pub failed: AtomicU64,
    /// Messages that nobody signed for.
    pub unmatched: AtomicU64,
    /// Nanoseconds spent on signing, hashing included.
    pub nanoseconds: AtomicU64,
    /// When the log was last told of a failure, seconds since 1970.
    told: AtomicU64,
}

/// Seconds between two lines of the log about messages that could not be signed: one lost key can hold up a million.
const TELL_EVERY: u64 = 60;

impl SigningFigures {
    /// Counts a message that could not be signed, and tells the log of some; each is in the records.
    pub(crate) fn failed(&self, id: mail::SpoolId, failure: &Failure, policy: Unsigned) {
        let failed = self.failed.fetch_add(1, Relaxed) + 1;
        let (now, told) = (unix_seconds(), self.told.load(Relaxed));
        let due = now.saturating_sub(told) >= TELL_EVERY || now < told;
        if due && self.told.compare_exchange(told, now, Relaxed, Relaxed).is_ok() {
            warn!(%id, %failure, %policy, failed, "a message could not be signed");
        } else {
            debug!(%id, %failure, %policy, "a message could not be signed");
        }
    }
}

/// A key or rule that is not as it should be: where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningError {
    /// Keys of the configuration, such as `dkim.news.key`.
    pub at: String,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for SigningError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.text)
    }
}

impl std::error::Error for SigningError {}

/// One identity, with its key of the moment.
#[derive(Debug)]
pub(crate) struct Signer {
    /// Its name in the configuration.
    pub(crate) name: Box<str>,
    config: DkimConfig,
    /// None until Vault has given the key.
    identity: ArcSwapOption<Identity>,
    /// The file as it was when it was last read, or found wrong.
    stamp: Mutex<Option<Stamp>>,
    /// Why the key was not had, when it was last asked for.
    trouble: Mutex<Option<String>>,
}

impl Signer {
    /// Takes a key into use; true if it is another one than before.
    fn put(&self, key: SigningKey) -> bool {
        let same =
            self.identity.load().as_ref().is_some_and(|identity| identity.key.public() == key.public());
        if !same {
            self.identity.store(Some(Arc::new(identity(&self.config, Arc::new(key)))));
        }
        !same
    }

    /// What is wrong with the key, if that is known.
    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// An identity as the settings say, with a key.
pub fn identity(config: &DkimConfig, key: Arc<SigningKey>) -> Identity {
    let oversigned =
        |name: &str| config.oversign.iter().any(|other| other.as_str().eq_ignore_ascii_case(name));
    let mut headers: Vec<SignedName> =
        config.headers.iter().map(|name| SignedName::new(name.as_str(), oversigned(name.as_str()))).collect();
    for name in &config.oversign {
        if !headers.iter().any(|known| known.name.eq_ignore_ascii_case(name.as_str())) {
            headers.push(SignedName::new(name.as_str(), true));
        }
    }
    Identity {
        domain: config.domain.0.clone(),
        selector: config.selector.0.0.clone(),
        key,
        canonicalization: config.canonicalization.0,
        headers,
        expires_after: config.expires_after.as_secs(),
        identity: config.identity.as_deref().map(Box::from),
    }
}

#[derive(Debug)]
struct Rule {
    rule: SignRule,
    signers: Vec<Arc<Signer>>,
}

/// All identities and rules, ready.
#[derive(Debug)]
pub struct Signing {
    config: SigningConfig,
    signers: Vec<Arc<Signer>>,
    by_domain: HashMap<Box<str>, Vec<Arc<Signer>>>,
    rules: Vec<Rule>,
    vault: Option<Vault>,
    threads: Threads,
}

impl Default for Signing {
    /// Nobody signs.
    fn default() -> Self {
        let config = SigningConfig::default();
        let (signers, by_domain, rules) = (Vec::new(), HashMap::new(), Vec::new());
        Self { config, signers, by_domain, rules, vault: None, threads: Threads::new(1) }
    }
}

impl Signing {
    /// Reads the keys and makes all of it ready; those in Vault come with [`Signing::fetch`].
    pub fn new(
        dkim: &BTreeMap<String, DkimConfig>,
        sign: &[SignRule],
        config: &SigningConfig,
        vault: Option<Vault>,
    ) -> Result<Self, SigningError> {
        let mut signers = Vec::with_capacity(dkim.len());
        for (name, config) in dkim {
            signers.push(Arc::new(signer(name, config)?));
        }
        let mut by_domain: HashMap<Box<str>, Vec<Arc<Signer>>> = HashMap::new();
        for signer in &signers {
            by_domain.entry(signer.config.domain.as_str().into()).or_default().push(signer.clone());
        }
        let mut rules = Vec::with_capacity(sign.len());
        for (n, rule) in sign.iter().enumerate() {
            let mut named = Vec::with_capacity(rule.identities.len());
            for name in &rule.identities {
                let signer = signers.iter().find(|signer| *signer.name == **name);
                let unknown = || SigningError {
                    at: format!("sign.{n}.identities"),
                    text: format!("there is no identity {}", settings::quote(name)),
                };
                named.push(signer.ok_or_else(unknown)?.clone());
            }
            rules.push(Rule { rule: rule.clone(), signers: named });
        }
        let threads = match config.threads {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            set => set,
        };
        let threads = Threads::new(threads);
        Ok(Self { config: config.clone(), signers, by_domain, rules, vault, threads })
    }

    /// True if no message is ever signed, nor missed to be.
    pub(crate) fn is_idle(&self) -> bool {
        self.signers.is_empty()
            && self.config.unmatched == Unsigned::Send
            && self.config.options_from.is_empty()
    }

    pub(crate) fn config(&self) -> &SigningConfig {
        &self.config
    }

    /// Reads again the files that have changed. What cannot be read leaves the key that is in use.
    pub(crate) fn refresh(&self) {
        for signer in &self.signers {
            let Some(path) = &signer.config.key else { continue };
            let now = Stamp::of(path);
            let mut known = signer.stamp.lock().unwrap_or_else(PoisonError::into_inner);
            if now == *known {
                continue;
            }
            *known = now;
            match read_key(path) {
                Ok(file) => {
                    *known = Some(file.stamp);
                    if signer.put(file.key) {
                        info!(identity = %signer.name, file = %path.display(), "a DKIM key has changed and is used");
                    }
                }
                Err(error) => {
                    warn!(identity = %signer.name, file = %path.display(), %error, "a DKIM key cannot be read again, the one before stays in use");
                }
            }
        }
    }

    /// Uses the keys that another one had from Vault until they are fetched again.
    pub(crate) fn take_over(&self, former: &Self) {
        for signer in self.signers.iter().filter(|signer| signer.identity.load().is_none()) {
            let same = |other: &&Arc<Signer>| {
                other.name == signer.name && other.config.key_vault == signer.config.key_vault
            };
            if let Some(had) = former.signers.iter().find(same).and_then(|other| other.identity.load_full()) {
                signer.identity.store(Some(Arc::new(identity(&signer.config, had.key.clone()))));
            }
        }
    }

    /// Fetches the keys that are kept in Vault. What cannot be had leaves the key that is in use.
    pub async fn fetch(&self) {
        let Some(vault) = &self.vault else { return };
        for signer in &self.signers {
            let Some(path) = &signer.config.key_vault else { continue };
            let key = match vault.read(path).await {
                Ok(text) => SigningKey::parse(text.as_bytes()).map_err(|error| error.to_string()),
                Err(error) => {
                    warn!(identity = %signer.name, path = %**path, %error, "a DKIM key cannot be fetched from Vault");
                    signer.set_trouble(Some(error.to_string()));
                    if matches!(error, VaultError::Away(_)) {
                        // It is no nearer for the others, and each would wait as long.
                        return;
                    }
                    continue;
                }
            };
            match key {
                Ok(key) => {
                    signer.set_trouble(None);
                    if signer.put(key) {
                        info!(identity = %signer.name, path = %**path, "a DKIM key from Vault is used");
                    }
                }
                Err(error) => {
                    warn!(identity = %signer.name, path = %**path, %error, "what Vault has is no DKIM key to sign with");
                    signer.set_trouble(Some(error));
                }
            }
        }
    }

    /// The fields that sign a message, back to back, to be put in front of it.
    pub(crate) async fn sign(
        &self,
        content: Content,
        by: &[Chosen],
        kept: Option<&KeptSignatures>,
        figures: Arc<SigningFigures>,
    ) -> Result<Vec<u8>, Failure> {
        // Two sites that want the same message signed at once wait for one signature, not for two.
        let mut guard = match kept {
            Some(kept) => Some(kept.0.lock().await),
            None => None,
        };
        let now = unix_seconds();
        let identities: Vec<Arc<Identity>> = by.iter().map(Chosen::identity).collect::<Result<_, _>>()?;
        let mut fields: Vec<Option<Bytes>> = vec![None; by.len()];
        if let Some(kept) = &guard {
            let fresh = self.config.fresh.as_secs();
            for (field, identity) in fields.iter_mut().zip(&identities) {
                let known = kept.iter().find(|known| {
                    Arc::ptr_eq(&known.identity, identity) && known.made <= now && now - known.made <= fresh
                });
                *field = known.map(|known| known.field.clone());
            }
        }
        let wanted: Vec<usize> = (0..by.len()).filter(|n| fields[*n].is_none()).collect();
        figures.again.fetch_add((by.len() - wanted.len()) as u64, Relaxed);
        if !wanted.is_empty() {
            let missing: Vec<Arc<Identity>> = wanted.iter().map(|n| identities[*n].clone()).collect();
            let inline = content.len() <= INLINE_MAX_OCTETS
                && missing.iter().all(|identity| identity.key.kind() == KeyKind::Ed25519);
            let counts = figures.clone();
            let made = if inline {
                make(&content, &missing, now, &counts)
            } else {
                let made = self.threads.run(move || make(&content, &missing, now, &counts)).await;
                made.unwrap_or(Err((0, SignError::Key(SigningKeyError::Library))))
            };
            let made = made.map_err(|(n, error)| {
                let name = wanted.get(n).and_then(|n| by.get(*n)).map_or("", |chosen| &chosen.signer.name);
                Failure(format!("dkim.{name} could not sign it: {error}"))
            })?;
            for (n, field) in wanted.into_iter().zip(made) {
                if let Some(kept) = &mut guard {
                    kept.retain(|known| !Arc::ptr_eq(&known.identity, &identities[n]));
                    if kept.len() < KEPT_MAX {
                        kept.push(Kept { identity: identities[n].clone(), made: now, field: field.clone() });
                    }
                }
                fields[n] = Some(field);
            }
        }
        Ok(fields.into_iter().flatten().collect::<Vec<Bytes>>().concat())
    }
}

fn signer(name: &str, config: &DkimConfig) -> Result<Signer, SigningError> {
    let fault = |key: &str, text: String| SigningError { at: format!("dkim.{name}.{key}"), text };
    let (key, stamp) = match (&config.key, &config.key_text) {
        (Some(path), _) => {
            let file =
                read_key(path).map_err(|error| fault("key", format!("{}: {error}", path.display())))?;
            if file.exposed {
                warn!(identity = name, file = %path.display(), "every user of this machine can read this DKIM key: chmod o-r");
            }
            (Some(file.key), Some(file.stamp))
        }
        (None, Some(_)) => (Some(config.read().map_err(|(key, text)| fault(key, text))?), None),
        (None, None) => (None, None),
    };
    // The text of a key is of no more use, and what is not there cannot be printed.
    let config = DkimConfig { key_text: None, ..config.clone() };
    let identity = key.map(|key| Arc::new(identity(&config, Arc::new(key))));
    Ok(Signer {
        name: name.into(),
        config,
        identity: ArcSwapOption::new(identity),
        stamp: Mutex::new(stamp),
        trouble: Mutex::new(None),
    })
}

/// Signs for each identity; on failure tells which.
fn make(
    content: &Content,
    identities: &[Arc<Identity>],
    now: u64,
    figures: &SigningFigures,
) -> Result<Vec<Bytes>, (usize, SignError)> {
    let began = Instant::now();
    let made = (|| {
        let mut unsigned =
            mailauth::dkim::Unsigned::new([&content.prefix, &content.body]).map_err(|error| (0, error))?;
        let mut fields = Vec::with_capacity(identities.len());
        for (n, identity) in identities.iter().enumerate() {
            let field = unsigned.prepare(identity, now).and_then(|prepared| prepared.sign());
            fields.push(Bytes::from(field.map_err(|error| (n, error))?));
            let count = match identity.key.kind() {
                KeyKind::Rsa => &figures.rsa,
                KeyKind::Ed25519 => &figures.ed25519,
            };
            count.fetch_add(1, Relaxed);
        }
        Ok(fields)
    })();
    figures.nanoseconds.fetch_add(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX), Relaxed);
    made
}

/// Looks at the files of keys from time to time, until the server stops.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut stopped = shared.stopped();
    loop {
        let signing = shared.settings().signing.clone();
        tokio::select! {
            () = stopped.wait() => return,
            () = tokio::time::sleep(signing.config.key_check) => {}
        }
        // A reload may have come meanwhile.
        let signing = shared.settings().signing.clone();
        signing.fetch().await;
        if signing.signers.iter().any(|signer| signer.config.key.is_some()) {
            let _ = tokio::task::spawn_blocking(move || signing.refresh()).await;
        }
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// Why a message is not signed.
#[derive(Clone, Debug)]
pub(crate) struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Signatures of one message, kept while it goes to other sites.
#[derive(Debug, Default)]
pub(crate) struct KeptSignatures(tokio::sync::Mutex<Vec<Kept>>);

#[derive(Debug)]
struct Kept {
    /// As it was then: another key makes another identity.
    identity: Arc<Identity>,
    /// Seconds since 1970.
    made: u64,
    field: Bytes,
}
