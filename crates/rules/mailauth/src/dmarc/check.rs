//! Which policy holds for an author, and whether what was authenticated is close enough (RFC 9989 §4.10 and §5.3).

use super::record::{Alignment, Policy, PublicSuffix, Record};
use super::{Aligned, DmarcResult, Evidence, EvidenceKind, Organization, Outcome, Published, Scope};
use crate::dns::{Answer, Machine, Name, Question, Records, Step};
use crate::psl;
use std::collections::HashMap;
use std::sync::Arc;

/// Labels of a name from which on the walk leaves out the middle (RFC 9989 §4.10).
const WALK_LABELS: usize = 8;

/// Evaluates DMARC for one author domain.
#[derive(Debug)]
pub struct Check {
    author: Name,
    evidence: Vec<Evidence>,
    organization: Organization,
    /// What was asked for already: the record at each name, without `_dmarc`.
    known: HashMap<Name, Lookup>,
    /// Whether the author's domain exists, once that was asked.
    author_exists: Option<Existence>,
    state: State,
}

#[derive(Clone, Debug)]
enum Lookup {
    Found(Arc<Record>),
    Absent,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Existence {
    Yes,
    No,
    Unknown,
}

#[derive(Debug)]
enum State {
    Run,
    Asking(Question, Wanted),
    Done(Outcome),
}

#[derive(Debug)]
enum Wanted {
    Record(Name),
    Existence,
}

/// Why there is no result yet.
enum Stop {
    Ask(Question, Wanted),
    /// DNS did not answer.
    Failed,
}

/// The records that a walk found, those of longer names first.
type Walk = Vec<(Name, Arc<Record>)>;

impl Check {
    /// Begins. Of `evidence` at most [`super::EVIDENCE_MAX`] are looked at.
    pub fn new(author: Name, evidence: Vec<Evidence>, organization: Organization) -> Self {
        let mut evidence = evidence;
        evidence.truncate(super::EVIDENCE_MAX);
        Self { author, evidence, organization, known: HashMap::new(), author_exists: None, state: State::Run }
    }

    /// The record at a name.
    fn record(&self, name: &Name) -> Result<Option<&Arc<Record>>, Stop> {
        match self.known.get(name) {
            Some(Lookup::Found(record)) => Ok(Some(record)),
            Some(Lookup::Absent) => Ok(None),
            Some(Lookup::Failed) => Err(Stop::Failed),
            None => match name.below("_dmarc") {
                Some(at) => Err(Stop::Ask(Question::Txt(at), Wanted::Record(name.clone()))),
                // Too long to have one.
                None => Ok(None),
            },
        }
    }

    /// The tree walk from a name upwards: at most eight questions.
    fn walk(&self, from: &Name) -> Result<Walk, Stop> {
        let mut found = Vec::new();
        let mut next = Some(from.clone());
        while let Some(name) = next {
            if let Some(record) = self.record(&name)? {
                found.push((name.clone(), record.clone()));
                if record.public_suffix != PublicSuffix::Unsaid {
                    break;
                }
            }
            next = match name.labels() {
                labels if name == *from && labels >= WALK_LABELS => Some(name.last_labels(WALK_LABELS - 1)),
                _ => name.parent(),
            };
        }
        Ok(found)
    }

    /// The organizational domain of a name (RFC 9989 §4.10.2).
    fn organizational(&self, name: &Name) -> Result<Name, Stop> {
        match self.organization {
            Organization::PublicSuffixList => Ok(psl::registered(name)),
            Organization::TreeWalk => Ok(select(name, &self.walk(name)?)),
        }
    }

    /// The policy that holds, and where it was found (RFC 9989 §4.10.1).
    fn published(&self) -> Result<Option<Published>, Stop> {
        let published = |domain: &Name, record: &Arc<Record>, policy, scope| {
            record.usable.then(|| Published {
                domain: domain.clone(),
                record: record.clone(),
                wanted: if record.testing { Policy::milder(policy) } else { policy },
                policy,
                scope,
            })
        };
        if let Some(record) = self.record(&self.author)? {
            return Ok(published(&self.author, record, record.policy, Scope::Itself));
        }
        let (domain, record) = match self.organization {
            Organization::PublicSuffixList => {
                let registered = psl::registered(&self.author);
                match self.record(&registered)? {
                    Some(record) => (registered, record.clone()),
                    None => return Ok(None),
                }
            }
            Organization::TreeWalk => {
                let walk = self.walk(&self.author)?;
                let organization = select(&self.author, &walk);
                // The organizational domain's own, or else that of the public suffix above it.
                let own = walk.iter().find(|(name, _)| *name == organization);
                match own
                    .or_else(|| walk.last().filter(|(_, record)| record.public_suffix == PublicSuffix::Yes))
                {
                    Some((name, record)) => (name.clone(), record.clone()),
                    None => return Ok(None),
                }
            }
        };
        let inherited = record.subdomain_policy.unwrap_or(record.policy);
        let Some(absent) = record.absent_policy else {
            return Ok(published(&domain, &record, inherited, Scope::Below));
        };
        match self.author_exists {
            None => Err(Stop::Ask(Question::A(self.author.clone()), Wanted::Existence)),
            Some(Existence::No) => Ok(published(&domain, &record, absent, Scope::Absent)),
            Some(Existence::Yes) => Ok(published(&domain, &record, inherited, Scope::Below)),
            Some(Existence::Unknown) => Err(Stop::Failed),
        }
    }

    /// Whether a domain is close enough to the author's.
    fn is_aligned(&self, domain: &Name, alignment: Alignment) -> Result<bool, Stop> {
        if *domain == self.author {
            return Ok(true);
        }
        // Names that do not even share their last label have nothing in common, and need no walk.
        if alignment == Alignment::Strict || domain.last_labels(1) != self.author.last_labels(1) {
            return Ok(false);
        }
        Ok(self.organizational(domain)? == self.organizational(&self.author)?)
    }

    fn evaluate(&self) -> Result<Outcome, Stop> {
        let Some(published) = self.published()? else {
            return Ok(Outcome::without(DmarcResult::None, &self.author));
        };
        let record = &published.record;
        let alignment = |evidence: &Evidence| match evidence.kind {
            EvidenceKind::Spf => record.spf_alignment,
            EvidenceKind::Dkim => record.dkim_alignment,
        };
        let mut aligned = Aligned::default();
        let mut unsure = false;
        // The same domain first: nothing more need be asked then.
        let same = self.evidence.iter().filter(|evidence| evidence.domain == self.author);
        let passes = |aligned: &mut Aligned, evidence: &Evidence| match evidence.kind {
            EvidenceKind::Spf => aligned.spf = true,
            EvidenceKind::Dkim => aligned.dkim = true,
        };
        for evidence in same {
            match evidence.is_sure {
                true => passes(&mut aligned, evidence),
                false => unsure = true,
            }
        }
        for evidence in self.evidence.iter().filter(|evidence| evidence.domain != self.author) {
            let has = match evidence.kind {
                EvidenceKind::Spf => aligned.spf,
                EvidenceKind::Dkim => aligned.dkim,
            };
            if has {
                continue;
            }
            match self.is_aligned(&evidence.domain, alignment(evidence)) {
                Ok(true) if evidence.is_sure => passes(&mut aligned, evidence),
                Ok(true) | Err(Stop::Failed) => unsure = true,
                Ok(false) => {}
                Err(ask) => return Err(ask),
            }
        }
        let result = match () {
            () if aligned.spf || aligned.dkim => DmarcResult::Pass,
            () if unsure => DmarcResult::TempError,
            () => DmarcResult::Fail,
        };
        Ok(Outcome { result, author: self.author.clone(), aligned, published: Some(published) })
    }
}

/// RFC 9989 §4.10.2.
fn select(start: &Name, walk: &Walk) -> Name {
    for (name, record) in walk {
        match record.public_suffix {
            PublicSuffix::No => return name.clone(),
            PublicSuffix::Yes if name != start => return start.last_labels(name.labels() + 1),
            _ => {}
        }
    }
    // Of those found, the one with the fewest labels; the walk goes upwards, so it is the last.
    walk.last().map_or_else(|| start.clone(), |(name, _)| name.clone())
}

impl Machine for Check {
    type Outcome = Outcome;

    fn step(&mut self) -> Step<'_, Outcome> {
        if matches!(self.state, State::Run) {
            self.state = match self.evaluate() {
                Ok(outcome) => State::Done(outcome),
                Err(Stop::Ask(question, wanted)) => State::Asking(question, wanted),
                Err(Stop::Failed) => State::Done(Outcome::without(DmarcResult::TempError, &self.author)),
            };
        }
        match &self.state {
            State::Asking(question, _) => Step::Ask(question),
            State::Done(outcome) => Step::Done(outcome),
            State::Run => unreachable!("ran above"),
        }
    }

    fn answer(&mut self, answer: Answer) {
        match std::mem::replace(&mut self.state, State::Run) {
            State::Asking(_, Wanted::Record(name)) => {
                let lookup = match answer {
                    Answer::Temporary => Lookup::Failed,
                    Answer::Found(Records::Txt(texts)) => {
                        let mut records = texts.iter().filter_map(|text| Record::parse(text));
                        // Several are as good as none (RFC 9989 §4.10).
                        match (records.next(), records.next()) {
                            (Some(record), None) => Lookup::Found(Arc::new(record)),
                            _ => Lookup::Absent,
                        }
                    }
                    _ => Lookup::Absent,
                };
                self.known.insert(name, lookup);
            }
            State::Asking(_, Wanted::Existence) => {
                self.author_exists = Some(match answer {
                    Answer::NxDomain => Existence::No,
                    Answer::Temporary => Existence::Unknown,
                    _ => Existence::Yes,
                });
            }
            other => self.state = other,
        }
    }
}
