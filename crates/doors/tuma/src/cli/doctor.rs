//! `tuma doctor`: what the world and this machine lack for mail to arrive, and how to mend each.
//!
//! Nothing here changes anything but one small file in the spool's folder, which is taken away again. What cannot be found
//! out without a network is said to be unknown, and is no failure.

mod machine;
mod names;

use crate::config;
use crate::root::Root;
use anyhow::Result;
use mail::Domain;
use serde_json::{Value, json};
use settings::Text;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Domains, addresses and zones looked at, of each at most.
const LOOKED_MAX: usize = 50;
/// How long one question to the outside may take.
const PATIENCE: Duration = Duration::from_secs(10);

settings::table! {
    /// What `tuma doctor` asks.
    pub struct DoctorConfig {
        /// Zones of black lists that are asked about the addresses mail leaves from, such as `zen.spamhaus.org`. None by
        /// default: each has terms of use.
        pub listings: Vec<Text<Domain>> = Vec::new(),
    }
}

/// Look for what the world and this machine lack for mail to arrive, and say how to mend it. Fails if something is wrong.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tuma doctor
  tuma doctor --json
  tuma doctor --address 192.0.2.25 --listing zen.spamhaus.org
  tuma doctor --offline")]
pub(super) struct Doctor {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// An address mail leaves from, where no source says so; left out, those of the server's name.
    #[arg(long)]
    address: Vec<IpAddr>,
    /// Ask this name server instead of those in the configuration.
    #[arg(long, value_name = "ADDRESS:PORT")]
    nameserver: Option<SocketAddr>,
    /// A black list's zone to ask besides those in the configuration.
    #[arg(long, value_name = "ZONE")]
    listing: Vec<Domain>,
    /// A mail server of others, to see whether connections to port 25 get out; `none` leaves it out.
    #[arg(long, value_name = "HOST:PORT", default_value = "gmail-smtp-in.l.google.com:25")]
    reach: String,
    /// A time server to compare the clock with; `none` leaves it out.
    #[arg(long, value_name = "HOST:PORT", default_value = "pool.ntp.org:123")]
    time_server: String,
    /// Look at this machine alone.
    #[arg(long)]
    offline: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How it stands with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    /// Better mended.
    Warn,
    /// To be mended.
    Fail,
    /// It could not be found out.
    Unknown,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
        }
    }
}

/// What was found.
struct Finding {
    /// What was looked at, in one word.
    check: &'static str,
    /// Of whom or what.
    about: String,
    state: State,
    text: String,
    fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, about: impl Into<String>, text: impl Into<String>) -> Self {
        Self { check, about: about.into(), state: State::Ok, text: text.into(), fix: None }
    }

    fn unknown(check: &'static str, about: impl Into<String>, text: impl Into<String>) -> Self {
        Self { state: State::Unknown, ..Self::ok(check, about, text) }
    }

    fn warn(
        check: &'static str,
        about: impl Into<String>,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { state: State::Warn, fix: Some(fix.into()), ..Self::ok(check, about, text) }
    }

    fn fail(
        check: &'static str,
        about: impl Into<String>,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { state: State::Fail, ..Self::warn(check, about, text, fix) }
    }

    fn to_json(&self) -> Value {
        json!({
            "check": self.check, "about": self.about, "state": self.state.word(), "text": self.text, "fix": self.fix,
        })
    }

    fn print(&self) {
        say!("{:<8} {} {}", self.state.word(), self.check, self.about);
        say!("         {}", self.text);
        for line in self.fix.iter().flat_map(|fix| fix.lines()) {
            say!("         → {line}");
        }
    }
}

impl Doctor {
    pub(super) fn run(self) -> Result<ExitCode> {
        let path = super::config_path(&self.config);
        let mut found = Vec::new();
        let about = path.display().to_string();
        match config::load::<Root>(&path, &config::process_environment) {
            Err(report) => {
                let fix = "mend it first; `tuma config check` shows the same, `tuma init` writes a new one";
                found.push(Finding::fail("config", about, report.to_string(), fix));
            }
            Ok(loaded) => {
                found.push(Finding::ok("config", about, "it can be read"));
                self.look(&loaded.value, &mut found)?;
            }
        }
        if self.json {
            say!("{:#}", found.iter().map(Finding::to_json).collect::<Value>());
        } else {
            found.iter().for_each(Finding::print);
            let count = |state| found.iter().filter(|finding| finding.state == state).count();
            say!(
                "\n{} to mend, {} better mended, {} unknown, {} fine",
                count(State::Fail),
                count(State::Warn),
                count(State::Unknown),
                count(State::Ok)
            );
        }
        let failed = found.iter().any(|finding| finding.state == State::Fail);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn look(&self, root: &Root, found: &mut Vec<Finding>) -> Result<()> {
        machine::files(root, found);
        machine::descriptors(root, found);
        machine::disk(root, found);
        if self.offline {
            found.push(Finding::unknown("names", "DNS", "nothing was asked (--offline)"));
            return Ok(());
        }
        let mut config = root.dns.clone();
        if let Some(server) = self.nameserver {
            config.nameservers = vec![server];
        }
        super::client_runtime()?.block_on(async {
            // Without our own memory: what DNS says now is the question.
            match resolve::Dns::new(&config) {
                Ok(dns) => names::look(self, root, &Arc::new(dns), found).await,
                Err(error) => {
                    let fix = "name servers in `dns.nameservers`, or mend /etc/resolv.conf";
                    found.push(Finding::fail("names", "DNS", error.to_string(), fix));
                }
            }
            machine::reach(&self.reach, found).await;
            machine::clock(&self.time_server, found).await;
        });
        Ok(())
    }
}
