//! libFuzzer's door to `falaj_fuzz::safetensors`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| falaj_fuzz::safetensors::run(bytes));
