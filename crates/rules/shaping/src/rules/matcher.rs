//! The reply rules of one scope: one pass over the text finds which may match, and only those are tried.

use std::collections::HashMap;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::pattern::{Pattern, Required, weight};
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

/// Most rules of one scope.
const RULES_MAX: usize = 1_000_000;

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
    /// For each literal, the rules of which it may be a sign, as [`sign`] numbers them.
    of_literal: Box<[Box<[u32]>]>,
    /// The first signs of rules without a required literal.
    always: Box<[u32]>,
    /// Of each rule, whether it takes a second sign.
    two: Box<[bool]>,
}

/// A literal of a rule's first set of required ones, or of its second.
fn sign(rule: u32, second: bool) -> u32 {
    rule * 2 + u32::from(second)
}

/// How often a literal of a second set may be expected in a reply, and how many patterns may share it: common ones
/// would cost more than they save.
const SECOND_MAX: (f64, u32) = (0.1, 8);

impl Matcher {
    /// Prepares rules, each with the sets of literals its pattern requires. Fails if the automaton would be too large.
    pub fn new(rules: Vec<(Arc<Rule>, Vec<Required>)>) -> Result<Self, String> {
        if rules.len() > RULES_MAX {
            return Err(format!("at most {RULES_MAX} rules may be in one scope"));
        }
        // Of the sets of a pattern, the one that makes the fewest patterns be tried in vain is searched for: `RL0017`
        // by its number and not by the letters that it shares with a thousand others.
        let mut shared: HashMap<&[u8], u32> = HashMap::new();
        for literal in rules.iter().flat_map(|(_, options)| options.iter().flatten()) {
            *shared.entry(literal).or_default() += 1;
        }
        let often = |literal: &Vec<u8>| (8.0 / 2f64.powi(weight(literal).min(64) as i32)).clamp(0.01, 1.0);
        let tried = |literal: &Vec<u8>| {
            f64::from(shared.get(literal.as_slice()).copied().unwrap_or_default()) * often(literal)
        };
        let cost = |required: &&Required| required.iter().map(tried).sum::<f64>();
        let cheapest = |options: &[Required]| -> [Option<Required>; 2] {
            // Of equals the first, which is the rarest.
            let first = options.iter().min_by(|a, b| cost(a).total_cmp(&cost(b)));
            let others = options.iter().filter(|other| Some(*other) != first);
            let rare = others.filter(|other| {
                let own =
                    |literal: &Vec<u8>| shared.get(literal.as_slice()).is_none_or(|n| *n <= SECOND_MAX.1);
                other.iter().all(own) && other.iter().map(often).sum::<f64>() <= SECOND_MAX.0
            });
            let second = rare.min_by(|a, b| cost(a).total_cmp(&cost(b)));
            [first.cloned(), second.cloned()]
        };
        let chosen: Vec<[Option<Required>; 2]> = rules.iter().map(|(_, options)| cheapest(options)).collect();

        let mut index: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut texts = Vec::new();
        let mut of_literal: Vec<Vec<u32>> = Vec::new();
        let (mut always, mut two) = (Vec::new(), Vec::with_capacity(chosen.len()));
        for (number, [first, second]) in (0..).zip(chosen) {
            two.push(second.is_some());
            if first.is_none() {
                always.push(sign(number, false));
            }
            for (required, second) in [(first, false), (second, true)] {
                for literal in required.into_iter().flatten() {
                    let at = *index.entry(literal.clone()).or_insert_with(|| {
                        texts.push(literal);
                        of_literal.push(Vec::new());
                        texts.len() - 1
                    });
                    of_literal[at].push(sign(number, second));
                }
            }
        }
        let list: Vec<Arc<Rule>> = rules.into_iter().map(|(rule, _)| rule).collect();
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
            two: two.into(),
        })
    }

    /// The rules.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The first rule that matches. `candidates` is room to work in.
    pub fn first(&self, stage: Stage, text: &str, candidates: &mut Vec<u32>) -> Option<&Arc<Rule>> {
        candidates.clear();
        candidates.extend(&self.always);
        if let Some(literals) = &self.literals {
            for found in literals.find_overlapping_iter(text) {
                candidates.extend(&self.of_literal[found.pattern().as_usize()]);
            }
        }
        candidates.sort_unstable();
        candidates.dedup();
        let signs = candidates.iter().enumerate().filter(|(_, sign)| *sign % 2 == 0);
        signs.map(|(at, sign)| (at, (sign / 2) as usize)).find_map(|(at, number)| {
            // The second sign stands beside the first.
            let both = !self.two[number] || candidates.get(at + 1) == Some(&(candidates[at] + 1));
            let rule = &self.rules[number];
            (both && rule.at_stage(stage) && rule.pattern.confirm(text)).then_some(rule)
        })
    }
}
