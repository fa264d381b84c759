//! The task that keeps policies fresh, and on disk.

use crate::shared::Shared;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::error;

/// How often what has changed is written down.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// How often kept policies are looked through for old ones.
const REFRESH_EVERY: Duration = Duration::from_secs(1800);

/// Runs until the server stops.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut stopped = shared.stopped();
    let mut refresh_at = Instant::now() + REFRESH_EVERY;
    loop {
        tokio::select! {
            () = stopped.wait() => break,
            () = tokio::time::sleep(SAVE_EVERY) => {}
        }
        if refresh_at <= Instant::now() {
            refresh_at = Instant::now() + REFRESH_EVERY;
            let policies = shared.sts.clone();
            // Hosts that stall must not keep others' policies from the disk.
            tokio::spawn(async move { policies.refresh().await });
        }
        save(&shared).await;
    }
    save(&shared).await;
}

/// Writes it down on a thread that may wait for the disk.
async fn save(shared: &Arc<Shared>) {
    let policies = shared.sts.clone();
    if let Err(panic) = tokio::task::spawn_blocking(move || policies.save()).await {
        error!(%panic, "writing MTA-STS policies down ended in a panic");
    }
}
