//! Arbitrary octets as records of the suppression list.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| suppression::decode_arbitrary(octets));
