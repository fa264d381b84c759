//! `tuma config`.

use crate::config;
use crate::root::Root;
use anyhow::Result;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Check, print or describe the configuration.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Config {
    /// Print every mistake with its place and what to do about it.
    Check(File),
    /// Print the values in force, each with where it came from.
    Show(File),
    /// Print the JSON Schema of the configuration file.
    Schema,
    /// Print the reference page of all settings.
    Reference,
    /// Print the reference page of the traffic files of `tuma simulate`.
    Traffic,
    /// Print the rules for large receivers that come with the server.
    Shipped,
}

/// The file.
#[derive(Debug, clap::Args)]
pub(super) struct File {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The same, without the option.
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
}

impl File {
    fn path(&self) -> PathBuf {
        super::config_path(&self.config.clone().or_else(|| self.file.clone()))
    }
}

impl Config {
    pub(super) fn run(self) -> Result<ExitCode> {
        let mut out = std::io::stdout().lock();
        let colour = out.is_terminal();
        match self {
            Self::Check(file) => {
                let code =
                    config::check::<Root>(&file.path(), &config::process_environment, colour, &mut out)?;
                return Ok(ExitCode::from(code));
            }
            Self::Show(file) => match config::load::<Root>(&file.path(), &config::process_environment) {
                Ok(loaded) => out.write_all(loaded.show().as_bytes())?,
                Err(report) => {
                    eprint!("{}", report.render(std::io::stderr().is_terminal()));
                    return Ok(ExitCode::FAILURE);
                }
            },
            Self::Schema => out.write_all(config::json_schema::<Root>().as_bytes())?,
            Self::Reference => out.write_all(config::reference::<Root>().as_bytes())?,
            Self::Traffic => out.write_all(super::simulate::reference().as_bytes())?,
            Self::Shipped => out.write_all(crate::shipped::print().as_bytes())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
