//! A pattern of an order, and what it names.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    queue::fuzzing::order_pattern(octets);
});
