//! Chains that hold and chains that do not: the matrix of the ARC test suite, over chains sealed here.

use super::*;
use crate::dkim::{KeyAnswer, SigningKey, VerifyPolicy};
use std::sync::{Arc, OnceLock};

const NOW: u64 = 1_700_000_000;
const PLAIN: &str = "From: a@d1.test\r\nTo: b@list.test\r\nSubject: s\r\nDate: Thu, 14 Jan 2015 15:00:01 -0800\r\n\
    MIME-Version: 1.0\r\n\r\nHey gang,\r\nThis is a test message.\r\n--J.\r\n";

/// One key of each kind, made once.
fn keys() -> &'static [Arc<SigningKey>; 2] {
    static KEYS: OnceLock<[Arc<SigningKey>; 2]> = OnceLock::new();
    KEYS.get_or_init(|| {
        [SigningKey::generate_rsa(2048).unwrap().into(), SigningKey::generate_ed25519().unwrap().into()]
    })
}

fn sealer(n: u32) -> Sealer {
    // The kinds in turn.
    let key = &keys()[(n % 2) as usize];
    let selector = if n.is_multiple_of(2) { "r1" } else { "e1" };
    Sealer { domain: "fwd.test".parse().unwrap(), selector: selector.parse().unwrap(), key: key.clone() }
}

fn key_answer(name: &str) -> KeyAnswer {
    match name {
        "r1._domainkey.fwd.test" => KeyAnswer::Records(vec![keys()[0].record().into()]),
        "e1._domainkey.fwd.test" => KeyAnswer::Records(vec![keys()[1].record().into()]),
        "gone._domainkey.fwd.test" => KeyAnswer::Temporary,
        _ => KeyAnswer::Absent,
    }
}

fn validate(content: &str) -> Outcome {
    let content = content.as_bytes();
    let mut validator = Validator::new(content, &VerifyPolicy::default());
    for piece in content[message::scan(content).body_start..].chunks(7) {
        validator.body(piece);
    }
    for name in validator.questions() {
        validator.answer(&name, &key_answer(&name));
    }
    while validator.advance() {}
    validator.finish()
}

/// The set for a message as a whole.
fn seal(
    sealer: &Sealer,
    content: &[u8],
    chain: &Outcome,
    id: &str,
    results: &[MethodResult],
    now: u64,
) -> Result<Vec<u8>, SealError> {
    let scan = message::scan(content);
    super::seal(sealer, &content[..scan.header_len], &content[scan.body_start..], chain, id, results, now)
}

/// A message with one more set in front.
fn sealed(content: &str) -> String {
    let chain = validate(content);
    let results = [MethodResult::new("dmarc", "pass").property("header.from", "d1.test")];
    let set = seal(&sealer(chain.sets + 1), content.as_bytes(), &chain, "fwd.test", &results, NOW).unwrap();
    String::from_utf8(set).unwrap() + content
}

fn chain(sets: u32) -> String {
    (0..sets).fold(PLAIN.to_owned(), |content, _| sealed(&content))
}

#[test]
fn chains_that_are_sealed_hold() {
    assert_eq!(validate(PLAIN).result, ArcResult::None);
    assert_eq!(validate("").result, ArcResult::None);
    let mut content = PLAIN.to_owned();
    for n in 1..=50 {
        content = sealed(&content);
        // Every set of a long chain is checked; a few of the chains are enough.
        if n <= 3 || n == 50 {
            let outcome = validate(&content);
            assert_eq!((outcome.result, outcome.sets, outcome.problem), (ArcResult::Pass, n, None));
            assert_eq!(outcome.sealer.unwrap().as_str(), "fwd.test");
            assert_eq!(outcome.said[0].value("header.from"), Some("d1.test"));
        }
    }
    // The fifty-first is not added, and would not be believed.
    let outcome = validate(&content);
    assert!(!outcome.may_be_sealed());
    assert_eq!(seal(&sealer(1), content.as_bytes(), &outcome, "fwd.test", &[], NOW), Err(SealError::Chain));
    let more = content.replace("i=50;", "i=51;") + "";
    assert_eq!(validate(&more).problem, Some(Problem::TooManySets));
    let flood = "ARC-Seal: i=1; x=y\r\n".repeat(1000) + PLAIN;
    assert_eq!(validate(&flood).problem, Some(Problem::TooManySets));
}

#[test]
fn what_was_changed_on_the_way_breaks_the_last_signature_only_if_it_is_later() {
    let one = chain(1);
    assert!(matches!(
        validate(&one.replace("This is a test", "This was a test")).problem,
        Some(Problem::Message(crate::dkim::Reason::BodyHash))
    ));
    assert!(matches!(
        validate(&one.replace("Subject: s", "Subject: [list] s")).problem,
        Some(Problem::Message(crate::dkim::Reason::Signature))
    ));
    // A list changes the message and seals it: the signature before no longer holds, the chain does.
    let chain_before = validate(&one);
    let changed = one.replace("Subject: s", "Subject: [list] s");
    let set = seal(&sealer(2), changed.as_bytes(), &chain_before, "list.test", &[], NOW).unwrap();
    let outcome = validate(&(String::from_utf8(set).unwrap() + &changed));
    assert_eq!((outcome.result, outcome.sets), (ArcResult::Pass, 2));
}

#[test]
fn a_chain_found_broken_stays_broken() {
    let broken = chain(2).replace("This is a test", "This was a test");
    let found = validate(&broken);
    assert_eq!(found.result, ArcResult::Fail);
    assert!(found.may_be_sealed(), "once, to say so");
    let set = seal(&sealer(3), broken.as_bytes(), &found, "fwd.test", &[], NOW).unwrap();
    let set = String::from_utf8(set).unwrap();
    assert!(set.contains("i=3;") && set.contains("cv=fail"), "{set}");
    // Though the message be mended, and whatever is added.
    let said = validate(&(set + &chain(2)));
    assert_eq!((said.result, said.problem), (ArcResult::Fail, Some(Problem::SaidBroken)));
    assert!(!said.may_be_sealed());
}

/// A chain of two sets with one text in one field replaced must fail.
fn broken(field: &str, from: &str, to: &str) {
    let content = chain(2);
    let mut out = String::new();
    let mut replaced = false;
    for known in message::Fields::new(content.as_bytes()) {
        let text = &content[known.start..known.end];
        let (name, instance) = field.split_once(' ').unwrap();
        // The number stands first in what we write.
        if known.is(name) && text.contains(&format!("i={instance};")) {
            let changed = text.replacen(from, to, 1);
            replaced = changed != text;
            out += &changed;
        } else {
            out += text;
        }
    }
    assert!(replaced, "{field}: no {from}");
    out += &content[message::Fields::new(content.as_bytes()).last().unwrap().end..];
    let outcome = validate(&out);
    assert_eq!(outcome.result, ArcResult::Fail, "{field}: {from} -> {to}: {outcome:?}");
}

#[test]
fn structure() {
    for n in ["1", "2"] {
        for name in ["ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results"] {
            let field = format!("{name} {n}");
            let number = format!("i={n};");
            // A field is not there, there for another set, without its number, or with one that is none.
            for to in ["i=3;", "i=0;", "i=x;", "i=;", "i=99;", "i=-1;", "", "i=18446744073709551617;"] {
                broken(&field, &number, to);
            }
            let once = if n == "1" { "i=2;" } else { "i=1;" };
            broken(&field, &number, once);
        }
    }
    // A whole set left out, or twice.
    let three = chain(3);
    let second: String = message::Fields::new(three.as_bytes())
        .map(|field| &three[field.start..field.end])
        .filter(|text| text.starts_with("ARC-") && text.contains("i=2;"))
        .collect();
    assert_eq!(validate(&three.replace(&second, "")).problem, Some(Problem::Structure));
    assert_eq!(validate(&(second + &three)).problem, Some(Problem::Structure));
    // The order in the header is of no account (RFC 8617 §5.1.1).
    let mut fields: Vec<&str> =
        message::Fields::new(three.as_bytes()).map(|field| &three[field.start..field.end]).collect();
    let body = &three[three.find("\r\n\r\n").unwrap() + 2..];
    fields.reverse();
    assert_eq!(validate(&(fields.concat() + body)).result, ArcResult::Pass);
}

#[test]
fn seals() {
    for n in ["1", "2"] {
        let field = format!("ARC-Seal {n}");
        let was = if n == "1" { "cv=none" } else { "cv=pass" };
        for to in
            ["cv=none", "cv=pass", "cv=fail", "cv=", "cv=foo", "vc=pass"].iter().filter(|to| **to != was)
        {
            broken(&field, was, to);
        }
        for (from, to) in [
            ("a=", "a=rsa-sha1 x="),
            ("a=", "a=foo; x="),
            ("a=", "x="),
            ("d=fwd.test", "d=other.test"),
            ("d=fwd.test", "x=fwd.test"),
            ("d=fwd.test", "d="),
            ("d=fwd.test", "d=not a domain!"),
            ("t=", "t=x"),
            ("t=1700000000", "t=1700000001"),
            ("b=", "b=AAAA"),
            ("b=", "b=!"),
            ("b=", "x="),
            ("cv=", "h=from; cv="),
            ("; s=", "; s=x"),
            ("; s=", "; x="),
        ] {
            broken(&field, from, to);
        }
    }
}

#[test]
fn message_signatures() {
    for (from, to) in [
        ("a=", "a=rsa-sha1 x="),
        ("a=", "x="),
        ("b=", "x="),
        ("bh=", "bh=AAAA"),
        ("bh=", "x="),
        ("c=relaxed/relaxed", "c=simple/simple"),
        ("c=relaxed/relaxed", "c=relaxed"),
        ("c=relaxed/relaxed", "c=foo/relaxed"),
        ("c=relaxed/relaxed;", ""),
        ("d=fwd.test", "d=other.test"),
        ("d=fwd.test", "x=fwd.test"),
        ("h=from", "h=from:arc-seal"),
        ("h=from", "h=sender"),
        ("h=from", "h="),
        ("h=from", "x=from"),
        ("; s=", "; s=x"),
        ("; s=", "; x="),
        ("t=1700000000", "t=foo"),
    ] {
        broken("ARC-Message-Signature 2", from, to);
    }
    // Of earlier sets only the seals count, and those cover every octet.
    broken("ARC-Message-Signature 1", "t=1700000000", "t=1700000001");
    broken("ARC-Authentication-Results 1", "dmarc=pass", "dmarc=fail");
    broken("ARC-Authentication-Results 2", "dmarc=pass", "dmarc=fail");
}

#[test]
fn keys_that_cannot_be_had() {
    let gone = chain(2).replace("s=r1;", "s=gone;");
    let outcome = validate(&gone);
    assert_eq!((outcome.result, outcome.may_be_sealed()), (ArcResult::TempError, false));
    let absent = chain(2).replace("s=r1;", "s=none;");
    assert_eq!(validate(&absent).result, ArcResult::Fail);
}

/// RFC 8617 appendix B is not reproducible with its keys gone from DNS; this chain was made by the mail-auth crate,
/// one set by Ed25519 and one by RSA.
#[test]
fn a_chain_of_another_program() {
    let text = include_str!("../../tests/data/arc-mail-auth.txt").replace("\r\n", "\n").replace('\n', "\r\n");
    let (zone, content) = text.split_once("\r\n\r\n").unwrap();
    let zone: Vec<(&str, &str)> = zone.lines().map(|line| line.split_once(' ').unwrap()).collect();
    let check = |content: &str| {
        let mut validator = Validator::new(content.as_bytes(), &VerifyPolicy::default());
        validator.body(&content.as_bytes()[message::scan(content.as_bytes()).body_start..]);
        for name in validator.questions() {
            let found = zone.iter().find(|(known, _)| *known == name).expect("its key");
            validator.answer(&name, &KeyAnswer::Records(vec![found.1.as_bytes().to_vec()]));
        }
        validator.finish()
    };
    let outcome = check(content);
    assert_eq!((outcome.result, outcome.sets, outcome.problem), (ArcResult::Pass, 2, None));
    assert_eq!(check(&content.replace("Say cheese", "Say Cheese")).result, ArcResult::Fail);
}

#[test]
fn random_headers() {
    let mut random = crate::tests::Random(17);
    let base = chain(2);
    for _ in 0..300 {
        let mut octets = base.clone().into_bytes();
        for _ in 0..1 + random.below(4) {
            let at = random.below(octets.len());
            octets[at] = random.below(256) as u8;
        }
        fuzz_arc(&octets);
    }
}
