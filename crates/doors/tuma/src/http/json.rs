//! What of a JSON text is refused before it is read into anything (RFC 8259 leaves all of it to the reader): keys that
//! stand twice in an object, nesting without end, numbers nobody can hold.
//!
//! Two readers of the same text must not see two messages in it. The one pass here looks at structure only; that
//! the text is well-formed otherwise is found by the parser after it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

/// How deep objects and arrays may nest.
const DEPTH_MAX: usize = 32;
/// Characters of a number at most; enough for any number of sixty-four bits.
const NUMBER_MAX: usize = 40;
/// Keys of one object at most.
const KEYS_MAX: usize = 10_000;
/// Up to so many keys of an object are compared one by one.
const FEW: usize = 16;

/// What is wrong, and at which octet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    pub(super) at: usize,
    pub(super) text: String,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at octet {})", self.text, self.at)
    }
}

/// One object or array that is open.
struct Open<'a> {
    is_object: bool,
    /// Where its keys begin in the list of keys of all that is open.
    keys_from: usize,
    /// Its keys, once they are more than a few.
    many: Option<HashSet<Cow<'a, [u8]>>>,
}

/// Looks at a text once.
pub(super) fn check(text: &[u8]) -> Result<(), Unfit> {
    let refuse = |at: usize, text: &str| Err(Unfit { at, text: text.to_owned() });
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut keys: Vec<Cow<'_, [u8]>> = Vec::new();
    // A text in an object is a key if it begins the object or follows a comma.
    let mut key_next = false;
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                let end = end_of_text(text, at)?;
                if std::mem::take(&mut key_next) {
                    note_key(&mut open, &mut keys, &text[at + 1..end], at)?;
                }
                at = end + 1;
                continue;
            }
            c @ (b'{' | b'[') => {
                if open.len() == DEPTH_MAX {
                    return refuse(at, "objects and arrays nest too deep");
                }
                key_next = c == b'{';
                open.push(Open { is_object: key_next, keys_from: keys.len(), many: None });
            }
            b'}' | b']' => {
                if let Some(closed) = open.pop() {
                    keys.truncate(closed.keys_from);
                }
                key_next = false;
            }
            b',' => key_next = open.last().is_some_and(|open| open.is_object),
            b'-' | b'0'..=b'9' => {
                let number = |b: &u8| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E');
                let len = text[at..].iter().take_while(|b| number(b)).count();
                let digits = &text[at..at + len];
                let finite = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<f64>().ok());
                if len > NUMBER_MAX || finite.is_some_and(f64::is_infinite) {
                    return refuse(at, "a number is too large");
                }
                at += len;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// The quote that ends the text which begins at `from`.
fn end_of_text(text: &[u8], from: usize) -> Result<usize, Unfit> {
    let mut at = from + 1;
    loop {
        let rest = text.get(at..).unwrap_or(&[]);
        let Some(next) = rest.iter().position(|b| matches!(b, b'"' | b'\\')) else {
            return Err(Unfit { at: from, text: "a text is not closed".to_owned() });
        };
        match rest[next] {
            b'"' => return Ok(at + next),
            _ => at += next + 2,
        }
    }
}

fn note_key<'a>(
    open: &mut [Open<'a>],
    keys: &mut Vec<Cow<'a, [u8]>>,
    key: &'a [u8],
    at: usize,
) -> Result<(), Unfit> {
    let Some(object) = open.last_mut() else { return Ok(()) };
    let key = match key.contains(&b'\\') {
        false => Cow::Borrowed(key),
        // `"a"` and `"\u0061"` are one key.
        true => {
            let quoted = [b"\"", key, b"\""].concat();
            match serde_json::from_slice::<String>(&quoted) {
                Ok(plain) => Cow::Owned(plain.into_bytes()),
                Err(error) => return Err(Unfit { at, text: error.to_string() }),
            }
        }
    };
    let known = &keys[object.keys_from..];
    let twice = match &mut object.many {
        Some(many) => !many.insert(key.clone()),
        None if known.contains(&key) => true,
        None => {
            if known.len() == FEW {
                object.many = Some(known.iter().cloned().chain([key.clone()]).collect());
            }
            false
        }
    };
    if twice {
        let name = message::one_line(&String::from_utf8_lossy(&key), 60);
        return Err(Unfit { at, text: format!("the key `{name}` stands twice in one object") });
    }
    if object.many.as_ref().is_some_and(|many| many.len() > KEYS_MAX) {
        return Err(Unfit { at, text: "an object has too many keys".to_owned() });
    }
    if object.many.is_none() {
        keys.push(key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        check(text.as_bytes()).err().map(|unfit| unfit.to_string()).unwrap_or_default()
    }

    #[test]
    fn keys_stand_once() {
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"[{"b":{"x":[1,{"y":"}"}],"x":1}}]"#,
            r#"{"a":"{","b":[{}],"a":1}"#,
        ] {
            assert!(wrong(text).contains("stands twice"), "{text}: {}", wrong(text));
        }
        for text in
            [r#"{"a":{"a":{"a":"a"}},"b":["a","a"]}"#, r#"[{"a":1},{"a":1}]"#, r#"{"a":"a\"","b":"\\"}"#, ""]
        {
            assert_eq!(wrong(text), "", "{text}");
        }
        let many: Vec<String> = (0..100).map(|n| format!("\"k{n}\":{{\"k{n}\":0}}")).collect();
        let many = many.join(",");
        assert_eq!(wrong(&format!("{{{many}}}")), "");
        for n in [0, 15, 16, 17, 99] {
            assert!(wrong(&format!("{{{many},\"k{n}\":1}}")).contains(&format!("`k{n}`")), "{n}");
        }
    }

    #[test]
    fn what_has_no_end_is_refused() {
        assert!(wrong(&"[".repeat(100_000)).contains("too deep"));
        assert!(wrong(&"{\"a\":".repeat(33)).contains("too deep"));
        assert_eq!(wrong(&("[".repeat(32) + &"]".repeat(32))), "");
        assert!(wrong(&format!("[{}]", "9".repeat(1_000_000))).contains("too large"));
        assert!(wrong("[1e999]").contains("too large") && wrong("[-1e309]").contains("too large"));
        assert_eq!(wrong("[1, -1.5e10, 18446744073709551615]"), "");
        assert!(wrong("\"abc").contains("not closed") && wrong("[\"abc\\").contains("not closed"));
        let keys: Vec<String> = (0..10_002).map(|n| format!("\"{n}\":0")).collect();
        assert!(wrong(&format!("{{{}}}", keys.join(","))).contains("too many keys"));
    }
}
