//! From fields: an author is found or not, in one way only.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mailauth::fuzz::from(data));
