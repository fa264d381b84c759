//! Log lines on standard error, with a level that can be changed at run time.

use crate::root::{LogConfig, LogFormat};
use crate::server::LogLevel;
use anyhow::{Context, Result};
use std::io::IsTerminal;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

/// Begins logging. The handle changes the level.
pub fn init(config: &LogConfig) -> Result<LogLevel> {
    let level: Targets = config.level.parse().context("log.level")?;
    let (filter, handle) = reload::Layer::new(level);
    let lines = match config.format {
        LogFormat::Text => {
            fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).boxed()
        }
        LogFormat::Json => fmt::layer().with_writer(std::io::stderr).json().flatten_event(true).boxed(),
    };
    let registry = tracing_subscriber::registry().with(filter).with(lines);
    // A second server in one process (a test) shares the first one's log.
    let _ = registry.try_init();
    Ok(handle)
}
