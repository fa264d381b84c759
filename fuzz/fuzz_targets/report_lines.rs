//! Lines of DMARC reports make well-formed documents.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mailauth::fuzz::report_lines(data));
