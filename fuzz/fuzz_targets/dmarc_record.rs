//! DMARC: whatever is published, the walks end.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mailauth::fuzz::dmarc(data));
