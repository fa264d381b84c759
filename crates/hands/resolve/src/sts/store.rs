//! Kept policies on disk: JSON with a version, replaced whole.

use super::{Kept, StsMode, StsPolicy};
use mail::{Domain, UnixMillis};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use tracing::warn;

/// The version of the form written here.
const VERSION: u64 = 1;
/// Octets of a file read at most.
const FILE_OCTETS_MAX: u64 = 1 << 28;

/// What an earlier process kept. A file that cannot be read is said and begun anew: mail then goes as it would to
/// domains that were never met.
pub(super) fn read(file: &Path, policies_max: usize) -> HashMap<Domain, Kept> {
    let text = match fs::File::open(file) {
        Ok(open) => {
            let mut text = String::new();
            open.take(FILE_OCTETS_MAX).read_to_string(&mut text).map(|_| text)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return HashMap::new(),
        Err(error) => Err(error),
    };
    let value = text.map_err(|e| e.to_string()).and_then(|text| {
        let value: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        if value["version"].as_u64() == Some(VERSION) { Ok(value) } else { Err("another version".to_owned()) }
    });
    match value {
        Ok(value) => {
            let list = value["policies"].as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(one).take(policies_max).collect()
        }
        Err(error) => {
            warn!(file = %file.display(), error, "kept MTA-STS policies cannot be read, and are begun anew");
            HashMap::new()
        }
    }
}

fn one(value: &Value) -> Option<(Domain, Kept)> {
    let domain = Domain::parse(value["domain"].as_str()?).ok()?;
    let mx: Vec<&str> = value["mx"].as_array()?.iter().map(Value::as_str).collect::<Option<_>>()?;
    let mode = StsMode::parse(value["mode"].as_str()?)?;
    let text = StsPolicy {
        mode,
        max_age: std::time::Duration::from_secs(value["max_age_s"].as_u64()?),
        mx: mx.into_iter().map(Into::into).collect(),
    };
    // It is held to the same rules as a fetched one.
    let policy = StsPolicy::parse(text.to_text().as_bytes()).ok()?;
    let id = value["id"].as_str()?.into();
    let fetched_at = UnixMillis(value["fetched_at_ms"].as_u64()?);
    Some((domain, Kept { id, policy: Arc::new(policy), fetched_at }))
}

pub(super) fn text(kept: &HashMap<Domain, Kept>) -> String {
    let mut list: Vec<(&Domain, &Kept)> = kept.iter().collect();
    list.sort_by_key(|(domain, _)| domain.as_str());
    let policies: Vec<Value> = list
        .into_iter()
        .map(|(domain, kept)| {
            json!({
                "domain": domain.as_str(),
                "id": kept.id,
                "mode": kept.policy.mode.word(),
                "max_age_s": kept.policy.max_age.as_secs(),
                "mx": kept.policy.mx,
                "fetched_at_ms": kept.fetched_at.0,
            })
        })
        .collect();
    format!("{:#}\n", json!({ "version": VERSION, "policies": policies }))
}

pub(super) fn write(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension("json.new");
    let mut open = fs::File::create(&new)?;
    open.write_all(text.as_bytes())?;
    open.sync_all()?;
    fs::rename(&new, file)?;
    match file.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again_and_what_is_broken_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mta-sts.json");
        assert!(read(&file, 10).is_empty());
        let policy =
            StsPolicy::parse(b"version: STSv1\nmode: enforce\nmx: *.a.test\nmax_age: 86400\n").unwrap();
        let kept: HashMap<Domain, Kept> = (0..20)
            .map(|n| {
                let domain = Domain::parse(&format!("d{n}.test")).unwrap();
                let fetched_at = UnixMillis(1_000 + n);
                (domain, Kept { id: "x1".into(), policy: Arc::new(policy.clone()), fetched_at })
            })
            .collect();
        write(&file, &text(&kept)).unwrap();
        assert_eq!(read(&file, 100), kept);
        assert_eq!(read(&file, 7).len(), 7);
        let broken = text(&kept).replace("\"enforce\"", "\"enforced\"").replacen("enforced", "enforce", 3);
        write(&file, &broken).unwrap();
        assert_eq!(read(&file, 100).len(), 3);
        for junk in [
            "",
            "{",
            "[]",
            "{\"version\":2,\"policies\":[]}",
            "{\"version\":1,\"policies\":[{\"domain\":7}]}",
        ] {
            write(&file, junk).unwrap();
            assert!(read(&file, 100).is_empty(), "{junk}");
        }
    }
}
