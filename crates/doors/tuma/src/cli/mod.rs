//! What is typed: the subcommands.

/// Prints a line; a reader that has gone away (`tuma status | head`) ends the command, not in a panic.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::print_line(format_args!($($text)*)) };
}

mod bench;
mod bounce;
mod client;
mod config;
mod dkim;
mod doctor;
mod explain;
mod init;
mod key;
mod limit;
mod order;
mod policy;
mod queue;
mod send;
mod sendmail;
mod serve;
mod simulate;
mod source;
mod spool;
mod stats;
mod suppression;
mod tenant;
mod top;
mod trace;
mod webhook;

pub use doctor::DoctorConfig;

use clap::{Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Where the configuration is looked for.
const CONFIG: &str = "/etc/tuma/tuma.toml";
/// Where `serve --dev` answers, and the commands ask unless told otherwise.
const HTTP: &str = "127.0.0.1:8025";

/// Tuma, a mail transfer agent.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Where the running server answers.
#[derive(Debug, Clone, clap::Args)]
struct Api {
    /// The running server's HTTP listener.
    #[arg(long, value_name = "HOST:PORT", default_value = HTTP, env = "TUMA_HTTP")]
    api: SocketAddr,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(serve::Serve),
    /// Begin: write a configuration and a DKIM key for a domain, and print the DNS records to publish.
    Init(init::Init),
    /// Look for what the world and this machine lack for mail to arrive, and say how to mend it.
    Doctor(doctor::Doctor),
    /// Check, print or describe the configuration.
    #[command(subcommand)]
    Config(config::Config),
    /// Send a message through a server and watch what becomes of it.
    Send(send::Send),
    /// Send a message from standard input, with the options of sendmail.
    Sendmail(sendmail::Sendmail),
    /// What the running server is doing.
    Status(client::Status),
    /// Watch the running server: rates, queues, sites, providers, sources, and the replies that hold mail up.
    Top(top::Top),
    /// Counters by minute, hour and day.
    Stats(stats::Stats),
    Trace(trace::Trace),
    /// What is queued, and making it due now.
    #[command(subcommand)]
    Queue(queue::Queue),
    /// Why mail does not move, and what changes that; or which way mail would go.
    Explain(explain::Explain),
    /// Suspend, hold, bounce, limit or reroute mail by order.
    #[command(subcommand)]
    Order(order::Order),
    /// Egress sources: what they do, and taking them in and out of use.
    #[command(subcommand)]
    Source(source::Source),
    /// What is not as usual between sources and sites, and letting it go on.
    #[command(subcommand)]
    Limit(limit::Limit),
    /// API keys: who may ask the server by HTTP.
    #[command(subcommand)]
    Key(key::Key),
    /// Tenants: those whose mail is kept apart.
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    /// What failures are called, and by which rule.
    #[command(subcommand)]
    Bounce(bounce::Bounce),
    /// Scripts: their own tests, and their interface for editors.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Who is not written to.
    #[command(subcommand)]
    Suppression(suppression::Suppression),
    /// Webhooks: how they are doing, what was put aside, and posting again.
    #[command(subcommand)]
    Webhook(webhook::Webhook),
    /// Print the OpenAPI 3.1 document of the HTTP API, which a running server gives at `/v1/openapi.json`.
    Openapi,
    /// Make the running server read its configuration again.
    Reload(Api),
    /// Change the running server's log level until it is restarted or reloaded.
    LogLevel(client::LogLevel),
    /// Look at a stopped spool, and carry its messages elsewhere.
    #[command(subcommand)]
    Spool(spool::Spool),
    /// Make DKIM keys, print their DNS records, and see whether the world finds them.
    #[command(subcommand)]
    Dkim(dkim::Dkim),
    /// Print what a shell needs to complete these commands: `tuma completions bash > /etc/bash_completion.d/tuma`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write a manual page of each command.
    Man {
        /// The folder to write them to.
        folder: PathBuf,
    },
    /// Make the `password_hash` of a user from a password on standard input.
    Password,
    /// Tell when mail would be through, by sending it to simulated receivers.
    Simulate(simulate::Simulate),
    /// Offer mail to a server and measure.
    Bench(bench::Bench),
    /// Take mail, count it, and misbehave when told to.
    Sink(bench::SinkArguments),
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let mut words = std::env::args();
    let name = words.next().unwrap_or_default();
    let ran = match name.rsplit('/').next() {
        // A link of that name stands in for the program that so many others call.
        Some("sendmail") => sendmail::Sendmail::by_name(words.collect()).run(),
        _ => run(Arguments::parse().command),
    };
    match ran {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tuma: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(serve) => serve.run(),
        Command::Init(init) => init.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Config(config) => config.run(),
        Command::Send(send) => send.run(),
        Command::Sendmail(sendmail) => sendmail.run(),
        Command::Completions { shell } => Ok(completions(shell)),
        Command::Man { folder } => man(&folder),
        Command::Status(status) => status.run(),
        Command::Top(top) => top.run(),
        Command::Stats(stats) => stats.run(),
        Command::Trace(trace) => trace.run(),
        Command::Queue(queue) => queue.run(),
        Command::Explain(explain) => explain.run(),
        Command::Order(order) => order.run(),
        Command::Source(source) => source.run(),
        Command::Limit(limit) => limit.run(),
        Command::Key(key) => key.run(),
        Command::Tenant(tenant) => tenant.run(),
        Command::Bounce(bounce) => bounce.run(),
        Command::Policy(policy) => policy.run(),
        Command::Suppression(suppression) => suppression.run(),
        Command::Webhook(webhook) => webhook.run(),
        Command::Openapi => {
            say!("{:#}", crate::http::openapi());
            Ok(ExitCode::SUCCESS)
        }
        Command::Reload(api) => client::reload(&api),
        Command::LogLevel(level) => level.run(),
        Command::Spool(spool) => spool.run(),
        Command::Dkim(dkim) => dkim.run(),
        Command::Password => password(),
        Command::Simulate(simulate) => simulate.run(),
        Command::Bench(bench) => bench.run(),
        Command::Sink(sink) => sink.run(),
    }
}

fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut <Arguments as clap::CommandFactory>::command(), "tuma", &mut text);
    say!("{}", String::from_utf8_lossy(&text).trim_end());
    ExitCode::SUCCESS
}

fn man(folder: &std::path::Path) -> anyhow::Result<ExitCode> {
    let command = <Arguments as clap::CommandFactory>::command();
    clap_mangen::generate_to(command, folder)?;
    say!("written to {}; read them with `man {}/tuma.1`", folder.display(), folder.display());
    Ok(ExitCode::SUCCESS)
}

fn password() -> anyhow::Result<ExitCode> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let password = line.trim_end_matches(['\r', '\n']);
    anyhow::ensure!(!password.is_empty(), "write the password on standard input, as one line");
    say!("{}", reception::auth::Verifier::of(password).to_text());
    Ok(ExitCode::SUCCESS)
}

fn print_line(line: std::fmt::Arguments<'_>) {
    use std::io::Write;
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// The file given, or the usual one.
fn config_path(given: &Option<PathBuf>) -> PathBuf {
    given.clone().unwrap_or_else(|| CONFIG.into())
}

/// A runtime for commands that are clients.
fn client_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The words of a line as a shell would part them.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
                '#' if !quoted && word.is_empty() => return words,
                c => word.push(c),
            }
        }
        words.extend((!word.is_empty()).then_some(word));
        words
    }

    fn check(line: &str) {
        if let Err(error) = Arguments::try_parse_from(words(line)) {
            panic!("{line}: {error}");
        }
    }

    #[test]
    fn every_example_of_the_help_is_a_command() {
        fn walk(command: &clap::Command, seen: &mut usize) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines().filter_map(|line| line.strip_prefix("  tuma ")) {
                // What explains a line stands far to its right.
                let line = line.split("   ").next().unwrap_or(line);
                check(&format!("tuma {line}"));
                *seen += 1;
            }
            command.get_subcommands().for_each(|command| walk(command, seen));
        }
        let command = Arguments::command();
        command.clone().debug_assert();
        let mut seen = 0;
        walk(&command, &mut seen);
        assert!(seen > 20, "{seen}");
    }

    #[test]
    fn every_command_of_the_guide_to_operating_is_one() {
        let dkim = include_str!("../../../../../docs/dkim.md");
        dkim.lines().filter_map(|line| line.strip_prefix("$ ")).for_each(check);
        let text = include_str!("../../../../../docs/operating.md");
        let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
        assert!(lines.len() > 20, "{}", lines.len());
        lines.iter().filter(|line| line.starts_with("tuma ")).for_each(|line| check(line));
        // What the answers name as the command that changes something.
        let named = text.lines().filter_map(|line| Some(line.split_once("it: tuma ")?.1));
        named.for_each(|command| check(&format!("tuma {command}")));
    }
}
