//! Numbers that a seed replays.

/// A sequence of numbers (SplitMix64; Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// From 0 up to, not including, 1.
    pub fn part(&mut self) -> f64 {
        part(self.number())
    }
}

/// From 0 up to, not including, 1.
pub fn part(number: u64) -> f64 {
    (number >> 11) as f64 / (1u64 << 53) as f64
}

/// A number that is as good as any, the same for the same number.
pub fn mixed(number: u64) -> u64 {
    let a = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}
