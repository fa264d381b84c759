//! What of it is this machine: certificates, file limits, the disk, the clock, the way out.

use super::{Finding, PATIENCE};
use crate::root::Root;
use mail::UnixMillis;
use net::tls::{CertificateFiles, Certificates};
use nix::sys::resource::{Resource, getrlimit};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::timeout;

/// A certificate that ends within this time is renewed now.
const ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);
/// Descriptors that files and name servers take besides connections.
const OTHER_FILES: u64 = 200;
/// Writes whose syncs are timed.
const SYNCS: usize = 21;
/// A sync that takes longer holds up who hands in mail.
const SYNC_SLOW: Duration = Duration::from_millis(10);
/// A sync that takes longer makes a server useless.
const SYNC_BAD: Duration = Duration::from_millis(200);
/// A clock further off breaks signatures and certificates.
const CLOCK_BAD_MS: i64 = 60_000;
/// A clock further off is not set by anybody.
const CLOCK_OFF_MS: i64 = 2_000;
/// Seconds from 1900, where NTP begins, to 1970 (RFC 5905 §6).
const NTP_TO_UNIX_SECONDS: i64 = 2_208_988_800;

/// The certificates that listeners show.
pub(super) fn files(root: &Root, found: &mut Vec<Finding>) {
    let now = UnixMillis::from(SystemTime::now());
    let mut pairs = root.certificate_files();
    if let (Some(chain), Some(key)) = (&root.http.certificate, &root.http.key) {
        pairs.push((chain.clone(), key.clone()));
    }
    if pairs.is_empty() {
        let fix = "add [tls.default] with `certificate` and `key` before others are to send to this server";
        let text = if root.server.self_signed {
            "only one made for the moment, which no client can check"
        } else {
            "none is configured"
        };
        match root.listener.values().any(|listener| !listener.listen.ip().is_loopback()) {
            true => found.push(Finding::warn("certificate", "listeners", text, fix)),
            false => found.push(Finding::ok(
                "certificate",
                "listeners",
                format!("{text}; all listen to this machine alone"),
            )),
        }
    }
    for (chain, key) in pairs {
        let about = chain.display().to_string();
        match Certificates::load(&[CertificateFiles { chain, key }]) {
            Err(error) => {
                found.push(Finding::fail(
                    "certificate",
                    about,
                    error.to_string(),
                    "put a readable chain and its key there",
                ));
            }
            Ok(certificates) => {
                for expiry in certificates.expiry() {
                    let days = expiry.days_left(now);
                    let text = format!("it ends in {days} days");
                    let fix = "renew it; the server takes the new file by itself";
                    let seconds = expiry.seconds_left(now);
                    found.push(if seconds <= 0 {
                        Finding::fail("certificate", &about, "it has ended", fix)
                    } else if seconds < ENDS_SOON.as_secs() as i64 {
                        Finding::warn("certificate", &about, text, fix)
                    } else {
                        Finding::ok("certificate", &about, text)
                    });
                }
            }
        }
    }
}

/// Whether there are descriptors for the connections that are allowed.
pub(super) fn descriptors(root: &Root, found: &mut Vec<Finding>) {
    let about = "open files";
    let wanted = root.reception.connections_max as u64
        + root.delivery.connections_total_max as u64
        + root.server.descriptors_reserve
        + OTHER_FILES;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Err(error) => found.push(Finding::unknown("limits", about, error.to_string())),
        Ok((_, hard)) if hard >= wanted => {
            found.push(Finding::ok("limits", about, format!("{hard} are allowed, {wanted} can be needed")));
        }
        Ok((_, hard)) => {
            let text =
                format!("{hard} are allowed; all connections that the configuration allows take {wanted}");
            let fix = format!(
                "LimitNOFILE={wanted} in the service's unit, or lower `reception.connections_max` and \
                 `delivery.connections_total_max`"
            );
            found.push(Finding::warn("limits", about, text, fix));
        }
    }
}

/// How long the disk of the spool takes to keep something.
pub(super) fn disk(root: &Root, found: &mut Vec<Finding>) {
    let folder = &root.spool.directory;
    let about = folder.display().to_string();
    // Before the first start the folder is not there: the disk is that of the nearest one above.
    let Some(place) = folder.ancestors().find(|place| place.is_dir()) else {
        found.push(Finding::fail(
            "disk",
            about,
            "there is no such folder",
            "make it, for the server's user to write",
        ));
        return;
    };
    let file = place.join(format!(".tuma-doctor-{}", std::process::id()));
    let measured = syncs(&file);
    let _ = std::fs::remove_file(&file);
    match measured {
        Err(error) => {
            let fix = "the user that the server runs as must be able to write there";
            let state = Finding::fail("disk", &about, format!("{}: {error}", place.display()), fix);
            found.push(if error.kind() == ErrorKind::PermissionDenied {
                Finding { text: format!("{} cannot be written by you", place.display()), ..state }
            } else {
                state
            });
        }
        Ok(mut times) => {
            times.sort_unstable();
            let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
            let text = format!(
                "a sync takes {:.1} ms, the worst of {SYNCS} took {:.1}",
                median.as_secs_f64() * 1e3,
                worst.as_secs_f64() * 1e3
            );
            let fix = "put the spool on a disk that keeps writes faster: an SSD with power-loss protection";
            found.push(if median >= SYNC_BAD {
                Finding::fail("disk", about, text, fix)
            } else if median >= SYNC_SLOW {
                Finding::warn("disk", about, text, fix)
            } else {
                Finding::ok("disk", about, text)
            });
        }
    }
}

fn syncs(file: &std::path::Path) -> std::io::Result<Vec<Duration>> {
    let mut out = OpenOptions::new().write(true).create_new(true).open(file)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let began = Instant::now();
        out.write_all(&[0x55; 4096])?;
        out.sync_data()?;
        times.push(began.elapsed());
    }
    Ok(times)
}

/// Whether connections to port 25 of others get out.
pub(super) async fn reach(target: &str, found: &mut Vec<Finding>) {
    if target == "none" {
        return;
    }
    let tried = async {
        let mut stream = TcpStream::connect(target).await?;
        let mut greeting = [0; 3];
        stream.read_exact(&mut greeting).await?;
        Ok::<_, std::io::Error>(greeting)
    };
    let fix =
        "many hosting companies block port 25 until asked; ask yours, or send by a route to a smart host";
    found.push(match timeout(PATIENCE, tried).await {
        Ok(Ok(greeting)) if &greeting == b"220" => {
            Finding::ok("port-25", target, "a mail server of others answers")
        }
        Ok(Ok(greeting)) => {
            let text = format!("it answers {:?} in place of 220", String::from_utf8_lossy(&greeting));
            Finding::fail("port-25", target, text, fix)
        }
        Ok(Err(error)) if no_network(&error) => {
            Finding::unknown("port-25", target, format!("there is no network, or no such host: {error}"))
        }
        Ok(Err(error)) => Finding::fail("port-25", target, format!("no connection: {error}"), fix),
        Err(_) => Finding::fail("port-25", target, "no answer within 10 seconds", fix),
    });
}

fn no_network(error: &std::io::Error) -> bool {
    // A name that cannot be looked up has no kind of its own.
    matches!(
        error.kind(),
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::Other | ErrorKind::NotFound
    ) || error.raw_os_error().is_none()
}

/// How far the clock is off, by a time server (RFC 5905 §14).
pub(super) async fn clock(server: &str, found: &mut Vec<Finding>) {
    if server == "none" {
        return;
    }
    found.push(match timeout(PATIENCE, offset_ms(server)).await {
        Ok(Ok(offset)) => {
            let text = format!(
                "it is {:.3} s {}",
                offset.abs() as f64 / 1e3,
                if offset > 0 { "late" } else { "early" }
            );
            let fix = "let a time service set it: systemd-timesyncd or chrony";
            match offset.abs() {
                CLOCK_BAD_MS.. => Finding::fail("clock", server, text, fix),
                CLOCK_OFF_MS.. => Finding::warn("clock", server, text, fix),
                _ => Finding::ok("clock", server, text),
            }
        }
        Ok(Err(error)) => Finding::unknown("clock", server, format!("no time server answers: {error}")),
        Err(_) => Finding::unknown("clock", server, "no time server answers"),
    });
}

/// What must be added to our clock, in milliseconds.
async fn offset_ms(server: &str) -> std::io::Result<i64> {
    let to = lookup_host(server).await?.next().ok_or(ErrorKind::NotFound)?;
    let local = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(to).await?;
    let now_ms = || UnixMillis::from(SystemTime::now()).0 as i64;
    let mut question = [0; 48];
    // Version 4, a client.
    question[0] = 0x23;
    let sent = now_ms();
    socket.send(&question).await?;
    let mut answer = [0; 48];
    let octets = socket.recv(&mut answer).await?;
    let received = now_ms();
    let server_mode = answer[0] & 7 == 4 && answer[1] != 0;
    if octets < 48 || !server_mode {
        return Err(std::io::Error::new(ErrorKind::InvalidData, "the answer is not that of a time server"));
    }
    let stamp = |at: usize| {
        let word = |at: usize| {
            i64::from(u32::from_be_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]]))
        };
        (word(at) - NTP_TO_UNIX_SECONDS) * 1_000 + ((word(at + 4) * 1_000) >> 32)
    };
    Ok(((stamp(32) - sent) + (stamp(40) - received)) / 2)
}
