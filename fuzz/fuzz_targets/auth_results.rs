//! Authentication-Results: what is written is one field, and what is read says the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mailauth::fuzz::results(data));
