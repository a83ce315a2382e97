//! An adapter as PEFT has it: `adapter_config.json`, and `adapter_model.safetensors` with the two matrices of each module in f32.
//! Source: PEFT's documentation of its checkpoint format. Rows follow Hugging Face's order, whatever the base's file has.

use std::fs;
use std::path::Path;

use falaj_artifact::Dtype;
use falaj_artifact::safetensors::{SafetensorsIndex, SafetensorsWriter};
use falaj_kernels::RopeLayout;
use falaj_model::Config;
use falaj_model::export::reordered;
use serde_json::json;

use super::Export;
use super::round_trip::apart;
use crate::disk::Pending;
use crate::lora::{Adapter, Module, Target};
use crate::{TrainError, Trainer};

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
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": export.base_name,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "use_rslora": false,
        "use_dora": false,
        "modules_to_save": null,
    });
    pending.file("adapter_config.json", |out| {
        out.write_all(format!("{config:#}\n").as_bytes()).map_err(TrainError::io("write", pending.folder()))
    })?;
    Ok(())
}

/// Reads the written matrices into the trainer's place and compares logits with those before.
pub(super) fn round_trip(trainer: &mut Trainer, probe: &[u32], folder: &Path) -> Result<f32, TrainError> {
    let (_, trained) = trainer.probe(probe)?;
    let path = folder.join(WEIGHTS);
    let file = fs::read(&path).map_err(TrainError::io("read", &path))?;
    let index = SafetensorsIndex::parse(&file)?;
    let config = trainer.config().clone();
    let kept = adapter(trainer)?.clone();
    let mut read = kept.clone();
    for module in &kept.modules {
        for (which, range) in [("A", &module.a), ("B", &module.b)] {
            let name = name(module, which);
            let entry = index.tensors.get(&name).and_then(|entry| file.get(entry.range.clone()));
            let entry = entry.ok_or_else(|| TrainError::NoSuchModule { name: name.clone() })?;
            let values: Vec<f32> = entry.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let values = match which {
                "B" if rotated(module.target) && config.rope.layout == RopeLayout::Interleaved => {
                    reordered(&values, kept.settings.rank, config.head_dim, RopeLayout::Interleaved)
                }
                _ => values,
            };
            read.values[range.clone()].copy_from_slice(&values);
        }
    }
    trainer.decoder.adapter = Some(read);
    let result = trainer.probe(probe);
    trainer.decoder.adapter = Some(kept);
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

const WEIGHTS: &str = "adapter_model.safetensors";
