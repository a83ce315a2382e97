//! A model that nobody trains in another form, with an adapter merged into it where there is one.

use std::path::Path;

use falaj_artifact::{ModelFiles, Verified};
use falaj_kernels::Ops;
use falaj_model::parameters;

use super::{Export, ExportFormat, PROBE_TOKENS, adapter};
use crate::{Lora, Optimization, Settings, Start, Target, TrainError, Trainer};

/// Writes `base` into the folder `target` as `format`, W + (alpha / rank) · B A for what the adapter in the folder `adapter` changes,
/// and returns how far the logits lie from those of base and adapter before, as a share of their spread.
///
/// # Errors
/// As [`Export::write`], and an adapter that does not fit the base.
pub fn convert(
    base: &Verified<ModelFiles>,
    adapter: Option<&Path>,
    name: &str,
    format: ExportFormat,
    target: &Path,
    threads: usize,
) -> Result<f32, TrainError> {
    let (config, params) = parameters(base, &Ops::best())?;
    let adapter = adapter.map(|folder| adapter::read(&config, folder)).transpose()?;
    // A trainer computes the logits to compare with; without an adapter it gets one that is taken out again.
    let least = Lora { rank: 1, alpha: 1.0, dropout: 0.0, targets: vec![Target::Query] };
    let lora = adapter.as_ref().map_or(least, |adapter| adapter.settings.clone());
    let optimization = Optimization::default();
    let settings = Settings { threads, max_tokens: PROBE_TOKENS, seed: 0, recompute: true, optimization };
    let mut trainer = Trainer::new(Start::Lora { config, base: params, lora }, settings)?;
    trainer.decoder.adapter = adapter;
    Export { base: Some(base), name, base_name: name, record: None, probe: &[] }.write(&mut trainer, format, target)
}
