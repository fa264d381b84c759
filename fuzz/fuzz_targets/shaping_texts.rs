//! Rates, actions, triggers, names and dates of the rules for traffic.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    shaping::fuzzing::texts(octets);
});
