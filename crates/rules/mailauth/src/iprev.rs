//! Does the name of the client's address lead back to it (RFC 8601 §3)?

use crate::dns::{Answer, Machine, Name, Question, Records, Step};
use std::collections::VecDeque;
use std::net::IpAddr;

/// Names of the address that are looked at.
pub const NAMES_MAX: usize = 10;

/// The words of RFC 8601 §2.7.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IprevResult {
    /// A name of the address leads back to it.
    Pass,
    /// None of its names does.
    Fail,
    /// DNS gave no answer.
    TempError,
    /// The address has no name.
    PermError,
}

impl IprevResult {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The result.
    pub result: IprevResult,
    /// The name that leads back.
    pub name: Option<Name>,
}

/// Asks for the names of an address, and for the addresses of those.
#[derive(Debug)]
pub struct Check {
    client: IpAddr,
    /// Names that were not looked at yet, behind the one in `asking`.
    names: VecDeque<Name>,
    asking: Question,
    failed: bool,
    outcome: Option<Outcome>,
}

impl Check {
    /// Begins. An IPv4 address in an IPv6 one is taken for itself.
    pub fn new(client: IpAddr) -> Self {
        let client = client.to_canonical();
        Self { client, names: VecDeque::new(), asking: Question::Ptr(client), failed: false, outcome: None }
    }

    fn next(&mut self, none: IprevResult) {
        match self.names.pop_front() {
            Some(name) => {
                self.asking = if self.client.is_ipv4() { Question::A(name) } else { Question::Aaaa(name) };
            }
            None => {
                let result = if self.failed { IprevResult::TempError } else { none };
                self.outcome = Some(Outcome { result, name: None });
            }
        }
    }
}

impl Machine for Check {
    type Outcome = Outcome;

    fn step(&mut self) -> Step<'_, Outcome> {
        match &self.outcome {
            Some(outcome) => Step::Done(outcome),
            None => Step::Ask(&self.asking),
        }
    }

    fn answer(&mut self, answer: Answer) {
        if self.outcome.is_some() {
            return;
        }
        self.failed |= answer == Answer::Temporary;
        let (Question::A(name) | Question::Aaaa(name)) = &self.asking else {
            if let Answer::Found(Records::Ptr(names)) = answer {
                let names = names.iter().filter_map(|name| Name::parse(name.as_bytes()));
                self.names = names.take(NAMES_MAX).collect();
            }
            return self.next(IprevResult::PermError);
        };
        let leads_back = match &answer {
            Answer::Found(Records::A(addresses)) => addresses.iter().any(|a| self.client == IpAddr::V4(*a)),
            Answer::Found(Records::Aaaa(addresses)) => {
                addresses.iter().any(|a| self.client == IpAddr::V6(*a))
            }
            _ => false,
        };
        if leads_back {
            self.outcome = Some(Outcome { result: IprevResult::Pass, name: Some(name.clone()) });
        } else {
            self.next(IprevResult::Fail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns;

    fn check(client: &str, names: Result<&[&str], ()>, right: &str) -> (&'static str, usize) {
        let client: IpAddr = client.parse().unwrap();
        let mut check = Check::new(client);
        let mut asked = 0;
        let outcome = dns::run(&mut check, |question| {
            asked += 1;
            match question {
                Question::Ptr(_) => match names {
                    Err(()) => Answer::Temporary,
                    Ok([]) => Answer::NxDomain,
                    Ok(names) => {
                        Answer::Found(Records::Ptr(names.iter().map(|name| (*name).into()).collect()))
                    }
                },
                Question::A(name) if name.as_str() == right => {
                    Answer::Found(Records::A([[192, 0, 2, 1].into()].into()))
                }
                Question::Aaaa(name) if name.as_str() == right => {
                    Answer::Found(Records::Aaaa(["2001:db8::1".parse().unwrap()].into()))
                }
                Question::A(name) if name.as_str() == "broken.test" => Answer::Temporary,
                _ => Answer::NoData,
            }
        });
        (outcome.result.word(), asked)
    }

    #[test]
    fn names_lead_back_or_not() {
        assert_eq!(check("192.0.2.1", Ok(&["a.test", "B.test"]), "b.test"), ("pass", 3));
        assert_eq!(check("::ffff:192.0.2.1", Ok(&["a.test"]), "a.test"), ("pass", 2));
        assert_eq!(check("2001:db8::1", Ok(&["a.test"]), "a.test"), ("pass", 2));
        assert_eq!(check("192.0.2.2", Ok(&["a.test"]), "a.test"), ("fail", 2));
        assert_eq!(check("192.0.2.1", Ok(&[]), "a.test"), ("permerror", 1));
        assert_eq!(check("192.0.2.1", Ok(&["a..test"]), "a.test"), ("permerror", 1));
        assert_eq!(check("192.0.2.1", Err(()), "a.test"), ("temperror", 1));
        assert_eq!(check("192.0.2.1", Ok(&["broken.test", "a.test"]), "b.test"), ("temperror", 3));
        assert_eq!(check("192.0.2.1", Ok(&["broken.test", "b.test"]), "b.test"), ("pass", 3));
        assert_eq!(check("192.0.2.1", Ok(&["x.test"; 500]), "a.test"), ("fail", 11));
    }
}
