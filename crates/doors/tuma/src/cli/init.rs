//! `tuma init`: a configuration to begin with, a DKIM key, and the DNS records that go with them.

use super::dkim;
use crate::config;
use crate::root::Root;
use anyhow::{Context, Result, bail};
use delivery::Selector;
use mail::Domain;
use serde_json::{Value, json};
use settings::show_text;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Begin: write a commented configuration and a DKIM key for a domain, and print the DNS records to publish. Nothing that
/// is there is overwritten.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tuma init --domain a.example
  tuma init --domain a.example --hostname mx1.a.example --address 192.0.2.25
  tuma init --domain a.example --directory ./tuma --data ./tuma/data")]
pub(super) struct Init {
    /// The domain that mail is sent from.
    #[arg(long)]
    domain: Domain,
    /// This server's name; left out, `mail.` in front of the domain.
    #[arg(long)]
    hostname: Option<Domain>,
    /// An address that mail leaves from, for the DNS records; may be given several times.
    #[arg(long)]
    address: Vec<IpAddr>,
    /// The DKIM key's name in DNS.
    #[arg(long, default_value = "s1")]
    selector: Selector,
    /// The kind of key.
    #[arg(long = "type", value_name = "TYPE", default_value = "rsa2048")]
    kind: dkim::Kind,
    /// The folder for configuration and key.
    #[arg(long, default_value = "/etc/tuma")]
    directory: PathBuf,
    /// The folder for mail and records.
    #[arg(long, default_value = "/var/lib/tuma")]
    data: PathBuf,
    /// Where programs on this machine hand in mail.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:2525")]
    listen: SocketAddr,
    /// Where questions and orders are answered.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = super::HTTP)]
    http: SocketAddr,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// One record to publish.
struct Record {
    name: String,
    kind: &'static str,
    data: String,
    why: &'static str,
}

impl Record {
    fn line(&self) -> String {
        match self.kind {
            "TXT" => dkim::zone_lines(&self.name, &self.data),
            kind => format!("{}. IN {kind} {}", self.name, self.data),
        }
    }
}

impl Init {
    pub(super) fn run(self) -> Result<ExitCode> {
        let hostname = match &self.hostname {
            Some(name) => name.clone(),
            None => {
                Domain::parse(&format!("mail.{}", self.domain)).context("the server's name: --hostname")?
            }
        };
        let file = self.directory.join("tuma.toml");
        if file.exists() {
            bail!("{} is there already; nothing was changed", file.display());
        }
        let keys = self.directory.join("dkim");
        std::fs::create_dir_all(&keys).with_context(|| keys.display().to_string())?;
        std::fs::create_dir_all(&self.data).with_context(|| self.data.display().to_string())?;
        let data = self.data.canonicalize().with_context(|| self.data.display().to_string())?;
        let made = dkim::make(&self.domain, &self.selector, self.kind.one(), &keys)?;
        let text = self.text(&hostname, &made.file, &data);
        // What is written is what the server will read: a mistake of ours is found here and not at its start.
        if let Err(report) =
            config::load_text::<Root>(&file.display().to_string(), &text, &config::process_environment)
        {
            bail!("{report}");
        }
        write_new(&file, &text)?;
        let records = self.records(&hostname, &made);
        if self.json {
            let shown = |record: &Record| json!({ "name": record.name, "type": record.kind, "data": record.data, "why": record.why });
            say!(
                "{:#}",
                json!({
                    "config": file, "key": made.file, "hostname": hostname.as_str(),
                    "records": records.iter().map(shown).collect::<Value>(),
                })
            );
            return Ok(ExitCode::SUCCESS);
        }
        say!("Written:\n  {}\n  {}   (for its owner alone to read)", file.display(), made.file.display());
        say!("\nPublish in DNS:");
        for record in &records {
            say!("\n; {}\n{}", record.why, record.line());
        }
        say!("\nAsk whoever gave you the addresses for their names: each must lead to {hostname}, and back.");
        say!("\nThen:");
        let given =
            if file == Path::new(super::CONFIG) { String::new() } else { format!(" -c {}", file.display()) };
        say!("  tuma config check{given}");
        say!("  tuma serve{given}");
        say!("  tuma doctor{given}     # what is still missing, and how to mend it");
        Ok(ExitCode::SUCCESS)
    }

    fn text(&self, hostname: &Domain, key: &Path, data: &Path) -> String {
        let (domain, selector) = (&self.domain, &self.selector);
        let file = |path: PathBuf| show_text(&path.display().to_string());
        let (key, spool) = (file(key.to_owned()), file(data.join("spool")));
        let records = file(data.join("records.jsonl"));
        let (listen, http) = (self.listen, self.http);
        let identity = domain.as_str().replace('.', "-");
        format!(
            r#"# Tuma, for mail of {domain}.
#
#   tuma config check     every mistake with its place
#   tuma config show      every value in force, and where it comes from
#   tuma config reference what else can be set
#   tuma doctor           what DNS and this machine still lack

# The name in greetings and in EHLO. It must be that of the addresses mail leaves from.
hostname = "{hostname}"

[server]
# The user to become when started as root; needed for port 25, 465 and 587.
# user = "tuma"

# Questions and orders: `tuma status`, `tuma queue ls`, messages as JSON. This machine needs no key.
[http]
listen = "{http}"

# Where programs on this machine hand in mail.
[listener.local]
listen = "{listen}"

# Who may send to whom: this machine to everybody.
[relay]
networks = ["127.0.0.0/8", "::1"]

# Users who send from elsewhere: a certificate, a listener, and who they are (`tuma password` makes the hash).
# [tls.default]
# certificate = "/etc/tuma/cert.pem"
# key = "/etc/tuma/key.pem"
# [listener.submission]
# listen = "0.0.0.0:587"
# tls = "starttls"
# auth = ["PLAIN", "SCRAM-SHA-256"]
# [users.ann]
# password_hash = "…"

# Accepted mail until it is delivered. On a disk that keeps what it says it has written.
[spool]
directory = {spool}

# One line for each recipient and what became of it.
[accounting.file.records]
path = {records}

# Mail from {domain} is signed with this key.
[dkim.{identity}]
domain = "{domain}"
selector = "{selector}"
key = {key}

# The address that mail leaves from; left out, the machine's own choice.
# [source.main]
# v4 = "192.0.2.25"
# ehlo_name = "{hostname}"
# [pool.main]
# sources = {{ main = 1 }}

# Black lists that `tuma doctor` asks about those addresses, by their zones. Each has terms of use.
# [doctor]
# listings = ["zen.spamhaus.org"]
"#
        )
    }

    fn records(&self, hostname: &Domain, made: &dkim::Made) -> Vec<Record> {
        let (host, domain) = (hostname.as_str().to_owned(), self.domain.as_str());
        let mut records = Vec::new();
        let mut spf = "v=spf1".to_owned();
        for address in &self.address {
            let (kind, term) = if address.is_ipv4() { ("A", "ip4") } else { ("AAAA", "ip6") };
            spf += &format!(" {term}:{address}");
            let why = "this server's address";
            records.push(Record { name: host.clone(), kind, data: address.to_string(), why });
        }
        if self.address.is_empty() {
            spf += &format!(" a:{host}");
        }
        let txt = |name: String, data: String, why: &'static str| Record { name, kind: "TXT", data, why };
        records.push(Record {
            name: domain.into(),
            kind: "MX",
            data: format!("10 {host}."),
            why: "where replies and bounces go; leave it out if the domain has an MX",
        });
        records.push(txt(
            domain.into(),
            format!("{spf} -all"),
            "SPF: who may send; one such record for a domain, so merge it",
        ));
        records.push(txt(
            host,
            "v=spf1 a -all".into(),
            "SPF of this server's own name, for bounces it sends",
        ));
        records.push(txt(made.record_name(), made.key.record(), "DKIM: the key that mail is signed with"));
        let dmarc = format!("v=DMARC1; p=none; rua=mailto:dmarc@{domain}");
        records.push(txt(
            format!("_dmarc.{domain}"),
            dmarc,
            "DMARC: watch the reports first, then p=quarantine, then p=reject",
        ));
        let tls = format!("v=TLSRPTv1; rua=mailto:tls-reports@{domain}");
        records.push(txt(format!("_smtp._tls.{domain}"), tls, "TLS reports of those who send to you"));
        records
    }
}

fn write_new(file: &Path, text: &str) -> Result<()> {
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o640).open(file).and_then(|mut out| {
            out.write_all(text.as_bytes())?;
            out.sync_all()
        });
    written.with_context(|| file.display().to_string())
}
