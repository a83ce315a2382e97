//! From a trained model to files that others read: a Hugging Face folder, a GGUF, or an adapter as PEFT has it. Each export is whole
//! or not there, and is loaded again and asked for the trained model's logits before it is.

mod adapter;
mod convert;
mod round_trip;
mod words;

use std::fs;
use std::path::Path;

use falaj_artifact::{ModelFiles, Verified};
use falaj_kernels::Format;
use falaj_model::export::{Source, hugging_face_json, or_wider, q4_k_m};
use falaj_model::{Config, Naming, Slot};
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, Pending};
use crate::weights::Weights;
use crate::{MicroBatch, Record, TrainError, Trainer};

pub use convert::convert;
pub(crate) use words::check as check_words;

/// In what form a model leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExportFormat {
    /// `model.safetensors` in bf16 with `config.json` and the base's tokenizer.
    #[serde(rename = "safetensors")]
    Safetensors,
    #[serde(rename = "f16")]
    GgufF16,
    #[serde(rename = "q8_0")]
    GgufQ8_0,
    #[serde(rename = "q4_0")]
    GgufQ4_0,
    #[serde(rename = "q4_k_m")]
    GgufQ4KM,
    /// `adapter_model.safetensors` and `adapter_config.json`, without the base.
    #[serde(rename = "peft")]
    Peft,
}

impl ExportFormat {
    /// As recipes call it.
    pub fn name(self) -> &'static str {
        match self {
            ExportFormat::Safetensors => "safetensors",
            ExportFormat::GgufF16 => "f16",
            ExportFormat::GgufQ8_0 => "q8_0",
            ExportFormat::GgufQ4_0 => "q4_0",
            ExportFormat::GgufQ4KM => "q4_k_m",
            ExportFormat::Peft => "peft",
        }
    }

    /// Of every matrix of a GGUF.
    fn of(self, config: &Config, slot: Slot) -> Format {
        match self {
            ExportFormat::GgufQ8_0 => or_wider(config, slot, Format::Q8_0),
            ExportFormat::GgufQ4_0 => or_wider(config, slot, Format::Q4_0),
            ExportFormat::GgufQ4KM => q4_k_m(config, slot),
            ExportFormat::GgufF16 | ExportFormat::Safetensors | ExportFormat::Peft => Format::F16,
        }
    }

    /// How far the logits of what is served may lie from the trainer's, as a share of their spread: what rounding does, with room;
    /// a mistake in names or in the order of rows gives more than 1.
    fn tolerance(self) -> f32 {
        match self {
            ExportFormat::Safetensors | ExportFormat::GgufF16 | ExportFormat::Peft => 0.05,
            ExportFormat::GgufQ8_0 => 0.1,
            ExportFormat::GgufQ4_0 | ExportFormat::GgufQ4KM => 0.6,
        }
    }
}

/// What an export needs beside the trainer.
#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    /// Gives tokenizer and chat template.
    pub base: Option<&'a Verified<ModelFiles>>,
    /// Of the model, as users call it.
    pub name: &'a str,
    /// As PEFT's `base_model_name_or_path`.
    pub base_name: &'a str,
    /// Of the training; `None` where there was none.
    pub record: Option<&'a Record>,
    /// A text on which trained and exported model are compared; its first tokens are used.
    pub probe: &'a [u32],
}

impl Export<'_> {
    /// Writes `trainer`'s model into the folder `target`, replacing one that is there, and returns how far the logits lie apart, as a
    /// share of their spread.
    ///
    /// # Errors
    /// Those of the disk, a form that this base has no tokenizer for, and a round trip that gives other logits; nothing is at
    /// `target` then.
    pub fn write(&self, trainer: &mut Trainer, format: ExportFormat, target: &Path) -> Result<f32, TrainError> {
        let pending = Disk::real().begin(target)?;
        let result = self.fill(trainer, format, &pending);
        match result {
            Ok(distance) => {
                pending.publish()?;
                Ok(distance)
            }
            Err(error) => {
                // What is left is hidden and cleared away by the next; the first error is the one to tell.
                let _ = fs::remove_dir_all(pending.folder());
                Err(error)
            }
        }
    }

    fn fill(&self, trainer: &mut Trainer, format: ExportFormat, pending: &Pending) -> Result<f32, TrainError> {
        match format {
            ExportFormat::Safetensors => self.safetensors(trainer, pending)?,
            ExportFormat::Peft => adapter::write(self, trainer, pending)?,
            _ => self.gguf(trainer, format, pending)?,
        }
        if let Some(record) = self.record {
            pending.file(Record::FILE, |out| {
                let text = serde_json::to_string_pretty(record).unwrap_or_default();
                out.write_all(text.as_bytes()).map_err(TrainError::io("write", pending.folder()))
            })?;
        }
        let distance = match format {
            ExportFormat::Peft => adapter::round_trip(trainer, self.probe, pending.folder())?,
            _ => round_trip::distance(trainer, self.probe, pending.folder())?,
        };
        let most = format.tolerance();
        if distance > most {
            return Err(TrainError::RoundTrip { path: pending.folder().to_path_buf(), found: distance, most });
        }
        Ok(distance)
    }

    fn safetensors(&self, trainer: &Trainer, pending: &Pending) -> Result<(), TrainError> {
        let config = trainer.config();
        let sides = self.base.map_or(Ok(Vec::new()), words::files)?;
        let ops = &trainer.decoder.machine.ops;
        pending.file("model.safetensors", |out| {
            let (layout, values) = (config.rope.layout, |slot| trainer.merged(slot));
            Source { config, layout, values }.write_safetensors(ops, Naming::HuggingFace, Format::BF16, out)?;
            Ok(())
        })?;
        pending.file("config.json", |out| {
            let json = hugging_face_json(config, "bfloat16")?;
            out.write_all(json.as_bytes()).map_err(TrainError::io("write", pending.folder()))
        })?;
        for (name, bytes) in sides {
            pending.file(name, |out| out.write_all(&bytes).map_err(TrainError::io("write", pending.folder())))?;
        }
        Ok(())
    }

    fn gguf(&self, trainer: &Trainer, format: ExportFormat, pending: &Pending) -> Result<(), TrainError> {
        let config = trainer.config();
        let mut metadata = self.base.map_or(Ok(Vec::new()), |base| words::metadata(base, config.vocab_size))?;
        metadata.push(("general.name".to_owned(), self.name.into()));
        let ops = &trainer.decoder.machine.ops;
        pending.file("model.gguf", |out| {
            let (layout, values) = (config.rope.layout, |slot| trainer.merged(slot));
            let source = Source { config, layout, values };
            source.write_gguf(ops, &metadata, |slot| format.of(config, slot), out)?;
            Ok(())
        })?;
        Ok(())
    }
}

impl Trainer {
    /// The parameter at `slot` as it is after training, the adapter merged into it: W + (alpha / rank) · B A. Row-major.
    pub fn merged(&self, slot: Slot) -> Vec<f32> {
        let decoder = &self.decoder;
        let mut values = match &decoder.weights {
            Weights::Trained(arena) => arena.get(slot).to_vec(),
            Weights::Frozen(frozen) => match frozen.params().matrix(slot) {
                Some(weight) => weight.dequantize(&decoder.machine.ops),
                None => frozen.params().vector(slot).unwrap_or_default().to_vec(),
            },
        };
        if let Some(adapter) = &decoder.adapter {
            adapter.merge(slot, &mut values);
        }
        values
    }

    /// Logits for the beginning of `probe`, (tokens, V), and those tokens.
    fn probe(&mut self, probe: &[u32]) -> Result<(Vec<u32>, Vec<f32>), TrainError> {
        let most = self.settings().max_tokens.min(self.config().context_tokens).min(PROBE_TOKENS) / 2 * 2;
        let vocab_size = self.config().vocab_size as u32;
        // Any tokens do where no text was given.
        let any = (0..most as u32).map(|i| (i * 7919 + 11) % vocab_size);
        let tokens: Vec<u32> = if probe.len() < 2 { any.collect() } else { probe.iter().copied().take(most).collect() };
        let tokens = tokens[..tokens.len() / 2 * 2].to_vec();
        let targets = vec![0; tokens.len()];
        let length = tokens.len();
        let logits = self.logits(&MicroBatch::plain(tokens.clone(), targets, length))?;
        Ok((tokens, logits))
    }
}

const PROBE_TOKENS: usize = 64;
