//! The machine that evaluates SPF records (RFC 7208 §4 and §5).

use super::macros::{MacroString, Place};
use super::record::{Mechanism, Prefix, Qualifier, Record, agree, is_spf};
use super::{
    EXCHANGERS_MAX, EXPLANATION_MAX_OCTETS, LOOKUPS_MAX, Outcome, POINTERS_MAX, Problem, RECORD_MAX_OCTETS,
    SpfResult, Subject, VOID_LOOKUPS_MAX,
};
use crate::dns::{Answer, Machine, Name, Question, Records, Step};
use std::collections::VecDeque;
use std::net::IpAddr;

/// Evaluates the records of one domain for one client.
#[derive(Debug)]
pub struct Check {
    subject: Subject,
    /// The record under evaluation is the last; those before it include each the next.
    frames: Vec<Frame>,
    state: State,
    lookups: u32,
    voids: u32,
    /// The names of the client's address that lead back to it, once they are known.
    pointers: Option<Vec<Name>>,
    /// The client fails, and what the domain wants said to it is being looked for.
    failed: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    outcome: Outcome,
    /// The explanation, once it is here and may be expanded.
    text: Option<MacroString>,
}

#[derive(Debug)]
struct Frame {
    domain: Name,
    record: Record,
    /// The term under evaluation.
    at: usize,
}

#[derive(Debug)]
enum State {
    /// Terms can be evaluated.
    Run,
    Asking(Question, Wanted),
    Done(Outcome),
}

/// What an answer is wanted for.
#[derive(Debug)]
enum Wanted {
    Record(Purpose),
    /// Addresses of a host of an `a` or `mx` term; the further hosts of it.
    Address(VecDeque<Name>, Prefix),
    Exchangers(Prefix),
    Exists,
    Pointers,
    /// Addresses of a name of the client's address; the further names, and those that lead back.
    PointerAddress(VecDeque<Name>, Vec<Name>),
    Explanation,
}

/// How a record came to be evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Initial,
    Include,
    Redirect,
}

impl Check {
    /// Begins.
    pub fn new(subject: Subject) -> Self {
        let domain = subject.domain.clone();
        let mut check = Self {
            subject,
            frames: Vec::new(),
            state: State::Run,
            lookups: 0,
            voids: 0,
            pointers: None,
            failed: None,
        };
        match asked_about(domain.as_bytes()) {
            Some(name) => check.ask(Question::Txt(name), Wanted::Record(Purpose::Initial)),
            None => check.finish(SpfResult::None, None),
        }
        check
    }

    /// Who is asked about.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    fn ask(&mut self, question: Question, wanted: Wanted) {
        self.state = State::Asking(question, wanted);
    }

    fn finish(&mut self, result: SpfResult, problem: Option<Problem>) {
        self.state = State::Done(Outcome { result, mechanism: None, problem, explanation: None });
    }

    fn permanent(&mut self, problem: Problem) {
        self.finish(SpfResult::PermError, Some(problem));
    }

    fn temporary(&mut self, question: &Question) {
        let name = match question {
            Question::Txt(name) | Question::A(name) | Question::Aaaa(name) | Question::Mx(name) => {
                name.as_str().into()
            }
            Question::Ptr(address) => address.to_string().into(),
        };
        self.finish(SpfResult::TempError, Some(Problem::Dns(name)));
    }

    /// Evaluates the next term.
    fn run(&mut self) {
        if let Some(failed) = self.failed.take() {
            return self.explain(failed);
        }
        let Some(frame) = self.frames.last() else {
            return self.finish(SpfResult::None, None);
        };
        let Some(term) = frame.record.terms.get(frame.at) else {
            return self.end_of_terms();
        };
        let client = self.subject.client;
        let target = match &term.mechanism {
            Mechanism::All => return self.matched(),
            Mechanism::Ip4(network, bits) => {
                return self.matches(agree(client, IpAddr::V4(*network), *bits));
            }
            Mechanism::Ip6(network, bits) => {
                return self.matches(agree(client, IpAddr::V6(*network), *bits));
            }
            Mechanism::Include(target) | Mechanism::Exists(target) => Some(target),
            Mechanism::A(target, _) | Mechanism::Mx(target, _) | Mechanism::Ptr(target) => target.as_ref(),
        };
        if target.is_some_and(MacroString::needs_pointer) && self.pointers.is_none() {
            return self.ask(Question::Ptr(client), Wanted::Pointers);
        }
        let name = match target {
            None => Some(frame.domain.clone()),
            Some(target) => target.name(&self.subject, &frame.domain, self.pointer(&frame.domain)),
        };
        let mechanism = term.mechanism.clone();
        // Names of the address are asked for once, and every `ptr` term counts.
        if matches!(mechanism, Mechanism::Ptr(_)) && self.pointers.is_none() {
            return self.ask(Question::Ptr(client), Wanted::Pointers);
        }
        if !self.count_lookup() {
            return self.permanent(Problem::TooManyLookups);
        }
        match (mechanism, name) {
            (Mechanism::Include(_), Some(name)) if asked_about(name.as_str().as_bytes()).is_some() => {
                self.ask(Question::Txt(name), Wanted::Record(Purpose::Include));
            }
            (Mechanism::Include(_), name) => self.permanent(Problem::NoRecord(said(name))),
            // A name that cannot be has no records.
            (_, None) => self.matches(false),
            (Mechanism::Exists(_), Some(name)) => self.ask(Question::A(name), Wanted::Exists),
            (Mechanism::A(_, prefix), Some(name)) => {
                self.ask(address_of(name, client), Wanted::Address(VecDeque::new(), prefix));
            }
            (Mechanism::Mx(_, prefix), Some(name)) => {
                self.ask(Question::Mx(name), Wanted::Exchangers(prefix));
            }
            (Mechanism::Ptr(_), Some(name)) => {
                let known = self.pointers.as_deref().unwrap_or_default();
                let is_named = known.iter().any(|known| known.is_within(&name));
                self.matches(is_named);
            }
            (Mechanism::All | Mechanism::Ip4(..) | Mechanism::Ip6(..), _) => unreachable!("settled above"),
        }
    }

    /// No term matched: another record may have the say, or nobody (RFC 7208 §4.7 and §6.1).
    fn end_of_terms(&mut self) {
        let Some(frame) = self.frames.last() else { return };
        let target = match &frame.record.redirect {
            Some(target) if !frame.record.has_all() => target.clone(),
            _ => return self.conclude(SpfResult::Neutral, None),
        };
        if target.needs_pointer() && self.pointers.is_none() {
            return self.ask(Question::Ptr(self.subject.client), Wanted::Pointers);
        }
        let name = target.name(&self.subject, &frame.domain, self.pointer(&frame.domain));
        if !self.count_lookup() {
            return self.permanent(Problem::TooManyLookups);
        }
        match name {
            Some(name) if asked_about(name.as_str().as_bytes()).is_some() => {
                self.ask(Question::Txt(name), Wanted::Record(Purpose::Redirect));
            }
            name => self.permanent(Problem::NoRecord(said(name))),
        }
    }

    /// False if that was one too many.
    fn count_lookup(&mut self) -> bool {
        self.lookups += 1;
        self.lookups <= LOOKUPS_MAX
    }

    /// Counts an answer that says there is nothing. False if that was one too many.
    fn count_void(&mut self, answer: &Answer) -> bool {
        if matches!(answer, Answer::NoData | Answer::NxDomain) {
            self.voids += 1;
        }
        self.voids <= VOID_LOOKUPS_MAX
    }

    /// Goes on after a term that matched or did not.
    fn matches(&mut self, matches: bool) {
        if matches {
            self.matched();
        } else if let Some(frame) = self.frames.last_mut() {
            frame.at += 1;
        }
    }

    fn matched(&mut self) {
        let Some(frame) = self.frames.last() else { return };
        let Some(term) = frame.record.terms.get(frame.at) else { return };
        let result = match term.qualifier {
            Qualifier::Pass => SpfResult::Pass,
            Qualifier::Fail => SpfResult::Fail,
            Qualifier::SoftFail => SpfResult::SoftFail,
            Qualifier::Neutral => SpfResult::Neutral,
        };
        let text = term.text.clone();
        self.conclude(result, Some(text));
    }

    /// The record under evaluation has its result: one that was included matches or does not, the first has the say.
    fn conclude(&mut self, result: SpfResult, mechanism: Option<Box<str>>) {
        if self.frames.len() > 1 {
            self.frames.pop();
            // RFC 7208 §5.2: only a pass matches; the errors ended everything before they came here.
            return self.matches(result == SpfResult::Pass);
        }
        let outcome = Outcome { result, mechanism, problem: None, explanation: None };
        if result == SpfResult::Fail {
            self.failed = Some(Failed { outcome, text: None });
        } else {
            self.state = State::Done(outcome);
        }
    }

    /// Finds out what the domain wants said (RFC 7208 §6.2). Nothing that goes wrong here changes the result, and
    /// nothing that is asked here counts.
    fn explain(&mut self, failed: Failed) {
        let frame = self.frames.first().filter(|frame| frame.record.exp.is_some());
        let Some((domain, target)) =
            frame.and_then(|frame| Some((&frame.domain, frame.record.exp.as_ref()?)))
        else {
            self.state = State::Done(failed.outcome);
            return;
        };
        if failed.text.as_ref().unwrap_or(target).needs_pointer() && self.pointers.is_none() {
            self.failed = Some(failed);
            return self.ask(Question::Ptr(self.subject.client), Wanted::Pointers);
        }
        let pointer = self.pointer(domain);
        let Some(text) = &failed.text else {
            match target.name(&self.subject, domain, pointer) {
                Some(name) => {
                    self.failed = Some(failed);
                    self.ask(Question::Txt(name), Wanted::Explanation);
                }
                None => self.state = State::Done(failed.outcome),
            }
            return;
        };
        let mut said = text.expand(&self.subject, domain, pointer);
        said.truncate(EXPLANATION_MAX_OCTETS);
        let is_plain = said.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
        let explanation = String::from_utf8(said).ok().filter(|said| is_plain && !said.is_empty());
        self.state =
            State::Done(Outcome { explanation: explanation.map(String::into_boxed_str), ..failed.outcome });
    }

    /// The name of the client's address that stands for it: the domain itself, one below it, or any (RFC 7208 §7.3).
    fn pointer(&self, domain: &Name) -> Option<&Name> {
        let known = self.pointers.as_ref()?;
        let itself = known.iter().find(|name| *name == domain);
        itself.or_else(|| known.iter().find(|name| name.is_within(domain))).or_else(|| known.first())
    }

    fn take(&mut self, question: &Question, wanted: Wanted, answer: Answer) {
        match wanted {
            Wanted::Record(purpose) => self.take_record(question, purpose, answer),
            Wanted::Address(hosts, prefix) => self.take_address(question, hosts, prefix, answer),
            Wanted::Exchangers(prefix) => self.take_exchangers(question, prefix, answer),
            Wanted::Exists => match answer {
                Answer::Temporary => self.temporary(question),
                answer if !self.count_void(&answer) => self.permanent(Problem::TooManyVoidLookups),
                answer => self.matches(matches!(answer, Answer::Found(Records::A(_)))),
            },
            Wanted::Pointers => self.take_pointers(answer),
            Wanted::PointerAddress(names, validated) => {
                self.take_pointer_address(question, names, validated, answer);
            }
            Wanted::Explanation => self.take_explanation(answer),
        }
    }

    fn take_record(&mut self, question: &Question, purpose: Purpose, answer: Answer) {
        let Question::Txt(domain) = question else { return };
        let texts = match answer {
            Answer::Temporary => return self.temporary(question),
            Answer::Found(Records::Txt(texts)) => texts,
            _ => Default::default(),
        };
        let mut records = texts.iter().filter(|text| is_spf(text));
        let record = match (records.next(), records.next()) {
            (Some(record), None) => record,
            (Some(_), Some(_)) => return self.permanent(Problem::SeveralRecords(domain.clone())),
            (None, _) if purpose == Purpose::Initial => return self.finish(SpfResult::None, None),
            (None, _) => return self.permanent(Problem::NoRecord(domain.as_str().into())),
        };
        let record = match Record::parse(record) {
            Ok(record) => record,
            Err(problem) => return self.permanent(problem),
        };
        if purpose == Purpose::Redirect {
            self.frames.pop();
        }
        self.frames.push(Frame { domain: domain.clone(), record, at: 0 });
    }

    fn take_address(
        &mut self,
        question: &Question,
        mut hosts: VecDeque<Name>,
        prefix: Prefix,
        answer: Answer,
    ) {
        if answer == Answer::Temporary {
            return self.temporary(question);
        }
        if !self.count_void(&answer) {
            return self.permanent(Problem::TooManyVoidLookups);
        }
        let client = self.subject.client;
        let found = match answer {
            Answer::Found(Records::A(addresses)) => {
                addresses.iter().any(|address| agree(client, IpAddr::V4(*address), prefix.v4))
            }
            Answer::Found(Records::Aaaa(addresses)) => {
                addresses.iter().any(|address| agree(client, IpAddr::V6(*address), prefix.v6))
            }
            _ => false,
        };
        match hosts.pop_front() {
            Some(host) if !found => self.ask(address_of(host, client), Wanted::Address(hosts, prefix)),
            _ => self.matches(found),
        }
    }

    fn take_exchangers(&mut self, question: &Question, prefix: Prefix, answer: Answer) {
        let exchangers = match answer {
            Answer::Temporary => return self.temporary(question),
            answer if !self.count_void(&answer) => return self.permanent(Problem::TooManyVoidLookups),
            Answer::Found(Records::Mx(exchangers)) => exchangers,
            _ => Vec::new(),
        };
        if exchangers.len() > EXCHANGERS_MAX {
            return self.permanent(Problem::TooManyExchangers);
        }
        let mut hosts: VecDeque<Name> =
            exchangers.iter().filter_map(|exchanger| Name::parse(exchanger.as_bytes())).collect();
        match hosts.pop_front() {
            Some(host) => {
                self.ask(address_of(host, self.subject.client), Wanted::Address(hosts, prefix));
            }
            None => self.matches(false),
        }
    }

    fn take_pointers(&mut self, answer: Answer) {
        if self.failed.is_none() && !self.count_void(&answer) {
            return self.permanent(Problem::TooManyVoidLookups);
        }
        // RFC 7208 §5.5: an error means that there are no names.
        let names = match answer {
            Answer::Found(Records::Ptr(names)) => names,
            _ => Default::default(),
        };
        let names = names.iter().filter_map(|name| Name::parse(name.as_bytes())).take(POINTERS_MAX).collect();
        self.next_pointer(names, Vec::new());
    }

    fn next_pointer(&mut self, mut names: VecDeque<Name>, validated: Vec<Name>) {
        match names.pop_front() {
            Some(name) => {
                let question = address_of(name, self.subject.client);
                self.ask(question, Wanted::PointerAddress(names, validated));
            }
            None => self.pointers = Some(validated),
        }
    }

    fn take_pointer_address(
        &mut self,
        question: &Question,
        names: VecDeque<Name>,
        mut validated: Vec<Name>,
        answer: Answer,
    ) {
        let client = self.subject.client;
        // A name whose addresses cannot be had is skipped, and does not count as void: who owns the address, not
        // who published the record, chose it.
        let leads_back = match &answer {
            Answer::Found(Records::A(addresses)) => addresses.iter().any(|a| client == IpAddr::V4(*a)),
            Answer::Found(Records::Aaaa(addresses)) => addresses.iter().any(|a| client == IpAddr::V6(*a)),
            _ => false,
        };
        if let (true, Question::A(name) | Question::Aaaa(name)) = (leads_back, question) {
            validated.push(name.clone());
        }
        self.next_pointer(names, validated);
    }

    fn take_explanation(&mut self, answer: Answer) {
        let Some(failed) = &mut self.failed else { return };
        failed.text = match answer {
            Answer::Found(Records::Txt(texts)) if texts.len() == 1 && texts[0].len() <= RECORD_MAX_OCTETS => {
                MacroString::parse(&texts[0], Place::Explanation)
            }
            _ => None,
        };
        if failed.text.is_none()
            && let Some(failed) = self.failed.take()
        {
            self.state = State::Done(failed.outcome);
        }
    }
}

impl Machine for Check {
    type Outcome = Outcome;

    fn step(&mut self) -> Step<'_, Outcome> {
        while matches!(self.state, State::Run) {
            self.run();
        }
        match &self.state {
            State::Asking(question, _) => Step::Ask(question),
            State::Done(outcome) => Step::Done(outcome),
            // The loop above ends with one of the others.
            State::Run => unreachable!("ran above"),
        }
    }

    fn answer(&mut self, answer: Answer) {
        match std::mem::replace(&mut self.state, State::Run) {
            State::Asking(question, wanted) => self.take(&question, wanted, answer),
            other => self.state = other,
        }
    }
}

/// The addresses of a host in the client's own family.
fn address_of(host: Name, client: IpAddr) -> Question {
    if client.is_ipv4() { Question::A(host) } else { Question::Aaaa(host) }
}

/// The name if records can be asked for: a name of two labels or more, and no address literal (RFC 7208 §4.3).
fn asked_about(domain: &[u8]) -> Option<Name> {
    Name::parse(domain).filter(|name| name.labels() > 1 && !name.as_str().starts_with('['))
}

/// A target for a problem to name.
fn said(name: Option<Name>) -> Box<str> {
    name.map_or_else(|| "a name that cannot be".into(), |name| name.as_str().into())
}
