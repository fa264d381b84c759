//! What is typed: the subcommands.

/// Prints a line; a reader that has gone away (`tuma status | head`) ends the command, not in a panic.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::print_line(format_args!($($text)*)) };
}

mod bench;
mod client;
mod config;
mod send;
mod serve;
mod simulate;
mod spool;

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
    /// Check, print or describe the configuration.
    #[command(subcommand)]
    Config(config::Config),
    /// Send a message through a server and watch what becomes of it.
    Send(send::Send),
    /// What the running server is doing.
    Status(client::Status),
    /// The queue of the running server.
    #[command(subcommand)]
    Queue(client::Queue),
    /// Make the running server read its configuration again.
    Reload(Api),
    /// Change the running server's log level until it is restarted or reloaded.
    LogLevel(client::LogLevel),
    /// Look at a stopped spool, and carry its messages elsewhere.
    #[command(subcommand)]
    Spool(spool::Spool),
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
    match run(Arguments::parse().command) {
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
        Command::Config(config) => config.run(),
        Command::Send(send) => send.run(),
        Command::Status(status) => status.run(),
        Command::Queue(queue) => queue.run(),
        Command::Reload(api) => client::reload(&api),
        Command::LogLevel(level) => level.run(),
        Command::Spool(spool) => spool.run(),
        Command::Password => password(),
        Command::Simulate(simulate) => simulate.run(),
        Command::Bench(bench) => bench.run(),
        Command::Sink(sink) => sink.run(),
    }
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
