//! Delivery status notifications: whatever the bytes, reading ends without a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|content: &[u8]| message::fuzz::dsn(content));
