//! The RFC 7208 test suite as packaged by pyspf: every case must give the result and explanation it asks for.

use mailauth::dns::{self, Answer, Question, Records};
use mailauth::spf::{Check, Identity, Outcome, SpfResult, Subject};
use serde_json::Value;
use std::net::IpAddr;

/// One section of the suite: its zone, as the suite's own driver reads it.
struct Zone<'a>(&'a serde_json::Map<String, Value>);

/// The strings of a TXT record, which may be one or a list, joined.
fn text(value: &Value) -> Box<[u8]> {
    // The suite writes octets as characters.
    let octets = |text: &str| text.chars().map(|c| c as u8).collect::<Vec<u8>>();
    match value {
        Value::Array(parts) => parts.iter().flat_map(|part| octets(part.as_str().unwrap())).collect(),
        other => octets(other.as_str().unwrap()).into(),
    }
}

impl Zone<'_> {
    fn entries(&self, name: &str) -> Option<&Vec<Value>> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, entries)| entries.as_array().unwrap())
    }

    /// The records of a name and a kind; the suite's TIMEOUT is a failure of every kind that stands after it.
    fn values(&self, name: &str, kind: &str, alias: bool) -> Result<Option<Vec<Value>>, ()> {
        let Some(entries) = self.entries(name) else {
            // A convention of the suite's driver.
            return if name.starts_with("error.") { Err(()) } else { Ok(None) };
        };
        let has_txt =
            entries.iter().any(|entry| entry.as_object().is_some_and(|record| record.contains_key("TXT")));
        let mut values = Vec::new();
        let mut timeout = true;
        for entry in entries {
            let Some(record) = entry.as_object() else {
                // "TIMEOUT" alone: whatever was not answered before fails.
                return if timeout { Err(()) } else { Ok(Some(values)) };
            };
            for (known, value) in record {
                // SPF records stand for TXT records too, unless the name has its own.
                let known = if known == "SPF" && !has_txt { "TXT" } else { known.as_str() };
                if known == kind && value != "NONE" {
                    timeout = false;
                    if value == "TIMEOUT" {
                        return Err(());
                    }
                    values.push(value.clone());
                }
                if known == "CNAME" && alias {
                    let target = value.as_str().unwrap().trim_end_matches('.');
                    return self.values(target, kind, false);
                }
            }
        }
        Ok(Some(values))
    }

    fn answer(&self, question: &Question) -> Answer {
        let (name, kind) = match question {
            Question::Txt(name) => (name.to_string(), "TXT"),
            Question::A(name) => (name.to_string(), "A"),
            Question::Aaaa(name) => (name.to_string(), "AAAA"),
            Question::Mx(name) => (name.to_string(), "MX"),
            Question::Ptr(IpAddr::V4(address)) => {
                let [a, b, c, d] = address.octets();
                (format!("{d}.{c}.{b}.{a}.in-addr.arpa"), "PTR")
            }
            Question::Ptr(IpAddr::V6(address)) => {
                let nibbles = address.octets().into_iter().flat_map(|octet| [octet >> 4, octet & 15]);
                let labels: Vec<String> = nibbles.map(|nibble| format!("{nibble:x}")).rev().collect();
                (format!("{}.ip6.arpa", labels.join(".")), "PTR")
            }
        };
        let values = match self.values(&name, kind, true) {
            Err(()) => return Answer::Temporary,
            Ok(None) => return Answer::NxDomain,
            Ok(Some(values)) if values.is_empty() => return Answer::NoData,
            Ok(Some(values)) => values,
        };
        let string = |value: &Value| value.as_str().unwrap().trim_end_matches('.').to_owned();
        Answer::Found(match kind {
            "TXT" => Records::Txt(values.iter().map(text).collect()),
            "A" => Records::A(values.iter().map(|value| string(value).parse().unwrap()).collect()),
            "AAAA" => Records::Aaaa(values.iter().map(|value| string(value).parse().unwrap()).collect()),
            "MX" => Records::Mx(values.iter().map(|value| string(&value[1]).into()).collect()),
            _ => Records::Ptr(values.iter().map(|value| string(value).into()).collect()),
        })
    }
}

fn run(zone: &Zone, case: &Value) -> (Outcome, usize) {
    let field = |name: &str| case[name].as_str().unwrap_or_default();
    let (helo, sender, client) = (field("helo"), field("mailfrom"), field("host").parse().unwrap());
    let subject = match sender.rsplit_once('@') {
        Some((local, domain)) => {
            Subject::new(local.as_bytes(), domain, Identity::MailFrom, helo, client, "unknown", 0)
        }
        None if sender.is_empty() => Subject::helo(helo, client, "unknown", 0),
        None => Subject::new(b"", sender, Identity::MailFrom, helo, client, "unknown", 0),
    };
    let mut check = Check::new(subject);
    let mut asked = 0;
    let outcome = dns::run(&mut check, |question| {
        asked += 1;
        zone.answer(question)
    });
    (outcome.clone(), asked)
}

#[test]
fn every_case_of_the_suite() {
    let suite: Vec<Value> = serde_json::from_str(include_str!("data/rfc7208-tests.json")).unwrap();
    let mut cases = 0;
    let mut wrong = Vec::new();
    for section in &suite {
        let zone = Zone(section["zonedata"].as_object().unwrap());
        for (name, case) in section["tests"].as_object().unwrap() {
            cases += 1;
            let (outcome, asked) = run(&zone, case);
            let expected: Vec<&str> = match &case["result"] {
                Value::Array(several) => several.iter().map(|word| word.as_str().unwrap()).collect(),
                one => vec![one.as_str().unwrap()],
            };
            if !expected.contains(&outcome.result.word()) {
                wrong.push(format!("{name}: {outcome:?}, not {expected:?}"));
            }
            if let Some(explanation) = case["explanation"].as_str() {
                let said = outcome.explanation.as_deref().unwrap_or("DEFAULT");
                if said != explanation {
                    wrong.push(format!("{name}: says {said:?}, not {explanation:?}"));
                }
            }
            assert_eq!(
                outcome.problem.is_some(),
                matches!(outcome.result, SpfResult::TempError | SpfResult::PermError),
                "{name}: {outcome:?}"
            );
            assert!(asked <= 130, "{name}: {asked} questions");
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(cases, 203);
}
