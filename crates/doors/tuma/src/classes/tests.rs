//! What receivers really say falls under the class it is said to.

use super::*;
use bounce::Failure;
use mail::{BounceClass, Reply};
use replies::Stage;
use smtp::client::ReplyReader;
use std::collections::{BTreeMap, BTreeSet};

/// The replies the rules were written from.
const KNOWN: &str = include_str!("../../rules/classes/known.txt");
/// The replies that were put aside before any rule was written.
const ASIDE: &str = include_str!("../../rules/classes/aside.txt");
/// Least length of a text that must stand in any reply a rule matches, so that it is tried on few others.
const REQUIRED_MIN: usize = 3;

struct Line<'a> {
    stage: Option<Stage>,
    text: &'a str,
    class: BounceClass,
}

impl Line<'_> {
    fn reply(&self) -> Reply {
        let mut wire = self.text.replace("\\n", "\r\n") + "\r\n";
        // What a log has kept may lack the last line.
        let last = wire[..wire.len() - 2].rfind('\n').map_or(0, |at| at + 1);
        wire.replace_range(last + 3..last + 4, " ");
        let mut rest = wire.as_bytes();
        let reply = ReplyReader::default().read(&mut rest);
        let reply = reply.unwrap_or_else(|error| panic!("{}: {error}", self.text));
        assert!(rest.is_empty(), "{}: there is more after the reply", self.text);
        reply.unwrap_or_else(|| panic!("{}: the reply does not end", self.text))
    }
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let data = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    data.map(|line| {
        let (stage, rest) = line.split_once(" | ").unwrap_or_else(|| panic!("{line}: no stage"));
        let (text, class) = rest.rsplit_once(" | ").unwrap_or_else(|| panic!("{line}: no class"));
        let class = class.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        let known = Stage::ALL.iter().copied().find(|known| known.word() == stage);
        assert!(known.is_some() || stage == "-", "{line}: there is no such stage");
        Line { stage: known, text, class }
    })
    .collect()
}

fn compiled() -> ClassRules {
    rules(&Root::default()).unwrap()
}

/// How many there are, and those that get another class than they should.
fn wrong(rules: &ClassRules, text: &str) -> (usize, Vec<String>) {
    let lines = lines(text);
    let mut wrong = Vec::new();
    for line in &lines {
        let reply = line.reply();
        let found = rules.classify(&Failure { reply: &reply, stage: line.stage });
        if found.class != line.class {
            let rule = found.rule.as_deref().unwrap_or("the code");
            wrong.push(format!("{} by {rule}, not {}: {reply}", found.class, line.class));
        }
    }
    (lines.len(), wrong)
}

#[test]
fn what_the_rules_were_written_from_gets_its_class() {
    let (count, wrong) = wrong(&compiled(), KNOWN);
    assert!(count >= 500, "{count}");
    // Where a text says two things, one of them is lost.
    assert!(wrong.len() * 100 <= count, "{} of {count} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What misses is not printed: who reads it and mends the rules has nothing put aside any more.
#[test]
fn of_what_was_put_aside_ninety_five_of_a_hundred_get_their_class() {
    let (count, wrong) = wrong(&compiled(), ASIDE);
    assert!(count >= 230, "{count}");
    assert!(wrong.len() * 20 <= count, "{} of {count} wrong", wrong.len());
}

#[test]
fn what_was_put_aside_was_chosen_by_nobody() {
    let by_hash = |text: &str| crc32fast::hash(text.as_bytes()).is_multiple_of(3);
    for line in lines(ASIDE) {
        assert!(by_hash(line.text), "{}", line.text);
    }
    for line in lines(KNOWN) {
        assert!(!by_hash(line.text), "{}", line.text);
    }
}

#[test]
fn every_class_of_a_reply_is_met_and_every_rule_has_a_name_of_its_own() {
    let met: BTreeSet<BounceClass> = lines(KNOWN).iter().map(|line| line.class).collect();
    // These come as mail only, or are what nothing is known of.
    let as_mail = [BounceClass::AutoReply, BounceClass::ChallengeResponse, BounceClass::Other];
    for class in BounceClass::ALL.iter().filter(|class| !as_mail.contains(class)) {
        assert!(met.contains(class), "{class}");
    }
    let shipped = shipped().unwrap_or_else(|report| panic!("{report}"));
    let mut names = BTreeMap::new();
    for rule in &shipped.class {
        let name = rule.name.clone().expect("a shipped rule has a name");
        assert!(names.insert(name.clone(), ()).is_none(), "two rules are called {name}");
    }
    assert!(names.len() > 30);
}

#[test]
fn each_pattern_has_a_text_to_look_for() {
    let shipped = shipped().unwrap_or_else(|report| panic!("{report}"));
    for rule in &shipped.class {
        let Some(pattern) = &rule.r#match else { continue };
        let (_, required) = replies::Pattern::new(pattern).unwrap();
        let best = required.iter().filter_map(|set| set.iter().map(Vec::len).min()).max();
        assert!(best.is_some_and(|best| best >= REQUIRED_MIN), "{:?}: {best:?}", rule.name);
    }
}

#[test]
fn the_operators_rules_go_first_and_the_shipped_ones_can_be_left_out() {
    let load = |text: &str| {
        let loaded = config::load_text::<Root>("tuma.toml", text, &|_| None);
        rules(&loaded.unwrap_or_else(|report| panic!("{report}")).value).unwrap()
    };
    let own = r#"
        [[bounce.class]]
        match = 'user unknown'
        class = "policy-related"
        category = "our-own"
    "#;
    let reply = Reply::new(550, (5, 1, 1), "User unknown");
    let failure = Failure { reply: &reply, stage: Some(Stage::Rcpt) };
    let found = load(own).classify(&failure);
    assert_eq!((found.class, found.category()), (BounceClass::PolicyRelated, "our-own"));
    let without = load(&format!("[bounce]\nshipped = false\n{own}"));
    assert_eq!(without.len(), 1);
    assert_eq!(load("").classify(&failure).class, BounceClass::BadMailbox);
}
