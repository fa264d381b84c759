//! Randomness from a seed.

/// A generator whose seed replays a run.
pub struct Random(pub u64);

impl Random {
    /// A number below another.
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 33) % below.max(1)
    }
}
