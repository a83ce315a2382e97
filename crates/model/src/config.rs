//! What a decoder is, whoever wrote it down: Hugging Face's `config.json`, Mistral's `params.json` or GGUF metadata all
//! become one [`Config`], checked before anything is allocated by it. How RoPE turns is in `rope.rs`.

mod gguf;
mod hugging_face;
mod mistral;

use falaj_kernels::RopeLayout;

use crate::ModelError;

/// The sizes of a decoder. Dimension letters as in `decoder.rs`: V vocab_size, D hidden_size, L layers, H heads,
/// K kv_heads, E head_dim, F ffn_size, X experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Often `hidden_size / heads`, but not always.
    pub head_dim: usize,
    /// Of the feed-forward network, or of each expert.
    pub ffn_size: usize,
    pub norm_eps: f32,
    pub rope: Rope,
    /// A position sees itself and `sliding_window - 1` before it.
    pub sliding_window: Option<usize>,
    /// The output head is the embedding matrix.
    pub tied_head: bool,
    pub experts: Option<Experts>,
    /// Positions that the model was made for.
    pub context_tokens: usize,
}

/// A sparse mixture: of `count` networks, each token uses the `used` best. Source: Jiang et al. 2024 (Mixtral), § 2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    pub count: usize,
    pub used: usize,
}

/// Rotary position embedding. Source: Su et al. 2021.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub theta: f64,
    /// Which elements of a head turn together. Hugging Face's files hold halves, Mistral's and GGUF's adjacent pairs.
    pub layout: RopeLayout,
    pub scaling: RopeScaling,
}

/// How a model reaches beyond the context it was first trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a ramp between. Source: Llama 3.1's reference code.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: f64,
    },
    /// The same idea over dimensions, with a factor on queries and keys. Source: Peng et al. 2023, § 3.
    Yarn {
        factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original_context: f64,
        attention_factor: f64,
        truncate: bool,
    },
    /// One divisor per frequency, `(E/2)`: the form in which GGUF keeps llama3's (`rope_freqs.weight`).
    Factors(Vec<f32>),
}

impl Config {
    /// Of `config.json`.
    ///
    /// # Errors
    /// An architecture, a feature or a number that is not usable; see [`ModelError`].
    pub fn from_hugging_face(json: &[u8]) -> Result<Self, ModelError> {
        hugging_face::read(json)?.checked()
    }

    /// Of `params.json`.
    ///
    /// # Errors
    /// As [`Config::from_hugging_face`].
    pub fn from_mistral(json: &[u8]) -> Result<Self, ModelError> {
        mistral::read(json)?.checked()
    }

    /// Of a GGUF's metadata. llama3's frequency divisors are a tensor and come later.
    ///
    /// # Errors
    /// As [`Config::from_hugging_face`].
    pub fn from_gguf(gguf: &falaj_artifact::gguf::Gguf) -> Result<Self, ModelError> {
        gguf::read(gguf)?.checked()
    }

    /// Refuses what no decoder can have, so that products of these sizes neither vanish nor overflow later.
    pub(crate) fn checked(self) -> Result<Self, ModelError> {
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 18),
            ("layers", self.layers, 1 << 12),
            ("heads", self.heads, 1 << 12),
            ("kv_heads", self.kv_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("ffn_size", self.ffn_size, 1 << 20),
            ("context_tokens", self.context_tokens, 1 << 28),
            ("sliding_window", self.sliding_window.unwrap_or(1), 1 << 28),
            ("experts", self.experts.map_or(1, |experts| experts.count), 1 << 12),
        ];
        for (field, value, most) in sizes {
            if value == 0 {
                return Err(invalid(field, value, "it must be at least 1"));
            }
            if value > most {
                return Err(invalid(field, value, "no model is that large"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(invalid("kv_heads", self.kv_heads, "it must divide the number of heads"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(invalid("head_dim", self.head_dim, "RoPE turns pairs, so it must be even"));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(invalid("norm_eps", self.norm_eps, "it must lie between 0 and 1"));
        }
        if let Some(Experts { count, used }) = self.experts
            && !(1..=count).contains(&used)
        {
            return Err(invalid("experts used per token", used, "it must be from 1 to the number of experts"));
        }
        self.rope.check(self.head_dim)?;
        Ok(self)
    }

    /// Bytes of one position in all layers of a cache with `element_bytes` per value.
    pub fn cache_bytes_per_token(&self, element_bytes: usize) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * element_bytes
    }
}

impl Rope {
    fn check(&self, head_dim: usize) -> Result<(), ModelError> {
        let positive = |field, value: f64| {
            if value.is_finite() && value > 0.0 && value < 1e12 {
                Ok(())
            } else {
                Err(invalid(field, value, "it must be a positive number"))
            }
        };
        positive("rope theta", self.theta)?;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("rope scaling factor", *factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("rope scaling factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("high_freq_factor", *high_freq_factor)?;
                positive("original context", *original_context)?;
                if high_freq_factor <= low_freq_factor {
                    return Err(invalid("high_freq_factor", high_freq_factor, "it must be above low_freq_factor"));
                }
                Ok(())
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context, attention_factor, .. } => {
                positive("rope scaling factor", *factor)?;
                positive("beta_fast", *beta_fast)?;
                positive("beta_slow", *beta_slow)?;
                positive("original context", *original_context)?;
                positive("attention factor", *attention_factor)?;
                if self.theta <= 1.0 {
                    return Err(invalid("rope theta", self.theta, "YaRN needs it above 1"));
                }
                Ok(())
            }
            RopeScaling::Factors(factors) => {
                if factors.len() != head_dim / 2 {
                    return Err(invalid("rope factors", factors.len(), "there must be one per pair of head elements"));
                }
                factors.iter().try_for_each(|factor| positive("rope factor", f64::from(*factor)))
            }
        }
    }
}

/// YaRN's factor on attention for a context `scale` times longer. Source: Peng et al. 2023, eq. 22.
fn yarn_mscale(scale: f64, mscale: f64) -> f64 {
    if scale <= 1.0 { 1.0 } else { 0.1 * mscale * scale.ln() + 1.0 }
}

fn invalid(field: &'static str, value: impl ToString, rule: &'static str) -> ModelError {
    ModelError::Invalid { field, value: value.to_string(), rule }
}

/// What Llama and Mistral models assume when their files do not say.
const DEFAULT_THETA: f64 = 10_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    const MISTRAL: &str = r#"{"dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32,
        "n_kv_heads": 8, "norm_eps": 1e-05, "vocab_size": 32768, "rope_theta": 1000000.0}"#;

    #[test]
    fn mistral_says_the_same_as_hugging_face() {
        let mistral = Config::from_mistral(MISTRAL.as_bytes()).unwrap();
        let hugging_face = Config::from_hugging_face(
            br#"{"architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 4096,
                "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32,
                "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
                "sliding_window": null, "tie_word_embeddings": false, "vocab_size": 32768}"#,
        )
        .unwrap();
        let rope = Rope { layout: RopeLayout::Halves, ..mistral.rope.clone() };
        assert_eq!(Config { rope, ..mistral }, hugging_face);
    }

    #[test]
    fn mistral_extends_experts_and_scaling() {
        let with = |extra: &str| Config::from_mistral(MISTRAL.replacen('{', &format!("{{{extra}, "), 1).as_bytes());
        let moe = with(r#""moe": {"num_experts": 8, "num_experts_per_tok": 2}"#).unwrap();
        assert_eq!(moe.experts, Some(Experts { count: 8, used: 2 }));
        let yarn = r#""yarn": {"original_max_position_embeddings": 8192, "factor": 16, "beta": 32, "alpha": 1,
            "apply_scale": false}"#;
        let expected = RopeScaling::Yarn {
            factor: 16.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_context: 8192.0,
            attention_factor: 1.0,
            truncate: true,
        };
        assert_eq!(with(yarn).unwrap().rope.scaling, expected);
        assert_eq!(with(r#""sliding_window": 4096"#).unwrap().sliding_window, Some(4096));
        assert!(matches!(with(r#""lora": {"rank": 64}"#), Err(ModelError::Unsupported { .. })));
        assert!(with(r#""moe": {"num_experts": 2, "num_experts_per_tok": 3}"#).is_err());
    }

    #[test]
    fn windows_may_be_said_per_layer() {
        let with = |window: &str| {
            let json = format!(
                r#"{{"model_type": "mistral", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 9,
                    "num_attention_heads": 4, "max_position_embeddings": 128, {window}}}"#
            );
            Config::from_hugging_face(json.as_bytes()).map(|config| config.sliding_window)
        };
        let sliding = r#""sliding_window": 32, "layer_types": ["sliding_attention", "sliding_attention"]"#;
        assert_eq!(with(sliding).unwrap(), Some(32));
        assert_eq!(with(&sliding.replace("sliding_attention", "full_attention")).unwrap(), None);
        assert!(with(r#""sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"]"#).is_err());
        assert_eq!(with(r#""sliding_window": 32, "use_sliding_window": false"#).unwrap(), None);
    }
}
