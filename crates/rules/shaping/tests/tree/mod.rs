//! TOML as the binary makes it a tree, for tests of what it means.

use settings::{Key, Node, Place, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The tree of a text.
pub fn parse(text: &str) -> Node {
    let parsed = DeTable::parse(text).expect("the test's TOML is sound");
    Node::new(table(parsed.into_inner()), Place::whole(0))
}

fn place(span: std::ops::Range<usize>) -> Place {
    Place::new(0, span.start, span.end)
}

fn table(table: DeTable<'_>) -> Value {
    let mut entries: Vec<(Key, Node)> = table
        .into_iter()
        .map(|(key, value)| {
            let at = place(key.span());
            (Key { name: key.into_inner().into_owned(), place: at }, node(value))
        })
        .collect();
    entries.sort_by_key(|(key, _)| key.place.start);
    Value::Table(entries)
}

fn node(value: Spanned<DeValue<'_>>) -> Node {
    let at = place(value.span());
    let value = match value.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(items) => Value::Array(items.into_iter().map(node).collect()),
        DeValue::Table(inner) => table(inner),
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap()),
        DeValue::Integer(int) => Value::Int(i128::from_str_radix(int.as_str(), int.radix()).unwrap()),
    };
    Node::new(value, at)
}
