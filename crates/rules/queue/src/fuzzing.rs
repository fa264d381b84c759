//! What the fuzz targets call: any octets go in, and a broken promise is a panic.

use crate::orders::{Fact, Facts, Match, Scope};

/// A pattern of an order and a text, a line feed between: it matches what a plain reading of it says.
pub fn order_pattern(input: &[u8]) {
    let Ok(input) = std::str::from_utf8(input) else { return };
    let (pattern, text) = input.split_once('\n').unwrap_or((input, ""));
    let scope = Scope { sender: Some(pattern.into()), ..Scope::default() };
    let found = scope.matches(&Facts { sender: Fact::Is(text), ..Facts::default() });
    let (pattern, text) = (pattern.to_ascii_lowercase(), text.to_ascii_lowercase());
    let middle = pattern.strip_prefix('*').unwrap_or(&pattern);
    let middle = if pattern.len() > 1 { middle.strip_suffix('*').unwrap_or(middle) } else { middle };
    let expected = match (pattern.starts_with('*'), pattern.ends_with('*')) {
        (true, true) => text.contains(middle),
        (true, false) => text.ends_with(middle),
        (false, true) => text.starts_with(middle),
        (false, false) => text == middle,
    };
    assert_eq!(found, if expected { Match::Yes } else { Match::No }, "{pattern:?} {text:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All patterns and texts of a few characters, which is more than chance would try.
    #[test]
    fn every_short_pattern() {
        let mut words = vec![String::new()];
        for _ in 0..4 {
            let longer: Vec<String> =
                words.iter().flat_map(|word| ["*", "a", "B", "é"].map(|c| format!("{word}{c}"))).collect();
            words.extend(longer);
            words.sort();
            words.dedup();
        }
        for pattern in &words {
            for text in &words {
                order_pattern(format!("{pattern}\n{text}").as_bytes());
            }
        }
    }
}
