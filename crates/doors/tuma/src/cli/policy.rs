//! `tuma policy`: a script's own tests, and what editors want to know of its interface.

use anyhow::{Result, bail};
use clap::Subcommand;
use js::JsConfig;
use lua::LuaConfig;
use std::path::PathBuf;
use std::process::ExitCode;

/// Scripts.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Load a script and run the tests it brings (`tuma.test`).
    Test {
        /// The script, in Lua, or in JavaScript if its name ends in `.js` or `.cjs`.
        script: PathBuf,
    },
    /// Print the interface of scripts for editors, as annotations for the Lua language server: put them into a file beside the
    /// script.
    Annotations {
        /// As declarations for TypeScript, for scripts in JavaScript.
        #[arg(long)]
        typescript: bool,
    },
}

impl Policy {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Test { script } => test(script),
            Self::Annotations { typescript } => {
                let text = if typescript { js::DECLARATIONS } else { lua::ANNOTATIONS };
                say!("{}", text.trim_end());
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn test(script: PathBuf) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let is_js = script.extension().is_some_and(|ending| ending == "js" || ending == "cjs");
    // Of each test its name, and why it failed.
    let tested: Result<Vec<(String, Option<String>)>, String> = runtime.block_on(async {
        if is_js {
            let tested = js::test(&JsConfig::of(script)).await.map_err(|error| error.to_string())?;
            Ok(tested.into_iter().map(|test| (test.name, test.failure)).collect())
        } else {
            let tested = lua::test(&LuaConfig::of(script)).await.map_err(|error| error.to_string())?;
            Ok(tested.into_iter().map(|test| (test.name, test.failure)).collect())
        }
    });
    let tested = match tested {
        Ok(tested) => tested,
        Err(error) => bail!("{error}"),
    };
    let failed = tested.iter().filter(|(_, failure)| failure.is_some()).count();
    for (name, failure) in &tested {
        match failure {
            None => say!("ok      {name}"),
            Some(failure) => say!("FAILED  {name}: {failure}"),
        }
    }
    say!("{} tests, {failed} failed", tested.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
