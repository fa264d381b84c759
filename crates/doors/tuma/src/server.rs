//! Builds the rooms from the configuration, hands them to each other, and runs them until told to stop.

use crate::config::{self, Loaded};
use crate::http::{self, Http};
use crate::issuing::Issuing;
use crate::memory;
use crate::policies::{self, Tallies};
use crate::root::{Root, ServerConfig};
use accounting::{Metrics, Recorder};
use anyhow::{Context as _, Result, bail};
use delivery::{Delivery, Keeper, Parts, Sources};
use mail::Domain;
use net::tls::{Acceptor, AcceptorConfig, CertificateFiles, Certificates, Connector, ConnectorConfig};
use net::trace::Traces;
use net::{Bound, Descriptors, Destinations, DestinationsConfig, Judgement, Limits, OwnAddresses, TcpDialer};
use outcomes::{Rollups, Suppressor, WebhookConfig, Webhooks};
use reception::auth::{Users, Verifier};
use reception::{
    Budget, Context, ListenerConfig, ListenerContext, ListenerTls, RelayRules, Rules, TagRules, UserTags,
    VerifyRules,
};
use routing::Assign;
use spool::{LoadEvent, Loaded as LoadedMessage, Spool};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};
use suppression::Suppression;
use tokio::sync::mpsc;
use tracing::{error, info, warn};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Registry, reload};

/// Changes what is logged while the server runs.
pub type LogLevel = reload::Handle<Targets, Registry>;

/// Where the configuration comes from, again at each reload.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A text of our own: `--dev`.
    Text(String),
}

impl Source {
    /// Reads it.
    pub fn load(&self) -> Result<Loaded<Root>, Box<config::Report>> {
        match self {
            Self::File(path) => config::load(path, &config::process_environment),
            Self::Text(text) => config::load_text("(--dev)", text, &config::process_environment),
        }
    }
}

/// Sockets bound before privileges are given up and before threads begin.
pub struct Sockets {
    listeners: Vec<(String, ListenerConfig, Bound)>,
    http: Option<std::net::TcpListener>,
    /// Where an authority is answered while it checks names.
    acme: Option<std::net::TcpListener>,
    descriptors: Descriptors,
}

impl Sockets {
    /// Binds every listener of the configuration.
    pub fn bind(root: &Root) -> Result<Self> {
        let descriptors = Descriptors::raise();
        let mut listeners = Vec::new();
        for (name, config) in &root.listener {
            let bound = Bound::bind(config.listen, &net::ListenerConfig::default())
                .with_context(|| format!("listener.{name}"))?;
            listeners.push((name.clone(), config.clone(), bound));
        }
        let http = root
            .http
            .listen
            .map(|address| {
                std::net::TcpListener::bind(address).with_context(|| format!("http.listen {address}"))
            })
            .transpose()?;
        let acme = root
            .acme
            .listen
            .filter(|_| root.tls.values().any(|table| !table.acme.is_empty()))
            .map(|address| {
                std::net::TcpListener::bind(address).with_context(|| format!("acme.listen {address}"))
            })
            .transpose()?;
        Ok(Self { listeners, http, acme, descriptors })
    }

    /// Where mail is taken.
    pub fn addresses(&self) -> Vec<(String, SocketAddr)> {
        self.listeners.iter().map(|(name, _, bound)| (name.clone(), bound.local_addr())).collect()
    }

    /// Where HTTP is answered.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http.as_ref().and_then(|socket| socket.local_addr().ok())
    }
}

/// The server at work.
pub struct Server {
    source: Source,
    /// As it was when sockets, spool and resolver were made.
    started: Root,
    root: Mutex<Root>,
    /// Intake.
    pub reception: Arc<Context>,
    /// Delivery.
    pub delivery: Delivery,
    /// The spool.
    pub spool: Spool,
    /// Accounting.
    pub recorder: Arc<Recorder>,
    /// Who is not written to.
    pub suppression: Suppression,
    /// Who records are posted to.
    pub webhooks: Arc<Webhooks>,
    /// Counters over time, where they are kept.
    pub rollups: Option<Arc<Rollups>>,
    /// Who puts them there by rule.
    pub suppressor: Arc<Suppressor>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The log's level.
    pub log_level: LogLevel,
    /// HTTP's own.
    pub http: Arc<Http>,
    /// Who watches sessions.
    pub traces: Arc<Traces>,
    /// Certificates that the server gets for itself.
    pub issuing: Arc<Issuing>,
    certificates: Option<Arc<Certificates>>,
    judge: Judge,
    tallies: Arc<Tallies>,
    dns: Arc<resolve::Cached>,
    listening: Vec<SocketAddr>,
    listener_configs: Vec<(String, ListenerConfig)>,
    /// When the server began.
    pub since: Instant,
}

/// The certificates that listeners show, if any.
fn certificates(root: &Root) -> Result<Option<Arc<Certificates>>> {
    let files = root.certificate_files();
    if files.is_empty() {
        return if root.server.self_signed {
            Ok(Some(Certificates::self_signed(&[root.hostname().as_str()])?))
        } else {
            Ok(None)
        };
    }
    Ok(Some(Certificates::load(&files).context("tls")?))
}

fn rules(root: &Root, policy: Option<Arc<dyn policy::Policy>>) -> Rules {
    let session = smtp::server::Config { hostname: root.hostname(), session: root.smtp.clone() };
    let mut in_clear = session.clone();
    in_clear.session.auth_without_tls = true;
    let known: HashMap<Box<str>, Verifier> = root
        .users
        .iter()
        .filter_map(|(key, user)| {
            let name = user.name.as_ref().unwrap_or(key);
            let verifier = match (&user.password, &user.password_hash) {
                (Some(password), _) => Some(Verifier::of(password)),
                (None, Some(hash)) => Verifier::parse(hash),
                (None, None) => None,
            };
            verifier.map(|verifier| (name.as_str().into(), verifier))
        })
        .collect();
    Rules {
        hostname: root.hostname(),
        session: Arc::new(session),
        session_auth_in_clear: Arc::new(in_clear),
        relay: RelayRules::new(&root.relay),
        users: Arc::new(Users::new(known)),
        tags: tag_rules(root),
        verify: VerifyRules::new(&root.verify, &root.hostname(), sealer(root)),
        policy,
        // What could be wrong with it was found when the configuration was read.
        report_reader: crate::feedback::reader(root).unwrap_or_else(|error| {
            error!(%error, "reports on mail cannot be read");
            None
        }),
        reception: root.reception.clone(),
        suppressed: (root.suppression.at_rcpt == suppression::AtRcpt::Reject)
            .then(|| root.suppression.refusal()),
        recipients_queued_max: root.delivery.recipients_queued_max,
    }
}

/// Who seals mail that was verified.
fn sealer(root: &Root) -> Option<mailauth::arc::Sealer> {
    let name = root.verify.arc_seal.as_ref()?;
    let config = root.dkim.get(name)?;
    // A key that cannot be read was told of when the configuration was; one that has gone since seals nothing.
    let key = match (&config.key, &config.key_text) {
        (Some(path), _) => delivery::read_key(path).map(|file| file.key).map_err(|error| error.to_string()),
        (None, Some(text)) => {
            mailauth::dkim::SigningKey::parse(text.as_bytes()).map_err(|error| error.to_string())
        }
        (None, None) => Err("there is none".to_owned()),
    };
    match key {
        Ok(key) => Some(mailauth::arc::Sealer {
            domain: config.domain.0.clone(),
            selector: config.selector.0.0.clone(),
            key: Arc::new(key),
        }),
        Err(error) => {
            error!(identity = %name, %error, "no key to seal mail with");
            None
        }
    }
}

fn tag_rules(root: &Root) -> TagRules {
    // A configuration whose pools are wrong was refused before.
    let egress = egress(root).unwrap_or_default();
    let tagged = root.users.iter().filter(|(_, user)| user.tenant.is_some() || user.pool.is_some());
    let users = tagged.map(|(key, user)| {
        let tags = UserTags { tenant: user.tenant.as_deref().cloned(), pool: user.pool.as_deref().cloned() };
        (user.name.as_ref().unwrap_or(key).as_str().into(), tags)
    });
    TagRules {
        assign: Assign::compile(&root.assign),
        headers: root.tag_headers.clone(),
        users: users.collect(),
        kept: root.accounting.kept_fields(),
        pools: egress.pools.iter().map(|pool| (&*pool.name).into()).collect(),
    }
}

fn egress(root: &Root) -> Result<dispatch::Egress> {
    Ok(delivery::egress(&root.source, &root.pool, root.delivery.default_pool.as_deref())?)
}

fn delivery_settings(loaded: &Loaded<Root>) -> Result<delivery::Settings> {
    let root = &loaded.value;
    let (rules, make_rules) = crate::traffic::rules(loaded)?;
    let ehlo_name = root.delivery.ehlo_name.clone().unwrap_or_else(|| root.hostname().to_string());
    let hostname = root.hostname();
    let routes =
        delivery::Routes::new(&root.route).map_err(|(key, text)| anyhow::anyhow!("route `{key}`: {text}"))?;
    let webhook = webhook(root).context("notify")?;
    Ok(delivery::Settings {
        notify: root.notify.clone(),
        webhook,
        hostname,
        schedule: root.retry.schedule(),
        retry: root.retry.clone(),
        dsn: root.dsn.clone(),
        routes,
        tls_policies: delivery::TlsPolicies::new(&root.tls_policy)
            .map_err(|(key, text)| anyhow::anyhow!("tls_policy `{key}`: {text}"))?,
        tls_reports: root.tls_reports.clone(),
        signing: Arc::new(delivery::Signing::new(&root.dkim, &root.sign, &root.signing, vault(root)?)?),
        sources: Sources::new(&root.source, egress(root)?, &ehlo_name, &connector_config(root))
            .context("source")?,
        rules,
        classes: Arc::new(crate::classes::rules(root)?),
        returns: crate::feedback::returns(root),
        report_addresses: root.feedback.iter().flat_map(|entry| &entry.to).map(|to| to.0.clone()).collect(),
        suppressed: root.suppression.refusal(),
        make_rules,
        run_max: 100,
        hot_bytes_max: memory::budget(root.server.memory_max.bytes()) / 16,
        delivery: root.delivery.clone(),
    })
}

/// How TLS is spoken to next hops.
fn connector_config(root: &Root) -> ConnectorConfig {
    ConnectorConfig {
        ca_file: root.delivery.tls_ca_file.clone(),
        session_servers_max: root.delivery.tls_sessions_max as usize,
        client: None,
    }
}

/// The Vault that keys are kept in.
pub(crate) fn vault(root: &Root) -> Result<Option<vault::Vault>> {
    let tls = if root.vault.is_secure() {
        Some(net::tls::client_config(root.vault.ca_file.as_deref()).context("vault.ca_file")?)
    } else {
        None
    };
    Ok(vault::Vault::new(&root.vault, tls))
}

/// The webhooks with what they are reached by.
fn webhook_targets(root: &Root) -> Result<BTreeMap<String, (WebhookConfig, notify::Target)>> {
    let target = |(name, config): (&String, &WebhookConfig)| {
        let url = config.url.clone().into_inner();
        let tls = if url.is_secure() {
            Some(
                net::tls::client_config(config.ca_file.as_deref())
                    .with_context(|| format!("webhook.{name}"))?,
            )
        } else {
            None
        };
        let target = notify::Target {
            url,
            tls,
            timeout: config.timeout,
            waits: Vec::new(),
            server: root.hostname().to_string(),
        };
        Ok((name.clone(), (config.clone(), target)))
    };
    root.webhook.iter().map(target).collect()
}

/// Where notices are posted.
fn webhook(root: &Root) -> Result<Option<Arc<notify::Target>>> {
    let notify = &root.notify;
    let Some(url) = notify.webhook.clone() else { return Ok(None) };
    let tls = if url.is_secure() {
        Some(net::tls::client_config(notify.webhook_ca_file.as_deref())?)
    } else {
        None
    };
    Ok(Some(Arc::new(notify::Target {
        url: url.into_inner(),
        tls,
        timeout: notify.webhook_timeout,
        waits: notify.webhook_waits.clone(),
        server: root.hostname().to_string(),
    })))
}

fn destinations(root: &Root, listening: &[SocketAddr]) -> Result<Destinations> {
    let own = OwnAddresses::of_this_machine(listening).context("list this machine's addresses")?;
    let allow = root.delivery.allow.iter().map(memory::ip_net).collect();
    Ok(Destinations::new(DestinationsConfig { allow, ..DestinationsConfig::default() }, own))
}

/// Threads that serve sessions.
fn threads(root: &Root) -> usize {
    match root.server.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        set => set,
    }
}

fn reception_budget(root: &Root) -> u64 {
    match root.reception.messages_in_memory_max.bytes() {
        0 => memory::budget(root.server.memory_max.bytes()) / 4,
        set => set,
    }
}

impl Server {
    /// Opens the spool, starts every room, and begins to take mail.
    pub async fn start(
        source: Source,
        loaded: &Loaded<Root>,
        sockets: Sockets,
        log_level: LogLevel,
    ) -> Result<Arc<Self>> {
        let root = loaded.value.clone();
        let certificates = certificates(&root)?;
        let tallies = Arc::new(Tallies::default());
        // One memory for what all rooms ask.
        let dns = Arc::new(resolve::Cached::new(Arc::new(resolve::Dns::new(&root.dns)?), &root.dns));
        let policy = policies::load(&root.policy, threads(&root), &tallies, dns.clone()).await?;
        let (spool, loader) = spool::open_directory(&root.spool.directory, &root.spool)?;
        let keeper = Keeper::open(&root.state_directory())?;
        let metrics = Arc::new(Metrics::new());
        tallies.register(&metrics);
        let recorder = Arc::new(Recorder::open(&root.accounting, metrics.clone())?);
        let suppression = tokio::task::block_in_place(|| {
            Suppression::open(&root.state_directory(), root.suppression.entries_max)
        });
        let suppression = suppression.context("the suppression list")?;
        let suppressor = Suppressor::start(root.suppress.clone(), suppression.clone());
        recorder.tell(suppressor.clone());
        let webhooks = Webhooks::new(&root.state_directory().join("webhooks"));
        tokio::task::block_in_place(|| webhooks.reconfigure(&webhook_targets(&root)?).context("webhook"))?;
        recorder.tell(webhooks.clone());
        // Without it nobody is told of records, and the way of mail pays nothing.
        let rollups = match root.stats.enabled {
            true => Some(
                tokio::task::block_in_place(|| Rollups::open(&root.state_directory(), &root.stats))
                    .context("stats")?,
            ),
            false => None,
        };
        rollups.iter().for_each(|rollups| recorder.tell(rollups.clone()));
        let listening: Vec<SocketAddr> =
            sockets.listeners.iter().map(|(_, _, bound)| bound.local_addr()).collect();
        let destinations = destinations(&root, &listening)?;
        let judge = Judge::new(destinations.clone(), root.delivery.port);
        let names = names(&root, dns.clone(), judge.clone())?;
        let (intake, accepted) = mpsc::channel(root.reception.intake_max as usize);
        let (loaded_in, loaded_messages) = mpsc::channel(8);
        let seed =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(7, |d| d.as_nanos() as u64);
        let settings = delivery_settings(loaded)?;
        // Before any mail needs them.
        settings.signing.fetch().await;
        let traces = Arc::<Traces>::default();
        let delivery = Delivery::start(
            Parts {
                settings,
                spool: spool.clone(),
                recorder: recorder.clone(),
                suppression: suppression.clone(),
                routes: names.routes,
                resolver: dns.clone(),
                https: names.https,
                reports: Arc::new(delivery::TlsReports::open(
                    Some(root.state_directory().join("tls-reports.json")),
                    &root.tls_reports,
                )),
                sts: names.sts,
                dnssec: names.dnssec,
                dialer: Arc::new(TcpDialer),
                traces: traces.clone(),
                connector: Connector::new(&connector_config(&root)).context("certificates of authorities")?,
                destinations,
                intake: intake.clone(),
                seed,
            },
            keeper,
            accepted,
            loaded_messages,
        );
        let queued = delivery.queued();
        let queued_now = queued.clone();
        let reception = Context::new(
            rules(&root, policy),
            spool.clone(),
            recorder.clone(),
            suppression.clone(),
            intake,
            Arc::new(move || queued_now.get()),
            dns.clone(),
            Budget::new(reception_budget(&root)),
        );
        reception.trace(traces.clone());
        if root.dmarc_reports.enabled {
            let folder = root.state_directory().join("dmarc");
            let collector = reception::Collector::start(&folder, &root.dmarc_reports)
                .with_context(|| format!("dmarc_reports: {}", folder.display()))?;
            reception.collect_reports(collector.clone());
            tokio::spawn(reception::report(reception.clone(), collector, root.dmarc_reports.clone()));
        }
        let http = Arc::new(Http::open(&root, &root.state_directory())?);
        load_in_background(loader, loaded_in, metrics.clone(), http.clone())?;
        let limits = Limits::new(
            net::LimitsConfig {
                connections_max: root.reception.connections_max,
                connections_per_network_max: root.reception.connections_per_network_max,
                network_prefix_v4_bits: root.reception.network_prefix_v4_bits,
                network_prefix_v6_bits: root.reception.network_prefix_v6_bits,
                networks_unlimited: root.reception.networks_unlimited.iter().map(memory::ip_net).collect(),
                descriptors_reserve: root.server.descriptors_reserve,
                ..net::LimitsConfig::default()
            },
            sockets.descriptors,
        );
        let mut listener_configs = Vec::new();
        for (name, config, bound) in sockets.listeners {
            let acceptor = match (&certificates, config.tls) {
                (_, ListenerTls::Off) | (None, _) => None,
                (Some(certificates), _) => Some(Acceptor::new(
                    certificates.clone(),
                    &AcceptorConfig {
                        handshake_timeout: root.reception.tls_handshake_timeout,
                        client_ca_file: config.client_ca_file.clone(),
                        ..AcceptorConfig::default()
                    },
                )?),
            };
            let listener = ListenerContext::new(&name, config.clone(), acceptor);
            listener_configs.push((name, config));
            tokio::spawn(reception::serve(reception.clone(), listener, bound.start(limits.clone())?));
        }
        let server = Arc::new(Self {
            source,
            started: root.clone(),
            root: Mutex::new(root),
            reception,
            delivery,
            spool,
            recorder,
            suppression,
            suppressor,
            webhooks,
            rollups,
            metrics,
            log_level,
            http,
            traces,
            issuing: Arc::default(),
            certificates,
            judge,
            tallies,
            dns: dns.clone(),
            listening,
            listener_configs,
            since: Instant::now(),
        });
        crate::gauges::register(&server, &queued, &limits, &dns);
        if let Some(socket) = sockets.http {
            http::start(server.clone(), socket)?;
        }
        if let Some(socket) = sockets.acme {
            socket.set_nonblocking(true)?;
            let socket = tokio::net::TcpListener::from_std(socket)?;
            tokio::spawn(server.issuing.challenges.clone().serve(socket));
        }
        crate::pickup::start(&server);
        crate::certificates::watch(&server);
        crate::issuing::start(&server);
        Ok(server)
    }

    /// Reads the configuration again and puts it in force whole; on any mistake nothing changes.
    pub async fn reload(&self) -> Result<String, String> {
        let loaded =
            tokio::task::block_in_place(|| self.source.load()).map_err(|report| report.to_string())?;
        let root = loaded.value.clone();
        let settings =
            tokio::task::block_in_place(|| delivery_settings(&loaded)).map_err(|e| format!("{e:#}"))?;
        let destinations = destinations(&root, &self.listening).map_err(|e| format!("{e:#}"))?;
        // Everything that can fail comes first, so that a bad configuration changes nothing.
        let level: Targets = root.log.level.parse().map_err(|_| "log.level is not a level".to_owned())?;
        let policy = policies::load(&root.policy, threads(&root), &self.tallies, self.dns.clone()).await;
        let policy = policy.map_err(|e| format!("{e:#}"))?;
        let rules = tokio::task::block_in_place(|| rules(&root, policy));
        let files = root.certificate_files();
        if !files.is_empty() {
            Certificates::load(&files).map_err(|e| e.to_string())?;
        }
        self.recorder.reconfigure(&root.accounting).map_err(|e| e.to_string())?;
        if let Some(certificates) = &self.certificates
            && !files.is_empty()
        {
            certificates.reload(&files).map_err(|e| e.to_string())?;
        }
        let _ = self.log_level.reload(level);
        tokio::task::block_in_place(|| {
            let targets = webhook_targets(&root).map_err(|e| format!("{e:#}"))?;
            self.webhooks.reconfigure(&targets).map_err(|e| format!("webhook: {e}"))
        })?;
        self.suppression.set_entries_max(root.suppression.entries_max);
        self.suppressor.set_rules(root.suppress.clone());
        self.reception.budget.set_max(reception_budget(&root));
        self.reception.set_rules(rules);
        self.judge.set(destinations.clone(), root.delivery.port);
        self.http.reload(&root);
        self.delivery.reload(settings, destinations).await;
        let restart = self.needs_restart(&root);
        *self.root.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = root;
        crate::certificates::remind(self);
        let mut text = "configuration reloaded".to_owned();
        if !restart.is_empty() {
            text += &format!("; needs a restart to take effect: {}", restart.join(", "));
        }
        info!(restart = %restart.join(","), "configuration reloaded");
        Ok(text)
    }

    /// What differs from what runs and is only read at start.
    fn needs_restart(&self, new: &Root) -> Vec<&'static str> {
        let old = &self.started;
        let listeners: Vec<(String, ListenerConfig)> =
            new.listener.iter().map(|(name, config)| (name.clone(), config.clone())).collect();
        let (was, will) = (&old.reception, &new.reception);
        let process = |s: &ServerConfig| {
            (
                s.user.clone(),
                s.group.clone(),
                s.threads,
                s.self_signed,
                s.descriptors_reserve,
                s.state_directory.clone(),
            )
        };
        let parts = [
            ("listener", listeners != self.listener_configs),
            ("spool", new.spool != old.spool),
            ("dns", new.dns != old.dns),
            ("mta_sts", new.mta_sts != old.mta_sts),
            ("stats", new.stats != old.stats),
            ("dmarc_reports", new.dmarc_reports != old.dmarc_reports),
            ("acme.listen", new.acme.listen != old.acme.listen),
            ("http", http_at_start(&new.http) != http_at_start(&old.http)),
            ("server", process(&new.server) != process(&old.server)),
            ("tls", self.certificates.is_none() && !new.tls.is_empty()),
            ("log.format", new.log.format != old.log.format),
            ("reception.connections_max", will.connections_max != was.connections_max),
            (
                "reception.connections_per_network_max",
                will.connections_per_network_max != was.connections_per_network_max,
            ),
            ("reception.network_prefix_v4_bits", will.network_prefix_v4_bits != was.network_prefix_v4_bits),
            ("reception.network_prefix_v6_bits", will.network_prefix_v6_bits != was.network_prefix_v6_bits),
            ("reception.networks_unlimited", will.networks_unlimited != was.networks_unlimited),
            ("delivery.tls_ca_file", new.delivery.tls_ca_file != old.delivery.tls_ca_file),
            ("delivery.tls_sessions_max", new.delivery.tls_sessions_max != old.delivery.tls_sessions_max),
            ("reception.intake_max", will.intake_max != was.intake_max),
        ];
        parts.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }

    /// The memory budget as configured; 0 is by default.
    pub fn memory_max(&self) -> u64 {
        self.root.lock().unwrap_or_else(std::sync::PoisonError::into_inner).server.memory_max.bytes()
    }

    /// Where the configuration comes from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Looks at the configuration in force.
    pub fn with_root<R>(&self, look: impl FnOnce(&Root) -> R) -> R {
        look(&self.root.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The egress sources as configured.
    pub fn source_configs(&self) -> std::collections::BTreeMap<String, delivery::SourceConfig> {
        self.root.lock().unwrap_or_else(std::sync::PoisonError::into_inner).source.clone()
    }

    /// How long a stop waits.
    pub fn stop_timeout(&self) -> Duration {
        self.root.lock().unwrap_or_else(std::sync::PoisonError::into_inner).server.stop_timeout
    }

    /// When each certificate ends.
    pub fn certificate_expiry(&self) -> Vec<net::tls::Expiry> {
        self.certificates.iter().flat_map(|certificates| certificates.expiry()).collect()
    }

    /// The files of certificates as configured, HTTP's last.
    pub(crate) fn certificate_files(&self) -> Vec<CertificateFiles> {
        self.with_root(|root| {
            let mut files = root.certificate_files();
            files.extend(root.http_certificate_files());
            files
        })
    }

    /// Reads the certificates again; on an error the old ones stay.
    pub(crate) fn reload_certificates(&self) -> Result<(), String> {
        let files = self.with_root(Root::certificate_files);
        if let Some(certificates) = &self.certificates
            && !files.is_empty()
        {
            certificates.reload(&files).map_err(|e| e.to_string())?;
        }
        self.http.reload_certificate()
    }

    /// How often their files are looked at.
    pub(crate) fn certificates_check_every(&self) -> Duration {
        self.root.lock().unwrap_or_else(PoisonError::into_inner).server.certificates_check_every
    }

    /// How long before a certificate ends people are told.
    pub(crate) fn certificates_warn_before(&self) -> Duration {
        self.root.lock().unwrap_or_else(PoisonError::into_inner).server.certificates_warn_before
    }

    /// Ends: no new connections, sessions and deliveries may finish what they are at within `limit`, the rest
    /// stays in the spool.
    pub async fn stop(&self, limit: Duration) {
        let deadline = tokio::time::Instant::now() + limit;
        self.reception.start_draining();
        while self.reception.sessions.load(std::sync::atomic::Ordering::Relaxed) > 0
            && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let left =
            deadline.saturating_duration_since(tokio::time::Instant::now()).max(Duration::from_millis(200));
        if !self.delivery.stop(left).await {
            warn!("deliveries under way were cut off; they are tried again at the next start");
        }
        let (spool, recorder) = (self.spool.clone(), self.recorder.clone());
        let (webhooks, http, rollups) = (self.webhooks.clone(), self.http.clone(), self.rollups.clone());
        let _ = tokio::task::spawn_blocking(move || {
            spool.close();
            http.close();
            webhooks.close();
            rollups.iter().for_each(|rollups| rollups.close());
            if !recorder.close(Duration::from_secs(10)) {
                error!("some accounting records could not be written");
            }
        })
        .await;
    }
}

/// What of HTTP is only read at start.
fn http_at_start(config: &http::HttpConfig) -> (Option<SocketAddr>, usize, bool) {
    (config.listen, config.connections_max, config.certificate.is_some() || config.tls.is_some())
}

/// Judges the addresses that DNS gives by the configuration of the moment.
#[derive(Clone)]
struct Judge(Arc<RwLock<(Destinations, u16)>>);

impl Judge {
    fn new(destinations: Destinations, port: u16) -> Self {
        Self(Arc::new(RwLock::new((destinations, port))))
    }

    fn set(&self, destinations: Destinations, port: u16) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = (destinations, port);
    }

    fn judge(&self, ip: IpAddr) -> resolve::AddressVerdict {
        let (destinations, port) = &*self.0.read().unwrap_or_else(PoisonError::into_inner);
        match destinations.judge(SocketAddr::new(ip, *port)) {
            Judgement::Allowed => resolve::AddressVerdict::Allowed,
            Judgement::Own => resolve::AddressVerdict::Own,
            Judgement::Refused(_) => resolve::AddressVerdict::Refused,
        }
    }
}

/// What is asked of name servers and policy hosts.
struct Names {
    routes: resolve::Routes,
    sts: Arc<resolve::StsPolicies>,
    dnssec: Option<Arc<dyn resolve::Authentic>>,
    https: resolve::Https,
}

fn names(root: &Root, resolver: Arc<dyn resolve::Resolver>, judge: Judge) -> Result<Names> {
    let rule: resolve::AddressRule = Arc::new(move |ip| judge.judge(ip));
    let own: Vec<Domain> = vec![root.hostname()];
    let tls = net::tls::client_config(root.mta_sts.ca_file.as_deref()).context("mta_sts.ca_file")?;
    let https = resolve::Https::new(resolver.clone(), rule.clone(), tls, root.mta_sts.fetches_max as usize);
    let file = root.state_directory().join("mta-sts.json");
    let sts = resolve::StsPolicies::open(resolver.clone(), https.clone(), root.mta_sts.clone(), Some(file));
    let dnssec: Option<Arc<dyn resolve::Authentic>> = match root.dns.dnssec {
        resolve::DnssecUse::Off => None,
        resolve::DnssecUse::Validate | resolve::DnssecUse::Trust => {
            Some(Arc::new(resolve::Dnssec::new(&root.dns)?))
        }
    };
    let routes = resolve::Routes::new(resolver, &root.dns, own, rule);
    Ok(Names { routes, sts: Arc::new(sts), dnssec, https })
}

/// Reads what the spool holds from before, on a thread of its own, while mail already flows.
fn load_in_background(
    loader: spool::Loader,
    out: mpsc::Sender<Vec<LoadedMessage>>,
    metrics: Arc<Metrics>,
    http: Arc<Http>,
) -> Result<()> {
    let work = move || {
        let began = Instant::now();
        let (mut messages, mut recipients, mut damaged) = (0u64, 0u64, 0u64);
        let mut batch = Vec::new();
        for event in loader {
            match event {
                LoadEvent::Message(loaded) => {
                    messages += 1;
                    recipients += loaded.pending.len() as u64;
                    metrics.recovered(loaded.pending.len() as u64);
                    if let Some(request) = loaded.message.extras.as_ref().and_then(|extras| extras.request) {
                        http.idempotency.recall(request, loaded.message.id, loaded.message.received_at);
                    }
                    batch.push(*loaded);
                    if batch.len() >= 64 && out.blocking_send(std::mem::take(&mut batch)).is_err() {
                        return;
                    }
                }
                LoadEvent::Damaged(damage) => {
                    damaged += 1;
                    error!(?damage, "the spool holds something damaged");
                }
                LoadEvent::Torn { segment, offset } => {
                    info!(
                        segment,
                        offset, "the last commit before a crash was torn; nobody was told it had been made"
                    );
                }
                LoadEvent::SegmentDone { .. } => {
                    if !batch.is_empty() && out.blocking_send(std::mem::take(&mut batch)).is_err() {
                        return;
                    }
                }
            }
        }
        if !batch.is_empty() {
            let _ = out.blocking_send(batch);
        }
        http.set_loaded();
        let seconds = began.elapsed().as_secs_f64();
        info!(messages, recipients, damaged, seconds, "spool loaded");
    };
    std::thread::Builder::new().name("spool-load".into()).spawn(work).context("start a thread")?;
    Ok(())
}

/// Runs a server until a signal ends it. `ready` is called once mail is taken.
pub fn run(
    source: Source,
    dev: bool,
    ready: impl FnOnce(&Server, &[(String, SocketAddr)], Option<SocketAddr>),
) -> Result<()> {
    let loaded = source.load().map_err(|report| anyhow::anyhow!("{report}"))?;
    let log_level = crate::logging::init(&loaded.value.log)?;
    for line in loaded.warnings.to_string().lines() {
        warn!("{line}");
    }
    if loaded.value.listener.is_empty() {
        bail!(
            "the configuration has no listener: add a table such as [listener.smtp] with `listen = \"0.0.0.0:25\"`"
        );
    }
    let sockets = Sockets::bind(&loaded.value)?;
    give_up_root(&loaded.value, dev)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if loaded.value.server.threads > 0 {
        runtime.worker_threads(loaded.value.server.threads);
    }
    let runtime = runtime.enable_all().thread_name("tuma").build().context("start the runtime")?;
    let addresses = sockets.addresses();
    let http = sockets.http_address();
    let ended = runtime.block_on(async {
        let signals = crate::signals::Signals::listen()?;
        let server = Server::start(source, &loaded, sockets, log_level).await?;
        for (name, address) in &addresses {
            info!(listener = %name, %address, "listening");
        }
        if let Some(address) = http {
            info!(listener = "http", %address, "listening");
        }
        info!("taking mail");
        // Told to the service manager, if there is one.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        ready(&server, &addresses, http);
        signals.until_stopped(&server).await
    });
    // What is still blocked in a read of the disk must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

fn give_up_root(root: &Root, dev: bool) -> Result<()> {
    if !net::privileges::is_root() {
        return Ok(());
    }
    match &root.server.user {
        Some(user) => Ok(net::privileges::drop_to(user, root.server.group.as_deref())?),
        None if dev => {
            warn!("running as root; fine for a try, not for a server");
            Ok(())
        }
        None => {
            warn!("running as root: set `user` in [server] to give that up once the sockets are bound");
            Ok(())
        }
    }
}
