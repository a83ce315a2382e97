//! libFuzzer's door to `falaj_fuzz::model`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| falaj_fuzz::model::run(bytes));
