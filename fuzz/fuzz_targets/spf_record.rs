//! SPF: whatever a domain publishes, the check ends within its limits.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mailauth::fuzz::spf(data));
