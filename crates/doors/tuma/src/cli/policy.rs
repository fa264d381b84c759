//! `tuma policy`: a script's own tests, and what editors want to know of its interface.

use anyhow::{Result, bail};
use clap::Subcommand;
use js::{HarakaConfig, JsConfig, Plugins};
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
    /// Load Haraka's plugins one by one, and tell which hooks each registers or why it cannot be loaded. None is begun.
    Haraka {
        /// The folder with `config/plugins`, as `policy.haraka.directory` names it.
        directory: PathBuf,
        /// Where Haraka itself is installed, if it is not in `node_modules/Haraka` of the folder.
        #[arg(long)]
        core: Option<PathBuf>,
        /// Plugins to load in the place of those that `config/plugins` lists.
        #[arg(long = "plugin")]
        plugins: Vec<String>,
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
            Self::Haraka { directory, core, plugins } => {
                haraka(&HarakaConfig { core, ..HarakaConfig::of(directory) }, plugins)
            }
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

/// One line for each plugin, so that one that fails hides no other.
fn haraka(config: &HarakaConfig, plugins: Vec<String>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let plugins = match plugins.is_empty() {
        false => plugins,
        true => Plugins::list(config).map_err(|error| anyhow::anyhow!("{error}"))?,
    };
    let surroundings = policy::Surroundings::default();
    let mut failed = 0;
    for plugin in &plugins {
        let looked = Plugins::look(config, std::slice::from_ref(plugin), &surroundings);
        match runtime.block_on(looked) {
            Ok(found) => {
                let hooks = found.last().map(|found| found.hooks.join(" ")).unwrap_or_default();
                say!("ok      {plugin}: {}", if hooks.is_empty() { "no hooks" } else { &hooks });
            }
            Err(error) => {
                failed += 1;
                let text = error.to_string();
                say!("FAILED  {plugin}: {}", text.lines().take(2).collect::<Vec<_>>().join(" "));
            }
        }
    }
    say!("{} plugins, {failed} failed", plugins.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
