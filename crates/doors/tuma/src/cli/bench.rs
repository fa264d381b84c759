//! `tuma bench` and `tuma sink`.

use ::bench::loader::{self, Amount, Credentials};
use ::bench::sink::{self, Keep, Rule, Sink};
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Offer mail to a server and measure.
#[derive(Debug, clap::Args)]
pub(super) struct Bench {
    /// The server to load.
    #[arg(long, default_value = "127.0.0.1:2525", value_name = "ADDRESS:PORT", env = "TUMA_LISTEN")]
    target: SocketAddr,
    /// How many messages.
    #[arg(long, default_value_t = 100_000, conflicts_with = "seconds")]
    messages: u64,
    /// For how many seconds, in place of a number of messages.
    #[arg(long)]
    seconds: Option<f64>,
    /// Octets of each message.
    #[arg(long, default_value_t = 4096)]
    size: usize,
    /// Connections at once.
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// Messages on a connection before it is opened anew; 0 keeps it.
    #[arg(long, default_value_t = 0)]
    messages_per_connection: u64,
    /// Recipients of a message.
    #[arg(long, default_value_t = 1)]
    recipients: u64,
    /// Domains the recipients are spread over.
    #[arg(long, default_value_t = 1)]
    domains: u64,
    /// The recipients' domain.
    #[arg(long)]
    domain: Option<String>,
    /// Every message to this one address.
    #[arg(long)]
    to: Option<String>,
    /// The sender.
    #[arg(long)]
    from: Option<String>,
    /// Offer so many messages a second, whatever the server does; latency counts from the scheduled time.
    #[arg(long)]
    rate: Option<f64>,
    /// Wait for each reply.
    #[arg(long)]
    no_pipelining: bool,
    /// Send the next envelope behind the content of the message before.
    #[arg(long)]
    overlap: bool,
    /// Send content by BDAT.
    #[arg(long)]
    bdat: bool,
    /// Encrypt by STARTTLS, whatever the certificate.
    #[arg(long)]
    starttls: bool,
    /// AUTH PLAIN as this user.
    #[arg(long, value_name = "USER:PASSWORD")]
    auth: Option<String>,
    /// Threads; 0 is one for each core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Seconds to wait for a reply.
    #[arg(long, default_value_t = 120.0)]
    timeout: f64,
    /// Send to a sink in this process in place of a server: what loader and sink themselves can do.
    #[arg(long)]
    ceiling: bool,
    /// Offer by HTTP, to the server's HTTP listener: `--messages` requests with `--recipients` each, of which from two on
    /// each has a value of its own.
    #[arg(long, conflicts_with_all = ["seconds", "starttls", "ceiling", "rate"])]
    http: bool,
    /// The API key to send with `--http`.
    #[arg(long, env = "TUMA_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn credentials(text: &Option<String>) -> Result<Option<Credentials>> {
    text.as_ref()
        .map(|text| {
            let (user, password) = text.split_once(':').context("--auth takes USER:PASSWORD")?;
            Ok(Credentials { user: user.into(), password: password.into() })
        })
        .transpose()
}

impl Bench {
    fn options(&self) -> Result<loader::Options> {
        let defaults = loader::Options::default();
        Ok(loader::Options {
            target: self.target,
            amount: match self.seconds {
                Some(seconds) => Amount::Time(Duration::try_from_secs_f64(seconds).context("--seconds")?),
                None => Amount::Messages(self.messages),
            },
            size: self.size,
            connections: self.connections,
            messages_per_connection: self.messages_per_connection,
            recipients: self.recipients,
            recipient_domains: self.domains,
            recipient_domain: self.domain.clone().unwrap_or(defaults.recipient_domain),
            recipient: self.to.clone(),
            sender: self.from.clone().unwrap_or(defaults.sender),
            rate: self.rate,
            pipelining: !self.no_pipelining,
            overlap: self.overlap,
            chunking: self.bdat,
            auth: credentials(&self.auth)?,
            tls: if self.starttls { loader::Tls::Starttls } else { loader::Tls::Off },
            threads: self.threads,
            timeout: Duration::try_from_secs_f64(self.timeout).context("--timeout")?,
            ..loader::Options::default()
        })
    }

    fn run_http(&self) -> Result<ExitCode> {
        let options = ::bench::http::Options {
            target: self.target,
            requests: self.messages,
            connections: self.connections,
            recipients: self.recipients,
            domains: self.domains,
            size: self.size,
            key: self.key.clone(),
            timeout: Duration::try_from_secs_f64(self.timeout).context("--timeout")?,
        };
        let report = super::client_runtime()?.block_on(::bench::http::run(options));
        if self.json {
            say!("{}", report.to_json())
        } else {
            say!("{report}")
        }
        Ok(if report.accepted > 0 && report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    pub(super) fn run(self) -> Result<ExitCode> {
        if self.http {
            return self.run_http();
        }
        let options = self.options()?;
        let runtime = super::client_runtime()?;
        if self.ceiling {
            let ceiling = runtime.block_on(::bench::ceiling(options, sink::Options::default()))?;
            if self.json {
                say!("{}", ceiling.to_json())
            } else {
                say!("{ceiling}")
            }
            return Ok(ExitCode::SUCCESS);
        }
        let report = runtime.block_on(loader::run(options));
        if self.json {
            say!("{}", report.to_json())
        } else {
            say!("{report}")
        }
        let all = report.accepted > 0 && report.refused == 0 && report.failed == 0;
        Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Take mail, count it, and misbehave when told to.
#[derive(Debug, clap::Args)]
pub(super) struct SinkArguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:2600", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// How to misbehave, such as `rcpt:domain=slow.test:451 4.7.1 later`; the first rule that matches decides.
    #[arg(long, value_name = "RULE")]
    rule: Vec<String>,
    /// Write each message to a file in this folder.
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Look for breaches of the protocol.
    #[arg(long)]
    strict: bool,
    /// Offer CHUNKING.
    #[arg(long)]
    chunking: bool,
    /// Offer STARTTLS with a certificate of its own making.
    #[arg(long)]
    starttls: bool,
    /// Do not offer PIPELINING.
    #[arg(long)]
    without_pipelining: bool,
    /// Threads; 0 is one for each core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print figures every so many seconds; 0 only at the end.
    #[arg(long, default_value_t = 10)]
    every: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl SinkArguments {
    pub(super) fn run(self) -> Result<ExitCode> {
        let rules: Vec<Rule> = self.rule.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        let sink = Sink::start(sink::Options {
            listen: self.listen,
            threads: self.threads,
            rules,
            keep: self.keep.map_or(Keep::Nothing, Keep::Folder),
            strict: self.strict,
            chunking: self.chunking,
            pipelining: !self.without_pipelining,
            tls: self.starttls.then(|| ::bench::tls::self_signed(&["sink.test"])).transpose()?,
            ..sink::Options::default()
        })
        .with_context(|| format!("listen at {}", self.listen))?;
        say!("listening on {}", sink.addr());
        let print = |stats: sink::Stats| {
            if self.json { say!("{}", stats.to_json()) } else { say!("{stats}") }
        };
        super::client_runtime()?.block_on(async {
            let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            let pause = Duration::from_secs(if self.every == 0 { 86_400 } else { self.every });
            loop {
                tokio::select! {
                    () = tokio::time::sleep(pause) => print(sink.stats()),
                    _ = terminate.recv() => break,
                    ended = tokio::signal::ctrl_c() => break ended?,
                }
            }
            anyhow::Ok(())
        })?;
        print(sink.stop());
        Ok(ExitCode::SUCCESS)
    }
}
