//! Secrets of a configuration file, hidden where it is shown, and put back where what was shown comes back.
//!
//! It works on lines, since comments and order are to stay: what follows the key of a secret is hidden to the end of its
//! line, or of its text of several lines. More is hidden than must be where a secret stands within a table on one line.

use std::collections::BTreeSet;

/// Stands for a secret.
const HIDDEN: &str = "\"(hidden)\"";

/// A secret: where its value begins and ends, and what it is called.
struct Secret {
    from: usize,
    to: usize,
    /// The header it stands under, how often that came before, and its key.
    name: (String, usize, String),
}

fn is_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// The secrets of a text, in order.
fn secrets(text: &str, keys: &BTreeSet<&'static str>) -> Vec<Secret> {
    let mut found = Vec::new();
    let (mut header, mut headers, mut at) = (String::new(), Vec::<String>::new(), 0);
    while at < text.len() {
        let end = text[at..].find('\n').map_or(text.len(), |len| at + len);
        let line = &text[at..end];
        let mut next = (end + 1).min(text.len());
        if line.trim_start().starts_with('[') {
            header = line.trim().to_owned();
            headers.push(header.clone());
        } else if !line.trim_start().starts_with('#')
            && let Some((key, value)) = secret_in(line, keys)
        {
            let from = at + value;
            let rest = text[from..].trim_start_matches([' ', '\t']);
            let from = text.len() - rest.len();
            let several = ["\"\"\"", "'''"].into_iter().find(|quote| rest.starts_with(quote));
            let to = match several {
                Some(quote) => rest[3..].find(quote).map_or(text.len(), |len| from + 3 + len + 3),
                None => end,
            };
            let to = to.max(from);
            next = text[to..].find('\n').map_or(text.len(), |len| to + len + 1);
            let times = headers.iter().filter(|known| **known == header).count();
            found.push(Secret { from, to, name: (header.clone(), times, key) });
        }
        at = next;
    }
    found
}

/// The first key of a secret in a line, with what stands before it on the line, and where its value begins.
fn secret_in(line: &str, keys: &BTreeSet<&'static str>) -> Option<(String, usize)> {
    let ends = line.match_indices('=').map(|(at, _)| at);
    ends.filter_map(|at| {
        let before = line[..at].trim_end().trim_end_matches(['"', '\'']);
        let key = before.rsplit(|c| !is_key(c)).next().unwrap_or(before);
        keys.contains(key).then(|| (line[..at].trim().to_owned(), at + 1))
    })
    .next()
}

/// The text with its secrets hidden.
pub(super) fn hide(text: &str, keys: &BTreeSet<&'static str>) -> String {
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for secret in secrets(text, keys) {
        out += &text[at..secret.from];
        out += HIDDEN;
        at = secret.to;
    }
    out + &text[at..]
}

/// A text with the secrets that are hidden in it taken from `old`, where they have the same place.
pub(super) fn restore(text: &str, old: &str, keys: &BTreeSet<&'static str>) -> Result<String, String> {
    let known = secrets(old, keys);
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for secret in secrets(text, keys) {
        if text[secret.from..secret.to].trim() != HIDDEN {
            continue;
        }
        let was = known.iter().find(|known| known.name == secret.name);
        let (header, _, key) = &secret.name;
        let was = was.ok_or_else(|| {
            format!("`{key}` under `{header}` is hidden, and there was none in its place: write it out")
        })?;
        out += &text[at..secret.from];
        out += &old[was.from..was.to];
        at = secret.to;
    }
    Ok(out + &text[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# password = \"no\"\n[users.a]\npassword = \"one\" # why\nname = \"a\"\n[users.b]\n\"password\" = 'two'\n\
        [dkim.x]\nkey_text = \"\"\"\n-----BEGIN\npassword = 1\n-----END\n\"\"\"\nselector = \"s\"\n\
        [[w]]\nsecret = \"3\"\n[[w]]\nsecret = \"4\"\n[users]\nc = { name = \"c\", password = \"five\" }\nd.password = \"six\"\n";

    fn keys() -> BTreeSet<&'static str> {
        ["password", "key_text", "secret"].into()
    }

    #[test]
    fn no_secret_is_shown_and_all_come_back() {
        let hidden = hide(TEXT, &keys());
        for secret in ["one", "two", "BEGIN", "\"3\"", "\"4\"", "five", "six"] {
            assert!(!hidden.contains(secret), "{secret}: {hidden}");
        }
        assert!(hidden.contains("# password = \"no\"") && hidden.contains("selector = \"s\""), "{hidden}");
        assert_eq!(restore(&hidden, TEXT, &keys()).unwrap(), TEXT);
        // What was changed beside a secret is changed, and a new secret is the new one.
        let changed = hidden.replace("name = \"a\"", "name = \"z\"");
        assert_eq!(restore(&changed, TEXT, &keys()).unwrap(), TEXT.replace("name = \"a\"", "name = \"z\""));
        assert_eq!(
            restore("[users.a]\npassword = \"new\"", TEXT, &keys()).unwrap(),
            "[users.a]\npassword = \"new\""
        );
        assert!(restore("[users.z]\npassword = \"(hidden)\"", TEXT, &keys()).is_err());
    }

    #[test]
    fn any_text_is_read() {
        for text in [
            "",
            "password",
            "password =",
            "=",
            "password = \"\"\"",
            "[",
            "\u{e9}=\u{e9}password=\u{e9}",
            "password=\n\n",
        ] {
            let hidden = hide(text, &keys());
            assert_eq!(restore(&hidden, text, &keys()).unwrap(), text, "{text:?}");
        }
    }
}
