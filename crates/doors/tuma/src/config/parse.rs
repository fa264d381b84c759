//! TOML text to a tree of nodes, with every syntax error the parser can recover from.

use std::collections::HashSet;
use std::ops::Range;

use settings::{Key, Node, Place, Problems, Sources, Value, quote};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Parses one of the sources. The tree holds what could be understood.
pub fn parse(file: usize, sources: &Sources, problems: &mut Problems) -> Node {
    let text = sources.text(file);
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut seen = HashSet::new();
    if !errors.is_empty() {
        problems.expect_gaps();
    }
    for error in errors {
        let span = error.span().unwrap_or(text.len()..text.len());
        // One slip makes the parser stumble more than once; the first stumble on a line tells.
        let place = Place::new(file, span.start, span.end);
        if seen.insert(sources.line(place)) {
            syntax_error(text, place, error.message(), problems);
        }
    }
    let mut parser = Parser { file, problems };
    Node::new(parser.table(table.into_inner()), Place::whole(file))
}

fn syntax_error(text: &str, place: Place, message: &str, problems: &mut Problems) {
    let written = text.get(place.start..place.end).unwrap_or_default();
    match message {
        "duplicate key" if !written.is_empty() => {
            problems.error(place, format!("the key {} is written twice", quote(written)));
        }
        _ => {
            problems.error(place, message);
        }
    }
}

/// True for `[[these]]` and for a list of inline tables.
pub fn is_array_of_tables(items: &[Node]) -> bool {
    !items.is_empty() && items.iter().all(|item| matches!(item.value, Value::Table(_)))
}

struct Parser<'a> {
    file: usize,
    problems: &'a mut Problems,
}

impl Parser<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        Place::new(self.file, span.start, span.end)
    }

    fn table(&mut self, table: DeTable<'_>) -> Value {
        let mut entries = Vec::new();
        for (key, value) in table {
            let place = self.place(key.span());
            let key = Key { name: key.into_inner().into_owned(), place };
            entries.push((key, self.node(value)));
        }
        // The parser's table is sorted by name; people expect the order of the file.
        entries.sort_by_key(|(key, _)| key.place.start);
        Value::Table(entries)
    }

    fn node(&mut self, value: Spanned<DeValue<'_>>) -> Node {
        let place = self.place(value.span());
        let value = match value.into_inner() {
            DeValue::String(text) => Value::String(text.into_owned()),
            DeValue::Boolean(value) => Value::Bool(value),
            DeValue::Datetime(date) => Value::Date(date.to_string()),
            DeValue::Array(items) => Value::Array(items.into_iter().map(|item| self.node(item)).collect()),
            DeValue::Table(table) => self.table(table),
            DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Integer(int) => match i128::from_str_radix(int.as_str(), int.radix()) {
                Ok(int) => Value::Int(int),
                Err(_) => {
                    self.problems.error(place, "the number has too many digits");
                    Value::Int(0)
                }
            },
        };
        Node::new(value, place)
    }
}
