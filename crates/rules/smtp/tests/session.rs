//! Sessions as dialogues: each file under `dialogues/` is one story, named for the symptom. Tags such as A13 in
//! their first lines are rows of the house's list of attacks.

#![allow(clippy::disallowed_methods, reason = "the dialogues are files")]

mod driver;

use driver::{Cut, Script};

/// Every dialogue, in the order of the directory.
fn dialogues() -> Vec<Script> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dialogues");
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .expect("the dialogues are beside this file")
        .map(|entry| entry.expect("a directory entry").path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let name = path.file_stem().expect("a file name").to_string_lossy();
            driver::parse(&name, &std::fs::read_to_string(path).expect("a readable dialogue"))
        })
        .collect()
}

/// The rows of the attack list that a dialogue can show. A8, A20 and C40 are in `properties.rs`.
const ROWS: &[&str] = &[
    "A1", "A2", "A3", "A4", "A5", "A6", "A9", "A10", "A11", "A12", "A13", "A14", "A15", "A16", "A18", "A19",
    "A21", "A22", "B23", "B24", "B25", "B28", "B29", "B30", "B31", "B36", "C38", "C41", "C42", "D47", "D48",
];

#[test]
fn every_attack_has_its_dialogue() {
    let scripts = dialogues();
    let is_shown = |row: &str| {
        scripts
            .iter()
            .any(|script| script.about.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == row))
    };
    let missing: Vec<_> = ROWS.iter().filter(|row| !is_shown(row)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Runs each dialogue with each cut and shows every one that goes another way.
fn check(cuts: &[Cut]) {
    let scripts = dialogues();
    assert!(scripts.len() > 90, "only {} dialogues", scripts.len());
    let wrong: Vec<String> =
        scripts.iter().filter_map(|script| cuts.iter().find_map(|&cut| script.run(cut).err())).collect();
    assert!(wrong.is_empty(), "{} dialogues went wrong\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn dialogues_as_written() {
    check(&[Cut::Lockstep]);
}

#[test]
fn dialogues_in_one_segment() {
    check(&[Cut::Whole]);
}

#[test]
fn dialogues_octet_by_octet() {
    check(&[Cut::Every(1), Cut::Every(2), Cut::Every(3), Cut::Every(7)]);
}

#[test]
fn dialogues_cut_at_random() {
    let cuts: Vec<Cut> = (1..=20u64).map(|n| Cut::Random(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    check(&cuts);
}
