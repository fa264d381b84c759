//! The tree a configuration file is parsed into, each value with its place.

use crate::Place;

/// One value with the place it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What stands there.
    pub value: Value,
    /// Where it stands.
    pub place: Place,
    /// Set when a `${NAME}` in the text was filled in.
    pub filled: Option<Filled>,
}

/// A value as the file's grammar knows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number; wide enough for every integer type a setting may have.
    Int(i128),
    /// A number with a fraction.
    Float(f64),
    /// A text.
    String(String),
    /// A date or time. No setting takes one; it is kept so that the mistake can be named.
    Date(String),
    /// A list.
    Array(Vec<Node>),
    /// A table, in the order of the file.
    Table(Vec<(Key, Node)>),
}

/// A key of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// The key, unquoted.
    pub name: String,
    /// Where it stands.
    pub place: Place,
}

/// What was filled into a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filled {
    /// The environment variables whose values were used; empty when only fallbacks (`${NAME:-this}`) were.
    pub names: Vec<String>,
}

impl Node {
    /// A value at a place.
    pub fn new(value: Value, place: Place) -> Self {
        Self { value, place, filled: None }
    }

    /// The entries of a table; nothing for any other value.
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; nothing for any other value.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::Array(items) => items,
            _ => &[],
        }
    }

    /// The value under a key of a table.
    pub fn child(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(k, _)| k.name == key).map(|(_, node)| node)
    }

    /// Where a value of this table stands: what a cross-field check points at. `way` is a key or a way through
    /// tables and lists, as `limits.line_max` or `listener.0.bind`; of what is not written, the last table that is.
    pub fn at(&self, way: &str) -> Place {
        let mut node = self;
        for step in way.split('.') {
            let item = || step.parse().ok().and_then(|index: usize| node.items().get(index));
            match node.child(step).or_else(item) {
                Some(next) => node = next,
                None => break,
            }
        }
        node.place
    }

    /// The text of a value that `${NAME}` was filled into. Settings that are not texts parse it, since
    /// the file has no way to write them with a variable but inside quotes.
    pub fn filled_text(&self) -> Option<&str> {
        match (&self.value, &self.filled) {
            (Value::String(text), Some(_)) => Some(text),
            _ => None,
        }
    }

    /// What stands here, in words: ``the text `abc` ``.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Bool(value) => format!("`{value}`"),
            Value::Int(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value}"),
            Value::String(text) => format!("the text {}", quote(text)),
            Value::Date(text) => format!("the date {}", quote(text)),
            Value::Array(_) | Value::Table(_) => self.kind().to_string(),
        }
    }

    /// The same without the value.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::String(_) => "a text",
            Value::Date(_) => "a date",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// Longest text a message quotes, in characters.
const QUOTE_MAX: usize = 60;

/// Outside text made safe to print: control characters escaped, long text cut, in backticks.
pub fn quote(text: &str) -> String {
    let mut out = String::from("`");
    for (n, c) in text.chars().enumerate() {
        if n == QUOTE_MAX {
            out.push('…');
            break;
        }
        push_visible(&mut out, c);
    }
    out.push('`');
    out
}

/// Control and direction characters could redraw the line they are printed in.
pub(crate) fn push_visible(out: &mut String, c: char) {
    let hidden =
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    if c.is_control() || hidden {
        out.extend(c.escape_default());
    } else {
        out.push(c);
    }
}
