//! What can go wrong between text and tokens. The variants say whose fault it is: the model's files, the template,
//! the request's conversation, or the request's grammar.

/// An error a caller can act on. `File` and `Template` are faults of the model; the others of the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A tokenizer file that can't be used.
    #[error("the {format} tokenizer can't be read: {reason}")]
    File { format: &'static str, reason: String },
    /// Something is larger than this crate allows.
    #[error("{what} is {got}, more than the limit of {max}; make it smaller")]
    TooLarge { what: &'static str, got: usize, max: usize },
    /// A tokenizer that the other format cannot say, or only with other tokens.
    #[error("the tokenizer can't be written as {form}: {reason}")]
    Conversion { form: &'static str, reason: String },
    /// The model's chat template is broken, or does more than it may.
    #[error("the chat template failed: {reason}")]
    Template { reason: String },
    /// The chat template refused the conversation (`raise_exception`).
    #[error("the model's chat template refuses this conversation: {message}")]
    Refused { message: String },
    /// The conversation does not fit the model's instruct format.
    #[error("the conversation can't be rendered: {reason}")]
    Conversation { reason: String },
    /// A grammar, regular expression or JSON schema that can't be compiled.
    #[error("the {what} can't be used to restrict the output: {reason}")]
    Grammar { what: &'static str, reason: String },
    /// A token the grammar does not allow, or a matcher used after an error.
    #[error("constrained decoding failed: {reason}")]
    Constraint { reason: String },
    /// The vocabulary lacks a token that a format needs.
    #[error("the vocabulary has no token `{name}`, which the {needed_by} needs")]
    MissingToken { name: String, needed_by: &'static str },
    /// The model has neither a chat template nor a known instruct format.
    #[error("this model has no chat template; use plain completions, or add a chat template to its files")]
    NoChatFormat,
}
