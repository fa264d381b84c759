//! Arbitrary octets as heads, record headers, segment headers and sidecars of the spool.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    spool::decode_arbitrary(octets);
});
