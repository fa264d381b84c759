//! Tables as rooms declare them, read from trees written by hand.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::*;

crate::words! {
    /// When a connection is encrypted.
    pub enum Tls {
        /// Never.
        Never,
        /// When offered.
        WhenOffered,
        /// Always.
        #[word("8bit-always")]
        Always,
    }
}

crate::table! {
    /// A table with a check and no defaults.
    #[derive(Eq, Hash)]
    #[check(|table: &Inner, node, problems| if table.small > table.large {
        problems.error(node.at("small"), "`small` must not exceed `large`").also(node.at("large"), "this one");
    })]
    struct Inner {
        /// Small.
        #[in(1..=9)]
        small: u16,
        /// Large.
        large: u16,
    }
}

crate::table! {
    /// Everything a table can hold.
    ///
    /// More about it.
    pub(crate) struct All {
        /// Required.
        pub listen: SocketAddr,
        /// Range over an option.
        #[in(1s..=1h)]
        pub wait: Option<Duration> = None,
        /// Range over a list.
        #[in(..=64KiB)]
        sizes: Vec<Size> = vec![],
        /// Negative.
        #[in(-5..)]
        offset: i64 = -1,
        /// Fraction.
        #[in(0.0..=1.0)]
        share: f64 = 0.5,
        /// Word.
        tls: Tls = Tls::WhenOffered,
        /// Keyword.
        r#type: String = "x".into(),
        /// Secret.
        #[secret]
        key: Option<String> = None,
        /// Path.
        path: PathBuf = "/var".into(),
        /// Networks.
        nets: Vec<Cidr> = Vec::new(),
        /// Under names.
        named: BTreeMap<String, Limits> = BTreeMap::new(),
        /// Nested.
        limits: Limits = Limits::default(),
        /// Parses.
        parsed: Text<u128> = Text(5),
    }
}

crate::table! {
    /// Limits.
    pub(crate) struct Limits {
        /// Most.
        #[in(1..=1_000)]
        max: u32 = 10,
        /// On.
        on: bool = false,
    }
}

const P: Place = Place { file: 0, start: 0, end: 1 };

fn node(value: Value) -> Node {
    Node::new(value, P)
}

fn text(text: &str) -> Node {
    node(Value::String(text.into()))
}

fn filled(text: &str) -> Node {
    Node { value: Value::String(text.into()), place: P, filled: Some(Filled::default()) }
}

fn table(entries: Vec<(&str, Node)>) -> Node {
    let entries = entries.into_iter().map(|(key, node)| (Key { name: key.into(), place: P }, node));
    node(Value::Table(entries.collect()))
}

fn read<T: Setting>(node: &Node) -> (Option<T>, Vec<String>) {
    let mut problems = Problems::new();
    let value = T::read(node, &mut problems);
    let messages = problems
        .iter()
        .map(|p| match &p.hint {
            Some(hint) => format!("{} ({hint})", p.message),
            None => p.message.clone(),
        })
        .collect();
    (value, messages)
}

#[test]
fn an_empty_table_is_its_defaults() {
    let (all, problems) = read::<All>(&table(vec![("listen", text("127.0.0.1:25"))]));
    assert_eq!(problems, [""; 0]);
    let all = all.unwrap();
    assert_eq!(all.offset, -1);
    assert_eq!(all.limits, Limits::default());
    assert_eq!(all.r#type, "x");
    assert_eq!(*all.parsed, 5);
    assert_eq!(read::<Limits>(&table(vec![])).0, Some(Limits::default()));
}

#[test]
fn every_mistake_is_found() {
    let (all, problems) = read::<All>(&table(vec![
        ("wait", text("2h")),
        (
            "sizes",
            node(Value::Array(vec![text("1KiB"), text("1GiB"), text("big"), node(Value::Int(70_000))])),
        ),
        ("offset", node(Value::Int(-6))),
        ("share", node(Value::Float(f64::NAN))),
        ("tls", text("wen_offered")),
        ("type", node(Value::Int(5))),
        ("key", node(Value::Int(5))),
        ("path", text("")),
        ("nets", node(Value::Array(vec![text("10.0.0.1/8"), text("x")]))),
        (
            "named",
            table(vec![("a b", table(vec![("max", node(Value::Int(0)))])), ("c", node(Value::Bool(true)))]),
        ),
        ("limits", table(vec![("max", text("12")), ("on", text("yes")), ("of", node(Value::Bool(true)))])),
        ("parsed", text("-1")),
        ("secret\x1b[0m", text("x")),
    ]));
    assert!(all.is_none());
    let expected = [
        "the key `listen` is missing (it is an address with port such as \"192.0.2.1:25\")",
        "`wait` must be at most 1h, not 2h (allowed is 1s to 1h)",
        "`sizes[1]` must be at most 64KiB, not 1GiB",
        "`sizes[2]` must be a size such as \"64KiB\" or \"10MB\", not the text `big` (units are B, KiB, MiB, GiB, \
         TiB and kB, MB, GB, TB; none means bytes)",
        "`sizes[3]` must be at most 64KiB, not 70kB",
        "`offset` must be at least -5, not -6",
        "`share` must be a number, not the number NaN",
        "`tls` must be `never`, `when_offered` or `8bit-always`, not the text `wen_offered` (did you mean \
         \"when_offered\"?)",
        "`type` must be a text, not the number 5 (put it in quotes)",
        "`key` must be a text, not a number (put it in quotes)",
        "`path` must be a path, not the text ``",
        "`nets[0]` must be a network such as \"192.0.2.0/24\", not the text `10.0.0.1/8` (the address has bits beyond \
         the prefix; the network is `10.0.0.0/8`)",
        "`nets[1]` must be a network such as \"192.0.2.0/24\", not the text `x` (what stands before the slash is not \
         an IP address)",
        "`named.\"a b\".max` must be at least 1, not 0 (allowed is 1 to 1000)",
        "`named.c` must be a table, not `true`",
        "`limits.max` must be a whole number, not the text `12` (write it without quotes)",
        "`limits.on` must be true or false, not the text `yes` (write `true`)",
        "unknown key `of` in [limits] (did you mean `on`?)",
        "`parsed` must be an u128, not the text `-1` (invalid digit found in string)",
        "unknown key `secret\\u{1b}[0m` (here it may be `listen`, `wait`, `sizes`, `offset`, `share`, `tls`, `type`, \
         `key`, `path`, `nets`, `named`, `limits` or `parsed`)",
    ];
    assert_eq!(problems, expected);
}

#[test]
fn bounds_of_list_items() {
    let sizes = node(Value::Array(vec![text("1KiB"), text("1GiB"), node(Value::Int(70_000))]));
    let (_, problems) = read::<All>(&table(vec![("listen", text("[::1]:25")), ("sizes", sizes)]));
    assert_eq!(
        problems,
        ["`sizes[1]` must be at most 64KiB, not 1GiB", "`sizes[2]` must be at most 64KiB, not 70kB"]
    );
}

#[test]
fn numbers_keep_the_bounds_of_their_type() {
    for value in [-1, 256, i128::MAX] {
        let (read, problems) = read::<u8>(&node(Value::Int(value)));
        assert_eq!((read, problems.len()), (None, 1), "{value}");
    }
    assert_eq!(read::<u64>(&node(Value::Int(i128::from(u64::MAX)))).0, Some(u64::MAX));
    assert_eq!(read::<f64>(&node(Value::Int(3))).0, Some(3.0));
}

#[test]
fn texts_that_were_filled_in_parse() {
    assert_eq!(read::<u16>(&filled("25")).0, Some(25));
    assert_eq!(read::<bool>(&filled("true")).0, Some(true));
    assert_eq!(read::<f64>(&filled("0.5")).0, Some(0.5));
    assert_eq!(read::<Duration>(&filled("5s")).0, Some(Duration::from_secs(5)));
    assert_eq!(read::<Size>(&filled("5")).0, Some(Size(5)));
    assert_eq!(read::<Option<IpAddr>>(&filled("")).0, Some(None));
    assert_eq!(read::<u16>(&filled("x")).1, ["the configuration must be a whole number, not the text `x`"]);
    assert_eq!(read::<f64>(&filled("inf")).0, None);
}

#[test]
fn checks_run_last_and_refuse() {
    let good = table(vec![("small", node(Value::Int(1))), ("large", node(Value::Int(2)))]);
    assert_eq!(read::<Inner>(&good).0, Some(Inner { small: 1, large: 2 }));
    let bad = table(vec![("small", node(Value::Int(3))), ("large", node(Value::Int(2)))]);
    assert_eq!(read::<Inner>(&bad), (None, vec!["`small` must not exceed `large`".to_string()]));
}

#[test]
fn secrets_are_not_shown() {
    let node = table(vec![("listen", text("127.0.0.1:25")), ("key", text("hunter2"))]);
    let all = read::<All>(&node).0.unwrap();
    assert_eq!(all.key.as_deref(), Some("hunter2"));
    assert!(!format!("{all:?}").contains("hunter2"));
    assert!(!all.show().to_string().contains("hunter2"));
    assert!(all.show().to_string().contains("key = \"(set)\""));
}

#[test]
fn shown_as_toml() {
    let all = read::<All>(&table(vec![("listen", text("127.0.0.1:25"))])).0.unwrap();
    assert_eq!(
        all.show().to_string(),
        "{ listen = \"127.0.0.1:25\", wait = (not set), sizes = [], offset = -1, share = 0.5, tls = \"when_offered\", \
         type = \"x\", key = (not set), path = \"/var\", nets = [], named = {}, \
         limits = { max = 10, on = false }, parsed = \"5\" }"
    );
    assert_eq!(Shown::Text("a\"\\\n\u{7}".into()).to_string(), "\"a\\\"\\\\\\n\\u0007\"");
}

#[test]
fn a_schema_says_everything() {
    let Schema::Table(all) = All::schema() else { panic!("a table") };
    assert_eq!(all.docs, "Everything a table can hold.\n\nMore about it.");
    let field = |key: &str| all.fields.iter().find(|field| field.key == key).unwrap();
    assert_eq!(field("listen").default, None);
    assert_eq!(field("wait").range.as_deref(), Some("1s..=1h"));
    assert_eq!(field("offset").range.as_deref(), Some("-5.."));
    assert_eq!(field("wait").default, Some(Shown::Nothing));
    assert!(field("key").secret && !field("path").secret);
    let Schema::Optional(wait) = &field("wait").schema else { panic!("an option") };
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(**wait, Schema::Duration(Bounds { min: Some(Duration::from_secs(1)), max: hour }));
    assert_eq!(Text::<IpAddr>::schema().expected(), "an ip addr");
}

#[test]
fn a_table_without_keys() {
    crate::table! {
        /// Nothing to say.
        struct Empty {}
    }
    assert_eq!(read::<Empty>(&table(vec![])).0, Some(Empty::default()));
    let (_, problems) = read::<Empty>(&table(vec![("x", node(Value::Bool(true)))]));
    assert_eq!(problems, ["unknown key `x` (this table has no keys)"]);
}

#[test]
fn our_own_mistakes_are_found() {
    crate::table! {
        struct Bad {
            #[in(5..)]
            few: Vec<u32> = vec![9, 1],
            /// An option without a default.
            maybe: Option<u32>,
            /// Not what an empty table gives.
            limits: Limits = Limits { max: 7, ..Limits::default() },
        }
    }
    assert_eq!(mistakes(&All::schema()), [""; 0]);
    assert_eq!(
        mistakes(&Bad::schema()),
        [
            "Bad has no description",
            "Bad.few has no description",
            "Bad.few has a default outside its bound: [9, 1]",
            "Bad.maybe is optional and has no default; say `= None`",
            "Bad.limits.max is 7 by default, but not in Limits",
        ]
    );
}

#[test]
#[should_panic(expected = "cannot be read")]
fn a_bound_that_is_none() {
    let _ = u32::schema().bounded("1s..=5s");
}

#[test]
#[should_panic(expected = "wider than the type")]
fn a_bound_wider_than_the_type() {
    let _ = u8::schema().bounded("1..=300");
}

#[test]
fn rendered_for_a_person() {
    let mut sources = Sources::default();
    let source = "é = 1\n\tport = \"\x1b[31m\"\r\nkey = \"hunter2\" # x\n";
    let file = sources.add("a.toml", source);
    let at = |what: &str| {
        let start = source.find(what).unwrap();
        Place::new(file, start, start + what.len())
    };
    let mut problems = Problems::new();
    problems.warning(at("hunter2"), "third").hint("look");
    problems.error(at("\"\x1b[31m\""), "second").also(at("é"), "first");
    problems.error(Place::whole(file), "whole");
    problems.error(Place::new(file, source.len(), source.len()), "end");
    problems.error(Place::new(file, source.len() + 50, 3), "beyond");
    problems.conceal(at("\"hunter2\""));
    assert_eq!(
        problems.render(&sources, false),
        "\
a.toml: error: whole
a.toml:2:9: error: second
 2 |  port = \"\u{fffd}[31m\"
   |         ^^^^^^^
a.toml:1:1: note: first
 1 | é = 1
   | ^
a.toml:3:8: warning: third
 3 | key = ********* # x
   |        ^^^^^^^
help: look
a.toml:4:1: error: end
 4 | 
   | ^
a.toml:4:1: error: beyond
 4 | 
   | ^
"
    );
    assert!(problems.render(&sources, true).contains("\x1b[1;31merror:\x1b[0m"));
    assert_eq!(problems.count(), (4, 1));
}

#[test]
fn long_lines_are_cut_around_the_place() {
    let mut sources = Sources::default();
    let line = format!("{}WRONG{}", "a".repeat(5000), "b".repeat(5000));
    let file = sources.add("a.toml", line);
    let mut problems = Problems::new();
    problems.error(Place::new(file, 5000, 5005), "x");
    problems.error(Place::new(file, 5000, 10_000), "y");
    let text = problems.render(&sources, false);
    assert!(text.lines().all(|line| line.chars().count() < 170), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "a.toml:1:5001: error: x");
    let caret = lines[2].chars().position(|c| c == '^').unwrap();
    assert_eq!(lines[1].chars().nth(caret), Some('W'));
}

#[test]
fn ways_through_a_tree() {
    let at = |n| Place::new(0, n, n + 1);
    let leaf = |n| Node::new(Value::Bool(true), at(n));
    let key = |name: &str| Key { name: name.into(), place: at(0) };
    let item = Node::new(Value::Table(vec![(key("bind"), leaf(3))]), at(2));
    let list = Node::new(Value::Array(vec![item]), at(1));
    let root = Node::new(Value::Table(vec![(key("listener"), list), (key("on"), leaf(4))]), at(0));
    for (way, n) in [
        ("on", 4),
        ("off", 0),
        ("listener", 1),
        ("listener.0", 2),
        ("listener.0.bind", 3),
        ("listener.1.bind", 1),
        ("listener.0.x", 2),
    ] {
        assert_eq!(root.at(way), at(n), "{way}");
    }
}

#[test]
fn problems_are_bounded() {
    let items = vec![text("x"); PROBLEMS_MAX + 20];
    let mut problems = Problems::new();
    Vec::<u32>::read(&node(Value::Array(items)), &mut problems);
    assert_eq!(problems.count(), (PROBLEMS_MAX + 20, 0));
    let mut sources = Sources::default();
    sources.add("a.toml", "x");
    assert!(problems.render(&sources, false).ends_with("and 20 more\n"));
}

#[test]
fn a_placed_setting_is_bounded_like_the_setting_and_knows_its_place() {
    let schema = <Option<Placed<u32>>>::schema().bounded("1..=9");
    let mut problems = Problems::new();
    let mut five = node(Value::Int(5));
    five.place = Place::new(3, 7, 8);
    let read = <Option<Placed<u32>>>::read_within(&five, &schema, &mut problems).flatten().unwrap();
    assert_eq!((*read, read.place), (5, five.place));
    assert_eq!(<Option<Placed<u32>>>::read_within(&node(Value::Int(10)), &schema, &mut problems), None);
    assert_eq!(problems.count(), (1, 0));
}
