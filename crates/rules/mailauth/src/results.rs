//! The Authentication-Results field (RFC 8601): written, read, and known when somebody else wrote it in our name.

use std::fmt::Write as _;

/// Octets of a field that is read.
pub const RESULTS_MAX_OCTETS: usize = 32 * 1024;
/// Results of one field that are read.
pub const RESULTS_MAX: usize = 100;
/// Octets of one value, comment or reason that is written.
const VALUE_MAX_OCTETS: usize = 320;
/// Comments within comments.
const DEPTH_MAX: usize = 16;
/// Lines are folded to stay within this many octets where a blank allows it.
const LINE_MAX: usize = 78;

/// What one method found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodResult {
    /// The method: `spf`, `dkim`, `dmarc`, `arc`, `iprev`.
    pub method: Box<str>,
    /// Its result.
    pub result: Box<str>,
    /// For people: written as a comment.
    pub comment: Option<Box<str>>,
    /// Why, for people.
    pub reason: Option<Box<str>>,
    /// What it was found out about, such as `smtp.mailfrom` and its value.
    pub properties: Vec<(Box<str>, Box<str>)>,
}

impl MethodResult {
    /// A result without more.
    pub fn new(method: &str, result: &str) -> Self {
        Self { method: method.into(), result: result.into(), ..Self::default() }
    }

    /// With a comment.
    #[must_use]
    pub fn comment(mut self, text: impl Into<Box<str>>) -> Self {
        self.comment = Some(text.into());
        self
    }

    /// With a property.
    #[must_use]
    pub fn property(mut self, name: &str, value: impl Into<Box<str>>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// The value of a property.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(known, _)| **known == *name).map(|(_, value)| &**value)
    }
}

/// Writes the field with its CRLF. `instance` is for the ARC field of a set, which begins with its number
/// (RFC 8617 §4.1.1).
pub fn write_results(out: &mut Vec<u8>, instance: Option<u32>, id: &str, results: &[MethodResult]) {
    let mut text = match instance {
        Some(n) => format!("ARC-Authentication-Results: i={n}; "),
        None => "Authentication-Results: ".to_owned(),
    };
    push_value(&mut text, id);
    if results.is_empty() {
        text.push_str("; none");
    }
    for result in results {
        let mut line = 1;
        let _ = write!(text, ";\r\n\t");
        let mut word = format!("{}={}", result.method, result.result);
        push_word(&mut text, &mut line, &word);
        if let Some(comment) = &result.comment {
            word.clear();
            push_comment(&mut word, comment);
            push_word(&mut text, &mut line, &word);
        }
        if let Some(reason) = &result.reason {
            word.clear();
            word.push_str("reason=");
            push_quoted(&mut word, reason);
            push_word(&mut text, &mut line, &word);
        }
        for (name, value) in &result.properties {
            word.clear();
            let _ = write!(word, "{name}=");
            push_value(&mut word, value);
            push_word(&mut text, &mut line, &word);
        }
    }
    text.push_str("\r\n");
    out.extend_from_slice(text.as_bytes());
}

fn push_word(text: &mut String, line: &mut usize, word: &str) {
    if *line > 1 {
        if *line + 1 + word.len() > LINE_MAX {
            text.push_str("\r\n\t ");
            *line = 2;
        } else {
            text.push(' ');
            *line += 1;
        }
    }
    text.push_str(word);
    *line += word.len();
}

/// What is a stranger's becomes one line of visible ASCII and blanks within bounds.
fn plain(text: &str) -> impl Iterator<Item = char> {
    text.chars().take(VALUE_MAX_OCTETS).map(|c| if matches!(c, ' '..='~') { c } else { '?' })
}

/// A token or an address as it is, anything else as a quoted string (RFC 8601 §2.2).
fn push_value(text: &mut String, value: &str) {
    let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_octet);
    let is_plain = match value.rsplit_once('@') {
        Some((local, domain)) => {
            let atoms = local.is_empty() || local.split('.').all(|atom| !atom.is_empty() && is_token(atom));
            let labels = domain.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            atoms && labels && !domain.is_empty()
        }
        None => is_token(value),
    };
    if is_plain && value.len() <= VALUE_MAX_OCTETS {
        text.push_str(value);
    } else {
        push_quoted(text, value);
    }
}

/// RFC 2045 §5.1, without the slash that RFC 8601 gives a meaning.
fn is_token_octet(b: u8) -> bool {
    b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b)
}

fn push_quoted(text: &mut String, value: &str) {
    text.push('"');
    for c in plain(value) {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
}

fn push_comment(text: &mut String, value: &str) {
    text.push('(');
    for c in plain(value) {
        if matches!(c, '(' | ')' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push(')');
}

/// A field that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// Which set of ARC it belongs to, if it says so.
    pub instance: Option<u32>,
    /// Who wrote it.
    pub id: Box<str>,
    /// What it says, at most [`RESULTS_MAX`] results; comments are not kept.
    pub results: Vec<MethodResult>,
}

impl Results {
    /// Reads the value of a field; nothing if it is none.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(value)?;
        let mut results = Self::default();
        let first = reader.word()?;
        if first.eq_ignore_ascii_case("i") && reader.take(b'=') {
            results.instance = Some(reader.word()?.parse().ok().filter(|n| (1..=999).contains(n))?);
            reader.take(b';').then_some(())?;
            results.id = reader.word()?.into();
        } else {
            results.id = first.into();
        }
        // A version is a number (RFC 8601 §2.2).
        if !reader.at_end() && !reader.sees(b';') {
            reader.word()?.parse::<u32>().ok()?;
        }
        while !reader.at_end() {
            reader.take(b';').then_some(())?;
            if reader.at_end() {
                break;
            }
            if results.results.len() == RESULTS_MAX {
                return None;
            }
            let method = reader.word()?;
            if !reader.sees(b'=') && !reader.sees(b'/') && method.eq_ignore_ascii_case("none") {
                continue;
            }
            if reader.take(b'/') {
                reader.word()?.parse::<u32>().ok()?;
            }
            reader.take(b'=').then_some(())?;
            let mut result =
                MethodResult::new(&method.to_ascii_lowercase(), &reader.word()?.to_ascii_lowercase());
            while !reader.at_end() && !reader.sees(b';') {
                let mut name = reader.word()?.to_ascii_lowercase();
                // Blanks and comments may stand around the dot.
                while reader.sees(b'.') || (name.ends_with('.') && !reader.sees(b'=')) {
                    name += &reader.word()?.to_ascii_lowercase();
                }
                reader.take(b'=').then_some(())?;
                let value = reader.value()?;
                if name == "reason" {
                    result.reason = Some(value.into());
                } else {
                    result.properties.push((name.into(), value.into()));
                }
            }
            results.results.push(result);
        }
        Some(results)
    }
}

/// Reads words over blanks and comments.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(value: &'a [u8]) -> Option<Self> {
        let mut reader = Self { rest: value };
        (value.len() <= RESULTS_MAX_OCTETS && reader.skip_blanks()).then_some(reader)
    }

    /// False if a comment has no end, or too many within it.
    fn skip_blanks(&mut self) -> bool {
        let mut depth = 0;
        while let Some((&b, rest)) = self.rest.split_first() {
            match b {
                b'(' if depth == DEPTH_MAX => return false,
                b'(' => depth += 1,
                b')' if depth > 0 => depth -= 1,
                b'\\' if depth > 0 => {
                    self.rest = rest.get(1..).unwrap_or_default();
                    continue;
                }
                b' ' | b'\t' | b'\r' | b'\n' => {}
                _ if depth > 0 => {}
                _ => return true,
            }
            self.rest = rest;
        }
        depth == 0
    }

    fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn sees(&self, b: u8) -> bool {
        self.rest.first() == Some(&b)
    }

    fn take(&mut self, b: u8) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if *first == b => {
                self.rest = rest;
                self.skip_blanks()
            }
            _ => false,
        }
    }

    /// A token or a quoted string.
    fn word(&mut self) -> Option<String> {
        self.some(is_token_octet)
    }

    /// The same, or an address.
    fn value(&mut self) -> Option<String> {
        let mut value = if self.sees(b'@') {
            String::new()
        } else {
            self.some(|b| is_token_octet(b) || b"/:[]".contains(&b))?
        };
        if self.take(b'@') {
            value.push('@');
            value += &self.some(|b| is_token_octet(b) || b"[]:".contains(&b))?;
        }
        Some(value)
    }

    fn some(&mut self, fits: impl Fn(u8) -> bool) -> Option<String> {
        let out = if self.sees(b'"') {
            let mut out = Vec::new();
            let mut at = 1;
            loop {
                match *self.rest.get(at)? {
                    b'"' => break,
                    b'\\' => {
                        out.push(*self.rest.get(at + 1)?);
                        at += 2;
                    }
                    // Folding within a string is not part of it.
                    b'\r' | b'\n' => at += 1,
                    b => {
                        out.push(b);
                        at += 1;
                    }
                }
            }
            self.rest = &self.rest[at + 1..];
            out
        } else {
            // Octets above ASCII stand in internationalised fields (RFC 8601 §2.2).
            let end = self.rest.iter().position(|b| !fits(*b) && b.is_ascii()).unwrap_or(self.rest.len());
            let (word, rest) = self.rest.split_at(end);
            self.rest = rest;
            if word.is_empty() {
                return None;
            }
            word.to_vec()
        };
        self.skip_blanks().then_some(())?;
        String::from_utf8(out).ok()
    }
}

/// True if a field's value is, or to a lenient reader looks like, results of the server `ours`: such fields must not
/// come in from outside (RFC 8601 §5).
pub fn claims(value: &[u8], ours: &str) -> bool {
    let same = |a: &str, b: &str| {
        let a = a.trim_end_matches('.');
        let parsed = mail::Domain::parse(a).ok();
        a.eq_ignore_ascii_case(b) || (parsed.is_some() && parsed == mail::Domain::parse(b).ok())
    };
    let id = || {
        let mut reader = Reader::new(value)?;
        let id = reader.word()?;
        (reader.at_end() || reader.sees(b';') || reader.rest[0].is_ascii_digit()).then_some(id)
    };
    match id() {
        Some(id) => same(&id, ours),
        // Nobody knows what a reader makes of it: it goes if our name is in it, however it is dressed.
        None => {
            let ours = ours.to_ascii_lowercase();
            let holds = |text: &[u8]| memchr::memmem::find(text, ours.as_bytes()).is_some();
            holds(&undressed(value, false)) || holds(&undressed(value, true))
        }
    }
}

/// A value in lower case without blanks and quotes, and with or without what stands in parentheses.
fn undressed(value: &[u8], comments: bool) -> Vec<u8> {
    let mut depth = 0_usize;
    let bare = value.iter().filter(|b| {
        match b {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        (comments || depth == 0) && !b" \t\r\n\\\"()".contains(b)
    });
    bare.map(u8::to_ascii_lowercase).collect()
}

/// Whatever the octets, what is read and written again says the same, and what is written is one field.
#[doc(hidden)]
pub fn fuzz_results(data: &[u8]) {
    claims(data, "mx.test");
    let text = String::from_utf8_lossy(data);
    let ours = MethodResult::new("spf", "pass")
        .comment(&*text)
        .property("smtp.mailfrom", &*text)
        .property("smtp.helo", "h.test");
    let mut out = Vec::new();
    write_results(&mut out, None, "mx.test", &[MethodResult { reason: Some(text.into()), ..ours }]);
    let fields: Vec<message::Field<'_>> = message::Fields::new(&out).collect();
    assert_eq!(fields.len(), 1);
    assert!(claims(fields[0].value, "MX.test"));
    let read = Results::parse(fields[0].value).expect("what is written can be read");
    assert_eq!(read.results[0].value("smtp.helo"), Some("h.test"));
    if let Some(read) = Results::parse(data) {
        let mut out = Vec::new();
        write_results(&mut out, read.instance, &read.id, &read.results);
        assert_eq!(message::Fields::new(&out).count(), 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(id: &str, results: &[MethodResult]) -> String {
        let mut out = Vec::new();
        write_results(&mut out, None, id, results);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_field_of_several_results() {
        let results = [
            MethodResult::new("spf", "pass").property("smtp.mailfrom", "a@b.test"),
            MethodResult::new("dkim", "fail")
                .comment("signature did not verify")
                .property("header.d", "b.test")
                .property("header.s", "s1")
                .property("header.a", "rsa-sha256")
                .property("header.b", "abc/d+e="),
            MethodResult::new("iprev", "pass").property("policy.iprev", "2001:db8::1"),
        ];
        let text = written("mx.test", &results);
        assert_eq!(
            text,
            "Authentication-Results: mx.test;\r\n\tspf=pass smtp.mailfrom=a@b.test;\r\n\
             \tdkim=fail (signature did not verify) header.d=b.test header.s=s1\r\n\t header.a=rsa-sha256 \
             header.b=\"abc/d+e=\";\r\n\tiprev=pass policy.iprev=\"2001:db8::1\"\r\n"
        );
        let read = Results::parse(&text.as_bytes()[23..]).unwrap();
        assert_eq!(&*read.id, "mx.test");
        let bare: Vec<MethodResult> =
            results.into_iter().map(|result| MethodResult { comment: None, ..result }).collect();
        assert_eq!(read.results, bare);
        assert_eq!(written("mx.test", &[]), "Authentication-Results: mx.test; none\r\n");
    }

    #[test]
    fn a_strangers_words_stay_in_their_place() {
        for hostile in [
            "x\r\nX-Injected: 1",
            "a@b.test; dkim=pass header.d=bank.test",
            "x) dkim=pass (",
            "\"; dmarc=pass",
            "\\",
            "b\u{fc}cher\0@x.test",
            &"x".repeat(100_000),
        ] {
            let result = MethodResult::new("spf", "fail")
                .comment(hostile)
                .property("smtp.mailfrom", hostile)
                .property("smtp.helo", "h.test");
            let text = written("mx.test", &[MethodResult { reason: Some(hostile.into()), ..result }]);
            assert_eq!(message::Fields::new(text.as_bytes()).count(), 1);
            assert!(text.lines().all(|line| line.len() < 998), "{text}");
            let read = Results::parse(&text.as_bytes()[23..]).unwrap();
            assert_eq!((read.results.len(), &*read.results[0].result), (1, "fail"), "{text}");
            assert_eq!(read.results[0].value("smtp.helo"), Some("h.test"));
        }
    }

    #[test]
    fn fields_of_others_are_read() {
        // RFC 8601 appendix B, and what large providers write.
        for (value, id, results) in [
            (" example.org 1; none", "example.org", ""),
            (" example.com;\r\n\tspf=pass smtp.mailfrom=example.net", "example.com", "spf=pass"),
            (
                " example.com; auth=pass (cram-md5) smtp.auth=sender@example.com; spf/1=pass smtp.mailfrom=a.b",
                "example.com",
                "auth=pass spf=pass",
            ),
            (
                " foo.example.net (foobar) 1 (baz); dkim (Because I like it) / 1 (One yay) = (wait for it) fail\r\n \
                 policy (A dot can go here) . (like that) expired (this surprised me) = (as I wasn't expecting it) 1",
                "foo.example.net",
                "dkim=fail",
            ),
            (
                " i=1; mx.google.com;\r\n dkim=neutral (body hash did not verify) header.i=@stalw.art header.s=v22 \
                 header.b=QS+O8z2Y;\r\n spf=pass (google.com: domain of a@b.org designates 50.223.129.194 as \
                 permitted sender) smtp.mailfrom=a@b.org;\r\n dmarc=fail (p=NONE sp=NONE dis=NONE) \
                 header.from=stalw.art",
                "mx.google.com",
                "dkim=neutral spf=pass dmarc=fail",
            ),
            (" \"odd id\"; iprev=pass policy.iprev=192.0.2.1", "odd id", "iprev=pass"),
        ] {
            let read = Results::parse(value.as_bytes()).unwrap_or_default();
            let words: Vec<String> =
                read.results.iter().map(|r| format!("{}={}", r.method, r.result)).collect();
            assert_eq!((&*read.id, words.join(" ").as_str()), (id, results), "{value}");
        }
        for value in ["", "(", ";", "a b; c=d", "a; =x", "a; b=", "a; b=c d", "i=0; a; none", "a; b=\"c"] {
            assert_eq!(Results::parse(value.as_bytes()), None, "{value}");
        }
        let flood = format!("a{}", "; b=c".repeat(5_000));
        assert_eq!(Results::parse(flood.as_bytes()), None);
    }

    #[test]
    fn fields_in_our_name_are_known_in_every_spelling() {
        for value in [
            " mx.test; dkim=pass",
            "mx.test;",
            "MX.Test 1; none",
            "\r\n\t(a comment (nested) mx.other) mx.test (another); spf=pass",
            "\"mx.test\"; spf=pass",
            "\"mx\\.test\"; spf=pass",
            "mx.test.; spf=pass",
            "mx.test",
            // What we cannot read, another reader might.
            "mx.test x=y",
            "(open mx.test; dkim=pass",
            "; mx.test; dkim=pass",
            "mx.(comment)test; dkim=pass",
            "= mx.test; dkim=pass",
        ] {
            assert!(claims(value.as_bytes(), "mx.test"), "{value}");
        }
        assert!(claims("b\u{fc}cher.test; spf=pass".as_bytes(), "xn--bcher-kva.test"));
        for value in [
            " other.test; dkim=pass header.d=mx.test",
            " xmx.test; spf=pass",
            " mx.test.example; spf=pass",
            " (mx.test) other.test; spf=pass",
        ] {
            assert!(!claims(value.as_bytes(), "mx.test"), "{value}");
        }
    }

    #[test]
    fn random_fields() {
        let mut random = crate::tests::Random(31);
        let pieces = [
            "mx.test",
            ";",
            "=",
            "spf",
            "pass",
            "(",
            ")",
            "\"",
            "\\",
            " ",
            "\r\n ",
            "i=1",
            "@",
            "/",
            "1",
            ".",
            "\u{e9}",
            "\0",
            "smtp.mailfrom",
            "none",
        ];
        for _ in 0..20_000 {
            let mut text = String::new();
            (0..random.below(20)).for_each(|_| text += pieces[random.below(pieces.len())]);
            fuzz_results(text.as_bytes());
        }
    }
}
