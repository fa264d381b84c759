//! Signals: SIGHUP reads the configuration again, SIGTERM and SIGINT stop, a second one at once.

use crate::server::Server;
use anyhow::{Context, Result};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

/// Serves signals until the server has stopped.
pub async fn until_stopped(server: &Arc<Server>) -> Result<()> {
    let listen = |kind| signal(kind).context("listen for signals");
    let mut hangup = listen(SignalKind::hangup())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = hangup.recv() => {
                if let Err(report) = server.reload().await {
                    error!("the new configuration is not taken, the old one stays in force:\n{report}");
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    let limit = server.stop_timeout();
    info!(?limit, "stopping; a second signal stops at once");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tokio::select! {
        () = server.stop(limit) => info!("stopped"),
        // Nothing is lost by leaving: what was acknowledged is on disk.
        _ = terminate.recv() => warn!("stopped at once"),
        _ = interrupt.recv() => warn!("stopped at once"),
    }
    Ok(())
}
