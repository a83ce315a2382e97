//! Mistral's `params.json`, as it lies beside `consolidated.safetensors`.

use falaj_kernels::RopeLayout;
use serde::Deserialize;

use super::{Config, DEFAULT_THETA, Experts, Rope, RopeScaling, yarn_mscale};
use crate::ModelError;

pub(super) fn read(json: &[u8]) -> Result<Config, ModelError> {
    let raw: Raw = serde_json::from_slice(json)
        .map_err(|error| ModelError::Json { file: "params.json", message: error.to_string() })?;
    for (feature, present) in [
        ("low-rank adapters in its parameters (`lora`)", raw.lora.is_some()),
        ("query scaling by position (`llama_4_scaling`)", raw.llama_4_scaling.is_some()),
        ("quantised consolidated weights", raw.quantization.is_some()),
        ("another architecture (state space: Mamba)", raw.ssm_cfg.is_some()),
        ("latent attention (`q_lora_rank`)", raw.q_lora_rank.is_some()),
    ] {
        if present {
            return Err(ModelError::Unsupported { feature: feature.into() });
        }
    }
    let need = |value: Option<usize>, field| value.ok_or(ModelError::Missing { field });
    let dim = need(raw.dim, "dim")?;
    let heads = need(raw.n_heads, "n_heads")?;
    Ok(Config {
        vocab_size: need(raw.vocab_size, "vocab_size")?,
        hidden_size: dim,
        layers: need(raw.n_layers, "n_layers")?,
        heads,
        kv_heads: raw.n_kv_heads.unwrap_or(heads),
        head_dim: raw.head_dim.unwrap_or_else(|| dim.checked_div(heads).unwrap_or(0)),
        ffn_size: need(raw.hidden_dim, "hidden_dim")?,
        norm_eps: raw.norm_eps.unwrap_or(1e-5),
        rope: Rope {
            theta: raw.rope_theta.unwrap_or(DEFAULT_THETA),
            layout: RopeLayout::Interleaved,
            scaling: raw.yarn.map_or(RopeScaling::None, |yarn| RopeScaling::Yarn {
                factor: yarn.factor,
                beta_fast: yarn.beta.unwrap_or(32.0),
                beta_slow: yarn.alpha.unwrap_or(1.0),
                original_context: yarn.original_max_position_embeddings,
                attention_factor: if yarn.apply_scale.unwrap_or(true) { yarn_mscale(yarn.factor, 1.0) } else { 1.0 },
                truncate: true,
            }),
        },
        sliding_window: raw.sliding_window,
        tied_head: raw.tied_embeddings.unwrap_or(false),
        experts: raw.moe.map(|moe| Experts { count: moe.num_experts, used: moe.num_experts_per_tok }),
        // The first models say nothing; their cards promise 32 k.
        context_tokens: raw.max_position_embeddings.or(raw.max_seq_len).or(raw.model_max_length).unwrap_or(32_768),
    })
}

#[derive(Deserialize)]
struct Raw {
    dim: Option<usize>,
    n_layers: Option<usize>,
    head_dim: Option<usize>,
    hidden_dim: Option<usize>,
    n_heads: Option<usize>,
    n_kv_heads: Option<usize>,
    norm_eps: Option<f32>,
    vocab_size: Option<usize>,
    rope_theta: Option<f64>,
    sliding_window: Option<usize>,
    tied_embeddings: Option<bool>,
    max_position_embeddings: Option<usize>,
    max_seq_len: Option<usize>,
    model_max_length: Option<usize>,
    moe: Option<Moe>,
    yarn: Option<Yarn>,
    lora: Option<serde::de::IgnoredAny>,
    llama_4_scaling: Option<serde::de::IgnoredAny>,
    quantization: Option<serde::de::IgnoredAny>,
    ssm_cfg: Option<serde::de::IgnoredAny>,
    q_lora_rank: Option<usize>,
}

#[derive(Deserialize)]
struct Moe {
    num_experts: usize,
    num_experts_per_tok: usize,
}

#[derive(Deserialize)]
struct Yarn {
    factor: f64,
    original_max_position_embeddings: f64,
    beta: Option<f64>,
    alpha: Option<f64>,
    apply_scale: Option<bool>,
}
