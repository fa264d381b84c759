//! People in header fields: a mailbox with a display name (RFC 5322 §3.4).

use mail::Mailbox;
use serde::{Deserialize, Serialize};

/// Octets of a display name at most.
pub(crate) const NAME_MAX_OCTETS: usize = 320;

/// Somebody as From, To and the like show them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The address.
    pub email: String,
    /// The display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Person {
    /// Reads `a@b.example`, `<a@b.example>`, `Name <a@b.example>` or `"Last, First" <a@b.example>`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut people = read_people(text)?;
        match (people.pop(), people.is_empty()) {
            (Some(person), true) => Ok(person),
            _ => Err("one address is expected".into()),
        }
    }

    /// The mailbox.
    pub fn mailbox(&self) -> Result<Mailbox, String> {
        Mailbox::parse(&self.email).map_err(|error| error.to_string())
    }
}

/// Reads addresses with commas between them, as a header field has them. Groups and comments are not taken.
pub fn read_people(text: &str) -> Result<Vec<Person>, String> {
    split(text)?.into_iter().map(read_one).collect()
}

/// Parts a list at its commas: those outside of quotes and angle brackets.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut from) = (Vec::new(), 0);
    let (mut quoted, mut angle, mut escaped) = (false, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '<' if !quoted => angle = true,
            '>' if !quoted => angle = false,
            ',' if !quoted && !angle => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    if quoted || angle {
        return Err("a quote or an angle bracket is not closed".into());
    }
    parts.push(&text[from..]);
    Ok(parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).collect())
}

fn read_one(text: &str) -> Result<Person, String> {
    let Some(rest) = text.strip_suffix('>') else {
        return sound(text, None);
    };
    // The bracket that opens the address is the last one: a quoted name may hold others.
    let Some((name, email)) = rest.rsplit_once('<') else {
        return Err("an angle bracket is not opened".into());
    };
    let name = name.trim();
    let name = match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => unquoted(quoted),
        None => name.to_owned(),
    };
    sound(email.trim(), Some(name).filter(|name| !name.is_empty()))
}

fn sound(email: &str, name: Option<String>) -> Result<Person, String> {
    let mailbox = Mailbox::parse(email).map_err(|error| error.to_string())?;
    Ok(Person { email: mailbox.as_str().to_owned(), name })
}

fn unquoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(name: Option<&str>, email: &str) -> Person {
        Person { email: email.into(), name: name.map(str::to_owned) }
    }

    #[test]
    fn lists_are_read() {
        assert_eq!(
            read_people("a@b.test, Ann Lee <c@d.test>,\"Lee, \\\"A\\\" <x>\" <e@f.test>, <g@h.test> ,")
                .unwrap(),
            [
                person(None, "a@b.test"),
                person(Some("Ann Lee"), "c@d.test"),
                person(Some("Lee, \"A\" <x>"), "e@f.test"),
                person(None, "g@h.test"),
            ]
        );
        assert_eq!(read_people(" ").unwrap(), []);
        for text in
            ["a", "Ann c@d.test", "<a@b.test", "\"a <a@b.test>", "a@b.test c@d.test", "x>", "<>", "a@b..test"]
        {
            assert!(read_people(text).is_err(), "{text}");
        }
        assert!(Person::parse("a@b.test, c@d.test").is_err() && Person::parse("").is_err());
        assert_eq!(Person::parse("Zo\u{eb} <z@b.test>").unwrap(), person(Some("Zo\u{eb}"), "z@b.test"));
    }
}
