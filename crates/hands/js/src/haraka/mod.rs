//! Haraka's plugins, as they are: the server plays Haraka to them.
//!
//! The scripts beside this file make what a plugin finds around it: Node's own modules (`core.js`, `stream.js`, `io.js`),
//! Haraka's loader and configuration files (`loader.js`), and a session's connection and transaction (`session.js`). They
//! run in the machine that runs operators' scripts, with its limits, and answer the same questions.

mod config;
mod crypto;
mod files;
mod native;
mod sockets;

pub use config::HarakaConfig;
pub(crate) use native::install;
pub(crate) use sockets::Sockets;

use crate::context::{Context, Failure};
use crate::program::Program;
use crate::script::{LoadError, Script};
use policy::Surroundings;
use rquickjs::Function;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a plugin finds around it, in the order in which it is made.
const PRELUDES: &[(&str, &str)] = &[
    ("haraka:core", include_str!("core.js")),
    ("haraka:stream", include_str!("stream.js")),
    ("haraka:io", include_str!("io.js")),
    ("haraka:loader", include_str!("loader.js")),
    ("haraka:session", include_str!("session.js")),
];

/// Plugins in one list.
const PLUGINS_MAX: usize = 1_000;

/// A plugin that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// As it names itself.
    pub name: String,
    /// Its file, or that of its package.
    pub path: String,
    /// The hooks for which it registered.
    pub hooks: Vec<String>,
}

/// Haraka's plugins as a policy.
pub struct Plugins;

impl Plugins {
    /// Loads the plugins that `config/plugins` lists, in its order.
    pub async fn load(
        config: &HarakaConfig,
        threads: usize,
        surroundings: &Surroundings,
    ) -> Result<Arc<Script>, LoadError> {
        let program = program(config, None).map_err(LoadError)?;
        Script::run(&program, threads, surroundings).await
    }

    /// Loads plugins by their names, and tells what they registered; none is begun.
    pub async fn look(
        config: &HarakaConfig,
        plugins: &[String],
        surroundings: &Surroundings,
    ) -> Result<Vec<Found>, LoadError> {
        let program = program(config, Some(plugins)).map_err(LoadError)?;
        let context = Context::load(&program, surroundings, None).await.map_err(LoadError)?;
        let told = context
            .enter(|ctx| ctx.globals().get::<_, Function>("__plugins")?.call::<_, String>(()))
            .await
            .map_err(LoadError)?;
        let told: Vec<serde_json::Value> = serde_json::from_str(&told).unwrap_or_default();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        Ok(told
            .iter()
            .map(|plugin| Found {
                name: text(&plugin["name"]),
                path: text(&plugin["path"]),
                hooks: plugin["hooks"].as_array().into_iter().flatten().map(text).collect(),
            })
            .collect())
    }

    /// The names in `config/plugins`.
    pub fn list(config: &HarakaConfig) -> Result<Vec<String>, LoadError> {
        listed(&folder(&config.directory).map_err(LoadError)?).map_err(LoadError)
    }
}

fn folder(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|error| Failure::Script(format!("{}: {error}", path.display())))
}

fn listed(directory: &Path) -> Result<Vec<String>, Failure> {
    let text = crate::context::read(&directory.join("config/plugins")).map_err(Failure::Script)?;
    let lines = text.lines().map(str::trim);
    let names: Vec<String> =
        lines.filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])).map(str::to_owned).collect();
    if names.len() > PLUGINS_MAX {
        return Err(Failure::Script(format!("config/plugins lists more than {PLUGINS_MAX} plugins")));
    }
    Ok(names)
}

fn program(config: &HarakaConfig, plugins: Option<&[String]>) -> Result<Program, Failure> {
    let directory = folder(&config.directory)?;
    let core = match &config.core {
        Some(core) => Some(folder(core)?),
        None => directory.join("node_modules/Haraka").canonicalize().ok(),
    };
    let writable = match &config.writable {
        Some(writable) => Some(folder(writable)?),
        None => None,
    };
    let entries = match plugins {
        Some(plugins) => plugins.to_vec(),
        None => listed(&directory)?,
    };
    let mut folders = vec![directory.clone()];
    if let Some(core) = &core {
        folders.push(core.clone());
        // A package's dependencies lie in it or beside it.
        if let Some(beside) =
            core.parent().filter(|beside| beside.file_name().is_some_and(|name| name == "node_modules"))
        {
            folders.push(beside.to_owned());
        }
    }
    folders.extend(writable.clone());
    let place = serde_json::json!({
        "root": directory.to_string_lossy(),
        "core": core.as_ref().map(|core| core.to_string_lossy()),
        "writable": writable.as_ref().map(|writable| writable.to_string_lossy()),
        "rcpt_needs_ok": config.rcpt_needs_ok,
    });
    Ok(Program {
        name: "haraka",
        folders,
        writable,
        preludes: PRELUDES,
        entries,
        place: place.to_string(),
        is_haraka: true,
        time_max: config.time_max,
        timeout: config.timeout,
        memory_max: config.memory_max,
        stack_max: config.stack_max,
        contexts: config.contexts,
        on_error: config.on_error,
    })
}

#[cfg(test)]
mod tests;
