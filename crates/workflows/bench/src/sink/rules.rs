//! How a sink is told to misbehave: one line of text per rule.
//!
//! ```text
//! PHASE:ACTION
//! PHASE:MATCH,MATCH…:ACTION
//! ```
//!
//! **PHASE** is what has just happened: `connect` (before the banner), `banner`, `helo`, `starttls`,
//! `auth`, `mail`, `rcpt`, `data` (the command), `body` (its first octets), `dot` (the end of data, or the
//! last BDAT), `quit`. With BDAT there is no `body`.
//!
//! **MATCH** narrows it; all must hold, and the counting ones count what the others let through:
//!
//! | match | holds |
//! | --- | --- |
//! | `domain=slow.test` | the address at hand is in that domain; `*.slow.test` for those below it |
//! | `address=*@b.test` | the address at hand, with `*` for anything |
//! | `from=bounce@*` | the reverse-path, at any phase after MAIL; `from=` alone is the null reverse-path |
//! | `open=20` | more than 20 connections are open |
//! | `over=100/1s` | more than 100 events in a window of one second |
//! | `after=100` | 100 events have gone before |
//! | `first=5` | the first five events, after those of `after` |
//! | `every=3` | every third event |
//! | `p=0.1` | one event in ten, by chance; `seed=7` chooses the chances |
//!
//! The address at hand is the recipient at `rcpt`, the reverse-path at `mail`, the name given at `helo`; at
//! `data`, `body` and `dot` any accepted recipient may match.
//!
//! **ACTION** is one of
//!
//! | action | does |
//! | --- | --- |
//! | `451 4.7.1 later` | says that instead; the command has no effect. `\n` parts the lines of a longer reply |
//! | `close 421 4.3.2 bye` | says that and closes |
//! | `drop` | closes without a word; what was received is not taken |
//! | `reset` | the same with a TCP reset |
//! | `take-drop` | at `dot`: takes the message and then closes without a word, the ambiguous case |
//! | `stall`, `stall=30s` | waits for ever, or so long and then goes on |
//! | `junk`, `junk=text` | says something that is no reply |
//! | `slow=10ms` | goes on as usual, but each reply octet (at `body`, each read) takes so long |
//! | `accept` | goes on as usual and asks no later rule |
//!
//! The first rule that matches decides. Durations are a number with `us`, `ms`, `s`, `m` or `h`.
//!
//! ```
//! let rules = ["rcpt:domain=slow.test:451 4.7.1 later", "dot:every=100:take-drop", "banner:open=20:close 421 4.7.0 enough"];
//! for rule in rules {
//!     rule.parse::<bench::sink::Rule>().expect("a rule");
//! }
//! let error = "rcpt:domian=slow.test:451 later".parse::<bench::sink::Rule>().unwrap_err();
//! assert_eq!(error.to_string(), "rule \"rcpt:domian=slow.test:451 later\": unknown match \"domian\"");
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::wire::Random;

/// A point of the dialogue at which a rule may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the module's text says what each is")]
pub enum Phase {
    Connect,
    Banner,
    Helo,
    Starttls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Body,
    Dot,
    Quit,
}

const PHASES: [(&str, Phase); 11] = [
    ("connect", Phase::Connect),
    ("banner", Phase::Banner),
    ("helo", Phase::Helo),
    ("starttls", Phase::Starttls),
    ("auth", Phase::Auth),
    ("mail", Phase::Mail),
    ("rcpt", Phase::Rcpt),
    ("data", Phase::Data),
    ("body", Phase::Body),
    ("dot", Phase::Dot),
    ("quit", Phase::Quit),
];

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Say this (whole lines, with CRLF) instead of the usual reply.
    Reply(String),
    /// Say this and close.
    Close(String),
    /// Close; with a TCP reset where `reset`.
    Drop {
        /// Whether the peer sees a reset.
        reset: bool,
    },
    /// Take the message, then close without a reply.
    TakeDrop,
    /// Wait, then go on; for ever without a duration.
    Stall(Option<Duration>),
    /// Say this line, which is no reply.
    Junk(String),
    /// Go on, slowly.
    Slow(Duration),
    /// Go on.
    Accept,
}

#[derive(Clone, Debug, PartialEq)]
enum Match {
    /// Glob over the address at hand, in lower case.
    Address(String),
    From(String),
    Open(u64),
    Over(u64, Duration),
    After(u64),
    First(u64),
    Every(u64),
    Chance(f64),
}

/// One parsed rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    phase: Phase,
    matches: Vec<Match>,
    seed: u64,
    action: Action,
    text: String,
}

impl Rule {
    /// The phase at which it acts.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What it does.
    pub fn action(&self) -> &Action {
        &self.action
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    rule: String,
    reason: String,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {:?}: {}", self.rule, self.reason)
    }
}

impl std::error::Error for RuleError {}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        parse(text).map_err(|reason| RuleError { rule: text.to_owned(), reason })
    }
}

fn parse(text: &str) -> Result<Rule, String> {
    let (phase, rest) = text.split_once(':').ok_or("wanted PHASE:ACTION or PHASE:MATCH:ACTION")?;
    let names = || PHASES.map(|(name, _)| name).join(", ");
    let phase = PHASES.iter().find(|(name, _)| *name == phase).map(|(_, phase)| *phase);
    let phase = phase.ok_or_else(|| format!("unknown phase; there are {}", names()))?;
    let mut rule =
        Rule { phase, matches: Vec::new(), seed: 1, action: Action::Accept, text: text.to_owned() };
    let mut action = rest;
    // A match list is recognised by its `=` before the next colon; a reply has digits there.
    if let Some((matches, rest)) = rest.split_once(':')
        && matches.contains('=')
        && !["stall=", "junk=", "slow="].iter().any(|action| matches.starts_with(action))
        && !matches.starts_with(|first: char| first.is_ascii_digit())
        && !matches.starts_with("close ")
    {
        action = rest;
        for part in matches.split(',') {
            parse_match(part, &mut rule)?;
        }
    }
    rule.action = parse_action(action)?;
    check_fit(&rule)?;
    Ok(rule)
}

fn parse_match(text: &str, rule: &mut Rule) -> Result<(), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("match {text:?} lacks its ="))?;
    let number = || value.parse::<u64>().map_err(|_| format!("{name} wants a number, not {value:?}"));
    let positive = || match number()? {
        0 => Err(format!("{name} wants a number above 0")),
        number => Ok(number),
    };
    rule.matches.push(match name {
        "domain" => Match::Address(format!("*@{}", value.to_ascii_lowercase())),
        "address" => Match::Address(value.to_ascii_lowercase()),
        "from" => Match::From(value.to_ascii_lowercase()),
        "open" => Match::Open(number()?),
        "over" => {
            let wanted = || format!("over wants a number per duration like 100/1s, not {value:?}");
            let (events, window) = value.split_once('/').ok_or_else(wanted)?;
            Match::Over(events.parse().map_err(|_| wanted())?, duration(window).ok_or_else(wanted)?)
        }
        "after" => Match::After(number()?),
        "first" => Match::First(positive()?),
        "every" => Match::Every(positive()?),
        "p" => match value.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Match::Chance(share),
            _ => return Err(format!("p wants a number from 0 to 1, not {value:?}")),
        },
        "seed" => {
            rule.seed = number()?;
            return Ok(());
        }
        _ => return Err(format!("unknown match {name:?}")),
    });
    Ok(())
}

fn parse_action(text: &str) -> Result<Action, String> {
    let (word, value) = match text.split_once('=') {
        Some((word, value)) if !word.contains(' ') => (word, Some(value)),
        _ => (text, None),
    };
    let time = |value: &str| duration(value).ok_or_else(|| format!("{value:?} is no duration like 10ms"));
    Ok(match (word, value) {
        ("drop", None) => Action::Drop { reset: false },
        ("reset", None) => Action::Drop { reset: true },
        ("take-drop", None) => Action::TakeDrop,
        ("accept", None) => Action::Accept,
        ("stall", None) => Action::Stall(None),
        ("stall", Some(value)) => Action::Stall(Some(time(value)?)),
        ("slow", Some(value)) => Action::Slow(time(value)?),
        ("junk", value) => Action::Junk(format!("{}\r\n", value.unwrap_or("what was the question?"))),
        _ => match text.strip_prefix("close ") {
            Some(reply) => Action::Close(reply_lines(reply)?),
            None => Action::Reply(reply_lines(text)?),
        },
    })
}

/// `451 a\nb` becomes `451-a CRLF 451 b CRLF`.
fn reply_lines(text: &str) -> Result<String, String> {
    let code = text.get(..3).filter(|code| {
        let digits = code.as_bytes();
        matches!(digits[0], b'2'..=b'5') && digits.iter().all(u8::is_ascii_digit)
    });
    let rest = text.get(3..).unwrap_or("");
    let (Some(code), true) = (code, rest.is_empty() || rest.starts_with(' ')) else {
        return Err(format!("unknown action {text:?}: neither a word nor a reply like 451 4.7.1 later"));
    };
    let lines: Vec<&str> = rest.trim_start().split("\\n").collect();
    let last = lines.len() - 1;
    Ok(lines
        .iter()
        .enumerate()
        .map(|(index, line)| format!("{code}{}{line}\r\n", if index == last { ' ' } else { '-' }))
        .collect())
}

fn check_fit(rule: &Rule) -> Result<(), String> {
    let speaks = matches!(rule.action, Action::Reply(_) | Action::Close(_) | Action::Junk(_));
    if speaks && matches!(rule.phase, Phase::Connect | Phase::Body) {
        return Err("nothing can be said at connect or body; use banner or dot".into());
    }
    if rule.action == Action::TakeDrop && rule.phase != Phase::Dot {
        return Err("take-drop belongs to dot".into());
    }
    let early =
        matches!(rule.phase, Phase::Connect | Phase::Banner | Phase::Starttls | Phase::Auth | Phase::Quit);
    if early && rule.matches.iter().any(|m| matches!(m, Match::Address(_))) {
        return Err("there is no address at this phase".into());
    }
    Ok(())
}

/// `10ms`, `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

/// What a rule may look at.
#[derive(Clone, Copy, Default)]
pub(super) struct Event<'a> {
    pub reverse_path: Option<&'a [u8]>,
    /// The address at hand, or all accepted recipients.
    pub addresses: &'a [&'a [u8]],
    pub open: u64,
}

/// The rules of a sink with what they have counted.
#[derive(Default)]
pub(super) struct RuleBook {
    rules: Vec<(Rule, Counts)>,
}

struct Counts {
    events: u64,
    random: Random,
    window: Option<(Instant, u64)>,
}

impl RuleBook {
    pub fn new(rules: Vec<Rule>) -> Self {
        let counted = rules.into_iter().map(|rule| {
            let random = Random(rule.seed);
            (rule, Counts { events: 0, random, window: None })
        });
        Self { rules: counted.collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The action of the first rule that matches.
    pub fn judge(&mut self, phase: Phase, now: Instant, event: Event) -> Option<Action> {
        let matching = self
            .rules
            .iter_mut()
            .filter(|(rule, _)| rule.phase == phase)
            .find_map(|(rule, counts)| holds(rule, counts, now, event).then_some(&rule.action));
        matching.filter(|action| **action != Action::Accept).cloned()
    }
}

fn holds(rule: &Rule, counts: &mut Counts, now: Instant, event: Event) -> bool {
    let by_event = rule.matches.iter().all(|wanted| match wanted {
        Match::Address(pattern) => event.addresses.iter().any(|address| address_matches(pattern, address)),
        Match::From(pattern) => event.reverse_path.is_some_and(|from| glob(pattern.as_bytes(), from)),
        Match::Open(limit) => event.open > *limit,
        _ => true,
    });
    if !by_event {
        return false;
    }
    counts.events += 1;
    let nth = counts.events;
    let after =
        rule.matches.iter().find_map(|m| if let Match::After(n) = m { Some(*n) } else { None }).unwrap_or(0);
    rule.matches.iter().all(|wanted| match wanted {
        Match::After(n) => nth > *n,
        Match::First(n) => nth <= after + n,
        Match::Every(n) => nth.saturating_sub(after).is_multiple_of(*n),
        Match::Over(limit, length) => {
            let (start, events) = counts.window.get_or_insert((now, 0));
            if now.duration_since(*start) >= *length {
                (*start, *events) = (now, 0);
            }
            *events += 1;
            *events > *limit
        }
        Match::Chance(share) => counts.random.unit() < *share,
        Match::Address(_) | Match::From(_) | Match::Open(_) => true,
    })
}

/// A name without `@` (EHLO's) is compared with a domain pattern as if it were a domain.
fn address_matches(pattern: &str, address: &[u8]) -> bool {
    let pattern = match pattern.strip_prefix("*@") {
        Some(domain) if !address.contains(&b'@') => domain,
        _ => pattern,
    };
    glob(pattern.as_bytes(), address)
}

/// `*` stands for any octets; letters compare without case. The pattern is in lower case.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star = None;
    while from < text.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at + 1, from));
            at += 1;
        } else if pattern.get(at) == Some(&text[from].to_ascii_lowercase()) {
            (at, from) = (at + 1, from + 1);
        } else if let Some((after_star, matched)) = star {
            (at, from) = (after_star, matched + 1);
            star = Some((after_star, matched + 1));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|octet| *octet == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn actions() {
        let action = |text: &str| rule(text).action;
        assert_eq!(action("rcpt:451 4.7.1 later"), Action::Reply("451 4.7.1 later\r\n".into()));
        assert_eq!(action("rcpt:550 a=b: no"), Action::Reply("550 a=b: no\r\n".into()));
        assert_eq!(action(r"mail:450 one\ntwo"), Action::Reply("450-one\r\n450 two\r\n".into()));
        assert_eq!(action("dot:250"), Action::Reply("250 \r\n".into()));
        assert_eq!(action("helo:close 421 4.3.2 bye: now"), Action::Close("421 4.3.2 bye: now\r\n".into()));
        assert_eq!(action("connect:stall"), Action::Stall(None));
        assert_eq!(action("data:stall=1.5s"), Action::Stall(Some(Duration::from_millis(1500))));
        assert_eq!(action("mail:junk=a:b"), Action::Junk("a:b\r\n".into()));
        assert_eq!(action("body:slow=10ms"), Action::Slow(Duration::from_millis(10)));
        assert_eq!(action("dot:domain=a.test,every=2:take-drop"), Action::TakeDrop);
        assert_eq!(action("quit:reset"), Action::Drop { reset: true });
    }

    #[test]
    fn mistakes_are_named() {
        for (text, reason) in [
            ("rcpt", "wanted PHASE:ACTION"),
            ("rpct:drop", "unknown phase; there are connect, banner,"),
            ("rcpt:every=0:drop", "every wants a number above 0"),
            ("rcpt:every=x:drop", "every wants a number, not \"x\""),
            ("rcpt:p=2:drop", "p wants a number from 0 to 1"),
            ("rcpt:over=5:drop", "over wants a number per duration"),
            ("rcpt:domain=a.test:fail", "unknown action \"fail\""),
            ("rcpt:45 later", "unknown action"),
            ("rcpt:stall=soon", "\"soon\" is no duration"),
            ("connect:421 no", "nothing can be said at connect"),
            ("rcpt:take-drop", "take-drop belongs to dot"),
            ("banner:domain=a.test:drop", "there is no address at this phase"),
        ] {
            let error = text.parse::<Rule>().expect_err(text).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    /// Which of `events` recipients the rule acts on, by number from 1.
    fn hits(text: &str, events: u64) -> Vec<u64> {
        let mut book = RuleBook::new(vec![rule(text)]);
        let now = Instant::now();
        let address: &[u8] = b"a@B.test";
        let event = Event { addresses: &[address], ..Event::default() };
        (1..=events).filter(|_| book.judge(Phase::Rcpt, now, event).is_some()).collect()
    }

    #[test]
    fn counting() {
        assert_eq!(hits("rcpt:drop", 2), [1, 2]);
        assert_eq!(hits("rcpt:first=2:drop", 9), [1, 2]);
        assert_eq!(hits("rcpt:after=7:drop", 9), [8, 9]);
        assert_eq!(hits("rcpt:every=3:drop", 9), [3, 6, 9]);
        assert_eq!(hits("rcpt:after=2,first=2:drop", 9), [3, 4]);
        assert_eq!(hits("rcpt:over=3/1s:drop", 5), [4, 5]);
        assert_eq!(hits("rcpt:domain=b.test,every=2:drop", 4), [2, 4]);
        assert_eq!(hits("rcpt:domain=c.test:drop", 4), [0u64; 0]);
        assert_eq!(hits("rcpt:p=0.25,seed=3:drop", 100), hits("rcpt:p=0.25,seed=3:drop", 100));
        let by_chance = hits("rcpt:p=0.25:drop", 4000).len();
        assert!((900..1100).contains(&by_chance), "{by_chance}");
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let mut book = RuleBook::new(vec![rule("rcpt:address=a@*:accept"), rule("rcpt:450 no")]);
        let mut judge = |address: &[u8]| {
            let event = Event { addresses: &[address], ..Event::default() };
            book.judge(Phase::Rcpt, Instant::now(), event)
        };
        assert_eq!(judge(b"a@b.test"), None);
        assert_eq!(judge(b"b@b.test"), Some(Action::Reply("450 no\r\n".into())));
    }

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("*@b.test", "A@B.TEST", true),
            ("*@b.test", "a@c.b.test", false),
            ("*@*.b.test", "a@c.b.test", true),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} on {text}");
        }
        assert!(address_matches("*@helo.test", b"helo.test"));
    }
}
