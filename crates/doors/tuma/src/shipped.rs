//! The rules for large receivers that come with the server, as files an operator could have written.
//!
//! They lie beneath the operator's own table: [`Shipped::layers`] goes before it into `shaping::Rules::compile`, so
//! that a field or a reply rule of his wins over one of the same scope here. A piece of a file can be copied into a
//! configuration unchanged; [`print`] shows them all. `rules/replies` holds what receivers really say, and which rule
//! each text falls under; `docs/shaping.md` tells of it.

use std::fmt::Write;

use settings::{Place, Sources};
use shaping::{Layer, Origin, ShapingConfig};

use crate::config::{self, Report};

/// Name and text of each file. No two say anything of one provider.
const FILES: [(&str, &str); 12] = [
    ("default.toml", include_str!("../rules/default.toml")),
    ("google.toml", include_str!("../rules/google.toml")),
    ("microsoft.toml", include_str!("../rules/microsoft.toml")),
    ("yahoo.toml", include_str!("../rules/yahoo.toml")),
    ("apple.toml", include_str!("../rules/apple.toml")),
    ("america.toml", include_str!("../rules/america.toml")),
    ("france.toml", include_str!("../rules/france.toml")),
    ("germany.toml", include_str!("../rules/germany.toml")),
    ("europe.toml", include_str!("../rules/europe.toml")),
    ("asia.toml", include_str!("../rules/asia.toml")),
    ("gateways.toml", include_str!("../rules/gateways.toml")),
    ("hosting.toml", include_str!("../rules/hosting.toml")),
];

settings::table! {
    /// A file of shipped rules: nothing but the table that stands in a configuration under the same name.
    struct ShippedFile {
        /// What receivers tolerate.
        shaping: ShapingConfig = ShapingConfig::default(),
    }
}

/// The shipped rules as read.
#[derive(Debug)]
pub struct Shipped {
    files: Vec<File>,
}

struct File {
    config: ShapingConfig,
    origin: Box<dyn Fn(Place) -> Origin + Send + Sync>,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.config.fmt(f)
    }
}

impl Shipped {
    /// Reads the rules. That it can is tested, so a report tells of a mistake of ours.
    pub fn read() -> Result<Self, Box<Report>> {
        let mut files = Vec::with_capacity(FILES.len());
        for (name, text) in FILES {
            // Nothing in them comes from the environment: they mean the same on every machine.
            let loaded = config::load_text::<ShippedFile>(&path(name), text, &|_| None)?;
            let sources = loaded.warnings.sources;
            files.push(File {
                config: loaded.value.shaping,
                origin: Box::new(move |place| origin(&sources, place)),
            });
        }
        Ok(Self { files })
    }

    /// One layer for each file, to go before the operator's.
    pub fn layers(&self) -> impl Iterator<Item = Layer<'_>> {
        self.files.iter().map(|file| Layer { config: &file.config, origin: &file.origin })
    }
}

/// Where a setting was written, as `tuma explain` and the logs say it.
pub fn origin(sources: &Sources, place: Place) -> Origin {
    Origin {
        file: sources.path(place.file).to_string_lossy().into(),
        line: u32::try_from(sources.line(place)).unwrap_or(u32::MAX),
    }
}

/// A name that no file of the operator's has.
fn path(name: &str) -> String {
    format!("shipped/{name}")
}

/// All files one after another, for an operator to read and to copy from.
pub fn print() -> String {
    let mut text = String::new();
    for (n, (name, content)) in FILES.iter().enumerate() {
        let gap = if n == 0 { "" } else { "\n" };
        // Writing to a String cannot fail.
        let _ = write!(text, "{gap}# ---- {}\n\n{content}", path(name));
    }
    text
}

#[cfg(test)]
mod tests;
