//! Header fields: spans nest and grow, and a field put in front changes no other.
#![no_main]

libfuzzer_sys::fuzz_target!(|content: &[u8]| message::fuzz::header(content));
