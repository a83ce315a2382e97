//! libFuzzer's door to `falaj_fuzz::suites`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| falaj_fuzz::suites::run(bytes));
