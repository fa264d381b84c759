//! The numbers that tell loss from duplication: the mark a message carries, and a set of marks seen.

use std::ops::Range;

use crate::wire::decimal;

/// The header field that carries the mark. Its value is
/// `<run, 8 hex digits>-<sequence>-<scheduled, microseconds since 1970>`, and `-<recipients>` when a
/// message has more than one.
pub const MARK_FIELD: &[u8] = b"X-Tuma-Bench: ";

/// What the mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which run of a loader.
    pub run: u32,
    /// Which message of the run, from 0.
    pub sequence: u64,
    /// When the message should have been sent.
    pub scheduled_us: u64,
    /// How many recipients the message was sent to.
    pub recipients: u64,
}

impl Mark {
    /// Reads the field's value; `None` for one that no loader of ours wrote.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut parts = value.trim_ascii().split(|octet| *octet == b'-');
        let run = u32::from_str_radix(std::str::from_utf8(parts.next()?).ok()?, 16).ok()?;
        let (sequence, scheduled_us) = (decimal(parts.next()?)?, decimal(parts.next()?)?);
        let recipients = parts.next().map_or(Some(1), decimal)?;
        (recipients > 0 && parts.next().is_none()).then_some(Self { run, sequence, scheduled_us, recipients })
    }
}

/// A set of sequence numbers, one bit each.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct SequenceSet {
    words: Vec<u64>,
    count: u64,
}

/// Sequence numbers above this are not remembered (a bit each: 512 MB). A mark is a peer's word, and must
/// not make us reserve the whole memory.
const SEQUENCE_MAX: u64 = 1 << 32;

impl SequenceSet {
    /// True when the number was not in the set before.
    pub fn insert(&mut self, number: u64) -> bool {
        if number >= SEQUENCE_MAX {
            return true;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.words.len() {
            // Grown by halves, so that a run of millions does not copy the set at each step.
            self.words.resize((word + 1).max(self.words.len() * 3 / 2).max(64), 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u64::from(is_new);
        is_new
    }

    /// Whether the number is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.words.get((number / 64) as usize).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// How many numbers are in the set.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The largest number in the set.
    pub fn last(&self) -> Option<u64> {
        let word = self.words.iter().rposition(|word| *word != 0)?;
        Some(word as u64 * 64 + 63 - u64::from(self.words[word].leading_zeros()))
    }

    /// Adds every number of another set.
    pub fn merge(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
        self.count = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
    }

    /// Numbers of this set that the other lacks, as ranges, at most `ranges_max` of them.
    pub fn without(&self, other: &Self, ranges_max: usize) -> Vec<Range<u64>> {
        let end = self.last().map_or(0, |last| last + 1);
        ranges(end, ranges_max, |word| {
            self.words.get(word).copied().unwrap_or(0) & !other.words.get(word).copied().unwrap_or(0)
        })
    }

    /// Numbers below `end` that the set lacks, as ranges, at most `ranges_max` of them.
    pub fn missing_below(&self, end: u64, ranges_max: usize) -> Vec<Range<u64>> {
        ranges(end, ranges_max, |word| !self.words.get(word).copied().unwrap_or(0))
    }
}

/// Runs of one-bits below `end` in the words that `word` gives.
fn ranges(end: u64, ranges_max: usize, word: impl Fn(usize) -> u64) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    for index in 0..end.div_ceil(64) as usize {
        let mut bits = word(index);
        while bits != 0 {
            let from = u64::from(bits.trailing_zeros());
            let length = u64::from((bits >> from).trailing_ones());
            bits &= if from + length == 64 { 0 } else { u64::MAX << (from + length) };
            let start = index as u64 * 64 + from;
            let range = start..(start + length).min(end);
            if range.is_empty() {
                break;
            }
            let full = found.len() == ranges_max;
            match found.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ if full => return found,
                _ => found.push(range),
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks() {
        let mark = Mark { run: 0xbe, sequence: 7, scheduled_us: 1_700_000_000_000_000, recipients: 1 };
        assert_eq!(Mark::parse(b"000000be-0000000007-1700000000000000"), Some(mark));
        assert_eq!(Mark::parse(b"be-7-1700000000000000-3\r"), Some(Mark { recipients: 3, ..mark }));
        for wrong in
            ["", "be", "be-7", "be-x-1", "zz-7-1", "be-7-1-0", "be-7-1-1-1", "be-7-99999999999999999999"]
        {
            assert_eq!(Mark::parse(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "the ranges are what is compared")]
    fn gaps_and_duplicates() {
        let mut set = SequenceSet::default();
        for number in (0..300).filter(|n| !(60..70).contains(n) && *n != 128) {
            assert!(set.insert(number));
        }
        assert!(!set.insert(0), "a duplicate");
        assert_eq!(set.len(), 289);
        assert_eq!(set.last(), Some(299));
        assert_eq!(set.missing_below(300, 9), [60..70, 128..129]);
        assert_eq!(set.missing_below(310, 9), [60..70, 128..129, 300..310]);
        assert_eq!(set.missing_below(310, 1), [60..70]);
        assert_eq!(set.missing_below(0, 9), []);
        assert_eq!(SequenceSet::default().missing_below(1000, 9), [0..1000]);

        let mut other = SequenceSet::default();
        other.insert(65);
        assert_eq!(other.without(&set, 9), [65..66]);
        set.merge(&other);
        assert_eq!(other.without(&set, 9), []);
        assert_eq!(set.len(), 290);
        assert!(set.contains(65) && !set.contains(66) && !set.contains(1 << 40));
    }

    #[test]
    fn a_strange_number_reserves_no_memory() {
        let mut set = SequenceSet::default();
        assert!(set.insert(u64::MAX));
        assert!(set.is_empty());
    }
}
