//! The reply rules of one scope: one pass over the text finds which may match, and only those are tried.

use std::collections::HashMap;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::pattern::{Pattern, Required};
use crate::rules::traced::SettingAt;
use crate::{Action, Stage, Trigger};

/// Tells one rule from another, also after a reload that keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleKey(pub u64);

/// One reply rule.
#[derive(Debug)]
pub struct Rule {
    /// Tells it from others.
    pub key: RuleKey,
    /// What logs call it.
    pub name: Arc<str>,
    /// Its key in the configuration, its pattern, and where it was written.
    pub at: Arc<SettingAt>,
    /// When its actions are taken.
    pub trigger: Trigger,
    /// What is done.
    pub actions: Box<[Action]>,
    /// Bit n is [`Stage::ALL`]'s n-th.
    pub(crate) stages: u16,
    pub(crate) pattern: Pattern,
}

impl Rule {
    /// True if it is looked for at this stage.
    pub fn at_stage(&self, stage: Stage) -> bool {
        self.stages & bit(stage) != 0
    }
}

/// The bit of a stage.
pub(crate) fn bit(stage: Stage) -> u16 {
    1 << stage as u16
}

/// The rules of one scope, in their order.
#[derive(Debug)]
pub struct Matcher {
    rules: Box<[Arc<Rule>]>,
    /// Finds the literals; `None` if no rule has any.
    literals: Option<AhoCorasick>,
    /// For each literal, the rules of which it may be the sign, in order.
    of_literal: Box<[Box<[u32]>]>,
    /// The rules without a required literal, in order.
    always: Box<[u32]>,
}

impl Matcher {
    /// Prepares rules. Fails if the automaton would be too large.
    pub fn new(rules: Vec<(Arc<Rule>, Required)>) -> Result<Self, String> {
        let mut index: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut texts = Vec::new();
        let mut of_literal: Vec<Vec<u32>> = Vec::new();
        let mut always = Vec::new();
        let mut list = Vec::with_capacity(rules.len());
        for (rule, required) in rules {
            let number = u32::try_from(list.len()).map_err(|_| "there are too many rules")?;
            list.push(rule);
            if required.is_empty() {
                always.push(number);
            }
            for literal in required {
                let at = *index.entry(literal.clone()).or_insert_with(|| {
                    texts.push(literal);
                    of_literal.push(Vec::new());
                    texts.len() - 1
                });
                of_literal[at].push(number);
            }
        }
        let literals = (!texts.is_empty())
            .then(|| {
                AhoCorasick::builder()
                    .ascii_case_insensitive(true)
                    .match_kind(MatchKind::Standard)
                    // A full automaton of ten thousand patterns would take tens of megabytes.
                    .kind(Some(AhoCorasickKind::ContiguousNFA))
                    .build(&texts)
                    .map_err(|error| error.to_string())
            })
            .transpose()?;
        Ok(Self {
            rules: list.into(),
            literals,
            of_literal: of_literal.into_iter().map(Vec::into_boxed_slice).collect(),
            always: always.into(),
        })
    }

    /// The rules.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The first rule that matches. `candidates` is room to work in.
    pub fn first(&self, stage: Stage, text: &str, candidates: &mut Vec<u32>) -> Option<&Arc<Rule>> {
        candidates.clear();
        let wanted = bit(stage);
        let mut add = |list: &[u32]| {
            let here = |number: &&u32| self.rules[**number as usize].stages & wanted != 0;
            candidates.extend(list.iter().filter(here));
        };
        add(&self.always);
        if let Some(literals) = &self.literals {
            for found in literals.find_overlapping_iter(text) {
                add(&self.of_literal[found.pattern().as_usize()]);
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        let mut rules = candidates.iter().map(|number| &self.rules[*number as usize]);
        rules.find(|rule| rule.pattern.confirm(text))
    }
}
