//! MTA-STS (RFC 8461): the policies that domains publish for the TLS of mail to them.
//!
//! A policy that was fetched holds as long as it says, also over a restart, whatever becomes of the record or its
//! host meanwhile: who can suppress them must not make mail go in the clear. A domain without a policy, or whose policy
//! cannot be fetched and never was, has none.

mod policy;
mod store;

pub use policy::{POLICY_OCTETS_MAX, StsMode, StsPolicy, StsPolicyError, sts_id};

use crate::memo::Memo;
use crate::{Answer, Https, HttpsError, HttpsRequest, Resolver};
use mail::{Domain, UnixMillis};
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tracing::{debug, info, warn};

/// After a policy could not be fetched it is not tried again for this long (RFC 8461 §3.3).
const FETCH_AGAIN: Duration = Duration::from_secs(300);
/// How long what was found out about a domain is believed without asking for its record again, at most and at least.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(60));
/// A kept policy older than this is fetched again in good time, so that who blocks its host gains nothing.
const REFRESH_AFTER: Duration = Duration::from_secs(86_400);
/// Policies fetched again in one pass.
const REFRESH_AT_ONCE: usize = 64;
/// Memory for what is believed of domains, in octets: some 20,000 of them.
const BELIEVED_OCTETS_MAX: usize = 8 << 20;

settings::table! {
    /// MTA-STS (RFC 8461): policies of receiving domains about TLS.
    pub struct StsConfig {
        /// Ask for them and keep to them, where `tls` is not `off`.
        pub enabled: bool = true,
        /// How long fetching a policy may take.
        #[in(100ms..=5m)]
        pub fetch_timeout: Duration = Duration::from_secs(30),
        /// Policies fetched at once.
        #[in(1..=1_000)]
        pub fetches_max: u32 = 32,
        /// Policies kept, also over a restart. Beyond it those of further domains are fetched each time.
        #[in(1..=1_000_000)]
        pub policies_max: u32 = 20_000,
        /// PEM file of the certificates that may vouch for policy hosts; left out, the machine's own.
        pub ca_file: Option<PathBuf> = None,
        /// The port that policy hosts are asked at.
        #[in(1..=65_535)]
        pub port: u16 = 443,
    }
}

/// What went wrong with a domain's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StsFault {
    /// It could not be fetched.
    Fetch(Box<str>),
    /// The certificate of its host is not good.
    Certificate(Box<str>),
    /// It is malformed.
    Invalid(Box<str>),
}

impl fmt::Display for StsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetch(why) => write!(f, "the policy could not be fetched: {why}"),
            Self::Certificate(why) => write!(f, "the policy host's certificate is not verified: {why}"),
            Self::Invalid(why) => f.write_str(why),
        }
    }
}

/// What is known of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sts {
    /// The policy that holds, be it the one fetched now or one kept from before.
    pub policy: Option<Arc<StsPolicy>>,
    /// What went wrong with the current one.
    pub fault: Option<StsFault>,
}

/// A policy as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    id: Box<str>,
    policy: Arc<StsPolicy>,
    fetched_at: UnixMillis,
}

impl Kept {
    fn lives(&self, now: UnixMillis) -> bool {
        let age = now.0.saturating_sub(self.fetched_at.0);
        u128::from(age) < self.policy.max_age.as_millis()
    }

    fn is_old(&self, now: UnixMillis) -> bool {
        let age = u128::from(now.0.saturating_sub(self.fetched_at.0));
        age > REFRESH_AFTER.as_millis().min(self.policy.max_age.as_millis() / 2)
    }
}

/// Figures.
#[derive(Debug, Default)]
pub struct StsFigures {
    /// Policies fetched.
    pub fetched: AtomicU64,
    /// Fetches that failed.
    pub failed: AtomicU64,
}

/// The policies of all domains.
pub struct StsPolicies {
    resolver: Arc<dyn Resolver>,
    https: Https,
    config: StsConfig,
    believed: Memo<Domain, Sts>,
    kept: Mutex<HashMap<Domain, Kept>>,
    file: Option<PathBuf>,
    changed: AtomicBool,
    /// Figures.
    pub figures: StsFigures,
}

impl fmt::Debug for StsPolicies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StsPolicies").field("file", &self.file).finish_non_exhaustive()
    }
}

impl StsPolicies {
    /// Policies kept in `file`, if there is one to be.
    pub fn open(resolver: Arc<dyn Resolver>, https: Https, config: StsConfig, file: Option<PathBuf>) -> Self {
        let kept =
            file.as_deref().map(|file| store::read(file, config.policies_max as usize)).unwrap_or_default();
        Self {
            resolver,
            https,
            config,
            believed: Memo::new(BELIEVED_OCTETS_MAX, |domain, sts| {
                domain.as_str().len()
                    + sts.policy.as_ref().map_or(0, |p| p.mx.iter().map(|mx| mx.len() + 16).sum())
            }),
            kept: Mutex::new(kept),
            file,
            changed: AtomicBool::new(false),
            figures: StsFigures::default(),
        }
    }

    /// The policy of a domain. Many who ask for one domain at once cause one fetch.
    pub async fn policy(&self, domain: &Domain) -> Sts {
        if !self.config.enabled {
            return Sts::default();
        }
        self.believed.get_or(domain, || self.look(domain, false)).await.0
    }

    /// Policies kept now.
    pub fn kept(&self) -> usize {
        self.lock().len()
    }

    /// Fetches kept policies again that are getting old, some at a time; to be called every hour or so.
    pub async fn refresh(&self) {
        let now = UnixMillis::from(SystemTime::now());
        let old: Vec<Domain> = {
            let mut kept = self.lock();
            let before = kept.len();
            kept.retain(|_, kept| kept.lives(now));
            if kept.len() != before {
                self.changed.store(true, Relaxed);
            }
            kept.iter()
                .filter(|(_, kept)| kept.is_old(now))
                .map(|(d, _)| d.clone())
                .take(REFRESH_AT_ONCE)
                .collect()
        };
        for domain in old {
            let found = self.look(&domain, true).await;
            debug!(%domain, found = ?found.0.policy.map(|policy| policy.mode), "policy refreshed");
        }
    }

    /// Writes the kept policies down if they have changed. Waits for the disk: not for a task of the event loop.
    pub fn save(&self) {
        let Some(file) = &self.file else { return };
        if !self.changed.swap(false, Relaxed) {
            return;
        }
        let text = store::text(&self.lock());
        if let Err(error) = store::write(file, &text) {
            warn!(file = %file.display(), %error, "MTA-STS policies could not be written down");
            self.changed.store(true, Relaxed);
        }
    }

    /// What holds for a domain now, and for how long that is believed.
    async fn look(&self, domain: &Domain, refresh: bool) -> (Sts, Duration) {
        let now = UnixMillis::from(SystemTime::now());
        let kept = self.lock().get(domain).filter(|kept| kept.lives(now)).cloned();
        let record = self.resolver.txt(&format!("_mta-sts.{domain}")).await;
        let (id, ttl) = match &record {
            Answer::Found(texts, ttl) => (sts_id(texts.iter().map(|text| &**text)), *ttl),
            Answer::NoData(ttl) | Answer::NxDomain(ttl) => (None, *ttl),
            Answer::Temporary(_) => (None, FETCH_AGAIN),
        };
        let (longest, shortest) = LOOK_AGAIN;
        let ttl = ttl.clamp(shortest, longest);
        let of_kept = |fault| Sts { policy: kept.as_ref().map(|kept| kept.policy.clone()), fault };
        let Some(id) = id else {
            // A policy once known holds to its end, whatever has become of the record (RFC 8461 §5.1).
            return (of_kept(None), ttl);
        };
        if kept.as_ref().is_some_and(|kept| kept.id == id && !(refresh || kept.is_old(now))) {
            return (of_kept(None), ttl);
        }
        match self.fetch(domain).await {
            Ok(policy) => {
                self.figures.fetched.fetch_add(1, Relaxed);
                let policy = Arc::new(policy);
                let is_news = kept.is_none_or(|kept| kept.policy.mode != policy.mode);
                if is_news {
                    info!(%domain, mode = policy.mode.word(), %id, "MTA-STS policy");
                }
                self.keep(domain, Kept { id, policy: policy.clone(), fetched_at: now }, now);
                (Sts { policy: Some(policy), fault: None }, ttl)
            }
            Err(fault) => {
                self.figures.failed.fetch_add(1, Relaxed);
                debug!(%domain, %fault, "no MTA-STS policy");
                (of_kept(Some(fault)), FETCH_AGAIN)
            }
        }
    }

    async fn fetch(&self, domain: &Domain) -> Result<StsPolicy, StsFault> {
        let host = Domain::parse(&format!("mta-sts.{domain}"))
            .map_err(|_| StsFault::Fetch("the domain is too long to have a policy host".into()))?;
        let request = HttpsRequest {
            host: &host,
            port: self.config.port,
            path: "/.well-known/mta-sts.txt",
            body: None,
            wanted: Some("text/plain"),
            answer_max: POLICY_OCTETS_MAX,
            timeout: self.config.fetch_timeout,
        };
        let text = self.https.request(request).await.map_err(|error| match error {
            HttpsError::Certificate(why) => StsFault::Certificate(why),
            other => StsFault::Fetch(other.to_string().into()),
        })?;
        StsPolicy::parse(&text).map_err(|error| StsFault::Invalid(error.to_string().into()))
    }

    fn keep(&self, domain: &Domain, new: Kept, now: UnixMillis) {
        let mut kept = self.lock();
        let most = self.config.policies_max as usize;
        if kept.len() >= most && !kept.contains_key(domain) {
            kept.retain(|_, kept| kept.lives(now));
            // Who makes many domains must not push out the policies of others.
            if kept.len() >= most {
                return;
            }
        }
        kept.insert(domain.clone(), new);
        self.changed.store(true, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Domain, Kept>> {
        // Nothing in here can panic half-way.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
