//! What the compiler cannot hold: the plan of the house, and habits that would otherwise be wishes.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::code::code_only;
use crate::docs::{MAP, with_table};
use crate::floors::{self, Floor, HOUSE};

/// The `clippy.toml` of every room that touches nothing outside.
const PURE: &str = include_str!("../pure.clippy.toml");

/// Types that make a `static` changeable.
const CHANGEABLE: &[&str] =
    &["Atomic", "Mutex", "RwLock", "Cell", "OnceLock", "OnceCell", "Condvar", "ArcSwap", "DashMap"];

/// Statics that may change all the same: file, name, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "crates/workflows/delivery/src/session.rs",
        "SCRATCH",
        "a read buffer for each thread, emptied before anything else runs, so that an idle connection owns none",
    ),
    ("crates/workflows/reception/src/session/wire.rs", "SCRATCH", "the same, for clients"),
    (
        "crates/doors/tuma/tests/harness/mod.rs",
        "NEXT",
        "ports that tests of one process must not choose twice",
    ),
];

/// Folders of people's machines. In pieces, or this file would find itself.
const MACHINE_PATHS: [&str; 3] = [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];

/// Everything that is not as it should be, or nothing.
pub fn tidy(root: &Path) -> Result<(), Vec<String>> {
    let metadata = floors::metadata(root).map_err(|error| vec![error])?;
    let mut complaints = floors::compare(HOUSE, &metadata, root);
    for room in HOUSE {
        let folder = Path::new(room.floor.folder()).join(room.name);
        complaints.extend(lints(root, &folder));
        if room.floor <= Floor::Rules {
            complaints.extend(pure(root, &folder));
        }
    }
    for path in files(root) {
        // A file that git knows and that is being deleted, or one that is no text.
        let Ok(text) = std::fs::read_to_string(root.join(&path)) else { continue };
        let name = path.display().to_string();
        complaints.extend(machine_paths(&name, &text));
        if path.extension().is_some_and(|extension| extension == "rs") {
            complaints.extend(changeable_statics(&name, &text));
        }
    }
    complaints.extend(stale_map(root, &floors::table(HOUSE, &metadata)));
    if complaints.is_empty() { Ok(()) } else { Err(complaints) }
}

/// Every crate opts into the lints of the workspace.
fn lints(root: &Path, folder: &Path) -> Option<String> {
    let manifest = folder.join("Cargo.toml");
    let text = std::fs::read_to_string(root.join(&manifest)).unwrap_or_default();
    let section = text.split("\n[").find_map(|section| section.strip_prefix("lints]"));
    let opted = section.is_some_and(|section| section.lines().any(|line| line.trim() == "workspace = true"));
    (!opted).then(|| format!("{}: add `[lints]` with `workspace = true`", manifest.display()))
}

/// Words and rules name in their `clippy.toml` what they may not touch.
fn pure(root: &Path, folder: &Path) -> Option<String> {
    let path = folder.join("clippy.toml");
    let text = std::fs::read_to_string(root.join(&path)).unwrap_or_default();
    let same = text.starts_with(PURE);
    (!same).then(|| format!("{}: must begin with what tools/xtask/pure.clippy.toml says", path.display()))
}

/// The files of the repository: those git knows or would add, or all of them where there is no git.
fn files(root: &Path) -> Vec<PathBuf> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(list).current_dir(root).output();
    if let Ok(output) = output
        && output.status.success()
        && !output.stdout.is_empty()
    {
        let names = output.stdout.split(|b| *b == 0).filter(|name| !name.is_empty());
        return names.map(|name| PathBuf::from(String::from_utf8_lossy(name).into_owned())).collect();
    }
    let mut files = Vec::new();
    walk(root, Path::new(""), &mut files);
    files
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let path = folder.join(&name);
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => {
                let skipped = [".git", "target", "tuma-data", "node_modules", "corpus", "artifacts"];
                if !skipped.iter().any(|skipped| name == *skipped) {
                    walk(root, &path, files);
                }
            }
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
}

/// A path of somebody's machine works on no other.
fn machine_paths(name: &str, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate();
    lines
        .filter_map(|(number, line)| {
            let path = MACHINE_PATHS.iter().find(|path| line.contains(**path))?;
            Some(format!("{name}:{}: names a path of one machine, `{path}`", number + 1))
        })
        .collect()
}

/// There is no mutable process-wide state: two servers can run in one process.
fn changeable_statics(name: &str, text: &str) -> Vec<String> {
    // What a test makes once is no state of a server.
    if name.ends_with("/tests.rs") || name.contains("/tests/") {
        return Vec::new();
    }
    let code = code_only(text);
    let mut complaints = Vec::new();
    for (at, _) in code.match_indices("static ") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '\'') {
            continue;
        }
        let rest = &code[at + "static ".len()..];
        let declaration = &rest[..rest.find(['=', ';', '{']).unwrap_or(rest.len())];
        let Some((variable, kind)) = declaration.split_once(':') else { continue };
        let variable = variable.trim();
        let (changeable, variable) = match variable.strip_prefix("mut ") {
            Some(variable) => (true, variable.trim()),
            None => (CHANGEABLE.iter().any(|word| kind.contains(word)), variable),
        };
        let allowed =
            EXCEPTIONS.iter().any(|(file, static_name, _)| *file == name && *static_name == variable);
        if changeable && !allowed {
            let line = code[..at].matches('\n').count() + 1;
            complaints.push(format!("{name}:{line}: `static {variable}` can change; pass it as an argument"));
        }
    }
    complaints
}

/// The floor table in the map is the one in the code.
fn stale_map(root: &Path, table: &str) -> Option<String> {
    let map = std::fs::read_to_string(root.join(MAP)).ok()?;
    match with_table(&map, table) {
        Ok(new) if new == map => None,
        Ok(_) => Some(format!("{MAP}: the floor table is stale; run `cargo xtask tidy`")),
        Err(reason) => Some(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        if let Err(complaints) = tidy(&crate::root()) {
            panic!("\n{}\n", complaints.join("\n"));
        }
    }

    #[test]
    fn statics_that_change() {
        for (code, found) in [
            ("static mut N: u8 = 0;", Some("N")),
            ("pub(crate) static SEEN: std::sync::Mutex<u8> = x;", Some("SEEN")),
            ("    static COUNT: AtomicU64 = AtomicU64::new(0);", Some("COUNT")),
            ("static PAGE: OnceLock<String> = OnceLock::new();", Some("PAGE")),
            ("static L: LazyLock<RwLock<u8>> = LazyLock::new(|| x);", Some("L")),
            ("static NAMES: &[&str] = &[\"Mutex\"];", None),
            ("static RE: LazyLock<Regex> = LazyLock::new(|| x);", None),
            ("#[global_allocator]\nstatic A: mimalloc::MiMalloc = x;", None),
            ("thread_local! { static X: RefCell<u8> = x; }", Some("X")),
            ("thread_local! { static X: u8 = const { 1 }; }", None),
            ("fn f(x: &'static Mutex<u8>) {}", None),
            ("// static mut N: u8 = 0;\nlet s = \"static mut N: u8 = 0;\";", None),
            ("non_static mut: u8", None),
        ] {
            let complaints = changeable_statics("a.rs", code);
            let expected = found.map(|name| format!("`static {name}` can change"));
            assert_eq!(complaints.len(), usize::from(found.is_some()), "{code}: {complaints:?}");
            assert!(expected.is_none_or(|expected| complaints[0].contains(&expected)), "{complaints:?}");
        }
    }

    #[test]
    fn paths_of_one_machine() {
        let text = format!("a\nsee {}x\n~/x and home/ and /rooted\n", MACHINE_PATHS[1]);
        assert_eq!(
            machine_paths("a.md", &text),
            [format!("a.md:2: names a path of one machine, `{}`", MACHINE_PATHS[1])]
        );
    }
}
