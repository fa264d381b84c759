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

/// How often counts for reports are written down, and it is looked whether reports are due.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// Runs until the server stops.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut stopped = shared.stopped();
    let mut refresh_at = Instant::now() + REFRESH_EVERY;
    let mut report_at = Instant::now();
    let mut reporting: Option<tokio::task::JoinHandle<()>> = None;
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
        if report_at <= Instant::now() && reporting.as_ref().is_none_or(|task| task.is_finished()) {
            report_at = Instant::now() + REPORT_EVERY;
            let shared = shared.clone();
            // Its posts wait for peers.
            reporting = Some(tokio::spawn(async move {
                super::reports::send_due(&shared).await;
                save_reports(&shared).await;
            }));
        }
        save(&shared).await;
    }
    if let Some(reporting) = reporting {
        // What is handed in twice is told twice; what is under way may end. It looks at the stop between two domains.
        let _ = tokio::time::timeout(Duration::from_secs(5), reporting).await;
    }
    save(&shared).await;
    save_reports(&shared).await;
}

async fn save_reports(shared: &Arc<Shared>) {
    let reports = shared.reports.clone();
    if let Err(panic) = tokio::task::spawn_blocking(move || reports.save()).await {
        error!(%panic, "writing counts for TLS reports down ended in a panic");
    }
}

/// Writes it down on a thread that may wait for the disk.
async fn save(shared: &Arc<Shared>) {
    let policies = shared.sts.clone();
    if let Err(panic) = tokio::task::spawn_blocking(move || policies.save()).await {
        error!(%panic, "writing MTA-STS policies down ended in a panic");
    }
}
