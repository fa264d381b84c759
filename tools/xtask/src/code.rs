//! Rust source without its comments and texts, so that a scan finds code only.

/// The source with everything inside comments, strings and character literals made blank; lines stay lines.
pub fn code_only(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip(&chars, at);
        if end > at {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none does.
fn skip(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let word_before = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match rest {
        ['/', '/', ..] => at + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => block_comment(chars, at),
        ['"', ..] => quoted(chars, at, '"'),
        ['r', '"' | '#', ..] if !word_before => raw(chars, at),
        ['b' | 'c', 'r', '"' | '#', ..] if !word_before => match raw(chars, at + 1) {
            end if end > at + 1 => end,
            _ => at,
        },
        // `'a'` and `'\n'` are characters, `'a` is a lifetime.
        ['\'', '\\', ..] => quoted(chars, at, '\''),
        ['\'', _, '\'', ..] => at + 3,
        _ => at,
    }
}

fn block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < chars.len() {
        match chars[at..] {
            ['/', '*', ..] => (at, depth) = (at + 2, depth + 1),
            ['*', '/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(chars: &[char], start: usize, end: char) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            c if c == end => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// `r"…"` or `r#"…"#`; a raw identifier (`r#type`) is no text.
fn raw(chars: &[char], start: usize) -> usize {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return start;
    }
    let mut at = open + 1;
    while at < chars.len() {
        if chars[at] == '"' && chars[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    chars.len()
}

#[cfg(test)]
mod tests {
    use super::code_only;

    #[test]
    fn only_code_is_left() {
        for (source, code) in [
            ("a // b\nc", "a\nc"),
            ("a /* b /* c */ d */ e", "a e"),
            ("a \"b\\\"c\" d", "a d"),
            ("a r#\"b\"c\"# d", "a d"),
            ("a br\"b\" d", "a d"),
            ("r#type 'x' 'a '\\'' b", "r#type 'a b"),
            ("&'static str", "&'static str"),
            ("a \"open", "a"),
            ("for\"x\" r\"\\\" y", "for y"),
        ] {
            let left = code_only(source);
            assert_eq!(left.chars().count(), source.chars().count(), "{source}");
            let lines: Vec<String> =
                left.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            assert_eq!(lines.join("\n"), code, "{source}");
        }
    }
}
