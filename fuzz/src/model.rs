//! Any bytes as a configuration and as a whole GGUF model: what loads must run, whatever its sizes and weights.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use falaj_artifact::Verified;
use falaj_artifact::gguf::Gguf;
use falaj_kernels::{KvFormat, Pool};
use falaj_model::{Batch, Config, KvCache, LoadOptions, Model, Want, Workspace, load};

/// # Panics
/// When a model that loaded does not run.
pub fn run(bytes: &[u8]) {
    let _ = Config::from_hugging_face(bytes);
    let _ = Config::from_mistral(bytes);
    // Files cost time: only those that pass the first two gates are written.
    let Ok(gguf) = Gguf::parse(bytes) else { return };
    if let Err(error) = Config::from_gguf(&gguf) {
        assert!(error.to_string().len() < 4000);
        return;
    }
    let path = file();
    fs::write(path, bytes).expect("the file can be written");
    let (files, _) = Verified::as_found(path, "fuzzed", &mut |_| ()).expect("what parses in memory parses on disk");
    match load(&files, LoadOptions::default()) {
        Ok(model) => step(&model),
        Err(error) => assert!(error.to_string().len() < 4000),
    }
}

fn step(model: &Model) {
    let mut cache = KvCache::new(model.config(), KvFormat::F16, 1).expect("one page fits");
    let mut ws = Workspace::new(model, Pool::new(1), 2, 2).expect("two rows fit");
    let last = u32::try_from(model.vocab_size() - 1).expect("a vocabulary has 32-bit ids");
    let mut batch = Batch::default();
    batch.sequence(&[0]);
    for (position, token) in [(0, 0), (1, last)] {
        if position < model.context_tokens() as u32 {
            batch.push(token, position, Want::Logits);
        }
    }
    model.forward(&mut ws, &mut cache, &batch).expect("a model that loaded runs");
    assert_eq!(ws.logits(0).map(|row| row.len()), Some(model.vocab_size()));
}

/// One file per process, in memory where the system has such a place.
fn file() -> &'static PathBuf {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let dir = if memory.is_dir() { memory } else { std::env::temp_dir() };
        dir.join(format!("falaj-fuzz-{}.gguf", std::process::id()))
    })
}
