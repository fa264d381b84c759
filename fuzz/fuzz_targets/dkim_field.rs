//! DKIM and ARC signature fields: read or refused, within their limits.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mailauth::fuzz::field(data));
