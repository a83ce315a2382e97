//! libFuzzer's door to `falaj_fuzz::ledger`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| falaj_fuzz::ledger::run(bytes));
