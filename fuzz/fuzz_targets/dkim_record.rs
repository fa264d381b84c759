//! Key records: read or refused, and no key finds nonsense good.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mailauth::fuzz::record(data));
