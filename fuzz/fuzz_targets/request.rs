//! libFuzzer's door to `falaj_fuzz::request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| falaj_fuzz::request::run(bytes));
