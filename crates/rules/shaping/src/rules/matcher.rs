//! The reply rules of one scope.

use std::sync::Arc;

use replies::{Pattern, PatternSet, Required};

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
    /// As [`Stage::set`] has them.
    pub(crate) stages: u16,
    pub(crate) pattern: Pattern,
}

impl Rule {
    /// True if it is looked for at this stage.
    pub fn at_stage(&self, stage: Stage) -> bool {
        stage.is_in(self.stages)
    }
}

/// The rules of one scope, in their order.
#[derive(Debug)]
pub struct Matcher {
    rules: Box<[Arc<Rule>]>,
    patterns: PatternSet,
}

impl Matcher {
    /// Prepares rules, each with the sets of literals its pattern requires. Fails if the automaton would be too large.
    pub fn new(rules: Vec<(Arc<Rule>, Vec<Required>)>) -> Result<Self, String> {
        let (rules, required): (Vec<_>, Vec<_>) = rules.into_iter().unzip();
        Ok(Self { rules: rules.into(), patterns: PatternSet::new(&required)? })
    }

    /// The rules.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The first rule that matches. `candidates` is room to work in.
    pub fn first(&self, stage: Stage, text: &str, candidates: &mut Vec<u32>) -> Option<&Arc<Rule>> {
        let confirm = |number: usize| {
            let rule = &self.rules[number];
            rule.at_stage(stage) && rule.pattern.confirm(text)
        };
        self.patterns.first(text, candidates, confirm).map(|number| &self.rules[number])
    }
}
