//! `tuma serve`.

use crate::server::{Source, run};
use ::bench::sink::{Keep, Options, Sink};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Run the server.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", conflicts_with = "dev")]
    config: Option<PathBuf>,
    /// Try it out: takes mail on 127.0.0.1:2525, keeps it in ./tuma-data, sends nothing off this machine.
    #[arg(long)]
    dev: bool,
}

impl Serve {
    pub(super) fn run(self) -> Result<ExitCode> {
        if self.dev {
            return dev();
        }
        run(Source::File(super::config_path(&self.config)), false, |_, _, _| {})?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A server that captures all mail: what it accepts goes by SMTP to a sink in the same process, which writes it
/// to files.
fn dev() -> Result<ExitCode> {
    let data = Path::new("./tuma-data");
    let captured = data.join("captured");
    std::fs::create_dir_all(&captured).with_context(|| format!("create {}", captured.display()))?;
    let sink = Sink::start(Options {
        threads: 1,
        hostname: "captured.tuma.test".into(),
        keep: Keep::Folder(captured.clone()),
        chunking: true,
        ..Options::default()
    })
    .context("start the sink that captures mail")?;
    let listen = std::env::var("TUMA_LISTEN").unwrap_or_else(|_| "127.0.0.1:2525".into());
    let http = std::env::var("TUMA_HTTP").unwrap_or_else(|_| super::HTTP.into());
    let text = dev_config(&listen, &http, &sink.addr().to_string());
    run(Source::Text(text), true, |_, listeners, http| {
        let smtp = listeners.first().map(|(_, address)| address.to_string()).unwrap_or_default();
        say!("Tuma {} takes mail and keeps it to itself.", env!("CARGO_PKG_VERSION"));
        say!("  SMTP      {smtp}   from this machine, to any address, with or without STARTTLS");
        if let Some(http) = http {
            say!("  HTTP      http://{http}/health  /metrics  /v1/status");
        }
        say!("  spool     {}", data.join("spool").display());
        say!(
            "  captured  {}/*.eml   everything accepted ends up here and goes nowhere else",
            captured.display()
        );
        say!("  records   {}", data.join("records.jsonl").display());
        say!("Try, in another terminal:");
        say!(
            "  tuma send --to a@b.test --subject hi      (or: cargo run --release -- send --to a@b.test --subject hi)"
        );
    })?;
    Ok(ExitCode::SUCCESS)
}

fn dev_config(listen: &str, http: &str, sink: &str) -> String {
    format!(
        r#"hostname = "localhost"
[server]
self_signed = true
[http]
listen = "{http}"
[listener.dev]
listen = "{listen}"
tls = "starttls"
add_missing_fields = true
[relay]
networks = ["127.0.0.0/8", "::1"]
[spool]
directory = "./tuma-data/spool"
[retry]
first = "5s"
max = "1m"
[shaping.default]
reconnect_min = "1s"
[route."*"]
next_hop = "{sink}"
tls = "off"
[accounting.file.records]
path = "./tuma-data/records.jsonl"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_dev_is_sound() {
        let text = dev_config("127.0.0.1:2525", "127.0.0.1:8025", "127.0.0.1:1");
        let loaded = crate::config::load_text::<crate::root::Root>("dev", &text, &|_| None);
        loaded.unwrap_or_else(|report| panic!("{report}"));
    }
}
