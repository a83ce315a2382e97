//! Hugging Face's `config.json`, in the spelling of transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`).

use falaj_kernels::RopeLayout;
use serde::Deserialize;

use super::{Config, DEFAULT_THETA, Experts, Rope, RopeScaling, yarn_mscale};
use crate::ModelError;

pub(super) fn read(json: &[u8]) -> Result<Config, ModelError> {
    let raw: Raw = serde_json::from_slice(json)
        .map_err(|error| ModelError::Json { file: "config.json", message: error.to_string() })?;
    let kind = raw.model_type.as_deref().or(raw.architectures.first().map(String::as_str)).unwrap_or("(none)");
    let sparse = match kind {
        "llama" | "LlamaForCausalLM" | "mistral" | "MistralForCausalLM" => false,
        "mixtral" | "MixtralForCausalLM" => true,
        other => return Err(ModelError::Architecture { name: other.chars().take(64).collect() }),
    };
    if let Some(activation) = raw.hidden_act.as_deref().filter(|name| *name != "silu") {
        return Err(ModelError::Unsupported { feature: format!("the activation `{activation}`") });
    }
    if raw.attention_bias || raw.mlp_bias {
        return Err(ModelError::Unsupported { feature: "biases in its linear layers".into() });
    }
    if raw.quantization_config.is_some() {
        return Err(ModelError::Unsupported { feature: "weights quantised in the safetensors file".into() });
    }
    let need = |value: Option<usize>, field| value.ok_or(ModelError::Missing { field });
    let hidden_size = need(raw.hidden_size, "hidden_size")?;
    let heads = need(raw.num_attention_heads, "num_attention_heads")?;
    let context_tokens = need(raw.max_position_embeddings, "max_position_embeddings")?;
    let experts = match sparse {
        false => None,
        true => Some(Experts {
            count: need(raw.num_local_experts, "num_local_experts")?,
            used: need(raw.num_experts_per_tok, "num_experts_per_tok")?,
        }),
    };
    let head_dim = raw.head_dim.unwrap_or_else(|| hidden_size.checked_div(heads).unwrap_or(0));
    let scaling = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref());
    if let Some(partial) = raw.partial_rotary_factor.or(scaling.and_then(|rope| rope.partial_rotary_factor))
        && partial != 1.0
    {
        return Err(ModelError::Unsupported { feature: "RoPE on part of each head".into() });
    }
    let mut sliding_window = raw.sliding_window.filter(|_| raw.use_sliding_window != Some(false));
    if let Some((first, rest)) = raw.layer_types.as_deref().and_then(<[String]>::split_first) {
        if rest.iter().any(|kind| kind != first) {
            return Err(ModelError::Unsupported { feature: "layers with and without a sliding window".into() });
        }
        sliding_window = sliding_window.filter(|_| first == "sliding_attention");
    }
    Ok(Config {
        vocab_size: need(raw.vocab_size, "vocab_size")?,
        hidden_size,
        layers: need(raw.num_hidden_layers, "num_hidden_layers")?,
        heads,
        kv_heads: raw.num_key_value_heads.unwrap_or(heads),
        head_dim,
        ffn_size: need(raw.intermediate_size, "intermediate_size")?,
        norm_eps: raw.rms_norm_eps.unwrap_or(1e-6),
        rope: Rope {
            theta: scaling.and_then(|rope| rope.rope_theta).or(raw.rope_theta).unwrap_or(DEFAULT_THETA),
            layout: RopeLayout::Halves,
            scaling: scaling.map_or(Ok(RopeScaling::None), |rope| rope.scaling(context_tokens))?,
        },
        sliding_window,
        tied_head: raw.tie_word_embeddings.unwrap_or(false),
        experts,
        context_tokens,
    })
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    architectures: Vec<String>,
    model_type: Option<String>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f32>,
    hidden_act: Option<String>,
    tie_word_embeddings: Option<bool>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    layer_types: Option<Vec<String>>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    partial_rotary_factor: Option<f64>,
    num_local_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    quantization_config: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct RawRope {
    rope_type: Option<String>,
    /// The older spelling. No alias: transformers reads `type` and saves both.
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    attention_factor: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    partial_rotary_factor: Option<f64>,
}

impl RawRope {
    fn scaling(&self, context_tokens: usize) -> Result<RopeScaling, ModelError> {
        let factor = || self.factor.ok_or(ModelError::Missing { field: "rope scaling factor" });
        match self.rope_type.as_deref().or(self.old_type.as_deref()).unwrap_or("default") {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor: self.low_freq_factor.ok_or(ModelError::Missing { field: "low_freq_factor" })?,
                high_freq_factor: self.high_freq_factor.ok_or(ModelError::Missing { field: "high_freq_factor" })?,
                original_context: self
                    .original_max_position_embeddings
                    .ok_or(ModelError::Missing { field: "original_max_position_embeddings" })?,
            }),
            "yarn" => {
                let factor = factor()?;
                let attention_factor =
                    self.attention_factor.unwrap_or_else(|| match (self.mscale, self.mscale_all_dim) {
                        (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => {
                            yarn_mscale(factor, mscale) / yarn_mscale(factor, all)
                        }
                        _ => yarn_mscale(factor, 1.0),
                    });
                Ok(RopeScaling::Yarn {
                    factor,
                    beta_fast: self.beta_fast.unwrap_or(32.0),
                    beta_slow: self.beta_slow.unwrap_or(1.0),
                    original_context: self.original_max_position_embeddings.unwrap_or(context_tokens as f64),
                    attention_factor,
                    truncate: self.truncate.unwrap_or(true),
                })
            }
            other => Err(ModelError::Unsupported {
                feature: format!("the RoPE scaling `{}`", other.chars().take(64).collect::<String>()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// transformers adds `rope_type` to an older file's `type` and saves both.
    #[test]
    fn a_scaling_may_be_named_in_both_spellings() {
        let with = |names: &str| {
            let json = format!(
                r#"{{"model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 9,
                    "num_attention_heads": 4, "max_position_embeddings": 128, "rope_scaling": {{{names}, "factor": 4.0}}}}"#
            );
            read(json.as_bytes()).map(|config| config.rope.scaling)
        };
        let linear = RopeScaling::Linear { factor: 4.0 };
        for names in [
            r#""type": "linear""#,
            r#""rope_type": "linear""#,
            r#""rope_type": "linear", "type": "linear""#,
            r#""type": "linear", "rope_type": null"#,
        ] {
            assert_eq!(with(names).unwrap(), linear, "{names}");
        }
    }
}
