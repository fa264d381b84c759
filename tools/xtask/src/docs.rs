//! Pages that are generated: the floor table, and what the binary prints about its configuration.

use std::path::Path;
use std::process::Command;

use crate::floors::{self, HOUSE};

const OPEN: &str = "<!-- floors -->";
const CLOSE: &str = "<!-- /floors -->";

/// Where the floor table is printed.
pub const MAP: &str = "ARCHITECTURE.md";

/// Pages that the binary prints. Its own tests find them stale.
const PAGES: &[(&str, &[&str])] = &[
    ("docs/reference/config.md", &["config", "reference"]),
    ("docs/reference/config.schema.json", &["config", "schema"]),
    ("docs/reference/traffic.md", &["config", "traffic"]),
];

/// Prints the floor table into the map, if there is one and it is stale.
pub fn floors(root: &Path) -> Result<(), Vec<String>> {
    let path = root.join(MAP);
    let Ok(old) = std::fs::read_to_string(&path) else { return Ok(()) };
    let metadata = floors::metadata(root).map_err(|error| vec![error])?;
    let new = with_table(&old, &floors::table(HOUSE, &metadata)).map_err(|error| vec![error])?;
    if new != old {
        std::fs::write(&path, new).map_err(|error| vec![format!("{MAP}: {error}")])?;
        println!("{MAP}: floor table written");
    }
    Ok(())
}

/// The map with the table between its markers.
pub fn with_table(map: &str, table: &str) -> Result<String, String> {
    let missing = || format!("{MAP}: the floor table goes between `{OPEN}` and `{CLOSE}`");
    let (before, rest) = map.split_once(OPEN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(CLOSE).ok_or_else(missing)?;
    Ok(format!("{before}{OPEN}\n\n{table}\n{CLOSE}{after}"))
}

/// Writes every page that the binary prints.
pub fn generate(root: &Path) -> Result<(), Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for (page, words) in PAGES {
        let failed = |reason: String| vec![format!("{page}: {reason}")];
        let output = Command::new(&cargo)
            .args(["run", "--quiet", "--package", "tuma", "--"])
            .args(*words)
            .current_dir(root)
            .output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let path = root.join(page);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
        }
        if std::fs::read(&path).ok().as_ref() != Some(&output.stdout) {
            std::fs::write(&path, &output.stdout).map_err(|error| failed(error.to_string()))?;
            println!("{page}: written");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::with_table;

    #[test]
    fn the_table_goes_between_its_markers() {
        let map = with_table("a\n<!-- floors -->\nold\n<!-- /floors -->\nb\n", "new\n").unwrap();
        assert_eq!(map, "a\n<!-- floors -->\n\nnew\n\n<!-- /floors -->\nb\n");
        assert_eq!(with_table(&map, "new\n").as_deref(), Ok(map.as_str()));
        assert!(with_table("a\n<!-- floors -->\n", "new").is_err());
    }
}
