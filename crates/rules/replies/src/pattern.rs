//! One reply pattern: what must stand in any text it matches, and whether it does match.

use std::sync::OnceLock;

use regex::{Regex, RegexBuilder};
use regex_syntax::hir::{Class, Hir, HirKind};

/// Longest pattern, in octets.
pub const PATTERN_MAX: usize = 1_000;
/// Most alternatives of which one must stand in the text; a pattern with more is tried on every reply.
const LITERALS_MAX: usize = 64;
/// A pattern whose size is estimated above this is compiled when it is read, to be sure that it can be.
const SMALL: usize = 20_000;
/// Most memory of one compiled pattern, in octets.
const COMPILED_MAX: usize = 4 << 20;

/// A compiled pattern.
#[derive(Debug)]
pub struct Pattern {
    text: Box<str>,
    /// The pattern is nothing but its literals: where one stands, it matches.
    literal_only: bool,
    /// Compiled when it is first a candidate: of ten thousand patterns a server meets some hundred, and each
    /// compiled one takes ten kilobytes and more.
    regex: OnceLock<Option<Regex>>,
}

/// Of these texts, in lower case, one stands in every text the pattern matches.
pub type Required = Vec<Vec<u8>>;

/// Most sets of required texts looked at for one pattern.
const OPTIONS_MAX: usize = 16;
/// Most texts that neighbours are multiplied out to: `(TS|RL)0[12]` has four.
const PRODUCT_MAX: usize = 16;

/// True if the text is a pattern; else why not.
pub fn check(text: &str) -> Result<(), String> {
    Pattern::new(text).map(drop)
}

impl Pattern {
    /// Reads a pattern. Each of the sets that come with it is required; one of them is enough to search for, and
    /// there may be none.
    pub fn new(text: &str) -> Result<(Self, Vec<Required>), String> {
        if text.is_empty() || text.len() > PATTERN_MAX {
            return Err(format!("it must have 1 to {PATTERN_MAX} characters"));
        }
        // Without case folding, so that literals are literals; they are folded below.
        let hir = regex_syntax::ParserBuilder::new()
            .nest_limit(50)
            .build()
            .parse(text)
            .map_err(|error| one_line(&error.to_string()))?;
        let mut options = options(&hir);
        options.truncate(OPTIONS_MAX);
        for required in &mut options {
            required.sort_unstable();
            required.dedup();
        }
        // A flag in the pattern may forbid other case, of which the search for literals knows nothing.
        let literal_only = exact(&hir).is_some() && !text.contains("(?");
        let pattern = Self { text: text.into(), literal_only, regex: OnceLock::new() };
        if size(&hir) > SMALL {
            pattern.build()?;
        }
        Ok((pattern, options))
    }

    fn build(&self) -> Result<Regex, String> {
        RegexBuilder::new(&self.text)
            .case_insensitive(true)
            .nest_limit(50)
            .size_limit(COMPILED_MAX)
            .dfa_size_limit(COMPILED_MAX / 4)
            .build()
            .map_err(|error| one_line(&error.to_string()))
    }

    /// The pattern as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True if the text, in which one of the required literals stands, matches.
    pub fn confirm(&self, text: &str) -> bool {
        // What was checked when it was read compiles; were it not so, the rule would never match.
        self.literal_only
            || self.regex.get_or_init(|| self.build().ok()).as_ref().is_some_and(|re| re.is_match(text))
    }
}

/// The parser draws its errors over several lines.
fn one_line(error: &str) -> String {
    error.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_string()
}

/// Sets of literals; of each, one must be in the text.
fn options(hir: &Hir) -> Vec<Required> {
    if let Some(exact) = exact(hir) {
        return if exact.iter().any(Vec::is_empty) { Vec::new() } else { vec![exact] };
    }
    match hir.kind() {
        HirKind::Capture(capture) => options(&capture.sub),
        HirKind::Repetition(repetition) if repetition.min > 0 => options(&repetition.sub),
        HirKind::Literal(literal) => longest_run(&literal.0).map(|run| vec![run]).into_iter().collect(),
        HirKind::Alternation(parts) => {
            let mut all = Vec::new();
            for part in parts {
                let best = options(part).into_iter().max_by_key(rarity);
                let Some(best) = best else { return Vec::new() };
                all.extend(best);
                if all.len() > LITERALS_MAX {
                    return Vec::new();
                }
            }
            vec![all]
        }
        HirKind::Concat(parts) => {
            let mut found = Vec::new();
            // Neighbours that are literals, multiplied out.
            let mut run: Required = vec![Vec::new()];
            let keep = |run: &mut Required, found: &mut Vec<Required>| {
                let run = std::mem::replace(run, vec![Vec::new()]);
                if run.iter().all(|literal| !literal.is_empty()) {
                    found.push(run);
                }
            };
            for part in parts {
                match exact(part) {
                    Some(next) if run.len() * next.len() <= PRODUCT_MAX => run = product(&run, &next),
                    Some(next) => {
                        keep(&mut run, &mut found);
                        run = next;
                    }
                    // What looks around and takes nothing does not part its neighbours.
                    None if matches!(part.kind(), HirKind::Look(_)) => {}
                    None => {
                        keep(&mut run, &mut found);
                        found.extend(options(part));
                    }
                }
            }
            keep(&mut run, &mut found);
            found.sort_by_key(|required| std::cmp::Reverse(rarity(required)));
            found
        }
        _ => Vec::new(),
    }
}

/// The texts this matches, in lower case, if they are few and nothing else is.
fn exact(hir: &Hir) -> Option<Required> {
    match hir.kind() {
        HirKind::Literal(literal) if literal.0.is_ascii() => Some(vec![literal.0.to_ascii_lowercase()]),
        HirKind::Class(class) => letters(class),
        HirKind::Capture(capture) => exact(&capture.sub),
        HirKind::Alternation(parts) => {
            let mut all = Vec::new();
            for part in parts {
                all.extend(exact(part)?);
                if all.len() > PRODUCT_MAX {
                    return None;
                }
            }
            Some(all)
        }
        HirKind::Concat(parts) => {
            let mut all: Required = vec![Vec::new()];
            for part in parts {
                let next = exact(part)?;
                if all.len() * next.len() > PRODUCT_MAX {
                    return None;
                }
                all = product(&all, &next);
            }
            Some(all)
        }
        _ => None,
    }
}

fn product(heads: &Required, tails: &Required) -> Required {
    let one = |head: &Vec<u8>, tail: &Vec<u8>| [head.as_slice(), tail.as_slice()].concat();
    heads.iter().flat_map(|head| tails.iter().map(move |tail| one(head, tail))).collect()
}

/// How rare the commonest of them is likely to be in replies. Codes and punctuation stand in many, words in few.
pub fn rarity(literals: &Required) -> usize {
    literals.iter().map(|literal| weight(literal)).min().unwrap_or_default()
}

/// How rare a literal is likely to be, in bits.
pub fn weight(literal: &[u8]) -> usize {
    literal.iter().map(|b| if b.is_ascii_alphabetic() { 3 } else { 1 }).sum()
}

/// The longest stretch of ASCII: other letters fold in ways that a search for octets does not know.
fn longest_run(literal: &[u8]) -> Option<Vec<u8>> {
    let run = literal.split(|byte| !byte.is_ascii()).max_by_key(|run| run.len())?;
    (!run.is_empty()).then(|| run.to_ascii_lowercase())
}

/// The letters a class stands for, in lower case, if they are few.
fn letters(class: &Class) -> Option<Required> {
    let Class::Unicode(class) = class else { return None };
    let mut letters = Vec::new();
    for range in class.ranges() {
        for c in range.start()..=range.end() {
            let folded = u8::try_from(fold(c)).ok().filter(u8::is_ascii)?;
            if !letters.contains(&vec![folded]) {
                letters.push(vec![folded]);
            }
            if letters.len() > 4 {
                return None;
            }
        }
    }
    (!letters.is_empty()).then_some(letters)
}

fn fold(c: char) -> char {
    match c {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        c => c.to_ascii_lowercase(),
    }
}

/// An estimate of the size of the compiled pattern, in states.
fn size(hir: &Hir) -> usize {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 1,
        HirKind::Literal(literal) => literal.0.len() * 4,
        HirKind::Class(Class::Unicode(class)) => class.ranges().len() * 8 + 4,
        HirKind::Class(Class::Bytes(class)) => class.ranges().len() + 1,
        HirKind::Capture(capture) => size(&capture.sub).saturating_add(2),
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min.max(1)).max(1);
            size(&repetition.sub).saturating_add(2).saturating_mul(times as usize)
        }
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().fold(1, |sum: usize, part| sum.saturating_add(size(part)))
        }
    }
}

/// The text of a reply that patterns are looked for in: code, enhanced status code and text, lines joined by a
/// space. The two characters that fold to ASCII letters are folded, so that the search for literals misses none.
pub fn subject(reply: &mail::Reply, into: &mut String) {
    use std::fmt::Write;
    into.clear();
    // Writing to a String cannot fail.
    let _ = write!(into, "{}", reply.code);
    if let Some(enhanced) = reply.enhanced {
        let _ = write!(into, " {enhanced}");
    }
    into.push(' ');
    if reply.text.is_ascii() && !reply.text.contains('\n') {
        into.push_str(&reply.text);
        return;
    }
    into.extend(reply.text.chars().map(|c| match c {
        '\n' => ' ',
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        c => c,
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literals(pattern: &str) -> Vec<String> {
        let (_, options) = Pattern::new(pattern).unwrap();
        let shown = |required: Required| {
            let literals = required.into_iter().map(|literal| String::from_utf8(literal).unwrap());
            literals.collect::<Vec<String>>().join("|")
        };
        options.into_iter().map(shown).collect()
    }

    #[test]
    fn what_must_be_there_is_found() {
        for (pattern, expected) in [
            ("Spam", vec!["spam"]),
            (r"^421 4\.7\.0 .*(unusual rate|suspicious)", vec!["suspicious|unusual rate", "421 4.7.0 "]),
            (r"4\.7\.[0-9]+ blocked", vec![" blocked", "4.7."]),
            ("(foo|b*)", vec![]),
            ("(?i)Blocked Using", vec!["blocked using"]),
            (r"\b(TS|RL)0[12]\b", vec!["rl01|rl02|ts01|ts02"]),
            ("(spam)+", vec!["spam"]),
            ("(spam)?", vec![]),
            ("[0-9]+", vec![]),
            ("(|spam)", vec![]),
            ("zu viele Anfragen für", vec!["zu viele anfragen f"]),
            ("é", vec![]),
        ] {
            assert_eq!(literals(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_in_one_line() {
        assert_eq!(check("(").unwrap_err(), "unclosed group");
        assert!(check("").is_err());
        assert!(check(&"x".repeat(PATTERN_MAX + 1)).is_err());
        assert!(check(r"(\w{900}){900}").is_err());
        assert!(check(r"[a-z ]{200}").is_ok());
        assert!(check(r"\w{10} \d{3}").is_ok());
        assert!(check(&"(".repeat(100)).is_err());
    }

    #[test]
    fn a_folded_letter_is_no_way_around_a_literal() {
        let mut text = String::new();
        subject(&mail::Reply::bare(550, "\u{212a}icked\nout"), &mut text);
        assert_eq!(text, "550 kicked out");
    }
}
