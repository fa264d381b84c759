//! The configuration file: the only room that knows it is TOML.
//!
//! [`load`] reads a file and what it includes, fills in the environment, and hands the tree to the struct that
//! the rooms' tables make up; either all of it is right, or a [`Report`] shows every mistake. Nothing here knows a
//! setting: the root is any [`Setting`], and what `tuma config` prints ([`check`], [`json_schema`],
//! [`Loaded::show`], [`reference`]) comes from its declaration.

mod fill;
mod fuzz;
mod include;
mod parse;
mod reference;
mod schema;
mod show;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use settings::{Node, Place, Problem, Problems, Schema, Setting, Sources, Value};

#[doc(hidden)]
pub use fuzz::fuzz;
pub use include::{FILE_MAX, FILES_MAX, INCLUDE_DEPTH_MAX};
pub use reference::{page, reference};
pub use schema::json_schema;

/// Where the values of `${NAME}` come from.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process. A value that is not UTF-8 counts as not set.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A configuration that was read, and where each part of it came from.
#[derive(Debug)]
pub struct Loaded<T> {
    /// What the server works with.
    pub value: T,
    /// What the operator should look at; holds no errors.
    pub warnings: Report,
    tree: Node,
}

/// What was found in a configuration, with the files it was found in. `Display` prints it without colours.
#[derive(Debug)]
pub struct Report {
    /// The mistakes.
    pub problems: Problems,
    /// The files that were read.
    pub sources: Sources,
}

impl Report {
    /// Every problem as `file:line:col: error: …`, its line, a caret and what helps.
    pub fn render(&self, colour: bool) -> String {
        self.problems.render(&self.sources, colour)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

/// Reads a configuration file and everything it includes.
pub fn load<T: Setting>(path: &Path, env: Environment<'_>) -> Result<Loaded<T>, Box<Report>> {
    let mut sources = Sources::default();
    let mut problems = Problems::new();
    let tree = include::read_file(path, env, &mut sources, &mut problems);
    finish(tree, sources, problems)
}

/// Reads a configuration from a text, which cannot include files. `name` stands for its path in messages.
pub fn load_text<T: Setting>(name: &str, text: &str, env: Environment<'_>) -> Result<Loaded<T>, Box<Report>> {
    let mut sources = Sources::default();
    let mut problems = Problems::new();
    let tree = include::read_text(name, text, env, &mut sources, &mut problems);
    finish(tree, sources, problems)
}

fn finish<T: Setting>(
    tree: Node,
    sources: Sources,
    mut problems: Problems,
) -> Result<Loaded<T>, Box<Report>> {
    // What the parser, the inclusion and the filling in found makes the lines it stands on doubtful: what the
    // tables say about the same lines would only repeat it, and a missing key may be in what was not understood.
    let line = |problem: &Problem| (problem.place.file, sources.line(problem.place));
    let doubtful: BTreeSet<(usize, usize)> =
        problems.iter().filter(|problem| !problem.place.is_whole()).map(line).collect();
    let mut found = Problems::new();
    if problems.expects_gaps() {
        found.expect_gaps();
    }
    let value = T::read(&tree, &mut found);
    found.retain(|problem| problem.place.is_whole() || !doubtful.contains(&line(problem)));
    conceal_lines(&T::schema(), &sources, &mut problems);
    problems.append(found);
    match value {
        Some(value) if !problems.has_errors() => {
            Ok(Loaded { value, warnings: Report { problems, sources }, tree })
        }
        _ => Err(Box::new(Report { problems, sources })),
    }
}

/// Hides what follows the key of a secret on the lines that will be printed. Reading hides the secrets it meets;
/// these are the ones it never met, because the parser stumbled over them or another file had set them.
fn conceal_lines(schema: &Schema, sources: &Sources, problems: &mut Problems) {
    let mut keys = BTreeSet::new();
    secret_keys(schema, &mut keys);
    let places = problems
        .iter()
        .flat_map(|problem| [Some(problem.place), problem.also.as_ref().map(|(place, _)| *place)]);
    let lines: BTreeSet<Place> =
        places.flatten().filter(|place| !place.is_whole()).map(|place| sources.line_place(place)).collect();
    for line in lines {
        let text = sources.excerpt(line);
        let ends = keys.iter().flat_map(|key| text.match_indices(key).map(move |(at, _)| at + key.len()));
        for end in ends {
            let rest = text[end..].trim_start_matches(['"', '\'', ' ', '\t']);
            if let Some(value) = rest.strip_prefix('=') {
                problems.conceal(Place::new(line.file, line.end - value.trim_start().len(), line.end));
            }
        }
    }
}

/// The keys of secrets, in whatever table.
pub fn secret_keys_of<T: Setting>() -> BTreeSet<&'static str> {
    let mut keys = BTreeSet::new();
    secret_keys(&T::schema(), &mut keys);
    keys
}

fn secret_keys(schema: &Schema, keys: &mut BTreeSet<&'static str>) {
    for field in schema.table().into_iter().flat_map(|table| &table.fields) {
        if field.secret {
            keys.insert(field.key);
        }
        secret_keys(&field.schema, keys);
    }
}

impl<T: Setting> Loaded<T> {
    /// The effective values as TOML, each with a comment that says where it came from; secrets hidden.
    pub fn show(&self) -> String {
        show::show(&self.value.show(), &self.tree, &self.warnings.sources)
    }

    /// One line for an operator whose configuration is right.
    pub fn summary(&self) -> String {
        let sources = &self.warnings.sources;
        let mut text = format!("ok: {}", sources.path(0).display());
        if sources.len() > 1 {
            text.push_str(&format!(" and {}", plural(sources.len() - 1, "included file")));
        }
        text.push_str(&format!(", {} written", plural(leaves(&self.tree), "setting")));
        match self.warnings.problems.count().1 {
            0 => text,
            n => format!("{text}, {}", plural(n, "warning")),
        }
    }
}

/// Why a committed page is not what would be generated now; for the tests that hold [`reference`] and
/// [`json_schema`] to their pages.
pub fn stale(page: &Path, fresh: &str) -> Option<String> {
    let same = std::fs::read_to_string(page).is_ok_and(|committed| committed == fresh);
    (!same).then(|| format!("{} is stale; run `cargo xtask docs`", page.display()))
}

fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// How many values a tree holds that are not tables.
fn leaves(node: &Node) -> usize {
    match &node.value {
        Value::Table(entries) => entries.iter().map(|(_, node)| leaves(node)).sum(),
        Value::Array(items) if parse::is_array_of_tables(items) => items.iter().map(leaves).sum(),
        _ => 1,
    }
}

/// `tuma config check`: prints every mistake and returns 1, or prints a summary and returns 0.
pub fn check<T: Setting>(
    path: &Path,
    env: Environment<'_>,
    colour: bool,
    out: &mut dyn std::io::Write,
) -> std::io::Result<u8> {
    match load::<T>(path, env) {
        Ok(loaded) => {
            write!(out, "{}", loaded.warnings.render(colour))?;
            writeln!(out, "{}", loaded.summary())?;
            Ok(0)
        }
        Err(report) => {
            let (errors, warnings) = report.problems.count();
            write!(out, "{}", report.render(colour))?;
            let warnings =
                if warnings > 0 { format!(", {}", plural(warnings, "warning")) } else { String::new() };
            writeln!(out, "{}{warnings}", plural(errors, "error"))?;
            Ok(1)
        }
    }
}
