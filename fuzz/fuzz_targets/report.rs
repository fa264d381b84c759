//! Bounces and complaints that come as mail: whatever the bytes, reading ends without a panic, within its bounds.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bounce::fuzz::report(octets));
