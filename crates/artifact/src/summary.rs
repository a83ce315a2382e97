//! What a model is, from the headers of its files: for manifests and listings. `model` reads configurations in earnest.

use std::collections::BTreeMap;
use std::path::Path;

use crate::files::read_limited;
use crate::gguf::Gguf;
use crate::safetensors::SafetensorsIndex;
use crate::sharded::ShardedIndex;
use crate::{AdapterConfig, ArtifactError, Layout, TensorEntry};

/// For people; nothing is decided by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub architecture: String,
    pub parameters: u64,
    pub dtypes: BTreeMap<String, u64>,
    pub license: Option<String>,
}

impl Summary {
    /// Reads all headers, which also refuses a model whose files are damaged or do not belong together.
    pub fn of(layout: &Layout) -> Result<Summary, ArtifactError> {
        let mut summary =
            Summary { architecture: "unknown".to_owned(), parameters: 0, dtypes: BTreeMap::new(), license: None };
        match layout {
            Layout::Gguf(path) => {
                let gguf = Gguf::open(path)?;
                let text = |key: &str| gguf.str(key).ok().map(printable);
                summary.architecture = text("general.architecture").unwrap_or(summary.architecture);
                summary.license = text("general.license");
                gguf.tensors.values().for_each(|entry| summary.count(entry));
            }
            Layout::HuggingFace { config, .. } => {
                let config = json(config)?;
                let class = config.get("architectures").and_then(|list| list.get(0));
                let name = class.or(config.get("model_type")).and_then(|name| name.as_str());
                summary.architecture = name.map(printable).unwrap_or(summary.architecture);
                summary.shards(layout, "model.safetensors.index.json")?;
            }
            Layout::Mistral { params, .. } => {
                let mixture = json(params)?.get("moe").is_some_and(|moe| !moe.is_null());
                summary.architecture = if mixture { "mixtral" } else { "mistral" }.to_owned();
                summary.shards(layout, "consolidated.safetensors.index.json")?;
            }
            Layout::Adapter { weights, config, .. } => {
                let config = AdapterConfig::read(config)?;
                summary.architecture = format!("LoRA of rank {}", config.rank);
                SafetensorsIndex::open(weights)?.tensors.values().for_each(|entry| summary.count(entry));
            }
        }
        Ok(summary)
    }

    fn shards(&mut self, layout: &Layout, index: &str) -> Result<(), ArtifactError> {
        let index = layout.dir().join(index);
        let index = if index.exists() { Some(ShardedIndex::open(&index)?) } else { None };
        for path in layout.weights() {
            let held = SafetensorsIndex::open(path)?;
            if let (Some(index), Some(shard)) = (&index, path.file_name().and_then(|name| name.to_str())) {
                index.check_shard(shard, &held)?;
            }
            held.tensors.values().for_each(|entry| self.count(entry));
        }
        Ok(())
    }

    fn count(&mut self, entry: &TensorEntry) {
        let values = entry.elements() as u64;
        self.parameters = self.parameters.saturating_add(values);
        let of_type = self.dtypes.entry(entry.dtype.to_string()).or_default();
        *of_type = of_type.saturating_add(values);
    }
}

fn json(path: &Path) -> Result<serde_json::Value, ArtifactError> {
    let bytes = read_limited(path, CONFIG_LIMIT_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|error| ArtifactError::Json {
        what: "the model's configuration",
        message: crate::error::shown(&error.to_string()),
    })
}

/// A word from a model for a listing: one line of modest length.
fn printable(word: &str) -> String {
    word.chars().filter(|c| !c.is_control()).take(64).collect()
}

const CONFIG_LIMIT_BYTES: u64 = 4 << 20;
