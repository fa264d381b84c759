//! Canonical headers and bodies: the same however they are cut, and the same again when taken once more.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mailauth::fuzz::canon(data));
