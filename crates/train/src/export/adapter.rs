//! An adapter as PEFT has it: `adapter_config.json`, and `adapter_model.safetensors` with the two matrices of each module in f32.
//! Source: PEFT's documentation of its checkpoint format. Rows follow Hugging Face's order, whatever the base's file has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use falaj_artifact::safetensors::{SafetensorsIndex, SafetensorsWriter};
use falaj_artifact::{AdapterConfig, Dtype, TensorEntry};
use falaj_kernels::{Format, Ops, RopeLayout};
use falaj_model::Config;
use falaj_model::export::reordered;
use falaj_tensor::{SharedBytes, Weight};
use serde_json::json;

use super::Export;
use super::round_trip::apart;
use crate::disk::Pending;
use crate::lora::{Adapter, Module, Target};
use crate::{Lora, TrainError, Trainer};

pub(super) fn write(export: &Export, trainer: &Trainer, pending: &Pending) -> Result<(), TrainError> {
    let adapter = adapter(trainer)?;
    pending.file(WEIGHTS, |out| {
        let rank = adapter.settings.rank;
        let mut writer = SafetensorsWriter::new().metadata("format", "pt");
        for module in &adapter.modules {
            writer = writer.tensor(&name(module, "A"), Dtype::F32, &[rank, module.inputs])?;
            writer = writer.tensor(&name(module, "B"), Dtype::F32, &[module.outputs, rank])?;
        }
        let mut stream = writer.begin(out)?;
        for module in &adapter.modules {
            stream.write(&bytes(&adapter.values[module.a.clone()]))?;
            stream.write(&bytes(&second(trainer.config(), adapter, module)))?;
        }
        stream.finish()?;
        Ok(())
    })?;
    let settings = &adapter.settings;
    let targets: Vec<&str> =
        Target::ALL.iter().filter(|target| settings.targets.contains(target)).map(|target| target.module()).collect();
    // Whole numbers where they are: readers declare alpha as one.
    let alpha = match settings.alpha.fract() == 0.0 && settings.alpha < 1e9 {
        true => json!(settings.alpha as u64),
        false => shortest(settings.alpha),
    };
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": export.base_name,
        "r": settings.rank,
        "lora_alpha": alpha,
        "lora_dropout": shortest(settings.dropout),
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "use_rslora": false,
        "use_dora": false,
        "modules_to_save": null,
    });
    pending.file(AdapterConfig::FILE, |out| {
        out.write_all(format!("{config:#}\n").as_bytes()).map_err(TrainError::io("write", pending.folder()))
    })?;
    Ok(())
}

/// The adapter in `folder`, for a model of `config`. A module without tensors stays as it is.
///
/// # Errors
/// Settings that are not computed here, tensors that no module of the model takes, and an adapter of no module at all.
pub(super) fn read(config: &Config, folder: &Path) -> Result<Adapter, TrainError> {
    let about = AdapterConfig::read(&folder.join(AdapterConfig::FILE))?;
    let path = folder.join(WEIGHTS);
    let file = SharedBytes::new(fs::read(&path).map_err(TrainError::io("read", &path))?);
    let index = SafetensorsIndex::parse(&file)?;
    // What the file holds is what counts: the settings may name modules by a pattern.
    let holds = |target: &Target| {
        let middle = format!(".{}.lora_", target.module());
        index.tensors.keys().any(|name| name.contains(&middle))
    };
    let targets: Vec<Target> = Target::ALL.into_iter().filter(holds).collect();
    let alpha = about.alpha * if about.rank_stabilized { (about.rank as f32).sqrt() } else { 1.0 };
    let mut adapter = Adapter::new(config, &Lora { rank: about.rank, alpha, dropout: 0.0, targets }, 0)?;
    adapter.values.fill(0.0);
    let mut known = BTreeSet::new();
    for module in adapter.modules.clone() {
        for (which, range) in [("A", &module.a), ("B", &module.b)] {
            let name = name(&module, which);
            let Some(entry) = index.tensors.get(&name) else { continue };
            let mut values = floats(&file, entry).ok_or_else(|| TrainError::NoSuchModule { name: name.clone() })?;
            if which == "B" && rotated(module.target) && config.rope.layout == RopeLayout::Interleaved {
                values = reordered(&values, about.rank, config.head_dim, RopeLayout::Interleaved);
            }
            if values.len() != range.len() {
                return Err(TrainError::NoSuchModule { name });
            }
            adapter.values[range.clone()].copy_from_slice(&values);
            known.insert(name);
        }
    }
    match index.tensors.keys().find(|name| !known.contains(*name)) {
        Some(name) => Err(TrainError::NoSuchModule { name: name.escape_debug().to_string() }),
        None => Ok(adapter),
    }
}

/// The values of a matrix, whatever kind of float they are.
fn floats(file: &SharedBytes, entry: &TensorEntry) -> Option<Vec<f32>> {
    let format = match entry.dtype {
        Dtype::F32 => Format::F32,
        Dtype::F16 => Format::F16,
        Dtype::BF16 => Format::BF16,
        _ => return None,
    };
    let &[rows, cols] = entry.shape.as_slice() else { return None };
    Some(Weight::new(format, rows, cols, file.slice(entry.range.clone())?).ok()?.dequantize(&Ops::best()))
}

/// Reads the written adapter into the trainer's place and compares logits with those before.
pub(super) fn round_trip(trainer: &mut Trainer, probe: &[u32], folder: &Path) -> Result<f32, TrainError> {
    let (_, trained) = trainer.probe(probe)?;
    let written = read(trainer.config(), folder)?;
    let kept = trainer.decoder.adapter.replace(written);
    let result = trainer.probe(probe);
    trainer.decoder.adapter = kept;
    Ok(apart(&result?.1, &trained))
}

fn adapter(trainer: &Trainer) -> Result<&Adapter, TrainError> {
    trainer
        .decoder
        .adapter
        .as_ref()
        .ok_or(TrainError::Unsupported { feature: "the export of a whole model as adapter" })
}

/// B, its rows in Hugging Face's order.
fn second(config: &Config, adapter: &Adapter, module: &Module) -> Vec<f32> {
    let values = &adapter.values[module.b.clone()];
    match config.rope.layout {
        RopeLayout::Interleaved if rotated(module.target) => {
            reordered(values, adapter.settings.rank, config.head_dim, RopeLayout::Halves)
        }
        _ => values.to_vec(),
    }
}

/// 0.05 and not 0.05000000074505806.
fn shortest(value: f32) -> serde_json::Value {
    json!(value.to_string().parse().unwrap_or(f64::from(value)))
}

fn rotated(target: Target) -> bool {
    matches!(target, Target::Query | Target::Key)
}

fn name(module: &Module, which: &str) -> String {
    let part = match module.target {
        Target::Gate | Target::Up | Target::Down => "mlp",
        Target::Query | Target::Key | Target::Value | Target::Output => "self_attn",
    };
    format!("base_model.model.model.layers.{}.{part}.{}.lora_{which}.weight", module.layer, module.target.module())
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

const WEIGHTS: &str = AdapterConfig::WEIGHTS;
