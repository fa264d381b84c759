//! Arbitrary octets as orders.json, shaping.json and a line of a journal.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    delivery::fuzzing::state(octets);
});
