//! What is counted for reports: sessions by day, policy domain and policy, within bounds.

use crate::transport::{PolicyKind, SessionFault};
use mail::{Domain, UnixMillis};
use resolve::StsPolicy;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Milliseconds of a day.
pub(super) const DAY_MS: u64 = 86_400_000;
/// Days kept at most: today, and those whose reports could not be sent yet.
const DAYS_MAX: usize = 3;
/// Policies told apart for one domain and day; what comes beyond counts for the last.
const POLICIES_MAX: usize = 8;
/// Kinds of failures told apart for one policy; further ones only count in the sum.
const FAILURES_MAX: usize = 64;
/// Octets of a reason.
const REASON_OCTETS_MAX: usize = 200;
/// The version of the form on disk.
const VERSION: u64 = 1;

/// A policy as reports name it (RFC 8460 §4.4).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct PolicyText {
    /// `sts`, `tlsa` or `no-policy-found`.
    pub(super) kind: String,
    pub(super) strings: Vec<String>,
    pub(super) mx: Vec<String>,
}

impl From<&PolicyKind> for PolicyText {
    fn from(kind: &PolicyKind) -> Self {
        match kind {
            PolicyKind::None => Self { kind: "no-policy-found".into(), ..Self::default() },
            PolicyKind::Sts(policy) => Self {
                kind: "sts".into(),
                strings: StsPolicy::to_text(policy).lines().map(str::to_owned).collect(),
                mx: policy.mx.iter().map(|mx| mx.to_string()).collect(),
            },
            PolicyKind::Tlsa(dane) => {
                let hex = |data: &[u8]| data.iter().map(|b| format!("{b:02x}")).collect::<String>();
                let record = |r: &net::tls::Tlsa| {
                    format!("{} {} {} {}", r.usage, r.selector, r.matching, hex(&r.data))
                };
                let mx = dane.names.first().map(|name| name.to_string()).into_iter().collect();
                Self { kind: "tlsa".into(), strings: dane.records.iter().map(record).collect(), mx }
            }
        }
    }
}

/// Failures that have all this in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) fault: String,
    pub(super) sending: Option<IpAddr>,
    pub(super) host: String,
    pub(super) receiving: Option<IpAddr>,
    pub(super) reason: String,
    pub(super) count: u64,
}

/// What was counted for one policy.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Counted {
    pub(super) policy: PolicyText,
    pub(super) successes: u64,
    pub(super) failures: u64,
    pub(super) details: Vec<Failure>,
}

/// One session.
#[derive(Clone, Debug)]
pub(crate) struct SessionSeen<'a> {
    pub(crate) domain: &'a Domain,
    pub(crate) kind: &'a PolicyKind,
    pub(crate) fault: Option<SessionFault>,
    pub(crate) reason: &'a str,
    pub(crate) sending: Option<IpAddr>,
    pub(crate) host: &'a str,
    pub(crate) receiving: Option<IpAddr>,
}

type Day = HashMap<Domain, Vec<Counted>>;

/// The book.
#[derive(Debug, Default)]
pub(super) struct Book {
    days: BTreeMap<u64, Day>,
    /// It differs from what is on disk.
    pub(super) changed: bool,
}

impl Book {
    /// Counts a session.
    pub(super) fn record(&mut self, wall: UnixMillis, seen: &SessionSeen<'_>, domains_max: usize) {
        let day = self.days.entry(wall.0 / DAY_MS).or_default();
        if day.len() >= domains_max && !day.contains_key(seen.domain) {
            return;
        }
        self.changed = true;
        let list = day.entry(seen.domain.clone()).or_default();
        let policy = PolicyText::from(seen.kind);
        let at = match list.iter().position(|counted| counted.policy == policy) {
            Some(at) => at,
            None if list.len() < POLICIES_MAX => {
                list.push(Counted { policy, ..Counted::default() });
                list.len() - 1
            }
            None => list.len() - 1,
        };
        let counted = &mut list[at];
        let Some(fault) = seen.fault else {
            counted.successes += 1;
            return;
        };
        counted.failures += 1;
        let reason = message::one_line(seen.reason, REASON_OCTETS_MAX);
        let like = |known: &&mut Failure| {
            known.fault == fault.word()
                && known.sending == seen.sending
                && known.host == seen.host
                && known.receiving == seen.receiving
                && known.reason == reason
        };
        let has_room = counted.details.len() < FAILURES_MAX;
        match counted.details.iter_mut().find(like) {
            Some(known) => known.count += 1,
            None if has_room => counted.details.push(Failure {
                fault: fault.word().to_owned(),
                sending: seen.sending,
                host: seen.host.to_owned(),
                receiving: seen.receiving,
                reason,
                count: 1,
            }),
            None => {}
        }
        while self.days.len() > DAYS_MAX {
            self.days.pop_first();
        }
    }

    /// Days that are over, with their domains.
    pub(super) fn over(&self, wall: UnixMillis) -> Vec<(u64, Domain)> {
        let today = wall.0 / DAY_MS;
        let days = self.days.range(..today);
        days.flat_map(|(day, domains)| domains.keys().map(|domain| (*day, domain.clone()))).collect()
    }

    pub(super) fn of(&self, day: u64, domain: &Domain) -> Vec<Counted> {
        self.days.get(&day).and_then(|day| day.get(domain)).cloned().unwrap_or_default()
    }

    /// A domain's day is done with.
    pub(super) fn forget(&mut self, day: u64, domain: &Domain) {
        let Some(domains) = self.days.get_mut(&day) else { return };
        self.changed |= domains.remove(domain).is_some();
        if domains.is_empty() {
            self.days.remove(&day);
        }
    }

    /// Days too long ago for their reports to be of use.
    pub(super) fn forget_old(&mut self, wall: UnixMillis) {
        let oldest = (wall.0 / DAY_MS).saturating_sub(DAYS_MAX as u64 - 1);
        let kept = self.days.split_off(&oldest);
        self.changed |= !self.days.is_empty();
        self.days = kept;
    }

    /// Its form on disk.
    pub(super) fn text(&self) -> String {
        let counted = |counted: &Counted| {
            json!({
                "kind": counted.policy.kind,
                "strings": counted.policy.strings,
                "mx": counted.policy.mx,
                "successes": counted.successes,
                "failures": counted.failures,
                "details": counted.details.iter().map(|f| json!({
                    "fault": f.fault, "sending": f.sending, "host": f.host, "receiving": f.receiving,
                    "reason": f.reason, "count": f.count,
                })).collect::<Vec<Value>>(),
            })
        };
        let days: Vec<Value> = self
            .days
            .iter()
            .flat_map(|(day, domains)| domains.iter().map(move |(domain, list)| (day, domain, list)))
            .map(|(day, domain, list)| {
                let policies: Vec<Value> = list.iter().map(counted).collect();
                json!({ "day": day, "domain": domain.as_str(), "policies": policies })
            })
            .collect();
        json!({ "version": VERSION, "days": days }).to_string()
    }

    /// Reads what `text` wrote; whatever does not fit is left out.
    pub(super) fn read(text: &str, domains_max: usize) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        if value["version"].as_u64()? != VERSION {
            return None;
        }
        let mut book = Self::default();
        for entry in value["days"].as_array()? {
            let day = entry["day"].as_u64();
            let domain = entry["domain"].as_str().and_then(|text| Domain::parse(text).ok());
            let (Some(day), Some(domain)) = (day, domain) else { continue };
            let policies = entry["policies"].as_array().map(Vec::as_slice).unwrap_or_default();
            let list: Vec<Counted> = policies.iter().take(POLICIES_MAX).map(counted_of).collect();
            if book.days.len() >= DAYS_MAX && !book.days.contains_key(&day) {
                continue;
            }
            let domains = book.days.entry(day).or_default();
            if domains.len() < domains_max {
                domains.insert(domain, list);
            }
        }
        Some(book)
    }
}

fn counted_of(value: &Value) -> Counted {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect();
    let ip = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    let details = value["details"].as_array().map(Vec::as_slice).unwrap_or_default();
    Counted {
        policy: PolicyText {
            kind: text(&value["kind"]),
            strings: texts(&value["strings"]),
            mx: texts(&value["mx"]),
        },
        successes: value["successes"].as_u64().unwrap_or(0),
        failures: value["failures"].as_u64().unwrap_or(0),
        details: details
            .iter()
            .take(FAILURES_MAX)
            .map(|f| Failure {
                fault: text(&f["fault"]),
                sending: ip(&f["sending"]),
                host: text(&f["host"]),
                receiving: ip(&f["receiving"]),
                reason: text(&f["reason"]),
                count: f["count"].as_u64().unwrap_or(0),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_within_bounds_and_survive_the_disk() {
        let mut book = Book::default();
        let domain = Domain::parse("a.test").unwrap();
        let wall = UnixMillis(20_000 * DAY_MS + 5);
        let mut seen = SessionSeen {
            domain: &domain,
            kind: &PolicyKind::None,
            fault: None,
            reason: "",
            sending: Some("192.0.2.1".parse().unwrap()),
            host: "mx.a.test",
            receiving: None,
        };
        book.record(wall, &seen, 10);
        book.record(wall, &seen, 10);
        seen.fault = Some(SessionFault::Expired);
        let reasons: Vec<String> = (0..2 * FAILURES_MAX).map(|n| n.to_string()).collect();
        for reason in &reasons {
            seen.reason = reason;
            book.record(wall, &seen, 10);
        }
        let counted = book.of(20_000, &domain);
        assert_eq!(
            (counted.len(), counted[0].successes, counted[0].failures),
            (1, 2, 2 * FAILURES_MAX as u64)
        );
        assert_eq!(counted[0].details.len(), FAILURES_MAX);
        let again = Book::read(&book.text(), 10).unwrap();
        assert_eq!(again.of(20_000, &domain), counted);
        for n in 0..30 {
            let other = Domain::parse(&format!("d{n}.test")).unwrap();
            book.record(wall, &SessionSeen { domain: &other, ..seen.clone() }, 10);
        }
        assert_eq!(book.over(UnixMillis(wall.0 + DAY_MS)).len(), 10);
        assert!(book.over(wall).is_empty());
        book.forget(20_000, &domain);
        assert!(book.of(20_000, &domain).is_empty());
        book.forget_old(UnixMillis(wall.0 + 10 * DAY_MS));
        assert!(book.over(UnixMillis(wall.0 + 10 * DAY_MS)).is_empty());
        for junk in ["", "{}", "{\"version\":2}", "{\"version\":1,\"days\":7}"] {
            assert!(Book::read(junk, 10).is_none(), "{junk}");
        }
        assert!(Book::read("{\"version\":1,\"days\":[7,{\"day\":1}]}", 10).is_some());
    }
}
