use super::*;
use crate::dns::{self, Answer, Question, Records};

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

/// Evaluates for an author with what was authenticated: `spf:d.test`, `dkim:d.test`, a `?` in front for what DNS did
/// not say. `records` are TXT records by name, `!` a failure, `-` a name without records. With the questions asked.
fn check(
    author: &str,
    evidence: &[&str],
    records: &[(&str, &str)],
    by: Organization,
) -> (Outcome, Vec<String>) {
    let evidence = evidence.iter().map(|text| {
        let is_sure = !text.starts_with('?');
        let (kind, domain) = text.trim_start_matches('?').split_once(':').unwrap();
        let kind = if kind == "spf" { EvidenceKind::Spf } else { EvidenceKind::Dkim };
        Evidence { domain: name(domain), kind, is_sure }
    });
    let mut check = Check::new(name(author), evidence.collect(), by);
    let mut asked = Vec::new();
    let outcome = dns::run(&mut check, |question| {
        let (Question::Txt(at) | Question::A(at)) = question else { panic!("{question:?}") };
        asked.push(at.to_string());
        let texts: Vec<&str> =
            records.iter().filter(|(known, _)| *known == at.as_str()).map(|(_, text)| *text).collect();
        match texts[..] {
            [] => Answer::NxDomain,
            ["!"] => Answer::Temporary,
            ["-"] => Answer::NoData,
            _ => Answer::Found(Records::Txt(texts.iter().map(|text| text.as_bytes().into()).collect())),
        }
    });
    (outcome.clone(), asked)
}

/// Result, and what is wanted.
fn says(author: &str, evidence: &[&str], records: &[(&str, &str)]) -> (&'static str, &'static str) {
    let (outcome, _) = check(author, evidence, records, Organization::TreeWalk);
    (outcome.result.word(), outcome.wanted().word())
}

const REJECT: (&str, &str) = ("_dmarc.d.test", "v=DMARC1;p=reject");

#[test]
fn the_same_domain_needs_one_question() {
    for evidence in ["spf:d.test", "dkim:d.test"] {
        let (outcome, asked) = check("d.test", &[evidence], &[REJECT], Organization::TreeWalk);
        assert_eq!((outcome.result, asked), (DmarcResult::Pass, vec!["_dmarc.d.test".to_owned()]));
    }
    assert_eq!(says("d.test", &[], &[REJECT]), ("fail", "reject"));
    assert_eq!(says("d.test", &["spf:e.example"], &[REJECT]), ("fail", "reject"));
    assert_eq!(says("d.test", &["spf:d.test"], &[]), ("none", "none"));
}

#[test]
fn alignment_relaxed_and_strict() {
    let strict = [("_dmarc.d.test", "v=DMARC1;p=quarantine;adkim=s;aspf=r")];
    assert_eq!(says("d.test", &["dkim:mail.d.test"], &[REJECT]), ("pass", "none"));
    assert_eq!(says("mail.d.test", &["dkim:d.test"], &[REJECT]), ("pass", "none"));
    assert_eq!(says("d.test", &["dkim:mail.d.test"], &strict), ("fail", "quarantine"));
    assert_eq!(says("d.test", &["spf:mail.d.test"], &strict), ("pass", "none"));
    // A name that only ends alike.
    assert_eq!(says("d.test", &["spf:bad.test", "dkim:xd.test"], &[REJECT]), ("fail", "reject"));
    // Both kinds are told.
    let (outcome, _) = check("d.test", &["spf:d.test", "dkim:a.d.test"], &[REJECT], Organization::TreeWalk);
    assert_eq!(outcome.aligned, Aligned { spf: true, dkim: true });
}

#[test]
fn policies_for_names_below_and_for_names_that_are_not_there() {
    let record = |text| [("_dmarc.d.test", text), ("here.d.test", "-")];
    let all = record("v=DMARC1;p=none;sp=quarantine;np=reject");
    assert_eq!(says("d.test", &[], &all), ("fail", "none"));
    assert_eq!(says("here.d.test", &[], &all), ("fail", "quarantine"));
    assert_eq!(says("gone.d.test", &[], &all), ("fail", "reject"));
    let some = record("v=DMARC1;p=quarantine;np=reject");
    assert_eq!(says("here.d.test", &[], &some), ("fail", "quarantine"));
    let (outcome, asked) =
        check("gone.d.test", &[], &record("v=DMARC1;p=reject;sp=none"), Organization::TreeWalk);
    assert_eq!((outcome.wanted(), outcome.published.unwrap().scope), (Policy::None, Scope::Below));
    assert!(!asked.contains(&"gone.d.test".to_owned()), "existence matters only with np");
    // A test is one step milder.
    assert_eq!(says("d.test", &[], &record("v=DMARC1;p=reject;t=y")), ("fail", "quarantine"));
    assert_eq!(says("d.test", &[], &record("v=DMARC1;p=quarantine;t=y")), ("fail", "none"));
}

#[test]
fn the_walk_of_a_long_name_takes_eight_questions() {
    let (outcome, asked) = check("a.b.c.d.e.f.g.h.i.j.mail.example.test", &[], &[], Organization::TreeWalk);
    let expected = [
        "_dmarc.a.b.c.d.e.f.g.h.i.j.mail.example.test",
        "_dmarc.g.h.i.j.mail.example.test",
        "_dmarc.h.i.j.mail.example.test",
        "_dmarc.i.j.mail.example.test",
        "_dmarc.j.mail.example.test",
        "_dmarc.mail.example.test",
        "_dmarc.example.test",
        "_dmarc.test",
    ];
    assert_eq!((outcome.result, asked), (DmarcResult::None, expected.map(str::to_owned).to_vec()));
}

#[test]
fn public_suffixes_say_so_themselves() {
    let suffix = ("_dmarc.bank.test", "v=DMARC1;p=reject;sp=quarantine;psd=y");
    let here = ("a.bank.test", "-");
    // Below a suffix two names are two organizations.
    assert_eq!(says("a.bank.test", &["dkim:b.bank.test"], &[suffix, here]), ("fail", "quarantine"));
    assert_eq!(says("a.bank.test", &["dkim:x.a.bank.test"], &[suffix, here]), ("pass", "none"));
    assert_eq!(says("bank.test", &["dkim:a.bank.test"], &[suffix]), ("fail", "reject"));
    let own = ("_dmarc.a.bank.test", "v=DMARC1;p=none");
    assert_eq!(says("x.a.bank.test", &["dkim:a.bank.test"], &[suffix, own]), ("pass", "none"));
    let (outcome, asked) = check("x.a.bank.test", &[], &[suffix, own], Organization::TreeWalk);
    assert_eq!(outcome.published.unwrap().domain, name("a.bank.test"));
    assert_eq!(asked.last().unwrap(), "_dmarc.bank.test", "nothing above a suffix is asked");
    // A part of an organization that stands for itself.
    let apart = ("_dmarc.apart.d.test", "v=DMARC1;p=quarantine;psd=n");
    assert_eq!(says("d.test", &["dkim:apart.d.test"], &[REJECT, apart]), ("fail", "reject"));
    assert_eq!(says("x.apart.d.test", &["dkim:apart.d.test"], &[REJECT, apart]), ("pass", "none"));
    assert_eq!(says("x.apart.d.test", &["dkim:d.test"], &[REJECT, apart]), ("fail", "quarantine"));
}

#[test]
fn by_the_public_suffix_list() {
    let by = Organization::PublicSuffixList;
    let records = [("_dmarc.example.co.uk", "v=DMARC1;p=reject")];
    let result = |author, evidence: &[&str]| check(author, evidence, &records, by).0.result.word();
    assert_eq!(result("a.b.example.co.uk", &["dkim:c.example.co.uk"]), "pass");
    assert_eq!(result("a.b.example.co.uk", &["dkim:other.co.uk"]), "fail");
    let (_, asked) = check("a.b.example.co.uk", &["dkim:c.example.co.uk"], &records, by);
    assert_eq!(asked, ["_dmarc.a.b.example.co.uk", "_dmarc.example.co.uk"]);
}

#[test]
fn what_dns_does_not_say_is_no_failure() {
    assert_eq!(says("d.test", &["spf:d.test"], &[("_dmarc.d.test", "!")]), ("temperror", "none"));
    assert_eq!(says("a.d.test", &[], &[("_dmarc.d.test", "!")]), ("temperror", "none"));
    assert_eq!(says("d.test", &["?dkim:d.test"], &[REJECT]), ("temperror", "none"));
    assert_eq!(says("d.test", &["?dkim:d.test", "spf:d.test"], &[REJECT]), ("pass", "none"));
    assert_eq!(says("d.test", &["?dkim:e.example"], &[REJECT]), ("fail", "reject"));
    let unknown = [("_dmarc.d.test", "v=DMARC1;p=none;np=reject"), ("x.d.test", "!")];
    assert_eq!(says("x.d.test", &[], &unknown), ("temperror", "none"));
    let walk = [REJECT, ("_dmarc.mail.d.test", "!")];
    assert_eq!(says("d.test", &["spf:mail.d.test"], &walk), ("temperror", "none"));
}

#[test]
fn records_that_do_not_count() {
    let twice = [REJECT, ("_dmarc.d.test", "v=DMARC1;p=none")];
    assert_eq!(says("d.test", &[], &twice), ("none", "none"));
    assert_eq!(says("d.test", &[], &[REJECT, ("_dmarc.d.test", "v=spf1 -all")]), ("fail", "reject"));
    assert_eq!(says("d.test", &[], &[("_dmarc.d.test", "v=DMARC1;p=oops")]), ("none", "none"));
}

#[test]
fn evidence_beyond_the_bound_is_not_walked_for() {
    let many: Vec<String> = (0..500).map(|n| format!("dkim:{n}.a.b.c.d.e.f.test")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let (_, asked) = check("d.test", &many, &[REJECT], Organization::TreeWalk);
    assert!(asked.len() <= 2 + 7 + EVIDENCE_MAX, "{}", asked.len());
}

#[test]
fn whatever_is_published_the_check_ends() {
    let pieces = [
        "a.b.test",
        "\n",
        "p=reject;",
        "psd=y;",
        "psd=n",
        "np=none;",
        "x.",
        "rua=mailto:a@b.c,",
        "t=y;",
        "%4",
        "=",
    ];
    let mut state = 5u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    for _ in 0..5_000 {
        let text: Vec<&str> = (0..random(20)).map(|_| pieces[random(pieces.len())]).collect();
        fuzz_dmarc(text.concat().as_bytes());
    }
}
