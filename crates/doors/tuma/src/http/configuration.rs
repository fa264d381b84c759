//! The configuration file over HTTP: read with its secrets hidden, validated, applied, and taken back.
//!
//! Only the main file is read and written; what it includes is left alone. A new text is first read as the server would
//! read it, then what was there is kept, then the file is replaced in one step and put in force. If that fails the old text
//! stands again. A hidden secret that comes back as it was shown stays what it was.

use super::access::{Access, wall};
use super::extract::{Path as InPath, Query};
use super::refusal::{Refusal, object};
use super::{Shared, redact};
use crate::config;
use crate::root::Root;
use crate::server::{Server, Source};
use aws_lc_rs::digest::{SHA256, digest};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Octets of a configuration file at most.
pub(super) const TEXT_MAX: usize = 4 * 1024 * 1024;
/// Versions kept; beyond them the oldest go.
const VERSIONS_MAX: usize = 50;
/// Octets of a reason kept.
const REASON_MAX: usize = 200;

/// A version that was in force, as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u64,
    /// When it was replaced.
    replaced_at_ms: u64,
    /// By whom, and why.
    replaced_by: String,
    reason: String,
    text: String,
}

/// Why a version was replaced.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Why {
    /// For those who look at the history.
    reason: Option<String>,
}

fn file(server: &Server) -> Result<PathBuf, Refusal> {
    match server.source() {
        Source::File(path) => Ok(path.clone()),
        Source::Text(_) => Err(Refusal::conflict("this server was started without a configuration file")),
    }
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Refusal {
    Refusal::conflict(format!("{} cannot be {what}: {error}", path.display()))
}

fn read_text(path: &Path) -> Result<String, Refusal> {
    std::fs::read_to_string(path).map_err(|error| failed("read", path, &error))
}

/// Stands for a text, so that nobody replaces what he has not seen.
fn fingerprint(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref()[..8].iter().map(|octet| format!("{octet:02x}")).collect()
}

fn history(server: &Server) -> PathBuf {
    server.with_root(Root::state_directory).join("config-history")
}

/// The versions kept, the oldest first.
fn versions(folder: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok();
    let mut found: Vec<u64> = entries.filter_map(number).collect();
    found.sort_unstable();
    found
}

fn kept(folder: &Path, version: u64) -> Result<Kept, Refusal> {
    let path = folder.join(format!("{version:08}.json"));
    let text = std::fs::read_to_string(&path).map_err(|_| {
        let known: Vec<String> = versions(folder).iter().map(u64::to_string).collect();
        Refusal::no_such("version", &version.to_string(), known.iter().map(String::as_str))
    })?;
    serde_json::from_str(&text).map_err(|error| failed("read", &path, &error.into()))
}

/// Writes a file whole or not at all: beside it, synced, and then in its place.
fn replace(path: &Path, text: &str, like: Option<&std::fs::Metadata>) -> std::io::Result<()> {
    let beside = beside(path);
    let write = || {
        // Opened before anything changes: what cannot be done is found out while the old text still stands.
        let folder = File::open(folder_of(path))?;
        let _ = std::fs::remove_file(&beside);
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        out.write_all(text.as_bytes())?;
        if let Some(like) = like {
            out.set_permissions(std::fs::Permissions::from_mode(like.mode() & 0o7777))?;
            // Only root can give files away; for others it is theirs already.
            let _ = std::os::unix::fs::fchown(&out, Some(like.uid()), Some(like.gid()));
        }
        out.sync_all()?;
        std::fs::rename(&beside, path)?;
        folder.sync_all()
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&beside)))
}

/// The folder of a file; that of a bare name is where the server runs.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where a text stands before it is in force. In the same folder, so that what it includes is found.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.candidate"))
}

/// Reads a text as the server would; its warnings, or what is wrong with it.
fn judge(path: &Path, text: &str) -> Result<String, Refusal> {
    let beside = beside(path);
    let _ = std::fs::remove_file(&beside);
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
    written
        .and_then(|mut out| out.write_all(text.as_bytes()))
        .map_err(|error| failed("written", &beside, &error))?;
    let read = config::load::<Root>(&beside, &config::process_environment);
    let _ = std::fs::remove_file(&beside);
    let named = |text: String| text.replace(&*beside.to_string_lossy(), &path.to_string_lossy());
    match read {
        Ok(loaded) if loaded.value.listener.is_empty() => {
            Err(Refusal::unfit("the configuration has no listener, so the server could not start with it"))
        }
        Ok(loaded) => Ok(named(loaded.warnings.to_string())),
        Err(report) => Err(Refusal::unfit(named(report.to_string()))),
    }
}

/// The text of a body, its hidden secrets put back.
fn candidate(path: &Path, body: &[u8]) -> Result<String, Refusal> {
    let text = std::str::from_utf8(body).map_err(|_| Refusal::bad("the body is not UTF-8"))?;
    if text.trim().is_empty() {
        return Err(Refusal::bad("the body is the text of the configuration file"));
    }
    redact::restore(text, &read_text(path)?, &config::secret_keys_of::<Root>()).map_err(Refusal::unfit)
}

/// The file, its secrets hidden, and the values in force.
pub(super) async fn read(State(server): Shared) -> Result<Json<Value>, Refusal> {
    let path = file(&server)?;
    let text = tokio::task::block_in_place(|| read_text(&path))?;
    let loaded = tokio::task::block_in_place(|| server.source().load());
    let effective = loaded.map(|loaded| loaded.show()).ok();
    Ok(Json(json!({
        "file": path.display().to_string(),
        "fingerprint": fingerprint(&text),
        "text": redact::hide(&text, &config::secret_keys_of::<Root>()),
        "effective": effective,
    })))
}

/// Says what is wrong with a text; nothing changes.
pub(super) async fn validate(State(server): Shared, body: Bytes) -> Result<Json<Value>, Refusal> {
    let path = file(&server)?;
    let _turn = server.http.config_turn.lock().await;
    let warnings = tokio::task::block_in_place(|| judge(&path, &candidate(&path, &body)?))?;
    Ok(Json(json!({ "valid": true, "warnings": warnings })))
}

/// Puts a text in force, in the place of that whose fingerprint `If-Match` names, if it names one.
pub(super) async fn apply(
    State(server): Shared,
    Extension(access): Extension<Access>,
    Query(why): Query<Why>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let path = file(&server)?;
    let _turn = server.http.config_turn.lock().await;
    if let Some(wanted) =
        headers.get(header::IF_MATCH).map(|value| value.to_str().unwrap_or("").trim_matches('"'))
    {
        let now = fingerprint(&tokio::task::block_in_place(|| read_text(&path))?);
        if wanted != now {
            let text = format!("the file is another by now: its fingerprint is {now}; read it again");
            return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, text));
        }
    }
    let text = tokio::task::block_in_place(|| candidate(&path, &body))?;
    put(&server, &access, &path, &text, why.reason.unwrap_or_default()).await
}

/// Puts an earlier version in force.
pub(super) async fn roll_back(
    State(server): Shared,
    Extension(access): Extension<Access>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let map = object(&body, &["version"])?;
    let folder = history(&server);
    let version = match map.get("version") {
        None | Some(Value::Null) => {
            let last = tokio::task::block_in_place(|| versions(&folder).pop());
            last.ok_or_else(|| {
                Refusal::missing("nothing was replaced over HTTP yet, so there is nothing to go back to")
            })?
        }
        Some(value) => value
            .as_u64()
            .ok_or_else(|| Refusal::bad("`version` is a number of the history").at("/version"))?,
    };
    let path = file(&server)?;
    let _turn = server.http.config_turn.lock().await;
    let earlier = tokio::task::block_in_place(|| kept(&folder, version))?;
    put(&server, &access, &path, &earlier.text, format!("back to version {version}")).await
}

async fn put(
    server: &Server,
    access: &Access,
    path: &Path,
    text: &str,
    reason: String,
) -> Result<Json<Value>, Refusal> {
    let folder = history(server);
    let (old, like, version, warnings) = tokio::task::block_in_place(|| {
        let warnings = judge(path, text)?;
        let old = read_text(path)?;
        let like = std::fs::metadata(path).map_err(|error| failed("read", path, &error))?;
        let version =
            keep(&folder, access, &old, &reason).map_err(|error| failed("written", &folder, &error))?;
        replace(path, text, Some(&like)).map_err(|error| failed("written", path, &error))?;
        Ok::<_, Refusal>((old, like, version, warnings))
    })?;
    match server.reload().await {
        Ok(said) => Ok(Json(
            json!({ "replaced": version, "fingerprint": fingerprint(text), "text": said, "warnings": warnings }),
        )),
        Err(why) => {
            let back = tokio::task::block_in_place(|| replace(path, &old, Some(&like)));
            let back = match back {
                Ok(()) => "the file is as it was".to_owned(),
                Err(error) => format!("and the file could not be put back: {error}"),
            };
            Err(Refusal::unfit(format!("{}\n{back}", why.trim_end())))
        }
    }
}

/// Keeps what is replaced; its version.
fn keep(folder: &Path, access: &Access, old: &str, reason: &str) -> std::io::Result<u64> {
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    let known = versions(folder);
    let version = known.last().map_or(1, |last| last + 1);
    let kept = Kept {
        version,
        replaced_at_ms: wall().0,
        replaced_by: access.name().to_owned(),
        reason: message::one_line(reason, REASON_MAX),
        text: old.to_owned(),
    };
    replace(&folder.join(format!("{version:08}.json")), &serde_json::to_string(&kept)?, None)?;
    for old in known.iter().rev().skip(VERSIONS_MAX - 1) {
        let _ = std::fs::remove_file(folder.join(format!("{old:08}.json")));
    }
    Ok(version)
}

fn shown(kept: &Kept) -> Value {
    json!({
        "version": kept.version,
        "replaced_at_ms": kept.replaced_at_ms,
        "replaced_by": kept.replaced_by,
        "reason": kept.reason,
        "fingerprint": fingerprint(&kept.text),
    })
}

/// What was in force before, the newest first.
pub(super) async fn list(State(server): Shared) -> Json<Value> {
    let folder = history(&server);
    Json(tokio::task::block_in_place(|| {
        versions(&folder)
            .iter()
            .rev()
            .filter_map(|version| kept(&folder, *version).ok())
            .map(|kept| shown(&kept))
            .collect()
    }))
}

/// One of them, its secrets hidden.
pub(super) async fn version(
    State(server): Shared,
    InPath(version): InPath<u64>,
) -> Result<Json<Value>, Refusal> {
    let folder = history(&server);
    let kept = tokio::task::block_in_place(|| kept(&folder, version))?;
    let mut value = shown(&kept);
    value["text"] = json!(redact::hide(&kept.text, &config::secret_keys_of::<Root>()));
    Ok(Json(value))
}
