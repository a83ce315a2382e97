//! Model cards: Mistral's with OpenAI's fields (`/v1`), OpenAI's alone (`/openai/v1`), and Anthropic's.

use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct ModelList<T> {
    pub object: &'static str,
    pub data: Vec<T>,
}

impl<T> ModelList<T> {
    pub fn new(data: Vec<T>) -> Self {
        Self { object: "list", data }
    }
}

/// Mistral's base model card. `type: base` is the discriminator that its clients read.
#[derive(Clone, Debug, Serialize)]
pub struct ModelCard {
    pub id: String,
    pub object: &'static str,
    pub created: u64,
    pub owned_by: String,
    pub capabilities: Capabilities,
    pub name: Option<String>,
    pub description: Option<String>,
    pub max_context_length: u64,
    pub aliases: Vec<String>,
    pub deprecation: Option<String>,
    pub default_model_temperature: Option<f32>,
    pub r#type: &'static str,
    /// Ours: `loaded`, `loading`, `leaving` or `on_disk`.
    pub state: &'static str,
    /// Ours: what the model takes in memory, or would take.
    pub memory_bytes: u64,
    /// Ours: the model that this one is an adapter over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Capabilities {
    pub completion_chat: bool,
    pub completion_fim: bool,
    pub function_calling: bool,
    pub fine_tuning: bool,
    pub vision: bool,
    pub classification: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct OpenAiModel {
    pub id: String,
    pub object: &'static str,
    pub created: u64,
    pub owned_by: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct AnthropicModel {
    pub r#type: &'static str,
    pub id: String,
    pub display_name: String,
    /// RFC 3339.
    pub created_at: String,
}

#[derive(Debug, Serialize)]
pub struct AnthropicModelList {
    pub data: Vec<AnthropicModel>,
    pub has_more: bool,
    pub first_id: Option<String>,
    pub last_id: Option<String>,
}
