//! Files, for `fs`: what lies in the program's folders may be read, what lies in its writable one may be changed.

use crate::context::within;
use crate::host::Host;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Octets of a file that a plugin reads at once.
const FILE_MAX_OCTETS: u64 = 64 << 20;
/// Names in a folder that a plugin is told.
const NAMES_MAX: usize = 100_000;

/// An error by its word in C, which the scripts make Node's of.
fn word(error: &std::io::Error) -> String {
    let code = match error.kind() {
        ErrorKind::NotFound => "ENOENT",
        ErrorKind::PermissionDenied => "EACCES",
        ErrorKind::AlreadyExists => "EEXIST",
        ErrorKind::NotADirectory => "ENOTDIR",
        ErrorKind::IsADirectory => "EISDIR",
        ErrorKind::DirectoryNotEmpty => "ENOTEMPTY",
        _ => "EIO",
    };
    format!("{code}: {error}")
}

/// A file that is there, within what may be read.
fn there(host: &Host, path: &str) -> Result<PathBuf, String> {
    let path = Path::new(path);
    if let Some(path) = within(&host.folders, path) {
        return Ok(path);
    }
    // Whether a file outside exists is nobody's business.
    let inside = host.folders.iter().any(|folder| path.starts_with(folder));
    Err(if inside { "ENOENT: no such file or directory" } else { "ENOENT: outside of the plugins' folders" }
        .into())
}

/// A place in the writable folder: its parent is there, and the name is one of its own.
fn place(host: &Host, path: &str) -> Result<PathBuf, String> {
    let Some(writable) = &host.writable else {
        return Err("EROFS: plugins may write nowhere, unless policy.haraka.writable names a folder".into());
    };
    let path = Path::new(path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err("EACCES: this is no file".into());
    };
    let parent = parent.canonicalize().map_err(|error| word(&error))?;
    let path = parent.join(name);
    // A link at the end would lead out as well.
    let real = if path.exists() { path.canonicalize().map_err(|error| word(&error))? } else { path };
    if real.starts_with(writable) { Ok(real) } else { Err("EROFS: outside of policy.haraka.writable".into()) }
}

pub(super) fn read(host: &Host, path: &str) -> Result<Vec<u8>, String> {
    let path = there(host, path)?;
    let about = fs::metadata(&path).map_err(|error| word(&error))?;
    if about.is_dir() {
        return Err("EISDIR: illegal operation on a directory".into());
    }
    if !about.is_file() || about.len() > FILE_MAX_OCTETS {
        return Err(format!("EFBIG: no file of at most {FILE_MAX_OCTETS} octets"));
    }
    fs::read(&path).map_err(|error| word(&error))
}

/// Kind, octets, when it was changed in seconds, and its number.
pub(super) fn stat(host: &Host, path: &str) -> Result<(&'static str, f64, f64, f64), String> {
    use std::os::unix::fs::MetadataExt;
    let about = fs::metadata(there(host, path)?).map_err(|error| word(&error))?;
    let kind = match () {
        () if about.is_file() => "file",
        () if about.is_dir() => "folder",
        () => "other",
    };
    let changed = about.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    Ok((kind, about.len() as f64, changed.map_or(0.0, |time| time.as_secs_f64()), about.ino() as f64))
}

pub(super) fn list(host: &Host, path: &str) -> Result<Vec<String>, String> {
    let entries = fs::read_dir(there(host, path)?).map_err(|error| word(&error))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.take(NAMES_MAX).collect();
    names.sort();
    Ok(names)
}

pub(super) fn real(host: &Host, path: &str) -> Result<String, String> {
    there(host, path).map(|path| path.to_string_lossy().into_owned())
}

pub(super) fn write(host: &Host, path: &str, octets: &[u8], flags: &str) -> Result<(), String> {
    let path = place(host, path)?;
    let mut options = fs::OpenOptions::new();
    match flags {
        "a" | "a+" | "as" => options.append(true).create(true),
        "wx" | "wx+" | "ax" => options.write(true).create_new(true),
        _ => options.write(true).create(true).truncate(true),
    };
    let mut file = options.open(path).map_err(|error| word(&error))?;
    file.write_all(octets).map_err(|error| word(&error))
}

/// True if something may be written there.
pub(super) fn may_write(host: &Host, path: &str) -> Result<(), String> {
    let writable = host.writable.as_ref().ok_or("EACCES: plugins may write nowhere")?;
    if there(host, path)?.starts_with(writable) {
        Ok(())
    } else {
        Err("EACCES: outside of policy.haraka.writable".into())
    }
}

pub(super) fn make_folder(host: &Host, path: &str, with_parents: bool) -> Result<(), String> {
    // Levels that are made at once.
    const DEPTH_MAX: usize = 16;
    let mut missing = vec![PathBuf::from(path)];
    while with_parents && missing.len() < DEPTH_MAX {
        let Some(parent) = missing.last().and_then(|last| last.parent()).filter(|parent| !parent.exists())
        else {
            break;
        };
        missing.push(parent.to_owned());
    }
    for folder in missing.iter().rev() {
        let folder = place(host, &folder.to_string_lossy())?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && with_parents => {}
            outcome => outcome.map_err(|error| word(&error))?,
        }
    }
    Ok(())
}

pub(super) fn remove(host: &Host, path: &str) -> Result<(), String> {
    fs::remove_file(place(host, path)?).map_err(|error| word(&error))
}

pub(super) fn remove_folder(host: &Host, path: &str) -> Result<(), String> {
    fs::remove_dir(place(host, path)?).map_err(|error| word(&error))
}

pub(super) fn rename(host: &Host, from: &str, to: &str) -> Result<(), String> {
    fs::rename(place(host, from)?, place(host, to)?).map_err(|error| word(&error))
}

pub(super) fn link(host: &Host, from: &str, to: &str) -> Result<(), String> {
    fs::hard_link(place(host, from)?, place(host, to)?).map_err(|error| word(&error))
}
