//! What a setting may be, as data: the source of the reference page, the JSON Schema and the range checks.

use std::fmt;
use std::time::Duration;

use crate::problems::{list_names, show_key};
use crate::units::{parse_duration, parse_size, show_duration};
use crate::{Node, Place, Problems, Size};

/// What a setting may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Schema {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int(Bounds<i128>),
    /// A finite number.
    Float(Bounds<f64>),
    /// A time, as `1h30m`.
    Duration(Bounds<Duration>),
    /// A number of bytes, as `64KiB`.
    Size(Bounds<Size>),
    /// A text that stands for something.
    Text {
        /// What, with its article: `an address with port`.
        what: String,
        /// One that is right; empty if any text is.
        example: String,
    },
    /// One of some words.
    Words(Vec<Word>),
    /// May be left out.
    Optional(Box<Schema>),
    /// Any number of them.
    List(Box<Schema>),
    /// Any number of them, under names the operator chooses.
    Map(Box<Schema>),
    /// A table with its own keys.
    Table(Table),
}

/// The least and the greatest allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds<T> {
    /// The least.
    pub min: Option<T>,
    /// The greatest.
    pub max: Option<T>,
}

impl<T> Bounds<T> {
    /// No bound.
    pub const NONE: Self = Self { min: None, max: None };
}

/// One of the words a setting may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// As written in the file.
    pub word: &'static str,
    /// What it means.
    pub docs: String,
}

/// A table and its keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Name of the struct.
    pub name: &'static str,
    /// What it is for.
    pub docs: String,
    /// Its keys, in the order of the struct.
    pub fields: Vec<Field>,
}

/// One key of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// As written in the file.
    pub key: &'static str,
    /// What it is for.
    pub docs: String,
    /// What it may be.
    pub schema: Schema,
    /// What it is when not written; nothing if it must be written.
    pub default: Option<Shown>,
    /// The bound given with the field, as `1s..=1h`.
    pub range: Option<String>,
    /// Never printed.
    pub secret: bool,
}

/// A setting's value, ready to print.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// Not set.
    Nothing,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A number with a fraction.
    Float(f64),
    /// A text.
    Text(String),
    /// A time.
    Duration(Duration),
    /// A number of bytes.
    Size(Size),
    /// A list.
    List(Vec<Shown>),
    /// A table, in the order of the struct.
    Table(Vec<(String, Shown)>),
    /// Set, and nobody's business to what.
    Secret,
}

impl fmt::Display for Shown {
    /// As TOML writes it on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("(not set)"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            // `{:?}` keeps the point in `1.0`, which TOML needs.
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Text(text) => f.write_str(&show_text(text)),
            Self::Duration(duration) => write!(f, "\"{}\"", show_duration(*duration)),
            Self::Size(size) => write!(f, "\"{size}\""),
            Self::Secret => f.write_str("\"(set)\""),
            Self::List(items) => {
                f.write_str("[")?;
                for (n, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if n == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Self::Table(fields) => {
                f.write_str("{")?;
                for (n, (key, value)) in fields.iter().enumerate() {
                    write!(f, "{} {} = {value}", if n == 0 { "" } else { "," }, show_key(key))?;
                }
                f.write_str(if fields.is_empty() { "}" } else { " }" })
            }
        }
    }
}

/// A text as a TOML basic string.
pub fn show_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl Schema {
    /// A text that stands for something, with one that is right.
    pub fn text(what: impl Into<String>, example: impl Into<String>) -> Self {
        Self::Text { what: what.into(), example: example.into() }
    }

    /// What a value must be, in words.
    pub fn expected(&self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Int(_) => "a whole number".into(),
            Self::Float(_) => "a number".into(),
            Self::Duration(_) => "a duration such as \"30s\" or \"1h30m\"".into(),
            Self::Size(_) => "a size such as \"64KiB\" or \"10MB\"".into(),
            Self::Text { what, example } if example.is_empty() => what.clone(),
            Self::Text { what, example } => format!("{what} such as \"{example}\""),
            Self::Words(words) => list_names(words.iter().map(|word| word.word)),
            Self::Optional(inner) => inner.expected(),
            Self::List(_) => "a list".into(),
            Self::Map(_) | Self::Table(_) => "a table".into(),
        }
    }

    /// The table this is, or holds as an option, a list or under names.
    pub fn table(&self) -> Option<&Table> {
        match self {
            Self::Table(table) => Some(table),
            Self::Optional(inner) | Self::List(inner) | Self::Map(inner) => inner.table(),
            _ => None,
        }
    }

    /// True if every value in a default keeps the bounds.
    fn keeps(&self, shown: &Shown) -> bool {
        match (self, shown) {
            (Self::Optional(inner), shown) => inner.keeps(shown),
            (Self::List(inner), Shown::List(items)) => items.iter().all(|item| inner.keeps(item)),
            (Self::Map(inner), Shown::Table(items)) => items.iter().all(|(_, item)| inner.keeps(item)),
            _ => {
                let nowhere = Node::new(crate::Value::Bool(true), Place::whole(0));
                self.check(shown, &nowhere, &mut Problems::new())
            }
        }
    }

    /// The same with the bound of a field, `1s..=1h`, `1..` or `..=64KiB`; for lists, of each item.
    ///
    /// # Panics
    /// If the bound cannot be read or the setting has no order: a mistake in a declaration, which every
    /// start of the program and every test of the table meets.
    pub fn bounded(self, range: &str) -> Self {
        fn narrow<T: PartialOrd + Copy>(
            bounds: Bounds<T>,
            range: &str,
            parse: impl Fn(&str) -> Option<T>,
        ) -> Bounds<T> {
            let read = |text: &str| {
                let text = text.trim();
                let value = || {
                    parse(text).unwrap_or_else(|| panic!("`{text}` in the bound `{range}` cannot be read"))
                };
                (!text.is_empty()).then(value)
            };
            let (min, max) = match range.split_once("..=") {
                Some((min, max)) => (read(min), read(max)),
                None => (
                    range
                        .split_once("..")
                        .filter(|(_, max)| max.trim().is_empty())
                        .and_then(|(min, _)| read(min)),
                    None,
                ),
            };
            assert!(min.is_some() || max.is_some(), "a bound is `a..=b`, `a..` or `..=b`, not `{range}`");
            let empty = matches!((min, max), (Some(min), Some(max)) if min > max);
            let below = matches!((min, bounds.min), (Some(new), Some(old)) if new < old);
            let above = matches!((max, bounds.max), (Some(new), Some(old)) if new > old);
            assert!(!empty && !below && !above, "the bound `{range}` is empty or wider than the type");
            Bounds { min: min.or(bounds.min), max: max.or(bounds.max) }
        }
        match self {
            Self::Int(bounds) => {
                Self::Int(narrow(bounds, range, |text| text.replace(['_', ' '], "").parse().ok()))
            }
            Self::Float(bounds) => {
                Self::Float(narrow(bounds, range, |text| text.replace(' ', "").parse().ok()))
            }
            Self::Duration(bounds) => Self::Duration(narrow(bounds, range, parse_duration)),
            Self::Size(bounds) => Self::Size(narrow(bounds, range, parse_size)),
            Self::Optional(inner) => Self::Optional(Box::new(inner.bounded(range))),
            Self::List(inner) => Self::List(Box::new(inner.bounded(range))),
            Self::Map(inner) => Self::Map(Box::new(inner.bounded(range))),
            other => panic!("`{range}` bounds something that has no order: {}", other.expected()),
        }
    }

    /// What an option, a list or a map holds; itself for anything else.
    pub fn inner(&self) -> &Schema {
        match self {
            Self::Optional(inner) | Self::List(inner) | Self::Map(inner) => inner,
            other => other,
        }
    }

    /// Checks a number, time or size that was read from `node` against the bounds; true if it keeps them.
    pub fn check(&self, shown: &Shown, node: &Node, problems: &mut Problems) -> bool {
        match (self, shown) {
            (Self::Int(bounds), Shown::Int(value)) => {
                bounds.check(value, i128::to_string, node.place, problems)
            }
            (Self::Float(bounds), Shown::Float(value)) => {
                bounds.check(value, f64::to_string, node.place, problems)
            }
            (Self::Duration(bounds), Shown::Duration(value)) => {
                bounds.check(value, |value| show_duration(*value), node.place, problems)
            }
            (Self::Size(bounds), Shown::Size(value)) => {
                bounds.check(value, Size::to_string, node.place, problems)
            }
            _ => true,
        }
    }
}

impl<T: PartialOrd> Bounds<T> {
    fn check(&self, value: &T, show: impl Fn(&T) -> String, place: Place, problems: &mut Problems) -> bool {
        let bound = match (&self.min, &self.max) {
            (Some(min), _) if value < min => format!("at least {}", show(min)),
            (_, Some(max)) if value > max => format!("at most {}", show(max)),
            _ => return true,
        };
        let problem = problems.outside(place, &bound, &show(value));
        if let (Some(min), Some(max)) = (&self.min, &self.max) {
            let (min, max) = (show(min), show(max));
            // The end of a 64-bit type tells nobody anything.
            if min.len().max(max.len()) < "9223372036854775807".len() {
                problem.hint(format!("allowed is {min} to {max}"));
            }
        }
        false
    }
}

/// What is wrong with a declaration: our mistakes, which a test of each table should find.
///
/// Descriptions must be there, defaults must keep their bounds, an optional setting must say `= None`, and the
/// default of a table must be what reading an empty one gives, or half a table in the file would surprise.
pub fn mistakes(schema: &Schema) -> Vec<String> {
    let mut found = Vec::new();
    match schema {
        Schema::Words(words) => {
            let silent = words.iter().filter(|word| word.docs.is_empty());
            found.extend(silent.map(|word| format!("the word `{}` has no description", word.word)));
        }
        Schema::Optional(inner) | Schema::List(inner) | Schema::Map(inner) => found.extend(mistakes(inner)),
        Schema::Table(table) => {
            if table.docs.is_empty() {
                found.push(format!("{} has no description", table.name));
            }
            for field in &table.fields {
                let name = format!("{}.{}", table.name, field.key);
                found.extend(field_mistakes(&name, field));
                found.extend(mistakes(&field.schema));
            }
        }
        _ => {}
    }
    found
}

fn field_mistakes(name: &str, field: &Field) -> Vec<String> {
    let mut found = Vec::new();
    if field.docs.is_empty() {
        found.push(format!("{name} has no description"));
    }
    match (&field.default, &field.schema) {
        (None, Schema::Optional(_)) => {
            found.push(format!("{name} is optional and has no default; say `= None`"))
        }
        (Some(default), Schema::Table(inner)) => {
            let Shown::Table(values) = default else { return found };
            for (key, value) in values {
                let own = inner
                    .fields
                    .iter()
                    .find(|field| field.key == key)
                    .and_then(|field| field.default.as_ref());
                if own != Some(value) {
                    found.push(format!("{name}.{key} is {value} by default, but not in {}", inner.name));
                }
            }
        }
        (Some(default), schema) => {
            if !schema.keeps(default) {
                found.push(format!("{name} has a default outside its bound: {default}"));
            }
        }
        (None, _) => {}
    }
    found
}
