//! One function for each fuzz target: any octets go in, and a broken promise is a panic. The targets under `fuzz/` call
//! them, and so does a short deterministic run among the tests.

use crate::config::Stage;
use crate::{
    Action, ByteRate, Date, Layer, NamePattern, Origin, PathFacts, Rate, ReplyRule, Rules, ShapingConfig,
    Trigger,
};
use settings::{Place, Placed, Text};
use std::fmt::Display;
use std::str::FromStr;

/// What is read and printed reads again as the same.
fn reads_back<T: FromStr + Display + PartialEq>(text: &str) -> Option<T> {
    let read: T = text.parse().ok()?;
    let shown = read.to_string();
    assert!(shown.parse().is_ok_and(|again: T| again == read), "{text:?} is shown as {shown:?}");
    Some(read)
}

/// The texts of the configuration: rates, actions, triggers, names and dates.
pub fn texts(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    reads_back::<Rate>(text);
    reads_back::<ByteRate>(text);
    reads_back::<Action>(text);
    reads_back::<Trigger>(text);
    reads_back::<Date>(text);
    if let Some(pattern) = reads_back::<NamePattern>(text) {
        pattern.matches("mx.a.test");
        assert!(pattern.matches(&pattern.as_str().replace('*', "x")), "{pattern} is one of its own names");
    }
}

/// A reply pattern, a line feed, and the text of a reply: the search that skips patterns which cannot match finds what
/// the pattern alone finds.
pub fn reply_pattern(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (pattern, reply) = text.split_once('\n').unwrap_or((text, ""));
    let rule = |pattern: &str| ReplyRule {
        name: None,
        r#match: Placed { value: pattern.to_owned(), place: Place::whole(0) },
        stage: Vec::new(),
        when: Text(Trigger::AtOnce),
        r#do: vec![Text(Action::Normal)],
    };
    let mut config = ShapingConfig::default();
    config.default.reply = vec![rule("no such reply"), rule(pattern)];
    let origin = |_| Origin::built_in();
    let Ok(rules) = Rules::compile(&[Layer { config: &config, origin: &origin }]) else { return };
    let facts = PathFacts { site: "mx.a.test", provider: None, domains: &[], pool: "p", source: "s" };
    let profile = rules.profile(&facts);
    let reply = mail::Reply::new(421, (4, 7, 0), reply.to_owned());
    let found = rules.verdict(&profile, Stage::Rcpt, &reply);
    // The search for literals folds the case of ASCII only, and replies are mostly that.
    if !text.is_ascii() {
        return;
    }
    let alone = regex::RegexBuilder::new(pattern).case_insensitive(true).size_limit(4 << 20).build();
    if let Ok(alone) = alone {
        let mut subject = String::new();
        replies::subject(&reply, &mut subject);
        let expected = subject.to_lowercase().contains("no such reply") || alone.is_match(&subject);
        assert_eq!(found.is_some(), expected, "{pattern:?} in {subject:?}");
    }
}
