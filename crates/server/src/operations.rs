//! The API's operations: each file holds one, its handlers and the shape of its streams.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod files;
pub(crate) mod fim;
pub(crate) mod fine_tuning;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod people;
pub(crate) mod receipts;
pub(crate) mod tokenize;
pub(crate) mod tuned_models;
