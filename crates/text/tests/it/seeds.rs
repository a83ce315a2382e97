//! The fuzz targets' seeds, run as ordinary tests: what was once found stays fixed.

use std::fs;
use std::path::Path;

#[path = "../../../../fuzz/src/grammar.rs"]
mod grammar;
#[path = "../../../../fuzz/src/sample.rs"]
mod sample;
#[path = "../../../../fuzz/src/template.rs"]
mod template;
#[path = "../../../../fuzz/src/tokenizer.rs"]
mod tokenizer;

#[test]
fn tokenizer_seeds() {
    each("tokenizer", tokenizer::run);
}

#[test]
fn template_seeds() {
    each("template", template::run);
}

#[test]
fn grammar_seeds() {
    each("grammar", grammar::run);
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
