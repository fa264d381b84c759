//! Files and what they include: `include = ["conf.d/*.toml", "other.toml"]`, made one tree.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use settings::{Key, Node, Place, Problems, Setting, Sources, Value, quote, show_key};

use super::{Environment, fill, parse};

/// Largest configuration file, in bytes.
pub const FILE_MAX: u64 = 4 << 20;

/// Most files one configuration is made of.
pub const FILES_MAX: usize = 256;

/// How many files may stand between the first file and one that is included.
pub const INCLUDE_DEPTH_MAX: usize = 8;

/// The key that includes files, at the top of a file only.
const INCLUDE: &str = "include";

/// Reads a file and everything it includes.
pub fn read_file(path: &Path, env: Environment<'_>, sources: &mut Sources, problems: &mut Problems) -> Node {
    let mut reader = Reader { env, sources, problems, way: Vec::new(), seen: Vec::new() };
    match read(path) {
        Ok(text) => reader.file(path, text, None),
        Err(reason) => {
            let file = reader.sources.add(path, "");
            reader.problems.error(Place::whole(file), reason);
            reader.problems.expect_gaps();
            Node::new(Value::Table(Vec::new()), Place::whole(file))
        }
    }
}

/// Reads a text, which may not include files.
pub fn read_text(
    name: &str,
    text: &str,
    env: Environment<'_>,
    sources: &mut Sources,
    problems: &mut Problems,
) -> Node {
    let file = sources.add(name, text);
    let mut tree = parse::parse(file, sources, problems);
    fill::fill(&mut tree, env, sources, problems);
    if let Some((_, node)) = take_include(&mut tree) {
        problems.error(node.place, "only a file can include files");
    }
    tree
}

/// The text of a file, or why there is none.
fn read(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("is larger than {}", settings::Size(FILE_MAX)));
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|&&b| b == b'\n').count() + 1;
        format!("is not UTF-8, from line {line} on")
    })
}

struct Reader<'a> {
    env: Environment<'a>,
    sources: &'a mut Sources,
    problems: &'a mut Problems,
    /// The files being read, from the first to the innermost, as the system names them.
    way: Vec<PathBuf>,
    /// Every file read, and where it was included.
    seen: Vec<(PathBuf, Option<Place>)>,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, text: String, included: Option<Place>) -> Node {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        self.way.push(real.clone());
        self.seen.push((real, included));
        let file = self.sources.add(path, text);
        let mut tree = parse::parse(file, self.sources, self.problems);
        fill::fill(&mut tree, self.env, self.sources, self.problems);
        if let Some((key, node)) = take_include(&mut tree) {
            let patterns = self.problems.within(&key.name, |problems| Vec::<String>::read(&node, problems));
            let folder = path.parent().unwrap_or(Path::new(""));
            for (pattern, node) in patterns.unwrap_or_default().iter().zip(node.items()) {
                for path in self.matching(folder, pattern, node.place) {
                    if let Some(other) = self.include(&path, node.place) {
                        merge(&mut tree, other, &mut Vec::new(), self.problems);
                    }
                }
            }
        }
        self.way.pop();
        tree
    }

    /// The tree of an included file; none, with a problem, if it cannot be included.
    fn include(&mut self, path: &Path, place: Place) -> Option<Node> {
        let tree = self.try_include(path, place);
        if tree.is_none() {
            self.problems.expect_gaps();
        }
        tree
    }

    fn try_include(&mut self, path: &Path, place: Place) -> Option<Node> {
        let name = quote(&path.display().to_string());
        let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if self.way.contains(&real) {
            let message = match self.way.last() {
                Some(last) if *last == real => "the file includes itself".to_string(),
                _ => format!("{name} includes this file, in a circle"),
            };
            self.problems.error(place, message);
            return None;
        }
        if let Some((_, first)) = self.seen.iter().find(|(seen, _)| *seen == real) {
            let first = *first;
            let problem = self.problems.error(place, format!("{name} is included twice"));
            if let Some(first) = first {
                problem.also(first, "first included here");
            }
            return None;
        }
        if self.way.len() > INCLUDE_DEPTH_MAX || self.seen.len() >= FILES_MAX {
            let message =
                format!("too many files: at most {FILES_MAX}, and includes at most {INCLUDE_DEPTH_MAX} deep");
            self.problems.error(place, message);
            return None;
        }
        match read(path) {
            Ok(text) => Some(self.file(path, text, Some(place))),
            Err(reason) => {
                self.problems.error(place, format!("{name} {reason}"));
                None
            }
        }
    }

    /// The files a pattern stands for, sorted. `*` may stand in the last component.
    fn matching(&mut self, folder: &Path, pattern: &str, place: Place) -> Vec<PathBuf> {
        let path = folder.join(pattern);
        let (parent, last) = match pattern.rsplit_once('/') {
            Some((parent, last)) => (parent, last),
            None => ("", pattern),
        };
        if pattern.is_empty() || parent.contains('*') {
            let hint = "a `*` may stand in the last part of a path, as in \"conf.d/*.toml\"";
            self.problems.error(place, format!("{} names no files", quote(pattern))).hint(hint);
            return Vec::new();
        }
        if !last.contains('*') {
            return vec![path];
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                let message = format!("{} cannot be listed: {error}", quote(&folder.display().to_string()));
                self.problems.error(place, message);
                return Vec::new();
            }
        };
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| matches_glob(last, name))
            .map(|name| path.with_file_name(name))
            .collect();
        paths.sort();
        paths
    }
}

/// True if `name` is what `pattern` says, `*` being any text. Hidden files must be named outright.
fn matches_glob(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Takes `include` out of a file's tree: no table has such a key.
fn take_include(tree: &mut Node) -> Option<(Key, Node)> {
    let Value::Table(entries) = &mut tree.value else { return None };
    let at = entries.iter().position(|(key, _)| key.name == INCLUDE)?;
    Some(entries.remove(at))
}

/// Adds a file's tree to another: tables merge, lists of tables are joined, anything else is set once.
fn merge(tree: &mut Node, other: Node, way: &mut Vec<String>, problems: &mut Problems) {
    let (Value::Table(entries), Value::Table(others)) = (&mut tree.value, other.value) else { return };
    let index: HashMap<String, usize> =
        entries.iter().enumerate().map(|(index, (key, _))| (key.name.clone(), index)).collect();
    for (key, node) in others {
        let Some((first, old)) = index.get(&key.name).and_then(|index| entries.get_mut(*index)) else {
            entries.push((key, node));
            continue;
        };
        way.push(show_key(&key.name));
        match (&mut old.value, node.value) {
            (Value::Table(_), value @ Value::Table(_)) => {
                merge(old, Node { value, ..node }, way, problems);
            }
            (Value::Array(items), Value::Array(more))
                if parse::is_array_of_tables(items) && parse::is_array_of_tables(&more) =>
            {
                items.extend(more);
            }
            _ => {
                problems
                    .error(key.place, format!("`{}` is set in two files", way.join(".")))
                    .also(first.place, "first set here");
            }
        }
        way.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::matches_glob;

    #[test]
    fn globs() {
        for (pattern, name, fits) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".a.toml", false),
            (".*.toml", ".a.toml", true),
            ("*.toml", "a.toml~", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "ac", false),
            ("ab*ba", "aba", false),
            ("*", "anything", true),
            ("**", "anything", true),
            ("10-*", "10-x", true),
        ] {
            assert_eq!(matches_glob(pattern, name), fits, "{pattern} {name}");
        }
    }
}
