//! Mistakes found in a configuration, collected with their places and printed for a person.

use std::collections::HashSet;
use std::fmt::Write;

use crate::node::{push_visible, quote};
use crate::{Node, Place, Sources};

/// Most problems kept; the rest are counted.
pub const PROBLEMS_MAX: usize = 500;

/// Longest stretch of a source line shown, in characters.
const LINE_MAX: usize = 140;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but the operator should look.
    Warning,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Where it is.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Another place that has to do with it, and what it is.
    pub also: Option<(Place, String)>,
}

impl Problem {
    /// Says what to do about it.
    pub fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    /// Points at a second place.
    pub fn also(&mut self, place: Place, note: impl Into<String>) -> &mut Self {
        self.also = Some((place, note.into()));
        self
    }
}

/// Every mistake found so far, and the way to the setting that is being read.
#[derive(Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
    /// Given out when the list is full.
    spill: Option<Problem>,
    more: usize,
    path: Vec<Segment>,
    /// Above zero inside a secret: messages leave the value out.
    concealed: usize,
    /// Values that no printed source line may show.
    secrets: HashSet<Place>,
    /// The file could not be parsed whole: a key that is not there may have been written all the same.
    incomplete: bool,
}

#[derive(Debug)]
enum Segment {
    Key(String),
    Index(usize),
}

impl Problems {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an error at a place.
    pub fn error(&mut self, place: Place, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Error, place, message.into())
    }

    /// Adds a warning at a place.
    pub fn warning(&mut self, place: Place, message: impl Into<String>) -> &mut Problem {
        self.add(Severity::Warning, place, message.into())
    }

    fn add(&mut self, severity: Severity, place: Place, message: String) -> &mut Problem {
        let problem = Problem { severity, place, message, hint: None, also: None };
        if self.list.len() >= PROBLEMS_MAX {
            self.more += 1;
            return self.spill.insert(problem);
        }
        self.list.push(problem);
        let last = self.list.len() - 1;
        &mut self.list[last]
    }

    /// Adds "must be … , not …" about the setting being read.
    pub fn mismatch(&mut self, node: &Node, expected: &str) -> &mut Problem {
        let found = if self.concealed > 0 { node.kind().to_string() } else { node.describe() };
        let name = self.name();
        self.error(node.place, format!("{name} must be {expected}, not {found}"))
    }

    /// Adds "must be …, not …" with a reason, about a text that does not parse.
    pub fn unreadable(
        &mut self,
        node: &Node,
        expected: &str,
        reason: impl std::fmt::Display,
    ) -> &mut Problem {
        let concealed = self.concealed > 0;
        let problem = self.mismatch(node, expected);
        if !concealed {
            let mut text = String::new();
            reason.to_string().chars().for_each(|c| push_visible(&mut text, c));
            problem.hint(text);
        }
        problem
    }

    /// Adds "must be at least …" and the like about the setting being read.
    pub(crate) fn outside(&mut self, place: Place, bound: &str, found: &str) -> &mut Problem {
        let name = self.name();
        let found = if self.concealed > 0 { String::new() } else { format!(", not {found}") };
        self.error(place, format!("{name} must be {bound}{found}"))
    }

    /// Reads something under a key, so that messages name the way to it.
    pub fn within<R>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(Segment::Key(key.to_string()));
        let result = read(self);
        self.path.pop();
        result
    }

    /// Reads an item of a list.
    pub fn within_item<R>(&mut self, index: usize, read: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(Segment::Index(index));
        let result = read(self);
        self.path.pop();
        result
    }

    /// Reads a secret: neither messages nor printed lines show its value.
    pub fn within_secret<R>(&mut self, place: Place, read: impl FnOnce(&mut Self) -> R) -> R {
        self.conceal(place);
        self.concealed += 1;
        let result = read(self);
        self.concealed -= 1;
        result
    }

    /// Keeps the text at a place out of printed lines.
    pub fn conceal(&mut self, place: Place) {
        self.secrets.insert(place);
    }

    /// The setting being read, as `` `smtp.listener[0].bind` ``.
    pub fn name(&self) -> String {
        if self.path.is_empty() { "the configuration".into() } else { format!("`{}`", self.path_text()) }
    }

    /// The table being read, as ` in [smtp]`; nothing at the root.
    pub(crate) fn table_name(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!(" in [{}]", self.path_text()) }
    }

    fn path_text(&self) -> String {
        let mut text = String::new();
        for segment in &self.path {
            match segment {
                Segment::Key(key) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(&show_key(key));
                }
                // Writing to a String cannot fail.
                Segment::Index(index) => write!(text, "[{index}]").unwrap_or_default(),
            }
        }
        text
    }

    /// From now on missing keys are not reported, since the tree lacks what could not be parsed.
    pub fn expect_gaps(&mut self) {
        self.incomplete = true;
    }

    /// True if missing keys are not reported.
    pub fn expects_gaps(&self) -> bool {
        self.incomplete
    }

    /// Keeps only some of the problems.
    pub fn retain(&mut self, keep: impl FnMut(&Problem) -> bool) {
        self.list.retain(keep);
    }

    /// Adds the problems and the secrets of another.
    pub fn append(&mut self, other: Problems) {
        self.secrets.extend(other.secrets);
        self.more += other.more;
        for problem in other.list {
            if self.list.len() < PROBLEMS_MAX {
                self.list.push(problem);
            } else {
                self.more += 1;
            }
        }
    }

    /// True if nothing was found.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// True if the configuration cannot be used.
    pub fn has_errors(&self) -> bool {
        self.more > 0 || self.list.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// How many errors and how many warnings were found.
    pub fn count(&self) -> (usize, usize) {
        let errors = self.list.iter().filter(|problem| problem.severity == Severity::Error).count();
        (errors + self.more, self.list.len() - errors)
    }

    /// The problems, in the order they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// All of them as text, in the order of files and lines.
    pub fn render(&self, sources: &Sources, colour: bool) -> String {
        let mut sorted: Vec<&Problem> = self.list.iter().collect();
        sorted.sort_by_key(|problem| (problem.place.file, problem.place.start));
        let paint = Paint(colour);
        let mut out = String::new();
        for problem in sorted {
            let (word, code) = match problem.severity {
                Severity::Error => ("error", RED),
                Severity::Warning => ("warning", YELLOW),
            };
            self.entry(&mut out, sources, paint, problem.place, (word, code), &problem.message);
            if let Some((place, note)) = &problem.also {
                self.entry(&mut out, sources, paint, *place, ("note", CYAN), note);
            }
            if let Some(hint) = &problem.hint {
                out.push_str(&format!("{} {hint}\n", paint.text(CYAN, "help:")));
            }
        }
        if self.more > 0 {
            out.push_str(&format!("and {} more\n", self.more));
        }
        out
    }

    fn entry(
        &self,
        out: &mut String,
        sources: &Sources,
        paint: Paint,
        place: Place,
        (word, code): (&str, &str),
        message: &str,
    ) {
        let head = paint.text(code, &format!("{word}:"));
        let path = sources.path(place.file).display();
        if place.is_whole() {
            out.push_str(&format!("{path}: {head} {message}\n"));
            return;
        }
        let spot = Spot::find(sources, place, &self.secrets);
        out.push_str(&format!("{path}:{}:{}: {head} {message}\n", spot.line, spot.column));
        let number = spot.line.to_string();
        let gutter = " ".repeat(number.len());
        let carets = paint.text(code, &"^".repeat(spot.width));
        out.push_str(&format!(" {number} | {}\n", spot.shown));
        out.push_str(&format!(" {gutter} | {}{carets}\n", " ".repeat(spot.indent)));
    }
}

/// A key as TOML writes it: bare if it can be, else quoted.
pub fn show_key(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) { key.to_string() } else { crate::schema::show_text(key) }
}

/// The line a place begins on, ready to print.
struct Spot {
    line: usize,
    column: usize,
    /// The line, or the part of it around the place.
    shown: String,
    /// Characters of `shown` before the carets, and carets.
    indent: usize,
    width: usize,
}

impl Spot {
    fn find(sources: &Sources, place: Place, secrets: &HashSet<Place>) -> Self {
        let text = sources.text(place.file);
        let start = floor(text, place.start);
        let end = floor(text, place.end).max(start);
        let line = sources.line_place(Place { start, ..place });
        let before = text[line.start..start].chars().count();

        // Of a long line, what is around the place.
        let long = text[line.start..line.end].chars().nth(LINE_MAX).is_some();
        let skipped = if long && before > LINE_MAX / 2 { before - LINE_MAX / 4 } else { 0 };
        let secrets: Vec<&Place> = secrets.iter().filter(|secret| secret.file == place.file).collect();
        let mut rest = text[line.start..line.end].trim_end_matches('\r').char_indices().skip(skipped);
        let (mut shown, mut indent, mut width) = (String::new(), 0, 0);
        if skipped > 0 {
            shown.push('…');
            indent += 1;
        }
        // One printed character for each of the file's, so that the carets stand where they should.
        for (at, c) in rest.by_ref().take(LINE_MAX) {
            let at = line.start + at;
            indent += usize::from(at < start);
            width += usize::from((start..end).contains(&at));
            shown.push(match c {
                _ if secrets.iter().any(|secret| (secret.start..secret.end).contains(&at)) => '*',
                '\t' => ' ',
                c if visible(c) => c,
                _ => '\u{fffd}',
            });
        }
        if rest.next().is_some() {
            shown.push('…');
        }
        Self { line: sources.line(line), column: before + 1, shown, indent, width: width.max(1) }
    }
}

fn visible(c: char) -> bool {
    let mut text = String::new();
    push_visible(&mut text, c);
    text.chars().eq([c])
}

/// The nearest place at or before `at` where a character begins.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

const RED: &str = "1;31";
const YELLOW: &str = "1;33";
const CYAN: &str = "1;36";

#[derive(Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn text(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// `` `a`, `b` or `c` ``.
pub(crate) fn list_names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(quote).collect();
    match names.split_last() {
        None => "nothing".into(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}
