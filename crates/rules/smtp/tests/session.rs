//! Sessions as dialogues: each file under `dialogues/` is one story, named for the symptom.

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
