//! What the fuzz targets do, one plain function per kind of foreign bytes. A function must return for any bytes whatever;
//! a panic, an abort or an allocation out of proportion is the bug that is looked for. The same files are included by the
//! tests of the crates, which run every seed.

use std::collections::HashSet;
use std::sync::Mutex;

pub mod gguf;
pub mod grammar;
pub mod ledger;
pub mod model;
pub mod request;
pub mod rows;
pub mod safetensors;
pub mod sample;
pub mod suites;
pub mod template;
pub mod tokenizer;

/// Takes libFuzzer's panic hook away, which aborts on a panic that somebody is about to catch. Libraries below `text` panic on
/// some lying files, and `text` turns that into errors; a panic that nobody catches still ends the run. Each place that
/// panics is named once.
pub fn let_panics_be_caught() {
    let seen = Mutex::new(HashSet::new());
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        if seen.lock().is_ok_and(|mut seen| seen.insert(place)) {
            eprintln!("{panic}");
        }
    }));
}
