//! libFuzzer's door to `falaj_fuzz::tokenizer`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: falaj_fuzz::let_panics_be_caught(), |bytes: &[u8]| falaj_fuzz::tokenizer::run(bytes));
