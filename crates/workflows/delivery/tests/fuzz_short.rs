//! A short run of the fuzz target, the same on each machine: state files, mutated.

use delivery::fuzzing;

/// xorshift64*: good enough to stir octets, and needs no crate.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }
}

const ORDERS: &str = r#"{"version":1,"last":7,"orders":[{"id":7,"action":"limit","rates":["5/m"],"to_pool":null,"scope":{"tenant":"t"},"reason":"x","given_at_ms":1,"ends_at_ms":2},{"id":3,"action":"hold","rates":null,"scope":{"job":"*"},"reason":"","given_at_ms":1,"ends_at_ms":null}]}"#;

const BY: &str = r#"{"name":"r","setting":"s","value":"v","file":"f","line":7,"reply":"421 no"}"#;

fn snapshot() -> String {
    let state = format!(r#"{{"held_ms":5,"left_ms":3600000,"by":{BY}}}"#);
    let window = |count: u64, period: u64| {
        format!(r#"{{"kind":"messages","count":{count},"period_ms":{period},"spends":[10000,3,3600000,1]}}"#)
    };
    let (hour, day) = (window(100, 3_600_000), window(1_000, 86_400_000));
    format!(
        r#"{{"version":1,"journal":3,"taken_at_ms":1700000000000,"paths":[{{"source":"default","site":"mx.a.test","windows":[{hour},{day}],"backoff":null,"suspended":{state},"slow":{{"factor":0.25,"by_step":0.5,"step_ms":1000,"left_ms":5,"by":{BY}}},"adaptive_rate":12.5,"warm":{{"day":19675,"sent":7,"began":19674}}}}],"counts":[{{"key":"all","windows":[{}]}}],"queues":[{{"tenant":"t","campaign":null,"domain":"a.test","pool":"default","state":{state}}}],"senders":[{{"what":"tenant","site":"mx.a.test","name":"t","state":{state}}}],"sources":[{{"name":"default","state":{state}}}]}}"#,
        window(7, 3_600_000)
    )
}

const GRANTED: &str = r#"{"site":"mx.a.test","provider":null,"domains":["a.test"],"source":"default","tenant":"t","campaign":null,"messages":2,"octets":10,"connections":1}"#;

/// What a value is replaced by.
const VALUES: &[&str] = &[
    "0",
    "1",
    "-1",
    "null",
    "18446744073709551615",
    "18446744073709551614",
    "9223372036854775808",
    "4294967295",
    "1e300",
    "0.5",
    "\"x\"",
    "[]",
    "{}",
    "true",
    "1700000000001",
    "3600000",
];

/// Replaces some numbers of a text, or cuts it.
fn mutate(random: &mut Random, seed: &str) -> String {
    let mut out = seed.to_owned();
    for _ in 0..1 + random.below(4) {
        let starts: Vec<usize> = (out.match_indices([':', ',', '[']).map(|(at, _)| at + 1))
            .filter(|at| out[*at..].starts_with(|c: char| c.is_ascii_digit() || c == 'n'))
            .collect();
        if starts.is_empty() {
            break;
        }
        let at = starts[random.below(starts.len())];
        let end = out[at..].find([',', '}', ']']).map_or(out.len(), |end| at + end);
        out.replace_range(at..end, VALUES[random.below(VALUES.len())]);
    }
    if random.below(50) == 0 {
        out.truncate(random.below(out.len()));
    }
    out
}

#[test]
fn state_files() {
    let seeds = [ORDERS.to_owned(), snapshot(), GRANTED.to_owned()];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for seed in &seeds {
        fuzzing::state(seed.as_bytes());
    }
    for n in 0..3_000 {
        fuzzing::state(mutate(&mut random, &seeds[n % 3]).as_bytes());
    }
}
