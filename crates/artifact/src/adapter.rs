//! What `adapter_config.json` says of a low-rank adapter, as PEFT writes it. Only what `model` computes is read as such: whatever
//! would change the answers in another way is refused by name. Which tensors belong to which module `model` knows.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::ArtifactError;
use crate::error::shown;
use crate::files::read_limited;

/// A low-rank adapter's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    pub rank: usize,
    pub alpha: f32,
    /// Divide alpha by √rank instead of rank. Source: Kalajdzievski 2023 (rsLoRA).
    pub rank_stabilized: bool,
    /// Names of modules, such as `q_proj`; empty where the file gives a pattern instead of a list.
    pub targets: Vec<String>,
    /// What the maker called the base: a name of a hub or of a catalog, or a path of theirs.
    pub base_name: Option<String>,
}

impl AdapterConfig {
    /// The file's name, beside [`AdapterConfig::WEIGHTS`].
    pub const FILE: &str = "adapter_config.json";
    pub const WEIGHTS: &str = "adapter_model.safetensors";

    /// # Errors
    /// [`ArtifactError::Json`], [`ArtifactError::UnsupportedAdapter`], and those of reading.
    pub fn read(path: &Path) -> Result<AdapterConfig, ArtifactError> {
        AdapterConfig::parse(&read_limited(path, LIMIT_BYTES)?)
    }

    /// # Errors
    /// As [`AdapterConfig::read`].
    pub fn parse(json: &[u8]) -> Result<AdapterConfig, ArtifactError> {
        let file: File = serde_json::from_slice(json).map_err(|error| ArtifactError::Json {
            what: "the adapter's configuration",
            message: shown(&error.to_string()),
        })?;
        file.checked()
    }

    /// By what B A x is multiplied.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.rank_stabilized { rank.sqrt() } else { rank }
    }
}

/// Fields that say nothing about the computation are not looked at.
#[derive(Deserialize)]
struct File {
    peft_type: String,
    r: u64,
    lora_alpha: f64,
    #[serde(default)]
    target_modules: Value,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    #[serde(default)]
    use_rslora: Option<bool>,
    #[serde(default)]
    bias: Option<String>,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

/// What changes the computation where it is neither absent nor empty.
const FEATURES: [&str; 10] = [
    "use_dora",
    "modules_to_save",
    "fan_in_fan_out",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "use_qalora",
];

impl File {
    fn checked(self) -> Result<AdapterConfig, ArtifactError> {
        let refuse = |feature: String| Err(ArtifactError::UnsupportedAdapter { feature });
        if self.peft_type != "LORA" {
            return refuse(format!("the method `{}`", shown(&self.peft_type)));
        }
        if let Some(bias) = self.bias.filter(|bias| bias != "none") {
            return refuse(format!("`bias: {}`", shown(&bias)));
        }
        let is_used = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(values) => !values.is_empty(),
            Value::Object(values) => !values.is_empty(),
            _ => true,
        };
        if let Some(feature) = FEATURES.iter().find(|name| self.rest.get(**name).is_some_and(is_used)) {
            return refuse(format!("`{feature}`"));
        }
        let Some(rank) = usize::try_from(self.r).ok().filter(|rank| (1..=MOST_RANK).contains(rank)) else {
            return refuse(format!("a rank of {}, not from 1 to {MOST_RANK},", self.r));
        };
        let alpha = self.lora_alpha as f32;
        if !alpha.is_finite() {
            return refuse(format!("an alpha of {}", self.lora_alpha));
        }
        let mut targets = Vec::new();
        if let Value::Array(names) = &self.target_modules {
            for name in names {
                match name.as_str() {
                    Some(name) => targets.push(name.to_owned()),
                    None => return refuse("a target module that is no name".to_owned()),
                }
            }
        }
        let base_name = self.base_model_name_or_path.filter(|name| !name.is_empty());
        Ok(AdapterConfig { rank, alpha, rank_stabilized: self.use_rslora == Some(true), targets, base_name })
    }
}

/// As the trainer allows it.
const MOST_RANK: usize = 4096;
/// Real ones have a kilobyte.
const LIMIT_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = r#"{"peft_type":"LORA","r":8,"lora_alpha":16,"target_modules":["q_proj","v_proj"],"bias":"none",
        "base_model_name_or_path":"org/base","use_dora":false,"modules_to_save":null,"rank_pattern":{},"runtime_config":{"x":1}}"#;

    fn refused(more: &str) -> String {
        let text = PLAIN.replacen('{', &format!("{{{more},"), 1);
        AdapterConfig::parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_peft_writes_is_read() {
        let config = AdapterConfig::parse(PLAIN.as_bytes()).unwrap();
        assert_eq!((config.rank, config.scale(), config.targets.len()), (8, 2.0, 2));
        assert_eq!(config.base_name.as_deref(), Some("org/base"));
        let stabilized = PLAIN.replace("\"r\":8", "\"r\":4,\"use_rslora\":true");
        assert_eq!(AdapterConfig::parse(stabilized.as_bytes()).unwrap().scale(), 8.0);
        let pattern = PLAIN.replace(r#"["q_proj","v_proj"]"#, r#"".*_proj""#);
        assert!(AdapterConfig::parse(pattern.as_bytes()).unwrap().targets.is_empty());
    }

    #[test]
    fn what_is_not_computed_here_is_refused_by_name() {
        for (with, told) in [
            ("\"bias\":\"all\"", "duplicate field"),
            ("\"use_qalora\":true", "`use_qalora`"),
            ("\"lora_bias\":true", "`lora_bias`"),
            ("\"alpha_pattern\":{\"q_proj\":4}", "`alpha_pattern`"),
            ("\"layer_replication\":[[0,2]]", "`layer_replication`"),
        ] {
            assert!(refused(with).contains(told), "{}", refused(with));
        }
        for (from, to, told) in [
            ("LORA", "LOHA", "`LOHA`"),
            ("\"r\":8", "\"r\":0", "a rank of 0"),
            ("\"r\":8", "\"r\":5000", "a rank of 5000"),
            ("\"bias\":\"none\"", "\"bias\":\"all\"", "`bias: all`"),
            ("\"use_dora\":false", "\"use_dora\":true", "`use_dora`"),
            ("\"modules_to_save\":null", "\"modules_to_save\":[\"lm_head\"]", "`modules_to_save`"),
            ("\"lora_alpha\":16", "\"lora_alpha\":1e300", "an alpha"),
        ] {
            let error = AdapterConfig::parse(PLAIN.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
