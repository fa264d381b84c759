//! A short run of every fuzz target, the same on each machine: dialogues and snippets, mutated.

#![allow(clippy::disallowed_methods, reason = "the dialogues are files")]

use smtp::fuzzing;

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

/// What is worth inserting anywhere.
const SNIPPETS: &[&str] = &[
    "\r\n",
    "\r",
    "\n",
    ".",
    "\r\n.\r\n",
    "\n.\n",
    "\r.\r",
    "\0",
    "é",
    " ",
    "<",
    ">",
    "\"",
    "\\",
    "@",
    ":",
    "=",
    "+",
    ";",
    ",",
    "[",
    "]",
    "EHLO a\r\n",
    "LHLO a\r\n",
    "MAIL FROM:<a@b.test>\r\n",
    "RCPT TO:<a@b.test>\r\n",
    "MAIL FROM:<> BODY=BINARYMIME SMTPUTF8 SIZE=10 RET=FULL ENVID=a+2Bb AUTH=<>\r\n",
    "RCPT TO:<@a.test:a@b.test> NOTIFY=SUCCESS,DELAY ORCPT=utf-8;\\x{e9}@b\r\n",
    "DATA\r\n",
    "BDAT 3\r\na\r\n",
    "BDAT 0 LAST\r\n",
    "BDAT 5 LAST\r\n.\r\n.a",
    "RSET\r\n",
    "NOOP\r\n",
    "QUIT\r\n",
    "STARTTLS\r\n",
    "VRFY a\r\n",
    "EXPN a\r\n",
    "AUTH PLAIN\r\n",
    "AUTH LOGIN =\r\n",
    "eWVz\r\n",
    "*\r\n",
    "XCLIENT ADDR=192.0.2.1 LOGIN=a\r\n",
    "ORCPT=rfc822;a+0D",
    "SIZE=99999999999999999999",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];

fn mutate(random: &mut Random, seed: &[u8]) -> Vec<u8> {
    let mut out = seed.to_vec();
    for _ in 0..1 + random.below(6) {
        let at = random.below(out.len() + 1);
        match random.below(5) {
            0 if at < out.len() => out[at] = random.below(256) as u8,
            1 if at < out.len() => drop(out.remove(at)),
            2 => {
                let end = (at + random.below(20)).min(out.len());
                let copy = out[at..end].to_vec();
                let to = random.below(out.len() + 1);
                out.splice(to..to, copy);
            }
            _ => {
                let snippet = SNIPPETS[random.below(SNIPPETS.len())];
                out.splice(at..at, snippet.bytes());
            }
        }
    }
    out
}

fn run(target: fn(&[u8]), seeds: &[&[u8]], times: usize) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut pool: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).collect();
    for _ in 0..times {
        let seed = random.below(pool.len());
        let input = mutate(&mut random, &pool[seed]);
        target(&input);
        // Grow on what was made, so that inputs drift away from their seeds.
        if input.len() < 2_000 {
            if pool.len() < seeds.len() + 200 {
                pool.push(input);
            } else {
                let old = random.below(pool.len() - seeds.len()) + seeds.len();
                pool[old] = input;
            }
        }
    }
}

#[test]
fn commands() {
    run(fuzzing::command, &[b"MAIL FROM:<a@b.test> SIZE=1", b"BDAT 12 LAST", b"EHLO a"], 20_000);
}

#[test]
fn addresses() {
    let seeds: &[&[u8]] = &[
        b"<a@b.test> SIZE=1 BODY=8BITMIME SMTPUTF8 REQUIRETLS RET=HDRS ENVID=a AUTH=<>",
        b"<\"a b\"@[IPv6:2001:db8::1]> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@c",
        "<δ@παράδειγμα.δοκιμή> ORCPT=utf-8;\\x{3b4}".as_bytes(),
        b"<@a.test,@b.test:postmaster@c.test>",
        b"<Postmaster>",
        b"<>",
    ];
    run(fuzzing::address, seeds, 20_000);
}

#[test]
fn replies() {
    run(fuzzing::reply, &[b"one", b"one\ntwo", "é\r\n250 ok".as_bytes()], 5_000);
}

#[test]
fn contents() {
    let seeds: &[&[u8]] = &[
        b"\0Subject: a\r\n b\r\n\r\n.body\r\n..\r\n",
        b"\x01a\n.\nb\r.\r\nc\r\r\n.\r\r\n",
        "\u{3}éééééééééééééééééééééééééééééééééééééééééééééééééééééééééé\r\n".as_bytes(),
        b"\x02",
    ];
    run(fuzzing::data, seeds, 10_000);
}

mod driver;

#[test]
fn segments() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dialogues");
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .expect("dialogues")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| driver::parse("", &std::fs::read_to_string(path).expect("a dialogue")).input())
        .filter(|input| input.len() < 2_000)
        .map(|input| [&[input.len() as u8], &input[..]].concat())
        .collect();
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    run(fuzzing::segments, &seeds, 4_000);
}

#[test]
fn sessions() {
    let session = |choices: u8, cut: u8, text: &str| [&[choices, cut], text.as_bytes()].concat();
    let mail = "EHLO a\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nhi\r\n.\r\n";
    let seeds = [
        session(0, 200, mail),
        session(1, 0, mail),
        session(
            3,
            9,
            "EHLO a\r\nMAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<c@d.test>\r\nBDAT 3\r\na\r\nBDAT 0 LAST\r\n",
        ),
        session(16, 255, "EHLO a\r\nAUTH PLAIN\r\neWVz\r\nSTARTTLS\r\nEHLO a\r\n"),
        session(
            32,
            50,
            "LHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.test>\r\nRCPT TO:<c@b.test>\r\nBDAT 1 LAST\r\na",
        ),
        session(76, 20, "XCLIENT NAME=a\r\nVRFY a\r\nEXPN b\r\nHELO n\r\n"),
        session(128, 0, mail),
    ];
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    run(fuzzing::session, &seeds, 20_000);
}
