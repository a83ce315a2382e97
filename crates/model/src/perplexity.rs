//! How well a model foretells a text: what is lost by a format of weights or of the cache shows here. For measurements; the
//! engine does not use it.

use falaj_kernels::{KvFormat, Pool};

use crate::{Batch, KvCache, Model, ModelError, PAGE_TOKENS, Want, Workspace};

/// What [`perplexity()`] found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// Predictions made.
    pub tokens: usize,
    /// The mean of −ln p(next token).
    pub nll: f64,
}

impl Perplexity {
    /// e^nll.
    pub fn value(&self) -> f64 {
        crate::elementary::exp(self.nll)
    }
}

/// Of `tokens`, cut into windows of `window` that do not see each other; within one, every token but the first is foretold
/// from those before it. The cache keeps keys and values in `cache`.
///
/// # Errors
/// Tokens beyond the vocabulary, and sizes that this machine cannot hold.
pub fn perplexity(
    model: &Model,
    tokens: &[u32],
    window: usize,
    cache: KvFormat,
    threads: usize,
) -> Result<Perplexity, ModelError> {
    let window = window.max(2);
    let pages: Vec<u32> = (0..window.div_ceil(PAGE_TOKENS) as u32).collect();
    let mut cache = KvCache::new(model.config(), cache, pages.len())?;
    let mut ws = Workspace::new(model, Pool::new(threads), STEP, STEP)?;
    let mut batch = Batch::with_capacity(STEP, pages.len());
    let (mut sum, mut count) = (0.0, 0);
    for window in tokens.chunks(window) {
        let Some((_, targets)) = window.split_first() else { continue };
        let mut position = 0;
        for (inputs, targets) in window.chunks(STEP).zip(targets.chunks(STEP)) {
            batch.clear();
            batch.sequence(&pages);
            for token in inputs.iter().take(targets.len()) {
                batch.push(*token, position, Want::Logits);
                position += 1;
            }
            model.forward(&mut ws, &mut cache, &batch)?;
            for (row, &target) in targets.iter().enumerate() {
                let logits = ws.logits(row).unwrap_or_default();
                let Some(&target_logit) = logits.get(target as usize) else {
                    return Err(ModelError::TokenOutOfRange { token: target, vocab_size: model.vocab_size() });
                };
                let most = logits.iter().fold(f32::NEG_INFINITY, |most, logit| most.max(*logit));
                let total: f64 = logits.iter().map(|logit| (f64::from(*logit) - f64::from(most)).exp()).sum();
                sum += total.ln() - (f64::from(target_logit) - f64::from(most));
                count += 1;
            }
        }
    }
    Ok(Perplexity { tokens: count, nll: sum / count.max(1) as f64 })
}

/// Rows per step.
const STEP: usize = 128;
