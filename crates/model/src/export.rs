//! From values to files that the loader reads: GGUF, safetensors and `config.json`. What values, somebody else decides: the trainer,
//! or a hash (`synthetic.rs`). Writes tensor by tensor, so that a model of any size takes the memory of one matrix.

use std::io::Write;

use falaj_artifact::gguf::{GgufWriter, Value};
use falaj_artifact::safetensors::SafetensorsWriter;
use falaj_artifact::{ArtifactError, Dtype};
use falaj_kernels::{Format, Ops, RopeLayout};
use serde_json::json;

use crate::{Config, ModelError, Naming, RopeScaling, Slot};

/// A decoder's values, one parameter at a time.
#[derive(Debug)]
pub struct Source<'a, F: FnMut(Slot) -> Vec<f32>> {
    pub config: &'a Config,
    /// The order of the rows of queries and keys in `values`, whatever the configuration says.
    pub layout: RopeLayout,
    /// Row-major.
    pub values: F,
}

impl<F: FnMut(Slot) -> Vec<f32>> Source<'_, F> {
    /// A whole GGUF file with `metadata` (a tokenizer's, a template's) beside the configuration. `format` chooses per matrix;
    /// norms stay f32.
    ///
    /// # Errors
    /// Rows that are no whole blocks of a format, and those of `out`.
    pub fn write_gguf<W: Write>(
        mut self,
        ops: &Ops,
        metadata: &[(String, Value)],
        format: impl Fn(Slot) -> Format,
        out: W,
    ) -> Result<W, ModelError> {
        let config = self.config;
        let mut writer = describe(config);
        for (key, value) in metadata {
            writer = writer.set(key, value.clone());
        }
        let divisors = match &config.rope.scaling {
            RopeScaling::Factors(_) | RopeScaling::Llama3 { .. } => {
                crate::rope::divisors(&config.rope, config.head_dim)
            }
            _ => Vec::new(),
        };
        if !divisors.is_empty() {
            writer = writer.tensor(crate::load::ROPE_FACTORS, Dtype::F32, &[divisors.len()])?;
        }
        let mut tensors = Vec::new();
        for slot in Slot::all(config) {
            // Experts are stacked, as today's converters do: the first stands for all, the others ride along.
            let (name, slots) = match slot {
                Slot::Gate { expert: Some(0), .. }
                | Slot::Up { expert: Some(0), .. }
                | Slot::Down { expert: Some(0), .. } => {
                    let count = config.experts.map_or(0, |experts| experts.count);
                    (Naming::Gguf.stacked(slot).unwrap_or_default(), (0..count).map(|e| slot.of_expert(e)).collect())
                }
                Slot::Gate { expert: Some(_), .. }
                | Slot::Up { expert: Some(_), .. }
                | Slot::Down { expert: Some(_), .. } => continue,
                _ => (Naming::Gguf.name(slot), vec![slot]),
            };
            let mut shape = slot.shape(config);
            let cols = shape.last().copied().unwrap_or(0);
            let format = if shape.len() == 1 { Format::F32 } else { format(slot) };
            format.row_bytes(cols).ok_or_else(|| partial_block(&name, format, cols))?;
            if slots.len() > 1 || name.contains("_exps") {
                shape.insert(0, slots.len());
            }
            writer = writer.tensor(&name, dtype_of(format), &shape)?;
            tensors.push((slots, format, cols));
        }
        let mut stream = writer.begin(out)?;
        if !divisors.is_empty() {
            let bytes: Vec<u8> = divisors.iter().flat_map(|divisor| divisor.to_le_bytes()).collect();
            stream.write(&bytes)?;
        }
        let mut bytes = Vec::new();
        for (slots, format, cols) in tensors {
            bytes.clear();
            for slot in slots {
                let values = self.rows_as(slot, RopeLayout::Interleaved);
                put(ops, format, &values, cols, &mut bytes);
            }
            stream.write(&bytes)?;
        }
        Ok(stream.finish()?)
    }

    /// A whole safetensors file in the names of Hugging Face or Mistral, with the rows that they have, all tensors in `format`:
    /// F32, F16 or BF16.
    ///
    /// # Errors
    /// A format that safetensors cannot hold, and those of `out`.
    pub fn write_safetensors<W: Write>(
        mut self,
        ops: &Ops,
        naming: Naming,
        format: Format,
        out: W,
    ) -> Result<W, ModelError> {
        let mut writer = SafetensorsWriter::new().metadata("format", "pt");
        let slots = Slot::all(self.config);
        for slot in &slots {
            writer = writer.tensor(&naming.name(*slot), dtype_of(format), &slot.shape(self.config))?;
        }
        let layout = if naming == Naming::HuggingFace { RopeLayout::Halves } else { RopeLayout::Interleaved };
        let mut stream = writer.begin(out)?;
        let mut bytes = Vec::new();
        for slot in slots {
            bytes.clear();
            let values = self.rows_as(slot, layout);
            put(ops, format, &values, values.len().max(1), &mut bytes);
            stream.write(&bytes)?;
        }
        Ok(stream.finish()?)
    }

    fn rows_as(&mut self, slot: Slot, layout: RopeLayout) -> Vec<f32> {
        let values = (self.values)(slot);
        match slot {
            Slot::Query { .. } | Slot::Key { .. } if layout != self.layout => {
                let cols = slot.shape(self.config).last().copied().unwrap_or(1);
                reordered(&values, cols, self.config.head_dim, layout)
            }
            _ => values,
        }
    }
}

/// Rows of queries or keys, of `cols` values each, brought from the other layout into `layout`.
pub fn reordered(values: &[f32], cols: usize, head_dim: usize, layout: RopeLayout) -> Vec<f32> {
    let (e, half) = (head_dim, head_dim / 2);
    let rows: Vec<&[f32]> = values.chunks_exact(cols.max(1)).collect();
    let from = |row: usize| {
        let (head, i) = (row - row % e, row % e);
        head + match layout {
            // Row 2i of a head is its half's row i, row 2i + 1 the one half a head further.
            RopeLayout::Interleaved => i / 2 + (i % 2) * half,
            RopeLayout::Halves => (i % half) * 2 + i / half,
        }
    };
    (0..rows.len()).filter_map(|row| rows.get(from(row))).flat_map(|row| row.iter().copied()).collect()
}

/// A format for each matrix as llama.cpp's mixture of that name has it: Q4_K, with Q6_K for the head and for those values and down
/// projections that matter most. Rows that are no whole blocks of 256 get Q8_0, or F16.
pub fn q4_k_m(config: &Config, slot: Slot) -> Format {
    let more_bits = |layer: usize| {
        let (n, eighth) = (config.layers, config.layers / 8);
        layer < eighth || layer >= 7 * n / 8 || (layer.saturating_sub(eighth)) % 3 == 2
    };
    let wanted = match slot {
        Slot::Head => Format::Q6_K,
        Slot::Embedding if config.tied_head => Format::Q6_K,
        Slot::Value { layer } | Slot::Down { layer, .. } if more_bits(layer) => Format::Q6_K,
        _ => Format::Q4_K,
    };
    or_wider(config, slot, wanted)
}

/// `wanted` where rows of `slot` are whole blocks of it, else Q8_0, else F16.
pub fn or_wider(config: &Config, slot: Slot, wanted: Format) -> Format {
    let cols = slot.shape(config).last().copied().unwrap_or(0);
    let fits = |format: &Format| format.row_bytes(cols).is_some();
    [wanted, Format::Q8_0].into_iter().find(fits).unwrap_or(Format::F16)
}

/// `config.json` as `transformers` reads it; `dtype`: `float32`, `float16` or `bfloat16`.
///
/// # Errors
/// A scaling of positions or a kind of model that it has no words for.
pub fn hugging_face_json(config: &Config, dtype: &str) -> Result<String, ModelError> {
    let kind = match (config.sliding_window, config.experts) {
        (_, Some(_)) => ("MixtralForCausalLM", "mixtral"),
        (Some(_), None) => ("MistralForCausalLM", "mistral"),
        (None, None) => ("LlamaForCausalLM", "llama"),
    };
    let scaling = match &config.rope.scaling {
        RopeScaling::None => json!(null),
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": *original_context as u64,
        }),
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context, attention_factor, truncate } => json!({
            "rope_type": "yarn", "factor": factor, "beta_fast": beta_fast, "beta_slow": beta_slow,
            "original_max_position_embeddings": *original_context as u64, "attention_factor": attention_factor,
            "truncate": truncate,
        }),
        RopeScaling::Factors(factors) if let Some(scaling) = llama3_of(factors, config) => scaling,
        RopeScaling::Factors(_) => {
            return Err(ModelError::Unsupported { feature: "RoPE factors in `config.json`; export GGUF".to_owned() });
        }
    };
    let mut json = json!({
        "architectures": [kind.0],
        "model_type": kind.1,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_tokens,
        "rms_norm_eps": shortest(config.norm_eps),
        "rope_theta": config.rope.theta,
        "rope_scaling": scaling,
        "sliding_window": config.sliding_window,
        "tie_word_embeddings": config.tied_head,
        "attention_bias": false,
        "mlp_bias": false,
        "torch_dtype": dtype,
    });
    if let (Some(experts), Some(json)) = (config.experts, json.as_object_mut()) {
        json.insert("num_local_experts".to_owned(), experts.count.into());
        json.insert("num_experts_per_tok".to_owned(), experts.used.into());
    }
    Ok(format!("{json:#}\n"))
}

/// The rule of Llama 3.1 and later, where it gives these divisors: all its models have it with the same two bounds.
fn llama3_of(factors: &[f32], config: &Config) -> Option<serde_json::Value> {
    let factor = factors.iter().fold(1.0_f32, |most, factor| most.max(*factor));
    let (low, high, original) = (1.0, 4.0, 8192.0);
    let scaling = RopeScaling::Llama3 {
        factor: f64::from(factor),
        low_freq_factor: low,
        high_freq_factor: high,
        original_context: original,
    };
    let rope = crate::Rope { scaling, ..config.rope.clone() };
    let ours = crate::rope::divisors(&rope, config.head_dim);
    let near = ours.len() == factors.len() && ours.iter().zip(factors).all(|(a, b)| (a - b).abs() <= 1e-4 * b.abs());
    (near && factor > 1.0).then(|| {
        json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original as u64,
        })
    })
}

/// 1e-5 and not 9.999999747378752e-6.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// The metadata of a configuration.
fn describe(config: &Config) -> GgufWriter {
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
        writer =
            writer.set("llama.expert_count", experts.count as u32).set("llama.expert_used_count", experts.used as u32);
    }
    match &config.rope.scaling {
        RopeScaling::Linear { factor } => {
            writer.set("llama.rope.scaling.type", "linear").set("llama.rope.scaling.factor", *factor as f32)
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context, attention_factor, .. } => {
            let default_factor = 0.1 * factor.ln() + 1.0;
            writer
                .set("llama.rope.scaling.type", "yarn")
                .set("llama.rope.scaling.factor", *factor as f32)
                .set("llama.rope.scaling.original_context_length", *original_context as u32)
                .set("llama.rope.scaling.yarn_beta_fast", *beta_fast as f32)
                .set("llama.rope.scaling.yarn_beta_slow", *beta_slow as f32)
                .set("llama.rope.scaling.attn_factor", (attention_factor / default_factor) as f32)
        }
        RopeScaling::None | RopeScaling::Factors(_) | RopeScaling::Llama3 { .. } => writer,
    }
}

/// Appends whole rows.
fn put(ops: &Ops, format: Format, values: &[f32], cols: usize, bytes: &mut Vec<u8>) {
    let row_bytes = format.row_bytes(cols).unwrap_or(0);
    for row in values.chunks_exact(cols) {
        let start = bytes.len();
        bytes.resize(start + row_bytes, 0);
        if let Some(out) = bytes.get_mut(start..) {
            ops.quantize_row(format, row, out);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::tiny_config;

    #[test]
    fn layouts_are_inverse() {
        let values: Vec<f32> = (0..96).map(|i| i as f32).collect();
        let pairs = reordered(&values, 3, 16, RopeLayout::Interleaved);
        assert_eq!(pairs[..6], [0.0, 1.0, 2.0, 24.0, 25.0, 26.0]);
        assert_eq!(reordered(&pairs, 3, 16, RopeLayout::Halves), values);
    }

    #[test]
    fn the_written_configuration_is_read_back() {
        let plain = tiny_config(100, 64);
        let scaled = |scaling| {
            let mut config = plain.clone();
            config.rope.scaling = scaling;
            config
        };
        let llama3 =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 32.0 };
        let windowed = Config { sliding_window: Some(16), tied_head: true, ..plain.clone() };
        let sparse = Config { experts: Some(crate::Experts { count: 4, used: 2 }), ..plain.clone() };
        for config in [plain.clone(), windowed, sparse, scaled(RopeScaling::Linear { factor: 2.0 }), scaled(llama3)] {
            let json = hugging_face_json(&config, "bfloat16").unwrap();
            assert_eq!(Config::from_hugging_face(json.as_bytes()).unwrap(), config);
        }
        assert!(hugging_face_json(&scaled(RopeScaling::Factors(vec![1.0; 8])), "float32").is_err());
    }

    #[test]
    fn mixtures_of_formats_fall_back_to_what_fits() {
        let config =
            Config { layers: 8, hidden_size: 256, ffn_size: 320, head_dim: 5, heads: 2, ..tiny_config(100, 64) };
        let format = |slot| q4_k_m(&config, slot);
        assert_eq!(format(Slot::Head), Format::Q6_K);
        assert_eq!(format(Slot::Query { layer: 3 }), Format::Q4_K);
        assert_eq!(
            [0, 1, 3, 7].map(|layer| format(Slot::Value { layer })),
            [Format::Q6_K, Format::Q4_K, Format::Q6_K, Format::Q6_K]
        );
        assert_eq!(format(Slot::Down { layer: 0, expert: None }), Format::Q8_0);
        assert_eq!(format(Slot::Output { layer: 0 }), Format::F16);
    }
}
