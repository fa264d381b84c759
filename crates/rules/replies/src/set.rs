//! Many patterns, one pass: which of them may match a text.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use crate::pattern::{Required, weight};

/// Most patterns of one set.
const PATTERNS_MAX: usize = 1_000_000;

/// Numbered patterns, in an order that matters: of several that match, the first is wanted.
#[derive(Debug)]
pub struct PatternSet {
    /// Finds the literals; `None` if no pattern has any.
    literals: Option<AhoCorasick>,
    /// For each literal, the patterns of which it may be a sign, as [`sign`] numbers them.
    of_literal: Box<[Box<[u32]>]>,
    /// The first signs of patterns without a required literal.
    always: Box<[u32]>,
    /// Of each pattern, whether it takes a second sign.
    two: Box<[bool]>,
}

/// A literal of a pattern's first set of required ones, or of its second.
fn sign(pattern: u32, second: bool) -> u32 {
    pattern * 2 + u32::from(second)
}

/// How often a literal of a second set may be expected in a reply, and how many patterns may share it: common ones
/// would cost more than they save.
const SECOND_MAX: (f64, u32) = (0.1, 8);

impl PatternSet {
    /// Prepares patterns by the sets of literals that each requires. Fails if the automaton would be too large.
    pub fn new(required: &[Vec<Required>]) -> Result<Self, String> {
        if required.len() > PATTERNS_MAX {
            return Err(format!("at most {PATTERNS_MAX} patterns may be in one set"));
        }
        // Of the sets of a pattern, the one that makes the fewest patterns be tried in vain is searched for: `RL0017`
        // by its number and not by the letters that it shares with a thousand others.
        let mut shared: HashMap<&[u8], u32> = HashMap::new();
        for literal in required.iter().flat_map(|options| options.iter().flatten()) {
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
        let chosen: Vec<[Option<Required>; 2]> = required.iter().map(|options| cheapest(options)).collect();

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
            literals,
            of_literal: of_literal.into_iter().map(Vec::into_boxed_slice).collect(),
            always: always.into(),
            two: two.into(),
        })
    }

    /// The number of the first pattern that `confirm` says matches, of those that may. `candidates` is room to work in.
    pub fn first(
        &self,
        text: &str,
        candidates: &mut Vec<u32>,
        mut confirm: impl FnMut(usize) -> bool,
    ) -> Option<usize> {
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
            (both && confirm(number)).then_some(number)
        })
    }
}
