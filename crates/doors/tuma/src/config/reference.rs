//! The reference page: every table and key, as Markdown.

use settings::{Field, Schema, SchemaTable, Setting, Shown, show_duration, show_key};

use super::schema::plain;

const HEAD: &str = "\
<!-- Generated from the settings' declarations by `cargo xtask docs`. Edit those instead. -->

# Configuration

The configuration is one TOML file, and the files it includes. `tuma config check` reports every mistake in it,
`tuma config show` prints what is in force and where each value came from, `tuma config schema` prints a JSON
Schema for editors.

- A **duration** is a text such as `\"500ms\"`, `\"30s\"`, `\"5m\"`, `\"4h\"`, `\"5d\"`, `\"2w\"` or a sum, largest unit first:
  `\"1h30m\"`.
- A **size** is a number of bytes, or a text such as `\"64KiB\"` (65,536 bytes) or `\"10MB\"` (10,000,000).
- In any text, `${NAME}` is replaced by the environment variable, `${NAME:-fallback}` by the fallback where that is
  unset or empty, and `$${` stands for `${`. Numbers, durations and `true` or `false` may be written this way too, in
  quotes: `port = \"${PORT:-25}\"`. An optional setting for which nothing comes out is left out.
- `include = [\"conf.d/*.toml\"]` at the top of a file reads other files as well, relative to that file, a pattern's
  files in order of their names. Tables merge, lists of tables are joined, and a key set in two files is a mistake.

";

/// The page for a configuration whose root is `T`.
pub fn reference<T: Setting>() -> String {
    page::<T>(HEAD)
}

/// The reference page of a table, below a head of its own.
pub fn page<T: Setting>(head: &str) -> String {
    let mut out = head.to_string();
    if let Some(table) = T::schema().table() {
        section(&mut out, "", "", table);
    }
    let end = out.trim_end().len();
    out.truncate(end);
    out.push('\n');
    out
}

/// A table's section, then those of the tables in it.
fn section(out: &mut String, path: &str, kind: &str, table: &SchemaTable) {
    if !path.is_empty() {
        out.push_str(&format!("## `{path}`\n\n"));
        out.push_str(&format!("{}\n\n", plain(&table.docs)));
        if !kind.is_empty() {
            out.push_str(&format!("{kind}\n\n"));
        }
    }
    let plain_fields: Vec<&Field> =
        table.fields.iter().filter(|field| field.schema.table().is_none()).collect();
    if !plain_fields.is_empty() {
        out.push_str("| key | what | default | meaning |\n|---|---|---|---|\n");
        plain_fields.iter().for_each(|field| out.push_str(&row(field)));
        out.push('\n');
    }
    for field in &table.fields {
        let Some(inner) = field.schema.table() else { continue };
        let dot = if path.is_empty() { "" } else { "." };
        let key = format!("{path}{dot}{}", show_key(field.key));
        let (path, mut kind) = match under(&field.schema) {
            Some(Schema::List(_)) => (key.clone(), format!("Any number of them, each under `[[{key}]]`.")),
            Some(Schema::Map(_)) => {
                (format!("{key}.<name>"), "Any number of them, under names of your choice.".into())
            }
            Some(Schema::Optional(_)) => (key, "May be left out.".into()),
            _ => (key, String::new()),
        };
        if field.default.is_none() {
            kind = format!("Must be written. {kind}").trim_end().to_string();
        }
        // What the field says about the table goes before what the table says about itself.
        let mut table = inner.clone();
        if table.docs != field.docs {
            table.docs = format!("{}\n\n{}", field.docs, table.docs);
        }
        section(out, &path, &kind, &table);
    }
}

/// The list or map around a table, or the option.
fn under(schema: &Schema) -> Option<&Schema> {
    match schema {
        Schema::List(_) | Schema::Map(_) => Some(schema),
        Schema::Optional(inner) => under(inner).or(Some(schema)),
        _ => None,
    }
}

fn row(field: &Field) -> String {
    let mut what = kind(&field.schema);
    if let Some(range) = &field.range {
        what.push_str(&format!(", `{range}`"));
    }
    let default = match &field.default {
        None => "*required*".to_string(),
        Some(Shown::Nothing) => "not set".to_string(),
        Some(Shown::Secret) => "*secret*".to_string(),
        Some(Shown::Duration(duration)) => format!("`\"{}\"`", show_duration(*duration)),
        Some(default) => format!("`{default}`"),
    };
    let mut meaning = plain(&field.docs).replace("\n\n", "<br>");
    if let Schema::Words(words) = innermost(&field.schema) {
        for word in words {
            meaning.push_str(&format!("<br>`{}`: {}", word.word, plain(&word.docs)));
        }
    }
    if field.secret {
        meaning.push_str(" Never printed.");
    }
    let cell = |text: String| text.replace('\n', " ").replace('|', "\\|");
    format!("| `{}` | {} | {} | {} |\n", field.key, cell(what), cell(default), cell(meaning))
}

fn innermost(schema: &Schema) -> &Schema {
    match schema {
        Schema::Optional(_) | Schema::List(_) | Schema::Map(_) => innermost(schema.inner()),
        other => other,
    }
}

fn kind(schema: &Schema) -> String {
    match schema {
        Schema::Bool => "`true` or `false`".into(),
        Schema::Duration(_) => "duration".into(),
        Schema::Size(_) => "size".into(),
        Schema::Int(_) => "whole number".into(),
        Schema::Float(_) => "number".into(),
        Schema::Words(_) => "one word".into(),
        Schema::Text { what, example } => {
            let what = what.strip_prefix("a ").or_else(|| what.strip_prefix("an ")).unwrap_or(what);
            if example.is_empty() { what.to_string() } else { format!("{what}, as `\"{example}\"`") }
        }
        Schema::Optional(inner) => kind(inner),
        Schema::List(inner) => format!("list: {}", kind(inner)),
        Schema::Map(inner) => format!("by name: {}", kind(inner)),
        Schema::Table(_) => "table".into(),
    }
}
