//! Whose name a message bears: the domain of its From field, read strictly (RFC 5322 §3.4, RFC 6532).
//!
//! Readers of mail disagree about fields that are not quite right, and who forges mail lives on that. So a field that
//! two readers could take for two authors is refused here, and one that all read alike is taken although a comma of
//! the grammar is missing.

use mail::Domain;
use message::{Field, Fields};
use std::fmt;

/// Octets of a From field that is looked at.
const FROM_MAX_OCTETS: usize = 16 * 1024;

/// Authors of one message at most.
pub const AUTHORS_MAX: usize = 20;

/// Comments within comments.
const DEPTH_MAX: u32 = 16;

/// Why a message has no author to speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromError {
    /// There is no From field.
    None,
    /// There are several, which RFC 5322 §3.6 forbids.
    Several,
    /// The field cannot be read in one way only.
    Syntax,
    /// It names authors of several domains.
    Domains,
    /// It names more than [`AUTHORS_MAX`] authors, or is longer than 16 KiB.
    TooLong,
    /// Its address has no domain, or one that is none.
    Domain,
}

impl fmt::Display for FromError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no From field",
            Self::Several => "several From fields",
            Self::Syntax => "a From field that cannot be read",
            Self::Domains => "authors of several domains in From",
            Self::TooLong => "a From field that is too long",
            Self::Domain => "no domain in From",
        })
    }
}

impl std::error::Error for FromError {}

/// The one domain that a message's From field names.
pub fn from_domain(content: &[u8]) -> Result<Domain, FromError> {
    let mut found: Option<Field<'_>> = None;
    for field in Fields::new(content).filter(|field| field.is("from")) {
        if found.replace(field).is_some() {
            return Err(FromError::Several);
        }
    }
    let domains = author_domains(found.ok_or(FromError::None)?.value)?;
    let (first, rest) = domains.split_first().ok_or(FromError::Syntax)?;
    if rest.iter().any(|domain| domain != first) {
        return Err(FromError::Domains);
    }
    Ok(first.clone())
}

/// The domain of each author that the value of a From field names.
pub fn author_domains(value: &[u8]) -> Result<Vec<Domain>, FromError> {
    if value.len() > FROM_MAX_OCTETS {
        return Err(FromError::TooLong);
    }
    let text = std::str::from_utf8(value).map_err(|_| FromError::Syntax)?;
    let tokens = tokens(text)?;
    let mut domains = Vec::new();
    for author in tokens.split(|token| matches!(token, Token::Special(','))) {
        if trimmed(author).is_empty() {
            // RFC 5322 §4.4 knows lists with nothing between commas; what they mean, nobody disagrees about.
            continue;
        }
        if domains.len() == AUTHORS_MAX {
            return Err(FromError::TooLong);
        }
        domains.push(author_domain(author)?);
    }
    if domains.is_empty() { Err(FromError::Syntax) } else { Ok(domains) }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// A run of octets that are no specials, blanks and dots and `@` apart.
    Atom(&'a str),
    /// A quoted string.
    Quoted,
    /// `<>,.@`.
    Special(char),
    /// A domain literal.
    Literal,
    /// Blanks or comments: they part atoms.
    Gap,
}

/// Parts a field's value. Groups (`:` and `;`), and routes with them, are refused: RFC 6854 allows groups in From, but
/// they have no author whose domain could be checked.
fn tokens(text: &str) -> Result<Vec<Token<'_>>, FromError> {
    let mut out: Vec<Token<'_>> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (token, len) = match c {
            ' ' | '\t' | '\r' | '\n' => (Token::Gap, 1),
            '(' => (Token::Gap, comment_len(rest)?),
            '"' => (Token::Quoted, quoted_len(rest)?),
            '[' => (Token::Literal, rest.find(']').ok_or(FromError::Syntax)? + 1),
            '<' | '>' | ',' | '.' | '@' => (Token::Special(c), 1),
            ':' | ';' | ')' | ']' | '\\' => return Err(FromError::Syntax),
            c if c.is_control() => return Err(FromError::Syntax),
            _ => {
                let end = rest
                    .find(|c: char| c.is_control() || " ()<>[]:;@\\,.\"".contains(c))
                    .unwrap_or(rest.len());
                (Token::Atom(&rest[..end]), end)
            }
        };
        if token != Token::Gap || out.last() != Some(&Token::Gap) {
            out.push(token);
        }
        rest = &rest[len..];
    }
    Ok(out)
}

fn quoted_len(text: &str) -> Result<usize, FromError> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if std::mem::take(&mut escaped) => {}
            '\\' => escaped = true,
            '"' => return Ok(at + 1),
            _ => {}
        }
    }
    Err(FromError::Syntax)
}

fn comment_len(text: &str) -> Result<usize, FromError> {
    let (mut depth, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if std::mem::take(&mut escaped) => {}
            '\\' => escaped = true,
            '(' if depth == DEPTH_MAX => return Err(FromError::Syntax),
            '(' => depth += 1,
            ')' if depth == 1 => return Ok(at + 1),
            ')' => depth -= 1,
            _ => {}
        }
    }
    Err(FromError::Syntax)
}

fn trimmed<'t, 'a>(mut tokens: &'t [Token<'a>]) -> &'t [Token<'a>] {
    while let [Token::Gap, rest @ ..] | [rest @ .., Token::Gap] = tokens {
        tokens = rest;
    }
    tokens
}

/// The domain of one author: `local@domain`, or a name and that in angle brackets.
fn author_domain(tokens: &[Token<'_>]) -> Result<Domain, FromError> {
    let tokens = trimmed(tokens);
    let address = match tokens.iter().position(|token| *token == Token::Special('<')) {
        None => tokens,
        Some(open) => {
            // What stands before the bracket is a name, whatever it looks like: everybody takes the brackets. Nothing
            // may follow them, and there is one pair.
            let Some((Token::Special('>'), inner)) = tokens[open + 1..].split_last() else {
                return Err(FromError::Syntax);
            };
            inner
        }
    };
    let address = trimmed(address);
    if address.iter().any(|token| matches!(token, Token::Special('<' | '>'))) {
        return Err(FromError::Syntax);
    }
    let mut at_signs = address.iter().enumerate().filter(|(_, token)| **token == Token::Special('@'));
    let (at, _) = at_signs.next().ok_or(FromError::Domain)?;
    if at_signs.next().is_some() {
        return Err(FromError::Syntax);
    }
    let local = trimmed(&address[..at]);
    let domain = trimmed(&address[at + 1..]);
    if local.is_empty() || local.contains(&Token::Gap) {
        return Err(FromError::Syntax);
    }
    if *domain == [Token::Literal] {
        return Err(FromError::Domain);
    }
    let mut name = String::new();
    for token in domain {
        match token {
            Token::Atom(text) => name.push_str(text),
            Token::Special('.') => name.push('.'),
            _ => return Err(FromError::Syntax),
        }
    }
    Domain::parse(&name).map_err(|_| FromError::Domain)
}

/// Whatever the octets, an author is found or not.
#[doc(hidden)]
pub fn fuzz_from(data: &[u8]) {
    if let Ok(domains) = author_domains(data) {
        assert!((1..=AUTHORS_MAX).contains(&domains.len()));
    }
    let _ = from_domain(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(value: &str) -> Result<String, FromError> {
        from_domain(format!("Subject: s\r\nFrom:{value}\r\nTo: t@t.test\r\n\r\n").as_bytes())
            .map(|domain| domain.to_string())
    }

    #[test]
    fn authors() {
        for value in [
            "x@a.test",
            " X <x@A.test>",
            " \"X, Y <z@b.test>\" <x@a.test>",
            " (a comment <z@b.test>) x@a.test (another)",
            " x@a.test (nested (\\) z@b.test))",
            " John Q. Public <x@a.test>",
            " z@b.test <x@a.test>",
            " =?utf-8?q?z=40b=2Etest?= <x@a.test>",
            "\r\n\t\"quoted \\\" local\"@a.test",
            " \"z@b.test\"@a.test",
            " J\u{f6}rg <j\u{f6}rg@a.test>",
            " <x(comment)@(comment)a.test>",
            " x@a.test, y@a.test, \"Z\" <z@a.test>",
            " , x@a.test,",
        ] {
            assert_eq!(domain(value).as_deref(), Ok("a.test"), "{value}");
        }
        assert_eq!(domain(" x@b\u{fc}cher.test").as_deref(), Ok("xn--bcher-kva.test"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not_read() {
        for value in [
            "",
            " ",
            " <>",
            " x@a.test <y@b.test> <z@c.test>",
            " <x@a.test> y@b.test",
            " <x@a.test",
            " x@a.test>",
            " <<x@a.test>>",
            " x@a.test y@b.test",
            " x@a@b.test",
            " <@b.test:x@a.test>",
            " group: x@a.test;",
            " x@a.test; y@b.test",
            " x y@a.test",
            " x@a .test",
            " x@a.test\\@b.test",
            " \"x@a.test",
            " (x@a.test",
            " @a.test",
            " x@a.test\0@b.test",
            " x@\"a.test\"",
        ] {
            assert!(
                matches!(domain(value), Err(FromError::Syntax | FromError::Domain)),
                "{value:?}: {:?}",
                domain(value)
            );
        }
        assert_eq!(domain(" x@[192.0.2.1]"), Err(FromError::Domain));
        assert_eq!(domain(" x"), Err(FromError::Domain));
        assert_eq!(domain(" x@a.test, y@b.test"), Err(FromError::Domains));
        assert_eq!(domain(" x@a.test\r\nfrom: x@a.test"), Err(FromError::Several));
        assert_eq!(domain(" x@a.test\r\nFROM : y@b.test"), Err(FromError::Several));
        assert_eq!(domain(&" x@a.test,".repeat(21)), Err(FromError::TooLong));
        assert_eq!(domain(&"(".repeat(17)), Err(FromError::Syntax));
        assert_eq!(domain(&" ".repeat(17_000)), Err(FromError::TooLong));
        assert_eq!(from_domain(b"Subject: x\r\n\r\nFrom: x@a.test\r\n"), Err(FromError::None));
    }

    #[test]
    fn random_fields() {
        let mut random = crate::tests::Random(13);
        let pieces = [
            "x", "@", "a.test", "<", ">", ",", ":", ";", "(", ")", "\"", "\\", " ", "\r\n ", "[", "]", ".",
            "\u{e9}", "\0",
        ];
        for _ in 0..50_000 {
            let mut text = String::new();
            (0..random.below(16)).for_each(|_| text += pieces[random.below(pieces.len())]);
            fuzz_from(text.as_bytes());
            fuzz_from(format!("From:{text}\r\n").as_bytes());
        }
    }
}
