//! The table read from TOML, as the binary reads it.

use settings::{Key, Node, Place, Problems, Setting, Sources, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::*;
use crate::{Layer, Origin, Rules};

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

/// Reads the `[shaping]` table of a file, or what is wrong with it as a person sees it.
pub fn read(name: &str, text: &str) -> Result<(ShapingConfig, Sources), String> {
    let mut sources = Sources::default();
    sources.add(name, text);
    let mut problems = Problems::new();
    let tree = table(DeTable::parse(text).expect("the test's TOML is sound").into_inner());
    let root = Node::new(tree, Place::whole(0));
    let shaping = root.child("shaping").expect("the test has the table");
    let config = problems.within("shaping", |problems| ShapingConfig::read(shaping, problems));
    match config {
        Some(config) if !problems.has_errors() => Ok((config, sources)),
        _ => Err(problems.render(&sources, false)),
    }
}

/// Compiles files, the shipped one first.
pub fn compile(files: &[(&str, &str)]) -> Rules {
    let read: Vec<_> =
        files.iter().map(|(name, text)| read(name, text).unwrap_or_else(|text| panic!("{text}"))).collect();
    let origins: Vec<_> = read
        .iter()
        .map(|(_, sources)| {
            move |place: Place| Origin {
                file: sources.path(place.file).display().to_string().into(),
                line: sources.line(place) as u32,
            }
        })
        .collect();
    let layers: Vec<Layer<'_>> =
        read.iter().zip(&origins).map(|((config, _), origin)| Layer { config, origin }).collect();
    Rules::compile(&layers).unwrap()
}

#[test]
fn the_tables_are_sound() {
    assert_eq!(settings::mistakes(&ShapingConfig::schema()), Vec::<String>::new());
}

#[test]
fn the_example_of_the_documentation_is_read() {
    let text = r#"
[shaping.provider.gmail]
exchangers = ["*.google.com"]
domains = ["gmail.com", "googlemail.com"]
rollup = true
connections = 20
message_rates = ["20/s", "100k/d"]

[[shaping.provider.gmail.reply]]
match = '^421 4\.7\.(0|28) '
when = "3/10m"
do = ["backoff 1h", "notify"]

[shaping.provider.gmail.source.new1.warmup]
caps = [50, 100, 200, 400]
overflow = ["old1"]
begins = "2026-11-01"
"#;
    let (config, _) = read("tuma.toml", text).unwrap();
    let gmail = &config.provider["gmail"];
    assert_eq!(gmail.connections.unwrap().value, 20);
    assert_eq!(gmail.reply[0].actions().len(), 2);
    assert_eq!(gmail.source["new1"].warmup.caps.as_ref().unwrap().len(), 4);
}

#[test]
fn mistakes_are_shown_where_they_are() {
    for (text, message) in [
        (
            "[[shaping.default.reply]]\nmatch = '('\ndo = []",
            "tuma.toml:2:9: error: `match` is no regular expression: unclosed group",
        ),
        (
            "[[shaping.default.reply]]\nmatch = 'x'\ndo = ['bakoff 1h']",
            "there is no action `bakoff`; did you mean `backoff`?",
        ),
        (
            "[[shaping.default.reply]]\nmatch = 'x'\ndo = ['backoff 1h', 'normal']",
            "tuma.toml:3:6: error: `backoff 1h` and `normal` cannot stand in one rule",
        ),
        ("[[shaping.default.reply]]\nmatch = 'x'\nwhen = 'often'\ndo = []", "as `30% of 20`"),
        ("[[shaping.default.reply]]\nmatch = 'x'\nstage = ['rctp']\ndo = []", "did you mean \"rcpt\"?"),
        ("[shaping.default]\nconnection = 5", "did you mean `connections`?"),
        ("[shaping.default]\nconnections = 0", "must be at least 1, not 0"),
        ("[shaping.default]\nbyte_rates = ['5/m', '50M/m']", "a rate of octets is a size"),
        ("[shaping.default]\nreconnect_min = '2h'\nreconnect_max = '1h'", "must not exceed `reconnect_max`"),
        ("[shaping.default.warmup]\ncaps = [1]\nstart = 5", "`caps` and `start` cannot both be set"),
        ("[shaping.default.warmup]\nbegins = 2026-11-01", "put it in quotes"),
        (
            "[shaping.limit.all]\neach = ['tenant']\nconnections = 5",
            "tuma.toml:3:15: error: `connections` cannot",
        ),
        ("[shaping.exchanger.'a b']\nconnections = 5", "the name `a b` is no pattern"),
        ("[shaping.default]\nretry_waits = []", "must have 1 to 400 waits"),
    ] {
        let shown = read("tuma.toml", text).unwrap_err();
        assert!(shown.contains(message), "{shown}\nlacks: {message}");
    }
}
