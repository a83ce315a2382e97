//! What can be wrong with a model between its files and its first token. Each message names the cause and the next step.

use std::path::PathBuf;

use falaj_artifact::ArtifactError;
use falaj_kernels::MatrixError;

/// Why a model cannot be loaded, or a batch not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error("cannot read `{}`: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("cannot write `{}`: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the model is {form} already; there is nothing to optimize")]
    Optimized { form: &'static str },
    #[error("only a GGUF model can be optimized; convert this one to GGUF first")]
    NotGguf,
    #[error("`{file}` is not the JSON of a model's configuration: {message}; fetch the file again")]
    Json { file: &'static str, message: String },

    // The configuration.
    #[error(
        "the architecture `{name}` is not one of those read here (Llama, Mistral, Mixtral); convert or choose another model"
    )]
    Architecture { name: String },
    #[error("the configuration lacks `{field}`; the model is of another kind or its configuration is incomplete")]
    Missing { field: &'static str },
    #[error("`{field}` is {value} in the configuration, but {rule}; the file is damaged or of another kind of model")]
    Invalid { field: &'static str, value: String, rule: &'static str },
    #[error("the model uses {feature}, which is not supported yet; choose another model")]
    Unsupported { feature: String },

    // The weights.
    #[error("there is no tensor `{tensor}` among the weights; the model is incomplete, fetch it again")]
    TensorMissing { tensor: String },
    #[error(
        "tensor `{tensor}` has the shape {got:?}, the configuration asks for {expected:?}; weights and configuration do not belong together"
    )]
    Shape { tensor: String, expected: Vec<usize>, got: Vec<usize> },
    #[error("tensor `{tensor}`: {source}")]
    Weight { tensor: String, source: MatrixError },
    #[error(
        "the weights hold `{tensor}`, which this architecture has no place for; leaving it out would change every answer"
    )]
    TensorUnused { tensor: String },

    // Adapters.
    #[error("these files are an adapter, no model; it is served over the model that it was made for")]
    IsAdapter,
    #[error("these files are a whole model, no adapter; serve it by its own name")]
    NotAnAdapter,
    #[error("the adapter changes `{tensor}`, for which this model has no place; it was made for another base")]
    AdapterModule { tensor: String },
    #[error(
        "the adapter targets `{target}` without changing it here; q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj can be adapted"
    )]
    AdapterTarget { target: String },
    #[error(
        "the adapter's `{tensor}` has the shape {got:?}, this model asks for {expected:?}; it was made for another base"
    )]
    AdapterShape { tensor: String, expected: Vec<usize>, got: Vec<usize> },
    #[error("the adapter changes no module of this model; it was made for another base")]
    AdapterEmpty,
    #[error("tensor `{tensor}` holds values that are no numbers; the training that made it had failed")]
    NotNumbers { tensor: String },
    #[error("a row's adapter was loaded for a model of other sizes; this is a bug, please report it")]
    AdapterMisfit,

    // Memory and use.
    #[error("{what} would take {bytes} bytes, more than this machine gives; lower the cache, the context or the batch")]
    TooLarge { what: &'static str, bytes: u128 },
    #[error("the instruction set `{name}` is not available on this CPU; leave the choice to the program")]
    Isa { name: String },
    #[error(
        "a batch of {rows} rows with {outputs} outputs exceeds the workspace of {max_rows} rows and {max_outputs} outputs"
    )]
    BatchTooLarge { rows: usize, outputs: usize, max_rows: usize, max_outputs: usize },
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange { token: u32, vocab_size: usize },
    #[error("position {position} has no page: its sequence holds {pages} pages of the cache's {pages_total}")]
    PageMissing { position: u32, pages: usize, pages_total: usize },
    #[error("row {row} of the batch has no hidden state to project")]
    NoHiddenState { row: usize },
}
