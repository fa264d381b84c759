//! The bounces that flufl.bounce is tested with, read by our readers. The package is fetched by whoever runs the tests
//! (`FLUFL_BOUNCE` names its unpacked sources); its samples are not in this tree.

#![allow(clippy::disallowed_methods, reason = "a test reads its samples")]

use bounce::{ReportFormat, ReportKind, read_report};
use message::Action;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// A sample: its file, whom it names, and whether it is a warning only.
struct Sample {
    file: String,
    named: BTreeSet<String>,
    warning: bool,
}

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("FLUFL_BOUNCE").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from("/usr/local/share/flufl.bounce")));
    let folder = folder?.join("flufl/bounce");
    if folder.join("testing/helpers.py").exists() {
        return Some(folder);
    }
    assert!(
        std::env::var_os("TUMA_REQUIRE_PROGRAMS").is_none(),
        "the sources of flufl.bounce 4.0 are not there"
    );
    eprintln!("skipped: the sources of flufl.bounce 4.0 are not there");
    None
}

/// Texts between quotes of a Python list of tuples.
fn samples(helpers: &str) -> Vec<Sample> {
    let list = &helpers[helpers.find("DATA = (").expect("the list")..];
    let list = &list[..list.find("\n    )").unwrap_or(list.len())];
    let lines: Vec<&str> = list.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let list = lines.join("\n");
    list.split("\n    (")
        .skip(1)
        .map(|entry| {
            let quoted: Vec<&str> = entry.split('\'').skip(1).step_by(2).collect();
            Sample {
                file: quoted[1].to_owned(),
                named: quoted[2..].iter().map(|name| name.to_lowercase()).collect(),
                warning: entry.contains("True"),
            }
        })
        .collect()
}

#[test]
fn samples_of_real_servers_are_read() {
    let Some(folder) = folder() else { return };
    let helpers = std::fs::read_to_string(folder.join("testing/helpers.py")).expect("the list of samples");
    let (mut all, mut found, mut exact, mut actions) = (0, 0, 0, 0);
    let mut missed = Vec::new();
    for sample in samples(&helpers) {
        let text = std::fs::read(folder.join("tests/data").join(&sample.file)).expect("a sample");
        let mut content = Vec::with_capacity(text.len() + 1_000);
        for line in text.split_inclusive(|octet| *octet == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            content.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
            content.extend_from_slice(b"\r\n");
        }
        // As servers do with what mailboxes put in front.
        if content.starts_with(b"From ") {
            let end = content.iter().position(|octet| *octet == b'\n').map_or(0, |at| at + 1);
            content.drain(..end);
        }
        all += 1;
        let report = read_report(&content).filter(|report| report.kind == ReportKind::Delivery);
        let recipients = report.as_ref().map(|report| &report.recipients[..]).unwrap_or_default();
        let named: BTreeSet<String> = recipients
            .iter()
            .flat_map(|one| one.addresses())
            .map(|one| one.as_str().to_lowercase())
            .collect();
        let covers = !named.is_empty() && sample.named.is_subset(&named) || named == sample.named;
        found += usize::from(covers);
        exact += usize::from(named == sample.named);
        let wanted = if sample.warning { Action::Delayed } else { Action::Failed };
        let same = recipients.iter().any(|one| one.action == wanted);
        actions += usize::from(same);
        if !covers || !same {
            let format = report.as_ref().map_or("-", |report| ReportFormat::as_str(report.format));
            missed.push(format!("{} {format} {:?} wanted {:?} {wanted:?}", sample.file, named, sample.named));
        }
    }
    let figures = format!(
        "{all} samples: {found} name all recipients, {exact} no other, {actions} say what became of them"
    );
    println!("{figures}\n{}", missed.join("\n"));
    assert!(all >= 100, "{figures}");
    assert!(found * 100 >= all * 88 && actions * 100 >= all * 90, "{figures}\n{}", missed.join("\n"));
}
