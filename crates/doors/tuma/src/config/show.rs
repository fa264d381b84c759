//! Effective values as TOML, each with a comment that says where it came from.

use std::fmt::Write;

use settings::{Node, Shown, Sources, show_key};

/// Comments stand in one column, unless a value is longer than this.
const COMMENT_COLUMN: usize = 48;

/// Prints the root table.
pub fn show(shown: &Shown, tree: &Node, sources: &Sources) -> String {
    let mut out = String::new();
    if let Shown::Table(fields) = shown {
        table(&mut out, sources, "", fields, Some(tree));
    }
    out
}

/// One table: its values first, since TOML gives what follows a header to that header.
fn table(out: &mut String, sources: &Sources, path: &str, fields: &[(String, Shown)], node: Option<&Node>) {
    let child = |key: &str| node.and_then(|node| node.child(key));
    for (key, value) in fields.iter().filter(|(_, value)| !has_headers(value)) {
        let line = match value {
            Shown::Nothing => format!("# {} is not set", show_key(key)),
            value => format!("{} = {value}", show_key(key)),
        };
        // Writing to a String cannot fail.
        writeln!(out, "{line:COMMENT_COLUMN$} # {}", origin(child(key), sources)).unwrap_or_default();
    }
    for (key, value) in fields.iter().filter(|(_, value)| has_headers(value)) {
        let dot = if path.is_empty() { "" } else { "." };
        let path = format!("{path}{dot}{}", show_key(key));
        match value {
            Shown::Table(fields) => {
                writeln!(out, "\n[{path}]").unwrap_or_default();
                table(out, sources, &path, fields, child(key));
            }
            Shown::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    let Shown::Table(fields) = item else { continue };
                    writeln!(out, "\n[[{path}]]").unwrap_or_default();
                    let item = child(key).and_then(|node| node.items().get(index));
                    table(out, sources, &path, fields, item);
                }
            }
            _ => {}
        }
    }
}

/// True for what is printed under a `[header]`.
fn has_headers(value: &Shown) -> bool {
    match value {
        Shown::Table(_) => true,
        Shown::List(items) => !items.is_empty() && items.iter().all(|item| matches!(item, Shown::Table(_))),
        _ => false,
    }
}

fn origin(node: Option<&Node>, sources: &Sources) -> String {
    let Some(node) = node else { return "default".into() };
    let mut names: Vec<&str> = Vec::new();
    environment(node, &mut names);
    names.dedup();
    match names[..] {
        [] => sources.short(node.place),
        _ => format!("environment {} at {}", names.join(", "), sources.short(node.place)),
    }
}

/// The variables whose values stand in a value or in the items of a list.
fn environment<'a>(node: &'a Node, names: &mut Vec<&'a str>) {
    names.extend(node.filled.iter().flat_map(|filled| &filled.names).map(String::as_str));
    node.items().iter().for_each(|item| environment(item, names));
}
