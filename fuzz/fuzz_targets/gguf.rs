//! libFuzzer's door to `falaj_fuzz::gguf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| falaj_fuzz::gguf::run(bytes));
