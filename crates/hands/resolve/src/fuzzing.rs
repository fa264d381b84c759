//! What the fuzz target calls: any octets as what a domain publishes for MTA-STS, of which a broken promise is a panic.

use crate::{POLICY_OCTETS_MAX, StsPolicy, sts_id};

/// Octets as a policy file, and as TXT records, one a line.
pub fn sts(input: &[u8]) {
    if let Ok(policy) = StsPolicy::parse(input) {
        assert!(input.len() <= POLICY_OCTETS_MAX);
        assert_eq!(StsPolicy::parse(policy.to_text().as_bytes()).as_ref(), Ok(&policy));
        for mx in &policy.mx {
            assert!(policy.allows(&mx.replace("*.", "x.")), "{mx}");
            assert!(!mx.starts_with("*.") || !policy.allows("") && !policy.allows("."), "{mx}");
        }
    }
    if let Some(id) = sts_id(input.split(|octet| *octet == b'\n')) {
        assert!((1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A short run, the same on each machine: good files, mutated.
    #[test]
    fn mutated_policies_and_records_break_no_promise() {
        let seeds: [&[u8]; 3] = [
            b"version: STSv1\r\nmode: enforce\r\nmx: *.a.test\r\nmx: b.test\r\nmax_age: 604800\r\n",
            b"version: STSv1\nmode: none\nmax_age: 0\n",
            b"v=STSv1; id=20160831085700Z;\nother",
        ];
        let mut state = 7u64;
        let mut below = |n: usize| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
        };
        for _ in 0..20_000 {
            let mut octets = seeds[below(seeds.len())].to_vec();
            for _ in 0..=below(4) {
                let at = below(octets.len());
                if octets.is_empty() {
                    break;
                }
                match below(4) {
                    0 => octets[at] = below(256) as u8,
                    1 => drop(octets.remove(at)),
                    2 => octets.insert(at, b"*.: \r\n;=0v"[below(10)]),
                    _ => octets.truncate(at.max(1)),
                }
            }
            sts(&octets);
        }
    }
}
