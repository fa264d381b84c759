//! `tuma policy`: a script's own tests, and what editors want to know of its interface.

use anyhow::{Result, bail};
use clap::Subcommand;
use lua::LuaConfig;
use std::path::PathBuf;
use std::process::ExitCode;

/// Scripts.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Load a script and run the tests it brings (`tuma.test`).
    Test {
        /// The script.
        script: PathBuf,
    },
    /// Print the interface of scripts as annotations for the Lua language server: put them into a file beside the script.
    Annotations,
}

impl Policy {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Test { script } => test(script),
            Self::Annotations => {
                say!("{}", lua::ANNOTATIONS.trim_end());
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn test(script: PathBuf) -> Result<ExitCode> {
    let config = LuaConfig::of(script);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tested = match runtime.block_on(lua::test(&config)) {
        Ok(tested) => tested,
        Err(error) => bail!("{error}"),
    };
    let failed = tested.iter().filter(|test| test.failure.is_some()).count();
    for test in &tested {
        match &test.failure {
            None => say!("ok      {}", test.name),
            Some(failure) => say!("FAILED  {}: {failure}", test.name),
        }
    }
    say!("{} tests, {failed} failed", tested.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
