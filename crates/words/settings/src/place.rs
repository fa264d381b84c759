//! Where a value stands: which file, and which bytes of it.

use std::path::{Path, PathBuf};

/// A stretch of bytes in one of the [`Sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Index of the file, as [`Sources::add`] returned it.
    pub file: usize,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Place {
    /// The bytes from `start` to `end` of a file.
    pub fn new(file: usize, start: usize, end: usize) -> Self {
        Self { file, start, end: end.max(start) }
    }

    /// A file as such, no line of it: where a missing key of the root table is reported.
    pub fn whole(file: usize) -> Self {
        Self { file, start: 0, end: usize::MAX }
    }

    /// True if this names a file and no line of it.
    pub fn is_whole(&self) -> bool {
        self.end == usize::MAX
    }
}

/// The files that were read, so that a [`Place`] can be shown to a person.
#[derive(Clone, Debug, Default)]
pub struct Sources(Vec<Source>);

#[derive(Clone, Debug)]
struct Source {
    path: PathBuf,
    text: String,
    /// Where each line begins, so that a thousand mistakes in a large file are not a thousand walks through it.
    lines: Vec<usize>,
}

impl Sources {
    /// Adds a file and returns its index. The text of a file that could not be read is empty.
    pub fn add(&mut self, path: impl Into<PathBuf>, text: impl Into<String>) -> usize {
        let text = text.into();
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        self.0.push(Source { path: path.into(), text, lines });
        self.0.len() - 1
    }

    /// The path of a file, as it was added.
    pub fn path(&self, file: usize) -> &Path {
        self.0.get(file).map_or(Path::new("?"), |source| &source.path)
    }

    /// The text of a file.
    pub fn text(&self, file: usize) -> &str {
        self.0.get(file).map_or("", |source| &source.text)
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if no file was added.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The line on which a place begins, counted from one.
    pub fn line(&self, place: Place) -> usize {
        self.0
            .get(place.file)
            .map_or(1, |source| source.lines.partition_point(|start| *start <= place.start).max(1))
    }

    /// The whole line on which a place begins, without its end.
    pub fn line_place(&self, place: Place) -> Place {
        let Some(source) = self.0.get(place.file) else { return place };
        let line = self.line(place);
        let start = source.lines.get(line - 1).copied().unwrap_or_default();
        let end = source.lines.get(line).map_or(source.text.len(), |next| next - 1);
        Place::new(place.file, start, end)
    }

    /// The text at a place.
    pub fn excerpt(&self, place: Place) -> &str {
        self.text(place.file).get(place.start..place.end).unwrap_or_default()
    }

    /// `file:line`, or only `file` for a whole file.
    pub fn short(&self, place: Place) -> String {
        let path = self.path(place.file).display();
        if place.is_whole() { path.to_string() } else { format!("{path}:{}", self.line(place)) }
    }
}
