//! Paths in MAIL and RCPT (RFC 5321 §4.1.2): what stands between the angle brackets.

use mail::{Domain, ForwardPath, Mailbox, ReversePath};

/// Text that is no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathError;

impl std::fmt::Display for PathError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not a path: <local-part@domain>")
    }
}

impl std::error::Error for PathError {}

/// Reads the reverse-path at the head of `text`; gives what follows it too.
pub fn reverse(text: &str) -> Result<(ReversePath, &str), PathError> {
    let (inner, rest) = split(text)?;
    if inner.is_empty() {
        return Ok((ReversePath::Null, rest));
    }
    let mailbox = Mailbox::parse(strip_route(inner)?).map_err(|_| PathError)?;
    Ok((ReversePath::Mailbox(mailbox), rest))
}

/// Reads the forward-path at the head of `text`; gives what follows it too. `<postmaster>`, the one mailbox
/// without a domain, gets `here` (RFC 5321 §4.1.1.3).
pub fn forward<'a>(text: &'a str, here: &Domain) -> Result<(ForwardPath, &'a str), PathError> {
    let (inner, rest) = split(text)?;
    let inner = strip_route(inner)?;
    let mailbox = if inner.eq_ignore_ascii_case("postmaster") {
        Mailbox::at_domain(inner, here)
    } else {
        Mailbox::parse(inner)
    };
    Ok((ForwardPath(mailbox.map_err(|_| PathError)?), rest))
}

/// Appends `path` with its angle brackets.
pub fn write(path: &str, out: &mut Vec<u8>) {
    out.push(b'<');
    out.extend_from_slice(path.as_bytes());
    out.push(b'>');
}

/// Splits `<inner>rest`; a `>` inside a quoted string does not end the path.
fn split(text: &str) -> Result<(&str, &str), PathError> {
    let inner = text.strip_prefix('<').ok_or(PathError)?;
    let (mut quoted, mut escaped) = (false, false);
    for (at, b) in inner.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Ok((&inner[..at], &inner[at + 1..])),
            _ => {}
        }
    }
    Err(PathError)
}

/// Takes the source route off `@a.test,@b.test:user@c.test`. Routes are read and ignored, never followed
/// (RFC 5321 §4.1.1.3, appendix C), so only the last domain counts.
fn strip_route(inner: &str) -> Result<&str, PathError> {
    if !inner.starts_with('@') {
        return Ok(inner);
    }
    let (route, mailbox) = inner.split_once(':').ok_or(PathError)?;
    let hops_are_domains =
        route.split(',').all(|hop| hop.strip_prefix('@').is_some_and(|domain| Domain::parse(domain).is_ok()));
    if hops_are_domains { Ok(mailbox) } else { Err(PathError) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_what_follows() {
        let here = Domain::parse("mx.test").unwrap();
        for (text, path, rest) in [
            ("<a@b.test>", "a@b.test", ""),
            ("<a@b.test> SIZE=1", "a@b.test", " SIZE=1"),
            ("<\"a>b\\\"\"@c.test> X", "\"a>b\\\"\"@c.test", " X"),
            ("<@x.test,@y.test:a@b.test>", "a@b.test", ""),
            ("<PostMaster>", "PostMaster@mx.test", ""),
        ] {
            let (parsed, after) = forward(text, &here).unwrap();
            assert_eq!((parsed.as_str(), after), (path, rest));
        }
        assert_eq!(reverse("<>x"), Ok((ReversePath::Null, "x")));
    }

    #[test]
    fn texts_that_are_no_path() {
        let here = Domain::parse("mx.test").unwrap();
        for text in [
            "",
            "<",
            "<a@b.test",
            "a@b.test",
            "<>",
            "<a>",
            "<@b.test>",
            "<@x.test:>",
            "<@x.test,:a@b.test>",
            "<@x y:a@b.test>",
            "<a@b@c.test>",
            "<a@b.test.>",
            "<<a@b.test>>",
            "<a@b.test\t>",
            "< a@b.test>",
            "<\"a@b.test>",
            "<@x.test:postmaster@>",
        ] {
            assert!(forward(text, &here).is_err(), "{text}");
        }
        assert!(reverse("<postmaster>").is_err());
    }
}
