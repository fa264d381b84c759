//! `tuma dkim`: keys from their making to the day when DNS forgets them.

pub(super) mod check;

use crate::config;
use crate::root::Root;
use anyhow::{Context, Result, bail, ensure};
use check::Looked;
use delivery::{DkimConfig, Selector};
use mail::Domain;
use mailauth::dkim::{KeyKind, SigningKey};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Octets of one string of a TXT record (RFC 1035 §3.3).
const STRING_MAX_OCTETS: usize = 255;

/// DKIM keys.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:
  tuma dkim new --domain a.example --selector s2026
  tuma dkim new --domain a.example --selector s2026 --type both --directory /etc/tuma/dkim
  tuma dkim dns
  tuma dkim check
  tuma dkim check news --nameserver 192.0.2.53:53
  tuma dkim rotate news --selector s2027")]
pub(super) enum Dkim {
    /// Make a key: writes its file, and prints the DNS record and the settings.
    New {
        /// The domain that signs.
        #[arg(long)]
        domain: Domain,
        /// The key's name in DNS.
        #[arg(long)]
        selector: Selector,
        /// The kind of key; `both` makes an RSA key and an Ed25519 one beside it, each with a selector of its own.
        #[arg(long = "type", value_name = "TYPE", default_value = "rsa2048")]
        kind: Kind,
        /// Where the key's file goes.
        #[arg(long, default_value = ".")]
        directory: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the DNS records of the identities in the configuration.
    Dns {
        #[command(flatten)]
        of: Of,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ask DNS whether it has the records, whether they fit the keys, and what to do if not. Fails if something is to be
    /// done.
    Check {
        #[command(flatten)]
        of: Of,
        /// Ask this name server instead of those in the configuration.
        #[arg(long, value_name = "ADDRESS:PORT")]
        nameserver: Option<SocketAddr>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Begin to replace a key: makes the new one beside the old, and prints the steps.
    Rotate {
        /// The identity's name in the configuration.
        name: String,
        /// The new key's name in DNS.
        #[arg(long)]
        selector: Selector,
        /// The kind of key; left out, the kind there is.
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<Kind>,
        /// Where the new key's file goes; left out, beside the old one.
        #[arg(long)]
        directory: Option<PathBuf>,
        /// The configuration file.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Which identities.
#[derive(Debug, clap::Args)]
pub(super) struct Of {
    /// Names of identities in the configuration; all if there are none.
    names: Vec<String>,
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// RSA of 2,048 bits: taken everywhere, and its record fits any DNS.
    Rsa2048,
    /// RSA of 3,072 bits.
    Rsa3072,
    /// RSA of 4,096 bits: eight times the work of 2,048.
    Rsa4096,
    /// Ed25519 (RFC 8463): small and quick, but not all receivers know it yet.
    Ed25519,
    /// RSA of 2,048 bits and Ed25519.
    Both,
}

impl Kind {
    fn make(self) -> Result<SigningKey> {
        Ok(match self {
            Self::Rsa2048 | Self::Both => SigningKey::generate_rsa(2_048)?,
            Self::Rsa3072 => SigningKey::generate_rsa(3_072)?,
            Self::Rsa4096 => SigningKey::generate_rsa(4_096)?,
            Self::Ed25519 => SigningKey::generate_ed25519()?,
        })
    }

    /// One key where two were asked for.
    pub(super) fn one(self) -> Self {
        if self == Self::Both { Self::Rsa2048 } else { self }
    }

    fn like(key: &SigningKey) -> Self {
        match (key.kind(), key.bits()) {
            (KeyKind::Ed25519, _) => Self::Ed25519,
            (KeyKind::Rsa, ..=2_048) => Self::Rsa2048,
            (KeyKind::Rsa, 2_049..=3_072) => Self::Rsa3072,
            (KeyKind::Rsa, _) => Self::Rsa4096,
        }
    }
}

impl Dkim {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self {
            Self::New { domain, selector, kind, directory, json } => {
                new(&domain, &selector, kind, &directory, json)?;
            }
            Self::Dns { of, json } => dns(&of, json)?,
            Self::Check { of, nameserver, json } => return check(&of, nameserver, json),
            Self::Rotate { name, selector, kind, directory, config, json } => {
                rotate(&name, &selector, kind, directory.as_deref(), &config, json)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A key that was made, and where it is.
pub(super) struct Made {
    selector: Selector,
    domain: Domain,
    pub(super) key: SigningKey,
    pub(super) file: PathBuf,
}

impl Made {
    pub(super) fn record_name(&self) -> String {
        record_name(&self.selector, &self.domain)
    }

    fn to_json(&self) -> Value {
        json!({
            "domain": self.domain.as_str(),
            "selector": self.selector.to_string(),
            "type": self.key.kind().as_str(),
            "bits": self.key.bits(),
            "file": self.file,
            "record_name": self.record_name(),
            "record": self.key.record(),
        })
    }
}

fn record_name(selector: &Selector, domain: &Domain) -> String {
    format!("{selector}._domainkey.{domain}")
}

/// A record as a zone file has it: strings of at most 255 octets, a line each.
pub(super) fn zone_lines(name: &str, record: &str) -> String {
    let strings = record.as_bytes().chunks(STRING_MAX_OCTETS).map(String::from_utf8_lossy);
    let strings: Vec<String> = strings.map(|text| format!("\"{text}\"")).collect();
    match &strings[..] {
        [only] => format!("{name}. IN TXT {only}"),
        many => format!("{name}. IN TXT ( {} )", many.join("\n    ")),
    }
}

/// Makes a key and writes its file, which only its owner can read and which must not be there yet.
pub(super) fn make(domain: &Domain, selector: &Selector, kind: Kind, directory: &Path) -> Result<Made> {
    let name = record_name(selector, domain);
    ensure!(Domain::parse(&name).is_ok(), "selector and domain are too long together for DNS: {name}");
    let key = kind.make()?;
    let directory = directory.canonicalize().with_context(|| format!("{}", directory.display()))?;
    let file = directory.join(format!("{domain}.{selector}.pem"));
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).and_then(|mut out| {
            out.write_all(key.to_pem().map_err(std::io::Error::other)?.as_bytes())?;
            out.sync_all()
        });
    written.with_context(|| format!("{}", file.display()))?;
    Ok(Made { selector: selector.clone(), domain: domain.clone(), key, file })
}

fn new(domain: &Domain, selector: &Selector, kind: Kind, directory: &Path, json: bool) -> Result<()> {
    let mut made = vec![make(domain, selector, kind, directory)?];
    if kind == Kind::Both {
        let selector: Selector = format!("{selector}-ed25519").parse().context("the selector for Ed25519")?;
        made.push(make(domain, &selector, Kind::Ed25519, directory)?);
    }
    if json {
        say!("{:#}", made.iter().map(Made::to_json).collect::<Value>());
        return Ok(());
    }
    say!("Written, for its owner alone to read:");
    made.iter().for_each(|made| say!("  {}", made.file.display()));
    say!("\nThe user that the server runs as must be able to read it.");
    say!("\nPublish in DNS:\n");
    made.iter().for_each(|made| say!("{}", zone_lines(&made.record_name(), &made.key.record())));
    say!("\nAdd to the configuration:\n");
    for made in &made {
        let suffix = if made.selector == *selector { "" } else { "-ed25519" };
        say!("[dkim.{}{suffix}]", domain.as_str().replace('.', "-"));
        say!(
            "domain = \"{}\"\nselector = \"{}\"\nkey = \"{}\"\n",
            domain,
            made.selector,
            made.file.display()
        );
    }
    say!("Then see whether the world finds it: tuma dkim check");
    Ok(())
}

/// The configuration, which must be right.
fn load(given: &Option<PathBuf>) -> Result<Root> {
    let path = super::config_path(given);
    match config::load::<Root>(&path, &config::process_environment) {
        Ok(loaded) => Ok(loaded.value),
        Err(report) => bail!("{report}"),
    }
}

/// The identities that are asked for, by name.
fn chosen<'a>(root: &'a Root, names: &[String]) -> Result<Vec<(&'a str, &'a DkimConfig)>> {
    for name in names {
        if !root.dkim.contains_key(name) {
            let near = settings::nearest(name, root.dkim.keys().map(String::as_str));
            let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            bail!("no identity is called {}{hint}", settings::quote(name));
        }
    }
    let all = root.dkim.iter().map(|(name, identity)| (name.as_str(), identity));
    Ok(all.filter(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted == name)).collect())
}

/// The key of an identity.
fn own_key(root: &Root, name: &str, identity: &DkimConfig) -> Result<SigningKey> {
    let Some(path) = &identity.key_vault else {
        return identity.read().map_err(|(key, text)| anyhow::anyhow!("dkim.{name}.{key}: {text}"));
    };
    let vault = crate::server::vault(root)?.context("there is no Vault to ask")?;
    let at = format!("dkim.{name}.key_vault {}", **path);
    let text = super::client_runtime()?.block_on(vault.read(path)).context(at.clone())?;
    SigningKey::parse(text.as_bytes()).context(at)
}

/// The keys of an identity that belong into DNS: its own, and the next one.
pub(super) fn keys_of(
    root: &Root,
    name: &str,
    identity: &DkimConfig,
) -> Result<Vec<(Selector, SigningKey, &'static str)>> {
    let own = own_key(root, name, identity)?;
    let mut keys = vec![(identity.selector.0.clone(), own, "signs")];
    if let Some(next) = &identity.next {
        let file = delivery::read_key(&next.key)
            .with_context(|| format!("dkim.{name}.next.key: {}", next.key.display()))?;
        keys.push((next.selector.0.clone(), file.key, "next"));
    }
    Ok(keys)
}

fn dns(of: &Of, json: bool) -> Result<()> {
    let root = load(&of.config)?;
    let mut list = Vec::new();
    for (name, identity) in chosen(&root, &of.names)? {
        for (selector, key, state) in keys_of(&root, name, identity)? {
            let (record_name, record) = (record_name(&selector, &identity.domain), key.record());
            if !json {
                say!("; dkim.{name}, {state}\n{}", zone_lines(&record_name, &record));
            }
            list.push(json!({
                "identity": name, "state": state, "record_name": record_name, "record": record,
            }));
        }
    }
    match json {
        true => say!("{:#}", Value::from(list)),
        false if list.is_empty() => say!("; the configuration has no identities: tuma dkim new makes one"),
        false => {}
    }
    Ok(())
}

fn check(of: &Of, nameserver: Option<SocketAddr>, json: bool) -> Result<ExitCode> {
    let root = load(&of.config)?;
    let mut config = root.dns.clone();
    if let Some(server) = nameserver {
        config.nameservers = vec![server];
    }
    let identities = chosen(&root, &of.names)?;
    let mut keys = Vec::new();
    for (name, identity) in &identities {
        keys.push(keys_of(&root, name, identity)?);
    }
    let looked: Vec<Looked> = super::client_runtime()?.block_on(async {
        // Without our own memory: what DNS says now is the question.
        let dns = resolve::Dns::new(&config)?;
        let mut looked = Vec::new();
        for ((name, identity), keys) in identities.iter().zip(keys) {
            for (selector, key, state) in keys {
                looked.push(check::key(&dns, name, identity, &selector, key, state).await);
            }
            for selector in &identity.former {
                looked.push(check::former(&dns, name, identity, selector).await);
            }
        }
        anyhow::Ok(looked)
    })?;
    if json {
        say!("{:#}", looked.iter().map(Looked::to_json).collect::<Value>());
    } else if looked.is_empty() {
        say!("the configuration has no identities: tuma dkim new makes one");
    } else {
        looked.iter().for_each(Looked::print);
    }
    Ok(if looked.iter().all(|looked| looked.good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn rotate(
    name: &str,
    selector: &Selector,
    kind: Option<Kind>,
    directory: Option<&Path>,
    config: &Option<PathBuf>,
    json: bool,
) -> Result<()> {
    let root = load(config)?;
    let (_, identity) = chosen(&root, std::slice::from_ref(&name.to_owned()))?[0];
    ensure!(
        *identity.selector != *selector,
        "the new key needs another selector than {}",
        *identity.selector
    );
    if let Some(next) = &identity.next {
        bail!(
            "a next key is there already, {}: tuma dkim check {name} tells what is to be done",
            *next.selector
        );
    }
    ensure!(kind != Some(Kind::Both), "one identity has one key; make a second identity: tuma dkim new");
    let own = own_key(&root, name, identity)?;
    let beside = identity.key.as_deref().and_then(Path::parent).filter(|path| !path.as_os_str().is_empty());
    let directory = directory.or(beside).unwrap_or(Path::new("."));
    let made = make(&identity.domain, selector, kind.unwrap_or_else(|| Kind::like(&own)), directory)?;
    let settings =
        format!("[dkim.{name}.next]\nselector = \"{selector}\"\nkey = \"{}\"", made.file.display());
    if json {
        let mut out = made.to_json();
        out["identity"] = name.into();
        out["settings"] = settings.into();
        say!("{out:#}");
        return Ok(());
    }
    let old = &*identity.selector;
    say!("Written: {}\n", made.file.display());
    say!("1. Publish in DNS, beside the record of {old}:\n");
    say!("{}", zone_lines(&made.record_name(), &made.key.record()));
    say!("\n2. Add to the configuration, and look until the world sees it: tuma dkim check {name}\n");
    say!("{settings}\n");
    say!("3. Then let it sign, and reload: in [dkim.{name}]\n");
    say!("selector = \"{selector}\"\nkey = \"{}\"\nformer = [\"{old}\"]\n", made.file.display());
    say!("   and take [dkim.{name}.next] out.\n");
    say!(
        "4. Leave the record of {old} for a week: mail that it signed is still on its way. tuma dkim check {name}"
    );
    say!(
        "   goes on to look at it until it is gone from DNS; then take it out of `former`, and delete its file."
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_parted_into_strings() {
        assert_eq!(zone_lines("a.test", "v=1"), "a.test. IN TXT \"v=1\"");
        let long = "x".repeat(600);
        let lines = zone_lines("a.test", &long);
        let strings: Vec<&str> = lines.split('"').skip(1).step_by(2).collect();
        assert_eq!(strings.iter().map(|text| text.len()).collect::<Vec<_>>(), [255, 255, 90]);
        assert_eq!(strings.concat(), long);
    }
}
