//! GGUF metadata of the `llama` architecture, which also carries Mistral and Mixtral. Source: ggml's docs/gguf.md.

use falaj_artifact::gguf::Gguf;
use falaj_kernels::RopeLayout;

use super::{Config, DEFAULT_THETA, Experts, Rope, RopeScaling, invalid, yarn_mscale};
use crate::ModelError;
use crate::optimize::{PACKED_ARCHITECTURE, PACKED_OF_KEY, PACKED_VERSION, PACKED_VERSION_KEY};

pub(super) fn read(gguf: &Gguf) -> Result<Config, ModelError> {
    let architecture = match gguf.str("general.architecture")? {
        PACKED_ARCHITECTURE => match gguf.u32(PACKED_VERSION_KEY)? {
            PACKED_VERSION => gguf.str(PACKED_OF_KEY)?,
            other => {
                return Err(invalid(
                    PACKED_VERSION_KEY,
                    other,
                    "this program reads another version, so optimize the model again",
                ));
            }
        },
        architecture => architecture,
    };
    if !matches!(architecture, "llama" | "mistral") {
        return Err(ModelError::Architecture { name: architecture.chars().take(64).collect() });
    }
    let keys = Keys { gguf, architecture };
    let need = |name, field| keys.size(name)?.ok_or(ModelError::Missing { field });

    let hidden_size = need("embedding_length", "embedding_length")?;
    let heads = need("attention.head_count", "attention.head_count")?;
    let context_tokens = need("context_length", "context_length")?;
    let head_dim = match keys.size("attention.key_length")? {
        Some(length) => length,
        None => hidden_size.checked_div(heads).unwrap_or(0),
    };
    if keys.size("attention.value_length")?.is_some_and(|length| length != head_dim) {
        return Err(ModelError::Unsupported { feature: "values of another size than keys".into() });
    }
    if keys.size("rope.dimension_count")?.is_some_and(|count| count != head_dim) {
        return Err(ModelError::Unsupported { feature: "RoPE on part of each head".into() });
    }
    let experts = match keys.size("expert_count")?.filter(|count| *count > 0) {
        Some(count) => Some(Experts { count, used: need("expert_used_count", "expert_used_count")? }),
        None => None,
    };
    Ok(Config {
        vocab_size: vocab_size(&keys)?,
        hidden_size,
        layers: need("block_count", "block_count")?,
        heads,
        kv_heads: keys.size("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        ffn_size: need("feed_forward_length", "feed_forward_length")?,
        norm_eps: keys.float("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5) as f32,
        rope: Rope {
            theta: keys.float("rope.freq_base")?.unwrap_or(DEFAULT_THETA),
            layout: RopeLayout::Interleaved,
            scaling: scaling(&keys, context_tokens)?,
        },
        sliding_window: keys.size("attention.sliding_window")?.filter(|window| *window > 0),
        tied_head: !gguf.tensors.contains_key("output.weight"),
        experts,
        context_tokens,
    })
}

fn vocab_size(keys: &Keys) -> Result<usize, ModelError> {
    // The embedding's own rows are the truth; the metadata key is optional and old converters got it wrong. In panels,
    // rows may be more than there are, and the key is ours.
    if keys.gguf.metadata.contains_key(PACKED_VERSION_KEY) {
        return keys.size("vocab_size")?.ok_or(ModelError::Missing { field: "vocab_size" });
    }
    let rows = keys.gguf.tensors.get("token_embd.weight").and_then(|entry| entry.shape.first().copied());
    match rows {
        Some(rows) => Ok(rows),
        None => keys.size("vocab_size")?.ok_or(ModelError::TensorMissing { tensor: "token_embd.weight".into() }),
    }
}

fn scaling(keys: &Keys, context_tokens: usize) -> Result<RopeScaling, ModelError> {
    let factor = match keys.float("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.float("rope.scale_linear")?,
    };
    // A factor of 0 or 1 is how converters write "none".
    let factor = factor.filter(|factor| *factor != 0.0);
    let kind: Option<&str> = keys.gguf.get(&keys.name("rope.scaling.type"))?;
    match (kind.unwrap_or(if factor.is_some() { "linear" } else { "none" }), factor) {
        ("none", _) | ("linear", None) => Ok(RopeScaling::None),
        ("linear", Some(1.0)) => Ok(RopeScaling::None),
        ("linear", Some(factor)) => Ok(RopeScaling::Linear { factor }),
        ("yarn", Some(factor)) => {
            let original = keys.size("rope.scaling.original_context_length")?.unwrap_or(context_tokens);
            let multiplier = keys.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
            Ok(RopeScaling::Yarn {
                factor,
                beta_fast: keys.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                original_context: original as f64,
                attention_factor: multiplier * yarn_mscale(factor, 1.0),
                truncate: true,
            })
        }
        ("yarn", None) => Err(ModelError::Missing { field: "rope.scaling.factor" }),
        (other, _) => Err(ModelError::Unsupported {
            feature: format!("the RoPE scaling `{}`", other.chars().take(64).collect::<String>()),
        }),
    }
}

struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
}

impl Keys<'_> {
    fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture)
    }

    /// A size; an array is fine where every layer has the same.
    fn size(&self, suffix: &'static str) -> Result<Option<usize>, ModelError> {
        let key = self.name(suffix);
        if let Some(falaj_artifact::gguf::Value::Array(_)) = self.gguf.metadata.get(&key) {
            let values = self.gguf.u32s(&key)?;
            let first = values.first().copied().ok_or(ModelError::Missing { field: suffix })?;
            if values.iter().any(|value| *value != first) {
                return Err(ModelError::Unsupported { feature: format!("layers that differ in `{suffix}`") });
            }
            return Ok(Some(first as usize));
        }
        let Some(value) = self.gguf.get::<u64>(&key)? else { return Ok(None) };
        usize::try_from(value).map(Some).map_err(|_| invalid(suffix, value, "no model is that large"))
    }

    fn float(&self, suffix: &str) -> Result<Option<f64>, ModelError> {
        Ok(self.gguf.get::<f32>(&self.name(suffix))?.map(shortest))
    }
}

/// The double that an `f32` was written for: 1e-5 stored in 32 bits means 1e-5, as the other two formats would say.
fn shortest(value: f32) -> f64 {
    format!("{value:?}").parse().unwrap_or(f64::from(value))
}
