//! The fuzz target's seeds, run as an ordinary test: what was once found stays fixed.

use std::fs;
use std::path::Path;

#[path = "../../../../fuzz/src/ledger.rs"]
mod ledger;

#[test]
fn ledger_seeds() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/ledger");
    let mut count = 0;
    for entry in fs::read_dir(dir).expect("the seeds are in the repository") {
        let path = entry.expect("the directory can be listed").path();
        println!("{}", path.display());
        let bytes = fs::read(&path).expect("a seed can be read");
        ledger::run(&bytes);
        // Files that were cut or damaged on the way.
        for at in 0..bytes.len() {
            ledger::run(&bytes[..at]);
            let mut broken = bytes.clone();
            broken[at] ^= 0x5a;
            ledger::run(&broken);
        }
        count += 1;
    }
    assert!(count > 0);
}
