//! Whether a rule that matched is to act: at once, at the n-th match in a time, or at a share of attempts.

use std::collections::VecDeque;
use std::time::Instant;

use crate::{RuleKey, Trigger};

/// Rules of one path whose matches are counted at once; beyond that the one that matched longest ago is forgotten.
const COUNTED_MAX: usize = 64;

#[derive(Debug)]
enum Seen {
    Times(VecDeque<Instant>),
    Last { attempts: VecDeque<bool>, matched: u32 },
}

/// What was seen of the rules of one path that do not act at once.
#[derive(Debug, Default)]
pub struct Triggers(Vec<(RuleKey, u32, Seen)>);

impl Triggers {
    /// A rule matched so many of some attempts; true if it is to act.
    pub fn matched(&mut self, now: Instant, rule: RuleKey, trigger: Trigger, times: u32) -> bool {
        match trigger {
            Trigger::AtOnce => true,
            Trigger::Count(rate) => {
                let Seen::Times(seen) = self.seen(rule, trigger) else { return false };
                for _ in 0..times {
                    seen.push_back(now);
                    while seen.len() as u64 > rate.count
                        || seen.front().is_some_and(|at| *at + rate.period <= now)
                    {
                        seen.pop_front();
                    }
                }
                let acts = seen.len() as u64 >= rate.count;
                if acts {
                    seen.clear();
                }
                acts
            }
            Trigger::Share { percent, of } => {
                let Seen::Last { attempts, matched } = self.seen(rule, trigger) else { return false };
                for _ in 0..times.min(of) {
                    push(attempts, matched, of, true);
                }
                let acts = u64::from(*matched) * 100 >= u64::from(percent) * u64::from(of);
                if acts {
                    attempts.clear();
                    *matched = 0;
                }
                acts
            }
        }
    }

    /// Attempts that a rule did not match; `matched` tells how many each rule did.
    pub fn others(&mut self, total: u32, matched: impl Fn(RuleKey) -> u32) {
        for (rule, of, seen) in &mut self.0 {
            if let Seen::Last { attempts, matched: sum } = seen {
                for _ in 0..total.saturating_sub(matched(*rule)).min(*of) {
                    push(attempts, sum, *of, false);
                }
            }
        }
        // Those that have seen only others for so long know nothing any more.
        self.0.retain(|(_, _, seen)| !matches!(seen, Seen::Last { matched: 0, .. }));
    }

    /// True if nothing is counted.
    pub fn is_empty(&mut self, now: Instant) -> bool {
        // A count is as long as the longest time a rule may look back, but an idle path need not wait for it: the
        // time of the last match is what an hour makes worthless for most rules.
        self.0.iter().all(|(_, _, seen)| match seen {
            Seen::Times(times) => times.back().is_none_or(|at| now.saturating_duration_since(*at) > FORGET),
            Seen::Last { .. } => false,
        }) || self.0.is_empty()
    }

    fn seen(&mut self, rule: RuleKey, trigger: Trigger) -> &mut Seen {
        // The one that matched last is at the end.
        let found = self.0.iter().position(|(key, _, _)| *key == rule);
        let entry = match found {
            Some(index) => self.0.remove(index),
            None => {
                if self.0.len() >= COUNTED_MAX {
                    self.0.remove(0);
                }
                match trigger {
                    Trigger::Share { of, .. } => {
                        (rule, of, Seen::Last { attempts: VecDeque::new(), matched: 0 })
                    }
                    _ => (rule, 0, Seen::Times(VecDeque::new())),
                }
            }
        };
        self.0.push(entry);
        let last = self.0.len() - 1;
        &mut self.0[last].2
    }
}

/// After so long without a match an idle path is forgotten, counts and all.
const FORGET: std::time::Duration = std::time::Duration::from_secs(3_600);

fn push(attempts: &mut VecDeque<bool>, matched: &mut u32, of: u32, hit: bool) {
    attempts.push_back(hit);
    *matched += u32::from(hit);
    while attempts.len() > of as usize {
        *matched -= u32::from(attempts.pop_front() == Some(true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const RULE: RuleKey = RuleKey(1);

    #[test]
    fn the_fifth_match_in_ten_minutes_acts_and_counting_begins_again() {
        let now = Instant::now();
        let trigger: Trigger = "5/10m".parse().unwrap();
        let mut triggers = Triggers::default();
        let acts: Vec<u64> = (0..30)
            .filter(|n| triggers.matched(now + Duration::from_secs(60 * n), RULE, trigger, 1))
            .collect();
        assert_eq!(acts, [4, 9, 14, 19, 24, 29]);
        let mut triggers = Triggers::default();
        let acts = (0..30)
            .filter(|n| triggers.matched(now + Duration::from_secs(150 * n), RULE, trigger, 1))
            .count();
        assert_eq!(acts, 0, "four matches in any ten minutes");
        assert!(Triggers::default().matched(now, RULE, trigger, 7));
    }

    #[test]
    fn a_share_of_the_last_attempts_acts() {
        let now = Instant::now();
        let trigger: Trigger = "30% of 20".parse().unwrap();
        let mut triggers = Triggers::default();
        // One in four never reaches it.
        for _ in 0..100 {
            assert!(!triggers.matched(now, RULE, trigger, 1));
            triggers.others(4, |_| 1);
        }
        // One in two does, at the sixth of twenty.
        let mut triggers = Triggers::default();
        let first = (1..20).find(|_| {
            let acts = triggers.matched(now, RULE, trigger, 1);
            triggers.others(2, |_| 1);
            acts
        });
        assert_eq!(first, Some(6));
    }

    #[test]
    fn what_is_counted_is_bounded() {
        let now = Instant::now();
        let mut triggers = Triggers::default();
        for rule in 0..1_000 {
            triggers.matched(now, RuleKey(rule), "5/10m".parse().unwrap(), 1);
        }
        assert_eq!(triggers.0.len(), COUNTED_MAX);
    }
}
