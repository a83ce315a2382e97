//! An export, loaded as a server would load it, and its logits beside the trainer's.

use std::path::Path;

use falaj_artifact::{ModelFiles, Verified};
use falaj_kernels::{KvFormat, Pool};
use falaj_model::{Batch, KvCache, LoadOptions, Model, ModelError, PAGE_TOKENS, Want, Workspace, load};

use crate::{TrainError, Trainer};

/// The root of the mean square difference, over that of the trainer's logits around their mean.
pub(super) fn distance(trainer: &mut Trainer, probe: &[u32], folder: &Path) -> Result<f32, TrainError> {
    let (tokens, trained) = trainer.probe(probe)?;
    let gguf = folder.join("model.gguf");
    let path = if gguf.exists() { gguf.as_path() } else { folder };
    let (files, _) = Verified::<ModelFiles>::as_found(path, "export", &mut |_| ())?;
    let threads = trainer.settings().threads;
    let model = load(&files, LoadOptions { threads, ..LoadOptions::default() })?;
    Ok(apart(&served(&model, &tokens, threads)?, &trained))
}

/// Logits after each of `tokens`, (tokens, V), as the engine would compute them.
fn served(model: &Model, tokens: &[u32], threads: usize) -> Result<Vec<f32>, ModelError> {
    let pages: Vec<u32> = (0..tokens.len().div_ceil(PAGE_TOKENS) as u32).collect();
    let mut cache = KvCache::new(model.config(), KvFormat::F32, pages.len())?;
    let mut ws = Workspace::new(model, Pool::new(threads), tokens.len(), tokens.len())?;
    let mut batch = Batch::with_capacity(tokens.len(), pages.len());
    batch.sequence(&pages);
    for (i, token) in tokens.iter().enumerate() {
        batch.push(*token, i as u32, Want::Logits);
    }
    model.forward(&mut ws, &mut cache, &batch)?;
    Ok((0..tokens.len()).flat_map(|row| ws.logits(row).unwrap_or_default().to_vec()).collect())
}

pub(super) fn apart(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    let n = b.len().max(1) as f64;
    let mean = b.iter().map(|b| f64::from(*b)).sum::<f64>() / n;
    let spread = b.iter().map(|b| (f64::from(*b) - mean).powi(2)).sum::<f64>();
    let off = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
    let share = (off / spread.max(1e-30)).sqrt() as f32;
    // What is no number is no match.
    if share.is_nan() { f32::INFINITY } else { share }
}
