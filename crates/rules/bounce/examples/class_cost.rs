//! What giving a reply its class costs with the rules that come with the server:
//! `cargo run --release -p bounce --example class_cost`.

#![allow(clippy::disallowed_methods, reason = "a measurement needs a clock")]

use bounce::{ClassRule, ClassRules, Failure};
use mail::{EnhancedStatusCode, Reply, ReplyCode};
use replies::Stage;
use settings::{Place, Placed, Text};
use std::hint::black_box;
use std::time::Instant;

const RULES: &str = include_str!("../../../doors/tuma/rules/classes.toml");
const REPLIES: [&str; 2] = [
    include_str!("../../../doors/tuma/rules/classes/known.txt"),
    include_str!("../../../doors/tuma/rules/classes/aside.txt"),
];
const ROUNDS: usize = 200;

fn stage(word: &str) -> Option<Stage> {
    Stage::ALL.iter().copied().find(|stage| stage.word() == word)
}

/// One rule of the shipped file, whose tables are a key and a value a line: enough of TOML to measure with.
fn rule(table: &str) -> ClassRule {
    let value = |key: &str| table.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
    let text = |key: &str| value(key).map(|value| value[1..value.len() - 1].to_owned());
    let list = |key: &str| -> Vec<String> {
        let items = value(key).unwrap_or("[]").trim_matches(['[', ']']).split(", ");
        items.map(|item| item.trim_matches('"').to_owned()).filter(|item| !item.is_empty()).collect()
    };
    ClassRule {
        name: text("name"),
        r#match: text("match").map(|value| Placed { value, place: Place::whole(0) }),
        stage: list("stage").iter().filter_map(|word| stage(word)).collect(),
        status: list("status").iter().map(|word| Text(word.parse().expect("a status"))).collect(),
        code: list("code").iter().map(|code| code.parse().expect("a code")).collect(),
        class: Text(text("class").expect("a class").parse().expect("a class that is known")),
        category: None,
    }
}

fn reply(text: &str) -> Reply {
    let code = ReplyCode::new(text[..3].parse().expect("digits")).expect("a code");
    let lines: Vec<&str> = text.split("\\n").map(|line| line.get(4..).unwrap_or_default()).collect();
    let enhanced = lines[0].split(' ').next().and_then(EnhancedStatusCode::parse);
    let begins = if enhanced.is_some() { lines[0].find(' ').map_or(lines[0].len(), |at| at + 1) } else { 0 };
    let text = [&lines[0][begins..], &lines[1..].join("\n")].join("\n");
    Reply { code, enhanced, text: text.trim_end().to_owned().into() }
}

fn main() {
    let rules: Vec<ClassRule> = RULES.split("[[bounce.class]]\n").skip(1).map(rule).collect();
    let began = Instant::now();
    let compiled = ClassRules::compile([&rules[..]]).expect("patterns");
    println!("{} rules compiled in {:.1} ms", compiled.len(), began.elapsed().as_secs_f64() * 1e3);
    let replies: Vec<(Option<Stage>, Reply)> = REPLIES
        .iter()
        .flat_map(|text| text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')))
        .filter_map(|line| {
            let (at, rest) = line.split_once(" | ")?;
            Some((stage(at), reply(rest.rsplit_once(" | ")?.0)))
        })
        .collect();
    let run = |rounds: usize| {
        let began = Instant::now();
        for _ in 0..rounds {
            for (stage, reply) in &replies {
                black_box(compiled.classify(&Failure { reply: black_box(reply), stage: *stage }));
            }
        }
        began.elapsed().as_secs_f64() * 1e6 / (rounds * replies.len()) as f64
    };
    // The first round compiles each pattern that is ever a candidate.
    println!("first round: {:.2} us a reply", run(1));
    println!("after that: {:.2} us a reply, over {} replies", run(ROUNDS), replies.len());
    let mut slowest: Vec<(f64, &Reply)> = replies
        .iter()
        .map(|(stage, reply)| {
            let began = Instant::now();
            for _ in 0..ROUNDS {
                black_box(compiled.classify(&Failure { reply: black_box(reply), stage: *stage }));
            }
            (began.elapsed().as_secs_f64() * 1e6 / ROUNDS as f64, reply)
        })
        .collect();
    slowest.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (cost, reply) in slowest.iter().take(3) {
        println!("slowest: {cost:.2} us: {:.100}", reply.to_string());
    }
}
