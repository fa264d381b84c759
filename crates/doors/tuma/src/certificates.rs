//! The certificates that listeners show, watched while the server runs: changed files are taken, and people are told
//! before a certificate ends.

use crate::server::Server;
use net::tls::CertificateFiles;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};
use tracing::{info, warn};

/// How often people are reminded of a certificate that ends soon.
const REMIND_EVERY: Duration = Duration::from_secs(86_400);

/// What tells a file from what it was: its time of change, size and number.
type Stamp = Vec<Option<(SystemTime, u64, u64)>>;

fn stamp(files: &[CertificateFiles]) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    let of = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len(), found.ino()))
    };
    files.iter().flat_map(|files| [of(&files.chain), of(&files.key)]).collect()
}

/// Watches until the server is gone.
pub(crate) fn watch(server: &Arc<Server>) {
    let weak = Arc::downgrade(server);
    tokio::spawn(run(weak));
}

async fn run(server: Weak<Server>) {
    let mut known: Option<(Vec<CertificateFiles>, Stamp)> = None;
    let mut reminded: Option<Instant> = None;
    loop {
        let Some(server) = server.upgrade() else { return };
        let every = server.certificates_check_every();
        let files = server.certificate_files();
        let stamped = {
            let files = files.clone();
            tokio::task::spawn_blocking(move || stamp(&files)).await.unwrap_or_default()
        };
        let is_changed = known.as_ref().is_some_and(|known| *known != (files.clone(), stamped.clone()));
        if is_changed {
            match tokio::task::block_in_place(|| server.reload_certificates()) {
                Ok(()) => {
                    info!("certificates have changed, and are shown from now on");
                    reminded = None;
                }
                Err(error) => {
                    warn!(%error, "changed certificates are not taken, the old ones stay");
                    let text = format!("changed certificates are not taken, the old ones stay: {error}");
                    server.delivery.tell("certificates", text);
                }
            }
        }
        known = Some((files, stamped));
        if reminded.is_none_or(|at| at.elapsed() >= REMIND_EVERY) {
            reminded = Some(Instant::now());
            remind(&server);
        }
        drop(server);
        tokio::time::sleep(every).await;
    }
}

/// Says which certificates end soon.
pub(crate) fn remind(server: &Server) {
    let now = SystemTime::now().into();
    let before = server.certificates_warn_before();
    for expiry in server.certificate_expiry() {
        let days = expiry.days_left(now);
        if expiry.seconds_left(now) > before.as_secs() as i64 {
            continue;
        }
        let file = expiry.chain.display();
        warn!(certificate = %file, days, "certificate expires soon");
        let text = match days {
            ..0 => format!("the certificate in {file} has expired"),
            days => format!("the certificate in {file} expires in {days} days"),
        };
        server.delivery.tell(&format!("certificate {file}"), text);
    }
}
