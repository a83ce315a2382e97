//! The fuzz target's seeds, run as an ordinary test: what was once found stays fixed.

use std::fs;
use std::path::Path;

#[path = "../../../../fuzz/src/model.rs"]
mod model;

#[test]
fn model_seeds() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/model");
    let mut count = 0;
    for entry in fs::read_dir(dir).expect("the seeds are in the repository") {
        let path = entry.expect("the directory can be listed").path();
        println!("{}", path.display());
        model::run(&fs::read(&path).expect("a seed can be read"));
        count += 1;
    }
    assert!(count > 0);
}
