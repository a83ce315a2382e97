//! libFuzzer's door to `falaj_fuzz::rows`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| falaj_fuzz::rows::run(bytes));
