//! ARC: whatever the header holds, a chain is judged within its bounds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mailauth::fuzz::arc(data));
