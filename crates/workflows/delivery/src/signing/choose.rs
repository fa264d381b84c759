//! Who signs a message.

use super::config::SignRule;
use super::{Signer, Signing};
use mail::{Domain, FieldName, Message};
use mailauth::from_domain;
use message::Fields;
use std::sync::Arc;

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
    By(Vec<Arc<Signer>>),
    /// Nobody, as a rule says.
    Nobody,
    /// Nobody, for want of one.
    Unmatched,
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
        let mut author = Author { content: facts.content, found: None };
        let Some(rule) = self.rules.iter().find(|rule| holds(&rule.rule, facts, &mut author)) else {
            let by = self.by_author(&mut author);
            return if by.is_empty() { Choice::Unmatched } else { Choice::By(by) };
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
            false => Choice::By(by),
            true if rule.rule.author => Choice::Unmatched,
            true => Choice::Nobody,
        }
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
