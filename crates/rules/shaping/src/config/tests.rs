//! The table read from TOML, as the binary reads it.

use settings::{Place, Problems, Setting, Sources};

use super::*;
use crate::{Layer, Origin, Rules};

#[path = "../../tests/tree/mod.rs"]
mod tree;

/// Reads the `[shaping]` table of a file, or what is wrong with it as a person sees it.
pub fn read(name: &str, text: &str) -> Result<(ShapingConfig, Sources), String> {
    let mut sources = Sources::default();
    sources.add(name, text);
    let mut problems = Problems::new();
    let root = tree::parse(text);
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
