//! The fuzz targets' seeds, run as ordinary tests: what was once found stays fixed.

use std::fs;
use std::path::Path;

#[path = "../../../../fuzz/src/gguf.rs"]
pub mod gguf;
#[path = "../../../../fuzz/src/safetensors.rs"]
pub mod safetensors;

#[test]
fn safetensors_seeds() {
    each("safetensors", safetensors::run);
}

#[test]
fn gguf_seeds() {
    each("gguf", gguf::run);
}

fn each(target: &str, run: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut count = 0;
    for entry in fs::read_dir(dir).expect("the seeds are in the repository") {
        let path = entry.expect("the directory can be listed").path();
        println!("{}", path.display());
        run(&fs::read(&path).expect("a seed can be read"));
        count += 1;
    }
    assert!(count > 0, "there are seeds for {target}");
}
