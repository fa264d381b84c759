//! `${NAME}` and `${NAME:-fallback}` in texts, filled in from the environment; `$${` stands for `${`.

use settings::{Filled, Node, Place, Problems, Sources, Value, quote};

use super::Environment;

/// Fills in every text of a tree.
pub fn fill(node: &mut Node, env: Environment<'_>, sources: &Sources, problems: &mut Problems) {
    match &mut node.value {
        Value::Table(entries) => entries.iter_mut().for_each(|(_, node)| fill(node, env, sources, problems)),
        Value::Array(items) => items.iter_mut().for_each(|node| fill(node, env, sources, problems)),
        Value::String(text) if text.contains("${") => match filled(text, env) {
            Ok((result, filled)) => {
                *text = result;
                node.filled = filled;
            }
            Err(mistakes) => {
                for mistake in mistakes {
                    let place = find(node.place, sources, &mistake.written);
                    problems.error(place, mistake.message).hint(mistake.hint);
                }
            }
        },
        _ => {}
    }
}

struct Mistake {
    /// As it stands in the text, to be found again in the file.
    written: String,
    message: String,
    hint: String,
}

fn filled(text: &str, env: Environment<'_>) -> Result<(String, Option<Filled>), Vec<Mistake>> {
    let mut out = String::new();
    let mut names: Option<Filled> = None;
    let mut mistakes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let Some(end) = from.find('}') else {
            mistakes.push(Mistake {
                written: from.to_string(),
                message: "the `${` has no closing brace".into(),
                hint: "a `${` that stands for itself is written `$${`".into(),
            });
            break;
        };
        let (written, after) = from.split_at(end + 1);
        rest = after;
        match variable(written, env) {
            Ok((value, name)) => {
                out.push_str(&value);
                names.get_or_insert_default().names.extend(name);
            }
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    out.push_str(rest);
    Ok((out, names))
}

/// The value of one `${…}`, and the name of the variable if it was the variable's.
fn variable(written: &str, env: Environment<'_>) -> Result<(String, Option<String>), Mistake> {
    let mistake = |message: String, hint: String| Mistake { written: written.to_string(), message, hint };
    let inside = written.trim_start_matches("${").trim_end_matches('}');
    let (name, fallback) = match inside.split_once(":-") {
        Some((name, fallback)) => (name, Some(fallback)),
        None => (inside, None),
    };
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(letter) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(mistake(
            // What stands in the braces may be part of a secret.
            "the braces hold no name of an environment variable".into(),
            "write `${NAME}` or `${NAME:-fallback}`; a `${` that stands for itself is `$${`".into(),
        ));
    }
    if fallback.is_some_and(|fallback| fallback.contains("${")) {
        return Err(mistake(
            format!("the fallback of {} has a variable of its own", quote(name)),
            "a fallback is a plain text".into(),
        ));
    }
    match (env(name), fallback) {
        // As in the shell, an empty variable is as good as none when there is a fallback.
        (Some(value), Some(fallback)) if value.is_empty() => Ok((fallback.to_string(), None)),
        (Some(value), _) => Ok((value, Some(name.to_string()))),
        (None, Some(fallback)) => Ok((fallback.to_string(), None)),
        (None, None) => Err(mistake(
            format!("the environment variable {} is not set", quote(name)),
            format!("set it, or give a fallback: `${{{name}:-…}}`"),
        )),
    }
}

/// Where in the file a piece of a text stands; the whole text if escapes hide it.
fn find(place: Place, sources: &Sources, written: &str) -> Place {
    let text = sources.text(place.file).get(place.start..place.end).unwrap_or_default();
    let fits = |(at, _): &(usize, &str)| !text[..*at].ends_with('$');
    // What has no closing brace is the last of its text; what has one may look like an escaped one before it.
    let found = match written.ends_with('}') {
        true => text.match_indices(written).find(fits),
        false => text.match_indices(written).filter(fits).last(),
    };
    match found {
        Some((at, _)) => Place::new(place.file, place.start + at, place.start + at + written.len()),
        None => place,
    }
}
