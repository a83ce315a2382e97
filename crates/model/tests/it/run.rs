//! How these tests get a model and its logits.

use falaj_artifact::{Digest, ModelFiles, Verified};
use falaj_kernels::{Isa, KvFormat, Pool};
use falaj_model::{Batch, KvCache, LoadOptions, Model, ModelError, PAGE_TOKENS, Want, Workspace, load};

/// Through the loader that the built-in model takes. The bytes are leaked: tests are short.
pub fn load_gguf(bytes: Vec<u8>, isa: Option<Isa>) -> Result<Model, ModelError> {
    let digest = Digest::of(&bytes);
    let files = Verified::<ModelFiles>::embedded(bytes.leak(), digest)?;
    load(&files, LoadOptions { isa, threads: 2, ..LoadOptions::default() })
}

/// Logits of every position, (tokens, V), with the prompt cut into steps of `chunk` rows.
pub fn logits(model: &Model, tokens: &[u32], format: KvFormat, chunk: usize) -> Vec<Vec<f32>> {
    let pages = tokens.len().div_ceil(PAGE_TOKENS);
    let mut cache = KvCache::new(model.config(), format, pages).unwrap();
    let mut ws = Workspace::new(model, Pool::new(2), chunk, chunk).unwrap();
    // Not in order, so that a mistake in paging shows.
    let table: Vec<u32> = (0..pages as u32).rev().collect();
    let mut batch = Batch::default();
    let mut all = Vec::new();
    for (number, part) in tokens.chunks(chunk).enumerate() {
        batch.clear();
        batch.sequence(&table);
        for (i, token) in part.iter().enumerate() {
            batch.push(*token, (number * chunk + i) as u32, Want::Logits);
        }
        model.forward(&mut ws, &mut cache, &batch).unwrap();
        all.extend((0..part.len()).map(|row| ws.logits(row).unwrap().to_vec()));
    }
    all
}

pub fn max_abs_diff(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b).flat_map(|(a, b)| a.iter().zip(b));
    pairs.fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}
