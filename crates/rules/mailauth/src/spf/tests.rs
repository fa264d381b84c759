use super::*;
use crate::dns::{self, Answer, Question, Records};
use std::collections::HashMap;

/// Checks 192.0.2.1 as `a@d.test` against these TXT records; everything else is not there. With the number of
/// questions asked.
fn check(records: &[(&str, &str)], more: impl Fn(&Question) -> Answer) -> (Outcome, usize) {
    let known: HashMap<&str, &str> = records.iter().copied().collect();
    let client = [192, 0, 2, 1].into();
    let subject = Subject::new(b"a", "d.test", Identity::MailFrom, "h.test", client, "r.test", 0);
    let mut check = Check::new(subject);
    let mut asked = 0;
    let outcome = dns::run(&mut check, |question| {
        asked += 1;
        match question {
            Question::Txt(name) => match known.get(name.as_str()) {
                Some(text) => Answer::Found(Records::Txt([text.as_bytes().into()].into())),
                None => Answer::NxDomain,
            },
            other => more(other),
        }
    });
    (outcome.clone(), asked)
}

fn nothing(_: &Question) -> Answer {
    Answer::NxDomain
}

#[test]
fn loops_of_records_end_at_the_limit() {
    for record in ["v=spf1 include:d.test", "v=spf1 redirect=d.test", "v=spf1 include:d.test include:d.test"]
    {
        let (outcome, asked) = check(&[("d.test", record)], nothing);
        assert_eq!(outcome.problem, Some(Problem::TooManyLookups), "{record}");
        assert_eq!(asked, 11);
    }
}

#[test]
fn a_flood_of_answers_is_not_walked_through() {
    let flood = |question: &Question| match question {
        Question::Mx(_) => Answer::Found(Records::Mx(vec!["mx.d.test".into(); 500])),
        Question::Ptr(_) => Answer::Found(Records::Ptr(vec!["p.d.test".into(); 500].into())),
        _ => Answer::Found(Records::A(vec![[198, 51, 100, 1].into(); 64].into())),
    };
    let (outcome, asked) = check(&[("d.test", "v=spf1 mx -all")], flood);
    assert_eq!((outcome.problem, asked), (Some(Problem::TooManyExchangers), 2));
    let (outcome, asked) = check(&[("d.test", "v=spf1 ptr a:%{p}.d.test -all")], flood);
    assert_eq!((outcome.result, asked), (SpfResult::Fail, 13));
}

#[test]
fn names_grown_by_macros_are_cut_and_records_are_bounded() {
    let grown = format!("v=spf1 exists:{}.d.test -all", "%{d}.%{h}.".repeat(1600).trim_end_matches('.'));
    let (outcome, asked) = check(&[("d.test", &grown)], |question| {
        let Question::A(name) = question else { panic!("{question:?}") };
        assert!(name.as_str().len() <= 253 && name.as_str().ends_with("d.test.h.test.d.test"), "{name}");
        Answer::NxDomain
    });
    assert_eq!((outcome.result, asked), (SpfResult::Fail, 2));
    let long = format!("v=spf1 {}-all", "ip4:198.51.100.1 ".repeat(1000));
    assert_eq!(check(&[("d.test", &long)], nothing).0.problem, Some(Problem::RecordTooLong));
}

#[test]
fn what_a_domain_wants_said_is_one_line_within_bounds() {
    let long = "x".repeat(1000);
    for (text, said) in [
        ("%{i} is not one of %{d}'s at %{r}", Some("192.0.2.1 is not one of d.test's at r.test")),
        ("one\r\n250 ok", None),
        ("b\u{fc}cher", None),
        ("%{x}", None),
        ("", None),
        (&long, Some(&long[..EXPLANATION_MAX_OCTETS])),
    ] {
        let (outcome, _) = check(&[("d.test", "v=spf1 -all exp=e.d.test"), ("e.d.test", text)], nothing);
        assert_eq!((outcome.result, outcome.explanation.as_deref()), (SpfResult::Fail, said), "{text:?}");
    }
}

#[test]
fn the_term_that_matched_and_what_is_wrong_are_told() {
    let (outcome, _) = check(&[("d.test", "v=spf1 ip4:192.0.2.0/24 -all")], nothing);
    assert_eq!((outcome.result, outcome.mechanism.as_deref()), (SpfResult::Pass, Some("ip4:192.0.2.0/24")));
    let (outcome, _) = check(&[("d.test", "v=spf1 ipv4:192.0.2.0/24 -all")], nothing);
    assert_eq!(outcome.problem.unwrap().to_string(), "not understood: ipv4:192.0.2.0/24");
    let (outcome, _) = check(&[("d.test", "v=spf1 include:e.test")], nothing);
    assert_eq!(outcome.problem.unwrap().to_string(), "no record at e.test");
    let (outcome, _) = check(&[("d.test", "v=spf1 a")], |_| Answer::Temporary);
    assert_eq!(outcome.problem.unwrap().to_string(), "no answer about d.test");
}

#[test]
fn the_null_path_asks_about_the_client_itself() {
    let client = "::ffff:192.0.2.1".parse().unwrap();
    let subject = Subject::sender(&ReversePath::Null, "h.test", client, "r.test", 0);
    assert_eq!(subject.identity(), Identity::Helo);
    let mut check = Check::new(subject);
    let outcome = dns::run(&mut check, |question| match question {
        Question::Txt(name) if name.as_str() == "h.test" => {
            Answer::Found(Records::Txt([b"v=spf1 ip4:192.0.2.1 -all"[..].into()].into()))
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(outcome.result, SpfResult::Pass, "a mapped address is the IPv4 address");
}

#[test]
fn whatever_is_published_the_check_ends() {
    let pieces = [
        "include:d.test ",
        "mx ",
        "a:%{p}.x.test ",
        "ptr ",
        "redirect=d.test ",
        "exp=e.test ",
        "exists:%{l1r-}.d.test ",
        "-all ",
        "ip4:1.2.3.4/33 ",
        "%{",
        "}",
        "\n",
        "//",
        "a/24//64 ",
        "v=spf1 ",
        "?all ",
        "x=%% ",
    ];
    let mut state = 9u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    for _ in 0..5_000 {
        let mut data = vec![random(256) as u8];
        for _ in 0..random(12) {
            data.extend_from_slice(pieces[random(pieces.len())].as_bytes());
        }
        fuzz_spf(&data);
    }
}
