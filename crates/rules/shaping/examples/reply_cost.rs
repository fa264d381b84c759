//! What judging a reply costs with ten thousand patterns, and what a permit costs:
//! `cargo run --release -p shaping --example reply_cost`.

#![allow(clippy::disallowed_methods, reason = "a measurement needs a clock")]

use mail::{Reply, UnixMillis};
use settings::{Key, Node, Place, Problems, Setting, Value};
use shaping::MessageFacts;
use shaping::{Layer, Origin, PathFacts, Rules, Shaper, ShapingConfig, Stage};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATTERNS: usize = 10_000;
const AT: Place = Place { file: 0, start: 0, end: 0 };

fn text(text: &str) -> Node {
    Node::new(Value::String(text.into()), AT)
}

fn list(items: Vec<Node>) -> Node {
    Node::new(Value::Array(items), AT)
}

fn table(entries: Vec<(&str, Node)>) -> Node {
    let entries = entries.into_iter().map(|(key, node)| (Key { name: key.into(), place: AT }, node));
    Node::new(Value::Table(entries.collect()), AT)
}

struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

const WORDS: [&str; 48] = [
    "blocked",
    "listed",
    "spam",
    "policy",
    "rate",
    "limit",
    "exceeded",
    "temporarily",
    "deferred",
    "connection",
    "reputation",
    "sender",
    "mailbox",
    "unavailable",
    "unusual",
    "volume",
    "messages",
    "rejected",
    "service",
    "refused",
    "too",
    "many",
    "recipients",
    "client",
    "host",
    "network",
    "address",
    "quota",
    "complaints",
    "unsolicited",
    "authentication",
    "required",
    "content",
    "suspicious",
    "try",
    "again",
    "later",
    "see",
    "support",
    "error",
    "throttled",
    "greylisted",
    "domain",
    "local",
    "server",
    "busy",
    "resources",
    "account",
];

/// A pattern as operators write them: some words of a reply, a code before them, what varies between.
fn pattern(random: &mut Random) -> String {
    let word = |random: &mut Random| WORDS[random.below(WORDS.len())];
    let (a, b, c) = (word(random), word(random), word(random));
    let n = random.below(100_000);
    match random.below(8) {
        0 => format!(r"^4\d\d 4\.7\.{} .*{a} {b}", random.below(999)),
        1 => format!("{a} {b} {c}"),
        2 => format!(r"{a}.*{b}.*\b{c}-{n}\b"),
        3 => format!("({a}|{b}) {c} {a}"),
        4 => format!(r"code[: ]+[A-Z]{{2}}{n:05}"),
        5 => format!("(RBL|listed by) list{n}.example"),
        6 => format!(r"\b(TS|RL|BL){n:04}\b"),
        _ => format!(r"^55\d .*{a} {b} \(S{n}\)"),
    }
}

/// Replies like those of real receivers, and one in eight made to match one of the patterns' codes.
fn reply(random: &mut Random) -> Reply {
    let mut text = String::new();
    for n in 0..8 + random.below(16) {
        if n > 0 {
            text.push(if random.below(12) == 0 { '\n' } else { ' ' });
        }
        text.push_str(WORDS[random.below(WORDS.len())]);
    }
    if random.below(8) == 0 {
        text.push_str(&format!(
            " (RL{:04}) https://support.example/{}",
            random.below(10_000),
            random.below(1_000)
        ));
    }
    match random.below(3) {
        0 => Reply::new(421, (4, 7, random.below(999) as u16), text),
        1 => Reply::new(550, (5, 7, 1), text),
        _ => Reply::bare(451, text),
    }
}

/// Nanoseconds each took, sorted.
fn times(mut each: impl FnMut(usize), many: usize) -> Vec<u64> {
    let time = |n| {
        let begin = Instant::now();
        each(n);
        begin.elapsed().as_nanos() as u64
    };
    let mut times: Vec<u64> = (0..many).map(time).collect();
    times.sort_unstable();
    times
}

fn print(what: &str, times: &[u64]) {
    let at = |share: f64| times[(share * (times.len() - 1) as f64) as usize] as f64 / 1_000.0;
    println!("{what}: median {:.2} us, p90 {:.2} us, p99 {:.2} us", at(0.5), at(0.9), at(0.99));
}

fn compile(entries: Vec<(&str, Node)>) -> Rules {
    let mut problems = Problems::new();
    let config = ShapingConfig::read(&table(entries), &mut problems)
        .unwrap_or_else(|| panic!("{:?}", problems.iter().next()));
    Rules::compile(&[Layer { config: &config, origin: &|_| Origin::built_in() }])
        .expect("the patterns are sound")
}

fn main() {
    let mut random = Random(11);
    let rules: Vec<Node> = (0..PATTERNS)
        .map(|_| table(vec![("match", text(&pattern(&mut random))), ("do", list(vec![text("backoff 1h")]))]))
        .collect();
    let begin = Instant::now();
    let rules = compile(vec![("default", table(vec![("reply", list(rules))]))]);
    println!(
        "{} patterns read and compiled in {:.0} ms",
        rules.reply_rules(),
        begin.elapsed().as_secs_f64() * 1e3
    );
    let facts = PathFacts { site: "site", provider: None, domains: &[], pool: "", source: "source" };
    let profile = rules.profile(&facts);
    let replies: Vec<Reply> = (0..20_000).map(|_| reply(&mut random)).collect();
    let octets: usize = replies.iter().map(|reply| reply.text.len()).sum();
    let matched = replies.iter().filter(|reply| rules.verdict(&profile, Stage::End, reply).is_some()).count();
    println!("{} replies of {} octets on average, {matched} match", replies.len(), octets / replies.len());
    let verdicts = times(
        |n| {
            std::hint::black_box(rules.verdict(&profile, Stage::End, &replies[n]));
        },
        replies.len(),
    );
    print("one reply against all of them", &verdicts);

    let rates = |rates: &[&str]| list(rates.iter().map(|rate| text(rate)).collect());
    let limits = vec![
        (
            "default",
            table(vec![("message_rates", rates(&["1M/s", "50M/h"])), ("byte_rates", rates(&["900GB/h"]))]),
        ),
        ("tenant", table(vec![("*", table(vec![("message_rates", rates(&["1M/s"]))]))])),
    ];
    for (what, entries) in [("a permit without limits", vec![]), ("a permit from four windows", limits)] {
        let mut shaper = Shaper::new(Arc::new(compile(entries)));
        let start = Instant::now();
        let key = shaper.path(start, &facts);
        let message =
            MessageFacts { tenant: Some("tenant"), campaign: Some("campaign"), queue: 1, bytes: 10_000 };
        let begin = Instant::now();
        let many = 1_000_000;
        for n in 0..many {
            let now = start + Duration::from_micros(10 * n);
            let permit = shaper.ask_message(now, UnixMillis(0), key, &message).expect("there is room");
            shaper.spent(now, UnixMillis(0), std::hint::black_box(permit));
        }
        println!("{what}, asked for and spent: {:.0} ns", begin.elapsed().as_secs_f64() * 1e9 / many as f64);
    }
    let rules = Arc::new(compile(vec![]));
    let mut shaper = Shaper::new(rules);
    let start = Instant::now();
    let many = 100_000;
    let sites: Vec<String> = (0..many).map(|n| format!("mx{n}.example.net")).collect();
    let before = resident();
    for site in &sites {
        shaper.path(start, &PathFacts { site, ..facts });
    }
    if let (Some(before), Some(after)) = (before, resident()) {
        println!(
            "an idle path, with its names and places in maps: {} octets",
            (after - before) * 1024 / many
        );
    }
}

/// Memory of this process, in KiB.
#[allow(clippy::disallowed_methods, reason = "a measurement reads what the system says")]
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
