//! Certificates that the server gets for itself, for tables under `tls` that say `acme`: got when there is none, renewed
//! before they end, one after the other. What is in use stays in use until a better one is there.

use crate::root::Root;
use crate::server::Server;
use acme::{AcmeError, Authority, Challenges, Memory, Store, renewal};
use anyhow::Context as _;
use mail::{Domain, UnixMillis};
use net::tls::{CertificateFiles, Certificates, Expiry};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use tokio::task::{block_in_place, spawn_blocking};
use tracing::{info, warn};

/// The longest between two looks at what is due.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(3_600);

/// What is known of one certificate.
#[derive(Clone, Debug)]
struct State {
    names: Vec<Domain>,
    /// Its end, and when its turn comes; `None` while there is none of use.
    until: Option<(UnixMillis, UnixMillis)>,
    memory: Memory,
}

/// What is being done about certificates.
#[derive(Debug, Default)]
pub struct Issuing {
    /// What the authority is answered.
    pub challenges: Challenges,
    states: Mutex<BTreeMap<String, State>>,
    obtained: AtomicU64,
    failed: AtomicU64,
}

impl Issuing {
    /// How orders ended since the start.
    pub fn orders(&self) -> Vec<(String, u64)> {
        vec![("failed".into(), self.failed.load(Relaxed)), ("obtained".into(), self.obtained.load(Relaxed))]
    }

    /// Failures in a row, by certificate.
    pub fn failures(&self) -> Vec<(String, f64)> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.iter().map(|(name, state)| (name.clone(), f64::from(state.memory.failures))).collect()
    }

    /// What stands, for people.
    pub fn status(&self) -> Value {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |(name, state): (&String, &State)| {
            let tries = (state.memory.failures > 0).then_some(state.memory.not_before_ms);
            json!({
                "certificate": name,
                "names": state.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "not_after_ms": state.until.map(|(end, _)| end.0),
                "renews_at_ms": state.until.map(|(_, turn)| turn.0),
                "failures": state.memory.failures,
                "error": (!state.memory.error.is_empty()).then_some(&state.memory.error),
                "tries_again_at_ms": tries,
            })
        };
        states.iter().map(one).collect()
    }

    fn put(&self, wanted: &Wanted, until: Option<(UnixMillis, UnixMillis)>, memory: &Memory) {
        let state = State { names: wanted.names.clone(), until, memory: memory.clone() };
        self.states.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted.name.clone(), state);
    }
}

/// A certificate that the configuration asks for.
struct Wanted {
    name: String,
    names: Vec<Domain>,
    files: CertificateFiles,
    config: acme::Config,
    store: Store,
    seed: u64,
}

fn wanted(root: &Root) -> Vec<Wanted> {
    let of = |(name, table): (&String, &reception::CertificateConfig)| {
        let mut hasher = std::hash::DefaultHasher::new();
        (root.hostname().as_str(), name).hash(&mut hasher);
        Wanted {
            name: name.clone(),
            names: table.acme.iter().map(|name| name.0.clone()).collect(),
            files: root.files_of(name, table),
            config: root.acme.clone(),
            store: Store::new(&root.state_directory()),
            seed: hasher.finish(),
        }
    };
    root.tls.iter().filter(|(_, table)| !table.acme.is_empty()).map(of).collect()
}

impl Wanted {
    fn names(&self) -> Vec<&str> {
        self.names.iter().map(Domain::as_str).collect()
    }

    /// What is asked for, so that failures of another question do not count.
    fn question(&self) -> String {
        format!("{} {} {:?}", self.config.directory.as_str(), self.names().join(" "), self.config.listen)
    }

    /// Its end and its turn.
    fn until(&self, expiry: &Expiry) -> (UnixMillis, UnixMillis) {
        let turn = renewal::due(expiry.not_before, expiry.not_after, self.config.renew_before, self.seed);
        (expiry.not_after, turn)
    }

    /// What is there: the certificate, if it is of use, and what is remembered.
    fn look(&self) -> (Option<Expiry>, Memory) {
        let memory = self.store.memory(&self.name);
        let found = Certificates::examine(&self.files, &self.names());
        let is_from_there = memory.directory == self.config.directory.as_str();
        (found.ok().filter(|_| is_from_there), memory)
    }

    /// Looks at a new certificate as a client would, and takes it.
    fn take(&self, text: &str) -> Result<Expiry, AcmeError> {
        self.store.write_new(&self.name, text)?;
        let new = self.store.new_certificate(&self.name);
        let files = CertificateFiles { chain: new.clone(), key: new, ..CertificateFiles::default() };
        let expiry = Certificates::examine(&files, &self.names())
            .map_err(|error| AcmeError::Answer(format!("the certificate is of no use: {error}")))?;
        if expiry.seconds_left(now()) <= 0 {
            return Err(AcmeError::Answer("the certificate has ended already".into()));
        }
        self.store.take_new(&self.name)?;
        Ok(expiry)
    }
}

fn now() -> UnixMillis {
    SystemTime::now().into()
}

/// Sees to them until the server is gone.
pub(crate) fn start(server: &Arc<Server>) {
    tokio::spawn(run(Arc::downgrade(server)));
}

async fn run(server: Weak<Server>) {
    loop {
        let Some(server) = server.upgrade() else { return };
        let all = server.with_root(wanted);
        {
            let mut states = server.issuing.states.lock().unwrap_or_else(PoisonError::into_inner);
            states.retain(|name, _| all.iter().any(|wanted| wanted.name == *name));
        }
        let every = server.certificates_check_every().min(LOOK_EVERY_MAX);
        for wanted in all {
            see_to(&server, Arc::new(wanted)).await;
        }
        drop(server);
        tokio::time::sleep(every).await;
    }
}

async fn see_to(server: &Arc<Server>, wanted: Arc<Wanted>) {
    let looking = wanted.clone();
    let Ok((found, mut memory)) = spawn_blocking(move || looking.look()).await else { return };
    let until = found.as_ref().map(|expiry| wanted.until(expiry));
    let question = wanted.question();
    if memory.question != question {
        (memory.failures, memory.not_before_ms, memory.error) = (0, 0, String::new());
        memory.question = question;
    }
    server.issuing.put(&wanted, until, &memory);
    let now_ms = now().0;
    if now_ms < memory.not_before_ms || until.is_some_and(|(_, turn)| now_ms < turn.0) {
        return;
    }
    // Remembered before anything is asked: a server that dies over it again and again must not wear the authority out.
    let had = std::mem::replace(&mut memory.error, "the server ended during the last try".into());
    memory.failures = memory.failures.saturating_add(1);
    let (min, max) = (wanted.config.retry_min, wanted.config.retry_max);
    let wait = renewal::wait(memory.failures, min, max, wanted.seed ^ u64::from(memory.failures));
    memory.not_before_ms = now_ms.saturating_add(wait.as_millis() as u64);
    if let Err(error) = block_in_place(|| wanted.store.remember(&wanted.name, &memory)) {
        (memory.error, memory.failures) = (had, memory.failures - 1);
        failed(server, &wanted, until, &mut memory, &error.into());
        return;
    }
    info!(certificate = %wanted.name, names = %wanted.names().join(","), "asking for a certificate");
    match obtain(server, &wanted).await {
        Ok(expiry) => {
            memory.failures = 0;
            memory.error = String::new();
            memory.directory = wanted.config.directory.as_str().to_owned();
            // Whatever its dates say, the next is not asked for at once.
            memory.not_before_ms = now().0.saturating_add(min.as_millis() as u64);
            if let Err(error) = block_in_place(|| wanted.store.remember(&wanted.name, &memory)) {
                warn!(certificate = %wanted.name, %error, "what became of the certificate cannot be remembered");
            }
            server.issuing.obtained.fetch_add(1, Relaxed);
            server.issuing.put(&wanted, Some(wanted.until(&expiry)), &memory);
            let days = expiry.days_left(now());
            info!(certificate = %wanted.name, days, "certificate obtained, and shown from now on");
        }
        Err(error) => failed(server, &wanted, until, &mut memory, &error),
    }
}

async fn obtain(server: &Arc<Server>, wanted: &Arc<Wanted>) -> Result<Expiry, AcmeError> {
    let ca_file = wanted.config.ca_file.clone();
    let tls = block_in_place(|| net::tls::client_config(ca_file.as_deref()).context("acme.ca_file"))
        .map_err(|error| AcmeError::Store(format!("{error:#}")))?;
    let challenges = server.issuing.challenges.clone();
    let authority = Authority::new(&wanted.config, tls, wanted.store.clone(), challenges);
    let text = authority.obtain(&wanted.names).await?;
    let expiry = block_in_place(|| wanted.take(&text))?;
    block_in_place(|| server.reload_certificates()).map_err(AcmeError::Store)?;
    Ok(expiry)
}

fn failed(
    server: &Server,
    wanted: &Wanted,
    until: Option<(UnixMillis, UnixMillis)>,
    memory: &mut Memory,
    error: &AcmeError,
) {
    memory.error = error.to_string();
    // What was remembered before the try holds, if this cannot be.
    let _ = block_in_place(|| wanted.store.remember(&wanted.name, memory));
    server.issuing.failed.fetch_add(1, Relaxed);
    server.issuing.put(wanted, until, memory);
    let in_use = match until {
        Some(_) => "the old one stays in use",
        None => "clients see one that nobody vouches for",
    };
    let again_s = memory.not_before_ms.saturating_sub(now().0) / 1_000;
    let name = &wanted.name;
    warn!(certificate = %name, %error, failures = memory.failures, again_s, "no new certificate; {in_use}");
    let text = format!("no certificate for {}; {in_use}: {error}", wanted.names().join(", "));
    server.delivery.tell(&format!("certificate {name}"), text);
}
