//! Models made of a hash instead of training: for tests of everything above the kernels, here and in other crates. The
//! formula is shared with `tests/golden/make_golden.py`, so that PyTorch computes with the same weights.

use falaj_artifact::gguf::GgufWriter;
use falaj_artifact::safetensors::SafetensorsWriter;
use falaj_artifact::{ArtifactError, Dtype};
use falaj_kernels::{Format, Isa, Ops, RopeLayout};
use falaj_tensor::SharedBytes;

use crate::load::Source;
use crate::{Config, LoadOptions, Model, ModelError, Naming, RopeScaling, Slot};

/// A model of this configuration with weights that depend on `seed` only, in f32, made through the ordinary loader. Its
/// context, sizes and scaling are the configuration's; the RoPE layout becomes GGUF's.
///
/// # Errors
/// As [`crate::load()`], for configurations that no file could hold either.
pub fn synthetic(config: &Config, seed: u64) -> Result<Model, ModelError> {
    let file = Checkpoint::new(config.clone(), seed)?.gguf(|_| Format::F32)?;
    Source::gguf(SharedBytes::new(file))?.into_model(LoadOptions::default(), None)
}

/// A small decoder for tests: 2 layers, 4 heads over 2 key and value heads, untied.
pub fn tiny_config(vocab_size: usize, context_tokens: usize) -> Config {
    Config {
        vocab_size,
        hidden_size: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        ffn_size: 128,
        norm_eps: 1e-5,
        rope: crate::Rope { theta: 10_000.0, layout: RopeLayout::Halves, scaling: RopeScaling::None },
        sliding_window: None,
        tied_head: false,
        experts: None,
        context_tokens,
    }
}

/// The weights of a synthetic model, to be written in any of the forms that the loader reads.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    config: Config,
    seed: u64,
}

impl Checkpoint {
    /// # Errors
    /// A configuration that no decoder can have.
    pub fn new(config: Config, seed: u64) -> Result<Self, ModelError> {
        Ok(Self { config: config.checked()?, seed })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The values of `slot`, row-major, in Hugging Face's order of rows. The formula is in `tests/golden/README.md`.
    pub fn values(&self, slot: Slot) -> Vec<f32> {
        let shape = slot.shape(&self.config);
        let start = fnv1a64(&Naming::HuggingFace.name(slot)) ^ self.seed;
        let unit = |i: usize| (splitmix64(start.wrapping_add(i as u64)) >> 40) as f32 / 16_777_216.0;
        let count = shape.iter().product();
        match shape.as_slice() {
            [_] => (0..count).map(|i| 1.0 + (unit(i) - 0.5) * 0.2).collect(),
            [.., cols] => {
                let scale = (1.0 / (*cols as f64).sqrt()) as f32 * 2.0;
                (0..count).map(|i| (unit(i) - 0.5) * scale).collect()
            }
            [] => Vec::new(),
        }
    }

    /// The values of `slot` for RoPE over adjacent pairs: query and key rows of each head are interleaved.
    fn interleaved(&self, slot: Slot) -> Vec<f32> {
        let values = self.values(slot);
        if !matches!(slot, Slot::Query { .. } | Slot::Key { .. }) {
            return values;
        }
        let (d, e) = (self.config.hidden_size, self.config.head_dim);
        let rows: Vec<&[f32]> = values.chunks_exact(d).collect();
        // Row 2i of a head is its half's row i, row 2i + 1 the one half a head further.
        let from = |row: usize| row - row % e + (row % e) / 2 + (row % 2) * (e / 2);
        (0..rows.len()).filter_map(|row| rows.get(from(row))).flat_map(|row| row.iter().copied()).collect()
    }

    /// A whole GGUF file; `format` chooses per matrix. Norms stay f32.
    ///
    /// # Errors
    /// Rows that are no whole blocks of a format.
    pub fn gguf(&self, format: impl Fn(Slot) -> Format) -> Result<Vec<u8>, ModelError> {
        let config = &self.config;
        let ops = Ops::new(Isa::Scalar);
        let mut writer = GgufWriter::new("llama")
            .set("llama.vocab_size", config.vocab_size as u32)
            .set("llama.context_length", config.context_tokens as u32)
            .set("llama.embedding_length", config.hidden_size as u32)
            .set("llama.block_count", config.layers as u32)
            .set("llama.feed_forward_length", config.ffn_size as u32)
            .set("llama.attention.head_count", config.heads as u32)
            .set("llama.attention.head_count_kv", config.kv_heads as u32)
            .set("llama.attention.key_length", config.head_dim as u32)
            .set("llama.attention.value_length", config.head_dim as u32)
            .set("llama.attention.layer_norm_rms_epsilon", config.norm_eps)
            .set("llama.rope.dimension_count", config.head_dim as u32)
            .set("llama.rope.freq_base", config.rope.theta as f32);
        if let Some(window) = config.sliding_window {
            writer = writer.set("llama.attention.sliding_window", window as u32);
        }
        if let Some(experts) = config.experts {
            writer = writer
                .set("llama.expert_count", experts.count as u32)
                .set("llama.expert_used_count", experts.used as u32);
        }
        let mut data = Vec::new();
        match &config.rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => {
                writer =
                    writer.set("llama.rope.scaling.type", "linear").set("llama.rope.scaling.factor", *factor as f32);
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context, attention_factor, .. } => {
                let default_factor = 0.1 * factor.ln() + 1.0;
                writer = writer
                    .set("llama.rope.scaling.type", "yarn")
                    .set("llama.rope.scaling.factor", *factor as f32)
                    .set("llama.rope.scaling.original_context_length", *original_context as u32)
                    .set("llama.rope.scaling.yarn_beta_fast", *beta_fast as f32)
                    .set("llama.rope.scaling.yarn_beta_slow", *beta_slow as f32)
                    .set("llama.rope.scaling.attn_factor", (attention_factor / default_factor) as f32);
            }
            RopeScaling::Factors(_) | RopeScaling::Llama3 { .. } => {
                let divisors = crate::rope::divisors(&config.rope, config.head_dim);
                writer = writer.tensor("rope_freqs.weight", Dtype::F32, &[divisors.len()])?;
                data.push(divisors.iter().flat_map(|divisor| divisor.to_le_bytes()).collect());
            }
        }
        for slot in Slot::all(config) {
            // Experts are stacked, as today's converters do: the first stands for all, the others ride along.
            let (name, slots, stack) = match slot {
                Slot::Gate { expert: Some(0), .. }
                | Slot::Up { expert: Some(0), .. }
                | Slot::Down { expert: Some(0), .. } => {
                    let slots =
                        (0..config.experts.map_or(0, |experts| experts.count)).map(|e| slot.of_expert(e)).collect();
                    (Naming::Gguf.stacked(slot).unwrap_or_default(), slots, true)
                }
                Slot::Gate { expert: Some(_), .. }
                | Slot::Up { expert: Some(_), .. }
                | Slot::Down { expert: Some(_), .. } => continue,
                _ => (Naming::Gguf.name(slot), vec![slot], false),
            };
            let mut shape = slot.shape(config);
            let cols = shape.last().copied().unwrap_or(0);
            let format = if shape.len() == 1 { Format::F32 } else { format(slot) };
            let row_bytes = format.row_bytes(cols).ok_or_else(|| partial_block(&name, format, cols))?;
            if stack {
                shape.insert(0, slots.len());
            }
            let mut bytes = Vec::new();
            for slot in slots {
                for row in self.interleaved(slot).chunks_exact(cols) {
                    let start = bytes.len();
                    bytes.resize(start + row_bytes, 0);
                    if let Some(out) = bytes.get_mut(start..) {
                        ops.quantize_row(format, row, out);
                    }
                }
            }
            writer = writer.tensor(&name, dtype_of(format), &shape)?;
            data.push(bytes);
        }
        Ok(writer.write(Vec::new(), data)?)
    }

    /// A whole safetensors file in the names of Hugging Face or Mistral, all tensors in `format`: F32, F16 or BF16.
    ///
    /// # Errors
    /// A format that safetensors cannot hold.
    pub fn safetensors(&self, naming: Naming, format: Format) -> Result<Vec<u8>, ModelError> {
        let ops = Ops::new(Isa::Scalar);
        let mut writer = SafetensorsWriter::new();
        let mut data = Vec::new();
        for slot in Slot::all(&self.config) {
            writer = writer.tensor(&naming.name(slot), dtype_of(format), &slot.shape(&self.config))?;
            let values = if naming == Naming::HuggingFace { self.values(slot) } else { self.interleaved(slot) };
            let mut bytes = vec![0; format.row_bytes(values.len()).unwrap_or(0)];
            ops.quantize_row(format, &values, &mut bytes);
            data.push(bytes);
        }
        Ok(writer.write(Vec::new(), data)?)
    }
}

impl Slot {
    fn of_expert(self, expert: usize) -> Slot {
        let expert = Some(expert);
        match self {
            Slot::Gate { layer, .. } => Slot::Gate { layer, expert },
            Slot::Up { layer, .. } => Slot::Up { layer, expert },
            Slot::Down { layer, .. } => Slot::Down { layer, expert },
            other => other,
        }
    }
}

pub(crate) fn dtype_of(format: Format) -> Dtype {
    match format {
        Format::F32 => Dtype::F32,
        Format::F16 => Dtype::F16,
        Format::BF16 => Dtype::BF16,
        Format::Q8_0 => Dtype::Q8_0,
        Format::Q4_0 => Dtype::Q4_0,
        Format::Q4_K => Dtype::Q4_K,
        Format::Q5_K => Dtype::Q5_K,
        Format::Q6_K => Dtype::Q6_K,
    }
}

fn partial_block(name: &str, format: Format, cols: usize) -> ArtifactError {
    let block = format.block_len() as u64;
    ArtifactError::PartialBlock { tensor: name.to_owned(), dtype: dtype_of(format), columns: cols as u64, block }
}

fn fnv1a64(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
