//! The developer's tool: `cargo xtask tidy` holds the house to its plan, `cargo xtask docs` writes what is generated.
//!
//! Everything `tidy` finds is also found by `cargo test -p xtask`, so nobody has to remember to run it. Read first:
//! [`floors`], the plan as data.

mod code;
mod docs;
mod floors;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = root();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["tidy"] => docs::floors(&root).and_then(|()| tidy::tidy(&root)),
        ["docs"] => docs::floors(&root).and_then(|()| docs::generate(&root)),
        _ => Err(vec!["usage: cargo xtask tidy | docs".into()]),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaints) => {
            complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
            ExitCode::FAILURE
        }
    }
}

/// The workspace: two folders above this crate's manifest, which cargo names when it runs or tests it.
fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| "tools/xtask".into(), PathBuf::from);
    manifest.join("../..").canonicalize().unwrap_or_else(|_| ".".into())
}
