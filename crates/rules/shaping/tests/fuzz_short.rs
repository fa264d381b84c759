//! A short run of every fuzz target, the same on each machine: texts of the configuration, mutated.

mod random;

use random::Random;
use shaping::fuzzing;

/// What is worth inserting anywhere.
const SNIPPETS: &[&str] = &[
    "/",
    "s",
    "m",
    "h",
    "d",
    "day",
    "k",
    "M",
    "MB",
    "GiB",
    " ",
    "0",
    "9",
    "99999999999999999999",
    "%",
    " of ",
    "*",
    "at once",
    "backoff ",
    "slow ",
    "suspend path ",
    "0.5",
    "1h30m",
    "-",
    "2026",
    "é",
    "\n",
    "\0",
    "(",
    ")",
    "[a-z]",
    "|",
    "?",
    "+",
    "{2}",
    "\\d",
    "\\b",
    "^",
    "$",
    "(?i)",
    "(?-i)",
    ".",
    "421",
    "4.7.0",
    "TSS04",
    "a",
    "A",
];

fn mutate(random: &mut Random, seed: &str) -> String {
    let mut out: Vec<char> = seed.chars().collect();
    for _ in 0..1 + random.below(4) {
        let at = random.below(out.len() as u64 + 1) as usize;
        if random.below(3) == 0 && at < out.len() {
            out.remove(at);
        } else {
            let snippet = SNIPPETS[random.below(SNIPPETS.len() as u64) as usize];
            out.splice(at..at, snippet.chars());
        }
    }
    out.into_iter().take(200).collect()
}

fn run(target: fn(&[u8]), seeds: &[&str], times: usize) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut pool: Vec<String> = seeds.iter().map(|seed| (*seed).to_owned()).collect();
    for n in 0..times {
        let seed = random.below(pool.len() as u64) as usize;
        let input = mutate(&mut random, &pool[seed]);
        target(input.as_bytes());
        // Grow on what was made, so that inputs drift away from their seeds.
        match pool.len() < seeds.len() + 200 {
            true => pool.push(input),
            false => pool[seeds.len() + n % 200] = input,
        }
    }
}

#[test]
fn texts() {
    let seeds = [
        "20/s",
        "5000/h",
        "100k/d",
        "50/10s",
        "50MB/m",
        "2 GiB / 2h",
        "backoff 1h",
        "slow 0.5 10m",
        "suspend queue 2h",
        "disable source",
        "pool slow",
        "5/10m",
        "30% of 20",
        "*.google.com",
        "mx*.a.test",
        "2026-11-01",
    ];
    run(fuzzing::texts, &seeds, 30_000);
}

#[test]
fn reply_patterns() {
    let seeds = [
        "^421 4\\.7\\.0 \\[?(TS|RL)0[1-4]\\]?\n[TS01] Messages temporarily deferred",
        "too many (connections|messages)\ntoo many connections from your host",
        "4\\.7\\.\\d+|rate limit(ed)?\nYour IP is rate limited",
        "(?-i)RLY\nRLY:B1 rly",
    ];
    run(fuzzing::reply_pattern, &seeds, 1_500);
}
