//! Who signs a message.

use super::config::SignRule;
use super::options::Options;
use super::{Failure, Signer, Signing};
use mail::{Domain, FieldName, Message};
use mailauth::dkim::Identity;
use mailauth::from_domain;
use message::Fields;
use std::sync::{Arc, PoisonError};

/// Identities that one message can ask for.
const ASKED_MAX: usize = 8;

/// What is known of a message when it is about to leave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) message: &'a Message,
    pub(crate) source: &'a str,
    pub(crate) pool: &'a str,
    /// The content from its header on.
    pub(crate) content: &'a [u8],
}

/// Who signs.
#[derive(Clone, Debug)]
pub(crate) enum Choice {
    /// These, the topmost signature first.
    By(Vec<Chosen>),
    /// It asks for what cannot be.
    Failed(Failure),
    /// Nobody, as a rule says.
    Nobody,
    /// Nobody, for want of one.
    Unmatched,
}

/// One who signs.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    pub(crate) signer: Arc<Signer>,
    /// What the message itself asks for as `i=`.
    pub(crate) on_behalf: Option<Box<str>>,
}

impl From<Arc<Signer>> for Chosen {
    fn from(signer: Arc<Signer>) -> Self {
        Self { signer, on_behalf: None }
    }
}

impl Chosen {
    /// The identity, with its key of the moment.
    pub(crate) fn identity(&self) -> Result<Arc<Identity>, Failure> {
        let Some(identity) = self.signer.identity.load_full() else {
            let trouble = self.signer.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            let why = trouble.as_deref().unwrap_or("Vault has not been asked yet");
            return Err(Failure(format!("dkim.{} has no key: {why}", self.signer.name)));
        };
        Ok(match &self.on_behalf {
            None => identity,
            on_behalf => Arc::new(Identity { identity: on_behalf.clone(), ..Identity::clone(&identity) }),
        })
    }
}

/// The From field's domain, found when it is first asked for.
struct Author<'a> {
    content: &'a [u8],
    found: Option<Option<Domain>>,
}

impl Author<'_> {
    fn domain(&mut self) -> Option<&Domain> {
        let content = self.content;
        self.found.get_or_insert_with(|| from_domain(content).ok()).as_ref()
    }
}

impl Signing {
    /// Who signs a message that leaves now.
    pub(crate) fn choose(&self, facts: &Facts<'_>) -> Choice {
        if self.hears(facts.message) {
            match self.asked_for(facts.content) {
                Ok(asked) if asked.is_empty() => {}
                Ok(asked) => return Choice::By(asked),
                Err(failure) => return Choice::Failed(failure),
            }
        }
        let mut author = Author { content: facts.content, found: None };
        let Some(rule) = self.rules.iter().find(|rule| holds(&rule.rule, facts, &mut author)) else {
            let by = self.by_author(&mut author);
            return match by.is_empty() {
                true => Choice::Unmatched,
                false => Choice::By(by.into_iter().map(Chosen::from).collect()),
            };
        };
        let mut by: Vec<Arc<Signer>> = rule.signers.clone();
        if rule.rule.author {
            for signer in self.by_author(&mut author) {
                if !by.iter().any(|known| known.name == signer.name) {
                    by.push(signer);
                }
            }
        }
        match by.is_empty() {
            false => Choice::By(by.into_iter().map(Chosen::from).collect()),
            true if rule.rule.author => Choice::Unmatched,
            true => Choice::Nobody,
        }
    }

    /// What is to be said of a message's signatures: a line for each, or one that says why there is none.
    pub(crate) fn told(&self, facts: &Facts<'_>) -> Vec<String> {
        let unsigned = |why: &str, policy: super::Unsigned, setting: &str| match policy {
            super::Unsigned::Send => format!("not signed: {why}"),
            policy => format!("not signed: {why}; so signing.{setting} = \"{policy}\""),
        };
        match self.choose(facts) {
            Choice::By(by) => by
                .iter()
                .map(|chosen| match chosen.identity() {
                    Ok(identity) => {
                        let (name, kind) = (&chosen.signer.name, identity.key.kind());
                        let (selector, domain) = (&identity.selector, &identity.domain);
                        format!("by dkim.{name}: d={domain} s={selector}, {kind}")
                    }
                    Err(failure) => unsigned(&failure.to_string(), self.config().failed, "failed"),
                })
                .collect(),
            Choice::Failed(failure) => vec![unsigned(&failure.to_string(), self.config().failed, "failed")],
            Choice::Nobody => vec!["not signed: a rule of `sign` says so".into()],
            Choice::Unmatched => {
                vec![unsigned("nobody signs for its author", self.config().unmatched, "unmatched")]
            }
        }
    }

    /// The identities that the message's own fields ask for; none if it has no such field.
    fn asked_for(&self, content: &[u8]) -> Result<Vec<Chosen>, Failure> {
        let name = self.config().options_field.as_str();
        let mut chosen = Vec::new();
        for field in Fields::new(content).filter(|field| field.is(name)) {
            let wrong = |why: String| Failure(format!("{name}: {why}"));
            if chosen.len() >= ASKED_MAX {
                return Err(wrong(format!("more than {ASKED_MAX} identities are asked for")));
            }
            let options = Options::parse(field.value).map_err(wrong)?;
            let found = self.signers.iter().filter(|signer| {
                options.domain.as_ref().is_none_or(|domain| *domain == *signer.config.domain)
                    && options
                        .selector
                        .as_ref()
                        .is_none_or(|selector| *selector == signer.config.selector.0.0)
            });
            let before = chosen.len();
            for signer in found {
                if !options.fits(&signer.config.domain) {
                    return Err(wrong(format!("i= is not within {}", *signer.config.domain)));
                }
                chosen.push(Chosen { signer: signer.clone(), on_behalf: options.identity.clone() });
            }
            if chosen.len() == before {
                return Err(wrong(format!("there is no identity with {options}")));
            }
        }
        Ok(chosen)
    }

    /// The identities of the author's domain; if it has none, those of the nearest domain above it that sign for
    /// subdomains.
    fn by_author(&self, author: &mut Author<'_>) -> Vec<Arc<Signer>> {
        if self.by_domain.is_empty() {
            return Vec::new();
        }
        let Some(domain) = author.domain() else { return Vec::new() };
        if let Some(signers) = self.by_domain.get(domain.as_str()) {
            return signers.clone();
        }
        let mut rest = domain.as_str();
        while let Some((_, above)) = rest.split_once('.') {
            let signers = self.by_domain.get(above).map(Vec::as_slice).unwrap_or_default();
            let below: Vec<Arc<Signer>> =
                signers.iter().filter(|signer| signer.config.subdomains).cloned().collect();
            if !below.is_empty() {
                return below;
            }
            rest = above;
        }
        Vec::new()
    }
}

fn holds(rule: &SignRule, facts: &Facts<'_>, author: &mut Author<'_>) -> bool {
    let one_of = |list: &[String], name: &str| list.is_empty() || list.iter().any(|known| known == name);
    let tenant = facts.message.tags.tenant.as_deref();
    (rule.tenants.is_empty()
        || tenant.is_some_and(|tenant| rule.tenants.iter().any(|name| name == "*" || name == tenant)))
        && one_of(&rule.sources, facts.source)
        && one_of(&rule.pools, facts.pool)
        && rule.header.as_ref().is_none_or(|condition| {
            condition.holds_for(first_value(facts.content, &condition.name).as_deref())
        })
        && (rule.from_domains.is_empty()
            || author
                .domain()
                .is_some_and(|domain| rule.from_domains.iter().any(|pattern| pattern.covers(domain))))
}

/// The text of the first field of a name.
fn first_value(content: &[u8], name: &FieldName) -> Option<String> {
    Fields::new(content).find(|field| field.is(name.as_str())).map(|field| field.unfolded())
}
