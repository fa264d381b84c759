//! SPF, DKIM, DMARC, ARC: verdicts and signatures.
//!
//! Rules only: it asks for DNS answers and is given them, never fetches them; time is an argument.

pub mod arc;
mod base64;
pub mod dkim;
pub mod dmarc;
pub mod dns;
mod from;
pub mod iprev;
mod psl;
pub mod results;
pub mod spf;

pub use base64::{decode as base64_decode, encode as base64_encode};
pub use from::{AUTHORS_MAX, FromError, author_domains, from_domain};

/// Entry points for the fuzz targets: total functions that must neither panic nor loop.
#[doc(hidden)]
pub mod fuzz {
    pub use crate::arc::fuzz_arc as arc;
    pub use crate::dkim::fuzz::{canon, field, record};
    pub use crate::dmarc::fuzz_dmarc as dmarc;
    pub use crate::dmarc::report::fuzz_lines as report_lines;
    pub use crate::from::fuzz_from as from;
    pub use crate::results::fuzz_results as results;
    pub use crate::spf::fuzz_spf as spf;
}

#[cfg(test)]
mod tests {
    /// The numbers of splitmix64: the same in every run.
    pub(crate) struct Random(pub u64);

    impl Random {
        pub(crate) fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        pub(crate) fn below(&mut self, n: usize) -> usize {
            (self.next() % n as u64) as usize
        }

        pub(crate) fn chance(&mut self) -> bool {
            self.next() & 1 == 1
        }
    }
}
