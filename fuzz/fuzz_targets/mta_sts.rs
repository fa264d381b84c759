//! An MTA-STS policy file and the record that announces it.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    resolve::fuzzing::sts(octets);
});
