//! The whole configuration: every room's tables under one roof.

use crate::cli::DoctorConfig;
use crate::http::{HttpConfig, TenantConfig};
use crate::pickup::PickupConfig;
use crate::policies::PolicyConfig;
use delivery::{
    DkimConfig, DsnConfig, PoolConfig, RetryConfig, RouteConfig, SignRule, SigningConfig, SourceConfig,
    TlsPolicyConfig, TlsUse,
};
use mail::Domain;
use net::tls::CertificateFiles;
use reception::{
    CertificateConfig, ListenerConfig, ListenerTls, ReceptionConfig, RelayConfig, ReportsConfig,
    TagHeadersConfig, UserConfig, VerifyConfig,
};
use routing::AssignRule;
use settings::{Node, Problems, Size, Text};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

settings::table! {
    /// The configuration of a server.
    #[check(Root::check)]
    pub struct Root {
        /// This server's name in greetings, Received fields and notifications; left out, the machine's own.
        pub hostname: Option<Text<Domain>> = None,
        /// The process: user, memory, stopping.
        pub server: ServerConfig = ServerConfig::default(),
        /// What is written to standard error.
        pub log: LogConfig = LogConfig::default(),
        /// The HTTP listener: messages, questions and orders, metrics.
        pub http: HttpConfig = HttpConfig::default(),
        /// A directory that programs on this machine put messages into.
        pub pickup: PickupConfig = PickupConfig::default(),
        /// Where mail comes in; the key is a name of your choice.
        pub listener: BTreeMap<String, ListenerConfig> = BTreeMap::new(),
        /// Limits and choices of an SMTP session.
        pub smtp: smtp::server::SessionConfig = smtp::server::SessionConfig::default(),
        /// Who may send to whom through this server.
        pub relay: RelayConfig = RelayConfig::default(),
        /// Who may authenticate; the key is the user's name.
        pub users: BTreeMap<String, UserConfig> = BTreeMap::new(),
        /// Those whose mail is kept apart; the key is the tenant's name.
        pub tenant: BTreeMap<String, TenantConfig> = BTreeMap::new(),
        /// Rules that give tags to messages, in the order in which they are tried.
        pub assign: Vec<AssignRule> = Vec::new(),
        /// Header fields that tag messages, for listeners with `tag_headers`.
        pub tag_headers: TagHeadersConfig = TagHeadersConfig::default(),
        /// Certificates that listeners show; the key is a name of your choice.
        pub tls: BTreeMap<String, CertificateConfig> = BTreeMap::new(),
        /// The authority that certificates are got from.
        pub acme: acme::Config = acme::Config::default(),
        /// How mail of strangers is verified, at listeners with `verify`.
        pub verify: VerifyConfig = VerifyConfig::default(),
        /// Aggregate reports of DMARC, of what those listeners take.
        pub dmarc_reports: ReportsConfig = ReportsConfig::default(),
        /// What reception does besides.
        pub reception: ReceptionConfig = ReceptionConfig::default(),
        /// Whom the operator has asked at each phase of a session.
        pub policy: PolicyConfig = PolicyConfig::default(),
        /// Accepted messages on disk.
        pub spool: spool::Config = spool::Config::default(),
        /// How mail leaves.
        pub delivery: delivery::Config = delivery::Config::default(),
        /// When a deferred recipient is tried again.
        pub retry: RetryConfig = RetryConfig::default(),
        /// What failures mean.
        pub bounce: bounce::BounceConfig = bounce::BounceConfig::default(),
        /// Who is not written to.
        pub suppression: suppression::SuppressionConfig = suppression::SuppressionConfig::default(),
        /// Rules that put recipients on the suppression list. Without any, nobody gets on it by himself.
        pub suppress: Vec<outcomes::SuppressRule> = Vec::new(),
        /// What mail carries so that reports about it find it again.
        pub returns: bounce::ReturnsConfig = bounce::ReturnsConfig::default(),
        /// Rules that say whose mail leaves with a reverse-path for each recipient (VERP), in the order in which they are
        /// tried.
        pub verp: Vec<bounce::VerpRule> = Vec::new(),
        /// How readers unsubscribe with one click.
        pub unsubscribe: bounce::UnsubscribeConfig = bounce::UnsubscribeConfig::default(),
        /// Addresses whose mail is read as bounces and complaints.
        pub feedback: Vec<outcomes::FeedbackConfig> = Vec::new(),
        /// Mail about mail.
        pub dsn: DsnConfig = DsnConfig::default(),
        /// Egress sources: addresses that mail leaves from; the key is a name of your choice.
        pub source: BTreeMap<String, SourceConfig> = BTreeMap::new(),
        /// Egress pools: weighted sources; the key is a name of your choice.
        pub pool: BTreeMap<String, PoolConfig> = BTreeMap::new(),
        /// DKIM identities: keys, and the domains that they sign for; the key is a name of your choice.
        pub dkim: BTreeMap<String, DkimConfig> = BTreeMap::new(),
        /// Rules that say who signs a message, in the order in which they are tried. Without any, the identities of the
        /// From field's domain sign.
        pub sign: Vec<SignRule> = Vec::new(),
        /// A HashiCorp Vault that keys can be kept in.
        pub vault: vault::Config = vault::Config::default(),
        /// How messages are signed, and what if they cannot be.
        pub signing: SigningConfig = SigningConfig::default(),
        /// What receivers tolerate.
        pub shaping: shaping::ShapingConfig = shaping::ShapingConfig::default(),
        /// Counters over time.
        pub stats: outcomes::RollupsConfig = outcomes::RollupsConfig::default(),
        /// Webhooks that records are posted to; the key is a name of your choice, of letters, digits, `-` and `_`.
        pub webhook: BTreeMap<String, outcomes::WebhookConfig> = BTreeMap::new(),
        /// Who is told when something is worth a person's look.
        pub notify: notify::Config = notify::Config::default(),
        /// Static routes; the key is a domain, `*.domain`, or `*`.
        pub route: BTreeMap<String, RouteConfig> = BTreeMap::new(),
        /// Transport security by recipient domain; the key is a domain, `*.domain`, or `*`.
        pub tls_policy: BTreeMap<String, TlsPolicyConfig> = BTreeMap::new(),
        /// Reports to receiving domains of how TLS went.
        pub tls_reports: delivery::TlsReportsConfig = delivery::TlsReportsConfig::default(),
        /// Policies of receiving domains about TLS.
        pub mta_sts: resolve::StsConfig = resolve::StsConfig::default(),
        /// Names to addresses.
        pub dns: resolve::Config = resolve::Config::default(),
        /// What `tuma doctor` asks.
        pub doctor: DoctorConfig = DoctorConfig::default(),
        /// Records of what became of every recipient.
        pub accounting: accounting::AccountingConfig = accounting::AccountingConfig::default(),
    }
}

settings::table! {
    /// The process.
    pub struct ServerConfig {
        /// The user to become once sockets are bound; only when started as root.
        pub user: Option<String> = None,
        /// The group to become; left out, the user's own.
        pub group: Option<String> = None,
        /// Octets of memory to stay within; 0 is half of what the cgroup or the machine has. Messages being
        /// received get a quarter of it, messages on their way to a first attempt a sixteenth.
        pub memory_max: Size = Size(0),
        /// Make a certificate for the moment when there is none in `tls`. For trying out: no client can check it.
        pub self_signed: bool = false,
        /// How often the files of certificates are looked at; what has changed is taken without a reload.
        #[in(1s..=1d)]
        pub certificates_check_every: Duration = Duration::from_secs(60),
        /// People are told of a certificate that ends within this time, once a day.
        #[in(0s..=365d)]
        pub certificates_warn_before: Duration = Duration::from_secs(14 * 86_400),
        /// Threads that serve sessions; 0 is one for each core.
        #[in(0..=1024)]
        pub threads: usize = 0,
        /// File descriptors kept free for files and deliveries: with fewer, accepting pauses.
        #[in(16..=100_000)]
        pub descriptors_reserve: u64 = 64,
        /// Folder for what must outlive the process beside the mail: operator orders, and what is remembered of sites.
        /// Left out, the folder `state` beside the spool's.
        pub state_directory: Option<PathBuf> = None,
        /// How long a stop waits for what is in flight, both ways.
        #[in(0s..=10m)]
        pub stop_timeout: Duration = Duration::from_secs(30),
    }
}

settings::words! {
    /// The form of log lines.
    pub enum LogFormat {
        /// For people.
        Text,
        /// One JSON object a line.
        Json,
    }
}

settings::table! {
    /// What is written to standard error.
    #[check(LogConfig::check)]
    pub struct LogConfig {
        /// `error`, `warn`, `info`, `debug` or `trace`; or by room, such as `info,delivery=debug`. Can be changed
        /// at run time with `tuma log-level`.
        pub level: String = "info".into(),
        /// The form of the lines.
        pub format: LogFormat = LogFormat::Text,
    }
}

impl LogConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.level.parse::<tracing_subscriber::filter::Targets>().is_err() {
            problems
                .error(node.at("level"), "`level` is not a log level")
                .hint("write error, warn, info, debug or trace, or by room: info,delivery=debug");
        }
    }
}

impl Root {
    fn check(&self, node: &Node, problems: &mut Problems) {
        for (name, listener) in &self.listener {
            if listener.tls != ListenerTls::Off && self.tls.is_empty() && !self.server.self_signed {
                problems
                    .error(
                        node.at(&format!("listener.{name}.tls")),
                        "this listener needs a certificate and there is none",
                    )
                    .hint("add a table such as [tls.default] with `certificate` and `key`");
            }
            if !listener.auth.is_empty() && self.users.is_empty() {
                problems.warning(
                    node.at(&format!("listener.{name}.auth")),
                    "AUTH is offered, but there are no `users`",
                );
            }
        }
        self.check_acme(node, problems);
        self.check_assign(node, problems);
        self.check_dane(node, problems);
        match delivery::egress(&self.source, &self.pool, self.delivery.default_pool.as_deref()) {
            Ok(egress) => self.check_pools(&egress, node, problems),
            Err(error) => {
                problems.error(node.at(&error.at), error.text);
            }
        }
        for name in self.webhook.keys() {
            // It names a folder.
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
                problems
                    .error(
                        node.at("webhook"),
                        format!("a webhook cannot be called {}", settings::quote(name)),
                    )
                    .hint("write letters, digits, `-` and `_`, at most 64");
            }
        }
        if let Err((place, text)) = bounce::ClassRules::compile([&self.bounce.class[..]]) {
            // Each pattern was read with its table; what is left is that they are too many together.
            problems.error(place, format!("bounce.class: {text}"));
        }
        crate::feedback::check(self, node, problems);
        self.check_keys(node, problems);
        self.check_sign(node, problems);
        if let Err((key, text)) = delivery::Routes::new(&self.route) {
            problems.error(node.at("route"), format!("route `{key}`: {text}"));
        }
        if let Err((key, text)) = delivery::TlsPolicies::new(&self.tls_policy) {
            problems.error(node.at("tls_policy"), format!("tls_policy `{key}`: {text}"));
        }
    }

    /// Certificates that are got need an authority that was agreed with, and somebody who answers it.
    fn check_acme(&self, node: &Node, problems: &mut Problems) {
        if let Some(name) = &self.http.tls
            && !self.tls.contains_key(name)
        {
            let known = self.tls.keys().map(String::as_str);
            let hint = match settings::nearest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "add it as a table under `tls`".to_owned(),
            };
            let text = format!("no certificate is called {}", settings::quote(name));
            problems.error(node.at("http.tls"), text).hint(hint);
        }
        for (name, table) in &self.tls {
            if table.acme.is_empty() {
                continue;
            }
            let at = || node.at(&format!("tls.{name}.acme"));
            // It names files.
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
                problems
                    .error(
                        at(),
                        format!("a certificate that is got cannot be called {}", settings::quote(name)),
                    )
                    .hint("write letters, digits, `-` and `_`, at most 64");
            }
            if !self.acme.terms_agreed {
                problems
                    .error(
                        at(),
                        "the authority gives certificates to those who agree to its terms of service",
                    )
                    .hint("read them, and write `terms_agreed = true` in [acme]");
            }
            if self.acme.listen.is_none() && self.http.listen.is_none() {
                problems
                    .error(at(), "nobody would answer the authority when it checks these names")
                    .hint("write `listen = \"0.0.0.0:80\"` in [acme]");
            }
        }
    }

    /// TLSA records count only where DNSSEC vouches for them.
    fn check_dane(&self, node: &Node, problems: &mut Problems) {
        if self.dns.dnssec != resolve::DnssecUse::Off {
            return;
        }
        let mut wanted = Vec::new();
        wanted.extend((self.delivery.tls == TlsUse::Dane).then(|| "delivery.tls".to_owned()));
        let of = |(key, policy): (&String, &TlsPolicyConfig)| {
            (policy.tls == TlsUse::Dane).then(|| format!("tls_policy.{key}.tls"))
        };
        wanted.extend(self.tls_policy.iter().filter_map(of));
        for at in wanted {
            problems
                .error(node.at(&at), "TLSA records need DNSSEC, which is off")
                .hint("add `dnssec = \"validate\"` to [dns], with name servers that pass signatures on, or `\"trust\"` with a validating one on this machine");
        }
        for (key, route) in &self.route {
            if route.tls == Some(TlsUse::Dane) {
                problems
                    .error(
                        node.at(&format!("route.{key}.tls")),
                        "a route's next hop is not looked up for TLSA records",
                    )
                    .hint("write `verified`");
            }
        }
    }

    /// A rule about a listener or a user that is not there never holds.
    fn check_assign(&self, node: &Node, problems: &mut Problems) {
        let users: Vec<&str> =
            self.users.iter().map(|(key, user)| user.name.as_deref().unwrap_or(key)).collect();
        let listeners: Vec<&str> = self.listener.keys().map(String::as_str).collect();
        for (n, rule) in self.assign.iter().enumerate() {
            for (m, name) in rule.listeners.iter().enumerate() {
                if !listeners.contains(&name.as_str()) {
                    let place = node.at(&format!("assign.{n}.listeners.{m}"));
                    problems
                        .error(place, format!("no listener is called {}", settings::quote(name)))
                        .hint(format!("there is {}", listeners.join(", ")));
                }
            }
            for (m, name) in rule.users.iter().enumerate() {
                if name != "*" && !users.contains(&name.as_str()) {
                    // Others may come by XCLIENT.
                    let place = node.at(&format!("assign.{n}.users.{m}"));
                    let text = format!("no user is called {}", settings::quote(name));
                    problems.warning(place, text).hint("a name that only XCLIENT gives is fine here");
                }
            }
        }
    }

    /// A key that cannot be used is told of where its file is named, and not by the first message it should sign.
    fn check_keys(&self, node: &Node, problems: &mut Problems) {
        for (name, identity) in &self.dkim {
            if identity.key_vault.is_some() && self.vault.address.is_none() {
                problems
                    .error(node.at(&format!("dkim.{name}.key_vault")), "there is no Vault to ask")
                    .hint("add a table [vault] with `address` and `token_file`");
            }
        }
        for (n, name) in self.signing.options_from.iter().enumerate() {
            if !self.listener.contains_key(name) {
                problems
                    .error(
                        node.at(&format!("signing.options_from.{n}")),
                        format!("no listener is called {}", settings::quote(name)),
                    )
                    .hint(format!(
                        "there is {}",
                        self.listener.keys().cloned().collect::<Vec<_>>().join(", ")
                    ));
            }
        }
        let own = self.dkim.iter().filter_map(|(name, identity)| Some((name, "key", identity.key.as_ref()?)));
        let next = self
            .dkim
            .iter()
            .filter_map(|(name, identity)| Some((name, "next.key", &identity.next.as_ref()?.key)));
        for (name, key, path) in own.chain(next) {
            let place = node.at(&format!("dkim.{name}.{key}"));
            let shown = settings::quote(&path.display().to_string());
            match delivery::read_key(path) {
                Ok(file) if file.exposed => {
                    problems
                        .warning(place, format!("every user of this machine can read the key {shown}"))
                        .hint("take that away: chmod o-r");
                }
                Ok(_) => {}
                Err(error) => {
                    problems.error(place, format!("{shown} gives no key to sign with: {error}"));
                }
            }
        }
    }

    /// A rule about a source that is not there never holds, and an identity that is not there never signs.
    fn check_sign(&self, node: &Node, problems: &mut Problems) {
        let mut check = |at: String, what: &str, name: &str, known: &[&str], others: &str| {
            if known.contains(&name) {
                return;
            }
            let hint = match settings::nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => others.to_owned(),
            };
            problems.error(node.at(&at), format!("no {what} is called {}", settings::quote(name))).hint(hint);
        };
        let identities: Vec<&str> = self.dkim.keys().map(String::as_str).collect();
        let sources: Vec<&str> = match self.source.is_empty() {
            true => vec!["default"],
            false => self.source.keys().map(String::as_str).collect(),
        };
        if let Some(name) = &self.verify.arc_seal {
            check(
                "verify.arc_seal".to_owned(),
                "identity",
                name,
                &identities,
                "add it as a table under `dkim`",
            );
        }
        for (n, rule) in self.sign.iter().enumerate() {
            for (m, name) in rule.identities.iter().enumerate() {
                let at = format!("sign.{n}.identities.{m}");
                check(at, "identity", name, &identities, "add it as a table under `dkim`");
            }
            for (m, name) in rule.sources.iter().enumerate() {
                check(format!("sign.{n}.sources.{m}"), "source", name, &sources, "add it under `source`");
            }
        }
    }

    /// Every pool that is named must be there.
    fn check_pools(&self, egress: &dispatch::Egress, node: &Node, problems: &mut Problems) {
        let mut named: Vec<(String, &str)> = Vec::new();
        for (name, listener) in &self.listener {
            named.extend(
                listener.pool.as_deref().map(|pool| (format!("listener.{name}.pool"), pool.as_str())),
            );
        }
        for (name, user) in &self.users {
            named.extend(user.pool.as_deref().map(|pool| (format!("users.{name}.pool"), pool.as_str())));
        }
        for (name, tenant) in &self.tenant {
            let pools = tenant.pools.iter().enumerate();
            named.extend(pools.map(|(n, pool)| (format!("tenant.{name}.pools.{n}"), pool.as_str())));
        }
        for (n, rule) in self.assign.iter().enumerate() {
            named.extend(rule.pool.as_deref().map(|pool| (format!("assign.{n}.pool"), pool.as_str())));
        }
        for (n, rule) in self.sign.iter().enumerate() {
            let pools = rule.pools.iter().enumerate();
            named.extend(pools.map(|(m, pool)| (format!("sign.{n}.pools.{m}"), pool.as_str())));
        }
        named.extend(self.dsn.pool.as_deref().map(|pool| ("dsn.pool".to_owned(), pool)));
        for (at, name) in named {
            if egress.pool(name).is_some() {
                continue;
            }
            let near = settings::nearest(name, egress.pools.iter().map(|pool| &*pool.name));
            let hint = near.map_or_else(
                || "add it as a table under `pool`, or a source of that name".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            problems.error(node.at(&at), format!("there is no pool `{name}`")).hint(hint);
        }
    }

    /// Where the process keeps what must outlive it.
    pub fn state_directory(&self) -> PathBuf {
        self.server.state_directory.clone().unwrap_or_else(|| self.spool.directory.with_file_name("state"))
    }

    /// This server's name.
    pub fn hostname(&self) -> Domain {
        let machine = || {
            let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
            Domain::parse(&name).ok()
        };
        self.hostname
            .as_ref()
            .map(|name| name.0.clone())
            .or_else(machine)
            .unwrap_or_else(|| Domain::parse("localhost").expect("localhost is a domain"))
    }

    /// PEM files of the certificates, by name.
    pub fn certificate_files(&self) -> Vec<CertificateFiles> {
        let mut all: Vec<(&String, &CertificateConfig)> = self.tls.iter().collect();
        // The first is shown to those who ask for no name.
        all.sort_by_key(|(name, _)| name.as_str() != "default");
        all.into_iter().map(|(name, table)| self.files_of(name, table)).collect()
    }

    /// The files of one table under `tls`: those that it names, or those of a certificate that is got.
    pub(crate) fn files_of(&self, name: &str, table: &CertificateConfig) -> CertificateFiles {
        if let (Some(chain), Some(key)) = (&table.certificate, &table.key) {
            return CertificateFiles { chain: chain.clone(), key: key.clone(), stand_in: Vec::new() };
        }
        let file = acme::Store::new(&self.state_directory()).certificate(name);
        let stand_in = table.acme.iter().map(|name| name.to_string()).collect();
        CertificateFiles { chain: file.clone(), key: file, stand_in }
    }

    /// The files of the certificate that the HTTP listener shows, if it speaks HTTPS.
    pub(crate) fn http_certificate_files(&self) -> Option<CertificateFiles> {
        if let Some(name) = &self.http.tls {
            return self.tls.get(name).map(|table| self.files_of(name, table));
        }
        let (chain, key) = (self.http.certificate.clone()?, self.http.key.clone()?);
        Some(CertificateFiles { chain, key, stand_in: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::path::Path;

    fn repository() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.."))
    }

    #[test]
    fn the_whole_is_sound() {
        assert_eq!(settings::mistakes(&<Root as settings::Setting>::schema()), Vec::<String>::new());
    }

    #[test]
    fn the_reference_is_fresh() {
        let folder = repository().join("docs/reference");
        assert_eq!(config::stale(&folder.join("config.md"), &config::reference::<Root>()), None);
        assert_eq!(config::stale(&folder.join("config.schema.json"), &config::json_schema::<Root>()), None);
    }

    #[test]
    fn the_examples_are_right_with_nothing_in_the_environment() {
        let mut count = 0;
        for entry in std::fs::read_dir(repository().join("examples")).expect("the folder of examples") {
            let path = entry.expect("an example").path();
            if path.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            if path.ends_with("campaign.toml") {
                // Traffic for `tuma simulate`, which has a test of its own.
                continue;
            }
            let loaded = config::load::<Root>(&path, &|_| None).unwrap_or_else(|report| panic!("{report}"));
            assert_eq!(loaded.warnings.to_string(), "", "{}", path.display());
            count += 1;
        }
        assert!(count >= 2, "{count} examples");
    }

    /// What the pages show is taken, block by block.
    #[test]
    fn the_configurations_in_the_guide_are_right() {
        for page in [
            "docs/guide.md",
            "docs/haraka.md",
            "docs/http.md",
            "docs/outcomes.md",
            "docs/policy.md",
            "docs/tls.md",
            "docs/verification.md",
        ] {
            let text = std::fs::read_to_string(repository().join(page)).expect("the page");
            let blocks: Vec<&str> =
                text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
            assert!(!blocks.is_empty());
            for block in blocks {
                let loaded = config::load_text::<Root>(page, block, &|name| Some(format!("{name}.test")));
                loaded.unwrap_or_else(|report| panic!("{report}"));
            }
        }
    }

    /// What the page about DKIM shows is taken, block by block, with a key where it names one.
    #[test]
    fn the_configurations_about_dkim_are_right() {
        let text = std::fs::read_to_string(repository().join("docs/dkim.md")).expect("the page");
        let folder = tempfile::tempdir().expect("a folder");
        let pem = mailauth::dkim::SigningKey::generate_ed25519().and_then(|key| key.to_pem()).expect("a key");
        let blocks: Vec<String> = text
            .split("```toml\n")
            .skip(1)
            .filter_map(|rest| {
                Some(rest.split("```").next()?.lines().map(str::trim_start).collect::<Vec<_>>().join("\n"))
            })
            .collect();
        assert!(blocks.len() >= 6, "{}", blocks.len());
        for block in blocks {
            for file in block.split('"').filter(|text| text.ends_with(".pem")) {
                let name = file.rsplit('/').next().expect("a name");
                std::fs::write(folder.path().join(name), &pem).expect("write the key");
            }
            let block = block.replace("/etc/tuma/dkim", folder.path().to_str().expect("text"));
            let mut whole = format!(
                "{block}\n[listener.submission]\nlisten = \"127.0.0.1:587\"\n[source.s]\n[pool.bulk]\nsources = {{ s = 1 }}\n"
            );
            if block.contains("[dkim.a-example.next]") {
                whole += &format!(
                    "[dkim.a-example]\ndomain = \"a.example\"\nselector = \"s2026\"\nkey_text = \"\"\"{pem}\"\"\"\n"
                );
            }
            let loaded =
                config::load_text::<Root>("docs/dkim.md", &whole, &|name| Some(format!("{name}.test")));
            loaded.unwrap_or_else(|report| panic!("{report}"));
        }
    }

    /// What is printed of a configuration that is wrong.
    fn printed(text: &str) -> String {
        match config::load_text::<Root>("tuma.toml", text, &|_| None) {
            Ok(loaded) => panic!("taken: {:?}", loaded.value.assign),
            Err(report) => report.to_string(),
        }
    }

    #[test]
    fn mistakes_in_rules_about_tags_are_shown_where_they_stand() {
        let printed = printed(
            r#"[listener.smtp]
listen = "127.0.0.1:25"
pool = " "

[[assign]]
listeners = ["smtp", "stmp"]
tenant = "t"

[[assign]]
senders = ["a b@c.test"]
header = { name = "X Stream", match = "(" }

[[assign]]
senders = ["a@b.test"]

[tag_headers]
job = "x-job:"
"#,
        );
        for expected in [
            "tuma.toml:3:8: error: `listener.smtp.pool` must be a tag text, not the text ` `",
            "help: it is empty",
            "tuma.toml:10:12: error: `assign[1].senders[0]` must be an address pattern, not the text `a b@c.test`",
            "help: before the `@` comes a local part, or `*` alone",
            "tuma.toml:11:19: error: `assign[1].header.name` must be a field name, not the text `X Stream`",
            "tuma.toml:11:39: error: `assign[1].header.match` must be a regex, not the text `(`",
            "help: unclosed group",
            "tuma.toml:13:1: error: this rule assigns nothing",
            "tuma.toml:17:7: error: `tag_headers.job` must be a tag field, not the text `x-job:`",
        ] {
            assert!(printed.contains(expected), "{expected}\nis not in\n{printed}");
        }
        let printed = self::printed(
            "[listener.smtp]\nlisten = \"127.0.0.1:25\"\n[[assign]]\nlisteners = [\"smtp\", \"stmp\"]\ntenant = \"t\"\n",
        );
        assert!(printed.contains("tuma.toml:4:22: error: no listener is called `stmp`"), "{printed}");
        assert!(printed.contains("help: there is smtp"), "{printed}");
    }
}
