//! The settings as JSON Schema (draft 2020-12), for editors and for tools that write configurations.

use serde_json::{Map, Value as Json, json};
use settings::{Bounds, Field, Schema, SchemaTable, Setting, Shown, show_duration};

/// The schema of a configuration whose root is `T`.
pub fn json_schema<T: Setting>() -> String {
    let mut root = json_of(&T::schema());
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("Tuma configuration");
    root["$defs"] = json!({
        "variable": {
            "description": "A value from the environment: `${NAME}` or `${NAME:-fallback}`.",
            "type": "string",
            "pattern": "\\$\\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\\}",
        }
    });
    if let Some(properties) = root["properties"].as_object_mut() {
        let include = json!({
            "description": "Files to read as well, relative to this one; `*` may stand in the last part of a path.",
            "type": "array",
            "items": { "type": "string" },
            "default": [],
        });
        properties.insert("include".into(), include);
    }
    // Pretty-printing a tree of plain values has no way to fail.
    let mut text = serde_json::to_string_pretty(&root).unwrap_or_default();
    text.push('\n');
    text
}

fn json_of(schema: &Schema) -> Json {
    match schema {
        Schema::Bool => or_variable(json!({ "type": "boolean" })),
        Schema::Int(bounds) => or_variable(numbers("integer", bounds, |value| json_int(*value))),
        Schema::Float(bounds) => or_variable(numbers("number", bounds, |value| json!(value))),
        Schema::Duration(_) => or_variable(json!({
            "type": "string",
            "pattern": "^([0-9]+w)?([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?([0-9]+us)?([0-9]+ns)?$",
            "minLength": 2,
        })),
        Schema::Size(bounds) => json!({ "anyOf": [
            numbers("integer", &Bounds { min: bounds.min.map_or(Some(0), |min| Some(min.0)), max: bounds.max.map(|max| max.0) }, |value| json!(value)),
            { "type": "string", "pattern": "^[0-9][0-9_]*( *([kKmMgGtT][iI]?)?[bB])?$" },
            { "$ref": "#/$defs/variable" },
        ] }),
        Schema::Text { what, example } => {
            let mut json = json!({ "type": "string", "title": what });
            if !example.is_empty() {
                json["examples"] = json!([example]);
            }
            json
        }
        Schema::Words(words) => {
            let word =
                |word: &settings::Word| json!({ "const": word.word, "description": plain(&word.docs) });
            let mut any: Vec<Json> = words.iter().map(word).collect();
            any.push(json!({ "$ref": "#/$defs/variable" }));
            json!({ "anyOf": any })
        }
        Schema::Optional(inner) => json_of(inner),
        Schema::List(inner) => json!({ "type": "array", "items": json_of(inner) }),
        Schema::Map(inner) => json!({ "type": "object", "additionalProperties": json_of(inner) }),
        Schema::Table(table) => object(table),
    }
}

fn object(table: &SchemaTable) -> Json {
    let mut properties = Map::new();
    for field in &table.fields {
        properties.insert(field.key.into(), property(field));
    }
    let required: Vec<&str> =
        table.fields.iter().filter(|field| field.default.is_none()).map(|field| field.key).collect();
    let mut json = json!({
        "type": "object",
        "description": plain(&table.docs),
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        json["required"] = json!(required);
    }
    json
}

fn property(field: &Field) -> Json {
    let mut json = json_of(&field.schema);
    let mut description = plain(&field.docs);
    // JSON Schema has no order of texts, so the bound of a time is said in words.
    if let (Some(range), Some(())) = (&field.range, is_text_with_order(&field.schema)) {
        description.push_str(&format!("\n\nAllowed: `{range}`."));
    }
    json["description"] = json!(description);
    if let Some(default) = field.default.as_ref().and_then(default_json) {
        json["default"] = default;
    }
    if field.secret {
        json["writeOnly"] = json!(true);
    }
    json
}

fn is_text_with_order(schema: &Schema) -> Option<()> {
    match schema {
        Schema::Duration(_) | Schema::Size(_) => Some(()),
        Schema::Optional(_) | Schema::List(_) | Schema::Map(_) => is_text_with_order(schema.inner()),
        _ => None,
    }
}

/// JSON has no word for a setting that is not set, and a secret has no default to tell.
fn default_json(shown: &Shown) -> Option<Json> {
    Some(match shown {
        Shown::Nothing | Shown::Secret => return None,
        Shown::Bool(value) => json!(value),
        Shown::Int(value) => json_int(*value),
        Shown::Float(value) => json!(value),
        Shown::Text(text) => json!(text),
        Shown::Duration(duration) => json!(show_duration(*duration)),
        Shown::Size(size) => json!(size.to_string()),
        Shown::List(items) => items.iter().filter_map(default_json).collect(),
        Shown::Table(fields) => {
            let fields = fields.iter().filter_map(|(key, value)| Some((key.clone(), default_json(value)?)));
            Json::Object(fields.collect())
        }
    })
}

fn numbers<T>(kind: &str, bounds: &Bounds<T>, show: impl Fn(&T) -> Json) -> Json {
    let mut json = json!({ "type": kind });
    if let Some(min) = &bounds.min {
        json["minimum"] = show(min);
    }
    if let Some(max) = &bounds.max {
        json["maximum"] = show(max);
    }
    json
}

fn json_int(value: i128) -> Json {
    match (i64::try_from(value), u64::try_from(value)) {
        (Ok(value), _) => json!(value),
        (_, Ok(value)) => json!(value),
        _ => json!(value as f64),
    }
}

fn or_variable(json: Json) -> Json {
    json!({ "anyOf": [json, { "$ref": "#/$defs/variable" }] })
}

/// A doc comment without the links of rustdoc.
pub fn plain(docs: &str) -> String {
    docs.replace("[`", "`").replace("`]", "`")
}
