//! `/v1/files`: Mistral's shape with OpenAI's fields beside it, and OpenAI's alone.

use serde::Serialize;

/// A file. Mistral's clients read `sample_type`, `source`, `num_lines`; OpenAI's read `status`.
#[derive(Clone, Debug, Serialize)]
pub struct FileObject {
    pub id: String,
    pub object: &'static str,
    pub bytes: u64,
    pub created_at: u64,
    pub filename: String,
    pub purpose: String,
    pub status: &'static str,
    pub expires_at: Option<u64>,
    #[serde(flatten)]
    pub mistral: Option<MistralFile>,
}

/// What only Mistral's dialect says of a file.
#[derive(Clone, Debug, Serialize)]
pub struct MistralFile {
    pub sample_type: String,
    pub num_lines: Option<u64>,
    pub mimetype: &'static str,
    pub source: &'static str,
    /// SHA-256.
    pub signature: String,
    pub visibility: &'static str,
    pub deleted: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct FileList {
    pub data: Vec<FileObject>,
    pub object: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct DeletedFile {
    pub id: String,
    pub object: &'static str,
    pub deleted: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct SignedUrl {
    pub url: String,
}
