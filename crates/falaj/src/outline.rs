//! What the headers of a model's files say, without loading a weight: for `inspect`, and for the cards of models that
//! nobody has asked for yet.

use crate::builtin;
use crate::failure::{OrFail, Outcome};
use falaj_artifact::gguf::Gguf;
use falaj_artifact::{Layout, Manifest};
use falaj_model::{Config, ModelError};
use std::path::Path;

#[derive(Debug)]
pub struct Outline {
    /// Or why it is no model that Falaj runs.
    pub config: Result<Config, String>,
    /// What makes tokens, such as `gpt2 (in the GGUF)` or `tokenizer.json`.
    pub tokenizer: Option<String>,
    pub template: Option<Template>,
    /// What its makers suggest, in `generation_config.json`.
    pub temperature: Option<f32>,
}

#[derive(Debug)]
pub struct Template {
    /// Where it stands.
    pub place: String,
    pub knows_tools: bool,
}

impl Outline {
    pub fn of_builtin() -> Outcome<Self> {
        // A model this small keeps to the point only when it takes the most likely word.
        Ok(Self { temperature: Some(0.0), ..Self::of_gguf(&Gguf::parse(builtin::GGUF)?) })
    }

    pub fn of_layout(layout: &Layout) -> Outcome<Self> {
        let read = |path: &Path| std::fs::read(path).or_fail(|| format!("`{}`", path.display()));
        let config = match layout {
            Layout::Gguf(path) => return Ok(Self::of_gguf(&Gguf::open(path)?)),
            Layout::HuggingFace { config, .. } => Config::from_hugging_face(&read(config)?),
            Layout::Mistral { params, .. } => Config::from_mistral(&read(params)?),
            Layout::Adapter { .. } => Err(ModelError::IsAdapter),
        };
        let config = config.map_err(|error| error.to_string());
        let dir = layout.dir();
        let known = ["tekken.json", "tokenizer.json", "tokenizer.model"];
        let tokenizer = known.iter().find(|name| dir.join(name).is_file()).map(|name| (*name).to_owned());
        let template = [("tekken.json", ""), ("chat_template.jinja", ""), ("tokenizer_config.json", "chat_template")];
        let template = template.iter().find_map(|(name, holding)| {
            let text = std::fs::read_to_string(dir.join(name)).ok().filter(|text| text.contains(holding))?;
            let knows_tools = text.contains("tools") || text.contains("[TOOL_CALLS]");
            Some(Template { place: (*name).to_owned(), knows_tools })
        });
        let generation = std::fs::read(dir.join("generation_config.json")).ok();
        let generation = generation.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        let temperature = generation.and_then(|value| value.get("temperature")?.as_f64());
        let temperature = temperature.map(|value| value as f32).filter(|value| (0.0..=2.0).contains(value));
        Ok(Self { config, tokenizer, template, temperature })
    }

    fn of_gguf(gguf: &Gguf) -> Self {
        let tokens = gguf.strings("tokenizer.ggml.tokens").map(|tokens| tokens.len()).ok();
        let tokenizer = gguf.str("tokenizer.ggml.model").ok().map(|kind| match tokens {
            Some(tokens) => format!("{kind}, {tokens} tokens (in the GGUF)"),
            None => format!("{kind} (in the GGUF)"),
        });
        let template = gguf.str("tokenizer.chat_template").ok();
        let template =
            template.map(|text| Template { place: "in the GGUF".to_owned(), knows_tools: text.contains("tools") });
        let config = Config::from_gguf(gguf).map_err(|error| error.to_string());
        Self { config, tokenizer, template, temperature: None }
    }
}

/// The manifest of the built-in model, made up: it has none on disk.
pub fn builtin_manifest() -> Outcome<Manifest> {
    let gguf = Gguf::parse(builtin::GGUF)?;
    let mut dtypes = std::collections::BTreeMap::new();
    for tensor in gguf.tensors.values() {
        *dtypes.entry(tensor.dtype.to_string()).or_insert(0) += tensor.elements() as u64;
    }
    let file = falaj_artifact::FileEntry {
        path: format!("{}-q8_0.gguf", builtin::NAME),
        size_bytes: builtin::GGUF.len() as u64,
        sha256: builtin::digest()?,
    };
    Ok(Manifest {
        version: Manifest::VERSION,
        name: builtin::NAME.to_owned(),
        created: CREATED_S,
        format: "gguf".to_owned(),
        architecture: gguf.str("general.architecture").unwrap_or("unknown").to_owned(),
        parameters: dtypes.values().sum(),
        dtypes,
        source: Some("built in".to_owned()),
        license: gguf.str("general.license").ok().map(str::to_owned),
        base: None,
        files: vec![file],
    })
}

/// 2026-01-01: a card needs a date that is the same on every machine.
const CREATED_S: u64 = 1_767_225_600;
