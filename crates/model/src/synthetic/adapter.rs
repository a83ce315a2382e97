//! Adapters made of a hash, in the form that PEFT writes: for tests of everything that loads or mixes them.

use std::collections::BTreeMap;

use falaj_artifact::safetensors::SafetensorsWriter;
use falaj_artifact::{AdapterConfig, Digest, Dtype};
use falaj_kernels::{Format, Isa, Ops, RopeLayout};
use falaj_tensor::SharedBytes;

use super::{Checkpoint, fnv1a64, splitmix64};
use crate::export::Source;
use crate::{Adapter, Config, Model, ModelError, Naming, Slot};

/// An adapter of chosen modules of every layer, large enough to change what a synthetic model says.
#[derive(Clone, Debug)]
pub struct AdapterSample {
    config: Config,
    rank: usize,
    alpha: f32,
    seed: u64,
    targets: Vec<&'static str>,
    stabilized: bool,
}

impl AdapterSample {
    /// Of all modules, with alpha = 2 · rank.
    pub fn new(config: &Config, rank: usize, seed: u64) -> Self {
        let mut targets = vec!["q_proj", "k_proj", "v_proj", "o_proj"];
        if config.experts.is_none() {
            targets.extend(["gate_proj", "up_proj", "down_proj"]);
        }
        Self { config: config.clone(), rank, alpha: 2.0 * rank as f32, seed, targets, stabilized: false }
    }

    /// Of these modules only.
    pub fn of(self, targets: &[&'static str]) -> Self {
        Self { targets: targets.to_vec(), ..self }
    }

    /// What it adds is multiplied by `alpha / rank`.
    pub fn with_alpha(self, alpha: f32) -> Self {
        Self { alpha, ..self }
    }

    /// By `alpha / √rank` instead. Source: Kalajdzievski 2023 (rsLoRA).
    pub fn rank_stabilized(self) -> Self {
        Self { stabilized: true, ..self }
    }

    /// `adapter_config.json` and `adapter_model.safetensors`.
    ///
    /// # Errors
    /// Sizes that overflow.
    pub fn files(&self) -> Result<BTreeMap<&'static str, Vec<u8>>, ModelError> {
        let targets: Vec<String> = self.targets.iter().map(|target| format!("{target:?}")).collect();
        let (rank, alpha, stabilized) = (self.rank, self.alpha, self.stabilized);
        let config = format!(
            r#"{{"peft_type":"LORA","r":{rank},"lora_alpha":{alpha},"use_rslora":{stabilized},"target_modules":[{}],"bias":"none"}}"#,
            targets.join(",")
        );
        let modules: Vec<_> = Slot::all(&self.config).into_iter().filter_map(|slot| self.module(slot)).collect();
        let mut writer = SafetensorsWriter::new().metadata("format", "pt");
        for module in &modules {
            writer = writer.tensor(&module.name("A"), Dtype::F32, &[rank, module.inputs])?;
            writer = writer.tensor(&module.name("B"), Dtype::F32, &[module.outputs, rank])?;
        }
        let bytes = |values: &Vec<f32>| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let contents = modules.iter().flat_map(|module| [bytes(&module.a), bytes(&module.b)]);
        let weights = writer.write(Vec::new(), contents)?;
        Ok(BTreeMap::from([(AdapterConfig::FILE, config.into_bytes()), (AdapterConfig::WEIGHTS, weights)]))
    }

    /// Through the reader of files, without a disk.
    ///
    /// # Errors
    /// As [`Adapter::load`].
    pub fn load(&self, model: &Model) -> Result<Adapter, ModelError> {
        let mut files = self.files()?;
        let mut take = |name| files.remove(name).unwrap_or_default();
        let (config, weights) = (take(AdapterConfig::FILE), take(AdapterConfig::WEIGHTS));
        let digest = Digest::of(&weights);
        Adapter::parse(&AdapterConfig::parse(&config)?, SharedBytes::new(weights), model, digest)
    }

    /// A whole GGUF of `base` with this adapter merged into it.
    ///
    /// # Errors
    /// As [`Checkpoint::gguf`].
    pub fn merged(&self, base: &Checkpoint, format: Format) -> Result<Vec<u8>, ModelError> {
        let values = |slot| {
            let mut values = base.values(slot);
            if let Some(module) = self.module(slot) {
                let rows = values.chunks_exact_mut(module.inputs.max(1));
                for (row, b) in rows.zip(module.b.chunks_exact(self.rank.max(1))) {
                    for (b, a) in b.iter().zip(module.a.chunks_exact(module.inputs.max(1))) {
                        let rank = self.rank as f32;
                        let scale = self.alpha / if self.stabilized { rank.sqrt() } else { rank };
                        row.iter_mut().zip(a).for_each(|(value, a)| *value += scale * b * a);
                    }
                }
            }
            values
        };
        let source = Source { config: &self.config, layout: RopeLayout::Halves, values };
        source.write_gguf(&Ops::new(Isa::Scalar), &[], |_| format, Vec::new())
    }

    fn module(&self, slot: Slot) -> Option<Module> {
        let name = Naming::HuggingFace.name(slot);
        let name = name.strip_suffix(".weight")?.to_owned();
        if !self.targets.iter().any(|target| name.ends_with(target)) {
            return None;
        }
        let &[outputs, inputs] = slot.shape(&self.config).as_slice() else { return None };
        let values = |which: &str, count: usize, size: f32| {
            let start = fnv1a64(&format!("{name}.{which}")) ^ self.seed;
            let unit = |i: usize| (splitmix64(start.wrapping_add(i as u64)) >> 40) as f32 / 16_777_216.0;
            (0..count).map(|i| (unit(i) - 0.5) * size).collect::<Vec<f32>>()
        };
        let a = values("A", self.rank * inputs, 2.0 / (inputs as f32).sqrt());
        let b = values("B", outputs * self.rank, 1.0 / (self.rank as f32).sqrt());
        Some(Module { name, inputs, outputs, a, b })
    }
}

struct Module {
    name: String,
    inputs: usize,
    outputs: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Module {
    fn name(&self, which: &str) -> String {
        format!("base_model.model.{}.lora_{which}.weight", self.name)
    }
}
