//! Where reports about TLS go, and the counts kept for them.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    delivery::fuzzing::tls_reports(octets);
});
