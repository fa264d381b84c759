//! A reply pattern and a reply.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    shaping::fuzzing::reply_pattern(octets);
});
