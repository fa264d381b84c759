//! Signals: SIGHUP reads the configuration again, SIGTERM and SIGINT stop, a second one at once.

use crate::server::Server;
use anyhow::{Context, Result};
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

/// The signals, heard from the moment this is made: what comes while the server starts waits for it, where the
/// system's own answer would be to end the process.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to listen. Must be called within the runtime.
    pub fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Serves them until the server has stopped.
    pub async fn until_stopped(mut self, server: &Arc<Server>) -> Result<()> {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    if let Err(report) = server.reload().await {
                        error!("the new configuration is not taken, the old one stays in force:\n{report}");
                    }
                }
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
            }
        }
        let limit = server.stop_timeout();
        info!(?limit, "stopping; a second signal stops at once");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        tokio::select! {
            () = server.stop(limit) => info!("stopped"),
            // Nothing is lost by leaving: what was acknowledged is on disk.
            _ = self.terminate.recv() => warn!("stopped at once"),
            _ = self.interrupt.recv() => warn!("stopped at once"),
        }
        Ok(())
    }
}
